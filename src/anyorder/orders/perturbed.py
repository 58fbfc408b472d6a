"""Orders that are drawn, so that a problem can be tried many times (Pass@N of UPO, arXiv 2510.05725)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from anyorder import noise
from anyorder.orders.base import Order, State
from anyorder.orders.reward_policies import most_confident

_PERTURBATION, _TOP = 7, 8


@dataclass(frozen=True)
class Perturbed:
    """g_i + eps_i with g the softmax of an order's scores over the positions that are open and eps_i ~ N(0, sigma^2), drawn
    afresh in every step: at one position per step the argmax of arXiv 2510.05725, appendix D.3. sigma 0 is the order itself, a
    large one the uniform choice among the open positions.

    Args:
        order: where.
        sigma: standard deviation of the noise, on the scale of probabilities.
        top_positions: K of a policy that is held to the K most confident positions (eq. 27): no other is open, so at most K are
            unmasked in a step; 0 for all.
    """

    order: Order
    sigma: float
    top_positions: int = 0

    def __post_init__(self) -> None:
        if not self.sigma >= 0:
            raise ValueError(f"sigma is {self.sigma}; a standard deviation is 0 or more")

    @property
    def keep_first_look(self) -> bool:
        """As the order within wishes."""
        return bool(getattr(self.order, "keep_first_look", False))

    def __call__(self, state: State) -> Tensor:
        scores = self.order(state)
        if self.top_positions:
            scores = scores.masked_fill(~most_confident(state, self.top_positions), -torch.inf)
        wobble = noise.normal(state.seeds[:, None], _PERTURBATION, state.step, state.index)
        perturbed = torch.softmax(scores.double(), dim=1) + self.sigma * wobble
        return perturbed.masked_fill(scores == -torch.inf, -torch.inf).float()


@dataclass(frozen=True)
class TopPositions:
    """Uniform among the K most confident positions, fresh in every step (the Top-K order of arXiv 2510.05725, eq. 8). No other
    position is open, so at most K are unmasked in a step. K = 1 is the confidence order."""

    k: int = 5

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k is {self.k}; at least one position must be open")

    def __call__(self, state: State) -> Tensor:
        return state.uniform(_TOP).float().masked_fill(~most_confident(state, self.k), -torch.inf)
