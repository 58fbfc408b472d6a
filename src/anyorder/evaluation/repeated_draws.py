"""Pass@N: how often at least one of N draws of a stochastic order is right (arXiv 2510.05725, figures 1 and 8)."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anyorder.decoding.counts import CountRule
from anyorder.decoding.tokens import TokenRule
from anyorder.denoisers.base import Denoiser
from anyorder.errors import BadInput, counted
from anyorder.evaluation.batches import Progress, decode_in_batches
from anyorder.evaluation.samplers import Samplers, as_samplers, check_oracles
from anyorder.evaluation.statistics import Interval, crossed_share
from anyorder.evaluation.tables import Grid
from anyorder.processes import Shard
from anyorder.signatures import checked
from anyorder.tasks.base import Instances, Task
from anyorder.tasks.instances import checked_result
from anyorder.zoo.matching import loaded


@dataclass(frozen=True)
class PassAtN:
    """An order drawn `draws` times on each instance.

    accuracy: Pass@k for k = 1..draws. ci95: its intervals, by bootstrap over the instances.
    nfe: mean number of forward passes of one draw.
    correct: how many of the draws are right, int (N,), or (S, N) for orders of several seeds.
    """

    order: str
    instances: int
    draws: int
    accuracy: list[float]
    ci95: list[Interval]
    nfe: float
    correct: np.ndarray = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "correct": self.correct.tolist()}


def pass_at_k(correct: np.ndarray, draws: int, k: int) -> np.ndarray:
    """1 - C(n - c, k) / C(n, k): the probability that k of an instance's n draws, taken without replacement, hold a right one;
    the unbiased estimate of Pass@k where c of n are right (arXiv 2107.03374, eq. 1).

    Args:
        correct: int (N,), the c of each instance.
        draws: n.
        k: at most n.

    Returns:
        float (N,). The ratio is the product of 1 - k / i over i = n - c + 1 .. n; no binomial is formed, so nothing overflows.
    """
    if not 1 <= k <= draws:
        raise ValueError(f"k is {k}; of {draws} draws k must be between 1 and that number")
    if correct.size and not 0 <= correct.min() <= correct.max() <= draws:
        raise ValueError(f"between 0 and {draws} of {draws} draws can be right")
    factors = 1 - k / np.arange(draws, 0, -1)
    none_right = np.concatenate([[1.0], np.cumprod(factors.clip(min=0.0))])  # for c = 0..n
    found: np.ndarray = 1 - none_right[correct]
    return found


@checked("draws", "steps", "seed")
def pass_at_n(
    denoiser: Denoiser | str | Path,
    task: Task | str | None,
    instances: Instances | str | Path,
    samplers: Samplers,
    draws: int,
    *,
    steps: int,
    count: CountRule | str | None = None,
    token: TokenRule | str | None = None,
    seed: int = 0,
    batch_size: int = 256,
    progress: Progress | None = None,
    shard: Shard = Shard(),
    strict: bool = True,
) -> list[PassAtN]:
    """Decode the same instances `draws` times with every sampler; draw j is what seed + j gives in `evaluate`.

    Args:
        denoiser, task, instances: the model, the checker, and the problems; or the name of the model, the name of the task
            (None for that of the model), and a file of problems.
        samplers: as in `evaluate`; `random`, `top_k:5` and `policy~SIGMA` are those of the paper. A deterministic order gives
            the same result in every draw.
        draws: number of draws of each instance.
        steps: budget of forward passes; give the number of positions for one position per step.
        count, token, seed, batch_size, progress, shard, strict: as in `evaluate`.

    Raises:
        BadInput: no draws, task and denoiser that do not match, two equal labels, or an oracle without known solutions.
    """
    denoiser, task, instances = loaded(denoiser, task, instances)
    if draws < 1:
        raise BadInput(f"{draws} draws: at least one is needed")
    bound = {label: one.bind(denoiser, strict=strict) for label, one in as_samplers(samplers, count=count, token=token).items()}
    check_oracles(bound, instances)
    results = []
    for label, own in bound.items():
        sampler = own.replace(steps=steps)
        right, nfe = np.zeros(len(instances), dtype=np.int64), 0.0
        for draw in range(draws):
            decoded = decode_in_batches(
                denoiser, instances, sampler, seed=seed + draw, batch_size=batch_size, progress=progress,
                name=f"{label}, draw {draw + 1} of {draws}", shard=shard, ends=task.stops_at,
            )  # fmt: skip
            right += checked_result(task, instances, decoded.tokens).instance_correct.numpy()
            nfe += float(decoded.nfe.double().mean()) / draws
        results.append(of_counts(label, right, draws, nfe))
    return results


def of_counts(order: str, correct: np.ndarray, draws: int, nfe: float) -> PassAtN:
    """Pass@k, k = 1..draws, where `correct` of each instance's draws are right: int (N,), or (S, N) for the mean over S
    orders of one kind, such as the policies of several seeds."""
    rows = np.atleast_2d(correct)
    each = [np.stack([pass_at_k(row, draws, k) for row in rows]) for k in range(1, draws + 1)]  # of each k, (S, N)
    intervals = [crossed_share(values) for values in each]
    return PassAtN(order, rows.shape[1], draws, [float(values.mean()) for values in each], intervals, nfe, correct)


def shown_draws(draws: int) -> list[int]:
    """1, 2, 4, ... and all."""
    return sorted({2**i for i in range(draws.bit_length()) if 2**i <= draws} | {draws})


def grid_of(results: list[PassAtN]) -> Grid:
    """A table: Pass@1, 2, 4, ..., N with 95 % intervals."""
    shown = shown_draws(results[0].draws)
    rows = []
    for r in results:
        cells = [(100 * r.accuracy[k - 1], *(100 * bound for bound in r.ci95[k - 1])) for k in shown]
        rows.append([r.order, f"{r.nfe:.1f}", *(f"{a:.1f} % ({low:.1f} - {high:.1f})" for a, low, high in cells)])
    title = f"Pass@N, {counted(results[0].instances, 'instance')}, {counted(results[0].draws, 'draw')} of each, 95 % intervals"
    return title, ["order", "NFE per draw", *(f"Pass@{k}" for k in shown)], rows


def lines_of(results: list[PassAtN]) -> dict[str, list[tuple[float, float, float, float]]]:
    """Points (k, Pass@k, and its interval, in percent) of each order, for a plot."""
    return {
        r.order: [
            (k, 100 * a, 100 * ci.low, 100 * ci.high) for k, (a, ci) in enumerate(zip(r.accuracy, r.ci95, strict=True), start=1)
        ]
        for r in results
    }
