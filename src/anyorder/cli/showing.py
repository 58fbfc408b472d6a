"""Commands that show saved results: report, plot."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from anyorder.cli.app import command
from anyorder.cli.options import TitleOption, check_outputs
from anyorder.errors import BadInput


@command()
def report(
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="files of `evaluate --trajectories` and `evaluate --json` about the same problems, or their folder"
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="the page to write")] = Path("report.html"),
    title: TitleOption = "",
) -> None:
    """Write a page that plays decodings back, side by side. It is one file and loads nothing from a network."""
    from anyorder.files import write_text
    from anyorder.report.page import build_page
    from anyorder.report.sources import read_sources

    check_outputs(read=sources, page=out)
    trajectories, found = read_sources(sources)
    write_text(out, build_page(trajectories, found, title))
    print(f"open in a browser: {out}")


@command()
def plot(
    kind: Annotated[str, typer.Argument(help="accuracy, pareto, calibration, order-map or training")],
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="as for `report`; for kind pareto also the file of `pareto --json`; for kind training, the folder of the run"
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="the plot to write, .png or .svg")],
    only_orders: Annotated[str | None, typer.Option(help="plot only these orders, comma-separated")] = None,
    only_steps: Annotated[int | None, typer.Option(min=1, help="plot only the results of this budget")] = None,
    title: TitleOption = "",
) -> None:
    """Draw a plot for a paper from saved results: accuracy against forward passes, Pareto front, calibration of the scores, map
    of the order (mean step per cell), or training curves."""
    from anyorder.cli.options import names
    from anyorder.evaluation.saved import report_of
    from anyorder.report import plots
    from anyorder.report.sources import read_metrics, read_sources, select

    check_outputs(read=sources, plot=out)
    of_reports = {"accuracy": plots.accuracy_against_steps, "pareto": plots.pareto_front}
    of_trajectories = {"calibration": plots.calibration_of_scores, "order-map": plots.order_map}
    if kind == "pareto" and len(sources) == 1 and (fronts := _fronts(sources[0], only_orders, only_steps)):
        _check_unused(f"with {sources[0]}, a file of `pareto --json`", title=title)
        plots.fronts(fronts, out)
    elif kind == "training":
        _check_unused("for the kind training", title=title, only_orders=only_orders, only_steps=only_steps)
        plots.training_curves(read_metrics(sources), out)
    elif kind in of_reports or kind in of_trajectories:
        trajectories, found = select(
            *read_sources(sources), orders=names(only_orders) if only_orders else None, steps=only_steps
        )
        if kind in of_reports:
            found = found or report_of(trajectories)  # type: ignore[arg-type]  # one of the two is there
            of_reports[kind](found, out, title)
        elif trajectories is None:
            raise BadInput(f"{kind} needs trajectories: write them with `anyorder evaluate --trajectories FILE`")
        else:
            _check_unused(f"for the kind {kind}", title=title)
            of_trajectories[kind](trajectories, out)
    else:
        raise BadInput(f"plot {kind!r} is unknown: use one of {', '.join([*of_reports, *of_trajectories, 'training'])}")
    print(f"plot: {out}")


def _check_unused(where: str, **options: Any) -> None:
    """Refuse options that were given and say nothing here."""
    for name, value in options.items():
        if value:
            raise BadInput(f"--{name.replace('_', '-')} has no effect {where}: leave it out")


def _fronts(path: Path, orders: str | None, steps: int | None) -> Any:
    """What `anyorder pareto --json` wrote, with these curves and budgets alone; None if the file is something else."""
    from anyorder.cli.options import names
    from anyorder.evaluation.saved import load_fronts
    from anyorder.report.sources import check_found

    fronts = load_fronts(path) if path.is_file() else None
    if fronts is None:
        return None
    there = list(dict.fromkeys(point.curve for point in fronts.points))
    wanted = names(orders) if orders else there
    points = [p for p in fronts.points if p.curve in wanted and (steps is None or p.steps == steps)]
    if not points:
        raise BadInput(f"no such curve; there are {', '.join(there)}")
    check_found(names(orders) if orders else None, [point.curve for point in points], there)
    return replace(fronts, points=points)
