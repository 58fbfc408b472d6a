"""What parts of a sampler remember of earlier predictions.

A part declares its memories in an attribute `memories`; the step keeps each of them in `DecodeState.memory` and updates it
before any part is asked. Memories are updated in the order in which they are declared, and may read those before them. Two
parts that declare equal memories share one. A sampler whose parts declare none keeps none.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from anyorder.prediction import Prediction
from anyorder.state import DecodeState


class Memory(Protocol):
    """A rule for what is kept: a hashable value, usually a frozen dataclass."""

    def init(self, state: DecodeState, prediction: Prediction) -> tuple[Tensor, ...]:
        """The memory after the first prediction of a sequence: tensors with a row per sequence."""

    def update(self, memory: tuple[Tensor, ...], state: DecodeState, prediction: Prediction) -> tuple[Tensor, ...]:
        """The memory after a later prediction."""

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class FirstPrediction:
    """The probabilities that the first forward pass gave to the generated positions, before anything was committed, 0
    elsewhere: float (B, L, V). With a block-causal denoiser, the first pass over the open block."""

    def init(self, state: DecodeState, prediction: Prediction) -> tuple[Tensor, ...]:
        return (prediction.probabilities(),)

    def update(self, memory: tuple[Tensor, ...], state: DecodeState, prediction: Prediction) -> tuple[Tensor, ...]:
        if state.model_block is None:
            return memory
        known = (memory[0].sum(dim=-1) > 0) & prediction.predicted
        begun = known.any(dim=1) | ~prediction.predicted.any(dim=1)
        if bool(begun.all()):
            return memory
        return (torch.where(begun[:, None, None], memory[0], prediction.probabilities()),)


@dataclass(frozen=True)
class FirstEntropy:
    """The mean entropy, in nats, of what the first forward pass predicted for the masked positions: float (B,)."""

    def init(self, state: DecodeState, prediction: Prediction) -> tuple[Tensor, ...]:
        entropy = prediction.scatter(prediction.entropy, fill=0.0).masked_fill(~state.masked, 0.0)
        return (entropy.sum(dim=1) / state.masked.sum(dim=1).clamp(min=1),)

    def update(self, memory: tuple[Tensor, ...], state: DecodeState, prediction: Prediction) -> tuple[Tensor, ...]:
        return memory


@dataclass(frozen=True)
class Drift:
    """KL(prediction now || prediction one step before) in nats, float (B, L, steps): of the last steps, the latest first; inf
    where there was no earlier prediction. The second tensor holds the log-probabilities of the last step, (B, L, V)."""

    steps: int

    def init(self, state: DecodeState, prediction: Prediction) -> tuple[Tensor, ...]:
        log_probs = _spread(prediction, prediction.log_probs())
        return torch.full((*state.tokens.shape, self.steps), torch.inf, dtype=torch.float32, device=log_probs.device), log_probs

    def update(self, memory: tuple[Tensor, ...], state: DecodeState, prediction: Prediction) -> tuple[Tensor, ...]:
        drift, before = memory
        now = prediction.log_probs()
        moved = prediction.scatter(kl_divergence(now, before[prediction.predicted]), torch.inf)
        return torch.cat([moved[..., None], drift[..., :-1]], dim=-1), _spread(prediction, now)


def remember(state: DecodeState, prediction: Prediction, memories: tuple[Memory, ...]) -> DecodeState:
    """The state with every memory updated. At step 0 of a sequence its memory starts anew."""
    if not memories:
        return state
    first = state.step == 0
    some_first = bool(first.any())
    all_first = some_first and bool(first.all())
    kept = {}
    for memory in memories:
        old = state.memory.get(memory)
        if old is None or all_first:
            kept[memory] = memory.init(state, prediction)
            continue
        state = state.replace(memory={**state.memory, **kept})
        new = memory.update(old, state, prediction)
        if some_first:
            fresh = memory.init(state, prediction)
            new = tuple(torch.where(first.view(-1, *[1] * (n.ndim - 1)), f, n) for f, n in zip(fresh, new, strict=True))
        kept[memory] = new
    return state.replace(memory=kept)


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) in nats (K,) from log-probabilities (K, V); inf where q rules out what p does not."""
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(dim=-1).clamp(min=0.0)


def _spread(prediction: Prediction, log_probs: Tensor) -> Tensor:
    """Log-probabilities (K, V) over (B, L, V), -inf where nothing was predicted."""
    out = log_probs.new_full((*prediction.predicted.shape, log_probs.shape[-1]), -torch.inf)
    return out.masked_scatter(prediction.predicted[..., None], log_probs)
