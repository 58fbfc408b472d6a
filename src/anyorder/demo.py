"""The demo: fit a policy to a shipped denoiser, compare samplers on random puzzles, and write a page to watch them on."""

import secrets
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel

from anyorder.cli.options import ProgressBar, wide_console
from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.base import Denoiser
from anyorder.denoisers.shared_passes import SharedPasses
from anyorder.evaluation.comparison import evaluate
from anyorder.evaluation.results import Report
from anyorder.evaluation.saved import save_trajectories
from anyorder.evaluation.tables import format_p, rich_tables
from anyorder.evaluation.trajectories import Watch
from anyorder.files import write_text
from anyorder.registry import ORDERS
from anyorder.report.page import build_page
from anyorder.report.plots import accuracy_against_steps
from anyorder.tasks.base import Instances
from anyorder.tasks.generation import check_size
from anyorder.tasks.sudoku import Sudoku
from anyorder.training.fit import run_recipe
from anyorder.training.recipes import load_recipe
from anyorder.zoo import load_denoiser, load_order

_STEPS = [10, 20]
_MORE_STEPS = [40, 80]
"""Further budgets for undo, which has passes to spend there."""
_FIT_STEPS = 350
_UNDO = ("confidence+undo", "policy+undo")
_WATCHED = 50
"""Puzzles whose decodings go on the page."""


def run_demo(folder: Path, instances: int, seed: int | None) -> None:
    """Show one puzzle being solved, fit a policy, compare all orders on the same puzzles, write the page. Without a seed the
    puzzles are others each time."""
    console = wide_console()
    began = time.monotonic()
    task = Sudoku(box=3)
    check_size(instances, task.length)
    denoiser = load_denoiser("sudoku9")
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    console.print(
        f"Drawing {instances} random minimal puzzles (no clue can be removed; about 24 clues). --seed {seed} draws the same "
        "ones again ..."
    )
    puzzles = task.generate(instances, 2_000_000 + seed, givens=0)

    console.print("\n[bold]1. Fit an order policy[/bold] to the frozen denoiser (the shipped recipe, sudoku9-order, cut short)")
    run_recipe(load_recipe("sudoku9-order", [f"run.steps={_FIT_STEPS}"]), folder / "order", Console(stderr=True))
    fitted = str(folder / "order")

    console.print("\n[bold]2. One puzzle, three samplers, ten forward passes each[/bold] (red: wrong)")
    console.print(_side_by_side(task, puzzles, denoiser))

    console.print(f"\n[bold]3. The same {instances} puzzles with every sampler[/bold]")
    console.print(
        f"{fitted} is the policy that was just fitted; policy is the shipped one, which was trained for longer. +undo "
        "completes the grid, asks a critic, and remasks the tokens that it doubts. confidence+undo is the control: the same "
        "critic with confidence as the order. An adaptive heuristic, such as confidence@threshold:0.99, stops early; undo uses "
        f"larger budgets, here {' and '.join(map(str, _MORE_STEPS))}."
    )
    meta = {"task": "sudoku", "data": "generated, minimal", "denoiser": "sudoku9"}
    watch = Watch(task, puzzles[slice(0, _WATCHED)], meta)
    heuristics = [name for name in ORDERS.names(baseline=True, default=True) if not ORDERS.entry(name).facts.get("sequential")]
    heuristics.append("confidence@threshold:0.99")
    samplers: dict[str, Any] = {name: name for name in heuristics}
    samplers |= {fitted: load_order(fitted, denoiser)}
    samplers |= {text: text for text in ("policy", *_UNDO, "oracle")}
    with ProgressBar(Console(stderr=True)) as progress:
        told: dict[str, Any] = {"seed": seed, "progress": progress, "meta": meta, "watch": watch}
        told["shared"] = SharedPasses(denoiser)
        report = evaluate(denoiser, task, puzzles, samplers, _STEPS, **told)
        more = evaluate(denoiser, task, puzzles, [heuristics[-1], *_UNDO], _MORE_STEPS, **told)
    report = replace(report, results=[*report.results, *more.results], comparisons=[*report.comparisons, *more.comparisons])
    for table in rich_tables(report):
        console.print(table)
    report.save(folder / "report.json")
    accuracy_against_steps(report, folder / "accuracy.png", f"{instances} random minimal 9x9 Sudokus")
    trajectories = watch.trajectories()
    save_trajectories(trajectories, folder / "trajectories.json.gz")
    page = folder / "report.html"
    write_text(page, build_page(trajectories, report))
    console.print(f"\n{_conclusion(report, heuristics)}")
    console.print(f"Done in {(time.monotonic() - began) / 60:.1f} minutes. Tables, plot and trajectories are in {folder}.")
    console.print("\n[bold]To watch the samplers side by side, open this page in a browser:[/bold]")
    console.print(str(page.resolve()), soft_wrap=True, highlight=False)


def _side_by_side(task: Sudoku, puzzles: Instances, denoiser: Denoiser) -> Columns:
    """The first puzzle that confidence gets wrong and policy+undo gets right (or the first one), under three samplers."""
    head = puzzles[slice(0, 64)]
    names = ("confidence", "policy", "policy+undo")
    decoded = {n: decode(denoiser, head.tokens, Sampler.parse(n, steps=10)) for n in names}
    right = {n: task.check(head, d.tokens).instance_correct for n, d in decoded.items()}
    telling = (~right["confidence"] & right["policy+undo"]).nonzero()
    at = int(telling[0]) if len(telling) else 0
    assert head.x0 is not None
    panels = []
    for name in names:
        tokens, truth, given = decoded[name].tokens[at].tolist(), head.x0[at].tolist(), (~head.maskable[at]).tolist()
        lines = []
        for row in range(9):
            cells = []
            for cell in range(9 * row, 9 * row + 9):
                style = "bold" if given[cell] else ("green" if tokens[cell] == truth[cell] else "bold white on red")
                cells.append(f"[{style}]{tokens[cell]}[/]" + ("  " if cell % 9 in (2, 5) else " "))
            lines.append("".join(cells) + ("\n" if row in (2, 5) else ""))
        title = f"{name}: {'solved' if right[name][at] else 'wrong'}"
        panels.append(Panel("\n".join(lines), title=title, expand=False))
    return Columns(panels)


def _conclusion(report: Report, heuristics: list[str]) -> str:
    others = [c for c in report.comparisons if c.order != "oracle" and c.order not in heuristics]
    better = [c for c in others if c.difference > 0 and c.p_value < 0.05]
    lines = [
        f"At {c.steps} steps, {c.order} solves {100 * c.difference:.1f} points more than the best heuristic, {c.against} "
        f"(p: {format_p(c.p_value)})."
        for c in sorted(better, key=lambda c: -c.difference)
    ]
    rest = f"In {len(others) - len(better)} of {len(others)} comparisons there is no significant gain over the best heuristic."
    return "\n".join([*lines, f"{rest} docs/results.md has larger samples."])
