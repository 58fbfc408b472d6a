"""One step of decoding, as a pure function of a state, a prediction and a sampler."""

from dataclasses import dataclass

import torch
from torch import Tensor

from anyorder import noise
from anyorder.decoding.blocks import open_block, reach_of
from anyorder.decoding.cache import Cache
from anyorder.decoding.counts import checked_selection
from anyorder.decoding.remaskers import check_committed
from anyorder.decoding.sampler import Sampler
from anyorder.decoding.tokens import propose
from anyorder.denoisers.attention import with_attention
from anyorder.denoisers.base import Denoiser, DenoiserOutput, at_positions, check_is_denoiser
from anyorder.denoisers.blocks import block_length_of
from anyorder.errors import BadInput
from anyorder.memory import remember
from anyorder.orders.base import checked_scores
from anyorder.own_code import name_of, naming
from anyorder.prediction import Prediction, forbid
from anyorder.signatures import checked
from anyorder.state import DecodeState


@dataclass(frozen=True, eq=False)
class StepOutput:
    """What one step saw and did, for callbacks.

    Args:
        before: the state before the step, with up-to-date memories; `after`: the state after it.
        prediction: what the denoiser predicted, with the candidates of the token rule.
        scores: float (B, L), of the order, without noise.
        selected: bool (B, L), positions that were committed.
        remasked: bool (B, L), committed positions that were masked again.
    """

    before: DecodeState
    after: DecodeState
    prediction: Prediction
    scores: Tensor
    selected: Tensor
    remasked: Tensor


@checked("state", "sampler")
def predict(denoiser: Denoiser, state: DecodeState, sampler: Sampler, cache: Cache | None = None) -> Prediction:
    """One forward pass of the denoiser, without the tokens that were ruled out.

    With a cache it may be a pass over a part of the positions: then the others have hidden states of earlier passes, and no
    logits."""
    check_is_denoiser(denoiser)
    state, reach = _reaching(state, sampler, block_length_of(denoiser))
    with naming("remasker", sampler.remasker):
        where = checked_selection(sampler.remasker.positions(state), state, sampler.remasker)
    verifies, attention = sampler.remasker.verifies, None
    asked = where | state.committed if verifies else where
    if reach is not None:
        where, asked = where & reach, asked & reach
    with naming("denoiser", denoiser):
        if cache is not None:
            logits, hidden, asked = cache.predict(state, asked)
            where = where & asked
        elif sampler.reads_attention:
            output, attention = with_attention(denoiser, state.tokens, state.attention_mask, asked)
            logits, hidden = at_positions(output, asked)
        elif reach is not None:
            logits, hidden = _up_to(reach, denoiser, state, asked)
        else:
            logits, hidden = at_positions(denoiser(state.tokens, state.attention_mask, asked), asked)
    if reach is not None:
        hidden = hidden.masked_fill(~reach[..., None], 0.0)
    log_probs = None
    if verifies:
        inside, verified = where[asked], state.committed & asked
        committed = Prediction(logits[~inside], hidden, verified, candidates=state.tokens[verified])
        log_probs, logits = committed.scatter(committed.drawn_log_probs, 0.0), logits[inside]
    logits = forbid(logits, state.rejected[where])
    return Prediction(logits, hidden, where, committed_log_probs=log_probs, attention=attention)


