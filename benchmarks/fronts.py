"""Quality against diversity of sampled sequences: orders, remaskers and learned parts at the same number of forward passes.

    anyorder train moses-reward --out runs/reward0 --set seed=0        # and so on for each seed; the same for moses-critic
    python benchmarks/fronts.py --order runs/reward0,runs/reward1,runs/reward2 --critic runs/critic0
    python benchmarks/fronts.py --subject antibodies --order runs/antibody0,runs/antibody1,runs/antibody2
    python benchmarks/fronts.py --subject qed --order runs/qed0,runs/qed1 --control runs/reward0

Each family is a sampler whose noise on the order is swept, so that it is a curve of (diversity of the valid samples,
quality): the share that is valid, the mean QED, where an invalid sample counts 0, or the log-likelihood of texts under SmolLM2.
All decode the same empty sequences at temperature 1 with the same seeds. Families are compared by the quality where a curve,
interpolated linearly, has a given diversity; a family with several seeds is averaged over them. Intervals and tests are by
bootstrap over the samples (and seeds), the same resamples for all families.

Controls: lower temperatures, swept in random order and in the order of confidence without noise too; P2 with the denoiser as
its own planner, which needs no training; the network of the order before training, whose scores have the same scale; orders
trained by another reward (`--control`); a count rule at the same number of passes.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import anyorder
from anyorder import Sampler
from anyorder.causal import CausalModel
from anyorder.decoding.combined_counts import Deadline
from anyorder.decoding.published_remaskers import P2, CriticP2
from anyorder.decoding.tokens import Sample
from anyorder.denoisers.base import fingerprint
from anyorder.evaluation.batches import decode_in_batches
from anyorder.evaluation.statistics import bootstrap_weights, percentile_interval, stretched
from anyorder.files import write_json
from anyorder.parts import walk
from anyorder.tasks import Instances, Task
from anyorder.tasks.antibody import NEAR_DUPLICATE
from anyorder.training.order import untrained_order
from anyorder.training.recipes import load_recipe
from anyorder.zoo.fetch import causal_source


@dataclass(frozen=True)
class Subject:
    """What is sampled: a denoiser, lengths, the recipe of the order by reward, and where curves are compared.

    quality: what is shown, times `scale`: the share that is valid, the mean QED, or the likelihood under SmolLM2 in nats per
        token.
    noises: scales of noise on scores that are log-probabilities.
    rivals: with which all are compared. This eta of P2 is the best of those here where molecules are to be diverse; on texts P2
        is worse than confidence.
    """

    denoiser: str
    lengths: tuple[int, int]
    recipe: str
    diversities: tuple[float, ...]
    quality: str = "valid"
    scale: int = 100
    noises: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0)
    rivals: tuple[str, ...] = ("confidence", "confidence+p2:4")


COOLER = ("confidence", "confidence, temperature 0.8")
SUBJECTS = {
    "molecules": Subject("moses", (26, 45), "moses-reward", (0.76, 0.78, 0.8)),
    "qed": Subject("moses", (26, 45), "moses-qed", (0.76, 0.78, 0.8), "QED"),
    "text": Subject("wordnet", (6, 20), "text-reward", (0.92, 0.93), "log-likelihood", 1, (0.0, 0.25, 0.5, 1.0, 2.0), COOLER),
    "antibodies": Subject("antiberty", (105, 125), "antiberty-reward", (0.56, 0.58, 0.6)),
}
WIDE = (0.0, 1.0, 2.0)
"""Scales of noise on scores that are log-odds."""
TEMPERATURES = (0.8, 0.6)
COOLING = (1.0, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
SEED, DRAWS = 5_000_000, 2000

Curve = list[tuple[np.ndarray, np.ndarray]]
"""Quality and diversity in every resample, of each point of a curve."""


def families(subject: Subject, parts: dict[str, list[str]], denoiser: Any, task: Task) -> dict[str, list[dict[str, Sampler]]]:
    """Each family as curves, one for each of its seeds, of samplers by their noise.

    Args:
        parts: folders of critics ("critic"), of orders by reward ("order"), and of orders by another reward ("control").
    """

    def noisy(sampler: Sampler, *scales: float, temperature: float = 1.0) -> dict[str, Sampler]:
        return {f"{noise:g}": sampler.replace(noise=noise, token=Sample(temperature)) for noise in scales or subject.noises}

    plain = Sampler.parse("confidence")
    texts = ("confidence", "margin", "confidence+p2", "confidence+p2:2", "confidence+p2:4")
    found = {text: [noisy(Sampler.parse(text))] for text in texts}
    found |= {f"confidence, temperature {t:g}": [noisy(plain, temperature=t)] for t in TEMPERATURES}
    for text in ("confidence", "random"):
        cooler = {f"temperature {t:g}": Sampler.parse(text, token=Sample(t)) for t in COOLING}
        found[f"{text}, by temperature"] = [cooler]
    factor = Sampler.parse("confidence@factor")
    found["confidence@factor, filled up"] = [noisy(factor.replace(count=Deadline(factor.count)))]
    recipe: Any = load_recipe(subject.recipe)
    found["order by reward, untrained"] = [noisy(Sampler(untrained_order(recipe, denoiser, task)), *WIDE)]
    judges: list[Any] = [anyorder.load_order(folder, denoiser).critic for folder in parts["critic"]]
    found["confidence+p2_critic"] = [noisy(plain.replace(remasker=CriticP2(1.0, critic))) for critic in judges]
    for name, folders in (("order by reward", parts["order"]), ("order by another reward", parts["control"])):
        learned = [anyorder.load_order(folder, denoiser) for folder in folders]
        found[name] = [noisy(Sampler(order), *WIDE) for order in learned]
        found[f"{name}, temperature {TEMPERATURES[0]:g}"] = [
            noisy(Sampler(order), *WIDE, temperature=TEMPERATURES[0]) for order in learned
        ]
        for eta in (1.0, 4.0):
            found[f"{name}+p2:{eta:g}"] = [noisy(Sampler(order, remasker=P2(eta)), *WIDE) for order in learned]
    return {name: curves for name, curves in found.items() if curves}


@dataclass(frozen=True, eq=False)
class Samples:
    """N decoded sequences: their quality, which are valid, how alike each pair of valid ones is, and the passes spent."""

    quality: np.ndarray
    valid: np.ndarray
    alike: np.ndarray
    nfe: float

    @property
    def repeated(self) -> float:
        """Share of the valid samples that are nearly equal to another valid one."""
        others = self.alike - np.eye(len(self.alike))
        return float((others.max(axis=1) > NEAR_DUPLICATE)[self.valid].mean()) if self.valid.any() else 0.0

    def point(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Quality, and diversity of the valid ones, of resamples with these weights (draws, N) that sum to 1.

        Pairs of a sample with its own copy are left out, so that resampling does not lower the diversity.
        """
        w = weights * self.valid
        pairs = w.sum(axis=1) ** 2 - (w**2).sum(axis=1)
        same = np.einsum("dn,nm,dm->d", w, self.alike, w, optimize=True) - (w**2 * np.diag(self.alike)).sum(axis=1)
        return weights @ self.quality, 1 - same / np.maximum(pairs, 1e-12)


