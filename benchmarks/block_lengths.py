"""Molecules of denoisers trained with blocks of several lengths, from an autoregressive model (blocks of 1) to a single block.

Every length is trained by the recipe moses-block-denoiser for the same time, all at once, and completes the same empty
molecules by several orders, one position per step, tokens drawn at temperature 1, with the exact cache of finished blocks and
without. For the block length of the recipe an order policy is fitted as well (moses-order). A valid molecule is one that RDKit
reads, which is needed to print the table only.

    anyorder fetch moses
    python benchmarks/block_lengths.py [--runs runs/blocks] [--lengths 1,4,8,16,64] [--seconds 150] [--device cuda] [--print]
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import anyorder
from anyorder.decoding.tokens import Sample
from anyorder.training.fit import run_recipe
from anyorder.training.recipes import load_recipe
from anyorder.zoo import task_of

ORDERS = ("confidence", "entropy", "random", "left_to_right")
NUMBER = 500


def recipe_of(length: int, options: argparse.Namespace, steps: int, *changes: str) -> Any:
    """The recipe for one length of blocks."""
    return load_recipe("moses-block-denoiser", [
        f"denoiser.block_length={length}", f"run.steps={steps}", f"run.batch_size={options.batch}",
        f"data.file={options.data}", f"data.size={options.size}", *changes,
    ])  # fmt: skip


def train(length: int, options: argparse.Namespace) -> Path:
    """As many steps as fit into the time. The speed is measured first, while the others measure theirs."""
    folder = Path(options.runs) / str(length)
    trials = [
        run_recipe(recipe_of(length, options, steps, "data.size=1000"), folder.with_name(f"{length}-trial-{steps}")).seconds
        for steps in (30, 120)
    ]
    steps = max(120, int(options.seconds * 90 / max(1e-3, trials[1] - trials[0])))
    began = time.time()
    run_recipe(recipe_of(length, options, steps), folder / "model")
    (folder / "training.json").write_text(json.dumps({"steps": steps, "seconds": time.time() - began}))
    return folder


def sample(folder: Path, options: argparse.Namespace) -> None:
    """Complete the same empty molecules by every order; tokens, forward passes and seconds are written down."""
    denoiser = anyorder.load_denoiser(folder / "model", device=options.device)
    task = anyorder.task_for(denoiser)
    problems = task.generate(options.number, 1)
    orders = list(ORDERS)
    if denoiser.block_length == options.fit:
        steps = ["task.options.free_length=true", f"data.file={options.data}", f"data.size={options.size // 10}"]
        run_recipe(load_recipe("moses-order", [f"denoiser={folder / 'model'}", *steps]), folder / "order")
        orders.append(str(folder / "order"))
    for order in orders:
        for cache in ("none", "exact"):
            sampler = anyorder.Sampler(order, token=Sample(1.0), cache=cache)
            began = time.perf_counter()
            found = anyorder.decode(denoiser, problems.tokens, sampler, seeds=7, ends=task.stops_at)
            took, name = time.perf_counter() - began, Path(order).name.replace("order", "policy")
            values = {"order": name, "cache": cache, "seconds": took, "nfe": float(found.nfe.double().mean()),
                      "tokens": found.tokens.tolist()}  # fmt: skip
            (folder / f"sample-{Path(order).name}-{cache}.json").write_text(json.dumps(values))


def print_table(options: argparse.Namespace) -> None:
    """A row for each length and order."""
    from anyorder.evaluation.statistics import wilson

    names = "block | updates | order | valid, % | unique, % | diversity | symbols | NFE | equal with cache, % | s, cache / none"
    print(f"| {names} |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for folder in sorted((p for p in Path(options.runs).iterdir() if p.name.isdigit()), key=lambda p: int(p.name)):
        task: Any = task_of(folder / "model")
        steps = json.loads((folder / "training.json").read_text())["steps"]
        for path in sorted(folder.glob("sample-*-none.json")):
            plain, cached = (json.loads(p.read_text()) for p in (path, Path(str(path).replace("-none", "-exact"))))
            tokens, again = (torch.tensor(values["tokens"]) for values in (plain, cached))
            problems = task.generate(len(tokens), 1)
            right, about = task.check(problems, tokens).instance_correct, task.measure(problems, tokens)
            low, high = (100 * bound for bound in wilson(int(right.sum()), len(right)))
            unique, diversity = (_mean(about[name]) for name in ("unique", "internal diversity"))
            symbols = float(task.generated(problems, tokens).sum(dim=1).double().mean())
            equal = 100 * float((tokens == again).all(dim=1).double().mean())
            print(
                f"| {folder.name} | {steps} | {plain['order']} | {100 * right.float().mean():.1f} ({low:.1f}-{high:.1f}) | "
                f"{100 * unique:.1f} | {diversity:.3f} | {symbols:.1f} | {plain['nfe']:.1f} | {equal:.1f} | "
                f"{cached['seconds']:.2f} / {plain['seconds']:.2f} |"
            )


def _mean(values: Any) -> float:
    """The mean of what has a value."""
    return float(torch.tensor(values, dtype=torch.float64).nanmean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", default="runs/blocks")
    parser.add_argument("--lengths", default="1,4,8,16,64")
    parser.add_argument("--seconds", type=float, default=150, help="of training, for each length")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=200_000, help="training molecules")
    parser.add_argument("--data", default="moses/train.smi")
    parser.add_argument("--number", type=int, default=NUMBER, help="molecules to complete")
    parser.add_argument("--fit", type=int, default=8, help="block length of the denoiser that gets a policy")
    parser.add_argument("--device", default=None)
    parser.add_argument("--one", type=int, help="train and sample this length alone")
    parser.add_argument("--print", action="store_true", help="only print the table of what is there")
    parser.add_argument("--no-table", action="store_true", help="do not print it: where RDKit is missing")
    options = parser.parse_args()
    if options.one is not None:
        return sample(train(options.one, options), options)
    if not options.print:
        Path(options.runs).mkdir(parents=True, exist_ok=True)
        logs = [open(Path(options.runs) / f"{length}.log", "w") for length in options.lengths.split(",")]  # noqa: SIM115
        workers = [
            subprocess.Popen([sys.executable, __file__, *sys.argv[1:], "--one", length], stdout=log, stderr=log)
            for length, log in zip(options.lengths.split(","), logs, strict=True)
        ]
        failed = [length for length, worker in zip(options.lengths.split(","), workers, strict=True) if worker.wait()]
        if failed:
            sys.exit(f"failed: blocks of {', '.join(failed)}; see the logs in {options.runs}")
    if not options.no_table:
        print_table(options)


if __name__ == "__main__":
    main()
