"""A count rule that unmasks positions together only if they do not depend on one another."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from anyorder.decoding.counts import CountRule, drawn_confidence, top
from anyorder.errors import BadInput, check_number
from anyorder.prediction import Prediction
from anyorder.registry import COUNT_RULES
from anyorder.state import DecodeState


@COUNT_RULES.register("dapd")
@dataclass(frozen=True)
class DependenceAware(CountRule):
    """A maximal set of open positions of which no two attend to each other (DAPD, arXiv 2603.12996).

    Two positions depend on each other if s_ij = (a_ij + a_ji) / 2 is above `edge`, where a is the denoiser's attention, the
    mean over the heads and the last 30 % of the layers. Positions are taken in falling order of confidence times the sum of
    s_ij over the open positions j, each unless it depends on one that was taken (Welsh-Powell). As soon as less than the share
    `tail` of the generated positions is masked, all positions with a confidence above `level` are unmasked, or else the
    best-scored one.

    The order decides only that last case. The attention comes from the same forward pass, of our transformer or of a Hugging
    Face model that is loaded with `attn_implementation="eager"`. The default of `edge` is ours: attention sums to 1 over the
    sequence, so it should fall with the length.
    """

    reads_attention: ClassVar[bool] = True
    edge: float = field(
        default=0.01, metadata={"help": "mutual attention of dependent positions", "values": (0.1, 0.03, 0.01, 0.003, 0.001)}
    )
    tail: float = field(default=0.5, metadata={"help": "share of masked positions below which confidence decides"})
    level: float = field(default=0.9, metadata={"help": "confidence that is then enough"})

    def __post_init__(self) -> None:
        check_number("edge", self.edge, 0, 1)
        check_number("tail", self.tail, 0, 1)
        check_number("level", self.level, 0, 1)

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        if prediction.attention is None:
            raise BadInput("dapd reads the denoiser's attention, which this prediction lacks: decode with anyorder.decode")
        available, confidence = scores > -torch.inf, drawn_confidence(scores, prediction)
        mutual = (prediction.attention + prediction.attention.transpose(1, 2)) / 2
        mutual = mutual.masked_fill(~(available[:, :, None] & available[:, None, :]), 0.0)
        mutual.diagonal(dim1=1, dim2=2).zero_()
        rank = (mutual.sum(dim=2) * confidence).masked_fill(~available, -torch.inf)
        early = state.masked.sum(dim=1) >= self.tail * state.generated.sum(dim=1)
        sure = (confidence > self.level) | top(scores, torch.ones_like(remasked))
        return torch.where(early[:, None], independent_set(mutual > self.edge, rank), sure)


def independent_set(edges: Tensor, rank: Tensor) -> Tensor:
    """Positions bool (B, L) of which no two share an edge, taken greedily by falling rank; ties go to the leftmost.

    Args:
        edges: bool (B, L, L), symmetric.
        rank: float (B, L), -inf where a position cannot be taken.
    """
    ranking = rank.argsort(dim=1, descending=True, stable=True)
    rows = torch.arange(len(rank), device=rank.device)
    free, taken = rank > -torch.inf, torch.zeros_like(rank, dtype=torch.bool)
    for place in range(int(free.sum(dim=1).max()) if len(rank) else 0):
        at = ranking[:, place]
        takes = free[rows, at]
        taken[rows, at] = takes
        free = free & ~(edges[rows, at] & takes[:, None])
    return taken
