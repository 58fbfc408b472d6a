"""What to remask: rules that mask committed tokens again."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from anyorder.errors import BadInput, check_number
from anyorder.orders.base import Binding, Unbound
from anyorder.orders.learned import Critic, LearnedOrder, saved_order
from anyorder.parts import walk
from anyorder.prediction import Prediction
from anyorder.registry import REMASKERS
from anyorder.state import DecodeState


class Remasker:
    """Base class of remaskers, which are frozen dataclasses. By default nothing is remasked.

    Attributes:
        reviews: whether a completed sequence is predicted once more as long as there are steps left, so that it can be opened
            again.
        in_blocks: whether it works in blocks, where a finished block stays as it is.
    """

    part_kind: ClassVar[str] = "remasker"
    reviews: ClassVar[bool] = False
    in_blocks: ClassVar[bool] = False

    def positions(self, state: DecodeState) -> Tensor:
        """Positions bool (B, L) that get logits and scores; those that the count rule does not select are masked (again)."""
        return state.masked

    def remask(self, state: DecodeState, prediction: Prediction) -> Tensor:
        """Committed positions bool (B, L) to mask again now. They are predicted again in the next step."""
        return torch.zeros_like(state.masked)

    def reject(self, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        """The remasked positions bool (B, L) whose token is ruled out until another one has been committed there. Otherwise a
        deterministic denoiser would make the same mistake again."""
        return remasked


@REMASKERS.register("none")
@dataclass(frozen=True)
class Absorbing(Remasker):
    """Nothing is remasked: a committed token stays."""

    in_blocks = True


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
        inside = [] if binding.order is None else list(walk(binding.order))
        learned = next((part for part in inside if isinstance(part, LearnedOrder)), None)
        order = learned or saved_order(binding.denoiser, strict=binding.strict)
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


@REMASKERS.register("undo")
@dataclass(frozen=True)
class CriticUndo(Remasker):
    """Remask tokens of a complete sequence in which a learned critic finds a mistake.

    PRISM and RemeDi train such critics. Here the critic scores complete sequences. If a token counts as wrong, all doubtful
    tokens are remasked, and the wrong ones are ruled out until others have been committed there.
    """

    level: float = field(default=0.3, metadata={"help": "a token counts as wrong below this probability of being right"})
    doubt: float = field(default=0.9, metadata={"help": "tokens below this probability are remasked with the wrong ones"})
    remembers: bool = field(default=True, metadata={"help": "rule out the wrong tokens"})
    critic: CriticFunction = OwnCritic()

    reviews = True

    def __post_init__(self) -> None:
        check_number("level", self.level, 0, 1)
        check_number("doubt", self.doubt, 0, 1)

    def remask(self, state: DecodeState, prediction: Prediction) -> Tensor:
        """See `Remasker`."""
        complete = state.finished
        if not complete.any():
            return torch.zeros_like(state.masked)
        right = self._probability(state, prediction)
        mistaken = (right < self.level).any(dim=1) & complete
        return (right < self.doubt) & mistaken[:, None]

    def reject(self, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        """See `Remasker`."""
        if not remasked.any():
            return remasked
        return remasked & (self._probability(state, prediction) < self.level) & self.remembers

    def _probability(self, state: DecodeState, prediction: Prediction) -> Tensor:
        """Probability of being right at committed positions, 1 elsewhere."""
        return torch.sigmoid(self.critic(state, prediction)).masked_fill(~state.generated | state.masked, 1.0)
