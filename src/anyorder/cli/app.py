"""The command line. Each command is a function in a module beside this one.

Exit codes: 0 done; 1 done, but a printed sample breaks the rules; 2 bad input, a file that cannot be used, too little memory;
70 an error of anyorder itself, with a traceback; 130 interrupted (a training run has written its checkpoint); 141 the reader of
the output has gone.
"""

import os
import sys
import traceback
import warnings
from functools import partial
from typing import Annotated, Any

import typer

from anyorder import __version__
from anyorder.cli.command import Command
from anyorder.cli.interrupts import Interrupts
from anyorder.errors import AnyorderError, BadInput, first_line, without_passwords
from anyorder.processes import launched, launched_alone

_ON_SEVERAL_PROCESSES = ("train", "evaluate", "pareto", "sample", "lm-eval")

app = typer.Typer(
    help="Learned unmasking orders for masked diffusion models.", no_args_is_help=True, pretty_exceptions_enable=False
)
command = partial(app.command, cls=Command)
"""Decorator that adds a command."""


WRONG_SAMPLE, BAD_INPUT, INTERNAL, INTERRUPTED, NO_READER = 1, 2, 70, 130, 141
"""Exit codes."""

_NO_MEMORY = ("not enough memory", "out of memory", "can't allocate memory", "Storage size calculation overflowed")
"""What torch's errors say that are of no type of their own."""


def main() -> None:
    """Entry point. User errors are one line, not a traceback; of several processes only the first prints."""
    warnings.showwarning = _warn
    if "" not in sys.path:
        sys.path.append("")  # `my_module:MyPart` may lie in the working directory, as with `python -m anyorder`
    try:
        _open_streams()
        if launched()[0]:
            sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open as long as the process
        with Interrupts():
            found = app(standalone_mode=False)  # the exit code where a command raised typer.Exit
        sys.stdout.flush()
        code = found if isinstance(found, int) else 0
    except BaseException as error:
        code = _fail(error)
    for stream in (sys.stdout, sys.stderr):  # else the interpreter would try again at its end, with a code of its own
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)


def _open_streams() -> None:
    """Standard streams that are closed lead nowhere; a terminal that lacks a character shows another one."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115 - open as long as the process
            setattr(sys, name, nowhere)
            setattr(sys, f"__{name}__", nowhere)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    """One line, without the place in the code that `warnings` would show."""
    print(f"warning: {message}", file=sys.stderr)


def _fail(error: BaseException) -> int:
    """Say on standard error what went wrong.

    Returns:
        The exit code.
    """
    if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):  # rich makes a SystemExit of it
        return NO_READER
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else BAD_INPUT
    if isinstance(error, AnyorderError) and not isinstance(error, BadInput) and sys.stderr is not sys.__stderr__:
        print(f"process {launched()[0]}: {error}", file=sys.__stderr__)  # of bad input all processes find the same
    try:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # click's own usage errors
            error.show()
            return BAD_INPUT
        message, code = _describe(error)
        if code == INTERNAL:
            sys.stderr = sys.__stderr__
            trace = "".join(traceback.format_exception(error))
            print(without_passwords(trace), file=sys.stderr, end="")
        print(f"error: {without_passwords(message)}", file=sys.stderr)
    except BrokenPipeError:
        return NO_READER
    return code


def _describe(error: BaseException) -> tuple[str, int]:
    """What went wrong in one line, and the exit code."""
    if isinstance(error, AnyorderError):
        return str(error), BAD_INPUT
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return "interrupted", INTERRUPTED
    if isinstance(error, FileNotFoundError):
        return f"no such file: {error.filename}", BAD_INPUT
    if isinstance(error, IsADirectoryError):
        return f"{error.filename} is a folder; give a file", BAD_INPUT
    if isinstance(error, UnicodeDecodeError):
        return f"the file is not UTF-8 text: {error}", BAD_INPUT
    if isinstance(error, OSError) and error.strerror:
        return f"cannot use {error.filename or 'the output'}: {error.strerror}", BAD_INPUT
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY)):
        return f"not enough memory ({first_line(error)}): ask for less at once, as with --batch-size, --limit", BAD_INPUT
    return f"this is a mistake in anyorder {__version__}, not in its input: please report the lines above", INTERNAL


def _version(context: typer.Context, wanted: bool) -> None:
    if not wanted:
        return
    if context.params.get("verbose"):  # which is eager, so that it is known wherever it stands
        from anyorder.cli.about import about

        print("\n".join(about()))
    else:
        print(__version__)
    raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_version, help="print the version")] = False,
    verbose: Annotated[
        bool, typer.Option("-v", is_eager=True, help="with --version: what a bug report needs, without paths and names")
    ] = False,
) -> None:
    if verbose:
        raise BadInput("-v goes with --version, before any command")
    if launched()[1] > 1 and context.invoked_subcommand not in _ON_SEVERAL_PROCESSES:
        raise BadInput(
            f"{context.invoked_subcommand} runs on one process only; these run on several: {', '.join(_ON_SEVERAL_PROCESSES)}"
        )
    if launched_alone():
        print(
            "warning: `accelerate launch --cpu` starts one process, whatever --num_processes says; "
            "`torchrun --nproc_per_node N -m anyorder ...` starts N",
            file=sys.stderr,
        )
