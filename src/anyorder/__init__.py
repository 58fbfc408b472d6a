"""anyorder: learned unmasking orders for masked diffusion models.

import anyorder

task = anyorder.make_task("sudoku")
denoiser = anyorder.load_denoiser("sudoku9")
order = anyorder.load_order("sudoku9", denoiser)
puzzle = task.generate(1, seed=0)
result = anyorder.decode(denoiser, puzzle.tokens, anyorder.Decoder(order, steps=10))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from anyorder.decoding.loop import Decoder, decode
    from anyorder.decoding.trajectory import Decoded
    from anyorder.denoisers.base import WrappedDenoiser
    from anyorder.evaluation.evaluate import evaluate
    from anyorder.orders.base import State
    from anyorder.orders.policies import LearnedOrder, Policy
    from anyorder.tasks import Task, check_fits, make_task
    from anyorder.training.fit import fit_order, fit_order_by_reward
    from anyorder.zoo import load_denoiser, load_order
    from anyorder.zoo.matching import task_for

_EXPORTS = {
    "Decoded": "anyorder.decoding.trajectory",
    "Decoder": "anyorder.decoding.loop",
    "LearnedOrder": "anyorder.orders.policies",
    "Policy": "anyorder.orders.policies",
    "State": "anyorder.orders.base",
    "Task": "anyorder.tasks",
    "WrappedDenoiser": "anyorder.denoisers.base",
    "decode": "anyorder.decoding.loop",
    "evaluate": "anyorder.evaluation.evaluate",
    "fit_order": "anyorder.training.fit",
    "fit_order_by_reward": "anyorder.training.fit",
    "load_denoiser": "anyorder.zoo",
    "load_order": "anyorder.zoo",
    "check_fits": "anyorder.tasks",
    "make_task": "anyorder.tasks",
    "task_for": "anyorder.zoo.matching",
}

__all__ = [
    "Decoded",
    "Decoder",
    "LearnedOrder",
    "Policy",
    "State",
    "Task",
    "WrappedDenoiser",
    "check_fits",
    "decode",
    "evaluate",
    "fit_order",
    "fit_order_by_reward",
    "load_denoiser",
    "load_order",
    "make_task",
    "task_for",
]


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that `import anyorder` is quick."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'anyorder' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)
