"""Whether an order is worth learning for this model and these problems."""

import warnings
from dataclasses import dataclass
from pathlib import Path

from anyorder.denoisers.base import Denoiser
from anyorder.errors import BadInput
from anyorder.evaluation.batches import Progress
from anyorder.evaluation.calibration import Calibration, path_calibration
from anyorder.evaluation.comparison import evaluate
from anyorder.evaluation.results import Report, Result
from anyorder.evaluation.samplers import Kind, Samplers
from anyorder.evaluation.statistics import mean_interval
from anyorder.evaluation.tables import markdown, metric_name
from anyorder.registry import ORDERS
from anyorder.signatures import checked
from anyorder.tasks.base import Instances, Task
from anyorder.tasks.sequences import Sequences
from anyorder.zoo.matching import loaded

_CALIBRATED = 0.02
"""Largest expected calibration error that counts as calibrated."""

_SMALL_LEAD = 1.0
"""Points: if the oracle leads by less, an order has nothing to gain that is worth a fit."""


_LITTLE = "No order can gain much here"


@dataclass(frozen=True)
class Headroom:
    """Orders that need no training and the oracles on the same problems, and how reliable confidence is.

    Printed, it is a table and the sentence that says whether an order is worth it.
    """

    report: Report
    every_prediction: Calibration
    most_confident: Calibration

    def __str__(self) -> str:
        return f"{markdown(self.report)}\n\n{recommendation(self)}"


@checked("steps", "seed")
def headroom(
    denoiser: Denoiser | str | Path,
    task: Task | str | None,
    instances: Instances | str | Path,
    steps: int,
    *,
    samplers: Samplers | None = None,
    seed: int = 0,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> Headroom:
    """Measure how far the best order without training is from the oracle, and the calibration along the confidence path.

    Args:
        denoiser, task, instances, seed, batch_size, progress: as in `evaluate`.
        steps: budget of forward passes.
        samplers: the samplers to compare; by default every baseline that takes no arguments, and every oracle.

    Returns:
        A `Headroom`: print it, or read its `report`.

    Raises:
        BadInput: no solutions are known, or task and denoiser do not match.
    """
    denoiser, task, instances = loaded(denoiser, task, instances)
    if isinstance(task, Sequences) and task.hide == 1:
        message = "every symbol is hidden, so there is nothing to infer them from: make the task with hide=0.5, say"
        warnings.warn(message, stacklevel=3)
    if instances.x0 is None:
        raise BadInput("headroom needs problems whose solutions are known: give a file of complete ones with --data")
    baselines = [name for name in ORDERS.names(baseline=True) if not ORDERS.entry(name).arguments]
    compared = [*baselines, *ORDERS.names(oracle=True)] if samplers is None else samplers
    report = evaluate(denoiser, task, instances, compared, steps, seed=seed, batch_size=batch_size, progress=progress)
    every, first = path_calibration(denoiser, instances, steps)
    return Headroom(report, every, first)


def best_of(report: Report, kind: Kind) -> Result:
    """The result of a kind of orders with the largest main metric.

    Raises:
        BadInput: the report has no order of this kind.
    """
    found = [result for result in report.results if result.kind == kind]
    if not found:
        raise BadInput(f"headroom compares heuristics with oracles: this evaluation has no {kind}, give at least one")
    return max(found, key=lambda result: result.main(report.main_metric)[0])


def oracle_lead(report: Report) -> str:
    """Say how far the best oracle is ahead of the best heuristic, with a paired 95 % interval, and whether that is enough for
    an order to gain something.

    Raises:
        BadInput: the report has no heuristic or no oracle.
    """
    metric = report.main_metric
    best, oracle = best_of(report, "heuristic"), best_of(report, "oracle")
    ahead = oracle.outcomes(metric).astype(float) - best.outcomes(metric).astype(float)
    mean, low, high = mean_interval(100 * ahead)
    measure = metric_name(report)
    first = (
        f"The best heuristic is {best.order} with {100 * best.main(metric)[0]:.1f} % {measure}; the oracle's lead is "
        f"{mean:.1f} points ({low:.1f} to {high:.1f})."
    )
    if mean < _SMALL_LEAD:
        return f"{first} {_LITTLE}: the lead is under {_SMALL_LEAD:.0f} point."
    if low <= 0:
        return f"{first} {_LITTLE}, as far as {len(ahead)} problems tell: the interval includes 0."
    return first


def recommendation(found: Headroom) -> str:
    """Say what the numbers mean, by the metric that matters for these problems."""
    first, over = oracle_lead(found.report), found.every_prediction.overconfidence
    if found.every_prediction.error < _CALIBRATED:
        return f"{first} Confidence is calibrated on its own path: expect little from a learned order, and more from remasking."
    sense = "overconfident" if over > 0 else "underconfident"
    hope = "" if _LITTLE in first else ": an order can learn where"
    return f"{first} The denoiser is {sense} on its own path (by {100 * abs(over):.1f} points){hope}."
