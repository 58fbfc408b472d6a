"""Prompts in every form that users have them in, as one batch, and results back in that form."""

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from anyorder.denoisers.base import Denoiser, attention_of, device_of
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.errors import BadInput
from anyorder.interfaces.arguments import whole
from anyorder.signatures import check_argument
from anyorder.tasks.base import max_length_of

Prompts = Tensor | Sequence[Any] | Mapping[str, Any]
"""Token ids (B, L) or (L,), as a tensor or an array; lists of them of any lengths; or what a tokenizer returns."""


class Batch(NamedTuple):
    """Prompts as a batch, and the new tokens behind them.

    tokens: int64 (B, L + new), masks at the end, on the denoiser's device.
    attention_mask: bool (B, L + new), False at padding; None if nothing is padded.
    new: how many masks were appended.
    most: masks of the row that has the most of them.
    lengths: of the prompts, if a list of them was given.
    single: one prompt was given, not a batch of one.
    """

    tokens: Tensor
    attention_mask: Tensor | None
    new: int
    most: int
    lengths: list[int] | None
    single: bool
    device: torch.device

    def unpad(self, filled: Tensor) -> Any:
        """Filled tokens (B, L + new) in the form of the prompts: a batch, one row, or a list of rows without padding."""
        filled = filled.to(self.device)
        if self.lengths is None:
            return filled[0] if self.single else filled
        longest = filled.shape[1] - self.new
        starts = [longest - length if self.new else 0 for length in self.lengths]
        return [row[i : i + n + self.new] for row, i, n in zip(filled, starts, self.lengths, strict=True)]


def batch_of(
    prompts: Prompts,
    attention_mask: Any,
    denoiser: Denoiser,
    *,
    new: int,
    copies: int = 1,
    what: str = "input_ids",
    length: str = "max_new_tokens",
) -> Batch:
    """Prompts of any form, with `new` masks behind each; padding of lists is in front of prompts that are continued.

    Args:
        prompts: in any form.
        attention_mask: in the same form, 0 at padding; None where the denoiser knows its padding or there is none.
        denoiser: whose mask and device are used.
        new: masks to append.
        copies: rows per prompt, one after the other.
        what, length: names of the prompts and of the number of new tokens in messages.

    Raises:
        BadInput: something that is no token ids, an attention mask of another shape, no mask at all.
    """
    for name, value, least in ((length, new, 0), ("num_return_sequences", copies, 1)):
        whole(name, value, least)
    if isinstance(prompts, Mapping):
        if "input_ids" not in prompts:
            raise BadInput(f"the prompts hold {', '.join(prompts) or 'nothing'}; they must hold input_ids")
        attention_mask = prompts.get("attention_mask", attention_mask)
        prompts = prompts["input_ids"]
    tokens, known, lengths, single = _rows(prompts, attention_mask, denoiser, what, continued=new > 0)
    given_on = tokens.device
    tokens, known = with_new_tokens(tokens, known, new, denoiser.mask_token_id)
    device = device_of(denoiser, given_on)
    longest = max_length_of(denoiser)
    if longest is not None and tokens.shape[1] > longest and _counts_positions(denoiser):
        raise BadInput(f"the model takes {longest} tokens at most; {what} and new tokens are {tokens.shape[1]}: shorten them")
    tokens = tokens.to(device).repeat_interleave(copies, dim=0)
    known = attention_of(denoiser, tokens) if known is None else known.to(device).repeat_interleave(copies, dim=0)
    masked = tokens == denoiser.mask_token_id
    most = int((masked if known is None else masked & known).sum(dim=1).max()) if tokens.numel() else 0
    if most == 0:
        raise BadInput(f"there is nothing to generate: {what} hold no mask ({denoiser.mask_token_id}); give {length}")
    lengths = None if lengths is None else [length for length in lengths for _ in range(copies)]
    return Batch(tokens, known, new, most, lengths, single and copies == 1, given_on)


