"""A denoiser as the user asks for it in words: where it runs, how exactly, which revision of it."""

from collections.abc import Mapping
from typing import Any

import torch

from anyorder.denoisers.base import default_device
from anyorder.denoisers.huggingface import HuggingFaceDenoiser, load_transformers
from anyorder.denoisers.transformer import Transformer
from anyorder.errors import BadInput, first_line
from anyorder.zoo import load_denoiser

_QUANTISATIONS = ("4bit", "8bit")


def load_model(
    name: str, options: Mapping[str, Any] | None = None, *, trust_remote_code: bool = False
) -> Transformer | HuggingFaceDenoiser:
    """A denoiser in eval mode, where it is to run.

    Args:
        name: see `load_denoiser`.
        options: `device`, such as cuda:1 (the GPU by default, where there is one). And for models of Hugging Face `dtype`
            (bfloat16, float16, float32), `quantisation` (4bit or 8bit, by bitsandbytes), and what `from_pretrained` takes:
            `revision`, `mask_token_id`, `attn_implementation`, `cache_dir`, ...
        trust_remote_code: run the code that comes with the model.

    Raises:
        BadInput: no such model, or options that are not for it.
    """
    chosen = dict(options or {})
    device = _device(str(chosen.pop("device", default_device())))
    if "dtype" in chosen:
        chosen["dtype"] = _dtype(chosen["dtype"])
    quantisation = chosen.pop("quantisation", None)
    if quantisation is None:
        return load_denoiser(name, trust_remote_code=trust_remote_code, **chosen).to(device)
    if quantisation not in _QUANTISATIONS:
        raise BadInput(f"quantisation {quantisation!r} is unknown: use {' or '.join(_QUANTISATIONS)}")
    config = load_transformers("quantisation needs").BitsAndBytesConfig(**{f"load_in_{quantisation}": True})
    return load_denoiser(
        name, trust_remote_code=trust_remote_code, quantization_config=config, device_map={"": str(device)}, **chosen
    )


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BadInput(f"device {name!r} cannot be used: {first_line(error)}") from error
    return device


def _dtype(name: Any) -> torch.dtype:
    found = getattr(torch, str(name), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise BadInput(f"dtype {name!r} is unknown: use bfloat16, float16 or float32")
    return found
