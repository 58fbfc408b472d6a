"""Countdown: make a target of n numbers, each used once. Generator, encoding, file formats, checker.

Layout, as Ye et al. 2024: the problem as text, its last number the target, [SEP], the solution `86+28=114,31-13=18,114-18=96`,
[EOS], and [PAD] to the end; vocabulary 31. Everything after [SEP] is generated, [EOS] and [PAD] too, and [SEP] stands where
the problem ends. L = 44, 52, 72 for n = 3, 4, 5: the longest text that numbers to 99 (100 for n = 3) and targets to 100 need.

The generator is that of Stream of Search (Gandhi et al. 2024), from which Ye's files come: a target drawn uniformly, numbers
drawn uniformly from 1 to 99 until they make it, and the solution that a depth-first search finds first. Compared with Ye's
1,000 problems each for n = 3, 4, 5, given their targets: every published solution is the first of this search, and the
quantiles of the numbers and of intermediate results and the shares of + - * / agree (`tests/test_countdown.py`). Each file has
only nine targets (of 10 to 100), which suggests that these were not used for training: leave them out with `exclude`.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from anyorder.errors import BadInput, shorten
from anyorder.registry import TASKS
from anyorder.relations import Relation
from anyorder.signatures import checked
from anyorder.tasks.base import CheckResult, Instances, Task, cell_accuracy
from anyorder.tasks.generation import Span, per_instance_seeds, range_of
from anyorder.tasks.problem_files import PROBLEM, SOLUTION, Unreadable, first_row, json_line, pick, read_rows
from anyorder.tasks.vocabulary import EOS, MASK, PAD, SEP, YE_VOCABULARY

_LENGTHS = {3: 44, 4: 52, 5: 72}
_LARGEST_NUMBER, _LARGEST_TARGET = 99, 100
_NEAR = 4
_SPECIAL = 5
_NUMBERS, _TARGET = (*PROBLEM, "nums", "numbers"), ("target", *SOLUTION)  # columns
_TOKEN = {character: token for token, character in enumerate(YE_VOCABULARY)}


@TASKS.register("countdown")
class Countdown(Task):
    """Countdown: equations that make a target of all given numbers.

    Args:
        numbers: n, how many are given: 3, 4 or 5.
    """

    file_suffix: ClassVar[str] = ".jsonl"

    @checked("numbers")
    def __init__(self, numbers: int = 4) -> None:
        if numbers not in _LENGTHS:
            raise BadInput(f"Countdown with {numbers} numbers is not supported: use 3, 4 or 5")
        self.numbers = numbers
        self.vocab_size = len(YE_VOCABULARY)
        self.mask_token_id = MASK
        self.length = _LENGTHS[numbers]

    @staticmethod
    def options_of(first_lines: Callable[[], str] | None, text: str | None) -> dict[str, Any]:
        """How many numbers a file (its first line is read) or a problem typed as text has; {} if unclear."""
        if first_lines is None:
            count = (text or "").count(",")
        else:
            numbers, output = _columns(first_row(first_lines, _NUMBERS))
            count = numbers.count(",") + ("=" not in output)
        return {"numbers": count} if count in _LENGTHS else {}

    def relations(self) -> Mapping[str, Relation]:
        """near: at most 4 positions apart. character: the same digit, operation or separator, wherever it stands."""
        place = torch.arange(self.length)
        always = torch.ones(self.length, self.length, dtype=torch.bool)
        character = torch.arange(self.vocab_size)
        character[:_SPECIAL] = -1
        return {
            "near": Relation((place[:, None] - place[None, :]).abs() <= _NEAR),
            "character": Relation(always, torch.full((self.length,), -1), character),
        }

    # ---- encoding -------------------------------------------------------------------------------------------------

    def encode(
        self, problems: Sequence[Sequence[int]], solutions: Sequence[str] | None, labels: dict[str, Any] | None = None
    ) -> Instances:
        """Instances from problems, n numbers and the target each, and solutions as text.

        Raises:
            BadInput: a text does not fit into the length of the task.
        """
        tokens = np.full((len(problems), self.length), MASK, dtype=np.int64)
        x0 = np.full_like(tokens, PAD)
        for row, problem in enumerate(problems):
            given = [*_spell(",".join(map(str, problem))), SEP]
            answer = [] if solutions is None else [*_spell(solutions[row]), EOS]
            if len(given) + len(answer) > self.length:
                raise BadInput(
                    f"problem {','.join(map(str, problem))} needs {len(given) + len(answer)} tokens with its solution; "
                    f"with {self.numbers} numbers there is room for {self.length}"
                )
            tokens[row, : len(given)] = x0[row, : len(given)] = given
            x0[row, len(given) : len(given) + len(answer)] = answer
        at = torch.from_numpy(tokens)
        return Instances(at, at == MASK, None if solutions is None else torch.from_numpy(x0), labels or {})

    @staticmethod
    def _problem(tokens: Tensor) -> list[int]:
        """n numbers and the target, from the tokens (L,) of a problem."""
        row = tokens.tolist()
        return [int(part) for part in "".join(YE_VOCABULARY[token] for token in row[: row.index(SEP)]).split(",")]

    def _solve(self, problem: Sequence[int]) -> str | None:
        """The solution that the search finds first; None if there is none."""
        from anyorder.tasks.countdown_rules import equations, solve

        first = np.zeros((self.numbers - 1, 4), np.int64)
        found = solve(np.array(problem[:-1], dtype=np.int64), problem[-1], 1, first)
        return equations(first) if found else None

    # ---- generation -----------------------------------------------------------------------------------------------

    def generate(
        self,
        count: int,
        seed: int,
        targets: int | tuple[int, int] = (10, 100),
        exclude: int | Sequence[int] | str = (),
    ) -> Instances:
        """Fresh problems that can be solved. The label `solutions` is the number of solutions that the search finds.

        Args:
            count: how many.
            seed: problem i depends on seed and i only.
            targets: one target, or a range (low, high) drawn from uniformly.
            exclude: targets that are never drawn: one, several, or a text such as "14,39".
        """
        from anyorder.tasks.countdown_rules import equations, generate_many

        excluded = _excluded(exclude)
        low, high = range_of("targets", targets)
        if not 1 <= low <= high <= _LARGEST_TARGET:
            raise BadInput(f"targets {targets} must lie between 1 and {_LARGEST_TARGET}, low end first")
        allowed = np.array([target for target in range(low, high + 1) if target not in excluded], dtype=np.int64)
        if not allowed.size:
            raise BadInput(f"exclude leaves no target of {targets}")
        seeds = per_instance_seeds(seed, count)
        numbers, wanted, first, ways = generate_many(self.numbers, _LARGEST_NUMBER, allowed, seeds)
        problems = np.concatenate([numbers, wanted[:, None]], axis=1).tolist()
        return self.encode(problems, [equations(steps) for steps in first], {"solutions": ways})

    def augment(self, x0: Tensor, tokens: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Permute the given numbers, per row.

        The solution becomes the one that the search finds first in the new order, as in the published files; a solution
        with swapped operands would be right as well, but is not among them.
        """
        order = rng.random((x0.shape[0], self.numbers)).argsort(axis=1)
        problems, solutions = [], []
        for row, places in zip(tokens, order, strict=True):
            *numbers, target = self._problem(row)
            problems.append([*(numbers[place] for place in places), target])
            solution = self._solve(problems[-1])
            assert solution is not None
            solutions.append(solution)
        out = self.encode(problems, solutions)
        assert out.x0 is not None
        return out.x0, out.tokens

    # ---- reading and writing --------------------------------------------------------------------------------------

    def load(self, path: str | Path, limit: int | None = None, unreadable: Unreadable | None = None) -> Instances:
        """Rows of JSON or CSV: Ye's {"input": "86,28,13,31,96", "output": "86+28=114,..."}, or d1's {"input": "30,100,93",
        "output": "23"}, whose output is the target, also as {"nums": [30, 100, 93], "target": 23}. Problems without a solution
        in the file are solved here.

        Raises:
            BadInput: no such file, another layout, or a problem that cannot be read or has no solution; the error says which.
        """

        def row_of(row: Mapping[str, Any]) -> tuple[list[int], str]:
            problem, solution = self._row(row)
            self.encode([problem], [solution])
            return problem, solution

        rows = read_rows(path, limit, row_of, "problems", _NUMBERS, unreadable)
        return self.encode([problem for problem, _ in rows], [solution for _, solution in rows])

    def parse(self, text: str) -> Instances:
        """One problem as `86,28,13,31,96`, the target last. It must have a solution."""
        problem = self._numbers(text)
        return self.encode([problem], [self._solved_here(problem)])

    def problem_text(self, tokens: Tensor) -> str:
        """A problem (L,) as `86,28,13,31,96`, the target last."""
        return ",".join(map(str, self._problem(tokens)))

    def file_line(self, tokens: Tensor, solution: Tensor | None) -> str:
        """Numbers and equations as JSON, in the columns of Ye et al.; without a solution, the target instead of equations."""
        *numbers, target = self._problem(tokens)
        if solution is None:
            return json_line(nums=numbers, target=target)
        return json_line(input=self.problem_text(tokens), output=self.format(solution))

    def _solved_here(self, problem: Sequence[int]) -> str:
        solution = self._solve(problem)
        if solution is None:
            raise BadInput(f"{','.join(map(str, problem[:-1]))} cannot make {problem[-1]}: it has no solution")
        return solution

    def _row(self, row: Mapping[str, Any]) -> tuple[list[int], str]:
        from anyorder.tasks.countdown_rules import is_solution

        numbers, output = _columns(row)
        if not numbers or not output:
            raise BadInput('expected "input", the numbers, and "output", the target or the equations')
        if "=" not in output:
            problem = self._numbers(f"{numbers},{output}")
            return problem, self._solved_here(problem)
        problem = self._numbers(numbers)
        if not is_solution(problem[:-1], problem[-1], output):
            raise BadInput(f"the output {shorten(output)!r} does not solve {numbers!r}")
        return problem, output

    def _numbers(self, text: str) -> list[int]:
        """n numbers and the target."""
        parts = [part.strip() for part in text.split(",")]
        for part in parts:
            if not (part.isascii() and part.isdigit() and part[0] != "0" and len(part) <= 3):
                raise BadInput(f"{shorten(part)!r} is not a number from 1 to 999")
        if len(parts) != self.numbers + 1:
            raise BadInput(
                f"this problem has {len(parts)} numbers with its target; the task is set up for {self.numbers} and a target"
            )
        return [int(part) for part in parts]

    def format(self, tokens: Tensor) -> str:
        """The solution up to [EOS], or the complete row if no problem ends.

        '.' stands for what is still masked and '?' for what is not a character.
        """
        row = tokens.tolist()
        answer = row[row.index(SEP) + 1 :] if SEP in row else row
        return _text(answer[: answer.index(EOS)] if EOS in answer else answer)

    def token_text(self, token: int) -> str:
        """The character, special tokens by their names."""
        return str(YE_VOCABULARY[token])

    # ---- checking -------------------------------------------------------------------------------------------------

    def nearest_solutions(self, instances: Instances, tokens: Tensor, certain: Tensor) -> Tensor:
        """See `Task`. All solutions are considered."""
        from anyorder.tasks.countdown_nearest import nearest_answer

        assert instances.x0 is not None
        found = instances.x0.clone()
        for row, given in enumerate(instances.tokens):
            start = given.tolist().index(SEP) + 1
            *numbers, target = self._problem(given)
            wished = tokens[row, start:]
            weights = torch.where(certain[row, start:], self.length + 1, 1) * (wished != MASK)
            nearest_answer(np.array(numbers), target, wished.numpy(), weights.numpy(), found[row, start:].numpy())
        return found

    def check(self, instances: Instances, tokens: Tensor) -> CheckResult:
        """By the rules: the problem is unchanged, and the text up to [EOS] solves it, with nothing but [PAD] after it.

        Cell accuracy is the share of generated positions equal to the stored solution, though there may be others; where
        none is known it is 1 for a right instance and 0 for a wrong one.
        """
        kept = ((instances.tokens == tokens) | instances.maskable).all(dim=1)
        solved = [self._solved(*rows) for rows in zip(instances.tokens, tokens, strict=True)]
        correct = kept & torch.tensor(solved, dtype=torch.bool)
        right = correct[:, None].expand_as(tokens) if instances.x0 is None else tokens == instances.x0
        return CheckResult(correct, cell_accuracy(instances, right))

    def _solved(self, given: Tensor, tokens: Tensor) -> bool:
        from anyorder.tasks.countdown_rules import is_solution

        *numbers, target = self._problem(given)
        answer = tokens.tolist()[given.tolist().index(SEP) + 1 :]
        if EOS not in answer:
            return False
        end = answer.index(EOS)
        return set(answer[end + 1 :]) <= {PAD} and is_solution(numbers, target, _text(answer[:end]))


