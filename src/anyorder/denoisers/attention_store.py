"""Keys and values of a forward pass, kept so that a later pass computes a few columns of the sequences and reads the others.

Every attention that calls `torch.nn.functional.scaled_dot_product_attention` is reached, whatever the model: the call is
replaced for the forward pass that the current thread makes, and the model itself is not changed. Calls are told apart by their
number in the pass, because some models use one module several times (ALBERT, `loops`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from anyorder.denoisers.base import DenoiserOutput
from anyorder.denoisers.taps import is_compiled
from anyorder.errors import BadInput

_Sub = Tensor | None
"""Rows int64 (b,) of the store that a batch is about, or None for all of them."""


class DenoiserCache(Protocol):
    """What a denoiser keeps of B sequences in order to predict some of their positions cheaply: made by its `start_cache()`."""

    def full(self, tokens: Tensor, attention_mask: Tensor | None, positions: Tensor, rows: Tensor | None) -> DenoiserOutput:
        """A forward pass that also fills the store. Arguments and results are those of `Denoiser`, for some rows int64 (b,) of
        the sequences, or all of them (None), which the first call must be about."""

    def part(
        self, tokens: Tensor, attention_mask: Tensor | None, positions: Tensor, fresh: Tensor, rows: Tensor | None
    ) -> DenoiserOutput:
        """A forward pass of the positions `fresh` bool (b, L) alone, which reads all others from the store.

        Returns:
            logits (K, V) at `positions`, which are among the fresh ones, and the hidden states (F, D) of all F fresh positions,
            both in row-major order.
        """

    def keep(self, rows: Tensor) -> None:
        """Forget all sequences but these, int64 (b,)."""


class Columns:
    """The columns of each row that are computed, with an equal number per row.

    Args:
        fresh: bool (B, L).

    Attributes:
        index: int64 (B, n), the columns in increasing order; the first one again where a row has fewer, and n is 2 at least.
        real: bool (B, n), False where a column is repeated.
        slot: int64 (B, L), where in `index` a column stands.
    """

    def __init__(self, fresh: Tensor) -> None:
        count = fresh.sum(dim=1, keepdim=True)
        most = max(2, int(count.max()))
        order = (~fresh).to(torch.int8).argsort(dim=1, stable=True)
        order = order[:, :most] if order.shape[1] >= most else order.expand(-1, most)
        self.real = torch.arange(most, device=fresh.device) < count
        self.index = torch.where(self.real, order, order[:, :1])
        self.slot = (fresh.long().cumsum(dim=1) - 1).clamp(min=0)


@dataclass
class _Layer:
    """keys and values (B, L, H, d) of one call, and its mask, broadcastable to (B, H, L, L)."""

    keys: Tensor
    values: Tensor
    mask: Tensor | None


class Unreached(BadInput):
    """A model's attention cannot be replaced."""

    def __init__(self) -> None:
        super().__init__(
            "this model cannot be cached, because its attention does not call scaled_dot_product_attention: load it with "
            "attn_implementation='sdpa' if it supports that, or leave the cache out (cache='none')"
        )


class AttentionStore:
    """Keys, values and masks of every attention of a forward pass over B sequences of L columns."""

    def __init__(self) -> None:
        self.layers: list[_Layer] = []

    @contextmanager
    def full(self, rows: _Sub = None, real: Tensor | None = None, *, always: bool = False) -> Iterator[None]:
        """Store the keys and values of the forward pass that is made inside.

        Args:
            rows: see `DenoiserCache`.
            real: bool (b, L), False at padding, for attentions that are given no mask.
            always: hide the padding from those that are given one too.

        Raises:
            Unreached: there was no call of attention.
        """
        found: list[_Layer] = []
        padding = None if real is None else real[:, None, None, :]
        if always and padding is not None:
            padding = padding | torch.eye(padding.shape[-1], dtype=torch.bool, device=padding.device)
        hidden: dict[int, tuple[Tensor, Tensor]] = {}  # with the masks that they are of, so that no id is used again

        def attend(
            query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *rest: Any, **options: Any
        ) -> Tensor:
            _check_not_causal(rest, options)
            mask = padding if attn_mask is None else _with_heads(attn_mask)
            if always and padding is not None and mask is not None and mask is not padding:
                if id(attn_mask) not in hidden:
                    hidden[id(attn_mask)] = mask, _both(mask, padding)
                mask = hidden[id(attn_mask)][1]
            found.append(_Layer(_columns_first(key), _columns_first(value), mask))
            return F.scaled_dot_product_attention(query, key, value, mask, *rest, **options)

        with _Replaced(attend):
            yield
        if not found:
            raise Unreached
        if rows is None:
            self.layers = found
        else:
            self._put(rows, found)

    @contextmanager
    def part(self, columns: Tensor, rows: _Sub = None, *, own_masks: bool = False) -> Iterator[None]:
        """Let the forward pass that is made inside, over columns int64 (b, n) alone, read the keys and values of all columns.
        Those of its own columns are stored.

        Args:
            columns: see `Columns`.
            rows: see `DenoiserCache`.
            own_masks: the masks that the model gives are for n columns and all L that they look at; else those of the full
                pass are used.
        """
        remaining = iter(self.layers)
        inside = torch.arange(len(columns), device=columns.device) if rows is None else rows
        masks: dict[int, Tensor] = {}

        def attend(
            query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *rest: Any, **options: Any
        ) -> Tensor:
            layer, device = next(remaining), key.device  # a model may be spread over several
            at = inside[:, None].to(device), columns.to(device)
            for stored, new in ((layer.keys, key), (layer.values, value)):
                stored[at] = _columns_first(_of_heads(new, stored.shape[2]), copy=False)
            keys, values = (kept if rows is None else kept[at[0][:, 0]] for kept in (layer.keys, layer.values))
            if not own_masks and (attn_mask := layer.mask) is not None:
                known = masks.get(id(layer.mask))
                attn_mask = masks[id(layer.mask)] = _mask_of(attn_mask, columns, rows) if known is None else known
            if keys.shape[2] == query.shape[1]:
                options = {**options, "enable_gqa": False} if "enable_gqa" in options else options
            return F.scaled_dot_product_attention(
                query, keys.transpose(1, 2), values.transpose(1, 2), attn_mask, *rest, **options
            )

        with _Replaced(attend):
            yield

    def keep(self, rows: Tensor) -> None:
        """Forget all sequences but these, int64 (b,)."""
        masks: dict[int, Tensor] = {}
        for layer in self.layers:
            here = rows.to(layer.keys.device)
            layer.keys, layer.values = layer.keys[here], layer.values[here]
            if layer.mask is not None and len(layer.mask) > 1:
                layer.mask = masks.setdefault(id(layer.mask), layer.mask[here])

    def _put(self, rows: Tensor, found: list[_Layer]) -> None:
        """Replace what is stored of some rows."""
        masks: dict[tuple[int, int], Tensor | None] = {}
        for layer, new in zip(self.layers, found, strict=True):
            here = rows.to(layer.keys.device)
            layer.keys[here], layer.values[here] = new.keys, new.values
            both = id(layer.mask), id(new.mask)
            if both not in masks:
                masks[both] = _joined(layer.mask, new.mask, here, len(layer.keys))
            layer.mask = masks[both]


