"""4x4 puzzles up to symmetry.

There are few: 1,175 classes with 8 random clues. A training set of thousands shows nearly every class in many forms, so
a test on other puzzles may measure memory. A control trains on one half of the classes and tests on the other.
"""

import itertools

import numpy as np

from anyorder.errors import BadInput

HALVES = ("first", "second")


def classes_of(puzzles: np.ndarray) -> np.ndarray:
    """A number for each 4x4 puzzle (N, 16), 0 where it is empty: equal for puzzles that differ in the names of the digits, the
    order of rows within a band, of bands, of columns likewise, or by transposition. int64 (N,)."""
    lines = [line for line in itertools.permutations(range(4)) if line[0] // 2 == line[1] // 2]
    cells, least = np.arange(16).reshape(4, 4), np.full(len(puzzles), np.iinfo(np.int64).max)
    rows, weights = np.arange(len(puzzles)), 5 ** np.arange(16)[::-1].astype(np.int64)
    for grid, down, across in itertools.product((cells, cells.T), lines, lines):
        moved = puzzles[:, grid[list(down)][:, list(across)].ravel()]
        names = np.zeros((len(moved), 5), np.int64)
        used, number = np.zeros(len(moved), np.int64), np.zeros(len(moved), np.int64)
        for cell, weight in zip(moved.T, weights, strict=True):  # digits get their names in the order in which they occur
            fresh = (cell > 0) & (names[rows, cell] == 0)
            used += fresh
            names[rows[fresh], cell[fresh]] = used[fresh]
            number += weight * names[rows, cell] * (cell > 0)
        least = np.minimum(least, number)
    return least


def in_half(puzzles: np.ndarray, half: str) -> np.ndarray:
    """Whether the class of each 4x4 puzzle (N, 16) is in this half of all classes, "first" or "second", bool (N,). Which half a
    class is in does not depend on the other puzzles.

    Raises:
        BadInput: another word, or puzzles of another size.
    """
    if half not in HALVES:
        raise BadInput(f"half is {half!r}; use one of {', '.join(HALVES)}")
    if puzzles.shape[1] != 16:
        raise BadInput("half is for 4x4 puzzles alone: of larger ones there are more classes than anyone could remember")
    mixed = classes_of(puzzles).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # modulo 2**64
    return (mixed >> np.uint64(63)).astype(np.int64) == HALVES.index(half)  # type: ignore[no-any-return]
