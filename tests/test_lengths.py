"""Training on problems of different lengths: batches of like lengths, and no work for padding that nobody needs."""

from pathlib import Path
from typing import Any

import pytest
import torch

from anyorder.processes import Shard
from anyorder.tasks import make_task
from anyorder.training import denoiser as denoiser_module
from anyorder.training import order as order_module
from anyorder.training.data import GROUP, draw_clean, step_generator, without_padding
from anyorder.training.denoiser import DenoiserJob
from anyorder.training.order import OrderJob
from anyorder.training.recipes import DenoiserRecipe, OrderRecipe, validate_recipe


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    file = tmp_path / "lines.txt"
    file.write_text("".join("ab"[i % 2] * (1 + i % 23) + "\n" for i in range(400)))
    return file


def values(lines: Path, group: bool = True, **changes: Any) -> dict[str, Any]:
    return {
        "task": {"name": "text", "options": {"alphabet": "characters", "length": 30}},
        "data": {"size": 400, "file": str(lines), "group_by_length": group},
        "optimizer": {"lr": 0.01},
        "run": {"steps": 10, "batch_size": 8},
        **changes,
    }


def make_job(lines: Path, group: bool = True) -> DenoiserJob:
    form = {"kind": "denoiser", "denoiser": {"width": 16, "layers": 1, "positions": True}}
    recipe = validate_recipe(form | values(lines, group))
    assert isinstance(recipe, DenoiserRecipe)
    return DenoiserJob(recipe)


def lengths(job: DenoiserJob, step: int) -> list[int]:
    x0, _, _ = draw_clean(job.task, job.instances, job.recipe, step, step_generator(job.recipe.seed, step))
    return (x0 != job.task.pad_token_id).sum(dim=1).tolist()  # type: ignore[attr-defined]


def test_batches_of_a_group_are_of_like_length_in_mixed_order_and_hold_lengths_as_the_data_does(lines: Path) -> None:
    job = make_job(lines)
    batches = [lengths(job, step) for step in range(GROUP)]
    assert max(max(batch) - min(batch) for batch in batches) <= 3
    assert batches != sorted(batches)
    everything = torch.tensor(batches).double()
    of_data = (job.instances.x0 != job.task.pad_token_id).sum(dim=1).double()  # type: ignore[attr-defined,operator]
    assert abs(everything.mean() - of_data.mean()) < 4 * of_data.std() / everything.numel() ** 0.5
    assert lengths(job, 7) == batches[7]
    assert lengths(job, GROUP + 7) != batches[7]


def test_without_grouping_lengths_are_mixed(lines: Path) -> None:
    job = make_job(lines, group=False)
    assert max(max(batch) - min(batch) for batch in (lengths(job, step) for step in range(5))) > 8


def test_columns_of_padding_alone_are_left_out_and_the_loss_and_gradients_stay(
    lines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(lines)
    job.model.eval()
    step = min(range(GROUP), key=lambda s: max(lengths(job, s)))
    seen: list[int] = []
    job.model.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))

    def gradients() -> list[torch.Tensor]:
        job.model.zero_grad()
        job.loss(job.model, step, Shard(0, 1))[0].backward()
        return [p.grad.clone() for p in job.model.parameters() if p.grad is not None]

    short = gradients()
    monkeypatch.setattr(denoiser_module, "without_padding", lambda tokens, pad: slice(None))
    for a, b in zip(short, gradients(), strict=True):
        torch.testing.assert_close(a[: len(b)], b, atol=1e-6, rtol=1e-4)
    assert seen[0] == max(lengths(job, step)) < seen[1]


def test_an_order_is_fitted_without_the_padding_too(lines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = make_job(lines).denoiser
    changes = {"denoiser": "given", "policy": {"architecture": "mlp", "width": 8}}
    objective = {"objective": {"name": "order", "states": "uniform", "critic": False}}
    recipe = validate_recipe({"kind": "order"} | values(lines) | changes | objective)
    assert isinstance(recipe, OrderRecipe)
    job = OrderJob(recipe, denoiser, make_task("text", alphabet="characters", length=30))
    step = min(range(GROUP), key=lambda s: int(job._draw(s, Shard(0, 1)).state.tokens.shape[1]))
    short = job._draw(step, Shard(0, 1)).state.tokens
    loss, _ = job.loss(job.policy, step, Shard(0, 1))
    monkeypatch.setattr(order_module, "without_padding", lambda tokens, pad: slice(None))
    complete = job._draw(step, Shard(0, 1)).state.tokens
    assert short.shape[1] < complete.shape[1]
    assert torch.equal(short, complete[:, : short.shape[1]])
    torch.testing.assert_close(job.loss(job.policy, step, Shard(0, 1))[0], loss)


def test_columns_end_with_the_last_symbol_of_any_row() -> None:
    tokens = torch.tensor([[5, 0, 6, 0, 0], [0, 0, 0, 0, 0]])
    assert without_padding(tokens, 0) == slice(3)
    assert without_padding(tokens, 9) == slice(5)
    assert without_padding(tokens[1:], 0) == slice(1)
    assert without_padding(tokens, None) == slice(None)
