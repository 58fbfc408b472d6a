"""The loop that decodes. Where, how many, what, undo: four parts, none of which knows the others."""

from dataclasses import dataclass

import torch
from torch import Tensor

from anyorder import noise as random_numbers
from anyorder.decoding.counts import CountRule, Linear
from anyorder.decoding.memory import Memory
from anyorder.decoding.remaskers import Absorbing, Remasker
from anyorder.decoding.tokens import Argmax, TokenRule
from anyorder.decoding.trajectory import Decoded
from anyorder.denoisers.base import Denoiser, attention_of
from anyorder.orders.base import Order, State

_ORDER_NOISE = 3


@dataclass(frozen=True)
class Decoder:
    """The four parts, the budget of steps, and the noise on the order.

    Args:
        order: where.
        count: how many; `Linear()` spreads the positions evenly over the steps.
        token: what.
        remasker: undo.
        steps: forwards that a sequence may cost; None for as many as it has positions to fill. The last step unmasks
            everything that is left.
        noise: scale of the Gumbel noise added to the scores. Then a fixed-count rule draws positions from Plackett-Luce
            with logits score / noise.
    """

    order: Order
    count: CountRule = Linear()
    token: TokenRule = Argmax()
    remasker: Remasker = Absorbing()
    steps: int | None = None
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps is {self.steps}; at least one forward is needed")
        if self.noise < 0:
            raise ValueError(f"noise is {self.noise}; the scale of Gumbel noise cannot be negative")


@torch.no_grad()
def decode(
    denoiser: Denoiser,
    tokens: Tensor,
    decoder: Decoder,
    *,
    seeds: Tensor | int = 0,
    attention_mask: Tensor | None = None,
    x0: Tensor | None = None,
    history: bool = False,
) -> Decoded:
    """Fill every masked position of a batch.

    Args:
        denoiser: the model, in eval mode.
        tokens: int64 (B, L); positions that hold `denoiser.mask_token_id` are generated, all others never change.
        decoder: where, how many, what, undo.
        seeds: one int64 per sequence (B,), or one number from which row i takes seed number + i.
        attention_mask: bool (B, L), False at padding; derived from the denoiser's `pad_token_id` where it has one.
        x0: the truth (B, L), for oracle orders.
        history: keep the tokens after every step, for playback.

    Returns:
        A `Decoded`. Rows do not influence one another, and a finished row costs no more forwards.
    """
    tokens = tokens.clone()
    batch, device = tokens.shape[0], tokens.device
    seeds = seeds + torch.arange(batch, device=device) if isinstance(seeds, int) else seeds
    masked = tokens == denoiser.mask_token_id
    attention_mask = attention_of(denoiser, tokens) if attention_mask is None else attention_mask
    if attention_mask is not None:
        masked &= attention_mask.bool()
    generated = masked.clone()
    steps = decoder.steps if decoder.steps is not None else max(1, int(generated.sum(dim=1).max()))
    rejected = torch.full_like(tokens, -1)  # the token last undone at a position that is masked again
    out = Decoded.empty(tokens, generated)
    memory = Memory(tokens.shape, decoder.order, decoder.count, decoder.remasker)
    snapshots = [tokens.clone()] if history else None
    rows = masked.any(dim=1).nonzero()[:, 0]  # the rows still at work

    for step in range(steps):
        if len(rows) == 0:
            break
        last = step == steps - 1
        predicted = decoder.remasker.open(masked[rows], generated[rows])
        mask_of_rows = None if attention_mask is None else attention_mask[rows]
        logits, hidden = denoiser(tokens[rows], mask_of_rows, predicted)
        logits = forbid(logits, rejected[rows][predicted])
        state = State(
            tokens[rows], masked[rows], generated[rows], predicted, logits, hidden, step, steps, seeds[rows],
            mask_of_rows, None if x0 is None else x0[rows], commit_step=out.commit_step[rows],
            committed_log_probs=out.token_log_probs[rows], undone=out.undone[rows],
        )  # fmt: skip
        state = memory.recall(state, rows)
        candidates, log_probs = decoder.token(state)
        scores = noisy = decoder.order(state)
        if decoder.noise:
            wobble = random_numbers.gumbel(state.seeds[:, None], _ORDER_NOISE, step, state.index)
            noisy = (scores + decoder.noise * wobble).float()
        undone = decoder.remasker.undo(state) & (not last)
        chosen = predicted if last else decoder.count(noisy, state, undone.sum(dim=1)) & predicted

        filled = state.tokens.masked_scatter(predicted, candidates)
        now_masked = (predicted & ~chosen) | undone
        ruled_out = decoder.remasker.reject(state, undone)
        rejected[rows] = torch.where(ruled_out, state.tokens, rejected[rows].masked_fill(chosen, -1))
        tokens[rows] = torch.where(now_masked, denoiser.mask_token_id, torch.where(chosen, filled, state.tokens))
        masked[rows] = now_masked
        new = chosen & (filled != state.tokens)
        out.commit(rows, new, step, state.scatter(log_probs, 0.0), _order_log_probs(scores, noisy, chosen, decoder.noise))
        out.undo(rows, undone)
        if snapshots is not None:
            snapshots.append(tokens.clone())
        reviewing = decoder.remasker.reviews & state.masked.any(dim=1)  # just completed: look once more
        again = now_masked.any(dim=1) | (reviewing & (step < steps - 2))
        rows = rows[again]
    return out.finish(tokens, snapshots)


def forbid(logits: Tensor, rejected: Tensor) -> Tensor:
    """Logits (K, V) without the rejected token of each position (K,), -1 for none."""
    some = rejected >= 0
    if not some.any():
        return logits
    ban = torch.zeros_like(logits, dtype=torch.bool).scatter(1, rejected.clamp(min=0)[:, None], some[:, None])
    return logits.masked_fill(ban, -torch.inf)


def _order_log_probs(scores: Tensor, noisy: Tensor, chosen: Tensor, noise: float) -> Tensor | None:
    """Log-probability of each drawn position, None for a deterministic order. Exact for rules that fix the count."""
    if not noise:
        return None
    ranking = noisy.argsort(dim=1, descending=True, stable=True)
    return random_numbers.plackett_luce_log_probs(scores / noise, ranking, chosen)
