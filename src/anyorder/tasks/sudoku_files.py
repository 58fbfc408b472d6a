"""Sudoku as people write it: in lines, in grids, in tables, and in several alphabets.

A cell is a sign: a digit or letter, or a number of two digits. Between cells, white space and `| , ;` mean nothing, and nor do
lines such as `---+---+---`. What stands after a `#` is a comment.
"""

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any, TextIO

import numpy as np

from anyorder.errors import BadInput, shorten
from anyorder.tasks.problem_files import PROBLEM, SOLUTION, TABLES, Found, one_of, pick, table_rows

BLANKS = "0._*"
_COLUMNS = one_of(PROBLEM)
_EXAMINED = 10  # grids from which their size is told
_BETWEEN = re.compile(r"[\s,;|]+")
_TITLE = re.compile(r"\[?(grid|puzzle|sudoku)\b[\s:.]*\d*\]?", re.IGNORECASE)


@dataclass(frozen=True)
class Grid:
    """A puzzle of a file: its signs, those of its solution if the file has one, and how hard it is said to be."""

    signs: Sequence[str]
    solution: Sequence[str] | None = None
    rating: float | None = None


# ---- alphabets ----------------------------------------------------------------------------------------------------------


def alphabets(side: int) -> dict[str, dict[str, int]]:
    """The digit of each sign, by the name of the alphabet: 1-9 and A-I; for 16x16 1-G, A-P, 0-F, 1-16 and 0-15."""
    spelled: list[Sequence[str]] = ["123456789ABCDEFG", "ABCDEFGHIJKLMNOP"]
    if side == 16:
        spelled += ["0123456789ABCDEF", [str(n) for n in range(1, 17)], [str(n) for n in range(16)]]
    return {f"{s[0]}-{s[side - 1]}": {sign: digit for digit, sign in enumerate(s[:side], start=1)} for s in spelled}


def alphabet_of(grids: Sequence[Grid], side: int) -> dict[str, int]:
    """The alphabet in which most of the grids are written.

    A 0 is a digit only in a file of 16x16 that writes blanks otherwise, as `.` for example.

    Raises:
        BadInput: several alphabets would do, and the grids would be read differently.
    """
    known = alphabets(side)
    used = [{sign.upper() for sign in (*set(grid.signs), *set(grid.solution or ()))} for grid in grids]
    every: set[str] = set().union(*used)
    dotted = bool(every & set(BLANKS) - {"0"})
    fits = {name: [_fits(signs, digits, dotted) for signs in used] for name, digits in known.items()}
    best = [name for name, fitting in fits.items() if sum(fitting) == max(map(sum, fits.values()))]
    if "0" in every and dotted:
        best = [name for name in best if "0" in known[name]] or best
    first = known[best[0]]
    for other in best[1:]:
        both = (signs for signs, one, two in zip(used, fits[best[0]], fits[other], strict=True) if one and two)
        if any(first.get(sign) != known[other].get(sign) for signs in both for sign in signs):
            raise BadInput(
                f"the digits may be {best[0]} or {other}, since no sign occurs that only one of them has: say which with the "
                f"option digits of the task (--task-option digits={best[0]})"
            )
    return first


def _fits(signs: set[str], digits: Mapping[str, int], dotted: bool) -> bool:
    """Whether an alphabet has all these signs. One with a digit 0 needs another sign for a blank."""
    return signs <= digits.keys() | set(BLANKS) and (dotted or "0" not in digits or "0" not in signs)


def digits_of(signs: Sequence[str], digits: Mapping[str, int], side: int) -> np.ndarray:
    """Digits int8 (n*n,), 0 for a blank.

    Raises:
        BadInput: another number of signs, or one that is no digit.
    """
    if len(signs) != side**2:
        raise BadInput(f"a {side}x{side} puzzle has {side**2} characters; this one has {len(signs)}")
    blanks = [sign for sign in BLANKS if sign not in digits]
    table = dict.fromkeys(blanks, 0) | dict(digits)
    values = [table.get(sign.upper(), -1) for sign in signs]
    if -1 in values:
        at = values.index(-1)
        first, *_, last = digits
        raise BadInput(
            f"character {signs[at]!r} at row {at // side + 1}, column {at % side + 1} is no digit: "
            f"use {first}-{last}, and {' '.join(blanks)} for a blank"
        )
    return np.array(values, dtype=np.int8)


# ---- cells --------------------------------------------------------------------------------------------------------------


def signs_of(value: Any, side: int) -> Sequence[str]:
    """The signs of a puzzle as text of one or several lines, or as a list of cells or of rows.

    Raises:
        BadInput: it is neither.
    """
    if isinstance(value, list):
        return _joined([signs_of(part, side) if isinstance(part, list | str) else [_sign(part)] for part in value])
    if not isinstance(value, str):
        raise BadInput(f"the puzzle {shorten(str(value))!r} is neither a text nor a list")
    lines = (line.partition("#")[0].strip() for line in value.splitlines())
    return _split(" ".join(line for line in lines if line and not _is_rule(line)), (1, side**2))


