"""The data of a training step: problems, batches, and random numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic_core import to_jsonable_python
from torch import Tensor, nn

from anyorder.diffusion import CosineSchedule, DiscreteSchedule, LinearSchedule, Schedule
from anyorder.errors import BadInput
from anyorder.files import find_file
from anyorder.tasks.base import Instances, Task, check_fits, check_problems
from anyorder.tasks.generation import make_problems
from anyorder.tasks.instances import joined
from anyorder.tasks.kept import kept
from anyorder.tasks.problem_files import load_problems
from anyorder.training.recipes import DenoiserRecipe, OrderRecipe
from anyorder.training.settings import DataSettings, MaskingSettings

_SKIP = "data.skip_unreadable=true leaves such problems out"
GROUP = 50
"""Batches whose problems are sorted by length together, as with `group_by_length` of Transformers."""


def make_schedule(settings: MaskingSettings) -> Schedule:
    """The schedule that a recipe names."""
    if settings.schedule == "discrete":
        return DiscreteSchedule(settings.levels)
    return LinearSchedule() if settings.schedule == "linear" else CosineSchedule()


def step_generator(seed: int, step: int) -> np.random.Generator:
    """The random numbers of one training step: a pure function of (seed, step), the same on every process."""
    return np.random.Generator(np.random.Philox(key=[seed, step]))


def training_problems(task: Task, data: DataSettings) -> Instances:
    """The problems that a recipe trains on.

    Raises:
        BadInput: no such file, or problems that cannot be read or generated.
    """
    if data.file is None:
        found = _generated(task, data)
    else:
        try:
            found = load_problems(task, find_file(data.file), data.size, data.skip_unreadable, _SKIP)
        except OSError as error:
            raise BadInput(f"data.file {data.file} cannot be read: {error.strerror}") from error
    check_problems(task, found)
    if not found.maskable.any():
        raise BadInput(f"no position of these problems of {task.name} is to be filled: hide some of their tokens")
    return found


def _generated(task: Task, data: DataSettings) -> Instances:
    if data.keep is None:
        return generate_parts(task, data.size, data.seed, data.options)
    plain = {name: value for name, value in task.options.items() if isinstance(value, str | int | float)}
    options = data.options if isinstance(data.options, Mapping) else list(data.options)
    made_of = to_jsonable_python({"task": task.name, **plain, "seed": data.seed, "options": options})
    found = kept(Path(data.keep), lambda: generate_parts(task, data.size, data.seed, data.options), made_of)
    if len(found) != data.size:
        raise BadInput(f"data.keep {data.keep} holds {len(found)} problems, and data.size is {data.size}: name another file")
    return found


def generate_parts(task: Task, count: int, seed: int, options: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Instances:
    """Problems generated with these options, or equal parts of them with each of several, the first ones from `seed` and the
    others from the seeds after it."""
    if isinstance(options, Mapping):
        return make_problems(task, count, seed, options)
    ends = [count * number // len(options) for number in range(len(options) + 1)]
    sizes = np.diff(ends).tolist()
    return joined([make_problems(task, n, seed + k, part) for k, (n, part) in enumerate(zip(sizes, options, strict=True)) if n])


def with_solutions(instances: Instances) -> Instances:
    """The problems, unless their solutions are unknown.

    Raises:
        BadInput: they are.
    """
    if instances.x0 is None:
        raise BadInput("training needs problems with known solutions")
    return instances


def draw_clean(
    task: Task, instances: Instances, recipe: DenoiserRecipe | OrderRecipe, step: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """A batch of augmented problems: x0 (B, L), tokens with the mask at unknown positions (B, L), maskable (B, L).

    Raises:
        BadInput: there are no solutions.
    """
    if instances.x0 is None:
        raise BadInput(
            "training needs problems with known solutions, and these have none (`Instances.x0`); only training by reward does "
            "without"
        )
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


def one_block(x0: Tensor, tokens: Tensor, generated: Tensor, number: Tensor, chance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Problems of one block each, for a policy on a denoiser with a block-causal mask: the blocks before it are known, and
    those behind it are masked and not generated.

    Args:
        x0, tokens, generated: (B, L), the solutions, the problems, and what they generate, bool.
        number: of each position's block, int64 (B, L).
        chance: uniform numbers in [0, 1), (B,), which choose among the blocks that generate something.

    Returns:
        tokens and generated of the new problems, and the positions behind the block, bool (B, L).
    """
    has = torch.zeros_like(number).scatter_reduce(1, number, generated.long(), "amax")
    rank = (chance * has.sum(dim=1)).long()[:, None]
    chosen = ((has.cumsum(dim=1) == rank + 1) & (has > 0)).to(torch.int8).argmax(dim=1, keepdim=True)
    return torch.where(generated & (number < chosen), x0, tokens), generated & (number == chosen), number > chosen


def check_trainable(denoiser: nn.Module, task: Task) -> None:
    """Refuse a denoiser that is not one for the task.

    Raises:
        BadInput: the denoiser does not follow the protocol `Denoiser`, or differs from the task in vocabulary size, mask token
            or length; the message names which.
    """
    check_fits(task, denoiser)
