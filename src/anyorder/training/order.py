"""Fitting an order policy to a frozen denoiser: Algorithm 1 of arXiv 2606.00295 (policy-only), and what goes beyond it.

The policy is trained for an objective (see `objectives`). With `critic`, the scores of committed tokens are trained too.

States on which the policy is trained:
    uniform: x_t from the forward process, as in the paper;
    drafts: the same, with drawn tokens in a random share of the masked positions, for critics (PRISM, arXiv 2510.01384);
    teacher: on the policy's own path, but with the true tokens;
    model: on the policy's own path with the denoiser's own tokens, wrong ones included.
The paths cost no additional forward passes: a pool of partly decoded problems is kept, and every training step predicts its
problems once, learns from them, and decodes them one step further. With `critic` the pool holds complete problems as well,
right or wrong as they were decoded, and problems in which the policy finds a mistake are opened again as in decoding.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anyorder.decoding.counts import top
from anyorder.decoding.tokens import Argmax, Sample, TokenRule, propose
from anyorder.denoisers.base import at_positions, attention_of, device_of, fingerprint, move
from anyorder.denoisers.blocks import block_length_of, block_numbers
from anyorder.diffusion import mask_tokens, stratified
from anyorder.errors import BadInput, first_line
from anyorder.losses import correctness_loss, influence_loss, selection_loss
from anyorder.memory import Memory, remember
from anyorder.orders.base import Order
from anyorder.orders.learned import LearnedOrder
from anyorder.orders.policies import PolicyNetwork
from anyorder.orders.published_policies import PairwisePolicy
from anyorder.prediction import Prediction, forbid
from anyorder.processes import Shard
from anyorder.registry import ORDERS, POLICIES
from anyorder.state import DecodeState
from anyorder.tasks.base import Instances, Task
from anyorder.training.data import (
    check_trainable,
    draw_clean,
    make_schedule,
    one_block,
    step_generator,
    training_problems,
    with_solutions,
    without_padding,
)
from anyorder.training.influence import draw_pivot, measured_influence
from anyorder.training.objectives import Objective, Truth
from anyorder.training.pool import Pool, TrueTokens
from anyorder.training.recipes import OrderRecipe, RewardRecipe
from anyorder.training.settings import ObjectiveSettings, PolicySettings

_SEEDS = 2**33
"""Numbers beyond those of any training step: of seeds where no token is drawn, so that nothing else that is drawn changes."""


def make_policy(
    denoiser: nn.Module, task: Task, settings: PolicySettings, *, critic: bool, about: dict[str, Any] | None = None
) -> PolicyNetwork:
    """A fresh policy for a denoiser; those for supervised training start as the confidence order.

    Args:
        denoiser: any denoiser.
        task: gives the relations.
        settings: architecture and its settings.
        critic: whether the scores of committed tokens will be trained.
        about: facts about the fit, saved with the policy.

    Raises:
        BadInput: an unknown architecture, or settings that it refuses.
    """
    try:
        policy: PolicyNetwork = POLICIES[settings.architecture](
            hidden_size=denoiser.hidden_size,
            vocab_size=denoiser.vocab_size,
            max_length=task.length,
            scores_committed=critic,
            denoiser_fingerprint=fingerprint(denoiser),
            about=about,
            **settings.settings,
        )
        policy.set_relations(dict(task.relations()))
    except (TypeError, ValueError) as error:
        raise BadInput(f"the policy {settings.architecture} cannot be made: {first_line(error)}") from error
    return policy


def untrained_order(recipe: OrderRecipe | RewardRecipe, denoiser: nn.Module, task: Task) -> LearnedOrder:
    """The order of a recipe before training, with the weights that its seed gives: the control of what training adds."""
    torch.manual_seed(recipe.seed)
    critic = isinstance(recipe, OrderRecipe) and recipe.objective.critic
    return LearnedOrder(make_policy(denoiser, task, recipe.policy, critic=critic)).to(device_of(denoiser))


@dataclass(frozen=True, eq=False)
class Batch:
    """The states of one training step.

    Args:
        state: before the forward pass, with the solutions `x0`.
        memories: that the policy declares.
        token: draws the tokens that the policy scores.
        time_weight: w_t, float (B,); None if the recipe does not use it.
        pool: that the states belong to; None for uniform states.
        block_length: of the denoiser; hidden states behind the block of the problem are 0, as in decoding.
        chance: uniform numbers (B, 1 + L) that choose the positions of a draft; None if there is none.
        drafted: the positions bool (B, L) of the draft.
    """

    state: DecodeState
    memories: tuple[Memory, ...]
    token: TokenRule
    time_weight: Tensor | None = None
    pool: Pool | None = None
    block_length: int | None = None
    chance: Tensor | None = None
    drafted: Tensor | None = None

    def with_draft(self, state: DecodeState, prediction: Prediction) -> "Batch":
        """The same with drawn tokens in a share of the masked positions, chosen by Plackett-Luce from their probabilities as
        decoding with noise would choose them. Whether a visible token was drawn or given cannot be seen."""
        assert self.chance is not None
        count = (self.chance[:, 0] * (state.masked.sum(dim=1) + 1)).floor().long()
        gumbel = -torch.log(-torch.log(self.chance[:, 1:].clamp(1e-12, 1 - 1e-12)))
        drafted = top(prediction.scatter(prediction.drawn_log_probs.double()) + gumbel, count)
        drawn = state.tokens.masked_scatter(prediction.predicted, prediction.drawn_tokens)
        tokens = torch.where(drafted, drawn, state.tokens)
        return replace(self, state=state.replace(tokens=tokens, masked=state.masked & ~drafted), drafted=drafted)

    def see(self, logits: Tensor, hidden: Tensor) -> tuple[DecodeState, Prediction]:
        """State and prediction, from the logits (K, V) of the masked positions and the hidden states (B, L, D)."""
        state = self.state
        if self.block_length is not None:
            number = block_numbers(state.tokens, state.attention_mask, self.block_length).expand_as(state.tokens)
            last = number.masked_fill(~state.generated, -1).amax(dim=1, keepdim=True)
            hidden = hidden.masked_fill((number > last)[..., None], 0.0)
        prediction = Prediction(forbid(logits, state.rejected[state.masked]), hidden, state.masked)
        state = remember(state, prediction, self.memories)
        return state, prediction.with_candidates(*propose(self.token, state, prediction))


def scores_of(policy: nn.Module, state: DecodeState, prediction: Prediction) -> Tensor:
    """The scores of a policy in supervised training (B, L). It always sees step 0, since uniform states have no step number."""
    scores: Tensor = policy(state.replace(step=torch.zeros_like(state.step)), prediction)
    return scores


def policy_to_start_from(start: str, denoiser: nn.Module) -> PolicyNetwork:
    """The policy in a folder, or with "policy" the denoiser's own, in an object of its own.

    Raises:
        BadInput: no policy there. WrongDenoiser: it was fitted to another denoiser.
    """
    own = str(getattr(denoiser, "own_order", "") or "")
    if start == "policy" and not own:
        raise BadInput("start is policy, and this denoiser has no learned order of its own: give the folder of a policy")
    return LearnedOrder.from_pretrained(own if start == "policy" else start, denoiser).policy


class OrderJob:
    """A `Job`: the policy of a recipe, on a frozen denoiser.

    Args:
        recipe: all settings.
        denoiser: the denoiser to which the order is fitted.
        task: gives augmentation and relations.
        instances: problems with solutions; by default those that the recipe names.

    Raises:
        BadInput: task and denoiser disagree, or a setting cannot be used.
    """

    autocast: Callable[[], AbstractContextManager[Any]] = staticmethod(nullcontext)

    def __init__(self, recipe: OrderRecipe, denoiser: nn.Module, task: Task, instances: Instances | None = None) -> None:
        self.recipe, self.task = recipe, task
        self.settings: ObjectiveSettings = recipe.objective
        self.objective: Objective = recipe.objective.make()
        check_trainable(denoiser, task)
        self.denoiser = denoiser.eval().requires_grad_(False)
        if instances is None:
            instances = training_problems(task, recipe.data)
        self.instances = with_solutions(instances)
        self.schedule = make_schedule(recipe.masking)
        torch.manual_seed(recipe.seed)
        about = {
            "task": recipe.task.model_dump(),
            "objective": recipe.objective.model_dump(mode="json"),
            "denoiser": recipe.denoiser,
        }
        if recipe.start is None:
            self.policy = make_policy(denoiser, task, recipe.policy, critic=self.settings.critic, about=about)
        else:
            self.policy = policy_to_start_from(recipe.start, denoiser)
        self.policy.about |= recipe.undo.model_dump(exclude_none=True)
        if self.settings.states == "drafts" and getattr(self.policy.settings, "history", False):
            raise BadInput("drafts do not tell with which probability a token was committed: set policy.history = false")
        self.path: Order | None = ORDERS.make(self.settings.path) if self.settings.path else None
        if self.settings.influence_weight and not isinstance(self.policy, PairwisePolicy):
            name = POLICIES.name_of(self.policy)
            raise BadInput(f"objective.influence_weight is for the policy pairwise; {name} predicts no influences")
        self.model: nn.Module = self.policy
        self.rate_scales: dict[str, float] = {}
        self.cycle = 1
        self.unsharded: list[nn.Module] | None = None
        self.proposals: TokenRule = Sample(self.settings.token_temperature) if self.settings.token_temperature else Argmax()
        self.token = TrueTokens() if self.settings.states == "teacher" else self.proposals
        self.device = torch.device("cpu")
        self.pool: Pool | None = None

    def to(self, device: torch.device) -> None:
        self.device = device
        move(self.denoiser, device)

    def state(self) -> dict[str, Tensor]:
        return {} if self.pool is None else self.pool.tensors()

    def load_state(self, tensors: dict[str, Tensor], shard: Shard) -> None:
        rows = shard.slice(self.recipe.run.batch_size)
        mine = {name: tensor[rows].to(self.device) for name, tensor in tensors.items()}
        self.pool = Pool.of(mine, self.task.mask_token_id, self.policy.memories) if mine else None

    def loss(self, model: nn.Module, step: int, shard: Shard) -> tuple[Tensor, dict[str, float]]:
        """1. states; 2. the frozen denoiser's prediction; 3. the policy's scores; 4. the objective; 5. one step of decoding."""
        batch = self._draw(step, shard)
        state, prediction = self._predict(batch)
        if batch.chance is not None:
            batch = batch.with_draft(state, prediction)
            state, prediction = self._predict(batch)
        state = self._with_solutions(state, prediction)
        scores = scores_of(model, state, prediction)
        loss, logged = self._objective(scores, state, prediction, batch)
        if self.settings.influence_weight:
            influence = self._influence_loss(state, prediction, step, shard)
            loss = loss + self.settings.influence_weight * influence
            logged["influence_loss"] = float(influence.detach())
        self._advance(batch, state, prediction, scores)
        return loss, logged

    @torch.no_grad()
    def _predict(self, batch: Batch) -> tuple[DecodeState, Prediction]:
        """The frozen denoiser's prediction of a batch, and the state with what is remembered of it."""
        state = batch.state
        with self.autocast():
            output = self.denoiser(state.tokens, state.attention_mask, state.masked)
        return batch.see(*at_positions(output, state.masked))

    def _influence_loss(self, state: DecodeState, prediction: Prediction, step: int, shard: Shard) -> Tensor:
        """Error of the predicted influences of one masked position of each row on the others, see `measured_influence`."""
        rows = torch.arange(len(state), device=state.tokens.device)
        first = shard.slice(self.recipe.run.batch_size).start
        drawing = state.replace(seeds=rows + first + (self.recipe.seed << 32), step=torch.full_like(state.step, step))
        pivot, token = draw_pivot(drawing, prediction)
        with self.autocast():
            influence, where = measured_influence(self.denoiser, state, prediction, pivot, token)
        policy: Any = self.policy
        return influence_loss(policy.influence_logits(prediction)[rows, pivot], influence, where)

    def _with_solutions(self, state: DecodeState, prediction: Prediction) -> DecodeState:
        """The state with the solutions that are nearest to it, committed tokens first, if the recipe asks for these."""
        if self.settings.solutions == "stored":
            return state
        problems = Instances(state.tokens.masked_fill(state.generated, state.mask_token_id), state.generated, state.x0)
        filled = state.tokens.masked_scatter(state.masked, prediction.drawn_tokens)
        return state.replace(x0=self.task.nearest_solutions(problems, filled, ~state.masked).to(state.tokens.device))

    def _advance(self, batch: Batch, state: DecodeState, prediction: Prediction, scores: Tensor) -> None:
        """Decode the pool one step further, if there is one."""
        if batch.pool is not None:
            undo = self.settings.critic
            scores = scores if self.path is None else self.path(state, prediction)
            self.pool = batch.pool.advance(state, prediction, scores.detach(), token=self.token, undo=undo)

    def _draw(self, step: int, shard: Shard) -> Batch:
        """This process's part of the states of a training step."""
        size, rows = self.recipe.run.batch_size, shard.slice(self.recipe.run.batch_size)
        rng = step_generator(self.recipe.seed, step)
        drawn = draw_clean(self.task, self.instances, self.recipe, step, rng)
        x0, tokens, generated = (v[rows].to(self.device) for v in drawn)
        budget_noise, keep_noise = (torch.from_numpy(rng.random(size))[rows].to(self.device) for _ in range(2))
        drawing = rng if self.settings.token_temperature else step_generator(self.recipe.seed, _SEEDS + step)
        seeds = torch.from_numpy(drawing.integers(0, 2**62, size))[rows].to(self.device)  # of tokens, and of orders at random
        behind = None
        if (length := block_length_of(self.denoiser)) is not None:
            number = block_numbers(x0, attention_of(self.denoiser, x0), length).expand_as(x0)
            chance = torch.from_numpy(rng.random(size))[rows].to(self.device)
            tokens, generated, behind = one_block(x0, tokens, generated, number, chance)
        if self.settings.states in ("uniform", "drafts"):
            return self._uniform(x0, generated, seeds, rng, rows, behind)
        low, high = self.settings.rollout_steps
        fresh = Pool.start(
            x0, tokens, generated, self.task.mask_token_id,
            budget=low * (high / low) ** budget_noise,  # log-uniform
            reviews=1 + self.settings.undo_rounds if self.settings.critic else 0,
            keeps=keep_noise < self.settings.keep_incorrect,
        )  # fmt: skip
        pool = fresh if self.pool is None else self.pool.refill(fresh)
        state = pool.state.replace(attention_mask=attention_of(self.denoiser, pool.state.tokens), seeds=seeds)
        return Batch(state, self.policy.memories, self.proposals, pool=pool, block_length=length)

    def _uniform(
        self, x0: Tensor, generated: Tensor, seeds: Tensor, rng: np.random.Generator, rows: slice, behind: Tensor | None
    ) -> Batch:
        """States of the forward process; with a block-causal denoiser, in one block, and masked behind it."""
        size = self.recipe.run.batch_size
        if self.recipe.masking.scope == "everything":
            generated = torch.ones_like(generated) if self.task.pad_token_id is None else x0 != self.task.pad_token_id
        t = self.schedule.sample_times(stratified(torch.from_numpy(rng.random(size))))[rows].to(self.device)
        chance = torch.from_numpy(rng.random((size, x0.shape[1])))[rows].to(self.device)
        x_t, _ = mask_tokens(x0, generated, 1 - self.schedule.alpha(t), self.task.mask_token_id, chance)
        x_t = x_t if behind is None else x_t.masked_fill(behind & (x0 != self.task.pad_token_id), self.task.mask_token_id)
        time_weight = self.schedule.weight(t).float() if self.recipe.masking.time_weight else None
        width, columns = x_t.shape[1], without_padding(x_t, self.task.pad_token_id)
        x_t, generated, x0 = (v[:, columns] for v in (x_t, generated, x0))
        mask = attention_of(self.denoiser, x_t)
        state = DecodeState.start(x_t, generated, self.task.mask_token_id, seeds, torch.ones_like(seeds), mask, x0)
        batch = Batch(state, self.policy.memories, self.proposals, time_weight, block_length=block_length_of(self.denoiser))
        if self.settings.states == "uniform":
            return batch
        share, chance = (torch.from_numpy(rng.random((size, n)))[rows].to(self.device) for n in (1, width))
        return replace(batch, chance=torch.cat([share, chance[:, columns]], dim=1))

    def _objective(
        self, scores: Tensor, state: DecodeState, prediction: Prediction, batch: Batch
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of the policy, and numbers to log."""
        assert state.x0 is not None
        masked, settings, committed = state.masked, self.settings, state.generated & ~state.masked
        token_losses = prediction.scatter(-prediction.log_probs_of(state.x0[masked]).clamp(min=-30), 0.0)
        correct = state.tokens.masked_scatter(masked, prediction.drawn_tokens) == state.x0
        incorrect = (~correct & committed).any(dim=1)
        weight = torch.where(incorrect, settings.incorrect_weight, 1.0)
        loss = self.objective(scores, Truth(state, prediction, token_losses, correct, weight, batch.time_weight))
        if settings.selection_weight and batch.pool is not None:
            count, temperature = batch.pool.per_step, settings.selection_temperature
            selected = selection_loss(scores, ~correct, masked, count, temperature, weight)
            loss = loss + settings.selection_weight * selected
        confidence = prediction.scatter(prediction.drawn_log_odds.clamp(-30, 30), 0.0)
        logged = {
            "candidates_correct": float((correct & masked).sum()) / max(1, int(masked.sum())),
            "committed_correct": float((correct & committed).sum()) / max(1, int(committed.sum())),
            "bce_confidence": float(correctness_loss(confidence, correct, masked)),
            "bce_policy": float(correctness_loss(scores.detach(), correct, masked)),
            "bce_critic": float(correctness_loss(scores.detach(), correct, committed)),
        }
        if settings.critic:  # complete problems are what the critic is for, and rare on the path
            complete = torch.where(masked.any(dim=1), 1.0, settings.complete_weight)
            judged = committed if batch.drafted is None else batch.drafted
            loss = loss + correctness_loss(scores, correct, judged, complete)
        return loss, logged

    def save(self, folder: Path) -> None:
        """Write the policy in the Hugging Face layout."""
        self.policy.save_pretrained(folder)
