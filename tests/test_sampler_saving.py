"""Samplers are saved as folders, loaded, and pushed to the hub; damaged and foreign folders are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from torch import Tensor, nn

from anyorder.decoding.combined_counts import TwoPhase
from anyorder.decoding.counts import Linear
from anyorder.decoding.entropy_counts import EntropyShare
from anyorder.decoding.loop import decode
from anyorder.decoding.remaskers import CriticUndo
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.base import fingerprint
from anyorder.errors import AnyorderError, BadCheckpoint, BadInput, WrongDenoiser
from anyorder.orders.learned import Critic, LearnedOrder, saved_order
from anyorder.orders.perturbed import Perturbed
from anyorder.parts import walk
from anyorder.registry import COUNT_RULES, ORDERS, REMASKERS, TOKEN_RULES
from conftest import HashDenoiser
from every_part import count_rules, learned, network, order_of_tests, orders, remaskers, rule_of_tests, token_rules

TOKENS = torch.zeros(3, 7, dtype=torch.int64)
TOKENS[0, 2] = TOKENS[2, 6] = 3
X0 = torch.randint(1, 5, (3, 7), generator=torch.Generator().manual_seed(1))


# ---- saving ---------------------------------------------------------------------------------------------------------------

EVERY_SAMPLER: dict[str, dict[str, Any]] = {
    **{f"order {name}": {"order": part} for name, part in orders().items()},
    **{f"count rule {name}": {"order": "margin", "count": part} for name, part in count_rules().items()},
    **{f"token rule {name}": {"order": "entropy", "token": part} for name, part in token_rules().items()},
    **{f"remasker {name}": {"order": learned(), "remasker": part, "steps": 12} for name, part in remaskers().items()},
    "own functions": {"order": order_of_tests, "count": rule_of_tests},
    "in blocks": {"order": learned(), "block_length": 3},
    "drawn in blocks": {"order": learned(), "count": "plackett_luce:0.5", "block_length": 3},
    "noise": {"order": "confidence", "noise": 0.7, "steps": 4},
}


def decoded(sampler: Sampler) -> dict[str, Tensor]:
    return vars(decode(HashDenoiser(), TOKENS, sampler, seeds=3, x0=X0))


def test_every_registered_part_is_saved() -> None:
    for registry in (ORDERS, COUNT_RULES, TOKEN_RULES, REMASKERS):
        assert {f"{registry.kind} {name}" for name in registry} <= set(EVERY_SAMPLER)


@pytest.mark.parametrize("name", EVERY_SAMPLER)
def test_a_saved_sampler_decodes_the_same_tokens(name: str, tmp_path: Path) -> None:
    sampler = Sampler(**EVERY_SAMPLER[name])
    sampler.save_pretrained(tmp_path / "sampler")
    shutil.copytree(tmp_path / "sampler", tmp_path / "moved")
    shutil.rmtree(tmp_path / "sampler")
    loaded = Sampler.from_pretrained(tmp_path / "moved")
    assert str(loaded) == str(sampler)
    for field, value in decoded(sampler).items():
        assert torch.equal(value, decoded(loaded)[field]), field
    inside = [one for part in (sampler.order, sampler.count, sampler.remasker) for one in walk(part)]
    if not any(isinstance(part, LearnedOrder | CriticUndo | Perturbed) for part in inside):
        assert loaded == sampler


def test_a_saved_sampler_is_a_folder_for_the_hub(tmp_path: Path) -> None:
    Sampler(learned(), remasker=CriticUndo(), steps=9).bind(HashDenoiser()).save_pretrained(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == [
        "README.md", "policy-0/config.json", "policy-0/model.safetensors", "policy-1/config.json", "policy-1/model.safetensors",
        "sampler.json",
    ]  # fmt: skip
    card = (tmp_path / "README.md").read_text()
    assert "library_name: anyorder" in card and "`policy+undo`" in card and "steps: 9" in card


def test_a_network_that_two_parts_share_is_saved_and_loaded_once(tmp_path: Path) -> None:
    policy = network("mlp", seed=4, scores_committed=True)
    Sampler(LearnedOrder(policy, Critic(policy)), remasker=CriticUndo(critic=Critic(policy))).save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("policy-*")] == ["policy-0"]
    loaded: Any = Sampler.from_pretrained(tmp_path)
    assert loaded.order.policy is loaded.order.critic.policy is loaded.remasker.critic.policy


def test_a_named_policy_stays_a_name(tmp_path: Path) -> None:
    """It stands for the order of whatever denoiser the sampler is used with."""
    Sampler.parse("policy+undo").save_pretrained(tmp_path)
    assert not list(tmp_path.glob("policy-*"))
    assert Sampler.from_pretrained(tmp_path) == Sampler.parse("policy+undo")


@pytest.mark.parametrize(
    "fields",
    [
        {"order": lambda state, prediction: None},
        {"order": "margin", "count": lambda *given: None},
        {"order": "margin", "token": lambda state, prediction: None},
        {"order": "margin", "remasker": CriticUndo(critic=lambda state, prediction: None)},
        {"order": Perturbed(lambda state, prediction: None, 0.5)},
    ],
)
def test_lambdas_are_refused_with_the_way_out(fields: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match="cannot be found by name later: register it with the decorator, or define it at the top"
    ):
        Sampler(**fields).save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder" / "sampler.json").exists()


# ---- damaged and foreign folders ------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved sampler with an order and a critic."""
    Sampler(learned(), remasker=remaskers()["undo"], steps=12).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        values = json.loads((folder / "sampler.json").read_text())
        new = change(values)
        (folder / "sampler.json").write_text(json.dumps(values if new is None else new))

    return write


