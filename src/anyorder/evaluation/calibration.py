"""How reliable is the denoiser's confidence? Reliability table and expected calibration error.

This hints at what a learned order can gain. If confidence is calibrated on the states that decoding visits, the confidence
order is close to the best order that these states allow. If it is not, a learned order may be better. Neither is certain:
confidences with wrong values may still rank the positions well.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from anyorder.decoding.counts import Linear
from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.decoding.step import StepOutput
from anyorder.denoisers.base import Denoiser
from anyorder.errors import BadInput
from anyorder.orders.heuristics import confidence
from anyorder.tasks.base import Instances


@dataclass(frozen=True)
class Bin:
    """Predictions with confidence in [low, high): their number, mean confidence, and accuracy."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Reliability of a set of predictions. `error` is the expected calibration error: mean |confidence - accuracy|, by bin."""

    bins: list[Bin]
    error: float
    count: int

    @property
    def overconfidence(self) -> float:
        """Mean confidence minus accuracy; above 0 the model is overconfident."""
        return sum(b.count * (b.confidence - b.accuracy) for b in self.bins) / max(1, self.count)


def calibration(confidences: Tensor, right: Tensor, bins: int = 10) -> Calibration:
    """Reliability of predictions with confidences (N,) in [0, 1] that are right or not, bool (N,). Equal-width bins."""
    which = (confidences * bins).long().clamp(max=bins - 1)
    rows = []
    for number in range(bins):
        inside = which == number
        if inside.any():
            mean = float(confidences[inside].double().mean())
            rows.append(Bin(number / bins, (number + 1) / bins, int(inside.sum()), mean, float(right[inside].double().mean())))
    total = max(1, len(confidences))
    return Calibration(rows, sum(b.count * abs(b.confidence - b.accuracy) for b in rows) / total, len(confidences))


class _Recorder:
    """A callback that records the likeliest token of each prediction, and which of them the confidence order prefers."""

    def __init__(self) -> None:
        self.confidences: list[Tensor] = []
        self.right: list[Tensor] = []
        self.first: list[Tensor] = []

    def __call__(self, output: StepOutput) -> None:
        prediction, x0 = output.prediction, output.before.x0
        assert x0 is not None
        self.confidences.append(prediction.best_log_probs.exp().cpu())
        self.right.append((prediction.best_tokens == x0[prediction.predicted]).cpu())
        top = output.scores == output.scores.max(dim=1, keepdim=True).values
        self.first.append(top[prediction.predicted].cpu())


@torch.no_grad()
def path_calibration(
    denoiser: Denoiser, instances: Instances, steps: int, batch_size: int = 256
) -> tuple[Calibration, Calibration]:
    """Calibration on the states that confidence decoding visits: of all predictions, and of the most confident of each state.

    An order acts upon the second.

    Raises:
        BadInput: the solutions are unknown.
    """
    if instances.x0 is None:
        raise BadInput("calibration needs problems with known solutions")
    recorder, sampler = _Recorder(), Sampler(confidence, Linear(), steps=steps)
    for start in range(0, len(instances), batch_size):
        batch = instances[slice(start, start + batch_size)]
        decode(denoiser, batch.tokens, sampler, x0=batch.x0, on_step=recorder)
    confidences, right, first = (torch.cat(v) for v in (recorder.confidences, recorder.right, recorder.first))
    return calibration(confidences, right), calibration(confidences[first], right[first])
