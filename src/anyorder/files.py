"""Write files so that a reader finds the old one or the new one, never half of one."""

import csv
import gzip
import hashlib
import io
import json
import math
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from torch import Tensor

from anyorder.errors import AnyorderError, BadInput, first_line

try:
    import fcntl
except ImportError:  # where the system has no such locks, nobody is kept out
    fcntl = None  # type: ignore[assignment]

_SUSPICIOUS_SIZE, _SUSPICIOUS_RATIO = 2**26, 200
_OTHER_TABLES = (".parquet", ".arrow", ".feather", ".xlsx", ".xls", ".ods", ".zip")


def cache_folder() -> Path:
    """Where fetched weights and data go: ANYORDER_CACHE, or `anyorder` in the user's cache folder.

    Raises:
        BadInput: nothing says where that is.
    """
    own = os.environ.get("ANYORDER_CACHE")
    if own:
        return Path(own)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anyorder"
    except RuntimeError as error:
        raise BadInput("this user has no home folder for the cache: set ANYORDER_CACHE to a folder") from error


def find_file(name: str | Path) -> Path:
    """The file as given if it exists, or else the file of that name in the cache folder.

    Raises:
        FileNotFoundError: neither is there.
    """
    paths = (Path(name), cache_folder() / name)
    for path in (*filter(Path.is_file, paths), *filter(Path.exists, paths)):  # the reader says what is wrong with a pipe
        return path
    raise FileNotFoundError(2, "no such file, here or among what was fetched", str(name))


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a temporary file beside `path`, flush it to disk, then put it in place in one step.

    Symbolic links are followed. What is there and is no regular file (a device, a pipe) is written into, never replaced. The
    file has the permissions of the one it replaces; a new one has those that the umask leaves.

    Raises:
        AnyorderError: the file cannot be written (disk full, no permission); an older file at `path` is untouched.
    """
    try:
        if is_special(path):
            return _write_into(path, write)
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name[:60]}.{secrets.token_hex(6)}")
        try:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            mode = stat.S_IMODE((target if target.exists() else temporary).stat().st_mode)
            write(temporary)
            temporary.chmod(mode)  # safetensors, for one, makes a file of its own that nobody else may read
            _sync(temporary)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        with suppress(OSError):  # not every system can
            _sync(target.parent)
    except OSError as error:
        raise AnyorderError(f"cannot write {path}: {error.strerror or error}; nothing was changed") from error


def is_special(path: Path) -> bool:
    """Whether something is there that must not be replaced: a device, a pipe, or what this process has open (/dev/stdout)."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    return _handle_of(path) is not None or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _handle_of(path: Path) -> int | None:
    """The number of the open file that a path such as /dev/stdout or /dev/fd/3 names."""
    found = re.fullmatch(r"/(dev|proc/self)/fd/(\d+)", str(path))
    return int(found[2]) if found else {"/dev/stdout": 1, "/dev/stderr": 2}.get(str(path))


def _write_into(path: Path, write: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / path.name)
        if sys.stdout is not None:
            sys.stdout.flush()
        handle = _handle_of(path)
        with (
            open(Path(folder) / path.name, "rb") as source,
            open(path if handle is None else os.dup(handle), "ab") as target,
        ):
            shutil.copyfileobj(source, target)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def written_as_a_whole(folder: str | Path) -> Iterator[Path]:
    """A temporary folder for the body to write a model to, whose files are put in their places when all are complete, the
    configuration last. Other files stay, but for further parts (shards) of weights that are replaced.

    Args:
        folder: of the model; made if it is not there.

    Raises:
        AnyorderError: a file cannot be written (disk full, no permission); older files are untouched.
    """
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place, prefix=UNFINISHED) as name:
            yield Path(name)
            written = sorted((p for p in Path(name).rglob("*") if p.is_file()), key=lambda p: (p.name == "config.json", p))
            targets = [place / path.relative_to(name) for path in written]
            for path, target in zip(written, targets, strict=True):
                write_atomically(target, lambda temporary, path=path: os.replace(path, temporary))  # type: ignore[misc]
            for old in {p for target in targets if target.match(_WEIGHTS) for p in target.parent.glob(_WEIGHTS)} - set(targets):
                old.unlink()
    except Exception as error:
        with suppress(OSError):  # there was no such folder, and nothing is in it
            place.rmdir()
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":  # what it makes of a full disk
            said = getattr(error, "strerror", None) or error
            raise AnyorderError(f"cannot write {folder}: {said}; nothing was changed") from error
        raise


_WEIGHTS = "model*.safetensors*"

LOCK = ".lock"
"""The file by which a process has a folder to itself."""
UNFINISHED = ".unfinished-"
"""How the names of folders begin that `written_as_a_whole` leaves when the process is killed."""


def check_writable(path: Path, *, folder: bool = False) -> None:
    """Refuse, before the work, a name that could not be written after it. Nothing is left there.

    Args:
        path: of a file; it need not be there, and neither need its folder.
        folder: `path` is a folder for several files.

    Raises:
        BadInput: it cannot be written, or is a folder (a file).
    """
    try:
        special = is_special(path)
        if path.is_dir() and not folder:
            raise BadInput(f"{path} is a folder: give the name of a file")
        if (special or path.is_file()) and folder:
            raise BadInput(f"{path} is a file: give a folder")
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(13, "Permission denied")
        if not special:
            target = Path(os.path.realpath(path))
            there = next(parent for parent in (target, *target.parents) if parent.exists() and (folder or parent != target))
            tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror or error}") from error


