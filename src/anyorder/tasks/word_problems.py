"""Kinds of problems in words: how each is asked, and how the text of an answer is read and checked.

A problem is known by its text in the notation of the puzzle's own task (`Task.problem_text`), which also generates the problems
and checks the answers.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from anyorder.errors import BadInput, shorten
from anyorder.tasks.base import CheckResult, Instances, Task
from anyorder.tasks.countdown import Countdown
from anyorder.tasks.generation import per_instance_seeds, range_of
from anyorder.tasks.problem_files import Unreadable, read_lines
from anyorder.tasks.sudoku import Sudoku
from anyorder.tasks.zebra import Zebra
from anyorder.tasks.zebra_text import value_of

_MOST_DIGITS = 9
_REMEMBERED = 100_000


class WordProblem(NamedTuple):
    """A problem in the notation of the puzzle's task, and a right answer in words; "" if none is known."""

    problem: str
    answer: str = ""


class Style(NamedTuple):
    """How an answer is framed: `start` is given to the model, `stop` stands behind the answer."""

    start: str
    stop: str = ""


STYLES = {"short": Style("Answer:\n"), "upo": Style("<answer>\n", "\n</answer>")}
"""short: ours. upo: of UPO (arXiv 2510.05725, appendix E.2; from d1, arXiv 2504.12216), where a kind has it."""


class Kind(ABC):
    """A kind of problem in words.

    Attributes:
        name: of the kind.
        questions: the prompt in each style, with {problem} for the problem in words.
        takes: options of its generator.
        can_be_prefilled: a part of the answer, of one token each, is known from the problem.
    """

    name: ClassVar[str]
    questions: ClassVar[Mapping[str, str]]
    takes: ClassVar[tuple[str, ...]] = ()
    can_be_prefilled: ClassVar[bool] = False
    style: str = "short"

    def ask(self, problem: str) -> str:
        """The prompt of a problem."""
        return self.questions[self.style].format(problem=self.in_words(problem))

    def problem_in(self, prompt: str) -> str | None:
        """Inverse of `ask`; None if the prompt asks nothing of this kind."""
        before, after = self.questions[self.style].split("{problem}")
        _, found, rest = prompt.partition(before)
        return self.from_words(rest.partition(after)[0] if after else rest) if found else None

    def in_words(self, problem: str) -> str:
        """A problem as it stands in the prompt."""
        return problem

    def from_words(self, words: str) -> str:
        """Inverse of `in_words`."""
        return words

    def outline(self, problem: str) -> str:
        """The answer with `_` for what the problem does not give, if it can be prefilled."""
        raise NotImplementedError

    @abstractmethod
    def generate(self, count: int, seed: int, **options: Any) -> list[WordProblem]:
        """Fresh problems. The i-th depends on the seed, the options and i only."""

    @abstractmethod
    def parse(self, text: str) -> WordProblem:
        """A problem that a person typed.

        Raises:
            BadInput: it is no problem of this kind, or it has no solution.
        """

    @abstractmethod
    def load(self, path: str | Path, limit: int | None, unreadable: Unreadable | None) -> list[WordProblem]:
        """The problems of a file in the layouts of the puzzle's task.

        Raises:
            BadInput: as `Task.load`.
        """

    @abstractmethod
    def check(self, problems: Sequence[str], answers: Sequence[str], stored: Sequence[str] | None) -> CheckResult:
        """Check answers by the rules; `cell_accuracy` is in comparison with stored answers if there are any."""


