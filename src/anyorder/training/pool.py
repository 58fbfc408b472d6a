"""Partly decoded problems on which a policy is trained, decoded further by the scores that it gives in training.

The pool decodes with `anyorder.decoding.step.step`, as `decode` does. It only replaces problems that are done by fresh ones.
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from anyorder.decoding.counts import CountRule, top
from anyorder.decoding.remaskers import Absorbing, CriticUndo, Remasker
from anyorder.decoding.sampler import Sampler
from anyorder.decoding.step import step
from anyorder.decoding.tokens import Argmax, TokenRule
from anyorder.memory import Memory
from anyorder.prediction import Prediction
from anyorder.state import DecodeState

ENDLESS = 2**31
"""A budget of steps that no problem reaches, so that no step of the pool is the last one."""


@dataclass(frozen=True)
class Given:
    """Scores float (B, L) that are known already, as an order and as a critic."""

    scores: Tensor

    def __call__(self, state: DecodeState, prediction: Prediction) -> Tensor:
        return self.scores


@dataclass(frozen=True)
class PerRow(CountRule):
    """A number of positions per step for each row, int64 (B,)."""

    numbers: Tensor

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        return top(scores, self.numbers)


@dataclass(frozen=True)
class TrueTokens(TokenRule):
    """The solution's tokens. Their log-probability is given as that of the likeliest token, as in decoding without solution."""

    def __call__(self, state: DecodeState, prediction: Prediction) -> tuple[Tensor, Tensor]:
        assert state.x0 is not None
        return state.x0[prediction.predicted], prediction.best_log_probs


@dataclass(frozen=True)
class Limited(Remasker):
    """A remasker for some rows, bool (B,), only."""

    remasker: Remasker
    rows: Tensor

    def remask(self, state: DecodeState, prediction: Prediction) -> Tensor:
        """See `Remasker`."""
        return self.remasker.remask(state, prediction) & self.rows[:, None]

    def reject(self, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        """See `Remasker`."""
        return self.remasker.reject(state, prediction, remasked)


@dataclass(frozen=True, eq=False)
class Pool:
    """B partly decoded problems.

    Args:
        state: with the solutions `x0`, and an attention mask of None.
        per_step: positions per step, int64 (B,).
        reviews: how often the complete problem may still be reviewed by the critic, int64 (B,).
        keeps: whether the problem continues once it holds a wrong token, bool (B,).
    """

    state: DecodeState
    per_step: Tensor
    reviews: Tensor
    keeps: Tensor

    @classmethod
    def start(
        cls, x0: Tensor, tokens: Tensor, generated: Tensor, mask_token_id: int, budget: Tensor, reviews: int, keeps: Tensor
    ) -> "Pool":
        """Problems (B, L) before their first step, each to be decoded in `budget` (B,) steps."""
        none = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
        state = DecodeState.start(tokens, generated, mask_token_id, none, none + ENDLESS, x0=x0)
        per_step = (generated.sum(dim=1) / budget).ceil().long()
        return cls(state, per_step, none + reviews, keeps)

    @property
    def done(self) -> Tensor:
        """Problems that are complete and reviewed, or hold a wrong token and are not kept, bool (B,)."""
        state = self.state
        assert state.x0 is not None
        wrong = (state.generated & ~state.masked & (state.tokens != state.x0)).any(dim=1)
        return (state.finished & (self.reviews <= 0)) | (wrong & ~self.keeps)

    def refill(self, fresh: "Pool") -> "Pool":
        """The pool with the problems of another one in place of those that are done."""
        done = self.done
        return Pool(
            self.state.where(done, fresh.state),
            torch.where(done, fresh.per_step, self.per_step),
            torch.where(done, fresh.reviews, self.reviews),
            torch.where(done, fresh.keeps, self.keeps),
        )

    @torch.no_grad()
    def advance(
        self, state: DecodeState, prediction: Prediction, scores: Tensor, *, token: TokenRule | None = None, undo: bool = False
    ) -> "Pool":
        """The pool after one step of decoding.

        Args:
            state: of this pool, with up-to-date memories and the attention mask that the denoiser was given.
            prediction: of the denoiser.
            scores: of the policy, float (B, L).
            token: what is committed; the likeliest token by default.
            undo: open complete problems again in which these scores, as a critic, find a mistake.
        """
        complete = state.finished
        reviews = self.reviews - complete.long()
        remasker = Limited(_reopen_if_wrong(scores), reviews > 0) if undo else Absorbing()
        after, output = step(state, prediction, Sampler(Given(scores), PerRow(self.per_step), token or Argmax(), remasker))
        reviews = reviews.masked_fill(complete & ~output.remasked.any(dim=1), 0)  # reviewed, and left as it is
        return replace(self, state=after.replace(attention_mask=None), reviews=reviews)

    # ---- checkpoints --------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Everything by name, with a row per problem."""
        found = {f"state.{name}": tensor for name, tensor in self.state.tensors().items() if name != "row"}
        for number, memory in enumerate(self.state.memory.values()):
            found |= {f"memory.{number}.{part}": tensor for part, tensor in enumerate(memory)}
        return found | {"per_step": self.per_step, "reviews": self.reviews, "keeps": self.keeps}

    @classmethod
    def of(cls, tensors: dict[str, Tensor], mask_token_id: int, memories: tuple[Memory, ...]) -> "Pool":
        """Inverse of `tensors`; `memories` are those of the policy."""
        fields: dict[str, Any] = {n.removeprefix("state."): t for n, t in tensors.items() if n.startswith("state.")}
        kept: dict[Hashable, tuple[Tensor, ...]] = {}
        for number, memory in enumerate(memories):
            count = sum(name.startswith(f"memory.{number}.") for name in tensors)
            kept[memory] = tuple(tensors[f"memory.{number}.{part}"] for part in range(count))
        row = torch.arange(len(tensors["per_step"]), device=tensors["per_step"].device)
        state = DecodeState(**fields, row=row, mask_token_id=mask_token_id, memory=kept)
        return cls(state, tensors["per_step"], tensors["reviews"], tensors["keeps"])


def _reopen_if_wrong(scores: Tensor) -> CriticUndo:
    """Open a complete problem again as soon as one token is probably wrong, and decode it as before."""
    return CriticUndo(level=0.3, doubt=0.9, critic=Given(scores), accept=0.3, noise=0.0, temperature=0.0, keeps_best=False)
