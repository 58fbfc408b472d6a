"""Functions compiled by numba, kept from one process to the next where there is a place to keep them."""

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Decorator: compile a function at its first call.

    The result is kept beside the source, in the user's cache folder, or in NUMBA_CACHE_DIR. Where none of them can be written,
    as in an installation that is read-only for a user without a home, every process compiles for itself.
    """
    found: Any
    try:
        found = njit(cache=True)(function)
    except RuntimeError:  # "cannot cache function: no locator available"
        found = njit(function)
    return found  # type: ignore[no-any-return]
