"""What token to put at a position: rules that turn logits into candidates."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from anyorder import noise
from anyorder.prediction import Prediction
from anyorder.registry import TOKEN_RULES
from anyorder.state import DecodeState

_TOKEN = 2


class TokenRule(ABC):
    """Base class of token rules, which are frozen dataclasses."""

    part_kind: ClassVar[str] = "token rule"

    @abstractmethod
    def __call__(self, state: DecodeState, prediction: Prediction) -> tuple[Tensor, Tensor]:
        """Candidates int64 (K,) for the predicted positions, and their log-probabilities under the rule, float (K,)."""


@TOKEN_RULES.register("argmax")
@dataclass(frozen=True)
class Argmax(TokenRule):
    """The likeliest token; its log-probability is the denoiser's."""

    def __call__(self, state: DecodeState, prediction: Prediction) -> tuple[Tensor, Tensor]:
        return prediction.top_tokens[:, 0], prediction.top_log_probs[:, 0]


@TOKEN_RULES.register("sample")
@dataclass(frozen=True)
class Sample(TokenRule):
    """Draw from softmax(logits / temperature), restricted to the smallest set of tokens whose probability reaches `top_p`, and
    to the `top_k` likeliest.

    Gumbel-max in float64, with noise that belongs to (seed, step, position, token).
    """

    temperature: float = field(default=1.0, metadata={"help": "of the softmax"})
    top_p: float = field(default=1.0, metadata={"help": "probability of the likeliest tokens that are kept"})
    top_k: int | None = field(default=None, metadata={"help": "number of the likeliest tokens that are kept"})

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0 (Argmax is the limit at 0)")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must lie in (0, 1]")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; at least one token must remain")

    def __call__(self, state: DecodeState, prediction: Prediction) -> tuple[Tensor, Tensor]:
        log_probs = truncate(prediction.logits, self.temperature, self.top_p, self.top_k)
        seeds, steps, index = (
            values.expand_as(state.tokens)[prediction.predicted][:, None]
            for values in (state.seeds[:, None], state.step[:, None], state.index)
        )
        words = torch.arange(log_probs.shape[1], device=log_probs.device)
        drawn = (log_probs + noise.gumbel(seeds, _TOKEN, steps, index, words)).argmax(dim=-1)
        return drawn, log_probs.gather(1, drawn[:, None])[:, 0].float()


def truncate(logits: Tensor, temperature: float = 1.0, top_p: float = 1.0, top_k: int | None = None) -> Tensor:
    """Log-probabilities float64 (K, V) of softmax(logits / temperature), restricted to the smallest set of tokens whose
    probability reaches `top_p` and to the `top_k` likeliest, and normalized again; -inf outside."""
    log_probs = torch.log_softmax(logits.double() / temperature, dim=-1)
    if top_p >= 1 and top_k is None:
        return log_probs
    ranked, ranking = log_probs.sort(dim=-1, descending=True, stable=True)
    before = ranked.exp().cumsum(dim=-1) - ranked.exp()
    likeliest = (before < top_p) | (top_p >= 1)
    likeliest[:, top_k:] &= top_k is None
    kept = torch.zeros_like(likeliest).scatter(1, ranking, likeliest)
    return torch.log_softmax(log_probs.masked_fill(~kept, -torch.inf), dim=-1)
