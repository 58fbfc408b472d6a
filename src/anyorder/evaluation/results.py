"""The outcome of an evaluation: results, paired comparisons, and the report that holds them."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anyorder.errors import BadInput, counted
from anyorder.evaluation.samplers import Kind, noise_name
from anyorder.evaluation.statistics import mcnemar, oracle_gap_closed, paired_interval, sign_flip
from anyorder.files import write_atomically, write_json
from anyorder.signatures import checked


class Cell(NamedTuple):
    """What the results of one table share: the number of steps, the scale of noise, and whether it is annealed."""

    steps: int
    noise: float
    anneal: bool

    def __str__(self) -> str:
        return counted(self.steps, "step") + (f", order {noise_name(self.noise, self.anneal)}" if self.noise else "")


@dataclass
class Result:
    """A sampler at a number of steps and a scale of noise.

    Args:
        cell_accuracy: None where no solution is known and none can be told from the rules.
        kind: of the order, see `samplers.Kind`.
        cell_ci95: 95 % interval of the cell accuracy, by the normal approximation over instances, within [0, 1].
        nfe: mean number of forward passes of the denoiser; remasked: mean number of remasked tokens.
        exact_match: share of the sequences that equal the stored solution, as others report it; below instance accuracy where
            problems have several solutions. None where no solution is known.
        order_diversity: 1 minus the mean correlation of the commit steps with those of the same order without noise (None
            unless that cell is in the evaluation too): noise of the same scale moves one order more than another.
        by_difficulty: (instances, instance accuracy) for each difficulty label, where the task has them.
        measures: of the set of samples, where the task has them: mean over the samples, and its 95 % interval.
        anneal: whether the noise is lowered from step to step, see `Sampler`.
        own_noise: whether noise and annealing are the sampler's own. Such results share a table, whatever their noise.
    """

    order: str
    kind: Kind
    steps: int
    noise: float
    instances: int
    instance_accuracy: float
    cell_accuracy: float | None
    cell_ci95: tuple[float, float] | None
    exact_match: float | None
    ci95: tuple[float, float]
    nfe: float
    remasked: float
    seconds: float
    order_diversity: float | None
    by_difficulty: dict[str, tuple[int, float]]
    measures: dict[str, tuple[float, float, float]]
    correct: np.ndarray = field(repr=False)
    cells: np.ndarray = field(repr=False)
    anneal: bool = False
    own_noise: bool = False

    @property
    def cell(self) -> Cell:
        """Of the table that it belongs to."""
        return Cell(self.steps, 0.0, False) if self.own_noise else Cell(self.steps, self.noise, self.anneal)

    def main(self, metric: str) -> tuple[float, tuple[float, float]]:
        """Value and 95 % interval of the metric that matters, see `Task.main_metric`."""
        if metric == "cell_accuracy" and self.cell_accuracy is not None and self.cell_ci95 is not None:
            return self.cell_accuracy, self.cell_ci95
        return self.instance_accuracy, self.ci95

    def outcomes(self, metric: str) -> np.ndarray:
        """The values per instance, (N,), of which `main` is the mean."""
        return self.cells if metric == "cell_accuracy" and self.cell_accuracy is not None else self.correct


@dataclass
class Comparison:
    """Two samplers on the same instances: the difference in the main metric with its paired 95 % interval, and a p-value: of
    the exact McNemar test, or of a sign-flip test if the metric is the cell accuracy."""

    order: str
    against: str
    steps: int
    noise: float
    difference: float
    ci95: tuple[float, float]
    p_value: float
    oracle_gap_closed: float | None
    anneal: bool = False

    @property
    def cell(self) -> Cell:
        """Of the table that it belongs to."""
        return Cell(self.steps, self.noise, self.anneal)


@dataclass
class Report:
    """What an evaluation found."""

    results: list[Result]
    comparisons: list[Comparison]
    meta: dict[str, Any]

    @property
    def main_metric(self) -> str:
        """The metric that matters most, see `Task.main_metric`."""
        return str(self.meta.get("main_metric", "instance_correct"))

    def to_json(self) -> dict[str, Any]:
        """Plain values; the per-instance outcomes are left out."""
        results = [{k: v for k, v in asdict(result).items() if k not in ("correct", "cells")} for result in self.results]
        return {"results": results, "comparisons": [asdict(c) for c in self.comparisons], "meta": self.meta}

    @checked("path")
    def save(self, path: str | Path) -> None:
        """Write JSON, or Parquet (the results table alone) when the name ends in .parquet. Atomically."""
        path = Path(path)
        if path.suffix.lower() != ".parquet":
            return write_json(path, self.to_json())
        frame = _pandas().json_normalize(self.to_json()["results"])
        write_atomically(path, lambda temporary: frame.to_parquet(temporary))


def check_report_name(path: Path) -> None:
    """Refuse, before any work is done, a name that no report can be written to."""
    if path.suffix.lower() == ".parquet":
        _pandas()


def _pandas() -> Any:
    try:
        import pandas
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise BadInput("Parquet needs: pip install 'anyorder[parquet]'; or name the file .json") from error
    return pandas


def compare_all(results: list[Result], against: str, metric: str) -> list[Comparison]:
    """Compare each result with that of the sampler `against`, or of the "best" heuristic, at the same steps and noise."""
    return [c for result in results if (c := _compare(result, results, against, metric)) is not None]


def _compare(result: Result, results: list[Result], against: str, metric: str) -> Comparison | None:
    cell = [r for r in results if r.cell == result.cell]
    if against == "best":
        candidates = [r for r in cell if r.kind == "heuristic"]
        if not candidates:
            return None
        base = max(candidates, key=lambda r: r.main(metric)[0])
    else:
        base = next(r for r in cell if r.order == against)
    if base is result:
        return None
    mine, others = result.outcomes(metric), base.outcomes(metric)
    value, reference = result.main(metric)[0], base.main(metric)[0]
    ceilings = [r.main(metric)[0] for r in cell if r.kind == "oracle"]
    closed = oracle_gap_closed(value, reference, max(ceilings)) if ceilings else None
    return Comparison(
        order=result.order,
        against=base.order,
        **result.cell._asdict(),
        difference=value - reference,
        ci95=paired_interval(mine, others),
        p_value=mcnemar(mine, others) if mine.dtype == bool else sign_flip(mine - others),
        oracle_gap_closed=closed,
    )
