"""Random numbers that belong to a sequence, not to its batch.

Every number is a hash of (the sequence's seed, what it is for, the step, the position): the same seed gives the same sample
whatever else is in the batch, whatever the padding side, the device or the number of processes.
"""

from enum import IntEnum, unique

import torch
from torch import Tensor


@unique
class Purpose(IntEnum):
    """What a random number is for: one for each use, so that no two draws share their randomness. Parts of other packages take
    numbers from 10,000 on."""

    RANDOM_ORDER = 1
    TOKEN = 2
    ORDER_NOISE = 3
    TRANSFER = 4
    POSITION = 5
    STOP = 6
    PERTURBATION = 7
    TOP = 8
    REMASK = 21
    UNMASK = 22
    CANDIDATES = 23
    HITTING = 24
    PIVOT = 1_000


_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # as a signed 64-bit number; products wrap around
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """The finalizer of SplitMix64 (Steele et al. 2014)."""
    x = x + _GOLDEN
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def uniform(*keys: Tensor | int) -> Tensor:
    """Uniform numbers strictly inside (0, 1), float64, one per element of the broadcast int64 keys."""
    state: Tensor = torch.zeros((), dtype=torch.int64)
    for key in keys:
        state = _mix(state ^ key)
    return ((_shift(state, 11).double() + 0.5) * 2.0**-53).clamp(max=1 - 2.0**-53)


def gumbel(*keys: Tensor | int) -> Tensor:
    """Standard Gumbel noise, float64 (float32 Gumbel is known to bias rare events)."""
    return -torch.log(-torch.log(uniform(*keys)))


def normal(*keys: Tensor | int) -> Tensor:
    """Standard normal numbers, float64: the inverse of the distribution function at `uniform`."""
    drawn: Tensor = torch.special.ndtri(uniform(*keys))
    return drawn


def plackett_luce_log_probs(logits: Tensor, ranking: Tensor, chosen: Tensor) -> Tensor:
    """log-probability of each draw of a ranking without replacement.

    Args:
        logits: float (B, L), -inf where nothing can be drawn.
        ranking: int64 (B, L), the positions in the order in which they were drawn.
        chosen: bool (B, L), the positions that count; they must come first in the ranking.

    Returns:
        float (B, L): at a chosen position i, log of exp(logit_i) / sum of exp over i and all that come later in the
        ranking; 0 elsewhere. Stable: the sum is a logcumsumexp.
    """
    ranked = logits.gather(1, ranking)
    rest = ranked.flip(1).logcumsumexp(dim=1).flip(1)
    log_probs = torch.where(ranked > -torch.inf, ranked - rest, 0.0)
    return torch.zeros_like(logits).scatter(1, ranking, log_probs).masked_fill(~chosen, 0.0)


def order_log_probs(scores: Tensor, noisy: Tensor, chosen: Tensor, scale: Tensor | float) -> Tensor:
    """Log-probability with which each chosen position was drawn. Exact for count rules that fix the number.

    Args:
        scores: float (B, L), -inf where nothing can be drawn.
        noisy: float (B, L), scores + scale * Gumbel noise.
        chosen: bool (B, L).
        scale: above 0, or (B, 1), 0 in rows without noise.

    Returns:
        float (B, L); 0 in rows without noise.
    """
    ranking = noisy.argsort(dim=1, descending=True, stable=True)
    if not isinstance(scale, Tensor):
        return plackett_luce_log_probs(scores / scale, ranking, chosen)
    log_probs = plackett_luce_log_probs(scores / scale.masked_fill(scale == 0, 1.0), ranking, chosen)
    return log_probs.masked_fill(scale == 0, 0.0)
