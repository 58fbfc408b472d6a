"""Accuracy that grows with compute: `undo` against other ways to spend forward passes on the same problems.

    python benchmarks/scaling.py --data diabolical.csv --limit 1000 --json scaling.json
    python benchmarks/scaling.py --json scaling.json --plot scaling.png

Curves, by average forward passes per problem:

    policy+undo, confidence+undo    the same undo after two orders
    heuristics                      confidence at an even pace, with `entropy_share` and with fixed bounds; the adaptive count
                                    rules with their most careful values at the largest budget
    P2, ReMDM                       published remaskers, without a critic, up to `--remask-budget`
    best of N by likelihood         N attempts of confidence@entropy_bound:0.1 with order noise and drawn tokens; the attempt
                                    with the largest log-probability of its tokens
    majority                        per position, the token that most of the N attempts hold
    rules (ceiling)                 solved if any of the N attempts is right: no critic can choose better among them

The first of the N attempts is deterministic. The first table gives percentages solved, outcomes averaged over the seeds, and in
brackets the average forward passes, and those plus the processor time of policy and critic in units of a forward pass. The
second table compares undo at each budget with the best heuristic that spends no more: on no problem more than the budget, or on
average no more than undo. It has the difference with its 95 % interval, and the p-value of a sign-flip test, paired over the
problems. The JSON also has 95 % intervals over problems.
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import anyorder
from anyorder import Sampler
from anyorder.evaluation.batches import decode_in_batches
from anyorder.evaluation.statistics import mean_interval, paired_interval, sign_flip
from anyorder.orders.learned import saved_order
from anyorder.tasks import Instances, Task

ATTEMPTS = "confidence@entropy_bound:0.1"
HEURISTICS = ("confidence", "confidence@entropy_share", "confidence@entropy_bound:0.3", "confidence@threshold:0.99")
CAREFUL = ("confidence@threshold:0.999", "confidence@entropy_bound:0.01", "entropy@fixed:1")
PUBLISHED = {"P2": "confidence+p2:1", "P2, eta 4": "confidence+p2:4", "ReMDM": "confidence+remdm:conf"}


class Point(NamedTuple):
    """What a sampler did to the problems.

    Args:
        right: bool (N,).
        nfe: forward passes, (N,).
        extra: processor time of the policy and the critic over that of the denoiser.
    """

    right: Tensor
    nfe: Tensor
    extra: float = 0.0


Curves = dict[str, list[Point]]


class Bench:
    """Decodes problems, and keeps what was right."""

    def __init__(self, model: str, problems: Instances, task: Task, batch_size: int) -> None:
        self.denoiser, self.problems, self.task, self.batch_size = anyorder.load_denoiser(model), problems, task, batch_size

    def decode(self, sampler: Sampler, seed: int) -> tuple[anyorder.Decoded, float]:
        """All problems with one sampler, and what its policy and critic cost over the denoiser."""
        bound = sampler.bind(self.denoiser)
        with self.seconds() as spent:
            out = decode_in_batches(
                self.denoiser, self.problems, bound, seed=seed, batch_size=self.batch_size, progress=None, name=""
            )
        return out, spent["others"] / spent["denoiser"]

    def point(self, sampler: Sampler, seed: int) -> Point:
        """What one sampler did to all problems."""
        out, extra = self.decode(sampler, seed)
        return Point(self.right(out.tokens), out.nfe, extra)

    def right(self, tokens: Tensor) -> Tensor:
        """Whether each sequence keeps the rules, bool (N,)."""
        return self.task.check(self.problems, tokens).instance_correct

    @contextmanager
    def seconds(self) -> Iterator[dict[str, float]]:
        """Measure the time in the denoiser and in the networks of its own order and critic."""
        order, spent = saved_order(self.denoiser), {"denoiser": 0.0, "others": 0.0}
        others = {order.policy} | ({order.critic.policy} if order.critic else set())
        hooks = []
        for name, networks in (("denoiser", {self.denoiser}), ("others", others)):
            for network in networks:
                hooks += timed(network, name, spent)
        yield spent
        for hook in hooks:
            hook.remove()


def timed(network: Any, name: str, spent: dict[str, float]) -> list[Any]:
    """Hooks that add the seconds of a network's forward passes to `spent[name]`."""
    began = [0.0]

    def before(*_: Any) -> None:
        began[0] = time.process_time()

    def after(*_: Any) -> None:
        spent[name] += time.process_time() - began[0]

    return [network.register_forward_pre_hook(before), network.register_forward_hook(after)]


def samplers(bench: Bench, budgets: list[int], remask_budget: int, seed: int) -> Curves:
    """Undo after two orders, the heuristics and the published remaskers, at each budget."""
    texts = {text: text for text in ("policy+undo", "confidence+undo", *HEURISTICS)} | PUBLISHED
    found: Curves = {}
    for name, text in texts.items():
        within = [budget for budget in budgets if name not in PUBLISHED or budget <= remask_budget]
        found[name] = [bench.point(Sampler.parse(text, steps=budget), seed) for budget in within]
    for text in CAREFUL:
        found[text] = [bench.point(Sampler.parse(text, steps=max(budgets)), seed)]
    return found


