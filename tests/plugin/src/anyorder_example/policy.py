"""A policy architecture."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from anyorder.orders.policies import SupervisedPolicy
from anyorder.prediction import Prediction
from anyorder.registry import POLICIES
from anyorder.state import DecodeState


@dataclass(frozen=True)
class PairSettings:
    """Settings of `PairPolicy`."""

    width: int = field(default=16, metadata={"help": "hidden units"})


@POLICIES.register("pair", trained_by="supervised")
class PairPolicy(SupervisedPolicy):
    """Reads the two largest log-probabilities of each position."""

    Settings = PairSettings
    reads_hidden = False

    def build(self, settings: PairSettings) -> None:
        """See `PolicyNetwork`."""
        super().build(settings)
        self.hidden = nn.Linear(2, settings.width)
        self.out = nn.Linear(settings.width, 1)

    def correct(self, state: DecodeState, prediction: Prediction) -> Tensor:
        """See `SupervisedPolicy`."""
        pairs = prediction.top_log_probs.clamp(min=-20)
        features = torch.stack([prediction.scatter(pairs[:, i], 0.0) for i in range(2)], dim=-1)
        corrected: Tensor = self.out(torch.relu(self.hidden(features)))
        return corrected
