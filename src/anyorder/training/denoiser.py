"""Training a denoiser from scratch: L_MDM (eq. 2 of arXiv 2606.00295) on fresh maskings of the task's problems.

A denoiser with a block-causal mask is trained as BD3LM is (arXiv 2503.09573): every block is masked at a time of its own and
predicted from itself and the clean blocks before it, all blocks of a sequence in one pass.
"""

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anyorder.denoisers.base import attention_of
from anyorder.denoisers.blocks import block_length_of, block_numbers
from anyorder.denoisers.classes import make_denoiser, save_denoiser
from anyorder.diffusion import mask_tokens, stratified
from anyorder.errors import BadInput
from anyorder.losses import mdm_loss, token_cross_entropy
from anyorder.own_code import naming
from anyorder.processes import Shard
from anyorder.tasks import make_task
from anyorder.training.data import (
    check_trainable,
    draw_clean,
    make_schedule,
    step_generator,
    training_problems,
    with_solutions,
    without_padding,
)
from anyorder.training.recipes import DenoiserRecipe
from anyorder.training.starting import start_from


class DenoiserJob:
    """A `Job`: the denoiser of a recipe."""

    autocast: Callable[[], AbstractContextManager[Any]] = staticmethod(nullcontext)

    def __init__(self, recipe: DenoiserRecipe) -> None:
        self.recipe = recipe
        self.task = make_task(recipe.task.name, **recipe.task.options)
        self.schedule = make_schedule(recipe.masking)
        self.instances = with_solutions(training_problems(self.task, recipe.data))
        torch.manual_seed(recipe.seed)
        self.denoiser = make_denoiser(recipe.denoiser.architecture, self.task, recipe.denoiser.settings)
        check_trainable(self.denoiser, self.task)
        if recipe.start is not None:
            start_from(recipe.start, self.denoiser, self.task)
        _check_takes_clean(self.denoiser)
        self.model: nn.Module = self.denoiser
        self.rate_scales: dict[str, float] = {}
        self.cycle = 1
        self.unsharded: list[nn.Module] | None = []
        self.device = torch.device("cpu")

    def to(self, device: torch.device) -> None:
        self.device = device

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, tensors: dict[str, Tensor], shard: Shard) -> None:
        return None

    def loss(self, model: nn.Module, step: int, shard: Shard) -> tuple[Tensor, dict[str, float]]:
        """1. draw x0; 2. draw t; 3. mask; 4. cross-entropy at masked positions; 5. weight and average."""
        recipe, masking = self.recipe, self.recipe.masking
        rng = step_generator(recipe.seed, step)
        size = recipe.run.batch_size
        x0, _, maskable = draw_clean(self.task, self.instances, recipe, step, rng)
        if masking.scope == "everything":
            maskable = torch.ones_like(maskable) if self.task.pad_token_id is None else x0 != self.task.pad_token_id
        t = self._times(x0, rng, size)
        uniform = torch.from_numpy(rng.random(tuple(x0.shape), dtype=np.float32))
        x_t, masked = mask_tokens(x0, maskable, 1 - self.schedule.alpha(t), self.task.mask_token_id, uniform)
        everywhere = int(masked.sum())
        rows, t = shard.slice(size), t[shard.slice(size)].to(self.device)
        columns = without_padding(x_t[rows], self.task.pad_token_id)
        x0, x_t, masked = (v[rows, columns].to(self.device) for v in (x0, x_t, masked))
        clean = {} if block_length_of(self.denoiser) is None else {"clean": x0}
        with naming("denoiser", self.denoiser):
            logits, _ = model(x_t, attention_of(self.denoiser, x_t), **clean)
        losses = token_cross_entropy(logits, x0, masked)
        weight = self.schedule.weight(t).to(losses.dtype) if masking.time_weight else None
        weight = weight[:, columns] if weight is not None and weight.dim() == 2 else weight
        loss = mdm_loss(losses, masked, weight, focal_gamma=masking.focal_gamma, normalize=masking.normalize)
        if masking.normalize == "tokens":  # processes average their losses: weigh by this one's share of the tokens
            loss = loss * masked.sum() * shard.count / max(1, everywhere)
        return loss, {"token_loss": float(losses.detach().sum() / masked.sum().clamp(min=1))}

    def _times(self, x0: Tensor, rng: np.random.Generator, size: int) -> Tensor:
        """Times of the rows, float (B,), or with a block-causal mask of each position's block, float (B, L)."""
        length = block_length_of(self.denoiser)
        if length is None:
            return self.schedule.sample_times(stratified(torch.from_numpy(rng.random(size))))
        number = block_numbers(x0, attention_of(self.denoiser, x0), length).expand_as(x0)
        of_blocks = torch.from_numpy(rng.random(size * (1 + (x0.shape[1] - 1) // length)))
        return self.schedule.sample_times(stratified(of_blocks).view(size, -1)).gather(1, number)

    def save(self, folder: Path) -> None:
        """Weights and config in the Hugging Face layout."""
        save_denoiser(self.denoiser, folder)


def _check_takes_clean(denoiser: nn.Module) -> None:
    """Raise BadInput unless a denoiser with a block-causal mask can be trained with clean blocks before each masked one."""
    if block_length_of(denoiser) is not None and "clean" not in inspect.signature(denoiser.forward).parameters:
        raise BadInput(
            f"{type(denoiser).__name__} has a block-causal mask, and its forward takes no clean tokens, which training "
            "in blocks needs: give it an argument clean, as Transformer.forward has"
        )
