"""LLaDA's `generate(...)` (arXiv 2502.09992), with the threshold of Fast-dLLM's (arXiv 2505.22618): the arguments of both and,
with their own remasking, the same tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anyorder.decoding.cache import Refresh, start_cache
from anyorder.decoding.caches import CacheRule
from anyorder.decoding.combined_counts import Deadline
from anyorder.decoding.counts import CountRule, EvenBlocks, Fixed
from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.decoding.tokens import Sample
from anyorder.denoisers.base import Denoiser, DenoiserOutput
from anyorder.denoisers.block_families import is_block_causal
from anyorder.denoisers.blocks import block_length_of
from anyorder.ends import Ends
from anyorder.errors import BadInput
from anyorder.interfaces.arguments import (
    as_denoiser,
    check_budget,
    check_threshold,
    find_order,
    number,
    token_rule,
    whole,
)
from anyorder.interfaces.ends import WithoutEnds, find_ends
from anyorder.interfaces.prompts import Prompts, batch_of
from anyorder.orders.base import Order
from anyorder.orders.end_penalty import EndPenalty
from anyorder.orders.heuristics import max_confidence, random
from anyorder.prediction import Prediction
from anyorder.state import DecodeState

MASK_ID, EOS_ID, EOT_ID = 126336, 126081, 126348
_REMASKING = ("low_confidence", "random")
_LEAST = -1e9
"""The log-probability of what has none: a score of minus infinity would never be committed."""


def generate(
    model: nn.Module | Denoiser,
    prompt: Prompts,
    attention_mask: Any = None,
    steps: int = 128,
    gen_length: int = 128,
    block_length: int = 128,
    temperature: float = 0.0,
    cfg_scale: float = 0.0,
    remasking: str = "low_confidence",
    mask_id: int | None = None,
    logits_eos_inf: bool = False,
    confidence_eos_eot_inf: bool = False,
    *,
    threshold: float | None = None,
    order: Order | str | Path | None = None,
    seed: int = 0,
    eos_id: int = EOS_ID,
    eot_id: int = EOT_ID,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
    cache: CacheRule | str = "none",
    refresh: Refresh = "block",
) -> Any:
    """Continue prompts with `gen_length` tokens, and fill the masks inside them.

    Where the originals go wrong, this does what their papers say. The mask itself is never produced. Masks inside a prompt are
    positions to fill like all others: blocks and steps are divided over all of them (LLaDA's counts those behind the prompt
    alone, and leaves as many masks at the end). `confidence_eos_eot_inf` holds back both tokens at every temperature (LLaDA's,
    above temperature 0, only the second).

    Args:
        model: LLaDA or any model with the same interface, or a denoiser of it.
        prompt: int64 (B, P), padding on either side; or in any other form that `anyorder.generate` takes.
        attention_mask: bool or int in the shape of the prompt, 0 at padding.
        steps, gen_length, block_length, temperature, remasking: as in LLaDA's `generate`. Steps and tokens are split evenly
            among the blocks.
        cfg_scale: scale of classifier-free guidance, 0 for none: a second forward pass sees the prompt masked, see `Guided`.
        mask_id: the mask; by default the denoiser's or configuration's, and 126336 if that names none.
        logits_eos_inf: never produce the end of the text, `eos_id`.
        confidence_eos_eot_inf: commit the ends of text and turn, `eos_id` and `eot_id`, behind all other tokens (appendix B.4).
        threshold: as in Fast-dLLM: commit all tokens of at least this probability, or else the best-scored one, whatever
            `steps` says.
        order: an order instead of the remasking: an `Order` such as a `LearnedOrder`, a heuristic's name, or the folder of a
            policy. "confidence" is the remasking "low_confidence"; all others read the model's own probabilities.
        seed: of sampling and random orders; row i takes seed + i.
        eos_id, eot_id: the two tokens of a model that is not LLaDA.
        eos_token_id, pad_token_id: stop a row at the end of its text, see `anyorder.generate`. The originals never stop.
        cache, refresh: see `Sampler`; "prefix" and "dual" are the two caches of Fast-dLLM. With guidance two are kept.

    Returns:
        int64 (B, P + gen_length), the prompts and what follows them, or the form of the prompts, see `anyorder.generate`. With
        a threshold this and the number of forward passes, as Fast-dLLM does: `(ids, nfe)`.

    Raises:
        BadInput: nothing to generate, blocks that do not divide the length, steps that are not divisible by the blocks or are
            fewer than these, an argument out of range, a token that is not in the vocabulary.
    """
    _check(steps, gen_length, block_length, cfg_scale, remasking if order is None else "random")
    check_threshold(threshold)
    token = token_rule(temperature)
    named = getattr(getattr(model, "config", None), "mask_token_id", None)
    if (
        mask_id is None
        and named is None
        and not isinstance(model, Denoiser)
        and not is_block_causal(getattr(model, "config", None))
    ):
        mask_id = MASK_ID
    denoiser = as_denoiser(model, mask_id, block_length=block_length)
    batch = batch_of(prompt, attention_mask, denoiser, new=gen_length, what="the prompts", length="gen_length")
    late = _tokens(denoiser, confidence_eos_eot_inf, eos_id=eos_id, eot_id=eot_id)
    where = _order(order, remasking, denoiser, late, drawn=isinstance(token, Sample))
    count: CountRule = EvenBlocks(block_length)
    if threshold is None:
        check_budget(denoiser, batch.tokens, batch.attention_mask, steps, block_length)
    else:
        sure: CountRule = AtLeast(threshold)
        count = Deadline(WithoutEnds(sure, Ends(late)) if late else sure, Fixed(1))
    budget = steps if threshold is None else None
    sampler = Sampler(where, count, token, steps=budget, block_length=block_length).replace(cache=cache, refresh=refresh)
    seen: Denoiser = Guided(denoiser, cfg_scale, batch.tokens.shape[1] - gen_length) if cfg_scale else denoiser
    never = _tokens(denoiser, logits_eos_inf, eos_id=eos_id)
    seen = Without(seen, never) if never else seen
    ends = find_ends(denoiser, eos_token_id, pad_token_id)
    decoded = decode(seen, batch.tokens, sampler, seeds=seed, attention_mask=batch.attention_mask, ends=ends)
    ids = batch.unpad(decoded.tokens)
    return ids if threshold is None else (ids, int(decoded.nfe.max()))


def _check(steps: int, gen_length: int, block_length: int, cfg_scale: float, remasking: str) -> None:
    for name, value, least in (("steps", steps, 1), ("gen_length", gen_length, 0), ("block_length", block_length, 1)):
        whole(name, value, least)
    if gen_length % block_length:
        raise BadInput(f"gen_length {gen_length} is not a multiple of block_length {block_length}")
    blocks = max(1, gen_length // block_length)
    if steps % blocks:
        raise BadInput(f"steps {steps} are not divisible by {blocks} blocks")
    if remasking not in _REMASKING:
        raise BadInput(f"remasking {remasking!r} is unknown: use one of {', '.join(_REMASKING)}, or give an order")
    number("cfg_scale", cfg_scale, " (no guidance)")


def _tokens(denoiser: Denoiser, wanted: bool, **tokens: int) -> tuple[int, ...]:
    """The tokens, if they are wanted, which must be among the denoiser's."""
    for name, token in tokens.items():
        if wanted and whole(name, token, 0) >= denoiser.vocab_size:
            raise BadInput(
                f"{name} is {token}, and the model's vocabulary has {denoiser.vocab_size} tokens: give its own {name}"
            )
    return tuple(tokens.values()) if wanted else ()


