"""Fronts of accuracy against forwards, and the area under them. Forwards (P,), accuracies (P,) in [0, 1].

What can be attained with an expected budget of forwards: two operating points are mixed by a coin for each problem, and both
the accuracy and the forwards of the mixture lie on the line between theirs. So the front is the upper concave hull of the
points and of (0, 0), which is not to try; beyond its most accurate point nothing is gained. A further point never makes it
lower.
"""

import math

import numpy as np


def non_dominated(forwards: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Indices of the operating points that no other one dominates (as cheap and as accurate, one of them strictly), from the
    cheapest to the dearest; of equal ones the first."""
    ranking = np.lexsort((-accuracy, forwards))
    ranked = accuracy[ranking]
    better = np.concatenate([[True], ranked[1:] > np.maximum.accumulate(ranked)[:-1]])
    found: np.ndarray = ranking[better]
    return found


def hull(forwards: np.ndarray, accuracy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners (forwards, accuracy) of the attainable front, from (0, 0) to its most accurate point."""
    best = non_dominated(forwards, accuracy)
    corners = [(0.0, 0.0)]
    for x, y in zip(forwards[best].tolist(), accuracy[best].tolist(), strict=True):
        while len(corners) > 1 and _is_below(corners[-1], corners[-2], (x, y)):
            corners.pop()
        corners.append((x, y))
    xs, ys = zip(*corners, strict=True)
    return np.array(xs), np.array(ys)


def _is_below(point: tuple[float, float], left: tuple[float, float], right: tuple[float, float]) -> bool:
    """Is a point on or below the line from left to right?"""
    run, rise = right[0] - left[0], right[1] - left[1]
    return (point[1] - left[1]) * run <= rise * (point[0] - left[0])


def attained(forwards: np.ndarray, accuracy: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    """Accuracy (K,) at expected budgets (K,) of forwards."""
    found: np.ndarray = np.interp(budgets, *hull(forwards, accuracy))
    return found


def area(forwards: np.ndarray, accuracy: np.ndarray, low: float, high: float) -> float:
    """Mean of the attained accuracy over budgets from low to high that lie evenly on a log scale.

    Forwards are a cost that counts by ratio: to halve them is worth as much at 40 as at 10, and on a linear scale the dear end,
    where all decoders are alike, would be most of the area. On a piece y = a + b x of the front the integral of y dx / x is
    a ln(x2 / x1) + b (x2 - x1).
    """
    if not 0 < low < high:
        raise ValueError(f"the area runs from {low:g} to {high:g} forwards; the first must be above 0 and below the second")
    xs, ys = hull(forwards, accuracy)
    knots = np.concatenate([[low], xs[(xs > low) & (xs < high)], [high]])
    y = np.interp(knots, xs, ys)
    slope = np.diff(y) / np.diff(knots)
    level = y[:-1] - slope * knots[:-1]
    pieces = level * np.diff(np.log(knots)) + slope * np.diff(knots)
    return float(pieces.sum() / math.log(high / low))
