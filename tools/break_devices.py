"""Break every place of the sources that names a device, one at a time, and see whether the tests of devices notice.

A break leaves out `.to(device)`, `.cpu()` or `device=...`. The sources are copied and the copy is broken. The tests run
once under coverage (`pip install coverage`), then each break runs the tests that reach its line, the fastest first.

    python tools/break_devices.py --list
    python tools/break_devices.py --only training --seconds 600
"""

import argparse
import ast
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import accelerate  # noqa: F401
import coverage
import diffusers  # noqa: F401
import pytest
import torch  # noqa: F401
import transformers  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "anyorder"
TESTS = ("test_device.py", "test_device_calls.py", "test_device_training.py", "test_device_commands.py")
_NO_DEVICE = re.compile(r"dtype|torch\.(float|bfloat|int|long|bool)|\bkind\b")

EXEMPT = {
    "training/loop.py .cpu()": "full weights of sharded ones, which would fill one GPU",
    "training/sharding.py .to(reference.device)": "sharded weights alone, which the fake device does not have",
    'training/sharding.py .to("cpu", copy=True)': "sharded weights alone, which the fake device does not have",
}
"""Places that matter to sharded weights on several GPUs alone."""


class Site(NamedTuple):
    """A piece of a line that is left out, and the lines of the statement around it."""

    path: Path
    statement: range
    line: int
    start: int
    end: int
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(SOURCE)}:{self.line} {self.text}"

    @property
    def exempt(self) -> str | None:
        """Why it is not tried."""
        return EXEMPT.get(f"{self.path.relative_to(SOURCE)} {self.text}")


def sites_of(path: Path) -> Iterator[Site]:
    """The places in a file that name a device, as far as each is in one line."""
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    tree = ast.parse(source)
    for node in ast.walk(tree):
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
                yield Site(path, _statement(tree, line), line, start, end, text)


def _statement(tree: ast.Module, line: int) -> range:
    """The lines of the innermost statement that holds a line; of a block, its head alone."""
    lines = range(line, line + 1)
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and node.lineno <= line <= node.end_lineno:
            body = getattr(node, "body", None)
            lines = range(node.lineno, body[0].lineno if body else node.end_lineno + 1)
    return lines


def broken(site: Site) -> str:
    """The file of a site without it."""
    lines = site.path.read_text(encoding="utf-8").splitlines(keepends=True)
    data = lines[site.line - 1].encode()
    before, after = data[: site.start], data[site.end :]
    if site.text.startswith("device"):
        before, after = (before, after.lstrip(b", ")) if after.startswith(b", ") else (before.rstrip().rstrip(b","), after)
    lines[site.line - 1] = (before + after).decode()
    return "".join(lines)


class Reached:
    """A plugin of pytest that records the lines that each test reaches, and its seconds."""

    def __init__(self, folder: Path) -> None:
        self.file, self.seconds = folder / "reached.json", {}
        self.coverage = coverage.Coverage(data_file=str(folder / ".coverage"), source=[str(folder / "src")])
        self.coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.coverage.switch_context(item.nodeid)
        began = time.monotonic()
        result = yield
        self.seconds[item.nodeid] = time.monotonic() - began
        return result

    def pytest_sessionfinish(self) -> None:
        self.coverage.stop()
        data = self.coverage.get_data()
        lines = {
            name: {line: [t for t in tests if t] for line, tests in data.contexts_by_lineno(name).items()}
            for name in data.measured_files()
        }
        self.file.write_text(json.dumps({"seconds": self.seconds, "lines": lines}), encoding="utf-8")


def reaching(site: Site, folder: Path, reached: dict) -> list[str]:
    """The tests that reach a site, the fastest first."""
    lines = reached["lines"].get(str(folder / site.path.relative_to(ROOT)), {})
    tests = {test for line in site.statement for test in lines.get(str(line), ())}
    return sorted(tests, key=reached["seconds"].__getitem__)


def caught(site: Site, folder: Path, tests: list[str]) -> bool:
    """Whether a test fails on a copy of the project in a folder, broken there."""
    copy = folder / site.path.relative_to(ROOT)
    whole, text = copy.read_text(encoding="utf-8"), broken(site)
    ast.parse(text)
    copy.write_text(text, encoding="utf-8")
    failed = _in_child(lambda: run_tests(folder, tests)) != 0
    copy.write_text(whole, encoding="utf-8")
    return failed


def _in_child(work: Callable[[], int]) -> int:
    """The exit code of a forked process, which has the large libraries already."""
    child = os.fork()
    if not child:
        os._exit(work())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_tests(folder: Path, tests: list[str], record: bool = False) -> int:
    """Run tests without output, to the first failure, or to their end with a record of the lines that they reach."""
    os.chdir(folder)
    sys.path[:0] = [str(folder / "src"), str(folder / "tests")]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    arguments = ["-q", "-p", "no:cacheprovider", f"--basetemp={folder / 'tmp'}", *([] if record else ["-x"]), *tests]
    return int(pytest.main(arguments, plugins=[Reached(folder)] if record else []))


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
    for site in (site for site in sites if site.exempt):
        print(f"EXEMPT      {site}: {site.exempt}")
    sites = [site for site in sites if not site.exempt]
    began, survivors, tried = time.monotonic(), [], 0
    with tempfile.TemporaryDirectory() as folder:
        for name in ("src", "tests"):
            shutil.copytree(ROOT / name, Path(folder, name), ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        files = [f"tests/{name}" for name in given.tests]
        if _in_child(lambda: run_tests(Path(folder), files, record=True)):
            raise SystemExit("The tests fail without a break.")
        reached = json.loads(Path(folder, "reached.json").read_text(encoding="utf-8"))
        for site in sites:
            if time.monotonic() - began > given.seconds:
                break
            tests = reaching(site, Path(folder), reached)
            found, tried = bool(tests) and caught(site, Path(folder), tests), tried + 1
            print("caught     " if found else "SURVIVED   " if tests else "NOT REACHED", site, flush=True)
            survivors += [] if found else [site]
    print(f"{tried - len(survivors)} of {tried} caught, {len(sites) - tried} of {len(sites)} not tried")
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
