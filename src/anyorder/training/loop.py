"""The one training loop: data -> loss -> step, for denoisers and policies alike, on one process or many.

A run has a folder: `recipe.json`, `metrics.jsonl`, `checkpoints/`, and at the end what the job saves. It can be killed at any
moment; started again on the same folder it continues from the last checkpoint and ends with the same weights, bit for bit. For
that, everything random in step n is drawn from (seed, n) alone. A run that is finished can be extended: started again with a
larger `run.steps`, it continues from its last checkpoint. A run stops at the first loss, gradient or weight that is not finite;
nothing that is not finite is saved.
"""

import math
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from rich.console import Console
from torch import Tensor, nn

from anyorder.errors import BadInput, Diverged, NotFinite, first_line
from anyorder.processes import Shard
from anyorder.training.average import Average
from anyorder.training.checkpoint import load_latest, load_optimizer_tensors, optimizer_tensors, save_checkpoint, take
from anyorder.training.divergence import diverged
from anyorder.training.interrupts import stop_on_interrupt
from anyorder.training.metrics import MetricsLog, mean_over
from anyorder.training.optimizer import learning_rate, make_optimizers
from anyorder.training.progress import TrainingProgress
from anyorder.training.run_folder import claim_folder, restoring
from anyorder.training.settings import OptimizerSettings, RunSettings
from anyorder.training.sharding import average_gradients, clip_gradients, unshard, unshard_weights
from anyorder.weights import first_not_finite


class Job(Protocol):
    """Something that the loop trains.

    Attributes:
        model: the module whose weights are trained.
        rate_scales: factors of the learning rate for the weights whose names start with these prefixes.
        cycle: steps that belong together. A run stops, and is checkpointed, only between cycles.
        unsharded: parts whose weights FSDP must not shard over the processes; None if it may shard nothing.
        autocast: makes the context in which a job calls its networks other than by `model`; set by the loop.
    """

    model: nn.Module
    rate_scales: dict[str, float]
    cycle: int
    unsharded: list[nn.Module] | None
    autocast: Callable[[], AbstractContextManager[Any]]

    def to(self, device: torch.device) -> None:
        """Move everything that is not `model` (a frozen denoiser, data) to the device."""

    def loss(self, model: nn.Module, step: int, shard: Shard) -> tuple[Tensor, dict[str, float]]:
        """The loss of this process's part of batch `step`, and numbers to log. A pure function of weights, state and step."""

    def state(self) -> dict[str, Tensor]:
        """Tensors besides the weights that the next step depends on, one row per row of this process's part of the batch."""

    def load_state(self, tensors: dict[str, Tensor], shard: Shard) -> None:
        """Restore this process's rows of the state of all processes."""

    def save(self, folder: Path) -> None:
        """Write the finished model."""


@dataclass(frozen=True)
class TrainingResult:
    """The outcome of a run.

    Args:
        step: number of steps done.
        seconds: time spent on the run, before interruptions too.
        finished: False if it was interrupted and can be resumed.
    """

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
    """Train `job` to the end, or until Ctrl-C, SIGTERM or SIGHUP (then a checkpoint is written first).

    Args:
        job: the job to train.
        run, optimizer_settings: sections of the recipe.
        folder: folder of the run.
        seed: seed of dropout.
        recipe: all settings. A run that is resumed must have the same ones, except for `run.steps`.
        console: console of the progress bar.

    Raises:
        BadInput: the folder holds a run of another recipe or in another precision, or another process works in it; the batch is
            not divisible by the number of processes; the weights would be sharded over them, which this job or optimizer does
            not support.
        BadCheckpoint: checkpoints exist and none can be read.
        Diverged: a loss, gradient or weight is not finite; the last checkpoint stays as it is.
        AnyorderError: a file cannot be written; likewise.
    """
    accelerator = _accelerator(run.mixed_precision)
    shard = Shard(accelerator.process_index, accelerator.num_processes)
    if run.batch_size % shard.count:
        raise BadInput(f"batch_size {run.batch_size} is not divisible by {shard.count} processes")
    kind = accelerator.distributed_type
    if kind in ("DEEPSPEED", "MEGATRON_LM", "XLA") or (kind == "FSDP" and not accelerator.is_fsdp2):
        raise BadInput(f"{kind} as it is set up here is not supported: use several plain processes, or FSDP with version 2")
    if kind == "FSDP" and accelerator.mixed_precision == "fp16":
        raise BadInput("FSDP with fp16 is not supported: use bf16 or no mixed precision")
    if kind == "FSDP" and (job.unsharded is None or optimizer_settings.name != "adamw"):
        raise BadInput(
            "FSDP shards the weights of a trained denoiser, with AdamW: train without FSDP, or set optimizer.name = adamw"
        )
    with ExitStack() as held:
        if run.mixed_precision is not None:  # of this run alone, not of later ones in this process
            held.callback(AcceleratorState._reset_state)
        if problem := shard.gather(claim_folder(folder, recipe, job.cycle, held) if shard.index == 0 else None)[0]:
            raise problem
        return _train(_Run(job, run, optimizer_settings, folder, seed, accelerator, shard), console)


