"""Write files so that a reader finds the old one or the new one, never half of one."""

import csv
import gzip
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from anyorder.errors import AnyorderError, BadInput, first_line

try:
    import fcntl
except ImportError:  # where the system has no such locks, nobody is kept out
    fcntl = None  # type: ignore[assignment]


def cache_folder() -> Path:
    """Where fetched weights and data go: ANYORDER_CACHE, or `anyorder` in the user's cache folder."""
    own = os.environ.get("ANYORDER_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anyorder"


def find_file(name: str | Path) -> Path:
    """The file as given if it exists, or else the file of that name in the cache folder.

    Raises:
        FileNotFoundError: neither is there.
    """
    for path in (Path(name), cache_folder() / name):
        if path.is_file():
            return path
    raise FileNotFoundError(2, "no such file, here or among what was fetched", str(name))


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a temporary file beside `path`, flush it to disk, then put it in place in one step.

    Raises:
        AnyorderError: the file cannot be written (disk full, no permission); an older file at `path` is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
    except OSError as error:
        raise AnyorderError(f"cannot write {path}: {error.strerror}; nothing was changed") from error
    temporary = Path(name)
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise AnyorderError(f"cannot write {path}: {error.strerror or error}; nothing was changed") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def open_text(path: str | Path, newline: str | None = None) -> Iterator[TextIO]:
    """A file of UTF-8 text to read, with or without a byte order mark; compressed by gzip if its name ends in .gz.

    Raises:
        BadInput: no such file; in the body of the `with`, bytes that are not UTF-8 text, gzip or CSV.
    """
    path = Path(path)
    if not path.exists():
        raise BadInput(f"no such file: {path}")
    if path.is_dir():
        raise BadInput(f"{path} is a folder, not a file")
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, mode="rt", encoding="utf-8-sig", newline=newline) as file:
        try:
            yield file
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise BadInput(f"{path} is not a complete gzip file: {error}") from error
        except UnicodeDecodeError as error:
            raise BadInput(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
        except csv.Error as error:
            raise BadInput(f"{path} is not CSV: {error}") from error


def read_text(path: str | Path) -> str:
    """All of a file of UTF-8 text.

    Raises:
        BadInput: it is none.
    """
    with open_text(path) as file:
        return file.read()


def parse_json(text: str | bytes) -> Any:
    """The values of JSON text.

    Raises:
        ValueError: it is none, or is nested without end.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_json(path: str | Path) -> Any:
    """The values of a JSON file.

    Raises:
        BadInput: it is none.
    """
    try:
        return parse_json(read_text(path))
    except ValueError as error:
        raise BadInput(f"{path} is not readable JSON: {first_line(error)}") from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder for this process. The lock ends with the process, however that ends; its file, `.lock`, stays.

    Raises:
        BadInput: another process has it.
        AnyorderError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "w", encoding="utf-8")  # noqa: SIM115 - open as long as the lock is held
    except OSError as error:
        raise AnyorderError(f"cannot write to {folder}: {error.strerror}; nothing was changed") from error
    with file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadInput(f"another process is at work in {folder}: wait for it, or choose another folder") from error
        except OSError:
            pass  # a file system without locks
        yield


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    text = json.dumps(value, indent=2) + "\n"
    write_atomically(path, lambda temporary: _write_text(temporary, text))


def write_text(path: Path, text: str) -> None:
    """Write text, atomically."""
    write_atomically(path, lambda temporary: _write_text(temporary, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
