"""Every path of a masked diffusion model that is small enough: exact outputs of an order, and what reward can make of it.

A path unmasks one position per step: at x_n the order draws a position a_n from g(a_n | x_n), a softmax of its scores, and the
denoiser draws the token there from pi(x_{n-1} | x_n, a_n). Summed over all paths that end alike this is the distribution of
outputs p_g(x_0), which the theory of unmasking policy optimization (UPO, arXiv 2510.05725, section 3.3) is about: maximize, for
a reward r(x_0) of 0 or 1 and the success rate r_old of the order before,

    E_{x_0 ~ p_g}[A(x_0)] - beta KL(p_g || p_ref),    A = (r - r_old) / sqrt(r_old (1 - r_old) + epsilon)     (eq. 10)

Over all distributions of outputs the maximum has a closed form (`tilted`), and its success rate is that of eq. 11
(`success_map`). An order cannot reach every distribution as long as the denoiser is frozen: `best_order` is the maximum over
orders, and `best_order_by_path` that with the divergence of whole paths (eq. 24), which is what is trained.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from anyorder.denoisers.base import Denoiser, DenoiserOutput, at_positions, attention_of, device_of, forbid_mask, in_eval_mode
from anyorder.errors import BadInput
from anyorder.losses import policy_log_probabilities
from anyorder.orders.base import Order
from anyorder.prediction import Prediction
from anyorder.state import DecodeState

ENUMERABLE = 2**17
"""Most paths that are enumerated."""
_CERTAIN = 700.0
"""A score that is this much lower has probability exp(-700), the smallest that float64 can still divide by."""


@dataclass(frozen=True)
class Paths:
    """All N paths from one partly masked sequence: T steps through S_t states each, to O outputs. Probabilities are float64.
    All is on the denoiser's device. The position is drawn before the token: an order that reads the drawn token, such as
    `confidence`, sees the likeliest one in its place.

    states, predictions: of each step t, every state that can occur, and what the denoiser predicts there.
    at: int64 (N, T), the row of `states[t]` in which a path is at step t.
    places: int64 (N, T), the position that it unmasks then.
    token_log_probs: (N, T), log-probability of the token there.
    outputs: int64 (O, L), every completed sequence.
    ends: int64 (N,), the output of each path.
    """

    states: list[DecodeState]
    predictions: list[Prediction]
    at: Tensor
    places: Tensor
    token_log_probs: Tensor
    outputs: Tensor
    ends: Tensor

    def choices(self, order: Order) -> Tensor:
        """log g(a_n | x_n) of every step of every path, (N, T), differentiable in the order."""
        log_q = self.step_log_probs(order)
        return torch.stack([table[self.at[:, t], self.places[:, t]] for t, table in enumerate(log_q)], dim=1)

    def step_log_probs(self, order: Order) -> list[Tensor]:
        """log g(i | x) of every position of every state, one (S_t, L) per step, differentiable in the order."""
        pairs = zip(self.states, self.predictions, strict=True)
        return [policy_log_probabilities(order(state, said).double(), state.masked) for state, said in pairs]

    def log_probs(self, order: Order) -> Tensor:
        """log p_g(x_{0:L}) of every path, (N,)."""
        return self.choices(order).sum(dim=1) + self.token_log_probs.sum(dim=1)

    def distribution(self, order: Order) -> Tensor:
        """p_g(x_0) of every output, (O,)."""
        return self.gather(self.log_probs(order).exp())

    def gather(self, values: Tensor) -> Tensor:
        """Sum of values (N,) over the paths of each output, (O,)."""
        return values.new_zeros(len(self.outputs)).index_add(0, self.ends, values)

    def order_of(self, chances: Tensor) -> "TabularOrder":
        """The order under which paths have these chances (N,), which may be a mixture of several orders'."""
        tables = []
        for t, state in enumerate(self.states):
            taken = self.token_log_probs.new_zeros(state.tokens.shape).index_put(
                (self.at[:, t], self.places[:, t]), chances, accumulate=True
            )
            tables.append((taken / taken.sum(dim=1, keepdim=True)).log().nan_to_num(0.0, neginf=-_CERTAIN))
        return TabularOrder(self, tables)

    def values(self, worth: Tensor, backup: Callable[[Tensor, int], Tensor]) -> tuple[float, list[Tensor]]:
        """Dynamic programming from the outputs backwards.

        Args:
            worth: of every output, (O,).
            backup: from the expected worth of each position (S_t, L), -inf where there is no choice, and the step t, the worth
                of each state (S_t,).

        Returns:
            The worth of the start, and the expected worth of each position at every step.
        """
        after, at, found = worth.to(self.ends.device).double(), self.ends, []
        for t in reversed(range(len(self.states))):
            edges = torch.stack([self.at[:, t], self.places[:, t], at], dim=1)
            unique, inverse = edges.unique(dim=0, return_inverse=True)
            chance = self.token_log_probs.new_zeros(len(unique)).scatter(0, inverse, self.token_log_probs[:, t].exp())
            state, place, following = unique.T
            masked = self.states[t].masked
            expected = chance.new_zeros(masked.shape)
            expected = expected.index_put((state, place), chance * after[following], accumulate=True)
            found.append(expected.masked_fill(~masked, -torch.inf))
            after, at = backup(found[-1], t), self.at[:, t]
        return float(after[0]), found[::-1]

    def highest(self, worth: Tensor) -> float:
        """The largest expected worth (O,) that any order has, stochastic or not."""
        return self.values(worth, lambda expected, t: expected.amax(dim=1))[0]


