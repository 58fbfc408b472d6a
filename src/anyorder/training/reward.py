"""Training an order policy by reward: group-relative policy optimisation of the unmasking order.

One round: draw groups of trajectories with the policy as it is, reward their ends, and take a few clipped gradient steps on
what was noted (arXiv 2510.05725, Algorithm 2; with Bernoulli or dynamic actions and a reward for speed, arXiv 2512.09106; with
several positions per step, and the denoiser as well, arXiv 2505.10446). In the first rounds the policy may imitate an expert
instead. The denoiser is not asked between rollouts, unless it is trained too.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anyorder.decoding.actions import Actions, Bernoulli, DynamicPlackettLuce, PlackettLuce
from anyorder.decoding.counts import Fixed, Threshold
from anyorder.decoding.tokens import Argmax, Sample
from anyorder.decoding.trajectory import Decoded
from anyorder.denoisers.base import fingerprint
from anyorder.denoisers.causal import CausalModel
from anyorder.errors import BadInput
from anyorder.losses import clipped_surrogate, group_advantages, trajectory_kl_weight
from anyorder.orders.base import State
from anyorder.orders.heuristics import HEURISTICS, ORACLES, confidence
from anyorder.orders.reward_policies import most_confident
from anyorder.processes import Shard
from anyorder.tasks.base import CheckResult, Instances, Task, check_fits
from anyorder.training.denoiser import step_generator, training_problems
from anyorder.training.joint import Pair
from anyorder.training.order import make_policy
from anyorder.training.rewards import REWARDS, Ending, Reward, likelihood_bonus, returns_at, with_speed
from anyorder.training.rollout import Expert, Recorder, Step, rollout
from anyorder.training.settings import RewardRecipe, RewardSettings, RolloutSettings
from anyorder.zoo import load_order


class RewardJob:
    """A `Job`: the policy of a recipe, by reward. Its steps come in cycles, one for each round of rollouts.

    Args:
        recipe: all settings.
        denoiser: frozen, unless `recipe.update.train_denoiser`.
        task: judges what is decoded.
        instances: problems; drawn as the recipe says when not given.
        reward: in place of the recipe's.
    """

    def __init__(
        self,
        recipe: RewardRecipe,
        denoiser: nn.Module,
        task: Task,
        instances: Instances | None = None,
        reward: Reward | None = None,
    ) -> None:
        check_fits(task, denoiser)
        self.recipe, self.task = recipe, task
        self.settings, self.update = recipe.rollout, recipe.update
        trained = self.update.train_denoiser
        self.denoiser = denoiser.eval().requires_grad_(trained)
        self.instances = training_problems(task, recipe.data) if instances is None else instances
        torch.manual_seed(recipe.seed)
        about = {"task": recipe.task.model_dump(), "denoiser": recipe.denoiser, "reward": recipe.reward.model_dump()}
        if recipe.start is None:
            self.policy = make_policy(denoiser, task, recipe.policy, judges=False, about=about)
        else:
            self.policy = load_order(recipe.start, denoiser).policy
        self.model: nn.Module = Pair(denoiser, self.policy) if trained else self.policy
        self.rate_scales = {"denoiser.": self.update.lr_scale} if trained else {}
        self.cycle = self.update.inner * self.update.minibatches
        self.kept_whole: list[nn.Module] | None = None
        self.actions = make_actions(self.settings)
        self.reward = reward or make_reward(recipe.reward)
        self.device = torch.device("cpu")
        self.steps: list[Step] = []
        self.logged: dict[str, float] = {}

    def to(self, device: torch.device) -> None:
        self.device = device
        self.denoiser.to(device)

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, tensors: dict[str, Tensor], shard: Shard) -> None:
        return None

    def loss(self, model: nn.Module, step: int, shard: Shard) -> tuple[Tensor, dict[str, float]]:
        """1. at the start of a round, draw trajectories; 2. this update's part of their steps; 3. the policy's view of them as
        it is now; 4. surrogate and divergence from the reference, or imitation."""
        self.denoiser.eval()  # no dropout between what was drawn and how it is judged
        number, inner = divmod(step, self.cycle)
        imitating = number < self.update.imitation
        if inner == 0:
            self._draw_round(number, shard, imitating)
        epoch, part = divmod(inner, self.update.minibatches)
        if part == 0 and self.update.reference in ("softmax", "top_k") and not imitating:
            self._weigh_divergence(model)
        total = 0 * next(p for p in model.parameters() if p.requires_grad).sum()  # a round may hold no choice at all
        seen = 0.0
        for at, kept in enumerate(self.steps):
            if kept.state.step % self.update.minibatches != part:
                continue
            scores, token_log_prob, state = self._look(model, kept)
            log_prob = self.actions.log_prob(scores, kept.drawn) + token_log_prob
            weight = self.update.minibatches / (
                self.lengths[kept.rows] * self.count
            )  # mean over a group's choices, then groups
            if imitating:
                total = total - (weight * log_prob).sum()
                continue
            gain = clipped_surrogate(log_prob, kept.log_prob, self.advantages[at], self.update.clip)
            total = total - (weight * gain).sum()
            if self.update.beta:
                lost = self._divergence(scores, log_prob, state, kept)
                total = total + self.update.beta * self.update.minibatches * lost.sum() / self.count
            seen += float(((log_prob.detach() - kept.log_prob).exp() - 1).abs().gt(self.update.clip).sum())
        choices = sum(len(s.rows) for s in self.steps if s.state.step % self.update.minibatches == part)
        return total, self.logged | {"clipped": seen / max(1, choices), "epoch": float(epoch)}

    def _look(self, model: nn.Module, kept: Step) -> tuple[Tensor, Tensor | float, State]:
        """Scores (b, L) of a kept step under the weights of now, the log-probability of its tokens where they are trained, and
        the state."""
        if not self.update.train_denoiser:
            return model(kept.state).masked_fill(~kept.state.available, -torch.inf), 0.0, kept.state

        def as_state(logits: Tensor, hidden: Tensor) -> State:
            return replace(kept.state, logits=logits, hidden=hidden, memo={})

        logits, state, scores = model(kept.state.tokens, kept.state.attention_mask, kept.state.predicted, as_state)
        scores = scores.masked_fill(~state.available, -torch.inf)
        log_p = torch.log_softmax(logits.float() / self.settings.token_temperature, dim=-1)
        log_p = log_p.gather(1, self.decoded.tokens[kept.rows][state.predicted][:, None])[:, 0]
        taken = self.decoded.commit_step[kept.rows] == kept.state.step
        return scores, (state.scatter(log_p, 0.0) * taken).sum(dim=1), state

    # ---- a round of rollouts ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _draw_round(self, number: int, shard: Shard, imitating: bool) -> None:
        """Trajectories, what they earned, and what each is better than its group."""
        rng = step_generator(self.recipe.seed, number)
        count = self.recipe.run.batch_size // self.settings.group
        if count % shard.count:
            raise BadInput(f"{count} problems a round do not divide among {shard.count} processes: change run.batch_size")
        mine = shard.slice(count)
        problems = self._problems(rng, count)[mine]
        group, experts = self.settings.group, 0 if imitating else self.settings.experts
        share = experts / (group + experts)
        first_seed = int(rng.integers(0, 2**40)) * 2**20  # trajectory i of a round has the i-th, on whatever process
        guide = self._guide(imitating)
        parts = [self._rollout(problems, group, first_seed + mine.start * group, guide, imitating, share)]
        if experts:
            parts.append(self._rollout(problems, experts, first_seed + 2**19 + mine.start * experts, guide, True, share))
        self.decoded = Decoded.join([decoded for _, decoded in parts])
        self.count = len(self.decoded.tokens)
        offset = group * len(problems)
        self.steps = parts[0][0] + [replace(s, rows=s.rows + offset) for more, _ in parts[1:] for s in more]
        index = torch.arange(len(problems), device=self.device)
        groups = torch.cat([index.repeat_interleave(n) for n in (group, experts) if n])
        problems_of = problems[groups.cpu()]
        self.lengths = torch.zeros(len(problems), device=self.device)
        for step in self.steps:
            self.lengths += groups[step.rows].bincount(minlength=len(problems))
        self.lengths = (self.lengths / groups.bincount())[groups]  # of a group: its own would favour long failures
        ended = self.decoded.cpu()
        ending = Ending(self.task, problems_of, ended, self.task.check(problems_of, ended.tokens))
        rewards = self.reward(ending).to(self.device).float()
        known = rewards.isfinite()  # what cannot be judged is worth no more than the worst of its group
        lowest = torch.full((len(problems),), torch.inf, device=self.device).scatter_reduce(
            0, groups, torch.where(known, rewards, torch.inf), "amin"
        )
        rewards = torch.where(known, rewards, lowest.nan_to_num(posinf=0.0)[groups])
        if self.recipe.reward.likelihood_bonus:
            rewards = rewards + likelihood_bonus(self.decoded, groups, self.recipe.reward.likelihood_bonus)
        self.advantages = []
        for step in self.steps:
            worth = returns_at(rewards, self.decoded.commit_step, step.state.step)
            self.advantages.append(group_advantages(worth, groups, standardise=self.update.standardise)[step.rows])
        if not imitating and not self.update.beta:
            self._skip_what_teaches_nothing()
        self.logged = self._numbers(rewards, groups, ending.verdict)

    def _skip_what_teaches_nothing(self) -> None:
        """Leave out the trajectories that are neither better nor worse than their group; a step keeps one at least."""
        taught = [advantages != 0 for advantages in self.advantages]
        for kept in taught:
            kept[0] |= ~kept.any()
        self.steps = [step.only(kept) for step, kept in zip(self.steps, taught, strict=True)]
        self.advantages = [advantages[kept] for advantages, kept in zip(self.advantages, taught, strict=True)]

    def _problems(self, rng: np.random.Generator, count: int) -> Instances:
        """The problems of a round, augmented where their solutions are known."""
        index = torch.from_numpy(rng.integers(0, len(self.instances), count))
        chosen = self.instances[index]
        if chosen.x0 is not None:
            x0, tokens = self.task.augment(chosen.x0, chosen.tokens, rng)
            chosen = replace(chosen, tokens=tokens, maskable=tokens == self.task.mask_token_id, x0=x0)
        return chosen

    def _rollout(
        self, problems: Instances, copies: int, seed: int, expert: Expert | None, follow: bool, share: float
    ) -> tuple[list[Step], Decoded]:
        index = torch.arange(len(problems)).repeat_interleave(copies)

        def order(state: State) -> Tensor:
            if self.update.reference == "softmax":
                state.soft_confidence(self.update.reference_temperature)  # kept with the state; its logits are not
            scores: Tensor = self.policy(state)
            return scores

        keep_logits = self.policy.reads_logits
        recorder = Recorder(
            order, self.actions, expert, follow, share, self.settings.block, keep_logits, self.policy.first_look
        )
        token = Sample(self.settings.token_temperature) if self.settings.token_temperature else Argmax()
        x0 = None if problems.x0 is None else problems.x0[index].to(self.device)
        tokens = problems.tokens[index].to(self.device)
        denoiser: Any = self.denoiser
        steps, decoded = rollout(denoiser, recorder, tokens, first_seed=seed, steps=self.settings.steps, token=token, x0=x0)
        if self.update.train_denoiser:  # an action is where and what
            steps = [replace(s, log_prob=s.log_prob + self._token_log_prob(s, decoded)) for s in steps]
        return steps, decoded

    def _token_log_prob(self, step: Step, decoded: Decoded) -> Tensor:
        now = decoded.commit_step[step.rows] == step.state.step
        return torch.where(now, decoded.token_log_probs[step.rows], 0.0).sum(dim=1)

    def _guide(self, imitating: bool) -> Expert | None:
        """Whom the policy follows or is compared with in this round."""
        if imitating:
            name, level = self.update.imitate, self.update.imitate_level
            known = HEURISTICS | ORACLES
            if name not in known:
                raise BadInput(f"update.imitate is {name!r}: use one of {', '.join(known)}")
            count = Fixed(self.settings.per_step) if level is None else Threshold(level)
            return Expert(known[name], count)
        return Expert(confidence, Threshold(self.settings.expert_level)) if self.settings.experts else None

    def _numbers(self, rewards: Tensor, groups: Tensor, verdict: CheckResult) -> dict[str, float]:
        """What is logged of a round."""
        worth = rewards if rewards.ndim == 1 else rewards.sum(dim=1)
        table = [worth[groups == g] for g in range(int(groups.max()) + 1)]
        alike = torch.stack([g.amax() == g.amin() for g in table])
        spread = torch.stack([g.std(unbiased=False) for g in table])
        return {
            "reward": float(worth.mean()),
            "reward_std": float(spread.mean()),
            "groups_alike": float(alike.float().mean()),
            "solved": float(verdict.instance_correct.float().mean()),
            "forwards": float(self.decoded.forwards.float().mean()),
        }

    # ---- divergence from a reference ----------------------------------------------------------------------------------

    def _reference(self, state: State) -> Tensor:
        """log g_ref of every position (b, L), arXiv 2510.05725, eqs. 25 and 26."""
        if self.update.reference == "top_k":
            inside = most_confident(state, self.policy.top_positions or self.recipe.policy.top_positions)
            return torch.where(inside, -inside.sum(dim=1, keepdim=True).float().log(), -torch.inf)
        soft = state.soft_confidence(self.update.reference_temperature)
        return torch.log_softmax(soft.masked_fill(~state.available, -torch.inf), dim=1)

    def _divergence(self, scores: Tensor, log_prob: Tensor, state: State, kept: Step) -> Tensor:
        """Of each choice of a step (b,): cross-entropy to the most confident position (eq. 29), or the surrogate of eq. 24."""
        if self.update.reference == "confidence":
            best = state.scatter(state.summary.log_odds).masked_fill(~state.available, -torch.inf).argmax(dim=1, keepdim=True)
            found: Tensor = -torch.log_softmax(scores, dim=1).gather(1, best)[:, 0]
            return found
        return self.kl_weight[kept.rows] * log_prob

    @torch.no_grad()
    def _weigh_divergence(self, model: nn.Module) -> None:
        """kappa of eq. 24 for each trajectory, under the weights of now."""
        now, old, reference = (torch.zeros(self.count, device=self.device) for _ in range(3))
        for step in self.steps:
            scores, _, state = self._look(model, step)
            place = step.drawn.argmax(dim=1, keepdim=True)
            now[step.rows] += self.actions.log_prob(scores, step.drawn)
            old[step.rows] += step.log_prob
            reference[step.rows] += self._reference(state).gather(1, place)[:, 0]
        self.kl_weight = trajectory_kl_weight(now, old, reference)

    def save(self, folder: Path) -> None:
        """The policy in the Hugging Face layout; with its denoiser where that was trained, as the zoo keeps them."""
        if self.update.train_denoiser:
            self.denoiser.save_pretrained(folder)  # type: ignore[operator]
            self.policy.refer_to(fingerprint(self.denoiser))
            folder = folder / "order"
        self.policy.save_pretrained(folder)


def make_actions(settings: RolloutSettings) -> Actions:
    """How actions are drawn."""
    if settings.actions == "bernoulli":
        return Bernoulli(settings.temperature)
    if settings.actions == "dynamic_plackett_luce":
        return DynamicPlackettLuce(settings.temperature)
    return PlackettLuce(settings.temperature, Fixed(settings.per_step))


def make_reward(settings: RewardSettings) -> Reward:
    """The reward that a recipe names."""
    reward = REWARDS[settings.name] if settings.judge is None else judged_by(CausalModel(settings.judge))
    return reward if settings.speed is None else with_speed(reward, settings.speed)


def judged_by(model: CausalModel) -> Reward:
    """Mean log-likelihood of the text under a causal model, in nats per token (arXiv 2510.05725, appendix D.2)."""

    def reward(end: Ending) -> Tensor:
        return -torch.from_numpy(model.nats(end.task.texts(end.instances, end.decoded.tokens))).float()

    return reward
