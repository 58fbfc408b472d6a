"""Which positions are related: the structure of a task, as plain data.

A task names its relations (row, column, box; variable, clause); a structured denoiser or policy restricts some of its
attention heads to them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

EVERYTHING = "everything"
"""The relation that holds between all positions. Every task has it."""


@dataclass(frozen=True)
class Relation:
    """A boolean relation: i and j are related when `pairs[i, j]` and, if there are groups, both have the same.

    Args:
        pairs: bool (L, L), fixed by the layout.
        position_group: int64 (L,), the group of a position, or -1 if its token decides.
        token_group: int64 (V,), the group of a token, or -1 for none.

    The groups serve relations that depend on the instance: in a formula, all literals of a variable belong together
    wherever they stand.
    """

    pairs: Tensor
    position_group: Tensor | None = None
    token_group: Tensor | None = None

    def __post_init__(self) -> None:
        if self.pairs.ndim != 2 or self.pairs.shape[0] != self.pairs.shape[1] or self.pairs.dtype != torch.bool:
            raise ValueError(f"a relation needs a square bool matrix, not {self.pairs.dtype} {tuple(self.pairs.shape)}")
        if (self.position_group is None) != (self.token_group is None):
            raise ValueError("a relation needs position_group and token_group together, or neither")

    def __call__(self, tokens: Tensor) -> Tensor:
        """The relation for each sequence: bool (B, L, L), or (1, L, L) when it does not depend on the tokens (B, L)."""
        if self.position_group is None or self.token_group is None:
            return self.pairs[None]
        fixed = self.position_group.expand_as(tokens)
        group = torch.where(fixed >= 0, fixed, self.token_group[tokens])
        return self.pairs & (group[:, :, None] == group[:, None, :]) & (group >= 0)[:, :, None]


def same(labels: Tensor) -> Relation:
    """The relation "has the same label", from labels (L,)."""
    return Relation(labels[:, None] == labels[None, :])


def everything(length: int) -> Relation:
    """The relation that always holds."""
    return Relation(torch.ones(length, length, dtype=torch.bool))
