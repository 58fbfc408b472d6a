"""Watching a decoding from where its order sits: what every forward predicted, how the order scored it, what was then done.

The loop knows nothing of it. An order is called once per forward with everything there is to see, so a recorder is an order
that passes the scores of another one on and keeps a note.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from anyorder.decoding.trajectory import Decoded
from anyorder.orders.base import Order, State
from anyorder.processes import Shard

CANDIDATES = 3
"""Tokens noted per position and forward, the likeliest ones."""


class Move(NamedTuple):
    """One step of one sequence: what was seen, and what was done.

    predicted: (K,) positions that could be chosen, ascending.
    scores: float (K,), the order's, before any noise; -inf where the order itself held a position back.
    candidates: (k, K) the likeliest tokens, likeliest first. probabilities: float (k, K), the denoiser's for them.
    at, put: (C,) positions that got a token in this step, and the tokens.
    back: (U,) positions whose token was taken back.
    unusual: whether other positions than the masked ones could be chosen.
    """

    predicted: np.ndarray
    scores: np.ndarray
    candidates: np.ndarray
    probabilities: np.ndarray
    at: np.ndarray
    put: np.ndarray
    back: np.ndarray
    unusual: bool


@dataclass(frozen=True)
class _Look:
    """One forward of a batch: the rows (R,) that are recorded, and what is known of them."""

    rows: np.ndarray
    tokens: np.ndarray
    predicted: np.ndarray
    scores: np.ndarray
    candidates: np.ndarray
    probabilities: np.ndarray


class Recorder:
    """An `Order` that scores as another one does, and notes what it is shown.

    Args:
        order: where.
        first: seed of the first sequence to record; sequence i has the seed `first` + i, as `decode_in_batches` gives them.
        count: how many are recorded.
        candidates: k, tokens noted per position and forward.
    """

    def __init__(self, order: Order, first: int, count: int, candidates: int = CANDIDATES) -> None:
        self.order = order
        self.first = first
        self.count = count
        self.candidates = candidates
        self._looks: list[_Look] = []

    @property
    def keep_first_look(self) -> bool:
        """As the order within wishes."""
        return bool(getattr(self.order, "keep_first_look", False))

    def __call__(self, state: State) -> Tensor:
        scores = self.order(state)
        wanted = (state.seeds >= self.first) & (state.seeds < self.first + self.count)
        if wanted.any():
            logits = state.logits[wanted[:, None].expand_as(state.predicted)[state.predicted]]
            likeliest = torch.softmax(logits.float(), dim=-1).topk(min(self.candidates, logits.shape[-1]), dim=-1)
            self._looks.append(
                _Look(
                    rows=(state.seeds - self.first)[wanted].cpu().numpy(),
                    tokens=state.tokens[wanted].cpu().numpy(),
                    predicted=state.predicted[wanted].cpu().numpy(),
                    scores=scores[wanted].float().cpu().numpy(),
                    candidates=likeliest.indices.cpu().numpy(),
                    probabilities=likeliest.values.cpu().numpy(),
                )
            )
        return scores

    def gather(self, shard: Shard) -> None:
        """Add what the recorders of the other processes have seen; each sequence was seen by one of them."""
        self._looks = [look for looks in shard.gather(self._looks) for look in looks]

    def moves(self, decoded: Decoded, mask_token_id: int) -> list[list[Move]]:
        """The steps of each recorded sequence, from what it held at each forward and what it held in the end.

        Args:
            decoded: the result, whose row i is the sequence of seed `first` + i.
            mask_token_id: the mask.
        """
        moves: list[list[Move]] = [[] for _ in range(min(self.count, len(decoded.tokens)))]
        following = list(decoded.tokens.cpu().numpy()[: len(moves)])
        for look in reversed(self._looks):
            ends = look.predicted.sum(axis=1).cumsum()
            for number, row in enumerate(look.rows.tolist()):
                seen = slice(ends[number] - look.predicted[number].sum(), ends[number])
                move = _move(look, number, seen, following[row], mask_token_id)
                moves[row].append(move)
                following[row] = look.tokens[number]
        return [steps[::-1] for steps in moves]


def _move(look: _Look, number: int, seen: slice, after: np.ndarray, mask_token_id: int) -> Move:
    before = look.tokens[number]
    after = after[: len(before)]  # sequences of a batch are cut to the longest among them
    changed = before != after
    at = (changed & (after != mask_token_id)).nonzero()[0]
    back = (changed & (after == mask_token_id)).nonzero()[0]
    predicted = look.predicted[number].nonzero()[0]
    scores = look.scores[number][predicted]
    unusual = bool((look.predicted[number] != (before == mask_token_id)).any())
    return Move(predicted, scores, look.candidates[seen].T, look.probabilities[seen].T, at, after[at], back, unusual)
