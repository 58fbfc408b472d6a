"""The style of every plot: colors of orders, type, grid, and how a figure becomes a PNG or SVG file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anyorder.errors import BadInput, shorten
from anyorder.evaluation.samplers import color_of, is_oracle
from anyorder.files import write_atomically

COLORS = ("#1f6fc4", "#c3271b", "#157347", "#a55d00", "#7a35ad", "#0b7c86", "#a8326f", "#5d6b1f", "#6b4f3a", "#44546a")
"""Of curves without a color of their own, in turn."""

_RC: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.labelcolor": "#3a424d",
    "axes.edgecolor": "#8a94a2",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e8ed",
    "grid.linewidth": 0.8,
    "xtick.color": "#3a424d",
    "ytick.color": "#3a424d",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "errorbar.capsize": 2,
    "svg.hashsalt": "anyorder",
}


def look_of(name: str, number: int = 0) -> dict[str, Any]:
    """Color and line of an order, with any count rule: the color that it is registered with, else that of curve `number`."""
    color = color_of(name)
    line = "-." if color is None else ":" if is_oracle(name) else "--" if "+" in name.partition("@")[0] else "-"
    width = 2.3 if name.startswith("policy") else 1.6
    return {"color": color or COLORS[number % len(COLORS)], "linestyle": line, "linewidth": width}


@contextmanager
def figure(path: Path, panels: int, width: float, height: float, *, aside: float = 1.5, share_y: bool = False) -> Iterator[Any]:
    """Axes (panels,) in a row, each `width` by `height` inches; `aside` is room for a legend. Written to `path` on leaving.

    Raises:
        BadInput: the name ends neither in .png nor in .svg, or a text holds a formula that cannot be read.
    """
    check_suffix(path)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context(_RC):
        size = (aside + width * panels, height)
        drawn, axes = pyplot.subplots(1, panels, figsize=size, squeeze=False, sharey=share_y, layout="constrained")
        try:
            yield axes[0]
            file_format = path.suffix[1:]
            metadata = {"Date": None} if file_format == "svg" else None
            write_atomically(
                path,
                lambda temporary: drawn.savefig(
                    temporary, format=file_format, dpi=130, bbox_inches="tight", metadata=metadata
                ),
            )  # fmt: skip
        except ValueError as error:
            if "Parse" not in str(error):  # as matplotlib calls what is wrong with a formula
                raise
            why = shorten(" ".join(str(error).split()))
            raise BadInput(f"a title or name holds $...$, which is no formula: {why}; write \\$ for a dollar sign") from error
        finally:
            pyplot.close(drawn)


def check_suffix(path: Path) -> None:
    """Refuse a name that no plot can be written to."""
    if path.suffix not in (".png", ".svg"):
        raise BadInput(f"a plot is a .png or .svg file, not {path.name!r}")


def legend_aside(axis: Any) -> None:
    """The legend at the right of the last panel."""
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


def spread(y: float, low: float, high: float) -> tuple[float, float]:
    """Lengths of the error bar of y, below and above, in the units of y."""
    return max(0.0, y - low), max(0.0, high - y)
