"""`generate`: fill the masks of prompts and continue them, with any Hugging Face model, wrapped module or denoiser."""

from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from anyorder.decoding.counts import CountRule, Deadline, Fixed, Linear, Threshold
from anyorder.decoding.loop import Callback, decode
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.base import Denoiser, attention_of, device_of
from anyorder.errors import BadInput
from anyorder.interfaces.arguments import as_denoiser, find_order, find_sampler, token_rule, with_new_tokens
from anyorder.orders.base import Order

Prompts = Tensor | Sequence[Any] | Mapping[str, Any]
"""Token ids (B, L) or (L,), lists of them of any lengths, or what a tokenizer returns."""


def generate(
    model: Any,
    input_ids: Prompts,
    attention_mask: Tensor | Sequence[Any] | None = None,
    max_new_tokens: int | None = None,
    steps: int | None = None,
    block_length: int | None = None,
    temperature: float = 0.0,
    top_p: float | None = None,
    threshold: float | None = None,
    order: Order | str | Path = "confidence",
    seed: int = 0,
    *,
    sampler: Sampler | Order | str | Path | None = None,
    mask_token_id: int | None = None,
    suppress_tokens: Sequence[int] = (),
    token_type_ids: Tensor | None = None,
    on_step: Callback | Sequence[Callback] = (),
) -> Any:
    """Fill the masks in `input_ids`, and those of new tokens behind them.

    Args:
        model: a Hugging Face model, or any denoiser (`load_denoiser`, `WrappedDenoiser`).
        input_ids: int64 (B, L), or (L,) for one prompt; or a list of prompts of any lengths, which are padded and unpadded; or
            what a tokenizer returns, as in `generate(model, **tokenizer(texts))`.
        attention_mask: bool or int, in the shape of `input_ids`, 0 at padding, which may be on either side.
        max_new_tokens: how many masks to append; None or 0 to fill in only.
        steps: forward passes that a sequence may cost; None for one token at a time, or with a threshold as many as it takes.
        block_length: finish blocks of this many masks one after another, with an equal share of the steps each.
        temperature: of the tokens; 0 for the likeliest.
        top_p: sample from the smallest set of tokens whose probability reaches this; no effect at temperature 0.
        threshold: take every token with a probability above it, and the best-ranked others that the schedule needs.
        order: the name of an order, an `Order`, or the folder of a fitted policy.
        seed: of sampling and of random orders; row i uses seed + i.
        sampler: a `Sampler`, its spelling, its folder, or an order, instead of order, steps, block_length, temperature, top_p
            and threshold.
        mask_token_id: the mask, if neither the generation configuration nor the configuration names it.
        suppress_tokens: tokens that are never produced, such as padding; the mask is always one of them.
        token_type_ids: accepted, because tokenizers return them, and ignored.
        on_step: callbacks, see `decode`.

    Returns:
        int64 (B, L + max_new_tokens), or (L + max_new_tokens,) for one prompt. For a list of prompts a list of the latter,
        without the padding that was added here.

    Raises:
        BadInput: nothing to generate, prompts that are not token ids, an unknown order, an argument out of range, a sampler
            together with what it holds, no mask token, or a model that does not return logits over its tokens.
        WrongDenoiser: the policy was fitted to another model.
    """
    if isinstance(input_ids, Mapping):
        if "input_ids" not in input_ids:
            raise BadInput(f"the prompts hold {', '.join(input_ids) or 'nothing'}; they must hold input_ids")
        attention_mask = input_ids.get("attention_mask", attention_mask)
        input_ids = input_ids["input_ids"]
    denoiser = as_denoiser(model, mask_token_id, suppress_tokens)
    batch = _batch(input_ids, attention_mask, denoiser, continued=bool(max_new_tokens))
    device = device_of(denoiser, batch.tokens.device)
    tokens, known = with_new_tokens(batch.tokens, batch.attention_mask, max_new_tokens or 0, denoiser.mask_token_id)
    tokens, known = tokens.to(device), None if known is None else known.bool().to(device)
    known = attention_of(denoiser, tokens) if known is None else known
    masked = tokens == denoiser.mask_token_id
    most = int((masked if known is None else masked & known).sum(dim=1).max()) if tokens.numel() else 0
    if most == 0:
        raise BadInput(f"there is nothing to generate: input_ids hold no mask ({denoiser.mask_token_id}); give max_new_tokens")
    if sampler is None:
        count = _count_rule(most, steps, block_length, threshold)
        where = find_order(order, denoiser)
        sampler = Sampler(where, count, token_rule(temperature, top_p), steps=steps, block_length=block_length)
    else:
        if order != "confidence" or temperature or any(v is not None for v in (steps, block_length, top_p, threshold)):
            raise BadInput("a sampler holds order, steps, block_length, temperature, top_p and threshold: leave these out")
        sampler = find_sampler(sampler, denoiser)
    filled = decode(denoiser, tokens, sampler, seeds=seed, attention_mask=known, on_step=on_step).tokens
    return batch.unpad(filled.to(batch.tokens.device))


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