def _order(
    order: Order | str | Path | None, remasking: str, denoiser: Denoiser, late: tuple[int, ...], *, drawn: bool
) -> Order:
    """Where, with the tokens of `late` behind all others."""
    where: Order
    if order == "confidence" or (order is None and remasking == "low_confidence"):
        where = LowConfidence(drawn, late)
    else:
        where = random if order is None else find_order(order, denoiser)
    return EndPenalty(where, late) if late else where


@dataclass(frozen=True)
class LowConfidence:
    """Log-probability of the token that is about to be committed, as LLaDA ranks it.

    Args:
        drawn: the token is drawn, not the likeliest.
        hidden: tokens that the probabilities are computed without.
    """

    drawn: bool = False
    hidden: tuple[int, ...] = ()

    def __call__(self, state: DecodeState, prediction: Prediction) -> Tensor:
        seen = prediction
        if self.hidden:
            hidden = torch.tensor(self.hidden, device=prediction.logits.device)
            seen = prediction.with_logits(prediction.logits.index_fill(1, hidden, -torch.inf))
        if not self.drawn:
            return max_confidence(state, seen)
        assert prediction.candidates is not None
        return prediction.scatter(seen.log_probs_of(prediction.candidates).clamp(min=_LEAST))


@dataclass(frozen=True)
class AtLeast(CountRule):
    """All positions whose token has at least this probability, which may be none (`get_transfer_index` of Fast-dLLM)."""

    level: float

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        assert prediction.candidates is not None
        probability = prediction.scatter(prediction.log_probs_of(prediction.candidates).exp())
        return (probability >= self.level) & (scores > -torch.inf)


