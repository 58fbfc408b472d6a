"""Zebra (Einstein) puzzles: who lives in which house? Generator, encoding, file format, checker.

Each house has one value of every attribute, no two houses share one, and the clues (the seven types of Shah et al. 2024, arXiv
2409.10502; see `zebra_text`) leave one solution. There is no "found at" clue: a value whose house is known from the start is
a given cell of the grid.

Layout: 4 tokens per clue slot (type, a, b, c), then the grid, attribute by attribute, one token per house. Tokens: 0 is the
mask; 1 + attribute * houses + k the k-th value of an attribute; then "none", which stands for an operand that a type does not
have; then the types, the last of them "no clue", for the slots left over at the end.

Files are JSON lines, {"clues": ["A1 << B2", "A3 between C1 and D2", "B4 at 2", ...], "solution": ["A2 B1 C3 D4", ...]}: the
statements of `zebra_text`, and the values of each house from left to right, which are optional.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from anyorder.errors import BadInput
from anyorder.registry import TASKS
from anyorder.relations import Relation, same
from anyorder.signatures import checked
from anyorder.tasks.base import CheckResult, Instances, Task, cell_accuracy
from anyorder.tasks.drawing import Drawing
from anyorder.tasks.generation import per_instance_seeds
from anyorder.tasks.problem_files import SOLUTION, Unreadable, json_line, opening, pick, read_rows
from anyorder.tasks.zebra_rules import TECHNIQUES, all_hold, count_solutions, generate_many, grade
from anyorder.tasks.zebra_text import (
    BETWEEN,
    EQUALITY,
    IMMEDIATE,
    INEQUALITY,
    LEFT,
    NEIGHBOR,
    PADDING,
    name_of,
    read_statement,
    size_of,
    value_of,
    write_clue,
)


@TASKS.register("zebra")
class Zebra(Task):
    """Zebra puzzles with one solution per puzzle.

    Args:
        houses: 3 to 6.
        attributes: 3 to 6.
        slots: most clues that a puzzle can have; enough for 99 % of the generator's when not given.
    """

    difficulty_order: ClassVar[tuple[str, ...]] = TECHNIQUES
    file_suffix: ClassVar[str] = ".jsonl"

    @checked("houses", "attributes", "slots")
    def __init__(self, houses: int = 4, attributes: int = 4, slots: int | None = None) -> None:
        if not (3 <= houses <= 6 and 3 <= attributes <= 6):
            raise BadInput(f"a puzzle has 3 to 6 houses and 3 to 6 attributes, not {houses} and {attributes}")
        self.houses = houses
        self.attributes = attributes
        self.values = houses * attributes
        self.slots = self.values * 3 // 4 + 4 if slots is None else slots
        if self.slots < 1:
            raise BadInput(f"a puzzle needs at least one clue slot, not {self.slots}")
        self.mask_token_id = 0
        self._none = self.values + 1
        self.vocab_size = self._none + 1 + PADDING + 1
        self._grid_start = 4 * self.slots
        self.length = self._grid_start + self.values

    @staticmethod
    def options_of(first_lines: Callable[[], str] | None, text: str | None) -> dict[str, Any]:
        """Houses and attributes that a file (its first line, or list) or a puzzle typed as text names; {} if unclear."""
        houses, attributes = size_of(opening(first_lines) if first_lines else text or "")
        return {"houses": houses, "attributes": attributes} if min(houses, attributes) >= 3 else {}

    def relations(self) -> Mapping[str, Relation]:
        """clue: tokens of one clue. house: cells of one house. attribute: cells of one attribute. mention: an operand and the
        cells of its attribute. value: operands that name one value, and the cell that holds it."""
        place = torch.arange(self.length)
        cell = place - self._grid_start
        in_grid = cell >= 0
        attribute = torch.where(in_grid, cell // self.houses, -1)
        token = torch.arange(self.vocab_size)
        is_value = (token >= 1) & (token <= self.values)
        return {
            "clue": same(torch.where(in_grid, -place - 1, place // 4)),
            "house": same(torch.where(in_grid, cell % self.houses, -place - 1)),
            "attribute": same(torch.where(in_grid, attribute, -place - 1)),
            "mention": Relation(
                in_grid[:, None] != in_grid[None, :], attribute, torch.where(is_value, (token - 1) // self.houses, -1)
            ),
            "value": Relation(
                torch.ones(self.length, self.length, dtype=torch.bool),
                torch.full((self.length,), -1),
                torch.where(is_value, token, -1),
            ),
        }

    def alike(self, other: "Zebra") -> tuple[Tensor, Tensor]:
        """For every token (V,) and position (L,), that of another size of puzzles whose embedding it can start from: values by
        their attribute and number, clues in turn, and houses by where they are from left to right."""
        attribute, number = (part.reshape(-1) for part in torch.meshgrid(
            torch.arange(self.attributes).clamp(max=other.attributes - 1), torch.arange(self.houses), indexing="ij"
        ))  # fmt: skip
        value = attribute * other.houses + number.clamp(max=other.houses - 1)
        others = torch.arange(self.vocab_size - self._none) + other._none  # no operand, and the types of clues
        house = (number * (other.houses - 1) / (self.houses - 1)).round().long()
        clues = torch.arange(self._grid_start) % other._grid_start
        cells = other._grid_start + attribute * other.houses + house
        return torch.cat([torch.zeros(1, dtype=torch.int64), value + 1, others]), torch.cat([clues, cells])

    # ---- encoding -------------------------------------------------------------------------------------------------

    def encode(
        self, clues: np.ndarray, houses: np.ndarray, given: np.ndarray, labels: Mapping[str, np.ndarray] | None = None
    ) -> Instances:
        """Instances from clues (N, slots, 4), the house of every value (N, values), and which of them are given, bool."""
        count = len(clues)
        statements = torch.from_numpy(clues.astype(np.int64))
        operands = torch.where(statements < 0, self._none, statements + 1)
        operands[:, :, 0] = self._none + 1 + statements[:, :, 0]
        by_house = torch.from_numpy(houses.astype(np.int64)).view(count, self.attributes, self.houses).argsort(dim=2)
        value = (by_house + self.houses * torch.arange(self.attributes)[:, None]).view(count, -1)
        x0 = torch.cat([operands.view(count, -1), value + 1], dim=1)
        maskable = torch.zeros_like(x0, dtype=torch.bool)
        maskable[:, self._grid_start :] = ~torch.from_numpy(given).gather(1, value)
        return Instances(x0.masked_fill(maskable, self.mask_token_id), maskable, x0, dict(labels or {}))

    def _clues(self, tokens: Tensor) -> Tensor:
        """Clues (N, slots, 4) of sequences: type, and values or -1."""
        part = tokens[:, : self._grid_start].view(-1, self.slots, 4)
        operands = torch.where(part == self._none, -1, part - 1)
        operands[:, :, 0] = part[:, :, 0] - self._none - 1
        return operands

    def _grid(self, tokens: Tensor) -> Tensor:
        """Value of every cell (N, attributes, houses); -1 for the mask."""
        return tokens[:, self._grid_start :].view(-1, self.attributes, self.houses) - 1

    # ---- generation -----------------------------------------------------------------------------------------------

    def generate(self, count: int, seed: int, givens: int = 0, difficulty: str | None = None) -> Instances:
        """Fresh puzzles in which no clue can go. Labels: `clues`, their number, and `difficulty`.

        Args:
            count: how many.
            seed: puzzle i depends on seed and i only.
            givens: cells of the grid that are given.
            difficulty: keep only puzzles whose hardest technique is this one (see `TECHNIQUES`).
        """
        if difficulty is not None and difficulty not in TECHNIQUES:
            raise BadInput(f"difficulty {difficulty!r} is unknown: use one of {', '.join(TECHNIQUES)}")
        if isinstance(givens, bool) or not isinstance(givens, int) or not 0 <= givens <= self.values:
            raise BadInput(f"givens {givens!r} must be a number from 0 to {self.values}")
        wanted = -1 if difficulty is None else TECHNIQUES.index(difficulty)
        seeds = per_instance_seeds(seed, count)
        clues, houses, given, grades = generate_many(self.houses, self.attributes, self.slots, givens, wanted, seeds)
        if (grades < 0).any():
            what = "" if difficulty is None else f" that need {difficulty!r}"
            raise BadInput(f"puzzles with {givens} givens and at most {self.slots} clues{what} are too rare: choose others")
        return self.encode(clues, houses, given, self._labels(clues, grades))

    def _labels(self, clues: np.ndarray, grades: np.ndarray) -> dict[str, np.ndarray]:
        return {"clues": (clues[:, :, 0] != PADDING).sum(axis=1), "difficulty": np.array(TECHNIQUES)[grades]}

    def augment(self, x0: Tensor, tokens: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Permute attributes, values within attributes and clues, and mirror the street, per row of B."""
        batch = len(x0)
        attribute = torch.from_numpy(rng.random((batch, self.attributes)).argsort(axis=1))
        within = torch.from_numpy(rng.random((batch, self.attributes, self.houses)).argsort(axis=2))
        mirrored = torch.from_numpy(rng.random(batch) < 0.5)[:, None, None]
        order = torch.from_numpy(rng.random((batch, self.slots)))

        rename = (attribute[:, :, None] * self.houses + within).view(batch, -1)
        clues = self._moved(self._clues(tokens), rename, mirrored)
        slot = (order + (clues[:, :, 0] == PADDING)).argsort(dim=1)  # slots without a clue stay at the end
        clues = clues.gather(1, slot[:, :, None].expand(-1, -1, 4))

        street = torch.arange(self.houses)
        column = torch.where(mirrored, self.houses - 1 - street, street).expand(-1, self.attributes, -1)
        value = rename.gather(1, self._grid(x0).gather(2, column).view(batch, -1))  # rows still in their old order
        cell = value.argsort(dim=1)
        given = (self._grid(tokens) >= 0).gather(2, column).view(batch, -1).gather(1, cell)
        houses = cell % self.houses
        out = self.encode(clues.numpy(), houses.numpy(), given.numpy())
        assert out.x0 is not None
        return out.x0, out.tokens

    def _moved(self, clues: Tensor, rename: Tensor, mirrored: Tensor) -> Tensor:
        """Clues (B, slots, 4) in new names (B, values), left and right exchanged where mirrored, bool (B, 1, 1)."""
        kind, operands = clues[:, :, :1], clues[:, :, 1:]
        named = rename.gather(1, operands.clamp(min=0).flatten(1)).view(operands.shape)
        a, b, c = torch.where(operands < 0, -1, named).split(1, dim=2)
        symmetric = (kind == EQUALITY) | (kind == INEQUALITY) | (kind == NEIGHBOR)
        swap = torch.where(symmetric, a > b, mirrored & ((kind == LEFT) | (kind == IMMEDIATE)))
        a, b = torch.where(swap, b, a), torch.where(swap, a, b)
        swap = (kind == BETWEEN) & (b > c)
        b, c = torch.where(swap, c, b), torch.where(swap, b, c)
        return torch.cat([kind, a, b, c], dim=2)

    # ---- reading and writing --------------------------------------------------------------------------------------

    def load(self, path: str | Path, limit: int | None = None, unreadable: Unreadable | None = None) -> Instances:
        """JSON lines (see the module) or a JSON list. Every puzzle must have one solution, and the one stored, if any, must be
        it."""

        def puzzle_of(row: Mapping[str, Any]) -> Instances:
            if not _is_texts(row.get("clues")):
                raise BadInput('expected an object with "clues", a list of texts')
            puzzle, solution = self._puzzle(row["clues"]), pick(row, SOLUTION)
            if solution is not None:
                self._compare(solution, puzzle)
            return puzzle

        puzzles = read_rows(path, limit, puzzle_of, "puzzles", ("clues",), unreadable)
        return Instances(
            torch.cat([puzzle.tokens for puzzle in puzzles]),
            torch.cat([puzzle.maskable for puzzle in puzzles]),
            torch.cat([puzzle.x0 for puzzle in puzzles if puzzle.x0 is not None]),
            {name: np.concatenate([puzzle.labels[name] for puzzle in puzzles]) for name in puzzles[0].labels},
        )

    def problem_text(self, tokens: Tensor) -> str:
        """The clues of a puzzle (L,) and its given cells, with semicolons between them."""
        return "; ".join(self._statements(tokens))

    def file_line(self, tokens: Tensor, solution: Tensor | None) -> str:
        """Clues and solution as JSON."""
        houses = None if solution is None else self.format(solution).split(" | ")
        return json_line(clues=self._statements(tokens), solution=houses)

    def _statements(self, tokens: Tensor) -> list[str]:
        cells = enumerate(self._grid(tokens[None]).flatten().tolist())
        given = [f"{name_of(value, self.houses)} at {cell % self.houses + 1}" for cell, value in cells if value >= 0]
        return self.notes(tokens) + given

    def parse(self, text: str) -> Instances:
        """One puzzle: statements (see `zebra_text`) on lines of their own or between semicolons. It must have one solution.

        Raises:
            BadInput: a statement that is none, an unknown value, too many clues, no solution, or more than one.
        """
        return self._puzzle([statement for statement in re.split(r"[;\n]", text) if statement.strip()])

    def _puzzle(self, statements: Sequence[str]) -> Instances:
        clues, given = [], np.zeros((1, self.values), dtype=bool)
        domain = np.full(self.values, (1 << self.houses) - 1)
        for number, statement in enumerate(statements, start=1):
            try:
                clue = read_statement(statement, self.houses, self.attributes)
            except BadInput as error:
                raise BadInput(f"clue {number}: {error}") from error
            if clue[0] == PADDING:
                given[0, clue[1]] = True
                domain[clue[1]] &= 1 << clue[2]
            else:
                clues.append(clue)
        if len(clues) > self.slots:
            raise BadInput(f"this puzzle has {len(clues)} clues; the task is set up for at most {self.slots}")
        padded = np.array([*clues, *[(PADDING, -1, -1, -1)] * (self.slots - len(clues))])
        houses = np.empty(self.values, np.int64)
        found = count_solutions(padded, domain, self.houses, 2, houses)
        if found != 1:
            raise BadInput("this puzzle has no solution" if found == 0 else "this puzzle has more than one solution")
        labels = self._labels(padded[None], np.array([grade(padded, domain, self.houses)]))
        return self.encode(padded[None], houses[None], given, labels)

    def _compare(self, solution: Any, puzzle: Instances) -> None:
        """Refuse a stored solution that is not the puzzle's."""
        if not _is_texts(solution) or len(solution) != self.houses:
            raise BadInput(f"the solution must be a list of {self.houses} texts, one per house, such as 'A2 B1 C3'")
        assert puzzle.x0 is not None
        for house, (text, column) in enumerate(zip(solution, self._grid(puzzle.x0)[0].T.tolist(), strict=True), start=1):
            if sorted(value_of(name, self.houses, self.attributes) for name in text.split()) != column:
                raise BadInput(f"house {house} of the solution is {text!r}; by the clues it is {self._house(column)!r}")

    def _house(self, column: Sequence[int]) -> str:
        """The values of a house (attributes,), in the order of the attributes."""
        own = [value // self.houses == attribute for attribute, value in enumerate(column)]
        names = zip(own, column, strict=True)
        return " ".join(name_of(value, self.houses) if legal else "." if value < 0 else "?" for legal, value in names)

    def format(self, tokens: Tensor) -> str:
        """The grid as `A2 B1 C3 | A1 ...`, house by house; '.' for what is still masked and '?' for what is no value."""
        return " | ".join(self._house(column) for column in self._grid(tokens[None])[0].T.tolist())

    def drawing(self) -> Drawing:
        """A row for each attribute, a column for each house."""
        return Drawing(
            kind="grid", rows=self.attributes, columns=self.houses,
            cells=list(range(self._grid_start, self.length)),
            row_names=[chr(65 + attribute) for attribute in range(self.attributes)],
            column_names=[f"house {house}" for house in range(1, self.houses + 1)],
        )  # fmt: skip

    def token_text(self, token: int) -> str:
        """The name of a value, '.' for the mask, '?' for what is no value."""
        return name_of(token - 1, self.houses) if 1 <= token <= self.values else "." if token == self.mask_token_id else "?"

    def notes(self, tokens: Tensor) -> list[str]:
        """The clues of a problem (L,), but for the given cells of its grid."""
        return [write_clue(clue, self.houses) for clue in self._clues(tokens[None])[0].tolist() if clue[0] != PADDING]

    # ---- checking -------------------------------------------------------------------------------------------------

    def dead_ends(self, instances: Instances, states: Tensor) -> Tensor:
        """Whether it is proven that no solution completes a partly filled grid (N, L), bool (N,)."""
        clues, found = self._clues(instances.tokens).numpy(), np.empty(self.values, np.int64)
        dead = torch.zeros(len(states), dtype=torch.bool)
        for number, grid in enumerate(self._grid(states).numpy()):
            domain = np.full(self.values, (1 << self.houses) - 1)
            filled = np.argwhere(grid >= 0)
            values = grid[grid >= 0]
            own = (values < self.values) & (values // self.houses == filled[:, 0])
            for value, (_, house) in zip(values[own], filled[own], strict=True):
                domain[value] &= 1 << house
            dead[number] = not own.all() or count_solutions(clues[number], domain, self.houses, 1, found) == 0
        return dead

    def check(self, instances: Instances, tokens: Tensor) -> CheckResult:
        """By the rules: clues and givens unchanged, every attribute has each of its values once, every clue holds.

        Cell accuracy is the share of the generated cells equal to the stored solution where one is known; otherwise the
        share that hold a value of their attribute that no other cell holds.
        """
        count = len(tokens)
        own = torch.arange(self.values).view(self.attributes, 1, self.houses)
        at = self._grid(tokens)[..., None] == own  # (N, attribute, house, value)
        once = at.sum(dim=2) == 1
        house = at.int().argmax(dim=2).view(count, -1)
        holds = torch.from_numpy(all_hold(self._clues(instances.tokens).numpy(), house.numpy()))
        kept = ((instances.tokens == tokens) | instances.maskable).all(dim=1)
        right = torch.zeros_like(instances.maskable)
        right[:, self._grid_start :] = (at & once[:, :, None]).any(dim=3).view(count, -1)
        if instances.x0 is not None:
            right = tokens == instances.x0
        return CheckResult(once.all(dim=2).all(dim=1) & holds & kept, cell_accuracy(instances, right))


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
