"""Accuracy that grows with compute: `undo` against other ways to spend forward passes on the same problems.

    python benchmarks/scaling.py --data diabolical.csv --skip 3000 --limit 200 --seeds 0,1,2 --json scaling.json

Curves, by average forward passes per problem:

    policy+undo, confidence+undo    budgets 20, 40, 80, ...: the same undo after two orders
    best of N by likelihood         N attempts of confidence@entropy_bound:0.1 with order noise and drawn tokens; the attempt
                                    with the largest log-probability of its tokens
    majority                        per position, the token that most of the N attempts hold
    rules (ceiling)                 solved if any of the N attempts is right: no critic can choose better among them
    heuristics                      deterministic: the adaptive count rules with their most careful values

The first of the N attempts is deterministic. The table gives percentages solved, outcomes averaged over the seeds, and average
forward passes; the JSON also 95 % intervals over problems.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import anyorder
from anyorder import CriticUndo, Sampler
from anyorder.evaluation.batches import decode_in_batches
from anyorder.evaluation.statistics import mean_interval
from anyorder.tasks import Instances, Task

ATTEMPTS = "confidence@entropy_bound:0.1"
CAREFUL = ("confidence@threshold:0.99", "confidence@threshold:0.999", "confidence@entropy_bound:0.01", "entropy@fixed:1")


class Bench:
    """Decodes problems, and keeps what was right."""

    def __init__(self, model: str, problems: Instances, task: Task, batch_size: int) -> None:
        self.denoiser, self.problems, self.task, self.batch_size = anyorder.load_denoiser(model), problems, task, batch_size

    def decode(self, sampler: Sampler, seed: int) -> anyorder.Decoded:
        """All problems with one sampler."""
        bound = sampler.bind(self.denoiser)
        return decode_in_batches(
            self.denoiser, self.problems, bound, seed=seed, batch_size=self.batch_size, progress=None, name=""
        )

    def right(self, tokens: Tensor) -> Tensor:
        """Whether each sequence keeps the rules, bool (N,)."""
        return self.task.check(self.problems, tokens).instance_correct


def undo_curves(bench: Bench, budgets: list[int], seed: int) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Outcomes and forward passes of undo after two orders at each budget."""
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for order in ("policy", "confidence"):
        for budget in budgets:
            out = bench.decode(Sampler.parse(f"{order}+undo", steps=budget), seed)
            found.setdefault(f"{order}+undo", []).append((bench.right(out.tokens), out.nfe))
    return found


