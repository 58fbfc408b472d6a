"""Break every place of the sources that names a device, one at a time, and see whether the tests of devices notice.

A break leaves out `.to(device)`, `.cpu()` or `device=...`. The sources are copied and the copy is broken.

    python tools/break_devices.py --list
    python tools/break_devices.py --only training --seconds 600
"""

import argparse
import ast
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import accelerate  # noqa: F401
import diffusers  # noqa: F401
import pytest
import torch  # noqa: F401
import transformers  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "anyorder"
TESTS = ("test_device.py", "test_device_calls.py", "test_device_training.py", "test_device_commands.py")
_NO_DEVICE = re.compile(r"dtype|torch\.(float|bfloat|int|long|bool)|\bkind\b")


class Site(NamedTuple):
    """A piece of a line that is left out."""

    path: Path
    line: int
    start: int
    end: int
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(SOURCE)}:{self.line} {self.text}"


def sites_of(path: Path) -> Iterator[Site]:
    """The places in a file that name a device, as far as each is in one line."""
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        spans = [
            (k.lineno, k.col_offset, k.end_col_offset) for k in node.keywords if k.arg == "device" and k.lineno == k.end_lineno
        ]
        moves = isinstance(node.func, ast.Attribute) and node.func.attr in ("to", "cpu")
        if moves and node.func.end_lineno == node.end_lineno:
            spans.append((node.end_lineno, node.func.end_col_offset - len(node.func.attr) - 1, node.end_col_offset))
        for line, start, end in spans:
            text = lines[line - 1].encode()[start:end].decode()
            if not _NO_DEVICE.search(text):
                yield Site(path, line, start, end, text)


def broken(site: Site) -> str:
    """The file of a site without it."""
    lines = site.path.read_text(encoding="utf-8").splitlines(keepends=True)
    data = lines[site.line - 1].encode()
    before, after = data[: site.start], data[site.end :]
    if site.text.startswith("device"):
        before, after = (before, after.lstrip(b", ")) if after.startswith(b", ") else (before.rstrip().rstrip(b","), after)
    lines[site.line - 1] = (before + after).decode()
    return "".join(lines)


def caught(site: Site, folder: Path, tests: list[str]) -> bool:
    """Whether a test fails on a copy of the project in a folder, broken there."""
    copy = folder / site.path.relative_to(ROOT)
    whole, text = copy.read_text(encoding="utf-8"), broken(site)
    ast.parse(text)
    copy.write_text(text, encoding="utf-8")
    child = os.fork()
    if not child:
        _run_tests(folder, tests)
    _, status = os.waitpid(child, 0)
    copy.write_text(whole, encoding="utf-8")
    return os.waitstatus_to_exitcode(status) != 0


def _run_tests(folder: Path, tests: list[str]) -> None:
    """In a forked process, which has the large libraries already."""
    os.chdir(folder)
    sys.path[:0] = [str(folder / "src"), str(folder / "tests")]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    arguments = ["-q", "-x", "-p", "no:cacheprovider", f"--basetemp={folder / 'tmp'}", *(f"tests/{name}" for name in tests)]
    os._exit(int(pytest.main(arguments)))


def main() -> int:
    """Print each site and whether it is caught; 1 if some are not."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--list", action="store_true", help="print the sites")
    arguments.add_argument("--only", default="", help="sites whose description holds this regular expression")
    arguments.add_argument("--seconds", type=float, default=float("inf"), help="start no other break after this time")
    arguments.add_argument("--tests", nargs="*", default=TESTS, help="files of tests")
    given = arguments.parse_args()
    sys.dont_write_bytecode = True
    sites = [site for path in sorted(SOURCE.rglob("*.py")) for site in sites_of(path) if re.search(given.only, str(site))]
    if given.list:
        print(*sites, f"{len(sites)} sites", sep="\n")
        return 0
    began, survivors, tried = time.monotonic(), [], 0
    with tempfile.TemporaryDirectory() as folder:
        for name in ("src", "tests"):
            shutil.copytree(ROOT / name, Path(folder, name), ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        for site in sites:
            if time.monotonic() - began > given.seconds:
                break
            found, tried = caught(site, Path(folder), given.tests), tried + 1
            print("caught  " if found else "SURVIVED", site, flush=True)
            survivors += [] if found else [site]
    print(f"{tried - len(survivors)} of {tried} caught, {len(sites) - tried} of {len(sites)} not tried")
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
