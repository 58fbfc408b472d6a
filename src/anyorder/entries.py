"""What a registry knows of a part: its name, facts and arguments, and how the values of these are read from text."""

import dataclasses
import inspect
import re
from typing import Any

from anyorder.errors import BadInput
from anyorder.signatures import hints_of, plain_type

_END_OF_SENTENCE = re.compile(r"(?<!\beq)(?<!\bal)\. ")


@dataclasses.dataclass(frozen=True)
class Argument:
    """One argument of a registered part.

    Args:
        name: of the dataclass field.
        type: int, float, bool or str.
        default: `dataclasses.MISSING` if the argument is required.
        help: one line.
        values: the values of a curve over this argument; empty if it has no curve.
    """

    name: str
    type: type
    default: Any
    help: str = ""
    values: tuple[Any, ...] = ()


@dataclasses.dataclass(frozen=True)
class Entry:
    """A registered part: its name, the function or class, and facts about it (such as `color` or `baseline`)."""

    name: str
    part: Any
    facts: dict[str, Any]

    @property
    def help(self) -> str:
        """The first line of the docstring."""
        text = inspect.getdoc(self.part) or ""
        first = _END_OF_SENTENCE.split(text.split("\n\n")[0].replace("\n", " "))[0]
        return first.rstrip(".") + "." if first else ""

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The arguments that text can give: the plain fields of a dataclass, none if it wraps another part."""
        if self.facts.get("wraps") or not (inspect.isclass(self.part) and dataclasses.is_dataclass(self.part)):
            return ()
        hints = hints_of(self.part)
        found = []
        for field in dataclasses.fields(self.part):
            kind = plain_type(hints[field.name])
            if kind is not None and field.init:
                told = field.metadata
                values = tuple(told.get("values", ()))
                made = field.default_factory
                default = field.default if made is dataclasses.MISSING else made()
                found.append(Argument(field.name, kind, default, told.get("help", ""), values))
        return tuple(found)


def read_value(argument: Argument, text: str, where: str) -> Any:
    """The value of an argument in text; `where` begins the message of an error.

    Raises:
        BadInput: it has another type.
    """
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    try:
        value = words[text.lower()] if argument.type is bool else argument.type(text)
    except (ValueError, KeyError) as error:
        kinds = {int: "a whole number", float: "a number", bool: "true or false"}
        raise BadInput(f"{where}: {argument.name} is {text!r}; it must be {kinds.get(argument.type, 'text')}") from error
    return value