class _Unpacked(io.RawIOBase):
    """The bytes of a gzip file, as far as they are plausible: 8 MB may unpack to 8 GB of zeros, which no data set does.

    Raises:
        BadInput: more than 64 MiB that unpack to more than 200 times their size; text is packed to a tenth, or a fiftieth.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.packed = open(path, "rb")  # noqa: SIM115 - closed below
        self.unpacked = gzip.GzipFile(fileobj=self.packed)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go back to the beginning, or stay: what else readers of text ask for."""
        if (offset, whence) == (0, os.SEEK_SET):
            return self.unpacked.seek(0)
        if (offset, whence) == (0, os.SEEK_CUR):
            return self.unpacked.tell()
        raise io.UnsupportedOperation("a packed file is read from its beginning")

    def readinto(self, buffer: Any) -> int:
        count = self.unpacked.readinto(buffer)
        size = self.unpacked.tell()
        if size > _SUSPICIOUS_SIZE and size > _SUSPICIOUS_RATIO * self.packed.tell():
            raise BadInput(f"{self.name} unpacks to more than {_SUSPICIOUS_RATIO} times its size: unpack it, and look at it")
        return count

    def close(self) -> None:
        self.unpacked.close()
        self.packed.close()
        super().close()


def open_bytes(path: str | Path) -> io.BufferedReader:
    """A file to read, unpacked if its name ends in .gz.

    Raises:
        BadInput: no such file, a folder, or a pipe or device, which cannot be read twice; while reading, an implausible size.
    """
    path = Path(path)
    if not path.exists():
        raise BadInput(f"no such file: {path}")
    if path.is_dir():
        raise BadInput(f"{path} is a folder, not a file")
    if not path.is_file():
        raise BadInput(f"{path} is a pipe or a device: write what it gives into a file, and give that")
    return io.BufferedReader(_Unpacked(path)) if path.suffix.lower() == ".gz" else open(path, "rb")


@contextmanager
def open_text(path: str | Path, newline: str | None = None) -> Iterator[TextIO]:
    """A file of UTF-8 text to read, with or without a byte order mark; compressed by gzip if its name ends in .gz.

    Raises:
        BadInput: as `open_bytes`; in the body of the `with`, bytes that are not UTF-8 text, gzip or CSV.
    """
    with open_bytes(path) as data, io.TextIOWrapper(data, encoding="utf-8-sig", newline=newline) as file:
        try:
            yield file
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise BadInput(f"{path} is not a complete gzip file: {error}") from error
        except UnicodeDecodeError as error:
            hint = "; export it as CSV or JSON lines" if Path(path).suffix.lower() in _OTHER_TABLES else ""
            raise BadInput(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}{hint}") from error
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


def json_of(text: str, name: str | Path) -> Any:
    """The values of the JSON text of a file.

    Raises:
        BadInput: it is none; `name` says which.
    """
    try:
        return parse_json(text)
    except ValueError as error:
        raise BadInput(f"{name} is not readable JSON: {first_line(error)}") from error


def read_json(path: str | Path) -> Any:
    """The values of a JSON file.

    Raises:
        BadInput: it is none.
    """
    return json_of(read_text(path), path)


@contextmanager
def locked(folder: Path, name: str = LOCK, *, wait: bool = False) -> Iterator[None]:
    """Have a folder to oneself. The lock ends with the process, however that ends; its file stays.

    Args:
        folder: made if it is not there.
        name: of the lock's file in it.
        wait: until another process that has the lock is done, rather than refuse.

    Raises:
        BadInput: another process has it.
        AnyorderError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / name, "w", encoding="utf-8")  # noqa: SIM115 - open as long as the lock is held
    except OSError as error:
        raise AnyorderError(f"cannot write to {folder}: {error.strerror}; nothing was changed") from error
    with file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise BadInput(f"another process is at work in {folder}: wait for it, or choose another folder") from error
        except OSError:
            pass  # a file system without locks
        yield


def folder_mark(folder: Path) -> str:
    """A short mark of a model's folder: names, sizes and samples of the contents of its weights and JSON files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in _OF_MODELS and path.is_file()):
        with open_bytes(path) as file:
            size = file.seek(0, os.SEEK_END)
            digest.update(f"{path.name} {size} ".encode())
            for start in sorted({size * piece // 16 for piece in range(16)}):
                file.seek(start)
                digest.update(file.read(2**16))
    return digest.hexdigest()[:16]


_OF_MODELS = (".safetensors", ".bin", ".pt", ".gguf", ".json")


def dump_json(value: Any, **style: Any) -> str:
    """Strict JSON, which has no NaN and no infinity: numbers that are not finite become null."""
    return json.dumps(finite(value), allow_nan=False, **style)


def finite(value: Any) -> Any:
    """Plain values with None for each number that is not finite, and lists for tuples."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(one) for key, one in value.items()}
    return [finite(one) for one in value] if isinstance(value, list | tuple) else value


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; see `dump_json`."""
    write_text(path, dump_json(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text, atomically."""
    write_bytes(path, text.encode(errors="replace"))  # which a name of a file may need


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes, atomically."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    write_atomically(path, write)


def write_tensors(path: Path, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str]) -> None:
    """Write tensors as safetensors, atomically."""
    import safetensors.torch

    def write(temporary: Path) -> None:
        try:
            safetensors.torch.save_file(dict(tensors), temporary, dict(metadata))
        except safetensors.SafetensorError as error:  # what it makes of a full disk
            raise OSError(f"{error}") from error

    write_atomically(path, write)
