"""Rewards of completed sequences, for policies trained by reward."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from anyorder.causal import CausalModel
from anyorder.decoding.result import Decoded
from anyorder.errors import BadInput, check_number
from anyorder.own_code import naming
from anyorder.registry import REWARDS
from anyorder.tasks.base import CheckResult, Instances, Task
from anyorder.training.part_settings import check_settings, declared_by, make_part
from anyorder.zoo.fetch import causal_source


class Outcome(NamedTuple):
    """N decoded sequences as a reward function receives them: the task, its problems, the result of decoding, and what the
    task's rules say of it."""

    task: Task
    instances: Instances
    decoded: Decoded
    check: CheckResult


Reward = Callable[[Outcome], Tensor]
"""Of N sequences: float (N,) at their end, or (N, L), earned when the position is committed."""


@REWARDS.register("solved")
def solved(outcome: Outcome) -> Tensor:
    """1 if every rule is satisfied, else 0."""
    return outcome.check.instance_correct.float()


@REWARDS.register("cells")
def cells(outcome: Outcome) -> Tensor:
    """Share of the generated positions that equal the stored solution (the dense reward of arXiv 2510.05725)."""
    if outcome.instances.x0 is None:
        raise BadInput("the reward cells needs problems with known solutions: use rules or solved")
    return outcome.check.cell_accuracy.float()


@REWARDS.register("rules")
def rules(outcome: Outcome) -> Tensor:
    """Mean of the share of the generated positions that break no rule and of `solved`. It does not read solutions, so all
    solutions of a problem count the same."""
    check = outcome.task.check(replace(outcome.instances, x0=None), outcome.decoded.tokens)
    return (check.cell_accuracy.float() + check.instance_correct.float()) / 2


@REWARDS.register("likelihood", by_position=True)
def likelihood(outcome: Outcome) -> Tensor:
    """log-probability of each token when it was committed, over the number of generated positions, (N, L): the denoiser's own
    likelihood of its path, earned step by step (as in SAS, arXiv 2606.23567)."""
    return outcome.decoded.token_log_probs / outcome.instances.maskable.sum(dim=1, keepdim=True).clamp(min=1)


@REWARDS.register("qed", reads="qed")
def qed(outcome: Outcome) -> Tensor:
    """QED of a valid molecule, 0 for another (`Molecules.qed`)."""
    task: Any = outcome.task
    check_reads("qed", task)
    return torch.from_numpy(task.qed(task.texts(outcome.instances, outcome.decoded.tokens))).float()


def check_reads(name: str, task: Task, settings: Mapping[str, Any] | None = None) -> None:
    """Raise an error if a reward, or the one that it multiplies (`settings`), reads something that its task does not have."""
    facts = REWARDS.entry(name).facts
    if "reads" in facts and not hasattr(task, facts["reads"]):
        raise BadInput(f"the reward {name} reads `{facts['reads']}` of its task, which {type(task).__name__} does not have")
    if "multiplies" in facts and settings is not None:
        check_reads(settings[facts["multiplies"]], task)


@REWARDS.register("varied", multiplies="of")
@dataclass(frozen=True)
class Varied:
    """`solved`, or the reward `of`, times how different the sequence is from the other solved ones of the same problem: a
    reward of sets, in which a repeated sequence adds nothing. It needs many trajectories per problem.

    The difference is the mean of `task.differences` (molecules: 1 - Tanimoto similarity; texts: 1 - the overlap of their
    pieces), to the power `power`, and 0 for a sequence that is not solved. A reward that can be negative, such as `judge`,
    cannot be multiplied: with `weight`, the difference times `weight` is added to it.
    """

    power: float = field(default=2.0, metadata={"help": "of the difference; 0 is the reward `of` alone"})
    of: str = field(default="solved", metadata={"help": "reward of each sequence, which is multiplied by the difference"})
    settings: dict[str, Any] = field(default_factory=dict, metadata={"help": "of the reward `of`, such as the model of judge"})
    weight: float = field(
        default=0.0, metadata={"help": "above 0, the difference times this is added to the reward `of`, not multiplied"}
    )

    def __post_init__(self) -> None:
        check_number("power", self.power, 0, 100)
        check_number("weight", self.weight, 0)
        if REWARDS.entry(self.of).facts.get("by_position"):
            raise BadInput(f"the reward {self.of} is earned step by step: it cannot be multiplied by a difference")
        if REWARDS.entry(self.of).facts.get("negative") and not self.weight:
            raise BadInput(f"the reward {self.of} can be negative: give a weight, with which the difference is added to it")
        _ = self._worth  # which refuses settings that it does not have

    def __call__(self, outcome: Outcome) -> Tensor:
        worth, difference = _given_at_the_end(self._worth, outcome), self._difference(outcome)
        return worth + self.weight * difference if self.weight else worth * difference

    @cached_property
    def _worth(self) -> Reward:
        part, what = REWARDS[self.of], f"reward {self.of}"
        reward: Reward = make_part(part, check_settings(declared_by(part), self.settings, what), what)
        return reward

    def _difference(self, outcome: Outcome) -> Tensor:
        found = torch.zeros(len(outcome.decoded.tokens), dtype=torch.float32)
        problems, group = outcome.instances.tokens.unique(dim=0, return_inverse=True)
        for number in range(len(problems)):
            rows = torch.nonzero((group == number) & outcome.check.instance_correct)[:, 0]
            apart = torch.from_numpy(outcome.task.differences(outcome.instances[rows], outcome.decoded.tokens[rows]))
            mean = apart.sum(dim=1) / max(1, len(rows) - 1)
            found[rows] = (mean**self.power).float() if len(rows) > 1 else 1.0
        return found