@torch.no_grad()
@in_eval_mode
def enumerate_paths(denoiser: Denoiser, tokens: Tensor) -> Paths:
    """All paths from tokens (L,), which hold `denoiser.mask_token_id` where something is to be filled in.

    Raises:
        BadInput: nothing is masked, or there are more than `ENUMERABLE` paths.
    """
    mask, tokens = denoiser.mask_token_id, tokens.to(device_of(denoiser, tokens.device))
    places = (tokens == mask).nonzero()[:, 0]
    words = [w for w in range(denoiser.vocab_size) if w != mask]
    steps = len(places)
    count = math.factorial(steps) * len(words) ** steps
    if steps == 0 or count > ENUMERABLE:
        raise BadInput(
            f"{steps} masked positions of {len(words)} words have {count} paths; 1 to {ENUMERABLE} can be enumerated"
        )
    fillings = torch.tensor(list(itertools.product(words, repeat=steps)), device=tokens.device)
    outputs = tokens.repeat(len(fillings), 1)
    outputs[:, places] = fillings
    orders = places[torch.tensor(list(itertools.permutations(range(steps))))]
    ends = torch.arange(len(outputs), device=tokens.device).repeat(len(orders))
    taken = orders.repeat_interleave(len(outputs), dim=0)
    now = tokens.repeat(len(taken), 1)
    states, predictions, at, token_log_probs = [], [], [], []
    for t in range(steps):
        rows, row_of = now.unique(dim=0, return_inverse=True)
        masked = rows == mask
        real = attention_of(denoiser, rows)
        logits, hidden = at_positions(denoiser(rows, real, masked), masked)
        seeds = rows.new_zeros(len(rows))
        state = DecodeState.start(rows, (tokens == mask).expand_as(rows), mask, seeds, seeds + steps, real)
        states.append(state.replace(masked=masked, step=seeds + t))
        predictions.append(Prediction(logits, hidden, masked))
        number = (masked.flatten().cumsum(0) - 1).view_as(masked)  # row of the logits
        place = taken[:, t, None]
        token = outputs[ends].gather(1, place)
        log_p = torch.log_softmax(logits.double(), dim=-1)[number[row_of].gather(1, place)[:, 0]]
        token_log_probs.append(log_p.gather(1, token)[:, 0])
        at.append(row_of)
        now = now.scatter(1, place, token)
    return Paths(states, predictions, torch.stack(at, dim=1), taken, torch.stack(token_log_probs, dim=1), outputs, ends)


