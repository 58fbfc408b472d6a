"""A CUDA device for machines without one.

`with fake_cuda(): ...` makes `torch.cuda` say that there is one GPU. Tensors on it live in CPU memory, but mixing them with CPU
tensors, or handing them to numpy, raises what CUDA raises. Numbers are the CPU's. At the end everything is as it was. It finds
mistakes about devices, and says nothing about speed, precision or the random numbers of a GPU.

How it works: an `OnDevice` is a CPU tensor to C++ and "cuda:0" to Python. `_FakeCuda` handles calls that name a device (`.to`,
`.cuda`, `.cpu`, `device=`, generators), and the dispatch of `OnDevice` all others.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from anyorder.denoisers import transformer

CUDA, CPU = torch.device("cuda:0"), torch.device("cpu")
TO_NUMPY = "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
TWO_DEVICES = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
INDEX = "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
GENERATOR = "Expected a '{}' device type for generator but found '{}'"

_INDEXING = ("aten.index.", "aten.index_put", "aten._index_put_impl_.", "aten._unsafe_index")
"""Operations that take the indices of a CUDA tensor from the CPU."""
_NO_NUMBERS = ("aten.cat.", "aten.stack.", "aten.gather.", "aten.scatter", "aten.index_select.", "aten.index_add",
               "aten.embedding.", "aten.masked_scatter", "aten.masked_select.")  # fmt: skip
"""Operations that take no CPU tensor without dimensions in place of a number."""
_BLIND = ("one_hot", "new_tensor")
"""Functions whose C++ code makes a tensor on the device that it sees, the CPU."""
_CpuGenerator, _Autocast, _is_autocast_enabled = torch.Generator, torch.autocast, torch.is_autocast_enabled


class OnDevice(Tensor):
    """A tensor of the fake device; `inner` holds its numbers."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl
    device, is_cuda, is_cpu = CUDA, True, False  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnDevice":
        made: OnDevice = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype, device="cpu"
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _dispatch(function, args, kwargs or {})

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(TO_NUMPY)

    __array__ = numpy

    def tolist(self) -> Any:
        return self.inner.detach().tolist()

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def untyped_storage(self) -> Any:
        return self.inner.untyped_storage()

    def get_device(self) -> int:
        return 0

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"{self.inner} on cuda:0"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = OnDevice(self.inner.detach().clone())
        if isinstance(self, torch.nn.Parameter):
            return torch.nn.Parameter(copied, self.requires_grad)
        return copied.requires_grad_(self.requires_grad)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return OnDevice, (self.inner.detach(),)


class Generator(_CpuGenerator):
    """A generator that knows for which device it was made. It gives the CPU's numbers on both."""

    made_for: torch.device

    def __new__(cls, device: Any = "cpu") -> "Generator":
        made = super().__new__(cls, "cpu")
        made.made_for = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.made_for


