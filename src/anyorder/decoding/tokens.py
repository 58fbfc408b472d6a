"""What token to put at a position: rules that turn logits into candidates."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from anyorder import noise
from anyorder.orders.base import State

_TOKEN = 2


class TokenRule(Protocol):
    """Candidates int64 (K,) for the predicted positions, and their log-probabilities under the rule, float (K,)."""

    def __call__(self, state: State) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Argmax:
    """The likeliest token; its log-probability is the denoiser's."""

    def __call__(self, state: State) -> tuple[Tensor, Tensor]:
        return state.summary.top_tokens[:, 0], state.summary.top_log_probs[:, 0]


@dataclass(frozen=True)
class Sample:
    """Draw from softmax(logits / temperature), cut to the smallest set of tokens whose probability reaches `top_p`, and to the
    `top_k` likeliest.

    Gumbel-max in float64, with noise that belongs to (seed, step, position, token).
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0 (Argmax is the limit at 0)")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must lie in (0, 1]")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; at least one token must be left")

    def __call__(self, state: State) -> tuple[Tensor, Tensor]:
        log_probs = cut(state.logits, self.temperature, self.top_p, self.top_k)
        seeds = state.seeds[:, None].expand_as(state.tokens)[state.predicted]
        index = state.index[state.predicted]
        words = torch.arange(log_probs.shape[1], device=log_probs.device)
        drawn = (log_probs + noise.gumbel(seeds[:, None], _TOKEN, state.step, index[:, None], words)).argmax(dim=-1)
        return drawn, log_probs.gather(1, drawn[:, None])[:, 0].float()


def cut(logits: Tensor, temperature: float = 1.0, top_p: float = 1.0, top_k: int | None = None) -> Tensor:
    """Log-probabilities float64 (K, V) of softmax(logits / temperature), cut to the smallest set of tokens whose probability
    reaches `top_p` and to the `top_k` likeliest, and normalised again; -inf outside."""
    log_probs = torch.log_softmax(logits.double() / temperature, dim=-1)
    if top_p >= 1 and top_k is None:
        return log_probs
    ranked, ranking = log_probs.sort(dim=-1, descending=True, stable=True)
    before = ranked.exp().cumsum(dim=-1) - ranked.exp()
    likeliest = (before < top_p) | (top_p >= 1)
    likeliest[:, top_k:] &= top_k is None
    kept = torch.zeros_like(likeliest).scatter(1, ranking, likeliest)
    return torch.log_softmax(log_probs.masked_fill(~kept, -torch.inf), dim=-1)
