"""Arenas: where is the order alone, without undo, better than every heuristic and count rule at equal forward passes?

    python benchmarks/arenas.py --runs runs/arenas
    python benchmarks/arenas.py --runs runs/arenas --only zebra --given zebra=zebra,ORDER0,ORDER1,ORDER2

For each arena the denoiser and the orders of the seeds are trained, unless they are shipped, given as folders or in `--runs`.
All samplers decode the same problems. There are few 4x4 puzzles up to symmetry (19 with 3 givens), and training shows every
puzzle in many symmetric forms. So an order there is trained on one half of these classes, and tested on the other:

    heuristics      the orders without training at an even pace, right to left among them
    count rules     confidence with each adaptive rule: within the budget as it is, filled up to the even pace of the budget
                    (`deadline`), and with one pass per position, if the mean passes do not exceed the budget
    learned         the order at an even pace, with `predicted_error`, its own pace, and with as many positions per step as
                    `entropy_share` unmasks, all within the same budget
    control         the same network untrained
    oracles         which read the solutions

The order is tested, at each pace, against each heuristic and rule whose mean forward passes do not exceed the budget, and the
table has the largest p-value, so that nothing depends on how the best one is chosen. p-values are of sign-flip tests on the
outcomes of the problems, averaged over the seeds. Intervals are 95 % bootstrap intervals over seeds and problems
(`crossed_interval`). `runs/arenas/arenas.json` holds the outcomes; what it holds is not measured again.
"""

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from scipy import stats
from torch import Tensor

import anyorder
from anyorder import Sampler
from anyorder.decoding.combined_counts import Deadline
from anyorder.denoisers.base import fingerprint
from anyorder.evaluation.choice import baselines, oracles
from anyorder.evaluation.comparison import evaluate
from anyorder.evaluation.statistics import crossed_interval, crossed_share, sign_flip
from anyorder.evaluation.tables import p_text
from anyorder.files import write_json, write_text
from anyorder.orders.learned import load_policy
from anyorder.tasks import Instances
from anyorder.tasks.sudoku_classes import classes_of
from anyorder.training.fit import run_recipe
from anyorder.training.order import untrained_order
from anyorder.training.recipes import load_recipe
from anyorder.zoo import zoo_names

RULES = tuple(
    f"confidence@{rule}"
    for rule in (
        "threshold:0.9", "threshold:0.99", "factor:1", "factor:0.1", "entropy_bound:1", "entropy_bound:0.3",
        "entropy_bound:0.1", "entropy_bound:0.03", "entropy_bound:0.01", "entropy_share:1", "entropy_share:0.25",
        "entropy_share:0.03", "klass:0.6:0.1", "klass:0.9:0.01", "plackett_luce:1", "even_unsure:0.01", "even_unsure:0.3",
        "if_unsure", "two_phase", "saber:2", "dapd", "wide_in", "cosine", "ascending:2", "ascending:1.25", "timesteps",
        "ancestral", "first_hitting",
    )
)  # fmt: skip
LEARNED = ("policy", "policy@predicted_error:0.1", "policy@number_of:entropy_share")
PROBLEMS = 7_000_000  # seed of the generator, which no recipe uses


@dataclass(frozen=True)
class Arena:
    """A denoiser, an order, and problems.

    Args:
        denoiser: recipe, trained once for each seed if `own`, else once; or a shipped name.
        order: recipe, trained once for each seed.
        budgets: of forward passes.
        generate: options of the problems.
        denoiser_set, order_set: overrides of the recipes.
        own: whether each seed has a denoiser of its own.
        halves: whether the order is trained on one half of the classes of 4x4 puzzles and tested on the other.
    """

    denoiser: str
    order: str
    budgets: tuple[int, ...]
    generate: dict[str, Any] = field(default_factory=dict)
    denoiser_set: tuple[str, ...] = ()
    order_set: tuple[str, ...] = ()
    own: bool = True
    halves: bool = False


