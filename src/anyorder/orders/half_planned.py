"""A learned order for the first part of a sequence, and a heuristic for the rest."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from anyorder.errors import BadInput, check_number
from anyorder.orders.base import Binding, Order, Unbound
from anyorder.orders.heuristics import margin
from anyorder.orders.learned import LearnedOrder, saved_order
from anyorder.prediction import Prediction
from anyorder.registry import ORDERS
from anyorder.state import DecodeState


@dataclass(frozen=True)
class PlannedFirst:
    """The scores of a planner until a share of the generated positions is known, and then those of another order.

    Args:
        planner: the order of the first part.
        planned: the share, 0 to 1.
        rest: the order of the second part.
    """

    planner: Order
    planned: float = 0.5
    rest: Order = margin

    def __call__(self, state: DecodeState, prediction: Prediction) -> Tensor:
        early = state.unfilled.sum(dim=1) > (1 - self.planned) * state.generated.sum(dim=1)
        return torch.where(early[:, None], self.planner(state, prediction), self.rest(state, prediction).float())


@ORDERS.register("gt_margin_planner", color="#8c5a2b")
@dataclass(frozen=True)
class GtMarginPlanner(Unbound):
    """A learned order until half of the positions are known, and then the margin: the decoding of the Gt-Margin planner (arXiv
    2602.09501).

    The planner is the denoiser's own learned order or the one in a folder, fitted for the objective `gt_margin`. The authors'
    planner is a language model of its own; here it is a policy network on the denoiser's prediction.
    """

    planned: float = field(default=0.5, metadata={"help": "share of the positions that the planner orders"})
    folder: str = field(default="", metadata={"help": "folder or hub id of a policy; the denoiser's own by default"})

    def __post_init__(self) -> None:
        check_number("planned", self.planned, 0, 1)

    def bind(self, binding: Binding) -> PlannedFirst:
        """See `Unbound`."""
        planner: LearnedOrder = saved_order(binding.denoiser, self.folder, strict=binding.strict)
        return PlannedFirst(planner, self.planned)

    def __call__(self, state: DecodeState, prediction: Prediction) -> Tensor:
        raise BadInput("a learned order named in text must be bound to its denoiser first: sampler.bind(denoiser)")
