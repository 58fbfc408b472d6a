"""Parts that cannot be those of a sampler, refused with one error."""

import dataclasses
import inspect
from numbers import Real
from typing import Any

from anyorder.errors import BadInput, check_whole
from anyorder.own_code import name_of
from anyorder.parts import kind_of

_ARITY = {"order": 2, "count rule": 4, "token rule": 2, "cache": 2}
"""With how many arguments each kind of part is called, see `Order`, `CountRule`, `TokenRule` and `CacheRule`."""


def check_numbers(part: Any) -> None:
    """Refuse a part whose numeric argument holds something else, which would fail in the middle of decoding only."""
    for field in dataclasses.fields(part) if dataclasses.is_dataclass(part) else ():
        value = getattr(part, field.name)
        if field.type in (int, float) and (isinstance(value, bool) or not isinstance(value, Real)):
            raise BadInput(f"{field.name} of {type(part).__name__} is {value!r}; it must be a number")
        check_whole(f"{field.name} of {type(part).__name__}", value)


def checked_part(field: str, part: Any, kind: str) -> Any:
    """The part, unless it cannot be one of its kind."""
    one = f"an {kind}" if kind == "order" else f"a {kind}"
    if inspect.isclass(part):
        raise BadInput(f"{field} is the class {part.__name__}; make an instance of it: {part.__name__}(...)")
    if not callable(part):
        said = repr(part) if _is_plain(part) else f"an object of the class {type(part).__name__}"
        raise BadInput(f"{field} is {said}; it must be the name of {one}, or {one}")
    found = getattr(part, "part_kind", None) or kind_of(part, kind)
    if found != kind:
        raise BadInput(f"{field} is the {found} {name_of(part)}; it must be {one}")
    if inspect.isfunction(part):
        signature = inspect.signature(part)
        try:
            signature.bind(*range(_ARITY[kind]))
        except TypeError as error:
            raise BadInput(f"{field} is {part.__name__}{signature}; {one} is called with {_ARITY[kind]} arguments") from error
    return part


def check_critic(field: str, critic: Any) -> None:
    """Raise BadInput unless this can be called as a critic."""
    if not callable(critic) or inspect.isclass(critic) or hasattr(critic, "mask_token_id"):
        said = repr(critic) if _is_plain(critic) else f"an object of the class {type(critic).__name__}"
        raise BadInput(
            f"{field} is {said}; it must be a function of a state and a prediction, such as load_order(FOLDER).critic, or "
            "DenoiserCritic(denoiser)"
        )


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
