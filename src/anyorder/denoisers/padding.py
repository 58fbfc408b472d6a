"""Padding moved behind the text, where it disturbs no way of counting positions, or left out."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Wanted = tuple[Tensor, Tensor]
"""Rows and columns of the positions whose logits are wanted, int64 (K,) each."""


class Aligned(NamedTuple):
    """A batch with its padding at the right end.

    tokens, attention_mask: int64 (B, L), as the model receives them.
    column: int64 (B, L), the column in which each original position stands now.
    """

    tokens: Tensor
    attention_mask: Tensor
    column: Tensor


def align_left(tokens: Tensor, attention_mask: Tensor, words: int | None = None) -> Aligned:
    """Move the padding of tokens (B, L), marked by 0 or False in the attention mask (B, L), to the right end. Padding that is
    none of so many words, such as -1, becomes the first of them, for a model that looks every token up."""
    real = attention_mask.long()
    source = (1 - real).argsort(dim=1, stable=True)
    moved, shown = tokens.gather(1, source), real.gather(1, source)
    if words is not None:
        moved = moved.masked_fill((shown == 0) & ((moved < 0) | (moved >= words)), 0)
    return Aligned(moved, shown, source.argsort(dim=1))


def move_back(values: Tensor, column: Tensor | None) -> Tensor:
    """Values (B, L, D) of an aligned batch, at the original positions."""
    return values if column is None else values.take_along_dim(column[:, :, None], dim=1)


def run_by_length(
    run: Callable[[Tensor, Wanted | None], tuple[Tensor, Tensor]], aligned: Aligned, wanted: Wanted | None = None
) -> tuple[Tensor, Tensor]:
    """Logits and hidden states of a batch, by one call for the sequences of each length, without padding.

    Args:
        run: gives, for tokens (b, l), logits (b, l, V) or (k, V) at the wanted positions, and hidden states (b, l, D).
        aligned: the batch; a row of padding alone is shown as one token of it.
        wanted: rows and columns (K,) whose logits are wanted; None for all.

    Returns:
        logits (B, L, V) or (K, V), and hidden (B, L, D), 0 at padding.
    """
    tokens, lengths = aligned.tokens, aligned.attention_mask.sum(dim=1).clamp(min=1)
    logits = hidden = tokens.new_zeros(0)
    for length in lengths.unique().tolist():
        rows = lengths == length
        inside = None if wanted is None else rows[wanted[0]]
        at = None if wanted is None else ((rows.cumsum(dim=0) - 1)[wanted[0][inside]], wanted[1][inside])
        some_logits, some_hidden = run(tokens[rows, :length], at)
        if not logits.numel():
            shape = tokens.shape if wanted is None else wanted[0].shape
            logits = some_logits.new_zeros((*shape, some_logits.shape[-1]))
            hidden = some_hidden.new_zeros((*tokens.shape, some_hidden.shape[-1]))
        hidden[rows, :length] = some_hidden
        logits[(rows, slice(length)) if inside is None else inside] = some_logits
    return logits, hidden


def depends_on_padding(
    run: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], mask_token_id: int, words: Sequence[int], device: torch.device
) -> bool:
    """Whether logits before padding change with the tokens that stand at the padding, which the attention mask hides.

    Args:
        run: gives logits (1, L, V) and hidden states for tokens (1, L) and an attention mask (1, L).
        words: two tokens that are neither mask nor padding.
    """
    real = torch.tensor([[1, 1, 0, 0, 0, 0]], device=device)
    tokens = torch.tensor([[mask_token_id] + 5 * [words[0]]], device=device)
    one, other = (run(each, real)[0][:, :2].float() for each in (tokens, tokens.masked_fill(real == 0, words[1])))
    return not torch.allclose(one, other, rtol=0, atol=1e-6 * float(one.abs().max()))
