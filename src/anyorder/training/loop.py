"""The one training loop: data -> loss -> step, for denoisers and policies alike, on one process or many.

A run lives in a folder: `recipe.json`, `metrics.jsonl`, `checkpoints/`, and at the end what the job saves. It can be
killed at any moment; started again on the same folder it goes on from the last checkpoint and ends with the same weights,
bit for bit. For that, everything random in step n is drawn from (seed, n) alone.
"""

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from rich.console import Console
from torch import Tensor, nn

from anyorder.errors import BadInput
from anyorder.files import write_json
from anyorder.training.checkpoint import (
    list_checkpoints,
    load_latest,
    load_optimizer_tensors,
    optimizer_tensors,
    save_checkpoint,
    take,
)
from anyorder.training.optimizer import learning_rate, make_optimizers
from anyorder.training.progress import TrainingProgress
from anyorder.training.settings import OptimizerSettings, RunSettings


@dataclass(frozen=True)
class Shard:
    """Which part of the global batch a process computes."""

    index: int
    count: int

    def slice(self, batch_size: int) -> slice:
        """The rows of this process."""
        per_process = batch_size // self.count
        return slice(self.index * per_process, (self.index + 1) * per_process)

    def total(self, value: Tensor) -> Tensor:
        """The sum of a number over all processes."""
        if self.count > 1:
            value = value.clone()
            torch.distributed.all_reduce(value)
        return value


