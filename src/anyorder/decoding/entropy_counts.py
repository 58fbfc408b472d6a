"""Count rules that unmask the positions of least entropy, and an even share of those that are unsure."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from anyorder.decoding.counts import CountRule, Linear, not_in_blocks, steps_left, top
from anyorder.errors import check_number
from anyorder.prediction import Prediction
from anyorder.registry import COUNT_RULES
from anyorder.state import DecodeState


@COUNT_RULES.register("entropy_bound", curve_for=("heuristic",))
@dataclass(frozen=True)
class EntropyBound(CountRule):
    """The largest prefix, by entropy, with sum H - max H <= bound, at least one, whatever the order is (Ben-Hamu et al., arXiv
    2505.24857)."""

    bound: float = field(default=0.1, metadata={"help": "nats", "values": (3, 1, 0.3, 0.1, 0.03, 0.01)})

    def __post_init__(self) -> None:
        check_number("bound", self.bound, 0)

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        return _least_entropy(prediction.scatter(prediction.entropy, fill=torch.inf), scores > -torch.inf, self.bound)


@COUNT_RULES.register("entropy_share", curve_for=("heuristic",))
@dataclass(frozen=True)
class EntropyShare(CountRule):
    """The largest prefix, by entropy, with sum H - max H <= fraction * (sum of H over all open positions) / (steps left)^2, at
    least one: an entropy bound that follows from the budget.

    A fixed bound is too strict for a small budget, whose last step then commits everything that is left, and too loose for a
    large one, which it does not use. In blocks, the steps left are divided among the masked positions. The order makes no
    difference, but for budgets below `even_below`; `number_of` takes the number alone.

    As in `entropy_bound`, the most uncertain position of a prefix costs nothing, so every step may commit one unsure token
    beside the sure ones. With `counts_largest` the bound is on sum H: unsure tokens then wait until no other one is sure, which
    takes more steps, but for puzzles whose tokens follow from one another step by step it is better. (Ours.)
    """

    fraction: float = field(default=0.25, metadata={"help": "of the remaining entropy", "values": (3, 1, 0.5, 0.25, 0.1, 0.03)})
    least: float = field(default=0.01, metadata={"help": "nats that are always allowed, so that sure tokens take no step"})
    even_below: int = field(default=0, metadata={"help": "budgets below this are spent at an even pace instead"})
    counts_largest: bool = field(default=False, metadata={"help": "whether the bound is on sum H in place of sum H - max H"})

    def __post_init__(self) -> None:
        check_number("fraction", self.fraction, 0)
        check_number("least", self.least, 0)
        check_number("even_below", self.even_below, 0)

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        available = scores > -torch.inf
        entropy = prediction.scatter(prediction.entropy, fill=0.0).masked_fill(~available, 0.0)
        left = steps_left(state, prediction)
        bound = (self.fraction * entropy.sum(dim=1) / left.square()).clamp(min=self.least)
        bound = bound.masked_fill(left == 1, torch.inf)
        chosen = _least_entropy(entropy, available, bound, counts_largest=self.counts_largest)
        if not (even := state.steps < self.even_below).any():
            return chosen
        return torch.where(even[:, None], Linear()(scores, state, prediction, remasked), chosen)

    def in_blocks(self, length: int) -> CountRule:
        """See `CountRule`."""
        if self.even_below:
            raise not_in_blocks("entropy_share with even_below")
        return self


@COUNT_RULES.register("even_unsure", curve_for=("heuristic",))
@dataclass(frozen=True)
class EvenUnsure(CountRule):
    """All positions with an entropy of at most `sure`, and an even share of the others, rounded down but at least one: the
    best-scored ones.

    For problems with many solutions, where most positions stay uncertain until others are unmasked: sure positions take no
    step, and the budget is divided among the rest. (Ours.)
    """

    sure: float = field(default=0.01, metadata={"help": "nats", "values": (1, 0.3, 0.1, 0.03, 0.01)})

    def __post_init__(self) -> None:
        check_number("sure", self.sure, 0)

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        available = scores > -torch.inf
        unsure = available & (prediction.scatter(prediction.entropy, fill=0.0) > self.sure)
        share = (unsure.sum(dim=1) // steps_left(state, prediction)).clamp(min=1)
        return (available & ~unsure) | top(scores.masked_fill(~unsure, -torch.inf), share)


def _least_entropy(entropy: Tensor, available: Tensor, bound: Tensor | float, *, counts_largest: bool = False) -> Tensor:
    """The largest prefix of the available positions bool (B, L), by entropy (B, L), with sum H - max H <= bound (B,), or sum H
    <= bound if the largest counts; at least one."""
    ranked, ranking = entropy.masked_fill(~available, torch.inf).sort(dim=1, stable=True)
    limit = bound[:, None] if isinstance(bound, Tensor) else bound
    fits = ranked.cumsum(dim=1) - (0 if counts_largest else ranked) <= limit  # ascending: the last of a prefix is its largest
    fits[:, 0] = True
    return torch.zeros_like(available).scatter(1, ranking, fits) & available
