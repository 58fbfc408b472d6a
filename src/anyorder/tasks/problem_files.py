"""What files of problems have in common: rows of JSON or CSV, lines of text, and what becomes of a problem that cannot be read.

A layout is told by its content, not by the name of the file:

    JSON lines      the first line begins with `{`
    a JSON list     the first line begins with `[`
    CSV             the first line names one of the task's columns, separated by commas, semicolons or tabs
"""

import csv
import inspect
import io
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from anyorder.errors import BadInput, counted
from anyorder.files import json_of, open_text, parse_json

if TYPE_CHECKING:
    from anyorder.tasks.base import Instances, Task

T = TypeVar("T")
Found = Iterator[tuple[str, Callable[[], T]]]
"""The place of each problem in its file, and a function that reads it."""

PROBLEM = ("puzzle", "puzzles", "quizzes", "quiz", "question", "problem", "input")
SOLUTION = ("solution", "solutions", "answer", "output")
"""Columns of problems and of solutions in public files, in whatever case; the first one that is there counts."""

TABLES = "JSON lines, a JSON list or CSV"
FIRST_LINES = 500
"""Of a file, from which the options of its task are read off."""

_LONGEST_HEADER = 10_000


@dataclass
class Unreadable:
    """What becomes of problems that cannot be read: the first is an error, or, with `skip`, all are left out and counted.

    Args:
        skip: leave them out.
        hint: what an error adds, such as the option that leaves them out.
    """

    skip: bool = False
    hint: str = ""
    count: int = 0
    first: str = ""

    @contextmanager
    def at(self, place: str = "") -> Iterator[None]:
        """Read one problem in the body of the `with`; `place` says where it stands, unless the body's errors do.

        Raises:
            BadInput: the body raised a ValueError, and it is not to be left out.
        """
        try:
            yield
        except ValueError as error:
            said = f"{place}: {error}" if place else str(error)
            if not self.skip:
                raise BadInput(said + self.hint) from error
            self.count += 1
            self.first = self.first or said

    def said(self) -> str:
        """What a user must know: how many were left out, and why the first."""
        return f"{self.count} left out because they cannot be read; the first: {self.first}" if self.count else ""


def collect(
    path: str | Path,
    problems: Iterable[tuple[str, Callable[[], T]]],
    limit: int | None,
    what: str,
    unreadable: Unreadable | None,
) -> list[T]:
    """The first `limit` problems that can be read, all by default; `what` names them in the error.

    Raises:
        BadInput: a problem cannot be read (the error says where) and is not to be left out, or there are none.
    """
    unreadable = unreadable or Unreadable()
    found: list[T] = []
    for place, read in problems:
        if limit is not None and len(found) >= limit:
            break
        with unreadable.at(f"{path}, {place}"):
            found.append(read())
    if not found:
        raise BadInput(f"{path} holds no {what}: {unreadable.said() or 'it is empty'}")
    return found


def load_problems(
    task: "Task", path: Path, limit: int | None = None, skip_unreadable: bool = False, hint: str = ""
) -> "Instances":
    """Problems of a file. Where those that cannot be read are left out, standard error says how many, and why the first.

    Args:
        task: reads them.
        path: of the file.
        limit: the first so many; all by default.
        skip_unreadable: leave out problems that cannot be read.
        hint: how a user asks for that, for errors.

    Raises:
        BadInput: a problem cannot be read and is not to be left out, none can be read, or the task cannot leave out any.
    """
    if "unreadable" not in inspect.signature(task.load).parameters:  # a task of another package
        if skip_unreadable:
            raise BadInput(f"the task {task.name} leaves out no problems that cannot be read: its `load` takes no `unreadable`")
        return task.load(path, limit)
    unreadable = Unreadable(skip_unreadable, f" ({hint})" if hint else "")
    instances = task.load(path, limit, unreadable)
    if unreadable.count:
        print(f"{path.name}: {unreadable.said()}", file=sys.stderr)
    return instances


# ---- lines of text ------------------------------------------------------------------------------------------------------


def read_lines(
    path: str | Path, limit: int | None, parse: Callable[[str], T], what: str, unreadable: Unreadable | None = None
) -> list[T]:
    """What `parse` makes of each line that is not blank, the first `limit` of them; `what` names the problems in the error.

    Raises:
        BadInput: a line cannot be parsed (the error says which) and is not to be left out, or there are none.
    """
    with open_text(path) as file:
        return collect(path, each_line(file, parse), limit, what, unreadable)


def each_line(file: Iterable[str], parse: Callable[[str], T]) -> Found[T]:
    """`parse` for each line that is not blank."""
    for number, line in enumerate(file, start=1):
        if line.strip():
            yield f"line {number}", partial(parse, line)


# ---- rows with columns --------------------------------------------------------------------------------------------------


def read_rows(
    path: str | Path,
    limit: int | None,
    parse: Callable[[Mapping[str, Any]], T],
    what: str,
    columns: Sequence[str],
    unreadable: Unreadable | None = None,
) -> list[T]:
    """What `parse` makes of each row, values by column in lower case, the first `limit` of them.

    Args:
        what: names the problems in errors.
        columns: that may hold the problem; a CSV file must have one of them.

    Raises:
        BadInput: another layout, a row that cannot be parsed (the error says which) and is not to be left out, or none at all.
    """
    with open_text(path, newline="") as file:
        rows = table_rows(file, columns)
        if rows is None:
            wanted = f"{TABLES} with a column {one_of(columns)}"
            raise BadInput(f"{path}: {what} are read from {wanted}; this is another layout")
        return collect(path, ((place, partial(_then, read, parse)) for place, read in rows), limit, what, unreadable)


