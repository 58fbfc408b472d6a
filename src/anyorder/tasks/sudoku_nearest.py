"""The solution of a Sudoku that is nearest to a filled grid, by branch and bound, compiled by numba."""

import numpy as np

from anyorder.compiled import compiled
from anyorder.tasks.sudoku_rules import _popcount, _toggle, _used


@compiled
def _choose(
    work: np.ndarray, box: int, rows: np.ndarray, cols: np.ndarray, boxes: np.ndarray, wished: np.ndarray, weights: np.ndarray
) -> tuple[int, int, int]:
    """The blank cell with the fewest candidates, -1 if there is none; its candidates as bits; and the weight of the blank cells
    whose wish is no candidate any more."""
    n = box * box
    best, fewest, best_bits, lost = -1, n + 1, 0, 0
    for cell in range(n * n):
        if work[cell] == 0:
            r, c = cell // n, cell % n
            bits = (((1 << n) - 1) << 1) & ~(rows[r] | cols[c] | boxes[(r // box) * box + c // box])
            count = _popcount(bits)
            if count < fewest:
                best, fewest, best_bits = cell, count, bits
            if not (bits >> wished[cell]) & 1:
                lost += weights[cell]
    return best, best_bits, lost


@compiled
def nearest_solution(
    puzzle: np.ndarray, box: int, wished: np.ndarray, weights: np.ndarray, solution: np.ndarray, node_limit: int
) -> None:
    """Replace a solution of a puzzle by the one whose differences from a grid weigh least, or the best one of a limited search.

    Args:
        puzzle: digits (n*n,), 0 for a blank.
        box: rows of a box.
        wished: the grid (n*n,), 0 where nothing is wished.
        weights: int64 (n*n,), of a difference at each cell.
        solution: any solution, or zeros if none is known; replaced in place.
        node_limit: of the search.
    """
    n = box * box
    rows, cols, boxes = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    if not _used(puzzle, box, rows, cols, boxes):
        return
    work = puzzle.copy()
    least = weights.sum() + 1
    if solution[0]:
        least = (weights * (solution != wished)).sum()
    cells, left = np.empty(n * n, np.int64), np.empty(n * n, np.int64)
    depth, cost, nodes, descend = 0, 0, 0, True
    while nodes < node_limit and least > 0:
        if descend:
            nodes += 1
            cell, bits, lost = _choose(work, box, rows, cols, boxes, wished, weights)
            if cell < 0 and cost < least:
                least = cost
                solution[:] = work
            elif cell >= 0 and bits and cost + lost < least:
                cells[depth], left[depth] = cell, bits
                depth += 1
        if depth == 0:
            return
        cell = cells[depth - 1]
        if work[cell]:
            _toggle(cell, 1 << work[cell], box, rows, cols, boxes)
            cost -= weights[cell] * (work[cell] != wished[cell])
            work[cell] = 0
        bits = left[depth - 1]
        if bits == 0:
            depth -= 1
            descend = False
            continue
        digit = wished[cell]
        if digit == 0 or not (bits >> digit) & 1:
            digit = 1
            while not (bits >> digit) & 1:
                digit += 1
        bit = 1 << digit
        left[depth - 1] = bits ^ bit
        work[cell] = digit
        _toggle(cell, bit, box, rows, cols, boxes)
        cost += weights[cell] * (digit != wished[cell])
        descend = True


@compiled
def nearest_solutions(
    puzzles: np.ndarray, box: int, wished: np.ndarray, weights: np.ndarray, solutions: np.ndarray, node_limit: int
) -> None:
    """`nearest_solution` for each row."""
    for i in range(len(puzzles)):
        nearest_solution(puzzles[i], box, wished[i], weights[i], solutions[i], node_limit)