def attempts(bench: Bench, number: int, seed: int, noise: float, temperature: float) -> Curves:
    """N attempts, N = 1, 2, 4, ..., of which one is chosen in three ways."""
    first = Sampler.parse(ATTEMPTS, steps=100)
    again = first.replace(noise=noise, token=anyorder.Sample(temperature))
    outs = [bench.decode(again if n else first, seed * 1000 + n)[0] for n in range(number)]
    tokens = torch.stack([out.tokens for out in outs])  # (number, N, L)
    worth = torch.stack([out.token_log_probs.sum(dim=1) for out in outs])
    right = torch.stack([bench.right(out.tokens) for out in outs])
    passes = torch.stack([out.nfe for out in outs]).cumsum(dim=0)
    found: Curves = {"best of N by likelihood": [], "majority": [], "rules (ceiling)": []}
    n = 1
    while n <= number:
        best = worth[:n].argmax(dim=0)
        found["best of N by likelihood"].append(Point(right[best, torch.arange(len(best))], passes[n - 1]))
        found["majority"].append(Point(bench.right(tokens[:n].mode(dim=0).values), passes[n - 1]))
        found["rules (ceiling)"].append(Point(right[:n].any(dim=0), passes[n - 1]))
        n *= 2
    return found


class Average(NamedTuple):
    """Outcomes (N,) averaged over the seeds, mean and most forward passes, cost of policy and critic over the denoiser."""

    solved: np.ndarray
    nfe: float
    most: int
    extra: float


def averaged(runs: list[Point]) -> Average:
    """The seeds of a sampler as one."""
    solved = torch.stack([run.right.double() for run in runs]).mean(dim=0).numpy()
    nfe = torch.stack([run.nfe.double() for run in runs])
    return Average(solved, float(nfe.mean()), int(nfe.max()), float(np.mean([run.extra for run in runs])))


def against_heuristics(measured: dict[str, list[Average]], budgets: list[int]) -> list[str]:
    """Lines of a table: undo at each budget against the best heuristic that spends no more."""
    header = ("sampler", "budget", "best heuristic (passes)", "its share solved", "undo (passes)", "difference", "p")
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for name in ("policy+undo", "confidence+undo"):
        for budget, undo in zip(budgets, measured[name], strict=True):
            points = [(text, point) for text in (*HEURISTICS, *CAREFUL) for point in measured[text]]
            rivals = [(text, point) for text, point in points if point.most <= budget or point.nfe <= undo.nfe]
            text, best = max(rivals, key=lambda rival: rival[1].solved.mean())
            low, high = paired_interval(undo.solved, best.solved)
            gap = f"{100 * (undo.solved - best.solved).mean():+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
            cells = [
                name, str(budget), f"{text} ({best.nfe:.1f})", f"{100 * best.solved.mean():.1f}",
                f"{100 * undo.solved.mean():.1f} ({undo.nfe:.1f})", gap, f"{sign_flip(undo.solved - best.solved):.2g}",
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Measure, print the tables in Markdown, and write the curves."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="sudoku9")
    options.add_argument("--data", type=Path, help="a file of problems; by default they are generated")
    options.add_argument("--skip", type=int, default=0, help="leave out the first problems")
    options.add_argument("--limit", type=int, default=200)
    options.add_argument("--budgets", default="5,10,20,40,80,160,320")
    options.add_argument("--remask-budget", type=int, default=80, help="the largest budget of P2 and ReMDM, which use it up")
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
    by_seed = []
    for seed in map(int, given.seeds.split(",")):
        found = samplers(bench, budgets, given.remask_budget, seed)
        by_seed.append(found | attempts(bench, given.attempts, seed, given.noise, given.temperature))
    measured = {
        name: [averaged(list(runs)) for runs in zip(*(curves[name] for curves in by_seed), strict=True)] for name in by_seed[0]
    }
    rows: dict[str, list[dict[str, Any]]] = {}
    print("| sampler | solved, % (average forward passes; with policy and critic) ... |\n|---|---|")
    for name, points in measured.items():
        for point in points:
            mean, low, high = (100 * value for value in mean_interval(point.solved))
            cost = point.nfe * (1 + point.extra)
            rows.setdefault(name, []).append({"nfe": point.nfe, "cost": cost, "solved": mean, "ci95": [low, high]})
        cells = "; ".join(f"{p['solved']:.1f} ({p['nfe']:.1f}; {p['cost']:.1f})" for p in rows.get(name, []))
        print(f"| {name} | {cells} |", flush=True)
    print("", *against_heuristics(measured, budgets), sep="\n")
    if given.json:
        given.json.write_text(json.dumps({"problems": len(problems), "seeds": given.seeds, "curves": rows}, indent=1))


def plot(path: Path, picture: Path) -> None:
    """Solved against average forward passes, and against these and the time of policy and critic, from the JSON of a run."""
    import matplotlib.pyplot as plt

    held = json.loads(path.read_text())
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", sharey=True)
    labels = ("average forward passes per problem", "the same, with the time of policy and critic")
    for axes, key, label in zip(panels, ("nfe", "cost"), labels, strict=True):
        colors = iter(f"C{n}" for n in range(10))
        for name, points in held["curves"].items():
            points = sorted(points, key=lambda point: point[key])
            passes, solved = ([point[one] for point in points] for one in (key, "solved"))
            low, high = (np.clip(ends, 0, 100) for ends in zip(*(point["ci95"] for point in points), strict=True))
            if name in HEURISTICS + CAREFUL:
                shown = "heuristics" if name == HEURISTICS[0] else None
                axes.errorbar(passes, solved, [solved - low, high - solved], fmt="o", ms=3, lw=0.6, color="black", label=shown)
                continue
            color = next(colors)
            axes.plot(passes, solved, marker="o", ms=3, lw=1.2, ls="--" if "ceiling" in name else "-", color=color, label=name)
            axes.fill_between(passes, low, high, color=color, alpha=0.12, lw=0)
        axes.set(xscale="log", xlabel=label, ylim=(None, 101))
        axes.set_xticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
        axes.minorticks_off()
    panels[0].set_ylabel(f"solved, % of {held['problems']:,} problems")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(picture, dpi=160)


if __name__ == "__main__":
    main()
