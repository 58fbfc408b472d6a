"""Does `headroom` predict what `fit` gains, and is the sampler of `fit` ever worse than the best heuristic?

For each denoiser, kind of problems and budget: the gain that the probe of `headroom` predicts (200 problems, 150 updates), and
the gain of the sampler that `fit` chooses (4,000 problems, 300 updates, 200 to choose on) over the best heuristic, on 500
problems that neither saw. One seed.

    python benchmarks/advice.py --out advice.json
    python benchmarks/advice.py --out advice.json --plot advice.png     # the table and the picture of what is there

A case that is in the file is not measured again.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from scipy.stats import spearmanr

import anyorder
from anyorder.evaluation.headroom_check import headroom
from anyorder.fitting import FitSettings, fit_and_compare

CASES: list[tuple[str, dict[str, Any], tuple[int, ...]]] = [
    ("sudoku4", {"givens": 8, "unique": False}, (2, 4, 8)),
    ("sudoku4", {"givens": 5}, (4, 16)),
    ("sudoku4-weak", {"givens": 8, "unique": False}, (2, 4, 8, 16)),
    ("sat9", {}, (5, 18)),
    ("sudoku9-easy", {"givens": 0}, (20,)),
    ("sudoku9", {"givens": 0}, (10, 40)),
    ("addition", {"carry": 1.0}, (5, 10)),
    ("zebra", {}, (16, 40)),
]


def measure(model: str, options: dict[str, Any], steps: int, folder: Path) -> dict[str, Any]:
    """One case."""
    denoiser = anyorder.load_denoiser(model, device="cpu")
    task = anyorder.task_for(denoiser)
    began = time.perf_counter()
    found = headroom(denoiser, task, task.generate(200, 1_000_000, **options), steps)
    waited = time.perf_counter() - began
    assert found.probe is not None
    predicted = max(found.probe.gains, key=lambda one: one.mean)
    words = tuple(f"{key}={value}" for key, value in options.items())
    began = time.perf_counter()
    fit = fit_and_compare(FitSettings(model, steps=steps, generate=words), folder, Console(quiet=True))
    real = {"what": fit.label, "mean": 0.0, "low": 0.0, "high": 0.0, "p_value": 1.0} if fit.gain is None else asdict(fit.gain)
    by_label = {r.order: 100 * r.main(fit.reports["test"].main_metric)[0] for r in fit.reports["test"].results}
    return {
        "heuristic": fit.heuristic, "accuracy": by_label[fit.heuristic], "predicted": asdict(predicted), "real": real,
        "auroc": found.probe.auroc, "auroc_confidence": found.probe.auroc_confidence, "oracle": by_label["oracle"],
        "seconds": [waited, time.perf_counter() - began],
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """The cases as Markdown, with the rank correlation of predicted and real gains."""
    lines = [
        "| denoiser, problems, passes | best heuristic | % right | AUROC (confidence) | predicted | chosen | gained | s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, one in found.items():
        p, r = one["predicted"], one["real"]
        lines.append(
            f"| {name} | {one['heuristic']} | {one['accuracy']:.1f} | {one['auroc']:.3f} ({one['auroc_confidence']:.3f}) | "
            f"{p['mean']:+.1f} ({p['low']:+.1f} to {p['high']:+.1f}), {p['what']} | {r['what']} | "
            f"{r['mean']:+.1f} ({r['low']:+.1f} to {r['high']:+.1f}) | {one['seconds'][0]:.0f}, {one['seconds'][1]:.0f} |"
        )
    pairs = [(max(0.0, one["predicted"]["mean"]), one["real"]["mean"]) for one in found.values()]
    rank = spearmanr(*zip(*pairs, strict=True)).statistic if len(pairs) > 2 else float("nan")
    inside = sum(one["predicted"]["low"] <= one["real"]["mean"] <= one["predicted"]["high"] for one in found.values())
    worse = [name for name, one in found.items() if one["real"]["high"] < 0]
    lines.append(
        f"\nRank correlation of predicted and real gain: {rank:.2f}. The real gain is inside the predicted interval in "
        f"{inside} of {len(pairs)} cases. Significantly worse than the best heuristic: {', '.join(worse) or 'none'}."
    )
    return "\n".join(lines)


def plot(found: dict[str, Any], path: Path) -> None:
    """Predicted against real gain."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 4.5), layout="constrained")
    models = list(dict.fromkeys(name.split(", ")[0] for name in found))
    for name, one in found.items():
        model, passes = name.split(", ")[0], name.split(", ")[-1]
        p, r = one["predicted"], one["real"]
        color, first = f"C{models.index(model)}", model not in axes.get_legend_handles_labels()[1]
        errors = {
            "xerr": [[p["mean"] - p["low"]], [p["high"] - p["mean"]]],
            "yerr": [[r["mean"] - r["low"]], [r["high"] - r["mean"]]],
        }
        axes.errorbar(p["mean"], r["mean"], **errors, fmt="o", lw=0.8, color=color, label=model if first else None)
        if r["mean"]:
            axes.annotate(f"{passes} passes", (p["mean"], r["mean"]), xytext=(4, 4), textcoords="offset points", fontsize=6)
    low, high = axes.get_xlim()
    axes.plot([low, high], [low, high], color="gray", lw=0.8, ls="--")
    axes.set(xlabel="predicted by headroom, points", ylabel="gained by the sampler of fit, points")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=160)


def main() -> None:
    """Measure what is missing, and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, default=Path("advice.json"))
    arguments.add_argument("--plot", type=Path)
    arguments.add_argument("--only", default="", help="cases whose name contains this")
    given = arguments.parse_args()
    found: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}
    for model, options, budgets in CASES:
        for steps in budgets:
            name = ", ".join([model, *(f"{key}={value}" for key, value in options.items()), str(steps)])
            if given.only in name and name not in found and not given.plot:
                folder = given.out.parent / "advice-fits" / name.replace(", ", "-")
                found[name] = measure(model, options, steps, folder)
                given.out.write_text(json.dumps(found, indent=1))
                print(name, found[name]["predicted"]["mean"], found[name]["real"]["mean"], flush=True)
    print(table(found))
    if given.plot:
        plot(found, given.plot)


if __name__ == "__main__":
    main()
