"""The exponential moving average of the weights."""

import torch
from torch import Tensor, nn

from anyorder.training.checkpoint import take
from anyorder.training.sharding import shard_like


class Average:
    """Exponential moving average of the trained weights of a model.

    Args:
        model: the model whose weights are averaged.
        decay: of the average, which starts at smaller values; 0 for no average.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = torch.zeros((), dtype=torch.int64)
        self.weights = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad} if decay else {}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Include the current weights."""
        if self.decay:
            self.steps += 1
            decay = min(self.decay, (1 + float(self.steps)) / (10 + float(self.steps)))
            for name, weight in model.named_parameters():
                if name in self.weights:
                    self.weights[name].lerp_(weight, 1 - decay)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Replace the weights by their average, if there is one."""
        for name, weight in model.named_parameters():
            if name in self.weights:
                weight.copy_(self.weights[name])

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {f"average.{n}": w for n, w in self.weights.items()} | ({"average_steps": self.steps} if self.decay else {})

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `tensors`."""
        if self.decay:
            self.steps = tensors["average_steps"].clone()
            for name, weight in take(tensors, "average").items():
                self.weights[name].copy_(shard_like(weight, self.weights[name]))
