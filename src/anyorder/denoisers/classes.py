"""Classes of denoisers that recipes train: made for a task, saved with their class, loaded again.

Such a class is an `nn.Module` that follows the protocol `Denoiser`, registered with `@DENOISERS.register("my_class")` or named
as `module:Class`. It is made in one of two ways:

- by its classmethod `for_task(task, **settings)`, with the fields of its dataclass `Settings` as settings. It then has a method
  `save_pretrained(folder)` that writes `config.json`, the arguments of its constructor, and `model.safetensors`;
- without one, by its constructor: the arguments `vocab_size`, `mask_token_id`, `max_length` and `pad_token_id`, as far as it
  has them, come from the task, and all others are settings.
"""

import inspect
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from anyorder.denoisers.transformer import Transformer
from anyorder.errors import BadCheckpoint, BadInput, first_line
from anyorder.files import parse_json, read_json, write_atomically, write_json
from anyorder.hub import UNLOADABLE
from anyorder.registry import DENOISERS

BY_TASK = ("vocab_size", "mask_token_id", "max_length", "pad_token_id")
"""Arguments of a constructor that come from the task."""

_NEEDED = ("mask_token_id", "vocab_size", "hidden_size")


def denoiser_class(name: str) -> Any:
    """The class of a denoiser by registered name, or as `module:Class`.

    Raises:
        BadInput: no such class, or no `nn.Module`.
    """
    found = DENOISERS[name]
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        raise BadInput(f"{name} is no class of denoisers: it must be a subclass of torch.nn.Module")
    return found


def make_denoiser(name: str, task: Any, settings: dict[str, Any]) -> nn.Module:
    """A fresh denoiser of a class for a task.

    Raises:
        BadInput: no such class, or one that does not follow the protocol `Denoiser`.
        TypeError, ValueError: the class refuses the settings.
    """
    kind = denoiser_class(name)
    if hasattr(kind, "for_task"):
        denoiser: Any = kind.for_task(task, **settings)
    else:
        of_task = {"vocab_size": task.vocab_size, "mask_token_id": task.mask_token_id, "max_length": task.length,
                   "pad_token_id": task.pad_token_id}  # fmt: skip
        known = inspect.signature(kind).parameters
        arguments = {key: value for key, value in of_task.items() if key in known} | settings
        denoiser = kind(**arguments)
        denoiser.made_of = arguments  # for `save_denoiser`
    if missing := [key for key in _NEEDED if not hasattr(denoiser, key)]:
        raise BadInput(f"a denoiser of the class {name} has no {', '.join(missing)}: see anyorder.denoisers.base.Denoiser")
    made: nn.Module = denoiser
    return made


def save_denoiser(denoiser: Any, folder: str | Path) -> None:
    """Write `config.json`, which names the class (unless it is `Transformer`), and `model.safetensors`.

    Raises:
        BadInput: the denoiser was not made by a recipe and has no `save_pretrained`, or its class cannot be found by name.
    """
    folder = Path(folder)
    if hasattr(denoiser, "save_pretrained"):
        denoiser.save_pretrained(folder)
        config = read_json(folder / "config.json")
        if type(denoiser) is Transformer or "class" in config or {"model_type", "auto_map"} & config.keys():
            return
    elif hasattr(denoiser, "made_of"):
        config = denoiser.made_of
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in denoiser.state_dict().items()}
        weights = folder / "model.safetensors"
        write_atomically(weights, lambda path: safetensors.torch.save_file(tensors, path, {"format": "pt"}))
    else:
        raise BadInput(f"a {type(denoiser).__name__} cannot be saved: give it a method save_pretrained(folder)")
    write_json(folder / "config.json", {"class": DENOISERS.name_of(denoiser), **config})


def read_denoiser(folder: Path) -> nn.Module:
    """Inverse of `save_denoiser`, in eval mode.

    Raises:
        BadInput: the class is not installed here.
        BadCheckpoint: a damaged configuration, or weights that cannot be read.
    """
    try:
        config = dict(parse_json((folder / "config.json").read_text(encoding="utf-8")))
        name = config.pop("class", None)
    except UNLOADABLE as error:
        raise BadCheckpoint(f"{folder} holds no readable denoiser: {first_line(error)}") from error
    kind = Transformer if name is None else denoiser_class(str(name))
    try:
        denoiser: Any = kind(**config)
        denoiser.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
    except UNLOADABLE as error:
        raise BadCheckpoint(f"{folder} holds no readable denoiser: {first_line(error)}") from error
    if not hasattr(denoiser, "save_pretrained"):
        denoiser.made_of = config
    read: nn.Module = denoiser.eval()
    return read
