"""Files of sequences: .fasta, .smi, .txt, .jsonl and .csv, each also as .gz."""

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from anyorder.errors import BadInput, shorten
from anyorder.files import open_text, parse_json

COLUMNS = ("sequence", "smiles", "text")
"""Columns that hold sequences, in whatever case, when none is named."""

_TOO_LONG_TO_SHOW = 60
_SUFFIXES = ("txt", "csv", "tsv", "json", "jsonl", "fasta", "fa", "faa", "smi", "smiles")


@dataclass(frozen=True, slots=True)
class Record:
    """A sequence of a file.

    name: its name in the file, the first word of a FASTA header; empty if there are no names.
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


def looks_like_a_file(text: str) -> bool:
    """Whether a text is the name of a file rather than a problem: one word that ends in the suffix of a data file."""
    return re.fullmatch(rf"\S+\.({'|'.join(_SUFFIXES)})(\.gz)?", text.strip(), re.IGNORECASE) is not None


def suffix_of(path: Path) -> str:
    """The suffix that says how a file is written, in lower case, without a .gz after it."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def read_records(path: str | Path, column: str = "") -> Iterator[Record]:
    """Each sequence of a .fasta, .smi, .txt, .jsonl or .csv file.

    Args:
        column: the column of the sequences in .csv and .jsonl; by default `sequence`, `smiles` or `text`.

    Raises:
        BadInput: another format, no such column, or content that does not match the suffix.
    """
    path = Path(path)
    suffix = suffix_of(path)
    if column and suffix not in (".csv", ".jsonl"):
        raise BadInput(f"{path} has no columns; column {column!r} has an effect only in .csv and .jsonl")
    with open_text(path, newline="" if suffix == ".csv" else None) as file:
        if suffix in (".fasta", ".fa", ".faa"):
            yield from _read_fasta(file, path)
        elif suffix == ".csv":
            yield from _read_csv(file, path, column)
        elif suffix == ".jsonl":
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _from_json(line, number, path, column)
        elif suffix in (".txt", ".smi", ".smiles"):
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield Record("", number, line.split()[0] if suffix != ".txt" else line.rstrip("\n"))
        else:
            raise BadInput(f"{path}: sequences are read from .fasta, .smi, .txt, .jsonl or .csv, not {suffix or 'this'}")


def read_sequences(path: str | Path, column: str = "") -> Iterator[tuple[str, str]]:
    """(place in the file, sequence) of each sequence of a file, see `read_records`."""
    for record in read_records(path, column):
        yield record.place, record.text


def _read_fasta(lines: Iterable[str], path: Path) -> Iterator[Record]:
    name, begins = "", 0
    parts: list[str] = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if text.startswith(">"):
            if begins:
                yield Record(name, begins, "".join(parts))
            name, begins, parts = next(iter(text[1:].split()), "record"), number, []
        elif text:
            if not begins:
                raise BadInput(f"{path}, line {number}: a FASTA file starts with a line '>name'")
            parts.append(text)
    if begins:
        yield Record(name, begins, "".join(parts))


def _read_csv(lines: Iterable[str], path: Path, column: str) -> Iterator[Record]:
    reader = csv.DictReader(lines)
    header = list(reader.fieldnames or [])
    found = _column(header, column, str(path))
    for row in reader:
        yield Record("", reader.line_num, row[found] or "", found)


def _from_json(line: str, number: int, path: Path, column: str) -> Record:
    where = f"{path}, line {number}"
    try:
        value = parse_json(line)
    except ValueError as error:
        raise BadInput(f"{where} is not JSON: {error}") from error
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
