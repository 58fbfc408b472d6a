"""The compute of a step of decoding, in multiply-adds of matrix products."""

from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from anyorder.decoding.sampler import Sampler
from anyorder.evaluation.batches import decode_in_batches
from anyorder.tasks.base import Instances


def multiply_adds(denoiser: Any, instances: Instances, sampler: Sampler) -> int:
    """Multiply-adds of the first step of decoding these instances, denoiser and policy together: matrix products and attention,
    as torch counts them."""
    one_step = sampler.replace(steps=1)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # other kernels are not counted everywhere
        decode_in_batches(denoiser, instances, one_step, seed=0, batch_size=len(instances), progress=None, name="")
    return int(counter.get_total_flops()) // 2


def overhead(denoiser: Any, instances: Instances, sampler: Sampler) -> float:
    """Compute of a sampler's order over that of the denoiser, per step: 0 for heuristics."""
    plain = multiply_adds(denoiser, instances, Sampler.parse("left_to_right"))
    return multiply_adds(denoiser, instances, sampler) / plain - 1
