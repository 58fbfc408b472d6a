"""Intervals and paired tests for accuracies."""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

_DRAWS_AT_ONCE = 1000
"""Of signs: what limits the memory that a test takes."""


class Interval(NamedTuple):
    """A 95 % confidence interval."""

    low: float
    high: float


def wilson(successes: float, trials: int) -> Interval:
    """95 % Wilson score interval of a share (E. B. Wilson 1927)."""
    if trials == 0:
        return Interval(0.0, 1.0)
    z = 1.959963984540054
    share = successes / trials
    center = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    low = 0.0 if successes == 0 else max(0.0, center - half)
    return Interval(low, 1.0 if successes == trials else min(1.0, center + half))


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean of values (N,) and its 95 % interval: by the normal approximation, or Wilson's where all values are 0 or 1 and the
    mean is a share of the samples. nan entries do not count; nan if there are no others."""
    values = values[~np.isnan(values)]
    if not len(values):
        return math.nan, math.nan, math.nan
    mean = float(values.mean())
    if bool(np.isin(values, (0.0, 1.0)).all()):
        return mean, *wilson(int(values.sum()), len(values))
    half = 1.96 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return mean, mean - half, mean + half


def share_interval(values: np.ndarray) -> Interval:
    """95 % interval of the mean of shares (N,), within [0, 1]; see `mean_interval`."""
    _, low, high = mean_interval(values)
    return Interval(max(0.0, low), min(1.0, high))


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided exact McNemar test that two methods are right equally often on the same instances, bool (N,) each.

    Only instances on which they differ count: under the null each of these is a fair coin. 1.0 when there are none.
    """
    from scipy.stats import binomtest  # takes half a second, which commands without a test need not wait

    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    if only_a + only_b == 0:
        return 1.0
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue)


def sign_flip(differences: np.ndarray, draws: int = 20_000, seed: int = 0) -> float:
    """Two-sided sign-flip test that paired differences (N,) are symmetric about zero, by random signs.

    If outcomes are first averaged over seeds, it tests whether the difference would carry over to other puzzles.
    """
    differences = differences[np.abs(differences) > 1e-12]
    if not differences.size:
        return 1.0
    random, extreme = np.random.default_rng(seed), 0
    least = abs(differences.sum()) - 1e-9
    for start in range(0, draws, _DRAWS_AT_ONCE):
        signs = random.integers(0, 2, (min(_DRAWS_AT_ONCE, draws - start), differences.size), dtype=np.int8) * 2 - 1
        extreme += int((np.abs(signs @ differences) >= least).sum())
    return (1 + extreme) / (1 + draws)


def paired_interval(a: np.ndarray, b: np.ndarray) -> Interval:
    """95 % interval of the difference mean(a) - mean(b) over the same instances, within [-1, 1].

    Outcomes, bool (N,): the adjusted interval of D. G. Bonett and R. M. Price (2012), the normal approximation with one more
    instance that only a solves and one that only b solves. Unlike without them, it is not too narrow where few instances
    differ, nor of no width where none does. Shares, float (N,): the normal approximation; where no instance differs, see
    `widened`.
    """
    difference = a.astype(float) - b.astype(float)
    count, mean = len(difference), float(difference.mean())
    if a.dtype == bool and b.dtype == bool:
        added = np.append(difference, [1.0, -1.0])
        center, half = float(added.mean()), 1.96 * float(added.std()) / math.sqrt(count + 2)
        low, high = min(mean, center - half), max(mean, center + half)
    else:
        half = 1.96 * float(difference.std(ddof=1)) / math.sqrt(count) if count > 1 else 1.0
        low, high = mean - half, mean + half
        low, high = (low, high) if difference.any() else widened(Interval(low, high), count)
    return Interval(max(-1.0, low), min(1.0, high))


def oracle_gap_closed(accuracy: float, baseline: float, oracle: float) -> float | None:
    """(accuracy - baseline) / (oracle - baseline): the share of the possible improvement. None if there is no gap."""
    return None if oracle - baseline <= 1e-9 else (accuracy - baseline) / (oracle - baseline)


@lru_cache(maxsize=8)
def bootstrap_weights(count: int, draws: int = 2000, seed: int = 0) -> np.ndarray:
    """How often each of `count` instances is drawn in each of `draws` resamples, over `count`: float (draws, count), whose
    product with values (count, K) is the mean of every resample. The same for the same arguments, so that what is measured on
    the same instances is resampled together (paired). Drawn once and read-only, since tables need them hundreds of times."""
    weights: np.ndarray = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), draws) / count
    weights.flags.writeable = False
    return weights


def percentile_interval(resampled: np.ndarray) -> Interval:
    """95 % interval by the percentiles of a statistic's values in resamples (draws,)."""
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(float(low), float(high))


def widened(interval: Interval, count: int, low: float = -1.0, high: float = 1.0) -> Interval:
    """The interval of a mean over `count` instances. Where all are alike it has no width, and 3 / count on both sides stand for
    what was not seen (the rule of three), within [low, high]."""
    if interval.high - interval.low > 1e-12:
        return interval
    return Interval(max(low, interval.low - 3 / count), min(high, interval.high + 3 / count))


def crossed_interval(values: np.ndarray, draws: int = 4000, seed: int = 0) -> Interval:
    """95 % interval of the mean of values (S, N) of S seeds on the same N instances, for other seeds and other instances.

    A hierarchical bootstrap: every resample draws seeds, and instances for all of them. The differences between the means of
    seeds are stretched by sqrt(S / (S - 1)) first, since resampling S seeds shows only (S - 1) / S of their variance. One seed
    says nothing of others: then the interval covers the instances alone. With three seeds the percentiles still cover less than
    95 % (a t interval of two degrees of freedom is twice as wide). Where all values are equal, see `widened`.
    """
    seeds, count = values.shape
    means = values.mean(axis=1, keepdims=True)
    values = values.astype(float) + stretched(means) - means
    by_instances = bootstrap_weights(count, draws, seed) @ values.T  # (draws, S)
    return widened(percentile_interval((by_instances * bootstrap_weights(seeds, draws, seed + 1)).sum(axis=1)), count)


def crossed_share(values: np.ndarray) -> Interval:
    """`crossed_interval` of shares (S, N), within [0, 1]."""
    low, high = crossed_interval(values)
    return Interval(max(0.0, low), min(1.0, high))


def stretched(by_seed: np.ndarray) -> np.ndarray:
    """Values of S seeds (S, ...) further from their mean by sqrt(S / (S - 1)), so that resamples of them have the variance of
    seeds; see `crossed_interval`."""
    if len(by_seed) == 1:
        return by_seed
    mean = by_seed.mean(axis=0)
    further: np.ndarray = mean + math.sqrt(len(by_seed) / (len(by_seed) - 1)) * (by_seed - mean)
    return further
