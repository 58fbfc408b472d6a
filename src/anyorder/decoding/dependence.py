"""Count rules that unmask positions together only if they hardly depend on one another: by attention, or by a prediction."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from anyorder.decoding.counts import CountRule, drawn_confidence, top
from anyorder.errors import LARGEST_FINITE, BadInput, check_number
from anyorder.orders.base import Binding, Unbound
from anyorder.orders.learned import LearnedOrder, own_order
from anyorder.orders.published_policies import PairwisePolicy
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
    `tail` of the generated positions is masked, all positions with a confidence above `level` are unmasked, and the
    best-scored one in any case.

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
        early = state.unfilled.sum(dim=1) >= self.tail * state.generated.sum(dim=1)
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


@dataclass(frozen=True)
class OwnPlanner(Unbound):
    """The learned order of the sampler, or else of the denoiser, whose policy predicts influences."""

    def bind(self, binding: Binding) -> LearnedOrder:
        """See `Unbound`.

        Raises:
            BadInput: neither predicts influences.
        """
        order = own_order(binding)
        _predictor(order)
        return order

    def stands_for(self, part: Any) -> bool:
        """See `Unbound`."""
        return isinstance(part, LearnedOrder)

    def __call__(self, state: DecodeState, prediction: Prediction) -> Tensor:
        raise BadInput("a planner must be bound to its denoiser first: sampler.bind(denoiser)")


@COUNT_RULES.register("demask")
@dataclass(frozen=True)
class DependencyGuided(CountRule):
    """Positions in falling order of score, each unless the influences among the chosen ones would add up to more than a bound
    (DEMASK, arXiv 2604.02560).

    The influence of i on j is by how much a token at i is expected to move the denoiser's distribution at j, in total
    variation, as the policy `pairwise` predicts it. If influences of several positions at most add up, their sum over all pairs
    of a set, the earlier chosen on the later chosen position, bounds the total variation between the joint distribution and the
    independent one from which the set is drawn. The first position is always taken. Whether the authors end at the first
    position that does not fit could not be found out; here later ones are tried.

    Args:
        planner: a learned order with the policy `pairwise`; by default that of the sampler, or of the denoiser.
    """

    bound: float = field(default=0.3, metadata={"help": "largest sum of influences", "values": (3, 1, 0.3, 0.1, 0.03, 0.01)})
    level: float = field(default=0.0, metadata={"help": "confidence below which only the first position is taken"})
    planner: Any = OwnPlanner()

    def __post_init__(self) -> None:
        check_number("bound", self.bound, 0, LARGEST_FINITE)
        check_number("level", self.level, 0, 1)

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        if isinstance(self.planner, OwnPlanner):
            return self.planner(state, prediction)
        influences = _predictor(self.planner).influences(prediction)
        first = top(scores, torch.ones_like(remasked))
        able = (scores > -torch.inf) & (first | (drawn_confidence(scores, prediction) >= self.level))
        return bounded_set(influences, scores.masked_fill(~able, -torch.inf), self.bound)


def _predictor(order: Any) -> PairwisePolicy:
    policy = getattr(order, "policy", None)
    if not isinstance(policy, PairwisePolicy):
        raise BadInput("demask needs a policy that predicts influences: train one with policy.architecture = 'pairwise'")
    return policy


def bounded_set(influences: Tensor, rank: Tensor, bound: float) -> Tensor:
    """Positions bool (B, L), taken greedily by falling rank while the influences (B, L, L) of the taken ones on the next one
    keep their total within a bound; ties go to the leftmost, and the first is always taken.

    Args:
        influences: float (B, L, L), of the first position on the second one.
        rank: float (B, L), -inf where a position cannot be taken.
    """
    ranking = rank.argsort(dim=1, descending=True, stable=True)
    rows = torch.arange(len(rank), device=rank.device)
    taken = torch.zeros_like(rank, dtype=torch.bool)
    total = torch.zeros_like(rank[:, 0])
    onto = torch.zeros_like(rank)  # of what was taken, on each position
    for place in range(int((rank > -torch.inf).sum(dim=1).max()) if len(rank) else 0):
        at = ranking[:, place]
        takes = (rank[rows, at] > -torch.inf) & (total + onto[rows, at] <= bound)
        total = torch.where(takes, total + onto[rows, at], total)
        onto = torch.where(takes[:, None], onto + influences[rows, at], onto)
        taken[rows, at] = takes
    return taken
