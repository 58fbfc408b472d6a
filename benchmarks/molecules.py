"""Molecules: validity against diversity of sampling orders, remaskers and learned parts, at the same forward passes.

    anyorder train moses-reward --out runs/reward0 --set seed=0        # and so on for each seed; the same for moses-critic
    python benchmarks/molecules.py --runs runs/molecules --order runs/reward0,runs/reward1,runs/reward2 --critic runs/critic0

Each family is a sampler whose noise on the order is swept, so that it is a curve of (internal diversity, share of valid
molecules). All decode the same empty molecules (lengths 26 to 45, temperature 1) with the same seeds. Families are compared by
the share of valid molecules where a curve, interpolated linearly, has a given diversity; a family with several seeds is
averaged over them. Intervals and tests are by bootstrap over the molecules (and seeds), the same resamples for all families.

Controls: lower temperatures; P2 with the denoiser as its own planner, which needs no training; the network of the order before
training, whose scores have the same scale; a count rule at the same number of passes.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import anyorder
from anyorder import Sampler
from anyorder.decoding.combined_counts import Deadline
from anyorder.decoding.published_remaskers import P2, CriticP2
from anyorder.decoding.tokens import Sample
from anyorder.evaluation.batches import decode_in_batches
from anyorder.evaluation.statistics import bootstrap_weights, percentile_interval
from anyorder.files import write_json
from anyorder.tasks import Task
from anyorder.training.order import make_policy
from anyorder.training.recipes import load_recipe

SCALES, WIDE = (0.0, 0.25, 0.5, 1.0), (0.0, 1.0, 2.0)
"""Scales of noise: on scores that are log-probabilities, and on those that are log-odds."""
TEMPERATURES = (0.8, 0.6)
RIVALS = ("confidence", "confidence+p2:4")
"""With which all are compared. This eta of P2 is the best of those here where molecules are to be diverse."""
DIVERSITIES = (0.76, 0.78, 0.8)
SEED, DRAWS, LENGTHS = 5_000_000, 2000, (26, 45)


def families(critics: list[str], orders: list[str], denoiser: Any, task: Task) -> dict[str, list[dict[str, Sampler]]]:
    """Each family as curves, one for each of its seeds, of samplers by their noise."""

    def noisy(sampler: Sampler, *scales: float, temperature: float = 1.0) -> dict[str, Sampler]:
        return {f"{noise:g}": sampler.replace(noise=noise, token=Sample(temperature)) for noise in scales or SCALES}

    def parsed(text: str) -> list[dict[str, Sampler]]:
        return [noisy(Sampler.parse(text))]

    plain = Sampler.parse("confidence")
    found = {text: parsed(text) for text in ("confidence", "margin", "confidence+p2", "confidence+p2:2", "confidence+p2:4")}
    found |= {f"confidence, temperature {t:g}": [noisy(plain, temperature=t)] for t in TEMPERATURES}
    factor = Sampler.parse("confidence@factor")
    found["confidence@factor, filled up"] = [noisy(factor.replace(count=Deadline(factor.count)))]
    found["order by reward, untrained"] = [noisy(Sampler(untrained("moses-reward", denoiser, task)), *WIDE)]
    judges: list[Any] = [anyorder.load_order(folder, denoiser).critic for folder in critics]
    found["confidence+p2_critic"] = [noisy(plain.replace(remasker=CriticP2(1.0, critic))) for critic in judges]
    learned = [anyorder.load_order(folder, denoiser) for folder in orders]
    found["order by reward"] = [noisy(Sampler(order), *WIDE) for order in learned]
    for eta in (1.0, 4.0):
        found[f"order by reward+p2:{eta:g}"] = [noisy(Sampler(order, remasker=P2(eta)), *WIDE) for order in learned]
    return {name: curves for name, curves in found.items() if curves}


def untrained(recipe: str, denoiser: Any, task: Task) -> anyorder.LearnedOrder:
    """The network of a recipe as it is before training: the order of the drawn token's log-odds."""
    told: Any = load_recipe(recipe)
    return anyorder.LearnedOrder(make_policy(denoiser, task, told.policy, critic=False))


def similarities(task: Any, texts: list[str]) -> np.ndarray:
    """Tanimoto similarity of all pairs, 0 where one of them is not valid."""
    valid = task.valid(texts)
    out = np.zeros((len(texts), len(texts)))
    good = np.flatnonzero(valid)
    tokens = task.encode([texts[n] for n in good]).x0 if len(good) else None
    if tokens is not None:
        out[np.ix_(good, good)] = 1 - task.differences(task.generate(len(good), 0, length=45), tokens)
    return out


