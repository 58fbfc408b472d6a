"""Which token to commit at a position: rules that turn logits into candidates."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, ClassVar

import torch
from torch import Tensor

from anyorder import noise
from anyorder.decoding.part_checks import checked_part
from anyorder.errors import LARGEST_FINITE, BadInput, NotFinite, check_number, check_whole
from anyorder.own_code import name_of, naming
from anyorder.prediction import Prediction, in_chunks
from anyorder.registry import TOKEN_RULES
from anyorder.state import DecodeState

COLDEST = 1e-30
"""The lowest temperature of `Sample`: below it, only exact ties are left to chance."""


class TokenRule(ABC):
    """Base class of token rules, which are frozen dataclasses."""

    part_kind: ClassVar[str] = "token rule"

    @abstractmethod
    def __call__(self, state: DecodeState, prediction: Prediction) -> tuple[Tensor, Tensor]:
        """Candidates int64 (K,) for the predicted positions, and their log-probabilities under the rule, float (K,)."""


def propose(rule: TokenRule, state: DecodeState, prediction: Prediction) -> tuple[Tensor, Tensor]:
    """What a token rule proposes for the predicted positions: tokens int64 (K,) and log-probabilities float (K,).

    Raises:
        BadInput: the rule returned something else, the mask, or what is no token of the vocabulary. NotFinite: the denoiser's
            logits are no distribution.
    """
    with naming("token rule", rule):
        proposed = rule(state, prediction)
    count, words = prediction.logits.shape
    if not _are_proposals(proposed, count):
        parts = proposed if isinstance(proposed, tuple | list) and len(proposed) == 2 else (proposed,)
        given = " and ".join(f"{p.dtype} {tuple(p.shape)}" if isinstance(p, Tensor) else type(p).__name__ for p in parts)
        raise BadInput(
            f"the token rule {name_of(rule)} returned {given}; it must return tokens and their log-probabilities, "
            f"int64 and float tensors of shape ({count},)"
        )
    tokens, log_probs = proposed
    wrong, none = log_probs.isnan(), (tokens < 0) | (tokens >= words) | (tokens == state.mask_token_id)
    if (wrong | none).any():
        if wrong.any():
            raise NotFinite(_not_a_distribution(state, prediction, int(wrong.nonzero()[0, 0])))
        at = int(none.nonzero()[0, 0])
        raise BadInput(
            f"the token rule {name_of(rule)} proposes the token {int(tokens[at])} {_where(state, prediction, at)}; it must be "
            f"one of 0 to {words - 1}, and not the mask, {state.mask_token_id} (to which a denoiser gives a logit of -inf)"
        )
    return tokens, log_probs


def _are_proposals(proposed: Any, count: int) -> bool:
    """Whether these are tokens int64 (count,) and log-probabilities float (count,)."""
    if not isinstance(proposed, tuple | list) or len(proposed) != 2 or not all(isinstance(p, Tensor) for p in proposed):
        return False
    tokens, log_probs = proposed
    return bool(tokens.dtype == torch.int64 and log_probs.is_floating_point() and tokens.shape == log_probs.shape == (count,))


def _where(state: DecodeState, prediction: Prediction, at: int) -> str:
    """The step, row and position of the predicted position number `at`, for messages."""
    row, position = prediction.predicted.nonzero()[at].tolist()
    return f"in step {int(state.step[row])}, row {int(state.row[row])}, position {position}"


def _not_a_distribution(state: DecodeState, prediction: Prediction, at: int) -> str:
    """What is wrong with the logits at the predicted position number `at`."""
    logits = prediction.logits[at]
    where = _where(state, prediction, at)
    if bool((logits == -torch.inf).all()):
        return f"the denoiser forbids every token {where} (all logits are -inf): at least one must be allowed"
    found = "NaN" if bool(logits.isnan().any()) else "+inf" if bool((logits == torch.inf).any()) else None
    if found is None:
        return f"the token rule returned the log-probability NaN {where}, where all logits are finite"
    dtype = str(logits.dtype).removeprefix("torch.")
    reason = "the weights or the module's arithmetic overflow"
    if logits.dtype == torch.float16:
        reason = "float16 overflows above 65504, so load the model in bfloat16 or float32 (dtype=)"
    elif logits.dtype == torch.bfloat16:
        reason = "try float32 (dtype=), and look for NaN in the weights"
    return f"the denoiser's logits hold {found} {where}, dtype {dtype}: {reason}"


@TOKEN_RULES.register("argmax")
@dataclass(frozen=True)
class Argmax(TokenRule):
    """The likeliest token; its log-probability is the denoiser's."""

    def __call__(self, state: DecodeState, prediction: Prediction) -> tuple[Tensor, Tensor]:
        return prediction.best_tokens, prediction.best_log_probs


