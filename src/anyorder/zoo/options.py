"""Device, dtype and quantization of a denoiser, from text."""

from typing import Any

import torch

from anyorder.denoisers.base import default_device
from anyorder.denoisers.loading import load_transformers
from anyorder.errors import BadInput, first_line


def as_device(name: str | torch.device | None) -> torch.device:
    """A device that can be used; the GPU if there is one when None.

    Raises:
        BadInput: no such device here.
    """
    try:
        device = torch.device(default_device() if name is None else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise BadInput(f"device {str(name)!r} cannot be used: {first_line(error)}") from error
    return device


def as_dtype(name: str | torch.dtype | None) -> torch.dtype | None:
    """A floating-point type by its name in torch.

    Raises:
        BadInput: no such type.
    """
    if name is None:
        return None
    found = name if isinstance(name, torch.dtype) else getattr(torch, str(name), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise BadInput(f"dtype {str(name)!r} is unknown: use bfloat16, float16 or float32")
    return found


def quantized(kind: str, device: torch.device) -> dict[str, Any]:
    """Arguments of `from_pretrained` for weights in 4 or 8 bits, by bitsandbytes.

    Raises:
        BadInput: another kind, or a package that is missing.
    """
    if kind not in ("4bit", "8bit"):
        raise BadInput(f"quantization {kind!r} is unknown: use 4bit or 8bit")
    config = load_transformers("quantization needs").BitsAndBytesConfig(**{f"load_in_{kind}": True})
    return {"quantization_config": config, "device_map": {"": str(device)}}
