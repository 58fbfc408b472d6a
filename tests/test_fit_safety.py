"""What `headroom` and the fits must not do silently: compare with another sampler, hand over another fit, train without the
reward, or change the user's model."""

import functools
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

import anyorder
from anyorder import Sampler
from anyorder.decoding.loop import decode
from anyorder.denoisers.shared_passes import SharedPasses
from anyorder.errors import BadInput, PartFailed
from anyorder.evaluation.choice import Gain
from anyorder.evaluation.critic_check import review
from anyorder.evaluation.headroom_check import headroom
from anyorder.fitting import FitSettings, data, fit_and_compare
from anyorder.tasks import Instances, make_task
from anyorder.training.fit import fit_order, fit_order_by_reward
from anyorder.training.fit_recipes import reward_recipe, rules_recipe
from anyorder.training.reward import make_actions
from anyorder.training.rewards import Outcome
from anyorder.training.settings import RewardSettings
from anyorder.zoo import folder_of, load_denoiser, load_order

TASK = make_task("sudoku", box=2)
SMALL: dict[str, Any] = {"steps": 1, "batch_size": 8, "policy": {"architecture": "mlp", "width": 8}}
UPO: dict[str, Any] = {"batch_size": 12, "policy": {"width": 8, "heads": 2}, "console": Console(quiet=True)}


def weak() -> Any:
    return load_denoiser("sudoku4-weak")


def by_solved(outcome: Outcome) -> Tensor:
    return outcome.check.instance_correct.float()


def by_failed(outcome: Outcome) -> Tensor:
    return 1 - outcome.check.instance_correct.float()


def scaled(outcome: Outcome, factor: float) -> Tensor:
    return factor * outcome.check.instance_correct.float()


# ---- headroom -----------------------------------------------------------------------------------------------------------


