"""A callback of `decode` that records each step: the prediction, the scores of the order, and what was done."""

from typing import NamedTuple

import numpy as np
import torch

from anyorder.decoding.step import StepOutput
from anyorder.processes import Shard

CANDIDATES = 3
"""Tokens recorded per position and forward pass, the likeliest ones."""


class Move(NamedTuple):
    """One step of one sequence: what was predicted, and what was done.

    predicted: (K,) positions that could be chosen, ascending.
    scores: float (K,), the order's, before any noise; -inf where the order itself excluded a position.
    candidates: (k, K) the likeliest tokens, likeliest first. probabilities: float (k, K), the denoiser's for them.
    positions, tokens: (C,) those that got a token in this step, and the tokens.
    remasked: (U,) positions whose token was remasked.
    unusual: whether other positions than the masked ones could be chosen.
    """

    predicted: np.ndarray
    scores: np.ndarray
    candidates: np.ndarray
    probabilities: np.ndarray
    positions: np.ndarray
    tokens: np.ndarray
    remasked: np.ndarray
    unusual: bool


class Recorder:
    """Record the steps of some sequences.

    Args:
        first: seed of the first sequence to record; sequence i has the seed `first` + i, as `decode_in_batches` gives them.
        count: how many sequences are recorded.
        candidates: k, tokens recorded per position and forward pass.
    """

    def __init__(self, first: int, count: int, candidates: int = CANDIDATES) -> None:
        self.first = first
        self.count = count
        self.candidates = candidates
        self._moves: dict[int, list[Move]] = {}

    def __call__(self, output: StepOutput) -> None:
        before, prediction = output.before, output.prediction
        wanted = (before.seeds >= self.first) & (before.seeds < self.first + self.count)
        if not wanted.any():
            return
        logits = prediction.logits[wanted[:, None].expand_as(prediction.predicted)[prediction.predicted]]
        likeliest = torch.softmax(logits.float(), dim=-1).topk(min(self.candidates, logits.shape[-1]), dim=-1)
        tokens, probabilities = likeliest.indices.cpu().numpy(), likeliest.values.cpu().numpy()
        shown = (before.tokens, output.after.tokens, prediction.predicted, output.scores.float())
        old, new, predicted, scores = (values[wanted].cpu().numpy() for values in shown)
        ends = predicted.sum(axis=1).cumsum()
        for number, row in enumerate((before.seeds - self.first)[wanted].tolist()):
            inside = slice(ends[number] - predicted[number].sum(), ends[number])
            changed, masked = old[number] != new[number], new[number] == before.mask_token_id
            at = (changed & ~masked).nonzero()[0]
            move = Move(
                predicted=predicted[number].nonzero()[0],
                scores=scores[number][predicted[number]],
                candidates=tokens[inside].T,
                probabilities=probabilities[inside].T,
                positions=at,
                tokens=new[number][at],
                remasked=(changed & masked).nonzero()[0],
                unusual=bool((predicted[number] != (old[number] == before.mask_token_id)).any()),
            )
            self._moves.setdefault(row, []).append(move)

    def gather(self, shard: Shard) -> None:
        """Add what the recorders of the other processes recorded; each sequence was decoded by one of them."""
        every = [found for share in shard.gather([self._moves]) for found in share]
        self._moves = {row: moves for found in every for row, moves in found.items()}

    def moves(self) -> list[list[Move]]:
        """The steps of each recorded sequence."""
        return [self._moves.get(row, []) for row in range(self.count)]
