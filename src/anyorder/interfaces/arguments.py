"""Shared by the calls: turn a user's arguments into parts, with one clear error each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anyorder.decoding.sampler import Sampler, as_order
from anyorder.decoding.tokens import Argmax, Sample, TokenRule
from anyorder.denoisers.base import Denoiser
from anyorder.denoisers.huggingface import HuggingFaceDenoiser, is_shifted
from anyorder.errors import BadInput
from anyorder.orders.base import Order


def as_denoiser(
    model: Any, mask_token_id: int | None = None, suppress_tokens: Sequence[int] = (), *, shift: bool | None = None
) -> Denoiser:
    """The model as a denoiser.

    Args:
        model: a Hugging Face model, or any `Denoiser`.
        mask_token_id: the mask; by default the one that the model's generation configuration or configuration names.
        suppress_tokens: tokens that are never produced, besides the mask.
        shift: the logits at position i predict token i + 1; by default where the model is known to need it (Dream).

    Raises:
        BadInput: no model, no mask token, or arguments that contradict those of a denoiser.
    """
    if isinstance(model, Denoiser):
        if mask_token_id not in (None, model.mask_token_id):
            raise BadInput(f"mask_token_id is {mask_token_id}, and this denoiser's mask is {model.mask_token_id}: leave it out")
        if suppress_tokens:
            raise BadInput("a denoiser suppresses its own tokens: pass HuggingFaceDenoiser(..., forbidden=...)")
        return model
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise BadInput(
            f"{type(model).__name__} is neither a model with a configuration nor a denoiser: wrap it with WrappedDenoiser"
        )
    config: Any = model.config
    for place in (getattr(model, "generation_config", None), config):
        mask_token_id = getattr(place, "mask_token_id", None) if mask_token_id is None else mask_token_id
    if mask_token_id is None:
        name = type(model).__name__
        is_causal = name.endswith(("CausalLM", "LMHeadModel"))
        causal = " (a causal model has none; use a model for masked tokens)" if is_causal else ""
        raise BadInput(f"the configuration of {name} names no mask token: give mask_token_id{causal}")
    return HuggingFaceDenoiser(model, mask_token_id, suppress_tokens, shift=is_shifted(config) if shift is None else shift)


def with_new_tokens(
    tokens: Tensor, attention_mask: Tensor | None, count: int, mask_token_id: int
) -> tuple[Tensor, Tensor | None]:
    """Tokens int64 (B, L + count) that end in masks, and the attention mask bool (B, L + count) that lets them be seen.

    Raises:
        BadInput: tokens or attention mask of another shape or type, or a negative count.
    """
    if tokens.dim() != 2 or tokens.dtype != torch.int64:
        raise BadInput(f"the tokens are {tokens.dtype} of shape {tuple(tokens.shape)}; they must be int64 (batch, length)")
    if attention_mask is not None and attention_mask.shape != tokens.shape:
        raise BadInput(
            f"attention_mask has shape {tuple(attention_mask.shape)}; it must have that of the tokens, {tuple(tokens.shape)}"
        )
    if count < 0:
        raise BadInput(f"{count} new tokens are requested; the number must be 0 or more")
    masks = tokens.new_full((len(tokens), count), mask_token_id)
    if attention_mask is not None:
        attention_mask = torch.cat([attention_mask.bool(), torch.ones_like(masks, dtype=torch.bool)], dim=1)
    return torch.cat([tokens, masks], dim=1), attention_mask


def token_rule(temperature: float, top_p: float | None = None, top_k: int | None = None) -> TokenRule:
    """Argmax at temperature 0, sampling above.

    Raises:
        BadInput: a temperature below 0, top_p outside (0, 1], top_k below 1.
    """
    if temperature < 0:
        raise BadInput(f"temperature is {temperature}; it must be 0 (the likeliest token) or above")
    try:
        sample = Sample(temperature or 1.0, 1.0 if top_p is None else top_p, top_k)
    except ValueError as error:
        raise BadInput(str(error)) from error
    return sample if temperature else Argmax()


def find_sampler(sampler: Sampler | Order | str | Path, denoiser: Denoiser) -> Sampler:
    """A sampler from its spelling, its folder or an order; a sampler is returned as it is.

    Raises:
        BadInput: none of the four.
        WrongDenoiser: a policy was fitted to another denoiser.
    """
    if isinstance(sampler, Sampler):
        return sampler
    if not isinstance(sampler, str | Path):
        return Sampler(sampler)
    if (Path(sampler) / "sampler.json").is_file():
        return Sampler.from_pretrained(sampler, denoiser)
    return Sampler.parse(str(sampler))


def find_order(order: Order | str | Path, denoiser: Denoiser) -> Order:
    """An order from its name or the folder of a policy that was fitted to this denoiser; an order is returned as it is.

    Raises:
        BadInput: none of the three.
        WrongDenoiser: the policy was fitted to another denoiser.
    """
    return Sampler(as_order(order)).bind(denoiser).order
