"""How many positions to unmask now: rules that turn scores into a selection.

Every rule here selects at least one position of a row that has any. In the last step of the budget, the step itself unmasks
everything that remains.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from anyorder.decoding.blocks import block_of, blocks_of
from anyorder.decoding.part_checks import checked_part
from anyorder.errors import BadInput, check_number
from anyorder.memory import Drift, Memory
from anyorder.orders.base import open_positions
from anyorder.own_code import name_of
from anyorder.prediction import Prediction
from anyorder.registry import COUNT_RULES
from anyorder.signatures import check_argument
from anyorder.state import DecodeState


class CountRule(ABC):
    """Base class of count rules, which are frozen dataclasses: how many positions, and therefore which."""

    part_kind: ClassVar[str] = "count rule"

    @abstractmethod
    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        """Select positions.

        Args:
            scores: float (B, L), -inf where nothing can be unmasked.
            state, prediction: what the order saw.
            remasked: int64 (B,), committed positions that are remasked in this very step.

        Returns:
            bool (B, L), the positions to unmask.
        """

    def in_blocks(self, length: int) -> "CountRule":
        """The rule to use in blocks of `length` generated positions: by default the same, within the open block.

        Raises:
            BadInput: the rule counts over the whole sequence.
        """
        return self

    def closes(self, state: DecodeState) -> Tensor | None:
        """Rows bool (B,) whose open block this step has to finish, so that it remasks nothing; None if there are none."""
        return None


@dataclass(frozen=True)
class FunctionRule(CountRule):
    """A plain function `(scores, state, prediction, remasked) -> selection` as a count rule."""

    function: Callable[[Tensor, DecodeState, Prediction, Tensor], Tensor]

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        return self.function(scores, state, prediction, remasked)


def as_rule(field: str, rule: Any) -> CountRule:
    """A count rule by its text, as a function or as it is; `field` is what errors call it.

    Raises:
        BadInput: it is none.
    """
    made = checked_part(field, COUNT_RULES.make(rule) if isinstance(rule, str) else rule, "count rule")
    return made if isinstance(made, CountRule) else FunctionRule(made)


def checked_selection(selected: object, state: DecodeState, part: Any) -> Tensor:
    """The positions that a count rule or remasker returned, bool (B, L).

    Raises:
        BadInput: it is no bool tensor, or of another shape than the tokens.
    """
    shape = tuple(state.tokens.shape)
    if not isinstance(selected, Tensor) or selected.dtype != torch.bool or selected.shape != shape:
        given = f"{selected.dtype} {tuple(selected.shape)}" if isinstance(selected, Tensor) else type(selected).__name__
        raise BadInput(f"the {part.part_kind} {name_of(part)} returned {given}; positions must be a bool tensor {shape}")
    return selected


def top(scores: Tensor, count: Tensor) -> Tensor:
    """The `count` (B,) highest finite scores of each row, bool (B, L); ties go to the leftmost position."""
    rank = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return (rank < count[:, None]) & (scores > -torch.inf)


def _scheduled(scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor, share: Tensor) -> Tensor:
    """Unmask so many that ceil(share * N) of the N generated positions stay masked, with remasked ones; share float64 (B,)."""
    total = state.generated.sum(dim=1)
    remaining = torch.ceil(total * share - 1e-9).long()
    return top(scores, (open_positions(state, prediction).sum(dim=1) + remasked - remaining).clamp(min=1))


@COUNT_RULES.register("linear", curve_for=("heuristic", "supervised", "reward"))
@dataclass(frozen=True)
class Linear(CountRule):
    """The same number in every step of the budget."""

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        return _scheduled(scores, state, prediction, remasked, 1 - (state.step + 1).double() / state.steps)

    def in_blocks(self, length: int) -> CountRule:
        """The budget is divided evenly among the blocks."""
        return EvenBlocks(length)


@COUNT_RULES.register("cosine", candidate=True)
@dataclass(frozen=True)
class Cosine(CountRule):
    """Few at first, many at the end: a share cos(pi/2 * (step + 1) / steps) stays masked (MaskGIT, arXiv 2202.04200)."""

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        done = math.pi / 2 * (state.step + 1).double() / state.steps
        return _scheduled(scores, state, prediction, remasked, torch.cos(done).clamp(min=0.0))

    def in_blocks(self, length: int) -> CountRule:
        """See `CountRule`."""
        raise not_in_blocks("cosine")


@COUNT_RULES.register("fixed")
@dataclass(frozen=True)
class Fixed(CountRule):
    """k positions in every step; k = 1 is one at a time."""

    k: int = field(default=1, metadata={"help": "positions per step"})

    def __post_init__(self) -> None:
        check_number("k", self.k, 1)

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        return top(scores, torch.full_like(remasked, self.k))


_PROBABILITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)


@COUNT_RULES.register("threshold", curve_for=("heuristic",))
@dataclass(frozen=True)
class Threshold(CountRule):
    """All positions whose drawn token has a probability above the level, and the best-scored one in any case (Fast-dLLM, arXiv
    2505.22618). In the order of confidence that is one of them, if there are any."""

    level: float = field(default=0.9, metadata={"help": "least probability of the drawn token", "values": _PROBABILITIES})

    def __post_init__(self) -> None:
        check_number("level", self.level, 0, 1)

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        return (drawn_confidence(scores, prediction) > self.level) | top(scores, torch.ones_like(remasked))


@COUNT_RULES.register("score_threshold", curve_for=("supervised", "reward"))
@dataclass(frozen=True)
class ScoreThreshold(CountRule):
    """All positions whose score, as the log-odds of being right, means a probability above the level, or else the
    best-scored one. For learned orders, whose scores are log-odds."""

    level: float = field(default=0.5, metadata={"help": "least probability of being right", "values": _PROBABILITIES})

    def __post_init__(self) -> None:
        check_number("level", self.level, 0, 1)

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        return _masked_out(torch.sigmoid(scores), scores).gt(self.level) | top(scores, torch.ones_like(remasked))


@COUNT_RULES.register("factor", curve_for=("heuristic",))
@dataclass(frozen=True)
class Factor(CountRule):
    """The largest n with (n + 1) * (1 - n-th largest confidence) <= factor, at least one (Fast-dLLM, arXiv 2505.22618)."""

    factor: float = field(default=1.0, metadata={"help": "the bound", "values": (3, 1.5, 0.7, 0.3, 0.1, 0.03)})

    def __post_init__(self) -> None:
        check_number("factor", self.factor, 0)

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        ranked, ranking = drawn_confidence(scores, prediction).sort(dim=1, descending=True, stable=True)
        n = torch.arange(1, scores.shape[1] + 1, device=scores.device)
        count = (((n + 1) * (1 - ranked) <= self.factor) * n).amax(dim=1)
        chosen = torch.zeros_like(state.masked).scatter(1, ranking, n <= count[:, None])
        return (chosen & (scores > -torch.inf)) | (top(scores, torch.ones_like(remasked)) & (count == 0)[:, None])


def steps_left(state: DecodeState, prediction: Prediction) -> Tensor:
    """The steps left for the open positions, float (B,): in blocks, their share by the positions that are unfilled."""
    here = open_positions(state, prediction).sum(dim=1) / state.unfilled.sum(dim=1).clamp(min=1)
    return ((state.steps - state.step) * here.clamp(max=1)).ceil().clamp(min=1)


_LONGEST_HISTORY = 1_000
"""Steps: every step keeps a number for each position."""


@COUNT_RULES.register("klass", curve_for=("heuristic",))
@dataclass(frozen=True)
class KLASS(CountRule):
    """All positions whose prediction is confident and stable, or else the k best-scored ones (KLASS, arXiv 2511.05664,
    Algorithm 1).

    Stable means that KL(prediction now || one step before) was below `kl` in each of the last `history` steps, so never before
    step `history`. The authors' code takes confidence .6 and KL .01 to .015 for LLaDA, .9 and .005 for Dream, a history of 2,
    and, where no position is ready, as many as a fixed schedule, one per step in their experiments.
    """

    confidence: float = field(
        default=0.9, metadata={"help": "a position is confident above this probability",
                               "values": ("0.5:1", "0.6:0.3", "0.6:0.1", "0.8:0.03", "0.9:0.01", "0.99:0.005")},
    )  # fmt: skip
    kl: float = field(default=0.01, metadata={"help": "a position is stable below this divergence, in nats"})
    history: int = field(default=2, metadata={"help": "steps in which it must be stable"})
    k: int = field(default=1, metadata={"help": "positions unmasked where none is ready"})

    def __post_init__(self) -> None:
        for name in ("history", "k"):
            check_argument(name, getattr(self, name), int)
        check_number("history", self.history, 1, _LONGEST_HISTORY)
        check_number("k", self.k, 1)
        check_number("confidence", self.confidence, 0, 1)
        check_number("kl", self.kl, 0)

    @property
    def memories(self) -> tuple[Memory, ...]:
        """The drift of the predictions."""
        return (Drift(self.history),)

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        drift, _ = state.recall(Drift(self.history))
        ready = (drift < self.kl).all(dim=-1) & (drawn_confidence(scores, prediction) > self.confidence)
        return ready | top(scores, torch.where(ready.any(dim=1), 0, self.k))


@COUNT_RULES.register("predicted_error", curve_for=("supervised",))
@dataclass(frozen=True)
class PredictedError(CountRule):
    """The largest prefix, by score, whose expected number of wrong tokens sum(1 - sigmoid(s_i)) <= bound, at least one, and at
    least as many as must be unmasked now to finish within the budget at an even pace.

    For orders whose score is the log-odds of being right: this is the policy's own bound on its error.
    """

    bound: float = field(
        default=0.3, metadata={"help": "expected number of wrong tokens per step", "values": (3, 1, 0.5, 0.2, 0.1, 0.03)}
    )

    def __post_init__(self) -> None:
        check_number("bound", self.bound, 0)

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        ranked, ranking = scores.sort(dim=1, descending=True, stable=True)
        fits = (1 - torch.sigmoid(ranked)).cumsum(dim=1) <= self.bound
        chosen = torch.zeros_like(state.masked).scatter(1, ranking, fits)
        available = scores > -torch.inf
        pace = (open_positions(state, prediction).sum(dim=1) / steps_left(state, prediction)).ceil()
        return (chosen & available) | top(scores, pace)


@COUNT_RULES.register("even_blocks")
@dataclass(frozen=True)
class EvenBlocks(CountRule):
    """Every block takes the same number of steps, and its positions are spread evenly over them, the remainder first (LLaDA,
    arXiv 2502.09992, `get_num_transfer_tokens`). The linear rule becomes this one in blocks.

    Each block takes at least one step. Of a row with more blocks than forward passes, the last pass fills the rest.
    """

    length: int = field(metadata={"help": "generated positions per block"})
    steps: int | None = field(default=None, metadata={"help": "per block; by default the budget over the number of blocks"})

    def __post_init__(self) -> None:
        check_number("length", self.length, 1)
        if self.steps is not None:
            check_number("steps", self.steps, 1)

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        if state.model_block is not None:
            return top(scores, self._of_unequal(state)[0] + remasked)
        block, steps = self._blocks(state)
        number, step = state.step // steps, state.step % steps
        size = (block == number[:, None]).sum(dim=1)
        count = size // steps + (step < size % steps).long() + remasked
        return top(scores, count.masked_fill(self.closes(state) & (state.remasked > 0), self.length))

    def closes(self, state: DecodeState) -> Tensor:
        """See `CountRule`."""
        if state.model_block is not None:
            return self._of_unequal(state)[1] <= 1
        block, steps = self._blocks(state)
        now = block.masked_fill(~state.masked, block.shape[1]).amin(dim=1)  # a block may be opened early
        return (state.step % steps == steps - 1) & (now <= state.step // steps) & ~state.finished

    def _blocks(self, state: DecodeState) -> tuple[Tensor, Tensor]:
        """The block of each generated position (B, L), and the steps of each of them, int64 (B,)."""
        block = block_of(state.generated, self.length)
        blocks = block.amax(dim=1) + 1
        even = (state.steps // blocks.clamp(min=1)).clamp(1, self.length)
        return block, even if self.steps is None else torch.full_like(blocks, min(self.steps, self.length))

    def _of_unequal(self, state: DecodeState) -> tuple[Tensor, Tensor]:
        """How many now, and the steps left for the open block with this one, int64 (B,), in the blocks of a block-causal
        denoiser. They may begin with given positions, so each gets a share of the steps by its size, and one at least."""
        block = blocks_of(state, self.length)
        last, left = block.amax(dim=1), (block >= 0) & (state.commit_step < 0)
        now = block.masked_fill(~state.available, block.shape[1]).amin(dim=1)
        here = (left & (block == now[:, None])).sum(dim=1)
        if self.steps is not None:
            count = -(-(block == now[:, None]).sum(dim=1) // min(self.steps, self.length))
            return count, -(-here // count.clamp(min=1))
        steps = state.steps - state.step
        share = steps * here // left.sum(dim=1).clamp(min=1)
        share = share.clamp(min=1).minimum((steps - (last - now)).clamp(min=1))
        return -(-here // share), share


def not_in_blocks(name: str) -> BadInput:
    """The error of a rule that counts over the whole sequence."""
    return BadInput(f"the count rule {name} counts over the whole sequence, not in blocks: use another one, such as linear")


def drawn_confidence(scores: Tensor, prediction: Prediction) -> Tensor:
    """Probability of the drawn token (B, L), -inf where nothing can be unmasked."""
    return _masked_out(prediction.scatter(prediction.drawn_log_probs.exp()), scores)


def _masked_out(values: Tensor, scores: Tensor) -> Tensor:
    return values.masked_fill(scores == -torch.inf, -torch.inf)
