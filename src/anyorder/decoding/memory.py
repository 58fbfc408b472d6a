"""What decoding remembers of earlier predictions, for those parts of a decoder that ask for it.

A part asks by an attribute: `keep_first_look = True` for the first prediction, `keep_drift = n` for how far the prediction
moved in each of the last n steps. Where nobody asks, nothing is kept.
"""

from dataclasses import replace

import torch
from torch import Size, Tensor

from anyorder.orders.base import State


def drift_kept(*parts: object) -> int:
    """How many steps of drift the parts ask for."""
    return max(int(getattr(part, "keep_drift", 0)) for part in parts)


class Memory:
    """The memory of one call of `decode`.

    Args:
        shape: (N, L) of all sequences.
        parts: of the decoder.
    """

    def __init__(self, shape: Size, *parts: object) -> None:
        self.shape = shape
        self.keeps_first_look = any(getattr(part, "keep_first_look", False) for part in parts)
        self.steps = drift_kept(*parts)
        self.first_look: Tensor | None = None
        self.log_probs: Tensor | None = None  # of the last step (N, L, V), -inf where nothing was predicted
        self.drift: Tensor | None = None

    def recall(self, state: State, rows: Tensor) -> State:
        """The state of some rows (B,) with what is remembered of them; what it says itself is kept for later."""
        if self.keeps_first_look:
            seen = None if self.first_look is None else self.first_look[rows]
            if self.first_look is None:
                self.first_look = torch.zeros((*self.shape, state.logits.shape[-1]), device=state.logits.device)
                self.first_look[rows] = state.probabilities()
            state = replace(state, first_look=seen)
        return replace(state, drift=self._drift(state, rows)) if self.steps else state

    def _drift(self, state: State, rows: Tensor) -> Tensor:
        """See `State.drift`."""
        now = torch.log_softmax(state.logits.float(), dim=-1)
        if self.log_probs is None or self.drift is None:
            self.log_probs = now.new_full((*self.shape, now.shape[-1]), -torch.inf)
            self.drift = now.new_full((*self.shape, self.steps), torch.inf)
        moved = state.scatter(kl_divergence(now, self.log_probs[rows][state.predicted]), torch.inf)
        self.drift[rows] = torch.cat([moved[..., None], self.drift[rows][..., :-1]], dim=-1)
        kept = torch.full_like(self.log_probs[rows], -torch.inf)
        self.log_probs[rows] = kept.masked_scatter(state.predicted[..., None], now)
        return self.drift[rows]


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) in nats (K,) from log-probabilities (K, V); inf where q rules out what p does not."""
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(dim=-1).clamp(min=0.0)
