"""Files of sequences: FASTA, SMILES, lines of text, JSON and CSV, each also as .gz. The suffix tells how a file is read."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from anyorder.errors import BadInput, shorten
from anyorder.files import open_text, parse_json, write_text
from anyorder.tasks.problem_files import Unreadable, check_width, delimiter_of, first_line

COLUMNS = ("sequence", "smiles", "text")
"""Columns that hold sequences, in whatever case, when none is named."""

_TOO_LONG_TO_SHOW = 60
_HEADER_OF_SMILES = re.compile(r"\w*smiles?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Record:
    """A sequence of a file.

    name: what the file calls it: the first word of a FASTA header, what follows a SMILES; nothing where it has no names.
    line: its line in the file, from 1.
    text: the sequence.
    column: its column, as spelled in the file, if there are columns.
    """

    name: str
    line: int
    text: str
    column: str = ""

    @property
    def place(self) -> str:
        """For messages."""
        return f"{shorten(self.name, _TOO_LONG_TO_SHOW)} (line {self.line})" if self.name else f"line {self.line}"


def suffix_of(path: Path) -> str:
    """The suffix that says how a file is written, in lower case, without a .gz after it."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def read_records(path: str | Path, column: str = "", unreadable: Unreadable | None = None) -> Iterator[Record]:
    """Each sequence of a file: .fasta, .fa, .faa, .fas, .a3m; .smi, .smiles; .txt; .jsonl, .json; .csv, .tsv.

    Args:
        column: of tables, where the sequences stand; `sequence`, `smiles` or `text` when not given.
        unreadable: what becomes of rows of JSON that hold no sequence.

    Raises:
        BadInput: another format, no such column, or content that does not match the suffix.
    """
    path = Path(path)
    suffix = suffix_of(path)
    read = _READERS.get(suffix)
    if read is None:
        raise BadInput(f"{path}: sequences are read from {', '.join(_READERS)}, each perhaps with .gz, not {suffix or 'this'}")
    if column and read not in (_read_csv, _read_json):
        raise BadInput(f"{path} has no columns; column {column!r} has a meaning only in .csv, .tsv, .jsonl and .json")
    with open_text(path, newline="" if read is _read_csv else None) as file:
        yield from read(file, path, column, unreadable or Unreadable())


def read_sequences(path: str | Path, column: str = "") -> Iterator[tuple[str, str]]:
    """(place in the file, sequence) of each sequence of a file, see `read_records`."""
    for record in read_records(path, column):
        yield record.place, record.text


def _read_fasta(lines: Iterable[str], path: Path, _: str, __: Unreadable) -> Iterator[Record]:
    name, begins = "", 0
    parts: list[str] = []
    for number, line in enumerate(lines, start=1):
        text = "".join(line.split())
        if text.startswith(">"):
            if begins:
                yield Record(name, begins, "".join(parts))
            name, begins, parts = next(iter(line.strip()[1:].split()), "record"), number, []
        elif text and not text.startswith(";"):  # a comment, in the oldest files
            if not begins:
                raise BadInput(f"{path}, line {number}: a FASTA file starts with a line '>name'")
            parts.append(text)
    if begins:
        yield Record(name, begins, "".join(parts))


def _read_smiles(lines: Iterable[str], path: Path, _: str, __: Unreadable) -> Iterator[Record]:
    """A SMILES as the first word of each line, and its name behind it; the first line that is no comment may say so."""
    begun = False
    for number, line in enumerate(lines, start=1):
        smiles, *name = re.split(r"[\s,;]+", line.strip(), maxsplit=1)
        if smiles and not smiles.startswith("#"):
            if begun or not _HEADER_OF_SMILES.fullmatch(smiles):
                yield Record("".join(name), number, smiles)
            begun = True


def _read_text(lines: Iterable[str], path: Path, _: str, __: Unreadable) -> Iterator[Record]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield Record("", number, line.rstrip("\n"))


