"""Blocks: semi-autoregressive decoding, in which only the leftmost unfinished block of the generated positions is open.

An order decides where within the block, a count rule how many; neither knows of blocks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from anyorder.decoding.counts import top
from anyorder.orders.base import Order, State


def block_of(generated: Tensor, length: int) -> Tensor:
    """Number of the block of each generated position (B, L), counted over the generated positions of its row; -1 elsewhere."""
    return torch.where(generated, (generated.long().cumsum(dim=1) - 1) // length, -1)


def in_open_block(state: State, length: int) -> Tensor:
    """The positions of each row's leftmost block that still has a masked one, bool (B, L)."""
    block = block_of(state.generated, length)
    number = block.masked_fill(~state.masked, block.shape[1]).amin(dim=1)
    return block == number[:, None]


@dataclass(frozen=True)
class InBlocks:
    """An order that is held to the leftmost block that is not finished.

    Args:
        order: where, within the block.
        length: generated positions per block.
    """

    order: Order
    length: int

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"a block of {self.length} positions is empty")

    @property
    def keep_first_look(self) -> bool:
        """As the order within wishes."""
        return bool(getattr(self.order, "keep_first_look", False))

    def __call__(self, state: State) -> Tensor:
        inside = in_open_block(state, self.length)
        return self.order(state.limited(inside)).masked_fill(~inside, -torch.inf)


@dataclass(frozen=True)
class EvenBlocks:
    """Every block takes the same number of steps, and its positions are spread evenly over them, the remainder first (LLaDA,
    arXiv 2502.09992, `get_num_transfer_tokens`).

    Args:
        length: generated positions per block.
        steps: per block; None to divide the budget by the number of blocks that each sequence has, and no more than a block
            has positions.
    """

    length: int
    steps: int | None = None

    def __call__(self, scores: Tensor, state: State, undone: Tensor) -> Tensor:
        block = block_of(state.generated, self.length)
        blocks = block.amax(dim=1) + 1
        steps = (
            (state.steps // blocks.clamp(min=1)).clamp(1, self.length)
            if self.steps is None
            else torch.full_like(blocks, self.steps)
        )
        number, step = state.step // steps, state.step % steps
        size = (block == number[:, None]).sum(dim=1)
        count = size // steps + (step < size % steps).long()
        return top(scores, count)
