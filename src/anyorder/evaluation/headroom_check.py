"""Is learning an order worth it for this model and these problems?"""

from dataclasses import dataclass

from anyorder.denoisers.base import Denoiser
from anyorder.errors import BadInput
from anyorder.evaluation.batches import Progress
from anyorder.evaluation.calibration import Calibration, path_calibration
from anyorder.evaluation.comparison import evaluate
from anyorder.evaluation.results import Report
from anyorder.evaluation.samplers import Samplers
from anyorder.registry import ORDERS
from anyorder.tasks.base import Instances, Task

_CALIBRATED = 0.02
"""Largest expected calibration error that counts as calibrated."""


@dataclass(frozen=True)
class Headroom:
    """Orders that need no training and the oracles on the same problems, and how reliable confidence is."""

    report: Report
    every_prediction: Calibration
    most_confident: Calibration


def headroom(
    denoiser: Denoiser,
    task: Task,
    instances: Instances,
    steps: int,
    *,
    samplers: Samplers | None = None,
    seed: int = 0,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> Headroom:
    """Measure how far the best order without training is from the oracle, and calibration along the confidence path.

    Args:
        denoiser, task, instances, seed, batch_size, progress: as in `evaluate`.
        steps: budget of forward passes.
        samplers: what is compared; by default every baseline that takes no arguments, and every oracle.

    Raises:
        BadInput: no solutions are known, or task and denoiser disagree.
    """
    if instances.x0 is None:
        raise BadInput("headroom needs problems whose solutions are known: give a file of complete ones with --data")
    baselines = [name for name in ORDERS.names(baseline=True) if not ORDERS.entry(name).arguments]
    compared = [*baselines, *ORDERS.names(oracle=True)] if samplers is None else samplers
    report = evaluate(denoiser, task, instances, compared, steps, seed=seed, batch_size=batch_size, progress=progress)
    every, first = path_calibration(denoiser, instances, steps)
    return Headroom(report, every, first)


def recommendation(found: Headroom) -> str:
    """Say what the numbers mean, in two sentences, by the metric that matters for these problems."""
    metric = found.report.main_metric
    value = {r.order: r.main(metric)[0] for r in found.report.results}
    kinds = {r.order: r.kind for r in found.report.results}
    heuristics = [label for label, kind in kinds.items() if kind == "heuristic"]
    oracles = [label for label, kind in kinds.items() if kind == "oracle"]
    if not heuristics or not oracles:
        raise BadInput("headroom compares heuristics with oracles: give at least one of each")
    best = max(heuristics, key=lambda name: value[name])
    room = max(value[name] for name in oracles) - value[best]
    first = (
        f"The best heuristic is {best} with {100 * value[best]:.1f} %; the oracle is {100 * room:.1f} points better."
        if room > 0
        else f"There is no headroom: the best heuristic, {best}, is as good as the oracle."
    )
    over = found.every_prediction.overconfidence
    if found.every_prediction.error < _CALIBRATED:
        second = "Confidence is calibrated on its own path: expect little from a learned order, and more from remasking."
    else:
        sense = "overconfident" if over > 0 else "underconfident"
        second = f"The denoiser is {sense} on its own path (by {100 * abs(over):.1f} points): an order can learn where."
    return f"{first} {second}"
