"""Commands as a shell would run them. In this process, because a new one imports torch and its like for three seconds."""

import io
import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from anyorder.cli import main


def run(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Exit code and what was printed."""
    words = ["anyorder", *map(str, arguments)]
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for name in ("stdout", "stderr")}
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", UserWarning)
        patch.setattr(sys, "argv", words)
        patch.setattr(sys, "path", list(sys.path))
        for name, stream in streams.items():
            patch.setattr(sys, name, stream)
            patch.setattr(sys, f"__{name}__", stream)
        if cwd:
            patch.chdir(cwd)
        with pytest.raises(SystemExit) as ended:
            main()
    assert isinstance(ended.value.code, int)
    said = {name: stream.buffer.getvalue().decode() for name, stream in streams.items()}
    return subprocess.CompletedProcess(words, ended.value.code, **said)


def run_apart(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own."""
    words = [sys.executable, "-m", "anyorder", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=300)


def refused(result: subprocess.CompletedProcess[str], message: str) -> None:
    """One clear error, exit code 2, no traceback."""
    assert result.returncode == 2, result.stdout + result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("error:")]) == 1


def assert_same_evaluation(folder: Path) -> None:
    """The trajectories and reports `one` and `two` of a folder are equal, but for the seconds that were taken."""
    assert (folder / "one.json.gz").read_bytes() == (folder / "two.json.gz").read_bytes()
    reports = [json.loads((folder / f"{name}.json").read_text()) for name in ("one", "two")]
    for report in reports:
        for result in report["results"]:
            del result["seconds"]
    assert reports[0] == reports[1]
