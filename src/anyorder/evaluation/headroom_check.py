"""Whether an order is worth learning for this model and these problems."""

import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from anyorder.decoding.sampler import Sampler
from anyorder.decoding.step import StepOutput
from anyorder.denoisers.base import Denoiser
from anyorder.denoisers.shared_passes import SharedPasses
from anyorder.errors import BadInput
from anyorder.evaluation.batches import Progress, decode_in_batches
from anyorder.evaluation.calibration import Calibration, path_calibration
from anyorder.evaluation.choice import Gain, adaptive, advice, baselines, best, gain, learned, oracles
from anyorder.evaluation.comparison import evaluate
from anyorder.evaluation.critic_check import accept_level, review
from anyorder.evaluation.results import Report
from anyorder.evaluation.samplers import Samplers, as_samplers, kind_of
from anyorder.evaluation.stages import Stages
from anyorder.evaluation.tables import markdown
from anyorder.orders.learned import LearnedOrder
from anyorder.signatures import checked
from anyorder.tasks.base import Instances, Task
from anyorder.tasks.instances import check_open, unseen
from anyorder.tasks.sequences import Sequences
from anyorder.training.fit import fit_planned, plan_fit
from anyorder.training.solutions import several_solutions
from anyorder.zoo.matching import loaded

_CALIBRATED = 0.02
"""Largest expected calibration error that counts as calibrated."""

FEWEST = 40
"""Problems, below which no probe is fitted: half of them would be too few to fit to, and half too few to measure on. Those that
the file repeats count once."""


@dataclass(frozen=True)
class Probe:
    """What a policy learned in a short fit, measured on problems to which it was not fitted.

    Args:
        updates: of the fit.
        auroc: chance that a right prediction scores higher than a wrong one, on the policy's own path.
        auroc_confidence: the same of the denoiser's confidence, on the same predictions.
        report: the heuristic that is best on all problems, and the samplers with the policy.
        gains: of these samplers over that heuristic.
    """

    updates: int
    auroc: float
    auroc_confidence: float
    report: Report
    gains: list[Gain]

    def __str__(self) -> str:
        return (
            f"A policy fitted in {self.updates} updates tells wrong predictions from right ones with an AUROC of "
            f"{self.auroc:.3f}, confidence with {self.auroc_confidence:.3f}."
        )


