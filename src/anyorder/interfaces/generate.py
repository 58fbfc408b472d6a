"""`generate`: fill the masks of prompts and continue them, with any Hugging Face model, wrapped module or denoiser."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from anyorder.decoding.cache import Refresh
from anyorder.decoding.caches import CacheRule
from anyorder.decoding.callbacks import Callback, callbacks_of
from anyorder.decoding.combined_counts import Deadline
from anyorder.decoding.constraints import LogitsMask
from anyorder.decoding.counts import CountRule, Fixed, Linear, Threshold
from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.ends import Ends
from anyorder.errors import BadInput
from anyorder.interfaces.arguments import (
    as_denoiser,
    check_budget,
    check_threshold,
    find_order,
    find_sampler,
    token_rule,
    whole,
)
from anyorder.interfaces.ends import WithoutEnds, find_ends, penalized, with_late_ends
from anyorder.interfaces.prompts import Batch, Prompts, batch_of
from anyorder.interfaces.streaming import Streaming
from anyorder.orders.base import Order


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
    top_k: int | None = None,
    num_return_sequences: int = 1,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
    eos_penalty: float = 0.0,
    mask_token_id: int | None = None,
    suppress_tokens: Sequence[int] = (),
    token_type_ids: Tensor | None = None,
    on_step: Callback | Sequence[Callback] = (),
    streamer: Any = None,
    logits_mask: LogitsMask | None = None,
    cache: CacheRule | str = "none",
    refresh: Refresh = "block",
) -> Any:
    """Fill the masks in `input_ids`, and those of new tokens behind them.

    Args:
        model: a Hugging Face model, or any denoiser (`load_denoiser`, `WrappedDenoiser`).
        input_ids: int64 (B, L), or (L,) for one prompt; or a list of prompts of any lengths, which are padded and unpadded; or
            what a tokenizer returns, as in `generate(model, **tokenizer(texts))`.
        attention_mask: bool or int, in the shape of `input_ids`, 0 at padding, which may be on either side.
        max_new_tokens: how many masks to append; None or 0 to fill in only.
        steps: forward passes that a sequence may cost, spread over all its masks, those inside the prompt too; None for one
            token at a time, or with a threshold as many as it takes.
        block_length: finish blocks of this many masks one after another, with an equal share of the steps each. A model of
            block diffusion (LLaDA2, SDAR) is decoded in its own blocks, which this number must divide.
        temperature: of the tokens; 0 for the likeliest.
        top_p: sample from the smallest set of tokens whose probability reaches this; no effect at temperature 0.
        threshold: take every token with a probability above it, and the best-ranked others that the schedule needs.
        order: the name of an order, an `Order`, or the folder of a fitted policy.
        seed: of sampling and of random orders; row i uses seed + i.
        sampler: a `Sampler`, its spelling, its folder, or an order, instead of order, steps, block_length, temperature, top_p,
            top_k, threshold, cache and refresh.
        top_k: sample from so many of the likeliest tokens; 0 or None for all.
        num_return_sequences: how often each prompt is decoded; the results of a prompt are rows one after the other, each with
            a seed of its own.
        eos_token_id: a token, or several, that end the text. A row stops once everything left of its first committed end is
            committed; the rest becomes padding and costs no forward passes. None: nothing ends the text.
        pad_token_id: what stands behind the end; by default the model's padding, or else the end token.
        eos_penalty: subtracted from the score of a position whose token would be an end, so that others come first;
            `math.inf` for ends last. Such a position is not taken by the threshold either; by the count rule of a sampler only
            if the penalty is finite.
        mask_token_id: the mask, if neither the generation configuration nor the configuration names it.
        suppress_tokens: tokens that are never produced, such as padding; the mask is always one of them.
        token_type_ids: accepted, because tokenizers return them, and ignored.
        on_step: callbacks, see `decode`.
        streamer: of transformers, such as `TextDiffusionStreamer`, for one prompt with new tokens, see `Streaming`.
        logits_mask: which tokens may be committed, see `LogitsMask`.
        cache: in blocks, read keys and values of earlier forward passes: "prefix", those before the open block; "dual", all
            those outside it; "exact", those of the finished blocks of a model of block diffusion; "none" computes everything.
            Faster, with other tokens where the result is not sure, see `Sampler`.
        refresh: when everything is computed anew: "block", at each new block; an int, every so many steps; a float, a bound of
            the drift.

    Returns:
        int64 (B, L + max_new_tokens), or (L + max_new_tokens,) for one prompt. For a list of prompts a list of the latter,
        without the padding that was added here.

    Raises:
        BadInput: nothing to generate, prompts that are not token ids, an unknown order, an argument out of range, a sampler
            together with what it holds, a streamer for several prompts, no mask token, or a model that does not return logits
            over its tokens.
        WrongDenoiser: the policy was fitted to another model.
    """
    denoiser = as_denoiser(model, mask_token_id, suppress_tokens, block_length=block_length)
    new = 0 if max_new_tokens is None else max_new_tokens
    batch = batch_of(input_ids, attention_mask, denoiser, new=new, copies=num_return_sequences)
    ends = find_ends(denoiser, eos_token_id, pad_token_id)
    if sampler is None:
        late = ends if eos_penalty else None
        count, token = _count_rule(steps, block_length, threshold, late), token_rule(temperature, top_p, top_k)
        made = Sampler(find_order(order, denoiser), count, token, steps=steps, block_length=block_length)
        sampler = made.replace(cache=cache, refresh=refresh).bind(denoiser)
        sampler = sampler.replace(order=penalized(sampler.order, ends, eos_penalty))
    else:
        held = (steps, block_length, top_p, top_k, threshold)
        cached = (cache, refresh) != ("none", "block")
        if order != "confidence" or temperature or cached or any(value is not None for value in held):
            raise BadInput(
                "a sampler holds order, steps, block_length, temperature, top_p, top_k, threshold, cache and refresh: leave "
                "these out"
            )
        sampler = with_late_ends(find_sampler(sampler, denoiser).bind(denoiser), ends, eos_penalty)
    check_budget(denoiser, batch.tokens, batch.attention_mask, sampler.steps, sampler.block_length)
    stream = None if streamer is None else _streaming(streamer, batch, ends, final=sampler.remasker.final)
    decoded = decode(
        denoiser, batch.tokens, sampler, seeds=seed, attention_mask=batch.attention_mask, ends=ends, logits_mask=logits_mask,
        on_step=callbacks_of(on_step) + ([] if stream is None else [stream]),
    )  # fmt: skip
    if stream is not None:
        stream.close(decoded.tokens[0])
    return batch.unpad(decoded.tokens)


def _streaming(streamer: Any, batch: Batch, ends: Ends | None, *, final: bool) -> Streaming:
    if len(batch.tokens) != 1 or not batch.new:
        raise BadInput("a streamer is for one prompt and new tokens behind it: give one prompt and max_new_tokens")
    return Streaming(streamer, batch.tokens[0, : -batch.new], ends, final=final)


def _count_rule(steps: int | None, block_length: int | None, threshold: float | None, late: Ends | None) -> CountRule:
    """How many per step. The threshold does not take the tokens of `late`."""
    for name, value in (("steps", steps), ("block_length", block_length)):
        if value is not None:
            whole(name, value, 1)
    check_threshold(threshold)
    schedule: CountRule = Fixed(1) if steps is None else Linear()
    if threshold is None:
        return schedule
    sure: CountRule = Threshold(threshold)
    return Deadline(sure if late is None else WithoutEnds(sure, late), schedule)
