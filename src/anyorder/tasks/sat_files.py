"""Formulas as people write them: DIMACS CNF, as solvers read it, and text such as `1,-2,3/2,3,-4`, in lines or in tables."""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, TextIO

from anyorder.errors import BadInput, shorten
from anyorder.tasks.problem_files import PROBLEM, SOLUTION, TABLES, Found, each_line, first_line, one_of, pick, table_rows

COLUMNS = ("clauses", "formula", *PROBLEM)
_HEADER = re.compile(r"p\s+cnf\s+(\d{1,9})\s+(\d{1,9})\s*")
_DIMACS = re.compile(r"(c|p)(\s|$)")


class Formula(NamedTuple):
    """A formula of a file.

    source: text, or a list of lists of signed literals.
    assignment: text, None if the file has none.
    variables: how many; None if the file does not say.
    """

    source: Any
    assignment: Any = None
    variables: int | None = None


def layouts() -> str:
    """The layouts that are read, for errors."""
    return (
        f"formulas are read from DIMACS CNF, from lines such as 1,-2,3/2,3,-4, and from {TABLES} with a column "
        f"{one_of(COLUMNS)}"
    )


def read_formulas(file: TextIO) -> Found[Formula]:
    """The formulas of a file opened with `newline=""`, by the layout that it has."""
    rows = table_rows(file, COLUMNS)
    if rows is not None:
        return ((place, partial(_of_row, read)) for place, read in rows)
    before, head = first_line(file)
    lines = chain([""] * before, [head], file)
    return _dimacs(lines) if _DIMACS.match(head) else each_line(lines, _of_line)


def size_of(lines: Iterable[str]) -> tuple[int, int] | None:
    """Variables and clauses by the header of DIMACS CNF; None if there is none."""
    header = next((match for line in lines if (match := _HEADER.fullmatch(line))), None)
    return None if header is None else (int(header[1]), int(header[2]))


def _of_row(read: Callable[[], Mapping[str, Any]]) -> Formula:
    row = read()
    source, variables = pick(row, COLUMNS), pick(row, ("n", "variables"))
    if source is None:
        raise BadInput(f"there is no formula: {layouts()}")
    if variables is not None and (not isinstance(variables, int) or isinstance(variables, bool)):
        raise BadInput(f"the number of variables {shorten(str(variables))!r} is no whole number")
    return Formula(source, pick(row, SOLUTION), variables)


def _of_line(line: str) -> Formula:
    if "," not in line:
        raise BadInput(f"{shorten(line.strip())!r} is no formula: {layouts()}")
    return Formula(line.strip())


def _dimacs(lines: Iterable[str]) -> Found[Formula]:
    """Each formula of DIMACS CNF: comments, a header `p cnf VARIABLES CLAUSES`, and clauses that end in 0, over any lines; what
    follows a `%` is left out, as in SATLIB. A further header begins another formula."""
    header, begins, numbers, ended = "", 0, list[str](), False
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0] == "c":
            continue
        if words[0] == "p":
            if begins:
                yield f"line {begins}", partial(_of_clauses, header, numbers)
            header, begins, numbers, ended = line.strip(), number, [], False
        ended = ended or words[0] == "%"
        if not ended and words[0] != "p":
            begins = begins or number
            numbers += words
    if begins:
        yield f"line {begins}", partial(_of_clauses, header, numbers)


def _of_clauses(header: str, numbers: list[str]) -> Formula:
    size = size_of([header])
    if size is None:
        raise BadInput(f"{shorten(header or numbers[0])!r} is no header of DIMACS CNF: expected p cnf VARIABLES CLAUSES")
    clauses: list[list[int]] = [[]]
    for word in numbers:
        if not re.fullmatch(r"[-+]?\d{1,9}", word, re.ASCII):
            raise BadInput(
                f"{shorten(word)!r} is no literal of DIMACS CNF: expected a whole number, or 0 at the end of a clause"
            )
        if int(word):
            clauses[-1].append(int(word))
        else:
            clauses.append([])
    found = clauses if clauses[-1] else clauses[:-1]
    if len(found) != size[1]:
        raise BadInput(f"the header announces {size[1]} clauses; there are {len(found)}")
    return Formula(found, None, size[0])
