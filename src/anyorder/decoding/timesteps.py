"""Count rules on the times of the reverse process: on given timesteps, as in Dream, or at the times of its events.

Those on given timesteps may select no position in a step, as in the samplers that they come from.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from anyorder import noise
from anyorder.decoding.counts import CountRule, not_in_blocks, top
from anyorder.errors import check_number
from anyorder.orders.base import open_positions
from anyorder.prediction import Prediction
from anyorder.registry import COUNT_RULES
from anyorder.state import DecodeState


@COUNT_RULES.register("timesteps")
@dataclass(frozen=True)
class Timesteps(CountRule):
    """floor(n * (1 - s / t)) of the n masked positions, on timesteps from t = 1 down to eps at equal distances (Dream,
    arXiv 2508.15487). In float32 as published, which decides some roundings. A step in which that is 0 unmasks nothing."""

    eps: float = field(default=1e-3, metadata={"help": "the last timestep"})

    def __post_init__(self) -> None:
        check_number("eps", self.eps, above=0, most=1)

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        masked = open_positions(state, prediction).sum(dim=1)
        return top(scores, (masked.float() * _transferred(state, self.eps)).long())

    def in_blocks(self, length: int) -> CountRule:
        """See `CountRule`."""
        raise not_in_blocks("timesteps")


@COUNT_RULES.register("ancestral")
@dataclass(frozen=True)
class Ancestral(CountRule):
    """Each masked position with probability 1 - s / t, whatever its score: the reverse process itself (arXiv 2406.07524;
    `alg="origin"` of Dream), on the timesteps of `Timesteps`."""

    eps: float = field(default=1e-3, metadata={"help": "the last timestep"})

    def __post_init__(self) -> None:
        check_number("eps", self.eps, above=0, most=1)

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        return (state.uniform(noise.Purpose.TRANSFER) < _transferred(state, self.eps)[:, None]) & (scores > -torch.inf)

    def in_blocks(self, length: int) -> CountRule:
        """See `CountRule`."""
        raise not_in_blocks("ancestral")


@COUNT_RULES.register("first_hitting")
@dataclass(frozen=True)
class FirstHitting(CountRule):
    """The positions of the next event of the reverse process, whatever their score: no forward pass without an event (the
    first-hitting sampler, arXiv 2409.02908).

    In the reverse process of the linear schedule each position is unmasked at a time of its own, uniform on (0, 1), and time
    runs from 1 to 0. So with n masked positions at time t the next event is at t * u^(1/n), at a uniformly drawn position. Here
    the n times are drawn at the start, which has the same distribution. Other schedules only rename the times.

    Without `intervals` one position is unmasked per forward pass, in a uniformly random order: the distribution of
    `random@fixed:1`, with times. With T intervals the positions whose times fall into the same one of T equal intervals are
    unmasked together: the distribution of `ancestral` on T timesteps from 1 to 0, without the steps that unmask nothing, in
    T (1 - (1 - 1/T)^n) forward passes on average. Together with `Sample` both are the process itself.
    """

    intervals: int | None = field(
        default=None,
        metadata={"help": "of time, whose events share a forward pass; by default each event has its own",
                  "values": (4, 8, 16, 32, 64)},
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.intervals is not None:
            check_number("intervals", self.intervals, 1)

    def times(self, state: DecodeState) -> Tensor:
        """The time in (0, 1) at which each position is unmasked, float64 (B, L), fixed by the sequence's seed."""
        return noise.uniform(state.seeds[:, None], noise.Purpose.HITTING, state.index)

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        times = self.times(state)
        if self.intervals is not None:
            times = (times * self.intervals).floor()
        times = times.masked_fill(scores == -torch.inf, -1.0)
        return (times == times.amax(dim=1, keepdim=True)) & (scores > -torch.inf)


def _transferred(state: DecodeState, eps: float) -> Tensor:
    """1 - s / t of each row's step, float32 (B,)."""
    found = torch.empty(len(state), dtype=torch.float32, device=state.tokens.device)
    for steps in state.steps.unique().tolist():
        rows = state.steps == steps
        timesteps = torch.linspace(1, eps, steps + 1, dtype=torch.float32)
        now = state.step[rows].cpu().clamp(max=steps - 1)
        found[rows] = (1 - timesteps[now + 1] / timesteps[now]).to(found.device)
    return found
