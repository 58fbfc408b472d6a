"""Models that predict tokens but do not fill masks as a `Denoiser` does. Each is refused with one sentence that says why."""

import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anyorder.errors import BadInput

_UNIFORM = {
    "model_type": {"udlm", "duo"},
    "graph.type": {"uniform"},
    "diffusion": {"uniform"},
    "algo.name": {"duo", "duo_base"},
}
"""Entries of configurations of uniform-state models, in lower case: UDLM and DUO on the hub, SEDD, the code of UDLM and DUO."""

_GIDD_MASKS_ONLY = -100.0
"""GIDD mixes uniform noise and masks with the weight sigmoid(log SNR + `noise_type`). Its masked models have -1000."""

NEEDS_BLOCKS = "needs a block-causal attention mask: give block_length, the number of positions per block it was trained with"

_CAUSAL = (
    "is a causal model: it has no mask token, and a position does not see what stands behind it. Use a model for masked tokens "
    "(*ForMaskedLM, LLaDA, Dream)"
)
_CAUSAL_NAMES = ("CausalLM", "LMHeadModel")

_TIMES = ("timesteps", "timestep", "sigma")
"""Arguments by which a model reads the time of the diffusion."""


def check_configuration(name: object, config: Any) -> None:
    """Raise BadInput if a configuration is that of a model that fills no masks.

    Args:
        name: of the model, for the message.
        config: a mapping, as `config.json` holds it, or an object.
    """
    if marker := _uniform(config):
        raise BadInput(
            f"{name} is a uniform-state diffusion model ({marker}): its noise replaces tokens by random ones, so no mask token "
            "says which positions are to be filled. Use a model of masked (absorbing-state) diffusion"
        )


def check_adapter(folder: Path) -> None:
    """Raise BadInput if a folder holds an adapter (PEFT): its model may be anywhere, which only a user may ask for."""
    if (folder / "adapter_config.json").is_file():
        raise BadInput(
            f"{folder} holds an adapter (PEFT), which is no complete model: load its model, add the adapter with "
            "peft.PeftModel.from_pretrained, and wrap that with HuggingFaceDenoiser; or save model.merge_and_unload()"
        )


def check_forward(model: nn.Module) -> None:
    """Raise BadInput if the `forward` of a model takes the time of the diffusion."""
    times = [name for name in inspect.signature(model.forward).parameters if name in _TIMES]
    if times:
        raise BadInput(
            f"{type(model).__name__} reads the time of the diffusion ({times[0]}), which nobody passes here: write a module "
            f"whose forward(tokens) calls it with {times[0]}, and wrap that with WrappedDenoiser"
        )


def check_type(name: object, config: Any) -> None:
    """Raise BadInput if a configuration is one of transformers itself, which has a causal model for it and none for masked
    tokens."""
    known = sys.modules.get("transformers.models.auto.modeling_auto")  # without it, the model is none of transformers
    if known is None or getattr(config, "auto_map", None):
        return
    causal = known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() - known.MODEL_FOR_MASKED_LM_MAPPING_NAMES.keys()
    if getattr(config, "model_type", "") in causal:
        raise BadInput(f"{name} {_CAUSAL}")


@torch.no_grad()
def check_causal(model: nn.Module, logits_of: Callable[[Tensor], Tensor], device: torch.device) -> None:
    """Raise BadInput if a model with the name of a causal one is one: its first logits do not depend on the last token.
    Models of masked diffusion may have such a name as well.

    Args:
        model: the model.
        logits_of: gives its logits (1, L, V) for tokens (1, L).
        device: where the tokens are made.
    """
    if not type(model).__name__.endswith(_CAUSAL_NAMES):
        return
    tokens = torch.zeros(1, 4, dtype=torch.int64, device=device)
    other = tokens.clone()
    other[:, -1] = 1
    if torch.equal(logits_of(tokens)[:, :-2], logits_of(other)[:, :-2]):
        raise BadInput(f"{type(model).__name__} {_CAUSAL}")


def _uniform(config: Any) -> str:
    """The entry that says that noise replaces tokens instead of masking them; "" if there is none."""
    for key, values in _UNIFORM.items():
        if (found := _entry(config, key)) in values:
            return f"{key} {found!r}"
    if (share := _number(config, "p_uniform")) > 0:
        return f"p_uniform {share:g}"
    kind = _number(config, "noise_type")
    return f"noise_type {kind:g}" if _entry(config, "model_type") == "gidd" and kind > _GIDD_MASKS_ONLY else ""


def _entry(config: Any, key: str) -> str:
    """An entry of a configuration in lower case, or of one within it (`graph.type`); "" where it holds no text."""
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else getattr(config, part, None)
    return config.lower() if isinstance(config, str) else ""


def _number(config: Any, key: str) -> float:
    value = config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)
    return float(value) if isinstance(value, int | float) else 0.0
