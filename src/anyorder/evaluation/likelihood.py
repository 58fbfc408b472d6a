"""How likely is a sequence under an order? Exact log-likelihood and the bounds of arXiv 2606.00295, appendix C.

The process unmasks one position per step: at x_S (the tokens of x0 at the revealed set S, masks elsewhere) it draws a proposal
z of all masked tokens from the denoiser, then a position i from the policy q(i | z, x_S), and commits z_i. So

    P(x_S -> x_{S + i}) = p_i(x0_i | x_S) F(i, x_S),    F(i, x_S) = E_z[ q(i | z with z_i := x0_i, x_S) ]   (eq. 14)

and log p(x0) is a sum over all orders, here by dynamic programming over the 2^n subsets. For a path drawn from
r(i | x_S) = q(i | x0, x_S), Jensen's inequality gives log p(x0) >= E1 + E2 (eqs. 11-13) with

    E1 = sum over steps of E_r[ log p_i(x0_i | x_S) ],    E2 = -sum over steps of E_r[ log r(i | x_S) / F(i, x_S) ].

(With CE = -log p, E1 is minus the sum that eq. 12 prints; the sign follows because the bound must hold. The paper integrates
over a time t with a weight c(alpha_t); here each of the n steps counts once, which is the same sum.) A policy that does not
look at z has r = F, so E2 = 0 and E1 alone is a bound; the objective L_ORDER (eq. 3) is -E1, up to the weight of each state,
with x_S drawn from the forward process instead of the policy's own path. For a uniform policy the two draw the same states, and
E1 is the bound that L_MDM estimates.

A denoiser with a block-causal mask is decoded block by block: i is drawn among the masked positions of the first block that has
any, so log p(x0) is the sum over blocks of log p(block | blocks before it) (BD3LM, arXiv 2503.09573, eq. 3).
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from anyorder.denoisers.base import Denoiser, at_positions, attention_of, device_of, evaluating
from anyorder.denoisers.blocks import block_length_of, block_numbers, first_masked_block
from anyorder.errors import BadInput, check_number
from anyorder.losses import policy_log_probabilities
from anyorder.orders.base import Order
from anyorder.prediction import Prediction
from anyorder.state import DecodeState

ENUMERABLE = 14
"""Most positions whose subsets are enumerated."""

ProposalOrder = Callable[[DecodeState, Prediction, Tensor], Tensor]
"""Scores (B, L) from a state, a prediction and a proposal z (B, L) of all tokens; the policy is their softmax over the masked
positions."""


def of_proposal(order: Order) -> ProposalOrder:
    """An order that reads the drawn tokens, such as `confidence`, as one of proposals: z holds the drawn tokens."""

    def scores(state: DecodeState, prediction: Prediction, z: Tensor) -> Tensor:
        tokens = z[prediction.predicted]
        return order(state, prediction.with_candidates(tokens, prediction.log_probs_of(tokens)))

    return scores


def uniform(state: DecodeState, prediction: Prediction) -> Tensor:
    """The order in which every masked position is as likely as the others to be next. Its bound is the one that L_MDM
    estimates, and the likelihood that LLaDA reports (arXiv 2502.09992, eq. 6)."""
    return torch.zeros(state.tokens.shape, device=state.tokens.device).masked_fill(~prediction.predicted, -torch.inf)


class Bound(NamedTuple):
    """E1, E2 and their sum, in nats; for estimates, the standard error of the sum."""

    e1: float
    e2: float
    total: float
    standard_error: float = 0.0


@dataclass(frozen=True)
class Process:
    """One position at a time: tokens from the denoiser, positions from softmax(scores / temperature).

    Args:
        denoiser: the model.
        order: an `Order`, or a `ProposalOrder` when `looks_at_proposal`. Make an order that reads the drawn token, such as
            `confidence`, a `ProposalOrder` by `of_proposal`.
        temperature: of the softmax of the scores; `Sampler(order, noise=temperature)` draws from it.
        looks_at_proposal: whether the order's scores depend on the proposed tokens.
        proposals: draws of z for F when proposals are too many to enumerate, for `estimate_bound` only; None to enumerate. The
            logarithm of a mean of few draws is too low on average, so the bound stays a bound, and gets looser.
        batch_size: states in one forward pass; None for all at once. Without drawn proposals, results do not depend on it.
    """

    denoiser: Denoiser
    order: Order | ProposalOrder
    temperature: float = 1.0
    looks_at_proposal: bool = False
    proposals: int | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, above=0)
        for name in ("proposals", "batch_size"):
            if (value := getattr(self, name)) is not None:
                check_number(name, value, 1)

    def transitions(
        self, tokens: Tensor, x0: Tensor, generator: torch.Generator | None = None, *, generated: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """log p_i(x0_i), log r_i = log q(i | x0, x_S) and log F_i for states (B, L) on the way to x0 (B, L), -inf elsewhere;
        on the denoiser's device.

        Args:
            generated: bool (L,), the positions that were masked at the start, which orders can tell from given ones; None if
                these states are starts.
        """
        tokens, x0 = self.placed(tokens, x0)
        start = tokens == self.denoiser.mask_token_id if generated is None else generated.to(tokens.device).expand_as(tokens)
        size = self.batch_size or max(1, len(tokens))
        parts = zip(tokens.split(size), x0.split(size), start.split(size), strict=True)
        found = [self._transitions(*rows, generator) for rows in parts]
        return tuple(torch.cat(values) for values in zip(*found, strict=True))

    def _transitions(
        self, tokens: Tensor, x0: Tensor, generated: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, ...]:
        masked, mask = tokens == self.denoiser.mask_token_id, attention_of(self.denoiser, tokens)
        steps, left = generated.sum(dim=1), (generated & masked).sum(dim=1)
        if (length := block_length_of(self.denoiser)) is not None:
            masked = first_masked_block(masked, block_numbers(tokens, mask, length))
        with evaluating(self.denoiser):
            logits, hidden = at_positions(self.denoiser(tokens, mask, masked), masked)
        seeds = tokens.new_zeros(len(tokens))
        state = DecodeState.start(tokens, generated, self.denoiser.mask_token_id, seeds, steps, mask, x0, length)
        state = state.replace(masked=masked, step=steps - left)
        prediction = Prediction(logits, hidden, masked)
        log_p = prediction.scatter(prediction.log_probs_of(x0[masked])).double()
        if not self.looks_at_proposal:
            log_q = self._log_q(self._blind_scores(state, prediction), masked)
            return log_p, log_q, log_q
        log_r = self._log_q(self.order(state, prediction, x0), masked)  # type: ignore[call-arg]
        chance = torch.zeros_like(log_r)
        for weights, z in self._proposals(state, prediction, generator):
            for i in masked.any(dim=0).nonzero()[:, 0].tolist():
                with_truth = z.clone()
                with_truth[:, i] = x0[:, i]
                log_q = self._log_q(self.order(state, prediction, with_truth), masked)  # type: ignore[call-arg]
                chance[:, i] += weights * log_q[:, i].exp()
        return log_p, log_r, chance.log().masked_fill(~masked, -torch.inf)

    def placed(self, tokens: Tensor, x0: Tensor) -> tuple[Tensor, Tensor]:
        """Both on the denoiser's device.

        Raises:
            BadInput: x0 differs from a token that is given, so that decoding cannot end in it.
        """
        device = device_of(self.denoiser, tokens.device)
        tokens, x0 = tokens.to(device), x0.to(device)
        if ((tokens != x0) & (tokens != self.denoiser.mask_token_id)).any():
            raise BadInput("x0 differs from a given token, so decoding cannot end in it: its likelihood is 0")
        return tokens, x0

    def _blind_scores(self, state: DecodeState, prediction: Prediction) -> Tensor:
        """The scores of an order that does not read the drawn tokens."""
        others = prediction.with_candidates(prediction.top_tokens[:, 1], prediction.top_log_probs[:, 1])
        scores, with_others = (self.order(state, said) for said in (prediction, others))  # type: ignore[call-arg]
        if not torch.equal(scores, with_others):
            raise BadInput(
                "the order reads the drawn tokens: give of_proposal(order) with looks_at_proposal=True, or an order of the "
                "likeliest tokens, such as max_confidence"
            )
        return scores

    def _log_q(self, scores: Tensor, masked: Tensor) -> Tensor:
        return policy_log_probabilities(scores.double() / self.temperature, masked)

    def _proposals(
        self, state: DecodeState, prediction: Prediction, generator: torch.Generator | None
    ) -> list[tuple[Tensor, Tensor]]:
        """Proposals z (B, L) with their weights (B,): all of them, or random draws."""
        probabilities = prediction.probabilities().double()
        masked, batch = state.masked, len(state.tokens)
        if self.proposals is not None:
            safe = torch.where(masked[..., None], probabilities, torch.ones_like(probabilities)).flatten(0, 1)
            draws = torch.multinomial(safe, self.proposals, replacement=True, generator=generator)
            drawn = draws.view(*masked.shape, self.proposals)
            weight = probabilities.new_full((batch,), 1 / self.proposals)
            return [(weight, torch.where(masked, drawn[..., k], state.tokens)) for k in range(self.proposals)]
        where = masked.any(dim=0).nonzero()[:, 0].tolist()
        if prediction.logits.shape[-1] ** len(where) > 2**16:
            raise BadInput(
                f"{len(where)} masked positions have too many proposals to enumerate: set proposals to a number of draws"
            )
        found = []
        for words in itertools.product(range(prediction.logits.shape[-1]), repeat=len(where)):
            z, weight = state.tokens.clone(), probabilities.new_ones(batch)
            for i, word in zip(where, words, strict=True):
                weight = weight * torch.where(masked[:, i], probabilities[:, i, word], float(word == 0))
                z[:, i] = torch.where(masked[:, i], word, z[:, i])
            if bool((weight > 0).any()):
                found.append((weight, z))
        return found


@torch.no_grad()
def log_likelihood(process: Process, tokens: Tensor, x0: Tensor) -> float:
    """log p(x0) exactly, summed over all orders: the probability that decoding `tokens` (L,) ends in x0 (L,).

    Raises:
        BadInput: too many positions or proposals to enumerate, or `process.proposals` draws them.
    """
    log_p, _, log_f, places = _all_subsets(process, tokens, x0)
    value = torch.zeros(len(log_p), dtype=torch.float64)  # log-probability of reaching x0 from each subset
    for revealed in range(len(log_p) - 2, -1, -1):
        steps = [log_p[revealed, j] + log_f[revealed, j] + value[revealed | 1 << k] for k, j in _missing(revealed, places)]
        value[revealed] = torch.logsumexp(torch.stack(steps), dim=0)
    return float(value[0])


@torch.no_grad()
def exact_bound(process: Process, tokens: Tensor, x0: Tensor) -> Bound:
    """E1 and E2 exactly, over all paths of the policy's own, r(i | x_S) = q(i | x0, x_S). Raises as `log_likelihood`."""
    log_p, log_r, log_f, places = _all_subsets(process, tokens, x0)
    e1, e2 = (torch.zeros(len(log_p), dtype=torch.float64) for _ in range(2))
    for revealed in range(len(log_p) - 2, -1, -1):
        for k, j in _missing(revealed, places):
            r, after = log_r[revealed, j].exp(), revealed | 1 << k
            if r > 0:
                e1[revealed] += r * (log_p[revealed, j] + e1[after])
                e2[revealed] += r * (log_f[revealed, j] - log_r[revealed, j] + e2[after])
    return Bound(float(e1[0]), float(e2[0]), float(e1[0] + e2[0]))


