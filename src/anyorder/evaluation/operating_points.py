"""Accuracy against forward passes: curves of operating points on the same instances, their fronts, and paired comparisons."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anyorder.decoding.tokens import TokenRule
from anyorder.denoisers.base import Denoiser
from anyorder.denoisers.shared_passes import SharedPasses
from anyorder.errors import BadInput, counted
from anyorder.evaluation.batches import Progress, decode_in_batches, model_for
from anyorder.evaluation.comparison import environment
from anyorder.evaluation.curves import Curve, Curves, Point, as_curves, noisy
from anyorder.evaluation.fronts import area, attained, non_dominated
from anyorder.evaluation.samplers import Kind, check_oracles, described, kind_of
from anyorder.evaluation.statistics import Interval, bootstrap_weights, percentile_interval, widened, wilson
from anyorder.evaluation.tables import Grid
from anyorder.processes import Shard
from anyorder.signatures import checked
from anyorder.tasks.base import Instances, Task
from anyorder.tasks.instances import checked_result
from anyorder.zoo.matching import loaded


@dataclass
class Measured:
    """One operating point on N instances.

    block: positions per block; None for full diffusion.
    on_front: whether no other point of the same mode, on any curve, is as cheap and as accurate.
    nfe: mean number of forward passes. correct, nfe_each: bool (N,), int (N,).
    """

    curve: str
    label: str
    kind: Kind
    steps: int
    block: int | None
    accuracy: float
    ci95: Interval
    cell_accuracy: float
    nfe: float
    correct: np.ndarray = field(repr=False)
    nfe_each: np.ndarray = field(repr=False)
    on_front: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values, the outcomes of all instances among them."""
        outcomes = {"correct": self.correct.astype(int).tolist(), "nfe_each": self.nfe_each.tolist()}
        return {**asdict(self), **outcomes}


@dataclass(frozen=True)
class CurveSummary:
    """One curve in one mode; differences are to the reference curve of that mode, with paired intervals.

    area: see `fronts.area`. at: attained accuracies at the budgets of the report.
    """

    curve: str
    block: int | None
    against: str | None
    area: float
    area_ci95: Interval
    area_difference: float | None
    area_difference_ci95: Interval | None
    at: list[float]
    at_difference: list[float] | None
    at_difference_ci95: list[Interval] | None


@dataclass
class Fronts:
    """The results of `pareto`. bounds: range of forward passes of the areas; budgets: those at which accuracies are
    compared."""

    points: list[Measured]
    curves: list[CurveSummary]
    bounds: tuple[float, float]
    budgets: list[float]
    meta: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        points = [point.to_json() for point in self.points]
        curves = [asdict(curve) for curve in self.curves]
        return {"points": points, "curves": curves, "bounds": self.bounds, "budgets": self.budgets, "meta": self.meta}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Fronts":
        """Inverse of `to_json`.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: other values.
        """
        points = [
            Measured(**{
                **point, "ci95": Interval(*map(float, point["ci95"])), "nfe": float(point["nfe"]), "curve": str(point["curve"]),
                "accuracy": float(point["accuracy"]), "correct": np.array(point["correct"], dtype=bool),
                "nfe_each": np.array(point["nfe_each"], dtype=int),
            })
            for point in values["points"]
        ]  # fmt: skip
        if not points:
            raise ValueError("there are no points in it")
        curves = [CurveSummary(**curve) for curve in values["curves"]]
        low, high = map(float, values["bounds"])
        return cls(points, curves, (low, high), list(values["budgets"]), dict(values["meta"]))


