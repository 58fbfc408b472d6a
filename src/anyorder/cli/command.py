"""Help texts that name registered parts: `{orders}` and the like are filled in from the registries when help is shown.

So no name is typed by hand, parts of other packages are listed, and `anyorder --help` imports nothing heavy.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from rich.markup import escape
from typer.core import TyperCommand

from anyorder.registry import REGISTRIES, Registry


def fill(text: str) -> str:
    """A help text with every placeholder filled in."""
    return re.sub(r"\{(\w+)\}", lambda found: LISTS[found[1]]() if found[1] in LISTS else found[0], text)


class Command(TyperCommand):
    """A command whose help, and that of its parameters, may hold placeholders."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Show the help with the placeholders filled in. Typer reads it as markup, in which brackets must be escaped."""
        described: list[Any] = [self, *self.params]
        texts = [getattr(one, "help", None) for one in described]
        try:
            for one, text in zip(described, texts, strict=True):
                if text:
                    one.help = escape(fill(text))
            super().format_help(ctx, formatter)
        finally:
            for one, text in zip(described, texts, strict=True):
                if text:
                    one.help = text


def _usages(parts: Registry) -> str:
    return ", ".join(parts.usage(entry.name) for entry in parts.entries())


def _recipes() -> str:
    from anyorder.training.recipes import recipe_names

    return ", ".join(recipe_names())


def _fetchable() -> str:
    from anyorder.zoo.fetch import PACKAGES

    return ", ".join(PACKAGES)


def _targets() -> str:
    from anyorder.reproduce import describe_targets

    return describe_targets()


def _kinds() -> str:
    from anyorder.cli.listing import KINDS

    return ", ".join(KINDS)


LISTS: dict[str, Callable[[], str]] = {
    **{name.lower(): partial(_usages, parts) for name, parts in REGISTRIES.items()},
    "recipes": _recipes,
    "fetchable": _fetchable,
    "targets": _targets,
    "kinds": _kinds,
}
