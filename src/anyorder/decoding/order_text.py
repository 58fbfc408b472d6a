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


def holds_part(path: str) -> bool:
    """Whether this is a folder with a policy or a sampler, so that its name is that of the folder, whatever its letters."""
    return any(os.path.isfile(os.path.join(path, name)) for name in ("config.json", "sampler.json"))


def as_order(order: Any) -> Order:
    """An order by its name, `NAME~SIGMA`, or the folder of a policy; anything else is returned as it is. A folder that holds
    neither a policy nor a sampler is meant only where the text is no order.

    Raises:
        BadInput: an unknown name.
    """
    if isinstance(order, Path):
        return SavedOrder(str(order))
    if isinstance(order, PolicyNetwork):
        return LearnedOrder(order)
    if not isinstance(order, str):
        return order  # type: ignore[no-any-return]
    if order and order not in ORDERS and holds_part(order):
        return SavedOrder(order)
    try:
        return _read(order)
    except BadInput:
        if order and os.path.isdir(order):
            return SavedOrder(order)
        raise


def _read(order: str) -> Order:
    """An order by its name, or `NAME~SIGMA`."""
    name, perturbed, sigma = order.rpartition("~")
    if perturbed:
        inside = as_order(name)
        try:
            return Perturbed(inside, float(sigma))
        except ValueError as error:
            raise BadInput(f"order {order!r}: after '~' write the standard deviation of the noise, 0 or more") from error
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
