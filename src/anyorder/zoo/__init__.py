"""Denoisers and their orders, by name (shipped with the package) or by folder.

A denoiser's folder holds `config.json`, `model.safetensors`, `task.json`, a card `README.md`, in `order/` the policy that was
fitted to it, and where undoing has a judge of its own, that in `order/judge/`. Models of Hugging Face go by hub id, by folder,
or by the name under which `anyorder fetch` obtained them; orders fitted to the latter are shipped as those of our own are.
"""

from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
from torch import nn

from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.denoisers.transformer import Transformer
from anyorder.errors import BadCheckpoint, BadInput, first_line
from anyorder.files import parse_json
from anyorder.hub import UNLOADABLE
from anyorder.orders.learned import LearnedOrder
from anyorder.tasks import Task, make_task
from anyorder.tasks.alphabets import ESM, alphabet_of, has_plain_vocabulary
from anyorder.zoo.fetch import fetched

M = TypeVar("M", bound=nn.Module)

MODELS = ("antiberty", "rxnmapper")
"""Denoisers that `anyorder fetch` obtains."""

SERVES = {"antiberty": "antibody"}
"""The task that a fetched denoiser is used for when nobody says otherwise."""


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
    if str(name) in MODELS:
        return fetched(str(name))
    known = ", ".join([*zoo_names(), *MODELS])
    raise BadInput(f"no denoiser called {str(name)!r}: give a folder that holds one, a hub id owner/name, or one of {known}")


def order_folder(name: str | Path) -> Path:
    """Where the order that was fitted to a denoiser is, if there is one."""
    shipped = Path(str(resources.files("anyorder.zoo"))) / str(name) / "order"
    return shipped if str(name) in [*zoo_names(), *MODELS] else Path(name) / "order"


def default_denoiser(task_name: str, options: dict[str, Any]) -> str:
    """The shipped denoiser for a task with these options."""
    wanted = make_task(task_name, **options)
    shipped = (name for name in zoo_names() if task_of(folder_of(name)).serves(wanted))
    fetched_ones = (name for name, served in SERVES.items() if served == task_name)
    for name in (*shipped, *fetched_ones):
        return name
    given = ", ".join(f"{key}={value}" for key, value in options.items())
    raise BadInput(
        f"no denoiser is shipped for {task_name} with {given or 'default options'}: give one with --denoiser, as a folder or a "
        "hub id"
    )


def task_of(folder: Path) -> Task:
    """The task that a denoiser was trained for."""
    name, options = saved_task(folder)
    return make_task(name, **options)


def saved_task(folder: Path) -> tuple[str, dict[str, Any]]:
    """Name and options of the task that a denoiser was trained for.

    Raises:
        BadInput: no `task.json`, or one that does not name a task.
    """
    path = folder / "task.json"
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
        return str(values["name"]), dict(values["options"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} does not say which task this denoiser is for: {first_line(error)}") from error


def load_denoiser(name: str | Path, *, trust_remote_code: bool = False, **options: Any) -> Transformer | HuggingFaceDenoiser:
    """A denoiser in eval mode, by shipped or fetched name, folder, or hub id.

    Args:
        name: where it is.
        trust_remote_code, options: of Hugging Face models, see `HuggingFaceDenoiser.from_pretrained`.

    Raises:
        BadInput: no such denoiser, or one that cannot be used. BadCheckpoint: weights that cannot be read.
    """
    denoiser = _open(name, trust_remote_code, options)
    denoiser.source = str(name)  # for `task_for`
    return denoiser


def _open(name: str | Path, trust_remote_code: bool, options: dict[str, Any]) -> Transformer | HuggingFaceDenoiser:
    if is_hub_id(name):
        found = HuggingFaceDenoiser.from_pretrained(str(name), trust_remote_code=trust_remote_code, **options)
        return _only_amino_acids(found, options)
    folder = folder_of(name)
    if not is_hugging_face(folder):
        if options:
            raise BadInput(f"{name} is no model of Hugging Face: it does not take {', '.join(options)}")
        return _load(Transformer, folder, "denoiser")
    if plain := has_plain_vocabulary(str(folder)):  # which says what is what
        symbols = alphabet_of(str(folder))
        special = set(range(symbols.vocab_size)) - symbols.symbols
        options = {"mask_token_id": symbols.mask_token_id, "forbid": special, **options}
    found = HuggingFaceDenoiser.from_pretrained(folder, trust_remote_code=trust_remote_code, **options)
    if plain:  # configurations of such models may name other tokens, or the same one twice
        found.pad_with(symbols.pad_token_id)
    return _only_amino_acids(found, options)


def _only_amino_acids(denoiser: HuggingFaceDenoiser, options: dict[str, Any]) -> HuggingFaceDenoiser:
    """ESM and DPLM know letters that are no amino acids (X, B, gaps); to their tokenizer these are no special tokens."""
    if speaks_esm(denoiser):
        denoiser.forbidden = set(range(ESM.vocab_size)) - ESM.symbols - set(options.get("allow", ()))
    return denoiser


def speaks_esm(denoiser: HuggingFaceDenoiser) -> bool:
    """Whether a model has the alphabet of ESM and DPLM."""
    kind = getattr(denoiser.model.config, "model_type", None)
    return (kind, denoiser.vocab_size, denoiser.mask_token_id) == ("esm", ESM.vocab_size, ESM.mask_token_id)


def is_hugging_face(folder: Path) -> bool:
    """Whether a folder holds a model of Hugging Face rather than one of ours."""
    try:
        config = parse_json((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadCheckpoint(f"{folder} holds no readable denoiser: {first_line(error)}") from error
    return isinstance(config, dict) and bool({"model_type", "auto_map"} & config.keys())


def is_hub_id(name: str | Path) -> bool:
    """Whether this is the id owner/name of a model on the hub, not a folder."""
    return isinstance(name, str) and name.count("/") == 1 and not name.startswith((".", "/")) and not Path(name).exists()


def _load(cls: type[M], folder: Path, what: str) -> M:
    """A module from `config.json` and `model.safetensors`, in eval mode (and without the hub's remarks on stdout)."""
    try:
        config = parse_json((folder / "config.json").read_text(encoding="utf-8"))
        module = cls(**config)
        module.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
    except UNLOADABLE as error:
        raise BadCheckpoint(f"{folder} holds no readable {what}: {first_line(error)}") from error
    return module.eval()


def load_order(folder: str | Path, denoiser: nn.Module | None = None, *, strict: bool = True) -> LearnedOrder:
    """A learned order from its folder (or the one that is shipped for a denoiser's name), on the denoiser's device.

    Args:
        folder: a policy's folder or hub id, or a denoiser's folder or shipped name whose `order/` is meant.
        denoiser: the denoiser it will be used with; its fingerprint must be the one that the policy remembers.
        strict: a mismatch is an error; otherwise a warning.

    Raises:
        BadInput: no policy there. BadCheckpoint: one that cannot be read.
        WrongDenoiser: the policy was fitted to another denoiser.
    """
    own = order_folder(folder)
    return LearnedOrder.from_pretrained(own if (own / "config.json").is_file() else folder, denoiser, strict=strict)
