"""What an order is."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from anyorder.errors import BadInput, NotFinite
from anyorder.own_code import name_of
from anyorder.prediction import Prediction
from anyorder.state import DecodeState


class Order(Protocol):
    """Where is it safest to unmask? A score for every predicted position; the larger, the sooner.

    Any such function is an order::

        def my_order(state: DecodeState, prediction: Prediction) -> Tensor:
            return prediction.scatter(prediction.best_log_probs)

    It returns float32 (B, L), finite, or -inf where a position is left out. Scores where `prediction.predicted` is False are
    ignored. Ties are broken by position, the leftmost first. An order that calls the denoiser itself has a method
    `passes(state)` that gives the number of these forward passes, int64 (B,), which are counted in `DecodeState.nfe`.
    """

    def __call__(self, state: DecodeState, prediction: Prediction) -> Tensor: ...


@dataclass(frozen=True)
class Binding:
    """What a part that depends on the denoiser is bound to.

    Args:
        denoiser: the model that is decoded.
        strict: a policy that was fitted to another denoiser is an error; otherwise a warning.
        order: the bound order of the sampler; None while the order itself is bound.
    """

    denoiser: Any
    strict: bool = True
    order: Order | None = None


class Unbound(ABC):
    """A part that stands for another one until the denoiser is known, such as "the denoiser's own policy"."""

    @abstractmethod
    def bind(self, binding: Binding) -> Any:
        """The part that it stands for."""

    def stands_for(self, part: Any) -> bool:
        """Whether a part may be what `bind` gave, so that text need not mention it."""
        return False


def open_positions(state: DecodeState, prediction: Prediction) -> Tensor:
    """The positions bool (B, L) that a step may unmask, of which an order may leave some out (a score of minus infinity)."""
    return prediction.predicted & ~(state.masked & ~state.available)


def checked_scores(scores: Any, order: Order, state: DecodeState, inside: Tensor) -> Tensor:
    """What an order returned, float (B, L), with -inf outside of the positions `inside` bool (B, L), where it is ignored.

    Raises:
        BadInput: it is no float tensor, or of another shape than the tokens. NotFinite: it is NaN or +inf somewhere inside.
    """
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        given = scores.dtype if isinstance(scores, Tensor) else type(scores).__name__
        raise BadInput(f"the order {name_of(order)} returned {given}; scores must be a float tensor")
    shape = tuple(state.tokens.shape)
    if scores.shape != shape:
        raise BadInput(f"the order {name_of(order)} returned scores of shape {tuple(scores.shape)}; they must be {shape}")
    found: Tensor = scores.masked_fill(~inside, -torch.inf)
    highest = found.max().item() if found.numel() else 0.0
    if math.isnan(highest):
        reason = "look for a logarithm of 0 or a difference of infinities in it"
        raise NotFinite(f"the order {name_of(order)} returned NaN scores: {reason}")
    if highest == math.inf:
        reason = "no noise changes them; give a large number to what comes first (-inf leaves a position out)"
        raise NotFinite(f"the order {name_of(order)} returned scores of +inf: {reason}")
    return found
