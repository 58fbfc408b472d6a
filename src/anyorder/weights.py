"""Weights in safetensors files: how large a network may be that is made for them, and that all of them are finite.

A configuration that somebody else wrote may ask for a network of any size. So the number of weights is read from the header of
the file first, and a network that grows far beyond it is given up while it is made, before its memory is touched.
"""

import functools
import math
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_buffer_registration_hook, register_module_parameter_registration_hook

from anyorder.errors import BadCheckpoint, first_line

Module = TypeVar("Module", bound=nn.Module)

_FACTOR = 8
"""Tensors are registered anew when they are loaded or quantized, and tied ones are saved once."""

_FREE_TENSORS, _FREE_NUMBERS = 1000, 2**24
"""Buffers that are not saved, such as attention masks."""


def with_weights(make: Callable[[], Module], path: Path) -> Module:
    """The module that `make` gives, with the weights of a file.

    Raises:
        BadCheckpoint: no such file, a module that is far larger than it, or weights that are not finite.
        Any error of `make` and of `load_state_dict`.
    """
    with limited_to([path]):
        module = make()
    load_weights(module, path)
    return module


def load_weights(module: nn.Module, path: Path, wrapper: str = "") -> None:
    """Load a file into a module.

    Args:
        wrapper: a prefix that is left out if all names in the file begin with it.

    Raises:
        BadCheckpoint: no such file, one that is damaged, or weights that are not finite.
        Any error of `load_state_dict`.
    """
    check_file(path)
    with readable(path):
        weights = safetensors.torch.load_file(path)
    if wrapper and all(name.startswith(wrapper) for name in weights):
        weights = {name.removeprefix(wrapper): value for name, value in weights.items()}
    module.load_state_dict(weights)
    check_finite(module, path)


def check_file(path: Path) -> None:
    """Raise BadCheckpoint unless this is a regular file: reading a FIFO would wait forever."""
    if not path.is_file():
        raise BadCheckpoint(f"{path} is {'no regular file' if path.exists() else 'missing'}")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raise BadCheckpoint where safetensors cannot read this file."""
    try:
        yield
    except safetensors.SafetensorError as error:
        raise BadCheckpoint(f"{path} is damaged or was cut off: {first_line(error)}") from error


def check_finite(module: nn.Module, where: str | Path) -> None:
    """Raise BadCheckpoint if a parameter of a module is not finite, or a buffer is NaN."""
    bad = first_not_finite(dict(module.named_parameters()))
    bad = bad or next((name for name, buffer in module.named_buffers() if _bounds_are(math.isnan, buffer)), None)
    if bad:
        raise BadCheckpoint(
            f"the tensor {bad} of {where} is not finite (NaN or infinite): take weights from before training diverged"
        )


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or an infinite number; None if there is none."""
    return next((name for name, tensor in tensors.items() if _bounds_are(lambda bound: not math.isfinite(bound), tensor)), None)


def _bounds_are(condition: Callable[[float], bool], tensor: Tensor) -> bool:
    """Whether the condition holds for the smallest or the largest number of a float tensor; both are NaN if any number is."""
    if not tensor.is_floating_point() or tensor.itemsize == 1 or tensor.is_meta or not tensor.numel():
        return False
    low, high = torch.aminmax(tensor.detach())
    return condition(low.item()) or condition(high.item())


class _Limit:
    """How large a network may be whose weights are in these files; unlimited if there are none."""

    def __init__(self, files: list[Path]) -> None:
        held = [math.prod(shape) for path in files for shape in _shapes(path)]
        self.files, self.tensors, self.numbers = files, len(held), sum(held)

    def check(self, tensors: int, numbers: int) -> None:
        most, largest = _FACTOR * self.tensors + _FREE_TENSORS, _FACTOR * self.numbers + _FREE_NUMBERS
        if self.files and (tensors > most or numbers > largest):
            asked = f"a network of {numbers:,} numbers in {tensors:,} tensors or more"
            raise BadCheckpoint(
                f"the configuration in {self.files[0].parent} asks for {asked}, and the weights are {self.numbers:,} in "
                f"{self.tensors:,}: they do not belong together"
            )


@contextmanager
def limited_to(files: Iterable[Path] | Callable[[], Iterable[Path]]) -> Iterator[None]:
    """Within the body, this thread makes no modules of far more or larger tensors than these files hold, if there are any.

    Args:
        files: the files, or a function that gives them when the first tensor is made, for files that the body fetches.

    Raises:
        BadCheckpoint: no such file, or a damaged one; in the body, too many or too large tensors.
    """
    limit = functools.cache(lambda: _Limit(list(files() if callable(files) else files)))
    if not callable(files):
        limit()
    thread, seen = threading.get_ident(), [0, 0]

    def count(_module: nn.Module, name: str, tensor: Any) -> None:
        if threading.get_ident() == thread and isinstance(tensor, Tensor) and not nn.parameter.is_lazy(tensor):
            seen[:] = seen[0] + 1, seen[1] + tensor.numel()
            limit().check(*seen)

    hooks = [register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def weight_files(folder: Path) -> list[Path]:
    """The files of a Hugging Face model whose weights are counted without reading them: safetensors, or else torch's `.bin`."""
    return sorted(folder.glob("*.safetensors")) or [path for path in sorted(folder.glob("*.bin")) if _can_be_counted(path)]


def _can_be_counted(path: Path) -> bool:
    check_file(path)
    return zipfile.is_zipfile(path)


def _shapes(path: Path) -> list[list[int]]:
    """The shapes of the tensors of a file, from its header; of a `.bin` file, which has none, the bytes of each storage."""
    check_file(path)
    if path.suffix == ".bin":
        with zipfile.ZipFile(path) as archive:
            return [[entry.file_size] for entry in archive.infolist() if "/data/" in entry.filename]
    with readable(path), safetensors.safe_open(path, framework="pt") as file:
        return [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 (not a mapping)
