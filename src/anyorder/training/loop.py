"""The one training loop: data -> loss -> step, for denoisers and policies alike, on one process or many.

A run lives in a folder: `recipe.json`, `metrics.jsonl`, `checkpoints/`, and at the end what the job saves. It can be
killed at any moment; started again on the same folder it goes on from the last checkpoint and ends with the same weights,
bit for bit. For that, everything random in step n is drawn from (seed, n) alone.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from rich.console import Console
from torch import Tensor, nn

from anyorder.errors import AnyorderError, BadCheckpoint, BadInput, first_line
from anyorder.files import locked, parse_json, read_json, write_json, write_text
from anyorder.processes import Shard
from anyorder.training.checkpoint import (
    Checkpoint,
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
from anyorder.training.sharding import average_gradients, clip_gradients, cut_like, make_whole, whole


class Job(Protocol):
    """What is trained."""

    model: nn.Module
    rate_scales: dict[str, float]  # learning rate of the weights whose names begin so, over the common one
    cycle: int  # steps that belong together: a run stops, and is checkpointed, only between cycles
    kept_whole: list[nn.Module] | None  # parts whose weights FSDP must not cut over processes; None where it may cut nothing

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
        BadInput: the folder holds a run of another recipe, or another process is at work in it; the batch does not divide
            among the processes; the weights would be cut over them, which this job or optimiser cannot do.
        BadCheckpoint: checkpoints exist and none can be read.
        AnyorderError: a file cannot be written; the last checkpoint stays as it is.
    """
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())  # else several CPU processes do not find one another
    shard = Shard(accelerator.process_index, accelerator.num_processes)
    if run.batch_size % shard.count:
        raise BadInput(f"batch_size {run.batch_size} does not divide among {shard.count} processes")
    kind = accelerator.distributed_type
    if kind in ("DEEPSPEED", "MEGATRON_LM", "XLA") or (kind == "FSDP" and not accelerator.is_fsdp2):
        raise BadInput(f"{kind} as it is set up here is not supported: use several plain processes, or FSDP with version 2")
    if kind == "FSDP" and accelerator.mixed_precision == "fp16":
        raise BadInput("FSDP with fp16 is not supported: use bf16 or no mixed precision")
    if kind == "FSDP" and (job.kept_whole is None or optimizer_settings.name != "adamw"):
        raise BadInput("FSDP cuts the weights of a trained denoiser, under AdamW: train without it, or optimizer.name = adamw")
    with ExitStack() as held:
        if complaint := shard.gather(_claim_folder(folder, recipe, held) if shard.index == 0 else None)[0]:
            raise complaint
        at_work = _Run(job, run, optimizer_settings, folder, seed, accelerator, shard)
        return _train(at_work, console)


