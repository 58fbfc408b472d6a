"""Block-causal attention: a position sees all of its own block and of the blocks before it, and nothing behind (BD3LM, arXiv
2503.09573; SDAR, arXiv 2510.06303; LLaDA2, arXiv 2512.15745).

Blocks have equal lengths and are counted from the first real token, given ones included, as in the published models. A denoiser
with such a mask says so by an attribute `block_length`, which is None or missing where both sides are seen.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from anyorder.errors import BadInput
from anyorder.signatures import checked


def block_length_of(denoiser: object) -> int | None:
    """Positions per block of a denoiser's block-causal mask; None if it sees both sides."""
    found: int | None = getattr(denoiser, "block_length", None)
    return found


def check_block_length(block_length: object) -> None:
    """Raise BadInput unless this is a number of positions, or None."""
    if block_length is None:
        return
    if isinstance(block_length, bool) or not isinstance(block_length, int) or block_length < 1:
        raise BadInput(f"block_length is {block_length!r}; it must be a whole number of positions, 1 or more")


def block_numbers(tokens: Tensor, attention_mask: Tensor | None, block_length: int) -> Tensor:
    """Number of the block of each position, int64 (B, L), or (1, L) without padding.

    Args:
        tokens: int64 (B, L).
        attention_mask: bool (B, L), False at padding on either side.
        block_length: positions per block.
    """
    if attention_mask is None:
        return torch.arange(tokens.shape[1], device=tokens.device)[None] // block_length
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0) // block_length


def first_masked_block(masked: Tensor, number: Tensor) -> Tensor:
    """The masked positions of each row's first block that has any, bool (B, L), of those that are masked, bool (B, L)."""
    first = number.expand_as(masked).masked_fill(~masked, masked.shape[1]).amin(dim=1, keepdim=True)
    return masked & (number == first)


@checked("number")
def block_causal_mask(number: Tensor, real: Tensor | None = None, columns: Tensor | None = None) -> Tensor:
    """Which positions each one sees, bool (B, 1, L, L), or (B, 1, n, L) for some columns.

    Args:
        number: of the blocks, int64 (B, L).
        real: bool (B, L), False at padding, which only sees itself and what is not padding.
        columns: int64 (B, n), the positions that look; None for all.
    """
    places = torch.arange(number.shape[1], device=number.device)
    looking = places[None] if columns is None else columns
    theirs = number if columns is None else number.expand(len(columns), -1).gather(1, columns)
    seen = theirs[:, :, None] >= number[:, None, :]
    if real is not None:
        seen = seen & real.bool()[:, None, :]
    return (seen | (looking[:, :, None] == places))[:, None]


def training_mask(number: Tensor, real: Tensor | None = None) -> Tensor:
    """The mask of BD3LM's training pass over noised tokens followed by clean ones, bool (B, 1, 2 L, 2 L): a noised block sees
    itself and the clean blocks before it, a clean block what it sees in decoding (arXiv 2503.09573, section 3.2).

    Args:
        number, real: see `block_causal_mask`; of the L positions.
    """
    same = number[:, :, None] == number[:, None, :]
    before = number[:, :, None] > number[:, None, :]
    noised = torch.cat([same, before], dim=2)
    clean = torch.cat([torch.zeros_like(same), same | before], dim=2)
    seen = torch.cat([noised, clean], dim=1)
    if real is not None:
        seen = seen & real.bool().repeat(1, 2)[:, None, :]
    return (seen | torch.eye(seen.shape[1], dtype=torch.bool, device=seen.device))[:, None]


def as_bias(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """An additive bias in place of a bool mask: 0 where a position is seen and -inf elsewhere."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)


def probe(words: list[int], length: int, device: torch.device) -> Tensor:
    """Tokens int64 (1, L) with which a model is tried."""
    return torch.tensor([[words[(7 * i) % len(words)] for i in range(length)]], device=device)


@torch.no_grad()
def breach(logits_of: Callable[[Tensor], Tensor], model: nn.Module, tokens: Tensor, block_length: int, words: list[int]) -> str:
    """How a model does not respect blocks; "" if it does.

    Args:
        logits_of: its logits (1, L, V) for tokens (1, L).
        model: which has them. In half precision they may differ by rounding.
        tokens: int64 (1, L), of two blocks if it takes so many.
        block_length: positions per block.
        words: tokens to try it with, at least two.
    """
    first = min(block_length, tokens.shape[1])
    before = _of_first(logits_of(tokens), first)
    if bool(before.isnan().any()):
        return "its logits are NaN"
    if tokens.shape[1] > first:
        behind = _of_first(logits_of(_changed(tokens, range(first, tokens.shape[1]), words)), first)
        single = all(weight.dtype in (torch.float32, torch.float64) for weight in model.parameters())
        if not torch.allclose(before, behind, rtol=0.0, atol=(1e-4 if single else 0.05) * float(before.abs().max())):
            return "a block sees what stands behind it"
    if first > 1 and torch.equal(before[0], _of_first(logits_of(_changed(tokens, [first - 1], words)), first)[0]):
        return "a position does not see all of its block"
    return ""


def _of_first(logits: Tensor, count: int) -> Tensor:
    """The logits of the first positions, float32 (count, V), 0 where a token is forbidden."""
    return torch.nan_to_num(logits[0, :count].float(), nan=torch.nan, posinf=0.0, neginf=0.0)


def _changed(tokens: Tensor, places: Iterable[int], words: list[int]) -> Tensor:
    """Tokens (1, L) with other words at some places."""
    other = tokens.clone()
    for place in places:
        other[0, place] = next(word for word in words if word != int(tokens[0, place]))
    return other
