"""Addition and multiplication of two numbers with several digits. Generator, encoding, file format, checker.

Layout: the n digits of the first number, the n of the second, and those of the result, n + 1 of a sum or 2n of a product, each
from the most significant digit to the least, with leading zeros. Token d + 1 is the digit d, 0 is the mask. L = 3n + 1 or 4n,
V = 11. There is one solution. A digit of the result depends on all digits of lower places through the carry, so the leading
digits, which are read first and are the likeliest to look certain, are the hardest.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from anyorder.errors import BadInput, shorten
from anyorder.registry import TASKS
from anyorder.relations import Relation, same
from anyorder.signatures import checked
from anyorder.tasks.base import CheckResult, Instances, Task, cell_accuracy
from anyorder.tasks.generation import check_size, per_instance_seeds
from anyorder.tasks.problem_files import Unreadable, opening, read_lines

_SIGNS = {"add": "+", "multiply": "*"}
_MOST_DIGITS = {"add": 40, "multiply": 10}
_MASK = 0
_PROBLEM = re.compile(r"\s*([0-9]+)\s*([+*])\s*([0-9]+)\s*(?:=\s*([0-9_]+)\s*)?")


@TASKS.register("arithmetic")
class Arithmetic(Task):
    """Addition or multiplication of two numbers.

    Args:
        operation: "add" or "multiply".
        digits: n, of each of the two numbers: 1 to 40 for a sum, 1 to 10 for a product.
    """

    sequential: ClassVar[bool | str] = "from the right"

    @checked("operation", "digits")
    def __init__(self, operation: str = "add", digits: int = 20) -> None:
        if operation not in _SIGNS:
            raise BadInput(f"the operation is {shorten(repr(operation))}; it must be {' or '.join(_SIGNS)}")
        if not 1 <= digits <= _MOST_DIGITS[operation]:
            raise BadInput(f"digits is {digits}; with the operation {operation} it must lie in 1..{_MOST_DIGITS[operation]}")
        self.operation = operation
        self.digits = digits
        self.vocab_size = 11
        self.mask_token_id = _MASK
        self.result_digits = digits + 1 if operation == "add" else 2 * digits
        self.length = 2 * digits + self.result_digits

    @staticmethod
    def options_of(first_lines: Callable[[], str] | None, text: str | None) -> dict[str, Any]:
        """The operation and the digits of the longer number in the first line of a file, or in a problem typed as text."""
        match = _PROBLEM.fullmatch(opening(first_lines) if first_lines else text or "")
        if match is None:
            return {}
        operation = next(name for name, sign in _SIGNS.items() if sign == match[2])
        digits = max(len(match[1]), len(match[3]))
        return {"operation": operation, "digits": digits} if digits <= _MOST_DIGITS[operation] else {}

    def relations(self) -> Mapping[str, Relation]:
        """column: the same place value. number: the same number. lower, higher: the next column of lower or of higher place
        value. below: all columns of lower place value. product0, product1, ... (of a product): digit k of the result, counted
        from the least significant, to digit i of the first number and digit k - i of the second, one relation for each i.
        It is empty where a number has no such digit."""
        number = torch.tensor([0] * self.digits + [1] * self.digits + [2] * self.result_digits)
        place = torch.cat([torch.arange(n - 1, -1, -1) for n in (self.digits, self.digits, self.result_digits)])
        above = place[:, None] - place[None, :]
        relations = {
            "column": same(place),
            "number": same(number),
            "lower": Relation(above == 1),
            "higher": Relation(above == -1),
            "below": Relation(above > 0),
        }
        if self.operation == "multiply":
            for i in range(self.digits):
                has = (number == 2) & (place >= i) & (place < i + self.digits)
                factor = ((number == 0) & (place == i))[None, :] | ((number == 1)[None, :] & (above == i))
                relations[f"product{i}"] = Relation(has[:, None] & factor)
        return relations

    # ---- encoding -------------------------------------------------------------------------------------------------

    def encode(self, one: np.ndarray, other: np.ndarray, given: np.ndarray | None = None) -> Instances:
        """Instances from the digits (N, n) of the two numbers, the most significant first.

        The label `carry` of a sum is the largest number of places that one carry travels, that of a product the largest carry.

        Args:
            one: int64, the first number.
            other: int64, the second number.
            given: bool (N, digits of the result), those of the result that are given; none by default.
        """
        result, carry = self._result(one, other)
        x0 = torch.from_numpy(np.concatenate([one, other, result], axis=1) + 1)
        maskable = torch.zeros(x0.shape, dtype=torch.bool)
        maskable[:, 2 * self.digits :] = True if given is None else ~torch.from_numpy(given)
        return Instances(x0.masked_fill(maskable, _MASK), maskable, x0, {"carry": carry})

    def _result(self, one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The digits of the result (N, R), and the label `carry` (N,), by long addition or multiplication."""
        sums = self._column_sums(one[:, ::-1], other[:, ::-1])
        carry, travels, most = np.zeros((3, len(sums)), dtype=np.int64)
        for column in sums.T:
            travels = np.where(column == 9, travels + (travels > 0), column >= 10)
            column += carry
            carry = column // 10
            column %= 10
            most = np.maximum(most, travels if self.operation == "add" else carry)
        return sums[:, ::-1], most

    def _column_sums(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """What each column of the result (N, R) adds up to without carries, least significant first, from digits (N, n)."""
        sums = np.zeros((len(one), self.result_digits), dtype=np.int64)
        if self.operation == "add":
            sums[:, : self.digits] = one + other
        else:
            for i in range(self.digits):
                sums[:, i : i + self.digits] += one[:, i, None] * other
        return sums

    # ---- generation -----------------------------------------------------------------------------------------------

    def generate(self, count: int, seed: int, carry: float = 0.0, short: float = 0.0, givens: int = 0) -> Instances:
        """Numbers whose digits are drawn uniformly, leading zeros included.

        Args:
            count: how many problems.
            seed: problem i depends on seed and i only.
            carry: share of the sums in which carries run far. In each of them, a part of the columns holds two digits that sum
                to 9, which pass a carry on; that part is drawn uniformly between none and all. 0 for products.
            short: share of the problems whose numbers are shorter: each has 1 to n digits, drawn uniformly, behind zeros.
            givens: digits of the result that are given, at random places.
        """
        for name, share in (("carry", carry), ("short", short)):
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
                raise BadInput(f"{name} is {share!r}; it must be a share between 0 and 1")
        if carry and self.operation != "add":
            raise BadInput(f"carry is {carry}; only sums have long carries: leave it out")
        if isinstance(givens, bool) or not isinstance(givens, int) or not 0 <= givens < self.result_digits:
            raise BadInput(f"givens is {givens!r}; of the {self.result_digits} digits of the result 0 to all but one are given")
        check_size(count, self.length)
        sizes = (self.digits, self.digits, self.digits, self.result_digits, 1, 1, 1, 2)
        rng = np.random.default_rng(int(per_instance_seeds(seed, count)[0]))
        drawn = rng.random((count, sum(sizes)))  # row by row, so that fewer problems are the first of more
        one, other, at, places, part, far, shorter, lengths = np.split(drawn, np.cumsum(sizes)[:-1], axis=1)
        one, other = (one * 10).astype(np.int64), (other * 10).astype(np.int64)
        other = np.where((at < part) & (far < carry), 9 - one, other)
        zeros = (lengths * self.digits).astype(np.int64) * (shorter < short)
        for number, leading in ((one, zeros[:, :1]), (other, zeros[:, 1:])):
            number[np.arange(self.digits) < leading] = 0
        return self.encode(one, other, places.argsort(axis=1).argsort(axis=1) < givens)

    def augment(self, x0: Tensor, tokens: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Exchange the two numbers with even odds, per row; in a sum, their digits in each column."""
        columns = self.digits if self.operation == "add" else 1
        exchanged = torch.from_numpy(rng.random((len(tokens), columns)) < 0.5).expand(-1, self.digits)
        order = torch.arange(self.length).repeat(len(tokens), 1)
        order[:, : 2 * self.digits] += torch.cat([exchanged, exchanged.long().neg()], dim=1) * self.digits
        return x0.gather(1, order), tokens.gather(1, order)

    # ---- reading and writing --------------------------------------------------------------------------------------

    def load(self, path: str | Path, limit: int | None = None, unreadable: Unreadable | None = None) -> Instances:
        """One problem per line, as `parse` reads it."""
        return self._from_rows(read_lines(path, limit, self._row, "problems", unreadable))

    def parse(self, text: str) -> Instances:
        """One problem, e.g. `123+456` or `123*456`. Numbers may be shorter than the task is set up for.

        A result may follow: the complete one, as in `123+456=579`, is compared with the right one and not given; one of all
        digits with `_` for the unknown ones, as in `123+456=0__9`, gives the others.
        """
        return self._from_rows([self._row(text)])

    def problem_text(self, tokens: Tensor) -> str:
        """A problem (L,), e.g. `123+456`, or `123+456=0__9` if digits of the result are given."""
        given = bool((tokens[2 * self.digits :] != _MASK).any())
        return self.format(tokens) if given else self.format(tokens).partition("=")[0]

    def file_line(self, tokens: Tensor, solution: Tensor | None) -> str:
        """The text of the problem, with the complete result if it is known and no digit of it is given."""
        text = self.problem_text(tokens)
        return text if solution is None or "=" in text else self.format(solution)

    def _from_rows(self, rows: list[list[int]]) -> Instances:
        """Instances from the digits of both numbers and of the result, -1 for unknown ones."""
        digits = np.array(rows, dtype=np.int64)
        one, other, result = np.split(digits, [self.digits, 2 * self.digits], axis=1)
        return self.encode(one, other, result >= 0)

    def _row(self, text: str) -> list[int]:
        match = _PROBLEM.fullmatch(text)
        sign = _SIGNS[self.operation]
        if match is None or match[2] != sign:
            raise BadInput(f"{shorten(repr(text.strip()))} is no problem of this task: write it as 123{sign}456")
        for number in (match[1], match[3]):
            if len(number) > self.digits:
                raise BadInput(f"the number {shorten(number)} has {len(number)} digits; the task is set up for {self.digits}")
        row = [int(digit) for number in (match[1], match[3]) for digit in number.zfill(self.digits)]
        return [*row, *self._given(row, match[4] or "_" * self.result_digits)]

    def _given(self, row: list[int], result: str) -> list[int]:
        """The given digits of a result as text, -1 for unknown ones; `row` holds the digits of both numbers."""
        one, other = np.array(row, dtype=np.int64).reshape(2, 1, self.digits)
        right = "".join(map(str, self._result(one, other)[0][0]))
        partly = "_" in result
        if partly and len(result) != self.result_digits:
            raise BadInput(f"the result {shorten(result)} has {len(result)} digits; with _ it must have {self.result_digits}")
        full = result.lstrip("0").zfill(self.result_digits) if not partly else result
        if len(full) != len(right) or any(a not in ("_", b) for a, b in zip(full, right, strict=True)):
            raise BadInput(f"the result {shorten(result)} is wrong: it is {right}")
        return [int(digit) if partly and digit != "_" else -1 for digit in full]

    def format(self, tokens: Tensor) -> str:
        """The equation as `123+456=0579`; '_' for what is still masked."""
        text = "".join(map(self.token_text, tokens.tolist()))
        n = self.digits
        return f"{text[:n]}{_SIGNS[self.operation]}{text[n : 2 * n]}={text[2 * n :]}"

    def token_text(self, token: int) -> str:
        """The digit."""
        return "_" if token == _MASK else str(token - 1)

    # ---- checking -------------------------------------------------------------------------------------------------

    def check(self, instances: Instances, tokens: Tensor) -> CheckResult:
        """By the rules: the given digits are unchanged, and the result is right.

        Cell accuracy is the share of generated digits that are right; there is one right result only.
        """
        one, other = instances.tokens[:, : 2 * self.digits].sub(1).view(-1, 2, self.digits).unbind(1)
        x0 = self.encode(one.numpy(), other.numpy()).x0
        assert x0 is not None
        right = tokens == x0
        return CheckResult(right.all(dim=1), cell_accuracy(instances, right))
