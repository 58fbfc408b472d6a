"""Samplers as values: made from names and parts, and written as text."""

from pathlib import Path
from typing import Any

import pytest
import torch

from anyorder.decoding.caches import dual
from anyorder.decoding.combined_counts import TwoPhase
from anyorder.decoding.counts import EvenBlocks, Fixed, Linear, Threshold
from anyorder.decoding.entropy_counts import EntropyBound
from anyorder.decoding.loop import decode
from anyorder.decoding.order_text import as_order
from anyorder.decoding.published_remaskers import P2, Prism
from anyorder.decoding.remaskers import Absorbing, CriticUndo, RePredict
from anyorder.decoding.sampler import Sampler, as_sampler
from anyorder.decoding.tokens import Argmax, Sample
from anyorder.errors import BadInput
from anyorder.orders import heuristics
from anyorder.orders.learned import Critic, LearnedOrder, SavedOrder
from anyorder.orders.perturbed import Perturbed, TopPositions
from anyorder.registry import REMASKERS
from conftest import HashDenoiser
from every_part import learned, named_count_rules, named_orders, network, order_of_tests, rule_of_tests

# ---- from names -----------------------------------------------------------------------------------------------------------


def test_a_sampler_is_made_from_names() -> None:
    sampler = Sampler("confidence", count="threshold:0.9", token="sample:0.7", remasker="repredict", steps=20)
    assert sampler == Sampler(heuristics.confidence, Threshold(0.9), Sample(0.7), RePredict(), 20)


def test_defaults_are_an_even_pace_the_likeliest_token_and_nothing_remasked() -> None:
    sampler = Sampler("margin")
    assert (sampler.count, sampler.token, sampler.remasker) == (Linear(), Argmax(), Absorbing())
    assert Sampler("margin", remasker="undo").count == TwoPhase()


def test_an_order_is_a_name_a_folder_a_function_or_a_policy(tmp_path: Path) -> None:
    learned().save_pretrained(tmp_path / "policy")
    assert as_order("top_k:3") == TopPositions(3)
    assert as_order("margin~0.5") == Perturbed(heuristics.margin, 0.5)
    assert as_order("policy") == SavedOrder()
    assert as_order(str(tmp_path / "policy")) == as_order(tmp_path / "policy") == SavedOrder(str(tmp_path / "policy"))
    assert as_order(order_of_tests) is order_of_tests
    assert isinstance(as_order(network("mlp")), LearnedOrder)
    assert as_order("every_part:order_of_tests").__name__ == "order_of_tests"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"order": "confidense"}, "order 'confidense' is unknown: use one of .*, or the folder of a policy"),
        ({"order": 5}, "order is 5; it must be the name of an order, or an order"),
        ({"order": None}, "order is None"),
        ({"order": TopPositions}, r"order is the class TopPositions; make an instance of it: TopPositions\(...\)"),
        ({"order": Threshold()}, "order is the count rule Threshold; it must be an order"),
        ({"count": "treshold"}, "count rule 'treshold' is unknown"),
        ({"count": "threshold:0.9:1"}, "threshold takes one argument"),
        ({"count": 5}, "count is 5"),
        ({"count": Threshold}, "count is the class Threshold"),
        ({"count": Sample()}, "count is the token rule Sample"),
        ({"token": "confidence"}, "token rule 'confidence' is unknown"),
        ({"token": 1.0}, "token is 1.0"),
        ({"token": Sample}, "token is the class Sample"),
        ({"remasker": "redo"}, "remasker 'redo' is unknown"),
        ({"remasker": order_of_tests}, "it must be the name of a remasker, or a `Remasker`"),
        ({"remasker": RePredict}, "it must be the name of a remasker, or a `Remasker`"),
        ({"steps": 0}, "steps is 0; it must be a whole number of forward passes, 1 or more"),
        ({"steps": "20"}, "steps is '20'; it must be a whole number"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"steps": True}, "steps is True"),
        ({"noise": "0.5"}, "noise is '0.5'; it must be a finite number of 0 or more"),
        ({"noise": -0.1}, "noise is -0.1"),
        ({"block_length": 0}, "block_length is 0; it must be a whole number of positions, 1 or more"),
        ({"block_length": 4, "remasker": "undo"}, "use the remasker 'none' in blocks"),
        ({"block_length": 4, "remasker": "repredict"}, "use the remasker 'none' in blocks"),
        ({"block_length": 4, "count": "cosine"}, "cosine counts over the whole sequence"),
        ({"block_length": 4, "count": "two_phase"}, "two_phase counts over the whole sequence"),
        ({"block_length": 4, "cache": heuristics.margin}, "cache is the order margin; it must be a cache"),
        ({"block_length": 4, "cache": TopPositions(3)}, "cache is the order TopPositions; it must be a cache"),
        ({"token": dual}, "token is the cache dual; it must be a token rule"),
        ({"order": dual}, "order is the cache dual; it must be an order"),
    ],
)
def test_parts_that_do_not_fit_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        Sampler(**{"order": "confidence", **fields})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: CriticUndo(critic="folder"), "critic is 'folder'; it must be a function of a state and a prediction"),
        (lambda: CriticUndo(critic=None), "critic is None"),
        (lambda: CriticUndo(critic=Critic), "critic is an object of the class type"),
        (lambda: P2(planner="x"), "planner is 'x'; it must be .*load_order"),
        (lambda: P2(planner=HashDenoiser()), r"planner is an object of the class HashDenoiser; .* DenoiserCritic\(denoiser\)"),
        (lambda: Prism(critic=3), "critic is 3"),
    ],
)
def test_a_critic_that_cannot_be_called_is_refused(make: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        make()


def test_in_blocks_the_even_pace_is_one_per_block() -> None:
    sampler = Sampler("confidence", block_length=4)
    assert (sampler.count, sampler.count_rule) == (Linear(), EvenBlocks(4))
    assert sampler.replace(block_length=2).count_rule == EvenBlocks(2)
    assert sampler.replace(block_length=None).count_rule == Linear()
    assert Sampler("confidence", Threshold(0.8), block_length=4).count_rule == Threshold(0.8)


def test_samplers_with_equal_parts_are_equal() -> None:
    assert Sampler("margin", steps=4) == Sampler(heuristics.margin, Linear(), steps=4)
    assert Sampler("margin", steps=4) != Sampler("margin", steps=5)
    assert len({Sampler("margin"), Sampler("margin"), Sampler("entropy")}) == 2


# ---- text -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sampler"),
    [
        ("confidence", Sampler("confidence")),
        ("confidence@threshold:0.99", Sampler("confidence", Threshold(0.99))),
        ("policy+undo", Sampler("policy", TwoPhase(), remasker=CriticUndo())),
        ("policy+undo@entropy_bound:0.1", Sampler("policy", EntropyBound(0.1), remasker=CriticUndo())),
        ("policy+undo:0.5:0.8", Sampler("policy", remasker=CriticUndo(0.5, 0.8))),
        ("margin+repredict", Sampler("margin", remasker=RePredict())),
        ("margin+none", Sampler("margin")),
        ("margin@blocks:32", Sampler("margin", block_length=32)),
        ("margin@blocks:4@fixed:2", Sampler("margin", Fixed(2), block_length=4)),
        ("margin@fixed:2@blocks:4", Sampler("margin", Fixed(2), block_length=4)),
        ("policy~0.1", Sampler(Perturbed(SavedOrder(), 0.1))),
        ("top_k:3~0.1@linear", Sampler(Perturbed(TopPositions(3), 0.1))),
    ],
)
def test_text_says_order_remasker_blocks_and_count_rule(text: str, sampler: Sampler) -> None:
    assert Sampler.parse(text) == sampler
    assert Sampler.parse(str(sampler)) == sampler


