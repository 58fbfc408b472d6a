"""The solution of a Countdown problem that is nearest to a filled answer, by branch and bound, compiled by numba."""

import numpy as np

from anyorder.compiled import compiled
from anyorder.tasks.countdown_rules import OPERATIONS, _result, put_result
from anyorder.tasks.vocabulary import EOS, PAD, YE_VOCABULARY

_ZERO = YE_VOCABULARY.index("0")
_SIGNS = np.array([YE_VOCABULARY.index(sign) for sign in OPERATIONS])
_EQUALS, _COMMA = YE_VOCABULARY.index("="), YE_VOCABULARY.index(",")
_SWAPPED, _NOTHING_DIVIDED = 4, 6  # + and * with their numbers in the other order; 0 divided by the other number


@compiled
def _write(text: np.ndarray, at: int, number: int) -> int:
    """Write the digits of a number, not negative, from a place on: the place behind them, or -1 if there is no room."""
    digits, rest = 1, number // 10
    while rest:
        digits, rest = digits + 1, rest // 10
    if at < 0 or at + digits >= text.size:
        return -1
    for place in range(at + digits - 1, at - 1, -1):
        text[place] = _ZERO + number % 10
        number //= 10
    return at + digits


@compiled
def nearest_answer(
    numbers: np.ndarray, target: int, wished: np.ndarray, weights: np.ndarray, answer: np.ndarray
) -> None:  # fmt: skip
    """Replace an answer by the solution whose differences from what is wished weigh least. Ties keep the answer that is there.

    All solutions are considered: in any order of the equations, and sums and products in either order of their numbers.

    Args:
        numbers: int64 (n,).
        wished: tokens (A,) of the answer, to its last place.
        weights: int64 (A,), of a difference at each place.
        answer: tokens (A,) of a solution, [EOS] and [PAD] after it; replaced in place.
    """
    n = numbers.size
    least = (weights * (answer != wished)).sum()
    left = np.zeros((n, n), np.int64)
    left[0] = numbers
    text = np.full(wished.size, PAD, np.int64)
    start, cost = np.zeros(n, np.int64), np.zeros(n, np.int64)  # where the equation of a depth begins; what is before it costs
    following = np.zeros((n - 1, 3), np.int64)
    following[0, 1] = 1
    depth = 0
    while depth >= 0 and least > 0:
        i, j, operation = following[depth]
        size = n - depth
        if i == size - 1:
            depth -= 1
            continue
        if operation < _NOTHING_DIVIDED:
            following[depth, 2] = operation + 1
        else:
            following[depth, 2] = 0
            following[depth, 0], following[depth, 1] = (i, j + 1) if j + 1 < size else (i + 1, i + 2)
        a, b = left[depth, i], left[depth, j]
        kind = operation % _SWAPPED
        low, high = min(a, b), max(a, b)
        if operation == _NOTHING_DIVIDED:  # which the search of `solve` leaves out
            kind, result = 3, 0 if low == 0 < high else -1
            a, b = low, high
        else:
            result = _result(kind, low, high)
            if kind >= 2:
                a, b = high, low
            elif operation >= _SWAPPED:
                a, b = b, a
        if result < 0 or (size == 2 and result != target):
            continue
        at = _write(text, start[depth], a)
        if at >= 0:
            text[at] = _SIGNS[kind]
            at = _write(text, at + 1, b)
        if at >= 0:
            text[at] = _EQUALS
            at = _write(text, at + 1, result)
        if at < 0:
            continue
        text[at] = _COMMA if size > 2 else EOS
        paid = cost[depth]
        for place in range(start[depth], at + 1):
            paid += weights[place] * (text[place] != wished[place])
        if size == 2:
            for place in range(at + 1, text.size):
                paid += weights[place] * (wished[place] != PAD)
            if paid < least:
                least = paid
                answer[: at + 1] = text[: at + 1]
                answer[at + 1 :] = PAD
        elif paid < least:
            put_result(left, depth, i, j, result)
            following[depth + 1, 0], following[depth + 1, 1], following[depth + 1, 2] = 0, 1, 0
            start[depth + 1], cost[depth + 1] = at + 1, paid
            depth += 1
