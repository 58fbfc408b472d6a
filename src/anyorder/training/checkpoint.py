"""Checkpoints: one safetensors file each, written atomically, the last few kept. No pickle."""

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.optim import Optimizer

from anyorder.errors import AnyorderError, BadCheckpoint
from anyorder.files import parse_json, write_tensors
from anyorder.training.sharding import shard_like
from anyorder.weights import check_file

_PATTERN = re.compile(r"step-(\d{8})\.safetensors$")


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to continue: tensors by name, and plain values."""

    step: int
    tensors: dict[str, Tensor]
    values: dict[str, Any]


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any], keep: int) -> Path:
    """Write `folder/step-N.safetensors` with a checksum, then delete all but this one and the newest before it, `keep` in all:
    what is newer was passed over as damaged."""
    path = folder / f"step-{step:08d}.safetensors"
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    metadata = {"step": str(step), "values": json.dumps(values)}
    metadata["crc32"] = _checksum(plain, metadata)
    write_tensors(path, plain, metadata)
    others = list_checkpoints(folder)
    here = others.index(path) + 1
    for other in others[: max(0, here - keep)] + others[here:]:
        other.unlink(missing_ok=True)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint files, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _PATTERN.search(path.name))


def step_of(path: Path) -> int:
    """The step of a checkpoint file, by its name."""
    return int(path.stem.removeprefix("step-"))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint.

    Raises:
        BadCheckpoint: the file is truncated, damaged, or no checkpoint.
    """
    check_file(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if metadata.pop("crc32") != _checksum(tensors, metadata):
            raise ValueError("its checksum is that of other content")
        return Checkpoint(int(metadata["step"]), tensors, dict(parse_json(metadata["values"])))
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise BadCheckpoint(f"{path} is truncated, damaged, or not a checkpoint ({error})") from error


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Of names, types, shapes and numbers of tensors on the CPU, and of the metadata."""
    found = zlib.crc32(json.dumps(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        found = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), found)
        found = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"


def load_latest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest readable checkpoint, and a message for each newer one that was not readable.

    Raises:
        BadCheckpoint: there are checkpoints and none can be read.
    """
    problems: list[str] = []
    for path in reversed(list_checkpoints(folder)):
        try:
            return load_checkpoint(path), problems
        except BadCheckpoint as error:
            problems.append(str(error))
    if problems:
        raise BadCheckpoint(f"{problems[0]}; {folder} has no older checkpoint: delete it to start again")
    return None, []


def optimizer_tensors(optimizers: list[Optimizer]) -> dict[str, Tensor]:
    """The state of optimizers as named tensors."""
    tensors: dict[str, Tensor] = {}
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"optimizer.{number}.{index}.{key}"] = value if isinstance(value, Tensor) else torch.tensor(value)
    return tensors


def load_optimizer_tensors(optimizers: list[Optimizer], tensors: Mapping[str, Tensor]) -> None:
    """Inverse of `optimizer_tensors`."""
    for number, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        prefix = f"optimizer.{number}."
        for name, tensor in tensors.items():
            if name.startswith(prefix):
                index, key = name.removeprefix(prefix).split(".", 1)
                state.setdefault(int(index), {})[key] = shard_like(tensor, parameters[int(index)])
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def take(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under `prefix.`, with the prefix cut off."""
    found = {name.removeprefix(prefix + "."): t for name, t in tensors.items() if name.startswith(prefix + ".")}
    if not found:
        raise AnyorderError(f"the checkpoint has no part called {prefix!r}")
    return found