class TableDenoiser(nn.Module):
    """A denoiser of words 0 to V - 1 that looks its logits up; the mask is word V.

    Args:
        logits: float ((V + 1)^L, L, V + 1), in the order of the tokens read as digits, the first position counting most.
    """

    hidden_size = 1

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.length, self.vocab_size = logits.shape[1:]
        self.mask_token_id = self.vocab_size - 1
        self.register_buffer("logits", logits)

    @classmethod
    def imperfect(cls, data: Tensor, words: int, smear: float, shake: float, seed: int) -> "TableDenoiser":
        """The conditionals of (1 - smear) * data + smear * uniform, every logit with normal noise of scale `shake`.

        Args:
            data: distribution of the V^L sequences, (V^L,), in the order of `itertools.product`.
            words: V.
            smear: above 0, so that every state can occur.
            shake: where it is not 0, no joint distribution has these conditionals.
            seed: of the noise.
        """
        if not 0 < smear <= 1:
            raise ValueError(f"smear is {smear}; it must be above 0, and 1 at most")
        length = round(math.log(len(data), words))
        sequences = torch.tensor(list(itertools.product(range(words), repeat=length)))
        states = torch.tensor(list(itertools.product(range(words + 1), repeat=length)))
        joint = (1 - smear) * data.double() + smear / len(data)
        fits = ((states[:, None] == sequences) | (states[:, None] == words)).all(dim=2).double()
        said = nn.functional.one_hot(sequences, words + 1).double()
        logits = torch.einsum("sx,x,xlv->slv", fits, joint, said).log()
        noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return cls(logits + shake * noise)

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None, positions: Tensor | None = None) -> DenoiserOutput:
        """See `Denoiser`."""
        digit = self.vocab_size ** torch.arange(self.length - 1, -1, -1, device=tokens.device)
        logits = forbid_mask(self.logits[(tokens * digit).sum(dim=1)], self.mask_token_id)  # type: ignore[index]
        hidden = logits.new_zeros(*tokens.shape, 1, dtype=torch.float32)
        return DenoiserOutput(logits if positions is None else logits[positions], hidden)


class TabularOrder(nn.Module):
    """A score of its own for every position of every state: any order that looks at the tokens alone is one of these.

    Args:
        paths: whose states are scored.
        scores: float (S_t, L) for each step t; 0 when not given, the uniform order.
    """

    def __init__(self, paths: Paths, scores: list[Tensor] | None = None) -> None:
        super().__init__()
        self.tokens: Tensor
        self.register_buffer("tokens", torch.cat([state.tokens for state in paths.states]), persistent=False)
        table = torch.zeros_like(self.tokens) if scores is None else torch.cat(scores).to(self.tokens.device)
        self.scores = nn.Parameter(table.double())

    def forward(self, state: DecodeState, prediction: Prediction) -> Tensor:
        """Scores float64 (B, L), -inf where nothing is masked.

        Raises:
            BadInput: a state that is on none of the paths.
        """
        same = (state.tokens[:, None] == self.tokens).all(dim=2)
        if not (same.any(dim=1) | ~state.masked.any(dim=1)).all():
            raise BadInput("a table of scores has none for this state: it is on none of the enumerated paths")
        return self.scores[same.long().argmax(dim=1)].masked_fill(~state.masked, -torch.inf)