def without(key: str) -> Callable[[Path], None]:
    return changed(lambda values: {k: v for k, v in values.items() if k != key})


def half(path: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).write_bytes((folder / path).read_bytes()[: (folder / path).stat().st_size // 2])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no sampler": lambda folder: (folder / "sampler.json").unlink(),
    "empty": lambda folder: (folder / "sampler.json").write_text(""),
    "truncated": half("sampler.json"),
    "no text": lambda folder: (folder / "sampler.json").write_bytes(b"\xff\xfe\x00"),
    "nested": lambda folder: (folder / "sampler.json").write_text("[" * 100_000),
    "a list": changed(lambda values: [values]),
    "a config of something else": changed(lambda values: {"architecture": "mlp"}),
    "another version": changed(lambda values: values.update(version=2)),
    **{f"without {key}": without(key) for key in ("order", "count", "token", "remasker", "steps", "block_length", "noise")},
    "an order that is a number": changed(lambda values: values.update(order=3)),
    "an order that is text": changed(lambda values: values.update(order="confidence")),
    "an order that is a list": changed(lambda values: values.update(order=["kind"])),
    "an unknown order": changed(lambda values: values.update(order={"kind": "order", "name": "nonsense"})),
    "an order from nowhere": changed(lambda values: values.update(order={"kind": "order", "name": "no_such_package:part"})),
    "a token rule as the order": changed(lambda values: values.update(order=values["token"])),
    "a remasker as the count rule": changed(lambda values: values.update(count=values["remasker"])),
    "an order as the cache": changed(lambda values: values.update(cache={"kind": "order", "name": "confidence"})),
    "a critic that is text": changed(lambda values: values["remasker"].update(critic="folder")),
    "a budget of any size": changed(lambda values: values.update(steps=10**30)),
    "an unknown argument": changed(lambda values: values["remasker"].update(size=3)),
    "a level that is text": changed(lambda values: values["remasker"].update(level="high")),
    "steps that are text": changed(lambda values: values.update(steps="many")),
    "negative noise": changed(lambda values: values.update(noise=-1)),
    "blocks with undo": changed(lambda values: values.update(block_length=3)),
    "weights elsewhere": changed(lambda values: values["order"].update(weights="../policy-0")),
    "weights above": changed(lambda values: values["order"].update(weights="..")),
    "weights without a use": changed(lambda values: values["order"].pop("as")),
    "weights that are missing": lambda folder: (folder / "policy-0" / "model.safetensors").unlink(),
    "a policy that is missing": lambda folder: shutil.rmtree(folder / "policy-0"),
    "truncated weights": half("policy-0/model.safetensors"),
    "empty weights": lambda folder: (folder / "policy-0" / "model.safetensors").write_bytes(b""),
    "weights of another policy": lambda folder: shutil.copy(
        folder / "policy-1" / "model.safetensors", folder / "policy-0" / "model.safetensors"
    ),
    "a truncated policy": half("policy-0/config.json"),
    "a policy of an unknown architecture": lambda folder: (folder / "policy-0" / "config.json").write_text(
        json.dumps({"architecture": "none"})
    ),
    "a critic that is none": lambda folder: (folder / "policy-1" / "config.json").write_text(
        (folder / "policy-1" / "config.json").read_text().replace('"scores_committed": true', '"scores_committed": false')
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_sampler_is_one_clear_error(damage: str, folder: Path) -> None:
    DAMAGES[damage](folder)
    with pytest.raises((BadInput, BadCheckpoint)) as caught:
        Sampler.from_pretrained(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) > 20


def test_the_card_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("My model.")
    with pytest.raises(BadInput, match=r"holds README\.md, which is not that of a sampler"):
        Sampler("margin").save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    for order in ("margin", "entropy"):  # a sampler may be replaced
        Sampler(order).save_pretrained(tmp_path / "sampler")
    assert Sampler.from_pretrained(tmp_path / "sampler") == Sampler("entropy")


@pytest.mark.parametrize("share", range(0, 100, 7))
def test_a_sampler_cut_at_any_place_is_refused(share: int, folder: Path) -> None:
    text = (folder / "sampler.json").read_text().rstrip()
    (folder / "sampler.json").write_text(text[: len(text) * share // 100])
    with pytest.raises(BadInput, match=r"sampler\.json"):
        Sampler.from_pretrained(folder)


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        Sampler.from_pretrained(tmp_path / "nothing")
    with pytest.raises(BadInput, match=r"holds no sampler \(no sampler.json\): save one with Sampler.save_pretrained"):
        Sampler.from_pretrained(tmp_path)


# ---- denoisers and the hub ------------------------------------------------------------------------------------------------


class Weighted(HashDenoiser):
    """A denoiser with a weight, so that it has a fingerprint of its own."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(value))


def test_a_policy_in_a_sampler_is_checked_against_the_denoiser(tmp_path: Path) -> None:
    mine, other = Weighted(1.0), Weighted(2.0)
    policy = network("mlp", seed=9)
    policy.denoiser_fingerprint = fingerprint(mine)
    Sampler(policy).save_pretrained(tmp_path)
    assert isinstance(Sampler.from_pretrained(tmp_path, mine).order, LearnedOrder)
    with pytest.raises(WrongDenoiser, match="was fitted to the denoiser"):
        Sampler.from_pretrained(tmp_path, other)
    with pytest.warns(UserWarning, match="was fitted to the denoiser"):
        Sampler.from_pretrained(tmp_path, other, strict=False)


def test_an_order_that_was_loaded_for_another_denoiser_is_checked_again(tmp_path: Path) -> None:
    policy, other = network("mlp", seed=9), Weighted(2.0)
    policy.denoiser_fingerprint = fingerprint(Weighted(1.0))
    policy.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="was fitted to the denoiser"):
        saved_order(other, str(tmp_path), strict=False)
    with pytest.raises(WrongDenoiser, match="was fitted to the denoiser"):
        saved_order(other, str(tmp_path))


def test_binding_loads_the_denoisers_own_order_and_critic(tmp_path: Path) -> None:
    denoiser = Weighted(1.0)
    own = LearnedOrder(network("mlp", seed=10), Critic(network("mlp", seed=11, scores_committed=True)))
    assert own.critic is not None
    own.policy.denoiser_fingerprint = own.critic.policy.denoiser_fingerprint = fingerprint(denoiser)
    own.save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="this denoiser has no learned order of its own: fit one"):
        decode(denoiser, TOKENS, "policy")
    denoiser.own_order = str(tmp_path)  # type: ignore[assignment]
    bound: Any = Sampler.parse("policy~0.5+undo", steps=9).bind(denoiser)
    assert isinstance(bound.order.order, LearnedOrder)
    assert bound.remasker.critic is bound.order.order.critic, "the critic is that of the order, loaded once"
    heuristic: Any = Sampler.parse("margin+undo", steps=9).bind(denoiser)
    assert isinstance(heuristic.remasker.critic, Critic)
    assert bound.bind(denoiser) is bound
    expected = decode(denoiser, TOKENS, Sampler(own, remasker=CriticUndo(critic=own.critic), steps=9))
    assert torch.equal(decode(denoiser, TOKENS, Sampler.parse("policy+undo", steps=9)).tokens, expected.tokens)


def test_a_bound_sampler_has_the_pace_for_which_the_critic_was_validated(tmp_path: Path) -> None:
    denoiser = Weighted(1.0)
    own = LearnedOrder(network("mlp", seed=10), Critic(network("mlp", seed=11, scores_committed=True)))
    assert own.critic is not None
    own.critic.policy.about = {"pace": "entropy_share:even_below=4"}
    own.save_pretrained(tmp_path)
    denoiser.own_order = str(tmp_path)  # type: ignore[assignment]
    bound = Sampler.parse("policy+undo", steps=9).bind(denoiser, strict=False)
    assert bound.count == TwoPhase(EntropyShare(even_below=4))
    assert str(bound).endswith("+undo"), "it is the usual rule of this critic"
    named = Sampler.parse("policy+undo@linear", steps=9).bind(denoiser, strict=False)
    assert named.count == Linear()


def test_undo_without_a_critic_is_refused(tmp_path: Path) -> None:
    sampler = Sampler(LearnedOrder(network("mlp")), remasker="undo")
    with pytest.raises(BadInput, match="without scores of committed tokens, so it cannot undo"):
        decode(HashDenoiser(), TOKENS, sampler)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """A hub that keeps what is pushed in a folder, and the calls it got."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr("anyorder.hub._reachable", lambda: True)

    def upload(**given: Any) -> Any:
        calls.append(given)
        shutil.copytree(given["folder_path"], tmp_path / "hub" / given["repo_id"])
        return SimpleNamespace(commit_url=f"https://hub/{given['repo_id']}/commit/1")

    def download(name: str, **options: Any) -> str:
        calls.append({"repo_id": name, **options})
        if not (tmp_path / "hub" / name).is_dir():
            raise OSError(f"404: {name}")
        return str(tmp_path / "hub" / name)

    monkeypatch.setattr(huggingface_hub, "create_repo", lambda repo_id, **given: calls.append({"repo_id": repo_id, **given}))
    monkeypatch.setattr(huggingface_hub, "upload_folder", upload)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return calls


def test_a_sampler_is_pushed_to_the_hub_and_loaded_from_it(hub: list[dict[str, Any]]) -> None:
    sampler = Sampler(learned(), remasker=remaskers()["undo"], steps=12)
    where = sampler.push_to_hub("me/sampler", private=True, token="secret", revision="next", commit_message="First")
    assert where == "https://hub/me/sampler/commit/1"
    created, uploaded = hub
    assert created == {"repo_id": "me/sampler", "private": True, "exist_ok": True, "token": "secret"}
    assert (uploaded["revision"], uploaded["token"], uploaded["commit_message"]) == ("next", "secret", "First")
    assert not Path(uploaded["folder_path"]).exists(), "the temporary folder is gone"
    loaded = Sampler.from_pretrained("me/sampler", revision="next")
    assert hub[-1] == {"repo_id": "me/sampler", "revision": "next"}
    assert torch.equal(decoded(loaded)["tokens"], decoded(sampler)["tokens"])


def test_a_hub_that_refuses_is_one_clear_error(hub: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any, **options: Any) -> None:
        raise OSError("403 Forbidden\nlong story")

    with pytest.raises(BadInput, match=r"me/nothing is not a folder here, and cannot be downloaded from the hub: 404"):
        Sampler.from_pretrained("me/nothing")
    monkeypatch.setattr(huggingface_hub, "create_repo", refuse)
    with pytest.raises(AnyorderError, match=r"me/sampler cannot be pushed to the hub: 403 Forbidden$"):
        Sampler("margin").push_to_hub("me/sampler")