class Guided:
    """A denoiser under classifier-free guidance, as LLaDA does it: u + (scale + 1) (c - u), where c are its logits and u its
    logits when the prompt is masked, the filled masks inside it too. One forward pass costs two.

    Args:
        denoiser: what is guided.
        scale: 0 for none.
        prompt: number of columns of the prompt, at the start.
    """

    def __init__(self, denoiser: Denoiser, scale: float, prompt: int) -> None:
        self.denoiser, self.scale, self.prompt = denoiser, scale, prompt
        self.mask_token_id, self.vocab_size = denoiser.mask_token_id, denoiser.vocab_size
        self.hidden_size = denoiser.hidden_size
        self.block_length = block_length_of(denoiser)

    def __call__(self, tokens: Tensor, attention_mask: Tensor | None = None, positions: Tensor | None = None) -> DenoiserOutput:
        """See `Denoiser`. Tokens that are never produced keep a logit of minus infinity."""
        seen = self.denoiser(tokens, attention_mask, positions)
        return self.combined(seen, self.denoiser(self.blind(tokens), attention_mask, positions))

    def blind(self, tokens: Tensor) -> Tensor:
        """The tokens with the prompt masked."""
        columns = torch.arange(tokens.shape[1], device=tokens.device)
        return tokens.masked_fill(columns < self.prompt, self.mask_token_id)

    def combined(self, seen: DenoiserOutput, blind: DenoiserOutput) -> DenoiserOutput:
        """The output under guidance from those with and without the prompt."""
        guided = blind.logits + (self.scale + 1) * (seen.logits - blind.logits)
        return DenoiserOutput(torch.where(seen.logits == -torch.inf, seen.logits, guided), seen.hidden)

    def start_cache(self) -> "GuidedCache":
        """An empty cache, for `anyorder.decoding.cache`."""
        return GuidedCache(self)


class GuidedCache:
    """The `DenoiserCache` of a guided denoiser: one with the prompt and one without."""

    def __init__(self, guided: Guided) -> None:
        self.guided = guided
        self.seen, self.blind = start_cache(guided.denoiser), start_cache(guided.denoiser)

    def full(self, tokens: Tensor, attention_mask: Tensor | None, positions: Tensor, rows: Tensor | None) -> DenoiserOutput:
        """See `DenoiserCache`."""
        seen = self.seen.full(tokens, attention_mask, positions, rows)
        return self.guided.combined(seen, self.blind.full(self.guided.blind(tokens), attention_mask, positions, rows))

    def part(
        self, tokens: Tensor, attention_mask: Tensor | None, positions: Tensor, fresh: Tensor, rows: Tensor | None
    ) -> DenoiserOutput:
        """See `DenoiserCache`."""
        seen = self.seen.part(tokens, attention_mask, positions, fresh, rows)
        return self.guided.combined(seen, self.blind.part(self.guided.blind(tokens), attention_mask, positions, fresh, rows))

    def keep(self, rows: Tensor) -> None:
        """See `DenoiserCache`."""
        self.seen.keep(rows)
        self.blind.keep(rows)


class Without:
    """A denoiser that never produces some tokens more.

    Args:
        denoiser: any.
        tokens: the tokens.
    """

    def __init__(self, denoiser: Denoiser, tokens: Sequence[int]) -> None:
        self.denoiser, self.tokens = denoiser, list(tokens)
        self.mask_token_id, self.vocab_size = denoiser.mask_token_id, denoiser.vocab_size
        self.hidden_size = denoiser.hidden_size
        self.block_length = block_length_of(denoiser)

    def __call__(self, tokens: Tensor, attention_mask: Tensor | None = None, positions: Tensor | None = None) -> DenoiserOutput:
        """See `Denoiser`."""
        return self.without(self.denoiser(tokens, attention_mask, positions))

    def without(self, output: DenoiserOutput) -> DenoiserOutput:
        """An output without these tokens."""
        never = torch.tensor(self.tokens, device=output.logits.device)
        return DenoiserOutput(output.logits.index_fill(-1, never, -torch.inf), output.hidden)

    def start_cache(self) -> "WithoutCache":
        """An empty cache, for `anyorder.decoding.cache`."""
        return WithoutCache(self)


class WithoutCache:
    """The `DenoiserCache` of a denoiser that never produces some tokens."""

    def __init__(self, denoiser: Without) -> None:
        self.outer, self.inner = denoiser, start_cache(denoiser.denoiser)

    def full(self, tokens: Tensor, attention_mask: Tensor | None, positions: Tensor, rows: Tensor | None) -> DenoiserOutput:
        """See `DenoiserCache`."""
        return self.outer.without(self.inner.full(tokens, attention_mask, positions, rows))

    def part(
        self, tokens: Tensor, attention_mask: Tensor | None, positions: Tensor, fresh: Tensor, rows: Tensor | None
    ) -> DenoiserOutput:
        """See `DenoiserCache`."""
        return self.outer.without(self.inner.part(tokens, attention_mask, positions, fresh, rows))

    def keep(self, rows: Tensor) -> None:
        """See `DenoiserCache`."""
        self.inner.keep(rows)
