"""A learned pace against every count rule, over seeds: accuracy at equal forward passes, and at equal compute.

    python benchmarks/pace.py --runs runs/pace

trains `sudoku9-pace-start`, a policy that reads the complete prediction and imitates an entropy bound, and from it
`sudoku9-pace`, by reward for correct grids in few passes, for each seed (20 minutes of a core), and decodes minimal 9x9
Sudokus. A policy is a curve over the level of its score above which it unmasks (`score_threshold`), a rule a curve over its
values or budgets. The fronts of the seeds are averaged; 95 % intervals are of resamples of seeds and problems, and differences
are paired. Compute counts the multiply-adds of denoiser and policy. `--limit` problems; what `pace.json` holds is not measured
again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import anyorder
from anyorder import Sampler
from anyorder.decoding.counts import ScoreThreshold
from anyorder.evaluation.batches import decode_in_batches
from anyorder.evaluation.compute import overhead
from anyorder.evaluation.fronts import Front, attained, seed_front
from anyorder.evaluation.tables import markdown_table
from anyorder.files import write_json
from anyorder.training.fit import run_recipe
from anyorder.training.recipes import load_recipe

UNLIMITED = 81
LEVELS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97)
RULES: dict[str, list[tuple[str, int]]] = {
    "even pace": [("confidence", steps) for steps in (5, 6, 8, 10, 12, 16)],
    "threshold": [(f"confidence@threshold:{level}", UNLIMITED) for level in (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)],
    "factor": [(f"confidence@factor:{factor}", UNLIMITED) for factor in (3, 1.5, 0.7, 0.3, 0.1, 0.03)],
    "entropy_bound": [(f"confidence@entropy_bound:{bound}", UNLIMITED) for bound in (1, 0.3, 0.1, 0.03, 0.01)],
    "entropy_share": [("confidence@entropy_share", steps) for steps in (5, 6, 7, 8, 10, 14, 20, UNLIMITED)],
}
BUDGETS = np.array([5.0, 5.5, 6.0, 7.0, 8.0, 10.0])
PROBLEMS = 66_000_000  # seed of the generator, which no recipe uses
DRAWS = 2000


def train(runs: Path, seed: int) -> dict[str, Path]:
    """The folders of a seed's two policies, trained if they are not there."""
    console, folders = Console(stderr=True), dict[str, Path]()
    for name, recipe in (("imitation", "sudoku9-pace-start"), ("by reward", "sudoku9-pace")):
        start = [f"start={folders['imitation']}"] if folders else []
        folders[name] = runs / f"{recipe}{seed}"
        run_recipe(load_recipe(recipe, [f"seed={seed}", *start]), folders[name], console)
    return folders


def main() -> None:
    """Train and measure what is missing, and print the tables."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=Path, default=Path("runs/pace"))
    options.add_argument("--limit", type=int, default=500, help="problems")
    options.add_argument("--seeds", type=int, default=3)
    words = options.parse_args()
    denoiser = anyorder.load_denoiser("sudoku9", device="cpu")
    task = anyorder.task_for(denoiser)
    problems = task.generate(words.limit, PROBLEMS, givens=0)
    path = words.runs / "pace.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def decode(key: str, sampler: Sampler, steps: int) -> None:
        key = f"{key}, {steps} steps, {words.limit} problems"
        if key not in found:
            bound = sampler.replace(steps=steps).bind(denoiser)
            decoded = decode_in_batches(denoiser, problems, bound, seed=0, batch_size=250, progress=None, name=key)
            right = task.check(problems, decoded.tokens).instance_correct
            found[key] = {"nfe": decoded.nfe.tolist(), "right": right.int().tolist()}
            write_json(path, found)
            print(key, f"{right.float().mean():.3f} {decoded.nfe.float().mean():.2f}", flush=True)

    for points in RULES.values():
        for text, steps in points:
            decode(text, Sampler.parse(text), steps)
    learned: dict[str, list[list[str]]] = {"imitation": [], "by reward": []}
    share = 0.0
    for seed in range(words.seeds):
        for name, folder in train(words.runs, seed).items():
            policy = anyorder.load_order(folder, denoiser)
            share = share or overhead(denoiser, problems[slice(0, 1)], Sampler(policy))
            learned[name].append([f"{name} {seed}, level {level}" for level in LEVELS])
            for level, key in zip(LEVELS, learned[name][-1], strict=True):
                decode(key, Sampler(policy, ScoreThreshold(level)), UNLIMITED)

    def stacked(keys: list[list[tuple[str, int]]], cost: float = 0.0) -> np.ndarray:
        """Passes times 1 + cost, and outcomes, of operating points (S, P): float (2, S, P, N)."""
        kept = [[found[f"{key}, {steps} steps, {words.limit} problems"] for key, steps in seed] for seed in keys]
        nfe = np.array([[point["nfe"] for point in seed] for seed in kept], dtype=float) * (1 + cost)
        return np.stack([nfe, np.array([[point["right"] for point in seed] for seed in kept], dtype=float)])

    rules = {name: stacked([points] * words.seeds) for name, points in RULES.items()}
    print(f"\nThe policy's compute is {100 * share:.0f} % of that of the denoiser.")
    for axis, cost in (("forward passes", 0.0), ("compute, in forward passes of the denoiser", share)):
        mine = {name: stacked([[(k, UNLIMITED) for k in seed] for seed in keys], cost) for name, keys in learned.items()}
        print(f"\n**Solved at equal {axis}**, {words.limit} problems, {words.seeds} seeds\n\n{table(rules | mine)}")


def front(points: np.ndarray) -> Front:
    """Accuracies at `BUDGETS` of a curve (2, S, P, N); NaN where all its points cost more."""
    found = seed_front(*points, lambda nfe, right: attained(nfe, right, BUDGETS), DRAWS)
    cheapest = points[0].mean(axis=-1).min(axis=-1).max()  # of the seed whose first point costs most
    return Front(np.where(cheapest > BUDGETS, np.nan, found.value), found.draws)


def table(curves: dict[str, np.ndarray]) -> str:
    """One line per curve, and for the learned ones the paired difference from every rule."""
    fronts = {name: front(points) for name, points in curves.items()}
    rows = [[name, *found.shown()] for name, found in fronts.items()]
    for name in ("imitation", "by reward"):
        rows += [[f"{name} minus {rule}", *fronts[name].minus(fronts[rule]).shown("+")] for rule in RULES]
    return markdown_table(["curve", *(f"at {budget:g}" for budget in BUDGETS)], rows)


if __name__ == "__main__":
    main()
