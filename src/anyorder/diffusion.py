"""The forward process: noise schedules, masking, and the weights that go with them.

Time runs from 0 (clean) to 1 (all maskable tokens masked). A schedule says what share `alpha(t)` of the maskable tokens is
still visible at time t, and the weight `-alpha'(t) / (1 - alpha(t))` of that time in the masked-diffusion loss
(arXiv 2606.00295, eq. 2; derived in arXiv 2406.07524).
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Schedule(Protocol):
    """What the losses and the masking need to know of a forward process."""

    def alpha(self, t: Tensor) -> Tensor:
        """Share of maskable tokens still visible at time t. Any shape, values in [0, 1]."""

    def weight(self, t: Tensor) -> Tensor:
        """Weight of time t in the loss. Any shape."""

    def sample_times(self, uniform: Tensor) -> Tensor:
        """Turn uniform numbers in [0, 1) into times of this schedule."""


@dataclass(frozen=True)
class LinearSchedule:
    """alpha(t) = 1 - t, weight 1 / t. Times below `t_min` are not drawn, so the weight stays finite."""

    t_min: float = 1e-3

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def weight(self, t: Tensor) -> Tensor:
        return 1 / t

    def sample_times(self, uniform: Tensor) -> Tensor:
        return self.t_min + (1 - self.t_min) * uniform


@dataclass(frozen=True)
class CosineSchedule:
    """alpha(t) = 1 - cos(pi/2 (1 - t)), weight pi/2 tan(pi/2 (1 - t)) (MaskGIT, arXiv 2202.04200)."""

    t_min: float = 1e-3

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - torch.cos(math.pi / 2 * (1 - t))

    def weight(self, t: Tensor) -> Tensor:
        return math.pi / 2 * torch.tan(math.pi / 2 * (1 - t))

    def sample_times(self, uniform: Tensor) -> Tensor:
        return self.t_min + (1 - self.t_min) * uniform


@dataclass(frozen=True)
class DiscreteSchedule:
    """T levels of noise: level k in {0..T-1} masks with probability (k + 1) / T and weighs T - k (Ye et al. 2024).

    A level is given as the time (k + 1) / T. The weight "linear" of Ye et al. is larger for less noise.
    """

    levels: int = 20

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def weight(self, t: Tensor) -> Tensor:
        return self.levels + 1 - t * self.levels

    def sample_times(self, uniform: Tensor) -> Tensor:
        return ((uniform * self.levels).floor() + 1) / self.levels


def stratified(uniform: Tensor) -> Tensor:
    """Spread a batch of uniform numbers (B,) over [0, 1): one in each of B equal slices (lower variance, same marginal).

    All rows share the first number as their shift, so each row alone is uniform on [0, 1).
    """
    batch = uniform.shape[0]
    return (torch.arange(batch, dtype=torch.float32, device=uniform.device) / batch + uniform[0]) % 1.0


def mask_tokens(
    x0: Tensor, maskable: Tensor, mask_probability: Tensor, mask_token_id: int, uniform: Tensor
) -> tuple[Tensor, Tensor]:
    """Draw x_t from x_0: each maskable token becomes the mask with the given probability, independently.

    Args:
        x0: clean tokens, int64 (B, L).
        maskable: bool (B, L); other positions (prompt, padding, special tokens) never change.
        mask_probability: 1 - alpha(t), float (B,), or (B, L) where positions have times of their own.
        mask_token_id: the mask.
        uniform: uniform numbers in [0, 1), float (B, L): the randomness, so that the result is a pure function.

    Returns:
        x_t int64 (B, L) and masked bool (B, L).
    """
    chance = mask_probability if mask_probability.dim() == 2 else mask_probability[:, None]
    masked = maskable & (uniform < chance)
    return torch.where(masked, mask_token_id, x0), masked
