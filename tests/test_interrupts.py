"""Ctrl-C on the command line, also where a library swallows it."""

import contextlib
import signal
import sys
import time

import pytest

from anyorder.cli.interrupts import Interrupts


def swallow() -> None:
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    time.sleep(5)


def fail() -> None:
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    raise RuntimeError("no compiled object yet")


def test_ctrl_c_that_was_swallowed_comes_again() -> None:
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Interrupts(seconds=0.05):
        swallow()
    assert time.monotonic() - start < 4
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_that_an_interruption_caused_is_the_interruption() -> None:
    with pytest.raises(KeyboardInterrupt), Interrupts():
        fail()


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError), Interrupts() as interrupts:
        raise RuntimeError
    assert not interrupts.pressed


def test_an_interruption_in_a_callback_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    class Noisy:
        def __del__(self) -> None:
            raise KeyboardInterrupt

    before = sys.unraisablehook
    with Interrupts():
        Noisy()
    assert capsys.readouterr().err == "" and sys.unraisablehook is before
