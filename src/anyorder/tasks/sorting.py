"""Sorting: a sequence of numbers, and the same numbers in ascending order. Generator, encoding, file format, checker.

Layout: n given numbers, then n positions for the sorted ones. Token v + 1 is the number v, 0 is the mask. L = 2n,
V = values + 1. Every number of the answer follows from the given ones alone, whatever the order of unmasking. With a good
denoiser, a learned order has nothing to gain on this task, so the task can falsify a claim of a gain.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anyorder.errors import BadInput
from anyorder.registry import TASKS
from anyorder.relations import Relation
from anyorder.tasks.base import CheckResult, Instances, Task, cell_accuracy
from anyorder.tasks.generation import per_instance_seeds
from anyorder.tasks.problem_files import Unreadable, opening, read_lines


@TASKS.register("sorting")
class Sorting(Task):
    """Sorting numbers in ascending order.

    Args:
        items: n, how many numbers.
        values: numbers run from 0 to values - 1.
    """

    def __init__(self, items: int = 16, values: int = 100) -> None:
        for what, number in (("items", items), ("values", values)):
            if not isinstance(number, int) or number < 2:
                raise BadInput(f"sorting needs 2 {what} or more, not {number!r}")
        self.items = items
        self.values = values
        self.vocab_size = values + 1
        self.mask_token_id = 0
        self.length = 2 * items

    @staticmethod
    def options_of(first_lines: Callable[[], str] | None, text: str | None) -> dict[str, Any]:
        """How many numbers the first line of a file, or a sequence typed as text, has."""
        line = opening(first_lines) if first_lines else text or ""
        items = len(_parts(line))
        return {"items": items} if items >= 2 else {}

    def relations(self) -> Mapping[str, Relation]:
        """given: any position to a given number. answer: two places of the answer. next: neighbors in the answer. value:
        the same number, wherever it stands."""
        answer = torch.arange(self.length) >= self.items
        place = torch.arange(self.length)
        always = torch.ones(self.length, self.length, dtype=torch.bool)
        number = torch.arange(self.vocab_size)
        number[self.mask_token_id] = -1
        both = answer[:, None] & answer[None, :]
        return {
            "given": Relation((~answer)[None, :].expand(self.length, -1).clone()),
            "answer": Relation(both),
            "next": Relation(both & ((place[:, None] - place[None, :]).abs() == 1)),
            "value": Relation(always, torch.full((self.length,), -1), number),
        }

    def encode(self, numbers: np.ndarray) -> Instances:
        """Instances from sequences of numbers (N, n). The label `repeats` is how many of them occurred before."""
        given = torch.from_numpy(numbers.astype(np.int64)) + 1
        answer = given.sort(dim=1).values
        tokens = torch.cat([given, torch.full_like(given, self.mask_token_id)], dim=1)
        repeats = (answer[:, 1:] == answer[:, :-1]).sum(dim=1).numpy()
        return Instances(tokens, tokens == self.mask_token_id, torch.cat([given, answer], dim=1), {"repeats": repeats})

    def generate(self, count: int, seed: int, duplicates: bool = True) -> Instances:
        """Numbers drawn uniformly and independently, or without replacement if `duplicates` is false.

        Sequence i depends on seed and i only.
        """
        if duplicates not in (True, False):
            raise BadInput(f"duplicates {duplicates!r} must be true or false (1 or 0)")
        if not duplicates and self.items > self.values:
            raise BadInput(f"{self.items} different numbers cannot be drawn from {self.values}")
        seeds = per_instance_seeds(seed, count)
        numbers = np.empty((count, self.items), dtype=np.int64)
        for row, own in enumerate(seeds):
            numbers[row] = np.random.default_rng(own).choice(self.values, self.items, replace=bool(duplicates))
        return self.encode(numbers)

    def augment(self, x0: Tensor, tokens: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Permute the given numbers, and with even odds replace every v by values - 1 - v, per row."""
        batch = tokens.shape[0]
        order = torch.from_numpy(rng.random((batch, self.items)).argsort(axis=1))
        numbers = tokens[:, : self.items].gather(1, order) - 1
        turned = torch.from_numpy(rng.random((batch, 1)) < 0.5)
        out = self.encode(torch.where(turned, self.values - 1 - numbers, numbers).numpy())
        assert out.x0 is not None
        return out.x0, out.tokens

    def load(self, path: str | Path, limit: int | None = None, unreadable: Unreadable | None = None) -> Instances:
        """One sequence per line, numbers separated by commas or spaces."""
        return self.encode(np.array(read_lines(path, limit, self._numbers, "sequences", unreadable)))

    def parse(self, text: str) -> Instances:
        """One sequence, e.g. `5,3,9,3`."""
        return self.encode(np.array([self._numbers(text)]))

    def problem_text(self, tokens: Tensor) -> str:
        """The sequence of a problem (L,), e.g. `5,3,9,3`."""
        return ",".join(str(token - 1) for token in tokens[: self.items].tolist())

    def _numbers(self, text: str) -> list[int]:
        parts = _parts(text)
        for part in parts:
            if not (part.isascii() and part.isdigit() and len(part) <= 9 and int(part) < self.values):
                raise BadInput(f"{part!r} is not a number from 0 to {self.values - 1}")
        if len(parts) != self.items:
            raise BadInput(f"this sequence has {len(parts)} numbers; the task is set up for {self.items}")
        return [int(part) for part in parts]

    def format(self, tokens: Tensor) -> str:
        """The answer as `3,3,5,9`; '.' for what is still masked."""
        return ",".join("." if t == self.mask_token_id else str(t - 1) for t in tokens[self.items :].tolist())

    def check(self, instances: Instances, tokens: Tensor) -> CheckResult:
        """By the rules: the given numbers are unchanged, and the answer is these in ascending order.

        Cell accuracy is the share of places that hold the right number; there is one right answer only.
        """
        answer = instances.tokens[:, : self.items].sort(dim=1).values
        right = tokens == torch.cat([instances.tokens[:, : self.items], answer], dim=1)
        return CheckResult(right.all(dim=1), cell_accuracy(instances, right))


def _parts(text: str) -> list[str]:
    return text.replace(",", " ").split()
