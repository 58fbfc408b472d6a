"""An order that looks ahead: what would the denoiser know if this position were committed?"""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from anyorder.denoisers.base import at_positions
from anyorder.errors import LARGEST_FINITE, BadInput, check_number
from anyorder.noise import Purpose
from anyorder.orders.base import Binding, Unbound
from anyorder.prediction import Prediction, forbid
from anyorder.registry import ORDERS
from anyorder.state import DecodeState


@ORDERS.register("info_gain")
@dataclass(frozen=True)
class InfoGain(Unbound):
    """How much committing a position lowers the mean entropy of the masked positions, less its own entropy (the Info-Gain
    sampler, arXiv 2602.18176): J(i) = H(x) - H(x with the drawn token at i) - H_i, in nats.

    Each candidate costs a forward pass in each step, which counts: with n open positions a step has the NFE 1 + min(n,
    candidates); 1 if only one position is open, and 1 in the last step of the budget. The candidates are the most confident
    position and others, drawn without replacement with logits confidence / temperature. Positions that are no candidates come
    behind them, by confidence.

    The paper draws sets of positions, and their tokens, and leaves out repeated ones. Here the action is one position with its
    drawn token, so the order is the paper's with one position per step (`info_gain@fixed:1`, which is the default budget).
    """

    candidates: int = field(default=8, metadata={"help": "positions that are tried in each step"})
    temperature: float = field(default=0.2, metadata={"help": "of the draw of candidates; 0 for the most confident ones"})
    denoiser: ClassVar[Any] = None
    """What looks ahead, once bound. It is not saved: a sampler is bound to the denoiser that it decodes with."""

    def __post_init__(self) -> None:
        check_number("candidates", self.candidates, 1)
        check_number("temperature", self.temperature, 0, LARGEST_FINITE)

    def bind(self, binding: Binding) -> "InfoGain":
        """See `Unbound`."""
        bound = replace(self)
        object.__setattr__(bound, "denoiser", binding.denoiser)
        return bound

    def passes(self, state: DecodeState) -> Tensor:
        """Forward passes that the scores of each sequence cost, int64 (B,)."""
        count = state.available.sum(dim=1)
        looks = (count > 1) & (state.step < state.steps - 1)
        return torch.where(looks, count.clamp(max=self.candidates), 0)

    def __call__(self, state: DecodeState, prediction: Prediction) -> Tensor:
        if self.denoiser is None:
            raise BadInput("info_gain must be bound to its denoiser first: sampler.bind(denoiser)")
        sure = prediction.scatter(prediction.drawn_log_probs)
        passes = self.passes(state)
        ranking = self._ranking(state, sure)
        gains = torch.full_like(sure, torch.nan)
        for place in range(int(passes.max()) if len(passes) else 0):
            rows = (passes > place).nonzero()[:, 0]
            at = ranking[rows, place]
            gains[rows, at] = self._gain(state, prediction, rows, at)
        least = gains.nan_to_num(torch.inf).amin(dim=1, keepdim=True)
        return torch.where(gains.isnan(), torch.where(passes[:, None] > 0, least - 1 + sure, sure), gains)

    def _ranking(self, state: DecodeState, sure: Tensor) -> Tensor:
        """Positions int64 (B, L), the candidates first, from the drawn tokens' log-probabilities (B, L)."""
        drawn = sure.double()
        if self.temperature:
            drawn = drawn.exp() / self.temperature + state.gumbel(Purpose.CANDIDATES)
        drawn = drawn.masked_fill(~state.available, -torch.inf)
        best = sure.masked_fill(~state.available, -torch.inf).argmax(dim=1, keepdim=True)
        return drawn.scatter(1, best, torch.inf).argsort(dim=1, descending=True, stable=True)

    def _gain(self, state: DecodeState, prediction: Prediction, rows: Tensor, at: Tensor) -> Tensor:
        """J of one position `at` (R,) in each of some rows (R,), float (R,)."""
        each = torch.arange(len(rows), device=rows.device)
        drawn = torch.zeros_like(state.tokens).masked_scatter(prediction.predicted, prediction.drawn_tokens)
        entropy = prediction.scatter(prediction.entropy, 0.0)
        tokens, masked = state.tokens[rows], state.masked[rows]
        now = (entropy * state.masked).sum(dim=1)[rows] / masked.sum(dim=1)
        tokens[each, at], masked[each, at] = drawn[rows, at], False
        attention = None if state.attention_mask is None else state.attention_mask[rows]
        logits, hidden = at_positions(self.denoiser(tokens, attention, masked), masked)
        after = Prediction(forbid(logits, state.rejected[rows][masked]), hidden, masked)
        return now - after.scatter(after.entropy, 0.0).sum(dim=1) / masked.sum(dim=1) - entropy[rows, at]
