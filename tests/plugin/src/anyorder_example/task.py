"""A task: the second half of a sequence is the first half in reverse."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from anyorder.errors import BadInput
from anyorder.registry import TASKS
from anyorder.tasks import CheckResult, Instances, Task, Unreadable, cell_accuracy, per_instance_seeds, read_lines


@TASKS.register("mirror")
class Mirror(Task):
    """Sequences of digits that read the same from both ends; some digits are hidden, and at least one of each pair is given.

    Token d + 1 is the digit d, 0 is the mask. As text, `12.|.21` without the bar, with a dot for a hidden digit.

    Args:
        half: L / 2, digits before the middle.
        digits: how many different ones.
    """

    def __init__(self, half: int = 4, digits: int = 3) -> None:
        if half < 1 or not 2 <= digits <= 10:
            raise BadInput(f"half is {half} and digits is {digits}; they must be 1 or more, and between 2 and 10")
        self.half, self.digits = half, digits
        self.vocab_size, self.mask_token_id, self.length = digits + 1, 0, 2 * half

    def generate(self, count: int, seed: int, hidden: float = 0.7) -> Instances:
        """Draw digits, and hide one of each pair with a probability of `hidden`."""
        x0, shown = [], []
        for one in per_instance_seeds(seed, count):
            rng = np.random.default_rng(one)
            left = rng.integers(1, self.digits + 1, self.half)
            hide = rng.random(self.half) < hidden
            side = rng.random(self.half) < 0.5
            x0.append([*left, *left[::-1]])
            shown.append([*~(hide & side), *~(hide & ~side)[::-1]])
        solutions = torch.tensor(np.array(x0))
        tokens = solutions.masked_fill(~torch.tensor(np.array(shown)), self.mask_token_id)
        return Instances(tokens, tokens == self.mask_token_id, solutions)

    def load(self, path: str | Path, limit: int | None = None, unreadable: Unreadable | None = None) -> Instances:
        """Problems as text, one per line."""
        rows = torch.stack(read_lines(path, limit, self._read, "sequences", unreadable))
        return Instances(rows, rows == self.mask_token_id)

    def parse(self, text: str) -> Instances:
        """See `Task`."""
        row = self._read(text)[None]
        return Instances(row, row == self.mask_token_id)

    def check(self, instances: Instances, tokens: Tensor) -> CheckResult:
        """See `Task`."""
        right = tokens == tokens.flip(1)
        kept = (tokens == instances.tokens) | instances.maskable
        return CheckResult((right & kept).all(dim=1), cell_accuracy(instances, right))

    def token_text(self, token: int) -> str:
        """See `Task`."""
        return "." if token == self.mask_token_id else str(token - 1)

    def format(self, tokens: Tensor) -> str:
        """See `Task`."""
        return "".join(self.token_text(token) for token in tokens.tolist())

    def _read(self, text: str) -> Tensor:
        known = "." + "0123456789"[: self.digits]
        line = text.strip()
        if len(line) != self.length or not set(line) <= set(known):
            raise BadInput(f"{text!r} is no mirror: write {self.length} characters, each one of {known}")
        return torch.tensor([known.index(character) for character in line])
