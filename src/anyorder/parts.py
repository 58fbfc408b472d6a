"""Parts of a sampler as values: their inner parts, and how they are saved and loaded.

A part is a function, or a frozen dataclass whose fields are plain values, tuples of them, and other parts. Nothing else
is asked of it, so a part that wraps another one has nothing to forward.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from anyorder.errors import BadInput
from anyorder.files import finite
from anyorder.nesting import is_dataclass_instance, walk
from anyorder.orders.base import Unbound
from anyorder.registry import CACHES, COUNT_RULES, ORDERS, REMASKERS, TOKEN_RULES, Argument, Entry, Registry

_NOT_FINITE = ("inf", "-inf", "nan")

_KINDS: Mapping[str, Registry] = {
    "order": ORDERS,
    "count rule": COUNT_RULES,
    "token rule": TOKEN_RULES,
    "remasker": REMASKERS,
    "cache": CACHES,
}


def memories_of(*parts: Any) -> tuple[Any, ...]:
    """The memories that these parts and all parts inside them declare, each once."""
    return tuple(dict.fromkeys(memory for part in parts for inside in walk(part) for memory in getattr(inside, "memories", ())))


def rebuild(part: Any, change: Callable[[Any], Any]) -> Any:
    """The part with `change` applied to all parts inside it, innermost first, and then to itself."""
    if is_dataclass_instance(part):
        found = {f.name: getattr(part, f.name) for f in dataclasses.fields(part) if f.init}
        new = {n: rebuild(v, change) for n, v in found.items() if callable(v) or is_dataclass_instance(v)}
        changed = {name: value for name, value in new.items() if value is not found[name]}
        part = dataclasses.replace(part, **changed) if changed else part
    return change(part)


def to_config(part: Any, weights: Callable[[Any], dict[str, Any] | None], kind: str) -> dict[str, Any]:
    """A part as plain values: its kind, its name, and its arguments.

    Args:
        part: a function or dataclass that can be found again by name.
        weights: gives the values for a part with weights (and saves them), None for all others.
        kind: of the part, unless it is registered as another one.

    Raises:
        BadInput: the part cannot be found again by name, is neither a function nor a dataclass, or holds something that is
            neither a plain value nor a part.
    """
    found = weights(part)
    if found is not None:
        return found
    kind = kind_of(part, kind)
    values: dict[str, Any] = {"kind": kind, "name": _KINDS[kind].lasting_name_of(part)}
    if not _is_part(part):
        raise BadInput(f"the {kind} {type(part).__name__} cannot be saved: it must be a function or a dataclass")
    if not is_dataclass_instance(part):
        return values
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if callable(value) or is_dataclass_instance(value):
            values[field.name] = to_config(value, weights, kind)
        elif isinstance(value, float) and not math.isfinite(value):
            values[field.name] = str(value)  # "inf": JSON has no such number
        elif value is None or isinstance(value, bool | int | float | str):
            values[field.name] = value
        elif isinstance(value, tuple) and all(isinstance(inner, bool | int | float | str) for inner in value):
            if finite(value) != list(value):  # it would be read as None
                raise BadInput(f"{values['name']}.{field.name} is {value}; in a tuple, only finite numbers can be saved")
            values[field.name] = list(value)
        else:
            raise BadInput(f"{values['name']}.{field.name} is a {type(value).__name__}, which cannot be saved with a sampler")
    return values


def from_config(values: Mapping[str, Any], weights: Callable[[Mapping[str, Any]], Any]) -> Any:
    """Inverse of `to_config`; `weights` gives the part of an entry without a kind.

    Raises:
        BadInput: an unknown name, or arguments that the part does not take.
    """
    if "kind" not in values:
        return weights(values)
    if values["kind"] not in _KINDS or not isinstance(values.get("name"), str):
        raise BadInput(f"{values.get('kind')!r} {values.get('name')!r} is not a part of a sampler")
    part = _KINDS[values["kind"]][values["name"]]
    arguments = {k: from_config(v, weights) if isinstance(v, Mapping) else v for k, v in values.items()}
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
    del arguments["kind"], arguments["name"]
    if not _is_part(part):
        raise BadInput(f"the {values['kind']} {values['name']!r} is neither a function nor a dataclass")
    if not inspect.isclass(part):
        if arguments:
            raise BadInput(f"the {values['kind']} {values['name']!r} takes no arguments")
        return part
    known = list(inspect.signature(part).parameters)
    if wrong := [name for name in arguments if name not in known]:
        takes = f"it has {', '.join(known)}" if known else "it has none"
        raise BadInput(f"the {values['kind']} {values['name']!r} has no argument {wrong[0]!r}: {takes}")
    for argument in Entry(values["name"], part, {}).arguments:
        if argument.type is float and arguments.get(argument.name) in _NOT_FINITE:
            arguments[argument.name] = float(arguments[argument.name])
        _check(argument, arguments.get(argument.name, argument.default), values["name"])
    try:
        return part(**arguments)
    except (TypeError, ValueError) as error:
        raise BadInput(f"the {values['kind']} {values['name']!r} cannot be made: {error}") from error


def spelling(part: Any, registry: Registry) -> str:
    """A part in text, with the arguments that are not at their default: `threshold:0.99`.

    Raises:
        BadInput: the part cannot be written as text: it cannot be found by name, or holds parts that are not the default ones.
    """
    text = registry.name_of(part)
    if not is_dataclass_instance(part):
        return text
    entry = registry.entry(text)
    arguments, wraps = entry.arguments, entry.facts.get("wraps")
    plain = {argument.name for argument in arguments} | {wraps}
    inner = [(field.default, getattr(part, field.name)) for field in dataclasses.fields(part) if field.name not in plain]
    if not all(value == default or (isinstance(default, Unbound) and default.stands_for(value)) for default, value in inner):
        raise BadInput(f"{text} has parts that differ from the defaults, which cannot be written as text")
    if wraps is not None:
        return f"{text}:{spelling(getattr(part, wraps), registry)}"
    values = [(argument, getattr(part, argument.name)) for argument in arguments]
    while values and values[-1][1] == values[-1][0].default:
        values.pop()
    skipped = False
    for argument, value in values:
        if isinstance(value, str) and ":" in value:
            raise BadInput(f"{text} has the {argument.name} {value!r}, which cannot be written as text")
        skipped = skipped or value is None or (isinstance(value, str) and "=" in value)
        if value is not None:
            text += f":{argument.name}={written(value)}" if skipped else f":{written(value)}"
    return text


def label_of(part: Any, registry: Registry) -> str:
    """A name for tables: the spelling where there is one, else the name with all arguments, inner parts in parentheses."""
    try:
        return spelling(part, registry)
    except BadInput:
        if not is_dataclass_instance(part):
            return str(getattr(part, "__name__", type(part).__name__))
    inner = (getattr(part, field.name) for field in dataclasses.fields(part))
    said = (label_of(value, registry) if callable(value) else written(value) for value in inner)
    known = (entry.name for entry in registry.known() if entry.part is type(part))
    return f"{next(known, type(part).__name__)}({', '.join(said)})"


def _check(argument: Argument, value: Any, name: str) -> None:
    """Raise BadInput unless a value has the type of an argument, or is its default."""
    kinds = (int, float) if argument.type is float else argument.type
    right = isinstance(value, kinds) and isinstance(value, bool) == (argument.type is bool)
    if value is not argument.default and not right:
        raise BadInput(f"{name}.{argument.name} is {value!r}; it must be {argument.type.__name__}")


def written(value: Any) -> str:
    """A plain value as text that reads back to the same."""
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value)


def kind_of(part: Any, kind: str) -> str:
    """The kind under which a part is registered, or else the one that is expected."""
    for name in (*([kind] if kind in _KINDS else []), *_KINDS):
        if any(entry.part is part or entry.part is type(part) for entry in _KINDS[name].known()):
            return name
    return kind


def _is_part(part: Any) -> bool:
    """Whether this is a function, a dataclass, or an instance of one."""
    return inspect.isfunction(part) or dataclasses.is_dataclass(part)
