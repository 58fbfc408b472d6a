"""Rollouts: decoding that records the inputs and choices of the policy, so that it can be trained on them later.

No denoiser is needed after a rollout: hidden states and what the policy derived from the logits are kept (arXiv 2510.05725,
Algorithm 2). Decoding itself is `decode`, whose count rule is a `Recorder`.
"""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from anyorder.decoding.actions import Actions, numbered
from anyorder.decoding.counts import CountRule
from anyorder.decoding.loop import decode
from anyorder.decoding.result import Decoded
from anyorder.decoding.sampler import Sampler
from anyorder.decoding.tokens import TokenRule
from anyorder.denoisers.base import Denoiser
from anyorder.orders.base import Order
from anyorder.prediction import Prediction
from anyorder.state import DecodeState


@dataclass(frozen=True, eq=False)
class Step:
    """One step of the trajectories that were still decoded.

    Args:
        state, prediction: what the policy saw, without logits unless it reads them.
        rows: int64 (b,), which trajectories.
        drawn: int64 (b, L), the action: see `decoding.actions`.
        log_prob: float (b,), log-probability of the action under the distribution from which it was drawn.
    """

    state: DecodeState
    prediction: Prediction
    rows: Tensor
    drawn: Tensor
    log_prob: Tensor

    @property
    def number(self) -> int:
        """The number of the step, from 0; the trajectories of a rollout share it."""
        return int(self.state.step[0])

    def only(self, kept: Tensor) -> "Step":
        """The trajectories where `kept` (b,) is True."""
        return Step(
            self.state.rows(kept), self.prediction.rows(kept), self.rows[kept], self.drawn[kept], self.log_prob[kept]
        )  # fmt: skip


@dataclass(frozen=True)
class Expert:
    """An order and a count rule to learn from."""

    order: Order
    count: CountRule

    def draw(self, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        """Its action int64 (B, L), numbered from its best position on."""
        scores = self.order(state, prediction).masked_fill(~state.available, -torch.inf)
        return numbered(scores, self.count(scores, state, prediction, remasked))


@dataclass
class Recorder(CountRule):
    """A count rule that draws and records every choice.

    Args:
        actions: how actions are drawn from the policy's scores.
        expert: the expert with which the policy is compared, if any.
        follow: let the expert act.
        expert_share: share of the expert's trajectories among all. Then the likelihood of an action is that of the mixture of
            policy and expert, step by step, whoever took it (expert steering of arXiv 2512.09106).
        keep_logits: keep the logits of every state, for policies that read them.
        soft_confidence: temperature at which the softmax reference reads each prediction; it is computed before the logits are
            dropped. None if it is not read.
    """

    actions: Actions
    expert: Expert | None = None
    follow: bool = False
    expert_share: float = 0.0
    keep_logits: bool = False
    soft_confidence: float | None = None
    steps: list[Step] = field(default_factory=list)

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        """See `CountRule`."""
        advice = None if self.expert is None else self.expert.draw(state, prediction, remasked)
        if self.follow:
            assert advice is not None
            drawn = advice
        else:
            drawn = self.actions.draw(scores, state, prediction, remasked)
        log_prob = self.actions.log_prob(scores, drawn)
        if advice is not None and self.expert_share:
            same = (drawn == advice) if self.actions.ordered else ((drawn >= 0) == (advice >= 0))
            expert_log_prob = torch.where(same.all(dim=1), math.log(self.expert_share), -torch.inf)
            log_prob = torch.logaddexp(log_prob + math.log1p(-self.expert_share), expert_log_prob)
        if self.soft_confidence is not None:
            prediction.soft_confidence(self.soft_confidence)
        kept = prediction if self.keep_logits else prediction.compact()
        self.steps.append(Step(state, kept, state.row, drawn, log_prob))
        return self.actions.selection(scores, drawn)

    def in_blocks(self, length: int) -> "Recorder":
        """See `CountRule`. What is recorded goes to the same list."""
        actions, expert = self.actions.in_blocks(length), self.expert
        assert isinstance(actions, Actions)
        expert = None if expert is None else replace(expert, count=expert.count.in_blocks(length))
        return replace(self, actions=actions, expert=expert)


def rollout(
    denoiser: Denoiser,
    policy: Order,
    recorder: Recorder,
    tokens: Tensor,
    *,
    first_seed: int,
    steps: int | None,
    block_length: int | None,
    token: TokenRule,
    x0: Tensor | None,
) -> tuple[list[Step], Decoded]:
    """Decode tokens (N, L) and return what was recorded, and the result.

    Args:
        policy: the order.
        recorder: the count rule.
        first_seed: row i has seed first_seed + i.
        steps: budget of forward passes; None for as many as the longest problem has positions. The last step of the budget
            unmasks everything, which is not a choice and is not recorded.
        block_length: positions per block; None for no blocks.
    """
    longest = max(1, int((tokens == denoiser.mask_token_id).sum(dim=1).max()))
    sampler = Sampler(policy, recorder, token, steps=steps or longest, block_length=block_length)
    decoded = decode(denoiser, tokens, sampler, seeds=first_seed, x0=x0)
    return recorder.steps, decoded
