"""Orders from text and back."""

import os
import re
from pathlib import Path
from typing import Any

from anyorder.errors import BadInput
from anyorder.orders.base import Order
from anyorder.orders.learned import LearnedOrder, SavedOrder
from anyorder.orders.perturbed import Perturbed
from anyorder.orders.policies import PolicyNetwork
from anyorder.parts import label_of, written
from anyorder.registry import ORDERS


def as_order(order: Any) -> Order:
    """An order by its name, `NAME~SIGMA`, or the folder of a policy; anything else is returned as it is.

    Raises:
        BadInput: an unknown name.
    """
    if isinstance(order, Path):
        return SavedOrder(str(order))
    if isinstance(order, PolicyNetwork):
        return LearnedOrder(order)
    if not isinstance(order, str):
        return order  # type: ignore[no-any-return]
    name, perturbed, sigma = order.rpartition("~")
    if perturbed and not os.path.exists(order):
        inside = as_order(name)
        try:
            return Perturbed(inside, float(sigma))
        except ValueError as error:
            raise BadInput(f"order {order!r}: after '~' write the standard deviation of the noise, 0 or more") from error
    if order and order not in ORDERS and os.path.isdir(order):
        return SavedOrder(order)
    try:
        return ORDERS.make(order)  # type: ignore[no-any-return]
    except BadInput as error:
        if re.search("[+@]", order):
            raise BadInput(f"{order!r} is no order; the spelling of a whole sampler is read by Sampler.parse") from error
        raise BadInput(f"{error}, or the folder of a policy" if "unknown" in str(error) else str(error)) from error


def order_text(order: Any) -> str:
    """The text from which `as_order` makes an order; that of a learned one is `policy`. An order that has no such text is shown
    by its class and arguments."""
    if isinstance(order, Perturbed):
        inside, sigma = order_text(order.order), written(order.sigma)
        return f"{inside}~{sigma}" if order.top_positions is None else f"Perturbed({inside}, {sigma}, {order.top_positions})"
    if isinstance(order, SavedOrder) and order.folder:
        return order.folder
    if isinstance(order, LearnedOrder):
        return "policy"
    return label_of(order, ORDERS)
