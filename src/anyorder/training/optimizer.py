"""Optimizers and the learning-rate curve."""

import math
from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from anyorder.training.settings import OptimizerSettings


def make_optimizers(model: nn.Module, settings: OptimizerSettings, scales: dict[str, float] | None = None) -> list[Optimizer]:
    """AdamW for every trained weight, or Muon for the matrices of blocks and AdamW for the rest.

    Args:
        scales: factors of the learning rate for the weights whose names start with these prefixes; a group of parameters holds
            its factor as "scale".
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = {name for name, p in trained if settings.name == "muon" and p.ndim == 2 and "blocks." in name}

    def groups(names: set[str]) -> list[dict[str, Any]]:
        found: dict[float, list[Tensor]] = {}
        for name, parameter in trained:
            if name in names:
                scale = next((s for prefix, s in (scales or {}).items() if name.startswith(prefix)), 1.0)
                found.setdefault(scale, []).append(parameter)
        return [{"params": parameters, "scale": scale} for scale, parameters in found.items()]

    others = {name for name, _ in trained} - matrices
    decay = 0.0 if settings.name == "muon" else settings.weight_decay
    optimizers: list[Optimizer] = [AdamW(groups(others), lr=settings.lr, betas=settings.betas, weight_decay=decay)]
    if matrices:
        decay, adjust = settings.weight_decay, "match_rms_adamw"
        optimizers.insert(0, Muon(groups(matrices), lr=settings.lr, weight_decay=decay, adjust_lr_fn=adjust))
    return optimizers


def learning_rate(step: int, steps: int, settings: OptimizerSettings) -> float:
    """Learning rate of update `step` (from 0) of `steps`: linear warm-up, then constant, or down to `final_lr * lr`."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps)
    share = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[settings.schedule]
    if settings.schedule == "constant":
        return settings.lr
    return settings.lr * (settings.final_lr + (1 - settings.final_lr) * share)
