"""Zebra puzzles as a constraint problem: propagate, search, generate, grade. Compiled by numba.

Clues are rows (type, a, b, c) of int64, as `zebra_text` has them. The domain of a value is a bit set of houses, domains are
int64 (values,), and a solution is the house of every value, int64 (values,).
"""

import numpy as np

from anyorder.compiled import compiled
from anyorder.tasks.zebra_text import BETWEEN, ENDS, EQUALITY, IMMEDIATE, INEQUALITY, LEFT, NEIGHBOR, PADDING

TECHNIQUES = ("propagation", "probing", "search")
"""Difficulty labels, from easy to hard. `propagation`: narrowing the domains clue by clue, with single candidates of values
and houses, is enough. `probing`: houses must also be struck because assuming them contradicts itself by propagation alone.
`search`: assumptions must be nested."""

_OPERANDS = np.array([2, 2, 2, 2, 2, 3, 1, 0])
_DRAWS = 50
_ATTEMPTS = 10_000


@compiled
def holds(clue: np.ndarray, house: np.ndarray) -> bool:
    """Is the clue (4,) true of a solution (values,)?"""
    kind = clue[0]
    a = house[clue[1]]
    b = house[clue[2]] if clue[2] >= 0 else -1
    true: bool = kind == PADDING
    if kind == EQUALITY:
        true = a == b
    elif kind == INEQUALITY:
        true = a != b
    elif kind == LEFT:
        true = a < b
    elif kind == IMMEDIATE:
        true = a + 1 == b
    elif kind == NEIGHBOR:
        true = abs(a - b) == 1
    elif kind == BETWEEN:
        c = house[clue[3]]
        true = min(b, c) < a < max(b, c)
    elif kind == ENDS:
        true = a == 0 or a == house.max()
    return true


@compiled
def all_hold(clues: np.ndarray, houses: np.ndarray) -> np.ndarray:
    """Is every clue true, bool (N,), from clues (N, slots, 4) and solutions (N, values)?"""
    out = np.ones(len(clues), np.bool_)
    for i in range(len(clues)):
        for clue in clues[i]:
            out[i] &= holds(clue, houses[i])
    return out


@compiled
def _narrow(clue: np.ndarray, domain: np.ndarray, houses: int) -> int:
    """Strike from the domains every house that the clue rules out: -1 contradiction, 1 something went, 0 nothing."""
    kind, every = clue[0], (1 << houses) - 1
    if kind == PADDING:
        return 0
    a = domain[clue[1]]
    b = domain[clue[2]] if clue[2] >= 0 else every
    c = domain[clue[3]] if clue[3] >= 0 else every
    new_a, new_b, new_c = a, b, c
    if kind == EQUALITY:
        new_a = new_b = a & b
    elif kind == INEQUALITY:
        if a & (a - 1) == 0:
            new_b &= ~a
        if b & (b - 1) == 0:
            new_a &= ~b
    elif kind == LEFT:
        up_to_last = b | b >> 1
        up_to_last |= up_to_last >> 2
        up_to_last |= up_to_last >> 4
        new_a &= up_to_last >> 1
        new_b &= ~(2 * (a & -a) - 1)
    elif kind == IMMEDIATE:
        new_a &= b >> 1
        new_b &= a << 1
    elif kind == NEIGHBOR:
        new_a &= b >> 1 | b << 1
        new_b &= a >> 1 | a << 1
    elif kind == BETWEEN:
        new_a = new_b = new_c = 0
        for h in range(1, houses - 1):
            if (a >> h) & 1:
                left = (1 << h) - 1
                right = every & ~left & ~(1 << h)
                if b & left and c & right:
                    new_a, new_b, new_c = new_a | 1 << h, new_b | b & left, new_c | c & right
                if b & right and c & left:
                    new_a, new_b, new_c = new_a | 1 << h, new_b | b & right, new_c | c & left
    else:
        new_a &= 1 | 1 << (houses - 1)
    if new_a == 0 or new_b == 0 or new_c == 0:
        return -1
    if new_a == a and new_b == b and new_c == c:
        return 0
    domain[clue[1]] = new_a
    if clue[2] >= 0:
        domain[clue[2]] = new_b
    if clue[3] >= 0:
        domain[clue[3]] = new_c
    return 1


