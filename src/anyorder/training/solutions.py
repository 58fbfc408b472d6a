"""Do problems have several solutions?"""

import numpy as np
import torch
from torch import Tensor

from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.base import Denoiser
from anyorder.orders.heuristics import confidence, random
from anyorder.tasks.base import Instances, Task
from anyorder.tasks.instances import checked_result
from anyorder.tasks.sequences import Sequences

_PROBLEMS, _STEPS = 64, 16


def share_with_several(task: Task, instances: Instances, *decoded: Tensor) -> float:
    """Share of problems that are known to have several solutions: the label `models` says so, or one of the completed
    sequences (N, L) satisfies the rules and differs from the stored solution. It is a lower bound. 0 for sequences such as
    texts, whose rules say only that they are well formed."""
    if instances.x0 is None or isinstance(task, Sequences):
        return 0.0
    several = torch.from_numpy(np.asarray(instances.labels.get("models", np.ones(len(instances)))) > 1)
    for tokens in decoded:
        differs = ((tokens != instances.x0) & instances.maskable).any(dim=1)
        several |= checked_result(task, instances, tokens).instance_correct & differs
    return float(several.double().mean())


def several_solutions(
    denoiser: Denoiser, task: Task, instances: Instances, batch_size: int = _PROBLEMS, steps: int = 0
) -> float:
    """`share_with_several` of up to 64 problems, which are decoded by the confidence order and in random order, in 16 steps or
    more."""
    some = instances[slice(0, _PROBLEMS)]
    if some.x0 is None or isinstance(task, Sequences):
        return 0.0
    parts = [(start, some.tokens[start : start + batch_size]) for start in range(0, len(some), batch_size)]
    samplers = (Sampler(order, steps=max(steps, _STEPS)) for order in (confidence, random))
    decoded = (
        torch.cat([decode(denoiser, part, sampler, seeds=start).tokens for start, part in parts]) for sampler in samplers
    )
    return share_with_several(task, some, *decoded)


def only_stored(task: Task) -> bool:
    """Whether a task knows no solution but the stored one, since it has no `nearest_solutions` of its own."""
    return type(task).nearest_solutions is Task.nearest_solutions
