"""By how much a token at one position moves the denoiser's prediction at the others: the targets of the policy `pairwise`."""

from typing import Any

import torch
from torch import Tensor

from anyorder.decoding.tokens import Sample, propose
from anyorder.denoisers.base import at_positions
from anyorder.noise import Purpose
from anyorder.prediction import Prediction
from anyorder.state import DecodeState


def draw_pivot(state: DecodeState, prediction: Prediction) -> tuple[Tensor, Tensor]:
    """A masked position of each row, int64 (B,), and a token drawn from the prediction there, int64 (B,). The draws belong to
    seeds and step of the state. A row without masked positions gets its first position, and the mask."""
    pivot = state.uniform(Purpose.PIVOT).masked_fill(~state.masked, -1.0).argmax(dim=1)
    drawn = prediction.scatter(propose(Sample(), state, prediction)[0], state.mask_token_id)
    return pivot, drawn.gather(1, pivot[:, None])[:, 0]


@torch.no_grad()
def measured_influence(
    denoiser: Any, state: DecodeState, prediction: Prediction, pivot: Tensor, token: Tensor
) -> tuple[Tensor, Tensor]:
    """Total variation between the denoiser's predictions before and after `token` (B,) is committed at `pivot` (B,), float
    (B, L), and the other masked positions, bool (B, L), where it is measured; 0 elsewhere. One forward pass.

    Over tokens drawn from the prediction, its mean is the influence that DEMASK (arXiv 2604.02560) predicts."""
    others = state.masked.scatter(1, pivot[:, None], False)
    tokens = state.tokens.scatter(1, pivot[:, None], token[:, None])
    after = at_positions(denoiser(tokens, state.attention_mask, others), others)[0].float()
    before = prediction.logits[others[state.masked]].float()
    moved = (torch.softmax(after, dim=-1) - torch.softmax(before, dim=-1)).abs().sum(dim=-1) / 2
    return torch.zeros_like(others, dtype=moved.dtype).masked_scatter(others, moved), others