def similarities(task: Any, texts: list[str], valid: np.ndarray) -> np.ndarray:
    """1 minus `task.differences` of all pairs: Tanimoto similarity of molecules, identity of antibodies at IMGT positions,
    overlap of texts; 0 where one of them is not valid."""
    out = np.zeros((len(texts), len(texts)))
    good = np.flatnonzero(valid)
    if len(good):
        problems = task.encode([texts[n] for n in good])
        out[np.ix_(good, good)] = 1 - task.differences(problems, problems.x0)
    return out


def weights_of(sampler: Sampler) -> str:
    """A mark of the weights of the learned parts, so that another order of the same name is decoded anew; "" without any."""
    parts = [part for field in (sampler.order, sampler.remasker) for part in walk(field)]
    networks = [part.policy for part in parts if isinstance(getattr(part, "policy", None), torch.nn.Module)]
    return "".join(f"-{fingerprint(network)[:8]}" for network in networks)


@cache
def judge() -> CausalModel:
    """SmolLM2-135M, which `anyorder fetch smollm2` brings."""
    return CausalModel(causal_source("smollm2"))


@dataclass(frozen=True)
class Bench:
    """The problems, and the folder in which decoded sequences are kept."""

    subject: Subject
    denoiser: Any
    task: Any
    problems: Instances
    steps: int
    folder: Path

    def samples(self, family: str, number: int, noise: str, sampler: Sampler) -> Samples:
        """What a sampler decodes; decoded now, or read."""
        whole = sampler.replace(steps=self.steps).bind(self.denoiser)
        dtype = next(self.denoiser.parameters()).dtype
        marks = "" if dtype == torch.float32 else f"-{str(dtype).removeprefix('torch.')}"
        name = f"{family}-{number}-{noise}-{self.steps}-{len(self.problems)}{weights_of(whole)}{marks}.json"
        name = name.replace(" ", "_").replace(",", "")
        path = self.folder / name
        if not path.exists():
            out = decode_in_batches(
                self.denoiser, self.problems, whole, seed=1, batch_size=256, progress=None, name=family
            )  # fmt: skip
            kept = {"texts": self.task.texts(self.problems, out.tokens), "nfe": float(out.nfe.float().mean())}
            if self.subject.quality == "log-likelihood":
                kept["log-likelihood"] = (-judge().nats(kept["texts"])).tolist()
            write_json(path, kept)
            print(path.stem, flush=True)
        read = json.loads(path.read_text())
        valid = self.task.valid(read["texts"])
        if self.subject.quality == "valid":
            quality = valid.astype(float)
        else:
            quality = self.task.qed(read["texts"]) if self.subject.quality == "QED" else np.array(read["log-likelihood"])
        return Samples(quality, valid, similarities(self.task, read["texts"], valid), read["nfe"])


