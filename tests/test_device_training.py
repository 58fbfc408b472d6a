"""Every kind of training on another device than the CPU: the weights of the CPU, and runs that go on elsewhere."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import anyorder
from anyorder.processes import Shard
from anyorder.registry import OBJECTIVES, POLICIES
from anyorder.training.denoiser import DenoiserJob
from anyorder.training.fit import run_recipe
from anyorder.training.joint import JointJob
from anyorder.training.loop import _anyone
from anyorder.training.order import OrderJob
from anyorder.training.recipes import validate_recipe
from anyorder.training.reward import RewardJob
from anyorder.training.rewards import Outcome
from anyorder.training.sharding import average_gradients
from on_device import DEVICE, agree, training_on
from tiny_zoo import save_tiny

HEADS = ["row", "column"]
ORDER = {"kind": "order", "policy": {"architecture": "mlp", "width": 8}}
REWARD = {"kind": "reward", "policy": {"architecture": "upo", "width": 8, "heads": 2}, "reward": {"name": "cells"}}
ONCE = {"inner": 1, "minibatches": 1}
UNIFORM = {"states": "uniform", "critic": False}
JOBS = {"denoiser": DenoiserJob, "order": OrderJob, "joint": JointJob, "reward": RewardJob}
RECIPES: dict[str, dict[str, Any]] = {
    "denoiser": {"kind": "denoiser", "denoiser": {"architecture": "structured", "width": 8, "layers": 1, "heads": HEADS},
                 "optimizer": {"name": "muon", "lr": 0.01, "ema": 0.9}, "masking": {"time_weight": True}},
    "order teacher": ORDER | {"objective": {"name": "correctness", "states": "teacher"}},
    "order nearest": ORDER | {"objective": {"name": "correctness", "states": "model", "solutions": "nearest"}},
    "order model": ORDER | {"objective": {"name": "correctness", "states": "model", "selection_weight": 0.5}},
    "order drafts": ORDER | {"objective": {"name": "correctness", "states": "drafts", "token_temperature": 1.0}},
    "order influences": ORDER | {"policy": {"architecture": "pairwise"}, "objective": {
        "name": "correctness", "states": "teacher", "path": "gt_margin", "critic": False, "influence_weight": 1.0}},
    "order lo_arm with denoiser": ORDER | {"train_denoiser": True, "objective": {"name": "lo_arm", "states": "teacher",
                                                                                 "critic": False}},
    "joint": ORDER | {"train_denoiser": True, "objective": {"name": "order", **UNIFORM},
                      "joint": {"weights": "policy", "decode_every": 1, "decode_problems": 2, "decode_steps": 2}},
    "joint papl": ORDER | {"train_denoiser": True, "objective": {"name": "order", **UNIFORM}, "masking": {"time_weight": True},
                           "joint": {"weights": "papl", "decode_every": 0}},
    "reward none": REWARD | {"update": {"inner": 1, "minibatches": 2}},
    "reward confidence": REWARD | {"update": ONCE | {"reference": "confidence", "beta": 0.1, "imitation": 1}},
    "reward softmax": REWARD | {"update": ONCE | {"reference": "softmax", "beta": 0.1}},
    "reward both": REWARD | {"update": {"inner": 1, "minibatches": 2, "train_denoiser": True},
                             "rollout": {"token_temperature": 0.7, "group_size": 3}},
    "reward by experts": REWARD | {"rollout": {"experts": 1, "group_size": 3, "actions": "bernoulli"}, "update": {"inner": 1},
                                   "reward": {"name": "solved", "speed": 1.0, "likelihood_bonus": 0.2}},
    "reward less steps": REWARD | {"policy": {"architecture": "dultra"}, "rollout": {"actions": "bernoulli", "group_size": 3},
                                   "update": ONCE | {"imitation": 1, "imitate_count": "factor:1"},
                                   "reward": {"name": "solved", "step_cost": 0.02}},
    "reward varied": REWARD | {"update": {"inner": 1}, "reward": {"name": "varied"}},
    "reward varied by cells": REWARD | {"update": {"inner": 1}, "reward": {"name": "varied", "of": "cells"}},
    "reward by likelihood": REWARD | {"update": {"inner": 1}, "reward": {"name": "likelihood"}},
}  # fmt: skip
RECIPES |= {f"objective {name}": ORDER | {"objective": {"name": name, **UNIFORM}} for name in OBJECTIVES}
RECIPES |= {
    f"policy {name}": ORDER | {"policy": {"architecture": name}, "objective": {"name": "correctness", "critic": False}}
    for name in POLICIES
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("zoo") / "tiny")


def run(name: str, model: Path, folder: Path, where: str, **settings: Any) -> dict[str, Tensor]:
    """The weights after a training of two steps."""
    values = {
        "task": {"name": "sudoku", "options": {"box": 2}},
        "data": {"size": 12, "options": {"givens": 10, "unique": False}},
        "optimizer": {"lr": 0.01, "warmup_steps": 1},
        "run": {"steps": 2, "batch_size": 6, "log_steps": 1, **settings},
        "denoiser": str(model),
    } | RECIPES[name]
    with training_on(where):
        run_recipe(validate_recipe(values), folder)
    files = sorted(path for path in folder.rglob("model.safetensors") if "checkpoints" not in path.parts)
    assert files
    found = (safetensors.torch.load_file(path) for path in files)
    return {f"{number} {key}": value for number, tensors in enumerate(found) for key, value in tensors.items()}


RESUMED = ("denoiser", "order model", "joint", "reward none")
QUICK = (*RESUMED, "order nearest", "order drafts", "reward softmax", "reward both")
CASES = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in RECIPES]


@pytest.mark.parametrize("name", CASES)
def test_the_weights_are_those_of_the_cpu(name: str, folder: Path, tmp_path: Path) -> None:
    agree(run(name, folder, tmp_path / "device", DEVICE), run(name, folder, tmp_path / "cpu", "cpu"))


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("first", [DEVICE, "cpu"])
def test_a_run_that_breaks_goes_on_elsewhere(
    name: str, first: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = {"steps": 4, "checkpoint_steps": 1}
    expected = run(name, folder, tmp_path / "whole", "cpu", **often)
    job: Any = JOBS[name.split()[0]]
    plain = job.loss

    def failing(self: Any, model: nn.Module, step: int, shard: Shard) -> Any:
        if step == 2:
            raise RuntimeError("power cut")
        return plain(self, model, step, shard)

    monkeypatch.setattr(job, "loss", failing)
    with pytest.raises(RuntimeError, match="power cut"):
        run(name, folder, tmp_path / "cut", first, **often)
    monkeypatch.undo()
    agree(run(name, folder, tmp_path / "cut", "cpu" if first == DEVICE else DEVICE, **often), expected)


def whole(outcome: Outcome) -> Tensor:
    """A reward of a user's own, made on the CPU."""
    return outcome.check.cell_accuracy.float() + (outcome.decoded.tokens == 1).float().mean(dim=1)


