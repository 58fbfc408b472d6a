"""Several processes that train one model: averaged gradients, and weights that FSDP2 shards over the processes."""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from anyorder.processes import Shard


@torch.no_grad()
def average_gradients(model: nn.Module, shard: Shard) -> None:
    """Give all processes the mean of their gradients. A missing gradient counts as zero, unless it is missing everywhere. FSDP
    has averaged the gradients of sharded weights already.

    DistributedDataParallel does the same within the backward pass, and waits forever if processes call the model a different
    number of times, as they do after rollouts of different lengths.
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
    """Scale all gradients, sharded or not, so that their common norm is at most `longest`; return the norm before."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = float(torch.stack([unshard(gradient.norm()).double() for gradient in gradients]).norm())
    for gradient in gradients:
        gradient.mul_(min(1.0, longest / (norm + 1e-6)))
    return norm


def unshard(tensor: Tensor) -> Tensor:
    """The full tensor of one that may be sharded; all processes must call this at once."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, reference: Tensor) -> Tensor:
    """A full tensor, the same on all processes, sharded as `reference` is; unchanged if that is not sharded or of another
    shape."""
    if isinstance(reference, DTensor) and tensor.shape == reference.shape:
        return distribute_tensor(tensor.to(reference.device), reference.device_mesh, reference.placements)
    return tensor


@torch.no_grad()
def unshard_weights(model: nn.Module, *, keep: bool) -> None:
    """Replace sharded weights of a model by full ones in main memory if `keep`; all processes must call this at once. The model
    cannot be trained any more."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if isinstance(parameter, DTensor):
                full = unshard(parameter)
                if keep:
                    setattr(module, name, nn.Parameter(full.to("cpu", copy=True), requires_grad=parameter.requires_grad))
