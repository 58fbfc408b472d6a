"""Training a denoiser from scratch: L_MDM (eq. 2) on fresh maskings of the task's problems."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from anyorder.denoisers.base import attention_of
from anyorder.denoisers.transformer import Transformer, paper_transformer
from anyorder.diffusion import CosineSchedule, DiscreteSchedule, LinearSchedule, mask_tokens, stratified
from anyorder.errors import BadInput
from anyorder.files import find_file
from anyorder.losses import mdm_loss, token_cross_entropy
from anyorder.processes import Shard
from anyorder.tasks import make_task
from anyorder.tasks.base import Instances, Task
from anyorder.training.settings import DataSettings, DenoiserRecipe, DenoiserSettings, MaskingSettings, OrderRecipe

GROUP = 50  # batches whose problems are sorted by length together, as Transformers' `group_by_length` does


def make_schedule(settings: MaskingSettings) -> LinearSchedule | CosineSchedule | DiscreteSchedule:
    """The schedule that a recipe names."""
    if settings.schedule == "discrete":
        return DiscreteSchedule(settings.levels)
    return LinearSchedule() if settings.schedule == "linear" else CosineSchedule()


def step_generator(seed: int, step: int) -> np.random.Generator:
    """The randomness of one training step: a pure function of (seed, step), the same on every process."""
    return np.random.Generator(np.random.Philox(key=[seed, step]))


def training_problems(task: Task, data: DataSettings) -> Instances:
    """The problems that a recipe trains on."""
    if data.file is None:
        return task.generate(data.size, data.seed, **data.options)
    return task.load(find_file(data.file), data.size)


def draw_clean(
    task: Task, instances: Instances, recipe: DenoiserRecipe | OrderRecipe, step: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """A batch of augmented problems: x0 (B, L), tokens with the mask at unknown positions (B, L), maskable (B, L)."""
    if instances.x0 is None:
        raise BadInput("training needs problems with known solutions")
    index = torch.from_numpy(rng.integers(0, len(instances), recipe.run.batch_size))
    pad = task.pad_token_id
    if recipe.data.group_by_length and pad is not None:
        index = _of_similar_length(instances.x0, pad, recipe, step)
    x0, tokens = task.augment(instances.x0[index], instances.tokens[index], rng)
    return x0, tokens, tokens == task.mask_token_id


def _of_similar_length(x0: Tensor, pad: int, recipe: DenoiserRecipe | OrderRecipe, step: int) -> Tensor:
    """The rows (B,) of batch `step`: those of `GROUP` batches are drawn together, sorted by length, cut, and shuffled."""
    group, number = divmod(step, GROUP)
    rng = step_generator(recipe.seed, 2**32 + group)  # beyond the number of any step
    drawn = torch.from_numpy(rng.integers(0, len(x0), GROUP * recipe.run.batch_size))
    by_length = drawn[(x0[drawn] != pad).sum(dim=1).argsort(stable=True)].view(GROUP, -1)
    return by_length[rng.permutation(GROUP)[number]]


def without_padding(tokens: Tensor, pad_token_id: int | None) -> slice:
    """The columns of `tokens` (B, L) up to the last one in which any row holds something else than padding."""
    if pad_token_id is None:
        return slice(None)
    used = (tokens != pad_token_id).any(dim=0).nonzero()
    return slice(int(used.max()) + 1 if len(used) else 1)


def make_denoiser(task: Task, settings: DenoiserSettings) -> Transformer:
    """A fresh denoiser of the form that a recipe asks for."""
    if settings.form == "paper":
        return paper_transformer(task.vocab_size, task.mask_token_id, task.length)
    model = Transformer(
        vocab_size=task.vocab_size,
        mask_token_id=task.mask_token_id,
        max_length=task.length,
        pad_token_id=task.pad_token_id,
        **settings.model_dump(exclude={"form"}),
    )
    model.set_relations(task.relations())
    return model


class DenoiserJob:
    """A `Job`: the denoiser of a recipe."""

    def __init__(self, recipe: DenoiserRecipe) -> None:
        self.recipe = recipe
        self.task = make_task(recipe.task.name, **recipe.task.options)
        self.schedule = make_schedule(recipe.masking)
        self.instances = training_problems(self.task, recipe.data)
        torch.manual_seed(recipe.seed)
        self.denoiser = make_denoiser(self.task, recipe.denoiser)
        self.model: nn.Module = self.denoiser
        self.rate_scales: dict[str, float] = {}
        self.cycle = 1
        self.kept_whole: list[nn.Module] | None = []
        self.device = torch.device("cpu")

    def to(self, device: torch.device) -> None:
        self.device = device

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, tensors: dict[str, Tensor], shard: Shard) -> None:
        return None

    def loss(self, model: nn.Module, step: int, shard: Shard) -> tuple[Tensor, dict[str, float]]:
        """1. draw x0; 2. draw t; 3. mask; 4. cross-entropy at masked positions; 5. weigh and average."""
        recipe, masking = self.recipe, self.recipe.masking
        rng = step_generator(recipe.seed, step)
        size = recipe.run.batch_size
        x0, _, maskable = draw_clean(self.task, self.instances, recipe, step, rng)
        if masking.scope == "everything":
            maskable = torch.ones_like(maskable)
        t = self.schedule.sample_times(stratified(torch.from_numpy(rng.random(size))))
        uniform = torch.from_numpy(rng.random(tuple(x0.shape), dtype=np.float32))
        x_t, masked = mask_tokens(x0, maskable, 1 - self.schedule.alpha(t), self.task.mask_token_id, uniform)
        everywhere = int(masked.sum())
        rows, t = shard.slice(size), t[shard.slice(size)].to(self.device)
        columns = without_padding(x_t[rows], self.task.pad_token_id)
        x0, x_t, masked = (v[rows, columns].to(self.device) for v in (x0, x_t, masked))
        logits, _ = model(x_t, attention_of(self.denoiser, x_t))
        losses = token_cross_entropy(logits, x0, masked)
        weight = self.schedule.weight(t).to(losses.dtype) if masking.time_weight else None
        loss = mdm_loss(losses, masked, weight, focal_gamma=masking.focal_gamma, normalise=masking.normalise)
        if masking.normalise == "tokens":  # processes average their losses: weigh by this one's share of the tokens
            loss = loss * masked.sum() * shard.count / max(1, everywhere)
        return loss, {"token_loss": float(losses.detach().sum() / masked.sum().clamp(min=1))}

    def save(self, folder: Path) -> None:
        """Weights and config in the Hugging Face layout."""
        self.denoiser.save_pretrained(folder)
