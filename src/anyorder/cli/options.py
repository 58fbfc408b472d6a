"""What the commands share: options, how their text is read, and where output goes."""

from pathlib import Path
from typing import Annotated, Any

import typer

from anyorder.errors import BadInput
from anyorder.processes import launched

TaskOption = Annotated[str, typer.Option("--task", help="name of a task (`anyorder list` shows them), or my_module:MyTask")]
DataOption = Annotated[Path | None, typer.Option("--data", help="problems in a published format; fresh ones when not given")]
DenoiserOption = Annotated[str | None, typer.Option("--denoiser", help="a shipped name or a folder; the task's own by default")]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="use only the first N problems")]
PolicyOption = Annotated[Path | None, typer.Option("--policy", help="folder of the policy that `policy` means")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="seed of decoding and of fresh problems")]
GenerateOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="option of the generator when no --data is given, e.g. givens=29 or difficulty=search"),
]
TaskOptionsOption = Annotated[
    list[str] | None,
    typer.Option("--task-option", help="option of the task, e.g. box=2, variables=9, houses=5; read off the data if not given"),
]
TemperatureOption = Annotated[float, typer.Option(min=0, help="sample tokens at this temperature; 0: the likeliest")]
TopPOption = Annotated[float, typer.Option(min=0.001, max=1, help="when sampling, keep the likeliest tokens up to this share")]
TrajectoriesOption = Annotated[
    Path | None,
    typer.Option(
        "--trajectories", help="write how every problem was decoded, for `anyorder report` (.json.gz, .json, .parquet)"
    ),
]
RemoteCodeOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="run the code that comes with a Hugging Face model: read it first")
]
ModelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model-option",
        help="of the denoiser, key=value: device=cuda:1; for Hugging Face models dtype=bfloat16, quantisation=4bit, "
        "revision=..., mask_token_id=N and whatever from_pretrained takes",
    ),
]
AnyDenoiserOption = Annotated[
    bool, typer.Option("--any-denoiser", help="use a policy even if it was fitted to another denoiser (a warning is printed)")
]


def token_rule(temperature: float, top_p: float) -> Any:
    """The rule of `--temperature` and `--top-p`; None for the likeliest token."""
    from anyorder.decoding.tokens import Sample

    if temperature == 0 and top_p < 1:
        raise BadInput("--top-p has a meaning only with a --temperature above 0")
    return Sample(temperature, top_p) if temperature else None


def names(text: str) -> list[str]:
    """The orders of a comma-separated list."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise BadInput("name at least one order")
    return found


def numbers(text: str, kind: type, option: str) -> list[Any]:
    """The numbers of a comma-separated list."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError as error:
        raise BadInput(f"{option} {text!r} must be numbers separated by commas") from error


def read_budgets(text: str, longest: int) -> list[int]:
    """Budgets of forwards; `all` is one position per step."""
    budgets = numbers(text.replace("all", str(max(1, longest))), int, "--steps")
    if min(budgets) < 1:
        raise BadInput(f"--steps {text!r}: at least one forward is needed")
    return budgets


def wide_console() -> Any:
    """A console for tables: as wide as the terminal, or as they need where there is none."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=160)


class ProgressBar:
    """A progress bar as the callback that `evaluate` wants; silent off a terminal."""

    def __init__(self, console: Any) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal or launched()[0] > 0,
        )
        self.task = self.bar.add_task("decoding")

    def __enter__(self) -> "ProgressBar":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, name: str, done: int, total: int) -> None:
        self.bar.update(self.task, description=name, completed=done, total=total)
