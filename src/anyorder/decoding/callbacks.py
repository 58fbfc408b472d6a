"""What is called after every step of decoding: for streaming, recording, progress."""

from collections.abc import Callable, Sequence

from anyorder.decoding.step import StepOutput
from anyorder.errors import BadInput

Callback = Callable[[StepOutput], None]
"""Called after every step."""


def callbacks_of(on_step: Callback | Sequence[Callback]) -> list[Callback]:
    """One callback or several as a list.

    Raises:
        BadInput: something that cannot be called.
    """
    found = [on_step] if callable(on_step) else list(on_step) if isinstance(on_step, Sequence) else [None]
    if not all(map(callable, found)):
        raise BadInput(f"on_step is {on_step!r}; it must be a function of a StepOutput, or a list of such functions")
    return found