@checked("state", "prediction", "sampler")
def step(state: DecodeState, prediction: Prediction, sampler: Sampler) -> tuple[DecodeState, StepOutput]:
    """Decode every sequence of a state by one step.

    Raises:
        BadInput: the order did not return a float tensor, or returned scores of the wrong shape, NaN or +inf; or the remasker
            returned anything but committed positions.
    """
    everywhere = state.masked
    state, _ = _reaching(state, sampler, state.model_block)
    later = everywhere & ~state.masked
    if sampler.block_length is not None:
        block = open_block(state, sampler.block_length)
        state = state.replace(open=block & state.masked, block=block)
    state = remember(state, prediction, sampler.memories)
    candidates, log_probs = propose(sampler.token_rule, state, prediction)  # what
    prediction = prediction.with_candidates(candidates, log_probs)
    scores = _scores(state, prediction, sampler)  # where
    scale = sampler.noise_scale(state)
    drawn = isinstance(scale, Tensor) or scale > 0
    noisy = (scores + scale * state.gumbel(noise.Purpose.ORDER_NOISE)).float() if drawn else scores

    last = state.step >= state.steps - 1  # a loop of one's own may go on with rows that are done
    some_last = bool(last.any())
    closes = sampler.count_rule.closes(state)
    with naming("remasker", sampler.remasker):
        remasked = checked_selection(sampler.remasker.remask(state, prediction), state, sampler.remasker)  # what to remask
    final = last if closes is None else last | closes
    remasked = remasked & ~final[:, None]
    count = remasked.sum(dim=1)
    selected = prediction.predicted
    if not (some_last and bool(last.all())):  # how many
        with naming("count rule", sampler.count_rule):
            chosen = checked_selection(sampler.count_rule(noisy, state, prediction, count), state, sampler.count_rule)
        selected, remasked = _revised(state, prediction, sampler, noisy, chosen & prediction.predicted, remasked)
        remasked = remasked & ~final[:, None]
        if some_last:
            selected = torch.where(last[:, None], prediction.predicted, selected)
    with naming("remasker", sampler.remasker):
        rejected = checked_selection(sampler.remasker.reject(state, prediction, remasked), state, sampler.remasker)
    check_committed(sampler.remasker, remasked | rejected | (prediction.predicted & ~state.masked), state)

    filled = state.tokens.masked_scatter(prediction.predicted, candidates)
    masked = ((state.masked | prediction.predicted) & ~selected) | remasked | later
    remasked = masked & ~(state.masked | later)  # with what was predicted again and not selected
    new = selected & (filled != state.tokens)
    log_probs = prediction.scatter(log_probs, 0.0).float()
    order_log_probs = state.order_log_probs
    if drawn:
        order_log_probs = torch.where(new, noise.order_log_probs(scores, noisy, selected, scale).float(), order_log_probs)
    after = state.replace(
        tokens=torch.where(masked, state.mask_token_id, torch.where(selected, filled, state.tokens)),
        masked=masked,
        open=None,
        block=None,
        step=state.step + 1,
        commit_step=torch.where(new, state.step[:, None], state.commit_step).masked_fill(remasked, -1),
        token_log_probs=torch.where(new, log_probs, state.token_log_probs).masked_fill(remasked, 0.0),
        order_log_probs=order_log_probs,
        rejected=torch.where(rejected, state.tokens, state.rejected.masked_fill(selected, -1)),
        nfe=state.nfe + sampler.passes(state),
        remasked=state.remasked + remasked.sum(dim=1),
    )
    after = sampler.remasker.settle(after)
    return after, StepOutput(state, after, prediction, scores, selected, remasked)


def _reaching(state: DecodeState, sampler: Sampler, model_block: int | None) -> tuple[DecodeState, Tensor | None]:
    """With a block-causal denoiser, the state without the masks behind the open block, which are not predicted yet, and the
    positions bool (B, L) up to its end. Then what is behind has no influence on a step, as it has none on the denoiser."""
    if state.model_block != model_block:
        raise BadInput(
            f"this state is for a denoiser whose mask has blocks of {state.model_block}, and this one's has blocks of "
            f"{model_block}: make it with init(..., model_block=denoiser.block_length)"
        )
    if model_block is None:
        return state, None
    if sampler.block_length is None:
        raise BadInput("the denoiser's mask is block-causal: bind the sampler to it, sampler.bind(denoiser)")
    reach = reach_of(state, open_block(state, sampler.block_length))
    return state.replace(masked=state.masked & reach), reach


def _up_to(reach: Tensor, denoiser: Denoiser, state: DecodeState, asked: Tensor) -> DenoiserOutput:
    """A forward pass over the columns up to the last one that is needed; hidden states are 0 behind it."""
    needed = reach if state.attention_mask is None else reach & state.attention_mask.bool()
    end = 1 + int(needed.any(dim=0).nonzero().max()) if bool(needed.any()) else 1
    mask = None if state.attention_mask is None else state.attention_mask[:, :end]
    logits, hidden = at_positions(denoiser(state.tokens[:, :end], mask, asked[:, :end]), asked[:, :end])
    return DenoiserOutput(logits, torch.nn.functional.pad(hidden, (0, 0, 0, reach.shape[1] - end)))


def _scores(state: DecodeState, prediction: Prediction, sampler: Sampler) -> Tensor:
    """The order's scores (B, L), -inf at positions that are not open."""
    inside = prediction.predicted if state.open is None else state.open
    with naming("order", sampler.order):
        return checked_scores(sampler.order(state, prediction), sampler.order, state, inside)


def _revised(
    state: DecodeState, prediction: Prediction, sampler: Sampler, noisy: Tensor, selected: Tensor, remasked: Tensor
) -> tuple[Tensor, Tensor]:
    """What the remasker makes of a selection: the positions to unmask and to remask, bool (B, L)."""
    with naming("remasker", sampler.remasker):
        revised = sampler.remasker.revise(state, prediction, noisy, selected, remasked)
    if not isinstance(revised, tuple) or len(revised) != 2:
        raise BadInput(
            f"revise of the remasker {name_of(sampler.remasker)} returned {type(revised).__name__}; it must return two bool "
            f"tensors {tuple(state.tokens.shape)}, the positions to unmask and those to remask"
        )
    selected, remasked = (checked_selection(positions, state, sampler.remasker) for positions in revised)
    return selected & prediction.predicted, remasked
