"""Rollouts: decoding that notes what the policy saw and what it drew, so that it can be trained on it later.

No denoiser is needed after a rollout: hidden states, the summary of the logits and what else the policy read are kept (arXiv
2510.05725, Algorithm 2). Decoding itself is `decode`, whose order and count rule are one `Recorder`.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from anyorder.decoding.actions import Actions, numbered
from anyorder.decoding.blocks import in_open_block
from anyorder.decoding.counts import CountRule
from anyorder.decoding.loop import Decoder, decode
from anyorder.decoding.tokens import TokenRule
from anyorder.decoding.trajectory import Decoded
from anyorder.denoisers.base import Denoiser
from anyorder.orders.base import Order, State


@dataclass(frozen=True)
class Step:
    """One step of the trajectories that were still at work.

    state: what the policy saw, without logits unless it reads them.
    rows: int64 (b,), which trajectories.
    drawn: int64 (b, L), the action: see `decoding.actions`.
    log_prob: float (b,), log-probability of the action under what drew it.
    """

    state: State
    rows: Tensor
    drawn: Tensor
    log_prob: Tensor

    def only(self, kept: Tensor) -> "Step":
        """The trajectories where `kept` (b,) is True."""
        return Step(self.state.rows(kept), self.rows[kept], self.drawn[kept], self.log_prob[kept])


@dataclass(frozen=True)
class Expert:
    """An order and a count rule to learn from."""

    order: Order
    count: CountRule

    def draw(self, state: State, undone: Tensor) -> Tensor:
        """Its action int64 (B, L), numbered from its best position on."""
        scores = self.order(state).masked_fill(~state.available, -torch.inf)
        return numbered(scores, self.count(scores, state, undone))


@dataclass
class Recorder:
    """An order and a count rule in one that notes every choice.

    Args:
        order: the policy's scores.
        actions: how actions are drawn from them.
        expert: what the policy is compared with, if anything.
        follow: let the expert act.
        expert_share: share of the expert's trajectories among all. Then the likelihood of an action is that of the mixture of
            policy and expert, step by step, whoever took it (expert steering of arXiv 2512.09106).
        block: positions per block, for decoding block by block.
        keep_logits: keep the logits of every state, for policies that read them.
        keep_first_look: keep what the first forward predicted, for policies that read it.
    """

    order: Order
    actions: Actions
    expert: Expert | None = None
    follow: bool = False
    expert_share: float = 0.0
    block: int | None = None
    keep_logits: bool = False
    keep_first_look: bool = False
    steps: list[Step] = field(default_factory=list)

    def __call__(self, state: State) -> Tensor:
        """The order."""
        state = self._opened(state)
        return self.order(state).masked_fill(~state.available, -torch.inf)

    def select(self, scores: Tensor, state: State, undone: Tensor) -> Tensor:
        """The count rule."""
        state = self._opened(state)
        advice = None if self.expert is None else self.expert.draw(state, undone)
        if self.follow:
            assert advice is not None
            drawn = advice
        else:
            drawn = self.actions.draw(scores, state, undone)
        log_prob = self.actions.log_prob(scores, drawn)
        if advice is not None and self.expert_share:
            same = (drawn == advice) if self.actions.ordered else ((drawn >= 0) == (advice >= 0))
            expert_log_prob = torch.where(same.all(dim=1), math.log(self.expert_share), -torch.inf)
            log_prob = torch.logaddexp(log_prob + math.log1p(-self.expert_share), expert_log_prob)
        kept = state if self.keep_logits else state.compact()
        self.steps.append(Step(kept, state.seeds, drawn, log_prob))
        return self.actions.selection(scores, drawn)

    def _opened(self, state: State) -> State:
        return state if self.block is None else state.limited(in_open_block(state, self.block))


def rollout(
    denoiser: Denoiser,
    recorder: Recorder,
    tokens: Tensor,
    *,
    first_seed: int,
    steps: int | None,
    token: TokenRule,
    x0: Tensor | None,
) -> tuple[list[Step], Decoded]:
    """Decode (N, L) tokens and return what was noted, and the result. Row i has seed first_seed + i; what the last step of a
    budget unmasks is nobody's choice and is not among the steps."""
    decoder = Decoder(recorder, recorder.select, token, steps=steps)
    decoded = decode(denoiser, tokens, decoder, seeds=first_seed, x0=x0)
    found = [Step(s.state, s.rows - first_seed, s.drawn, s.log_prob) for s in recorder.steps]
    return found, decoded