def _excluded(exclude: Any) -> set[int]:
    """Targets from a whole number, several, or a text of them."""
    if isinstance(exclude, str):
        targets: list[Any] = exclude.split(",")
        fine = all(re.fullmatch(r"\s*\d{1,9}\s*", target, re.ASCII) for target in targets)
    else:
        several = isinstance(exclude, Iterable) and not isinstance(exclude, Mapping | Span | bytes)
        targets = list(exclude) if several else [exclude]
        fine = all(isinstance(target, Integral) and not isinstance(target, bool) for target in targets)
    if not fine:
        shown = "-".join(map(str, exclude)) if isinstance(exclude, Span) else shorten(repr(exclude))
        raise BadInput(f"exclude is {shown}; it must name targets: one, a list of them, or a text such as 14,39")
    return {int(target) for target in targets}


def _columns(row: Mapping[str, Any]) -> tuple[str, str]:
    """The numbers, and the target or the equations, as text; "" for what a row does not have."""
    numbers, output = pick(row, _NUMBERS), pick(row, _TARGET)
    if isinstance(numbers, list):
        numbers = ",".join(str(number) for number in numbers)
    return numbers if isinstance(numbers, str) else "", "" if output is None else str(output)


def _spell(text: str) -> list[int]:
    return [_TOKEN[character] for character in text]


def _text(tokens: Sequence[int]) -> str:
    return "".join(YE_VOCABULARY[t] if t >= _SPECIAL else "." if t == MASK else "?" for t in tokens)