def _read_csv(lines: Iterable[str], path: Path, column: str, unreadable: Unreadable) -> Iterator[Record]:
    before, head = first_line(lines)
    header = next(csv.reader([head], delimiter=delimiter_of(head)), [])
    found = _column(header, column, str(path))
    reader = csv.reader(lines, delimiter=delimiter_of(head))
    for row in filter(None, reader):
        number = before + 1 + reader.line_num
        with unreadable.at(f"{path}, line {number}"):
            check_width(header, row, "text")
            yield Record("", number, dict(zip(header, row, strict=False)).get(found, ""), found)


def _read_json(lines: Iterable[str], path: Path, column: str, unreadable: Unreadable) -> Iterator[Record]:
    """JSON lines, or one JSON list."""
    before, head = first_line(lines)
    is_list = head.startswith("[")
    rows: Iterable[Any] = chain([head], lines)
    if is_list:
        before, rows = 0, _json_of("".join(rows), str(path))
    for number, row in enumerate(rows, start=before + 1):
        where = f"{path}, {'row' if is_list else 'line'} {number}"
        if is_list or row.strip():
            with unreadable.at():
                record = _record_of(row if is_list else _json_of(row, where), number, where, column)
                yield record


def _json_of(text: str, where: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise BadInput(f"{where} is not JSON: {error}") from error


def _record_of(value: Any, number: int, where: str, column: str) -> Record:
    if isinstance(value, str) and not column:
        return Record("", number, value)
    if not isinstance(value, dict):
        raise BadInput(f"{where} must be a string or an object with a column {column or 'sequence, smiles or text'}")
    found = _column(list(value), column, where)
    text = value[found]
    if text is not None and not isinstance(text, str):
        raise BadInput(f"{where}: {found} is not a string")
    return Record("", number, text or "", found)


def _column(names: list[str], wanted: str, where: str) -> str:
    """Of these names the wanted one, or the first of `COLUMNS` that is there, whatever the case."""
    for name in (wanted,) if wanted else COLUMNS:
        if name in names:
            return name
        alike = next((n for n in names if n.strip().lower() == name.lower()), None)
        if alike is not None:
            return alike
    known = wanted or "sequence, smiles or text (`anyorder fit` takes others: --column NAME)"
    raise BadInput(f"{where} has no column {known}; it has {', '.join(names) or 'nothing'}")


_Reader = Callable[[TextIO, Path, str, Unreadable], Iterator[Record]]
_READERS: dict[str, _Reader] = {
    **dict.fromkeys((".fasta", ".fa", ".faa", ".fas", ".a3m"), _read_fasta),
    **dict.fromkeys((".smi", ".smiles"), _read_smiles),
    ".txt": _read_text,
    **dict.fromkeys((".jsonl", ".json"), _read_json),
    **dict.fromkeys((".csv", ".tsv"), _read_csv),
}
_OTHER_SUFFIXES = (".cnf", ".sdk", ".sdm")  # of problems that are no sequences


def looks_like_a_file(text: str) -> bool:
    """Whether a text is the name of a file rather than a problem: one word that ends in the suffix of a data file."""
    suffixes = "|".join(map(re.escape, (*_READERS, *_OTHER_SUFFIXES)))
    return re.fullmatch(rf"\S+({suffixes})(\.gz)?", text.strip(), re.IGNORECASE) is not None


def design_names(texts: list[str], order: str, steps: int, seed: int) -> list[str]:
    """Names of generated sequences in a FASTA file: how they were made, a number, and how long they are."""
    made = f"{order.replace('/', '_').replace(' ', '_')}_T{steps}_seed{seed}"
    return [f"{made}_{number} length={len(text)}" for number, text in enumerate(texts, start=1)]


def write_fasta(path: Path, sequences: list[tuple[str, str]]) -> None:
    """Write (name, sequence) pairs as FASTA, 60 symbols a line, atomically."""
    lines = []
    for name, text in sequences:
        lines += [f">{name}", *(text[start : start + 60] for start in range(0, len(text), 60))]
    write_text(path, "".join(f"{line}\n" for line in lines))
