"""Help texts that name registered parts: `{orders}` and the like are filled in from the registries when help is shown.

So no name is typed by hand, parts of other packages are listed, and `anyorder --help` imports nothing heavy.
"""

import re
from collections.abc import Callable
from typing import Any

from typer.core import TyperCommand


def fill(text: str) -> str:
    """A help text with every placeholder filled in."""
    return re.sub(r"\{(\w+)\}", lambda found: _LISTS[found[1]]() if found[1] in _LISTS else found[0], text)


class Command(TyperCommand):
    """A command whose help, and that of its parameters, may hold placeholders."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Show the help with the placeholders filled in."""
        self.help = fill(self.help or "")
        for parameter in self.params:
            described: Any = parameter
            if getattr(described, "help", None):
                described.help = fill(described.help)
        super().format_help(ctx, formatter)


def _registered(name: str) -> Callable[[], str]:
    def names() -> str:
        from anyorder import registry

        found = getattr(registry, name)
        return ", ".join(found.usage(part) for part in found.names())

    return names


def _recipes() -> str:
    from anyorder.training.recipes import recipe_names

    return ", ".join(recipe_names())


def _fetchable() -> str:
    from anyorder.zoo.fetch import PACKAGES

    return ", ".join(PACKAGES)


def _targets() -> str:
    from anyorder.reproduce import describe_targets

    return describe_targets()


_LISTS: dict[str, Callable[[], str]] = {
    **{name.lower(): _registered(name) for name in ("ORDERS", "COUNT_RULES", "REMASKERS", "JUDGES", "POLICIES", "TASKS")},
    "recipes": _recipes,
    "fetchable": _fetchable,
    "targets": _targets,
}
