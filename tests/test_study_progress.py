"""What `anyorder reproduce` shows while it works, and how it ends when it is interrupted."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from rich.console import Console

from anyorder.cli import study_progress
from anyorder.cli.study_progress import StudyProgress, answering_interrupts
from anyorder.reproduce.study import Decoding, Setting, Study
from anyorder.training.checkpoint import list_checkpoints


class Clock:
    """Seconds that tests move on."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(study_progress, "time", made)
    return made


def test_without_a_terminal_each_report_is_a_line_with_the_time_left(clock: Clock) -> None:
    file = io.StringIO()
    with StudyProgress("table1", Console(file=file, width=200)) as progress:
        progress("sudoku: frozen")
        for minute, done in ((1, 4), (2, 5), (3, 6), (4, 10)):
            clock.now = 60.0 * minute
            progress(f"sudoku: policy/mlp/{minute} ({done} of 10 decodings done)")
    assert file.getvalue().splitlines() == [
        "table1: sudoku: frozen; 0.0 min",
        "table1: sudoku: policy/mlp/1 (4 of 10 decodings done); 1.0 min",
        "table1: sudoku: policy/mlp/2 (5 of 10 decodings done); 2.0 min, about 5 min left",
        "table1: sudoku: policy/mlp/3 (6 of 10 decodings done); 3.0 min, about 4 min left",
        "table1: sudoku: policy/mlp/4 (10 of 10 decodings done); 4.0 min",
    ]


def test_on_a_terminal_there_is_one_live_line(clock: Clock) -> None:
    file = io.StringIO()
    with StudyProgress("table1", Console(file=file, width=200, force_terminal=True)) as progress:
        progress("sudoku: policy/mlp/1 (4 of 10 decodings done)")
        clock.now = 60.0
        progress("sudoku: policy/mlp/2 (7 of 10 decodings done)")
        progress.bar.refresh()
    assert "7/10" in file.getvalue() and "about 1 min left" in file.getvalue()
    assert "decodings done" not in file.getvalue()


def test_the_reports_of_a_study_are_understood(tmp_path: Path) -> None:
    setting = Setting("sudoku", {"box": 2}, denoiser="sudoku4", adaptive="sudoku4-order", problems=2, steps=4)
    progress = StudyProgress("some", Console(file=io.StringIO()))
    Study(tmp_path).decode_all([Decoding(setting, "frozen", ("confidence",), 4)], 1, progress)
    assert (progress.bar.tasks[0].completed, progress.bar.tasks[0].total) == (1, 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_and_its_like_are_answered_at_once_and_end_the_work(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(typer.Exit) as ended, answering_interrupts():
        signal.raise_signal(number)
    assert ended.value.exit_code == 130
    assert capsys.readouterr().err.splitlines() == [
        "stopping; models in training write their checkpoints first", "stopped; run the same command to resume",
    ]  # fmt: skip
    assert signal.getsignal(number) is before


def test_the_command_stops_on_ctrl_c_with_a_checkpoint(tmp_path: Path) -> None:
    """As in a terminal, all processes get the signal. This target trains its denoiser first, in the command's own process."""
    command = [sys.executable, "-m", "anyorder", "reproduce", "upo-table2", "--seeds", "0", "--limit", "4", "--out", tmp_path]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        end = time.monotonic() + 150
        while not any("step" in log.read_text() for log in tmp_path.rglob("log.txt")):
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130 and "Traceback" not in said, said
    assert said.splitlines()[-1] == "stopped; run the same command to resume"
    assert any(list_checkpoints(log.parent / "checkpoints") for log in tmp_path.rglob("log.txt"))
