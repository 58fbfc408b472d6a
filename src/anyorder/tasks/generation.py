"""What generators of problems have in common."""

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from anyorder.errors import BadInput, first_line
from anyorder.signatures import check_argument

if TYPE_CHECKING:
    from anyorder.tasks.base import Instances, Task

_MOST_TOKENS = 2**30


class Span(tuple[int, int]):
    """A range LOW-HIGH of the command line: a tuple of its ends, which is no list of two numbers."""


def check_size(count: int, length: int) -> None:
    """Refuse problems that do not fit into memory, before there are any.

    Raises:
        BadInput: `count` problems of `length` tokens are more than 2^30 tokens (8 GiB).
    """
    if count * length > _MOST_TOKENS:
        most = f"{_MOST_TOKENS // length:,} of {length} tokens are the most"
        raise BadInput(f"{count:,} problems do not fit into memory: {most}")


def make_problems(task: "Task", count: int, seed: int, options: Mapping[str, Any]) -> "Instances":
    """Problems from a task's generator.

    Raises:
        BadInput: the task has no generator, one that cannot use the options, or one that makes another number of problems.
    """
    parameters = inspect.signature(task.generate).parameters
    known = list(parameters)[2:]  # behind the number of problems and the seed
    unknown = [key for key in options if key not in known]
    if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        takes = f"it takes {', '.join(known)}" if known else "it takes no options"
        raise BadInput(f"the generator of {task.name} does not take {unknown[0]!r}: {takes}")
    check_size(count, task.length)
    try:
        found = task.generate(count, seed, **options)
    except TypeError as error:
        given = ", ".join(f"{key}={value}" for key, value in options.items())
        raise BadInput(f"the generator of {task.name} cannot use {given or 'no options'}: {first_line(error)}") from error
    if len(found) != count:
        raise BadInput(f"the generator of {task.name} made {len(found)} problems; it must make {count}, as many as asked")
    return found


def range_of(name: str, value: object) -> tuple[int, int]:
    """The ends of a range of whole numbers that an option of a generator gives: itself, or a number for both.

    Raises:
        BadInput: it is neither; a truth value is no number.
    """
    ends = value if isinstance(value, tuple | list) else (value, value)
    if len(ends) != 2 or any(isinstance(end, bool) or not isinstance(end, int | np.integer) for end in ends):
        raise BadInput(f"{name} {value!r} must be a number, or a range LOW-HIGH")
    return int(ends[0]), int(ends[1])


def per_instance_seeds(seed: int, count: int, start: int = 0) -> np.ndarray:
    """Independent 32-bit seeds (count,) for instances start..start+count-1: number i depends on seed and i only.

    Raises:
        BadInput: `count` is not a whole number, 1 or more, or `seed` no whole number.
    """
    if not isinstance(count, int | np.integer) or isinstance(count, bool) or count < 1:
        raise BadInput(f"the number of problems is {count!r}; it must be a whole number, 1 or more")
    check_argument("seed", seed, int)
    counter = np.arange(start, start + count, dtype=np.uint64)
    mixed = (counter + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed * 0xD1B54A32D192ED03 % 2**64)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(33)).astype(np.int64)
