"""Arguments of public calls, compared with the annotations of the call before it does anything."""

import functools
import inspect
import os
import typing
from collections.abc import Callable, Sequence
from contextlib import suppress
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ParamSpec, TypeVar

from anyorder.errors import BadInput, shorten

P = ParamSpec("P")
R = TypeVar("R")

_TYPES: dict[type, tuple[type, str]] = {
    str: (str, "a text"),
    Path: (os.PathLike, "a path"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    NoneType: (NoneType, "None"),
    Sequence: (Sequence, "a list"),
    list: (list, "a list"),
    tuple: (tuple, "a tuple"),
}
"""What is taken for an annotation, and how it is called in messages; other classes stand for themselves."""


def checked(*names: str, like: Callable[..., Any] | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A function that refuses arguments of another type than their annotations name: classes, and unions of them.

    Args:
        names: of the arguments that are checked.
        like: a function with the annotations and places of the arguments; by default the function itself.

    Raises:
        BadInput: from the call. It names the argument, its value, and what it must be.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        declared = function if like is None else like
        places = list(inspect.signature(declared).parameters)
        types = functools.cache(lambda: typing.get_type_hints(declared))  # later: an annotation may name a later class

        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            given = {**dict(zip(places, args, strict=False)), **kwargs}
            for name in names:
                if name in given:
                    check_argument(name, given[name], types()[name])
            return function(*args, **kwargs)

        return called

    return decorate


def check_argument(name: str, value: object, kind: Any) -> None:
    """Raise BadInput unless a value is of a class, or of one of a union of classes.

    Args:
        name: of the argument, for the message.
        value: a truth value is no number, and a text is no list.
    """
    classes, described = _classes_of(kind)
    strict = next((each for each in (bool, str) if isinstance(value, each)), None)  # no number, and no list of letters
    if isinstance(value, classes) if strict is None else strict in classes:
        return
    plain = isinstance(value, str | int | float | NoneType | os.PathLike)
    said = shorten(repr(value)) if plain else f"an object of the class {type(value).__name__}"
    raise BadInput(f"{name} is {said}; it must be {described}")


@functools.cache
def _classes_of(kind: Any) -> tuple[tuple[type, ...], str]:
    """The classes that are taken for an annotation, and how they are called in messages."""
    options = typing.get_args(kind) if isinstance(kind, UnionType) or typing.get_origin(kind) is typing.Union else (kind,)
    known = [_TYPES.get(each, (each, f"of the class {each.__name__}")) for each in (typing.get_origin(o) or o for o in options)]
    return tuple(taken for taken, _ in known), " or ".join(text for _, text in known)


def hints_of(part: Any) -> dict[str, Any]:
    """The annotations of a class or function, by name; `Any` for one that names what only a type checker imports."""
    try:
        return typing.get_type_hints(part)
    except Exception:  # whatever an annotation is that cannot be evaluated
        found: dict[str, Any] = {}
    for owner in reversed(part.__mro__) if inspect.isclass(part) else [part]:
        for name, hint in inspect.get_annotations(owner).items():
            alone = type(owner.__name__, (), {"__annotations__": {name: hint}, "__module__": owner.__module__})
            found[name] = Any
            with suppress(Exception):
                found |= typing.get_type_hints(alone)
    return found


def plain_type(hint: Any) -> type | None:
    """int, float, bool or str where a field holds one of them (or None); else None. Choices of several kinds are texts."""
    if typing.get_origin(hint) in (typing.Union, UnionType):
        inner = [argument for argument in typing.get_args(hint) if argument is not type(None)]
        return plain_type(inner[0]) if len(inner) == 1 else None
    if typing.get_origin(hint) is typing.Literal:
        kinds = {type(choice) for choice in typing.get_args(hint)} - {NoneType}
        return plain_type(kinds.pop()) if len(kinds) == 1 else str
    return hint if hint in (int, float, bool, str) else None