def with_new_tokens(
    tokens: Tensor, attention_mask: Tensor | None, count: int, mask_token_id: int
) -> tuple[Tensor, Tensor | None]:
    """Tokens int64 (B, L + count) that end in masks, and the attention mask bool (B, L + count) that lets them be seen.

    Raises:
        BadInput: tokens or attention mask of another shape or type.
    """
    if not (tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool):
        tokens = tokens.long()
    if tokens.dim() != 2 or tokens.dtype != torch.int64:
        raise BadInput(f"the tokens are {tokens.dtype} of shape {tuple(tokens.shape)}; they must be int64 (batch, length)")
    if attention_mask is not None and attention_mask.shape != tokens.shape:
        raise BadInput(
            f"attention_mask has shape {tuple(attention_mask.shape)}; it must have that of the tokens, {tuple(tokens.shape)}"
        )
    masks = tokens.new_full((len(tokens), count), mask_token_id)
    if attention_mask is not None:
        attention_mask = torch.cat([attention_mask.bool(), torch.ones_like(masks, dtype=torch.bool)], dim=1)
    return torch.cat([tokens, masks], dim=1), attention_mask


def collate(sequences: Sequence[Any], pad_token_id: int = 0, *, side: str = "right") -> tuple[Tensor, Tensor]:
    """Pad token sequences of different lengths.

    Args:
        sequences: lists, arrays or tensors of token ids.
        pad_token_id: the token that fills the rest.
        side: "right" or "left", the side of the padding.

    Returns:
        tokens int64 (B, L) and attention mask bool (B, L), False at padding.

    Raises:
        BadInput: no sequences, an empty one, or something that is not a list of token ids.
    """
    check_argument("pad_token_id", pad_token_id, int)
    if side not in ("left", "right"):
        raise BadInput(f"side is {side!r}; it must be 'left' or 'right'")
    try:
        rows = [torch.as_tensor(sequence) for sequence in sequences]
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput("a sequence must be a list of token ids (whole numbers)") from error
    if not rows or any(row.dim() != 1 or not len(row) for row in rows):
        raise BadInput("give at least one sequence, each a non-empty list of token ids")
    if any(row.is_floating_point() or row.is_complex() for row in rows):
        raise BadInput("a sequence must be a list of token ids (whole numbers)")
    longest = max(map(len, rows))
    tokens = torch.full((len(rows), longest), pad_token_id)
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    for number, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
        tokens[number, place], mask[number, place] = row, True
    return tokens, mask


_Rows = tuple[Tensor, Tensor | None, list[int] | None, bool]


def _rows(prompts: Any, attention_mask: Any, denoiser: Denoiser, what: str, *, continued: bool) -> _Rows:
    """Tokens, attention mask, the lengths of prompts that came as a list, and whether one prompt came alone."""
    if hasattr(prompts, "__array__"):  # a tensor or an array
        tokens = torch.as_tensor(prompts)
        mask = None if attention_mask is None else _as_mask(attention_mask)
        if tokens.dim() == 1:
            return tokens[None], mask if mask is None else mask[None], None, True
        return tokens, mask, None, False
    if not isinstance(prompts, Sequence) or isinstance(prompts, str) or any(isinstance(row, str) for row in prompts):
        raise BadInput(f"{what} must be token ids: use anyorder.infill for texts, or generate(model, **tokenizer(texts))")
    if prompts and isinstance(prompts[0], Integral):
        return _rows(torch.tensor(prompts), attention_mask, denoiser, what, continued=continued)
    side = "left" if continued else "right"
    tokens, mask = collate(prompts, _pad(denoiser), side=side)
    lengths = [len(row) for row in prompts]
    if attention_mask is None:
        own = attention_of(denoiser, tokens)
        mask = mask if own is None else mask & own
    else:
        given = [_as_mask(row).long() for row in attention_mask]
        if [len(row) for row in given] != lengths:
            raise BadInput(f"attention_mask has other lengths than {what}: give one number per token")
        mask = mask & collate(given, side=side)[0].bool()
    return tokens, None if attention_mask is None and bool(mask.all()) else mask, lengths, False


def _as_mask(given: Any) -> Tensor:
    try:
        return torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput("attention_mask must be a tensor, or a list, of 1 at tokens and 0 at padding") from error


def _counts_positions(denoiser: Denoiser) -> bool:
    """Whether a position beyond the longest has no embedding. Models of Hugging Face may turn with positions instead."""
    if not isinstance(denoiser, HuggingFaceDenoiser):
        return True
    named = denoiser.model.named_modules()
    return any(isinstance(module, nn.Embedding) and "position" in name for name, module in named)


def _pad(denoiser: Denoiser) -> int:
    pad = getattr(denoiser, "pad_token_id", None)
    return 0 if pad is None else int(pad)
