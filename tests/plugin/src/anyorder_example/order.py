"""An order: from both ends towards the middle."""

from torch import Tensor

from anyorder.prediction import Prediction
from anyorder.registry import ORDERS
from anyorder.state import DecodeState


@ORDERS.register("outside_in", default=True, color="purple")
def outside_in(state: DecodeState, prediction: Prediction) -> Tensor:
    """Distance from the middle."""
    middle = (state.tokens.shape[1] - 1) / 2
    return (state.index - middle).abs().float()
