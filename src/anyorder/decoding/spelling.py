"""What stands behind the order in the spelling of a sampler: blocks, cache, refresh and count rule."""

from collections.abc import Callable
from typing import Any

from anyorder.decoding.cache import Refresh
from anyorder.errors import BadInput

_WORDS = {"blocks": "block_length", "cache": "cache", "refresh": "refresh"}
_DIGITS = 1_000  # Python reads no number of more than 4,300


def fields_of(rules: list[str]) -> dict[str, Any]:
    """Fields of a sampler from `blocks:LENGTH`, `cache:CACHE`, `refresh:WHEN` and a count rule, in any order.

    Raises:
        BadInput: one of them is written twice, or has no value.
    """
    found: dict[str, Any] = {}
    for rule in rules:
        word, _, value = rule.partition(":")
        name = _WORDS.get(word, "count")
        if name in found:
            raise BadInput("write '@' and a count rule once, '@blocks:LENGTH' once, '@cache:CACHE' once, '@refresh:WHEN' once")
        if word == "blocks" and (not value.isdecimal() or len(value) > _DIGITS or int(value) < 1):
            raise BadInput(f"{rule!r}: write blocks:32, with the number of positions per block")
        readers: dict[str, Callable[[str], Any]] = {"block_length": int, "refresh": read_refresh}
        found[name] = rule if name == "count" else readers.get(name, str)(value)
    return found


def read_refresh(text: str) -> Refresh:
    """The value that a text stands for: "block", "8" (steps), or "0.1" (a drift)."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