@dataclass(frozen=True)
class Headroom:
    """Heuristics and oracles on the same problems, how reliable confidence is, and what a probe learned.

    Printed, it is a table and the sentences that say whether a fit is worth it.

    Args:
        report: of all problems.
        every_prediction, most_confident: calibration along the confidence path.
        probe: None if none was fitted.
        several: share of the problems that are known to have several solutions.
        stages: how long each part took.
    """

    report: Report
    every_prediction: Calibration
    most_confident: Calibration
    probe: Probe | None = None
    several: float = 0.0
    stages: Stages = field(default_factory=Stages, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{markdown(self.report)}\n\n{recommendation(self)}"


@checked("steps", "seed", "updates")
def headroom(
    denoiser: Denoiser | str | Path,
    task: Task | str | None,
    instances: Instances | str | Path,
    steps: int,
    *,
    samplers: Samplers | None = None,
    updates: int = 150,
    seed: int = 0,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> Headroom:
    """Measure what there is to gain: heuristics against the oracle, calibration along the confidence path, and a probe.

    The probe is a policy fitted for a few updates to the first half of the problems. What its order and its critic gain is
    measured on the second half. It is what a short fit learns; the oracle reads the solution, which nothing can learn.

    Args:
        denoiser, task, instances, seed, batch_size, progress: as in `evaluate`.
        steps: budget of forward passes.
        samplers: the samplers to compare; by default every baseline that takes no arguments, confidence with every adaptive
            count rule, and every oracle.
        updates: of the probe; 0 for no probe. There is none if fewer than 20 problems of the second half, without repetitions
            and those of the first half, are left to measure it on.

    Returns:
        A `Headroom`: print it, or read its `report` and `probe`.

    Raises:
        BadInput: no solutions are known, no problem has anything to fill, no sampler is a heuristic, or task and denoiser do
            not match.
    """
    if updates < 0:
        raise BadInput(f"updates is {updates}; it must be 0, for no probe, or more")
    denoiser, task, instances = loaded(denoiser, task, instances)
    check_open(instances)
    if isinstance(task, Sequences) and task.hide == 1:
        message = "every symbol is hidden, so there is nothing to infer them from: make the task with hide=0.5, say"
        warnings.warn(message, stacklevel=3)
    if instances.x0 is None:
        raise BadInput("headroom needs problems whose solutions are known: give a file of complete ones with --data")
    asked: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "progress": progress}
    compared = {**baselines(task), **adaptive(every=False), **oracles()} if samplers is None else as_samplers(samplers)
    if not any(kind_of(sampler) == "heuristic" for sampler in compared.values()):
        raise BadInput(f"headroom compares with heuristics, and {', '.join(compared)} are none: give one, such as confidence")
    stages = Stages()
    shared = SharedPasses(denoiser)
    report = evaluate(denoiser, task, instances, compared, steps, shared=shared, **asked)
    stages.lap("heuristics and oracles")
    every, first = path_calibration(shared, instances, steps, batch_size)
    stages.lap("calibration")
    several = several_solutions(shared, task, instances, batch_size, steps)
    stages.lap("several solutions")
    probe = None
    half = len(instances) // 2
    fitted, rest = instances[slice(0, half)], unseen(instances[slice(half, None)], instances[slice(0, half)])
    if updates and 2 * len(rest) >= FEWEST:
        name = best(report, "heuristic").order
        probe = _probe(denoiser, shared, task, fitted, rest, steps, updates, several, name, compared[name], asked)
        stages.lap("probe")
    return Headroom(report, every, first, probe, several, stages)


def _probe(
    denoiser: Any,
    shared: SharedPasses,
    task: Task,
    first: Instances,
    rest: Instances,
    steps: int,
    updates: int,
    several: float,
    heuristic: str,
    plain: Sampler,
    asked: dict[str, Any],
) -> Probe:
    """Fit a policy to the first problems, find there from which doubt on its critic rejects a sequence, and measure both on the
    rest."""
    recipe = plan_fit(denoiser, task, first, steps=updates, batch_size=32, seed=asked["seed"], budget=steps, several=several)
    with tempfile.TemporaryDirectory() as folder:
        order = fit_planned(recipe, denoiser, task, first, Path(folder), Console(quiet=True))
    if order.critic is not None and (level := accept_level(review(shared, task, first, order, steps, **asked))) is not None:
        order.policy.about["accept"] = level
    samplers = {**learned(order, plain, slow=steps > rest.longest), heuristic: plain}
    report = evaluate(denoiser, task, rest, samplers, steps, shared=shared, **asked)
    gains = [gain(report, r.order, heuristic) for r in report.results if r.order != heuristic]
    auroc = _auroc(shared, rest, order, steps, asked)
    return Probe(updates, *auroc, report, gains)


def _auroc(
    denoiser: Denoiser, instances: Instances, order: LearnedOrder, steps: int, asked: dict[str, Any]
) -> tuple[float, float]:
    """How well a policy, and confidence, tell right predictions from wrong ones on the policy's path."""
    scores: list[Tensor] = []
    odds: list[Tensor] = []
    right: list[Tensor] = []

    def record(output: StepOutput) -> None:
        prediction, x0 = output.prediction, output.before.x0
        assert x0 is not None
        scores.append(output.scores[prediction.predicted].cpu())
        odds.append(prediction.log_odds.cpu())
        right.append((prediction.best_tokens == x0[prediction.predicted]).cpu())

    sampler = Sampler(order, steps=steps)
    decode_in_batches(denoiser, instances, sampler, name="probe", on_step=record, **asked)
    labels = torch.cat(right)
    return area_under_roc(torch.cat(scores), labels), area_under_roc(torch.cat(odds), labels)


def area_under_roc(scores: Tensor, positive: Tensor) -> float:
    """Chance that a positive has a higher score than a negative, ties counted half; nan if there are none of either."""
    from scipy.stats import mannwhitneyu  # takes half a second

    above, below = scores[positive].double().numpy(), scores[~positive].double().numpy()
    if not len(above) or not len(below):
        return float("nan")
    return float(mannwhitneyu(above, below).statistic / (len(above) * len(below)))


def recommendation(found: Headroom) -> str:
    """Say what the numbers mean, by the metric that matters for these problems."""
    calibrated = found.every_prediction.error < _CALIBRATED
    over = found.every_prediction.overconfidence
    state = "calibrated" if calibrated else "overconfident" if over > 0 else "underconfident"
    by = "" if calibrated else f" (by {100 * abs(over):.1f} points)"
    said = f"Confidence is {state} on its own path{by}."
    if found.probe is not None:
        said += f" {found.probe}"
    if found.several:
        said += " (A prediction counts as right here if it is that of the stored solution.)"
    gains = [] if found.probe is None else found.probe.gains
    return f"{said} {advice(found.report, best(found.report, 'heuristic').order, gains, found.several)}"
