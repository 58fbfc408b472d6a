"""Fronts of accuracy against forward passes (NFE), and the area under them. NFE (P,), accuracies (P,) in [0, 1].

A front is what can be attained with an expected budget of forward passes. If a coin chooses between two operating points for
each problem, both the accuracy and the NFE of the mixture lie on the line between theirs. The front is therefore the upper
concave hull of the points and of (0, 0), which stands for not decoding. It is level beyond its most accurate point, and a
further point never lowers it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from anyorder.evaluation.statistics import bootstrap_weights, percentile_interval, stretched


def non_dominated(nfe: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Indices of the operating points that no other one dominates (as cheap and as accurate, one of them strictly), from the
    cheapest to the most expensive; of equal ones the first."""
    ranking = np.lexsort((-accuracy, nfe))
    ranked = accuracy[ranking]
    better = np.concatenate([[True], ranked[1:] > np.maximum.accumulate(ranked)[:-1]])
    found: np.ndarray = ranking[better]
    return found


def hull(nfe: np.ndarray, accuracy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners (nfe, accuracy) of the attainable front, from (0, 0) to its most accurate point."""
    best = non_dominated(nfe, accuracy)
    corners = [(0.0, 0.0)]
    for x, y in zip(nfe[best].tolist(), accuracy[best].tolist(), strict=True):
        while len(corners) > 1 and _is_below(corners[-1], corners[-2], (x, y)):
            corners.pop()
        corners.append((x, y))
    xs, ys = zip(*corners, strict=True)
    return np.array(xs), np.array(ys)


def _is_below(point: tuple[float, float], left: tuple[float, float], right: tuple[float, float]) -> bool:
    """Is a point on or below the line from left to right?"""
    run, rise = right[0] - left[0], right[1] - left[1]
    return (point[1] - left[1]) * run <= rise * (point[0] - left[0])


def attained(nfe: np.ndarray, accuracy: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    """Accuracy (K,) at expected budgets (K,) of nfe."""
    found: np.ndarray = np.interp(budgets, *hull(nfe, accuracy))
    return found


def area(nfe: np.ndarray, accuracy: np.ndarray, low: float, high: float) -> float:
    """Mean of the attained accuracy over budgets from low to high that lie evenly on a log scale.

    On a log scale, halving the cost counts as much at 40 forward passes as at 10. On a linear scale the expensive end, where
    all samplers are about equal, would be most of the area. On a piece y = a + b x of the front the integral of y dx / x is a
    ln(x2 / x1) + b (x2 - x1).
    """
    if not 0 < low < high:
        raise ValueError(f"the area runs from {low:g} to {high:g} NFE; the first must be above 0 and below the second")
    xs, ys = hull(nfe, accuracy)
    knots = np.concatenate([[low], xs[(xs > low) & (xs < high)], [high]])
    y = np.interp(knots, xs, ys)
    slope = np.diff(y) / np.diff(knots)
    level = y[:-1] - slope * knots[:-1]
    pieces = level * np.diff(np.log(knots)) + slope * np.diff(knots)
    return float(pieces.sum() / math.log(high / low))


@dataclass(frozen=True)
class Front:
    """What is measured of a curve, averaged over its seeds: the values, float (K,), and resamples, (draws, K)."""

    value: np.ndarray
    draws: np.ndarray

    def minus(self, other: "Front") -> "Front":
        """The paired difference."""
        return Front(self.value - other.value, self.draws - other.draws)

    def shown(self, sign: str = "") -> list[str]:
        """Values with their 95 % intervals, in percent; "" for NaN."""
        bounds = [percentile_interval(column) for column in self.draws.T]
        return [
            "" if np.isnan(v) else f"{100 * v:{sign}.1f} ({100 * low:{sign}.1f} to {100 * high:{sign}.1f})"
            for v, (low, high) in zip(self.value, bounds, strict=True)
        ]


def seed_front(nfe: np.ndarray, correct: np.ndarray, measure: Callable[..., np.ndarray], draws: int) -> Front:
    """The front of each seed, measured, averaged over the seeds, and resampled over seeds and problems. All curves of the same
    problems are resampled together, so that differences are paired.

    Args:
        nfe, correct: of S seeds, P operating points and N problems, (S, P, N).
        measure: values (K,) of one front, from its mean NFE and accuracies, (P,) each.
        draws: how many resamples.
    """
    by_problem = bootstrap_weights(nfe.shape[2], draws)
    values = np.stack([measure(x.mean(axis=1), y.mean(axis=1)) for x, y in zip(nfe, correct, strict=True)])
    found = np.stack(
        [
            [measure(a, b) for a, b in zip(by_problem @ x.T, by_problem @ y.T, strict=True)]
            for x, y in zip(nfe, correct, strict=True)
        ]
    )  # (S, draws, K)
    by_seed = bootstrap_weights(len(nfe), draws, seed=1)
    found = found + (stretched(values) - values)[:, None]
    return Front(values.mean(axis=0), np.einsum("ds,sdk->dk", by_seed, found))
