"""Which objective makes the best order? One short fit each, everything else equal, on the same puzzles.

    python benchmarks/objectives.py [--steps 350] [--limit 1000] [--decode-steps 10] [--out runs/objectives]

Fits that are finished are not repeated.
"""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from anyorder.evaluation.comparison import evaluate
from anyorder.evaluation.tables import markdown
from anyorder.files import write_text
from anyorder.tasks.sudoku import Sudoku
from anyorder.training.fit import run_recipe
from anyorder.training.recipes import load_recipe, validate_recipe
from anyorder.zoo import load_denoiser

UNIFORM = {"states": "uniform", "critic": False}
MODEL = {"states": "model", "critic": False, "incorrect_weight": 0.3}
WINNABLE = {"states": "model", "critic": False, "incorrect_weight": 0.1, "keep_incorrect": 0.4}
MLP = {"architecture": "mlp", "width": 128}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "order-uniform-mlp": {"objective": {"name": "order", **UNIFORM}, "policy": MLP},
    "order-uniform": {"objective": {"name": "order", **UNIFORM}},
    "correctness-uniform": {"objective": {"name": "correctness", **UNIFORM}},
    "correctness-model": {"objective": {"name": "correctness", **MODEL}},
    "rank-model": {"objective": {"name": "rank", **MODEL, "incorrect_weight": 1.0}},
    "loss-model": {"objective": {"name": "loss", **MODEL}},
    "correctness-winnable": {"objective": {"name": "correctness", **WINNABLE}},
    "selection-winnable": {"objective": {"name": "correctness", **WINNABLE, "selection_weight": 1.0}},
}
"""Whole sections that take the place of those of the recipe `sudoku9-order`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=350)
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--decode-steps", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("runs/objectives"))
    arguments = parser.parse_args()

    shipped = load_recipe("sudoku9-order").model_dump(exclude_unset=True)
    for name, sections in VARIANTS.items():
        recipe = validate_recipe({**shipped, **sections, "run": {**shipped["run"], "steps": arguments.steps}}, name)
        run_recipe(recipe, arguments.out / name, Console(stderr=True))

    denoiser = load_denoiser("sudoku9")
    puzzles = Sudoku(3).generate(arguments.limit, 6_000_000, givens=0)
    folders = [f"policy:{arguments.out / name}" for name in VARIANTS]
    report = evaluate(
        denoiser, Sudoku(3), puzzles, ["confidence", "log_margin", "entropy", "oracle", *folders], [arguments.decode_steps]
    )  # fmt: skip
    report.save(arguments.out / "report.json")
    write_text(arguments.out / "report.md", markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    main()