def _accelerator(mixed_precision: str | None) -> Accelerator:
    """The accelerator of this process.

    Raises:
        BadInput: this device does not compute in that precision.
    """
    if mixed_precision is not None:
        AcceleratorState._reset_state()  # which keeps the precision of earlier ones in this process
    on_cpu = not torch.accelerator.is_available()  # else several CPU processes do not find one another
    try:
        made = Accelerator(cpu=on_cpu, mixed_precision=mixed_precision)
    except ValueError as error:
        raise BadInput(f"run.mixed_precision = {mixed_precision}: {first_line(error)}") from error
    made.gradient_accumulation_steps = 1  # whatever the environment says: a step is one batch
    return made


class _Run:
    """A job in progress on this process: model and optimizers on their device, restored from the folder's last checkpoint."""

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
        self.main, self.sharded = accelerator.is_main_process, accelerator.distributed_type == "FSDP"
        checkpoint, problems = load_latest(folder / "checkpoints")
        if len(set(shard.gather(checkpoint.step if checkpoint else 0))) > 1:
            raise BadInput(f"the processes do not see the same checkpoints in {folder}: it must be a folder that all share")
        with restoring(folder, checkpoint):
            if checkpoint is not None:  # before anything is sharded
                job.model.load_state_dict(take(checkpoint.tensors, "model"))
        self._place()
        self.average = Average(job.model, optimizer_settings.ema)
        self.step, self._seconds_before = 0, 0.0
        with restoring(folder, checkpoint):
            if checkpoint is not None:
                load_optimizer_tensors(self.optimizers, checkpoint.tensors)
                self.average.load(checkpoint.tensors)
                state = {n.removeprefix("job."): t for n, t in checkpoint.tensors.items() if n.startswith("job.")}
                job.load_state(state, shard)
                self.step, self._seconds_before = checkpoint.step, float(checkpoint.values["seconds"])
        self.precision = accelerator.mixed_precision
        if checkpoint is not None:
            self._restore_precision(checkpoint.values)
        for problem in problems:
            accelerator.print(f"warning: {problem}; resuming from step {self.step}")
        self._began = self._saved_at = time.monotonic()
        self._saved_step = self.step

    def _restore_precision(self, values: dict[str, Any]) -> None:
        """The scale of fp16's gradients. Raises BadInput if further steps would be in another precision (of the launcher)."""
        was = values.get("mixed_precision", self.precision)
        if was != self.precision and self.step < self.settings.steps:
            raise BadInput(
                f"this run was computed with mixed precision {was}, and would go on with {self.precision}: start it as before, "
                f"by accelerate launch --mixed_precision {was} or run.mixed_precision"
            )
        self.precision = was
        if self.accelerator.scaler is not None and values.get("scaler"):
            self.accelerator.scaler.load_state_dict(values["scaler"])

    def _place(self) -> None:
        """Move model and optimizers to the device; under FSDP, shard them over the processes."""
        optimizers = make_optimizers(self.job.model, self.optimizer_settings, self.job.rate_scales)
        self.job.to(self.accelerator.device)
        self.job.autocast = self.accelerator.autocast
        if self.sharded:
            self.accelerator.state.fsdp_plugin.ignored_modules = self.job.unsharded
            self.model, *self.optimizers = self.accelerator.prepare(self.job.model, *optimizers)
        else:  # "evaluation" is without DistributedDataParallel: see `average_gradients`
            self.model = self.accelerator.prepare_model(self.job.model, evaluation_mode=True)
            self.optimizers = [self.accelerator.prepare_optimizer(optimizer) for optimizer in optimizers]

    @property
    def seconds(self) -> float:
        """Spent on the run so far, before interruptions too."""
        return self._seconds_before + time.monotonic() - self._began

    def take_step(self) -> tuple[Tensor, dict[str, float], dict[str, float]]:
        """Compute loss and gradients, and update the weights.

        Returns:
            The loss, the job's numbers, and those of the step.
        """
        job, settings = self.job, self.optimizer_settings
        torch.manual_seed((self.seed * 1_000_003 + self.step) * 64 + self.shard.index)  # dropout
        rate = learning_rate(self.step, self.settings.steps, settings)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
                if self.sharded:  # one list would hold sharded and unsharded weights
                    group["foreach"] = False
            optimizer.zero_grad()
        loss, numbers = self._loss()
        self.accelerator.backward(loss)
        average_gradients(job.model, self.shard)
        if self.sharded:
            norm = clip_gradients(job.model, settings.clip_norm)
        else:
            norm = self.accelerator.clip_grad_norm_(self.model.parameters(), settings.clip_norm)
        norm = float(norm)
        self._check_finite(loss, norm)
        for optimizer in self.optimizers:
            optimizer.step()
        self.average.update(job.model)
        self.step += 1
        return loss, numbers, {"lr": rate, "gradient_norm": norm}

    def _loss(self) -> tuple[Tensor, dict[str, float]]:
        """The loss of this step, and the job's numbers."""
        try:
            return self.job.loss(self.model, self.step, self.shard)
        except NotFinite as error:
            if self.step == 0:  # nothing has been trained yet
                raise
            raise self._diverged(str(error), self.step + 1) from error

    def _check_finite(self, loss: Tensor, norm: float) -> None:
        """Raise Diverged if the loss of any process, or the norm of the gradient, is not finite."""
        scaler = self.accelerator.scaler
        left_out = scaler is not None and scaler.get_scale() > 1  # fp16: a step whose scaled gradient overflows is left out
        value = loss.item()
        if _anyone(self.accelerator, not math.isfinite(value) or not (left_out or math.isfinite(norm))):
            raise self._diverged(f"the loss is {value:g}, and the norm of its gradient {norm:g}", self.step + 1)

    def _diverged(self, found: str, step: int) -> Diverged:
        return diverged(found, step, self.optimizer_settings, self.folder)

    def must_stop(self, told: bool) -> bool:
        """Whether any process was told to stop, between two cycles of the job."""
        return _anyone(self.accelerator, told and self.step % self.job.cycle == 0)

    def save_if_due(self) -> None:
        """Write a checkpoint after so many minutes or steps, between two cycles of the job."""
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
        """Write a checkpoint of everything that the next step depends on.

        Raises:
            Diverged: a weight is not finite.
        """
        tensors = {f"model.{name}": tensor for name, tensor in self.job.model.state_dict().items()}
        tensors |= optimizer_tensors(self.optimizers) | self.average.tensors()
        kept = {}
        for name, tensor in tensors.items():
            full = unshard(tensor)  # all processes at once; one keeps it
            if self.main:
                kept[name] = full.cpu()
        buffers = {f"model.{name}" for name, _ in self.job.model.named_buffers()}  # may hold a bias of -inf
        if bad := self.shard.gather(first_not_finite({n: t for n, t in kept.items() if n not in buffers}))[0]:
            raise self._diverged(f"{bad} is not finite after the update", self.step)
        kept |= {f"job.{name}": self.accelerator.gather(tensor) for name, tensor in self.job.state().items()}
        if self.main:
            values = {"seconds": self.seconds, "mixed_precision": self.precision}
            values |= {} if self.accelerator.scaler is None else {"scaler": self.accelerator.scaler.state_dict()}
            save_checkpoint(self.folder / "checkpoints", self.step, kept, values, self.settings.keep)
        self.accelerator.wait_for_everyone()

    def finish(self) -> None:
        """Write what was trained, with the averaged weights."""
        self.average.copy_to(self.job.model)
        unshard_weights(self.job.model, keep=self.main)
        if self.main:
            self.job.save(self.folder)


