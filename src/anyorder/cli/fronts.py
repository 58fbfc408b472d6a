"""The command pareto: accuracy against forward passes."""

from typing import Annotated

import typer

from anyorder.cli.app import command
from anyorder.cli.options import (
    AgainstOption,
    AnnealOption,
    BatchSizeOption,
    DataOption,
    GenerateOption,
    IgnoreFingerprintOption,
    JsonOption,
    LimitOption,
    MarkdownOption,
    ModelOption,
    ModelOptionsOption,
    NoiseOption,
    OrdersOption,
    PlotOption,
    PolicyOption,
    ProgressBar,
    RemoteCodeOption,
    SeedOption,
    SkipUnreadableOption,
    TaskOption,
    TaskOptionsOption,
    TemperatureOption,
    TopPOption,
    check_outputs,
    names,
    numbers,
    read_noise,
    token_rule,
    wide_console,
)
from anyorder.errors import BadInput


@command()
def pareto(
    model: ModelOption = None,
    task: TaskOption = None,
    data: DataOption = None,
    orders: OrdersOption = None,
    blocks: Annotated[str, typer.Option(help="comma-separated modes: 'full', or a number of positions per block")] = "full",
    against: AgainstOption = "best",
    bounds: Annotated[
        str | None, typer.Option(help="LOW,HIGH: forward passes of the area; by default from 1 to one position per step")
    ] = None,
    limit: LimitOption = None,
    policy: PolicyOption = None,
    json_out: JsonOption = None,
    plot: PlotOption = None,
    markdown_out: MarkdownOption = None,
    noise: NoiseOption = None,
    anneal: AnnealOption = False,
    seed: SeedOption = 0,
    batch_size: BatchSizeOption = 256,
    generate: GenerateOption = None,
    task_options: TaskOptionsOption = None,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    ignore_fingerprint: IgnoreFingerprintOption = False,
    trust_remote_code: RemoteCodeOption = False,
    model_options: ModelOptionsOption = None,
    skip_unreadable: SkipUnreadableOption = False,
) -> None:
    """Measure accuracy against forward passes: operating points on the same problems, their curves, fronts and areas.

    Each entry of --orders is a curve. COUNT may have several values, as in confidence@threshold:0.5/0.9. For a count rule
    without arguments the values are budgets, as in confidence@linear:5/10/all. Without COUNT, the order gets one curve for
    every rule that suits it. The default set is confidence and the model's own policy.
    """
    from rich.console import Console

    from anyorder.evaluation.operating_points import grids_of
    from anyorder.evaluation.operating_points import pareto as run
    from anyorder.evaluation.tables import markdown_grids, rich_table
    from anyorder.files import write_json, write_text
    from anyorder.processes import Shard
    from anyorder.session import open_session

    check_outputs(read=[data], json=json_out, markdown=markdown_out, plot=plot)
    token, shard = token_rule(temperature, top_p), Shard.join()
    scales = read_noise(noise, anneal)
    session = open_session(
        task=task, data=data, model=model, limit=limit, seed=seed, generate=generate, task_options=task_options, policy=policy,
        strict=not ignore_fingerprint, trust_remote_code=trust_remote_code, model_options=model_options,
        skip_unreadable=skip_unreadable,
    )  # fmt: skip
    own = ["policy"] if session.denoiser.own_order else []
    wanted = names(orders) if orders is not None else ["confidence", *own]
    with ProgressBar(Console(stderr=True)) as progress:
        found = run(
            session.denoiser, session.task, session.instances, wanted, _modes(blocks),
            against=against, bounds=None if bounds is None else _bounds(bounds), token=token,
            noise=scales, anneal=None if scales is None else anneal, seed=seed, batch_size=batch_size, progress=progress,
            meta=session.meta, shard=shard, strict=session.strict,
        )  # fmt: skip
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
        from anyorder.report.plots import fronts

        print(f"plot: {fronts(found, plot)}")


def _modes(text: str) -> list[int | None]:
    modes: list[int | None] = []
    for part in text.split(","):
        length = None if part.strip() == "full" else numbers(part, int, "--blocks")[0]
        if length is not None and length < 1:
            raise BadInput(f"--blocks {text!r}: write 'full' and numbers of positions from 1 on, separated by commas")
        modes.append(length)
    return list(dict.fromkeys(modes))


def _bounds(text: str) -> tuple[float, float]:
    found = numbers(text, float, "--bounds")
    if len(found) != 2 or not 0 < found[0] < found[1]:
        raise BadInput(f"--bounds {text!r}: write two numbers, the first above 0 and below the second")
    return found[0], found[1]
