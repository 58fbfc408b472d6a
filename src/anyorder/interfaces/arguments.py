"""Shared by the calls: turn a user's arguments into parts, with one clear error each."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from anyorder.decoding.blocks import blocks_of
from anyorder.decoding.order_text import as_order
from anyorder.decoding.sampler import Sampler, as_sampler
from anyorder.decoding.tokens import COLDEST, Argmax, Sample, TokenRule
from anyorder.denoisers.base import Denoiser
from anyorder.denoisers.block_families import is_block_causal, named_block_length, published_mask
from anyorder.denoisers.blocks import block_length_of
from anyorder.denoisers.huggingface import HuggingFaceDenoiser, is_shifted
from anyorder.denoisers.unsupported import check_configuration, check_type
from anyorder.errors import BadInput
from anyorder.orders.base import Order
from anyorder.state import init


def as_denoiser(
    model: Any,
    mask_token_id: int | None = None,
    suppress_tokens: Sequence[int] = (),
    *,
    shift: bool | None = None,
    block_length: int | None = None,
) -> Denoiser:
    """The model as a denoiser.

    Args:
        model: a Hugging Face model, or any `Denoiser`.
        mask_token_id: the mask; by default the one that the model's generation configuration or configuration names.
        suppress_tokens: tokens that are never produced, besides the mask.
        shift: the logits at position i predict token i + 1; by default where the model is known to need it (Dream).
        block_length: positions per block of decoding. A block-causal model whose configuration names no length of its blocks is
            given a mask with blocks of this length, as by its own code.

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
    name = type(model).__name__
    check_configuration(name, config)
    for place in (getattr(model, "generation_config", None), config):
        mask_token_id = getattr(place, "mask_token_id", None) if mask_token_id is None else mask_token_id
    mask_token_id = published_mask(config) if mask_token_id is None else mask_token_id
    if mask_token_id is None:
        check_type(name, config)
        raise BadInput(f"the configuration of {name} names no mask token: give mask_token_id, such as tokenizer.mask_token_id")
    size = int(getattr(config, "vocab_size", 0) or 0)
    for token in suppress_tokens:
        if size and whole("suppress_tokens", token, 0) >= size:
            raise BadInput(f"suppress_tokens holds {token}; the model has {size} tokens, from 0")
    length = None if not is_block_causal(config) or named_block_length(config) else block_length
    shift = is_shifted(config) if shift is None else shift
    return HuggingFaceDenoiser(model, mask_token_id, suppress_tokens, shift=shift, block_length=length)


def whole(name: str, value: Any, least: int) -> int:
    """A whole number of `least` or more.

    Raises:
        BadInput: something else.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise BadInput(f"{name} is {value!r}; it must be a whole number, {least} or more")
    return int(value)


def number(name: str, value: Any, meaning: str = "") -> float:
    """A finite number, 0 or above.

    Raises:
        BadInput: something else.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < math.inf:
        raise BadInput(f"{name} is {value!r}; it must be a finite number, 0{meaning} or above")
    return float(value)


def temperature_of(value: Any) -> float:
    """A temperature, 0 where it is so small that dividing by it would overflow: the likeliest token is what is left of it.

    Raises:
        BadInput: a negative number, infinity, or no number.
    """
    temperature = number("temperature", value, " (the likeliest token)")
    return temperature if temperature >= COLDEST else 0.0


def token_rule(temperature: float, top_p: float | None = None, top_k: int | None = None) -> TokenRule:
    """Argmax at temperature 0, sampling above; a `top_k` of 0 or None keeps all tokens.

    Raises:
        BadInput: a temperature that is negative or not finite, top_p outside (0, 1], top_k below 0.
    """
    temperature = temperature_of(temperature)
    top_k = None if top_k is None else whole("top_k", top_k, 0) or None
    sample = Sample(temperature or 1.0, 1.0 if top_p is None else top_p, top_k)
    return sample if temperature else Argmax()


def check_threshold(threshold: float | None) -> None:
    """Raise BadInput unless a threshold is a probability, or None."""
    if threshold is not None and (not isinstance(threshold, Real) or not 0 <= float(threshold) <= 1):
        raise BadInput(f"threshold is {threshold!r}; it is a probability, from 0 to 1")


def blocks_in(denoiser: Denoiser, tokens: Tensor, attention_mask: Tensor | None, block_length: int | None) -> int:
    """The most blocks with masks that a row of tokens (B, L) has in a block-causal denoiser; 0 with any other."""
    if (length := block_length_of(denoiser)) is None or block_length is None:
        return 0
    state = init(tokens, denoiser.mask_token_id, attention_mask=attention_mask, model_block=length)
    return 1 + int(blocks_of(state, block_length).max())


def check_budget(
    denoiser: Denoiser, tokens: Tensor, attention_mask: Tensor | None, steps: int | None, block_length: int | None
) -> None:
    """Raise BadInput where a row of tokens (B, L) has more blocks with masks than forward passes: the last pass would fill the
    rest."""
    masked = tokens == denoiser.mask_token_id
    most = int((masked if attention_mask is None else masked & attention_mask.bool()).sum(dim=1).max())
    full = 1 if block_length is None else -(-most // block_length)
    blocks = max(full, blocks_in(denoiser, tokens, attention_mask, block_length))
    if steps is not None and steps < blocks:
        raise BadInput(
            f"steps {steps} are too few for {blocks} blocks of {block_length}, in which {most} positions are to be filled: "
            f"give {blocks} or more"
        )


def find_sampler(sampler: Sampler | Order | str | Path, denoiser: Denoiser) -> Sampler:
    """A sampler by its spelling or by its folder, with an order of one's own, or itself, with its policies loaded.

    Raises:
        BadInput: none of the four.
        WrongDenoiser: a policy was fitted to another denoiser.
    """
    return as_sampler(sampler).bind(denoiser)


def find_order(order: Order | str | Path, denoiser: Denoiser) -> Order:
    """An order from its name or the folder of a policy that was fitted to this denoiser; an order is returned as it is.

    Raises:
        BadInput: none of the three.
        WrongDenoiser: the policy was fitted to another denoiser.
    """
    return Sampler(as_order(order)).bind(denoiser).order