def confidence_softmax(temperature: float) -> Order:
    """The softmax realization of the max-confidence order (eq. 25): a position weighs as much as the sum over words of
    exp(probability / temperature)."""

    def order(state: DecodeState, prediction: Prediction) -> Tensor:
        probabilities = torch.softmax(prediction.logits.double(), dim=-1)
        return prediction.scatter(torch.logsumexp(probabilities / temperature, dim=-1))

    return order


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) in nats of two distributions of outputs (O,); inf where q misses something of p."""
    return (torch.where(p > 0, p, 1.0).log() - q.log()).masked_fill(p <= 0, 0.0).mul(p).sum()


# ---- eq. 10 and its maxima ----------------------------------------------------------------------------------------------


def deviation(success: float, epsilon: float) -> float:
    """What the reward is divided by in A, sqrt(r (1 - r) + epsilon)."""
    return math.sqrt(success * (1 - success) + epsilon)


def success_map(previous: float, reference: float, beta: float, epsilon: float = 1e-4) -> float:
    """h of eq. 11: success rate of the maximum of eq. 10, from that of the order before and that of the reference."""
    return 1 / (1 + (1 - reference) / reference * math.exp(-1 / (beta * deviation(previous, epsilon))))


def tilted(reference: Tensor, reward: Tensor, previous: float, beta: float, epsilon: float = 1e-4) -> Tensor:
    """The maximum of eq. 10 over all distributions of outputs, (O,): eqs. 30-32, p_ref exp(A / beta) / Z.

    The weights are w+ = (1 - r) / sqrt(r (1 - r) + epsilon) and w- = r / sqrt(r (1 - r) + epsilon). Eq. 33 prints them without
    the root, with which alone eq. 11 follows.

    Args:
        reference: p_ref, (O,).
        reward: 0 or 1, (O,).
        previous: success rate of the order before.
        beta, epsilon: of eq. 10.
    """
    return torch.softmax(reference.log() + (reward - previous) / (beta * deviation(previous, epsilon)), dim=0)


class Best(NamedTuple):
    """An order that maximizes eq. 10 over all orders, and a bound on what it may still lack of the maximum."""

    order: TabularOrder
    gap: float


def best_order(
    paths: Paths, reference: Order, reward: Tensor, previous: float, beta: float, epsilon: float = 1e-4, tolerance: float = 1e-5
) -> Best:
    """The maximum of eq. 10 over orders, by L-BFGS on the scores of every state.

    What orders can reach is convex (the probabilities of "in state x unmask i" form a polytope, and outputs are linear in
    them), and eq. 10 is concave in the outputs. So dynamic programming on its gradient bounds what any other order could add,
    the gap of Frank and Wolfe; a step towards the order that it finds frees scores that have become too large to move.

    Args:
        paths, reference: the model and p_ref's order; it must give every position of every state a chance.
        reward: 0 or 1, (O,).
        previous: success rate of the order before.
        beta, epsilon: of eq. 10.
        tolerance: the gap that is small enough.

    Raises:
        BadInput: some output has no chance under the reference.
        RuntimeError: the gap stays larger.
    """
    p_ref = paths.distribution(reference).detach()
    reward = reward.to(p_ref.device)
    if (p_ref == 0).any():
        raise BadInput("some output has no chance under the reference: eq. 10 needs a denoiser that rules nothing out")
    scale = 1 / deviation(previous, epsilon)

    def objective(p: Tensor) -> Tensor:
        return scale * (p @ reward) - beta * kl_divergence(p, p_ref)

    order = TabularOrder(paths)
    for _ in range(100):
        _climb(paths, order, objective)
        with torch.no_grad():
            chances = paths.log_probs(order).exp()
            p = paths.gather(chances)
            slope = scale * reward - beta * (p.log() - p_ref.log())
            highest, expected = paths.values(slope, lambda expected, t: expected.amax(dim=1))
            gap = highest - float(p @ slope)
            if gap < tolerance:
                return Best(order, gap)
            best = paths.log_probs(TabularOrder(paths, [_certain(e.argmax(dim=1), e) for e in expected])).exp()
            mixtures = [chances + 0.5**k * (best - chances) for k in range(1, 30)]
            order = paths.order_of(max(mixtures, key=lambda m: float(objective(paths.gather(m)))))
    raise RuntimeError(f"no maximum of eq. 10 was found: {gap:.2g} may be missing")


def _climb(paths: Paths, order: TabularOrder, objective: Callable[[Tensor], Tensor]) -> None:
    """Fifty L-BFGS steps on the scores, up in the objective of the distribution of outputs."""
    optimizer = torch.optim.LBFGS(
        order.parameters(), max_iter=50, history_size=50, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = -objective(paths.distribution(order))
        value.backward()
        return value

    optimizer.step(loss)


def _certain(place: Tensor, like: Tensor) -> Tensor:
    """Scores (S, L) that leave no doubt about the place (S,)."""
    return torch.full_like(like, -_CERTAIN).scatter(1, place[:, None], 0.0)


@torch.no_grad()
def best_order_by_path(
    paths: Paths, reference: Order, reward: Tensor, previous: float, beta: float, epsilon: float = 1e-4
) -> TabularOrder:
    """The maximum over orders of eq. 10 with the divergence of whole paths in place of that of outputs, exactly.

    That divergence is a sum over steps, so the maximum is that of an entropy-regularized decision process: scores
    log g_ref + Q / t with t = beta * sqrt(r_old (1 - r_old) + epsilon) and Q by soft dynamic programming. Arguments as
    `best_order`.
    """
    temperature = beta * deviation(previous, epsilon)
    log_ref = paths.step_log_probs(reference)

    def backup(expected: Tensor, t: int) -> Tensor:
        return temperature * torch.logsumexp(log_ref[t] + expected / temperature, dim=1)

    _, expected = paths.values(reward, backup)
    scores = [(log_q + q / temperature).masked_fill(q == -torch.inf, 0.0) for log_q, q in zip(log_ref, expected, strict=True)]
    return TabularOrder(paths, scores)
