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

    `reviews` says whether a completed sequence is looked at again as long as there are steps left; `remembers` whether a token
    that was undone is ruled out at its position until another one has been committed there. Without that a deterministic
    denoiser would make the same mistake again.
    """

    @property
    def reviews(self) -> bool: ...

    @property
    def remembers(self) -> bool: ...

    def open(self, masked: Tensor, generated: Tensor) -> Tensor:
        """Positions bool (B, L) that get logits and scores; those not selected by the count rule are masked (again)."""

    def undo(self, state: State) -> Tensor:
        """Committed positions bool (B, L) to mask again now. They are predicted anew in the next step."""


@dataclass(frozen=True)
class Absorbing:
    """Nothing is undone: what is committed stays."""

    reviews: bool = False
    remembers: bool = False

    def open(self, masked: Tensor, generated: Tensor) -> Tensor:
        return masked

    def undo(self, state: State) -> Tensor:
        return torch.zeros_like(state.masked)


@dataclass(frozen=True)
class RePredict(Absorbing):
    """Every generated position is predicted and ranked again in each step, so a committed token can change or be masked.

    The decoding of MaskGIT (arXiv 2202.04200), RDM and Ye et al. 2024. It asks the denoiser for visible tokens too.
    """

    def open(self, masked: Tensor, generated: Tensor) -> Tensor:
        return generated


@dataclass(frozen=True)
class QualityUndo:
    """Commitments that a learned quality score thinks wrong are masked again, the worst first.

    Args:
        judge: gives the log-odds that a committed token is right (PRISM and RemeDi train such heads; P2 calls it a planner).
        level: a token is undone when its probability of being right is below this.
        at_most: no more than this share of the generated positions in one step.
    """

    judge: Quality
    level: float = 0.5
    at_most: float = 1.0
    remembers: bool = True
    reviews: bool = True

    @property
    def keep_first_look(self) -> bool:
        """Whether the judge wants to see what the first forward predicted."""
        return getattr(self.judge, "keep_first_look", False)

    def open(self, masked: Tensor, generated: Tensor) -> Tensor:
        return masked

    def undo(self, state: State) -> Tensor:
        committed = state.generated & ~state.masked
        doubt = -self.judge.quality(state).masked_fill(~committed, torch.inf)
        wrong = doubt > torch.logit(torch.tensor(1 - self.level, dtype=torch.float64)).item()
        rank = doubt.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        limit = (state.generated.sum(dim=1) * self.at_most).ceil()
        return wrong & (rank < limit[:, None]) & committed
