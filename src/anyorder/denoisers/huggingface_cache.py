"""The cache of a Hugging Face model: its attentions are reached through `scaled_dot_product_attention`, see `AttentionStore`.

A pass over a few columns is a call of the model with their tokens and `position_ids`. Two kinds of modules have to see the
whole sequence and are shown it: embeddings that count masks (ESM's token dropout), and rotary embeddings without position ids
(LLaDA's). Whether all this works for a model is tried before its first use: the logits of some columns must be those of the
whole.
"""

import inspect
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from anyorder.denoisers.attention_store import AttentionStore, Columns, Unreached, check_not_compiled
from anyorder.denoisers.base import DenoiserOutput, device_of, evaluating
from anyorder.denoisers.padding import align_left
from anyorder.errors import BadInput, first_line

if TYPE_CHECKING:
    from anyorder.denoisers.huggingface import HuggingFaceDenoiser

_TRIED = 8
"""Tokens of the sequence with which a model is tried."""


class HuggingFaceCache:
    """The `DenoiserCache` of a `HuggingFaceDenoiser`.

    Args:
        denoiser: the model.
        first: the model's position id of the first column; None if it takes no position ids.
    """

    def __init__(self, denoiser: "HuggingFaceDenoiser", first: int | None) -> None:
        self.denoiser, self.first, self.store = denoiser, first, AttentionStore()
        _add_hooks(denoiser.model)

    def full(self, tokens: Tensor, attention_mask: Tensor | None, positions: Tensor, rows: Tensor | None) -> DenoiserOutput:
        """See `DenoiserCache`. A model that ignores the attention mask is made to respect it."""
        real = None
        if attention_mask is not None and not bool(attention_mask.all()):
            real = align_left(tokens, attention_mask).attention_mask.bool()
        with self.store.full(rows, real, always=self.denoiser.block_length is not None):
            output: DenoiserOutput = self.denoiser(tokens, attention_mask, positions, by_length=False)
        return output

    def part(
        self, tokens: Tensor, attention_mask: Tensor | None, positions: Tensor, fresh: Tensor, rows: Tensor | None
    ) -> DenoiserOutput:
        """See `DenoiserCache`."""
        column = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        mask = None
        if attention_mask is not None:
            tokens, mask, column = align_left(tokens, attention_mask, self.denoiser.vocab_size)
        source = (column - 1).clamp(min=0) if self.denoiser.shift else column  # where a position is predicted
        computed = torch.zeros_like(fresh)
        row, place = fresh.nonzero(as_tuple=True)
        computed[row, column[row, place]] = True
        computed[row, source[row, place]] = True
        columns = Columns(computed)
        at, position = positions.nonzero(as_tuple=True)
        wanted = at, columns.slot[at, source[at, position]]
        with self.store.part(columns.index, rows), _shown(_Whole(tokens, mask, columns.index)):
            ids = None if self.first is None else columns.index + self.first
            logits, hidden = self.denoiser.run_columns(tokens.gather(1, columns.index), ids, wanted)
        return DenoiserOutput(logits, hidden[row, columns.slot[row, source[row, place]]])

    def keep(self, rows: Tensor) -> None:
        """See `DenoiserCache`."""
        self.store.keep(rows)


def start_cache(denoiser: "HuggingFaceDenoiser") -> HuggingFaceCache:
    """An empty cache of a model.

    Raises:
        BadInput: the model's attention or positions cannot be reached.
    """
    model: Any = denoiser.model
    check_not_compiled(model)
    if model not in _first:
        _first[model] = _tried(denoiser)
    return HuggingFaceCache(denoiser, _first[model])


_first: "weakref.WeakKeyDictionary[nn.Module, int | None]" = weakref.WeakKeyDictionary()


def _tried(denoiser: "HuggingFaceDenoiser") -> int | None:
    """The position id of the first column with which a pass over some columns gives the logits of the whole."""
    model: Any = denoiser.model
    takes = "position_ids" in inspect.signature(_forward_of(model)).parameters
    pad = getattr(model.config, "pad_token_id", None)
    candidates: list[int | None] = [0, *([] if pad is None else [pad + 1])] if takes else [None]
    reasons = []
    for first in candidates:
        try:
            if _agrees(HuggingFaceCache(denoiser, first)):
                return first
            reasons.append("the logits differ")
        except Unreached:
            raise
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            reasons.append(first_line(error))
    how = "" if takes else " (its forward takes no position_ids)"
    raise BadInput(
        f"{type(model).__name__} cannot be cached: a pass over some of the columns does not give what a pass over all gives"
        f"{how}: {reasons[0]}. Leave the cache out (cache='none')"
    )