@compiled
def _permute(domain: np.ndarray, houses: int) -> int:
    """The same for one attribute, domains (houses,): a value has one house and a house one value."""
    taken, changed = 0, 0
    for v in range(houses):
        if domain[v] & (domain[v] - 1) == 0:
            if taken & domain[v]:
                return -1
            taken |= domain[v]
    once, twice = 0, 0
    for v in range(houses):
        if domain[v] & (domain[v] - 1) and domain[v] & taken:
            domain[v] &= ~taken
            changed = 1
            if domain[v] == 0:
                return -1
        twice |= once & domain[v]
        once |= domain[v]
    if once != (1 << houses) - 1:
        return -1
    for v in range(houses):
        only = domain[v] & ~twice
        if only and only != domain[v]:
            if only & (only - 1):
                return -1
            domain[v] = only
            changed = 1
    return changed


@compiled
def propagate(clues: np.ndarray, domain: np.ndarray, houses: int, weight: np.ndarray) -> bool:
    """Narrow the domains (values,) by every clue (n, 4) and every attribute until nothing changes; False if one runs out.

    `weight` (values,) counts how often a value was part of a contradiction.
    """
    changed = True
    while changed:
        changed = False
        for i in range(clues.shape[0]):
            outcome = _narrow(clues[i], domain, houses)
            if outcome < 0:
                for operand in clues[i, 1:]:
                    if operand >= 0:
                        weight[operand] += 1
                return False
            changed |= outcome > 0
        for first in range(0, domain.size, houses):
            outcome = _permute(domain[first : first + houses], houses)
            if outcome < 0:
                weight[first : first + houses] += 1
                return False
            changed |= outcome > 0
    return True


@compiled
def _size(bits: int) -> int:
    count = 0
    while bits:
        bits &= bits - 1
        count += 1
    return count


@compiled
def _bit(bits: int, number: int) -> int:
    """The set bit of this number, counted from the lowest."""
    for _ in range(number):
        bits &= bits - 1
    return bits & -bits


@compiled
def search(
    clues: np.ndarray, domain: np.ndarray, houses: int, limit: int, avoid: np.ndarray, randomize: bool, house: np.ndarray
) -> int:
    """Number of solutions other than `avoid` within the domains, counted up to `limit`; the last one is left in `house`.

    Depth-first on the value with the smallest domain for its weight (Boussemart et al. 2004, dom/wdeg), which keeps the
    search in the part of a puzzle that contradicts itself. It always runs to its end, so the count is exact.
    """
    stack = np.empty((domain.size + 1, domain.size), np.int64)
    weight = np.ones(domain.size, np.int64)
    solution = np.empty(domain.size, np.int64)
    stack[0] = domain
    depth, found = 0, 0
    while depth >= 0:
        here = stack[depth]
        if not propagate(clues, here, houses, weight):
            depth -= 1
            continue
        best, size = -1, 1
        for v in range(domain.size):
            count = _size(here[v])
            if count > 1 and (best < 0 or count * weight[best] < size * weight[v]):
                best, size = v, count
        if best >= 0:
            bit = _bit(here[best], np.random.randint(size) if randomize else 0)
            stack[depth + 1] = here
            stack[depth + 1, best] = bit
            here[best] ^= bit
            depth += 1
            continue
        for v in range(domain.size):
            solution[v] = _size(here[v] - 1)
        if (solution != avoid).any():
            house[:] = solution
            found += 1
            if found >= limit:
                break
        depth -= 1
    return found


@compiled
def count_solutions(clues: np.ndarray, domain: np.ndarray, houses: int, limit: int, house: np.ndarray) -> int:
    """Number of solutions within the domains (values,), counted up to `limit`; the last one is left in `house` (values,)."""
    return search(clues, domain, houses, limit, np.full(domain.size, -1), False, house)


