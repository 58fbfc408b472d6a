"""Classes of denoisers that recipes train: made for a task, saved with their class, loaded again.

Such a class is an `nn.Module`, registered with `@DENOISERS.register("my_class")` or named as `module:Class`. It is made in one
of two ways:

- by its classmethod `for_task(task, **settings)`, with the fields of its dataclass `Settings` as settings. It then has a method
  `save_pretrained(folder)` that writes `config.json`, the arguments of its constructor, and `model.safetensors`;
- without one, by its constructor: the arguments `vocab_size`, `mask_token_id`, `max_length` and `pad_token_id` come from the
  task if it has them, and all others are settings. A module that returns plain logits is wrapped, see `WrappedDenoiser`; if it
  returns hidden states too, the setting `hidden_size` says their size.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from anyorder.denoisers.base import in_float32, missing_attributes
from anyorder.denoisers.transformer import Transformer
from anyorder.denoisers.unsupported import check_configuration
from anyorder.denoisers.wrapped import WrappedDenoiser, reference_of
from anyorder.errors import AnyorderError, BadCheckpoint, BadInput, first_line, shorten
from anyorder.files import parse_json, read_json, write_json, written_as_a_whole
from anyorder.hub import UNLOADABLE, save_weights
from anyorder.registry import DENOISERS
from anyorder.weights import load_weights, with_weights

BY_TASK = ("vocab_size", "mask_token_id", "max_length", "pad_token_id")
"""Arguments of a constructor that come from the task."""

_WRAPPING = ("mask_token_id", "vocab_size", "hidden_size", "pad_token_id", "block_length")
"""Arguments of `WrappedDenoiser` besides the module."""


def denoiser_class(name: str) -> Any:
    """The class of a denoiser by registered name, or as `module:Class`.

    Raises:
        BadInput: no such class, or no `nn.Module`.
    """
    found = DENOISERS[name]
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        raise BadInput(f"{name} is not a class of denoisers: it must be a subclass of torch.nn.Module")
    return found


def settings_of_wrapping(kind: Any) -> dict[str, tuple[Any, Any]]:
    """Type and default of the settings that a class of plain modules has beside its own."""
    if hasattr(kind, "for_task") or _takes_positions(kind) or "hidden_size" in inspect.signature(kind).parameters:
        return {}
    return {"hidden_size": (int | None, None)}


@in_float32()
def make_denoiser(name: str, task: Any, settings: dict[str, Any]) -> Any:
    """A fresh denoiser of a class for a task.

    Raises:
        BadInput: no such class, settings that it refuses, or one whose `for_task` makes no `Denoiser`.
    """
    kind = denoiser_class(name)
    if hasattr(kind, "for_task"):
        denoiser: Any = _made(name, lambda **given: kind.for_task(task, **given), settings)
    else:
        of_task = {"vocab_size": task.vocab_size, "mask_token_id": task.mask_token_id, "max_length": task.length,
                   "pad_token_id": task.pad_token_id}  # fmt: skip
        known = inspect.signature(kind).parameters
        own = {key: value for key, value in settings.items() if key not in settings_of_wrapping(kind)}
        arguments = {key: value for key, value in of_task.items() if key in known} | own
        denoiser = _made(name, kind, arguments)
        denoiser.made_of = arguments  # for `save_denoiser`
        if _no_denoiser(denoiser):
            size = {key: value for key, value in (of_task | settings).items() if key in _WRAPPING}
            return WrappedDenoiser(denoiser, **size, module_arguments=arguments)
    if reason := _no_denoiser(denoiser):
        raise BadInput(f"a {name} is not a denoiser: {reason}; see anyorder.Denoiser")
    return denoiser


def save_denoiser(denoiser: Any, folder: str | Path) -> None:
    """Write `config.json`, which names the class (unless it is `Transformer`), and `model.safetensors`.

    Raises:
        BadInput: the denoiser was not made by a recipe and has no `save_pretrained`, or its class cannot be found by name.
    """
    with written_as_a_whole(folder) as place:
        if hasattr(denoiser, "save_pretrained"):
            denoiser.save_pretrained(place)
            config = read_json(place / "config.json")
            if type(denoiser) is Transformer or "class" in config or {"model_type", "auto_map"} & config.keys():
                return
        elif hasattr(denoiser, "made_of"):
            config = denoiser.made_of
            save_weights(denoiser, place)
        else:
            raise BadInput(f"a {type(denoiser).__name__} cannot be saved: give it a method save_pretrained(folder)")
        write_json(place / "config.json", {"class": reference_of(denoiser), **config})


def read_denoiser(folder: Path) -> Any:
    """Inverse of `save_denoiser`, in eval mode. A class is made by its classmethod `from_config(config)` if it has one, else by
    its constructor.

    Raises:
        BadInput: the class is not installed here, or makes no denoisers.
        BadCheckpoint: a damaged configuration, weights that cannot be read or are not finite, or a configuration that asks for
            a far larger network than the weights are of.
    """
    place = folder / "config.json"
    try:
        config = parse_json(place.read_text(encoding="utf-8"))
    except UNLOADABLE as error:
        raise BadCheckpoint(f"{place} cannot be read: {first_line(error)}") from error
    if not isinstance(config, dict):
        raise BadCheckpoint(f"{place} is no configuration of a denoiser: it must hold an object, with names and values")
    name = config.pop("class", None)
    check_configuration(folder, config)
    if name is None and "architecture" in config:
        raise BadInput(f"{folder} holds an order policy, which is no denoiser: name the model, and the policy as its order")
    kind = Transformer if name is None else denoiser_class(str(name))
    try:
        with in_float32():
            denoiser: Any = with_weights(
                lambda: kind.from_config(config) if hasattr(kind, "from_config") else kind(**config),
                folder / "model.safetensors",
            )
    except BadInput:
        raise
    except UNLOADABLE as error:
        raise BadCheckpoint(f"{folder} holds no readable denoiser: {first_line(error)}") from error
    if reason := _no_denoiser(denoiser):
        raise BadInput(f"{folder} holds a {name}, which is not a denoiser: {reason}")
    if not hasattr(denoiser, "save_pretrained"):
        denoiser.made_of = config
    return denoiser.eval()


def denoiser_of_class(name: str, options: Mapping[str, Any], weights: str | Path | None = None) -> Any:
    """A denoiser of a class of the user's own, in eval mode; a module that returns plain logits is wrapped.

    Args:
        name: `package.module:Class`.
        options: arguments of the class, and of `WrappedDenoiser` if the class is not a denoiser.
        weights: a safetensors file with the weights of the class; None for fresh ones.

    Raises:
        BadInput: no such class, arguments that it does not take, no such file, or a module that cannot be wrapped.
        BadCheckpoint: weights that cannot be read, are not finite, or are those of another class.
    """
    kind = denoiser_class(name)
    known = inspect.signature(kind).parameters
    everything = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values())
    arguments = {k: value for k, value in options.items() if k not in _WRAPPING or k in known or everything}
    module = _made(name, kind, arguments)
    if weights is not None:
        _load_weights(module, Path(weights), name)
    reason = _no_denoiser(module)
    if reason is None:
        if unused := options.keys() - arguments.keys():
            raise BadInput(f"{name} takes no {', '.join(sorted(unused))}: leave it out")
        if not hasattr(module, "save_pretrained"):
            module.made_of = arguments
        return module.eval()
    size = {key: getattr(module, key) for key in _WRAPPING if hasattr(module, key) and key != "hidden_size"}
    size |= {key: options[key] for key in _WRAPPING if key in options}
    if missing := [key for key in ("mask_token_id", "vocab_size") if key not in size]:
        raise BadInput(f"{name} is not a denoiser: {reason}. To wrap it, give {' and '.join(missing)} as well")
    return WrappedDenoiser(module, **size, module_arguments=arguments).eval()


def _made(name: str, kind: Any, arguments: Mapping[str, Any]) -> Any:
    """A module of a class of the user's own, whose errors become `BadInput`."""
    try:
        return kind(**arguments)
    except AnyorderError:
        raise
    except Exception as error:  # whatever the class raises
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        more = "" if given else "; give its arguments to load_denoiser, or as --model-option NAME=VALUE"
        raise BadInput(f"{name} cannot be made from {given or 'no arguments'}: {first_line(error)}{more}") from error


def _load_weights(module: nn.Module, path: Path, name: str) -> None:
    if not path.is_file():
        raise BadInput(f"no such file: {path}")
    try:
        load_weights(module, path, wrapper="module.")  # as `WrappedDenoiser` saves them
    except UNLOADABLE as error:
        raise BadCheckpoint(f"{path} holds no weights of {name}: {_details(error)}") from error


def _details(error: Exception) -> str:
    """What is wrong with weights: the first line of an error, and the first detail behind it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shorten(" ".join(lines[:2]), 200) if lines else first_line(error)


def _no_denoiser(module: nn.Module) -> str | None:
    """Why a module is no `Denoiser`; None if it is one."""
    if missing := missing_attributes(module):
        return f"it has no {', '.join(missing)}"
    return None if _takes_positions(module) else "its forward does not take tokens, attention_mask and positions"


def _takes_positions(module: Any) -> bool:
    """Whether the `forward` of a module or of a class takes tokens, attention_mask and positions."""
    kinds = [parameter.kind for name, parameter in inspect.signature(module.forward).parameters.items() if name != "self"]
    return inspect.Parameter.VAR_POSITIONAL in kinds or kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD) >= 3
