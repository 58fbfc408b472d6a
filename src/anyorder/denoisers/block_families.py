"""Hugging Face models of block diffusion: LLaDA2, SDAR and TraDo, Fast-dLLM v2, BD3LM. What their configurations say, and how
their code is called.

The code of LLaDA2 takes an additive mask (B, 1, L, L) and nothing else, SDAR's a mask that it converts to bool, Fast-dLLM v2
and BD3LM make their own. So the form is not told from a name: a model is tried once, and used in the first form in which a
block sees itself and nothing behind.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from anyorder.denoisers.blocks import as_bias, block_causal_mask, block_numbers, breach, check_block_length, probe
from anyorder.denoisers.families import model_type
from anyorder.errors import BadInput, first_line

_KEYS = ("block_length", "block_size", "bd_size")
"""Entries of a configuration that name the positions per block, the first that is there."""


@dataclass(frozen=True)
class _Family:
    """Models that were published with a block-causal mask: the positions per block and the mask token that their own code takes
    where the configuration names none."""

    block_length: int | None = None
    mask_token_id: int | None = None


_FAMILIES = {
    "llada2_moe": _Family(32, 156895),
    "sdar": _Family(None, 151669),
    "sdar_moe": _Family(None, 151669),
    "fast_dllm_qwen": _Family(32, 151665),
    "bd3lm": _Family(),
}


def is_block_causal(config: Any) -> bool:
    """Whether models with this configuration were trained with a block-causal mask."""
    return model_type(config) in _FAMILIES


def named_block_length(config: Any) -> int | None:
    """Positions per block that the configuration of a block-causal model names; None for none, and for other models."""
    if not is_block_causal(config):
        return None
    found = (getattr(config, key, None) for key in _KEYS)
    return next((int(value) for value in found if value), None)


def block_length_for(name: str, config: Any, given: int | None) -> int | None:
    """Positions per block of a model: as given, as named, or as published; None for one that sees both sides.

    Raises:
        BadInput: a block-causal model of which it is not known.
    """
    check_block_length(given)
    if given is not None or not is_block_causal(config):
        return given
    found = named_block_length(config) or _FAMILIES[model_type(config)].block_length
    if found is None:
        raise BadInput(
            f"{name} has a block-causal attention mask, and its configuration does not name the length of a block: give "
            "block_length, the number that it was trained with (4 for SDAR-8B-Chat, see the model's card)"
        )
    return found


def published_mask(config: Any) -> int | None:
    """The mask token of a block-causal model where neither tokenizer nor configuration names it; None if it is not known."""
    if not is_block_causal(config):
        return None
    size = int(getattr(config, "vocab_size", 0))
    token = size - 1 if model_type(config) == "bd3lm" else _FAMILIES[model_type(config)].mask_token_id
    return token if token is not None and 0 <= token < size else None


def reads_no_time(config: Any) -> bool:
    """Whether a model takes the time of the diffusion and does not read it: BD3LM without `time_conditioning`."""
    return model_type(config) == "bd3lm" and not getattr(config, "time_conditioning", False)


class BlockInputs:
    """How a block-causal model is called.

    Args:
        model: of Hugging Face.
        block_length: positions per block.
        form: "bias" or "bool", a mask (B, 1, L, L) of this kind; "own", the model makes it.
    """

    def __init__(self, model: nn.Module, block_length: int, form: str) -> None:
        self.model, self.block_length, self.form = model, block_length, form
        self.takes = set(inspect.signature(model.forward).parameters)

    def __call__(self, tokens: Tensor, attention_mask: Tensor | None, columns_alone: bool) -> dict[str, Any]:
        """Arguments of the model's `forward` besides tokens and position ids: from tokens (B, L), the attention mask (B, L) or
        None, and whether some columns alone are computed within `AttentionStore.part`, whose own masks are then used."""
        if self.form == "own":
            return self._own(tokens, attention_mask)
        if columns_alone:
            seen = torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device).expand(len(tokens), 1, -1, -1)
        else:
            number = block_numbers(tokens, attention_mask, self.block_length)
            seen = block_causal_mask(number, attention_mask).expand(len(tokens), -1, -1, -1)
        if self.form == "bool":
            return {"attention_mask": seen}
        dtype = next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.float32)
        return {"attention_mask": as_bias(seen, dtype)}

    def _own(self, tokens: Tensor, attention_mask: Tensor | None) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if "attention_mask" in self.takes:
            found["attention_mask"] = torch.ones_like(tokens) if attention_mask is None else attention_mask
        if "block_size" in self.takes:  # Fast-dLLM v2
            found["block_size"] = self.block_length
        if "sample_mode" in self.takes:  # BD3LM
            found |= {"sample_mode": True, "output_hidden_states": True, "return_dict": True}
        if "timesteps" in self.takes:
            found["timesteps"] = torch.zeros(len(tokens), device=tokens.device)
        return found


def find_inputs(
    model: nn.Module,
    block_length: int,
    logits_of: Callable[[BlockInputs, Tensor], Tensor],
    words: Iterable[int],
    longest: int | None,
    device: torch.device,
) -> BlockInputs:
    """The form in which a model respects blocks: what it says of one does not depend on what stands behind it.

    Args:
        model: of Hugging Face.
        block_length: positions per block.
        logits_of: logits (1, L, V) of tokens (1, L) with arguments of a form.
        words: tokens to try it with, at least two.
        longest: most tokens that it takes; None for any number.
        device: of the tokens.

    Raises:
        BadInput: there is none.
    """
    length = min(2 * block_length, longest or 2 * block_length)
    some = list(words)
    tokens = probe(some, length, device)
    forms = ("bias", "bool", "own") if "attention_mask" in inspect.signature(model.forward).parameters else ("own",)
    reasons = []
    for form in forms:
        inputs = BlockInputs(model, block_length, form)
        try:
            reason = breach(lambda given: logits_of(inputs, given), model, tokens, block_length, some)  # noqa: B023
        except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
            reason = first_line(error)
        if not reason:
            return inputs
        reasons.append(reason)
    raise BadInput(
        f"{type(model).__name__} cannot be decoded with a block-causal mask of {block_length} positions per block: "
        f"{'; '.join(dict.fromkeys(reasons))}. Is {block_length} the length that it was trained with?"
    )
