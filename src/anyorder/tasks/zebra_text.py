"""The clues of Zebra puzzles, as numbers and as people write them.

A value is attribute * houses + k, written as a letter for its attribute and a number: A1, A2, ..., B1, ... A clue is
(type, a, b, c), with -1 for an operand that its type does not have. The types are those of Shah et al. 2024 (arXiv
2409.10502):

    EQUALITY    A1 = B2                 the same house
    INEQUALITY  A1 != B2                not the same house
    LEFT        A1 < B2                 somewhere left of
    IMMEDIATE   A1 << B2                immediately left of
    NEIGHBOR   A1 ~ B2                 next to
    BETWEEN     A1 between B2 and C3    strictly between, B2 and C3 in either order
    ENDS        A1 at end               in the first or the last house
    PADDING                             no clue

Operands of symmetric clues stand in ascending order: a and b of EQUALITY, INEQUALITY and NEIGHBOR, b and c of BETWEEN.
EQUALITY and INEQUALITY compare values of two attributes. `A1 at 2` says that A1 lives in the second house: a given cell of
the grid, not a clue. A solution names the values of each house from left to right: `A2 B1 C3`, `A1 B3 C1`, ...
"""

import re
from collections.abc import Sequence

from anyorder.errors import BadInput

EQUALITY, INEQUALITY, LEFT, IMMEDIATE, NEIGHBOR, BETWEEN, ENDS, PADDING = range(8)

_SYMBOLS = {"=": EQUALITY, "!=": INEQUALITY, "<": LEFT, "<<": IMMEDIATE, "~": NEIGHBOR}
_SYMBOL_OF = {kind: symbol for symbol, kind in _SYMBOLS.items()}
_STATEMENT = re.compile(r"(\w+)\s*(=|!=|<<|<|~|\bbetween\b|\bat\b)\s*(\w.*)", re.IGNORECASE)
_NAME = re.compile(r"([A-F])([1-6])", re.IGNORECASE)
_MENTION = re.compile(rf"\b{_NAME.pattern}\b", re.IGNORECASE)
_FORMS = "A1 = B2, A1 != B2, A1 < B2, A1 << B2, A1 ~ B2, A1 between B2 and C3, A1 at end, A1 at 2"


def size_of(text: str) -> tuple[int, int]:
    """Houses and attributes that the values named in a text need: the highest number and letter; (0, 0) without any."""
    names = _MENTION.findall(text)
    return (max(int(n) for _, n in names), max(ord(a.upper()) - 64 for a, _ in names)) if names else (0, 0)


def name_of(value: int, houses: int) -> str:
    """The name of value attribute * houses + k."""
    return f"{chr(65 + value // houses)}{value % houses + 1}"


def value_of(name: str, houses: int, attributes: int) -> int:
    """The value of this name.

    Raises:
        BadInput: no such value.
    """
    match = _NAME.fullmatch(name.strip())
    attribute, k = (ord(match[1].upper()) - 65, int(match[2]) - 1) if match else (attributes, houses)
    if attribute >= attributes or k >= houses:
        last = name_of(houses * attributes - 1, houses)
        raise BadInput(f"value {name.strip()!r} is unknown: a puzzle of this size has A1-A{houses} to {last[0]}1-{last}")
    return attribute * houses + k


def read_statement(text: str, houses: int, attributes: int) -> tuple[int, int, int, int]:
    """A statement as a clue (type, a, b, c), -1 for no operand; `A1 at 2` as (PADDING, value, house, -1).

    Raises:
        BadInput: it has none of the forms above, an unknown value, or a value twice.
    """
    match = _STATEMENT.fullmatch(text.strip())
    if match is None:
        raise BadInput(f"{text.strip()!r} is not a clue: write one of {_FORMS}")
    relation, rest = match[2].lower(), match[3]
    a = value_of(match[1], houses, attributes)
    if relation == "at":
        if rest.lower() == "end":
            return ENDS, a, -1, -1
        if rest not in [str(h) for h in range(1, houses + 1)]:
            raise BadInput(f"{text.strip()!r}: houses run from 1 to {houses}; or write 'at end'")
        return PADDING, a, int(rest) - 1, -1
    names = re.split(r"(?<!\s)\s+and\s+", rest, flags=re.IGNORECASE) if relation == "between" else [rest]
    if relation == "between" and len(names) != 2:
        raise BadInput(f"{text.strip()!r} is not a clue: write A1 between B2 and C3")
    others = [value_of(name, houses, attributes) for name in names]
    if len({a, *others}) <= len(others):
        raise BadInput(f"{text.strip()!r} names a value twice")
    if relation == "between":
        return BETWEEN, a, min(others), max(others)
    kind, b = _SYMBOLS[relation], others[0]
    if kind in (EQUALITY, INEQUALITY) and a // houses == b // houses:
        raise BadInput(f"{text.strip()!r} compares two values of one attribute, which never share a house")
    if kind in (EQUALITY, INEQUALITY, NEIGHBOR):
        a, b = min(a, b), max(a, b)
    return kind, a, b, -1


def write_clue(clue: Sequence[int], houses: int) -> str:
    """A clue (type, a, b, c) in the form above."""
    kind, *operands = clue
    a, *others = [name_of(value, houses) for value in operands if value >= 0]
    if kind == ENDS:
        return f"{a} at end"
    return f"{a} between {others[0]} and {others[1]}" if kind == BETWEEN else f"{a} {_SYMBOL_OF[kind]} {others[0]}"