@torch.no_grad()
def estimate_bound(process: Process, tokens: Tensor, x0: Tensor, samples: int, *, states: str = "path", seed: int = 0) -> Bound:
    """E1 and E2 by Monte Carlo, for any length.

    Args:
        process, tokens (L,), x0 (L,): the process, its start, and the sequence whose likelihood is estimated.
        samples: number of paths, or of states.
        states: "path" draws whole paths from the policy: unbiased. "forward" draws x_S from the forward process (a uniform
            number of masks at uniform places), as L_ORDER and L_PA-MDM do: biased unless the policy is uniform, and not for
            block-causal denoisers. "stratified" does the same with numbers of masks that are evenly spread from a random start,
            as LLaDA's evaluation does: the same mean, less variance (the standard error is that of independent states).
        seed: of the draws.

    Raises:
        BadInput: fewer than one sample, or such states of a block-causal denoiser.
    """
    check_number("samples", samples, 1)
    tokens, x0 = process.placed(tokens, x0)
    if states in ("forward", "stratified") and block_length_of(process.denoiser) is not None:
        raise BadInput("the states of a block-causal denoiser are those of its blocks: use states='path'")
    generator = torch.Generator(tokens.device).manual_seed(seed)
    masked = tokens == process.denoiser.mask_token_id
    count = int(masked.sum())
    if count == 0:
        return Bound(0.0, 0.0, 0.0)
    rows = tokens.expand(samples, -1).clone()
    truth = x0.expand(samples, -1)
    e1, e2 = (torch.zeros(samples, dtype=torch.float64, device=tokens.device) for _ in range(2))

    def step(rows: Tensor, weight: float) -> Tensor:
        log_p, log_r, log_f = process.transitions(rows, truth, generator, generated=masked)
        if states != "path":  # the sum over positions, as in eq. 3
            r = log_r.exp()
            e1.add_(weight * (r * log_p.masked_fill(r == 0, 0.0)).sum(dim=1))
            e2.add_(weight * (r * (log_f - log_r).masked_fill(r == 0, 0.0)).sum(dim=1))
            return rows
        drawn = torch.multinomial(log_r.exp(), 1, generator=generator)
        e1.add_(log_p.gather(1, drawn)[:, 0])
        e2.add_((log_f - log_r).gather(1, drawn)[:, 0])
        return rows.scatter(1, drawn, truth.gather(1, drawn))

    if states in ("forward", "stratified"):
        drawn = 1 if states == "stratified" else samples
        hidden = torch.randint(1, count + 1, (drawn, 1), generator=generator, device=tokens.device)
        if states == "stratified":
            apart = torch.arange(samples, device=tokens.device)[:, None] * count // samples
            hidden = (hidden - 1 + apart) % count + 1
        rank = (
            torch.rand(rows.shape, generator=generator, device=tokens.device)
            .masked_fill(~masked, 2.0)
            .argsort(dim=1)
            .argsort(dim=1)
        )
        step(torch.where(masked & (rank >= hidden), truth, rows), float(count))
    elif states == "path":
        for _ in range(count):
            rows = step(rows, 1.0)
    else:
        raise BadInput(f"states is {states!r}; it must be 'path', 'forward' or 'stratified'")
    total = e1 + e2
    error = float(total.std() / math.sqrt(samples)) if samples > 1 else math.inf
    return Bound(float(e1.mean()), float(e2.mean()), float(total.mean()), error)


