"""What to remask: rules that mask committed tokens again."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from anyorder.decoding.combined_counts import IfUnsure, TwoPhase
from anyorder.decoding.counts import CountRule, Linear
from anyorder.decoding.entropy_counts import EntropyShare
from anyorder.decoding.part_checks import check_critic
from anyorder.errors import LARGEST_FINITE, BadInput, check_number
from anyorder.memory import Memory
from anyorder.orders.base import Binding, Unbound
from anyorder.orders.learned import Critic, own_order
from anyorder.own_code import name_of
from anyorder.prediction import Prediction
from anyorder.registry import COUNT_RULES, REMASKERS
from anyorder.state import DecodeState


class Remasker:
    """Base class of remaskers, which are frozen dataclasses. By default nothing is remasked.

    Attributes:
        reviews: whether a completed sequence is predicted once more as long as there are steps left, so that it can be opened
            again.
        in_blocks: whether it works in blocks, where a finished block stays as it is.
        final: whether a committed token always stays.
        verifies: whether it reads the denoiser's probabilities of the committed tokens, `Prediction.committed_log_probs`.
        noise: scale of Gumbel noise on the scores of sequences in which it has remasked something, if that is more than the
            sampler's, so that they are decoded in another order than before.
        temperature: of the tokens drawn in these sequences, if the sampler commits the likeliest ones; 0 to go on so.
    """

    part_kind: ClassVar[str] = "remasker"
    reviews: ClassVar[bool] = False
    in_blocks: ClassVar[bool] = False
    final: ClassVar[bool] = False
    verifies: ClassVar[bool] = False
    noise: float = 0.0
    temperature: float = 0.0

    @property
    def usual_count(self) -> CountRule:
        """The count rule of a sampler that names none."""
        return TwoPhase() if self.reviews else Linear()

    def positions(self, state: DecodeState) -> Tensor:
        """Positions bool (B, L) that get logits and scores; those that the count rule does not select are masked (again)."""
        return state.masked

    def remask(self, state: DecodeState, prediction: Prediction) -> Tensor:
        """Committed positions bool (B, L) to mask again now. They are predicted again in the next step."""
        return torch.zeros_like(state.masked)

    def revise(
        self, state: DecodeState, prediction: Prediction, scores: Tensor, selected: Tensor, remasked: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`selected` and `remasked`, bool (B, L), once the count rule has selected positions by their `scores`, noise included,
        float (B, L), -inf where nothing can be unmasked: for rules that remask depending on what is unmasked."""
        return selected, remasked

    def over(self, before: DecodeState, after: DecodeState) -> Tensor:
        """Rows bool (B,) whose decoding ends with this step. With `reviews`, a sequence that was just completed is predicted
        once more if two steps remain."""
        if not self.reviews:
            return after.finished
        return after.finished & (before.finished | (after.step >= after.steps - 1))

    def reject(self, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        """The remasked positions bool (B, L) whose token is ruled out until another one has been committed there. Otherwise a
        deterministic denoiser would make the same mistake again."""
        return remasked

    def settle(self, state: DecodeState) -> DecodeState:
        """The state after a step, in which sequences whose steps are used up may be replaced by what they were before."""
        return state


@REMASKERS.register("none")
@dataclass(frozen=True)
class Absorbing(Remasker):
    """Nothing is remasked: a committed token stays."""

    in_blocks = True
    final = True


def check_committed(remasker: Remasker, changed: Tensor, state: DecodeState) -> None:
    """Raise BadInput if a remasker changes other positions than committed ones, given as bool (B, L)."""
    if remasker == Absorbing():  # it changes none, so the device need not be asked
        return
    outside = changed & ~state.committed
    if outside.any():
        row, position = outside.nonzero()[0].tolist()
        raise BadInput(
            f"the remasker {name_of(remasker)} changes row {int(state.row[row])}, position {position}, where no token was "
            "committed (but a mask, a given token or padding): it may name committed positions alone (mine & state.committed)"
        )


@REMASKERS.register("repredict")
@dataclass(frozen=True)
class RePredict(Remasker):
    """Every generated position is predicted and ranked again in each step, so a committed token can change or be masked.

    The decoding of MaskGIT (arXiv 2202.04200), RDM and Ye et al. 2024. It asks the denoiser for visible tokens too.
    """

    def positions(self, state: DecodeState) -> Tensor:
        """All generated positions."""
        return state.generated


class CriticFunction(Protocol):
    """Log-odds that the token at a committed position is right, float (B, L)."""

    def __call__(self, state: DecodeState, prediction: Prediction) -> Tensor: ...


@dataclass(frozen=True)
class OwnCritic(Unbound):
    """The critic of the sampler's own learned order, or else of the denoiser's."""

    def bind(self, binding: Binding) -> Critic:
        """See `Unbound`.

        Raises:
            BadInput: neither has a critic.
        """
        order = own_order(binding)
        if order.critic is None:
            raise BadInput(
                "this policy was fitted without scores of committed tokens, so it cannot undo: fit one with objective.critic"
            )
        return order.critic

    def stands_for(self, part: Any) -> bool:
        """See `Unbound`."""
        return isinstance(part, Critic)

    def __call__(self, state: DecodeState, prediction: Prediction) -> Tensor:
        raise BadInput("a critic must be bound to its denoiser first: sampler.bind(denoiser)")


@dataclass(frozen=True)
class BestReviewed:
    """Of the complete sequences that a critic reviewed, the one whose most doubtful token was the least doubtful.

    Tokens, commit steps and log-probabilities (B, L), and that token's probability of being right (B,), 0 before a review.
    """

    critic: CriticFunction

    def init(self, state: DecodeState, prediction: Prediction) -> tuple[Tensor, ...]:
        """See `Memory`."""
        never = torch.zeros(len(state), dtype=torch.float32, device=state.tokens.device)
        return *_outcome(state), never

    def update(self, memory: tuple[Tensor, ...], state: DecodeState, prediction: Prediction) -> tuple[Tensor, ...]:
        """See `Memory`."""
        if not state.finished.any():
            return memory
        least = probability_of_right(self.critic, state, prediction).amin(dim=1)
        better = state.finished & (least > memory[-1])
        new = (*_outcome(state), least)
        return tuple(torch.where(better.view(-1, *[1] * (n.ndim - 1)), n, m) for n, m in zip(new, memory, strict=True))


def _outcome(state: DecodeState) -> tuple[Tensor, ...]:
    return state.tokens, state.commit_step, state.token_log_probs, state.order_log_probs


def probability_of_right(critic: CriticFunction, state: DecodeState, prediction: Prediction) -> Tensor:
    """A critic's probability that each committed token is right, float (B, L); 1 elsewhere."""
    return torch.sigmoid(critic(state, prediction)).masked_fill(~state.generated | state.masked, 1.0)


@REMASKERS.register("undo")
@dataclass(frozen=True)
class CriticUndo(Remasker):
    """Remask the doubtful tokens of a complete sequence until a learned critic accepts it.

    PRISM and RemeDi train such critics. Here the critic scores complete sequences. A sequence is accepted once every token is
    right with a probability of `accept`. Many critics are too strict where a problem has several solutions, so this is `level`
    unless the critic was validated for more. Until then all doubtful tokens are remasked and decoded again, with noise on the
    order and drawn tokens, since a deterministic sampler would repeat its mistakes. The wrong tokens, and always the most
    doubtful one, are ruled out until others have been committed in their places. A sequence that was repaired for `patience`
    steps in vain is decoded anew as a whole, since its mistakes may be among the tokens that the critic does not doubt. If the
    steps are used up first, the reviewed sequence that the critic preferred is returned, unless it is more probably wrong than
    right.
    """

    level: float = field(default=0.3, metadata={"help": "tokens below this probability of being right are ruled out"})
    doubt: float = field(default=0.99, metadata={"help": "tokens below this probability are remasked"})
    remembers: bool = field(default=True, metadata={"help": "rule out the wrong tokens"})
    critic: CriticFunction = OwnCritic()
    accept: float | None = field(
        default=None,
        metadata={"help": "a sequence with no token below this probability is accepted; by default the critic's own, or level"},
    )
    noise: float = field(default=1.0, metadata={"help": "Gumbel noise on the scores of sequences that were opened again"})
    temperature: float = field(default=1.0, metadata={"help": "of the tokens drawn in sequences that were opened again"})
    keeps_best: bool = field(default=True, metadata={"help": "return the best reviewed sequence if none was accepted"})
    patience: int = field(default=300, metadata={"help": "steps after which a sequence that is not accepted is decoded anew"})

    reviews = True

    def __post_init__(self) -> None:
        for name in ("level", "doubt"):
            check_number(name, getattr(self, name), 0, 1)
        if self.accept is not None:
            check_number("accept", self.accept, 0, 1)
        for name in ("noise", "temperature"):
            check_number(name, getattr(self, name), 0, LARGEST_FINITE)
        check_number("patience", self.patience, 1)
        check_critic("critic", self.critic)

    @property
    def usual_count(self) -> CountRule:
        """`TwoPhase`. Its first completion is at another pace where the critic's configuration says so: always, or for
        sequences of which the denoiser is unsure.

        Raises:
            BadInput: its configuration names an unknown count rule.
        """
        pace = getattr(self.critic, "pace", None)
        first: CountRule = EntropyShare() if pace is None else COUNT_RULES.make(pace)
        above = getattr(self.critic, "unsure_above", None)
        return TwoPhase(first if above is None else IfUnsure(first, above=above))

    @property
    def accept_level(self) -> float:
        """The value of `accept` in use."""
        own = getattr(self.critic, "accept", None) if self.accept is None else self.accept
        return self.level if own is None else float(own)

    @property
    def memories(self) -> tuple[Memory, ...]:
        """The best reviewed sequence."""
        return (BestReviewed(self.critic),) if self.keeps_best else ()

    def remask(self, state: DecodeState, prediction: Prediction) -> Tensor:
        """See `Remasker`."""
        if not state.finished.any():
            return torch.zeros_like(state.masked)
        right = probability_of_right(self.critic, state, prediction)
        accept = self.accept_level
        rejected = (right < accept).any(dim=1) & state.finished
        doubtful = (right < max(self.doubt, accept)) | (state.generated & self._tired(state)[:, None])
        return doubtful & rejected[:, None]

    def _tired(self, state: DecodeState) -> Tensor:
        """Rows bool (B,) whose oldest generated token was committed `patience` steps ago or before."""
        oldest = torch.where(state.generated & (state.commit_step >= 0), state.commit_step, state.step[:, None]).amin(dim=1)
        return state.step - oldest >= self.patience

    def reject(self, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        """See `Remasker`."""
        if not remasked.any() or not self.remembers:
            return torch.zeros_like(remasked)
        right = probability_of_right(self.critic, state, prediction)
        wrong = (right < self.level) | (right == right.amin(dim=1, keepdim=True))
        return remasked & wrong & ~self._tired(state)[:, None]

    def settle(self, state: DecodeState) -> DecodeState:
        """See `Remasker`."""
        if not self.keeps_best:
            return state
        *best, least = state.recall(BestReviewed(self.critic))
        back = state.finished & (state.step >= state.steps - 1) & (least > 0.5)
        if not back.any():
            return state
        chosen = (torch.where(back[:, None], b, now) for b, now in zip(best, _outcome(state), strict=True))
        tokens, commit_step, token_log_probs, order_log_probs = chosen
        return state.replace(
            tokens=tokens, commit_step=commit_step, token_log_probs=token_log_probs, order_log_probs=order_log_probs
        )
