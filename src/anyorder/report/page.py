"""The playback page: one HTML file that shows decodings step by step, with no server and nothing to download.

The script and the style sheet in `page/` are copied into the file. Trajectories are stored as gzipped JSON in base64, one block
for each run, which the page unpacks when it is needed. A content security policy admits this script and this style sheet by
their hashes, and no connection. Text is inserted as text, so markup in a token, a name or a file has no effect.
"""

import base64
import gzip
import hashlib
import html
import re
from importlib import resources
from typing import Any

from anyorder import __version__
from anyorder.errors import BadInput, counted
from anyorder.evaluation.results import Cell, Report, Result
from anyorder.evaluation.samplers import noise_name
from anyorder.evaluation.saved import report_of
from anyorder.evaluation.tables import format_p, grids_of, metric_name
from anyorder.evaluation.trajectories import Problem, Run, Trajectories
from anyorder.files import dump_json

_SCRIPTS = ("dom.js", "data.js", "board.js", "column.js", "plot.js", "main.js")
_NOTHING_ELSE = "default-src 'none'; base-uri 'none'; form-action 'none'"
_ONE_DIFFICULTY = 2
"""Columns of a table that says nothing new: order, and accuracy at the only difficulty there is."""
_FACTS = ("task", "data", "denoiser", "seed")


def build_page(trajectories: Trajectories | None, report: Report | None = None, title: str = "") -> str:
    """The page as HTML.

    Args:
        trajectories: the decodings to play back; None for a page with results only.
        report: the results to show; by default those of the trajectories.
        title: title of the page; by default it says what was compared.

    Raises:
        BadInput: there is nothing to show.
    """
    if trajectories is not None and (not trajectories.runs or not trajectories.problems):
        raise BadInput("these trajectories hold no problems or no runs: there is nothing to show")
    if report is None:
        if trajectories is None:
            raise BadInput("a page shows trajectories, a report, or both: neither was given")
        report = report_of(trajectories)
    about = {**(trajectories.about if trajectories else {}), **report.meta}
    style = _asset("page.css")
    script = "\n".join(_asset(name) for name in _SCRIPTS)
    runs = trajectories.model_dump(mode="json", include={"runs"})["runs"] if trajectories else []
    blobs = [_blob("page-data", _page_data(trajectories, report, about))]
    blobs += [_blob(f"run-{number}", run["decodes"]) for number, run in enumerate(runs)]
    parts = {
        "title": html.escape(title or _title(report, about)),
        "facts": html.escape(" · ".join(_facts(trajectories, report, about))),
        "generator": f"anyorder {__version__}",
        "policy": f"{_NOTHING_ELSE}; script-src {_hash(script)}; style-src {_hash(style)}",
        "style": style,
        "script": script,
        "headline": "".join(f"<p>{html.escape(sentence)}</p>" for sentence in headlines(report)),
        "tables": "".join(_table(*grid) for grid in grids_of(report) if len(grid[1]) > _ONE_DIFFICULTY),
        "blobs": "\n".join(blobs),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _asset("page.html"))


def headlines(report: Report) -> list[str]:
    """One sentence on the results for each budget of steps and scale of noise."""
    sentences = []
    for result in report.results:
        cell = [r for r in report.results if r.cell == result.cell and r.kind != "oracle"]
        if not cell or result is not max(cell, key=lambda r: r.main(report.main_metric)[0]):
            continue
        sentence = f"At {result.cell}, {_accuracy(result, report)}"
        found = next((c for c in report.comparisons if (c.order, c.cell) == (result.order, result.cell)), None)
        base = next((r for r in cell if found and r.order == found.against), None)
        if found and base:
            sentence += f"; {_accuracy(base, report)} (p: {format_p(found.p_value)})"
        sentences.append(f"{sentence}.")
    return sentences


def _accuracy(result: Result, report: Report) -> str:
    value, (low, high) = result.main(report.main_metric)
    share = f"{100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    means = str(report.meta.get("correct_means", "instance accuracy"))
    if report.main_metric == "cell_accuracy":
        what = f"recovers {share} of the tokens"
    else:
        what = f"solves {share}" if means == "instance accuracy" else f"makes {share} {means}"
    return f"{result.order} {what} with {result.nfe:.1f} forward passes"


