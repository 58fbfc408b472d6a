"""Orders x steps x noise on the same instances, with intervals, paired tests and the share of the oracle gap closed."""

import math
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anyorder.decoding.counts import CountRule
from anyorder.decoding.loop import decode
from anyorder.decoding.tokens import TokenRule
from anyorder.decoding.trajectory import Decoded
from anyorder.denoisers.base import Denoiser
from anyorder.errors import BadInput
from anyorder.evaluation.orders import PolicyLoader, is_heuristic, is_oracle, make_decoder
from anyorder.evaluation.statistics import mcnemar, mean_interval, oracle_gap_closed, paired_interval, wilson
from anyorder.evaluation.trajectories import Watch
from anyorder.files import write_atomically, write_json
from anyorder.processes import Shard
from anyorder.tasks.base import Instances, Task, check_fits

Judge = Callable[[Task, Instances, Tensor], np.ndarray]
"""A number for each completed sequence (N, L), float (N,), nan where it has none."""

Progress = Callable[[str, int, int], None]
"""Called with the name of the cell in progress, the instances done in it, and their number."""


@dataclass
class Result:
    """One cell: an order at a number of steps and a scale of noise.

    Args:
        cell_accuracy: None where no solution is known and none can be told from the rules.
        exact_match: share of the sequences that equal the stored solution, as others report it; below instance accuracy where
            problems have several solutions. None where no solution is known.
        order_diversity: 1 minus the mean correlation of the commit steps with those of the same order without noise (None
            unless that cell is in the evaluation too): noise of the same scale moves one order more than another.
        by_difficulty: (instances, instance accuracy) for each difficulty label, where the task has them.
        measures: of the set of samples, where the task has them: mean over the samples, and its 95 % interval.
    """

    order: str
    steps: int
    noise: float
    instances: int
    instance_accuracy: float
    cell_accuracy: float | None
    exact_match: float | None
    ci95: tuple[float, float]
    forwards: float
    undone: float
    seconds: float
    order_diversity: float | None
    by_difficulty: dict[str, tuple[int, float]]
    measures: dict[str, tuple[float, float, float]]
    correct: np.ndarray = field(repr=False)
    cells: np.ndarray = field(repr=False)


@dataclass
class Comparison:
    """An order against another on the same instances: difference of instance accuracies, exact McNemar p-value."""

    order: str
    against: str
    steps: int
    noise: float
    difference: float
    ci95: tuple[float, float]
    p_value: float
    oracle_gap_closed: float | None