@REWARDS.register("judge", negative=True)
@dataclass(frozen=True)
class JudgeReward:
    """Mean log-likelihood of the text under a causal language model, in nats per token (arXiv 2510.05725, appendix D.2)."""

    model: str = field(metadata={"help": "causal language model: folder, hub id, or `smollm2` once it was fetched"})
    trust_remote_code: bool = field(default=False, metadata={"help": "run the code that comes with the model; read it first"})

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("model is empty; it must name a causal language model")

    @cached_property
    def _judge(self) -> CausalModel:
        return CausalModel(causal_source(self.model), trust_remote_code=self.trust_remote_code)

    def __call__(self, outcome: Outcome) -> Tensor:
        texts = outcome.task.texts(outcome.instances, outcome.decoded.tokens)
        return -torch.from_numpy(self._judge.nats(texts)).float()


def rewards_of(reward: Reward, outcome: Outcome, groups: Tensor) -> Tensor:
    """The rewards of N sequences, float32 (N,) or (N, L), on the device of their groups int64 (N,). A sequence whose reward is
    not finite gets the lowest one of its group, 0 if there is none; a position gets 0.

    Raises:
        BadInput: the reward is no tensor, or has another shape. PartFailed: a reward of the user's own raised an error.
    """
    found = _given(reward, outcome).to(groups.device)
    tokens = outcome.decoded.tokens
    allowed = tuple(tokens.shape[:1]), tuple(tokens.shape)
    if tuple(found.shape) not in allowed:
        raise BadInput(f"the reward has the shape {tuple(found.shape)}: it must be {allowed[0]} or {allowed[1]}")
    known = found.isfinite()
    if found.ndim == 2:
        return found.masked_fill(~known, 0.0)
    lowest = torch.full((len(found),), torch.inf, dtype=torch.float32, device=groups.device)
    lowest = lowest.scatter_reduce(0, groups, torch.where(known, found, torch.inf), "amin")
    return torch.where(known, found, lowest.nan_to_num(posinf=0.0)[groups])


def _given(reward: Reward, outcome: Outcome) -> Tensor:
    """What a reward gives, float32. See `rewards_of`."""
    with naming("reward", reward):
        given: Any = reward(outcome)
    if not isinstance(given, Tensor | np.ndarray):
        raise BadInput(f"the reward is an object of the class {type(given).__name__}; it must be a tensor")
    return torch.as_tensor(given).float()


def at_the_end(rewards: Tensor) -> Tensor:
    """Rewards (N,), as they are.

    Raises:
        BadInput: they are by position, (N, L), so that a number for each sequence can neither be added nor multiply them.
    """
    if rewards.ndim != 1:
        raise BadInput(
            f"the reward is earned step by step, {tuple(rewards.shape)}: it takes neither speed, step_cost nor "
            "likelihood_bonus, and no difference (varied)"
        )
    return rewards


def _given_at_the_end(reward: Reward, outcome: Outcome) -> Tensor:
    """A reward float32 (N,) where the result of decoding is."""
    nfe = outcome.decoded.nfe
    found = at_the_end(_given(reward, outcome)).to(nfe.device)
    if found.shape != nfe.shape:
        raise BadInput(f"the reward has the shape {tuple(found.shape)}: it must be {tuple(nfe.shape)}")
    return found


def with_speed(reward: Reward, exponent: float) -> Reward:
    """r * ((n - steps + 1) / n)^exponent for n generated positions, the multiplicative reward of arXiv 2512.09106: a
    wrong sequence earns nothing however fast. (The additive form collapses to speed alone.)"""

    def speedy(outcome: Outcome) -> Tensor:
        count = outcome.instances.maskable.sum(dim=1).clamp(min=1)
        return _given_at_the_end(reward, outcome) * ((count - outcome.decoded.nfe + 1).float() / count).clamp(min=0) ** exponent

    return speedy


def with_step_cost(reward: Reward, cost: float) -> Reward:
    """r - cost * forward passes, the additive form of dUltra (arXiv 2512.21446; 1/50 in its code)."""

    def charged(outcome: Outcome) -> Tensor:
        return _given_at_the_end(reward, outcome) - cost * outcome.decoded.nfe.float()

    return charged


def likelihood_bonus(decoded: Decoded, group: Tensor, most: float) -> Tensor:
    """`most` for the likeliest path of a group down to 0 for the least likely, evenly by rank (arXiv 2510.05725, E.2), (N,)."""
    total = decoded.token_log_probs.sum(dim=1)
    below = (total[None] < total[:, None]) & (group[None] == group[:, None])
    others = (group[None] == group[:, None]).sum(dim=1) - 1
    return most * below.sum(dim=1).float() / others.clamp(min=1)


def returns_at(rewards: Tensor, commit_step: Tensor, step: int) -> Tensor:
    """What is still to come before a step, (N,): all of a reward at the end, and of a reward by position what is committed from
    this step on."""
    return rewards if rewards.ndim == 1 else torch.where(commit_step >= step, rewards, 0.0).sum(dim=1)
