"""Mistakes in parts of a user's own: the error names the part and its line, wherever it is called, and never this library."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import anyorder
from anyorder import Sampler
from anyorder.decoding.counts import CountRule, top
from anyorder.decoding.published_remaskers import P2, DenoiserCritic
from anyorder.decoding.remaskers import Remasker
from anyorder.denoisers.base import DenoiserOutput
from anyorder.denoisers.classes import save_denoiser
from anyorder.denoisers.shared_passes import SharedPasses
from anyorder.errors import BadCheckpoint, BadInput, NotFinite, PartFailed, first_line
from anyorder.evaluation.choice import adaptive, baselines, joined
from anyorder.evaluation.enumeration import enumerate_paths
from anyorder.evaluation.judges import PseudoLikelihood
from anyorder.orders.perturbed import Perturbed
from anyorder.prediction import Prediction
from anyorder.processes import Shard
from anyorder.registry import COUNT_RULES, ORDERS, POLICIES
from anyorder.state import DecodeState
from anyorder.tasks import CheckResult, Instances
from anyorder.tasks.generation import make_problems
from anyorder.training.fit import fit_order, run_recipe
from anyorder.training.joint import JointJob
from anyorder.training.lo_arm import LoArmJob
from anyorder.training.order import OrderJob
from anyorder.training.recipes import validate_recipe
from conftest import HashDenoiser


class Pairs(anyorder.Task):
    """Two symbols and their copies."""

    vocab_size, mask_token_id, length = 4, 0, 4

    def generate(self, count: int, seed: int, *, hide: int = 2) -> Instances:
        x0 = torch.randint(1, 4, (count, 2), generator=torch.Generator().manual_seed(seed)).repeat(1, 2)
        hidden = torch.arange(4).expand(count, 4) >= 4 - hide
        return Instances(x0.masked_fill(hidden, 0), hidden, x0)

    def check(self, instances: Instances, tokens: Tensor) -> CheckResult:
        right = tokens == instances.x0
        return CheckResult(right.all(dim=1), right.float().mean(dim=1))


class RaisingCheck(Pairs):
    def check(self, instances: Instances, tokens: Tensor) -> CheckResult:
        raise RuntimeError("no rules today")


class RaisingGenerator(Pairs):
    def generate(self, count: int, seed: int, *, hide: int = 2) -> Instances:
        raise KeyError("symbols")


class Few(Pairs):
    def generate(self, count: int, seed: int, *, hide: int = 2) -> Instances:
        return super().generate(max(1, count // 2), seed, hide=hide)


class Net(nn.Module):
    """A denoiser that may raise."""

    mask_token_id, vocab_size, hidden_size = 0, 4, 6

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.table, self.out, self.fails = nn.Embedding(4, 6), nn.Linear(6, 4), fails

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None, positions: Tensor | None = None) -> DenoiserOutput:
        if self.fails and self.training:
            raise IndexError("out of tables")
        hidden = self.table(tokens)
        logits = self.out(hidden).index_fill(-1, torch.tensor([0]), -1e9)
        return DenoiserOutput(logits if positions is None else logits[positions], hidden)


@dataclass(frozen=True)
class PolicySettings:
    width: int = 4


class Policy(anyorder.SupervisedPolicy):
    """A policy whose correction has a shape of choice."""

    Settings = PolicySettings
    shape: Callable[[Tensor], Tensor] = staticmethod(lambda correction: correction)

    def build(self, settings: PolicySettings) -> None:
        super().build(settings)
        self.out = nn.Linear(6, 1)

    def correct(self, state: anyorder.DecodeState, prediction: anyorder.Prediction) -> Tensor:
        return type(self).shape(self.out(prediction.hidden))


class FlatPolicy(Policy):
    shape = staticmethod(lambda correction: correction[..., 0])


class RaisingPolicy(Policy):
    @staticmethod
    def shape(correction: Tensor) -> Tensor:
        raise ZeroDivisionError("a policy")


class HeadPolicy(anyorder.SupervisedPolicy):
    def build(self, settings: Any) -> None:
        super().build(settings)
        self.head = nn.Linear(6, 1)

    def correct(self, state: anyorder.DecodeState, prediction: anyorder.Prediction) -> Tensor:
        return self.head(prediction.hidden)  # type: ignore[no-any-return]


def trained(task: str = "Pairs", **data: Any) -> Any:
    values: dict[str, Any] = {
        "kind": "denoiser", "task": {"name": f"test_own_failures:{task}"}, "data": {"size": 8, **data},
        "optimizer": {"lr": 1e-3}, "denoiser": {"architecture": "test_own_failures:Net"}, "run": {"steps": 2, "batch_size": 4},
    }  # fmt: skip
    return values


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: anyorder.evaluate(Net(), RaisingCheck(), Pairs().generate(3, 0), ["confidence"], 2), "no rules today"),
        (lambda: anyorder.headroom(Net(), RaisingCheck(), Pairs().generate(3, 0), 2), "no rules today"),
        (lambda: make_problems(RaisingGenerator(), 3, 0, {}), "KeyError: 'symbols'"),
    ],
)
def test_a_task_that_raises_is_named(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(PartFailed, match=rf"the task test_own_failures:Raising\w+ failed in line \d+ of .* with .*{said}"):
        call()


def test_what_raises_in_training_is_named(tmp_path: Path) -> None:
    recipe = trained()
    recipe["denoiser"]["fails"] = True
    with pytest.raises(PartFailed, match=r"the denoiser test_own_failures:Net failed in line \d+ .* IndexError: out of tables"):
        run_recipe(validate_recipe(recipe), tmp_path / "denoiser", None)
    with pytest.raises(PartFailed, match=r"the policy test_own_failures:RaisingPolicy failed in line \d+ .* a policy"):
        fit_order(Net(), Pairs(), Pairs().generate(16, 0), tmp_path / "order", steps=2, batch_size=4,
                  policy="test_own_failures:RaisingPolicy")  # fmt: skip


@pytest.mark.parametrize("batch_size", [4, 3])
def test_a_correction_of_another_shape_is_refused_even_where_it_would_broadcast(tmp_path: Path, batch_size: int) -> None:
    with pytest.raises(BadInput, match=rf"FlatPolicy.correct returned \({batch_size}, 4\); it must be \({batch_size}, 4, 1\)"):
        fit_order(Net(), Pairs(), Pairs().generate(16, 0), tmp_path, steps=2, batch_size=batch_size,
                  policy="test_own_failures:FlatPolicy")  # fmt: skip


def test_a_policy_without_its_last_layer_says_what_it_is_called() -> None:
    with pytest.raises(BadInput, match=r"HeadPolicy.build must make self.out, the last layer: an nn.Linear with one output"):
        HeadPolicy(hidden_size=6, vocab_size=4)


def test_training_on_problems_in_which_nothing_is_hidden_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no position of these problems .* is to be filled"):
        run_recipe(validate_recipe(trained(options={"hide": 0})), tmp_path, None)
    with pytest.raises(BadInput, match=r"generator .* does not take 'hidee': it takes hide"):
        run_recipe(validate_recipe(trained(options={"hidee": 0})), tmp_path, None)


def test_a_generator_that_makes_another_number_of_problems_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="the generator of test_own_failures:Few made 10 problems; it must make 20"):
        make_problems(Few(), 20, 0, {})
    with pytest.raises(BadInput, match="made 4 problems; it must make 8"):
        run_recipe(validate_recipe(trained("Few")), tmp_path, None)


# ---- every comparison knows them --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Halves(CountRule):
    def __call__(self, scores: Tensor, state: Any, prediction: Any, remasked: Tensor) -> Tensor:
        return top(scores, (scores > -torch.inf).sum(dim=1).div(2).ceil().long())


def outside_in(state: anyorder.DecodeState, prediction: anyorder.Prediction) -> Tensor:
    return (state.index.float() - 1.5).abs().masked_fill(~prediction.predicted, -torch.inf)


def test_headroom_and_fit_compare_registered_orders_and_count_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (ORDERS, COUNT_RULES):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    ORDERS.register("outside_in")(outside_in)
    ORDERS.register("quiet", default=False)(lambda state, prediction: outside_in(state, prediction))
    COUNT_RULES.register("halves", curve_for=("heuristic",))(Halves)
    found = baselines(Pairs())
    assert "outside_in" in found and "quiet" not in found and "max_confidence" not in found
    assert "confidence@halves" in adaptive() and "confidence@halves" in adaptive(every=False)
    assert "confidence@linear" not in adaptive()


def test_joined_reports_compare_all_with_the_best_of_both() -> None:
    problems = Pairs().generate(12, 0)
    one, other = (anyorder.evaluate(Net(), Pairs(), problems, [order], 2) for order in ("confidence", "random"))
    both = joined(one, other)
    assert len(both.results) == 2 and [c.order for c in both.comparisons] in (["random"], ["confidence"])


def test_a_sampler_keeps_its_own_noise_and_is_compared_with_the_others() -> None:
    problems = Pairs().generate(12, 0)
    noisy = anyorder.Sampler("confidence", noise=2.0)
    report = anyorder.evaluate(Net(), Pairs(), problems, {"plain": "confidence", "noisy": noisy}, 2, against="plain")
    assert [(r.order, r.noise, str(r.cell)) for r in report.results] == [("plain", 0.0, "2 steps"), ("noisy", 2.0, "2 steps")]
    assert [(c.order, c.against) for c in report.comparisons] == [("noisy", "plain")]
    forced = anyorder.evaluate(Net(), Pairs(), problems, {"plain": "confidence", "noisy": noisy}, 2, noise=[0.0])
    assert [r.noise for r in forced.results] == [0.0, 0.0]


# ---- files ------------------------------------------------------------------------------------------------------------------


def test_a_sampler_is_not_saved_into_the_folder_of_a_model(tmp_path: Path) -> None:
    save_denoiser(anyorder.load_denoiser("sudoku4"), tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(BadInput, match=r"holds model.safetensors, which is not that of a sampler: choose another folder"):
        anyorder.Sampler("confidence").save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", b"[]", r"config.json is no configuration of a denoiser: it must hold an object"),
        ("config.json", b"{'a': 1}", r"config.json cannot be read: "),
        ("model.safetensors", b"", r"model.safetensors is damaged or was cut off: "),
        ("model.safetensors", None, r"model.safetensors is damaged or was cut off: "),
    ],
)
def test_a_damaged_file_of_a_denoiser_is_named(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    save_denoiser(anyorder.load_denoiser("sudoku4"), tmp_path)
    place = tmp_path / name
    place.write_bytes(place.read_bytes()[:-100] if content is None else content)
    with pytest.raises(BadCheckpoint, match=said):
        anyorder.load_denoiser(tmp_path)


def test_weights_of_another_size_name_the_tensor(tmp_path: Path) -> None:
    policy = POLICIES["mlp"](hidden_size=4, vocab_size=4)
    policy.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "width": 9}))
    with pytest.raises(BadCheckpoint, match=r"holds no readable policy: .* size mismatch for"):
        anyorder.load_order(tmp_path)
    assert first_line(ValueError("Errors:\n  the second\n  the third")) == "Errors: the second"
    assert first_line(ValueError("one\ntwo")) == "one" and first_line(ValueError()) == "ValueError"


def test_an_argument_that_a_saved_part_does_not_take_is_named(tmp_path: Path) -> None:
    anyorder.Sampler("confidence", "factor:0.5").save_pretrained(tmp_path)
    path = tmp_path / "sampler.json"
    path.write_text(path.read_text().replace('"factor": 0.5', '"factro": 0.5'))
    with pytest.raises(BadInput, match="the count rule 'factor' has no argument 'factro': it has factor"):
        anyorder.Sampler.from_pretrained(tmp_path)


MASKS = torch.tensor([[1, 2, 0, 0, 0, 0], [0, 0, 0, 0, 3, 3]])  # of HashDenoiser


@dataclass(frozen=True)
class Own(Remasker):
    """A remasker whose methods return what is given."""

    positions_: Any = None
    remask_: Any = None
    revise_: Any = None
    reject_: Any = None

    def positions(self, state: DecodeState) -> Any:
        return self.positions_(state) if self.positions_ else state.masked

    def remask(self, state: DecodeState, prediction: Prediction) -> Any:
        return self.remask_(state) if self.remask_ else torch.zeros_like(state.masked)

    def revise(self, state: DecodeState, prediction: Prediction, scores: Tensor, selected: Tensor, remasked: Tensor) -> Any:
        return self.revise_(selected, remasked) if self.revise_ else (selected, remasked)

    def reject(self, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Any:
        return self.reject_(state) if self.reject_ else remasked


@pytest.mark.parametrize(
    ("remasker", "said"),
    [
        (Own(remask_=lambda s: s.committed[:, :1]), r"test_own_failures:Own returned torch.bool \(2, 1\); .* tensor \(2, 6\)"),
        (Own(remask_=lambda s: s.committed.long()), r"the remasker test_own_failures:Own returned torch.int64 \(2, 6\)"),
        (Own(remask_=lambda s: None), "test_own_failures:Own returned NoneType; positions must be a bool tensor"),
        (Own(positions_=lambda s: s.masked.float()), r"test_own_failures:Own returned torch.float32 \(2, 6\)"),
        (Own(reject_=lambda s: s.step > 0), r"test_own_failures:Own returned torch.bool \(2,\)"),
        (Own(revise_=lambda selected, remasked: selected), "returned Tensor; it must return two bool tensors"),
        (Own(revise_=lambda selected, remasked: (selected, None)), "test_own_failures:Own returned NoneType"),
        (Own(remask_=lambda s: ~s.masked), "changes row 0, position 0, where no token was .*mine & state.committed"),
        (Own(revise_=lambda selected, remasked: (selected, ~selected)), "where no token was committed"),
        (Own(reject_=lambda s: torch.ones_like(s.masked)), "row 0, position 0, where no token was committed"),
        (Own(positions_=lambda s: torch.ones_like(s.masked)), "row 0, position 0, where no token was committed"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("padded", [False, True])
def test_a_remasker_changes_committed_tokens_alone(remasker: Own, said: str, padded: bool) -> None:
    attention = torch.ones_like(MASKS, dtype=torch.bool)
    attention[1, 4:] = not padded
    with pytest.raises(BadInput, match=said):
        anyorder.decode(HashDenoiser(), MASKS, Sampler("random", remasker=remasker, steps=4), attention_mask=attention)


def test_a_remasker_of_ones_own_remasks_within_blocks() -> None:
    class InBlocks(Own):
        in_blocks = True

    again = InBlocks(remask_=lambda s: s.committed & (s.step[:, None] == 1))
    found = anyorder.decode(HashDenoiser(), MASKS, Sampler("random", "fixed", remasker=again, steps=8, block_length=4))
    assert (found.tokens != 0).all() and found.remasked.tolist() == [1, 1]
    assert (found.tokens[MASKS != 0] == MASKS[MASKS != 0]).all()


def proposes(tokens: Callable[[int], Any], log_probs: Callable[[int], Any] = torch.zeros) -> Any:
    """A token rule that returns what is given for so many positions."""

    def own_rule(state: DecodeState, prediction: Prediction) -> Any:
        return tokens(len(prediction.logits)), log_probs(len(prediction.logits))

    return own_rule


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (proposes(lambda n: torch.zeros(n).long()), "own_rule proposes the token 0 in step 0, row 0, position 2; .* the mask"),
        (proposes(lambda n: torch.full((n,), 99)), "own_rule proposes the token 99 .* it must be one of 0 to 4"),
        (proposes(lambda n: torch.full((n,), -1)), "own_rule proposes the token -1"),
        (proposes(lambda n: [1] * n), r"own_rule returned list and torch.float32 \(8,\); .* tensors of shape \(8,\)"),
        (proposes(lambda n: torch.ones(n)), r"own_rule returned torch.float32 \(8,\) and"),
        (proposes(lambda n: torch.ones(n).long(), lambda n: torch.zeros(n, 1)), r"and torch.float32 \(8, 1\)"),
        (proposes(lambda n: torch.ones(n).long(), lambda n: None), "and NoneType; it must return tokens and"),
        (lambda state, prediction: prediction.best_tokens, r"<lambda> returned torch.int64 \(8,\); it must return tokens and"),
        (lambda state, prediction: None, "<lambda> returned NoneType"),
    ],
)  # fmt: skip
def test_what_a_token_rule_returns_is_checked(rule: Any, said: str) -> None:
    with pytest.raises(BadInput, match=f"the token rule test_own_failures:.*{said}"):
        anyorder.decode(HashDenoiser(), MASKS, Sampler("random", token=rule, steps=4))


class Whole(HashDenoiser):
    """A denoiser that gives the logits of all positions, whatever it is asked for; or another form of output."""

    def __init__(self, form: Callable[[DenoiserOutput], Any] = lambda output: output) -> None:
        super().__init__()
        self.form = form

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None, positions: Tensor | None = None) -> Any:
        return self.form(super().forward(tokens, attention_mask))


@pytest.mark.parametrize(
    "sampler",
    [
        Sampler("confidence", steps=4), Sampler.parse("margin+repredict"), Sampler.parse("info_gain:2+p2"),
        Sampler("confidence", remasker=P2(planner=DenoiserCritic(Whole()))),
    ],
)  # fmt: skip
def test_a_denoiser_may_give_logits_of_all_positions(sampler: Sampler) -> None:
    found, expected = (anyorder.decode(denoiser, MASKS, sampler) for denoiser in (Whole(), HashDenoiser()))
    assert torch.equal(found.tokens, expected.tokens) and torch.equal(found.commit_step, expected.commit_step)
    assert torch.equal(anyorder.decode(SharedPasses(Whole()), MASKS, sampler).tokens, expected.tokens)


class WholeSudoku(nn.Module):
    """A shipped denoiser that gives the logits of all positions, as a plain pair."""

    def __init__(self) -> None:
        super().__init__()
        self.net: Any = anyorder.load_denoiser("sudoku4-weak", device="cpu")
        self.mask_token_id, self.vocab_size, self.hidden_size = 0, 5, self.net.hidden_size

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None, positions: Tensor | None = None) -> Any:
        return tuple(self.net(tokens, attention_mask))


@pytest.mark.parametrize(
    ("made_by", "changes"),
    [
        (OrderJob, {}),
        (OrderJob, {"policy": {"architecture": "pairwise"}, "objective": {"critic": False, "influence_weight": 1.0}}),
        (LoArmJob, {"objective": {"name": "lo_arm", "critic": False}}),
        (JointJob, {"train_denoiser": True, "objective": {"critic": False, "name": "order", "states": "uniform"}}),
    ],
)
def test_a_policy_is_trained_on_a_denoiser_that_gives_logits_of_all_positions(made_by: Any, changes: dict[str, Any]) -> None:
    task = {"name": "sudoku", "options": {"box": 2}}
    recipe = validate_recipe(
        {"kind": "order", "denoiser": "sudoku4-weak", "task": task, "data": {"size": 8}, "policy": {"architecture": "mlp"},
         "optimizer": {"lr": 0.01}, "run": {"steps": 1, "batch_size": 4}, **changes}
    )  # fmt: skip
    losses = []
    for denoiser in (WholeSudoku(), anyorder.load_denoiser("sudoku4-weak", device="cpu")):
        job = made_by(recipe, denoiser, anyorder.make_task("sudoku", box=2))
        losses.append(job.loss(job.model, 0, Shard())[0].item())
    assert losses[0] == pytest.approx(losses[1])


def test_paths_and_likelihoods_are_those_of_a_denoiser_that_gives_logits_of_all_positions() -> None:
    task, puzzle = anyorder.make_task("sudoku", box=2), torch.tensor([[1, 2, 3, 4, 3, 4, 1, 2, 2, 1, 4, 3, 4, 3, 0, 0]])
    problems = Instances(puzzle, puzzle == 0)
    found = []
    for denoiser in (WholeSudoku(), anyorder.load_denoiser("sudoku4-weak", device="cpu")):
        log_p = enumerate_paths(denoiser, puzzle[0]).token_log_probs
        found.append((log_p, torch.from_numpy(PseudoLikelihood(denoiser)(task, problems, puzzle.clamp(min=1)))))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (lambda output: output.logits, "the denoiser returned torch.float64 of shape .*; it must return DenoiserOutput"),
        (lambda output: output._replace(hidden=None), "the denoiser returned a DenoiserOutput; .*, two tensors"),
        (lambda output: output._replace(logits=output.logits[:, 1:]), r"logits of shape \(2, 5, 5\); they must be \(K, V\)"),
    ],
)
def test_what_a_denoiser_returns_is_checked(form: Callable[[DenoiserOutput], Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        anyorder.decode(Whole(form), MASKS, "confidence")


def endless(state: DecodeState, prediction: Prediction) -> Tensor:
    """An order that calls a position certain."""
    return prediction.scatter(prediction.drawn_log_probs).masked_fill(state.index == 3, torch.inf)


@pytest.mark.parametrize(
    "sampler",
    [
        Sampler(endless), Sampler(endless, noise=1.0), Sampler(Perturbed(endless, 0.1)), Sampler(endless, "plackett_luce"),
        Sampler(endless, block_length=4),
    ],
)  # fmt: skip
def test_scores_of_plus_infinity_name_the_order(sampler: Sampler) -> None:
    said = r"the order test_own_failures:endless returned scores of \+inf: .* give a large number"
    with pytest.raises(NotFinite, match=said):
        anyorder.decode(HashDenoiser(), MASKS, sampler)


def test_scores_of_what_is_not_predicted_are_ignored() -> None:
    def elsewhere(state: DecodeState, prediction: Prediction) -> Tensor:
        return prediction.scatter(prediction.drawn_log_probs, torch.inf)

    found = anyorder.decode(HashDenoiser(), MASKS, Sampler(Perturbed(elsewhere, 0.0), noise=1.0))
    assert (found.tokens != 0).all() and found.order_log_probs.isfinite().all()
    for wrong, said in ((lambda s, p: s.index, "torch.int64"), (lambda s, p: None, "NoneType")):
        for order in (wrong, Perturbed(wrong, 0.1)):  # type: ignore[arg-type]
            with pytest.raises(BadInput, match=f"the order test_own_failures:.*<lambda> returned {said}; scores must be"):
                anyorder.decode(HashDenoiser(), MASKS, order)
