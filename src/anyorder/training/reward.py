"""Training an order policy by reward: group-relative policy optimization of the unmasking order.

In each round the job draws groups of trajectories with the current policy, computes their rewards, and takes a few clipped
gradient steps on the recorded choices (arXiv 2510.05725, Algorithm 2; with Bernoulli or dynamic actions and a reward for speed,
arXiv 2512.09106; with several positions per step, and the denoiser as well, arXiv 2505.10446). In the first rounds the policy
may imitate an expert instead. The denoiser is not called between rollouts, unless it is trained too.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anyorder.decoding.actions import Actions, PlackettLuce
from anyorder.decoding.counts import CountRule, Fixed, Linear, Threshold
from anyorder.decoding.result import Decoded
from anyorder.decoding.tokens import Argmax, Sample
from anyorder.denoisers.base import fingerprint, move
from anyorder.denoisers.classes import save_denoiser
from anyorder.errors import BadInput
from anyorder.losses import clipped_surrogate, group_advantages, trajectory_kl_weight
from anyorder.orders.heuristics import confidence
from anyorder.orders.learned import LearnedOrder
from anyorder.orders.reward_policies import most_confident
from anyorder.prediction import Prediction
from anyorder.processes import Shard
from anyorder.registry import COUNT_RULES, ORDERS, REWARDS
from anyorder.state import DecodeState
from anyorder.tasks.base import CheckResult, Instances, Task
from anyorder.tasks.instances import checked_result
from anyorder.training.data import check_trainable, step_generator, training_problems
from anyorder.training.joint import Pair
from anyorder.training.order import make_policy, policy_to_start_from
from anyorder.training.part_settings import make_part
from anyorder.training.recipes import RewardRecipe
from anyorder.training.rewards import (
    Outcome,
    Reward,
    at_the_end,
    check_reads,
    likelihood_bonus,
    returns_at,
    rewards_of,
    with_speed,
    with_step_cost,
)
from anyorder.training.rollout import Expert, Recorder, Step, rollout
from anyorder.training.settings import RewardSettings, RolloutSettings


@dataclass(frozen=True, eq=False)
class Round:
    """The result of one round of rollouts, on which the policy is updated.

    Args:
        steps: the recorded steps; trajectories with an advantage of 0 may be left out.
        advantages: of each step, float (b,).
        decoded: the N trajectories' results.
        lengths: mean number of recorded steps of each trajectory's group, float (N,). The mean of the group is used because a
            trajectory's own number would favor long failures.
        numbers: the values to log.
    """

    steps: list[Step]
    advantages: list[Tensor]
    decoded: Decoded
    lengths: Tensor
    numbers: dict[str, float]

    @property
    def count(self) -> int:
        """N."""
        return len(self.decoded.tokens)


class RewardJob:
    """A `Job`: the policy of a recipe, by reward. Its steps come in cycles, one for each round of rollouts.

    Args:
        recipe: all settings.
        denoiser: frozen, unless `recipe.update.train_denoiser`.
        task: the task that checks decoded sequences.
        instances: problems; by default those that the recipe describes.
        reward: reward to use instead of the recipe's.
    """

    autocast: Callable[[], AbstractContextManager[Any]] = staticmethod(nullcontext)

    def __init__(
        self,
        recipe: RewardRecipe,
        denoiser: nn.Module,
        task: Task,
        instances: Instances | None = None,
        reward: Reward | None = None,
    ) -> None:
        check_trainable(denoiser, task)
        self.recipe, self.task = recipe, task
        self.settings, self.update = recipe.rollout, recipe.update
        trained = self.update.train_denoiser
        self.denoiser = denoiser.eval().requires_grad_(trained)
        self.instances = training_problems(task, recipe.data) if instances is None else instances
        torch.manual_seed(recipe.seed)
        about = {"task": recipe.task.model_dump(), "denoiser": recipe.denoiser, "reward": recipe.reward.model_dump()}
        if recipe.start is None:
            self.policy = make_policy(denoiser, task, recipe.policy, critic=False, about=about)
        else:
            self.policy = policy_to_start_from(recipe.start, denoiser)
        self.model: nn.Module = Pair(denoiser, self.policy) if trained else self.policy
        self.rate_scales = {"denoiser.": self.update.lr_scale} if trained else {}
        self.cycle = self.update.inner * self.update.minibatches
        self.unsharded: list[nn.Module] | None = None
        self.actions = make_actions(self.settings)
        if reward is None:
            check_reads(recipe.reward.name, task, recipe.reward.settings)
        self.reward = reward or make_reward(recipe.reward)
        self.device = torch.device("cpu")
        self.round: Round | None = None
        self.kl_weight: Tensor | None = None

    def to(self, device: torch.device) -> None:
        self.device = device
        move(self.denoiser, device)

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, tensors: dict[str, Tensor], shard: Shard) -> None:
        return None

    def loss(self, model: nn.Module, step: int, shard: Shard) -> tuple[Tensor, dict[str, float]]:
        """1. at the start of a round, draw trajectories; 2. this update's part of their steps; 3. the current policy's scores
        of them; 4. surrogate and divergence from the reference, or imitation."""
        self.denoiser.eval()  # no dropout between drawing and updating
        number, inner = divmod(step, self.cycle)
        imitating = number < self.update.imitation
        if inner == 0 or self.round is None:
            self.round = self._draw_round(number, shard, imitating)
        drawn = self.round
        epoch, part = divmod(inner, self.update.minibatches)
        if part == 0 and self.update.reference in ("softmax", "top_k") and not imitating:
            self.kl_weight = self._weigh_divergence(model, drawn)
        total = 0 * next(p for p in model.parameters() if p.requires_grad).sum()  # a round may hold no choice at all
        seen = 0.0
        for at, kept in enumerate(drawn.steps):
            if kept.number % self.update.minibatches != part:
                continue
            scores, token_log_prob, prediction = self._current(model, kept, drawn)
            log_prob = self.actions.log_prob(scores, kept.drawn) + token_log_prob
            # the mean over a group's choices, then over groups
            weight = self.update.minibatches / (drawn.lengths[kept.rows] * drawn.count)
            if imitating:
                total = total - (weight * log_prob).sum()
                continue
            gain = clipped_surrogate(log_prob, kept.log_prob, drawn.advantages[at], self.update.clip)
            total = total - (weight * gain).sum()
            if self.update.beta:
                lost = self._divergence(scores, log_prob, prediction, kept)
                total = total + self.update.beta * self.update.minibatches * lost.sum() / drawn.count
            seen += float(((log_prob.detach() - kept.log_prob).exp() - 1).abs().gt(self.update.clip).sum())
        choices = sum(len(s.rows) for s in drawn.steps if s.number % self.update.minibatches == part)
        return total, drawn.numbers | {"clipped": seen / max(1, choices), "epoch": float(epoch)}

    def _current(self, model: nn.Module, kept: Step, drawn: Round) -> tuple[Tensor, Tensor | float, Prediction]:
        """Scores (b, L) of a recorded step under the current weights, the log-probability of its tokens if the denoiser is
        trained, and the prediction."""
        if not self.update.train_denoiser:
            scores = model(kept.state, kept.prediction).masked_fill(~kept.state.available, -torch.inf)
            return scores, 0.0, kept.prediction

        def see(logits: Tensor, hidden: Tensor) -> tuple[DecodeState, Prediction]:
            return kept.state, kept.prediction.with_logits(logits, hidden)

        logits, state, prediction, scores = model(kept.state, kept.prediction.predicted, see, _plain_scores)
        scores = scores.masked_fill(~state.available, -torch.inf)
        log_p = torch.log_softmax(logits.float() / self.settings.token_temperature, dim=-1)
        log_p = log_p.gather(1, prediction.drawn_tokens[:, None])[:, 0]
        return scores, self._token_log_prob(kept, log_p, drawn.decoded), prediction

    # ---- a round of rollouts ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _draw_round(self, number: int, shard: Shard, imitating: bool) -> Round:
        """Draw trajectories, and compute their rewards and how much better each is than its group."""
        rng = step_generator(self.recipe.seed, number)
        count = self.recipe.run.batch_size // self.settings.group_size
        if count % shard.count:
            raise BadInput(f"{count} problems per round are not divisible by {shard.count} processes: change run.batch_size")
        mine = shard.slice(count)
        problems = self._problems(rng, count)[mine]
        size, experts = self.settings.group_size, 0 if imitating else self.settings.experts
        share = experts / (size + experts)
        first_seed = int(rng.integers(0, 2**40)) * 2**20  # trajectory i of a round has the i-th, on whatever process
        guide, budget = self._guide(imitating), self._budget(rng)
        parts = [self._rollout(problems, size, first_seed + mine.start * size, guide, imitating, share, budget)]
        if experts:
            parts.append(
                self._rollout(problems, experts, first_seed + 2**19 + mine.start * experts, guide, True, share, budget)
            )
        decoded = Decoded.join([result for _, result in parts])
        offset = size * len(problems)
        steps = parts[0][0] + [replace(s, rows=s.rows + offset) for more, _ in parts[1:] for s in more]
        index = torch.arange(len(problems), device=self.device)
        groups = torch.cat([index.repeat_interleave(n) for n in (size, experts) if n])
        lengths = torch.zeros(len(problems), dtype=torch.float32, device=self.device)
        for step in steps:
            lengths += groups[step.rows].bincount(minlength=len(problems))
        lengths = (lengths / groups.bincount())[groups]
        rewards, check = self._rewards(problems[groups.cpu()], decoded, groups)
        advantages = []
        for step in steps:
            worth = returns_at(rewards, decoded.commit_step, step.number)
            advantages.append(group_advantages(worth, groups, standardize=self.update.standardize)[step.rows])
        numbers = self._numbers(rewards, groups, check, decoded)
        drawn = Round(steps, advantages, decoded, lengths, numbers)
        return drawn if imitating or self.update.beta else _only_what_teaches(drawn)

    def _rewards(self, problems: Instances, decoded: Decoded, groups: Tensor) -> tuple[Tensor, CheckResult]:
        """Rewards (N,) or (N, L), and what the rules say. A trajectory without a reward gets the lowest of its group."""
        ended = decoded.to("cpu")
        check = checked_result(self.task, problems, ended.tokens)
        rewards = rewards_of(self.reward, Outcome(self.task, problems, ended, check), groups)
        if self.recipe.reward.likelihood_bonus:
            rewards = at_the_end(rewards) + likelihood_bonus(decoded, groups, self.recipe.reward.likelihood_bonus)
        return rewards, check

    def _problems(self, rng: np.random.Generator, count: int) -> Instances:
        """The problems of a round, augmented where their solutions are known."""
        index = torch.from_numpy(rng.integers(0, len(self.instances), count))
        chosen = self.instances[index]
        if chosen.x0 is not None:
            x0, tokens = self.task.augment(chosen.x0, chosen.tokens, rng)
            chosen = replace(chosen, tokens=tokens, maskable=tokens == self.task.mask_token_id, x0=x0)
        return chosen

    def _budget(self, rng: np.random.Generator) -> int | None:
        """The budget of a round; from a range it is drawn log-uniformly."""
        steps: Any = self.settings.steps
        if not isinstance(steps, tuple):
            return None if steps is None else int(steps)
        low, high = steps
        drawn: float = low * (high / low) ** rng.random()
        return round(drawn)

    def _rollout(
        self, problems: Instances, copies: int, seed: int, expert: Expert | None, follow: bool, share: float, budget: int | None
    ) -> tuple[list[Step], Decoded]:
        index = torch.arange(len(problems)).repeat_interleave(copies)
        temperature = self.update.reference_temperature if self.update.reference == "softmax" else None
        recorder = Recorder(self.actions, expert, follow, share, self.policy.reads_logits, temperature)
        token = Sample(self.settings.token_temperature) if self.settings.token_temperature else Argmax()
        x0 = None if problems.x0 is None else problems.x0[index]
        denoiser: Any = self.denoiser
        with self.autocast():  # as the update sees a denoiser that is trained
            steps, decoded = rollout(
                denoiser, LearnedOrder(self.policy), recorder, problems.tokens[index].to(self.device), first_seed=seed,
                steps=budget, block_length=self.settings.block, token=token, x0=x0,
            )  # fmt: skip
        if self.update.train_denoiser:  # an action is a position and a token
            steps = [
                replace(s, log_prob=s.log_prob + self._token_log_prob(s, s.prediction.candidate_log_probs, decoded))
                for s in steps
            ]
        return steps, decoded

    def _token_log_prob(self, step: Step, log_probs: Tensor | None, decoded: Decoded) -> Tensor:
        """Log-probability (b,) of the tokens of a step, given those of all proposals (K,): of the committed tokens, or of every
        proposal if the order depended on all of them."""
        assert log_probs is not None
        every = step.prediction.scatter(log_probs.float(), 0.0)
        counted = self.policy.reads_draw | (decoded.commit_step[step.rows] == step.number)
        return torch.where(counted, every, 0.0).sum(dim=1)

    def _guide(self, imitating: bool) -> Expert | None:
        """What the policy imitates, or is compared with, in this round."""
        if imitating:
            level, rule = self.update.imitate_level, self.update.imitate_count
            count: CountRule = Fixed(self.settings.per_step) if level is None else Threshold(level)
            if rule is not None:
                count = COUNT_RULES.make(rule)
            return Expert(ORDERS.make(self.update.imitate), count)
        return Expert(confidence, Threshold(self.settings.expert_level)) if self.settings.experts else None

    def _numbers(self, rewards: Tensor, groups: Tensor, check: CheckResult, decoded: Decoded) -> dict[str, float]:
        """The values to log for a round."""
        worth = rewards if rewards.ndim == 1 else rewards.sum(dim=1)
        table = [worth[groups == g] for g in range(int(groups.max()) + 1)]
        alike = torch.stack([g.amax() == g.amin() for g in table])
        spread = torch.stack([g.std(unbiased=False) for g in table])
        return {
            "reward": float(worth.mean()),
            "reward_std": float(spread.mean()),
            "groups_alike": float(alike.float().mean()),
            "solved": float(check.instance_correct.float().mean()),
            "nfe": float(decoded.nfe.float().mean()),
        }

    # ---- divergence from a reference ----------------------------------------------------------------------------------

    def _reference(self, state: DecodeState, prediction: Prediction) -> Tensor:
        """log g_ref of every position (b, L), arXiv 2510.05725, eqs. 25 and 26."""
        if self.update.reference == "top_k":
            most = self.policy.top_positions or self.recipe.policy.settings.get("top_positions", 0)
            inside = most_confident(state, prediction, most)
            return torch.where(inside, -inside.sum(dim=1, keepdim=True).float().log(), -torch.inf)
        soft = prediction.soft_confidence(self.update.reference_temperature)
        return torch.log_softmax(soft.masked_fill(~state.available, -torch.inf), dim=1)

    def _divergence(self, scores: Tensor, log_prob: Tensor, prediction: Prediction, kept: Step) -> Tensor:
        """Of each choice of a step (b,): cross-entropy to the most confident position (eq. 29), or the surrogate of eq. 24."""
        if self.update.reference == "confidence":
            open_odds = prediction.scatter(prediction.drawn_log_odds).masked_fill(~kept.state.available, -torch.inf)
            best = open_odds.argmax(dim=1, keepdim=True)
            found: Tensor = -torch.log_softmax(scores, dim=1).gather(1, best)[:, 0]
            return found
        assert self.kl_weight is not None
        return self.kl_weight[kept.rows] * log_prob

    @torch.no_grad()
    def _weigh_divergence(self, model: nn.Module, drawn: Round) -> Tensor:
        """kappa of eq. 24 for each trajectory, under the current weights. A reference chooses positions alone, so its tokens
        are those of the denoiser."""
        now, old, reference = (torch.zeros(drawn.count, dtype=torch.float32, device=self.device) for _ in range(3))
        for step in drawn.steps:
            scores, token_log_prob, prediction = self._current(model, step, drawn)
            place = step.drawn.argmax(dim=1, keepdim=True)
            now[step.rows] += self.actions.log_prob(scores, step.drawn) + token_log_prob
            old[step.rows] += step.log_prob
            reference[step.rows] += self._reference(step.state, prediction).gather(1, place)[:, 0] + token_log_prob
        return trajectory_kl_weight(now, old, reference)

    def save(self, folder: Path) -> None:
        """Save the policy in the Hugging Face layout, with its denoiser if that was trained, as in the zoo."""
        if self.update.train_denoiser:
            save_denoiser(self.denoiser, folder)
            self.policy.denoiser_fingerprint = fingerprint(self.denoiser)
            folder = folder / "order"
        self.policy.save_pretrained(folder)


def _plain_scores(policy: nn.Module, state: DecodeState, prediction: Prediction) -> Tensor:
    scores: Tensor = policy(state, prediction)
    return scores


def _only_what_teaches(drawn: Round) -> Round:
    """The round without the trajectories whose advantage is 0; a step keeps at least one."""
    taught = [advantages != 0 for advantages in drawn.advantages]
    for kept in taught:
        kept[0] |= ~kept.any()
    steps = [step.only(kept) for step, kept in zip(drawn.steps, taught, strict=True)]
    advantages = [values[kept] for values, kept in zip(drawn.advantages, taught, strict=True)]
    return replace(drawn, steps=steps, advantages=advantages)


def make_actions(settings: RolloutSettings) -> Actions:
    """How actions are drawn."""
    kind: Any = COUNT_RULES[settings.actions]
    if issubclass(kind, PlackettLuce):
        count = Linear() if isinstance(settings.steps, tuple) else Fixed(settings.per_step)
        actions: Actions = kind(settings.temperature, count)
    else:
        actions = kind(settings.temperature)
    return actions


def make_reward(settings: RewardSettings) -> Reward:
    """The reward that a recipe names."""
    reward: Reward = make_part(REWARDS[settings.name], settings.settings, f"reward {settings.name}")
    reward = reward if settings.speed is None else with_speed(reward, settings.speed)
    return with_step_cost(reward, settings.step_cost) if settings.step_cost else reward
