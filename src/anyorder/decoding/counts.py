"""How many positions to unmask now: rules that turn scores into a selection.

A rule is called with the scores (B, L), -inf where nothing can be unmasked, the state, and how many committed positions are
being undone in this very step (B,); it returns the selection bool (B, L). Every rule with a name in `COUNT_RULES` selects at
least one position of a row that has any; `Timesteps` and `Ancestral` may select none, as the samplers that they belong to. The
loop itself unmasks all that is left in the last step of the budget.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from anyorder.decoding.memory import drift_kept
from anyorder.orders.base import State

_TRANSFER = 4


class CountRule(Protocol):
    """How many, and so which."""

    def __call__(self, scores: Tensor, state: State, undone: Tensor) -> Tensor: ...


def top(scores: Tensor, count: Tensor) -> Tensor:
    """The `count` (B,) highest finite scores of each row, bool (B, L); ties go to the leftmost position."""
    rank = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return (rank < count[:, None]) & (scores > -torch.inf)


def _fixed(scores: Tensor, state: State, undone: Tensor, share_left: float) -> Tensor:
    """Unmask so many that ceil(share_left * N) of the N generated positions stay masked, undone ones included."""
    available = (scores > -torch.inf).sum(dim=1)
    total = state.generated.sum(dim=1)
    left = torch.ceil(total * share_left - 1e-9).long()
    return top(scores, (available + undone - left).clamp(min=1))


@dataclass(frozen=True)
class Linear:
    """The same number in every step."""

    def __call__(self, scores: Tensor, state: State, undone: Tensor) -> Tensor:
        return _fixed(scores, state, undone, 1 - (state.step + 1) / state.steps)


@dataclass(frozen=True)
class Cosine:
    """Few at first, many at the end: cos(pi/2 * (step + 1) / steps) stay masked (MaskGIT, arXiv 2202.04200)."""

    def __call__(self, scores: Tensor, state: State, undone: Tensor) -> Tensor:
        return _fixed(scores, state, undone, max(0.0, math.cos(math.pi / 2 * (state.step + 1) / state.steps)))


@dataclass(frozen=True)
class Fixed:
    """k in every step; k = 1 is one at a time."""

    k: int = 1

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k is {self.k}; at least one position per step is needed")

    def __call__(self, scores: Tensor, state: State, undone: Tensor) -> Tensor:
        return top(scores, torch.full_like(undone, self.k))


@dataclass(frozen=True)
class Threshold:
    """All positions with confidence above the level, else the best-scored one (Fast-dLLM, arXiv 2505.22618).

    With `by="score"` the score is read as the log-odds of being right, as learned orders give it, instead of the confidence.
    """

    level: float = 0.9
    by: str = "confidence"

    def __post_init__(self) -> None:
        if self.by not in ("confidence", "score"):
            raise ValueError(f"by is {self.by!r}; it must be 'confidence' or 'score'")

    def __call__(self, scores: Tensor, state: State, undone: Tensor) -> Tensor:
        return (_probability(scores, state, self.by) > self.level) | top(scores, torch.ones_like(undone))


@dataclass(frozen=True)
class Factor:
    """The largest n with (n + 1) * (1 - n-th largest confidence) <= factor, at least one (Fast-dLLM, arXiv 2505.22618)."""

    factor: float = 1.0

    def __call__(self, scores: Tensor, state: State, undone: Tensor) -> Tensor:
        confidence = _probability(scores, state, "confidence")
        ranked, ranking = confidence.sort(dim=1, descending=True, stable=True)
        n = torch.arange(1, scores.shape[1] + 1, device=scores.device)
        count = (((n + 1) * (1 - ranked) <= self.factor) * n).amax(dim=1)
        chosen = torch.zeros_like(state.masked).scatter(1, ranking, n <= count[:, None])
        return (chosen & (scores > -torch.inf)) | (top(scores, torch.ones_like(undone)) & (count == 0)[:, None])


@dataclass(frozen=True)
class EntropyBound:
    """The largest prefix, by entropy, with sum H - max H <= bound, at least one (Ben-Hamu et al., arXiv 2505.24857)."""

    bound: float = 0.1

    def __call__(self, scores: Tensor, state: State, undone: Tensor) -> Tensor:
        entropy = state.scatter(state.summary.entropy, fill=torch.inf).masked_fill(scores == -torch.inf, torch.inf)
        ranked, ranking = entropy.sort(dim=1, stable=True)
        fits = ranked.cumsum(dim=1) - ranked <= self.bound  # ascending, so the last of a prefix is its largest
        chosen = torch.zeros_like(state.masked).scatter(1, ranking, fits)
        return chosen & (scores > -torch.inf)


@dataclass(frozen=True)
class KLASS:
    """All positions whose prediction is sure and at rest, else the k best-scored ones (KLASS, arXiv 2511.05664, Algorithm 1).

    Sure is a confidence above a level; at rest is KL(prediction now || one step before) below another in each of the last
    `history` steps, so never before step `history`. The authors' code takes confidence .6 and KL .01 to .015 for LLaDA, .9 and
    .005 for Dream, a history of 2, and where nothing is ready as many as a fixed schedule, one per step in their experiments.

    Args:
        confidence: a position is sure above this.
        kl: and at rest below this, in nats.
        history: steps that count.
        k: positions unmasked where none is ready.
    """

    confidence: float = 0.9
    kl: float = 0.01
    history: int = 2
    k: int = 1

    def __post_init__(self) -> None:
        if self.history < 1 or self.k < 1:
            raise ValueError(f"history is {self.history} and k is {self.k}; both must be at least 1")

    @property
    def keep_drift(self) -> int:
        """Asks `decode` for so many steps."""
        return self.history

    def __call__(self, scores: Tensor, state: State, undone: Tensor) -> Tensor:
        if state.drift is None or state.drift.shape[-1] < self.history:
            raise ValueError("KLASS compares predictions with those of earlier steps, which only `decode` keeps")
        at_rest = (state.drift[..., : self.history] < self.kl).all(dim=-1)
        ready = at_rest & (_probability(scores, state, "confidence") > self.confidence)
        return ready | top(scores, torch.where(ready.any(dim=1), 0, self.k))


@dataclass(frozen=True)
class PredictedError:
    """The largest prefix, by score, whose expected number of wrong tokens sum(1 - sigmoid(s_i)) <= bound, at least one, and at
    least as many as must be unmasked now to be done in time at an even pace.

    For orders whose score is the log-odds of being right: this is the policy's own bound on its error.

    Args:
        bound: expected number of wrong tokens per step.
    """

    bound: float = 0.3

    def __call__(self, scores: Tensor, state: State, undone: Tensor) -> Tensor:
        ranked, ranking = scores.sort(dim=1, descending=True, stable=True)
        fits = (1 - torch.sigmoid(ranked)).cumsum(dim=1) <= self.bound
        chosen = torch.zeros_like(state.masked).scatter(1, ranking, fits)
        pace = ((scores > -torch.inf).sum(dim=1) / (state.steps - state.step)).ceil().long()
        return (chosen & (scores > -torch.inf)) | top(scores, pace)


@dataclass(frozen=True)
class SecondLook:
    """One rule until a sequence is complete, another once it has been opened again: be quick, and careful where it failed.

    Where the budget is generous, at least one step for every four positions, the first completion need not be quick either.
    """

    first: CountRule = EntropyBound(0.1)
    again: CountRule = Threshold(0.99)
    generous: CountRule = EntropyBound(0.01)

    @property
    def keep_drift(self) -> int:
        """As the rules within wish."""
        return drift_kept(self.first, self.again, self.generous)

    def __call__(self, scores: Tensor, state: State, undone: Tensor) -> Tensor:
        slow = 4 * state.steps >= state.generated.sum(dim=1)
        chosen = self.first(scores, state, undone)
        if slow.any():
            chosen = torch.where(slow[:, None], self.generous(scores, state, undone), chosen)
        if state.undone is None or not (state.undone > 0).any():
            return chosen
        return torch.where((state.undone > 0)[:, None], self.again(scores, state, undone), chosen)


@dataclass(frozen=True)
class InTime:
    """What a rule selects, and then the best-scored of the rest until a schedule's number is reached: a threshold that is done
    in time (as diffusers' BlockRefinementScheduler does it).

    Args:
        rule: what is selected at any rate.
        schedule: whose number is the least.
    """

    rule: CountRule
    schedule: CountRule

    @property
    def keep_drift(self) -> int:
        """As the rules within wish."""
        return drift_kept(self.rule, self.schedule)

    def __call__(self, scores: Tensor, state: State, undone: Tensor) -> Tensor:
        chosen = self.rule(scores, state, undone)
        count = torch.maximum(chosen.sum(dim=1), self.schedule(scores, state, undone).sum(dim=1))
        return top(scores.masked_fill(chosen, torch.inf), count)


@dataclass(frozen=True)
class Timesteps:
    """floor(n * (1 - s / t)) of the n masked positions, on timesteps that fall evenly from t = 1 to eps (Dream,
    arXiv 2508.15487). In float32 as published, which decides some roundings. A step in which that is 0 unmasks nothing.

    Args:
        eps: the last timestep.
    """

    eps: float = 1e-3

    def __call__(self, scores: Tensor, state: State, undone: Tensor) -> Tensor:
        masked = (scores > -torch.inf).sum(dim=1)
        return top(scores, (masked.float() * _transferred(state, self.eps)).long())


@dataclass(frozen=True)
class Ancestral:
    """Each masked position with probability 1 - s / t, whatever its score: the reverse process itself (arXiv 2406.07524;
    `alg="origin"` of Dream), on the timesteps of `Timesteps`.

    Args:
        eps: the last timestep.
    """

    eps: float = 1e-3

    def __call__(self, scores: Tensor, state: State, undone: Tensor) -> Tensor:
        return (state.uniform(_TRANSFER) < _transferred(state, self.eps)) & (scores > -torch.inf)


def _transferred(state: State, eps: float) -> float:
    """1 - s / t of this step, in float32."""
    timesteps = torch.linspace(1, eps, state.steps + 1)
    return float(1 - timesteps[state.step + 1] / timesteps[state.step])


def _probability(scores: Tensor, state: State, by: str) -> Tensor:
    """Probability of being right (B, L), -inf where nothing can be unmasked."""
    value = torch.sigmoid(scores) if by == "score" else state.scatter(state.summary.top_log_probs[:, 0].exp())
    return value.masked_fill(scores == -torch.inf, -torch.inf)


def score_threshold(level: float = 0.5) -> Threshold:
    """All positions whose score, read as log-odds, means a probability above the level, else the best-scored one."""
    return Threshold(level, by="score")


COUNT_RULES: dict[str, Callable[..., CountRule]] = {
    "linear": Linear,
    "cosine": Cosine,
    "fixed": Fixed,
    "threshold": Threshold,
    "score_threshold": score_threshold,
    "factor": Factor,
    "entropy_bound": EntropyBound,
    "klass": KLASS,
    "predicted_error": PredictedError,
    "second_look": SecondLook,
}
"""Rules that a command can name."""
