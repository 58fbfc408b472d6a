"""Training that diverges, is interrupted twice, or finds a damaged checkpoint: nothing that was good is lost."""

import json
import math
import os
import pty
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from anyorder import files
from anyorder.cli import main
from anyorder.errors import BadCheckpoint, BadInput, Diverged, NotFinite
from anyorder.training import loop
from anyorder.training.average import Average
from anyorder.training.checkpoint import list_checkpoints, load_checkpoint, load_latest, save_checkpoint
from anyorder.training.denoiser import DenoiserJob
from anyorder.training.fit import run_recipe
from anyorder.training.interrupts import stop_on_interrupt
from anyorder.training.loop import TrainingResult, train
from anyorder.training.progress import TrainingProgress
from anyorder.training.recipes import AnyRecipe, DenoiserRecipe, validate_recipe
from anyorder.training.reward import RewardJob
from anyorder.training.settings import OptimizerSettings
from anyorder.zoo import load_denoiser

TASK = {"name": "sudoku", "options": {"box": 2}}
KINDS: dict[str, dict[str, Any]] = {
    "denoiser": {"kind": "denoiser", "denoiser": {"width": 8, "layers": 1, "heads": ["row", "column"]}},
    "order": {"kind": "order", "policy": {"architecture": "mlp", "width": 8}, "objective": {"rollout_steps": [2, 4]}},
    "joint": {"kind": "order", "train_denoiser": True, "policy": {"architecture": "mlp", "width": 8},
              "objective": {"name": "order", "states": "uniform", "critic": False}, "joint": {"decode_every": 0}},
    "reward": {"kind": "reward", "policy": {"architecture": "upo", "width": 8, "heads": 2}, "rollout": {"group_size": 2},
               "update": {"inner": 1}},
}  # fmt: skip


def recipe_of(kind: str, run: dict[str, Any] | None = None, **optimizer: Any) -> AnyRecipe:
    return validate_recipe(
        {
            "task": TASK,
            "data": {"size": 20, "options": {"givens": 8}},
            "denoiser": "sudoku4-weak",
            "optimizer": {"lr": 0.01, "warmup_steps": 0, **optimizer},
            "run": {"steps": 6, "batch_size": 4, "checkpoint_steps": 1, "log_steps": 1, **(run or {})},
            **KINDS[kind],
        }
    )


def stepwise(monkeypatch: pytest.MonkeyPatch, change: Callable[[int, Tensor], Tensor]) -> None:
    """Let `change` replace the loss of each step of training a denoiser."""
    plain = DenoiserJob.loss

    def changed(self: DenoiserJob, model: nn.Module, step: int, shard: Any) -> tuple[Tensor, dict[str, float]]:
        loss, numbers = plain(self, model, step, shard)
        return change(step + 1, loss), numbers

    monkeypatch.setattr(DenoiserJob, "loss", changed)


def numbers_of(path: Path) -> list[Tensor]:
    return [tensor for tensor in load_checkpoint(path).tensors.values() if tensor.is_floating_point()]


def steps_kept(folder: Path) -> list[int]:
    return [load_checkpoint(path).step for path in list_checkpoints(folder / "checkpoints")]


