"""Holes of unknown length: a text with `[MASK:1-8]` as the texts with one to eight masks there."""

import itertools
import re

from anyorder.errors import BadInput, counted

MOST = 256
"""Texts that one with holes of unknown length may stand for."""

_HOLE = re.compile(r"\[MASK(?::(?P<low>\d{1,6})(?:-(?P<high>\d{1,6}))?)?\]|_\{(?P<from>\d{1,6})-(?P<to>\d{1,6})\}")
_ALIKE = re.compile(r"\[MASK:[^\]]*\]")


def lengths_of(text: str) -> list[str]:
    """The texts with holes of known length, `_{5}`, that a text stands for: one for each choice of lengths.

    Raises:
        BadInput: a hole without a length of 1 or more, one that ends before it starts, or too many choices.
    """
    choices, at, parts = [], 0, []
    for hole in _HOLE.finditer(text):
        low = int(hole["low"] or hole["from"] or 1)
        high = int(hole["high"] or hole["to"] or low)
        if not 1 <= low <= high:
            raise BadInput(f"{hole[0]} is a hole of no length: write [MASK:5] for five tokens, [MASK:1-8] for one to eight")
        parts.append(text[at : hole.start()])
        choices.append(range(low, high + 1))
        at = hole.end()
    rest = text[at:]
    if wrong := _ALIKE.search(rest) or next(filter(None, map(_ALIKE.search, parts)), None):
        raise BadInput(f"{wrong[0]} is no hole: write [MASK:5] for five tokens, [MASK:1-8] for one to eight")
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > MOST:
        raise BadInput(f"the holes allow {counted(count, 'choice')} of lengths, and {MOST} are the most: narrow their ranges")
    return ["".join([*_filled(parts, chosen), rest]) for chosen in itertools.product(*choices)]


def has_holes(text: str) -> bool:
    """Whether a text has `[MASK]`, `[MASK:5]` or the like in it."""
    return "[MASK]" in text or _ALIKE.search(text) is not None


def _filled(parts: list[str], lengths: tuple[int, ...]) -> list[str]:
    return [part + f"_{{{length}}}" for part, length in zip(parts, lengths, strict=True)]
