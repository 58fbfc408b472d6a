"""The attention of a denoiser beside its prediction, from the same forward pass.

Our transformer and Hugging Face models with eager attention show theirs. A denoiser of another class shows its own by a method
`with_attention(tokens, attention_mask, positions)` that returns what `with_attention` here does.
"""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from anyorder.denoisers.base import Denoiser, DenoiserOutput
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.denoisers.padding import align_left
from anyorder.denoisers.transformer import Block, Transformer
from anyorder.errors import BadInput

_LAST = 0.3
"""The share of the layers, the last ones, whose attention is read."""


def with_attention(
    denoiser: Denoiser, tokens: Tensor, attention_mask: Tensor | None, positions: Tensor | None
) -> tuple[DenoiserOutput, Tensor]:
    """The output of a forward pass, and how much each position attended to each other: the mean over the heads and the last
    30 % of the layers, float (B, L, L), with rows that sum to 1.

    Raises:
        BadInput: the denoiser shows no attention, or not for sequences of different lengths.
    """
    own = getattr(denoiser, "with_attention", None)
    if own is not None:
        return own(tokens, attention_mask, positions)  # type: ignore[no-any-return]
    layers: list[Tensor] = []
    if isinstance(denoiser, Transformer):
        with _blocks_recorded(denoiser, layers):
            output = denoiser(tokens, attention_mask, positions)
        return output, _mean(layers)
    if isinstance(denoiser, HuggingFaceDenoiser):
        with _model_recorded(denoiser.model, layers):
            output = denoiser(tokens, attention_mask, positions)
        if layers[0].shape[:2] != tokens.shape:
            raise BadInput(
                f"{type(denoiser.model).__name__} ignores padding and is called once for each length, which gives no common "
                "attention: decode sequences of one length at a time"
            )
        return output, _at_original_positions(_mean(layers), tokens, attention_mask)
    raise BadInput(
        f"a {type(denoiser).__name__} shows no attention: use our Transformer or a model of Hugging Face, or give it a method "
        "with_attention"
    )


def _mean(layers: list[Tensor]) -> Tensor:
    """The mean over the last layers, of each layer's (B, L, L)."""
    return torch.stack(layers[-math.ceil(_LAST * len(layers)) :]).mean(dim=0)


@contextmanager
def _blocks_recorded(denoiser: Transformer, layers: list[Tensor]) -> Iterator[None]:
    """Record what each block of our transformer attends to in the forward passes of this thread."""
    thread = threading.get_ident()

    def record(block: nn.Module, inputs: tuple[Any, ...]) -> None:
        if threading.get_ident() == thread and isinstance(block, Block):
            hidden, bias = inputs
            layers.append(block.weights(block.attention_norm(hidden), bias).float().mean(dim=1))

    handles = [block.register_forward_pre_hook(record) for block in denoiser.blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _model_recorded(model: nn.Module, layers: list[Tensor]) -> Iterator[None]:
    """Record the attentions that a model of Hugging Face returns in the last forward pass of this thread."""
    thread = threading.get_ident()

    def ask(_model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        return (args, kwargs | {"output_attentions": True}) if threading.get_ident() == thread else None

    def keep(_model: nn.Module, _args: Any, output: Any) -> None:
        if threading.get_ident() != thread:
            return
        found = getattr(output, "attentions", None)
        if not found or any(weights is None for weights in found):
            raise BadInput(f"{type(model).__name__} returns no attention: load it with attn_implementation='eager'")
        layers[:] = [weights.float().mean(dim=1) for weights in found]

    handles = [model.register_forward_pre_hook(ask, with_kwargs=True), model.register_forward_hook(keep)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _at_original_positions(attention: Tensor, tokens: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Attention (B, L, L) of sequences whose padding was moved to the right end, where the tokens (B, L) stand."""
    attention = attention.to(tokens.device)
    if attention_mask is None:
        return attention
    column = align_left(tokens, attention_mask).column
    return attention.take_along_dim(column[:, :, None], dim=1).take_along_dim(column[:, None, :], dim=2)
