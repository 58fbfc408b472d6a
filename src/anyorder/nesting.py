"""The parts inside a part of a sampler."""

import dataclasses
from collections.abc import Iterator
from typing import Any


def walk(part: Any) -> Iterator[Any]:
    """The part and all parts inside it."""
    yield part
    if is_dataclass_instance(part):
        for field in dataclasses.fields(part):
            inner = getattr(part, field.name)
            if callable(inner) or is_dataclass_instance(inner):
                yield from walk(inner)


def is_dataclass_instance(value: object) -> bool:
    """Whether a value is an instance of a dataclass, and not a dataclass itself."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)
