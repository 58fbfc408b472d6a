"""Commands that try many ways of decoding on the same problems: pareto, pass-at-n."""

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
    names,
    numbers,
    read_budgets,
    token_rule,
    wide_console,
)
from anyorder.errors import BadInput

_JsonOption = Annotated[Path | None, typer.Option("--json", help="write everything, the outcome of each problem too")]
_PlotOption = Annotated[Path | None, typer.Option("--plot", help="draw it (.png or .svg)")]
_MarkdownOption = Annotated[Path | None, typer.Option("--markdown", help="write the tables as Markdown")]
_BatchOption = Annotated[int, typer.Option(min=1)]


@app.command()
def pareto(
    task: TaskOption = "sudoku",
    data: DataOption = None,
    denoiser: DenoiserOption = None,
    orders: Annotated[str | None, typer.Option(help="comma-separated curves ORDER[@RULE[:V1/V2/...]]; all that suit confidence "
                                               "and the learned order if not given")] = None,
    blocks: Annotated[str, typer.Option(help="comma-separated modes: 'full' diffusion, or positions per block")] = "full",
    against: Annotated[str, typer.Option(help="curve to compare with; 'best' is the best heuristic of each mode")] = "best",
    bounds: Annotated[str | None, typer.Option(help="LOW,HIGH: forwards between which the area is taken; 1 to one position "
                                               "per step if not given")] = None,
    limit: LimitOption = 100,
    policy: PolicyOption = None,
    json_out: _JsonOption = None,
    plot: _PlotOption = None,
    markdown_out: _MarkdownOption = None,
    seed: SeedOption = 0,
    batch_size: _BatchOption = 256,
    generate: GenerateOption = None,
    task_options: TaskOptionsOption = None,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    any_denoiser: AnyDenoiserOption = False,
    trust_remote_code: RemoteCodeOption = False,
    model_options: ModelOption = None,
) -> None:  # fmt: skip
    """Accuracy against forwards: curves of operating points on the same problems, their fronts, and the area under them."""
    from rich.console import Console

    from anyorder.evaluation.curves import parse_curves
    from anyorder.evaluation.pareto import grids_of, lines_of
    from anyorder.evaluation.pareto import pareto as run
    from anyorder.evaluation.tables import markdown_grids, rich_table
    from anyorder.files import write_json, write_text
    from anyorder.processes import Shard
    from anyorder.session import open_session

    token = token_rule(temperature, top_p)
    shard = Shard.join()
    session = open_session(
        task, data, denoiser, limit, seed, generate, task_options, policy, strict=not any_denoiser,
        trust_remote_code=trust_remote_code, model_options=model_options,
    )  # fmt: skip
    longest = max(1, int(session.instances.maskable.sum(dim=1).max()))
    wanted = names(orders) if orders is not None else ["confidence", *(["policy"] if session.has_policy else [])]
    with ProgressBar(Console(stderr=True)) as progress:
        found = run(
            session.denoiser,
            session.task,
            session.instances,
            parse_curves(wanted, session.load_policy, longest),
            _modes(blocks),
            load_policy=session.load_policy,
            against=against,
            bounds=None if bounds is None else _bounds(bounds),
            token=token,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
            meta=session.meta,
            shard=shard,
        )
    if shard.index:
        return
    grids = grids_of(found)
    for grid in grids:
        wide_console().print(rich_table(*grid))
    if json_out:
        write_json(json_out, found.to_json())
    if markdown_out:
        write_text(markdown_out, markdown_grids(grids))
    if plot:
        from anyorder.report.plots import panels

        labels = ("forwards of the denoiser per sequence", f"{found.meta['correct_means']}, %")
        print(f"plot: {panels(lines_of(found), plot, *labels, log_x=True)}")


@app.command("pass-at-n")
def pass_at_n(
    task: TaskOption = "sudoku",
    data: DataOption = None,
    denoiser: DenoiserOption = None,
    orders: Annotated[str, typer.Option(help="comma-separated; X~SIGMA perturbs the probabilities of X by normal noise")] = (
        "random,top_k:5"
    ),
    draws: Annotated[int, typer.Option(min=1, help="N: draws of each problem")] = 16,
    steps: Annotated[str, typer.Option(help="budget of forwards of one draw; 'all': one position per step")] = "all",
    limit: LimitOption = 100,
    policy: PolicyOption = None,
    json_out: _JsonOption = None,
    plot: _PlotOption = None,
    markdown_out: _MarkdownOption = None,
    seed: SeedOption = 0,
    batch_size: _BatchOption = 256,
    generate: GenerateOption = None,
    task_options: TaskOptionsOption = None,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    any_denoiser: AnyDenoiserOption = False,
    trust_remote_code: RemoteCodeOption = False,
    model_options: ModelOption = None,
) -> None:
    """Is there a right answer among N draws of a stochastic order? Pass@1 to Pass@N, estimated without bias."""
    from rich.console import Console

    from anyorder.evaluation.pass_at_n import grid_of, lines_of
    from anyorder.evaluation.pass_at_n import pass_at_n as run
    from anyorder.evaluation.tables import markdown_grids, rich_table
    from anyorder.files import write_json, write_text
    from anyorder.processes import Shard
    from anyorder.session import open_session

    token = token_rule(temperature, top_p)
    shard = Shard.join()
    session = open_session(
        task, data, denoiser, limit, seed, generate, task_options, policy, strict=not any_denoiser,
        trust_remote_code=trust_remote_code, model_options=model_options,
    )  # fmt: skip
    budget = read_budgets(steps, int(session.instances.maskable.sum(dim=1).max()))
    if len(budget) != 1:
        raise BadInput(f"--steps {steps!r}: give one budget")
    with ProgressBar(Console(stderr=True)) as progress:
        results = run(
            session.denoiser,
            session.task,
            session.instances,
            names(orders),
            draws,
            load_policy=session.load_policy,
            steps=budget[0],
            token=token,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
            shard=shard,
        )
    if shard.index:
        return
    grid = grid_of(results)
    wide_console().print(rich_table(*grid))
    if json_out:
        meta = {**session.meta, "seed": seed, "steps": budget[0]}
        write_json(json_out, {"results": [result.to_json() for result in results], "meta": meta})
    if markdown_out:
        write_text(markdown_out, markdown_grids([grid]))
    if plot:
        from anyorder.report.plots import panels

        print(f"plot: {panels({session.meta['data']: lines_of(results)}, plot, 'N', 'Pass@N, %')}")


def _modes(text: str) -> list[int | None]:
    modes: list[int | None] = []
    for part in text.split(","):
        if part.strip() != "full" and not (part.strip().isdigit() and int(part) > 0):
            raise BadInput(f"--blocks {text!r}: 'full', and numbers of positions from 1 on, separated by commas")
        modes.append(None if part.strip() == "full" else int(part))
    return list(dict.fromkeys(modes))


def _bounds(text: str) -> tuple[float, float]:
    found = numbers(text, float, "--bounds")
    if len(found) != 2 or not 0 < found[0] < found[1]:
        raise BadInput(f"--bounds {text!r}: two numbers, the first above 0 and below the second")
    return found[0], found[1]
