"""What to undo: rules that take commitments back."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from anyorder.orders.base import State


class Quality(Protocol):
    """Log-odds that the token at a committed position is right, float (B, L)."""

    def quality(self, state: State) -> Tensor: ...


class Remasker(Protocol):
    """Which positions are open to be scored, and which commitments are taken back.

    `reviews` says whether a completed sequence is looked at again as long as there are steps left.
    """

    @property
    def reviews(self) -> bool: ...

    def open(self, masked: Tensor, generated: Tensor) -> Tensor:
        """Positions bool (B, L) that get logits and scores; those not selected by the count rule are masked (again)."""

    def undo(self, state: State) -> Tensor:
        """Committed positions bool (B, L) to mask again now. They are predicted anew in the next step."""

    def reject(self, state: State, undone: Tensor) -> Tensor:
        """The undone positions bool (B, L) whose token is ruled out until another one has been committed there. Without that
        a deterministic denoiser would make the same mistake again."""


@dataclass(frozen=True)
class Absorbing:
    """Nothing is undone: what is committed stays."""

    reviews: bool = False

    def open(self, masked: Tensor, generated: Tensor) -> Tensor:
        return masked

    def undo(self, state: State) -> Tensor:
        return torch.zeros_like(state.masked)

    def reject(self, state: State, undone: Tensor) -> Tensor:
        return undone


@dataclass(frozen=True)
class RePredict(Absorbing):
    """Every generated position is predicted and ranked again in each step, so a committed token can change or be masked.

    The decoding of MaskGIT (arXiv 2202.04200), RDM and Ye et al. 2024. It asks the denoiser for visible tokens too.
    """

    def open(self, masked: Tensor, generated: Tensor) -> Tensor:
        return generated


@dataclass(frozen=True)
class QualityUndo:
    """A complete sequence in which a learned quality score finds a mistake is opened again.

    PRISM and RemeDi train such scores. Here they look back when a sequence is complete: if some token is believed wrong, all
    that may rest upon the mistake is masked, and the rejected tokens are ruled out until others were committed there.

    Args:
        judge: gives the log-odds that a committed token is right.
        level: a token is believed wrong when its probability of being right is below this.
        doubt: tokens below this are masked together with the wrong ones.
        remembers: rule out rejected tokens.
    """

    judge: Quality
    level: float = 0.3
    doubt: float = 0.9
    remembers: bool = True
    reviews: bool = True

    @property
    def keep_first_look(self) -> bool:
        """Whether the judge wants to see what the first forward predicted."""
        return getattr(self.judge, "keep_first_look", False)

    def open(self, masked: Tensor, generated: Tensor) -> Tensor:
        return masked

    def undo(self, state: State) -> Tensor:
        complete = ~state.masked.any(dim=1)
        if not complete.any():
            return torch.zeros_like(state.masked)
        right = self._probability(state)
        mistaken = (right < self.level).any(dim=1) & complete
        return (right < self.doubt) & mistaken[:, None]

    def reject(self, state: State, undone: Tensor) -> Tensor:
        if not undone.any():
            return undone
        return undone & (self._probability(state) < self.level) & self.remembers

    def _probability(self, state: State) -> Tensor:
        """Probability of being right at committed positions, 1 elsewhere."""
        return torch.sigmoid(self.judge.quality(state)).masked_fill(~state.generated | state.masked, 1.0)