def point(valid: np.ndarray, alike: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share valid, and internal diversity of the valid ones, of resamples with these weights (draws, N) that sum to 1.

    Pairs of a molecule with its own copy are left out, so that resampling does not lower the diversity.
    """
    w = weights * valid
    pairs = w.sum(axis=1) ** 2 - (w**2).sum(axis=1)
    same = np.einsum("dn,nm,dm->d", w, alike, w, optimize=True) - (w**2 * np.diag(alike)).sum(axis=1)
    return w.sum(axis=1), 1 - same / np.maximum(pairs, 1e-12)


def at_diversity(curves: list[list[tuple[np.ndarray, np.ndarray]]], diversity: float) -> np.ndarray:
    """Share valid (draws,) of a family where its curve has this diversity, over resampled seeds; nan if not reached."""
    found = []
    for curve in curves:
        valid, varied = np.stack([p[0] for p in curve], axis=1), np.stack([p[1] for p in curve], axis=1)
        found.append([_between(v, d, diversity) for v, d in zip(valid, varied, strict=True)])
    mean: np.ndarray = np.einsum("ds,sd->d", bootstrap_weights(len(curves), DRAWS, seed=1), np.array(found))
    return mean


def _between(valid: np.ndarray, varied: np.ndarray, diversity: float) -> float:
    """Share valid at a diversity. A curve that is more diverse throughout counts with its least diverse point."""
    order = np.argsort(varied)
    if not varied.min() <= diversity <= varied.max():
        return float(valid[order[0]]) if diversity < varied.min() else float("nan")
    return float(np.interp(diversity, varied[order], valid[order]))


def main() -> None:
    """Decode what is missing, and print the tables."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=Path, default=Path("runs/molecules"))
    options.add_argument("--critic", default="", help="folders of critics, one for each seed, separated by commas")
    options.add_argument("--order", default="", help="folders of orders by reward")
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--limit", type=int, default=400)
    options.add_argument("--only", default="", help="names of families, separated by semicolons")
    told = options.parse_args()
    torch.set_num_threads(1)
    denoiser: Any = anyorder.load_denoiser("moses", device="cpu")
    task: Any = anyorder.task_for(denoiser)
    problems = task.generate(told.limit, SEED, length=LENGTHS)
    weights = bootstrap_weights(told.limit, DRAWS)
    even = np.full((1, told.limit), 1 / told.limit)
    curves: dict[str, list[list[tuple[np.ndarray, np.ndarray]]]] = {}
    lines = ["| sampler | noise | valid | unique, of valid | internal diversity | passes |", "|---" * 6 + "|"]
    wanted = families([f for f in told.critic.split(",") if f], [f for f in told.order.split(",") if f], denoiser, task)
    for family, seeds in wanted.items():
        if told.only and family not in told.only.split(";"):
            continue
        drawn: list[dict[str, Any]] = []
        for number, curve in enumerate(seeds):
            points = []
            for name, sampler in curve.items():
                path = told.runs / f"{family}-{number}-{name}-{told.steps}-{told.limit}.json".replace(" ", "_").replace(",", "")
                if not path.exists():
                    whole = sampler.replace(steps=told.steps).bind(denoiser)
                    out = decode_in_batches(denoiser, problems, whole, seed=1, batch_size=256, progress=None, name=family)
                    write_json(path, {"texts": task.texts(problems, out.tokens), "nfe": float(out.nfe.float().mean())})
                    print(path.stem, flush=True)
                kept = json.loads(path.read_text())
                valid, alike = task.valid(kept["texts"]).astype(float), similarities(task, kept["texts"])
                points.append(point(valid, alike, weights))
                value = point(valid, alike, even)
                good = [text for text, right in zip(kept["texts"], valid, strict=True) if right]
                row = {"name": name, "valid": value[0][0], "varied": value[1][0], "nfe": kept["nfe"], "at": points[-1]}
                drawn.append(row | {"unique": len(set(good)) / max(1, len(good))})
            curves.setdefault(family, []).append(points)
        for name in dict.fromkeys(row["name"] for row in drawn):
            rows = [row for row in drawn if row["name"] == name]
            valid, varied = (np.mean([row["at"][n] for row in rows], axis=0) for n in (0, 1))
            mean = {key: float(np.mean([row[key] for row in rows])) for key in ("valid", "varied", "unique", "nfe")}
            low, high = percentile_interval(100 * valid)
            less, more = percentile_interval(varied)
            lines.append(
                f"| `{family}` | {name} | {100 * mean['valid']:.1f} ({low:.1f}-{high:.1f}) | {100 * mean['unique']:.1f} | "
                f"{mean['varied']:.3f} ({less:.3f}-{more:.3f}) | {mean['nfe']:.1f} |"
            )
    print("\n".join(lines))
    gaps = "".join(f" | minus {rival}" for rival in RIVALS if rival in curves)
    print(f"\n| sampler | {' | '.join(f'valid at diversity {d:g}{gaps}' for d in DIVERSITIES)} |")
    print("|---" * (1 + (1 + gaps.count("|")) * len(DIVERSITIES)) + "|")
    for family, seeds_points in curves.items():
        cells = []
        for diversity in DIVERSITIES:
            found = at_diversity(seeds_points, diversity)
            cells.append(shown(found, "{:.1f}"))
            for other in [rival for rival in RIVALS if rival in curves]:
                gap = found - at_diversity(curves[other], diversity)
                cells.append("" if family == other else shown(gap, "{:+.1f}", test=True))
        print(f"| `{family}` | {' | '.join(cells)} |")


def shown(values: np.ndarray, form: str, *, test: bool = False) -> str:
    """Mean and 95 % interval of resamples, in percent; with `test` the two-sided p-value of 0 too."""
    if np.isnan(values).mean() > 0.05:
        return "not reached"
    values = values[~np.isnan(values)]
    low, high = percentile_interval(100 * values)
    p = max(2 * min((values <= 0).mean(), (values >= 0).mean()), 1 / len(values))
    mean = form.format(100 * values.mean())
    return f"{mean} ({form.format(low)} to {form.format(high)}{f'; p = {min(p, 1):.2g}' if test else ''})"


if __name__ == "__main__":
    main()
