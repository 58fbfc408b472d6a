"""What a task is: data, an encoding and a checker. Plain data, no model.

A task turns problems into token sequences whose unknown positions hold the mask, and judges completed sequences by the
rules of the problem, never by comparison with one stored solution alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from anyorder.errors import BadInput
from anyorder.files import open_text
from anyorder.relations import Relation

Row = TypeVar("Row")


@dataclass(frozen=True)
class Instances:
    """N problems of one layout.

    Args:
        tokens: int64 (N, L), the mask at every unknown position.
        maskable: bool (N, L), the positions that are generated.
        x0: int64 (N, L), a solution; None where none is known.
        labels: per-instance labels for reports, e.g. {"difficulty": (N,) array of str, "givens": (N,) array of int}.
    """

    tokens: Tensor
    maskable: Tensor
    x0: Tensor | None = None
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __getitem__(self, index: slice | Tensor | np.ndarray) -> "Instances":
        labels = {
            name: values[index if not isinstance(index, Tensor) else index.numpy()] for name, values in self.labels.items()
        }
        x0 = None if self.x0 is None else self.x0[index]
        return replace(self, tokens=self.tokens[index], maskable=self.maskable[index], x0=x0, labels=labels)


class Verdict(NamedTuple):
    """What the checker says of N completed sequences.

    instance_correct: bool (N,), every rule is kept and no given was changed.
    cell_accuracy: float (N,), share of the generated positions that are right (each task says against what).
    """

    instance_correct: Tensor
    cell_accuracy: Tensor


class Task(Protocol):
    """A kind of problem. One file in `anyorder/tasks`, registered in `anyorder/tasks/__init__.py`."""

    name: ClassVar[str]
    vocab_size: int
    mask_token_id: int
    length: int

    @staticmethod
    def options_of(first_lines: Callable[[], str] | None, text: str | None) -> dict[str, Any]:
        """Options of the task that a file (`first_lines()` reads one line) or a problem typed as text gives away."""

    def relations(self) -> Mapping[str, Relation]:
        """The relations between positions that a structured denoiser may use. May be empty."""

    @property
    def generate(self) -> Callable[..., Instances]:
        """`generate(count, seed, **options)`: `count` fresh problems. The i-th depends on seed and i only."""

    def augment(self, x0: Tensor, tokens: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Replace solutions and problems (B, L) by equivalent ones, drawn from the task's symmetries."""

    def load(self, path: Path, limit: int | None = None) -> Instances:
        """Read problems from one of the published file formats."""

    def parse(self, text: str) -> Instances:
        """One problem from text typed by a person."""

    def format(self, tokens: Tensor) -> str:
        """A completed sequence (L,) as text for a person."""

    def check(self, instances: Instances, tokens: Tensor) -> Verdict:
        """Judge completed sequences (N, L) by the rules."""


def read_lines(path: Path, limit: int | None, parse: Callable[[str], Row], what: str) -> list[Row]:
    """What `parse` makes of each line that is not blank, the first `limit` of them; `what` names the problems in the error.

    Raises:
        BadInput: a line cannot be parsed (the error says which), or there are none.
    """
    found: list[Row] = []
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if limit is not None and len(found) >= limit:
                break
            if not line.strip():
                continue
            try:
                found.append(parse(line))
            except ValueError as error:
                raise BadInput(f"{path}, line {number}: {error}") from error
    if not found:
        raise BadInput(f"{path} holds no {what}")
    return found


def per_instance_seeds(seed: int, count: int, start: int = 0) -> np.ndarray:
    """Independent 32-bit seeds (count,) for instances start..start+count-1: number i depends on seed and i only."""
    counter = np.arange(start, start + count, dtype=np.uint64)
    mixed = (counter + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed * 0xD1B54A32D192ED03 % 2**64)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(33)).astype(np.int64)


def cell_accuracy(instances: Instances, right: Tensor) -> Tensor:
    """Share of the generated positions where `right` (N, L) holds; 1 for an instance with nothing to generate."""
    generated = instances.maskable.sum(dim=1)
    return torch.where(generated > 0, (right & instances.maskable).sum(dim=1) / generated.clamp(min=1), 1.0)