def test_noise_on_the_most_confident_positions_alone_has_no_text() -> None:
    for top in (0, 3):
        text = str(Sampler(Perturbed(heuristics.confidence, 0.1, top)))
        assert text == f"Perturbed(confidence, 0.1, {top})"
        assert str(Sampler(Perturbed(learned(), 0.1, top))) == f"Perturbed(policy, 0.1, {top})"
        with pytest.raises(BadInput):
            Sampler.parse(text)


def test_other_fields_are_given_beside_the_text() -> None:
    assert Sampler.parse("margin", steps=7, noise=0.5) == Sampler("margin", steps=7, noise=0.5)
    assert Sampler.parse("margin", count="fixed:2") == Sampler("margin", Fixed(2))
    assert Sampler.parse("margin@fixed:3", count="fixed:2") == Sampler("margin", Fixed(3)), "what the text says comes first"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "sampler '': order '' is unknown"),
        ("confidense", "sampler 'confidense': order 'confidense' is unknown"),
        ("confidence@", "count rule '' is unknown"),
        ("confidence@fixed:2@cosine", "write '@' and a count rule once"),
        ("confidence@blocks:2@blocks:3", "'@blocks:LENGTH' once"),
        ("confidence@blocks", "write blocks:32"),
        ("confidence@blocks:0", "write blocks:32"),
        ("confidence@blocks:x", "write blocks:32"),
        ("confidence+undo@blocks:4", "use the remasker 'none' in blocks"),
        ("confidence+undo+repredict", "remasker 'undo\\+repredict' is unknown"),
        ("confidence+", "remasker '' is unknown"),
        ("confidence~much", "after '~' write the standard deviation"),
        ("confidence~-1", "after '~' write the standard deviation"),
        ("confidence:1", "confidence takes no arguments"),
        ("~0.1", "order '' is unknown"),
    ],
)
def test_text_of_another_form_is_refused(text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        Sampler.parse(text)


LARGE = [
    "confidence@fixed:N", "confidence@even_blocks:N", "confidence@even_blocks:4:N", "confidence@saber:N", "top_k:N",
    "confidence@first_hitting:N", "confidence@klass:0.9:0.01:N", "confidence@klass:0.9:0.01:1:N", "info_gain:N", "eoser:N",
    "confidence@entropy_share:1:1:N", "confidence@blocks:N", "confidence@blocks:4@cache:window:N", "policy+prism:N",
    "confidence@blocks:4@cache:dual@refresh:N", "policy+undo:patience=N", "confidence@number_of:fixed:N",
]  # fmt: skip


@pytest.mark.parametrize("text", LARGE)
def test_whole_numbers_that_no_length_reaches_are_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"is 9{25}; it must be a number of at most 2147483647 \(2\*\*31 - 1\)"):
        Sampler.parse(text.replace("N", "9" * 25))
    with pytest.raises(BadInput):
        Sampler.parse(text.replace("N", "9" * 5000))
    if "klass:0.9:0.01:N" in text:
        with pytest.raises(BadInput, match="history is 2147483647; it must be a number of 1 or more and at most 1000"):
            Sampler.parse(text.replace("N", str(2**31 - 1)))
    elif not text.startswith("policy"):
        plain = text.replace("@cache:dual@refresh:N", "").replace("@cache:window:N", "")
        sampler = Sampler.parse(plain.replace("N", str(2**31 - 1)), steps=4)
        assert (decode(HashDenoiser(), torch.zeros(2, 6, dtype=torch.int64), sampler).tokens != 0).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Sampler("margin", steps=2**63),
        lambda: Sampler("margin", block_length=10**5000),
        lambda: Sampler("margin", noise=10**400),
        lambda: Sampler("margin", block_length=4, cache="dual", refresh=2**31),
        lambda: Sample(10**400),
        lambda: Sample(top_k=10**30),
        lambda: Perturbed(heuristics.margin, 0.1, 2**31),
    ],
)
def test_numbers_that_fit_no_tensor_are_refused(make: Any) -> None:
    with pytest.raises(BadInput, match=r"is .*; it must be a number of at most 2147483647 \(2\*\*31 - 1\)"):
        make()


