"""What generators of problems have in common."""

import numpy as np

from anyorder.errors import BadInput
from anyorder.signatures import check_argument

_MOST_TOKENS = 2**30


def check_size(count: int, length: int) -> None:
    """Refuse problems that do not fit into memory, before there are any.

    Raises:
        BadInput: `count` problems of `length` tokens are more than 2^30 tokens (8 GiB).
    """
    if count * length > _MOST_TOKENS:
        most = f"{_MOST_TOKENS // length:,} of {length} tokens are the most"
        raise BadInput(f"{count:,} problems do not fit into memory: {most}")


def per_instance_seeds(seed: int, count: int, start: int = 0) -> np.ndarray:
    """Independent 32-bit seeds (count,) for instances start..start+count-1: number i depends on seed and i only.

    Raises:
        BadInput: `count` is not a whole number, 1 or more, or `seed` no whole number.
    """
    if not isinstance(count, int | np.integer) or isinstance(count, bool) or count < 1:
        raise BadInput(f"the number of problems is {count!r}; it must be a whole number, 1 or more")
    check_argument("seed", seed, int)
    counter = np.arange(start, start + count, dtype=np.uint64)
    mixed = (counter + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed * 0xD1B54A32D192ED03 % 2**64)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(33)).astype(np.int64)
