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


def kept(path: Path, make: Callable[[], Instances], made_of: object = None) -> Instances:
    """The problems in a file, or those that `make` returns, which are written to it.

    Args:
        made_of: plain values that tell these problems from others, which are written too.

    Raises:
        BadInput: the file holds something else, or problems that were made of other values. AnyorderError: it cannot be
            written.
    """
    mark = json.dumps(made_of, sort_keys=True)
    if path.exists():
        found, known = _read(path)
        if made_of is not None and known not in ("", mark):
            raise BadInput(f"{path} keeps other problems, made of {known}, and these are of {mark}: name another file")
        return found
    found = make()
    tensors = {"tokens": found.tokens.int(), "maskable": found.maskable}
    if found.x0 is not None:
        tensors["x0"] = found.x0.int()
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = json.dumps({name: values.tolist() for name, values in found.labels.items()})
    write_tensors(path, tensors, {"labels": labels} | ({} if made_of is None else {"made_of": mark}))
    return found


def _read(path: Path) -> tuple[Instances, str]:
    """The problems, and what they were made of ("" in older files)."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            facts = file.metadata()
            labels = {name: np.array(values) for name, values in json.loads(facts["labels"]).items()}
        x0: torch.Tensor | None = tensors["x0"].long() if "x0" in tensors else None
        return Instances(tensors["tokens"].long(), tensors["maskable"], x0, labels), facts.get("made_of", "")
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path} holds no kept problems ({first_line(error)}): delete it, and they are made again") from error