class OfTask(Kind):
    """A kind whose problems are those of a task."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._read = lru_cache(_REMEMBERED)(task.parse)

    def generate(self, count: int, seed: int, **options: Any) -> list[WordProblem]:
        """See `Kind`."""
        return self._problems(self.task.generate(count, seed, **options))

    def parse(self, text: str) -> WordProblem:
        """See `Kind`."""
        return self._problems(self.task.parse(text))[0]

    def load(self, path: str | Path, limit: int | None, unreadable: Unreadable | None) -> list[WordProblem]:
        """See `Kind`."""
        return self._problems(self.task.load(path, limit, unreadable))

    def _problems(self, instances: Instances) -> list[WordProblem]:
        problems = [self.task.problem_text(tokens) for tokens in instances.tokens]
        if instances.x0 is None:
            return [WordProblem(problem) for problem in problems]
        answers = [self.answer(self.task.format(solution)) for solution in instances.x0]
        return [WordProblem(*pair) for pair in zip(problems, answers, strict=True)]

    def check(self, problems: Sequence[str], answers: Sequence[str], stored: Sequence[str] | None) -> CheckResult:
        """See `Kind`. An answer of which nothing can be read is wrong everywhere."""
        asked = [self._read(problem) for problem in problems]
        tokens, maskable = torch.cat([one.tokens for one in asked]), torch.cat([one.maskable for one in asked])

        def completed(answers: Sequence[str]) -> Tensor:
            return torch.stack([self.read(row, answer) for row, answer in zip(tokens, answers, strict=True)])

        known = None if stored is None else completed(stored)
        return self.task.check(Instances(tokens, maskable, known), completed(answers))

    @abstractmethod
    def answer(self, solution: str) -> str:
        """A solution, as the task writes it, as an answer in words."""

    @abstractmethod
    def read(self, tokens: Tensor, answer: str) -> Tensor:
        """A problem (L,) completed by an answer; what the answer does not say stays masked."""


class Sudoku4(OfTask):
    """4x4 Sudoku: the grid row by row, 0 for an empty cell. With 8 givens and several solutions allowed, as in d1 and UPO.

    There are 288 grids and 12,870 ways to empty half of the cells, so 3.7 million problems. Of the 500 test problems of d1, 6
    are among the first 50,000 of seed 1.
    """

    name = "sudoku4"
    questions: ClassVar[Mapping[str, str]] = {
        "short": "Solve this 4x4 Sudoku: every row, column and 2x2 box holds 1, 2, 3 and 4 once; 0 is an empty cell.\n"
        "{problem}",
        "upo": "Please solve the following 4x4 Sudoku puzzle. The puzzle is provided as a 16-character string reading "
        "left-to-right, top-to-bottom, where '0' represents empty cells.\n\nRules:\n- Fill empty cells with digits 1-4\n- Each "
        "row must contain digits 1-4 exactly once\n- Each column must contain digits 1-4 exactly once\n- Each 2x2 box must "
        "contain digits 1-4 exactly once\n\nImportant: Your solution must be a COMPLETE 16-character string with only the "
        "digits 1-4, representing your final solved grid. Never leave it as '0'.\n\nRespond in this exact format:\n<answer>\n"
        "[First row of 4-character solution]\n[Second row of 4-character solution]\n[Third row of 4-character solution]\n"
        "[Fourth row of 4-character solution]\n</answer>\n\nSolve the following Sudoku puzzle:\n{problem}",
    }
    takes = ("givens", "unique")
    can_be_prefilled = True

    def __init__(self) -> None:
        super().__init__(Sudoku(box=2))

    def in_words(self, problem: str) -> str:
        """Four lines of digits."""
        return "\n".join(problem[start : start + 4] for start in range(0, 16, 4))

    def from_words(self, words: str) -> str:
        """See `Kind`."""
        return "".join(words.split())

    def answer(self, solution: str) -> str:
        """Four lines of digits."""
        return self.in_words(solution)

    def outline(self, problem: str) -> str:
        """The given digits, and `_` for each empty cell."""
        return self.in_words(problem.replace("0", "_"))

    def read(self, tokens: Tensor, answer: str) -> Tensor:
        """Digit by digit; an answer of more or fewer than 16 is none."""
        signs = "".join(answer.split())
        whole = re.fullmatch("[0-9_]{16}", signs)
        return torch.tensor([0 if sign == "_" else int(sign) for sign in signs]) if whole else torch.zeros_like(tokens)


class CountdownInWords(OfTask):
    """Countdown with three numbers: equations that use each number and each result once."""

    name = "countdown"
    questions: ClassVar[Mapping[str, str]] = {
        "short": "Write equations with + - * / that use each number once and end in the target.\n{problem}"
    }

    def __init__(self) -> None:
        super().__init__(Countdown(numbers=3))

    def in_words(self, problem: str) -> str:
        """`Numbers 99, 73, 37; target 63`."""
        *numbers, target = problem.split(",")
        return f"Numbers {', '.join(numbers)}; target {target}"

    def from_words(self, words: str) -> str:
        """See `Kind`."""
        return ",".join(re.findall(r"\d+", words))

    def answer(self, solution: str) -> str:
        """The equations, with a space behind a comma."""
        return solution.replace(",", ", ")

    def read(self, tokens: Tensor, answer: str) -> Tensor:
        """The equations, or one expression, with or without the target behind it, as d1 asks for it."""
        from anyorder.tasks.countdown_rules import equations_of

        assert isinstance(self.task, Countdown)
        text = "".join(answer.split())
        *numbers, target = map(int, self.task.problem_text(tokens).split(","))
        if text.count("=") < 2:
            expression, stated, value = text.partition("=")
            if stated and value not in ("", str(target)):
                return tokens
            text = equations_of(expression)
        try:
            x0 = self.task.encode([[*numbers, target]], [text]).x0
        except (BadInput, KeyError):
            return tokens
        assert x0 is not None
        return x0[0]


_NAMES = {"A": ("Ann", "Bob", "Cid"), "B": ("cat", "dog", "owl"), "C": ("egg", "jam", "pie")}
_WORD_OF = {f"{letter}{number}": word for letter, words in _NAMES.items() for number, word in enumerate(words, start=1)}
_NAME_OF = {word: name for name, word in _WORD_OF.items()}
_RELATIONS = {"=": "with", "!=": "not with", "<<": "just left of", "<": "left of", "~": "next to"}


class ZebraInWords(OfTask):
    """Zebra puzzles with three houses and three attributes, at most five clues."""

    name = "zebra"
    questions: ClassVar[Mapping[str, str]] = {
        "short": "Three houses: one of Ann, Bob, Cid; cat, dog, owl; egg, jam, pie each.\n{problem}"
    }

    def __init__(self) -> None:
        super().__init__(Zebra(houses=3, attributes=3, slots=5))

    def in_words(self, problem: str) -> str:
        """`Ann left of cat; jam at end; ...`"""
        for symbol, words in _RELATIONS.items():
            problem = problem.replace(f" {symbol} ", f" {words} ")
        return re.sub(r"[A-C][1-3]", lambda match: _WORD_OF[match[0]], problem)

    def from_words(self, words: str) -> str:
        """See `Kind`."""
        for symbol, relation in sorted(_RELATIONS.items(), key=lambda item: -len(item[1])):
            words = words.replace(f" {relation} ", f" {symbol} ")
        return re.sub(r"[A-Za-z]{3}\b", lambda match: _NAME_OF.get(match[0], match[0]), words)

    def answer(self, solution: str) -> str:
        """`Ann cat egg, Bob dog jam, Cid owl pie`, from the first house to the last."""
        return self.in_words(solution.replace(" | ", ", "))

    def read(self, tokens: Tensor, answer: str) -> Tensor:
        """House by house; an answer of more or fewer than three of them, or of other words, is none."""
        assert isinstance(self.task, Zebra)
        completed, cells = tokens.clone(), self.task.drawing().cells
        assert cells is not None
        houses = [words.split() for words in answer.split(",")]
        if [len(words) for words in houses] != [3, 3, 3] or any(word not in _NAME_OF for words in houses for word in words):
            return tokens
        for house, words in enumerate(houses):
            for attribute, word in enumerate(words):
                completed[cells[attribute * 3 + house]] = 1 + value_of(_NAME_OF[word], 3, 3)
        return completed


class Addition(Kind):
    """Sums of two numbers, each of as many digits as the other."""

    name = "addition"
    questions: ClassVar[Mapping[str, str]] = {"short": "What is {problem}?"}
    takes = ("digits",)

    def generate(self, count: int, seed: int, **options: Any) -> list[WordProblem]:
        """See `Kind`; `digits`, of each of the two numbers: a number, or a range (low, high) drawn from uniformly."""
        digits = options["digits"]
        low, high = range_of("digits", digits)
        if not 1 <= low <= high <= _MOST_DIGITS:
            raise BadInput(f"digits {digits} must lie between 1 and {_MOST_DIGITS}, low end first")
        made = []
        for own in per_instance_seeds(seed, count):
            rng = np.random.default_rng(int(own))
            size = int(rng.integers(low, high + 1))
            a, b = rng.integers(10 ** (size - 1), 10**size, 2).tolist()
            made.append(WordProblem(f"{a} + {b}", str(a + b)))
        return made

    def parse(self, text: str) -> WordProblem:
        """See `Kind`: `17 + 25`."""
        read = re.fullmatch(r"\s*(\d{1,9})\s*\+\s*(\d{1,9})\s*", text, re.ASCII)
        if read is None:
            raise BadInput(f"{shorten(text)!r} is no sum of two numbers of at most {_MOST_DIGITS} digits: write 17 + 25")
        a, b = int(read[1]), int(read[2])
        return WordProblem(f"{a} + {b}", str(a + b))

    def load(self, path: str | Path, limit: int | None, unreadable: Unreadable | None) -> list[WordProblem]:
        """See `Kind`: one sum a line."""
        return read_lines(path, limit, self.parse, "additions", unreadable)

    def check(self, problems: Sequence[str], answers: Sequence[str], stored: Sequence[str] | None) -> CheckResult:
        """See `Kind`: the sum without leading zeros. Cell accuracy is the share of its digits that stand in their places."""
        pairs = [(self.parse(problem).answer, answer.strip()) for problem, answer in zip(problems, answers, strict=True)]
        hits = [sum(a == b for a, b in zip(known, told, strict=False)) / len(known) for known, told in pairs]
        return CheckResult(torch.tensor([known == told for known, told in pairs]), torch.tensor(hits))


KINDS: dict[str, type[Any]] = {kind.name: kind for kind in (Sudoku4, Addition, CountdownInWords, ZebraInWords)}
"""The kinds of problems in words, by name."""