def _agrees(cache: HuggingFaceCache) -> bool:
    """Whether columns that are computed alone have the logits that they have among all."""
    denoiser = cache.denoiser
    device = device_of(denoiser)
    length = min(_TRIED, denoiser.max_length or _TRIED)
    config: Any = denoiser.model.config
    never = {denoiser.pad_token_id, getattr(config, "pad_token_id", None), *denoiser.forbidden}
    words = [t for t in range(denoiser.vocab_size) if t not in never] or [denoiser.mask_token_id]
    tokens = torch.tensor([[words[(7 * i + r) % len(words)] for i in range(length)] for r in range(2)], device=device)
    fresh = torch.zeros_like(tokens, dtype=torch.bool)
    fresh[:, length // 4 : max(1, length // 2)] = True
    tokens[:, length // 3] = denoiser.mask_token_id
    mask = torch.ones_like(fresh)
    mask[1, -1] = length == 1
    with torch.no_grad(), evaluating(denoiser):
        whole = cache.full(tokens, mask, fresh, None).logits
        alone = cache.part(tokens, mask, fresh, fresh, None).logits
    seen = whole > -torch.inf
    one, other = whole[seen].float(), alone[seen].float()
    close = 1e-3 if whole.dtype == torch.float32 else 0.05
    return torch.allclose(one, other, rtol=0.0, atol=close * float(one.abs().max()))


def _forward_of(model: Any) -> Any:
    """The forward of a model, without its adapters (PEFT)."""
    return (model.get_base_model() if hasattr(model, "get_base_model") else model).forward


# ---- modules that see the whole sequence ------------------------------------------------------------------------------------


@dataclass
class _Whole:
    """What modules are shown in a pass over columns int64 (b, n): tokens and attention mask int64 (b, L)."""

    tokens: Tensor
    attention_mask: Tensor | None
    columns: Tensor


_current = threading.local()


_adding = threading.Lock()


def _add_hooks(model: nn.Module) -> None:
    """Add hooks to the modules that see the whole sequence. They act within `_shown` only."""
    with _adding:
        for module in model.modules():
            if hasattr(module, "token_dropout") and hasattr(module, "word_embeddings"):
                _hook(module, _all_tokens, _cut_embeddings)
            elif "rotary" in type(module).__name__.lower() and _takes(module, "q", "k"):
                _hook(module, _all_columns, _cut_columns)


def _takes(module: nn.Module, *names: str) -> bool:
    """Whether these are the first arguments of a module."""
    return tuple(inspect.signature(module.forward).parameters)[: len(names)] == names


@contextmanager
def _shown(whole: _Whole) -> Iterator[None]:
    """Show the whole sequence to those modules of a model that need it, in this thread."""
    before = getattr(_current, "whole", None)
    _current.whole = whole
    try:
        yield
    finally:
        _current.whole = before


def _hook(module: nn.Module, before: Any, after: Any) -> None:
    """Register hooks, once."""
    if before not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(before, with_kwargs=True)
        module.register_forward_hook(after)


def _all_tokens(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    whole: _Whole | None = getattr(_current, "whole", None)
    if whole is None or not module.token_dropout:
        return None
    mask = torch.ones_like(whole.tokens) if whole.attention_mask is None else whole.attention_mask
    return (), {"input_ids": whole.tokens, "attention_mask": mask}


def _cut_embeddings(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor | None:
    whole: _Whole | None = getattr(_current, "whole", None)
    if whole is None or not module.token_dropout:
        return None
    return output.take_along_dim(whole.columns[..., None].to(output.device), dim=1)


def _all_columns(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Queries and keys (b, H, n, d) in their columns among all, (b, H, L, d)."""
    whole: _Whole | None = getattr(_current, "whole", None)
    if whole is None:
        return None
    length, index = whole.tokens.shape[1], whole.columns[:, None, :, None].to(arguments[0].device)
    spread = (x.new_zeros((*x.shape[:2], length, x.shape[3])).scatter(2, index.expand_as(x), x) for x in arguments[:2])
    return (*spread, *arguments[2:]), named


def _cut_columns(module: nn.Module, arguments: tuple[Any, ...], output: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    whole: _Whole | None = getattr(_current, "whole", None)
    if whole is None:
        return None
    return tuple(x.take_along_dim(whole.columns[:, None, :, None].to(x.device), dim=2) for x in output)
