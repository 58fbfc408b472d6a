"""Samplers x steps x noise on the same instances, with intervals, paired tests and the share of the oracle gap closed."""

import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anyorder import __version__
from anyorder.decoding.counts import CountRule
from anyorder.decoding.result import Decoded
from anyorder.decoding.sampler import Sampler
from anyorder.decoding.tokens import TokenRule
from anyorder.denoisers.base import Denoiser
from anyorder.denoisers.shared_passes import SharedPasses
from anyorder.errors import BadInput, counted
from anyorder.evaluation.batches import Progress, decode_in_batches, model_for
from anyorder.evaluation.results import Report, Result, compare_all
from anyorder.evaluation.samplers import Samplers, as_samplers, check_oracles, described, kind_of, with_noise
from anyorder.evaluation.statistics import mean_interval, share_interval, wilson
from anyorder.evaluation.trajectories import Watch
from anyorder.processes import Shard
from anyorder.signatures import checked
from anyorder.tasks.base import Instances, Task
from anyorder.tasks.instances import checked_result, measured
from anyorder.zoo.matching import loaded

Judge = Callable[[Task, Instances, Tensor], np.ndarray]
"""A number for each completed sequence (N, L), float (N,), nan where it has none."""


@checked("noise", "against")
def evaluate(
    denoiser: Denoiser | str | Path,
    task: Task | str | None,
    instances: Instances | str | Path,
    samplers: Samplers,
    steps: int | Sequence[int],
    *,
    noise: Sequence[float] | None = None,
    anneal: bool | None = None,
    against: str = "best",
    count: CountRule | str | None = None,
    token: TokenRule | str | None = None,
    judges: Mapping[str, Judge] | None = None,
    seed: int = 0,
    batch_size: int = 256,
    progress: Progress | None = None,
    meta: dict[str, Any] | None = None,
    watch: Watch | None = None,
    shard: Shard = Shard(),
    strict: bool = True,
    shared: SharedPasses | None = None,
) -> Report:
    """Decode the same instances with every sampler, number of steps and scale of noise.

    Args:
        denoiser, task, instances: the model, the checker, and the problems; or the name of the model, the name of the task
            (None for that of the model), and a file of problems.
        samplers: spellings, samplers or orders, or a mapping from labels to any of these, see `as_samplers`.
        steps: budgets of forward passes.
        noise, anneal: scales of Gumbel noise on the scores, and whether it is lowered from step to step, see `Sampler`; each
            sampler's own by default.
        against: label of the sampler that all others are compared with, at the same steps and noise; "best" for the best
            heuristic there (chosen on these instances, which favors the heuristics).
        count, token: rules of the samplers that do not name one.
        judges: further measures of the samples, such as a model's likelihood, see `make_judges`.
        seed, batch_size: as in `decode_in_batches`; results do not depend on the batch size.
        progress: called after every batch.
        meta: facts to keep with the report.
        watch: records how its problems, the first of `instances`, are decoded.
        shard: this process, if several processes call this; each returns the same report, except for the seconds.
        strict: a policy that was fitted to another denoiser is an error; otherwise a warning.
        shared: keeps the denoiser's predictions for states that several samplers, or several calls, meet. The report is the
            same, except for the seconds, which then say nothing about a sampler.

    Raises:
        BadInput: task and denoiser do not match, an oracle without known solutions, two equal labels, an unknown `against`, or
            `shared` of another denoiser.
    """
    denoiser, task, instances = loaded(denoiser, task, instances)
    bound = {label: s.bind(denoiser, strict=strict) for label, s in as_samplers(samplers, count=count, token=token).items()}
    check_oracles(bound, instances)
    if shared is not None and shared.denoiser is not denoiser:
        raise BadInput("these shared passes are of another denoiser: make them with SharedPasses(denoiser)")
    if against != "best" and against not in bound:
        raise BadInput(f"cannot compare with {against!r}: it is not among the samplers {', '.join(bound)}")
    budgets = list(dict.fromkeys(steps)) if isinstance(steps, Iterable) and not isinstance(steps, str) else [steps]
    if not budgets or None in budgets:
        raise BadInput(f"steps is {steps!r}; give a budget of forward passes, or several")
    if noise is not None and not list(noise):
        raise BadInput("noise is empty; give a scale, or several, or None for that of each sampler")
    metric = task.main_metric(instances)
    results = []
    quiet: dict[tuple[str, int], Tensor] = {}  # commit steps without noise
    for scale in [None] if noise is None else sorted(set(noise)):
        for budget in budgets:
            for label, own in bound.items():
                sampler = own.replace(
                    steps=budget,
                    noise=own.noise if scale is None else scale,
                    anneal=own.anneal if anneal is None else anneal,
                )
                name = with_noise(f"{label}, {counted(budget, 'step')}", sampler.noise, sampler.anneal)
                on_step = () if watch is None else watch.record(seed)
                began = time.perf_counter()
                decoded = decode_in_batches(
                    model_for(sampler, denoiser, shared), instances, sampler, seed=seed, batch_size=batch_size,
                    progress=progress, name=name, shard=shard, ends=task.stops_at, on_step=on_step,
                )  # fmt: skip
                seconds = time.perf_counter() - began
                if watch is not None:
                    watch.note(label, sampler, decoded, shard)
                if not sampler.noise:
                    quiet[label, budget] = decoded.commit_step
                diversity = order_diversity(decoded.commit_step, quiet[label, budget]) if (label, budget) in quiet else None
                result = _result(task, instances, decoded, label, sampler, seconds, diversity, judges or {})
                results.append(replace(result, own_noise=scale is None))
    comparisons = compare_all(results, against, metric)
    facts = {**environment(), **(meta or {}), "seed": seed, "against": against}
    facts |= {"correct_means": task.correct_means, "main_metric": metric}
    facts["samplers"] = {label: described(one) for label, one in bound.items()}
    if "models" in instances.labels:  # the stored solution is one of so many
        facts["exact_match_ceiling"] = float((1 / instances.labels["models"].clip(min=1)).mean())
    return Report(results, comparisons, facts)


