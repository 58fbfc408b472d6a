"""What a page or a plot is made from: files named one by one, or the folder of a run."""

from dataclasses import replace
from pathlib import Path

from anyorder.errors import BadInput, first_line
from anyorder.evaluation.results import Report
from anyorder.evaluation.saved import SUFFIXES, join, load
from anyorder.evaluation.trajectories import Trajectories
from anyorder.files import parse_json

_NAMES = ("report.json", *(f"trajectories{suffix}" for suffix in SUFFIXES))


def read_sources(paths: list[Path]) -> tuple[Trajectories | None, Report | None]:
    """Trajectories, joined, and the report; either may be missing, not both.

    Args:
        paths: files, or folders that hold `report.json` and `trajectories.json.gz` (or .json, .parquet).

    Raises:
        BadInput: a folder without such files, a file that holds neither, several reports, or different problems.
    """
    trajectories: list[tuple[Path, Trajectories]] = []
    reports: list[tuple[Path, Report]] = []
    for path in (file for source in paths for file in _files(source)):
        found = load(path)
        if isinstance(found, Report):
            reports.append((path, found))
        else:
            trajectories.append((path, found))
    if len(reports) > 1:
        raise BadInput(f"{reports[0][0]} and {reports[1][0]} are both reports of an evaluation: give one")
    return join(trajectories) if trajectories else None, reports[0][1] if reports else None


def select(
    trajectories: Trajectories | None, report: Report | None, orders: list[str] | None, steps: int | None
) -> tuple[Trajectories | None, Report | None]:
    """The same with these orders and this budget of steps only.

    Raises:
        BadInput: nothing is left.
    """

    def wanted(order: str, budget: int) -> bool:
        return (orders is None or order in orders) and (steps is None or budget == steps)

    if trajectories is not None:
        runs = [run for run in trajectories.runs if wanted(run.order, run.steps)]
        if not runs:
            raise BadInput(f"no such run; there are {'; '.join(run.name for run in trajectories.runs)}")
        trajectories = trajectories.model_copy(update={"runs": runs})
    if report is not None:
        results = [r for r in report.results if wanted(r.order, r.steps)]
        if not results:
            there = dict.fromkeys(f"{r.order}, {r.steps} steps" for r in report.results)
            raise BadInput(f"no such result; there are {'; '.join(there)}")
        report = replace(report, results=results)
    return trajectories, report


def read_metrics(paths: list[Path]) -> list[dict[str, float]]:
    """The metrics of one training run, from its folder or its `metrics.jsonl`.

    Raises:
        BadInput: several runs, or a file that is no list of JSON objects.
    """
    if len(paths) != 1:
        raise BadInput(f"training is drawn of one run, not of {len(paths)}")
    path = paths[0] / "metrics.jsonl" if paths[0].is_dir() else paths[0]
    try:
        rows = [parse_json(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except ValueError as error:
        raise BadInput(f"{path} holds no metrics, one JSON object per line: {first_line(error)}") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise BadInput(f"{path} holds no metrics, one JSON object per line")
    return rows


def _files(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    found = [source / name for name in _NAMES if (source / name).is_file()]
    if not found:
        raise BadInput(f"{source} holds none of {', '.join(_NAMES)}: name the files themselves")
    return found
