"""Errors that the user can correct. The command line prints them in one line, without a traceback."""


class AnyorderError(Exception):
    """What was wrong, and what would be right."""


class BadInput(AnyorderError, ValueError):
    """A puzzle, file, recipe or option that cannot be used."""


class BadCheckpoint(AnyorderError):
    """A checkpoint or weight file that cannot be read."""


def first_line(error: Exception) -> str:
    """What another library's error says first, or its kind where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


class WrongDenoiser(AnyorderError):
    """A policy was used with a denoiser to which it was not fitted."""


def shorten(text: str, most: int = 40) -> str:
    """A text of at most `most` characters for a message, with an ellipsis where it was cut."""
    return text if len(text) <= most else text[: most - 3] + "..."
