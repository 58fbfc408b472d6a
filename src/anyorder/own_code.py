"""Errors in code of the user's own: which part failed, and where."""

import functools
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from anyorder.errors import AnyorderError, PartFailed, first_line
from anyorder.nesting import walk

R = TypeVar("R")

_LIBRARIES = ("anyorder", "torch", "transformers", "builtins", "functools")


@contextmanager
def naming(kind: str, part: Any) -> Iterator[None]:
    """Report an error in the body as that of a part, if its code is not of this library or one that it builds on.

    Args:
        kind: what the part is, such as "order".
        part: a function, a part that may hold others, or a module.

    Raises:
        PartFailed: with the original error as its cause. Errors of this library and of memory pass as they are.
    """
    try:
        yield
    except (AnyorderError, MemoryError, torch.OutOfMemoryError, torch.distributed.DistError):
        raise
    except Exception as error:
        own = _own(part)
        if own is None:
            raise
        said = f"{type(error).__name__}: {first_line(error)}"
        raise PartFailed(f"the {kind} {name_of(part)} failed{_place(error, _module_of(own))} with {said}") from error


def name_of(part: Any) -> str:
    """How errors call a part: `module:name` of what is somebody's own in it, or else its own name."""
    own = _own(part)
    return str(_target(part).__qualname__) if own is None else f"{_module_of(own)}:{_target(own).__qualname__}"


def reported(kind: str) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """A method whose errors are reported as those of the part that it belongs to, see `naming`."""

    def decorate(method: Callable[..., R]) -> Callable[..., R]:
        @functools.wraps(method)
        def called(self: Any, *args: Any, **kwargs: Any) -> R:
            with naming(kind, self):
                return method(self, *args, **kwargs)

        return called

    return decorate


def _own(part: Any) -> Any:
    """The first thing in a part that is not of this library or one that it builds on; None if there is none."""
    return next((inner for inner in _inside(part) if _module_of(inner).partition(".")[0] not in _LIBRARIES), None)


def _inside(part: Any) -> Iterator[Any]:
    """The part and everything in it that may be somebody's own."""
    for inner in walk(part):
        yield from inner.modules() if isinstance(inner, nn.Module) else [inner]


def _target(part: Any) -> Any:
    return part if hasattr(part, "__qualname__") else type(part)


def _module_of(part: Any) -> str:
    return str(getattr(_target(part), "__module__", "") or "")


def _place(error: Exception, module: str) -> str:
    """The last line of a module that the error passed."""
    frames = [(f, line) for f, line in traceback.walk_tb(error.__traceback__) if f.f_globals.get("__name__") == module]
    return f" in line {frames[-1][1]} of {frames[-1][0].f_code.co_filename}" if frames else ""