@checked("blocks", "against", "bounds")
def pareto(
    denoiser: Denoiser | str | Path,
    task: Task | str | None,
    instances: Instances | str | Path,
    samplers: Curves,
    blocks: Sequence[int | None] = (None,),
    *,
    against: str = "best",
    bounds: tuple[float, float] | None = None,
    token: TokenRule | str | None = None,
    noise: Sequence[float] | None = None,
    anneal: bool | None = None,
    seed: int = 0,
    batch_size: int = 256,
    progress: Progress | None = None,
    meta: dict[str, Any] | None = None,
    shard: Shard = Shard(),
    strict: bool = True,
) -> Fronts:
    """Decode the same instances at every operating point of every curve.

    Args:
        denoiser, task, instances: the model, the checker, and the problems; or the name of the model, the name of the task
            (None for that of the model), and a file of problems.
        samplers: texts, orders, samplers or curves, or a mapping from labels to any of these, see `as_curves`.
        blocks: modes: None for full diffusion, or positions per block. A sampler that names its own blocks is measured with
            these alone.
        token, seed, batch_size, progress, meta, shard, strict: as in `evaluate`.
        noise, anneal: as in `evaluate`; each scale makes a curve of its own, such as `confidence@linear, noise 2`.
        against: name of the curve that all others are compared with; "best" for the heuristic with the largest area in each
            mode (chosen on these instances, which favors the heuristics).
        bounds: range of forward passes of the areas; by default, from 1 to one position per step of the longest problem.

    Raises:
        BadInput: task and denoiser do not match, an oracle without known solutions, an unknown `against`, or empty bounds.
    """
    denoiser, task, instances = loaded(denoiser, task, instances)
    longest = instances.longest
    curves = noisy(as_curves(samplers, denoiser, longest, token=token, strict=strict), noise, anneal)
    check_oracles({point.label: point.sampler for curve in curves for point in curve.points}, instances)
    if against != "best" and against not in [curve.name for curve in curves]:
        raise BadInput(f"cannot compare with {against!r}: it is not among the curves {', '.join(c.name for c in curves)}")
    wanted = [
        (name, p.label, block, p.sampler.replace(steps=p.steps or longest, block_length=block))
        for name, p, block in _in_modes(curves, blocks)
    ]
    if not wanted:
        raise BadInput("there is nothing to measure: give at least one sampler, and None or a length as blocks")
    points, shared = [], SharedPasses(denoiser)
    for number, (name, label, block, sampler) in enumerate(wanted, start=1):
        said = f"{number} of {len(wanted)}: {label}, {mode_name(block)}"
        decoded = decode_in_batches(
            model_for(sampler, denoiser, shared), instances, sampler, seed=seed, batch_size=batch_size, progress=progress,
            name=said, shard=shard, ends=task.stops_at,
        )  # fmt: skip
        checked = checked_result(task, instances, decoded.tokens)
        correct, cells = checked.instance_correct.numpy(), checked.cell_accuracy.numpy()
        kind, steps = kind_of(sampler), sampler.steps or longest
        points.append(measured(name, label, kind, steps, block, correct, cells, decoded.nfe.numpy()))
    facts = {**environment(), **(meta or {}), "seed": seed, "correct_means": task.correct_means}
    facts["samplers"] = {p.label: described(p.sampler) for curve in curves for p in curve.points}
    return fronts_of(points, bounds or (1.0, float(longest)), against, facts)


def _in_modes(curves: Sequence[Curve], blocks: Sequence[int | None]) -> list[tuple[str, Point, int | None]]:
    """Names of curves, their points and modes, mode by mode; a sampler that names blocks is in the mode of these, once."""
    found = {}
    for block in blocks:
        for curve in curves:
            for p in curve.points:
                own = p.sampler.block_length or block
                found[id(p), own] = (curve.name, p, own)
    return list(found.values())


def fronts_of(points: list[Measured], bounds: tuple[float, float], against: str, meta: dict[str, Any]) -> Fronts:
    """Fronts, areas and differences of points measured on the same instances; see `pareto`. Sets their `on_front`."""
    low, high = bounds
    if not 0 < low < high:
        raise BadInput(f"the area would run from {low:g} to {high:g} forward passes: give --bounds LOW,HIGH")
    budgets = np.unique(np.maximum(low, high / 2.0 ** np.arange(5)))
    summaries = []
    for block in dict.fromkeys(point.block for point in points):
        mode = [p for p in points if p.block == block]
        for index in non_dominated(np.array([p.nfe for p in mode]), np.array([p.accuracy for p in mode])):
            mode[index].on_front = True
        summaries += _summaries(mode, against, low, high, budgets)
    facts = {**meta, "against": against, "instances": len(points[0].correct)}
    return Fronts(points, summaries, (low, high), budgets.tolist(), facts)


def measured(
    curve: str, label: str, kind: Kind, steps: int, block: int | None, correct: np.ndarray, cells: np.ndarray, nfe: np.ndarray
) -> Measured:
    """An operating point from the outcome bool (N,), share of right cells (N,) and forward passes int (N,) of each instance."""
    accuracy, interval = float(correct.mean()), wilson(int(correct.sum()), len(correct))
    cell_accuracy = float(cells.astype(float).mean())
    return Measured(curve, label, kind, steps, block, accuracy, interval, cell_accuracy, float(nfe.mean()), correct, nfe)


def _summaries(points: list[Measured], against: str, low: float, high: float, budgets: np.ndarray) -> list[CurveSummary]:
    """Of all curves of one mode. All are resampled together, so that differences are paired."""
    curves = {name: [p for p in points if p.curve == name] for name in dict.fromkeys(p.curve for p in points)}
    weights = bootstrap_weights(len(points[0].correct))
    found = {}
    for name, mine in curves.items():
        nfe = np.stack([p.nfe_each for p in mine], axis=1).astype(float)  # (N, P)
        accuracy = np.stack([p.correct for p in mine], axis=1).astype(float)
        draws = list(zip(weights @ nfe, weights @ accuracy, strict=True))
        mean = (nfe.mean(axis=0), accuracy.mean(axis=0))
        found[name] = _of_fronts(lambda f, a: np.array([area(f, a, low, high), *attained(f, a, budgets)]), mean, draws)
    if against == "best":
        heuristics = [name for name, mine in curves.items() if mine[0].kind == "heuristic"]
        base = max(heuristics, key=lambda name: found[name][0][0], default=None)
    else:
        base = against if against in found else None
    return [_summary(name, points[0].block, base, found, len(points[0].correct)) for name in curves]


