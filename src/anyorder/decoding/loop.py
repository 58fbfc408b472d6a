"""The loop that decodes: predict, step, until every sequence is finished."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from anyorder.decoding.cache import Cache
from anyorder.decoding.callbacks import Callback, callbacks_of
from anyorder.decoding.constraints import LogitsMask, check_lists, check_mask, constrained
from anyorder.decoding.result import Decoded
from anyorder.decoding.sampler import Sampler, as_sampler
from anyorder.decoding.step import StepOutput, predict, step
from anyorder.denoisers.base import Denoiser, attention_of, check_batch, device_of, in_eval_mode
from anyorder.denoisers.blocks import block_length_of
from anyorder.ends import Ends
from anyorder.errors import BadInput
from anyorder.orders.base import Order
from anyorder.parts import walk
from anyorder.signatures import check_argument
from anyorder.state import DecodeState, init


@torch.no_grad()
@in_eval_mode
def decode(
    denoiser: Denoiser,
    tokens: Tensor,
    sampler: Sampler | Order | str | Path,
    *,
    seeds: Tensor | int = 0,
    attention_mask: Tensor | None = None,
    x0: Tensor | None = None,
    ends: Ends | None = None,
    logits_mask: LogitsMask | None = None,
    on_step: Callback | Sequence[Callback] = (),
) -> Decoded:
    """Fill every masked position of a batch.

    Args:
        denoiser: the model. It runs in eval mode, and is left in the mode in which it was.
        tokens: int64 (B, L); positions that hold `denoiser.mask_token_id` are generated, all others never change.
        sampler: where, how many, what, what to remask; or its spelling, such as `confidence@threshold:0.9`, its folder, or an
            order of one's own.
        seeds: one int64 per sequence (B,), or one number to which row i adds i.
        attention_mask: bool (B, L), False at padding; derived from the denoiser's `pad_token_id` if it has one.
        x0: the solutions (B, L), for oracle orders.
        ends: tokens that end a text. A row stops once everything left of its first committed end is committed, see `Ends`; with
            a remasker it is decoded completely, because no end is final, and cut then.
        logits_mask: which tokens may be committed, see `LogitsMask`: called in every step, before the order.
        on_step: called after every step with a `StepOutput`; its states hold the sequences that are still decoded, and
            `StepOutput.before.row` says which they are.

    Tensors may be on another device than the denoiser: they are moved to its device, and the result to that of `tokens`.

    Returns:
        A `Decoded`. Rows do not influence one another, and a finished row costs no more forward passes.

    Raises:
        BadInput: tokens, mask, solutions or seeds of the wrong type, shape or vocabulary, no denoiser, no sampler,
            no callback, ends or allowed tokens of another vocabulary or batch, or a constraint that leaves no token.
        WrongDenoiser: a policy was fitted to another denoiser.
        PartFailed: code of the user's own raised an error.
    """
    check_batch(tokens, denoiser, attention_mask=attention_mask, x0=x0, seeds=seeds)
    sampler = as_sampler(sampler).bind(denoiser)
    check_argument("ends", ends, Ends | None)
    if ends is not None:
        ends.check(denoiser)
    if logits_mask is not None:
        check_mask(logits_mask)
        if any(hasattr(part, "passes") for part in walk(sampler.order)):
            raise BadInput("an order that looks ahead with the denoiser does not know the constraint: use another order")
    callbacks = callbacks_of(on_step)
    home, device = tokens.device, device_of(denoiser, tokens.device)
    mask = attention_of(denoiser, tokens) if attention_mask is None else attention_mask
    state = init(
        tokens.to(device), denoiser.mask_token_id, steps=sampler.steps, seeds=seeds, attention_mask=mask, x0=x0,
        model_block=block_length_of(denoiser),
    )  # fmt: skip
    if logits_mask is not None:
        check_lists(logits_mask, state, denoiser.vocab_size)
    if not state.masked.any() and len(state):
        message = f"nothing to decode: no token is the mask ({denoiser.mask_token_id}); the tokens are returned"
        warnings.warn(message, stacklevel=4)
    rows, done = [state.row[state.finished]], [Decoded.of(state, state.finished)]
    if state.finished.any():
        state = state.rows(~state.finished)
    cache = sampler.start_cache(denoiser)
    while len(state):
        state, output, over = advance(denoiser, state, sampler, cache, ends, logits_mask)
        for callback in callbacks:
            callback(output)
        if over.any():
            rows.append(state.row[over])
            done.append(Decoded.of(state, over))
            state = state.rows(~over)
    return Decoded.join(done)[torch.cat(rows).argsort()].to(home)


def advance(
    denoiser: Denoiser,
    state: DecodeState,
    sampler: Sampler,
    cache: Cache | None = None,
    ends: Ends | None = None,
    logits_mask: LogitsMask | None = None,
) -> tuple[DecodeState, StepOutput, Tensor]:
    """One forward pass and one step of all sequences, with padding behind the ends of those that are complete.

    Returns:
        The state after the step, what the step did, and the rows bool (B,) whose decoding ends with it.
    """
    prediction = predict(denoiser, state, sampler, cache)
    if logits_mask is not None:
        prediction = constrained(prediction, state, logits_mask)
    state, output = step(state, prediction, sampler)
    over = sampler.remasker.over(output.before, state)
    if ends is None:
        return state, output, over
    final = sampler.remasker.final
    state = ends.close(state, over | final)
    return state, replace(output, after=state), state.finished if final else over
