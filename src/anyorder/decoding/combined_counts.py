"""Count rules that are made of others."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from anyorder.decoding.counts import CountRule, Linear, Threshold, as_rule, not_in_blocks, top
from anyorder.decoding.entropy_counts import EntropyShare, EvenUnsure
from anyorder.errors import check_number
from anyorder.memory import FirstEntropy, Memory
from anyorder.prediction import Prediction
from anyorder.registry import COUNT_RULES
from anyorder.state import DecodeState


@COUNT_RULES.register("two_phase")
@dataclass(frozen=True)
class TwoPhase(CountRule):
    """One rule until the sequence is complete, and another after it was opened again."""

    first: CountRule = EntropyShare()
    again: CountRule = Threshold(0.99)

    def __post_init__(self) -> None:
        for name in ("first", "again"):
            object.__setattr__(self, name, as_rule(name, getattr(self, name)))

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        chosen = self.first(scores, state, prediction, remasked)
        reopened = state.remasked > 0
        if not reopened.any():
            return chosen
        return torch.where(reopened[:, None], self.again(scores, state, prediction, remasked), chosen)

    def in_blocks(self, length: int) -> CountRule:
        """See `CountRule`."""
        raise not_in_blocks("two_phase")


@COUNT_RULES.register("if_unsure", candidate=True)
@dataclass(frozen=True)
class IfUnsure(CountRule):
    """One rule for most sequences, and another for those of which the denoiser was unsure at first.

    The mean entropy of its first prediction was then above a level, which is a sign of many solutions. A budget of about one
    forward pass for two positions is enough for the first rule all the same. (Ours.)

    Args:
        rule: for the others, and for budgets from `below` on.
        unsure: for these.
    """

    rule: CountRule = EntropyShare()
    unsure: CountRule = EvenUnsure()
    above: float = field(default=1.0, metadata={"help": "nats per masked position"})
    below: float = field(default=0.55, metadata={"help": "forward passes of the budget per generated position"})

    def __post_init__(self) -> None:
        for name in ("rule", "unsure"):
            object.__setattr__(self, name, as_rule(name, getattr(self, name)))
        check_number("above", self.above, 0)
        check_number("below", self.below, 0)

    @property
    def memories(self) -> tuple[Memory, ...]:
        """The entropy of the first prediction."""
        return (FirstEntropy(),)

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        chosen, unsure = self.rule(scores, state, prediction, remasked), self._unsure(state)
        if not unsure.any():
            return chosen
        return torch.where(unsure[:, None], self.unsure(scores, state, prediction, remasked), chosen)

    def _unsure(self, state: DecodeState) -> Tensor:
        (entropy,) = state.recall(FirstEntropy())
        return (entropy > self.above) & (state.steps < self.below * state.generated.sum(dim=1))

    def closes(self, state: DecodeState) -> Tensor | None:
        """See `CountRule`: where the rule in use does."""
        one, other = self.rule.closes(state), self.unsure.closes(state)
        if one is None and other is None:
            return None
        never = torch.zeros_like(state.step, dtype=torch.bool)
        return torch.where(self._unsure(state), never if other is None else other, never if one is None else one)

    def in_blocks(self, length: int) -> CountRule:
        """Both rules in blocks."""
        return IfUnsure(self.rule.in_blocks(length), self.unsure.in_blocks(length), self.above, self.below)


@COUNT_RULES.register("number_of", wraps="rule")
@dataclass(frozen=True)
class NumberOf(CountRule):
    """As many positions as a rule selects, but the best-scored ones: the rule says how many, and the order says which.

    Rules such as `threshold`, `entropy_bound`, `entropy_share` and `klass` choose by what the denoiser predicts, so that the
    order makes no difference, or only where nothing is sure. With `number_of` a learned order has the pace of such a rule.
    (Ours.)

    Args:
        rule: the rule that is asked for the number.
    """

    rule: CountRule = EntropyShare()

    def __post_init__(self) -> None:
        object.__setattr__(self, "rule", as_rule("rule", self.rule))

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        return top(scores, self.rule(scores, state, prediction, remasked).sum(dim=1))

    def in_blocks(self, length: int) -> CountRule:
        """The rule in blocks."""
        return NumberOf(self.rule.in_blocks(length))

    def closes(self, state: DecodeState) -> Tensor | None:
        """See `CountRule`."""
        return self.rule.closes(state)


@COUNT_RULES.register("deadline", wraps="rule")
@dataclass(frozen=True)
class Deadline(CountRule):
    """The selection of a rule, filled up with the best-scored positions to the number of a schedule: a threshold that finishes
    within the budget (as diffusers' BlockRefinementScheduler does).

    Args:
        rule: its selection is always unmasked.
        schedule: gives the smallest number.
    """

    rule: CountRule = Threshold()
    schedule: CountRule = Linear()

    def __post_init__(self) -> None:
        object.__setattr__(self, "rule", as_rule("rule", self.rule))
        object.__setattr__(self, "schedule", as_rule("schedule", self.schedule))

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        chosen = self.rule(scores, state, prediction, remasked)
        least = self.schedule(scores, state, prediction, remasked).sum(dim=1)
        return top(scores.masked_fill(chosen, torch.inf), torch.maximum(chosen.sum(dim=1), least))

    def in_blocks(self, length: int) -> CountRule:
        """Both rules in blocks."""
        return Deadline(self.rule.in_blocks(length), self.schedule.in_blocks(length))

    def closes(self, state: DecodeState) -> Tensor | None:
        """See `CountRule`."""
        return self.schedule.closes(state)