SAYABLE = {
    **{f"order {name}": {"order": part} for name, part in named_orders().items()},
    **{f"count rule {name}": {"order": "margin", "count": part} for name, part in named_count_rules().items()},
    **{f"remasker {name}": {"order": "margin", "remasker": REMASKERS.make(name)} for name in REMASKERS},
    "own order": {"order": order_of_tests},
    "own count rule": {"order": "margin", "count": rule_of_tests},
    "perturbed": {"order": "margin~0.123456789"},
    "drawn, in blocks": {"order": "margin", "count": "plackett_luce:0.5", "block_length": 4},
}


@pytest.mark.parametrize("name", SAYABLE)
def test_a_sampler_in_text_reads_back_to_the_same(name: str) -> None:
    sampler = Sampler(**SAYABLE[name])
    assert Sampler.parse(str(sampler)) == sampler


@pytest.mark.parametrize("name", ["confidence+p2", "margin~0.1", "top_k:3", "margin@threshold:0.9", "margin@blocks:4"])
def test_a_folder_that_holds_no_part_captures_no_spelling(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Sampler.parse(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    (tmp_path / "a+b~c@d").mkdir()
    assert Sampler.parse(name) == as_sampler(name) == expected
    assert Sampler.parse("a+b~c@d") == Sampler(SavedOrder("a+b~c@d")), "which says what it lacks when it is bound"
    with pytest.raises(BadInput, match="sampler 'nonsense': order 'nonsense' is unknown"):
        Sampler.parse("nonsense")
    learned().save_pretrained(name)
    assert Sampler.parse(name) == Sampler(SavedOrder(name))


def test_the_folder_of_a_policy_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = "a@team+b~1/policy"
    learned().save_pretrained(folder)
    assert Sampler.parse(folder) == Sampler(SavedOrder(folder))
    assert Sampler.parse(f"{folder}@threshold:0.9") == Sampler(SavedOrder(folder), Threshold(0.9))
    with pytest.raises(BadInput, match="order 'aaa"):
        as_sampler("a" * 300)


def test_the_card_of_a_saved_sampler_says_how_tokens_are_drawn(tmp_path: Path) -> None:
    Sampler("confidence", token="sample:0.7:0.9", steps=8).save_pretrained(tmp_path / "saved")
    assert "- token rule: sample:0.7:0.9\n" in (tmp_path / "saved" / "README.md").read_text()


WHOLE_SEQUENCE = ("cosine", "two_phase", "ascending", "timesteps", "ancestral")
"""Count rules that are refused in blocks."""


@pytest.mark.parametrize("blocks", [None, 3])
@pytest.mark.parametrize("name", [n for n in named_count_rules() if n not in WHOLE_SEQUENCE])
def test_every_count_rule_that_works_in_blocks_is_read_back_in_blocks(name: str, blocks: int | None) -> None:
    sampler = Sampler("margin", named_count_rules()[name], block_length=blocks)
    assert Sampler.parse(str(sampler)) == sampler
