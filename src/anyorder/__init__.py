"""Learned unmasking orders for masked diffusion models.

A masked diffusion model fills in a few tokens at a time, and the quality depends on which positions come next. Take a
masked-token model, measure what an order can gain, fit an order policy, and decode with it:

    import anyorder

    denoiser = anyorder.load_denoiser("sudoku9")           # or a hub id, a folder, your own module
    task = anyorder.task_for(denoiser)                     # problems, their encoding and their checker
    puzzles = task.generate(20, seed=0, givens=27)
    result = anyorder.decode(denoiser, puzzles.tokens, anyorder.Sampler("confidence", count="threshold:0.9", steps=20))
    print(task.check(puzzles, result.tokens).instance_correct.float().mean(), result.nfe.float().mean())

Models
    load_denoiser, HuggingFaceDenoiser, WrappedDenoiser (any nn.Module), Transformer (ours)
Decoding
    decode, Sampler, Decoded; generate (prompts, the call for Hugging Face models), infill (texts with holes), collate
    init, predict, step, DecodeState, Prediction: the loop by hand
Parts of a sampler (help on each; `anyorder list` prints them all)
    where: anyorder.orders.confidence, ..., LearnedOrder, load_order    how many: Linear, Threshold, EntropyBound, ...
    what: Argmax, Sample                                                remask: Absorbing, P2, ReMDM, CriticUndo
Tasks
    make_task, task_for, Task (base class of your own), Instances
Fitting and comparing
    headroom, fit_order, fit_order_by_reward, evaluate, pareto, pass_at_n
Extending
    anyorder.registry: register an order, count rule, policy, task, denoiser, ... from your own package

Every class and function above is an attribute of this package and of the sub-package that holds it. Bad input raises
`BadInput`: one sentence says what was wrong, one what would be right.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_ROOMS = ("errors", "registry", "orders", "decoding", "denoisers", "tasks", "zoo", "interfaces", "training", "evaluation")
"""Where public names are looked for, in this order; each is imported on first use, so that `import anyorder` is quick."""

if TYPE_CHECKING:
    from anyorder.decoding import *  # noqa: F403
    from anyorder.denoisers import *  # noqa: F403
    from anyorder.errors import *  # noqa: F403
    from anyorder.evaluation import *  # noqa: F403
    from anyorder.interfaces import *  # noqa: F403
    from anyorder.orders import *  # noqa: F403
    from anyorder.tasks import *  # noqa: F403
    from anyorder.training import *  # noqa: F403
    from anyorder.zoo import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module 'anyorder' has no attribute {name!r}")
    if find_spec(f"anyorder.{name}") is not None:
        return import_module(f"anyorder.{name}")
    for room in _ROOMS:
        module = import_module(f"anyorder.{room}")
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"module 'anyorder' has no attribute {name!r}")


def __dir__() -> list[str]:
    found = set(globals())
    for room in _ROOMS:
        found |= {name for name in vars(import_module(f"anyorder.{room}")) if not name.startswith("_")}
    return sorted(found)
