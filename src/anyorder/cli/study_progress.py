"""What `anyorder reproduce` shows while it trains and decodes, and its answer to Ctrl-C, SIGTERM and SIGHUP."""

import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from anyorder.training.interrupts import heard_signals

_DONE = re.compile(r"^(.*) \((\d+) of (\d+) decodings done\)$")
"""How `Study.decode_all` reports what is done."""


class StudyProgress:
    """One live line with what was done last, the time spent and the time left; without a terminal, a line per report.

    The time left is estimated from the decodings that were done since the first report, so that results kept from an earlier
    run do not count as fast ones.

    Args:
        name: of the target.
        console: where the line goes.
    """

    def __init__(self, name: str, console: Console) -> None:
        self.name, self.console = name, console
        self.began = time.monotonic()
        self.first: tuple[float, int] | None = None
        self.bar = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"), console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self.task = self.bar.add_task(f"{name}: starting", total=None, left="")

    def __enter__(self) -> "StudyProgress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, line: str) -> None:
        """Show a line of `Study.decode_all`."""
        found = _DONE.match(line)
        changes: dict[str, Any] = {"description": f"{self.name}: {found[1] if found else line}"}
        left = ""
        if found:
            done, total = int(found[2]), int(found[3])
            left = self._left(done, total)
            changes |= {"completed": done, "total": total, "left": left}
        self.bar.update(self.task, **changes)
        if not self.console.is_terminal:
            minutes = (time.monotonic() - self.began) / 60
            times = f"{minutes:.1f} min" + (f", {left}" if left else "")
            self.console.print(f"{self.name}: {line}; {times}", highlight=False, markup=False, soft_wrap=True)

    def _left(self, done: int, total: int) -> str:
        """The time left in words; nothing until the speed is known."""
        now = time.monotonic()
        if done == total:
            return ""
        if self.first is None:
            self.first = (now, done)
            return ""
        speed = (done - self.first[1]) / max(now - self.first[0], 1e-9)
        return f"about {max(1, round((total - done) / speed / 60))} min left" if speed else ""


@contextmanager
def answering_interrupts() -> Iterator[None]:
    """Answer the first Ctrl-C, SIGTERM or SIGHUP at once, while the models in training write their checkpoints, and exit with
    code 130.

    A model that is trained in this process, not by a worker, answers by itself after the step in progress.
    """

    def answer(number: int, frame: FrameType | None) -> None:
        restore()
        with suppress(OSError):  # the terminal may be gone
            print("stopping; models in training write their checkpoints first", file=sys.stderr, flush=True)
        before = signal.getsignal(number)
        if number == signal.SIGINT and callable(before):
            before(number, frame)
        raise KeyboardInterrupt

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    previous = {number: signal.signal(number, answer) for number in heard_signals()}
    try:
        yield
    except KeyboardInterrupt:
        with suppress(OSError):
            print("stopped; run the same command to resume", file=sys.stderr)
        raise typer.Exit(130) from None
    finally:
        restore()