def _then(read: Callable[[], Any], parse: Callable[[Any], T]) -> T:
    return parse(read())


def table_rows(file: TextIO, columns: Sequence[str]) -> Found[Mapping[str, Any]] | None:
    """The rows of a file, by the layouts above; None, and the file at its beginning again, if it has another layout.

    Args:
        file: opened with `newline=""`.
        columns: that may hold the problem.
    """
    before, head = first_line(file)
    for starts, rows in _LAYOUTS:
        if starts(head, columns):
            return rows(itertools.chain([head], file), before, str(getattr(file, "name", "")))
    file.seek(0)
    return iter(()) if not head else None


def first_row(first_lines: Callable[[], str], columns: Sequence[str]) -> Mapping[str, Any]:
    """The first row of a table that is read line by line; {} if it is none, or begins with a list that is longer than that."""
    lines = [f"{line.rstrip()}\n" for line in itertools.islice(iter(first_lines, ""), FIRST_LINES)]
    try:
        _, read = next(table_rows(io.StringIO("".join(lines), newline=""), columns) or iter(()))
        return read()
    except (StopIteration, ValueError):
        return {}


def first_line(file: Iterable[str]) -> tuple[int, str]:
    """The first line that is neither blank nor a comment, after how many others; "" if there is none."""
    return next(((n, line) for n, line in enumerate(file) if line.strip() and not line.startswith("#")), (0, ""))


def opening(first_lines: Callable[[], str]) -> str:
    """The first line of a file that is neither blank nor a comment, read line by line; of a JSON list, the first lines."""
    lines = itertools.islice(iter(first_lines, ""), FIRST_LINES)
    line = first_line(lines)[1]
    return line + "".join(lines) if line.startswith("[") else line


def one_of(columns: Sequence[str]) -> str:
    """Names for a message: a, b or c."""
    return " or ".join([", ".join(columns[:-1]), columns[-1]] if len(columns) > 1 else columns)


def json_line(**columns: Any) -> str:
    """A row as a line of JSON, without the columns that are None."""
    return json.dumps({name: value for name, value in columns.items() if value is not None})


def pick(row: Mapping[str, Any], columns: Sequence[str]) -> Any:
    """The value of the first of these columns that a row has and does not leave empty; None if it has none."""
    return next((row[name] for name in columns if row.get(name) not in (None, "")), None)


def _json_lines(lines: Iterable[str], before: int, _: str) -> Found[Mapping[str, Any]]:
    for number, line in enumerate(lines, start=before + 1):
        if line.strip():
            yield f"line {number}", partial(_json_object, line)


def _json_object(line: str) -> Mapping[str, Any]:
    try:
        value = parse_json(line)
    except ValueError as error:
        raise BadInput(f"no JSON: {error}") from error
    return _by_column(value)


def _json_list(lines: Iterable[str], _: int, name: str) -> Found[Mapping[str, Any]]:
    for number, value in enumerate(json_of("".join(lines), name), start=1):
        yield f"row {number}", partial(_by_column, value)


def _by_column(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadInput("expected an object with columns by name")
    return {name.strip().lower(): content for name, content in value.items()}


def _csv(lines: Iterable[str], before: int, _: str) -> Found[Mapping[str, Any]]:
    lines = iter(lines)
    head = next(lines)
    names, rows = _names(head), csv.reader(lines, delimiter=delimiter_of(head))
    for row in rows:
        if any(row):
            yield f"line {before + 1 + rows.line_num}", partial(_named, names, row)


def _named(names: Sequence[str], row: Sequence[str]) -> Mapping[str, Any]:
    check_width(names, row)
    return dict(zip(names, row, strict=False))


def check_width(names: Sequence[str], row: Sequence[str], what: str = "field") -> None:
    """Refuse a row of a CSV file with more fields than the header names; `what` stands in them.

    Raises:
        BadInput: it has more, and they are not empty.
    """
    if any(field.strip() for field in row[len(names) :]):
        raise BadInput(
            f"{counted(len(row), 'field')} where the header names {len(names)}: put a {what} with separators in quotes"
        )


def delimiter_of(head: str) -> str:
    """What stands between the columns that the first line of a CSV file names."""
    return max(",;\t", key=head.count)


def _names(head: str) -> list[str]:
    return [name.strip().lower() for name in next(csv.reader([head[:_LONGEST_HEADER]], delimiter=delimiter_of(head)), [])]


_Rows = Callable[[Iterable[str], int, str], Found[Mapping[str, Any]]]
_LAYOUTS: tuple[tuple[Callable[[str, Sequence[str]], Any], _Rows], ...] = (
    (lambda head, _: head.startswith("{"), _json_lines),
    (lambda head, _: re.match(r"\[\s*([{\[\]\"\d-]|$)", head), _json_list),
    (lambda head, columns: set(_names(head)) & set(columns), _csv),
)
