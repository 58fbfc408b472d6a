"""The command that writes problems: problems."""

from pathlib import Path
from typing import Annotated

import typer

from anyorder.cli.app import command
from anyorder.cli.options import (
    GenerateOption,
    LimitOption,
    ModelOption,
    SeedOption,
    TaskOption,
    TaskOptionsOption,
    check_suffix,
)


@command()
def problems(
    out: Annotated[Path, typer.Option("--out", "-o", help="the file to write: .jsonl, or .txt for lines of text; also .gz")],
    task: TaskOption = None,
    model: ModelOption = None,
    limit: LimitOption = None,
    seed: SeedOption = 0,
    generate: GenerateOption = None,
    task_options: TaskOptionsOption = None,
) -> None:
    """Write generated problems to a file that every command reads: those that it generates itself with the same seed."""
    from anyorder.files import check_writable
    from anyorder.session import fresh_problems, task_of_options

    made = task_of_options(task, model, task_options)
    check_writable(out)
    check_suffix(out, (made.file_suffix, f"{made.file_suffix}.gz"))
    found = fresh_problems(made, limit, seed, generate)
    made.save(found, out)