@compiled
def grade(clues: np.ndarray, domain: np.ndarray, houses: int) -> int:
    """Index into `TECHNIQUES` of what a puzzle with one solution needs."""
    weight = np.ones(domain.size, np.int64)
    known = domain.copy()
    propagate(clues, known, houses, weight)
    hardest = 0
    struck = True
    while struck and (known & (known - 1)).any():
        hardest, struck = 1, False
        for v in range(domain.size):
            for h in range(houses):
                if known[v] & (known[v] - 1) and (known[v] >> h) & 1:
                    trial = known.copy()
                    trial[v] = 1 << h
                    if not propagate(clues, trial, houses, weight):
                        known[v] ^= 1 << h
                        propagate(clues, known, houses, weight)
                        struck = True
    return hardest if struck or hardest == 0 else 2


@compiled
def _draw_clue(kind: int, house: np.ndarray, houses: int, other: np.ndarray, clue: np.ndarray) -> bool:
    """A random clue of this type that is true of `house` and false of `other`; False when a few draws gave none."""
    for _ in range(_DRAWS):
        clue[0] = kind
        clue[1:] = -1
        for k in range(_OPERANDS[kind]):
            clue[1 + k] = np.random.randint(house.size)
        a, b, c = clue[1], clue[2], clue[3]
        if a in (b, c) or (b == c and b >= 0):
            continue
        if kind <= INEQUALITY and a // houses == b // houses:
            continue
        if holds(clue, house) and not holds(clue, other):
            if kind in (EQUALITY, INEQUALITY, NEIGHBOR):
                clue[1], clue[2] = min(a, b), max(a, b)
            elif kind == BETWEEN:
                clue[2], clue[3] = min(b, c), max(b, c)
            return True
    return False


@compiled
def _draw_puzzle(houses: int, house: np.ndarray, domain: np.ndarray, clues: np.ndarray) -> int:
    """Fill `clues` with a minimal set of them that leaves no solution but `house` within the domains.

    Clues are drawn, all types alike, each to rule out a solution that the ones before allow. Then those that the rest
    make redundant are dropped, in random order. Returns their number, or -1 when `clues` has too few rows.
    """
    other = np.empty(house.size, np.int64)
    count = 0
    while search(clues[:count], domain, houses, 1, house, True, other):
        if count == clues.shape[0]:
            return -1
        while not _draw_clue(np.random.randint(PADDING), house, houses, other, clues[count]):
            pass
        count += 1
    for i in np.random.permutation(count):
        kept = clues[i].copy()
        clues[i, 0] = PADDING
        if search(clues[:count], domain, houses, 1, house, False, other):
            clues[i] = kept
    left = 0
    for i in range(count):
        if clues[i, 0] != PADDING:
            clues[left] = clues[i]
            left += 1
    return left


@compiled
def generate_many(
    houses: int, attributes: int, slots: int, givens: int, wanted: int, seeds: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Minimal puzzles for N seeds: clues (N, slots, 4), solutions (N, values), given values bool (N, values), grades (N,).

    `givens` values are given their house before clues are drawn. A puzzle that needs more than `slots` clues, or whose grade
    is not `wanted` (-1 for any), is drawn again. When thousands of draws gave none, its grade and all after it are -1.
    """
    count, values = seeds.size, houses * attributes
    clues = np.full((count, slots, 4), -1)
    clues[:, :, 0] = PADDING
    solutions = np.empty((count, values), np.int64)
    given = np.zeros((count, values), np.bool_)
    grades = np.full(count, -1)
    drawn = np.empty((4 * values, 4), np.int64)
    for i in range(count):
        np.random.seed(seeds[i])
        house = solutions[i]
        for _ in range(_ATTEMPTS):
            for first in range(0, values, houses):
                house[first : first + houses] = np.random.permutation(houses)
            shown = np.random.permutation(values)[:givens]
            domain = np.full(values, (1 << houses) - 1)
            for v in shown:
                domain[v] = 1 << house[v]
            needed = _draw_puzzle(houses, house, domain, drawn)
            if 0 <= needed <= slots:
                found = grade(drawn[:needed], domain, houses)
                if wanted < 0 or found == wanted:
                    clues[i, :needed] = drawn[:needed]
                    given[i][shown] = True
                    grades[i] = found
                    break
        if grades[i] < 0:
            break
    return clues, solutions, given, grades