ARENAS = {
    "addition": Arena("addition-denoiser", "addition-order", (5, 10, 21), {"carry": 1.0}),
    "sudoku4-weak": Arena(
        "sudoku4-weak", "sudoku4-order", (2, 4, 8), {"givens": 8, "unique": False}, (),
        ("objective.solutions=nearest",), own=False, halves=True,
    ),
    "sudoku4-few-givens": Arena(
        "sudoku4-denoiser", "sudoku4-order", (4, 6, 11), {"givens": 5}, ("data.options.givens=[12,14]", "run.steps=300"),
        ("data.options.givens=5", "data.options.unique=true", "objective.rollout_steps=[2,11]"),
        halves=True,
    ),
    "sudoku9-few-givens": Arena(
        "sudoku9-denoiser", "sudoku9-order", (10, 20), {"givens": [35, 37]},
        ("data.options.givens=[60,72]", "optimizer.ema=0.99", "run.steps=400"),
        ("data.options.givens=[32,40]", "data.size=10000", "objective.incorrect_weight=0.3", "objective.keep_incorrect=1.0",
         "run.steps=900"),
    ),
    "sudoku4-several": Arena("sudoku4", "sudoku4-several", (4,), {"givens": 3, "unique": False}, own=False, halves=True),
    "sorting-short": Arena("sorting-denoiser", "sorting-order", (4, 8, 16), {}, ("run.steps=300",)),
    "zebra": Arena("zebra", "zebra-order", (4, 8, 16), own=False),
}  # fmt: skip
CPU = [name for name in ARENAS if name != "zebra"]  # its orders need a GPU


