"""The demo: a real denoiser, every order, a policy fitted before your eyes, one table, one page to watch it all on."""

import time
from pathlib import Path

from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel

from anyorder.cli.options import ProgressBar, wide_console
from anyorder.decoding.loop import decode
from anyorder.denoisers.base import Denoiser
from anyorder.evaluation.evaluate import Report, evaluate
from anyorder.evaluation.orders import make_decoder
from anyorder.evaluation.saved import save_trajectories
from anyorder.evaluation.tables import format_p, rich_tables
from anyorder.evaluation.trajectories import Watch
from anyorder.files import write_text
from anyorder.orders.policies import LearnedOrder
from anyorder.report.page import build_page
from anyorder.report.plots import accuracy_against_steps
from anyorder.tasks.base import Instances
from anyorder.tasks.sudoku import Sudoku
from anyorder.training.fit import run_recipe
from anyorder.training.settings import OrderRecipe, load_recipe
from anyorder.zoo import load_denoiser, load_order

_HEURISTICS = ["random", "confidence", "log_margin", "entropy"]
_STEPS = [10, 20]
_FIT_STEPS = 350
_WATCHED = 50
"""Puzzles whose decodings go on the page."""


def run_demo(folder: Path, instances: int, seed: int) -> None:
    """Show one puzzle being solved, fit a policy, compare all orders on the same puzzles, write the page."""
    console = wide_console()
    began = time.monotonic()
    task = Sudoku(box=3)
    denoiser = load_denoiser("sudoku9")
    console.print("Making hard puzzles: 27 clues, not to be solved by singles, locked candidates, naked pairs or triples ...")
    puzzles = task.generate(instances, 2_000_000 + seed, givens=27, difficulty="search")

    console.print("\n[bold]1. Fit an order policy[/bold] to the frozen denoiser (the shipped recipe, sudoku9-order, cut short)")
    recipe = load_recipe("sudoku9-order", [f"run.steps={_FIT_STEPS}"])
    assert isinstance(recipe, OrderRecipe)
    run_recipe(recipe, folder / "order", Console(stderr=True))
    fitted = str(folder / "order")
    orders = {fitted: load_order(fitted, denoiser), "policy": load_order("sudoku9", denoiser)}

    console.print("\n[bold]2. One puzzle, three orders, ten forwards each[/bold] (red: wrong)")
    console.print(_side_by_side(task, puzzles, denoiser, orders["policy"]))

    console.print(f"\n[bold]3. {instances} hard puzzles under every order[/bold]")
    console.print(
        f"{fitted} is the order just fitted; policy is the shipped one, fitted for longer; +undo takes a second look."
    )
    meta = {"task": "sudoku", "data": "generated, 27 clues, search", "denoiser": "sudoku9"}
    watch = Watch(task, puzzles[slice(0, _WATCHED)], meta)
    with ProgressBar(Console(stderr=True)) as progress:
        report = evaluate(
            denoiser, task, puzzles, [*_HEURISTICS, fitted, "policy", "policy+undo", "oracle"], _STEPS,
            load_policy=orders.__getitem__, seed=seed, progress=progress, meta=meta, watch=watch,
        )  # fmt: skip
    for table in rich_tables(report):
        console.print(table)
    report.save(folder / "report.json")
    accuracy_against_steps(report, folder / "accuracy.png", f"{instances} hard 9x9 Sudokus")
    trajectories = watch.trajectories()
    save_trajectories(trajectories, folder / "trajectories.json.gz")
    page = folder / "report.html"
    write_text(page, build_page(trajectories, report))
    console.print(f"\n{_conclusion(report)}")
    console.print(f"Done in {(time.monotonic() - began) / 60:.1f} minutes. Tables, picture and trajectories are in {folder}.")
    console.print("\n[bold]Watch the orders at work, side by side: open this page in a browser[/bold]")
    console.print(str(page.resolve()), soft_wrap=True, highlight=False)


def _side_by_side(task: Sudoku, puzzles: Instances, denoiser: Denoiser, order: LearnedOrder) -> Columns:
    """The first puzzle that confidence gets wrong and the policy with undo gets right (or the first one), decoded thrice."""
    head = puzzles[slice(0, 64)]
    names = ("confidence", "policy", "policy+undo")
    decoded = {n: decode(denoiser, head.tokens, make_decoder(n, 10, 0.0, lambda _: order)) for n in names}
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


def _conclusion(report: Report) -> str:
    learned = [c for c in report.comparisons if c.order != "oracle" and c.order not in _HEURISTICS]
    wins = [c for c in learned if c.difference > 0 and c.p_value < 0.05]
    lines = [
        f"At {c.steps} steps, {c.order} solves {100 * c.difference:.1f} "
        f"points more than the best heuristic, {c.against} (p: {format_p(c.p_value)})."
        for c in sorted(wins, key=lambda c: -c.difference)
    ]
    rest = len(learned) - len(wins)
    return "\n".join(
        [*lines, f"In {rest} of {len(learned)} comparisons no learned order is significantly better. docs/results.md has more."]
    )
