"""The command that answers many prompts: batch."""

import os
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from anyorder.cli.app import command
from anyorder.cli.language import open_language
from anyorder.cli.options import BatchSizeOption, ProgressBar, with_options_of


@command()
@with_options_of(open_language)
def batch(
    prompts: Annotated[Path, typer.Argument(help="Parquet file with a column `prompt`")],
    out: Annotated[Path, typer.Argument(help="folder of the answers, in Parquet; the same command goes on with it")],
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="processes; more than one are actors of Ray (RAY_ADDRESS)")
    ] = 1,
    gpus: Annotated[float, typer.Option("--gpus-per-worker", min=0, help="GPUs of each worker of Ray")] = 0.0,
    rows_per_part: Annotated[int, typer.Option("--rows-per-part", min=1, help="prompts per file of answers")] = 256,
    batch_size: BatchSizeOption = 256,
    **options: Any,
) -> None:
    """Answer the prompts of a Parquet file with a language model. A run that was killed goes on where it was."""
    from rich.console import Console

    from anyorder.batch import Plan, run_batch
    from anyorder.errors import counted
    from anyorder.files import folder_mark

    settings = {name: None if value is None else str(value) for name, value in options.items()}
    settings |= {
        name: f"{value} {folder_mark(Path(value))}" for name, value in settings.items() if value and os.path.isdir(value)
    }
    plan = Plan(prompts, out, partial(open_language, **options), settings, rows_per_part, batch_size)
    done, total = 0, len(plan.parts())
    began = time.monotonic()
    with ProgressBar(Console(stderr=True)) as progress:

        def show(part: int, process: int) -> None:
            nonlocal done
            done += 1
            progress("parts", done, total)

        answered = run_batch(plan, workers, gpus, show)
    print(
        f"{counted(plan.rows(), 'prompt')} in {counted(total, 'part')}, {answered} of them answered now, "
        f"in {time.monotonic() - began:.0f} s: {out}"
    )