class _Replaced(TorchFunctionMode):
    """Calls another function instead of `scaled_dot_product_attention`, in this thread."""

    def __init__(self, attend: Callable[..., Tensor]) -> None:
        super().__init__()
        self.attend = attend

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is F.scaled_dot_product_attention:
            return self.attend(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def check_not_compiled(model: nn.Module) -> None:
    """Raise BadInput if a model is compiled, so that calls in it cannot be replaced."""
    if is_compiled(model):
        raise BadInput(
            f"this {type(model).__name__} is compiled, and the cache cannot reach its attention: do not compile it, or leave "
            "the cache out (cache='none')"
        )


def _columns_first(values: Tensor, *, copy: bool = True) -> Tensor:
    """Keys or values (B, H, L, d) as (B, L, H, d), which most models have computed them as."""
    turned = values.transpose(1, 2)
    return turned.clone(memory_format=torch.contiguous_format) if copy else turned


def _of_heads(values: Tensor, heads: int) -> Tensor:
    """Keys or values (B, h, n, d) of groups of heads, repeated to (B, heads, n, d)."""
    return values if values.shape[1] == heads else values.repeat_interleave(heads // values.shape[1], dim=1)


def _mask_of(mask: Tensor, columns: Tensor, rows: _Sub) -> Tensor:
    """The lines of a mask (1 or B, H, 1 or L, L) that columns (b, n) of some rows look along: (b, H, 1 or n, L)."""
    mask = mask[rows.to(mask.device)] if rows is not None and len(mask) > 1 else mask
    return mask if mask.shape[2] == 1 else mask.take_along_dim(columns[:, None, :, None].to(mask.device), dim=2)


def _joined(old: Tensor | None, new: Tensor | None, rows: Tensor, batch: int) -> Tensor | None:
    """The mask of B sequences, with that of some rows replaced; None if nothing is masked anywhere."""
    if old is None and new is None:
        return None
    like = old if new is None else new
    assert like is not None
    one, other = (_nothing_masked(like) if mask is None else mask for mask in (old, new))
    shape = (batch, *torch.broadcast_shapes(one.shape[1:], other.shape[1:]))
    out = one.expand(shape).clone()
    out[rows] = other.expand(len(rows), *shape[1:])
    return out


def _with_heads(mask: Tensor) -> Tensor:
    """A mask (L, L) or (B, L, L) as (1 or B, 1, L, L)."""
    return mask if mask.dim() == 4 else mask.reshape(-1, 1, *mask.shape[-2:])


def _both(mask: Tensor, seen: Tensor) -> Tensor:
    """A mask, bool or additive, that also hides what is not seen, bool (b, 1, L, L)."""
    return mask & seen if mask.dtype == torch.bool else mask.masked_fill(~seen, -torch.inf)


def _nothing_masked(like: Tensor) -> Tensor:
    """A mask that hides nothing, (1, 1, 1, L)."""
    shape = (1, 1, 1, like.shape[-1])
    return like.new_ones(shape) if like.dtype == torch.bool else like.new_zeros(shape)


def _check_not_causal(rest: tuple[Any, ...], options: dict[str, Any]) -> None:
    if options.get("is_causal") or (len(rest) > 1 and rest[1]):
        raise BadInput("this model's attention is causal: the cache is for models that read both sides")
