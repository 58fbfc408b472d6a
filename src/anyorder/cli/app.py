"""The command line: `anyorder demo | fit | train | evaluate | pareto | pass-at-n | sample | fold | headroom | report | plot |
reproduce | fetch | list`.

Exit codes: 0 done; 1 done, but some sample breaks the rules; 2 bad input or a file that cannot be used; 130 interrupted (a
training run has written its checkpoint).
"""

import sys
from typing import Annotated

import typer

from anyorder import __version__
from anyorder.errors import AnyorderError

app = typer.Typer(
    help="Learned unmasking orders for masked diffusion models.", no_args_is_help=True, pretty_exceptions_enable=False
)


def main() -> None:
    """Entry point: user errors are one line, not a traceback."""
    try:
        code = app(standalone_mode=False)  # the exit code where a command raised typer.Exit
        sys.exit(code if isinstance(code, int) else 0)
    except AnyorderError as error:
        _fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 130)
    except FileNotFoundError as error:
        _fail(f"no such file: {error.filename}", 2)
    except IsADirectoryError as error:
        _fail(f"{error.filename} is a folder; a file is wanted", 2)
    except UnicodeDecodeError as error:
        _fail(f"the file is not UTF-8 text: {error}", 2)
    except Exception as error:  # click's own usage errors know how to show themselves
        if hasattr(error, "show") and hasattr(error, "exit_code"):
            error.show()
            sys.exit(error.exit_code)
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
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")] = False,
) -> None:
    pass
