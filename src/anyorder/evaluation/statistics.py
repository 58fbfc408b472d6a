"""Intervals and paired tests for accuracies."""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np


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
    """Mean of values (N,) and its 95 % interval by the normal approximation; nan entries do not count, nan if there are no
    others. The interval of a share, where all values are 0 or 1, is within [0, 1]."""
    values = values[~np.isnan(values)]
    if not len(values):
        return math.nan, math.nan, math.nan
    mean = float(values.mean())
    half = 1.96 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    low, high = mean - half, mean + half
    if bool(np.isin(values, (0.0, 1.0)).all()):  # a share of the samples
        low, high = max(0.0, low), min(1.0, high)
    return mean, low, high


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
    signs = np.random.default_rng(seed).integers(0, 2, (draws, differences.size), dtype=np.int8) * 2 - 1
    extreme = np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9
    return float((1 + extreme.sum()) / (1 + draws))


def paired_interval(a: np.ndarray, b: np.ndarray) -> Interval:
    """95 % interval of the difference mean(a) - mean(b) over the same instances (normal approximation, paired),
    within [-1, 1]."""
    difference = a.astype(float) - b.astype(float)
    half = 1.96 * float(difference.std(ddof=1)) / math.sqrt(len(difference)) if len(difference) > 1 else 1.0
    mean = float(difference.mean())
    return Interval(max(-1.0, mean - half), min(1.0, mean + half))


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


def crossed_interval(values: np.ndarray, draws: int = 4000, seed: int = 0) -> Interval:
    """95 % interval of the mean of values (S, N) of S seeds on the same N instances, for other seeds and other instances.

    A hierarchical bootstrap: every resample draws seeds, and instances for all of them. The differences between the means of
    seeds are stretched by sqrt(S / (S - 1)) first, since resampling S seeds shows only (S - 1) / S of their variance. One seed
    says nothing of others: then the interval covers the instances alone. With three seeds the percentiles still cover less than
    95 % (a t interval of two degrees of freedom is twice as wide).
    """
    seeds, count = values.shape
    means = values.mean(axis=1, keepdims=True)
    values = values.astype(float) + stretched(means) - means
    by_instances = bootstrap_weights(count, draws, seed) @ values.T  # (draws, S)
    return percentile_interval((by_instances * bootstrap_weights(seeds, draws, seed + 1)).sum(axis=1))


def stretched(by_seed: np.ndarray) -> np.ndarray:
    """Values of S seeds (S, ...) further from their mean by sqrt(S / (S - 1)), so that resamples of them have the variance of
    seeds; see `crossed_interval`."""
    if len(by_seed) == 1:
        return by_seed
    mean = by_seed.mean(axis=0)
    further: np.ndarray = mean + math.sqrt(len(by_seed) / (len(by_seed) - 1)) * (by_seed - mean)
    return further
