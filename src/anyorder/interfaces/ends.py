"""The end of a text in the calls: from a user's arguments to `Ends`, and to orders and count rules that keep ends for later."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anyorder.decoding.counts import Cosine, CountRule, Fixed, Linear, top
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.base import Denoiser
from anyorder.ends import Ends
from anyorder.errors import BadInput
from anyorder.interfaces.arguments import whole
from anyorder.orders.base import Order
from anyorder.orders.end_penalty import EndPenalty, ending
from anyorder.prediction import Prediction
from anyorder.state import DecodeState


def find_ends(denoiser: Denoiser, eos_token_id: int | Iterable[int] | None, pad_token_id: int | None = None) -> Ends | None:
    """The tokens that end a text, and the padding behind them: as given, else the denoiser's, else the first end token.

    Raises:
        BadInput: a token that is not in the vocabulary, the mask, or one that the denoiser never produces.
    """
    if eos_token_id is None:
        if pad_token_id is not None:
            raise BadInput("pad_token_id is what stands behind the end of a text: give eos_token_id too")
        return None
    tokens = tuple(eos_token_id) if isinstance(eos_token_id, Iterable) else (eos_token_id,)
    for name, token in [("eos_token_id", token) for token in tokens] + [("pad_token_id", pad_token_id)]:
        if token is not None and (whole(name, token, 0) >= denoiser.vocab_size or token == denoiser.mask_token_id):
            raise BadInput(f"{name} is {token}; it must be one of the model's {denoiser.vocab_size} tokens, and not the mask")
    never = set(tokens) & set(getattr(denoiser, "forbidden", ()))
    if never:
        raise BadInput(
            f"this denoiser never produces eos_token_id {min(never)}: allow it first, denoiser.allow({sorted(never)})"
        )
    if pad_token_id is None:
        pad_token_id = getattr(denoiser, "pad_token_id", None)
    if pad_token_id is None:
        config: Any = getattr(getattr(denoiser, "model", None), "config", None)
        pad_token_id = getattr(config, "pad_token_id", None)
        if pad_token_id is not None and not 0 <= pad_token_id < denoiser.vocab_size:  # as -1, which some configurations have
            pad_token_id = None
    return Ends(tuple(int(token) for token in tokens), None if pad_token_id == denoiser.mask_token_id else pad_token_id)


def penalized(order: Order, ends: Ends | None, penalty: float) -> Order:
    """The order, with a penalty for ends if there is one.

    Raises:
        BadInput: a penalty that is negative or no number, or one without ends.
    """
    if penalty == 0:
        return order
    if ends is None:
        raise BadInput(f"eos_penalty is {penalty}, and no token ends the text: give eos_token_id")
    try:
        return EndPenalty(order, ends.tokens, penalty)
    except (TypeError, ValueError) as error:
        raise BadInput(f"eos_penalty is {penalty!r}; it must be a number, 0 or more") from error


def with_late_ends(sampler: Sampler, ends: Ends | None, penalty: float) -> Sampler:
    """The sampler with a penalty for ends, see `penalized`. At infinity its count rule leaves ends for last too, whatever it
    looks at.

    Raises:
        BadInput: a penalty that is negative or no number, or one without ends.
    """
    order = penalized(sampler.order, ends, penalty)
    if ends is None or penalty != math.inf or isinstance(sampler.count, _BY_RANK):
        return sampler.replace(order=order)
    return sampler.replace(order=order, count=EndsLast(sampler.count, ends))


_BY_RANK = (Linear, Cosine, Fixed)
"""Rules that take the highest scores alone, where the penalty suffices."""


@dataclass(frozen=True)
class EndsLast(CountRule):
    """What another rule selects, without ends of the text as long as anything else is open; if it selects ends alone, the
    position with the highest score among the others.

    Args:
        rule: what selects.
        ends: the tokens that wait.
    """

    rule: CountRule
    ends: Ends

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        others = scores.masked_fill(ending(prediction, self.ends), -torch.inf)
        selected, left = self.rule(scores, state, prediction, remasked), (others > -torch.inf).any(dim=1, keepdim=True)
        kept = selected & (~left | (others > -torch.inf))
        missing = left[:, 0] & selected.any(dim=1) & ~kept.any(dim=1)
        return kept | top(others, missing.long())

    def in_blocks(self, length: int) -> CountRule:
        """See `CountRule`."""
        return EndsLast(self.rule.in_blocks(length), self.ends)

    def closes(self, state: DecodeState) -> Tensor | None:
        """See `CountRule`."""
        return self.rule.closes(state)


@dataclass(frozen=True)
class WithoutEnds(CountRule):
    """A rule that looks at probabilities, among the positions whose token is no end of the text. It may select none.

    Args:
        rule: what selects.
        ends: the tokens that it does not select.
    """

    rule: CountRule
    ends: Ends

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        return self.rule(scores.masked_fill(ending(prediction, self.ends), -torch.inf), state, prediction, remasked)

    def in_blocks(self, length: int) -> CountRule:
        """See `CountRule`."""
        return WithoutEnds(self.rule.in_blocks(length), self.ends)