def test_the_gains_are_over_the_callers_own_sampler() -> None:
    problems = TASK.generate(60, 5, givens=8)
    noisy = headroom(weak(), TASK, problems, 8, samplers=[Sampler.parse("confidence", noise=3.0), "oracle"], updates=1)
    assert noisy.probe is not None
    assert [r.noise for r in noisy.probe.report.results if r.order == "confidence"] == [3.0]
    own = headroom(weak(), TASK, problems, 8, samplers={"mine": "margin", "oracle": "oracle"}, updates=1)
    assert own.probe is not None
    plain = anyorder.evaluate(weak(), TASK, problems[slice(30, None)], ["margin"], 8).results[0]
    (mine,) = [r for r in own.probe.report.results if r.order == "mine"]
    assert mine.correct.tolist() == plain.correct.tolist() and "The best heuristic is mine" in str(own)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samplers": ["oracle"]}, "headroom compares with heuristics, and oracle are none"),
        ({"updates": -1}, "updates is -1; it must be 0, for no probe, or more"),
        ({"updates": 2.5}, "updates is 2.5; it must be a whole number"),
    ],
)
def test_what_headroom_cannot_do_is_said_before_the_work(
    changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyorder.evaluation.headroom_check.evaluate", lambda *_, **__: pytest.fail("it was measured"))
    with pytest.raises(BadInput, match=message):
        headroom(weak(), TASK, TASK.generate(4, 0, givens=8), 8, **changes)


def complete(problems: Instances) -> Instances:
    assert problems.x0 is not None
    return Instances(problems.x0.clone(), torch.zeros_like(problems.maskable), problems.x0)


def test_problems_that_are_complete_disturb_nothing(tmp_path: Path) -> None:
    open_ones = TASK.generate(60, 5, givens=8)
    few = complete(TASK.generate(3, 9, givens=8))
    assert few.x0 is not None and open_ones.x0 is not None
    some = Instances(
        torch.cat([few.tokens, open_ones.tokens]), torch.cat([few.maskable, open_ones.maskable]),
        torch.cat([few.x0, open_ones.x0]),
    )  # fmt: skip
    assert headroom(weak(), TASK, some, 4, updates=1).probe is not None
    order = load_order(folder_of("sudoku4") / "order", load_denoiser("sudoku4"))
    found = review(load_denoiser("sudoku4"), TASK, some, order, 4)
    assert len(found.least) == 60 and found.least.isfinite().all()
    for call in (
        lambda: headroom(weak(), TASK, complete(open_ones), 4),
        lambda: fit_order(weak(), TASK, complete(open_ones), tmp_path / "a", **SMALL),
        lambda: fit_order_by_reward(weak(), TASK, complete(open_ones), tmp_path / "b", steps=4, **UPO),
    ):
        with pytest.raises(BadInput, match="these problems are complete"):
            call()
    assert not list(tmp_path.iterdir())


def test_torch_draws_on_as_before(tmp_path: Path) -> None:
    problems, denoiser = TASK.generate(60, 5, givens=8), weak()
    torch.manual_seed(7)
    expected = torch.rand(3)
    for number, call in enumerate(
        (
            lambda: headroom(denoiser, TASK, problems, 4, updates=1),
            lambda: fit_order(denoiser, TASK, problems, tmp_path / "a", **SMALL),
            lambda: fit_order_by_reward(denoiser, TASK, problems, tmp_path / "b", steps=4, **UPO),
        )
    ):
        torch.manual_seed(7)
        call()
        assert torch.equal(torch.rand(3), expected), number


# ---- a folder that holds a fit ------------------------------------------------------------------------------------------


def test_a_fit_to_other_solutions_or_open_positions_is_another_fit(tmp_path: Path) -> None:
    problems = TASK.generate(20, 0, givens=8)
    assert problems.x0 is not None
    fit_order(weak(), TASK, problems, tmp_path, **SMALL)
    fit_order(weak(), TASK, problems, tmp_path, **SMALL)  # the same goes on, and has nothing to do
    moved = Instances(problems.tokens, problems.maskable, (problems.x0 % 4) + 1)
    with pytest.raises(BadInput, match="holds a run with other settings"):
        fit_order(weak(), TASK, moved, tmp_path, **SMALL)


def test_a_fit_by_another_reward_is_another_fit(tmp_path: Path) -> None:
    problems, settings = TASK.generate(20, 0, givens=8), {"steps": 4, **UPO}
    rewards: list[Any] = [
        by_solved,
        by_failed,
        functools.partial(scaled, factor=2.0),
        functools.partial(scaled, factor=-2.0),
        None,
    ]
    for number, reward in enumerate(rewards):
        folder = tmp_path / str(number)
        fit_order_by_reward(weak(), TASK, problems, folder, reward=reward, **settings)
        for other, second in enumerate(rewards):
            if other == number:
                fit_order_by_reward(weak(), TASK, problems, folder, reward=second, **settings)
                continue
            with pytest.raises(BadInput, match="holds a run with other settings"):
                fit_order_by_reward(weak(), TASK, problems, folder, reward=second, **settings)


# ---- fits by reward -----------------------------------------------------------------------------------------------------


def test_by_the_rules_positions_are_drawn_as_evenly_as_they_are_used() -> None:
    problems = TASK.generate(6, 0, givens=4, unique=False)
    recipe = rules_recipe(TASK, problems, steps=4, batch_size=12, seed=0, budget=4)
    taken: list[int] = []

    def record(output: Any) -> None:
        taken.append(int((output.before.masked & ~output.after.masked).sum(dim=1)[0]))

    budget = recipe.rollout.steps
    assert budget == (4, 4)
    decode(weak(), problems.tokens, Sampler("confidence", make_actions(recipe.rollout), steps=4), on_step=record)
    assert taken == [3, 3, 3, 3]
    assert rules_recipe(TASK, problems, steps=4, batch_size=12, seed=0, budget=12).rollout.steps is None


def test_the_users_denoiser_is_left_as_it_is(tmp_path: Path) -> None:
    denoiser = weak()
    before = {name: weight.clone() for name, weight in denoiser.state_dict().items()}
    update = {"train_denoiser": True, "inner": 1}
    with pytest.raises(BadInput, match="this call leaves your denoiser as it is"):
        fit_order_by_reward(
            denoiser, TASK, TASK.generate(8, 0, givens=8), tmp_path / "out", steps=2, update=update,
            rollout={"token_temperature": 1.0}, **UPO,
        )  # fmt: skip
    assert all(torch.equal(before[name], weight) for name, weight in denoiser.state_dict().items())
    assert not (tmp_path / "out").exists()


def test_a_short_run_uses_the_reward_too() -> None:
    problems = TASK.generate(8, 0, givens=8)
    for steps, imitation in ((8, 0), (20, 2), (160, 16), (400, 40), (1600, 40)):
        update = reward_recipe(TASK, problems, steps=steps, batch_size=12, seed=0).update
        assert update.imitation == imitation and imitation * update.inner * update.minibatches < steps
    with pytest.raises(BadInput, match="imitation = 5 rounds are all 10 updates"):
        reward_recipe(TASK, problems, steps=10, batch_size=12, seed=0, update={"inner": 2, "imitation": 5})


JUDGE: dict[str, Any] = {"name": "judge", "model": "m"}
VARIED: dict[str, Any] = {"name": "varied", "of": "judge", "settings": {"model": "m"}, "weight": 1.0}


@pytest.mark.parametrize("settings", [JUDGE, VARIED])
def test_speed_does_not_reward_slow_paths(settings: dict[str, Any]) -> None:
    RewardSettings(**settings)
    with pytest.raises(ValueError, match="judge is negative, so that slow paths would be rewarded: use step_cost"):
        RewardSettings(**settings, speed=1.0)


@pytest.mark.parametrize(
    ("reward", "error", "message"),
    [
        ("cells", BadInput, "reward is 'cells'; it must be a function"),
        (lambda outcome: [1.0] * len(outcome.instances), BadInput, "an object of the class list; it must be a tensor"),
        (lambda outcome: 1 / 0, PartFailed, "ZeroDivisionError"),
    ],
)
def test_a_reward_that_cannot_be_used_is_named(reward: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        fit_order_by_reward(weak(), TASK, TASK.generate(8, 0, givens=8), tmp_path, reward=reward, steps=4, **UPO)


def test_a_reward_may_be_an_array(tmp_path: Path) -> None:
    problems = TASK.generate(8, 0, givens=8)
    arrays = fit_order_by_reward(
        weak(), TASK, problems, tmp_path / "a", reward=lambda o: by_solved(o).numpy().astype(np.float64), steps=8, **UPO
    )
    tensors = fit_order_by_reward(weak(), TASK, problems, tmp_path / "b", reward=by_solved, steps=8, **UPO)
    pairs = zip(arrays.policy.state_dict().values(), tensors.policy.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


# ---- anyorder fit -------------------------------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_GENERATED", {"train": 20, "validation": 12, "test": 16})


def quick(model: str) -> FitSettings:
    return FitSettings(model, steps=8, updates=1, train_batch_size=4, generate=("givens=9", "unique=false"))


@pytest.mark.usefixtures("few")
def test_a_policy_of_other_weights_is_left_out(tmp_path: Path) -> None:
    shutil.copytree(folder_of("sudoku4"), tmp_path / "tuned")  # a model that was trained on, with the policy of before
    weights = load_file(tmp_path / "tuned" / "model.safetensors")
    save_file({name: weight + 1e-3 for name, weight in weights.items()}, tmp_path / "tuned" / "model.safetensors")
    console = Console(record=True, file=io.StringIO())
    found = fit_and_compare(quick(str(tmp_path / "tuned")), tmp_path / "out", console)
    assert "was fitted to other weights, and is left out" in " ".join(console.export_text().split())
    assert not any("shipped" in result.order for report in found.reports.values() for result in report.results)


@pytest.mark.usefixtures("few")
def test_what_is_worse_on_the_test_problems_is_not_handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anyorder.fitting.choose", lambda _: "policy")
    monkeypatch.setattr("anyorder.fitting.gain", lambda _, what, against: Gain(what, -4.0, -5.7, -2.3, 1e-6))
    found = fit_and_compare(quick("sudoku4-weak"), tmp_path, Console(quiet=True))
    assert found.label == found.heuristic != "policy" and f"Advice: use {found.heuristic}" in found.advice
    assert found.gain is None


# ---- shared passes ------------------------------------------------------------------------------------------------------


def test_equal_rows_of_a_batch_are_run_and_counted_once() -> None:
    denoiser = weak()
    shared = SharedPasses(denoiser, limit=200_000)
    rows = TASK.generate(2, 0, givens=8).tokens[[0, 1, 0, 0, 1]]
    positions = rows == TASK.mask_token_id
    with torch.no_grad():
        for _ in range(3):
            expected, found = denoiser(rows, None, positions), shared(rows, None, positions)
            assert torch.allclose(found.logits, expected.logits, atol=1e-5)
            assert torch.allclose(found.hidden, expected.hidden, atol=1e-5)
    kept = sum(logits.nbytes + hidden.nbytes for logits, hidden in shared._kept.values())
    assert (len(shared._kept), shared.rows, shared.seen, shared.bytes) == (2, 15, 13, kept)


def test_no_scale_of_noise_is_an_error() -> None:
    with pytest.raises(BadInput, match="noise is empty"):
        anyorder.evaluate(weak(), TASK, TASK.generate(2, 0, givens=8), ["confidence"], 4, noise=[])
