"""Functions that are called after every step of decoding."""

from collections.abc import Callable, Sequence

from anyorder.decoding.step import StepOutput
from anyorder.errors import BadInput, shorten

Callback = Callable[[StepOutput], None]
"""Called after every step: for streaming, recording, progress."""


def callbacks_of(on_step: Callback | Sequence[Callback]) -> list[Callback]:
    """The callbacks as a list.

    Raises:
        BadInput: something else than a function or a sequence of functions.
    """
    found = list(on_step) if isinstance(on_step, Sequence) else [on_step]
    if not all(map(callable, found)):
        raise BadInput(f"on_step is {shorten(repr(on_step))}; it must be a function of a StepOutput, or a list of them")
    return found
