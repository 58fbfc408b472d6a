"""The theory of unmasking policy optimisation (arXiv 2510.05725), by enumeration: what an order can and cannot reach.

Three positions, three words; right is a sequence with no word twice; the data are drawn at random over the six right ones. The
denoiser has the conditionals of .7 data + .3 uniform with normal noise of scale 1 on every logit. The reference is the softmax
order of eq. 25 with temperature .05. Eq. 10 is maximised again and again, each time with the success rate that came before:
over all distributions of outputs (the closed form of eqs. 30-33), over all orders, and over all orders with the divergence of
paths (eq. 24) in place of that of outputs.

    python benchmarks/upo_theory.py [--denoisers 10] [--iterations 10] [--out runs/upo-theory]

writes theory.png (the first denoiser) and theory.md.
"""

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.progress import track
from torch import Tensor

from anyorder.evaluation.enumeration import (
    Paths,
    TableDenoiser,
    best_order,
    best_order_by_path,
    confidence_softmax,
    enumerate_paths,
    kl_divergence,
    success_map,
    tilted,
)
from anyorder.files import write_text

WORDS, LENGTH = 3, 3
REWARD = torch.tensor([float(len(set(x)) == LENGTH) for x in itertools.product(range(WORDS), repeat=LENGTH)]).double()
REFERENCE = confidence_softmax(0.05)
BETAS = (0.1, 0.5, 2.0, 5.0)
WAYS = {
    "closed form, any outputs": ("#9467bd", "s"),
    "best order": ("#d62728", "o"),
    "best order, divergence of paths": ("#1f77b4", "^"),
}


class Model(NamedTuple):
    """A denoiser's paths, the data, and where its reference stands."""

    paths: Paths
    data: Tensor
    reference: Tensor

    @property
    def success(self) -> float:
        return float(self.reference @ REWARD)

    @property
    def divergence(self) -> float:
        return float(kl_divergence(self.data, self.reference))


class Run(NamedTuple):
    """Success rate and KL from the data to the outputs, by iteration, the reference first."""

    success: list[float]
    divergence: list[float]


def model(seed: int) -> Model:
    generator = torch.Generator().manual_seed(100 + seed)
    data = REWARD * torch.rand(len(REWARD), generator=generator, dtype=torch.float64)
    data /= data.sum()
    paths = enumerate_paths(TableDenoiser.imperfect(data, WORDS, 0.3, 1.0, seed), torch.full((LENGTH,), WORDS))
    return Model(paths, data, paths.distribution(REFERENCE))


def repeat(model: Model, beta: float, iterations: int) -> dict[str, Run]:
    """Each of the three ways, from the reference on; every maximum over orders certified to 1e-5."""

    def of_order(find: Callable[..., Any]) -> Callable[[float], Tensor]:
        def maximum(previous: float) -> Tensor:
            found = find(model.paths, REFERENCE, REWARD, previous, beta)
            return model.paths.distribution(getattr(found, "order", found)).detach()

        return maximum

    maxima = (lambda r: tilted(model.reference, REWARD, r, beta), of_order(best_order), of_order(best_order_by_path))
    runs = {}
    for way, maximum in zip(WAYS, maxima, strict=True):
        run, outputs = Run([model.success], [model.divergence]), model.reference
        for _ in range(iterations):
            settled = len(run.success) > 1 and abs(run.success[-1] - run.success[-2]) < 1e-6
            outputs = outputs if settled else maximum(run.success[-1])
            run.success.append(float(outputs @ REWARD))
            run.divergence.append(float(kl_divergence(model.data, outputs)))
        runs[way] = run
    return runs


def fixed_point(model: Model, beta: float) -> float:
    """Where eq. 11 settles, from the reference's success rate."""
    rate = model.success
    for _ in range(100_000):
        rate = success_map(rate, model.success, beta)
    return rate


def first_table(model: Model, found: dict[float, dict[str, Run]]) -> list[str]:
    best = model.paths.highest(REWARD)
    lines = [
        f"Reference: success {100 * model.success:.1f} %, KL from the data {model.divergence:.3f} nats. "
        f"The best that any order can do: {100 * best:.1f} %.",
        "",
        "| beta | fixed point of eq. 11 | " + " | ".join(f"{way}: success | KL" for way in WAYS) + " |",
        "|---" * (2 + 2 * len(WAYS)) + "|",
    ]
    for beta, runs in found.items():
        cells = [f"{100 * runs[w].success[-1]:.1f} % | {runs[w].divergence[-1]:.3f}" for w in WAYS]
        lines.append(f"| {beta:g} | {100 * fixed_point(model, beta):.1f} % | " + " | ".join(cells) + " |")
    return lines


def table_of_all(models: list[Model], found: list[dict[float, dict[str, Run]]]) -> list[str]:
    lines = [
        "| beta | way | success above the reference | mean gain | share of what the best order gains | never above eq. 11 "
        "| nearer to the data |",
        "|---" * 7 + "|",
    ]
    for beta, way in itertools.product(BETAS, WAYS):
        runs = [of[beta][way] for of in found]
        gains = [run.success[-1] - m.success for m, run in zip(models, runs, strict=True)]
        room = [m.paths.highest(REWARD) - m.success for m in models]
        within = sum(
            all(b <= success_map(a, m.success, beta) + 1e-9 for a, b in itertools.pairwise(run.success))
            for m, run in zip(models, runs, strict=True)
        )
        nearer = sum(run.divergence[-1] < m.divergence for m, run in zip(models, runs, strict=True))
        count = len(models)
        lines.append(
            f"| {beta:g} | {way} | {sum(g > 0 for g in gains)} of {count} | {100 * sum(gains) / count:+.1f} "
            f"| {100 * sum(gains) / sum(room):.0f} % | {within} of {count} | {nearer} of {count} |"
        )
    return lines


def plot(model: Model, found: dict[float, dict[str, Run]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(found), figsize=(3.4 * len(found), 6.0), sharex=True, sharey="row", squeeze=False)
    for (above, below), (beta, runs) in zip(axes.T, found.items(), strict=True):
        for way, run in runs.items():
            color, marker = WAYS[way]
            style = {"color": color, "marker": marker, "markersize": 3.5, "linewidth": 1.3, "label": way}
            above.plot([100 * r for r in run.success], **style)
            below.plot(run.divergence, **style)
        color, _ = WAYS["closed form, any outputs"]
        above.axhline(100 * fixed_point(model, beta), color=color, linestyle=":", label="fixed point of eq. 11")
        above.axhline(100 * model.paths.highest(REWARD), color="#d62728", linestyle=":", label="the best that any order can do")
        above.axhline(100 * model.success, color="#9aa0a6", linestyle="--", label="reference")
        below.axhline(model.divergence, color="#9aa0a6", linestyle="--", label="reference")
        above.set_title(f"beta = {beta:g}", fontsize=10)
        below.set_xlabel("iteration of eq. 10")
        for axis in (above, below):
            axis.grid(alpha=0.25)
    axes[0][0].set_ylabel("success rate, %")
    axes[1][0].set_ylabel("KL from the data, nats")
    axes[0][-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--denoisers", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("runs/upo-theory"))
    arguments = parser.parse_args()
    models = [model(seed) for seed in range(arguments.denoisers)]
    found = [
        {beta: repeat(m, beta, arguments.iterations) for beta in BETAS}
        for m in track(models, description="denoisers", transient=True)
    ]
    plot(models[0], found[0], arguments.out / "theory.png")
    lines = [*first_table(models[0], found[0]), "", f"{len(models)} denoisers:", "", *table_of_all(models, found)]
    write_text(arguments.out / "theory.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