UPO = {"architecture": "upo", "width": 8, "heads": 2}
FITS: dict[str, Callable[..., Any]] = {
    "fit_order": anyorder.fit_order,
    "fit_order by logits": functools.partial(anyorder.fit_order, policy={"architecture": "lookahead", "width": 8}),
    "fit_order_by_reward": functools.partial(anyorder.fit_order_by_reward, reward=whole, policy=UPO),
}


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("dtype", [pytest.param(torch.float32, marks=pytest.mark.slow), torch.bfloat16])
def test_a_denoiser_on_the_device_is_fitted_to_problems_of_the_cpu(
    name: str, dtype: torch.dtype, folder: Path, tmp_path: Path
) -> None:
    task = anyorder.make_task("sudoku", box=2)
    problems = task.generate(12, 0, givens=10)
    found = {}
    for where in (DEVICE, "cpu"):
        with training_on(where):
            denoiser = anyorder.load_denoiser(folder, device=where, dtype=dtype)
            order = FITS[name](denoiser, task, problems, tmp_path / where, steps=2, batch_size=6)
            weights = next(denoiser.parameters())
            assert (weights.device.type, weights.dtype) == (torch.device(where).type, dtype), "where it was, as it was"
            assert next(order.policy.parameters()).device == weights.device
            decoded = anyorder.decode(denoiser, problems.tokens, order)
            found[where] = [order.to("cpu").policy.state_dict(), decoded.tokens, decoded.token_log_probs]
    agree([dict(part) if isinstance(part, dict) else part for part in found[DEVICE]], found["cpu"])


class Two:
    """Accelerate with two processes on GPUs, where NCCL takes no tensor of the CPU."""

    num_processes, device = 2, torch.device(DEVICE)

    @staticmethod
    def reduce(tensor: Tensor, **_: Any) -> Tensor:
        assert tensor.device.type == Two.device.type
        return tensor


def test_what_processes_exchange_is_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "all_reduce", Two.reduce)
    with training_on(DEVICE):
        model = nn.Linear(2, 2).to(DEVICE)
        model(torch.ones(1, 2, device=DEVICE)).sum().backward()
        average_gradients(model, Shard(0, 2))
        assert model.weight.grad.tolist() == [[0.5, 0.5]] * 2
        assert _anyone(Two, True) and not _anyone(Two, False)  # type: ignore[arg-type]
