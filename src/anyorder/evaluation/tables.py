"""Reports as tables for a terminal and for Markdown."""

from rich.table import Table

from anyorder.errors import counted
from anyorder.evaluation.calibration import Calibration
from anyorder.evaluation.results import Cell, Comparison, Report, Result

_DIVERSITY = "order diversity"


def metric_name(report: Report) -> str:
    """The name of the main metric, see `Task.main_metric`."""
    return headers_of(report)[1]


def headers_of(report: Report) -> list[str]:
    """Column heads, with the main metric first, see `Task.main_metric`."""
    metrics = [str(report.meta.get("correct_means", "instance accuracy")), "cell accuracy"]
    main, other = metrics[::-1] if report.main_metric == "cell_accuracy" else metrics
    return ["order", main, "95 % interval", other, "NFE", "difference", "p", "oracle gap closed"]


def rows_of(report: Report, cell: Cell) -> list[tuple[str, ...]]:
    """One row of text per order at this number of steps and scale of noise."""
    compared = {c.order: c for c in report.comparisons if c.cell == cell}
    references = {c.against for c in compared.values()}
    return [
        _row(result, compared.get(result.order), report.main_metric, "reference" if result.order in references else "")
        for result in results_of(report, cell)
    ]


def _row(result: Result, comparison: Comparison | None, metric: str, otherwise: str) -> tuple[str, ...]:
    value, (low, high) = result.main(metric)
    other = result.instance_accuracy if metric == "cell_accuracy" else result.cell_accuracy
    row = (
        result.order,
        f"{100 * value:.1f} %",
        f"{100 * low:.1f} - {100 * high:.1f}",
        "" if other is None else f"{100 * other:.1f} %",
        f"{result.nfe:.1f}",
    )
    if comparison is None:
        return (*row, otherwise, "", "")
    closed = comparison.oracle_gap_closed
    return (
        *row,
        f"{100 * comparison.difference:+.1f}",
        format_p(comparison.p_value),
        "" if closed is None else f"{100 * closed:.0f} %",
    )


def p_text(p: float) -> str:
    """`p = 0.03`, or `p < 1e-10`."""
    found = format_p(p)
    return f"p {found}" if found.startswith("<") else f"p = {found}"


def format_p(p: float) -> str:
    """A p-value to two digits, or a bound."""
    return "< 1e-10" if p < 1e-10 else f"{p:.2g}"


def cells_of(report: Report) -> list[Cell]:
    """The steps and noises of a report, in order."""
    return list(dict.fromkeys(r.cell for r in report.results))


def results_of(report: Report, cell: Cell) -> list[Result]:
    """The results of one table."""
    return [r for r in report.results if r.cell == cell]


def difficulty_rows(results: list[Result]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of instance accuracy by difficulty; no rows when the instances have no such labels."""
    found = results[0].by_difficulty
    labels = list(found)  # `evaluate` orders them from easy to hard
    header = ["order", *(f"{name} ({found[name][0]})" for name in labels)]
    rows = [[r.order, *(f"{100 * r.by_difficulty[name][1]:.1f} %" for name in labels)] for r in results] if labels else []
    return header, rows


def measure_rows(cell: list[Result]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the measures of the samples."""
    names = list(dict.fromkeys(name for r in cell for name in r.measures))
    rows = []
    for result in cell:
        found = [result.measures.get(name, (float("nan"),) * 3) for name in names]
        rows.append([result.order, *("" if m != m else f"{m:.3g} ({low:.3g} to {high:.3g})" for m, low, high in found)])
    return ["order", *names], rows


Grid = tuple[str, list[str], list[list[str]]]
"""Title, header and rows of a table."""


def grids_of(report: Report) -> list[Grid]:
    """Every table of a report."""
    instances = report.results[0].instances
    grids = []
    several = any(r.exact_match is not None and r.exact_match < r.instance_accuracy for r in report.results)
    for cell in cells_of(report):
        title = f"{cell}, {counted(instances, 'instance')}{_drawn(report)}"
        table = [list(row) for row in rows_of(report, cell)]
        results = results_of(report, cell)
        diversity = [r.order_diversity for r in results]
        extra = [_DIVERSITY] if cell.noise and None not in diversity else []
        for row, value in zip(table, diversity, strict=True):
            row += [f"{value:.3f}"] if extra else []
        if several:
            ceiling = report.meta.get("exact_match_ceiling")
            extra.append("exact match" + ("" if ceiling is None else f" (ceiling {100 * ceiling:.1f} %)"))
            for row, result in zip(table, results, strict=True):
                row.append("" if result.exact_match is None else f"{100 * result.exact_match:.1f} %")
        grids.append((title, [*headers_of(report), *extra], table))
        if any(r.measures for r in results):
            header, rows = measure_rows(results)
            grids.append((f"{title}: means over the samples, 95 % intervals", header, rows))
        header, rows = difficulty_rows(results)
        if rows:
            grids.append((f"{title}: instance accuracy by difficulty", header, rows))
    return grids


def _drawn(report: Report) -> str:
    """How all samplers of a report draw tokens, where they do, for a title."""
    rules = {str(about["token"]) for about in report.meta.get("samplers", {}).values()}
    return f", tokens {rules.pop()}" if len(rules) == 1 and rules != {"argmax"} else ""


def rich_tables(report: Report) -> list[Table]:
    """One table per number of steps and scale of noise, and one by difficulty if that is known."""
    return [rich_table(*grid) for grid in grids_of(report)]


def rich_table(title: str, header: list[str], rows: list[list[str]]) -> Table:
    """One table for a terminal; the first column is text, all others are numbers."""
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    return table


def markdown(report: Report) -> str:
    """The same as Markdown."""
    return markdown_grids(grids_of(report))


def markdown_grids(grids: list[Grid]) -> str:
    """Tables as Markdown, each under its title."""
    return "\n".join(f"**{title}**\n\n{markdown_table(header, rows)}" for title, header, rows in grids)


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """One table as Markdown, with a line feed at its end."""
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def calibration_summary(title: str, calibration: Calibration) -> str:
    """Expected calibration error and overconfidence in one line."""
    return (
        f"{title}: expected calibration error {calibration.error:.3f}, overconfidence {calibration.overconfidence:+.3f} "
        f"({calibration.count} predictions)"
    )


def calibration_table(calibration: Calibration) -> Table:
    """A reliability table."""
    table = Table()
    for name in ("confidence", "predictions", "mean confidence", "share right"):
        table.add_column(name, justify="right")
    for b in calibration.bins:
        table.add_row(f"{b.low:.1f} - {b.high:.1f}", str(b.count), f"{b.confidence:.3f}", f"{b.accuracy:.3f}")
    return table
