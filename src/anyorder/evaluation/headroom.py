"""Is learning an order worth it for this model and these problems?"""

from dataclasses import dataclass

from anyorder.denoisers.base import Denoiser
from anyorder.errors import BadInput
from anyorder.evaluation.calibration import Calibration, path_calibration
from anyorder.evaluation.evaluate import Progress, Report, evaluate
from anyorder.orders.heuristics import HEURISTICS, ORACLES
from anyorder.orders.policies import LearnedOrder
from anyorder.tasks.base import Instances, Task


@dataclass(frozen=True)
class Headroom:
    """Orders that need no training and the oracles on the same problems, and how far confidence is to be believed."""

    report: Report
    every_prediction: Calibration
    most_confident: Calibration


def measure(
    denoiser: Denoiser,
    task: Task,
    instances: Instances,
    steps: int,
    *,
    seed: int = 0,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> Headroom:
    """Every heuristic, both oracles, and calibration along the confidence path.

    Raises:
        BadInput: no solutions are known.
    """
    if instances.x0 is None:
        raise BadInput("headroom needs problems whose solutions are known: give a file of complete ones with --data")
    orders = [*HEURISTICS, *ORACLES]
    report = evaluate(
        denoiser, task, instances, orders, [steps], load_policy=_none, seed=seed, batch_size=batch_size, progress=progress
    )
    every, first = path_calibration(denoiser, instances, steps)
    return Headroom(report, every, first)


def verdict(found: Headroom) -> str:
    """What the numbers say, in two sentences: of puzzles by instance accuracy, of sequences by the share recovered."""
    puzzles = found.report.meta["correct_means"] == "instance accuracy"  # of sequences, what counts is the share recovered
    accuracy = {r.order: r.instance_accuracy if puzzles else r.cell_accuracy or 0.0 for r in found.report.results}
    best = max(HEURISTICS, key=lambda name: accuracy[name])
    room = max(accuracy[name] for name in ORACLES) - accuracy[best]
    first = (
        f"The best heuristic is {best} with {100 * accuracy[best]:.1f} %; the oracle's lead is {100 * room:.1f} points."
        if room > 0
        else f"No room: the best heuristic, {best}, is as good as the oracle."
    )
    over = found.every_prediction.overconfidence
    if found.every_prediction.error < 0.02:
        second = "Confidence is calibrated on its own path: expect a learned order to gain little, and undoing to gain more."
    else:
        sense = "too sure of itself" if over > 0 else "too unsure of itself"
        second = f"The denoiser is {sense} on its own path (by {100 * abs(over):.1f} points): an order can learn where."
    return f"{first} {second}"


def _none(name: str) -> LearnedOrder:
    raise AssertionError(f"headroom uses no policy, yet {name} was asked for")
