"""Denoisers and their orders, by name (shipped with the package) or by folder.

A denoiser's folder holds `config.json`, `model.safetensors`, `task.json`, a card `README.md`, in `order/` the policy that was
fitted to it, and in `order/critic/` the critic if that is a separate network. Hugging Face models are named by hub id, by
folder, or by the name under which `anyorder fetch` obtained them; orders fitted to the latter are shipped as well.
"""

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anyorder.denoisers.base import move
from anyorder.denoisers.classes import denoiser_of_class, read_denoiser
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.denoisers.unsupported import check_adapter
from anyorder.errors import BadCheckpoint, BadInput, first_line
from anyorder.files import cache_folder, parse_json
from anyorder.orders.learned import LearnedOrder
from anyorder.registry import DENOISERS
from anyorder.signatures import checked
from anyorder.tasks import Task, make_task
from anyorder.tasks.alphabets import ALPHABETS, ESM, Symbols, alphabet_of, has_plain_vocabulary
from anyorder.tasks.residues import residues_of
from anyorder.weights import check_file
from anyorder.zoo.fetch import fetched
from anyorder.zoo.options import as_device, as_dtype, quantized

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
    if match := re.fullmatch(r"([A-Za-z_]\w*)((?:\.\w+)*):\w+", str(name)):
        raise BadInput(f"{name} names a class, but there is no package {match[1]}: install it, or put its folder on PYTHONPATH")
    check_adapter(Path(name))
    if Path(name).exists():
        kind = "no config.json" if Path(name).is_dir() else "it is a file"
        raise BadInput(f"{name} holds no denoiser ({kind}): give the folder that holds config.json and the weights")
    known = ", ".join([*zoo_names(), *MODELS])
    raise BadInput(f"no denoiser called {str(name)!r}: give a folder that holds one, a hub id owner/name, or one of {known}")


def order_folder(name: str | Path) -> Path:
    """The folder of the order that was fitted to a denoiser, if there is one."""
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
        f"no denoiser is shipped for {task_name} with {given or 'default options'}: give one with --model, as a folder or a "
        "hub id"
    )


def task_of(folder: Path, **given: Any) -> Task:
    """The task that a denoiser was trained for.

    Args:
        folder: of the denoiser.
        given: options in place of the saved ones.

    Raises:
        BadInput: it is not known, or would fetch something from the hub, which only a user may ask for.
    """
    name, options = saved_task(folder)
    options |= given
    if "alphabet" not in given and (hub := alphabet_elsewhere(options)):
        raise BadInput(
            f"{folder / 'task.json'} asks for the alphabet of {hub!r}, which is not here: give the alphabet yourself "
            f"(--task-option alphabet={hub}), or a folder that holds it"
        )
    return make_task(name, **options)


def alphabet_elsewhere(options: Mapping[str, Any]) -> str:
    """The name of the model on the hub that options of a task would read an alphabet from; "" if there is none."""
    name = options.get("alphabet")
    here = not isinstance(name, str) or name in ALPHABETS or Path(name).is_dir() or (cache_folder() / name).is_dir()
    return "" if here else str(name)


def saved_task(folder: Path) -> tuple[str, dict[str, Any]]:
    """Name and options of the task that a denoiser was trained for.

    Raises:
        BadInput: no `task.json`, or one that does not name a task.
    """
    path = folder / "task.json"
    try:
        check_file(path)
        values = parse_json(path.read_text(encoding="utf-8"))
        return str(values["name"]), dict(values["options"])
    except (BadCheckpoint, OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} does not say which task this denoiser is for: {first_line(error)}") from error