class _Run:
    """A job under way on this process: model and optimisers on their device, where the folder's last checkpoint left them."""

    def __init__(
        self,
        job: Job,
        settings: RunSettings,
        optimizer_settings: OptimizerSettings,
        folder: Path,
        seed: int,
        accelerator: Accelerator,
        shard: Shard,
    ) -> None:
        self.job, self.settings, self.optimizer_settings = job, settings, optimizer_settings
        self.folder, self.seed, self.accelerator, self.shard = folder, seed, accelerator, shard
        self.main, self.cut = accelerator.is_main_process, accelerator.distributed_type == "FSDP"
        checkpoint, problems = load_latest(folder / "checkpoints")
        if len(set(shard.gather(checkpoint.step if checkpoint else 0))) > 1:
            raise BadInput(f"the processes do not see the same checkpoints in {folder}: it must be a folder that all share")
        with _restoring(folder, checkpoint):
            if checkpoint is not None:  # before anything is cut over processes
                job.model.load_state_dict(take(checkpoint.tensors, "model"))
        self._place()
        self.average = _Average(job.model, optimizer_settings.ema)
        self.step, self._seconds_before = 0, 0.0
        with _restoring(folder, checkpoint):
            if checkpoint is not None:
                load_optimizer_tensors(self.optimizers, checkpoint.tensors)
                self.average.load(checkpoint.tensors)
                state = {n.removeprefix("job."): t for n, t in checkpoint.tensors.items() if n.startswith("job.")}
                job.load_state(state, shard)
                self.step, self._seconds_before = checkpoint.step, float(checkpoint.values["seconds"])
        for problem in problems:
            accelerator.print(f"warning: {problem}; going on from step {self.step}")
        self._began = self._saved_at = time.monotonic()
        self._saved_step = self.step

    def _place(self) -> None:
        """Model and optimisers to the device; under FSDP, cut over the processes."""
        optimizers = make_optimizers(self.job.model, self.optimizer_settings, self.job.rate_scales)
        self.job.to(self.accelerator.device)
        if self.cut:
            self.accelerator.state.fsdp_plugin.ignored_modules = self.job.kept_whole
            self.model, *self.optimizers = self.accelerator.prepare(self.job.model, *optimizers)
        else:  # "evaluation" is without DistributedDataParallel: see `average_gradients`
            self.model = self.accelerator.prepare_model(self.job.model, evaluation_mode=True)
            self.optimizers = [self.accelerator.prepare_optimizer(optimizer) for optimizer in optimizers]

    @property
    def seconds(self) -> float:
        """Spent on the run so far, with what went before an interruption."""
        return self._seconds_before + time.monotonic() - self._began

    def take_step(self) -> tuple[Tensor, dict[str, float], dict[str, float]]:
        """Loss, gradients of all processes, optimisers: the loss, the job's numbers, and those of the step."""
        job, settings = self.job, self.optimizer_settings
        torch.manual_seed((self.seed * 1_000_003 + self.step) * 64 + self.shard.index)  # dropout
        rate = learning_rate(self.step, self.settings.steps, settings)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
                if self.cut:  # one list would hold weights that are cut and weights that are not
                    group["foreach"] = False
            optimizer.zero_grad()
        loss, numbers = job.loss(self.model, self.step, self.shard)
        self.accelerator.backward(loss)
        average_gradients(job.model, self.shard)
        if self.cut:
            norm = clip_gradients(job.model, settings.clip_norm)
        else:
            norm = self.accelerator.clip_grad_norm_(self.model.parameters(), settings.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        self.average.update(job.model)
        self.step += 1
        return loss, numbers, {"lr": rate, "gradient_norm": float(norm)}

    def must_stop(self, told: bool) -> bool:
        """Whether any process is told to stop, between two cycles of the job."""
        return _anyone(self.accelerator, told and self.step % self.job.cycle == 0)

    def save_if_due(self) -> None:
        """A checkpoint after so many minutes or steps, between two cycles of the job."""
        every = self.settings.checkpoint_steps
        if every is None:
            due = time.monotonic() - self._saved_at > 60 * self.settings.checkpoint_minutes
        else:
            due = self.step // every > self._saved_step // every
        between = self.step % self.job.cycle == 0 and self.step < self.settings.steps
        if _anyone(self.accelerator, self.main and between and due):
            self.save()
            self._saved_at, self._saved_step = time.monotonic(), self.step

    def save(self) -> None:
        """A checkpoint of all that the next step depends on."""
        tensors = {f"model.{name}": tensor for name, tensor in self.job.model.state_dict().items()}
        tensors |= optimizer_tensors(self.optimizers) | self.average.tensors()
        kept = {}
        for name, tensor in tensors.items():
            full = whole(tensor)  # all processes at once; one keeps it
            if self.main:
                kept[name] = full.cpu()
        kept |= {f"job.{name}": self.accelerator.gather(tensor) for name, tensor in self.job.state().items()}
        if self.main:
            save_checkpoint(self.folder / "checkpoints", self.step, kept, {"seconds": self.seconds}, self.settings.keep)
        self.accelerator.wait_for_everyone()

    def finish(self) -> None:
        """Write what was trained, with the averaged weights."""
        self.average.copy_to(self.job.model)
        make_whole(self.job.model, keep=self.main)
        if self.main:
            self.job.save(self.folder)


def _train(at_work: _Run, console: Console | None) -> TrainingResult:
    """`train` in a folder that is this run's alone."""
    settings, shard, start = at_work.settings, at_work.shard, at_work.step
    log = _MetricsLog(at_work.folder, start, settings.tensorboard) if at_work.main else None
    with _stop_on_interrupt() as stop, TrainingProgress(settings.steps, start, console, enabled=at_work.main) as progress:
        at_work.model.train()
        leader = os.getppid()  # of several processes: the launcher, which may be gone without a word
        while at_work.step < settings.steps:
            if at_work.must_stop(stop.is_set() or (shard.count > 1 and os.getppid() != leader)):
                break
            loss, numbers, of_step = at_work.take_step()
            progress.update(at_work.step, loss)
            last = at_work.step == settings.steps
            if at_work.step % settings.log_steps == 0 or last or "decoded_accuracy" in numbers:
                numbers = _mean(shard.gather({"loss": loss.item(), **numbers}))
                if log is not None:
                    log.write({"step": at_work.step, "loss": numbers.pop("loss"), **of_step, **numbers})
            at_work.save_if_due()
    if log is not None and log.writer is not None:
        log.writer.close()
    at_work.save()
    seconds, finished = at_work.seconds, at_work.step >= settings.steps
    if finished:
        at_work.finish()
    at_work.accelerator.wait_for_everyone()
    return TrainingResult(at_work.step, seconds, finished)


def _claim_folder(folder: Path, recipe: dict[str, Any], held: ExitStack) -> AnyorderError | None:
    """Take a folder for this run until `held` is closed; what speaks against it, if anything does."""
    try:
        held.enter_context(locked(folder))
        _check_folder(folder, recipe)
    except AnyorderError as error:
        return error
    return None


def _check_folder(folder: Path, recipe: dict[str, Any]) -> None:
    """Write the recipe into a new folder; refuse a folder that holds a run of another one."""
    path = folder / "recipe.json"
    if list_checkpoints(folder / "checkpoints"):
        try:
            existing = read_json(path)
        except (OSError, BadInput) as error:
            raise BadInput(f"{folder} has checkpoints but no readable recipe.json: choose another folder") from error
        changed = sorted(_differences(existing, recipe))
        if changed:
            raise BadInput(f"{folder} holds a run with other settings ({', '.join(changed)}): choose another folder")
    for half in (folder / "checkpoints").glob(".step-*"):  # what a kill left of a write
        half.unlink(missing_ok=True)
    write_json(path, recipe)


def _differences(a: Any, b: Any, where: str = "") -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in a.keys() | b.keys():
            yield from _differences(a.get(key), b.get(key), f"{where}.{key}".lstrip("."))
    elif a != b:
        yield where


@contextmanager
def _restoring(folder: Path, checkpoint: Checkpoint | None) -> Iterator[None]:
    """Whatever a checkpoint holds that does not fit is the checkpoint's fault."""
    try:
        yield
    except (torch.OutOfMemoryError, torch.distributed.DistError):
        raise
    except (RuntimeError, KeyError, ValueError, TypeError, IndexError) as error:
        if checkpoint is None:
            raise
        fault = (
            f"the checkpoint of step {checkpoint.step} in {folder / 'checkpoints'} does not fit this run ({first_line(error)})"
        )
        raise BadCheckpoint(f"{fault}: delete it to go on from the one before") from error


def _mean(parts: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each number over the processes that have it."""
    names = dict.fromkeys(name for part in parts for name in part)
    have = {name: [part[name] for part in parts if name in part] for name in names}
    return {name: sum(values) / len(values) for name, values in have.items()}


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
                self.weights[name].copy_(cut_like(weight, self.weights[name]))


class _MetricsLog:
    """metrics.jsonl, one object per logged step, and TensorBoard if asked. Lines past a resumed step are dropped."""

    def __init__(self, folder: Path, start: int, tensorboard: bool) -> None:
        self.path = folder / "metrics.jsonl"
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
            write_text(self.path, "".join(line + "\n" for line in lines if _step_of(line) <= start))
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
        return float(parse_json(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError):
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
