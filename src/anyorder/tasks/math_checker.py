"""Check whether an answer is equivalent to a reference, by math-verify in a separate process.

Computer algebra on a model's output may run forever, take all memory or crash the interpreter, and no signal stops what runs
in compiled code (9^{9^{9^9}} is enough). So this file is a program, which `math_answers` runs as

    python -P math_checker.py SECONDS

It says "ready", then answers each line of JSON [reference, answer] by a line true or false. A pair that takes more than
SECONDS of processor time ends the process, as does one that crashes it: so results do not depend on how busy the machine is
(but on Windows, which has no such timer, the seconds are the clock's). It imports nothing of this package, so that it starts
quickly.
"""

import faulthandler
import json
import logging
import os
import signal
import sys
from collections.abc import Callable

_MEMORY = 4 * 2**30


def equivalence() -> Callable[[str, str], bool]:
    """What the library says of a reference and an answer, both LaTeX as it stands in a box. No limit of time: its own are
    signals, which work in the main thread only and do not stop compiled code."""
    from math_verify import LatexExtractionConfig, parse, verify

    only_latex = [LatexExtractionConfig()]  # plain expressions would go through Python's eval

    def same(reference: str, answer: str) -> bool:
        read = (parse(rf"\boxed{{{latex}}}", only_latex, parsing_timeout=None) for latex in (reference, answer))
        return bool(verify(*read, allow_set_relation_comp=True, timeout_seconds=None))

    return same


class Allowance:
    """Ends this process when what runs within takes more than so many seconds of its time, whatever it is doing.

    Args:
        seconds: of processor time.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open as long as the process
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process without Python's help

    def __enter__(self) -> None:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, self.seconds)
        else:
            faulthandler.dump_traceback_later(self.seconds, exit=True, file=self.nowhere)

    def __exit__(self, *_: object) -> None:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, 0)
        else:
            faulthandler.cancel_dump_traceback_later()


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY if most == resource.RLIM_INFINITY else min(_MEMORY, most), most))


def main(seconds: float) -> None:
    """Read pairs from standard input until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is for the one that asks
    logging.disable(logging.CRITICAL)
    allowance = Allowance(seconds)
    out, sys.stdout = sys.stdout, allowance.nowhere
    same = equivalence()
    _limit_memory()
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        with allowance:
            try:
                right = same(*json.loads(line))
            except Exception:  # whatever the library cannot read is not equivalent
                right = False
        print(json.dumps(right), file=out, flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]))
