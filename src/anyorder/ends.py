"""The end of a text: a row is complete there, although masks are left behind it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anyorder.errors import BadInput
from anyorder.signatures import check_argument
from anyorder.state import DecodeState


@dataclass(frozen=True)
class Ends:
    """Tokens that end a text.

    A row is complete once everything left of its first committed end is committed; what stands behind the end becomes padding.
    An end counts only where everything behind it is generated too: a text that goes on with given tokens is not over.

    Args:
        tokens: the tokens, one or more.
        pad: the padding behind an end; by default the first of the tokens.

    Raises:
        BadInput: no token; from `decode`, one that is the mask, or none of the model's.
    """

    tokens: tuple[int, ...]
    pad: int | None = None

    def __post_init__(self) -> None:
        if not self.tokens:
            raise BadInput("no token ends the text: give at least one")
        check_argument("tokens", self.tokens, Sequence)
        for token in self.tokens:
            check_argument("tokens", token, int)
        check_argument("pad", self.pad, int | None)

    def check(self, denoiser: Any) -> None:
        """Raise BadInput unless the ends, and the padding behind them, are tokens of a denoiser, and not its mask."""
        mask, own = denoiser.mask_token_id, getattr(denoiser, "pad_token_id", None)
        if mask in (self.pad, *self.tokens):
            raise BadInput(f"an end, or the padding behind it, is the mask, {mask}: name other tokens")
        for name, token in [("the end", token) for token in self.tokens] + [("the padding behind an end", self.pad)]:
            if token is not None and not 0 <= token < denoiser.vocab_size and (name == "the end" or token != own):
                raise BadInput(f"{name} is {token}; it must be one of the model's tokens 0 to {denoiser.vocab_size - 1}")

    def close(self, state: DecodeState, rows: Tensor | bool = True) -> DecodeState:
        """The state with padding behind the end of each row, of those where `rows` bool (B,) is True, that is complete."""
        given = ~state.generated if state.attention_mask is None else ~state.generated & state.attention_mask.bool()
        end = self._counted(state.tokens, state.generated & ~state.masked, given)
        passed = end.long().cumsum(dim=1)
        complete = (passed > 0).any(dim=1) & ~(state.masked & (passed == 0)).any(dim=1) & rows
        rest = state.generated & complete[:, None] & (passed - end.long() > 0)
        if not rest.any():
            return state
        return state.replace(
            tokens=state.tokens.masked_fill(rest, self.tokens[0] if self.pad is None else self.pad),
            masked=state.masked & ~rest,
            commit_step=torch.where(rest, state.step[:, None] - 1, state.commit_step),
            token_log_probs=state.token_log_probs.masked_fill(rest, 0.0),
            order_log_probs=state.order_log_probs.masked_fill(rest, 0.0),
        )

    def behind(self, tokens: Tensor, generated: Tensor, given: Tensor) -> Tensor:
        """The positions bool (B, L) behind the first end of complete rows (B, L)."""
        end = self._counted(tokens, generated, given).long()
        return end.cumsum(dim=1) - end > 0

    def _counted(self, tokens: Tensor, generated: Tensor, given: Tensor) -> Tensor:
        """The generated ends that no given token follows, bool (B, L)."""
        followed = given.flip(1).cumsum(dim=1).flip(1) > 0
        return self.found(tokens) & generated & ~followed

    def found(self, tokens: Tensor) -> Tensor:
        """Where tokens (...) are ends, bool (...)."""
        return torch.isin(tokens, torch.tensor(self.tokens, device=tokens.device))
