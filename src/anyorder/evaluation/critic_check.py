"""From which doubt on a critic should reject a complete sequence, found on problems with known rules."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from anyorder.decoding.counts import CountRule
from anyorder.decoding.remaskers import CriticUndo, probability_of_right
from anyorder.decoding.sampler import Sampler
from anyorder.decoding.step import StepOutput
from anyorder.denoisers.base import Denoiser
from anyorder.errors import BadInput
from anyorder.evaluation.batches import Progress, decode_in_batches
from anyorder.orders.learned import LearnedOrder
from anyorder.prediction import Prediction
from anyorder.state import DecodeState
from anyorder.tasks.base import Instances, Task
from anyorder.tasks.instances import check_open, checked_result

FEWEST = 5
"""Right and wrong sequences, below which no level is chosen."""


class Reviewed(NamedTuple):
    """What a critic said of N complete sequences, none of which it changed, and what the rules say.

    least: float (N,), the probability of the most doubtful token. correct: bool (N,).
    """

    least: Tensor
    correct: Tensor


@dataclass(frozen=True)
class _ThenReview(CountRule):
    """A rule whose budget is two steps shorter than the sampler's, so that every sequence is complete before its review."""

    rule: CountRule

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        shorter = state.replace(steps=state.steps - 2)
        last = shorter.step >= shorter.steps - 1
        return self.rule(scores, shorter, prediction, remasked) | (last[:, None] & (scores > -torch.inf))


def review(
    denoiser: Denoiser,
    task: Task,
    instances: Instances,
    order: LearnedOrder,
    steps: int,
    *,
    count: CountRule | None = None,
    seed: int = 0,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> Reviewed:
    """Decode problems and let the critic of an order judge the completed sequences; those with nothing to fill are left out.

    Args:
        steps: budget of forward passes, in which the sequences are completed; one more is used for the review.
        count: count rule; that of `undo` by default.

    Raises:
        BadInput: the order has no critic, or no problem has anything to fill.
    """
    if order.critic is None:
        raise BadInput("this order has no critic: fit one with objective.critic")
    check_open(instances)
    instances = instances[instances.maskable.any(dim=1).nonzero()[:, 0]]
    critic, least = order.critic, torch.full((len(instances),), torch.nan)

    def record(output: StepOutput) -> None:
        state = output.before
        if state.finished.any():
            found = probability_of_right(critic, state, output.prediction).amin(dim=1)
            least[(state.seeds - seed * 2**32)[state.finished].cpu()] = found[state.finished].float().cpu()

    accept_all = CriticUndo(critic=critic, accept=0.0, keeps_best=False)
    paced = _ThenReview(accept_all.usual_count if count is None else count)
    sampler = Sampler(order, paced, remasker=accept_all, steps=steps + 2)
    decoded = decode_in_batches(
        denoiser, instances, sampler, seed=seed, batch_size=batch_size, progress=progress, name="review", on_step=record
    )
    assert not least.isnan().any()
    return Reviewed(least, checked_result(task, instances, decoded.tokens).instance_correct)


def accept_level(found: Reviewed) -> float | None:
    """The level that separates right sequences from wrong ones best: with the largest share of right ones accepted plus share
    of wrong ones rejected (Youden's index). 0, which accepts everything, if that is not above the 5 % bound of the
    Kolmogorov-Smirnov test; None if there are fewer than 5 of either."""
    right, wrong = found.least[found.correct], found.least[~found.correct]
    if min(len(right), len(wrong)) < FEWEST:
        return None
    values = found.least.unique()
    levels = torch.cat([(values[1:] + values[:-1]) / 2, values[-1:]])
    index = [float((right >= level).double().mean() + (wrong < level).double().mean()) - 1 for level in levels]
    best = max(range(len(levels)), key=index.__getitem__)
    chance = 1.36 * (1 / len(right) + 1 / len(wrong)) ** 0.5
    return float(levels[best]) if index[best] > chance else 0.0