def _result(
    task: Task,
    instances: Instances,
    decoded: Decoded,
    label: str,
    sampler: Sampler,
    seconds: float,
    diversity: float | None,
    judges: Mapping[str, Judge],
) -> Result:
    """Check the decoded sequences and gather all numbers of one cell."""
    checked = checked_result(task, instances, decoded.tokens)
    correct = checked.instance_correct.numpy()
    labels, names = _difficulty(instances, task)
    per_sample = _measures(task, instances, decoded.tokens, judges)
    cells = checked.cell_accuracy.double().numpy()
    known = not np.isnan(cells).any()
    same = None if instances.x0 is None else ((decoded.tokens == instances.x0) | ~instances.maskable).all(dim=1)
    return Result(
        order=label,
        kind=kind_of(sampler),
        steps=sampler.steps or 0,
        noise=sampler.noise,
        instances=len(correct),
        instance_accuracy=float(correct.mean()),
        cell_accuracy=float(checked.cell_accuracy.double().mean()) if known else None,
        cell_ci95=share_interval(cells) if known else None,
        exact_match=None if same is None else float(same.double().mean()),
        ci95=wilson(int(correct.sum()), len(correct)),
        nfe=float(decoded.nfe.double().mean()),
        remasked=float(decoded.remasked.double().mean()),
        seconds=seconds,
        order_diversity=diversity,
        by_difficulty={name: (int((labels == name).sum()), float(correct[labels == name].mean())) for name in names},
        measures={name: mean_interval(values) for name, values in per_sample.items()},
        correct=correct,
        cells=cells,
        anneal=sampler.anneal and sampler.noise > 0,
    )


def _measures(task: Task, instances: Instances, tokens: Tensor, judges: Mapping[str, Judge]) -> dict[str, np.ndarray]:
    """The measures of the task and of the judges, float (N,) each. A judge with the name of a measure is told apart."""
    found: Any = task.measure(instances, tokens)
    if not isinstance(found, Mapping):
        raise BadInput(
            f"{task.name}.measure returns {type(found).__name__}; it must return a mapping from names to (N,) numbers"
        )
    own = {name: measured(f"the measure {name!r} of {task.name}", values, len(tokens)) for name, values in found.items()}
    rated = {
        name: measured(f"the judge {name!r}", judge(task, instances, tokens), len(tokens)) for name, judge in judges.items()
    }
    return own | {f"{name} (judge)" if name in own else name: values for name, values in rated.items()}


def _difficulty(instances: Instances, task: Task) -> tuple[np.ndarray, list[str]]:
    """The labels as text (N,), and the different ones in the order of the task, others behind them by value."""
    labels = instances.labels.get("difficulty", np.array([], dtype=str))
    labels = labels.astype(str) if labels.dtype == object else labels
    rank = {label: place for place, label in enumerate(task.difficulty_order)}
    names: list[str] = np.unique(labels).astype(str).tolist()
    return labels.astype(str), sorted(names, key=lambda name: rank.get(name, len(rank)))


def order_diversity(commit_step: Tensor, reference: Tensor) -> float:
    """1 minus the mean, over sequences, of the correlation between two orders' commit steps (N, L); -1 marks given positions.

    Sequences in which all positions are committed in one step have no order and are left out.
    """
    each = order_diversity_each(commit_step, reference)
    return float(each[~each.isnan()].mean()) if bool((~each.isnan()).any()) else 0.0


def order_diversity_each(commit_step: Tensor, reference: Tensor) -> Tensor:
    """The same of each sequence, float64 (N,), nan where there is no order."""
    generated = (reference >= 0).double()
    count = generated.sum(dim=1, keepdim=True).clamp(min=1)
    a, b = (((v.double() - (v * generated).sum(dim=1, keepdim=True) / count) * generated) for v in (commit_step, reference))
    norm = (a.square().sum(dim=1) * b.square().sum(dim=1)).sqrt()
    return torch.where(norm > 0, 1 - (a * b).sum(dim=1) / norm, torch.nan)


def environment() -> dict[str, Any]:
    """Versions and machine, for the record."""
    packages = {"anyorder": __version__, "torch": str(torch.__version__), "numpy": np.__version__}
    return {"versions": {**packages, "python": platform.python_version()}, "threads": torch.get_num_threads()}
