"""`generate`: fill the masks of prompts and continue them, with any Hugging Face model, wrapped module or denoiser."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anyorder.decoding.counts import CountRule, Deadline, Fixed, Linear, Threshold
from anyorder.decoding.loop import Callback, decode
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.base import Denoiser, attention_of, device_of
from anyorder.errors import BadInput
from anyorder.interfaces.arguments import as_denoiser, find_order, token_rule, with_new_tokens
from anyorder.orders.base import Order

Prompts = Tensor | Sequence[Any] | Mapping[str, Any]


def generate(
    model: Any,
    input_ids: Prompts,
    attention_mask: Tensor | None = None,
    max_new_tokens: int | None = None,
    steps: int | None = None,
    block_length: int | None = None,
    temperature: float = 0.0,
    top_p: float | None = None,
    threshold: float | None = None,
    order: Order | str | Path = "confidence",
    seed: int = 0,
    *,
    sampler: Sampler | str | Path | None = None,
    mask_token_id: int | None = None,
    suppress_tokens: Sequence[int] = (),
    token_type_ids: Tensor | None = None,
    on_step: Callback | Sequence[Callback] = (),
) -> Any:
    """Fill the masks in `input_ids`, and those of new tokens behind them.

    Args:
        model: a Hugging Face model, or any denoiser (`load_denoiser`, `WrappedDenoiser`).
        input_ids: int64 (B, L), or (L,) for one prompt; or a list of prompts of any lengths, which are padded and unpadded; or
            what a tokenizer returns.
        attention_mask: bool or int (B, L), 0 at padding, which may be on either side.
        max_new_tokens: how many masks to append; None or 0 to fill in only.
        steps: forward passes that a sequence may cost; None for one token at a time, or with a threshold as many as it takes.
        block_length: finish blocks of so many masks one after another, with an equal share of the steps each.
        temperature: of the tokens; 0 for the likeliest.
        top_p: sample from the smallest set of tokens whose probability reaches this; no effect at temperature 0.
        threshold: take every token with a probability above it, and the best in order until the schedule is kept.
        order: the name of an order, an `Order`, or the folder of a fitted policy.
        seed: of sampling and of random orders; row i uses seed + i.
        sampler: a `Sampler`, its spelling, or its folder, in place of order, steps, block_length, temperature, top_p and
            threshold.
        mask_token_id: the mask, if neither the generation configuration nor the configuration names it.
        suppress_tokens: tokens that are never produced, such as padding; the mask never is.
        token_type_ids: accepted, because tokenizers return them, and ignored.
        on_step: callbacks, see `decode`.

    Returns:
        int64 (B, L + max_new_tokens); a list of such rows without padding if a list was given.

    Raises:
        BadInput: nothing to generate, an unknown order, an argument out of range, no mask token.
        WrongDenoiser: the policy was fitted to another model.
    """
    if isinstance(input_ids, Mapping):
        given = dict(input_ids)
        attention_mask = given.get("attention_mask", attention_mask)
        input_ids = given["input_ids"] if "input_ids" in given else _missing_ids(given)
    denoiser = as_denoiser(model, mask_token_id, suppress_tokens)
    tokens, attention_mask, lengths = _batch(input_ids, attention_mask, denoiser)
    if lengths is not None and max_new_tokens:  # new tokens follow the text, so padding must be in front of it
        tokens, attention_mask = collate(
            _rows(tokens, lengths), pad_token_id=int(tokens.new_tensor(_pad(denoiser))), side="left"
        )
    device = device_of(denoiser, tokens.device)
    home, tokens = tokens.device, tokens.to(device)
    attention_mask = None if attention_mask is None else attention_mask.to(device)
    tokens, attention_mask = with_new_tokens(tokens, attention_mask, max_new_tokens or 0, denoiser.mask_token_id)
    masked = tokens == denoiser.mask_token_id
    known = attention_of(denoiser, tokens) if attention_mask is None else attention_mask.bool()
    most = int((masked if known is None else masked & known).sum(dim=1).max()) if tokens.numel() else 0
    if most == 0:
        raise BadInput(f"there is nothing to generate: input_ids hold no mask ({denoiser.mask_token_id}); give max_new_tokens")
    if sampler is None:
        count = _count_rule(most, steps, block_length, threshold)
        where = find_order(order, denoiser)
        sampler = Sampler(where, count, token_rule(temperature, top_p), steps=steps, block_length=block_length)
    else:
        sampler = _given_sampler(sampler, denoiser, (steps, block_length, temperature or None, top_p, threshold), order)
    filled = decode(denoiser, tokens, sampler, seeds=seed, attention_mask=attention_mask, on_step=on_step).tokens.to(home)
    if lengths is None:
        return filled[0] if isinstance(input_ids, Tensor) and input_ids.dim() == 1 else filled
    if max_new_tokens:
        return [row[-(length + max_new_tokens) :] for row, length in zip(filled, lengths, strict=True)]
    return _rows(filled, lengths)


def collate(sequences: Sequence[Any], pad_token_id: int = 0, *, side: str = "right") -> tuple[Tensor, Tensor]:
    """Pad token sequences of different lengths.

    Args:
        sequences: lists, arrays or tensors of token ids.
        pad_token_id: what fills the rest.
        side: "right" or "left", the side of the padding.

    Returns:
        tokens int64 (B, L) and attention mask bool (B, L), False at padding.

    Raises:
        BadInput: no sequences, an empty one, or something that is no list of token ids.
    """
    if side not in ("left", "right"):
        raise BadInput(f"side is {side!r}; it must be 'left' or 'right'")
    try:
        rows = [torch.as_tensor(sequence, dtype=torch.int64) for sequence in sequences]
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput("a sequence must be a list of token ids (whole numbers)") from error
    if not rows or any(row.dim() != 1 or not len(row) for row in rows):
        raise BadInput("give at least one sequence, each a non-empty list of token ids")
    longest = max(map(len, rows))
    tokens = torch.full((len(rows), longest), pad_token_id)
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    for number, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
        tokens[number, place], mask[number, place] = row, True
    return tokens, mask


def _batch(input_ids: Any, attention_mask: Tensor | None, denoiser: Denoiser) -> tuple[Tensor, Tensor | None, list[int] | None]:
    """Tokens (B, L), attention mask, and the lengths of the prompts if a list was given."""
    if isinstance(input_ids, Tensor):
        return (input_ids[None] if input_ids.dim() == 1 else input_ids), attention_mask, None
    rows = list(input_ids) if isinstance(input_ids, Sequence) else list(torch.as_tensor(input_ids))
    if rows and isinstance(rows[0], int):
        rows = [rows]
    tokens, mask = collate(rows, _pad(denoiser))
    if attention_mask is not None:
        raise BadInput("a list of prompts needs no attention_mask: it is made from their lengths")
    return tokens, None if bool(mask.all()) else mask, [len(row) for row in rows]


def _pad(denoiser: Denoiser) -> int:
    pad = getattr(denoiser, "pad_token_id", None)
    return 0 if pad is None else int(pad)


def _rows(tokens: Tensor, lengths: list[int]) -> list[Tensor]:
    return [row[:length] for row, length in zip(tokens, lengths, strict=True)]


def _missing_ids(given: dict[str, Any]) -> Any:
    raise BadInput(f"the prompts hold {', '.join(given) or 'nothing'}; they must hold input_ids")


def _given_sampler(sampler: Sampler | str | Path, denoiser: Denoiser, others: tuple[Any, ...], order: Any) -> Sampler:
    if any(value is not None for value in others) or order != "confidence":
        raise BadInput("a sampler holds order, steps, block_length, temperature, top_p and threshold: give it alone")
    if isinstance(sampler, Sampler):
        return sampler
    if Path(sampler).is_dir():
        return Sampler.from_pretrained(sampler, denoiser)
    return Sampler.parse(str(sampler))


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
