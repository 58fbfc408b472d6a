"""Orders that commit the ends of texts later."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from anyorder.ends import Ends
from anyorder.errors import BadInput, check_number
from anyorder.orders.base import Order
from anyorder.orders.heuristics import confidence
from anyorder.prediction import Prediction
from anyorder.registry import ORDERS
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
        if not callable(self.order):
            raise BadInput(f"order is {self.order!r}; it must be an order, such as anyorder.orders.confidence")
        Ends(self.tokens)  # which refuses what are no tokens
        object.__setattr__(self, "penalty", min(float(self.penalty), _LAST))

    def __call__(self, state: DecodeState, prediction: Prediction) -> Tensor:
        scores = self.order(state, prediction)
        return torch.where(ending(prediction, Ends(self.tokens)), scores - self.penalty, scores)


@ORDERS.register("eoser")
@dataclass(frozen=True)
class EarlyEndRejection:
    """Confidence, where the probability of an end of the text counts with a factor that rises linearly from `least` in the
    first step to `most` in the last one (end-of-text early rejection, arXiv 2509.23924).

    The scores of the order are log-probabilities, to which the logarithm of the factor is added. The authors' code takes .4 and
    1. With their ascending step sizes it takes .01 and 1, and the factor rises with the number of committed positions; here it
    always rises with the steps of the budget, so give `ascending` a budget of the steps that it needs.
    Count rules that look at probabilities and not at scores, such as `Threshold`, are not affected.

    Args:
        token: the token that ends a text.
        least, most: the factor in the first and the last step of the budget.
        order: where; its scores should be log-probabilities.
    """

    token: int = field(metadata={"help": "the token that ends a text"})
    least: float = field(default=0.4, metadata={"help": "factor in the first step"})
    most: float = field(default=1.0, metadata={"help": "factor in the last step"})
    order: Order = confidence

    def __post_init__(self) -> None:
        check_number("token", self.token, 0)
        check_number("least", self.least, above=0, most=1)
        check_number("most", self.most, above=0, most=1)

    def __call__(self, state: DecodeState, prediction: Prediction) -> Tensor:
        done = state.step.float() / (state.steps - 1).clamp(min=1)
        factor = torch.where(state.steps > 1, self.least + (self.most - self.least) * done, self.most)
        scores = self.order(state, prediction)
        return torch.where(ending(prediction, Ends((self.token,))), scores + factor.log()[:, None], scores)


def ending(prediction: Prediction, ends: Ends) -> Tensor:
    """The positions bool (B, L) whose token, the token rule's candidate or else the likeliest, ends the text."""
    return torch.zeros_like(prediction.predicted).masked_scatter(prediction.predicted, ends.found(prediction.drawn_tokens))
