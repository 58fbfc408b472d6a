"""Read and write the files of an evaluation: trajectories (.json, .json.gz, .parquet) and reports (.json)."""

import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from anyorder.errors import BadInput, first_line
from anyorder.evaluation.operating_points import Fronts
from anyorder.evaluation.results import Comparison, Report, Result, compare_all
from anyorder.evaluation.statistics import Interval, share_interval, wilson
from anyorder.evaluation.trajectories import FORMAT, VERSION, Trajectories
from anyorder.files import dump_json, parse_json, read_json, write_atomically, write_bytes

SUFFIXES = (".json", ".json.gz", ".parquet")
_HEADER = b"anyorder.trajectories"


def save_trajectories(trajectories: Trajectories, path: Path) -> None:
    """Write as JSON, gzipped JSON, or Parquet (one row per decode), by suffix; atomically.

    Raises:
        BadInput: another suffix, or Parquet without pyarrow.
    """
    check_suffix(path)
    values = trajectories.model_dump(mode="json")
    if path.suffix == ".parquet":
        return _write_parquet(values, path)
    data = dump_json(values, separators=(",", ":")).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    write_bytes(path, data)


def check_suffix(path: Path) -> None:
    """Refuse, before any work is done, a name that no trajectories can be written to."""
    if not path.name.endswith(SUFFIXES):
        raise BadInput(f"trajectories are written as {', '.join(SUFFIXES)}, not {path.name!r}")
    if path.suffix == ".parquet":
        _pyarrow()


def load_trajectories(path: Path) -> Trajectories:
    """Inverse of `save_trajectories`.

    Raises:
        BadInput: the file is damaged, inconsistent, or of another format or version.
    """
    return trajectories_from(_read_parquet(path) if path.suffix == ".parquet" else read_json(path), path)


def load(path: Path) -> Trajectories | Report:
    """The content of a file: trajectories, or the report of `anyorder evaluate --json`.

    Raises:
        BadInput: neither.
    """
    if path.suffix == ".parquet":
        return load_trajectories(path)
    values = read_json(path)
    if isinstance(values, dict) and {"results", "comparisons", "meta"} <= values.keys():
        return report_from(values, path)
    if isinstance(values, dict) and {"points", "curves"} <= values.keys():
        raise BadInput(f"{path} is a report of `anyorder pareto`, without trajectories: `anyorder plot pareto` draws it")
    if isinstance(values, dict) and {"results", "meta"} == values.keys():
        raise BadInput(f"{path} holds Pass@N: `anyorder evaluate --draws` draws it with --plot, and it holds no trajectories")
    return trajectories_from(values, path)


def load_fronts(path: Path) -> Fronts | None:
    """The report of `anyorder pareto --json`; None if the file is something else.

    Raises:
        BadInput: such a report that is damaged.
    """
    values = read_json(path) if path.suffix == ".json" else None
    if not isinstance(values, dict) or not {"points", "curves"} <= values.keys():
        return None
    try:
        return Fronts.from_json(values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path} holds no report of `anyorder pareto --json`: {first_line(error)}") from error


def join(parts: list[tuple[Path, Trajectories]]) -> Trajectories:
    """Join the runs of several files.

    Raises:
        BadInput: the files are about different problems, or two hold a run of one name.
    """
    first_path, first = parts[0]
    if len(parts) == 1:
        return first
    names: dict[str, Path] = {}
    for path, part in parts:
        if (part.drawing, part.mask, part.hidden, part.problems) != (first.drawing, first.mask, first.hidden, first.problems):
            raise BadInput(f"{first_path} and {path} hold different problems: orders are compared on the same ones")
        for run in part.runs:
            if run.name in names:
                raise BadInput(f"{names[run.name]} and {path} both hold {run.name}: leave one of them out")
            names[run.name] = path
    texts = {token: text for _, part in parts for token, text in part.texts.items()}
    runs = [run for _, part in parts for run in part.runs]
    return first.model_copy(update={"texts": texts, "runs": runs})


def trajectories_from(values: Any, path: Path) -> Trajectories:
    """Checked trajectories from plain values; `path` names them in errors."""
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise BadInput(f"{path} holds no trajectories: write them with `anyorder evaluate --trajectories FILE`")
    if values.get("version") != VERSION:
        raise BadInput(
            f"{path} has version {values.get('version')!r} of the format; this anyorder reads version {VERSION}: "
            "record it again with `anyorder evaluate --trajectories FILE`"
        )
    try:
        return Trajectories.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise BadInput(
            f"{path} is damaged: {where + ': ' if where else ''}{fault['msg'].removeprefix('Value error, ')}"
        ) from error


