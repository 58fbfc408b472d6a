"""Denoisers and their orders, by name (shipped with the package) or by folder.

A denoiser's folder holds `config.json`, `model.safetensors`, `task.json`, a card `README.md`, in `order/` the policy that was
fitted to it, and where undoing has a judge of its own, that in `order/judge/`.
"""

import json
import warnings
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
from torch import nn

from anyorder.denoisers.base import fingerprint
from anyorder.denoisers.transformer import Transformer
from anyorder.errors import BadCheckpoint, BadInput, WrongDenoiser
from anyorder.orders.policies import LearnedOrder, Policy
from anyorder.tasks import make_task
from anyorder.tasks.base import Task

M = TypeVar("M", bound=nn.Module)


def zoo_names() -> list[str]:
    """Names of the shipped denoisers."""
    root = Path(str(resources.files("anyorder.zoo")))
    return sorted(path.parent.name for path in root.glob("*/config.json"))


def folder_of(name: str | Path) -> Path:
    """The folder of a shipped denoiser, or of the user's own.

    Raises:
        BadInput: neither a shipped name nor a folder with a `config.json`.
    """
    shipped = Path(str(resources.files("anyorder.zoo"))) / str(name)
    if str(name) in zoo_names():
        return shipped
    if (Path(name) / "config.json").is_file():
        return Path(name)
    raise BadInput(f"no denoiser called {str(name)!r}: give a folder that holds one, or one of {', '.join(zoo_names())}")


def default_denoiser(task_name: str, options: dict[str, Any]) -> str:
    """The shipped denoiser for a task with these options."""
    wanted = make_task(task_name, **options)
    for name in zoo_names():
        task = task_of(folder_of(name))
        if vars(task) == vars(wanted) and type(task) is type(wanted):
            return name
    raise BadInput(f"no denoiser is shipped for {task_name} with {options or 'default options'}: train one and give --denoiser")


def task_of(folder: Path) -> Task:
    """The task that a denoiser was trained for."""
    path = folder / "task.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return make_task(values["name"], **values["options"])
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{path} does not say what task this denoiser is for: {error}") from error


def load_denoiser(name: str | Path) -> Transformer:
    """A denoiser in eval mode, by shipped name or folder."""
    return _load(Transformer, folder_of(name), "denoiser")


def _load(cls: type[M], folder: Path, what: str) -> M:
    """A module from `config.json` and `model.safetensors`, in eval mode (and without the hub's remarks on stdout)."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        module = cls(**config)
        module.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
    except (safetensors.SafetensorError, RuntimeError, TypeError, ValueError, OSError) as error:
        raise BadCheckpoint(f"{folder} holds no readable {what}: {error}") from error
    return module.eval()


def load_order(folder: str | Path, denoiser: nn.Module | None = None, *, strict: bool = True) -> LearnedOrder:
    """A policy from its folder (or the shipped one of a zoo name), checked against the denoiser it is to be used with.

    Args:
        folder: a policy's folder, or a denoiser's folder or zoo name whose `order/` is meant.
        denoiser: the denoiser it will be used with; its fingerprint must be the one that the policy remembers.
        strict: a mismatch is an error; otherwise a warning.

    Raises:
        WrongDenoiser: the policy was fitted to another denoiser.
    """
    path = Path(folder)
    if str(folder) in zoo_names() or (path / "order" / "config.json").is_file():
        path = folder_of(folder) / "order"
    if not (path / "config.json").is_file():
        raise BadInput(f"{path} holds no order policy (no config.json): fit one with `anyorder train`")
    if "architecture" not in json.loads((path / "config.json").read_text(encoding="utf-8")):
        raise BadInput(f"{path} holds a denoiser and no order: fit one with `anyorder train`, or name the policy's own folder")
    parts = [path, path / "judge"] if (path / "judge" / "config.json").is_file() else [path]
    policies = [_load(Policy, part, "policy") for part in parts]
    for part, policy in zip(parts, policies, strict=True):
        if denoiser is not None and fingerprint(denoiser) != policy.denoiser_fingerprint:
            message = (
                f"the policy in {part} was fitted to the denoiser {policy.denoiser_fingerprint}, and this one is "
                f"{fingerprint(denoiser)}: fit a policy to this denoiser, or load it with strict=False (--any-denoiser)"
            )
            if strict:
                raise WrongDenoiser(message)
            warnings.warn(message, stacklevel=2)
    return LearnedOrder(*policies)
