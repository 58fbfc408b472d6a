"""Commands that decode: evaluate, headroom, sample, demo."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from anyorder.cli.app import app
from anyorder.cli.options import (
    AnyDenoiserOption,
    DataOption,
    DenoiserOption,
    GenerateOption,
    LimitOption,
    ModelOption,
    PolicyOption,
    ProgressBar,
    RemoteCodeOption,
    SeedOption,
    TaskOption,
    TaskOptionsOption,
    TemperatureOption,
    TopPOption,
    TrajectoriesOption,
    names,
    numbers,
    read_budgets,
    token_rule,
    wide_console,
)
from anyorder.errors import BadInput


@app.command()
def evaluate(
    task: TaskOption = "sudoku",
    data: DataOption = None,
    denoiser: DenoiserOption = None,
    orders: Annotated[str | None, typer.Option(help="comma-separated; X+undo, X+repredict: other modes, X@COUNT: its count "
                                               "rule, X@blocks:32: in blocks. All that can be had if not given")] = None,
    steps: Annotated[str, typer.Option(help="comma-separated budgets of forwards; 'all': one position per step")] = "5,10,20",
    noise: Annotated[str, typer.Option(help="comma-separated scales of Gumbel noise on the scores")] = "0",
    limit: LimitOption = None,
    policy: PolicyOption = None,
    against: Annotated[str, typer.Option(help="order to compare with; 'best' is the best heuristic of each table")] = "best",
    count: Annotated[str, typer.Option(help="how many per step: linear, cosine, fixed:K, threshold:P, factor:F, "
                                       "entropy_bound:G, klass:P:KL, predicted_error:E, score_threshold:P, bernoulli:T, ...; "
                                       "see `anyorder list`")] = "",
    json_out: Annotated[Path | None, typer.Option("--json", help="write the report (.json, or .parquet)")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="draw accuracy against forwards (.png or .svg)")] = None,
    markdown_out: Annotated[Path | None, typer.Option("--markdown", help="write the tables as Markdown")] = None,
    trajectories: TrajectoriesOption = None,
    keep: Annotated[int | None, typer.Option(min=1, help="of the first N problems only; of all by default")] = None,
    seed: SeedOption = 0,
    batch_size: Annotated[int, typer.Option(min=1)] = 256,
    generate: GenerateOption = None,
    task_options: TaskOptionsOption = None,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    judge: Annotated[list[str] | None, typer.Option(help="pseudo_likelihood[:K], perplexity:MODEL, igfold[:MODELS], "
                                            "esmfold[:MODEL]")] = None,
    any_denoiser: AnyDenoiserOption = False,
    trust_remote_code: RemoteCodeOption = False,
    model_options: ModelOption = None,
) -> None:  # fmt: skip
    """Hold orders against one another on the same problems."""
    from rich.console import Console

    from anyorder.evaluation.evaluate import evaluate as run
    from anyorder.evaluation.judges import make_judges
    from anyorder.evaluation.orders import parse_count_rule
    from anyorder.evaluation.saved import check_suffix, save_trajectories
    from anyorder.evaluation.tables import markdown, rich_tables
    from anyorder.files import write_text
    from anyorder.processes import Shard
    from anyorder.session import open_session

    if keep and not trajectories:
        raise BadInput("--keep says of how many problems the trajectories are kept: it needs --trajectories FILE")
    if trajectories:
        check_suffix(trajectories)
    rule = parse_count_rule(count) if count else None
    scales = numbers(noise, float, "--noise")
    if min(scales) < 0:
        raise BadInput(f"--noise {noise!r}: a scale cannot be negative")
    token = token_rule(temperature, top_p)
    shard = Shard.join()
    session = open_session(
        task, data, denoiser, limit, seed, generate, task_options, policy, strict=not any_denoiser,
        trust_remote_code=trust_remote_code, model_options=model_options,
    )  # fmt: skip
    budgets = read_budgets(steps, int(session.instances.maskable.sum(dim=1).max()))
    watch = session.watch(seed, keep) if trajectories else None
    console = Console(stderr=True)
    with ProgressBar(console) as progress:
        report = run(
            session.denoiser,
            session.task,
            session.instances,
            names(orders) if orders is not None else session.all_orders(),
            budgets,
            noise=scales,
            load_policy=session.load_policy,
            against=against,
            count=rule,
            token=token,
            judges=make_judges(judge or [], session.denoiser),
            seed=seed,
            batch_size=batch_size,
            progress=progress,
            meta={**session.meta, "count": count or "linear; second_look with undo"},
            watch=watch,
            shard=shard,
        )
    if shard.index:
        return
    for table in rich_tables(report):
        wide_console().print(table)
    if json_out:
        report.save(json_out)
    if markdown_out:
        write_text(markdown_out, markdown(report))
    if trajectories and watch:
        save_trajectories(watch.trajectories(), trajectories)
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
    batch_size: Annotated[int, typer.Option(min=1)] = 256,
    generate: GenerateOption = None,
    task_options: TaskOptionsOption = None,
    trust_remote_code: RemoteCodeOption = False,
    model_options: ModelOption = None,
) -> None:
    """Is learning an order worth it for this model and data? Heuristics, oracle, and the denoiser's calibration."""
    from rich.console import Console

    from anyorder.evaluation.headroom import measure, verdict
    from anyorder.evaluation.tables import calibration_summary, calibration_table, rich_tables
    from anyorder.session import open_session

    session = open_session(
        task, data, denoiser, limit, seed, generate, task_options, None,
        trust_remote_code=trust_remote_code, model_options=model_options,
    )  # fmt: skip
    console = wide_console()
    with ProgressBar(Console(stderr=True)) as progress:
        found = measure(
            session.denoiser, session.task, session.instances, steps, seed=seed, batch_size=batch_size, progress=progress
        )
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
    order: Annotated[
        str | None,
        typer.Option(help="an order, or 'policy'; +undo or +repredict for another mode. The best there is by default"),
    ] = None,
    steps: Annotated[str, typer.Option(help="budget of forwards; 'all' for one position per step")] = "20",
    number: Annotated[int, typer.Option(min=1, help="samples of each problem")] = 1,
    only_valid: Annotated[bool, typer.Option("--only-valid", help="print only samples that keep the rules")] = False,
    policy: PolicyOption = None,
    noise: Annotated[float, typer.Option(min=0, help="scale of Gumbel noise on the scores")] = 0.0,
    seed: SeedOption = 0,
    limit: LimitOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="write tokens, commit steps and log-probabilities (safetensors)")
    ] = None,
    fasta: Annotated[
        Path | None, typer.Option("--fasta", help="write the sequences as FASTA, named by order, steps, seed and length")
    ] = None,
    trajectories: TrajectoriesOption = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 256,
    task_options: TaskOptionsOption = None,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    any_denoiser: AnyDenoiserOption = False,
    trust_remote_code: RemoteCodeOption = False,
    model_options: ModelOption = None,
) -> None:
    """Decode problems; solutions go to standard output, one per line. Exit code 1 if one that is printed breaks the rules, or
    none is printed."""
    import torch

    from anyorder.evaluation.evaluate import decode_in_batches
    from anyorder.evaluation.orders import make_decoder
    from anyorder.evaluation.saved import check_suffix, save_trajectories
    from anyorder.processes import Shard
    from anyorder.session import open_session
    from anyorder.tasks.sequences import design_names, write_fasta

    if trajectories:
        check_suffix(trajectories)
    shard = Shard.join()
    session = open_session(
        task, None, denoiser, limit, seed, None, task_options, policy, strict=not any_denoiser, problem=problem,
        trust_remote_code=trust_remote_code, model_options=model_options,
    )  # fmt: skip
    if fasta and not session.task.sequential:
        raise BadInput(f"--fasta is for sequences, not for {task}: use --out")
    instances = session.instances
    instances = instances[torch.arange(len(instances)).repeat_interleave(number)]
    budget = read_budgets(steps, int(instances.maskable.sum(dim=1).max()))[0]
    order = order or session.best_order()
    decoder = make_decoder(order, budget, noise, session.load_policy, token=token_rule(temperature, top_p))
    watch = session.watch(seed, instances=instances) if trajectories else None
    decoder = watch.over(decoder, seed) if watch else decoder
    batch_size = min(batch_size, -(-len(instances) // shard.count))
    decoded = decode_in_batches(
        session.denoiser, instances, decoder, seed=seed, batch_size=batch_size, progress=None, name="sample", shard=shard
    )
    if trajectories and watch:
        watch.note(order, decoder, decoded, shard)
    right = session.task.check(instances, decoded.tokens).instance_correct
    shown = [session.task.format(tokens) for tokens in (decoded.tokens[right] if only_valid else decoded.tokens)]
    for text in shown:
        print(text)
    if shard.index:  # the first one's exit code is everyone's
        return
    if fasta:
        write_fasta(fasta, list(zip(design_names(shown, order, budget, seed), shown, strict=True)))
    if out:
        decoded.save(out)
    if trajectories and watch:
        save_trajectories(watch.trajectories(), trajectories)
    forwards = float(decoded.forwards.double().mean())
    share = f"{session.task.correct_means}: {int(right.sum())} of {len(right)}"
    print(f"{share}; {forwards:.1f} forwards each", file=sys.stderr)
    if not shown or not (only_valid or bool(right.all())):
        raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="folder of the picture, the report and the fitted policy")] = Path("demo"),
    instances: Annotated[int, typer.Option(min=10, help="puzzles to solve under every order")] = 200,
    seed: SeedOption = 0,
) -> None:
    """Solve real Sudokus under every order, fit a policy, and see what the learned order gains."""
    from anyorder.demo import run_demo

    run_demo(out, instances, seed)