def load_denoiser(
    name: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    quantization: str | None = None,
    weights: str | Path | None = None,
    trust_remote_code: bool = False,
    **options: Any,
) -> Any:
    """A denoiser in eval mode, by shipped or fetched name, folder, hub id, or the class of a module of your own.

    Args:
        name: where it is: a name that `anyorder list` shows, a folder, a hub id `owner/name`, or `package.module:Class`.
        device: where it runs, such as "cuda:1"; by default the GPU if there is one.
        dtype: type of its weights: bfloat16, float16 or float32; by default as they are saved.
        quantization: "4bit" or "8bit", by bitsandbytes, for Hugging Face models.
        weights: a safetensors file with the weights of `package.module:Class`; fresh ones by default.
        trust_remote_code: run the code that comes with a model of Hugging Face.
        options: options of Hugging Face models, see `HuggingFaceDenoiser.from_pretrained`: revision, mask_token_id,
            attn_implementation, cache_dir, ...; or arguments of `package.module:Class`, and of `WrappedDenoiser` if it is a
            class of modules that return plain logits: mask_token_id, vocab_size, hidden_size, pad_token_id.

    Returns:
        A denoiser. Its attribute `source` is the name, and `own_order` the folder of the order that was fitted to it, if any.

    Raises:
        BadInput: no such denoiser, or options that are not for it. BadCheckpoint: weights that cannot be read.
    """
    if not isinstance(name, str | Path):
        raise BadInput(f"a {type(name).__name__} is no name of a denoiser: wrap a loaded model with HuggingFaceDenoiser")
    where, kind = as_device(device), as_dtype(dtype)
    denoiser: Any
    if quantization is not None and (is_class(name) or is_ours(name)):
        raise BadInput(f"quantization is for Hugging Face models, and {name} is not one: leave it out")
    if is_class(name):
        denoiser = denoiser_of_class(str(name), options, weights).to(where)
    else:
        if weights is not None:
            raise BadInput(f"weights= is for a class, package.module:Class, and {name} is not one")
        if kind is not None and not is_ours(name):
            options["dtype"] = kind
        if quantization is not None:
            options |= quantized(quantization, where)
        denoiser = _open(name, trust_remote_code, options)
        if quantization is None:
            move(denoiser, where)
    if kind is not None and quantization is None:
        denoiser = denoiser.to(kind)
    denoiser.source = str(name)  # for `task_for`
    own = order_folder(name)
    denoiser.own_order = str(own) if (own / "config.json").is_file() else ""
    return denoiser


def _open(name: str | Path, trust_remote_code: bool, options: dict[str, Any]) -> Any:
    if is_hub_id(name):
        found = HuggingFaceDenoiser.from_pretrained(str(name), trust_remote_code=trust_remote_code, **options)
        return _only_amino_acids(found, options)
    folder = folder_of(name)
    if not is_hugging_face(folder):
        if options:
            raise BadInput(f"{name} is not a model of Hugging Face: it does not take {', '.join(options)}")
        return read_denoiser(folder)
    if plain := has_plain_vocabulary(str(folder)):  # which says what is what
        symbols = alphabet_of(str(folder))
        special = set(range(symbols.vocab_size)) - symbols.symbols
        options = {"mask_token_id": symbols.mask_token_id, "forbid": special, **options}
    found = HuggingFaceDenoiser.from_pretrained(folder, trust_remote_code=trust_remote_code, **options)
    if plain:  # configurations of such models may name other tokens, or the same one twice
        found.pad_with(symbols.pad_token_id)
    return _only_amino_acids(found, options)


def _only_amino_acids(denoiser: HuggingFaceDenoiser, options: dict[str, Any]) -> HuggingFaceDenoiser:
    """Restrict ESM and DPLM to amino acids: their tokenizer has letters for others (X, B, gaps) that are not special tokens."""
    if (alphabet := _protein_alphabet(denoiser)) is not None:
        denoiser.forbidden = set(range(alphabet.vocab_size)) - alphabet.symbols - set(options.get("allow", ()))
    return denoiser


def speaks_esm(denoiser: HuggingFaceDenoiser) -> bool:
    """Whether a model reads proteins, one token per residue: ESM, DPLM, ESMC and others with such a tokenizer."""
    return _protein_alphabet(denoiser) is not None


def _protein_alphabet(denoiser: HuggingFaceDenoiser) -> Symbols | None:
    kind = getattr(denoiser.model.config, "model_type", None)
    if (kind, denoiser.vocab_size, denoiser.mask_token_id) == ("esm", ESM.vocab_size, ESM.mask_token_id):
        return ESM
    return residues_of(denoiser.tokenizer, denoiser.vocab_size)


def is_hugging_face(folder: Path) -> bool:
    """Whether a folder holds a model of Hugging Face rather than one of ours."""
    try:
        config = parse_json((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadCheckpoint(f"{folder / 'config.json'} cannot be read: {first_line(error)}") from error
    return isinstance(config, dict) and bool({"model_type", "auto_map"} & config.keys())


def is_hub_id(name: str | Path) -> bool:
    """Whether this is the id owner/name of a model on the hub, not a folder."""
    return isinstance(name, str) and name.count("/") == 1 and not name.startswith((".", "/")) and not Path(name).exists()


def is_ours(name: str | Path) -> bool:
    """Whether a name or folder is a denoiser that this library trained."""
    return not is_hub_id(name) and not is_class(name) and not is_hugging_face(folder_of(name))


def is_class(name: str | Path) -> bool:
    """Whether this is `package.module:Class`, not a shipped name or a folder."""
    return not Path(name).exists() and DENOISERS.is_reference(str(name))


@checked("folder", "denoiser")
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


from anyorder.zoo.matching import task_for as task_for  # noqa: E402  # it needs the names above
