"""An order that commits the ends of texts later."""

from dataclasses import dataclass

import torch
from torch import Tensor

from anyorder.ends import Ends
from anyorder.errors import check_number
from anyorder.orders.base import Order
from anyorder.prediction import Prediction
from anyorder.state import DecodeState

_LAST = 1e9
"""More than any score; finite, because a score of minus infinity cannot be unmasked at all."""


@dataclass(frozen=True)
class EndPenalty:
    """The scores of another order, less a penalty where the token that would be committed ends the text.

    Language models are often sure of the end of the text at far positions, and an early end leaves no room for the answer
    (LLaDA, arXiv 2502.09992, appendix B.4). Count rules that look at probabilities and not at scores, such as `Threshold`,
    are not affected.

    Args:
        order: where.
        tokens: the tokens that end a text.
        penalty: on the scale of the order's scores, 0 or more; infinity puts the ends behind all other positions, from left to
            right.

    Example:
        >>> from anyorder.orders import EndPenalty, confidence
        >>> order = EndPenalty(confidence, tokens=(2,), penalty=5.0)
    """

    order: Order
    tokens: tuple[int, ...]
    penalty: float = _LAST

    def __post_init__(self) -> None:
        check_number("penalty", self.penalty, 0)
        Ends(self.tokens)  # which refuses what are no tokens
        object.__setattr__(self, "penalty", min(float(self.penalty), _LAST))

    def __call__(self, state: DecodeState, prediction: Prediction) -> Tensor:
        scores = self.order(state, prediction)
        return torch.where(ending(prediction, Ends(self.tokens)), scores - self.penalty, scores)


def ending(prediction: Prediction, ends: Ends) -> Tensor:
    """The positions bool (B, L) whose token, the token rule's candidate or else the likeliest, ends the text."""
    return torch.zeros_like(prediction.predicted).masked_scatter(prediction.predicted, ends.found(prediction.drawn_tokens))
