"""Forward passes over a part of the positions while a block is decoded (Fast-dLLM, arXiv 2505.22618, with any order).

A bidirectional model has no exact cache: a committed token changes the keys and values of all positions. They are kept
nevertheless, and computed anew at times. Finished blocks of a block-causal model never change: their cache is exact. Every
sequence has a schedule of its own, so sequences do not influence one another.
"""

from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from anyorder.decoding.blocks import from_first_to_open, open_block
from anyorder.decoding.caches import CacheRule, exact, none
from anyorder.denoisers.attention_store import DenoiserCache
from anyorder.denoisers.base import DenoiserOutput
from anyorder.denoisers.blocks import block_length_of
from anyorder.errors import BadInput, check_whole
from anyorder.own_code import naming
from anyorder.state import DecodeState

Refresh = str | int | float
"""When everything is computed anew: "block", every so many steps (int), or at a drift of so much (float)."""


def check_cache(cache: CacheRule, refresh: Any, block_length: int | None) -> None:
    """Raise BadInput unless these settings of a cache go together."""
    check_whole("refresh", refresh)
    whole = isinstance(refresh, Integral) and not isinstance(refresh, bool) and int(refresh) >= 1
    bound = isinstance(refresh, Real) and not isinstance(refresh, Integral) and 0 <= float(refresh) < float("inf")
    if refresh != "block" and not whole and not bound:
        raise BadInput(
            f'refresh is {refresh!r}; it must be "block", a whole number of steps, 1 or more, or a bound of the drift, a float '
            "such as 0.1"
        )
    if cache is none and refresh != "block":
        raise BadInput(f"refresh is {refresh!r}, and there is no cache to refresh: give a cache, such as 'dual'")
    if cache is exact and refresh != "block":
        raise BadInput(f"refresh is {refresh!r}, and an exact cache needs no refresh: leave it out")
    if cache is not none and cache is not exact and block_length is None:
        raise BadInput("a cache keeps what is outside of the block that is decoded: give block_length, such as 32 (@blocks:32)")


def start_cache(denoiser: Any) -> DenoiserCache:
    """An empty cache of a denoiser.

    Raises:
        BadInput: the denoiser has none.
    """
    start = getattr(denoiser, "start_cache", None)
    if start is None:
        raise BadInput(
            f"{type(denoiser).__name__} cannot be cached, because it has no start_cache(): use a Hugging Face model or a "
            "Transformer, or leave the cache out (cache='none')"
        )
    found: DenoiserCache = start()
    return found


def _check_rule(denoiser: Any, rule: CacheRule) -> None:
    """Raise BadInput unless this rule is for such a denoiser."""
    length = block_length_of(denoiser)
    if rule is exact and length is None:
        raise BadInput(
            "cache='exact' is for denoisers with a block-causal mask, and this one sees both sides: no cache of it is exact; "
            "use 'dual' or 'prefix'"
        )
    if rule is not exact and length is not None:
        raise BadInput(
            f"this denoiser's mask is block-causal, in blocks of {length}: finished blocks are kept by cache='exact'"
        )