def _title(report: Report, about: dict[str, Any]) -> str:
    orders = len({result.order for result in report.results})
    count = report.results[0].instances
    return f"{str(about.get('task', 'Decoding')).capitalize()}: {counted(orders, 'order')} on {counted(count, 'problem')}"


def _facts(trajectories: Trajectories | None, report: Report, about: dict[str, Any]) -> list[str]:
    facts = [f"{name} {about[name]}" for name in _FACTS if name in about]
    if trajectories and len(trajectories.problems) != report.results[0].instances:
        facts.append(f"playback of {len(trajectories.problems)} of them")
    return facts


def _page_data(trajectories: Trajectories | None, report: Report, about: dict[str, Any]) -> dict[str, Any]:
    """The data that the page needs when it opens."""
    correct_means = str(about.get("correct_means", "instance accuracy"))
    sequences = bool(trajectories and trajectories.drawing.symbols)
    data: dict[str, Any] = {
        "runs": [],
        "results": [
            {"order": r.order, "noise": noise_name(r.cell.noise, r.cell.anneal), "nfe": r.nfe,
             "accuracy": r.main(report.main_metric)[0], "ci95": list(r.main(report.main_metric)[1]), "kind": r.kind}
            for r in report.results
        ],
        "words": {
            "accuracy": metric_name(report).capitalize(),
            "right": correct_means if sequences else "solved",
            "wrong": f"not {correct_means}" if sequences else "not solved",
            "bad": "unlike the original" if sequences else "wrong",
            "first": "First token unlike the original" if sequences else "First wrong commitment",
            "none": "Every token is as in the original" if sequences else "No wrong commitment",
            "notes": "Clauses" if about.get("task") == "sat" else "Clues",
        },
    }  # fmt: skip
    if trajectories is None:
        return data
    plain = trajectories.model_dump(mode="json", include={"drawing", "mask", "hidden", "texts", "problems"})
    runs = [
        {"order": run.order, "budget": run.name.removeprefix(f"{run.order}, "),
         "correct": "".join(str(int(decode.correct)) for decode in run.decodes)}
        for run in trajectories.runs
    ]  # fmt: skip
    labels = [_label(problem) for problem in trajectories.problems]
    return {**data, **plain, "runs": runs, "labels": labels, "opening": _opening(trajectories)}


def _label(problem: Problem) -> str:
    """What is known of a problem, in a few words: how hard it is, and the rest."""
    known = sorted(problem.labels.items(), key=lambda item: item[0] != "difficulty")
    return ", ".join(str(value) if name == "difficulty" else f"{name} {value}" for name, value in known)


def _opening(trajectories: Trajectories) -> dict[str, Any]:
    """Where to start: the most accurate order that does not read the solution beside a heuristic of the same budget, on the
    first problem that they differ on."""
    runs = list(enumerate(trajectories.runs))
    solved = {number: [decode.correct for decode in run.decodes] for number, run in runs}
    honest = [number for number, run in runs if run.kind != "oracle"] or [0]
    first = max(honest, key=lambda number: sum(solved[number]))
    same = [n for n, run in runs if n != first and _budget(run) == _budget(trajectories.runs[first])]
    others = sorted(same, key=lambda n: (trajectories.runs[n].order != "confidence", trajectories.runs[n].kind == "oracle"))
    second = [*others, *(n for n, _ in runs if n != first)][:1]
    pairs = zip(solved[first], solved[second[0]] if second else solved[first], strict=True)
    telling = [number for number, (a, b) in enumerate(pairs) if a and not b]
    return {"runs": [first, *second], "problem": telling[0] if telling else 0}


def _budget(run: Run) -> Cell:
    return Cell(run.steps, run.noise, run.anneal)


def _table(title: str, header: list[str], rows: list[list[str]]) -> str:
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in header)
    body = ""
    for order, *cells in rows:
        values = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        body += f'<tr><th scope="row">{html.escape(order)}</th>{values}</tr>'
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{html.escape(title)}"><table>'
        f"<caption>{html.escape(title)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _blob(name: str, value: Any) -> str:
    """JSON, gzipped, in base64: no character of it means anything to a browser."""
    data = gzip.compress(dump_json(value, separators=(",", ":")).encode(), mtime=0)
    return f'<script type="text/plain" id="{name}">{base64.b64encode(data).decode()}</script>'


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return resources.files("anyorder.report").joinpath("page", name).read_text(encoding="utf-8")