class Job(Protocol):
    """What is trained."""

    model: nn.Module
    rate_scales: dict[str, float]  # learning rate of the weights whose names begin so, over the common one
    cycle: int  # steps that belong together: a run stops, and is checkpointed, only between cycles

    def to(self, device: torch.device) -> None:
        """Move everything that is not `model` (a frozen denoiser, data) to the device."""

    def loss(self, model: nn.Module, step: int, shard: Shard) -> tuple[Tensor, dict[str, float]]:
        """The loss of this process's part of batch `step`, and numbers to log. A pure function of weights, state and step."""

    def state(self) -> dict[str, Tensor]:
        """Tensors besides the weights that the next step depends on, one row per row of this process's part of the batch."""

    def load_state(self, tensors: dict[str, Tensor], shard: Shard) -> None:
        """Take this process's rows of the state of all processes."""

    def save(self, folder: Path) -> None:
        """Write the finished model."""


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended. `finished` is False when it was interrupted and can be resumed."""

    step: int
    seconds: float
    finished: bool


def train(
    job: Job,
    run: RunSettings,
    optimizer_settings: OptimizerSettings,
    folder: Path,
    *,
    seed: int,
    recipe: dict[str, Any],
    console: Console | None = None,
) -> TrainingResult:
    """Train `job` to the end, or until Ctrl-C (then a checkpoint is written first).

    Raises:
        BadInput: the folder holds a run of another recipe, or the batch does not divide among the processes.
        BadCheckpoint: checkpoints exist and none can be read.
        AnyorderError: a file cannot be written; the last checkpoint stays as it is.
    """
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())  # else several CPU processes do not find one another
    shard = Shard(accelerator.process_index, accelerator.num_processes)
    if run.batch_size % shard.count:
        raise BadInput(f"batch_size {run.batch_size} does not divide among {shard.count} processes")
    main = accelerator.is_main_process
    if main:
        _claim_folder(folder, recipe)
    accelerator.wait_for_everyone()

    optimizers = make_optimizers(job.model, optimizer_settings, job.rate_scales)
    job.to(accelerator.device)
    prepared = accelerator.prepare(job.model, *optimizers)
    model, optimizers = prepared[0], list(prepared[1:])
    average = _Average(job.model, optimizer_settings.ema)

    checkpoint, problems = load_latest(folder / "checkpoints")
    start, seconds_before = 0, 0.0
    if checkpoint is not None:
        job.model.load_state_dict(take(checkpoint.tensors, "model"))
        load_optimizer_tensors(optimizers, checkpoint.tensors)
        average.load(checkpoint.tensors)
        job.load_state({n.removeprefix("job."): t for n, t in checkpoint.tensors.items() if n.startswith("job.")}, shard)
        start, seconds_before = checkpoint.step, checkpoint.values["seconds"]
    for problem in problems:
        accelerator.print(f"warning: {problem}; going on from step {start}")

    began = last_saved = time.monotonic()

    def save(step: int) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in job.model.state_dict().items()}
        tensors |= optimizer_tensors(optimizers) | average.tensors()
        tensors |= {f"job.{name}": accelerator.gather(tensor) for name, tensor in job.state().items()}
        values = {"seconds": seconds_before + time.monotonic() - began}
        if main:
            save_checkpoint(folder / "checkpoints", step, tensors, values, run.keep)
        accelerator.wait_for_everyone()

    log = _MetricsLog(folder, start, run.tensorboard) if main else None
    step = saved_step = start
    with _stop_on_interrupt() as stop, TrainingProgress(run.steps, start, console, enabled=main) as progress:
        model.train()
        while step < run.steps and not _anyone(accelerator, stop.is_set() and step % job.cycle == 0):
            torch.manual_seed((seed * 1_000_003 + step) * 64 + shard.index)  # dropout
            rate = learning_rate(step, run.steps, optimizer_settings)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate * group["scale"]
                optimizer.zero_grad()
            loss, numbers = job.loss(model, step, shard)
            accelerator.backward(loss)
            norm = accelerator.clip_grad_norm_(model.parameters(), optimizer_settings.clip_norm)
            for optimizer in optimizers:
                optimizer.step()
            average.update(job.model)
            step += 1
            progress.update(step, loss)
            telling = step % run.log_steps == 0 or step == run.steps or "decoded_accuracy" in numbers
            if log is not None and telling:
                log.write({"step": step, "loss": loss.item(), "lr": rate, "gradient_norm": float(norm), **numbers})
            due_minutes = run.checkpoint_steps is None and time.monotonic() - last_saved > 60 * run.checkpoint_minutes
            due_steps = run.checkpoint_steps is not None and step // run.checkpoint_steps > saved_step // run.checkpoint_steps
            whole = step % job.cycle == 0 and step < run.steps
            if _anyone(accelerator, main and whole and (due_minutes or due_steps)):
                save(step)
                last_saved, saved_step = time.monotonic(), step
    if log is not None and log.writer is not None:
        log.writer.close()
    finished = step >= run.steps
    save(step)
    seconds = seconds_before + time.monotonic() - began
    if finished and main:
        average.copy_to(job.model)
        job.save(folder)
    accelerator.wait_for_everyone()
    return TrainingResult(step, seconds, finished)


def _claim_folder(folder: Path, recipe: dict[str, Any]) -> None:
    """Write the recipe into a new folder; refuse a folder that holds a run of another one."""
    path = folder / "recipe.json"
    if list_checkpoints(folder / "checkpoints"):
        try:
            existing = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadInput(f"{folder} has checkpoints but no readable recipe.json: choose another folder") from error
        changed = sorted(_differences(existing, recipe))
        if changed:
            raise BadInput(f"{folder} holds a run with other settings ({', '.join(changed)}): choose another folder")
    write_json(path, recipe)


def _differences(a: Any, b: Any, where: str = "") -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in a.keys() | b.keys():
            yield from _differences(a.get(key), b.get(key), f"{where}.{key}".lstrip("."))
    elif a != b:
        yield where


def _anyone(accelerator: Accelerator, wish: bool) -> bool:
    """Does any process wish it? All get the same answer, so that none waits for another in vain."""
    if accelerator.num_processes == 1:
        return wish
    flag = torch.tensor([float(wish)], device=accelerator.device)
    return bool(accelerator.reduce(flag, reduction="sum").item() > 0)


class _Average:
    """Exponential moving average of the weights; does nothing when the decay is 0."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = torch.zeros((), dtype=torch.int64)
        self.weights = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad} if decay else {}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        if self.decay:
            self.steps += 1
            decay = min(self.decay, (1 + float(self.steps)) / (10 + float(self.steps)))
            for name, weight in model.named_parameters():
                if name in self.weights:
                    self.weights[name].lerp_(weight.to(self.weights[name].device), 1 - decay)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        for name, weight in model.named_parameters():
            if name in self.weights:
                weight.copy_(self.weights[name])

    def tensors(self) -> dict[str, Tensor]:
        return {f"average.{n}": w for n, w in self.weights.items()} | ({"average_steps": self.steps} if self.decay else {})

    def load(self, tensors: dict[str, Tensor]) -> None:
        if self.decay:
            self.steps = tensors["average_steps"].clone()
            for name, weight in take(tensors, "average").items():
                self.weights[name].copy_(weight)


class _MetricsLog:
    """metrics.jsonl, one object per logged step, and TensorBoard if asked. Lines past a resumed step are dropped."""

    def __init__(self, folder: Path, start: int, tensorboard: bool) -> None:
        self.path = folder / "metrics.jsonl"
        if self.path.exists():
            kept = [line for line in self.path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= start]
            self.path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self.writer = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise BadInput("run.tensorboard needs the package: pip install 'anyorder[tensorboard]'") from error
            self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)

    def write(self, numbers: dict[str, float]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(numbers) + "\n")
        if self.writer is not None:
            for name, value in numbers.items():
                self.writer.add_scalar(name, value, int(numbers["step"]))


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a half-written line


@contextmanager
def _stop_on_interrupt() -> Iterator[threading.Event]:
    """An event that Ctrl-C (or SIGTERM) sets, so that the step in progress ends before the run does."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