class Cache:
    """What earlier forward passes over a batch computed, and which positions the next one computes.

    Args:
        denoiser: the model.
        rule: which positions are computed.
        refresh: when all positions of a sequence are computed: "block", at each new block; an int, every so many steps; a
            float, in the step after the drift exceeded it, see `drift`.
        block_length: generated positions per block.

    Positions whose token changed since they were computed are always computed. In a sequence's last step everything is, if
    masks outside the open block are left to be filled then.
    """

    def __init__(self, denoiser: Any, rule: CacheRule, refresh: Refresh, block_length: int) -> None:
        _check_rule(denoiser, rule)
        self.store = start_cache(denoiser)
        self.rule, self.refresh, self.block_length = rule, refresh, block_length
        self._kept: dict[str, Tensor] = {}

    def predict(self, state: DecodeState, where: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One forward pass.

        Args:
            state: B sequences; those that an earlier call was about, or some of them.
            where: bool (B, L), positions whose logits are wanted.

        Returns:
            logits (K, V) of those positions that were computed, hidden states (B, L, D) of all, and which positions have
            logits, bool (B, L).
        """
        self._follow(state)
        block = open_block(state, self.block_length)
        fresh = self._fresh(state, block)
        due = self._due(state, block, fresh)
        where = where & (fresh | due[:, None])
        output = self._run(state, where, fresh, due)
        self._note(state, block, fresh, due, output.hidden)
        return output.logits, output.hidden, where

    def _follow(self, state: DecodeState) -> None:
        """Forget sequences that are no longer decoded, or everything if others are asked for."""
        kept = self._kept
        if not kept or (torch.equal(kept["row"], state.row) and kept["tokens"].shape == state.tokens.shape):
            return
        same = kept["row"] == state.row[:, None]
        if not bool(same.any(dim=1).all()) or kept["tokens"].shape[1] != state.tokens.shape[1]:
            self._kept = {}
            return
        rows = same.to(torch.int8).argmax(dim=1)
        self.store.keep(rows)
        self._kept = {name: values[rows] for name, values in kept.items()}

    def _fresh(self, state: DecodeState, block: Tensor) -> Tensor:
        """The positions bool (B, L) that a partial pass computes."""
        with naming("cache", self.rule):
            given = self.rule(state, block)
        if not isinstance(given, Tensor) or given.shape != block.shape or given.dtype != torch.bool:
            raise BadInput(f"the cache must return the positions to compute, a bool tensor {tuple(block.shape)}")
        fresh = given | block
        if self._kept:
            fresh = fresh | (state.tokens != self._kept["tokens"])
        if self.rule is exact:
            fresh = from_first_to_open(fresh, state, block)
        return fresh if state.attention_mask is None else fresh & state.attention_mask.bool()

    def _due(self, state: DecodeState, block: Tensor, fresh: Tensor) -> Tensor:
        """Sequences bool (B,) of which everything is computed."""
        if not self._kept:
            return torch.ones_like(state.finished)
        if self.rule is exact:
            due = torch.zeros_like(state.finished)
        elif self.refresh == "block":
            due = (block != self._kept["block"]).any(dim=1)
        elif isinstance(self.refresh, Integral):
            due = self._kept["age"] >= int(self.refresh)
        else:
            due = self._kept["drift"] > float(self.refresh)
        read = ~fresh if state.attention_mask is None else ~fresh & state.attention_mask.bool()
        left = (state.step == state.steps - 1) & (state.masked & ~fresh).any(dim=1)
        return due | left | ~read.any(dim=1)

    def _run(self, state: DecodeState, where: Tensor, fresh: Tensor, due: Tensor) -> DenoiserOutput:
        """Logits (K, V) and hidden states (B, L, D), by one pass for the sequences that are due and one for the others."""
        if bool(due.all()):
            return self.store.full(state.tokens, state.attention_mask, where, None)
        before = self._kept["hidden"]
        if not bool(due.any()):
            logits, hidden = self.store.part(state.tokens, state.attention_mask, where, fresh, None)
            return DenoiserOutput(logits, before.masked_scatter(fresh[..., None], hidden))
        whole, part = due.nonzero()[:, 0], (~due).nonzero()[:, 0]
        mask = state.attention_mask
        ours, theirs = (
            self.store.full(state.tokens[whole], None if mask is None else mask[whole], where[whole], whole),
            self.store.part(state.tokens[part], None if mask is None else mask[part], where[part], fresh[part], part),
        )
        of_whole = due[:, None].expand_as(where)[where]
        logits = ours.logits.new_empty((len(of_whole), ours.logits.shape[-1]))
        logits[of_whole], logits[~of_whole] = ours.logits, theirs.logits
        hidden = before.masked_scatter((fresh & ~due[:, None])[..., None], theirs.hidden)
        hidden[whole] = ours.hidden
        return DenoiserOutput(logits, hidden)

    def _note(self, state: DecodeState, block: Tensor, fresh: Tensor, due: Tensor, hidden: Tensor) -> None:
        """Remember what was computed now, and how far it has drifted since everything was."""
        kept, whole = self._kept, due[:, None]
        tokens = state.tokens
        if kept:
            tokens = torch.where(fresh | whole, tokens, kept["tokens"])
        self._kept = {"row": state.row, "tokens": tokens, "hidden": hidden, "block": block}
        if isinstance(self.refresh, Integral):
            self._kept["age"] = torch.where(due, 1, kept["age"] + 1) if kept else torch.ones_like(state.step)
        elif self.refresh != "block":
            first, then = (state.tokens, hidden) if not kept else (
                torch.where(whole, state.tokens, kept["first"]), torch.where(whole[..., None], hidden, kept["then"])
            )  # fmt: skip
            moved = drift(then, hidden, fresh & (first == state.tokens)).masked_fill(due, 0.0)
            self._kept |= {"first": first, "then": then, "drift": moved}


def drift(then: Tensor, now: Tensor, where: Tensor) -> Tensor:
    """How far hidden states have moved, float32 (B,): the norm of their change over their own norm then.

    Args:
        then, now: float (B, L, D), of the last pass over everything, and now.
        where: bool (B, L), the positions that were computed now and whose token has not changed since. They have seen the same
            changes as the positions that are read from the store.
    """
    inside = where[..., None]
    then, now = then.float().masked_fill(~inside, 0.0), now.float().masked_fill(~inside, 0.0)
    size = then.flatten(1).norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    share: Tensor = (now - then).flatten(1).norm(dim=1) / size
    return share
