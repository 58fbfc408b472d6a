"""Move padding behind the text, where it does not change how a model counts positions."""

from typing import NamedTuple

import torch
from torch import Tensor


class Aligned(NamedTuple):
    """A batch with its padding at the right end.

    tokens, attention_mask: int64 (B, L), as the model receives them.
    column: int64 (B, L), the column in which each original position stands now.
    """

    tokens: Tensor
    attention_mask: Tensor
    column: Tensor


def align_left(tokens: Tensor, attention_mask: Tensor) -> Aligned:
    """Move the padding of tokens (B, L), marked by 0 or False in the attention mask (B, L), to the right end."""
    real = attention_mask.long()
    source = (1 - real).argsort(dim=1, stable=True)
    return Aligned(tokens.gather(1, source), real.gather(1, source), source.argsort(dim=1))


def move_back(values: Tensor, column: Tensor | None) -> Tensor:
    """Values (B, L, D) of an aligned batch, at the original positions."""
    return values if column is None else values[torch.arange(len(values), device=values.device)[:, None], column]