@TOKEN_RULES.register("sample")
@dataclass(frozen=True)
class Sample(TokenRule):
    """Draw from softmax(logits / temperature), restricted to the smallest set of tokens whose probability reaches `top_p`, and
    to the `top_k` likeliest.

    Gumbel-max in float64, with noise that belongs to (seed, step, position, token).
    """

    temperature: float = field(default=1.0, metadata={"help": "of the softmax"})
    top_p: float = field(default=1.0, metadata={"help": "probability of the likeliest tokens that are kept"})
    top_k: int | None = field(default=None, metadata={"help": "number of the likeliest tokens that are kept"})

    def __post_init__(self) -> None:
        limit = " (Argmax is the limit at 0)"
        check_number("temperature", self.temperature, above=0, most=LARGEST_FINITE, hint=limit)
        if self.temperature < COLDEST:
            raise BadInput(f"temperature is {self.temperature}; below {COLDEST:g} the logits overflow: use Argmax")
        check_number("top_p", self.top_p, above=0, most=1)
        check_whole("top_k", self.top_k)
        if self.top_k is not None and (isinstance(self.top_k, bool) or not isinstance(self.top_k, Integral) or self.top_k < 1):
            raise BadInput(f"top_k is {self.top_k!r}; it must be a whole number, 1 or more, or None")

    @property
    def plain(self) -> bool:
        """Whether no token is left out."""
        return self.top_p >= 1 and self.top_k is None

    def __call__(self, state: DecodeState, prediction: Prediction) -> tuple[Tensor, Tensor]:
        of_position = (
            values.expand_as(state.tokens)[prediction.predicted]
            for values in (state.seeds[:, None], state.step[:, None], state.index)
        )
        token, log_prob = in_chunks(self._draw, prediction.logits, *of_position)
        return token, log_prob

    def _draw(self, logits: Tensor, seed: Tensor, step: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """A token and its log-probability for each row of logits (K, V)."""
        log_probs = truncate(logits, self.temperature, self.top_p, self.top_k)
        words = torch.arange(log_probs.shape[1], device=log_probs.device)
        gumbel = noise.gumbel(seed[:, None], noise.Purpose.TOKEN, step[:, None], index[:, None], words)
        drawn = (log_probs + gumbel).argmax(dim=-1)
        return drawn, log_probs.gather(1, drawn[:, None])[:, 0].float()


@TOKEN_RULES.register("redraw")
@dataclass(frozen=True)
class Redraw(TokenRule):
    """One rule until something was remasked in a sequence, and another after that: the likeliest tokens, then drawn ones."""

    first: TokenRule = Argmax()
    again: TokenRule = Sample()

    def __post_init__(self) -> None:
        for name in ("first", "again"):
            rule = getattr(self, name)
            object.__setattr__(
                self, name, checked_part(name, TOKEN_RULES.make(rule) if isinstance(rule, str) else rule, "token rule")
            )

    def __call__(self, state: DecodeState, prediction: Prediction) -> tuple[Tensor, Tensor]:
        reopened = state.remasked > 0
        tokens, log_probs = self.first(state, prediction)
        if not reopened.any():
            return tokens, log_probs
        drawn, log_drawn = self.again(state, prediction)
        second = reopened[:, None].expand_as(state.masked)[prediction.predicted]
        return torch.where(second, drawn, tokens), torch.where(second, log_drawn.float(), log_probs.float())


def truncate(logits: Tensor, temperature: float = 1.0, top_p: float = 1.0, top_k: int | None = None) -> Tensor:
    """Log-probabilities float64 (K, V) of softmax(logits / temperature), restricted to the smallest set of tokens whose
    probability reaches `top_p` and to the `top_k` likeliest, and normalized again; -inf outside."""
    log_probs = torch.log_softmax(logits.double() / temperature, dim=-1)
    if top_p >= 1 and top_k is None:
        return log_probs
    ranked, ranking = log_probs.sort(dim=-1, descending=True, stable=True)
    before = ranked.exp().cumsum(dim=-1) - ranked.exp()
    likeliest = (before < top_p) | (top_p >= 1)
    likeliest[:, top_k:] &= top_k is None
    kept = torch.zeros_like(likeliest).scatter(1, ranking, likeliest)
    return torch.log_softmax(log_probs.masked_fill(~kept, -torch.inf), dim=-1)