class Autocast(_Autocast):
    """Autocast for the device is that of the CPU."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if _is_cuda(device_type) else device_type, *args, **kwargs)


def _autocast_enabled(device_type: str = "cuda") -> bool:
    return _is_autocast_enabled("cpu" if _is_cuda(device_type) else device_type)


def _dispatch(function: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Run an operation that was given a device tensor, if CUDA would."""
    name, tensors = str(function), [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    copies = name.startswith("aten.copy_.")
    if not copies:
        _check(name, args, tensors)
    here = {id(tensor.inner): tensor for tensor in tensors if isinstance(tensor, OnDevice)}
    out = function(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    return args[0] if copies else tree_map(lambda o: here.get(id(o), OnDevice(o)) if type(o) is Tensor else o, out)


def _check(name: str, args: tuple, tensors: list[Tensor]) -> None:
    """Raise what CUDA raises if tensors of both devices meet."""
    on_cpu = [t for t in tensors if not isinstance(t, OnDevice)]
    if name.startswith(_INDEXING):
        if not isinstance(args[0], OnDevice):
            raise RuntimeError(INDEX)
        on_cpu = [t for t in args[2:3] if isinstance(t, Tensor) and not isinstance(t, OnDevice)]  # the values that are put
    written = name.split(".")[1].endswith("_") and isinstance(args[0], Tensor) and not isinstance(args[0], OnDevice)
    if written or any(t.dim() or name.startswith(_NO_NUMBERS) for t in on_cpu):
        raise RuntimeError(f"{TWO_DEVICES} ({name})")


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, OnDevice) else value


class _ToDevice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return OnDevice(x.detach().clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return _inner(gradient)


class _ToCpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: OnDevice) -> Tensor:
        return x.inner.detach().clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient if isinstance(gradient, OnDevice) else OnDevice(gradient)


def _type_of(device: Any) -> str:
    named = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    if named.type == "cuda" and named.index not in (None, 0):
        raise RuntimeError("CUDA error: invalid device ordinal")
    return named.type


def _is_cuda(device: Any) -> bool:
    return _type_of(device) == "cuda"


def _moved(x: Tensor, device: Any) -> Tensor:
    if device is None or x.is_meta or _type_of(device) == x.device.type:
        return x
    if _type_of(device) == "meta":
        return torch.empty_like(_inner(x), device="meta")
    found: Tensor = (_ToDevice if _is_cuda(device) else _ToCpu).apply(x)
    return found


def _to(x: Tensor, *rest: Any, device: Any = None, dtype: torch.dtype | None = None, copy: bool = False, **_: Any) -> Tensor:
    """`Tensor.to`."""
    for given in rest:
        if isinstance(given, torch.dtype):
            dtype = given
        elif isinstance(given, Tensor):
            device, dtype = given.device, given.dtype
        elif isinstance(given, str | torch.device) or (isinstance(given, int) and not isinstance(given, bool)):
            device = given
    found = _moved(x, device)
    if dtype not in (None, x.dtype):
        found = found.type(dtype)
    return found.clone() if copy and found is x else found


class _FakeCuda(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(function, "__name__", "")
        if name in ("cuda", "cpu", "to") and args and isinstance(args[0], Tensor):
            return _to(*args, **kwargs) if name == "to" else _moved(args[0], name)
        if name in _BLIND and isinstance(args[0], OnDevice):
            return _moved(function(args[0].inner, *args[1:], **kwargs), kwargs.get("device", CUDA))
        if name in ("tensor", "as_tensor") and isinstance(args[0], list | tuple):
            args = (tree_map(lambda v: v.tolist() if isinstance(v, OnDevice) else v, args[0]), *args[1:])
        device, generator = kwargs.get("device"), kwargs.get("generator")
        if isinstance(generator, Generator):
            _check_generator(generator, device, args)
        if device is None or isinstance(device, Tensor) or _type_of(device) == "meta":
            return function(*args, **kwargs)
        out = function(*args, **{**kwargs, "device": "cpu"})
        return tree_map(lambda o: _moved(o, device) if isinstance(o, Tensor) else o, out)


def _check_generator(generator: Generator, device: Any, args: tuple) -> None:
    """Raise unless it is of the device where the random numbers go."""
    given = next((value.device for value in args if isinstance(value, Tensor)), CPU)
    where = given.type if device is None else _type_of(device)
    if generator.device.type != where:
        raise RuntimeError(GENERATOR.format(where, generator.device.type))


_ANSWERS = {
    "torch.cuda": {
        "_lazy_init": None, "is_available": True, "device_count": 1, "current_device": 0, "is_bf16_supported": True,
        "manual_seed_all": None, "manual_seed": None, "set_device": None, "synchronize": None, "empty_cache": None,
        "get_rng_state_all": [], "set_rng_state_all": None, "get_device_name": "fake", "get_device_capability": (9, 0),
    },
    "torch.accelerator": {
        "is_available": True, "current_accelerator": CUDA, "device_count": 1,
        "current_stream": mock.Mock(is_capturing=lambda: False),
    },
}  # fmt: skip
"""What functions of torch say about the device."""


def forget_accelerate() -> None:
    """accelerate keeps the device that it found first."""
    from accelerate.state import AcceleratorState, PartialState

    AcceleratorState._reset_state(True)
    PartialState._reset_state()


@contextmanager
def _swapped_parameters() -> Iterator[None]:
    """Parameters of a module that is moved stay the objects that optimizers hold, as on a GPU."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


@contextmanager
def fake_cuda() -> Iterator[None]:
    """A GPU for what runs inside, in this thread."""
    with ExitStack() as stack:
        stack.enter_context(
            mock.patch.multiple(torch, Generator=Generator, autocast=Autocast, is_autocast_enabled=_autocast_enabled)
        )
        stack.enter_context(mock.patch.object(transformer, "IN_FLOAT32", ("cpu", "cuda")))  # its kernels are the CPU's
        for place, answers in _ANSWERS.items():
            for name, value in answers.items():
                stack.enter_context(mock.patch(f"{place}.{name}", return_value=value))
        stack.enter_context(_swapped_parameters())
        forget_accelerate()
        stack.callback(forget_accelerate)
        with _FakeCuda():
            yield
