"""The exit code says what happened: 1 a sample breaks the rules, 2 bad input, 70 a mistake in anyorder, 141 nobody reads."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer
from rich.console import Console

from anyorder.cli.app import main
from anyorder.errors import AnyorderError, BadInput, WrongDenoiser

PUZZLE = "1030041000404001"


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Exit code and standard error of a command that does this."""

    def end(act: Callable[[], object]) -> tuple[int, str]:
        monkeypatch.setattr(sys, "__stderr__", sys.stderr)
        monkeypatch.setattr(sys.modules["anyorder.cli.app"], "app", lambda standalone_mode: act())
        with pytest.raises(SystemExit) as found:
            main()
        assert isinstance(found.value.code, int)
        return found.value.code, capsys.readouterr().err

    return end


def fails(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def broken_pipe() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as pipe:
        Console(file=pipe).print("x")  # rich makes a SystemExit(1) of it


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadInput("it is wrong"), 2),
        (WrongDenoiser("it is another one"), 2),
        (FileNotFoundError(2, "No such file", "r.json"), 2),
        (IsADirectoryError(21, "Is a directory", "r.json"), 2),
        (OSError(errno.ENOSPC, "No space left on device"), 2),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), 2),
        (typer.BadParameter("no number"), 2),
        (typer.Abort(), 130),
        (KeyboardInterrupt(), 130),
        (MemoryError(), 2),
        (BrokenPipeError(), 141),
        (SystemExit(3), 3),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_what_the_user_can_mend_is_one_line(error: BaseException, code: int, ends: Callable[..., tuple[int, str]]) -> None:
    found, said = ends(fails(error))
    assert found == code and "Traceback" not in said
    assert len(said.splitlines()) <= 1 or isinstance(error, typer.BadParameter)


def test_too_much_at_once_is_too_little_memory(ends: Callable[..., tuple[int, str]]) -> None:
    for size in (2**45, 2**62):
        code, said = ends(lambda size=size: torch.zeros(size))
        assert code == 2 and said.startswith("error: not enough memory") and len(said.splitlines()) == 1, said


@pytest.mark.parametrize("error", [ZeroDivisionError("by zero"), RuntimeError("shapes"), ValueError("x"), KeyError("y")])
def test_a_mistake_of_anyorder_itself_has_a_code_of_its_own_and_a_traceback(
    error: Exception, ends: Callable[..., tuple[int, str]]
) -> None:
    code, said = ends(fails(error))
    assert code == 70
    assert (
        "Traceback" in said and type(error).__name__ in said and said.splitlines()[-1].startswith("error: this is a mistake in")
    )


def test_a_wrong_sample_is_1_and_nothing_wrong_0(
    ends: Callable[..., tuple[int, str]],
) -> None:
    assert ends(lambda: 1) == (1, "")
    assert ends(lambda: None) == (0, "")


def test_a_console_whose_reader_has_gone_does_not_end_with_1(ends: Callable[..., tuple[int, str]]) -> None:
    assert ends(broken_pipe) == (141, "")


def test_a_password_in_an_address_is_not_printed(
    ends: Callable[..., tuple[int, str]],
) -> None:
    address = "https://me:p%40ss@w0rd@index.example/simple"
    for error in (AnyorderError(f"{address}/x has no file"), OSError(5, "cannot reach", address), RuntimeError(address)):
        _, said = ends(fails(error))
        assert "https://***@index.example/simple" in said and "w0rd" not in said and "me:" not in said
    assert "w0rd" not in str(BadInput(address)) and str(BadInput("me@host: 1 // 2 @ 3")) == "me@host: 1 // 2 @ 3"


def test_closed_standard_streams_are_no_error(tmp_path: Path) -> None:
    command = f'"$0" -m anyorder sample {PUZZLE} --model sudoku4 --out d.safetensors <&- >&- 2>&-'
    done = subprocess.run(["sh", "-c", command, sys.executable], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert (tmp_path / "d.safetensors").stat().st_size > 100
