"""What a page or a plot is made from: files named one by one, or the folder of a run."""

from pathlib import Path

from anyorder.errors import BadInput
from anyorder.evaluation.evaluate import Report
from anyorder.evaluation.saved import SUFFIXES, join, load
from anyorder.evaluation.trajectories import Trajectories

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


def _files(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    found = [source / name for name in _NAMES if (source / name).is_file()]
    if not found:
        raise BadInput(f"{source} holds none of {', '.join(_NAMES)}: name the files themselves")
    return found
