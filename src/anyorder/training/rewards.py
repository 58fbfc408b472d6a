"""Rewards: what a completed sequence is worth to the policy that ordered it."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from anyorder.decoding.trajectory import Decoded
from anyorder.errors import BadInput
from anyorder.tasks.base import CheckResult, Instances, Task


class Ending(NamedTuple):
    """N decoded sequences as a reward sees them: the task, its problems, what decoding did, and the task's verdict."""

    task: Task
    instances: Instances
    decoded: Decoded
    verdict: CheckResult


Reward = Callable[[Ending], Tensor]
"""Of N sequences: float (N,) at their end, or (N, L), earned when the position is committed."""


def solved(end: Ending) -> Tensor:
    """1 where every rule is kept, else 0."""
    return end.verdict.instance_correct.float()


def cells(end: Ending) -> Tensor:
    """Share of the generated positions that equal the stored solution (the dense reward of arXiv 2510.05725)."""
    if end.instances.x0 is None:
        raise BadInput("the reward `cells` needs problems with known solutions: use `rules` or `solved`")
    return end.verdict.cell_accuracy.float()


def rules(end: Ending) -> Tensor:
    """Mean of the share of the generated positions that break no rule and of `solved`. No solution is looked at, so that of
    several solutions each is as good."""
    verdict = end.task.check(replace(end.instances, x0=None), end.decoded.tokens)
    return (verdict.cell_accuracy.float() + verdict.instance_correct.float()) / 2


def likelihood(end: Ending) -> Tensor:
    """log-probability of each token when it was committed, over the number of generated positions, (N, L): the denoiser's own
    likelihood of its path, earned step by step (as in SAS, arXiv 2606.23567)."""
    return end.decoded.token_log_probs / end.instances.maskable.sum(dim=1, keepdim=True).clamp(min=1)


REWARDS: dict[str, Reward] = {"solved": solved, "cells": cells, "rules": rules, "likelihood": likelihood}
"""Rewards that a recipe can name; `judge`, which needs a model, comes beside them."""


def with_speed(reward: Reward, exponent: float) -> Reward:
    """r * ((n - steps + 1) / n)^exponent for n generated positions, the multiplicative reward of arXiv 2512.09106: what is
    wrong earns nothing however fast. (The additive form collapses to speed alone.)"""

    def speedy(end: Ending) -> Tensor:
        count = end.instances.maskable.sum(dim=1).clamp(min=1)
        return reward(end) * ((count - end.decoded.forwards + 1) / count).clamp(min=0) ** exponent

    return speedy


def likelihood_bonus(decoded: Decoded, group: Tensor, most: float) -> Tensor:
    """`most` for the likeliest path of a group down to 0 for the least likely, evenly by rank (arXiv 2510.05725, E.2), (N,)."""
    total = decoded.token_log_probs.sum(dim=1)
    below = (total[None] < total[:, None]) & (group[None] == group[:, None])
    others = (group[None] == group[:, None]).sum(dim=1) - 1
    return most * below.sum(dim=1) / others.clamp(min=1)


def returns_at(rewards: Tensor, commit_step: Tensor, step: int) -> Tensor:
    """What is still to come before a step, (N,): all of a reward at the end, and of a reward by position what is committed from
    this step on."""
    return rewards if rewards.ndim == 1 else torch.where(commit_step >= step, rewards, 0.0).sum(dim=1)
