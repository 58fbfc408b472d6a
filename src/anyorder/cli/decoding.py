"""Commands that decode: evaluate, pareto, headroom, sample, demo."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from anyorder.cli.app import command
from anyorder.cli.options import (
    LARGEST,
    STEPS,
    AgainstOption,
    AnnealOption,
    BatchSizeOption,
    CountOption,
    DataOption,
    EosPenaltyOption,
    GenerateOption,
    IgnoreFingerprintOption,
    JsonOption,
    JudgeOption,
    LimitOption,
    MarkdownOption,
    ModelOption,
    ModelOptionsOption,
    NoiseOption,
    OrderOption,
    OrdersOption,
    PlotOption,
    PolicyOption,
    ProgressBar,
    RemoteCodeOption,
    SavedStepsOption,
    SeedOption,
    SkipUnreadableOption,
    StepsOption,
    TaskOption,
    TaskOptionsOption,
    TemperatureOption,
    TopPOption,
    TrajectoriesOption,
    check_outputs,
    is_saved,
    names,
    read_budget,
    read_budgets,
    read_noise,
    read_scale,
    token_rule,
    wide_console,
)
from anyorder.errors import BadInput


@command()
def evaluate(
    model: ModelOption = None,
    task: TaskOption = None,
    data: DataOption = None,
    orders: OrdersOption = None,
    steps: StepsOption = STEPS,
    noise: NoiseOption = None,
    anneal: AnnealOption = False,
    count: CountOption = "",
    draws: Annotated[
        int,
        typer.Option(min=1, max=10_000, help="decode each problem N times and print Pass@1 to Pass@N, estimated without bias"),
    ] = 1,
    against: AgainstOption = "best",
    limit: LimitOption = None,
    policy: PolicyOption = None,
    json_out: JsonOption = None,
    plot: PlotOption = None,
    markdown_out: MarkdownOption = None,
    trajectories: TrajectoriesOption = None,
    keep: Annotated[int | None, typer.Option(min=1, help="record only the first N problems; by default all")] = None,
    seed: SeedOption = 0,
    batch_size: BatchSizeOption = 256,
    generate: GenerateOption = None,
    task_options: TaskOptionsOption = None,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    eos_penalty: EosPenaltyOption = 0.0,
    judge: JudgeOption = None,
    ignore_fingerprint: IgnoreFingerprintOption = False,
    trust_remote_code: RemoteCodeOption = False,
    model_options: ModelOptionsOption = None,
    skip_unreadable: SkipUnreadableOption = False,
) -> None:
    """Compare samplers on the same problems: accuracy with intervals, paired tests, NFE, the share of the oracle gap closed."""
    from anyorder.evaluation.judges import make_judges
    from anyorder.evaluation.samplers import as_samplers
    from anyorder.evaluation.saved import save_trajectories
    from anyorder.evaluation.tables import markdown, rich_tables
    from anyorder.files import write_text
    from anyorder.processes import Shard
    from anyorder.session import open_session

    if keep and not trajectories:
        raise BadInput("--keep says how many problems are recorded: it needs --trajectories FILE")
    results = {"report" if draws == 1 else "json": json_out}
    check_outputs(read=[data], **results, markdown=markdown_out, plot=plot, trajectories=trajectories)
    token, scales, shard = token_rule(temperature, top_p), read_noise(noise, anneal), Shard.join()
    session = open_session(
        task=task, data=data, model=model, limit=limit, seed=seed, generate=generate, task_options=task_options, policy=policy,
        strict=not ignore_fingerprint, trust_remote_code=trust_remote_code, model_options=model_options,
        skip_unreadable=skip_unreadable,
    )  # fmt: skip
    samplers: Any = names(orders) if orders is not None else session.samplers()
    common: dict[str, Any] = {"token": token, "seed": seed, "batch_size": batch_size, "shard": shard, "strict": session.strict}
    if draws > 1:
        if judge or trajectories or eos_penalty or against != "best" or scales not in (None, [0.0]):
            raise BadInput(
                "--draws prints Pass@N alone: leave out --judge, --trajectories, --eos-penalty, --against and --noise, "
                "and write ORDER~SIGMA"
            )
        outputs = (json_out, plot, markdown_out)
        return _pass_at_n(session, samplers, draws, read_budget(steps, session.longest), count, common, outputs)
    watch = session.watch(seed, keep) if trajectories else None
    settings = {
        "noise": scales, "anneal": None if scales is None else anneal, "against": against, "count": count or None,
        "judges": make_judges(judge or [], session.denoiser), "meta": session.meta,
        "watch": watch,
    }  # fmt: skip
    if eos_penalty:
        made = as_samplers(samplers, count=count or None, token=token)
        samplers = {text: session.late_ends(one, eos_penalty) for text, one in made.items()}
    report = _evaluated(session, samplers, read_budgets(steps, session.longest), settings | common)
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


def _evaluated(session: Any, samplers: Any, budgets: list[int], settings: dict[str, Any]) -> Any:
    """The report, with a progress bar while it is made."""
    from rich.console import Console

    from anyorder.evaluation.comparison import evaluate as run

    with ProgressBar(Console(stderr=True)) as progress:
        return run(
            session.denoiser, session.task, session.instances, samplers, budgets, progress=progress, **settings
        )  # fmt: skip


def _pass_at_n(
    session: Any,
    samplers: list[str],
    draws: int,
    steps: int,
    count: str,
    common: dict[str, Any],
    outputs: tuple[Path | None, ...],
) -> None:
    """Decode every problem several times, print Pass@N and write the files."""
    from rich.console import Console

    from anyorder.evaluation.repeated_draws import grid_of, lines_of
    from anyorder.evaluation.repeated_draws import pass_at_n as run
    from anyorder.evaluation.tables import markdown_grids, rich_table
    from anyorder.files import write_json, write_text

    json_out, plot, markdown_out = outputs
    with ProgressBar(Console(stderr=True)) as progress:
        results = run(
            session.denoiser, session.task, session.instances, samplers, draws, steps=steps, count=count or None,
            progress=progress, **common,
        )  # fmt: skip
    if common["shard"].index:
        return
    grid = grid_of(results)
    wide_console().print(rich_table(*grid))
    if json_out:
        meta = {**session.meta, "seed": common["seed"], "steps": steps}
        write_json(json_out, {"results": [result.to_json() for result in results], "meta": meta})
    if markdown_out:
        write_text(markdown_out, markdown_grids([grid]))
    if plot:
        from anyorder.report.plots import panels

        print(f"plot: {panels({session.meta['data']: lines_of(results)}, plot, 'N', 'Pass@N, %')}")


@command()
def headroom(
    model: ModelOption = None,
    task: TaskOption = None,
    data: DataOption = None,
    steps: StepsOption = STEPS,
    limit: LimitOption = None,
    seed: SeedOption = 0,
    batch_size: BatchSizeOption = 256,
    generate: GenerateOption = None,
    task_options: TaskOptionsOption = None,
    trust_remote_code: RemoteCodeOption = False,
    model_options: ModelOptionsOption = None,
    skip_unreadable: SkipUnreadableOption = False,
) -> None:
    """What is there to gain for this model and data? Heuristics, oracles, calibration, and what a short fit learns. Half of
    every complete text or sequence is hidden, or another share by --task-option hide=SHARE."""
    from rich.console import Console

    from anyorder.evaluation.headroom_check import headroom as run
    from anyorder.evaluation.headroom_check import recommendation
    from anyorder.evaluation.tables import calibration_summary, calibration_table, rich_tables
    from anyorder.session import open_session

    session = open_session(
        task=task, data=data, model=model, limit=limit, seed=seed, generate=generate, task_options=task_options,
        trust_remote_code=trust_remote_code, model_options=model_options, hide=0.5,
        skip_unreadable=skip_unreadable,
    )  # fmt: skip
    console, budget = wide_console(), read_budget(steps, session.longest)
    with ProgressBar(Console(stderr=True)) as progress:
        found = run(
            session.denoiser, session.task, session.instances, budget, seed=seed, batch_size=batch_size, progress=progress
        )
    for table in rich_tables(found.report):
        console.print(table)
    for title, part in (
        ("All predictions on the confidence path", found.every_prediction),
        ("The most confident prediction of each state", found.most_confident),
    ):
        console.print(calibration_summary(title, part))
        console.print(calibration_table(part))
    console.print(recommendation(found), style="bold")
    console.print(f"It took {found.stages}")


@command()
def sample(
    problem: Annotated[
        str, typer.Argument(help="a problem as text (after --, if it begins with a minus), or a file of problems")
    ],
    model: ModelOption = None,
    task: TaskOption = None,
    order: OrderOption = None,
    steps: SavedStepsOption = None,
    number: Annotated[int, typer.Option(min=1, max=1_000_000, help="samples of each problem")] = 1,
    only_valid: Annotated[bool, typer.Option("--only-valid", help="print only samples that keep the rules")] = False,
    policy: PolicyOption = None,
    noise: NoiseOption = None,
    anneal: AnnealOption = False,
    seed: SeedOption = 0,
    limit: LimitOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="write tokens, commit steps and log-probabilities (safetensors)")
    ] = None,
    fasta: Annotated[
        Path | None, typer.Option("--fasta", help="write the sequences as FASTA, named by order, steps, seed and length")
    ] = None,
    trajectories: TrajectoriesOption = None,
    batch_size: BatchSizeOption = 256,
    task_options: TaskOptionsOption = None,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    eos_penalty: EosPenaltyOption = 0.0,
    ignore_fingerprint: IgnoreFingerprintOption = False,
    trust_remote_code: RemoteCodeOption = False,
    model_options: ModelOptionsOption = None,
    skip_unreadable: SkipUnreadableOption = False,
) -> None:
    """Decode problems and print the solutions, one per line. The exit code is 1 if a printed solution breaks the rules, or if
    none is printed."""
    import torch

    from anyorder.denoisers.base import attention_of
    from anyorder.evaluation.batches import decode_in_batches
    from anyorder.evaluation.saved import save_trajectories
    from anyorder.interfaces.arguments import check_budget
    from anyorder.processes import Shard
    from anyorder.session import open_session
    from anyorder.tasks import check_size
    from anyorder.tasks.instances import checked_result
    from anyorder.tasks.sequence_files import design_names, write_fasta

    check_outputs(read=[problem], tensors=out, fasta=fasta, trajectories=trajectories)
    scale = read_scale(noise, anneal)
    shard = Shard.join()
    session = open_session(
        task=task, model=model, limit=limit, seed=seed, task_options=task_options, policy=policy, problem=problem,
        strict=not ignore_fingerprint, trust_remote_code=trust_remote_code, model_options=model_options,
        skip_unreadable=skip_unreadable,
    )  # fmt: skip
    if fasta and session.task.sequential is not True:
        raise BadInput(f"--fasta is for sequences, not for {session.task.name}: use --out")
    instances = session.instances
    check_size(len(instances) * number, instances.tokens.shape[1])
    instances = instances[torch.arange(len(instances)).repeat_interleave(number)]
    order = order or session.best_sampler()
    is_saved(order, temperature=temperature > 0, top_p=top_p < 1)
    sampler = session.bind(order, token=token_rule(temperature, top_p))
    if steps is not None or sampler.steps is None:
        sampler = sampler.replace(steps=read_budget(steps or STEPS, session.longest))
    if scale is not None:
        sampler = sampler.replace(noise=scale, anneal=anneal)
    check_budget(
        session.denoiser, instances.tokens, attention_of(session.denoiser, instances.tokens), sampler.steps,
        sampler.block_length,
    )  # fmt: skip
    sampler = session.late_ends(sampler, eos_penalty)
    watch = session.watch(seed, instances=instances) if trajectories else None
    batch_size = min(batch_size, -(-len(instances) // shard.count))
    decoded = decode_in_batches(
        session.denoiser, instances, sampler, seed=seed, batch_size=batch_size, progress=None, name="sample", shard=shard,
        ends=session.task.stops_at, on_step=() if watch is None else watch.record(seed),
    )  # fmt: skip
    if trajectories and watch:
        watch.note(order, sampler, decoded, shard)
    right = checked_result(session.task, instances, decoded.tokens).instance_correct
    shown = [session.task.format(tokens) for tokens in (decoded.tokens[right] if only_valid else decoded.tokens)]
    for text in shown:
        print(text)
    if shard.index:  # the first process's exit code is everyone's
        return
    if fasta:
        write_fasta(fasta, list(zip(design_names(shown, order, sampler.steps or 0, seed), shown, strict=True)))
    if out:
        decoded.save(out)
    if trajectories and watch:
        save_trajectories(watch.trajectories(), trajectories)
    _say_what_failed(session.task.correct_means, right.view(-1, number), float(decoded.nfe.double().mean()))
    if not shown or not (only_valid or bool(right.all())):
        raise typer.Exit(1)


def _say_what_failed(measure: str, right: Any, nfe: float) -> None:
    """Print one line on standard error: how many samples (N, S) are right, NFE, and which problems have a wrong sample."""
    failed = [str(number + 1) for number in (~right).any(dim=1).nonzero()[:, 0].tolist()]
    shown = ", ".join(failed[:20]) + (", ..." if len(failed) > 20 else "")
    said = f"; failed: problem{'s' * (len(failed) > 1)} {shown}" if failed else ""
    print(f"{measure}: {int(right.sum())} of {right.numel()}; {nfe:.1f} forward passes each{said}", file=sys.stderr)


@command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="folder of the plot, the report and the fitted policy")] = Path("demo"),
    limit: LimitOption = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, max=LARGEST, help="seed of the puzzles; by default another one each time")
    ] = None,
) -> None:
    """Fit a policy to a Sudoku model, solve random puzzles with every sampler, and write a page that plays them back."""
    from anyorder.demo import run_demo
    from anyorder.files import check_writable

    check_writable(out, folder=True)

    run_demo(out, limit or 200, seed)