_Pair = tuple[np.ndarray, np.ndarray]


def _of_fronts(measure: Callable[..., np.ndarray], mean: _Pair, draws: list[_Pair]) -> _Pair:
    """A measure (K,) of a front, and of its resamples (draws, K)."""
    return measure(*mean), np.stack([measure(*draw) for draw in draws])


def _summary(name: str, block: int | None, base: str | None, found: dict[str, _Pair], instances: int) -> CurveSummary:
    value, resampled = found[name]
    own = widened(percentile_interval(resampled[:, 0]), instances, 0.0)
    if base is None or base == name:
        return CurveSummary(name, block, base, float(value[0]), own, None, None, value[1:].tolist(), None, None)
    difference = value - found[base][0]
    intervals = [widened(percentile_interval(column), instances) for column in (resampled - found[base][1]).T]
    return CurveSummary(
        name, block, base, float(value[0]), own, float(difference[0]), intervals[0], value[1:].tolist(),
        difference[1:].tolist(), intervals[1:],
    )  # fmt: skip


def mode_name(block: int | None) -> str:
    """The name of a mode in reports."""
    return "full diffusion" if block is None else f"blocks of {block}"


def grids_of(found: Fronts) -> list[Grid]:
    """For each mode: areas, accuracies at budgets, and all operating points."""
    grids: list[Grid] = []
    measure, instances = found.meta["correct_means"], found.meta["instances"]
    for block in dict.fromkeys(curve.block for curve in found.curves):
        mode, curves = mode_name(block), [curve for curve in found.curves if curve.block == block]
        low, high = found.bounds
        title = (
            f"{mode}, {counted(instances, 'instance')}: mean {measure} over {low:.1f} to {high:.1f} NFE, evenly by logarithm"
        )
        rows = [[c.curve, _percent(c.area), _range(c.area_ci95), *_difference(c)] for c in curves]
        grids.append((title, ["curve", "area", "95 % interval", "difference", "95 % interval"], rows))
        rows = [[c.curve, *_at(c)] for c in curves]
        compared = f"; difference to {curves[0].against} with 95 % interval" if curves[0].against else ""
        title = f"{mode}: {measure} at a budget of NFE{compared}"
        grids.append((title, ["curve", *(f"{budget:.1f}" for budget in found.budgets)], rows))
        rows = [
            [p.label, str(p.steps), f"{p.nfe:.1f}", _percent(p.accuracy), _range(p.ci95), _percent(p.cell_accuracy),
             "yes" if p.on_front else ""]
            for p in found.points if p.block == block
        ]  # fmt: skip
        header = ["operating point", "steps", "NFE", measure, "95 % interval", "cell accuracy", "on the front"]
        grids.append((f"{mode}: operating points", header, rows))
    return grids


def lines_of(found: Fronts) -> dict[str, dict[str, list[tuple[float, float, float, float]]]]:
    """Points (NFE, accuracy, and its interval, in percent) of each mode and curve, for a plot: those that no other point
    of the same curve dominates."""
    lines: dict[str, dict[str, list[tuple[float, float, float, float]]]] = {}
    for name, block in dict.fromkeys((p.curve, p.block) for p in found.points):
        mine = [p for p in found.points if (p.curve, p.block) == (name, block)]
        best = non_dominated(np.array([p.nfe for p in mine]), np.array([p.accuracy for p in mine]))
        points = [(p.nfe, 100 * p.accuracy, 100 * p.ci95[0], 100 * p.ci95[1]) for p in (mine[i] for i in best)]
        lines.setdefault(mode_name(block), {})[name] = points
    return lines


def _percent(value: float) -> str:
    return "" if np.isnan(value) else f"{100 * value:.1f} %"


def _range(interval: tuple[float, float], sign: str = "") -> str:
    low, high = (round(100 * bound, 1) + 0.0 for bound in interval)  # no minus at zero
    return f"{low:{sign}.1f} to {high:{sign}.1f}"


def _difference(curve: CurveSummary) -> list[str]:
    if curve.area_difference is None or curve.area_difference_ci95 is None:
        return ["reference" if curve.curve == curve.against else "", ""]
    return [f"{100 * curve.area_difference:+.1f}", _range(curve.area_difference_ci95, "+")]


def _at(curve: CurveSummary) -> list[str]:
    if curve.at_difference is None or curve.at_difference_ci95 is None:
        return [_percent(value) for value in curve.at]
    differences = zip(curve.at, curve.at_difference, curve.at_difference_ci95, strict=True)
    return [f"{_percent(value)} ({100 * d:+.1f}: {_range(interval, '+')})" for value, d, interval in differences]