def _missing(revealed: int, places: list[int]) -> list[tuple[int, int]]:
    """(bit, position) of the positions that the subset does not reveal."""
    return [(k, j) for k, j in enumerate(places) if not revealed >> k & 1]


def _all_subsets(process: Process, tokens: Tensor, x0: Tensor) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """The transitions from all 2^n subsets of revealed positions, (2^n, L) each, and the n masked positions."""
    if process.proposals is not None:
        raise BadInput("drawn proposals give no exact likelihood: leave `proposals` out, or use estimate_bound")
    tokens, x0 = process.placed(tokens, x0)
    masked = tokens == process.denoiser.mask_token_id
    places = masked.nonzero()[:, 0]
    if len(places) > ENUMERABLE:
        raise BadInput(
            f"{len(places)} masked positions have too many orders to enumerate (at most {ENUMERABLE}): use estimate_bound"
        )
    subsets = torch.arange(2 ** len(places), device=tokens.device)
    bits = subsets[:, None] >> torch.arange(len(places), device=tokens.device) & 1
    states = tokens.expand(len(bits), -1).clone()
    states[:, places] = torch.where(bits.bool(), x0[places], tokens[places])
    found = process.transitions(states, x0.expand(len(bits), -1), generated=masked)
    log_p, log_r, log_f = (part.cpu() for part in found)
    return log_p, log_r, log_f, places.tolist()
