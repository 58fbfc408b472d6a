"""The settings that a registered part declares, checked against what a recipe gives."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, ValidationError, create_model

from anyorder.errors import BadInput, first_line
from anyorder.orders.base import Order, Unbound
from anyorder.registry import ORDERS
from anyorder.signatures import hints_of, plain_type

Declared = dict[str, tuple[Any, Any]]
"""Type and default of each setting by name; the default of a required one is `...`."""


def declared_by(part: Any, without: tuple[str, ...] = ()) -> Declared:
    """The settings of a part: the fields of a dataclass, or the arguments of another class, except those in `without`.

    A function has none.
    """
    if dataclasses.is_dataclass(part):
        hints = hints_of(part)
        return {f.name: (hints[f.name], _default(f)) for f in dataclasses.fields(part) if f.init and f.name not in without}
    if not inspect.isclass(part):
        return {}
    found: Declared = {}
    hints = hints_of(part.__init__)
    for name, parameter in inspect.signature(part).parameters.items():
        plain = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if plain and name not in without:
            found[name] = (hints.get(name, Any), ... if parameter.default is parameter.empty else parameter.default)
    return found


def check_settings(declared: Declared, given: Mapping[str, Any], what: str) -> dict[str, Any]:
    """All declared settings with the given values, checked and converted, and defaults elsewhere.

    Args:
        declared: see `declared_by`.
        given: from a recipe.
        what: what has these settings, for messages, such as "policy mlp".

    Raises:
        ValueError: an unknown key, a missing one, or a value of the wrong type; the message names the key and the known keys.
    """
    known = ", ".join(declared) or "none"
    for key, value in given.items():
        if key not in declared:
            raise ValueError(f"unknown key {key!r}; the settings of the {what} are: {known}")
        if isinstance(value, bool) and plain_type(declared[key][0]) in (int, float):
            raise ValueError(f"{key!r} is {str(value).lower()}; it must be a number")
    model: Any = create_model(
        "Settings", __config__=ConfigDict(arbitrary_types_allowed=True, protected_namespaces=()), **declared
    )  # type: ignore[call-overload]
    try:
        checked = model(**given)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "missing":
            raise ValueError(f"the {what} needs {key!r}; its settings are: {known}") from error
        message = problem["msg"][0].lower() + problem["msg"][1:]
        raise ValueError(f"{key!r} is {problem['input']!r}: {message}; the settings of the {what} are: {known}") from error
    return {name: getattr(checked, name) for name in declared}


def make_part(part: Any, settings: Mapping[str, Any], what: str) -> Any:
    """A function as it is; an instance of a class with these settings.

    Raises:
        ValueError: the class refuses them.
    """
    if not inspect.isclass(part):
        return part
    try:
        return part(**settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the {what} cannot be made: {first_line(error)}") from error


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return ... if field.default_factory is dataclasses.MISSING else field.default_factory()


def order_of_prediction(name: str) -> Order:
    """An order that training follows, by name.

    Raises:
        BadInput: there is none, or it needs more of the denoiser than its prediction.
    """
    order: Order = ORDERS.make(name)
    if isinstance(order, Unbound):
        raise BadInput(
            f"the order {name} needs the denoiser itself, to which only a sampler is bound: name an order that reads a "
            "prediction, such as confidence or gt_margin"
        )
    return order
