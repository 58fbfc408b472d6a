"""Training a denoiser by reward on its own answers (diffu-GRPO)."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from anyorder.errors import BadInput
from anyorder.evaluation.comparison import evaluate
from anyorder.processes import Shard
from anyorder.tasks import make_task
from anyorder.training.fit import run_recipe
from anyorder.training.grpo import GrpoJob
from anyorder.training.recipes import GrpoRecipe, load_recipe, validate_recipe
from anyorder.training.rewards import Outcome
from anyorder.zoo import load_denoiser
from anyorder.zoo.matching import task_for

TASK = make_task("sudoku", box=2)
HERE = Shard()


def ones(outcome: Outcome) -> Tensor:
    """A reward of a user: the share of ones among the generated cells."""
    hit = (outcome.decoded.tokens == 1) & outcome.instances.maskable
    return hit.sum(dim=1) / outcome.instances.maskable.sum(dim=1)


def recipe_of(**sections: Any) -> GrpoRecipe:
    values = {
        "kind": "grpo", "denoiser": "sudoku4-weak", "task": {"name": "sudoku", "options": {"box": 2}},
        "data": {"size": 40, "options": {"givens": 8, "unique": False}}, "reward": {"name": "test_grpo:ones"},
        "grpo": {"group_size": 4, "inner": 2, "temperature": 2.0}, "optimizer": {"lr": 3e-3, "warmup_steps": 1},
        "run": {"steps": 24, "batch_size": 32},
    } | sections  # fmt: skip
    found = validate_recipe(values)
    assert isinstance(found, GrpoRecipe)
    return found


def job_of(**sections: Any) -> GrpoJob:
    return GrpoJob(recipe_of(**sections), load_denoiser("sudoku4-weak"), TASK)  # type: ignore[arg-type]


def test_the_first_update_is_the_mean_of_the_advantages() -> None:
    job = job_of()
    loss, numbers = job.loss(job.model, 0, HERE)
    assert job.answers is not None
    counted = job.answers.counted
    assert loss.item() == pytest.approx(-job.answers.advantages[counted.any(dim=1)].sum().item() / len(counted), abs=1e-6)
    assert numbers["clipped"] == 0
    loss.backward()
    log_prob = job._log_probs(job.model, job.answers.states[0], job.answers.tokens, counted)
    by_hand = (log_prob.sum(dim=1) / counted.sum(dim=1) * job.answers.advantages).mean()
    weights = list(job.model.parameters())
    for weight, expected in zip(weights, torch.autograd.grad(-by_hand, weights), strict=True):
        assert weight.grad is not None and torch.allclose(weight.grad, expected, atol=1e-6), "the policy gradient"


def test_log_probabilities_are_those_of_one_prediction_with_a_part_of_the_prompt_masked() -> None:
    job = job_of(grpo={"group_size": 4, "inner": 2, "prompt_mask": 0.5})
    job.loss(job.model, 0, HERE)
    drawn = job.answers
    assert drawn is not None
    logits, _ = job.denoiser(drawn.states[1])
    by_hand = torch.log_softmax(logits, dim=-1).gather(2, drawn.tokens[:, :, None])[:, :, 0]
    assert torch.allclose(drawn.log_probs[1], torch.where(drawn.counted, by_hand, 0.0), atol=1e-5)
    assert (drawn.states[:, drawn.counted] == TASK.mask_token_id).all()
    given = drawn.states[:, ~drawn.counted]
    assert 0.3 < (given == TASK.mask_token_id).float().mean() < 0.7
    assert not torch.equal(drawn.states[0], drawn.states[1])


def test_the_divergence_is_that_from_the_denoiser_at_the_start() -> None:
    job = job_of(grpo={"group_size": 4, "inner": 2, "beta": 0.5})
    job.loss(job.model, 0, HERE)
    assert job.answers is not None and job.answers.reference is not None
    assert torch.equal(job.answers.reference, job.answers.log_probs), "nothing was trained yet"
    with torch.no_grad():
        next(job.model.parameters()).mul_(1.5)
    drifted, _ = job.loss(job.model, 1, HERE)
    job.answers = replace(job.answers, reference=None)
    without, _ = job.loss(job.model, 1, HERE)
    gap = job.answers.log_probs[1] - job._log_probs(job.model, job.answers.states[1], job.answers.tokens, job.answers.counted)
    by_hand = ((gap.exp() - gap - 1) * job.answers.counted).sum(dim=1) / job.answers.counted.sum(dim=1)
    assert (drifted - without).item() == pytest.approx(0.5 * by_hand.mean().item(), rel=1e-4)


def test_tokens_behind_the_end_do_not_count() -> None:
    task = make_task("words", problems="addition")
    problems = task.generate(3, 0)
    assert problems.x0 is not None
    counted = GrpoJob._counted(type("Job", (), {"task": task})(), problems, problems.x0)  # type: ignore[arg-type]
    lengths = [len(text) for text in task.texts(problems, problems.x0)]
    assert counted.sum(dim=1).tolist() == [length + 1 for length in lengths], "the answer and its end"


def test_what_is_rewarded_becomes_more_frequent(tmp_path: Path) -> None:
    recipe = recipe_of()
    assert run_recipe(recipe, tmp_path).finished
    trained = load_denoiser(str(tmp_path))
    assert task_for(trained).options == TASK.options

    def share(denoiser: Any) -> float:
        problems = TASK.generate(60, 9, givens=8, unique=False)
        decoded: list[Tensor] = []

        def note(task: Any, instances: Any, tokens: Tensor) -> Any:
            decoded.append(tokens)
            return torch.zeros(len(tokens)).numpy()

        evaluate(denoiser, TASK, problems, ["confidence"], [8], judges={"none": note})
        return float(((decoded[0] == 1) & problems.maskable).sum() / problems.maskable.sum())

    assert share(trained) > share(load_denoiser("sudoku4-weak")) + 0.2


def test_a_run_that_is_extended_ends_with_the_weights_of_a_longer_one(tmp_path: Path) -> None:
    constant = {"lr": 1e-3, "warmup_steps": 1, "schedule": "constant"}
    for folder, steps in (("a", 2), ("a", 4), ("b", 4)):
        run_recipe(recipe_of(run={"steps": steps, "batch_size": 8}, optimizer=constant), tmp_path / folder)
    one, other = (load_denoiser(str(tmp_path / name)) for name in "ab")
    for a, b in zip(one.parameters(), other.parameters(), strict=True):  # type: ignore[attr-defined]
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"run": {"steps": 2, "batch_size": 6}}, "run.batch_size 6 is not a multiple of grpo.group_size 4"),
        ({"grpo": {"group_size": 1}}, "group_size"),
        ({"grpo": {"prompt_mask": 1.0}}, "prompt_mask"),
        ({"policy": {"architecture": "mlp"}}, "unknown key 'policy'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        recipe_of(**sections)


def test_an_unknown_order_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nonsense"):
        run_recipe(recipe_of(grpo={"group_size": 4, "order": "nonsense"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_shipped_recipe_is_of_this_kind() -> None:
    assert isinstance(load_recipe("words-grpo"), GrpoRecipe)
