"""Count rules that go faster as more of the sequence is known."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from anyorder.decoding.counts import CountRule, drawn_confidence, not_in_blocks, top
from anyorder.errors import LARGEST_FINITE, check_number
from anyorder.prediction import Prediction
from anyorder.registry import COUNT_RULES
from anyorder.state import DecodeState


@COUNT_RULES.register("saber", candidate=True)
@dataclass(frozen=True)
class Saber(CountRule):
    """All positions whose drawn token has a probability above the mean of those committed so far, each taken when it was
    committed, or else the `least` best-scored ones (adaptive acceleration of Saber, arXiv 2510.18165).

    Before the first commitment the level is 1. The authors' code takes 2 as `least`. A token that was drawn at a temperature
    counts with the token rule's probability. Saber's other half, which remasks the tokens whose confidence fell most, is a
    matter of the remasker.
    """

    least: int = field(default=2, metadata={"help": "positions per step at least", "values": (6, 4, 3, 2, 1)})

    def __post_init__(self) -> None:
        check_number("least", self.least, 1)

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        committed = state.commit_step >= 0
        number = committed.sum(dim=1)
        total = state.token_log_probs.exp().masked_fill(~committed, 0.0).sum(dim=1)
        level = torch.where(number > 0, total / number.clamp(min=1), 1.0)
        sure = drawn_confidence(scores, prediction) > level[:, None]
        enough = sure.sum(dim=1) >= self.least
        return torch.where(enough[:, None], sure, top(scores, torch.full_like(number, self.least)))


@COUNT_RULES.register("ascending")
@dataclass(frozen=True)
class Ascending(CountRule):
    """growth^step positions, rounded down, by default 1, 2, 4 and so on (ascending step sizes, arXiv 2509.23924).

    2^S - 1 positions take S forward passes. A smaller budget leaves the rest to its last step.
    """

    growth: float = field(
        default=2.0, metadata={"help": "of the number from step to step", "values": (4, 3, 2, 1.5, 1.25, 1.1)}
    )

    def __post_init__(self) -> None:
        check_number("growth", self.growth, 1, LARGEST_FINITE)

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        count = torch.full_like(state.step, self.growth, dtype=torch.float64) ** state.step
        return top(scores, count.clamp(max=scores.shape[1]).long())

    def in_blocks(self, length: int) -> CountRule:
        """See `CountRule`."""
        raise not_in_blocks("ascending")