def at_diversity(curves: list[Curve], diversity: float) -> np.ndarray:
    """Quality (draws,) of a family where its curve has this diversity, over resampled seeds; nan if not reached."""
    found = []
    for curve in curves:
        quality, varied = np.stack([p[0] for p in curve], axis=1), np.stack([p[1] for p in curve], axis=1)
        found.append([_between(q, d, diversity) for q, d in zip(quality, varied, strict=True)])
    mean: np.ndarray = np.einsum("ds,sd->d", bootstrap_weights(len(curves), DRAWS, seed=1), stretched(np.array(found)))
    return mean


def _between(quality: np.ndarray, varied: np.ndarray, diversity: float) -> float:
    """Quality at a diversity. A curve that is more diverse throughout counts with its least diverse point."""
    order = np.argsort(varied)
    if not varied.min() <= diversity <= varied.max():
        return float(quality[order[0]]) if diversity < varied.min() else float("nan")
    return float(np.interp(diversity, varied[order], quality[order]))


def point_rows(family: str, drawn: dict[str, list[Samples]], weights: np.ndarray, scale: int) -> Iterator[str]:
    """A line for each noise of a family: the mean over its seeds."""
    form = "{:.1f}" if scale == 100 else "{:.2f}"
    for noise, seeds in drawn.items():
        quality, varied = (np.mean(values, axis=0) for values in zip(*(s.point(weights) for s in seeds), strict=True))
        even = np.full((1, weights.shape[1]), 1 / weights.shape[1])
        mean, spread = (float(np.mean(values)) for values in zip(*(s.point(even) for s in seeds), strict=True))
        low, high = percentile_interval(scale * quality)
        less, more = percentile_interval(varied)
        repeated, nfe = (float(np.mean([getattr(s, name) for s in seeds])) for name in ("repeated", "nfe"))
        yield (
            f"| `{family}` | {noise} | {form.format(scale * mean)} ({form.format(low)} to {form.format(high)}) | "
            f"{spread:.3f} ({less:.3f}-{more:.3f}) | "
            f"{100 * repeated:.1f} | {nfe:.1f} |"
        )