@dataclass
class Report:
    """What an evaluation found."""

    results: list[Result]
    comparisons: list[Comparison]
    meta: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain values; the per-instance outcomes are left out."""
        results = [{k: v for k, v in asdict(result).items() if k not in ("correct", "cells")} for result in self.results]
        return {"results": results, "comparisons": [asdict(c) for c in self.comparisons], "meta": self.meta}

    def save(self, path: Path) -> None:
        """Write JSON, or Parquet (the results table alone) when the name ends in .parquet. Atomically."""
        if path.suffix != ".parquet":
            return write_json(path, self.to_json())
        try:
            import pandas as pd
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise BadInput("Parquet needs: pip install 'anyorder[parquet]'; or name the file .json") from error
        frame = pd.json_normalize(self.to_json()["results"])
        write_atomically(path, lambda temporary: frame.to_parquet(temporary))


def decode_in_batches(
    denoiser: Denoiser,
    instances: Instances,
    decoder: Any,
    *,
    seed: int,
    batch_size: int,
    progress: Progress | None,
    name: str,
    shard: Shard = Shard(),
) -> Decoded:
    """Decode all instances on the denoiser's device; instance i has the seed `seed * 2^32 + i` whatever the batch size.

    Sequences of like length are decoded together, without the padding that none of them needs. The batches are dealt out to the
    processes of `shard`, and each gets all that came of them, bit for bit what one process alone would get.
    """
    parts = []
    device = next((p.device for p in denoiser.parameters()), None) if isinstance(denoiser, nn.Module) else None
    known = getattr(denoiser, "pad_token_id", None)
    pad = -1 if known is None else int(known)
    columns = torch.arange(1, instances.tokens.shape[1] + 1)
    ends = torch.where(instances.tokens != pad, columns, 0).amax(dim=1)
    order = ends.argsort(descending=True, stable=True)
    hands = [order.split(batch_size)[process :: shard.count] for process in range(shard.count)]
    mine = hands[shard.index]
    for index in mine:
        batch, width = instances[index], max(1, int(ends[index].max()))
        seeds = (index + seed * 2**32).to(device)
        x0 = None if batch.x0 is None else batch.x0[:, :width].to(device)
        decoded = decode(denoiser, batch.tokens[:, :width].to(device), decoder, seeds=seeds, x0=x0).cpu()
        parts.append(decoded if width == len(columns) else decoded.widen(len(columns), pad))
        if progress is not None:
            progress(name, sum(len(part.tokens) for part in parts), sum(len(index) for index in mine))
    dealt = torch.cat([index for hand in hands for index in hand])
    return Decoded.join([part for hand in shard.gather(parts) for part in hand])[dealt.argsort()]


def evaluate(
    denoiser: Denoiser,
    task: Task,
    instances: Instances,
    orders: list[str],
    steps: list[int],
    *,
    noise: list[float] | None = None,
    load_policy: PolicyLoader,
    against: str = "best",
    count: CountRule | None = None,
    token: TokenRule | None = None,
    judges: Mapping[str, Judge] | None = None,
    seed: int = 0,
    batch_size: int = 256,
    progress: Progress | None = None,
    meta: dict[str, Any] | None = None,
    watch: Watch | None = None,
    shard: Shard = Shard(),
) -> Report:
    """Decode the same instances under every order, number of steps and scale of noise.

    Args:
        denoiser, task, instances: what is decoded, and who judges it.
        orders: see `make_decoder`.
        steps: budgets of forwards.
        noise: scales of Gumbel noise on the scores; [0] when not given.
        load_policy: gives the policy of a name or folder.
        against: the order that all others are compared with, at the same steps and noise; "best" for the most accurate
            heuristic there (picked on these very instances, which favours the heuristics).
        count, token, seed, batch_size: as in `decode`; results do not depend on the batch size.
        judges: further measures of the samples, such as a model's likelihood.
        progress: called as the work goes on.
        meta: facts to keep with the report.
        watch: keeps how its problems, the first of `instances`, are decoded.
        shard: this process among several that all call this; each gets the same report, but for the seconds.

    Raises:
        BadInput: an oracle without known solutions, or `against` is not among the orders.
    """
    if any(is_oracle(order) for order in orders) and instances.x0 is None:
        raise BadInput("an oracle needs the solutions, and these instances come without: leave the oracle out")
    check_fits(task, denoiser, instances)
    if against != "best" and against not in orders:
        raise BadInput(f"cannot compare with {against!r}: it is not among the orders {', '.join(orders)}")
    results = []
    quiet: dict[tuple[str, int], Tensor] = {}  # commit steps without noise
    for scale in sorted(noise or [0.0]):
        for budget in steps:
            for order in orders:
                decoder = make_decoder(order, budget, scale, load_policy, count, token)
                decoder = decoder if watch is None else watch.over(decoder, seed)
                name = f"{order}, {budget} steps" + (f", noise {scale:g}" if scale else "")
                began = time.perf_counter()
                decoded = decode_in_batches(
                    denoiser, instances, decoder, seed=seed, batch_size=batch_size, progress=progress, name=name, shard=shard
                )
                seconds = time.perf_counter() - began
                if watch is not None:
                    watch.note(order, decoder, decoded, shard)
                if not scale:
                    quiet[order, budget] = decoded.commit_step
                diversity = order_diversity(decoded.commit_step, quiet[order, budget]) if (order, budget) in quiet else None
                results.append(_judge(task, instances, decoded, order, budget, scale, seconds, diversity, judges or {}))
    comparisons = compare_all(results, against)
    facts = {**environment(), **(meta or {}), "seed": seed, "against": against}
    facts["correct_means"] = task.correct_means
    if "models" in instances.labels:  # the stored solution is one of so many
        facts["exact_match_ceiling"] = float((1 / instances.labels["models"].clip(min=1)).mean())
    return Report(results, comparisons, facts)


def _judge(
    task: Task,
    instances: Instances,
    decoded: Decoded,
    order: str,
    steps: int,
    noise: float,
    seconds: float,
    diversity: float | None,
    judges: Mapping[str, Judge],
) -> Result:
    verdict = task.check(instances, decoded.tokens)
    correct = verdict.instance_correct.numpy()
    labels = instances.labels.get("difficulty", np.array([]))
    per_sample = dict(task.measure(instances, decoded.tokens))
    per_sample |= {name: judge(task, instances, decoded.tokens) for name, judge in judges.items()}
    cells = float(verdict.cell_accuracy.double().mean())
    same = None if instances.x0 is None else ((decoded.tokens == instances.x0) | ~instances.maskable).all(dim=1)
    return Result(
        order=order,
        steps=steps,
        noise=noise,
        instances=len(correct),
        instance_accuracy=float(correct.mean()),
        cell_accuracy=None if math.isnan(cells) else cells,
        exact_match=None if same is None else float(same.double().mean()),
        ci95=wilson(int(correct.sum()), len(correct)),
        forwards=float(decoded.forwards.double().mean()),
        undone=float(decoded.undone.double().mean()),
        seconds=seconds,
        order_diversity=diversity,
        by_difficulty={
            label: (int((labels == label).sum()), float(correct[labels == label].mean()))
            for label in _from_easy_to_hard(labels, task)
        },
        measures={name: mean_interval(values) for name, values in per_sample.items()},
        correct=correct,
        cells=verdict.cell_accuracy.double().numpy(),
    )


def _from_easy_to_hard(labels: np.ndarray, task: Task) -> list[str]:
    """The different labels (N,) in the order of the task, others behind them by name."""
    rank = {label: place for place, label in enumerate(task.difficulty_order)}
    return sorted({str(label) for label in labels}, key=lambda label: (rank.get(label, len(rank)), label))


def order_diversity(commit_step: Tensor, reference: Tensor) -> float:
    """1 minus the mean, over sequences, of the correlation between two orders' commit steps (N, L); -1 marks given positions.

    Sequences in which all positions are committed in one step have no order and are left out.
    """
    generated = (reference >= 0).double()
    count = generated.sum(dim=1, keepdim=True).clamp(min=1)
    a, b = (((v.double() - (v * generated).sum(dim=1, keepdim=True) / count) * generated) for v in (commit_step, reference))
    norm = (a.square().sum(dim=1) * b.square().sum(dim=1)).sqrt()
    varied = norm > 0
    return float(1 - ((a * b).sum(dim=1)[varied] / norm[varied]).mean()) if varied.any() else 0.0


def compare_all(results: list[Result], against: str) -> list[Comparison]:
    """Each result with that of the order `against`, or of the "best" heuristic, at the same steps and noise."""
    return [c for result in results if (c := _compare(result, results, against)) is not None]


def _compare(result: Result, results: list[Result], against: str) -> Comparison | None:
    cell = [r for r in results if (r.steps, r.noise) == (result.steps, result.noise)]
    if against == "best":
        candidates = [r for r in cell if is_heuristic(r.order)]
        if not candidates:
            return None
        base = max(candidates, key=lambda r: r.instance_accuracy)
    else:
        base = next(r for r in cell if r.order == against)
    if base is result:
        return None
    ceilings = [r.instance_accuracy for r in cell if is_oracle(r.order)]
    closed = oracle_gap_closed(result.instance_accuracy, base.instance_accuracy, max(ceilings)) if ceilings else None
    return Comparison(
        order=result.order,
        against=base.order,
        steps=result.steps,
        noise=result.noise,
        difference=result.instance_accuracy - base.instance_accuracy,
        ci95=paired_interval(result.correct, base.correct),
        p_value=mcnemar(result.correct, base.correct),
        oracle_gap_closed=closed,
    )


def environment() -> dict[str, Any]:
    """Versions and machine, for the record."""
    packages = {name: version(name) for name in ("anyorder", "torch", "numpy")}
    return {"versions": {**packages, "python": platform.python_version()}, "threads": torch.get_num_threads()}
