"""Sudoku of box size 2 (4x4), 3 (9x9) or 4 (16x16): generator, encodings, file formats, checker.

Layouts:
    infill: one token per cell, token = digit, 0 = mask (and blank). V = n + 1, L = n * n.
    prefix: the paper's (Ye et al. 2024): puzzle with 0 for blanks, [SEP], all cells again, [EOS]; vocabulary 31. Every
        cell of the second grid is generated, givens too. L = 2 * n * n + 2 (164 for 9x9).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from anyorder.errors import BadInput, truth
from anyorder.files import open_text
from anyorder.registry import TASKS
from anyorder.relations import Relation, same
from anyorder.signatures import checked
from anyorder.tasks.base import CheckResult, Instances, Task
from anyorder.tasks.drawing import Drawing
from anyorder.tasks.generation import per_instance_seeds, range_of
from anyorder.tasks.instances import cell_accuracy, joined, whole
from anyorder.tasks.problem_files import FIRST_LINES, Unreadable, collect, json_line
from anyorder.tasks.sudoku_classes import in_half
from anyorder.tasks.sudoku_files import Grid, alphabet_of, alphabets, box_of, digits_of, read_grids, signs_of
from anyorder.tasks.sudoku_nearest import nearest_solutions
from anyorder.tasks.sudoku_rules import TECHNIQUES, count_solutions, generate_many, houses
from anyorder.tasks.vocabulary import EOS, MASK, SEP, YE_VOCABULARY

_NEAREST_STEPS = 2_000


@TASKS.register("sudoku")
class Sudoku(Task):
    """Sudoku with one solution per puzzle.

    Args:
        box: box size b; the grid has n = b * b rows.
        layout: "infill" or "prefix" (see the module).
        digits: how they are written, in files and in answers: "1-9", "A-I", and for box size 4 "1-G", "A-P", "0-F", "1-16" or
            "0-15"; found out from each file, and 1-9 or 1-G in answers, if not given.
    """

    difficulty_order: ClassVar[tuple[str, ...]] = TECHNIQUES
    file_suffix: ClassVar[str] = ".jsonl"

    @checked("digits")
    def __init__(self, box: int = 3, layout: str = "infill", digits: str | Sequence[int] = "") -> None:
        if box not in (2, 3, 4):
            raise BadInput(f"box size {box!r} is not supported: use 2 (4x4), 3 (9x9) or 4 (16x16)")
        if layout not in ("infill", "prefix"):
            raise BadInput(f"layout {layout!r} is unknown: use 'infill' or 'prefix'")
        if layout == "prefix" and box > 3:
            raise BadInput("the prefix layout spells one digit per token of the paper's vocabulary: box size 2 or 3")
        self.box = box
        self.layout = layout
        self.side = box * box
        self.cells = self.side**2
        infill = layout == "infill"
        self.vocab_size = self.side + 1 if infill else len(YE_VOCABULARY)
        self.mask_token_id = 0 if infill else MASK
        self.length = self.cells if infill else 2 * self.cells + 2
        self._zero = 0 if infill else YE_VOCABULARY.index("0")
        # the command line reads 1-9 as a range, which JSON keeps as a list
        self.digits = digits if isinstance(digits, str) else "-".join(map(str, digits))
        known = alphabets(self.side)
        if self.digits and self.digits not in known:
            raise BadInput(f"digits {self.digits!r} is unknown: use one of {', '.join(known)}")
        self._signs = list(known[self.digits or next(iter(known))])

    @property
    def options(self) -> dict[str, Any]:
        """The arguments that make this task again; without `digits` if they are found out."""
        return {"box": self.box, "layout": self.layout, **({"digits": self.digits} if self.digits else {})}

    def serves(self, other: Task) -> bool:
        """A denoiser serves its size and layout, however digits are written."""
        return isinstance(other, Sudoku) and (other.box, other.layout) == (self.box, self.layout)

    @staticmethod
    def options_of(first_lines: Callable[[], str] | None, text: str | None) -> dict[str, Any]:
        """The box size that a file (read line by line) or a puzzle typed as text has; {} when it is not clear."""
        lines = islice(iter(first_lines, ""), FIRST_LINES) if first_lines else [text or ""]
        box = box_of("".join(lines))
        return {"box": box} if box else {}

    def relations(self) -> Mapping[str, Relation]:
        """row, column, box; in the prefix layout a cell of the puzzle and its twin in the answer count as one place."""
        cell = torch.arange(self.cells)
        row, column = cell // self.side, cell % self.side
        labels = {"row": row, "column": column, "box": row // self.box * self.box + column // self.box}
        if self.layout == "prefix":
            ends = torch.tensor([self.side, self.side + 1])
            labels = {name: torch.cat([v, ends[:1], v, ends[1:]]) for name, v in labels.items()}
        return {name: same(values) for name, values in labels.items()}

    # ---- generation -----------------------------------------------------------------------------------------------

    def generate(
        self,
        count: int,
        seed: int,
        givens: int | tuple[int, int] = 0,
        difficulty: str | None = None,
        unique: bool = True,
        half: str | None = None,
    ) -> Instances:
        """Fresh puzzles.

        Args:
            count: how many.
            seed: puzzle i depends on seed and i only.
            givens: clues to leave, or a range (low, high) drawn from uniformly. 0, or fewer than a puzzle can lose,
                gives minimal puzzles: no clue can go (about 24 clues for 9x9).
            difficulty: keep only puzzles whose hardest technique is this one (see `TECHNIQUES`).
            unique: every puzzle has one solution. Otherwise random cells are blanked, as in the 4x4 set of d1.
            half: keep only 4x4 puzzles of the first or the second half of all classes up to symmetry, so that an order can be
                trained on one half and tested on the other.
        """
        if difficulty is not None and difficulty not in TECHNIQUES:
            raise BadInput(f"difficulty {difficulty!r} is unknown: use one of {', '.join(TECHNIQUES)}")
        low, high = range_of("givens", givens)
        if not 0 <= low <= high <= self.cells:
            raise BadInput(f"givens {givens} must lie between 0 and {self.cells}, low end first")
        if half is not None:
            in_half(np.zeros((0, self.cells), np.int64), half)  # which refuses what it does not know
        filtered = difficulty is not None or half is not None
        per_instance_seeds(seed, count)  # which refuses what is no number of problems
        parts: list[Instances] = []
        found, start = 0, 0
        while found < count:
            batch = max(count - found, 64) if filtered else count - found
            part = self._generate_batch(per_instance_seeds(seed, batch, start), low, high, unique)
            if difficulty is not None:
                part = part[part.labels["difficulty"] == difficulty]
            if half is not None:
                part = part[torch.from_numpy(in_half(self._puzzle_grid(part.tokens).numpy(), half))]
            parts.append(part)
            start, found = start + batch, found + len(part)
            if filtered and start >= 5_000 and found == 0:
                asked = [f"needs {difficulty!r}"] * (difficulty is not None) + [f"is in the {half} half"] * (half is not None)
                raise BadInput(f"none of {start} puzzles with {givens} givens {' and '.join(asked)}: choose other givens")
        return joined(parts)[slice(0, count)]

    def _generate_batch(self, seeds: np.ndarray, low: int, high: int, unique: bool) -> Instances:
        unique = truth("unique", unique)
        clues_wanted = low + (seeds >> 8) % (high - low + 1)
        puzzles, solutions, clues, grades = generate_many(self.box, clues_wanted, seeds, unique)
        labels = {"givens": clues, "difficulty": np.array(TECHNIQUES)[grades]}
        return self.encode(puzzles, solutions, labels)

    def augment(self, x0: Tensor, tokens: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Relabel digits, permute rows within bands, bands, columns within stacks, stacks, and transpose, per row of B."""
        grids, puzzles = self._grid(x0), self._puzzle_grid(tokens)
        batch, n, b = grids.shape[0], self.side, self.box
        digits = np.concatenate([np.zeros((batch, 1)), rng.random((batch, n)).argsort(axis=1) + 1], axis=1)
        lines = []
        for _ in range(2):
            bands = rng.random((batch, b)).argsort(axis=1)
            within = rng.random((batch, b, b)).argsort(axis=2)
            lines.append((bands[:, :, None] * b + within).reshape(batch, n))
        source = lines[0][:, :, None] * n + lines[1][:, None, :]
        source = np.where(rng.random(batch)[:, None, None] < 0.5, source.transpose(0, 2, 1), source)
        moved, relabel = torch.from_numpy(source.reshape(batch, -1)), torch.from_numpy(digits.astype(np.int64))
        grids, puzzles = (relabel.gather(1, grid.gather(1, moved)) for grid in (grids, puzzles))
        out = self._encode(puzzles, grids)
        assert out.x0 is not None
        return out.x0, out.tokens

    # ---- encoding -------------------------------------------------------------------------------------------------

    def encode(
        self, puzzles: np.ndarray, solutions: np.ndarray | None = None, labels: Mapping[str, np.ndarray] | None = None
    ) -> Instances:
        """Instances from digit grids (N, n*n), 0 = blank."""
        encoded = self._encode(
            torch.from_numpy(puzzles.astype(np.int64)),
            None if solutions is None else torch.from_numpy(solutions.astype(np.int64)),
        )
        return Instances(encoded.tokens, encoded.maskable, encoded.x0, dict(labels or {}))

    def _encode(self, puzzles: Tensor, solutions: Tensor | None) -> Instances:
        if self.layout == "infill":
            return Instances(puzzles, puzzles == 0, solutions)
        count = puzzles.shape[0]
        separator, end = torch.full((count, 1), SEP), torch.full((count, 1), EOS)
        prefix = torch.cat([puzzles + self._zero, separator], dim=1)
        maskable = torch.zeros(count, self.length, dtype=torch.bool)
        maskable[:, self.cells + 1 :] = True  # the answer and its end; givens are generated again
        tokens = torch.cat([prefix, torch.full((count, self.cells + 1), MASK)], dim=1)
        x0 = None if solutions is None else torch.cat([prefix, solutions + self._zero, end], dim=1)
        return Instances(tokens, maskable, x0)

    def _grid(self, tokens: Tensor) -> Tensor:
        """Digits (N, n*n) of the answer; -1 or less for what is not a digit."""
        return tokens if self.layout == "infill" else tokens[:, self.cells + 1 : -1] - self._zero

    def _puzzle_grid(self, tokens: Tensor) -> Tensor:
        return tokens if self.layout == "infill" else tokens[:, : self.cells] - self._zero

    # ---- reading and writing --------------------------------------------------------------------------------------

    def load(self, path: str | Path, limit: int | None = None, unreadable: Unreadable | None = None) -> Instances:
        """Puzzles, perhaps with solutions and ratings, in all layouts of `sudoku_files`. Every puzzle must have a solution;
        where the file gives none it is computed, and x0 is None if a puzzle has several. A puzzle that is not decided within
        200,000 nodes of the search counts as one with several.

        Raises:
            BadInput: no such file, another layout, or a puzzle that cannot be read or contradicts itself, or whose rating is no
                finite number; the error says which.
        """
        unreadable = unreadable or Unreadable()
        with open_text(path, newline="") as file:
            problems = list(islice(read_grids(file, self.box), limit if self.box < 4 and not unreadable.skip else None))
        with Unreadable().at(str(path)):
            digits = self._alphabet([grid for _, read in problems if (grid := _or_none(read)) is not None])
        found = collect(
            path, ((where, partial(self._row, read, digits)) for where, read in problems), limit, "puzzles", unreadable
        )
        grids, solutions = np.stack([row[0] for row in found]), [row[1] for row in found]
        labels: dict[str, np.ndarray] = {"givens": (grids > 0).sum(axis=1)}
        ratings = [rating for _, _, rating in found if rating is not None]
        if 0 < len(ratings) < len(found):
            missing = f"{len(found) - len(ratings)} of {len(found)} puzzles have no rating"
            raise BadInput(f"{path}: {missing}: all must have one, or none")
        if ratings:
            labels["rating"] = np.array(ratings)
        known = [solution for solution in solutions if solution is not None]
        return self.encode(grids, np.stack(known) if len(known) == len(solutions) else None, labels)

    def parse(self, text: str) -> Instances:
        """One puzzle, in one line or several, as in a file. It must have a solution.

        Raises:
            BadInput: wrong length, wrong character, a digit twice in a house, or no solution.
        """
        grid = Grid(signs_of(text, self.side))
        puzzle, solution, _ = self._row(lambda: grid, self._alphabet([grid]))
        return self.encode(puzzle[None], None if solution is None else solution[None], {"givens": (puzzle > 0).sum()[None]})

    def _alphabet(self, grids: list[Grid]) -> dict[str, int]:
        return alphabets(self.side)[self.digits] if self.digits else alphabet_of(grids, self.side)

    def _row(self, read: Callable[[], Grid], digits: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray | None, float | None]:
        """Puzzle, solution if there is only one or the file has it, and rating."""
        grid = read()
        puzzle = digits_of(grid.signs, digits, self.side)
        if grid.solution is not None:
            return puzzle, self._solution(grid.solution, puzzle, digits), grid.rating
        solution = np.zeros_like(puzzle)
        found = count_solutions(puzzle, self.box, 2, solution)
        if found == 0:
            self._no_clash(puzzle, "puzzle", digits)
            raise BadInput("this puzzle has no solution")
        return puzzle, solution if found == 1 else None, grid.rating

    def _solution(self, signs: Sequence[str], puzzle: np.ndarray, digits: Mapping[str, int]) -> np.ndarray:
        solution = digits_of(signs, digits, self.side)
        if ((puzzle > 0) & (puzzle != solution)).any() or (solution == 0).any():
            self._no_clash(puzzle, "puzzle", digits)
            raise BadInput("the solution does not complete the puzzle")
        self._no_clash(solution, "solution", digits)
        return solution

    def _no_clash(self, grid: np.ndarray, what: str, signs: Iterable[str]) -> None:
        kinds = ("row", "column", "box")
        for number, house in enumerate(houses(self.box)):
            digits = grid[house][grid[house] > 0]
            if len(set(digits.tolist())) < len(digits):
                twice = list(signs)[next(d for d in digits if (digits == d).sum() > 1) - 1]
                where = f"{kinds[number // self.side]} {number % self.side + 1}"
                raise BadInput(f"the {what} has the digit {twice} twice in {where}: it has no solution")

    def problem_text(self, tokens: Tensor) -> str:
        """The puzzle (L,) as one line of digits, 0 for a blank (a dot if 0 is a digit)."""
        blank = "." if "0" in self._signs else "0"
        signs = [blank, *self._signs]
        return self._join([signs[digit] for digit in self._puzzle_grid(tokens[None])[0].tolist()])

    def file_line(self, tokens: Tensor, solution: Tensor | None) -> str:
        """Puzzle and solution as JSON."""
        return json_line(puzzle=self.problem_text(tokens), solution=None if solution is None else self.format(solution))

    def _join(self, texts: list[str]) -> str:
        return ("" if max(map(len, self._signs)) == 1 else " ").join(texts)

    def format(self, tokens: Tensor) -> str:
        """The answer as one line of digits; '.' for what is still masked and '?' for what is no digit."""
        blank = -1 if self.layout == "infill" else self._zero  # a blank of the puzzle is no answer
        return self._join(["?" if token == blank else self.token_text(token) for token in self._answer(tokens).tolist()])

    def _answer(self, tokens: Tensor) -> Tensor:
        return tokens if self.layout == "infill" else tokens[..., self.cells + 1 : -1]

    def drawing(self) -> Drawing:
        """The grid that is filled."""
        start = 0 if self.layout == "infill" else self.cells + 1
        return Drawing(
            kind="grid", rows=self.side, columns=self.side, box=self.box, cells=list(range(start, start + self.cells))
        )

    def token_text(self, token: int) -> str:
        """A digit, '.' for the mask and for a blank of the puzzle, '?' for what is none."""
        digit = token - self._zero
        if token == self.mask_token_id or digit == 0:
            return "." if token == self.mask_token_id else "0"
        return self._signs[digit - 1] if 1 <= digit <= self.side else "?"

    # ---- checking -------------------------------------------------------------------------------------------------

    def dead_ends(self, instances: Instances, states: Tensor) -> Tensor:
        """Whether it is proven that no solution completes a partly filled grid (N, L), bool (N,)."""
        puzzle = self._puzzle_grid(instances.tokens)
        masked = self._answer(states) == self.mask_token_id
        grid = torch.where(masked, puzzle, self._grid(states))
        legal = (((grid >= 1) & (grid <= self.side)) | masked) & ((puzzle == 0) | (puzzle == grid))
        solution = np.zeros(self.cells, dtype=np.int8)
        found = [count_solutions(row, self.box, 1, solution) for row in grid.clamp(0, self.side).numpy().astype(np.int8)]
        return (torch.tensor(found) == 0) | ~legal.all(dim=1)

    def nearest_solutions(self, instances: Instances, tokens: Tensor, certain: Tensor) -> Tensor:
        """See `Task`. The nearest solution, found by branch and bound; the best one of 2,000 steps of it for large grids."""
        assert instances.x0 is not None
        grid, puzzle = self._grid(tokens), self._puzzle_grid(instances.tokens)
        wished = torch.where((grid >= 1) & (grid <= self.side), grid, 0)
        weights = torch.where(self._answer(certain), self.cells + 1, 1) * (wished > 0)
        solutions = self._grid(instances.x0).numpy().astype(np.int64)
        nearest_solutions(puzzle.numpy(), self.box, wished.numpy(), weights.numpy(), solutions, _NEAREST_STEPS)
        found = instances.x0.clone()
        self._answer(found)[:] = torch.from_numpy(solutions) + self._zero
        return found

    def check(self, instances: Instances, tokens: Tensor) -> CheckResult:
        """By the rules: all givens kept, and every row, column and box holds every digit.

        Cell accuracy is the share of blanks equal to the stored solution where one is known; otherwise the share of
        blanks that clash with no other cell.
        """
        grid, puzzle = self._grid(tokens), self._puzzle_grid(instances.tokens)
        legal = (grid >= 1) & (grid <= self.side)
        digit = torch.where(legal, grid, 0)
        house = torch.from_numpy(houses(self.box))
        counts = torch.nn.functional.one_hot(digit[:, house], self.side + 1).sum(dim=2)[..., 1:]  # (N, 3n, n)
        complete = (counts == 1).all(dim=2).all(dim=1)
        kept = ((puzzle == 0) | (puzzle == grid)).all(dim=1) & whole(instances, tokens, self.mask_token_id)
        if instances.x0 is not None:
            right = grid == self._grid(instances.x0)
        else:
            clash = torch.zeros_like(legal)
            for index in range(house.shape[0]):
                seen = counts[:, index].gather(1, (digit[:, house[index]] - 1).clamp(min=0))
                clash[:, house[index]] |= seen > 1
            right = legal & ~clash
        blanks = Instances(puzzle, puzzle == 0)
        return CheckResult(complete & kept & legal.all(dim=1), cell_accuracy(blanks, right))


def _or_none(read: Callable[[], Grid]) -> Grid | None:
    try:
        return read()
    except ValueError:  # collected, or raised, when it is read again
        return None