def _train(at_work: _Run, console: Console | None) -> TrainingResult:
    """Take all steps that remain, and save."""
    settings, shard, start = at_work.settings, at_work.shard, at_work.step
    log = MetricsLog(at_work.folder, start, settings.tensorboard) if at_work.main else None
    with (
        nullcontext() if log is None else closing(log),
        stop_on_interrupt() as stop,
        TrainingProgress(settings.steps, start, console, enabled=at_work.main) as progress,
    ):
        at_work.model.train()
        leader = os.getppid()  # of several processes: the launcher, which may end silently
        while at_work.step < settings.steps:
            if at_work.must_stop(stop.is_set() or (shard.count > 1 and os.getppid() != leader)):
                break
            loss, numbers, of_step = at_work.take_step()
            progress.update(at_work.step, loss)
            last = at_work.step == settings.steps
            if at_work.step % settings.log_steps == 0 or last or "decoded_accuracy" in numbers:
                numbers = mean_over(shard.gather({"loss": loss.item(), **numbers}))
                if log is not None:
                    log.write({"step": at_work.step, "loss": numbers.pop("loss"), **of_step, **numbers})
            at_work.save_if_due()
        at_work.save()
        seconds, finished = at_work.seconds, at_work.step >= settings.steps
        if finished:
            at_work.finish()
    at_work.accelerator.wait_for_everyone()
    return TrainingResult(at_work.step, seconds, finished)


def _anyone(accelerator: Accelerator, condition: bool) -> bool:
    """Whether the condition holds on any process. All get the same answer, so that none waits for another forever."""
    if accelerator.num_processes == 1:
        return condition
    flag = torch.tensor([float(condition)], device=accelerator.device)
    return bool(accelerator.reduce(flag, reduction="sum").item() > 0)
