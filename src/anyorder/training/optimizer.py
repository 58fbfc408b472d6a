"""Optimisers and the learning-rate curve."""

import math

from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from anyorder.training.settings import OptimizerSettings


def make_optimizers(model: nn.Module, settings: OptimizerSettings) -> list[Optimizer]:
    """AdamW for every trained weight, or Muon for the matrices of blocks and AdamW for the rest."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if settings.name == "adamw":
        parameters = [p for _, p in trained]
        return [AdamW(parameters, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay)]
    matrices = [p for name, p in trained if p.ndim == 2 and "blocks." in name]
    chosen = {id(p) for p in matrices}
    others: list[Tensor] = [p for _, p in trained if id(p) not in chosen]
    adamw = AdamW(others, lr=settings.lr, betas=settings.betas, weight_decay=0.0)
    if not matrices:
        return [adamw]
    muon = Muon(matrices, lr=settings.lr, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw")
    return [muon, adamw]


def learning_rate(step: int, steps: int, settings: OptimizerSettings) -> float:
    """Learning rate of update `step` (from 0) of `steps`: linear warm-up, then constant, or down to `final_lr * lr`."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps)
    share = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[settings.schedule]
    if settings.schedule == "constant":
        return settings.lr
    return settings.lr * (settings.final_lr + (1 - settings.final_lr) * share)
