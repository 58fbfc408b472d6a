"""Training a denoiser by reward on the answers that it decodes: diffu-GRPO (arXiv 2504.12216).

The log-probability of an answer is taken from one prediction of all its tokens at once, with the answer masked and a random
part of the prompt masked too. Each update on the same answers masks another part, which is a new estimate for the cost of one
forward pass. The order that decodes is given and stays; `reward.py` trains orders.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.decoding.tokens import Sample
from anyorder.denoisers.base import attention_of, move
from anyorder.denoisers.blocks import block_length_of
from anyorder.denoisers.classes import save_denoiser
from anyorder.errors import BadInput
from anyorder.losses import clipped_surrogate, group_advantages, token_cross_entropy
from anyorder.own_code import naming
from anyorder.processes import Shard
from anyorder.tasks.base import Instances, Task
from anyorder.tasks.instances import checked_result
from anyorder.training.data import check_trainable, step_generator, training_problems
from anyorder.training.recipes import GrpoRecipe
from anyorder.training.reward import make_reward
from anyorder.training.rewards import Outcome, likelihood_bonus, rewards_of


@dataclass(frozen=True, eq=False)
class Answers:
    """N decoded answers, on which the denoiser is updated.

    Args:
        tokens: int64 (N, L), completed sequences.
        counted: bool (N, L), the generated tokens up to the first end.
        states: int64 (updates, N, L), what the denoiser sees in each update.
        log_probs: float (updates, N, L), of the tokens when they were drawn, 0 where not counted.
        reference: the same under the denoiser at the start; None if it is not needed.
        advantages: float (N,).
        numbers: the values to log.
    """

    tokens: Tensor
    counted: Tensor
    states: Tensor
    log_probs: Tensor
    reference: Tensor | None
    advantages: Tensor
    numbers: dict[str, float]


class GrpoJob:
    """A `Job`: the denoiser of a recipe, by reward. Its steps come in cycles, one for each round of decodings."""

    autocast: Callable[[], AbstractContextManager[Any]] = staticmethod(nullcontext)

    def __init__(self, recipe: GrpoRecipe, denoiser: nn.Module, task: Task) -> None:
        if block_length_of(denoiser) is not None:
            raise BadInput(
                "grpo estimates likelihoods by one prediction of whole answers, and a block-causal denoiser predicts a block "
                "at a time: use a denoiser that sees both sides"
            )
        check_trainable(denoiser, task)
        self.recipe, self.task, self.settings = recipe, task, recipe.grpo
        self.denoiser = self.model = denoiser.eval().requires_grad_(True)
        self.start = deepcopy(denoiser).requires_grad_(False) if self.settings.beta else None
        self.instances = training_problems(task, recipe.data)
        self.sampler = Sampler.parse(self.settings.order, token=Sample(self.settings.temperature))
        self.reward = make_reward(recipe.reward)
        self.rate_scales: dict[str, float] = {}
        self.cycle = self.settings.inner
        self.unsharded: list[nn.Module] | None = None
        self.device = torch.device("cpu")
        self.answers: Answers | None = None
        torch.manual_seed(recipe.seed)

    def to(self, device: torch.device) -> None:
        self.device = device
        if self.start is not None:
            move(self.start, device)

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, tensors: dict[str, Tensor], shard: Shard) -> None:
        return None

    def loss(self, model: nn.Module, step: int, shard: Shard) -> tuple[Tensor, dict[str, float]]:
        """1. at the start of a round, decode answers; 2. log-probabilities of their tokens in one prediction; 3. the clipped
        surrogate of each token, and its divergence from the denoiser at the start; 4. mean over each answer, then over all."""
        self.denoiser.eval()  # no dropout between drawing and updating
        number, update = divmod(step, self.cycle)
        if update == 0 or self.answers is None:
            self.answers = self._draw(number, shard)
        drawn, old = self.answers, self.answers.log_probs[update]
        log_prob = self._log_probs(model, drawn.states[update], drawn.tokens, drawn.counted)
        value = clipped_surrogate(log_prob, old, drawn.advantages[:, None], self.settings.clip)
        if drawn.reference is not None:
            value = value - self.settings.beta * _divergence(log_prob, drawn.reference[update])
        lengths = drawn.counted.sum(dim=1).clamp(min=1)
        per_answer = torch.where(drawn.counted, value, 0.0).sum(dim=1) / lengths
        clipped = ((log_prob.detach() - old).exp() - 1).abs() > self.settings.clip
        return -per_answer.mean(), drawn.numbers | {"clipped": float(clipped.sum() / lengths.sum())}

    def _log_probs(self, model: Any, states: Tensor, tokens: Tensor, counted: Tensor) -> Tensor:
        """Of each counted token in one prediction, float (N, L), 0 elsewhere."""
        with naming("denoiser", self.denoiser), self.autocast():
            logits, _ = model(states, attention_of(self.denoiser, states))
        return -token_cross_entropy(logits.float(), tokens, counted)

    @torch.no_grad()
    def _draw(self, number: int, shard: Shard) -> Answers:
        """Decode groups of answers, and compute how much better each is than its group."""
        settings, rng = self.settings, step_generator(self.recipe.seed, number)
        count = self.recipe.run.batch_size // settings.group_size
        if count % shard.count:
            raise BadInput(f"{count} problems per round are not divisible by {shard.count} processes: change run.batch_size")
        mine = shard.slice(count)
        chosen = self.instances[torch.from_numpy(rng.integers(0, len(self.instances), count))][mine]
        groups = torch.arange(len(chosen)).repeat_interleave(settings.group_size)
        problems = chosen[groups]
        first_seed = int(rng.integers(0, 2**40)) * 2**20 + mine.start * settings.group_size
        decoded = decode(
            self.denoiser,  # type: ignore[arg-type]
            problems.tokens.to(self.device),
            replace(self.sampler, steps=settings.steps or problems.longest),
            seeds=first_seed,
            ends=self.task.stops_at,
        )
        ended = decoded.to("cpu")
        check = checked_result(self.task, problems, ended.tokens)
        rewards = rewards_of(self.reward, Outcome(self.task, problems, ended, check), groups)
        rewards = rewards if rewards.ndim == 1 else rewards.sum(dim=1)
        if self.recipe.reward.likelihood_bonus:
            rewards = rewards + likelihood_bonus(ended, groups, self.recipe.reward.likelihood_bonus)
        states = self._states(problems, rng, mine, count).to(self.device)
        tokens, counted = decoded.tokens, self._counted(problems, ended.tokens).to(self.device)
        before = torch.stack([self._log_probs(self.denoiser, seen, tokens, counted) for seen in states])
        at_start = None
        if self.start is not None:
            at_start = torch.stack([self._log_probs(self.start, seen, tokens, counted) for seen in states])
        spread = rewards.view(len(chosen), -1).std(dim=1, unbiased=False)
        numbers = {
            "reward": float(rewards.mean()),
            "reward_std": float(spread.mean()),
            "solved": float(check.instance_correct.float().mean()),
            "tokens": float(counted.sum(dim=1).float().mean()),
        }
        advantages = group_advantages(rewards, groups, standardize=settings.standardize).to(self.device)
        return Answers(tokens, counted, states, before, at_start, advantages, numbers)

    def _states(self, problems: Instances, rng: np.random.Generator, mine: slice, count: int) -> Tensor:
        """What is seen in each update, int64 (updates, N, L): the problems with a part of their prompts masked."""
        size, shape = self.settings.group_size, problems.tokens.shape
        drawn = rng.random((self.cycle, count * size, shape[1]), dtype=np.float32)
        hidden = torch.from_numpy(drawn[:, mine.start * size : mine.stop * size]) < self.settings.prompt_mask
        pad = self.task.pad_token_id
        prompt = ~problems.maskable & (torch.ones_like(problems.maskable) if pad is None else problems.tokens != pad)
        return problems.tokens.masked_fill(hidden & prompt, self.task.mask_token_id)

    def _counted(self, problems: Instances, tokens: Tensor) -> Tensor:
        """Generated tokens up to the first end, itself included, bool (N, L)."""
        if self.task.stops_at is None:
            return problems.maskable
        ends = self.task.stops_at.found(tokens) & problems.maskable
        return problems.maskable & (ends.cumsum(dim=1) - ends.long() == 0)

    def save(self, folder: Path) -> None:
        """Weights and config in the Hugging Face layout."""
        save_denoiser(self.denoiser, folder)


def _divergence(log_prob: Tensor, reference: Tensor) -> Tensor:
    """Estimate of the KL divergence of each token from a reference, not negative (k3 of GRPO, arXiv 2402.03300)."""
    gap = reference - log_prob
    return gap.exp() - gap - 1
