"""The progress bar of training: loss, speed, time left. Without a terminal it prints a line every half minute."""

import time
from contextlib import suppress
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

_LINE_SECONDS = 30.0
_SHOW_SECONDS = 0.5


class TrainingProgress:
    """Context manager; `update` after every step. The loss is copied from the device only when it is shown."""

    def __init__(self, steps: int, start: int, console: Console | None, *, enabled: bool) -> None:
        self.console = console or Console(stderr=True)
        self.enabled = enabled
        self.steps, self.start = steps, start
        self.began = time.monotonic()
        self.shown = 0.0
        self.smooth: float | None = None
        self.bar: Progress | None = None
        if enabled and self.console.is_terminal:
            self.bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self.task = self.bar.add_task("training", total=steps, completed=start, numbers="")

    def __enter__(self) -> "TrainingProgress":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(OSError):
            if self.bar:
                self.bar.stop()

    def update(self, step: int, loss: Tensor) -> None:
        """Show step number `step` (done) with its loss. A terminal or pipe that has gone ends this, not the training."""
        try:
            self._show(step, loss)
        except OSError:
            self.enabled = False

    def _show(self, step: int, loss: Tensor) -> None:
        now = time.monotonic()
        last = step == self.steps
        if not self.enabled or not (last or now - self.shown > (_SHOW_SECONDS if self.bar else _LINE_SECONDS)):
            return
        self.shown = now
        value = float(loss.detach())
        self.smooth = value if self.smooth is None else 0.8 * self.smooth + 0.2 * value
        speed = (step - self.start) / max(now - self.began, 1e-9)
        numbers = f"loss {self.smooth:.4f}, {speed:.1f} steps/s"
        if self.bar:
            self.bar.update(self.task, completed=step, numbers=numbers)
        else:
            left = (self.steps - step) / max(speed, 1e-9)
            self.console.print(f"step {step}/{self.steps}: {numbers}, {left / 60:.1f} min left", highlight=False)
