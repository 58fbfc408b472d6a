"""A count rule with an argument."""

from dataclasses import dataclass, field

from torch import Tensor

from anyorder.decoding.counts import CountRule, top
from anyorder.prediction import Prediction
from anyorder.registry import COUNT_RULES
from anyorder.state import DecodeState


@COUNT_RULES.register("share", curve_for=("heuristic", "supervised"))
@dataclass(frozen=True)
class Share(CountRule):
    """A share of the masked positions, at least one."""

    share: float = field(default=0.25, metadata={"help": "share per step", "values": (0.1, 0.25, 0.5)})

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}; it must lie in (0, 1]")

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        masked = (scores > -float("inf")).sum(dim=1)
        return top(scores, (self.share * masked).ceil().long())
