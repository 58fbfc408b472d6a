"""The command line: `anyorder demo | train | evaluate | sample | headroom | reproduce | list`.

Exit codes: 0 done; 1 done, but some sample breaks the rules; 2 bad input or a file that cannot be used; 130 interrupted (a
training run has written its checkpoint).
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from anyorder import __version__
from anyorder.errors import AnyorderError, BadInput

app = typer.Typer(
    help="Learned unmasking orders for masked diffusion models.", no_args_is_help=True, pretty_exceptions_enable=False
)

TaskOption = Annotated[str, typer.Option("--task", help="sudoku, sat, countdown, zebra, sorting or tsp")]
DataOption = Annotated[Path | None, typer.Option("--data", help="problems in a published format; fresh ones when not given")]
DenoiserOption = Annotated[str | None, typer.Option("--denoiser", help="a shipped name or a folder; the task's own by default")]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="use only the first N problems")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="seed of decoding and of fresh problems")]
GenerateOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="option of the generator when no --data is given, e.g. givens=29 or difficulty=search"),
]
TaskOptionsOption = Annotated[
    list[str] | None,
    typer.Option("--task-option", help="option of the task, e.g. box=2, variables=9, houses=5; read off the data if not given"),
]
AnyDenoiserOption = Annotated[
    bool, typer.Option("--any-denoiser", help="use a policy even if it was fitted to another denoiser (a warning is printed)")
]


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


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="a recipe's name (see `anyorder list`) or a .toml file")],
    out: Annotated[Path | None, typer.Option("--out", help="folder of the run; runs/RECIPE by default")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="override a key, e.g. run.steps=100")] = None,
) -> None:
    """Train a denoiser or fit an order. Started again on the same folder, it resumes."""
    from rich.console import Console

    from anyorder.training.fit import run_recipe
    from anyorder.training.settings import load_recipe

    checked = load_recipe(recipe, overrides)
    folder = out or Path("runs") / Path(recipe).stem
    result = run_recipe(checked, folder, Console(stderr=True))
    if not result.finished:
        print(f"stopped at step {result.step} of {checked.run.steps}; the same command goes on from there", file=sys.stderr)
        raise typer.Exit(130)
    if getattr(checked, "train_denoiser", False):
        from anyorder.report.plots import training_curves

        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        print(f"plot: {training_curves([json.loads(line) for line in lines], folder / 'training.png')}")
    print(f"{folder}: {result.step} steps in {result.seconds:.0f} s")


@app.command()
def evaluate(
    task: TaskOption = "sudoku",
    data: DataOption = None,
    denoiser: DenoiserOption = None,
    orders: Annotated[str, typer.Option(help="comma-separated; X+undo, X+repredict: other modes, X@COUNT: its count rule")] = (
        "random,confidence,margin,log_margin,entropy,policy,policy+undo,oracle"
    ),
    steps: Annotated[str, typer.Option(help="comma-separated budgets of forwards; 'all': one position per step")] = "5,10,20",
    noise: Annotated[str, typer.Option(help="comma-separated scales of Gumbel noise on the scores")] = "0",
    limit: LimitOption = None,
    policy: Annotated[Path | None, typer.Option("--policy", help="folder of the policy that `policy` means")] = None,
    against: Annotated[str, typer.Option(help="order to compare with; 'best' is the best heuristic of each table")] = "best",
    count: Annotated[str, typer.Option(help="how many per step: linear, cosine, fixed:K, threshold:P, factor:F, "
                                       "entropy_bound:G, predicted_error:E")] = "",
    json_out: Annotated[Path | None, typer.Option("--json", help="write the report (.json, or .parquet)")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="draw accuracy against forwards (.png or .svg)")] = None,
    markdown_out: Annotated[Path | None, typer.Option("--markdown", help="write the tables as Markdown")] = None,
    seed: SeedOption = 0,
    batch_size: Annotated[int, typer.Option(min=1)] = 256,
    generate: GenerateOption = None,
    task_options: TaskOptionsOption = None,
    any_denoiser: AnyDenoiserOption = False,
) -> None:  # fmt: skip
    """Hold orders against one another on the same problems."""
    from rich.console import Console

    from anyorder.evaluation.evaluate import evaluate as run
    from anyorder.evaluation.orders import parse_count_rule
    from anyorder.evaluation.tables import markdown, rich_tables
    from anyorder.files import write_text
    from anyorder.session import open_session

    rule = parse_count_rule(count) if count else None
    scales = _numbers(noise, float, "--noise")
    if min(scales) < 0:
        raise BadInput(f"--noise {noise!r}: a scale cannot be negative")
    session = open_session(task, data, denoiser, limit, seed, generate, task_options, policy, strict=not any_denoiser)
    budgets = _steps(steps, int(session.instances.maskable.sum(dim=1).max()))
    console = Console(stderr=True)
    with ProgressBar(console) as progress:
        report = run(
            session.denoiser,
            session.task,
            session.instances,
            _names(orders),
            budgets,
            noise=scales,
            load_policy=session.load_policy,
            against=against,
            count=rule,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
            meta={**session.meta, "count": count or "linear; second_look with undo"},
        )
    for table in rich_tables(report):
        wide_console().print(table)
    if json_out:
        report.save(json_out)
    if markdown_out:
        write_text(markdown_out, markdown(report))
    if plot:
        from anyorder.report.plots import accuracy_against_steps

        print(f"plot: {accuracy_against_steps(report, plot, session.meta['data'])}")


@app.command()
def headroom(
    task: TaskOption = "sudoku",
    data: DataOption = None,
    denoiser: DenoiserOption = None,
    steps: Annotated[int, typer.Option(min=1, help="budget of forwards")] = 10,
    limit: LimitOption = 200,
    seed: SeedOption = 0,
    generate: GenerateOption = None,
    task_options: TaskOptionsOption = None,
) -> None:
    """Is learning an order worth it for this model and data? Heuristics, oracle, and the denoiser's calibration."""
    from rich.console import Console

    from anyorder.evaluation.headroom import measure, verdict
    from anyorder.evaluation.tables import calibration_summary, calibration_table, rich_tables
    from anyorder.session import open_session

    session = open_session(task, data, denoiser, limit, seed, generate, task_options, None)
    console = wide_console()
    with ProgressBar(Console(stderr=True)) as progress:
        found = measure(session.denoiser, session.task, session.instances, steps, seed=seed, progress=progress)
    for table in rich_tables(found.report):
        console.print(table)
    for title, part in (
        ("All predictions on the confidence path", found.every_prediction),
        ("The most confident prediction of each state", found.most_confident),
    ):
        console.print(calibration_summary(title, part))
        console.print(calibration_table(part))
    console.print(verdict(found), style="bold")