def attempts(bench: Bench, number: int, seed: int, noise: float, temperature: float) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Outcomes and forward passes of N attempts, N = 1, 2, 4, ..., chosen in three ways."""
    first = Sampler.parse(ATTEMPTS, steps=100)
    again = first.replace(noise=noise, token=anyorder.Sample(temperature))
    outs = [bench.decode(again if n else first, seed * 1000 + n) for n in range(number)]
    tokens = torch.stack([out.tokens for out in outs])  # (number, N, L)
    worth = torch.stack([out.token_log_probs.sum(dim=1) for out in outs])
    right = torch.stack([bench.right(out.tokens) for out in outs])
    passes = torch.stack([out.nfe for out in outs]).cumsum(dim=0)
    found: dict[str, list[tuple[Tensor, Tensor]]] = {"best of N by likelihood": [], "majority": [], "rules (ceiling)": []}
    n = 1
    while n <= number:
        best = worth[:n].argmax(dim=0)
        found["best of N by likelihood"].append((right[best, torch.arange(len(best))], passes[n - 1]))
        found["majority"].append((bench.right(tokens[:n].mode(dim=0).values), passes[n - 1]))
        found["rules (ceiling)"].append((right[:n].any(dim=0), passes[n - 1]))
        n *= 2
    return found


def main() -> None:
    """Measure, print a table in Markdown, and write the curves."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="sudoku9")
    options.add_argument("--data", type=Path, help="a file of problems; by default they are generated")
    options.add_argument("--skip", type=int, default=0, help="leave out the first problems")
    options.add_argument("--limit", type=int, default=200)
    options.add_argument("--budgets", default="10,20,40,80,160,320")
    options.add_argument("--attempts", type=int, default=16)
    options.add_argument("--noise", type=float, default=0.5)
    options.add_argument("--temperature", type=float, default=1.0)
    options.add_argument("--seeds", default="0")
    options.add_argument("--batch-size", type=int, default=200)
    options.add_argument("--json", type=Path)
    options.add_argument("--plot", type=Path, help="draw what --json holds, and measure nothing")
    given = options.parse_args()
    if given.plot:
        return plot(given.json, given.plot)
    torch.set_num_threads(1)
    task = anyorder.task_for(anyorder.load_denoiser(given.model))
    count = given.skip + given.limit
    problems = (task.load(given.data) if given.data else task.generate(count, 8_000_000, givens=0))[slice(given.skip, count)]
    bench = Bench(given.model, problems, task, given.batch_size)
    budgets = [int(budget) for budget in given.budgets.split(",")]
    curves: dict[str, list[list[tuple[Tensor, Tensor]]]] = {}
    for seed in map(int, given.seeds.split(",")):
        found = undo_curves(bench, budgets, seed) | attempts(bench, given.attempts, seed, given.noise, given.temperature)
        for text in CAREFUL:
            out = bench.decode(Sampler.parse(text, steps=max(budgets)), seed)
            found.setdefault("heuristics", []).append((bench.right(out.tokens), out.nfe))
        for name, points in found.items():
            curves.setdefault(name, []).append(points)
    rows: dict[str, list[dict[str, Any]]] = {}
    print("| sampler | solved, % (average forward passes) ... |\n|---|---|")
    for name, runs in curves.items():
        for points in zip(*runs, strict=True):
            solved = torch.stack([right.double() for right, _ in points]).mean(dim=0).numpy()
            mean, low, high = (100 * value for value in mean_interval(solved))
            nfe = float(torch.stack([nfe.double() for _, nfe in points]).mean())
            rows.setdefault(name, []).append({"nfe": nfe, "solved": mean, "ci95": [low, high]})
        cells = "; ".join(f"{p['solved']:.1f} ({p['nfe']:.1f})" for p in rows[name])
        print(f"| {name} | {cells} |", flush=True)
    print(f"\nTime of one forward pass of the denoiser, and of the critic on it: {shares(bench)}")
    if given.json:
        given.json.write_text(json.dumps({"problems": len(problems), "seeds": given.seeds, "curves": rows}, indent=1))


def plot(path: Path, picture: Path) -> None:
    """Solved against average forward passes, from the JSON of a run."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
    for name, points in json.loads(path.read_text())["curves"].items():
        points = sorted(points, key=lambda point: point["nfe"])
        nfe, solved = ([point[key] for point in points] for key in ("nfe", "solved"))
        low, high = (np.clip(ends, 0, 100) for ends in zip(*(point["ci95"] for point in points), strict=True))
        if name == "heuristics":
            axes.errorbar(nfe, solved, [solved - low, high - solved], fmt="o", ms=4, lw=0.8, color="black", label=name)
            continue
        (line,) = axes.plot(nfe, solved, marker="o", ms=3, lw=1.2, ls="--" if "ceiling" in name else "-", label=name)
        axes.fill_between(nfe, low, high, color=line.get_color(), alpha=0.12, lw=0)
    axes.set(xscale="log", xlabel="average forward passes per problem", ylabel="solved, %", ylim=(None, 101))
    axes.set_xticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
    axes.minorticks_off()
    axes.legend(fontsize=7)
    figure.savefig(picture, dpi=160)


def shares(bench: Bench) -> str:
    """Seconds of the denoiser and of the critic for one batch of completed problems, and the critic's share."""
    sampler = Sampler("policy", remasker=CriticUndo(), steps=12).bind(bench.denoiser)
    spent = {"denoiser": 0.0, "critic": 0.0}

    def timed(module: torch.nn.Module, name: str) -> Any:
        began = [0.0]
        return (
            module.register_forward_pre_hook(lambda *_: began.__setitem__(0, time.perf_counter())),
            module.register_forward_hook(lambda *_: spent.__setitem__(name, spent[name] + time.perf_counter() - began[0])),
        )

    policy: Any = sampler.remasker
    hooks = [*timed(bench.denoiser, "denoiser"), *timed(policy.critic.policy, "critic")]
    bench.decode(sampler, 0)
    for hook in hooks:
        hook.remove()
    total = sum(spent.values())
    return f"{spent['denoiser']:.2f} s, {spent['critic']:.2f} s ({100 * spent['critic'] / total:.0f} % of the sum)"


if __name__ == "__main__":
    main()
