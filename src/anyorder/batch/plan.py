"""What a batch of prompts is: where it comes from, how it is answered, in which parts, and which of them are done."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyorder.errors import BadInput, first_line, shorten
from anyorder.files import LOCK, dump_json, parse_json, read_json, write_json

FORMAT = "anyorder.batch"
_SETTINGS = "_settings.json"
"""Readers of Parquet folders leave out names that begin with an underscore."""


def pyarrow() -> Any:
    """The package, with its readers and writers of Parquet.

    Raises:
        BadInput: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise BadInput("anyorder batch needs: pip install 'anyorder[parquet]'") from error
    return pyarrow


@dataclass(frozen=True)
class Plan:
    """How the prompts of a Parquet file are answered.

    Args:
        source: the file, with a column `prompt` of texts; its other columns are ignored.
        out: the folder of the answers, one Parquet file per part.
        open: opens what answers, in every worker: an object with `model`, a `LanguageModel`, `max_new_tokens`, and `seed`, to
            which row i adds i.
        settings: what the answers depend on besides the prompts, as plain values. A folder belongs to one batch.
        rows_per_part: rows of a part.
        batch_size: rows that are decoded together; no effect on results.
    """

    source: Path
    out: Path
    open: Callable[[], Any]
    settings: Mapping[str, Any]
    rows_per_part: int = 256
    batch_size: int = 32

    def rows(self) -> int:
        """The number of prompts.

        Raises:
            BadInput: no Parquet file with prompts.
        """
        if not self.source.is_file():
            raise BadInput(f"no such file: {self.source}")
        arrow = pyarrow()
        try:
            found = arrow.parquet.ParquetFile(self.source)
        except (arrow.ArrowException, OSError) as error:
            raise BadInput(f"{self.source} is not a Parquet file: {shorten(str(error), 80)}") from error
        columns = found.schema_arrow
        kind = columns.field("prompt").type if "prompt" in columns.names else None
        if kind is None or not (arrow.types.is_string(kind) or arrow.types.is_large_string(kind)):
            names = ", ".join(f"{column.name} ({column.type})" for column in columns)
            raise BadInput(f"{self.source} has no column 'prompt' of texts (string); its columns are {shorten(names, 80)}")
        return int(found.metadata.num_rows)

    def path(self, part: int) -> Path:
        """The file of a part."""
        return self.out / f"part-{part:06d}.parquet"

    def parts(self) -> range:
        """The numbers of all parts."""
        return range(-(-self.rows() // self.rows_per_part))

    def left(self) -> list[int]:
        """The parts that are not done."""
        return [part for part in self.parts() if not self.path(part).is_file()]

    def prompts(self, part: int) -> tuple[int, list[str | None]]:
        """The number of the first row of a part, and its prompts.

        Raises:
            BadInput: a file that is damaged.
        """
        arrow = pyarrow()
        try:
            return part * self.rows_per_part, self._read(part * self.rows_per_part, self.rows_per_part)
        except (arrow.ArrowException, OSError) as error:
            raise BadInput(f"{self.source} is damaged: {first_line(error)}") from error

    def _read(self, first: int, wanted: int) -> list[str | None]:
        found: list[str | None] = []
        at = 0
        with pyarrow().parquet.ParquetFile(self.source) as file:
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                low, high = max(first - at, 0), min(first + wanted - at, size)
                if low < high:
                    found += file.read_row_group(group, ["prompt"]).column("prompt").slice(low, high - low).to_pylist()
                at += size
        return found

    def check(self) -> None:
        """See that there are prompts, and a folder for answers: a new or an empty one, or that of a batch.

        Raises:
            BadInput: there are not.
        """
        self.rows()
        if self.out.is_dir():
            begun = (LOCK, f".{_SETTINGS}.")  # what one leaves that died before it had begun
            usable = (self.out / _SETTINGS).is_file() or all(path.name.startswith(begun) for path in self.out.iterdir())
        else:
            usable = not self.out.exists()
        if not usable:
            raise BadInput(f"{self.out} holds something else: give an empty or a new folder")

    def begin(self) -> None:
        """Note the settings in the folder. Where nothing is answered yet, they replace those of an attempt that failed.

        Raises:
            BadInput: the folder holds answers of another batch.
        """
        path, mine = self.out / _SETTINGS, self._settings()
        if path.is_file() and any(self.out.glob("part-*.parquet")):
            theirs = read_json(path)
            changed = [key for key in mine if not isinstance(theirs, dict) or theirs.get(key) != mine[key]]
            if changed:
                raise BadInput(f"{self.out} holds another batch ({', '.join(changed)} differ): choose another folder")
        write_json(path, mine)

    def _settings(self) -> Any:
        """What the files in the folder depend on."""
        with self.source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        head = {"format": FORMAT, "version": 1, "prompts": digest, "rows_per_part": self.rows_per_part}
        return parse_json(dump_json({**head, **self.settings}))
