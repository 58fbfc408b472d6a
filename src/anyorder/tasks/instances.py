"""Problems and what a checker says of their completed sequences, as plain values."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from anyorder.errors import BadInput, first_line
from anyorder.signatures import check_argument


@dataclass(frozen=True)
class Instances:
    """N problems of one layout, on the CPU.

    Args:
        tokens: int64 (N, L), the mask at every unknown position.
        maskable: bool (N, L), the positions that are generated.
        x0: int64 (N, L), a solution; None if none is known.
        labels: per-instance labels for reports, e.g. {"difficulty": (N,) array of str, "givens": (N,) array of int}; lists are
            made arrays.
    """

    tokens: Tensor
    maskable: Tensor
    x0: Tensor | None = None
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, kind in (("tokens", Tensor), ("maskable", Tensor), ("x0", Tensor | None)):
            check_argument(name, getattr(self, name), kind)
        check_argument("labels", self.labels, Mapping)
        object.__setattr__(self, "labels", {name: _array(name, values) for name, values in self.labels.items()})

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def longest(self) -> int:
        """Positions to fill of the longest problem, at least 1."""
        return max(1, int(self.maskable.sum(dim=1).max()))

    def __getitem__(self, index: slice | Tensor | np.ndarray) -> "Instances":
        labels = {
            name: values[index if not isinstance(index, Tensor) else index.numpy()] for name, values in self.labels.items()
        }
        x0 = None if self.x0 is None else self.x0[index]
        return replace(self, tokens=self.tokens[index], maskable=self.maskable[index], x0=x0, labels=labels)

    def cpu(self) -> "Instances":
        """The same on the CPU."""
        x0 = None if self.x0 is None else self.x0.cpu()
        return replace(self, tokens=self.tokens.cpu(), maskable=self.maskable.cpu(), x0=x0)


def unseen(problems: Instances, others: Instances) -> Instances:
    """The problems that are not among `others`, each once."""
    seen = {row.tobytes() for row in others.tokens.numpy()}
    first = {row.tobytes(): number for number, row in reversed(list(enumerate(problems.tokens.numpy())))}
    return problems[torch.tensor(sorted(number for key, number in first.items() if key not in seen), dtype=torch.int64)]


def _array(name: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:  # lists of several lengths, a tensor that is elsewhere
        raise BadInput(f"the label {name!r} must be an array (N,), one value for each problem: {first_line(error)}") from error


def joined(parts: Sequence[Instances]) -> Instances:
    """Problems of the same layout and labels, one after another. Solutions are kept if all parts have them."""
    x0s = [part.x0 for part in parts if part.x0 is not None]
    return Instances(
        torch.cat([part.tokens for part in parts]),
        torch.cat([part.maskable for part in parts]),
        torch.cat(x0s) if len(x0s) == len(parts) else None,
        {name: np.concatenate([part.labels[name] for part in parts]) for name in parts[0].labels},
    )


P = ParamSpec("P")
R = TypeVar("R")


def on_cpu(function: Callable[P, R]) -> Callable[P, R]:
    """A function that gets its tensors and problems on the CPU, wherever they are."""

    @functools.wraps(function)
    def moved(*args: P.args, **kwargs: P.kwargs) -> R:
        here = [value.cpu() if isinstance(value, Tensor | Instances) else value for value in args]
        named = {name: value.cpu() if isinstance(value, Tensor | Instances) else value for name, value in kwargs.items()}
        return function(*here, **named)  # type: ignore[arg-type]

    return moved


class CheckResult(NamedTuple):
    """What the checker says about N completed sequences.

    instance_correct: bool (N,), every rule is kept and no given was changed.
    cell_accuracy: float (N,), share of the generated positions that are right (each task says compared with what).
    """

    instance_correct: Tensor
    cell_accuracy: Tensor


def cell_accuracy(instances: Instances, right: Tensor) -> Tensor:
    """Share of the generated positions where `right` (N, L) holds; 1 for an instance with nothing to generate."""
    generated = instances.maskable.sum(dim=1)
    return torch.where(generated > 0, (right & instances.maskable).sum(dim=1).float() / generated.clamp(min=1), 1.0)


def check_problems(task: Any, instances: Any) -> None:
    """Refuse problems that are not those of a task.

    Raises:
        BadInput: something else than `Instances`, none at all, tensors of the wrong type or shape or on another device than the
            CPU, labels of another shape, tokens outside the vocabulary, or no mask token where positions are to be generated.
    """
    if not isinstance(instances, Instances):
        raise BadInput(f"the problems are of type {type(instances).__name__}; they must be Instances, as from task.generate")
    tokens, maskable, x0 = instances.tokens, instances.maskable, instances.x0
    for name, found, kind in (("tokens", tokens, torch.int64), ("maskable", maskable, torch.bool), ("x0", x0, torch.int64)):
        if found is not None and (found.dtype != kind or found.dim() != 2 or found.shape != tokens.shape):
            given = f"{found.dtype} {tuple(found.shape)}"
            raise BadInput(f"the problems of {task.name} have {name} {given}; it must be {kind} (N, L), as large as tokens")
        if found is not None and found.device.type != "cpu":
            raise BadInput(f"the problems of {task.name} are on {found.device}; they must be on the CPU: problems.cpu()")
    if not len(instances):
        raise BadInput(f"there are no problems of {task.name}: give at least one")
    for name, values in instances.labels.items():
        if values.shape != (len(instances),):
            raise BadInput(f"the problems of {task.name} have labels {name!r} {values.shape}; they must be ({len(instances)},)")
    most = max(task.vocab_size - 1, -1 if task.pad_token_id is None else task.pad_token_id)
    if int(tokens.max()) > most or (x0 is not None and int(x0.max()) > most):
        raise BadInput(f"the problems of {task.name} hold tokens above {most}, and its vocab_size is {task.vocab_size}")
    if maskable.any() and not (tokens == task.mask_token_id).any():
        raise BadInput(f"no position of these problems holds the mask token {task.mask_token_id} of the task {task.name}")


def whole(instances: Instances, tokens: Tensor, mask_token_id: int) -> Tensor:
    """Completed sequences (N, L) in which no mask is left and no given token was changed, bool (N,)."""
    given: Tensor = (tokens == instances.tokens) | instances.maskable
    return (given & (tokens != mask_token_id)).all(dim=1)


def check_open(instances: Instances) -> None:
    """Refuse problems of which none has anything to fill.

    Raises:
        BadInput: no position is open.
    """
    if not instances.maskable.any():
        raise BadInput("these problems are complete: no position holds the mask, so there is nothing to fill")


def checked_result(task: Any, instances: Instances, tokens: Tensor) -> CheckResult:
    """What a task says of completed sequences (N, L).

    Raises:
        BadInput: it returns something else than a `CheckResult` of N entries.
    """
    found: Any = task.check(instances, tokens)
    if not isinstance(found, CheckResult) or not all(isinstance(v, Tensor) and v.shape == tokens.shape[:1] for v in found):
        raise BadInput(f"{task.name}.check must return a CheckResult of two tensors of shape ({len(tokens)},)")
    return found


def measured(name: str, values: Any, count: int) -> np.ndarray:
    """A measure of `count` completed sequences as float64 (N,).

    Raises:
        BadInput: something else than so many numbers; `name` says whose they are.
    """
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"{name} must be {count} numbers, one for each sequence: {first_line(error)}") from error
    if found.shape != (count,):
        raise BadInput(f"{name} has the shape {found.shape}; it must be ({count},), a number for each sequence")
    return found
