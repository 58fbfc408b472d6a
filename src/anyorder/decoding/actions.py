"""Selections that are drawn: count rules that are distributions, with exact log-probabilities for training by reward.

An action is kept as `drawn`, int64 (B, L): the number of the draw (0, 1, ...) in which a position was drawn, -1 where it was
not. Positions with score -inf cannot be drawn. Everything is stable in float32: sums of exponentials are logcumsumexp.
"""

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from anyorder import noise
from anyorder.decoding.counts import CountRule, Linear, as_rule, top
from anyorder.errors import LARGEST_FINITE, check_number
from anyorder.prediction import Prediction
from anyorder.registry import COUNT_RULES
from anyorder.state import DecodeState

_NOWHERE = -1e9
"""In place of -inf, whose gradient would be no number; in float32 it adds nothing to any sum of exponentials."""


class Actions(CountRule):
    """Base class of count rules that draw.

    ordered: whether two actions that draw the same positions in another order are different.
    """

    ordered: ClassVar[bool] = True

    @abstractmethod
    def draw(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        """An action int64 (B, L) for scores (B, L). The draw belongs to the sequence's seed and the step."""

    @abstractmethod
    def log_prob(self, scores: Tensor, drawn: Tensor) -> Tensor:
        """log-probability of each row's action, float (B,), differentiable in the scores."""

    def selection(self, scores: Tensor, drawn: Tensor) -> Tensor:
        """What an action unmasks, bool (B, L): at least one position of a row that has any."""
        return drawn >= 0

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        """Draw an action, and return what it unmasks."""
        return self.selection(scores, self.draw(scores, state, prediction, remasked))


@COUNT_RULES.register("plackett_luce")
@dataclass(frozen=True)
class PlackettLuce(Actions):
    """Positions drawn one after the other without replacement, each with probability proportional to exp(score / temperature).

    With one position per step this is the softmax over the masked positions of UPO (arXiv 2510.05725, eq. 9); with several the
    unmasking policy of DCoLT (arXiv 2505.10446).

    Args:
        count: how many; any rule that fixes the number from the state alone.
    """

    temperature: float = field(default=1.0, metadata={"help": "of the scores"})
    count: CountRule = Linear()

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, above=0, most=LARGEST_FINITE)
        object.__setattr__(self, "count", as_rule("count", self.count))

    def draw(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        """See `Actions`."""
        gumbel = state.gumbel(noise.Purpose.POSITION)
        noisy = (scores / self.temperature + gumbel).masked_fill(scores == -torch.inf, -torch.inf)
        return numbered(noisy, self.count(noisy, state, prediction, remasked))

    def log_prob(self, scores: Tensor, drawn: Tensor) -> Tensor:
        """See `Actions`."""
        ranked, rest, is_drawn = _ranked(scores / self.temperature, drawn)
        return torch.where(is_drawn, ranked - rest, 0.0).sum(dim=1)

    def in_blocks(self, length: int) -> CountRule:
        """See `CountRule`."""
        return replace(self, count=self.count.in_blocks(length))

    def closes(self, state: DecodeState) -> Tensor | None:
        """See `CountRule`."""
        return self.count.closes(state)


@COUNT_RULES.register("bernoulli", curve_for=("reward",))
@dataclass(frozen=True)
class Bernoulli(Actions):
    """Each position independently with probability sigmoid(score / temperature) (arXiv 2512.09106). If none is drawn, the
    environment unmasks the best-scored one, and the action keeps the probability of "none"."""

    ordered: ClassVar[bool] = False
    temperature: float = field(
        default=1.0, metadata={"help": "of the scores; 0 for the mode, score > 0", "values": (0, 0.25, 0.5, 1, 1.5, 2)}
    )

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, 0, LARGEST_FINITE)

    def draw(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        """See `Actions`."""
        if self.temperature == 0:
            return torch.where(scores > 0, 0, -1)
        fires = state.uniform(noise.Purpose.POSITION) < torch.sigmoid(scores.double() / self.temperature)
        return torch.where(fires & (scores > -torch.inf), 0, -1)

    def log_prob(self, scores: Tensor, drawn: Tensor) -> Tensor:
        """See `Actions`."""
        check_number("temperature", self.temperature, above=0, most=LARGEST_FINITE)
        available = scores > -torch.inf
        logits = scores.masked_fill(~available, 0.0) / self.temperature
        return torch.where(available, F.logsigmoid(torch.where(drawn >= 0, logits, -logits)), 0.0).sum(dim=1)

    def selection(self, scores: Tensor, drawn: Tensor) -> Tensor:
        """See `Actions`."""
        fired = drawn >= 0
        return fired | top(scores, (~fired.any(dim=1)).long())


@COUNT_RULES.register("dynamic_plackett_luce")
@dataclass(frozen=True)
class DynamicPlackettLuce(Actions):
    """Plackett-Luce that also draws the number: after the first position, STOP can be drawn too, with score 0
    (arXiv 2512.09106)."""

    temperature: float = field(
        default=1.0, metadata={"help": "of the scores, not of STOP's, which stays 0", "values": (0.25, 0.5, 0.75, 1, 1.5, 2)}
    )

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, above=0, most=LARGEST_FINITE)

    def draw(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        """See `Actions`. As a race: position i arrives after an exponential time of rate exp(score), STOP's clock starts at the
        first arrival."""
        gumbel = state.gumbel(noise.Purpose.POSITION)
        noisy = (scores.double() / self.temperature + gumbel).masked_fill(scores == -torch.inf, -torch.inf)
        first = noisy.amax(dim=1, keepdim=True)
        stop = torch.logaddexp(-first, -noise.gumbel(state.seeds, noise.Purpose.STOP, state.step)[:, None])  # log of the time
        return numbered(noisy, ((-noisy < stop) | (noisy == first)) & (noisy > -torch.inf))

    def log_prob(self, scores: Tensor, drawn: Tensor) -> Tensor:
        """See `Actions`."""
        ranked, rest, is_drawn = _ranked(scores / self.temperature, drawn)
        with_stop = torch.logaddexp(rest, torch.zeros_like(rest))
        later = torch.cat([ranked[:, :1] - rest[:, :1], ranked[:, 1:] - with_stop[:, 1:]], dim=1)
        count = is_drawn.sum(dim=1, keepdim=True)
        end = F.pad(with_stop, (0, 1)).gather(1, count)[:, 0]  # 0 where nothing is left but STOP
        return torch.where(is_drawn, later, 0.0).sum(dim=1) - torch.where(count[:, 0] > 0, end, 0.0)


def numbered(ranks: Tensor, chosen: Tensor) -> Tensor:
    """The chosen positions numbered by falling rank, -1 elsewhere."""
    place = ranks.masked_fill(~chosen, -torch.inf).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return torch.where(chosen, place, -1)


def _ranked(logits: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The drawn positions in their order and then all others: logits, log-sum-exp from each place on, and whether the place
    was drawn; each (B, L)."""
    ranking = torch.where(drawn >= 0, drawn, drawn.shape[1]).argsort(dim=1, stable=True)
    ranked = logits.masked_fill(logits == -torch.inf, _NOWHERE).gather(1, ranking)
    rest = ranked.flip(1).logcumsumexp(dim=1).flip(1)
    return ranked, rest, drawn.gather(1, ranking) >= 0
