"""What `anyorder list` prints: every registry, the denoisers, the recipes and what can be fetched."""

from collections.abc import Callable, Iterator

from anyorder.errors import BadInput
from anyorder.registry import REGISTRIES, Registry

Row = tuple[str, str, str]
"""Kind, how it is written, what it is."""


def rows_of(kind: str | None) -> Iterator[Row]:
    """All rows, or those of one kind.

    Raises:
        BadInput: an unknown kind.
    """
    if kind is not None and kind not in KINDS:
        raise BadInput(f"there is nothing called {kind!r} to list: use one of {', '.join(KINDS)}")
    for name, rows in KINDS.items():
        if kind in (None, name):
            yield from rows()


def _registered(parts: Registry) -> Callable[[], Iterator[Row]]:
    def rows() -> Iterator[Row]:
        for entry in parts.entries():
            package = str(getattr(entry.part, "__module__", "")).split(".")[0]
            source = "" if package == "anyorder" else f" [from {package}]"
            yield parts.kind, parts.usage(entry.name), entry.help + source

    return rows


def _denoisers() -> Iterator[Row]:
    from anyorder.zoo import folder_of, task_of, zoo_names

    for name in zoo_names():
        folder = folder_of(name)
        task = task_of(folder)
        has_order = ", with a fitted order" if (folder / "order").is_dir() else ""
        yield "denoiser", name, f"{task.name}, {task.length} tokens{has_order}"


def _fetchable() -> Iterator[Row]:
    from anyorder.zoo.fetch import PACKAGES

    for name, package in PACKAGES.items():
        yield "fetch", name, package.about


def _recipes() -> Iterator[Row]:
    from anyorder.training.recipes import load_recipe, recipe_names

    for name in recipe_names():
        yield "recipe", name, load_recipe(name).description


KINDS: dict[str, Callable[[], Iterator[Row]]] = {
    "denoisers": _denoisers,
    **{name.lower().replace("_", "-"): _registered(parts) for name, parts in REGISTRIES.items() if name != "DENOISERS"},
    "denoiser-classes": _registered(REGISTRIES["DENOISERS"]),
    "recipes": _recipes,
    "fetchable": _fetchable,
}
