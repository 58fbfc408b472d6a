"""The weights of a trained denoiser, from which the training of another one starts: for the same problems, or others like them.

A task may say which of its tokens and positions are like those of another size, by a method
`alike(other) -> (tokens int64 (V,), positions int64 (L,))`: for each of its own, that of the other task. The embeddings of a
`Transformer` are then taken over row by row, so that a denoiser of larger problems starts with what one of smaller ones knows.
"""

from typing import Any

import torch
from torch import Tensor, nn

from anyorder.denoisers.transformer import Transformer
from anyorder.errors import BadInput
from anyorder.tasks.base import Task
from anyorder.zoo import load_denoiser
from anyorder.zoo.matching import task_for

BY_TOKEN = ("token_embedding.weight", "head.weight", "head.bias")
BY_POSITION = ("position_embedding.weight",)


@torch.no_grad()
def start_from(start: str, denoiser: nn.Module, task: Task) -> None:
    """Give a fresh denoiser the weights of a trained one.

    Args:
        start: name, folder or hub id of the trained one.
        denoiser: of the same class and settings.
        task: the task of the fresh one.

    Raises:
        BadInput: another class, other settings, or another task that `task` does not know to be like it.
    """
    trained: Any = load_denoiser(start, device="cpu")
    before = task_for(trained)
    if type(trained) is not type(denoiser):
        raise BadInput(f"start = {start!r} is a {type(trained).__name__}; this recipe trains a {type(denoiser).__name__}")
    rows = _rows(task, before, start, denoiser)
    if _heads(trained) != _heads(denoiser):
        raise BadInput(f"the heads of start = {start!r} are {_heads(trained)}; those of this recipe must be the same")
    given, wanted = (_tensors(each, buffers=not rows) for each in (trained, denoiser))
    taken = {name: weight[rows[name]] if name in rows else weight for name, weight in given.items()}
    if other := [name for name in sorted(given | wanted) if _shape(taken, name) != _shape(wanted, name)]:
        raise BadInput(
            f"the network of start = {start!r} is another one: {other[0]} has the shape {_shape(taken, other[0])} there and "
            f"{_shape(wanted, other[0])} here; give [denoiser] the settings with which {start} was trained"
        )
    for name, weight in wanted.items():
        weight.copy_(taken[name])


def _rows(task: Task, before: Task, start: str, denoiser: nn.Module) -> dict[str, Tensor]:
    """For each weight that depends on tokens or positions: the rows of the trained one that this task needs."""
    if before.serves(task):
        return {}
    alike: Any = getattr(task, "alike", None)
    if alike is None or type(before) is not type(task) or not isinstance(denoiser, Transformer):
        raise BadInput(
            f"start = {start!r} was trained for {before.name} with {before.options}, and this recipe is for {task.name} with "
            f"{task.options}: start from a denoiser of the same task and options"
        )
    tokens, positions = alike(before)
    return dict.fromkeys(BY_TOKEN, tokens) | dict.fromkeys(BY_POSITION, positions)


def _tensors(denoiser: nn.Module, *, buffers: bool) -> dict[str, Tensor]:
    """The weights by name, and the buffers, which another size of the task has as its own (relations)."""
    return dict(denoiser.named_parameters()) | (dict(denoiser.named_buffers()) if buffers else {})


def _shape(weights: dict[str, Tensor], name: str) -> tuple[int, ...] | None:
    """The shape of a weight; None if there is none of this name."""
    return tuple(weights[name].shape) if name in weights else None


def _heads(denoiser: Any) -> list[str]:
    """The relations of the heads of our transformer."""
    relations = getattr(denoiser, "relations", None)
    return [] if relations is None else list(relations.head_relations)
