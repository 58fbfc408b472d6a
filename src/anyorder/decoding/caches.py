"""Which positions every forward pass computes when a sampler has a cache; the others are read from it."""

from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from anyorder.errors import check_number
from anyorder.registry import CACHES
from anyorder.state import DecodeState


class CacheRule(Protocol):
    """A function of the state and the open block of each row, bool (B, L), that gives the positions to compute, bool (B, L).
    The open block and positions whose token has changed are computed in any case."""

    def __call__(self, state: DecodeState, block: Tensor) -> Tensor: ...


@CACHES.register("none")
def none(state: DecodeState, block: Tensor) -> Tensor:
    """Nothing is kept: every forward pass computes all positions."""
    return block.new_ones(block.shape)


@CACHES.register("prefix")
def prefix(state: DecodeState, block: Tensor) -> Tensor:
    """The open block and everything behind it are computed (Fast-dLLM, arXiv 2505.22618)."""
    return block.long().cumsum(dim=1) > 0


@CACHES.register("dual")
def dual(state: DecodeState, block: Tensor) -> Tensor:
    """The open block alone is computed (the dual cache of Fast-dLLM, arXiv 2505.22618)."""
    return block


@CACHES.register("exact")
def exact(state: DecodeState, block: Tensor) -> Tensor:
    """The open block and what has changed since it was computed: with a block-causal denoiser, whose finished blocks depend on
    nothing behind them, the tokens are those without a cache (BD3LM, arXiv 2503.09573). For no other denoiser."""
    return block


@CACHES.register("window")
@dataclass(frozen=True)
class Window:
    """The open block and the positions near it are computed."""

    part_kind: ClassVar[str] = "cache"
    size: int = field(default=16, metadata={"help": "positions before and behind it"})

    def __post_init__(self) -> None:
        check_number("size", self.size, 0)

    def __call__(self, state: DecodeState, block: Tensor) -> Tensor:
        place = state.index.clamp(min=0)  # padding, which may stand between a prompt and what is generated, is no distance
        inside = torch.zeros_like(block, dtype=torch.float32).scatter_reduce(1, place, block.float(), "amax")
        near = F.max_pool1d(inside[:, None], 2 * self.size + 1, stride=1, padding=self.size)[:, 0].gather(1, place) > 0
        return near if state.attention_mask is None else near & state.attention_mask.bool()