def in_second_half(puzzles: Tensor, known: np.ndarray) -> np.ndarray:
    """Whether the class of each puzzle is in the half that no order is trained on, bool (N,), given all classes."""
    shuffled = np.random.default_rng(0).permutation(np.unique(known))
    return np.isin(classes_of(puzzles.numpy()), shuffled[len(shuffled) // 2 :])


def training_half(arena: Arena, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """All classes of the order's training problems, and overrides by which it trains on the first half of them, in a file."""
    data, task = load_recipe(arena.order, list(arena.order_set)).data, anyorder.tasks.make_task("sudoku", box=2)
    found = task.generate(data.size, data.seed, **data.options)
    known = classes_of(found.tokens.numpy())
    kept = found[torch.from_numpy(np.flatnonzero(~in_second_half(found.tokens, known)))]
    assert kept.x0 is not None
    lines = [
        ",".join("".join(map(str, grid)) for grid in pair) for pair in zip(kept.tokens.tolist(), kept.x0.tolist(), strict=True)
    ]
    write_text(path, "\n".join(["puzzle,solution", *lines]) + "\n")
    return known, (f"data.file={path}", f"data.size={len(kept)}", "data.options={}")


def test_problems(arena: Arena, task: Any, limit: int, known: np.ndarray | None) -> Instances:
    """Problems, all different, and of the second half of the classes if there are halves."""
    many = task.generate(limit * (8 if arena.halves else 1), PROBLEMS, **arena.generate)
    if known is None:
        return many
    first = np.unique(many.tokens.numpy(), axis=0, return_index=True)[1]
    kept = np.intersect1d(first, np.flatnonzero(in_second_half(many.tokens, known)))[:limit]
    return many[torch.from_numpy(kept)]


def folders(
    name: str, arena: Arena, seed: int, runs: Path, given: dict[str, list[str]], half: tuple[str, ...]
) -> tuple[str, str]:
    """The denoiser and the order of a seed, trained if they are not there; `half` has the overrides of `training_half`."""
    if name in given:
        return given[name][0], given[name][1 + seed]
    denoiser, number = arena.denoiser, seed if arena.own else 0
    if denoiser not in zoo_names():
        denoiser = train(arena.denoiser, runs / f"{name}-denoiser{number}", number, arena.denoiser_set)
    changes = (f"denoiser={denoiser}", *arena.order_set, *half)
    return denoiser, train(arena.order, runs / f"{name}-order{seed}", seed, changes)


def train(recipe: str, folder: Path, seed: int, overrides: tuple[str, ...]) -> str:
    """The folder of a finished run of a recipe."""
    run_recipe(load_recipe(recipe, [f"seed={seed}", *overrides]), folder, Console(stderr=True))
    return str(folder)


def measure(
    arena: Arena, denoiser: str, order: str, problems: Instances, seed: int, everything: bool, rows: list[dict[str, Any]]
) -> None:
    """Add to `rows` the passes and outcomes, where they are missing, of the learned order at each budget, and of `everything`
    that does not depend on it."""
    network = anyorder.load_denoiser(denoiser, device="cpu")
    task = anyorder.task_for(network)
    policy = anyorder.load_order(order, network)
    shared = anyorder.SharedPasses(network)
    rules = {text: Sampler.parse(text) for text in RULES}
    filled = {f"{text}, deadline": sampler.replace(count=Deadline(sampler.count)) for text, sampler in rules.items()}
    kinds = {"learned": {text: Sampler.parse(text).replace(order=policy) for text in LEARNED}}
    if everything:
        even = {**baselines(task), "left_to_right": Sampler.parse("left_to_right")}
        controls = {
            "untrained": Sampler(untrained_order(load_recipe(arena.order), network, task)),
            "right_to_left": Sampler("right_to_left"),
        }
        even.pop("right_to_left", None)  # whose outcomes are stored among the controls
        kinds |= {"heuristic": {**even, **rules, **filled}, "control": controls, "oracle": oracles()}
    there = {(row["kind"], row["name"], row["budget"]) for row in rows}

    def decode(kind: str, samplers: dict[str, Sampler], budget: int, ending: str = "") -> None:
        at = budget * (not ending)
        missing = {name: sampler for name, sampler in samplers.items() if (kind, name + ending, at) not in there}
        if not missing:
            return
        told: dict[str, Any] = {"seed": seed, "batch_size": len(problems), "shared": shared}
        for one in evaluate(network, task, problems, missing, budget, **told).results:
            right = "".join("01"[int(right)] for right in one.correct)
            rows.append({"kind": kind, "name": one.order + ending, "budget": at, "nfe": one.nfe, "right": right})

    for budget in arena.budgets:
        for kind, samplers in kinds.items():
            decode(kind, samplers, budget)
    if everything:
        decode("heuristic", rules, problems.longest, ", no limit")


class Outcomes:
    """What the seeds of an arena measured, by kind, sampler and budget; budget 0 is for samplers without a limit."""

    def __init__(self, seeds: list[list[dict[str, Any]]]) -> None:
        self.right: dict[tuple[str, str, int], np.ndarray] = {}
        self.nfe: dict[tuple[str, str, int], float] = {}
        for key in dict.fromkeys((row["kind"], row["name"], row["budget"]) for rows in seeds for row in rows):
            found = [row for rows in seeds for row in rows if (row["kind"], row["name"], row["budget"]) == key]
            right = np.array([[digit == "1" for digit in row["right"]] for row in found], dtype=float)
            self.right[key] = np.broadcast_to(right, (len(seeds), right.shape[1]))  # one denoiser for all seeds
            self.nfe[key] = float(np.mean([row["nfe"] for row in found]))

    def rivals(self, budget: int) -> dict[str, np.ndarray]:
        """The heuristics and rules, by name, whose mean forward passes do not exceed the budget."""
        return {
            f"{name} ({self.nfe[kind, name, at]:.1f})": right
            for (kind, name, at), right in self.right.items()
            if (kind == "heuristic" or name == "right_to_left")  # which is stored among the controls
            and at in (0, budget) and self.nfe[kind, name, at] <= budget + 1e-9
        }  # fmt: skip


def interval(values: np.ndarray) -> str:
    """Mean of outcomes (seeds, problems), in percent, with its bootstrap interval over seeds and problems."""
    low, high = crossed_share(values)
    return f"{100 * values.mean():.1f} % ({100 * low:.1f}-{100 * high:.1f})"


def verdict(difference: np.ndarray, largest: float, p: float) -> str:
    """In words: `wins` needs p < .001 against every rival, and a gain for each seed; if the interval over seeds and problems,
    rounded to a tenth of a point, or the t interval of the seeds' gains reaches 0, it `wins for these seeds`."""
    by_seed = difference.mean(axis=1)
    if largest < 0.001 and by_seed.min() > 0:
        low = crossed_interval(difference).low
        if len(by_seed) > 1:  # a bootstrap of few seeds is too narrow
            low = min(low, stats.ttest_1samp(by_seed, 0.0).confidence_interval().low)
        return "wins" if round(100 * low, 1) > 0 else "wins for these seeds"
    if p >= 0.05:
        return "level"
    return "ahead" if difference.mean() > 0 else "behind"


def tested(learned: np.ndarray, rivals: dict[str, np.ndarray], best: str) -> list[str]:
    """Outcomes (seeds, problems) against those of each rival: the accuracy, the difference from the best rival, that of each
    seed, the largest p-value and the verdict."""
    ps = {rival: sign_flip((learned - right).mean(axis=0)) for rival, right in rivals.items()}
    largest = max(p if (learned - rivals[rival]).mean() > 0 else 1.0 for rival, p in ps.items())
    difference = learned - rivals[best]
    each = ", ".join(f"{100 * one:+.1f}" for one in difference.mean(axis=1))
    low, high = crossed_interval(difference)
    gained = f"{100 * difference.mean():+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    return [interval(learned), gained, each, p_text(largest), verdict(difference, largest, ps[best])]


def table(name: str, arena: Arena, seeds: list[list[dict[str, Any]]]) -> list[str]:
    """The lines of an arena: for each budget one for each pace of the order."""
    out, lines = Outcomes(seeds), []
    for budget in arena.budgets:
        rivals = out.rivals(budget)
        best = max(rivals, key=lambda rival: rivals[rival].mean())
        controls = [out.right["control", control, budget].mean() for control in ("untrained", "right_to_left")]
        oracle = max(right.mean() for key, right in out.right.items() if key[0] == "oracle" and key[2] == budget)
        for sampler in LEARNED:
            passes = f"{out.nfe['learned', sampler, budget]:.1f}"
            cells = [name, str(budget), best, interval(rivals[best]), sampler, passes]
            cells += tested(out.right["learned", sampler, budget], rivals, best)
            lines.append(f"| {' | '.join(cells)} | {' | '.join(f'{100 * one:.1f}' for one in (*controls, oracle))} |")
    return lines


HEADER = (
    "arena", "budget", "best heuristic or rule (passes)", "its accuracy", "learned", "passes", "accuracy", "difference",
    "of each seed", "largest p", "verdict", "untrained", "right to left", "oracle",
)  # fmt: skip


def main() -> None:
    """Train and measure what is missing, and print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=Path, default=Path("runs/arenas"))
    options.add_argument("--only", default=",".join(CPU), help="names of arenas, separated by commas")
    options.add_argument("--given", action="append", default=[], help="NAME=DENOISER,ORDER,ORDER,...: folders that are there")
    options.add_argument("--limit", type=int, default=500, help="problems")
    options.add_argument("--seeds", type=int, default=3)
    words = options.parse_args()
    given = {name: listed.split(",") for name, _, listed in (word.partition("=") for word in words.given)}
    path = words.runs / "arenas.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    lines = [f"| {' | '.join(HEADER)} |", "|---" * len(HEADER) + "|"]
    for name in words.only.split(","):
        arena, rows, problems = ARENAS[name], found.setdefault(f"{name}, {words.limit} problems", []), None
        known, half = training_half(arena, words.runs / f"{name}-train.csv") if arena.halves else (None, ())
        for seed in range(words.seeds):
            denoiser, order = folders(name, arena, seed, words.runs, given, half)
            model = anyorder.load_denoiser(denoiser, device="cpu")
            task = anyorder.task_for(model)
            problems = problems or test_problems(arena, task, words.limit, known)
            rows += [[]] * (seed == len(rows))
            made_of = [fingerprint(model), fingerprint(load_policy(Path(order)))]
            if found.setdefault("made of", {}).setdefault(f"{name}, {words.limit} problems, {seed}", made_of) != made_of:
                raise SystemExit(f"{path} holds outcomes of another denoiser or order of {name}: give another --runs")
            measure(arena, denoiser, order, problems, seed, arena.own or not seed, rows[seed])
            write_json(path, found)
            print(name, seed, flush=True)
        lines += table(name, arena, rows[: words.seeds])
    print("\n".join(lines))


if __name__ == "__main__":
    main()
