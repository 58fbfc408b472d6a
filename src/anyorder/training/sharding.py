"""Several processes at one model: gradients averaged; weights that are cut over them (FSDP2) put together and cut again."""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from anyorder.processes import Shard


@torch.no_grad()
def average_gradients(model: nn.Module, shard: Shard) -> None:
    """Give all processes the mean of their gradients; none counts as zero, and where all have none it stays so. What FSDP has
    cut is averaged already.

    DistributedDataParallel does the same in the midst of the backward pass, and waits for ever where processes call the model
    more or less often than one another: rollouts end when they end.
    """
    if shard.count == 1:
        return
    trained = [p for p in model.parameters() if p.requires_grad and not isinstance(p, DTensor)]
    if not trained:
        return
    counts = shard.total(torch.tensor([float(p.grad is not None) for p in trained], device=trained[0].device))
    some = [parameter for parameter, count in zip(trained, counts.tolist(), strict=True) if count]
    for dtype in sorted({parameter.dtype for parameter in some}, key=str):  # one message for many small tensors
        these = [parameter for parameter in some if parameter.dtype == dtype]
        mine = [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in these]
        means = shard.total(torch.cat(mine)) / shard.count
        for parameter, mean in zip(these, means.split([p.numel() for p in these]), strict=True):
            parameter.grad = mean.view_as(parameter)


@torch.no_grad()
def clip_gradients(model: nn.Module, longest: float) -> float:
    """Scale all gradients so that together they are no longer than `longest`, some of them cut over processes and some not;
    the length before."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = float(torch.stack([whole(gradient.norm()).double() for gradient in gradients]).norm())
    for gradient in gradients:
        gradient.mul_(min(1.0, longest / (norm + 1e-6)))
    return norm


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be cut over processes, put together; all processes must ask at once."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def cut_like(tensor: Tensor, reference: Tensor) -> Tensor:
    """A whole tensor, the same on all processes, cut as `reference` is; as it is where that is whole or of another shape."""
    if isinstance(reference, DTensor) and tensor.shape == reference.shape:
        return distribute_tensor(tensor.to(reference.device), reference.device_mesh, reference.placements)
    return tensor


@torch.no_grad()
def make_whole(model: nn.Module, *, keep: bool) -> None:
    """Put the weights of a model together in main memory where `keep`; all processes must ask at once. It is done with training
    then."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if isinstance(parameter, DTensor):
                full = whole(parameter)
                if keep:
                    setattr(module, name, nn.Parameter(full.to("cpu", copy=True), requires_grad=parameter.requires_grad))
