"""`model.generate(...)` for masked models, with the arguments that Transformers' users know."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from anyorder.decoding.blocks import EvenBlocks, InBlocks
from anyorder.decoding.counts import CountRule, Fixed, InTime, Linear, Threshold
from anyorder.decoding.loop import Decoder, decode
from anyorder.denoisers.base import Denoiser
from anyorder.errors import BadInput
from anyorder.interfaces.arguments import as_denoiser, find_order, token_rule, with_new_tokens
from anyorder.orders.base import Order


class MaskedGenerationMixin:
    """Gives a `*ForMaskedLM`, or a masked diffusion model with code of its own, a `generate` that fills its masks.

    Example:
        >>> from transformers import BertForMaskedLM
        >>> class MyBert(MaskedGenerationMixin, BertForMaskedLM): ...

    For a model that is loaded already there is `as_generator`.
    """

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        max_new_tokens: int | None = None,
        steps: int | None = None,
        block_length: int | None = None,
        temperature: float = 0.0,
        top_p: float | None = None,
        threshold: float | None = None,
        order: Order | str | Path = "confidence",
        seed: int = 0,
        *,
        mask_token_id: int | None = None,
        suppress_tokens: Sequence[int] = (),
    ) -> Tensor:
        """Fill the masks in `input_ids`, and those of new tokens behind them.

        Args:
            input_ids: int64 (B, L).
            attention_mask: bool or int (B, L), 0 at padding, which may stand on either side.
            max_new_tokens: how many masks to append; None or 0 to fill in only.
            steps: forwards that a sequence may cost; None for one token at a time, or with a threshold as many as it takes.
            block_length: blocks of so many masks are finished one after another, with the same share of the steps each.
            temperature: of the tokens; 0 for the likeliest.
            top_p: tokens come from the smallest set whose probability reaches this; without effect at temperature 0.
            threshold: every token with a probability above it is taken, and the best in order until the steps are kept.
            order: the name of a heuristic, an `Order`, or the folder of a fitted policy. (The folder is read, and the weights
                of the model compared with its fingerprint, at every call: for many calls load it once with `load_order`.)
            seed: of sampling and of random orders; row i takes seed + i.
            mask_token_id: the mask, where neither generation configuration nor configuration names it.
            suppress_tokens: tokens that are never produced, such as padding; the mask never is.

        Returns:
            int64 (B, L + max_new_tokens).

        Raises:
            BadInput: nothing to generate, an unknown order, an argument out of range, no mask token.
            WrongDenoiser: the policy was fitted to another model.
        """
        denoiser = self._denoiser(mask_token_id, suppress_tokens)
        tokens, attention_mask = with_new_tokens(input_ids, attention_mask, max_new_tokens or 0, denoiser.mask_token_id)
        masked = tokens == denoiser.mask_token_id
        most = int((masked if attention_mask is None else masked & attention_mask.bool()).sum(dim=1).max())
        if most == 0:
            raise BadInput(
                f"there is nothing to generate: input_ids hold no mask ({denoiser.mask_token_id}); give max_new_tokens"
            )
        count = _count_rule(most, steps, block_length, threshold)
        where = find_order(order, denoiser)
        if block_length is not None:
            where = InBlocks(where, block_length)
        decoder = Decoder(where, count, token_rule(temperature, top_p), steps=steps)
        return decode(denoiser, tokens, decoder, seeds=seed, attention_mask=attention_mask).tokens

    def _denoiser(self, mask_token_id: int | None, suppress_tokens: Sequence[int]) -> Denoiser:
        return as_denoiser(self, mask_token_id, suppress_tokens)


class MaskedGenerator(MaskedGenerationMixin):
    """A denoiser with `generate`; made by `as_generator`."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser

    def _denoiser(self, mask_token_id: int | None, suppress_tokens: Sequence[int]) -> Denoiser:
        return as_denoiser(self.denoiser, mask_token_id, suppress_tokens)


def as_generator(
    model: Any, *, mask_token_id: int | None = None, suppress_tokens: Sequence[int] = (), shift: bool | None = None
) -> MaskedGenerator:
    """`generate` for a model that is loaded already, which stays as it is.

    Args:
        model: a Hugging Face model, or any `Denoiser`, such as `HuggingFaceDenoiser.from_pretrained` gives.
        mask_token_id: the mask, where neither generation configuration nor configuration names it.
        suppress_tokens: tokens that are never produced, such as padding; the mask never is.
        shift: the logits at position i predict token i + 1; by default where the model is known to need it (Dream).

    Raises:
        BadInput: no model, or no mask token.
    """
    return MaskedGenerator(as_denoiser(model, mask_token_id, suppress_tokens, shift=shift))


def _count_rule(most: int, steps: int | None, block_length: int | None, threshold: float | None) -> CountRule:
    """How many at a step, where the longest sequence has `most` masks."""
    if steps is not None and steps < 1:
        raise BadInput(f"steps is {steps}; at least one forward is needed")
    if block_length is not None and block_length < 1:
        raise BadInput(f"block_length is {block_length}; a block needs at least one token")
    blocks = 1 if block_length is None else -(-most // block_length)
    if steps is not None and steps < blocks:
        raise BadInput(f"steps {steps} do not suffice for {blocks} blocks of {block_length}: give {blocks} or more")
    if threshold is not None and not 0 <= threshold <= 1:
        raise BadInput(f"threshold is {threshold}; it is a probability, from 0 to 1")
    schedule: CountRule = Linear()
    if steps is None:
        schedule = Fixed(1)
    elif block_length is not None:
        schedule = EvenBlocks(block_length)
    return schedule if threshold is None else InTime(Threshold(threshold), schedule)
