"""Count rules on the timesteps of the reverse process, as in Dream. They may select no position in a step, as in the samplers
that they come from."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from anyorder.decoding.counts import CountRule, top
from anyorder.errors import check_number
from anyorder.prediction import Prediction
from anyorder.registry import COUNT_RULES
from anyorder.state import DecodeState

_TRANSFER = 4


@COUNT_RULES.register("timesteps")
@dataclass(frozen=True)
class Timesteps(CountRule):
    """floor(n * (1 - s / t)) of the n masked positions, on timesteps from t = 1 down to eps at equal distances (Dream,
    arXiv 2508.15487). In float32 as published, which decides some roundings. A step in which that is 0 unmasks nothing."""

    eps: float = field(default=1e-3, metadata={"help": "the last timestep"})

    def __post_init__(self) -> None:
        check_number("eps", self.eps, above=0, most=1)

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        masked = (scores > -torch.inf).sum(dim=1)
        return top(scores, (masked.float() * _transferred(state, self.eps)).long())


@COUNT_RULES.register("ancestral")
@dataclass(frozen=True)
class Ancestral(CountRule):
    """Each masked position with probability 1 - s / t, whatever its score: the reverse process itself (arXiv 2406.07524;
    `alg="origin"` of Dream), on the timesteps of `Timesteps`."""

    eps: float = field(default=1e-3, metadata={"help": "the last timestep"})

    def __post_init__(self) -> None:
        check_number("eps", self.eps, above=0, most=1)

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        return (state.uniform(_TRANSFER) < _transferred(state, self.eps)[:, None]) & (scores > -torch.inf)


def _transferred(state: DecodeState, eps: float) -> Tensor:
    """1 - s / t of each row's step, float32 (B,)."""
    found = torch.empty(len(state), dtype=torch.float32, device=state.tokens.device)
    for steps in state.steps.unique().tolist():
        rows = state.steps == steps
        timesteps = torch.linspace(1, eps, steps + 1, dtype=torch.float32)
        now = state.step[rows].cpu()
        found[rows] = (1 - timesteps[now + 1] / timesteps[now]).to(found.device)
    return found