def _sign(value: Any) -> str:
    if value is None:
        return "."
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise BadInput(f"the cell {shorten(str(value))!r} is neither a number nor a text")


def _split(text: str, counts: tuple[int, ...]) -> Sequence[str]:
    """The words of a text if there are so many cells, else its characters."""
    words = [word for word in _BETWEEN.split(text) if word]
    cells = len(words) in counts and any(len(word) > 1 for word in words) and all(len(word) <= 2 for word in words)
    return words if cells else "".join(words)


def _joined(rows: Sequence[Sequence[str]]) -> Sequence[str]:
    return "".join(chain(*rows)) if all(isinstance(row, str) for row in rows) else list(chain(*rows))


# ---- files --------------------------------------------------------------------------------------------------------------


def layouts(side: int) -> str:
    """The layouts that are read, for errors."""
    return (
        f"a file holds puzzles of {side**2} characters, one a line, or {side} lines of {side}, with 0 . _ or * for blanks; or "
        f"it is {TABLES} with a column {_COLUMNS}"
    )


def read_grids(file: TextIO, box: int) -> Found[Grid]:
    """The grids of a file opened with `newline=""`, by the layout that it has."""
    rows = table_rows(file, PROBLEM)
    if rows is None:
        return _text_grids(file, box)
    return ((place, partial(_grid_of_row, read, box * box)) for place, read in rows)


def box_of(text: str) -> int | None:
    """The box size of the grids that a file begins with; None if it is not clear."""
    for box in (3, 4, 2):
        with suppress(BadInput):  # the size is unknown, or the text ends within a table
            for _, read in islice(read_grids(io.StringIO(text, newline=""), box), _EXAMINED):
                with suppress(BadInput):
                    if _has_size(read().signs, box):
                        return box
    return None


def _has_size(signs: Sequence[str], box: int) -> bool:
    """Whether a grid has this box size. Sixteen lines with the digits of a 4x4 are as many grids of 4x4."""
    small = {*BLANKS, *"1234ABCDabcd"}
    return len(signs) == box**4 and not (box == 4 and set(signs) <= small)


def _grid_of_row(read: Callable[[], Mapping[str, Any]], side: int) -> Grid:
    row = read()
    puzzle, solution, rating = pick(row, PROBLEM), pick(row, SOLUTION), row.get("rating")
    if puzzle is None:
        raise BadInput(f"there is no puzzle: expected a column {_COLUMNS}")
    return Grid(
        signs_of(puzzle, side),
        None if solution is None else signs_of(solution, side),
        None if rating is None else _rating(rating),
    )


def _rating(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = np.nan
    if not np.isfinite(number):
        raise BadInput(f"the rating {shorten(str(value))!r} is no finite number")
    return number


def _text_grids(lines: Iterable[str], box: int) -> Found[Grid]:
    """Grids in lines of all cells, or row by row; blank lines stand between grids, or between all bands of a grid."""
    side = box * box
    rows: list[Sequence[str]] = []
    begins, gaps, lost = 0, 0, False

    def unfinished() -> tuple[str, Callable[[], Grid]]:
        return f"line {begins}", partial(_refuse, f"this grid has {len(rows)} rows; a {side}x{side} grid has {side}")

    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if (not text and "#" in line) or _is_rule(text):
            continue
        signs = _split(text, (side, side**2))
        if not text or _TITLE.fullmatch(text):
            lost, gaps = False, gaps + bool(rows)
            if rows and (text or len(rows) != gaps * box):
                yield unfinished()
                rows, gaps = [], 0
        elif lost:
            continue
        elif len(signs) == side**2 or _puzzles(text, side):
            if rows:
                yield unfinished()
                rows, gaps = [], 0
            yield f"line {number}", partial(_grid_of_line, text, side)
        elif len(signs) == side:
            begins = begins if rows else number
            rows.append(signs)
            if len(rows) == side:
                yield f"line {begins}", partial(Grid, _joined(rows))
                rows, gaps = [], 0
        else:
            yield f"line {number}", partial(_refuse, f"{shorten(text)!r} has {len(signs)} characters; {layouts(side)}")
            rows, gaps, lost = [], 0, bool(rows)
    if rows:
        yield unfinished()


def _is_rule(text: str) -> bool:
    """Whether a line separates rows or frames a grid."""
    return bool(set(text) & set("-=+")) and set(text) <= set("-=+|* \t")


def _puzzles(text: str, side: int) -> list[str]:
    """The words of a line that are as long as a puzzle."""
    return [word for word in _BETWEEN.split(text) if len(word) == side**2]


def _grid_of_line(text: str, side: int) -> Grid:
    """A line with a puzzle, perhaps its solution, and perhaps a rating behind them; words before them are a name."""
    puzzles = _puzzles(text, side)
    if not puzzles:
        return Grid(_split(text, (side**2,)))
    behind = text.rpartition(puzzles[-1])[2].strip(" \t,;|")
    return Grid(puzzles[0], puzzles[1] if len(puzzles) > 1 else None, _rating(behind) if behind else None)


def _refuse(message: str) -> Grid:
    raise BadInput(message)
