"""Ctrl-C on the command line."""

import signal
import sys
import threading
from types import FrameType, TracebackType


class Interrupts:
    """Within it, Ctrl-C raises KeyboardInterrupt, and once more after a second if the first one was swallowed.

    Libraries swallow it while they are imported or while they compile (LLVM calls back into Python), and some then fail with an
    error of their own, which is reported as the interruption that it is.
    """

    def __init__(self, seconds: float = 1.0) -> None:
        self.pressed = False
        default = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not so under nohup
        self._installed = default and threading.current_thread() is threading.main_thread()
        self._hook = sys.unraisablehook
        self._again = threading.Timer(seconds, _press)
        self._again.daemon = True

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.pressed:
            self.pressed = True
            self._again.start()
        raise KeyboardInterrupt

    def __enter__(self) -> "Interrupts":
        if self._installed:
            signal.signal(signal.SIGINT, self)
            sys.unraisablehook = self._unraisable
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._again.cancel()
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.unraisablehook = self._hook
        if self.pressed and isinstance(error, Exception):
            raise KeyboardInterrupt from error

    def _unraisable(self, raised: "sys.UnraisableHookArgs") -> None:
        if not issubclass(raised.exc_type, KeyboardInterrupt):
            self._hook(raised)


def _press() -> None:
    """Ctrl-C for the main thread, which wakes up if it waits (on Windows only when it has waited)."""
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, signal.SIGINT)
    else:
        signal.raise_signal(signal.SIGINT)