def report_from(values: dict[str, Any], path: Path) -> Report:
    """A report from plain values, without the outcomes of single instances; `path` names it in errors."""
    nothing = np.array([])
    try:
        results = [Result(**{**r, **_typed(r)}, correct=nothing, cells=nothing) for r in values["results"]]
        comparisons = [Comparison(**{**c, "ci95": Interval(*_numbers(c["ci95"]))}) for c in values["comparisons"]]
        if not results or not isinstance(values["meta"], dict):
            raise ValueError("there are no results in it")
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise BadInput(f"{path} holds no report of `anyorder evaluate --json`: {first_line(error)}") from error
    return Report(results, comparisons, values["meta"])


def _typed(result: dict[str, Any]) -> dict[str, Any]:
    """The fields of a result that are tuples, and the numbers that every one has."""
    cells = result["cell_ci95"]
    numbers: dict[str, Any] = {name: float(result[name]) for name in ("nfe", "instance_accuracy")}
    return numbers | {
        "ci95": Interval(*_numbers(result["ci95"])),
        "cell_ci95": None if cells is None else Interval(*_numbers(cells)),
        "by_difficulty": {name: (int(n), float(a)) for name, (n, a) in result["by_difficulty"].items()},
        "measures": {n: (mean, low, high) for n, found in result["measures"].items() for mean, low, high in [_numbers(found)]},
    }


def _numbers(values: list[float | None]) -> list[float]:
    """Numbers of JSON, which has null for those that are not finite."""
    return [math.nan if value is None else float(value) for value in values]


def report_of(trajectories: Trajectories) -> Report:
    """The accuracies and paired comparisons of the runs of a file, as far as trajectories tell."""
    results = []
    for run in trajectories.runs:
        correct = np.array([decode.correct for decode in run.decodes])
        cells = np.array([np.nan if d.cell_accuracy is None else d.cell_accuracy for d in run.decodes], dtype=float)
        difficulty = np.array([str(problem.labels.get("difficulty", "")) for problem in trajectories.problems])
        exact = [decode.tokens == p.solution for decode, p in zip(run.decodes, trajectories.problems, strict=True)]
        results.append(
            Result(
                order=run.order,
                kind=run.kind,
                steps=run.steps,
                noise=run.noise,
                anneal=run.anneal,
                instances=len(correct),
                instance_accuracy=float(correct.mean()),
                cell_accuracy=None if np.isnan(cells).any() else float(cells.mean()),
                cell_ci95=None if np.isnan(cells).any() else share_interval(cells),
                exact_match=None if any(p.solution is None for p in trajectories.problems) else float(np.mean(exact)),
                ci95=wilson(int(correct.sum()), len(correct)),
                nfe=float(np.mean([decode.nfe for decode in run.decodes])),
                remasked=float(np.mean([sum(len(step.remasked) for step in decode.steps) for decode in run.decodes])),
                seconds=0.0,
                order_diversity=None,
                by_difficulty={
                    str(label): (int((difficulty == label).sum()), float(correct[difficulty == label].mean()))
                    for label in np.unique(difficulty[difficulty != ""])
                },
                measures={},
                correct=correct,
                cells=cells,
            )
        )
    metric = str(trajectories.about.get("main_metric", "instance_correct"))
    return Report(results, compare_all(results, "best", metric), trajectories.about)


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise BadInput("Parquet needs: pip install 'anyorder[parquet]'; or name the file .json.gz") from error
    return pyarrow


def _write_parquet(values: dict[str, Any], path: Path) -> None:
    """One row per decode with the number of its run; everything else is JSON in the metadata of the schema."""
    pyarrow = _pyarrow()
    rows = [{"run": number, **decode} for number, run in enumerate(values["runs"]) for decode in run["decodes"]]
    runs = [{name: value for name, value in run.items() if name != "decodes"} for run in values["runs"]]
    table = pyarrow.Table.from_pylist(rows)
    table = table.replace_schema_metadata({_HEADER: dump_json({**values, "runs": runs})})
    write_atomically(path, lambda temporary: pyarrow.parquet.write_table(table, temporary, compression="zstd"))


def _read_parquet(path: Path) -> Any:
    pyarrow = _pyarrow()
    try:
        table = pyarrow.parquet.read_table(path)
        values = parse_json((table.schema.metadata or {})[_HEADER])
        for run in values["runs"]:
            run["decodes"] = []
        for row in table.to_pylist():
            values["runs"][row.pop("run")]["decodes"].append(row)
    except FileNotFoundError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise BadInput(f"{path} holds no trajectories in Parquet: {first_line(error)}") from error
    return values
