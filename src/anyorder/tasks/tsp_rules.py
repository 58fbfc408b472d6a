"""Exact tours by the dynamic program of Held and Karp (1962), compiled by numba."""

import numpy as np

from anyorder.compiled import compiled

TOLERANCE = 1e-9
"""Tours whose lengths differ by less are equally long: lengths are sums of a few square roots in float64."""


@compiled
def _distances(points: np.ndarray) -> np.ndarray:
    n = points.shape[0]
    out = np.zeros((n, n))
    for a in range(n):
        for b in range(n):
            dx, dy = points[a, 0] - points[b, 0], points[a, 1] - points[b, 1]
            out[a, b] = np.sqrt(float(dx * dx + dy * dy))
    return out


@compiled
def _held_karp(distance: np.ndarray, tour: np.ndarray) -> float:
    """The shortest closed tour from city 0, the first in dictionary order of several; its length."""
    n = distance.shape[0]
    m = n - 1
    home = np.full((1 << m, n), np.inf)  # home[S, c]: shortest way from c through all of S, a set of cities 1..m, to city 0
    home[0] = distance[:, 0]
    for rest in range(1, 1 << m):
        for c in range(n):
            if c and (rest >> (c - 1)) & 1:
                continue
            for d in range(1, n):
                if (rest >> (d - 1)) & 1:
                    home[rest, c] = min(home[rest, c], distance[c, d] + home[rest ^ (1 << (d - 1)), d])
    rest, c = (1 << m) - 1, 0
    tour[0] = 0
    for place in range(1, n):
        for d in range(1, n):
            if (rest >> (d - 1)) & 1:
                after = rest ^ (1 << (d - 1))
                if distance[c, d] + home[after, d] <= home[rest, c] + TOLERANCE:
                    tour[place], rest, c = d, after, d
                    break
    return float(home[(1 << m) - 1, 0])


@compiled
def _nearest_neighbor_length(distance: np.ndarray) -> float:
    """Length of the tour from city 0 that always goes to the nearest city left, of several the first."""
    n = distance.shape[0]
    left = np.ones(n, np.bool_)
    left[0] = False
    length, c = 0.0, 0
    for _ in range(n - 1):
        best = -1
        for d in range(n):
            if left[d] and (best < 0 or distance[c, d] < distance[c, best]):
                best = d
        left[best] = False
        length += distance[c, best]
        c = best
    return float(length + distance[c, 0])


@compiled
def shortest_tours(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Optimal tours of cities at `points` int64 (N, n, 2).

    Returns:
        tours int64 (N, n), from city 0, the first in dictionary order of several (so the second city is less than the last);
        their lengths (N,); whether the nearest-neighbor tour from city 0 is as short, bool (N,).
    """
    count, n = points.shape[:2]
    tours = np.zeros((count, n), np.int64)
    lengths = np.zeros(count)
    greedy = np.zeros(count, np.bool_)
    for i in range(count):
        distance = _distances(points[i])
        lengths[i] = _held_karp(distance, tours[i])
        greedy[i] = _nearest_neighbor_length(distance) <= lengths[i] + TOLERANCE
    return tours, lengths, greedy


@compiled
def random_cities(cities: int, grid: int, seeds: np.ndarray) -> np.ndarray:
    """Per seed n different points of the grid, uniformly: int64 (N, n, 2)."""
    points = np.zeros((seeds.size, cities, 2), np.int64)
    for i in range(seeds.size):
        np.random.seed(seeds[i])
        made = 0
        while made < cities:
            x, y = np.random.randint(grid), np.random.randint(grid)
            taken = False
            for other in range(made):
                taken |= points[i, other, 0] == x and points[i, other, 1] == y
            if not taken:
                points[i, made, 0], points[i, made, 1] = x, y
                made += 1
    return points
