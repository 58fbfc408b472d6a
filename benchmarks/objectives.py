"""Which objective makes the best order? One short fit each, everything else equal, on the same puzzles.

    python benchmarks/objectives.py [--steps 350] [--limit 1000] [--decode-steps 10] [--out runs/objectives]

Fits that are finished are not repeated.
"""

import argparse
from pathlib import Path

from anyorder.evaluation.evaluate import evaluate
from rich.console import Console

from anyorder.evaluation.tables import markdown
from anyorder.files import write_text
from anyorder.tasks.sudoku import Sudoku
from anyorder.training.fit import run_recipe
from anyorder.training.recipes import load_recipe
from anyorder.zoo import load_denoiser, load_order

VARIANTS = {
    "order-uniform-mlp": {
        "objective.name": "order",
        "objective.states": "uniform",
        "policy.architecture": "mlp",
        "policy.width": 128,
    },
    "order-uniform": {"objective.name": "order", "objective.states": "uniform"},
    "correctness-uniform": {"objective.states": "uniform"},
    "correctness-model": {},
    "rank-model": {"objective.name": "rank", "objective.lost_weight": 1.0},
    "loss-model": {"objective.name": "loss"},
    "correctness-winnable": {"objective.lost_weight": 0.1, "objective.keep_lost": 0.4},
    "selection-winnable": {"objective.lost_weight": 0.1, "objective.keep_lost": 0.4, "objective.selection_weight": 1.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=350)
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--decode-steps", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("runs/objectives"))
    arguments = parser.parse_args()

    for name, changes in VARIANTS.items():
        overrides = [f"{key}={value}" for key, value in changes.items()]
        common = [
            f"run.steps={arguments.steps}",
            "objective.quality=false",
            "objective.lost_weight=0.3",
            "objective.keep_lost=1.0",
        ]
        recipe = load_recipe("sudoku9-order", [*common, *overrides])
        run_recipe(recipe, arguments.out / name, Console(stderr=True))

    denoiser = load_denoiser("sudoku9")
    puzzles = Sudoku(3).generate(arguments.limit, 6_000_000, givens=0)
    folders = [str(arguments.out / name) for name in VARIANTS]
    report = evaluate(
        denoiser, Sudoku(3), puzzles, ["confidence", "log_margin", "entropy", "oracle", *folders], [arguments.decode_steps],
        load_policy=lambda folder: load_order(folder, denoiser),
    )  # fmt: skip
    report.save(arguments.out / "report.json")
    write_text(arguments.out / "report.md", markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    main()
