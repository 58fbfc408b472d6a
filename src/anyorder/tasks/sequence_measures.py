"""Measures of samples: how varied sequences are, within one and between them."""

from collections.abc import Iterator

import numpy as np


def token_entropy(tokens: np.ndarray) -> float:
    """Entropy in bits of the tokens (n,) within one sequence (arXiv 2606.00295, eq. 8); low where it repeats itself."""
    if len(tokens) == 0:
        return float("nan")
    share = np.unique(tokens, return_counts=True)[1] / len(tokens)
    return float(-(share * np.log2(share)).sum())


def mean_identity(sequences: list[np.ndarray]) -> np.ndarray:
    """Mean identity of each sequence to all others, place by place over the shorter of the two, float (N,) (eqs. 9 and 10)."""
    count = len(sequences)
    if count < 2:
        return np.full(count, np.nan)
    return np.array([np.delete(row, number).mean() for number, row in enumerate(_identity_rows(sequences))])


def identities(sequences: list[np.ndarray]) -> np.ndarray:
    """Share of equal tokens of all pairs, place by place over the shorter of the two, 1 for two empty ones, float (N, N)."""
    return np.stack(list(_identity_rows(sequences)))


def _identity_rows(sequences: list[np.ndarray]) -> Iterator[np.ndarray]:
    """The rows of `identities`, float (N,) each."""
    padded = np.full((len(sequences), max(map(len, sequences))), -1, dtype=np.int64)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    lengths = np.array([len(s) for s in sequences])
    for row, length in zip(padded, lengths, strict=True):
        same = ((padded == row) & (row >= 0)).sum(axis=1)
        yield np.where(np.maximum(lengths, length) == 0, 1.0, same / np.maximum(1, np.minimum(lengths, length)))


def overlaps(sequences: list[np.ndarray], longest: int = 2) -> np.ndarray:
    """How much all pairs of sequences have in common, float (N, N) in 0..1: Dice coefficients of their multisets of tokens, and
    of runs of up to `longest` tokens, averaged over the lengths of runs that both have. Unlike `identities` it does not depend
    on where in a sequence a run stands."""
    shared, known = (np.zeros((len(sequences), len(sequences))) for _ in range(2))
    if not sequences:
        return shared
    for length in range(1, longest + 1):
        runs = [np.lib.stride_tricks.sliding_window_view(s, length) if len(s) >= length else s[:0, None] for s in sequences]
        every = np.concatenate([np.pad(run, ((0, 0), (0, length - run.shape[1]))) for run in runs])
        names = np.split(np.unique(every, axis=0, return_inverse=True)[1].ravel(), np.cumsum([len(run) for run in runs])[:-1])
        counts = np.zeros((len(sequences), 1 + max((int(name.max()) for name in names if len(name)), default=0)), np.int32)
        for row, name in zip(counts, names, strict=True):
            np.add.at(row, name, 1)
        total = counts.sum(axis=1)
        sums = total[:, None] + total[None]
        common = np.stack([np.minimum(row, counts).sum(axis=1) for row in counts])
        both = (total[:, None] > 0) & (total[None] > 0)
        shared += np.where(both, 2 * common / np.maximum(1, sums), 0)
        known += both
    return np.where(known > 0, shared / np.maximum(1, known), 0.0)


def over_pairs(values: np.ndarray) -> np.ndarray:
    """Values (N,), each a mean over the pairs of one sample, spread so that their sd is right for the mean over all pairs.

    The mean stays. A sample takes part in its own pairs and in those of others, so it moves the mean of a statistic of pairs
    twice as far as one of single samples (Hoeffding's projection of a U-statistic).
    """
    spread: np.ndarray = np.nanmean(values) + 2 * (values - np.nanmean(values)) if len(values) > 1 else values
    return spread


def first_occurrence(texts: list[str]) -> np.ndarray:
    """1 for the first of equal texts, 0 for those that repeat it, float (N,): its mean is the share of unique samples."""
    seen: set[str] = set()
    first = []
    for text in texts:
        first.append(float(text not in seen))
        seen.add(text)
    return np.array(first)
