"""Errors that the user can correct. The command line prints them in one line, without a traceback."""

import re


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


def without_passwords(text: str) -> str:
    """A text with the user and password of every address in it covered: `https://***@host/`."""
    return re.sub(r"://[^/\s]*@", "://***@", text)


def first_line(error: Exception) -> str:
    """What another library's error says first, or its kind where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


class WrongDenoiser(AnyorderError):
    """A policy was used with a denoiser to which it was not fitted."""


def shorten(text: str, most: int = 40) -> str:
    """A text of at most `most` characters for a message, with an ellipsis where it was cut."""
    return text if len(text) <= most else text[: most - 3] + "..."