@app.command()
def sample(
    problem: Annotated[str, typer.Argument(help="a problem as text, or a file of problems")],
    task: TaskOption = "sudoku",
    denoiser: DenoiserOption = None,
    order: Annotated[str, typer.Option(help="an order, or 'policy'; add +undo or +repredict for another mode")] = "policy+undo",
    steps: Annotated[str, typer.Option(help="budget of forwards; 'all' for one position per step")] = "20",
    noise: Annotated[float, typer.Option(min=0, help="scale of Gumbel noise on the scores")] = 0.0,
    seed: SeedOption = 0,
    limit: LimitOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="write tokens, commit steps and log-probabilities (safetensors)")
    ] = None,
    task_options: TaskOptionsOption = None,
    any_denoiser: AnyDenoiserOption = False,
) -> None:
    """Decode problems; solutions go to standard output, one per line. Exit code 1 if one of them breaks the rules."""
    from anyorder.evaluation.evaluate import decode_in_batches
    from anyorder.evaluation.orders import make_decoder
    from anyorder.session import open_session

    session = open_session(
        task, None, denoiser, limit, seed, None, task_options, None, strict=not any_denoiser, problem=problem
    )
    instances = session.instances
    budget = _steps(steps, int(instances.maskable.sum(dim=1).max()))[0]
    decoder = make_decoder(order, budget, noise, session.load_policy)
    decoded = decode_in_batches(session.denoiser, instances, decoder, seed=seed, batch_size=256, progress=None, name="sample")
    for tokens in decoded.tokens:
        print(session.task.format(tokens))
    if out:
        decoded.save(out)
    right = session.task.check(instances, decoded.tokens).instance_correct
    forwards = float(decoded.forwards.double().mean())
    print(f"{int(right.sum())} of {len(right)} keep the rules; {forwards:.1f} forwards each", file=sys.stderr)
    if not bool(right.all()):
        raise typer.Exit(1)