class _Batch(NamedTuple):
    """Prompts as a batch.

    tokens, attention_mask: (B, L); the mask is None if nobody gave one and no prompt was padded here.
    lengths: of the prompts, if a list of them was given.
    left: the padding is in front of the prompts.
    single: one prompt was given, not a batch of one.
    """

    tokens: Tensor
    attention_mask: Tensor | None
    lengths: list[int] | None = None
    left: bool = False
    single: bool = False

    def unpad(self, filled: Tensor) -> Any:
        """Filled tokens (B, L + new) in the form of the prompts: a batch, one row, or a list of rows without padding."""
        if self.lengths is None:
            return filled[0] if self.single else filled
        longest = self.tokens.shape[1]
        new = filled.shape[1] - longest
        starts = [longest - length if self.left else 0 for length in self.lengths]
        return [row[i : i + n + new] for row, i, n in zip(filled, starts, self.lengths, strict=True)]


def _batch(input_ids: Any, attention_mask: Any, denoiser: Denoiser, *, continued: bool) -> _Batch:
    """Prompts of any form as a batch; padding is in front of prompts that are `continued`."""
    if hasattr(input_ids, "__array__"):  # a tensor or an array
        tokens = torch.as_tensor(input_ids)
        mask = None if attention_mask is None else torch.as_tensor(attention_mask)
        if tokens.dim() == 1:
            return _Batch(tokens[None], mask if mask is None else mask[None], single=True)
        return _Batch(tokens, mask)
    if not isinstance(input_ids, Sequence) or isinstance(input_ids, str) or any(isinstance(row, str) for row in input_ids):
        raise BadInput("input_ids must be token ids: use anyorder.infill for texts, or generate(model, **tokenizer(texts))")
    if input_ids and isinstance(input_ids[0], Integral):
        return _batch(torch.tensor(input_ids), attention_mask, denoiser, continued=continued)
    side = "left" if continued else "right"
    tokens, mask = collate(input_ids, _pad(denoiser), side=side)
    lengths = [len(row) for row in input_ids]
    if attention_mask is None:
        own = attention_of(denoiser, tokens)
        mask = mask if own is None else mask & own
    else:
        given = [torch.as_tensor(row).long() for row in attention_mask]
        if [len(row) for row in given] != lengths:
            raise BadInput("attention_mask has other lengths than input_ids: give one number per token")
        mask = mask & collate(given, side=side)[0].bool()
    return _Batch(tokens, None if bool(mask.all()) else mask, lengths, left=continued)


def _pad(denoiser: Denoiser) -> int:
    pad = getattr(denoiser, "pad_token_id", None)
    return 0 if pad is None else int(pad)


def _count_rule(most: int, steps: int | None, block_length: int | None, threshold: float | None) -> CountRule:
    """How many per step, if the longest sequence has `most` masks."""
    if steps is not None and steps < 1:
        raise BadInput(f"steps is {steps}; at least one forward pass is needed")
    if block_length is not None and block_length < 1:
        raise BadInput(f"block_length is {block_length}; a block needs at least one token")
    blocks = 1 if block_length is None else -(-most // block_length)
    if steps is not None and steps < blocks:
        raise BadInput(f"steps {steps} are too few for {blocks} blocks of {block_length}: give {blocks} or more")
    if threshold is not None and not 0 <= threshold <= 1:
        raise BadInput(f"threshold is {threshold}; it is a probability, from 0 to 1")
    schedule: CountRule = Fixed(1) if steps is None else Linear()
    return schedule if threshold is None else Deadline(Threshold(threshold), schedule)
