"""Sudoku as a constraint problem: solve, count, generate, grade. Grids are flat `int8` arrays, 0 = blank.

Everything here is compiled by numba and works for any box size `b` (a grid of `n = b * b` rows): 2, 3 or 4.
Candidates of a cell are the bits 1..n of an integer. Every random choice comes from a seed given per puzzle, so
puzzle `i` of a set does not depend on how many were asked for.
"""

import numpy as np

from anyorder.compiled import compiled

TECHNIQUES = ("naked single", "hidden single", "locked candidate", "naked pair", "naked triple", "search")
"""Difficulty labels, from easy to hard: the hardest technique that a grid needs. `search` means none of these is enough."""

_NODE_LIMIT = 200_000


@compiled
def houses(box: int) -> np.ndarray:
    """Rows, columns and boxes as an array (3n, n) of cell numbers."""
    n = box * box
    out = np.empty((3 * n, n), np.int64)
    for i in range(n):
        for j in range(n):
            out[i, j] = i * n + j
            out[n + i, j] = j * n + i
            out[2 * n + i, j] = ((i // box) * box + j // box) * n + (i % box) * box + j % box
    return out


@compiled
def _popcount(bits: int) -> int:
    count = 0
    while bits:
        bits &= bits - 1
        count += 1
    return count


@compiled
def _used(grid: np.ndarray, box: int, rows: np.ndarray, cols: np.ndarray, boxes: np.ndarray) -> bool:
    """Fill the bit sets of used digits. False when two equal digits share a house."""
    n = box * box
    rows[:] = 0
    cols[:] = 0
    boxes[:] = 0
    for cell in range(n * n):
        if grid[cell]:
            r, c = cell // n, cell % n
            k = (r // box) * box + c // box
            bit = 1 << grid[cell]
            if (rows[r] | cols[c] | boxes[k]) & bit:
                return False
            rows[r] |= bit
            cols[c] |= bit
            boxes[k] |= bit
    return True


@compiled
def _toggle(cell: int, bit: int, box: int, rows: np.ndarray, cols: np.ndarray, boxes: np.ndarray) -> None:
    """Enter a digit, as a bit, into the sets of used digits of the houses of a cell, or take it out of them."""
    r, c = cell // (box * box), cell % (box * box)
    rows[r] ^= bit
    cols[c] ^= bit
    boxes[(r // box) * box + c // box] ^= bit


@compiled
def _is_lost(grid: np.ndarray, box: int, rows: np.ndarray, cols: np.ndarray, boxes: np.ndarray, open_: np.ndarray) -> bool:
    """Has some digit no place left in a row, column or box? From the sets of used digits; `open_` (3, n) is overwritten."""
    n = box * box
    every = ((1 << n) - 1) << 1
    open_[0] = rows
    open_[1] = cols
    open_[2] = boxes
    for cell in range(n * n):
        if grid[cell] == 0:
            r, c = cell // n, cell % n
            k = (r // box) * box + c // box
            bits = every & ~(rows[r] | cols[c] | boxes[k])
            open_[0, r] |= bits
            open_[1, c] |= bits
            open_[2, k] |= bits
    for kind in range(3):
        for number in range(n):
            if open_[kind, number] != every:
                return True
    return False


@compiled
def _search(
    grid: np.ndarray, box: int, limit: int, node_limit: int, randomize: bool, solution: np.ndarray, look: bool = False
) -> tuple[int, int]:
    """Depth-first search on the cell with the fewest candidates: (solutions found up to `limit`, nodes spent).

    The last solution found is left in `solution`; `grid` is unchanged when the search runs to its end or its limit. With `look`
    it turns back where a digit has no place left, before it tries several digits: fewer nodes, in the same order. The generator
    does without, since its puzzles depend on the nodes spent.
    """
    n = box * box
    size = n * n
    every = ((1 << n) - 1) << 1
    rows, cols, boxes = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    if not _used(grid, box, rows, cols, boxes):
        return 0, 0
    work = grid.copy()
    open_ = np.empty((3, n), np.int64)
    stack_cell = np.empty(size, np.int64)
    stack_left = np.empty(size, np.int64)
    depth, found, nodes = 0, 0, 0
    descend = True
    while True:
        if descend:
            nodes += 1
            best, fewest, best_bits = -1, n + 1, 0
            for cell in range(size):
                if work[cell] == 0:
                    r, c = cell // n, cell % n
                    bits = every & ~(rows[r] | cols[c] | boxes[(r // box) * box + c // box])
                    count = _popcount(bits)
                    if count < fewest:
                        best, fewest, best_bits = cell, count, bits
                        if count <= 1:
                            break
            if best < 0:
                found += 1
                solution[:] = work
                if found >= limit:
                    return found, nodes
            elif fewest == 1 or (fewest > 1 and not (look and _is_lost(work, box, rows, cols, boxes, open_))):
                stack_cell[depth] = best
                stack_left[depth] = best_bits
                depth += 1
            if nodes >= node_limit:
                return found, nodes
        # Try the next digit of the cell on top of the stack; step back when it has none left.
        if depth == 0:
            return found, nodes
        cell = stack_cell[depth - 1]
        if work[cell]:
            _toggle(cell, 1 << work[cell], box, rows, cols, boxes)
            work[cell] = 0
        left = stack_left[depth - 1]
        if left == 0:
            depth -= 1
            descend = False
            continue
        skip = np.random.randint(_popcount(left)) if randomize else 0
        pick = left
        for _ in range(skip):
            pick &= pick - 1
        bit = pick & -pick
        stack_left[depth - 1] = left ^ bit
        digit = 0
        while (1 << digit) != bit:
            digit += 1
        work[cell] = digit
        _toggle(cell, bit, box, rows, cols, boxes)
        descend = True


@compiled
def count_solutions(grid: np.ndarray, box: int, limit: int, solution: np.ndarray) -> int:
    """Number of completions of `grid`, counted up to `limit`; the last one found is left in `solution`.

    Returns -1 when the search was given up after 200,000 nodes without reaching `limit`.
    """
    found, nodes = _search(grid, box, limit, _NODE_LIMIT, False, solution, True)
    if found < limit and nodes >= _NODE_LIMIT:
        return -1
    return found


@compiled
def _random_solution(box: int) -> np.ndarray:
    n = box * box
    empty = np.zeros(n * n, np.int8)
    solution = np.zeros(n * n, np.int8)
    while _search(empty, box, 1, 40 * n * n, True, solution)[0] == 0:
        pass
    return solution


@compiled
def _only_digit(grid: np.ndarray, box: int, cell: int, digit: int, node_limit: int, scratch: np.ndarray) -> bool:
    """Is `digit` the only value of the blank `cell` that some completion of `grid` has? False when in doubt."""
    n = box * box
    rows, cols, boxes = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    _used(grid, box, rows, cols, boxes)
    r, c = cell // n, cell % n
    taken = rows[r] | cols[c] | boxes[(r // box) * box + c // box]
    for other in range(1, n + 1):
        if other == digit or (taken >> other) & 1:
            continue
        grid[cell] = other
        found, nodes = _search(grid, box, 1, node_limit, False, scratch)
        grid[cell] = 0
        if found or nodes >= node_limit:
            return False
    return True


@compiled
def generate_one(box: int, givens: int, seed: int, unique: bool, puzzle: np.ndarray, solution: np.ndarray) -> int:
    """A random puzzle: clues are dug out in random order, if `unique` only while the solution stays the only one.

    Digging stops at `givens` clues, or when no clue can go (the puzzle is then minimal). Returns the number of clues.
    """
    np.random.seed(seed)
    solution[:] = _random_solution(box)
    puzzle[:] = solution
    clues = puzzle.size
    scratch = np.zeros(puzzle.size, np.int8)
    node_limit = 2_000 if box > 3 else _NODE_LIMIT
    for cell in np.random.permutation(puzzle.size):
        if clues <= givens:
            break
        puzzle[cell] = 0
        if not unique or _only_digit(puzzle, box, cell, solution[cell], node_limit, scratch):
            clues -= 1
        else:
            puzzle[cell] = solution[cell]
    return clues


@compiled
def _candidates(grid: np.ndarray, box: int) -> np.ndarray:
    n = box * box
    rows, cols, boxes = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    _used(grid, box, rows, cols, boxes)
    every = ((1 << n) - 1) << 1
    out = np.zeros(n * n, np.int64)
    for cell in range(n * n):
        if grid[cell] == 0:
            r, c = cell // n, cell % n
            out[cell] = every & ~(rows[r] | cols[c] | boxes[(r // box) * box + c // box])
    return out


@compiled
def _place(grid: np.ndarray, cand: np.ndarray, house: np.ndarray, box: int, cell: int, bit: int) -> None:
    n = box * box
    digit = 0
    while (1 << digit) != bit:
        digit += 1
    grid[cell] = digit
    cand[cell] = 0
    r, c = cell // n, cell % n
    for h in (r, n + c, 2 * n + (r // box) * box + c // box):
        for other in house[h]:
            cand[other] &= ~bit


@compiled
def _naked_single(grid: np.ndarray, cand: np.ndarray, house: np.ndarray, box: int) -> bool:
    moved = False
    for cell in range(grid.size):
        if grid[cell] == 0 and _popcount(cand[cell]) == 1:
            _place(grid, cand, house, box, cell, cand[cell])
            moved = True
    return moved


@compiled
def _hidden_single(grid: np.ndarray, cand: np.ndarray, house: np.ndarray, box: int) -> bool:
    moved = False
    for h in range(house.shape[0]):
        once, twice = 0, 0
        for cell in house[h]:
            twice |= once & cand[cell]
            once |= cand[cell]
        single = once & ~twice
        for cell in house[h]:
            if grid[cell] == 0 and cand[cell] & single:
                bit = cand[cell] & single
                _place(grid, cand, house, box, cell, bit & -bit)
                moved = True
    return moved


@compiled
def _locked_candidate(cand: np.ndarray, house: np.ndarray) -> bool:
    """A digit that one house keeps only inside its crossing with another leaves the rest of that other house."""
    moved = False
    for a in range(house.shape[0]):
        for b in range(house.shape[0]):
            if a == b:
                continue
            inside, outside = 0, 0
            crossing = 0
            for cell in house[a]:
                shared = False
                for other in house[b]:
                    if other == cell:
                        shared = True
                if shared:
                    inside |= cand[cell]
                    crossing += 1
                else:
                    outside |= cand[cell]
            locked = inside & ~outside
            if crossing < 2 or locked == 0:
                continue
            for cell in house[b]:
                shared = False
                for other in house[a]:
                    if other == cell:
                        shared = True
                if not shared and cand[cell] & locked:
                    cand[cell] &= ~locked
                    moved = True
    return moved


@compiled
def _strike(cand: np.ndarray, cells: np.ndarray, kept: int) -> bool:
    """Remove the digits `kept` from the cells that have candidates outside it."""
    moved = False
    for cell in cells:
        if cand[cell] & kept and cand[cell] & ~kept:
            cand[cell] &= ~kept
            moved = True
    return moved


@compiled
def _naked_set(cand: np.ndarray, house: np.ndarray, size: int) -> bool:
    """Two (or three) cells of a house that hold only two (three) digits between them keep these to themselves."""
    n = house.shape[1]
    for h in range(house.shape[0]):
        cells = house[h]
        for i in range(n):
            if cand[cells[i]] == 0:
                continue
            for j in range(i + 1, n):
                if cand[cells[j]] == 0:
                    continue
                pair = cand[cells[i]] | cand[cells[j]]
                if size == 2:
                    if _popcount(pair) == 2 and _strike(cand, cells, pair):
                        return True
                    continue
                for k in range(j + 1, n):
                    if cand[cells[k]] == 0:
                        continue
                    triple = pair | cand[cells[k]]
                    if _popcount(triple) == 3 and _strike(cand, cells, triple):
                        return True
    return False


@compiled
def grade(puzzle: np.ndarray, box: int) -> int:
    """Index into `TECHNIQUES` of the hardest technique that the puzzle needs when easier ones are always tried first."""
    grid = puzzle.copy()
    house = houses(box)
    cand = _candidates(grid, box)
    hardest = 0
    while True:
        blank = False
        for cell in range(grid.size):
            if grid[cell] == 0:
                blank = True
        if not blank:
            return hardest
        if _naked_single(grid, cand, house, box):
            continue
        if _hidden_single(grid, cand, house, box):
            hardest = max(hardest, 1)
        elif _locked_candidate(cand, house):
            hardest = max(hardest, 2)
        elif _naked_set(cand, house, 2):
            hardest = max(hardest, 3)
        elif _naked_set(cand, house, 3):
            hardest = max(hardest, 4)
        else:
            return 5


@compiled
def generate_many(
    box: int, givens: np.ndarray, seeds: np.ndarray, unique: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Puzzles (N, n*n), solutions (N, n*n), clue counts (N,) and grades (N,) for N seeds."""
    n = seeds.size
    cells = box**4
    puzzles = np.zeros((n, cells), np.int8)
    solutions = np.zeros((n, cells), np.int8)
    clues = np.zeros(n, np.int64)
    grades = np.zeros(n, np.int64)
    for i in range(n):
        clues[i] = generate_one(box, givens[i], seeds[i], unique, puzzles[i], solutions[i])
        grades[i] = grade(puzzles[i], box)
    return puzzles, solutions, clues, grades