@app.command()
def reproduce(
    target: Annotated[
        str,
        typer.Argument(
            help="table1, table3, table4, figure2 or figure3 of arXiv 2606.00295; "
            "stability, falsification (its review); or 'all' of the scale"
        ),
    ],
    scale: Annotated[str, typer.Option(help="small: two cores, within the hour; paper: the 6M GPT-2, one GPU")] = "small",
    out: Annotated[
        Path | None, typer.Option("--out", help="folder shared by all targets; runs/reproduce/SCALE by default")
    ] = None,
    seeds: Annotated[str, typer.Option(help="comma-separated seeds of the fits")] = "0,1,2",
    problems: Annotated[int | None, typer.Option(min=1, help="test problems per task")] = None,
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 2,
) -> None:
    """Reproduce a table or figure of a paper. Interrupted, the same command goes on; targets share models and decodings."""
    from anyorder.reproduce import SCALES, TARGETS
    from anyorder.reproduce import reproduce as run

    folder = out or Path("runs") / "reproduce" / scale
    every = [name for name, t in TARGETS.items() if set(t.tasks) <= SCALES.get(scale, {}).keys()]
    for name in every if target == "all" and every else (target,):
        outcome = run(
            name, scale, folder, seeds=_numbers(seeds, int, "--seeds"), workers=workers, problems=problems,
            say=lambda line: print(line, file=sys.stderr),
        )  # fmt: skip
        print(f"# {outcome.title}\n\n{outcome.markdown}")
        print(f"{folder / name}.md, .json" + (", .png" if outcome.lines or outcome.bars else ""), file=sys.stderr)


@app.command("list")
def list_all() -> None:
    """Denoisers, orders, tasks, recipes, count rules."""
    from rich.table import Table

    from anyorder.decoding.counts import COUNT_RULES
    from anyorder.orders.heuristics import HEURISTICS, ORACLES
    from anyorder.tasks import TASKS
    from anyorder.training.settings import load_recipe, recipe_names
    from anyorder.zoo import folder_of, task_of, zoo_names

    table = Table(show_header=False, box=None)
    for name in zoo_names():
        task = task_of(folder_of(name))
        has_order = " with a fitted order" if (folder_of(name) / "order").is_dir() else ""
        table.add_row("denoiser", name, f"{task.name}, {task.length} tokens{has_order}")
    for name, function in (HEURISTICS | ORACLES).items():
        table.add_row("order", name, (function.__doc__ or "").splitlines()[0])
    table.add_row("order", "policy", "The denoiser's learned order; a folder names any other. +undo takes commitments back.")
    for name, cls in TASKS.items():
        table.add_row("task", name, (cls.__doc__ or "").splitlines()[0])
    for name in recipe_names():
        table.add_row("recipe", name, load_recipe(name).description)
    for name, rule in COUNT_RULES.items():
        table.add_row("count rule", name, (rule.__doc__ or "").splitlines()[0])
    wide_console().print(table)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="folder of the picture, the report and the fitted policy")] = Path("demo"),
    instances: Annotated[int, typer.Option(min=10, help="puzzles to solve under every order")] = 200,
    seed: SeedOption = 0,
) -> None:
    """Solve real Sudokus under every order, fit a policy, and see what the learned order gains."""
    from anyorder.demo import run_demo

    run_demo(out, instances, seed)


def _names(text: str) -> list[str]:
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise BadInput("name at least one order")
    return names


def _numbers(text: str, kind: type, option: str) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError as error:
        raise BadInput(f"{option} {text!r} must be numbers separated by commas") from error


def _steps(text: str, longest: int) -> list[int]:
    budgets = _numbers(text.replace("all", str(max(1, longest))), int, "--steps")
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
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("decoding")

    def __enter__(self) -> "ProgressBar":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, name: str, done: int, total: int) -> None:
        self.bar.update(self.task, description=name, completed=done, total=total)


if __name__ == "__main__":
    main()
