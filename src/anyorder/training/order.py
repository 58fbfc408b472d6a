"""Fitting an order policy to a frozen denoiser: Algorithm 1 of arXiv 2606.00295 (policy-only), and what goes beyond it.

Objectives (`losses`): order (eq. 3), correctness, loss, rank; with `quality`, committed positions are judged as well.

States on which the policy is trained:
    uniform: x_t from the forward process, as the paper does;
    teacher: on the policy's own path, but with the true tokens;
    model: on the policy's own path with the denoiser's own tokens, wrong ones included.
The paths cost no extra forwards: a batch of half-decoded problems is kept, every training step looks at it once, learns from
it, and decodes it one step further. When the policy judges commitments, it sees completed problems as well, as often right
and wrong as they come out, and those it finds a mistake in are opened again as in decoding.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anyorder.decoding.counts import top
from anyorder.decoding.loop import forbid
from anyorder.decoding.remaskers import QualityUndo
from anyorder.denoisers.base import attention_of, fingerprint
from anyorder.diffusion import mask_tokens, stratified
from anyorder.losses import correctness_loss, loss_regression, order_loss, rank_loss, selection_loss
from anyorder.orders.base import State
from anyorder.orders.policies import Policy, PolicyNetwork
from anyorder.orders.reward_policies import REWARD_POLICIES
from anyorder.processes import Shard
from anyorder.tasks.base import Instances, Task, check_fits
from anyorder.training.denoiser import draw_clean, make_schedule, step_generator, training_problems, without_padding
from anyorder.training.settings import ObjectiveSettings, OrderRecipe, PolicySettings


@dataclass
class Pool:
    """Half-decoded problems: tokens, truth, generated positions, step and log-probability of commitments, tokens ruled out
    (B, L); what the first forward predicted (B, L, V; V = 0 where nobody asks); age in steps, tokens per step, reviews left,
    whether the problem is kept once it holds a wrong token (B,)."""

    tokens: Tensor
    x0: Tensor
    generated: Tensor
    commit_step: Tensor
    log_probs: Tensor
    rejected: Tensor
    first_look: Tensor
    age: Tensor
    per_step: Tensor
    reviews: Tensor
    keeps: Tensor


def make_policy(
    denoiser: nn.Module, task: Task, settings: PolicySettings, *, judges: bool, about: dict | None = None
) -> PolicyNetwork:
    """A fresh policy for a denoiser; those trained by supervision start at the confidence order."""
    common: dict[str, Any] = {
        "architecture": settings.architecture,
        "hidden_size": denoiser.hidden_size,
        "vocab_size": denoiser.vocab_size,
        "width": settings.width,
        "denoiser_fingerprint": fingerprint(denoiser),
        "about": about,
    }
    if settings.architecture in REWARD_POLICIES:
        common |= {"heads": len(settings.heads), "top_positions": settings.top_positions}
        return REWARD_POLICIES[settings.architecture](**common)
    policy = Policy(
        **common,
        max_length=task.length,
        layers=settings.layers,
        heads=settings.heads,
        first_look=settings.first_look,
        judges=judges,
    )
    policy.set_relations(dict(task.relations()))
    return policy


class OrderJob:
    """A `Job`: the policy of a recipe, on a frozen denoiser."""

    def __init__(self, recipe: OrderRecipe, denoiser: nn.Module, task: Task, instances: Instances | None = None) -> None:
        self.recipe, self.task = recipe, task
        self.objective: ObjectiveSettings = recipe.objective
        check_fits(task, denoiser)
        self.denoiser = denoiser.eval().requires_grad_(False)
        if instances is None:
            instances = training_problems(task, recipe.data)
        self.instances = instances
        self.schedule = make_schedule(recipe.masking)
        torch.manual_seed(recipe.seed)
        about = {
            "task": recipe.task.model_dump(),
            "objective": recipe.objective.model_dump(mode="json"),
            "denoiser": recipe.denoiser,
        }
        self.policy = make_policy(denoiser, task, recipe.policy, judges=recipe.objective.quality, about=about)
        self.model: nn.Module = self.policy
        self.rate_scales: dict[str, float] = {}
        self.cycle = 1
        self.kept_whole: list[nn.Module] | None = None
        self.device = torch.device("cpu")
        self.pool: Pool | None = None

    def to(self, device: torch.device) -> None:
        self.device = device
        self.denoiser.to(device)

    def state(self) -> dict[str, Tensor]:
        return {} if self.pool is None else dict(vars(self.pool))

    def load_state(self, tensors: dict[str, Tensor], shard: Shard) -> None:
        rows = shard.slice(self.recipe.run.batch_size)
        self.pool = Pool(**{name: tensor[rows].to(self.device) for name, tensor in tensors.items()}) if tensors else None

    def loss(self, model: nn.Module, step: int, shard: Shard) -> tuple[Tensor, dict[str, float]]:
        """1. states; 2. the frozen denoiser's view of them; 3. the policy's scores; 4. the objective; 5. one step along."""
        batch = self._draw(step, shard)
        with torch.no_grad():
            logits, hidden = self.denoiser(batch.tokens, batch.attention_mask, batch.masked)
        state = batch.state(logits, hidden)
        scores = model(state)
        loss, logged = self._objective(scores, state, batch)
        if batch.pool is not None:
            self._advance(batch.pool, state, scores.detach())
        return loss, logged

    def _draw(self, step: int, shard: Shard) -> "Batch":
        """This process's part of the states of a training step."""
        size, rows = self.recipe.run.batch_size, shard.slice(self.recipe.run.batch_size)
        rng = step_generator(self.recipe.seed, step)
        drawn = draw_clean(self.task, self.instances, self.recipe, step, rng)
        x0, tokens, generated = (v[rows].to(self.device) for v in drawn)
        luck, fate = (torch.from_numpy(rng.random(size))[rows].to(self.device) for _ in range(2))
        if self.objective.states != "uniform":
            pool = self._refill(x0, tokens, generated, luck, fate)
            masked = pool.tokens == self.task.mask_token_id
            attention_mask = attention_of(self.denoiser, pool.tokens)
            return Batch(pool.tokens, masked, pool.generated, pool.x0, attention_mask, pool=pool)
        if self.recipe.masking.scope == "everything":
            generated = torch.ones_like(generated)
        t = self.schedule.sample_times(stratified(torch.from_numpy(rng.random(size))))[rows].to(self.device)
        chance = torch.from_numpy(rng.random((size, x0.shape[1])))[rows].to(self.device)
        x_t, masked = mask_tokens(x0, generated, 1 - self.schedule.alpha(t), self.task.mask_token_id, chance)
        time_weight = self.schedule.weight(t).float() if self.recipe.masking.time_weight else None
        columns = without_padding(x_t, self.task.pad_token_id)
        x_t, masked, generated, x0 = (v[:, columns] for v in (x_t, masked, generated, x0))
        return Batch(x_t, masked, generated, x0, attention_of(self.denoiser, x_t), time_weight)

    def _objective(self, scores: Tensor, state: State, batch: "Batch") -> tuple[Tensor, dict[str, float]]:
        assert state.x0 is not None
        time_weight, pool = batch.time_weight, batch.pool
        masked, name = state.masked, self.objective.name
        token_losses = state.scatter(-state.truth_log_probs().clamp(min=-30), 0.0)
        right = state.tokens.masked_scatter(masked, state.summary.top_tokens[:, 0]) == state.x0
        lost = (~right & state.generated & ~masked).any(dim=1)
        weight = torch.where(lost, self.objective.lost_weight, 1.0)
        if name == "order":
            loss = order_loss(scores, token_losses, masked, weight if time_weight is None else time_weight * weight)
        elif name == "correctness":
            loss = correctness_loss(scores, right, masked, weight)
        elif name == "loss":
            loss = loss_regression(scores, token_losses, masked)
        else:
            loss = rank_loss(scores, -token_losses, masked, self.objective.rank_temperature, weight)
        if self.objective.selection_weight and pool is not None:
            selected = selection_loss(scores, ~right, masked, pool.per_step, self.objective.selection_temperature, weight)
            loss = loss + self.objective.selection_weight * selected
        committed = state.generated & ~masked
        logged = {
            "candidates_right": float((right & masked).sum() / masked.sum().clamp(min=1)),
            "commitments_right": float((right & committed).sum() / committed.sum().clamp(min=1)),
            "bce_confidence": float(correctness_loss(state.scatter(state.summary.log_odds.clamp(-30, 30), 0.0), right, masked)),
            "bce_policy": float(correctness_loss(scores.detach(), right, masked)),
            "bce_quality": float(correctness_loss(scores.detach(), right, committed)),
        }
        if self.objective.quality:  # complete problems are what the judge is for, and rare on the path
            complete = torch.where(masked.any(dim=1), 1.0, self.objective.complete_weight)
            loss = loss + correctness_loss(scores, right, committed, complete)
        return loss, logged

    def _refill(self, x0: Tensor, tokens: Tensor, generated: Tensor, luck: Tensor, fate: Tensor) -> Pool:
        """The pool, with problems that are done replaced by fresh ones."""
        low, high = self.objective.rollout_steps
        budget = low * (high / low) ** luck  # log-uniform
        looks = 1 + self.objective.undo_rounds if self.objective.quality else 0
        reviews = torch.full_like(budget, looks).long()
        none = torch.full_like(tokens, -1)
        fresh = Pool(
            tokens=tokens,
            x0=x0,
            generated=generated,
            commit_step=none,
            log_probs=torch.zeros(tokens.shape, device=tokens.device),
            rejected=none,
            first_look=torch.zeros((*tokens.shape, self.task.vocab_size * self.policy.first_look), device=tokens.device),
            age=torch.zeros_like(reviews),
            per_step=(generated.sum(dim=1) / budget).ceil().long(),
            reviews=reviews,
            keeps=fate < self.objective.keep_lost,
        )
        if self.pool is None:
            self.pool = fresh
            return fresh
        pool = self.pool
        done = ~(pool.tokens == self.task.mask_token_id).any(dim=1) & (pool.reviews <= 0)
        wrong = pool.generated & (pool.tokens != self.task.mask_token_id) & (pool.tokens != pool.x0)
        done |= wrong.any(dim=1) & ~pool.keeps
        for name, old in vars(pool).items():
            setattr(pool, name, torch.where(done.view(-1, *[1] * (old.ndim - 1)), getattr(fresh, name), old))
        return pool

    @torch.no_grad()
    def _advance(self, pool: Pool, state: State, scores: Tensor) -> None:
        """Decode the pool one step further with the scores that the policy has just given."""
        assert state.x0 is not None
        undone = ruled_out = torch.zeros_like(state.masked)
        complete = ~state.masked.any(dim=1)
        pool.reviews = pool.reviews - complete.long()
        if self.objective.quality:
            remasker = QualityUndo(_Given(scores))
            undone = remasker.undo(state) & (pool.reviews > 0)[:, None]
            ruled_out = remasker.reject(state, undone)
        pool.reviews = pool.reviews.masked_fill(complete & ~undone.any(dim=1), 0)  # looked at, and left as it is
        chosen = top(scores.masked_fill(~state.masked, -torch.inf), pool.per_step)
        proposed = state.tokens.masked_scatter(state.masked, state.summary.top_tokens[:, 0])
        source = state.x0 if self.objective.states == "teacher" else proposed
        sure = state.scatter(state.summary.top_log_probs[:, 0], 0.0)
        if self.policy.first_look:
            pool.first_look = torch.where((pool.age == 0)[:, None, None], state.probabilities(), pool.first_look)
        pool.log_probs = torch.where(chosen, sure, pool.log_probs).masked_fill(undone, 0.0)
        pool.commit_step = torch.where(chosen, pool.age[:, None], pool.commit_step).masked_fill(undone, -1)
        pool.rejected = torch.where(ruled_out, state.tokens, pool.rejected.masked_fill(chosen, -1))
        pool.age = pool.age + 1
        pool.tokens = torch.where(undone, self.task.mask_token_id, torch.where(chosen, source, state.tokens))

    def save(self, folder: Path) -> None:
        """The policy in the Hugging Face layout."""
        self.policy.save_pretrained(folder)


