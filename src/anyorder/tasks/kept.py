"""Generated problems that are kept in a file, so that they are generated once."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from anyorder.errors import BadInput, first_line
from anyorder.files import write_tensors
from anyorder.tasks.instances import Instances


def kept(path: Path, make: Callable[[], Instances]) -> Instances:
    """The problems in a file, or those that `make` returns, which are written to it.

    Raises:
        BadInput: the file holds something else. AnyorderError: it cannot be written.
    """
    if path.exists():
        return _read(path)
    found = make()
    tensors = {"tokens": found.tokens.int(), "maskable": found.maskable}
    if found.x0 is not None:
        tensors["x0"] = found.x0.int()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, tensors, {"labels": json.dumps({name: values.tolist() for name, values in found.labels.items()})})
    return found


def _read(path: Path) -> Instances:
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            labels = {name: np.array(values) for name, values in json.loads(file.metadata()["labels"]).items()}
        x0: torch.Tensor | None = tensors["x0"].long() if "x0" in tensors else None
        return Instances(tensors["tokens"].long(), tensors["maskable"], x0, labels)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path} holds no kept problems ({first_line(error)}): delete it, and they are made again") from error
