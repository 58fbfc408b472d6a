"""The command line. Each command is a function in a module beside this one.

Exit codes: 0 done; 1 done, but a printed sample breaks the rules; 2 bad input or a file that cannot be used; 130 interrupted (a
training run has written its checkpoint); 141, or 1, if the reader of the output has gone.
"""

import os
import sys
from functools import partial
from typing import Annotated

import typer

from anyorder import __version__
from anyorder.cli.command import Command
from anyorder.errors import AnyorderError, BadInput
from anyorder.processes import launched, launched_alone

_ON_SEVERAL_PROCESSES = ("train", "evaluate", "pareto", "sample")

app = typer.Typer(
    help="Learned unmasking orders for masked diffusion models.", no_args_is_help=True, pretty_exceptions_enable=False
)
command = partial(app.command, cls=Command)
"""Decorator that adds a command."""


def main() -> None:
    """Entry point. User errors are one line, not a traceback; of several processes only the first prints."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character shows another one
    try:
        if launched()[0]:
            sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open as long as the process
        code = app(standalone_mode=False)  # the exit code where a command raised typer.Exit
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except BrokenPipeError:  # the reader has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except BadInput as error:  # all processes find the same
        _fail(str(error), 2)
    except AnyorderError as error:
        if sys.stderr is not sys.__stderr__:
            print(f"process {launched()[0]}: {error}", file=sys.__stderr__)
        _fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 130)
    except FileNotFoundError as error:
        _fail(f"no such file: {error.filename}", 2)
    except IsADirectoryError as error:
        _fail(f"{error.filename} is a folder; give a file", 2)
    except UnicodeDecodeError as error:
        _fail(f"the file is not UTF-8 text: {error}", 2)
    except Exception as error:  # click's own usage errors know how to show themselves
        if hasattr(error, "show") and hasattr(error, "exit_code"):
            error.show()
            sys.exit(error.exit_code)
        if isinstance(error, OSError) and error.strerror:
            if error.filename is None:  # standard output is full: do not let the interpreter write to it again
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            _fail(f"cannot use {error.filename or 'the output'}: {error.strerror}", 2)
        sys.stderr = sys.__stderr__
        raise


def _fail(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")] = False,
) -> None:
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