@dataclass(frozen=True)
class _Given:
    """Scores that are already known, as a `Quality`."""

    scores: Tensor

    def quality(self, state: State) -> Tensor:
        return self.scores


@dataclass(frozen=True)
class Batch:
    """States of one training step: tokens, masked and generated positions, truth (B, L); attention mask (B, L), None without
    padding; time weights (B,); the pool that they are from."""

    tokens: Tensor
    masked: Tensor
    generated: Tensor
    x0: Tensor
    attention_mask: Tensor | None = None
    time_weight: Tensor | None = None
    pool: Pool | None = None

    def state(self, logits: Tensor, hidden: Tensor) -> State:
        """What the policy sees (step 0 of 1, seeds 0), from logits (K, V) of the masked positions."""
        seeds = torch.zeros(self.tokens.shape[0], dtype=torch.int64, device=self.tokens.device)
        state = State(
            self.tokens, self.masked, self.generated, self.masked, logits, hidden, 0, 1, seeds, self.attention_mask, self.x0
        )  # fmt: skip
        pool = self.pool
        if pool is None:
            return state
        now = None
        if pool.first_look.shape[-1]:
            now = torch.where((pool.age == 0)[:, None, None], state.probabilities(), pool.first_look)
        logits = forbid(logits, pool.rejected[self.masked])
        return replace(
            state, logits=logits, first_look=now, commit_step=pool.commit_step, committed_log_probs=pool.log_probs, memo={}
        )


@torch.no_grad()
def observe(denoiser: nn.Module, tokens: Tensor, generated: Tensor) -> State:
    """One forward of a denoiser as a `State` without the truth, for diagnostics."""
    masked = generated & (tokens == denoiser.mask_token_id)
    attention_mask = attention_of(denoiser, tokens)
    logits, hidden = denoiser(tokens, attention_mask, masked)
    return replace(Batch(tokens, masked, generated, tokens, attention_mask).state(logits, hidden), x0=None)
