"""What a reproduction target is, and the pieces of its tables."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from anyorder.evaluation.statistics import Interval, crossed_interval, crossed_share, sign_flip, wilson
from anyorder.reproduce.study import Decoding, Setting, Study

TASK_NAMES = {"sudoku": "Sudoku", "sat": "3-SAT", "sorting": "sorting", "tsp": "traveling salesman"}

Solved = dict[Decoding, dict[str, np.ndarray]]


@dataclass(frozen=True)
class Outcome:
    """A finished target: Markdown, plain values, and what to plot, in percent: lines, panel -> label -> (x, y, low, high), or
    bars, panel -> group -> label -> (y, low, high)."""

    title: str
    markdown: str
    values: Mapping[str, object]
    lines: dict[str, dict[str, list[tuple[float, float, float, float]]]] = field(default_factory=dict)
    x_label: str = ""
    y_label: str = "instance accuracy, %"
    log_x: bool = False
    bars: dict[str, dict[str, dict[str, tuple[float, float, float]]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """A table or figure: the tasks it is about, what it needs, and how it is laid out.

    study: the class that trains and decodes. Puzzles are solved or not; a target with other scores has its own study.
    about: makes the text above the table (settings, seeds, scale), if it differs from that of puzzles.
    minutes: at small scale with three seeds on two cores, from an empty folder; None if it was not measured.
    """

    tasks: tuple[str, ...]
    needs: Callable[[list[Setting], list[int]], list[Decoding]]
    layout: Callable[[list[Setting], list[int], Solved, Path], Outcome]
    study: type[Study] = Study
    about: Callable[[list[Setting], list[int], str], str] | None = None
    minutes: int | None = None


class Cells:
    """Outcomes looked up in what was decoded."""

    def __init__(self, solved: Solved, seeds: list[int]) -> None:
        self.solved = solved
        self.seeds = seeds

    def of(
        self,
        setting: Setting,
        model: str,
        order: str,
        noise: float = 0.0,
        steps: int | None = None,
        anneal: bool = False,
        diversity: float | None = None,
    ) -> np.ndarray:
        """What was kept, (seeds, N) or (seeds, K, N); one row for a model without seeds."""
        models = [model.format(seed=s) for s in self.seeds] if "{seed}" in model else [model]
        wanted = (setting.name, setting.steps if steps is None else steps, noise, anneal, diversity)
        return np.stack(
            [
                next(
                    found[order]
                    for d, found in self.solved.items()
                    if (d.setting.name, d.steps, d.noise, d.anneal, d.diversity) == wanted
                    and d.model == name
                    and order in found
                )
                for name in models
            ]
        )


def percent(solved: np.ndarray) -> str:
    """Mean of (seeds, N), with the 95 % interval over seeds and puzzles, and the sd over seeds where there are several."""
    low, high = interval(solved)
    spread = f", sd {100 * solved.mean(axis=1).std(ddof=1):.1f}" if len(solved) > 1 else ""
    return f"{100 * solved.mean():.1f} ({100 * low:.1f}-{100 * high:.1f}{spread})"


def interval(solved: np.ndarray) -> Interval:
    """95 % interval of the mean of (seeds, N): Wilson's over the N puzzles for one seed, else what covers both that one and the
    bootstrap over seeds and puzzles.

    The same puzzles under several seeds are not more puzzles: Wilson's interval has N trials, however many seeds there are.
    """
    puzzles = solved.shape[1]
    over_puzzles = wilson(float(solved.mean()) * puzzles, puzzles)
    if len(solved) == 1:
        return over_puzzles
    both = crossed_share(solved)
    return Interval(min(over_puzzles.low, both.low), max(over_puzzles.high, both.high))


def difference(a: np.ndarray, b: np.ndarray, by_seed: bool = True) -> str:
    """Paired difference of two (seeds, N): mean, 95 % interval over seeds and puzzles, that of each seed if asked for, and a
    sign-flip test over the puzzles for these seeds. One row stands for every seed of the other."""
    b = np.broadcast_to(b, a.shape) if len(b) == 1 else b
    gaps = a.astype(float) - b.astype(float)
    low, high = crossed_interval(gaps)
    seeds = (
        "" if len(gaps) == 1 or not by_seed else "by seed " + " ".join(f"{100 * gap:+.1f}" for gap in gaps.mean(axis=1)) + "; "
    )
    return f"{100 * gaps.mean():+.1f} ({100 * low:+.1f} to {100 * high:+.1f}; {seeds}p = {sign_flip(gaps.mean(axis=0)):.2g})"


def points(steps: Sequence[float], solved: list[np.ndarray]) -> list[tuple[float, float, float, float]]:
    """(steps or passes, percent, low, high) of each budget, for a plot."""
    bounds = [interval(s) for s in solved]
    return [
        (float(t), 100 * float(s.mean()), 100 * low, 100 * high)
        for t, s, (low, high) in zip(steps, solved, bounds, strict=True)
    ]
