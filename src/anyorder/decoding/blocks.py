"""The blocks in which sequences are decoded: of generated positions, or those of a block-causal denoiser."""

import torch
from torch import Tensor

from anyorder.errors import BadInput
from anyorder.state import DecodeState


def check_fits_denoiser(block_length: int, model_block: int) -> None:
    """Raise BadInput unless blocks of decoding fill the blocks of a denoiser's mask evenly."""
    if model_block % block_length:
        raise BadInput(
            f"block_length is {block_length}, and this denoiser's mask has blocks of {model_block}: leave it out, or give a "
            f"divisor of {model_block}"
        )


def block_of(generated: Tensor, length: int) -> Tensor:
    """Number of the block of each generated position (B, L), counted over the generated positions of its row; -1 elsewhere."""
    return torch.where(generated, (generated.long().cumsum(dim=1) - 1) // length, -1)


def blocks_of(state: DecodeState, length: int) -> Tensor:
    """Number of the block of each generated position (B, L), -1 elsewhere: see `block_of`. With a block-causal denoiser blocks
    are counted over all positions, as its own are, and those without generated positions are left out."""
    if state.model_block is None:
        return block_of(state.generated, length)
    place = state.index.clamp(min=0) // length
    used = torch.zeros_like(place).scatter_reduce(1, place, state.generated.long(), "amax")
    return torch.where(state.generated, (used.cumsum(dim=1) - 1).gather(1, place), -1)


def open_block(state: DecodeState, length: int) -> Tensor:
    """The positions of each row's leftmost block that still has a masked one, bool (B, L)."""
    block = blocks_of(state, length)
    number = block.masked_fill(~state.masked, block.shape[1]).amin(dim=1)
    return block == number[:, None]


def model_blocks(state: DecodeState) -> Tensor:
    """Number of the block-causal denoiser's block of each position, int64 (B, L)."""
    assert state.model_block is not None
    return state.index.clamp(min=0) // state.model_block


def reach_of(state: DecodeState, block: Tensor) -> Tensor:
    """What a step with a block-causal denoiser is about, bool (B, L): its block around the open one, bool (B, L), and all
    before it; in the last step of the budget everything."""
    number = model_blocks(state)
    now = number.masked_fill(~block, -1).amax(dim=1, keepdim=True)
    return (number <= now) | (state.step == state.steps - 1)[:, None]


def from_first_to_open(fresh: Tensor, state: DecodeState, block: Tensor) -> Tensor:
    """All positions bool (B, L) of a block-causal denoiser's blocks from the first that holds a fresh position, bool (B, L), up
    to the one around the open block, bool (B, L): what depends on the fresh ones and is not behind."""
    number = model_blocks(state)
    now = number.masked_fill(~block, -1).amax(dim=1, keepdim=True)
    first = number.masked_fill(~fresh, number.shape[1]).amin(dim=1, keepdim=True)
    return (number >= first) & (number <= now)
