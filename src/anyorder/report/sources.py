"""The sources of a page or a plot: single files, or the folder of a run."""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from anyorder.errors import BadInput, first_line
from anyorder.evaluation.results import Report
from anyorder.evaluation.saved import SUFFIXES, join, load
from anyorder.evaluation.trajectories import Trajectories
from anyorder.files import parse_json


def read_sources(paths: list[Path], tell: Callable[[str], None] = warnings.warn) -> tuple[Trajectories | None, Report | None]:
    """Trajectories, joined, and the report; one of them may be missing.

    Args:
        paths: files, or folders. In a folder, every .json, .json.gz and .parquet file that holds trajectories or a report is
            read; its name does not matter.
        tell: called with a sentence for each such file that is not used, with the reason.

    Raises:
        BadInput: a folder without such files, a file that holds neither, several reports, or different problems.
    """
    trajectories: list[tuple[Path, Trajectories]] = []
    reports: list[tuple[Path, Report]] = []
    for source in paths:
        for path, found in _read_folder(source, tell) if source.is_dir() else [(source, load(source))]:
            if isinstance(found, Report):
                reports.append((path, found))
            else:
                trajectories.append((path, found))
    if len(reports) > 1:
        raise BadInput(f"{reports[0][0]} and {reports[1][0]} are both reports of an evaluation: give one")
    if trajectories and reports:
        _check_same_problems(*trajectories[0], *reports[0])
    return join(trajectories) if trajectories else None, reports[0][1] if reports else None


def _check_same_problems(path: Path, trajectories: Trajectories, report_path: Path, report: Report) -> None:
    """Refuse trajectories and a report that say of themselves that they are about different problems."""
    told, known = trajectories.about, report.meta
    generated = str(known.get("data", "")).startswith("generated")
    for name in ("task", "data", *(["seed"] if generated else [])):
        if name in told and name in known and told[name] != known[name]:
            what = f"{name} is {told[name]!r} in one and {known[name]!r} in the other"
            raise BadInput(f"{path} and {report_path} are about different problems: {what}")
    count, most = len(trajectories.problems), report.results[0].instances
    if count > most:
        raise BadInput(f"{path} and {report_path} are about different problems: {count} in one and {most} in the other")


def _read_folder(folder: Path, tell: Callable[[str], None]) -> list[tuple[Path, Trajectories | Report]]:
    """Everything usable in a folder, by content."""
    found: list[tuple[Path, Trajectories | Report]] = []
    refused = []
    for path in sorted(path for path in folder.iterdir() if path.is_file() and path.name.endswith(SUFFIXES)):
        try:
            found.append((path, load(path)))
        except BadInput as error:
            refused.append(str(error))
    if not found:
        reasons = "".join(f"; {reason}" for reason in refused)
        raise BadInput(
            f"{folder} holds neither trajectories nor a report ({', '.join(SUFFIXES)}): write them with `anyorder evaluate "
            f"--trajectories FILE --json FILE`{reasons}"
        )
    for reason in refused:
        tell(f"not used: {reason}")
    return found


def select(
    trajectories: Trajectories | None, report: Report | None, orders: list[str] | None, steps: int | None
) -> tuple[Trajectories | None, Report | None]:
    """The same with these orders and this budget of steps only.

    Raises:
        BadInput: no run or no result of one of the orders remains.
    """

    def wanted(order: str, budget: int) -> bool:
        return (orders is None or order in orders) and (steps is None or budget == steps)

    if trajectories is not None:
        runs = [run for run in trajectories.runs if wanted(run.order, run.steps)]
        if not runs:
            raise BadInput(f"no such run; there are {'; '.join(run.name for run in trajectories.runs)}")
        check_found(orders, [run.order for run in runs], [run.name for run in trajectories.runs])
        trajectories = trajectories.model_copy(update={"runs": runs})
    if report is not None:
        results = [r for r in report.results if wanted(r.order, r.steps)]
        there = list(dict.fromkeys(f"{r.order}, {r.steps} steps" for r in report.results))
        if not results:
            raise BadInput(f"no such result; there are {'; '.join(there)}")
        check_found(orders, [r.order for r in results], there)
        report = replace(report, results=results)
    return trajectories, report


def check_found(names: list[str] | None, found: Iterable[str], there: Iterable[str]) -> None:
    """Refuse names of which nothing was found; `there` says what could have been."""
    if missing := sorted(set(names or ()) - set(found)):
        raise BadInput(f"there are no results of {', '.join(missing)}; there are {'; '.join(there)}")


def read_metrics(paths: list[Path]) -> list[dict[str, float]]:
    """The metrics of one training run, from its folder or its `metrics.jsonl`.

    Raises:
        BadInput: several runs, or a file that is no list of JSON objects.
    """
    if len(paths) != 1:
        raise BadInput(f"a plot of training shows one run, not {len(paths)}")
    path = paths[0] / "metrics.jsonl" if paths[0].is_dir() else paths[0]
    try:
        rows = [parse_json(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except ValueError as error:
        raise BadInput(f"{path} holds no metrics, one JSON object per line: {first_line(error)}") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise BadInput(f"{path} holds no metrics, one JSON object per line")
    return [{name: value for name, value in row.items() if value is not None} for row in rows]  # null was not finite
