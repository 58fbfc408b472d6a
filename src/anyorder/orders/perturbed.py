"""Orders that are drawn, so that a problem can be tried many times (Pass@N of UPO, arXiv 2510.05725)."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from anyorder.errors import LARGEST_FINITE, check_number
from anyorder.noise import Purpose
from anyorder.orders.base import Order, checked_scores, open_positions
from anyorder.orders.learned import LearnedOrder
from anyorder.orders.reward_policies import most_confident
from anyorder.prediction import Prediction
from anyorder.registry import ORDERS
from anyorder.state import DecodeState


@dataclass(frozen=True)
class Perturbed:
    """g_i + eps_i, where g is the softmax of an order's scores over the open positions and eps_i ~ N(0, sigma^2) is drawn again
    in every step. With one position per step this is the argmax of arXiv 2510.05725, appendix D.3. Sigma 0 is the order itself,
    a large sigma the uniform choice among the open positions.

    Args:
        order: the order that is perturbed.
        sigma: standard deviation of the noise, on the scale of probabilities.
        top_positions: only the K most confident positions are open (eq. 27), so at most K are unmasked in a step; 0 for all;
            None for the number that the policy was trained with.
    """

    order: Order
    sigma: float
    top_positions: int | None = None

    def __post_init__(self) -> None:
        check_number("sigma", self.sigma, 0, LARGEST_FINITE)
        if self.top_positions is not None:
            check_number("top_positions", self.top_positions, 0)

    def __call__(self, state: DecodeState, prediction: Prediction) -> Tensor:
        scores = checked_scores(self.order(state, prediction), self.order, state, open_positions(state, prediction))
        most = self.top_positions
        if most is None:
            most = self.order.policy.top_positions if isinstance(self.order, LearnedOrder) else 0
        if most:
            scores = scores.masked_fill(~most_confident(state, prediction, most), -torch.inf)
        perturbed = torch.softmax(scores.double(), dim=1) + self.sigma * state.normal(Purpose.PERTURBATION)
        return perturbed.masked_fill(scores == -torch.inf, -torch.inf).float()


@ORDERS.register("top_k", baseline=True)
@dataclass(frozen=True)
class TopPositions:
    """Uniform among the K most confident positions, drawn again in every step (the Top-K order of arXiv 2510.05725, eq. 8). No
    other position is open, so at most K are unmasked in a step. K = 1 is the confidence order."""

    k: int = field(default=5, metadata={"help": "positions that are open"})

    def __post_init__(self) -> None:
        check_number("k", self.k, 1)

    def __call__(self, state: DecodeState, prediction: Prediction) -> Tensor:
        inside = most_confident(state, prediction, self.k)
        return state.uniform(Purpose.TOP).float().masked_fill(~inside, -torch.inf)
