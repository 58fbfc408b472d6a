"""Errors that the user can correct. The command line prints them in one line, without a traceback."""

import math
import re
import sys
from numbers import Integral, Real


class AnyorderError(Exception):
    """What was wrong, and what would be right."""

    def __str__(self) -> str:
        return without_passwords(super().__str__())


class BadInput(AnyorderError, ValueError):
    """A puzzle, file, recipe or option that cannot be used."""


class NotFinite(BadInput):
    """Logits or scores that are NaN, or infinite where they may not be: in training, a sign that it has diverged."""


class Diverged(AnyorderError):
    """Training whose loss, gradient or weights are not finite."""


class BadCheckpoint(AnyorderError):
    """A checkpoint or weight file that cannot be read."""


class PartFailed(AnyorderError):
    """Code of the user's own, such as an order or a module, raised an error, which is the cause of this one."""


def without_passwords(text: str) -> str:
    """A text with the user and password of every address in it covered: `https://***@host/`."""
    return re.sub(r"://[^/\s]*@", "://***@", text)


def first_line(error: Exception) -> str:
    """What another library's error says first, with the next line behind a colon; its kind where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


class WrongDenoiser(AnyorderError):
    """A policy was used with a denoiser to which it was not fitted."""


def truth(name: str, value: object) -> bool:
    """A value that is true or false.

    Raises:
        BadInput: it is something else, such as a text, which Python would take for true.
    """
    if value not in (True, False):
        raise BadInput(f"{name} is {value!r}; it must be true or false (1 or 0)")
    return bool(value)


def check_number(
    name: str, value: object, least: float = -math.inf, most: float = math.inf, *, above: float = -math.inf, hint: str = ""
) -> None:
    """Raise BadInput unless a value is a number (no truth value, no NaN) in a range. Whole numbers are at most `LARGEST_WHOLE`.

    Args:
        name: what it is, for the message.
        least, most: the ends of the range, which belong to it.
        above: it must be larger than this.
        hint: appended to the message.
    """
    if isinstance(value, Real) and not isinstance(value, bool):
        check_whole(name, value)
        if least <= float(value) <= most and float(value) > above:
            return
    low = f"above {above:g}" if above > -math.inf else f"of {least:g} or more"
    kind, high = ("finite number", "") if most == LARGEST_FINITE else ("number", f" and at most {most:g}" * (most < math.inf))
    raise BadInput(f"{name} is {value!r}; it must be a {kind} {low}{high}{hint}")


def check_whole(name: str, value: object) -> None:
    """Raise BadInput if a value is a whole number that is larger than any length, count or token can be."""
    if isinstance(value, Integral) and not -LARGEST_WHOLE <= int(value) + 1 <= LARGEST_WHOLE + 1:
        said = shorten(str(value)) if int(value).bit_length() < 1000 else "a number of hundreds of digits"
        size = " in size" if int(value) < 0 else ""
        raise BadInput(f"{name} is {said}; it must be a number of at most {LARGEST_WHOLE} (2**31 - 1){size}")


LARGEST_WHOLE = 2**31 - 1
"""The largest whole number that is an argument of a part."""
LARGEST_FINITE = sys.float_info.max
"""An upper end for `check_number` that leaves out infinity alone."""


def shorten(text: str, most: int = 40) -> str:
    """A text of at most `most` characters for a message, with an ellipsis where it was cut."""
    return text if len(text) <= most else text[: most - 3] + "..."


def counted(number: int, what: str) -> str:
    """A number of things in words: `1 step`, `20 steps`."""
    return f"{number} {what}" + "s" * (number != 1)
