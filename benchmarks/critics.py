"""What undo gains on any model, over the best heuristic at each budget, and how well its critic judges.

    python benchmarks/critics.py --model sudoku16 --generate givens=0 --budgets 40,80,160 --json sudoku16.json
    python benchmarks/critics.py --model zebra --budgets 4,8,16,40,80,160 --order ORDER0,ORDER1,ORDER2 --json zebra.json

The first table has, for each budget, the best of the heuristics and rules that spend no more (with this budget or a smaller
one), `confidence+undo` and `policy+undo`, each with its average forward passes, and their differences from that heuristic; the
second the order alone at an even pace. 95 % intervals are Wilson's for heuristics, else of resamples of seeds and problems
(`crossed_interval`); p-values of sign-flip tests on outcomes averaged over the seeds. `--order` names the folders of orders
with a critic, one per seed, which is also that of decoding; by default the shipped one.

The third table judges the critic on other problems: decoding as `undo` begins it, how many complete sequences it accepts, and
how many of those that it accepts and rejects are right. `--json` keeps outcomes; what it holds is not measured again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import anyorder
from anyorder import CriticUndo, Sampler
from anyorder.evaluation.batches import decode_in_batches
from anyorder.evaluation.critic_check import review
from anyorder.evaluation.statistics import crossed_interval, crossed_share, sign_flip, wilson
from anyorder.evaluation.tables import markdown_table, p_text
from anyorder.files import write_json
from anyorder.orders.learned import saved_order
from anyorder.session import key_values

HEURISTICS = (
    "random", "confidence", "margin", "log_margin", "entropy", "confidence@threshold:0.9", "confidence@threshold:0.99",
    "confidence@factor:0.1", "confidence@entropy_bound:0.1", "confidence@entropy_bound:0.01", "confidence@entropy_share",
    "confidence@entropy_share:0.5:counts_largest=true", "confidence@klass:0.9:0.01",
)  # fmt: skip


def main() -> None:
    """Measure what is missing, and print the tables."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", required=True)
    options.add_argument("--generate", action="append", default=[], help="NAME=VALUE, an option of the problems")
    options.add_argument("--limit", type=int, default=500, help="problems")
    options.add_argument("--first-seed", type=int, default=33_000_000, help="seed of the problems")
    options.add_argument("--budgets", default="40,80,160")
    options.add_argument("--heuristics", default=",".join(HEURISTICS))
    options.add_argument("--order", default="", help="folders of orders with a critic, one per seed")
    options.add_argument("--judged", type=int, default=200, help="problems on which the critic is judged")
    options.add_argument("--batch-size", type=int, default=100)
    options.add_argument("--json", type=Path, required=True)
    words = options.parse_args()
    torch.set_num_threads(1)
    denoiser = anyorder.load_denoiser(words.model, device="cpu")
    task, generate = anyorder.task_for(denoiser), key_values(words.generate, "--generate")
    problems = task.generate(words.limit, words.first_seed, **generate)
    budgets = [int(budget) for budget in words.budgets.split(",")]
    found: dict[str, Any] = json.loads(words.json.read_text()) if words.json.exists() else {}

    def decode(name: str, sampler: Sampler, steps: int, seed: int = 0) -> tuple[np.ndarray, float]:
        """Outcomes (N,) and mean passes."""
        asked = (
            words.model,
            *words.generate,
            words.limit,
            words.first_seed,
            *([words.order] if name[0] == "p" or "+" in name else []),
        )
        key = f"{name}, {steps} steps, seed {seed}, {' '.join(map(str, asked))}"
        if key not in found:
            bound = sampler.replace(steps=steps).bind(denoiser)
            out = decode_in_batches(denoiser, problems, bound, seed=seed, batch_size=words.batch_size, progress=None, name=key)
            right = task.check(problems, out.tokens).instance_correct
            found[key] = {"nfe": float(out.nfe.float().mean()), "right": "".join("01"[int(one)] for one in right)}
            write_json(words.json, found)
            print(f"{key}: {100 * right.float().mean():.1f} %, {found[key]['nfe']:.1f}", flush=True)
        return np.array([digit == "1" for digit in found[key]["right"]], dtype=float), found[key]["nfe"]

    folders = [folder for folder in words.order.split(",") if folder]
    orders = [anyorder.load_order(folder, denoiser) for folder in folders] or [saved_order(denoiser)]
    undos = [CriticUndo(critic=order.critic) for order in orders if order.critic]
    if len(undos) < len(orders):
        raise SystemExit("an order has no critic: fit it with objective.critic = true")
    rows, alone, rivals = [], [], {}
    for budget in sorted(budgets):
        for text in words.heuristics.split(","):
            rivals[text, budget] = decode(text, Sampler.parse(text), min(budget, problems.longest))
        (name, _), (best, passes) = max(rivals.items(), key=lambda rival: (rival[1][0].mean(), -rival[1][1]))
        cells = [str(budget), f"`{name}`", f"{100 * best.mean():.1f} ({_wilson(best)}), {passes:.1f}"]
        differences = []
        for label in ("confidence+undo", "policy+undo"):
            runs = []
            for seed, (order, undo) in enumerate(zip(orders, undos, strict=True)):
                first: Any = order if label == "policy+undo" else "confidence"
                runs.append(decode(label, Sampler(first, remasker=undo), budget, seed))
            right = np.stack([outcomes for outcomes, _ in runs])
            cells.append(f"{_interval(right)}, {np.mean([nfe for _, nfe in runs]):.1f}")
            differences.append(_difference(right - best))
        rows.append([*cells, *differences])
        if budget <= problems.longest:
            runs = [decode("policy", Sampler(order), budget, seed) for seed, order in enumerate(orders)]
            right = np.stack([outcomes for outcomes, _ in runs])
            alone.append([str(budget), _interval(right), _difference(right - best)])
    header = ["budget", "best heuristic", "solved, passes", "`confidence+undo`", "`policy+undo`"]
    print(f"\n{markdown_table([*header, *(f'{one} minus best' for one in header[3:])], rows)}")
    print(markdown_table(["budget", "`policy`, even pace", "minus best"], alone))
    judges = []
    for seed, order in enumerate(orders):
        others = task.generate(words.judged, words.first_seed + 1_000_003, **generate)
        said = review(denoiser, task, others, order, max(budgets), seed=seed, batch_size=words.batch_size)
        level = undos[seed].accept_level
        accepted = said.least >= level
        right = said.correct.numpy()
        judges.append([f"{level:g}", *(_share(part) for part in (accepted.numpy(), right[accepted], right[~accepted]))])
    print(markdown_table(["level", "accepted", "right of the accepted", "right of the rejected"], judges))


def _wilson(right: np.ndarray) -> str:
    low, high = wilson(int(right.sum()), len(right))
    return f"{100 * low:.1f}-{100 * high:.1f}"


def _share(right: np.ndarray) -> str:
    return f"{100 * right.mean():.1f} % ({_wilson(right)})" if len(right) else "none"


def _interval(right: np.ndarray) -> str:
    low, high = crossed_share(right)
    return f"{100 * right.mean():.1f} ({100 * low:.1f}-{100 * high:.1f})"


def _difference(gained: np.ndarray) -> str:
    low, high = crossed_interval(gained)
    seeds = "; by seed " + " ".join(f"{100 * one:+.1f}" for one in gained.mean(axis=1)) if len(gained) > 1 else ""
    p = p_text(sign_flip(gained.mean(axis=0)))
    return f"{100 * gained.mean():+.1f} ({100 * low:+.1f} to {100 * high:+.1f}{seeds}; {p})"


if __name__ == "__main__":
    main()