def comparison(curves: dict[str, list[Curve]], subject: Subject) -> Iterator[str]:
    """A line for each family: its quality at each diversity, and how far that is from the rivals'."""
    rivals = [rival for rival in subject.rivals if rival in curves]
    gaps = "".join(f" | minus {rival}" for rival in rivals)
    yield f"| sampler | {' | '.join(f'{subject.quality} at diversity {d:g}{gaps}' for d in subject.diversities)} |"
    yield "|---" * (1 + (1 + len(rivals)) * len(subject.diversities)) + "|"
    for family, seeds in curves.items():
        cells = []
        for diversity in subject.diversities:
            found = at_diversity(seeds, diversity)
            cells.append(shown(found, subject.scale))
            for other in rivals:
                gap = found - at_diversity(curves[other], diversity)
                cells.append("" if family == other else shown(gap, subject.scale, test=True))
        yield f"| `{family}` | {' | '.join(cells)} |"


def shown(values: np.ndarray, scale: int, *, test: bool = False) -> str:
    """Mean and 95 % interval of resamples, times the scale; with `test`, of differences, the two-sided p-value of 0 too."""
    if np.isnan(values).mean() > 0.05:
        return "not reached"
    form = f"{{:{'+' if test else ''}.{1 if scale == 100 else 2}f}}"
    values = values[~np.isnan(values)]
    low, high = percentile_interval(scale * values)
    p = max(2 * min((values <= 0).mean(), (values >= 0).mean()), 1 / len(values))
    mean = form.format(scale * values.mean())
    return f"{mean} ({form.format(low)} to {form.format(high)}{f'; p = {min(p, 1):.2g}' if test else ''})"


def main() -> None:
    """Decode what is missing, and print the tables."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--subject", choices=sorted(SUBJECTS), default="molecules")
    options.add_argument("--runs", type=Path, help="folder of decoded sequences; by default runs/fronts/DENOISER")
    options.add_argument("--critic", default="", help="folders of critics, one for each seed, separated by commas")
    options.add_argument("--order", default="", help="folders of orders by reward")
    options.add_argument("--control", default="", help="folders of orders that were trained by another reward")
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--limit", type=int, default=400)
    options.add_argument("--only", default="", help="names of families, separated by semicolons")
    options.add_argument("--device", default="cpu")
    options.add_argument("--dtype", help="type of the denoiser's weights, such as bfloat16; by default as they are saved")
    told = options.parse_args()
    torch.set_num_threads(1)
    subject = SUBJECTS[told.subject]
    denoiser: Any = anyorder.load_denoiser(subject.denoiser, device=told.device, dtype=told.dtype)
    task: Any = anyorder.task_for(denoiser)
    problems = task.generate(told.limit, SEED, length=subject.lengths)
    bench = Bench(subject, denoiser, task, problems, told.steps, told.runs or Path("runs/fronts") / subject.denoiser)
    parts = {name: [f for f in getattr(told, name).split(",") if f] for name in ("critic", "order", "control")}
    wanted = families(subject, parts, denoiser, task)
    weights = bootstrap_weights(told.limit, DRAWS)
    curves: dict[str, list[Curve]] = {}
    lines = [f"| sampler | noise | {subject.quality} | diversity | near-duplicates | passes |", "|---" * 6 + "|"]
    for family, seeds in wanted.items():
        if told.only and family not in told.only.split(";"):
            continue
        name = family.replace("order by reward", f"order by {subject.recipe}")
        drawn = [
            {noise: bench.samples(name, number, noise, sampler) for noise, sampler in curve.items()}
            for number, curve in enumerate(seeds)
        ]
        curves[family] = [[samples.point(weights) for samples in curve.values()] for curve in drawn]
        lines += point_rows(family, {noise: [curve[noise] for curve in drawn] for noise in drawn[0]}, weights, subject.scale)
    print("\n".join([*lines, "", *comparison(curves, subject)]))


if __name__ == "__main__":
    main()