# ---- divergence -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_diverges_stops_and_saves_nothing_that_is_not_finite(tmp_path: Path, kind: str) -> None:
    with pytest.raises(Diverged, match=r"training diverged at step \d: .*lower optimizer.lr \(here 1e\+30\)"):
        run_recipe(recipe_of(kind, lr=1e30), tmp_path / "run")
    assert not list(tmp_path.rglob("model.safetensors"))
    assert not list(tmp_path.rglob("policy.safetensors"))
    for path in list_checkpoints(tmp_path / "run" / "checkpoints"):
        assert all(bool(torch.isfinite(tensor).all()) for tensor in numbers_of(path))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_the_checkpoint_before_the_first_bad_loss_stays(tmp_path: Path, bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    stepwise(monkeypatch, lambda step, loss: loss * bad if step == 5 else loss)
    with pytest.raises(Diverged, match=r"at step 5: the loss is (nan|inf).*goes on from the checkpoint of step 4, whose"):
        run_recipe(recipe_of("denoiser"), tmp_path)
    assert steps_kept(tmp_path) == [3, 4]


def test_a_finite_loss_whose_gradient_is_not_stops_the_run_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stepwise(monkeypatch, lambda step, loss: loss + (loss * 0).sqrt() if step == 3 else loss)
    with pytest.raises(Diverged, match=r"at step 3: the loss is \d.*the norm of its gradient nan"):
        run_recipe(recipe_of("denoiser"), tmp_path)
    assert steps_kept(tmp_path) == [1, 2]


def test_weights_that_overflow_in_the_last_update_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    updates = []

    def overflow(_average: Average, model: nn.Module) -> None:
        updates.append(model)
        if len(updates) == 6:
            next(model.parameters()).data[0] = torch.inf

    monkeypatch.setattr(Average, "update", overflow)
    with pytest.raises(Diverged, match=r"at step 6: model\..* is not finite after the update"):
        run_recipe(recipe_of("denoiser"), tmp_path)
    assert steps_kept(tmp_path) == [4, 5]
    assert not (tmp_path / "model.safetensors").exists()


def test_scores_that_are_nan_are_divergence_once_something_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(at: int) -> Callable[..., Any]:
        def loss(self: RewardJob, model: nn.Module, step: int, shard: Any) -> tuple[Tensor, dict[str, float]]:
            if step >= at:
                next(self.policy.parameters()).data.fill_(torch.nan)
                self.round = None  # so that trajectories are drawn
            return plain(self, model, step, shard)

        return loss

    plain = RewardJob.loss
    monkeypatch.setattr(RewardJob, "loss", broken(3))
    with pytest.raises(Diverged, match=r"at step 4: the order .* returned NaN scores"):
        run_recipe(recipe_of("reward"), tmp_path / "later")
    assert steps_kept(tmp_path / "later") == [2, 3]
    monkeypatch.setattr(RewardJob, "loss", broken(0))
    with pytest.raises(NotFinite, match=r"the order .* returned NaN scores"):
        run_recipe(recipe_of("reward"), tmp_path / "at once")


def test_a_run_that_diverged_goes_on_with_a_lower_rate_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stepwise(patch, lambda step, loss: loss * math.nan if step == 4 else loss)
        with pytest.raises(Diverged):
            run_recipe(recipe_of("denoiser"), tmp_path)
    result = run_recipe(recipe_of("denoiser", lr=0.001, clip_norm=0.5), tmp_path)
    assert (result.step, result.finished) == (6, True)
    assert files.read_json(tmp_path / "recipe.json")["optimizer"]["lr"] == 0.001
    rates = [json.loads(line)["lr"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert max(rates[:3]) > 0.005
    assert max(rates[3:]) < 0.001


def test_only_a_run_that_diverged_takes_another_optimizer_and_only_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_recipe(recipe_of("denoiser"), tmp_path / "whole")
    with pytest.raises(BadInput, match=r"other settings \(optimizer.lr\)"):
        run_recipe(recipe_of("denoiser", lr=0.001), tmp_path / "whole")
    stepwise(monkeypatch, lambda step, loss: loss * math.nan if step == 4 else loss)
    with pytest.raises(Diverged):
        run_recipe(recipe_of("denoiser"), tmp_path / "diverged")
    with pytest.raises(BadInput, match=r"other settings \(optimizer.name\)"):
        run_recipe(recipe_of("denoiser", name="muon", lr=0.001), tmp_path / "diverged")


def test_the_command_says_in_one_line_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ["data.size=20", "run.steps=4", "run.batch_size=4", "optimizer.lr=1e30", "optimizer.warmup_steps=0"]
    command = ["train", "sudoku4-denoiser", "--out", str(tmp_path / "run"), *(word for c in changes for word in ("--set", c))]
    monkeypatch.setattr(sys, "argv", ["anyorder", *command])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "training diverged at step 2" in line
    assert "no checkpoint had been written" in line


@pytest.mark.parametrize(
    "change",
    [{"lr": 1e300}, {"lr": math.inf}, {"betas": (1.5, 0.9)}, {"betas": (0.9, math.nan)}, {"clip_norm": 0.0},
     {"clip_norm": math.nan}, {"weight_decay": -0.1}, {"weight_decay": math.inf}, {"warmup_steps": -1}],
)  # fmt: skip
def test_numbers_with_which_no_optimizer_works_are_refused_at_once(change: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=rf"optimizer.{next(iter(change))}"):
        recipe_of("denoiser", **change)


# ---- interruptions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_more_signals_while_the_checkpoint_is_written_do_not_lose_it(
    tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepwise(monkeypatch, lambda step, loss: (step == 3 and signal.raise_signal(number)) or loss)
    plain = safetensors.torch.save_file

    def slow(*arguments: Any, **more: Any) -> None:
        plain(*arguments, **more)
        signal.raise_signal(number)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(safetensors.torch, "save_file", slow)
    result = run_recipe(recipe_of("denoiser", {"checkpoint_steps": 1000}), tmp_path)
    assert (result.step, result.finished) == (3, False)
    assert steps_kept(tmp_path) == [3]


def test_a_signal_while_the_finished_model_is_written_does_not_lose_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = DenoiserJob.save

    def interrupted(self: DenoiserJob, folder: Path) -> None:
        signal.raise_signal(signal.SIGINT)
        plain(self, folder)

    monkeypatch.setattr(DenoiserJob, "save", interrupted)
    assert run_recipe(recipe_of("denoiser"), tmp_path).finished
    load_denoiser(tmp_path)


def test_a_hang_up_that_is_ignored_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with stop_on_interrupt() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.is_set()
            signal.raise_signal(signal.SIGTERM)
            assert stop.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_closes_leaves_a_checkpoint(tmp_path: Path) -> None:
    """SIGHUP, and from then on every write to the terminal fails."""
    changes = ["data.size=20", "run.steps=100000", "run.batch_size=4", "run.log_steps=1"]
    command = ["train", "sudoku4-denoiser", "--out", str(tmp_path / "run"), *(word for c in changes for word in ("--set", c))]
    process, terminal = pty.fork()
    if process == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup, if the tests run under it, would ignore
        os.execv(sys.executable, [sys.executable, "-m", "anyorder", *command])
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            os.read(terminal, 65536)
    os.close(terminal)
    os.waitpid(process, 0)
    checkpoint, _ = load_latest(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.step > 0


def test_a_terminal_that_has_gone_ends_the_bar_and_not_the_training(tmp_path: Path) -> None:
    class Gone:
        is_terminal = False

        def print(self, *_: Any, **__: Any) -> None:
            raise OSError(5, "Input/output error")

    recipe = recipe_of("denoiser")
    assert isinstance(recipe, DenoiserRecipe)
    console: Any = Gone()
    result: TrainingResult = train(
        DenoiserJob(recipe), recipe.run, recipe.optimizer, tmp_path, seed=0, recipe={}, console=console
    )
    assert result.finished
    with TrainingProgress(10, 0, console, enabled=True) as progress:
        progress.update(10, torch.zeros(()))
        assert not progress.enabled


# ---- checkpoints ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["first number", "last number", "metadata", "name"])
def test_a_flipped_bit_in_a_checkpoint_is_found_and_the_one_before_is_used(
    tmp_path: Path, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run_recipe(recipe_of("denoiser"), tmp_path / "whole")
    run_recipe(recipe_of("denoiser", {"steps": 4}, schedule="constant"), tmp_path / "run")
    newest = list_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    content = bytearray(newest.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    place = {"first number": header, "last number": len(content) - 1, "metadata": content.index(b"seconds"),
             "name": content.index(b"exp_avg")}[where]  # fmt: skip
    content[place] ^= 2
    newest.write_bytes(content)
    with pytest.raises(BadCheckpoint, match="truncated, damaged, or not a checkpoint"):
        load_checkpoint(newest)
    run_recipe(recipe_of("denoiser", {"steps": 6}, schedule="constant"), tmp_path / "run")
    told = capsys.readouterr().out
    assert "step-00000004.safetensors is truncated, damaged" in told
    assert "resuming from step 3" in told
    assert steps_kept(tmp_path / "run") == [5, 6]


def test_a_damaged_newer_checkpoint_never_pushes_out_a_good_one(tmp_path: Path) -> None:
    for step in (4, 8):
        save_checkpoint(tmp_path, step, {"a": torch.ones(2)}, {}, keep=2)
    (tmp_path / "step-00000008.safetensors").write_bytes(b"damaged")
    save_checkpoint(tmp_path, 6, {"a": torch.ones(2)}, {}, keep=1)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000006.safetensors"]


@pytest.mark.parametrize("tensor", [torch.ones(3, dtype=torch.bfloat16), torch.tensor(2), torch.zeros(0), torch.ones(2, 2) > 0])
def test_a_checksum_covers_every_type_and_shape(tmp_path: Path, tensor: Tensor) -> None:
    path = save_checkpoint(tmp_path, 1, {"a": tensor}, {"seconds": 1.0}, keep=1)
    assert load_checkpoint(path).tensors["a"].equal(tensor)


def test_a_checkpoint_without_a_checksum_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "step-00000001.safetensors"
    safetensors.torch.save_file({"a": torch.ones(2)}, path, {"step": "1", "values": "{}"})
    with pytest.raises(BadCheckpoint, match="crc32"):
        load_checkpoint(path)


def test_a_fifo_in_place_of_a_checkpoint_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "step-00000001.safetensors")
    with pytest.raises(BadCheckpoint, match="no regular file"):
        load_checkpoint(tmp_path / "step-00000001.safetensors")


def test_the_folder_is_flushed_after_the_file_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    plain, replace = os.fsync, os.replace

    def sync(handle: int) -> None:
        calls.append("folder" if os.path.samestat(os.fstat(handle), os.stat(tmp_path)) else "file")
        plain(handle)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("name"), replace(*names)))
    save_checkpoint(tmp_path, 1, {"a": torch.ones(2)}, {}, keep=1)
    assert calls == ["file", "name", "folder"]


@pytest.mark.parametrize(
    ("scale", "loss", "norm", "stops"),
    [
        (None, 1.0, math.inf, True),
        (65536.0, 1.0, math.inf, False),  # the scaled gradient overflowed: the scaler leaves this step out and halves the scale
        (65536.0, 1.0, math.nan, False),
        (1.0, 1.0, math.inf, True),  # the gradient itself overflows
        (65536.0, math.nan, 1.0, True),
        (65536.0, 1.0, 1.0, False),
    ],
)
def test_in_half_precision_only_a_step_that_the_scaler_leaves_out_may_overflow(
    scale: float | None, loss: float, norm: float, stops: bool, tmp_path: Path
) -> None:
    run: Any = object.__new__(loop._Run)
    scaler = None if scale is None else SimpleNamespace(get_scale=lambda: scale)
    run.accelerator = SimpleNamespace(scaler=scaler, num_processes=1)
    run.step, run.optimizer_settings, run.folder = 3, OptimizerSettings(lr=1e-3), tmp_path
    with pytest.raises(Diverged, match="norm of its gradient") if stops else nullcontext():
        run._check_finite(torch.tensor(loss), norm)
