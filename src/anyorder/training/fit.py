"""Running a recipe: what `anyorder train` and `anyorder.fit_order` do."""

import hashlib
import inspect
from pathlib import Path

from rich.console import Console
from torch import nn

from anyorder.denoisers.base import fingerprint
from anyorder.errors import AnyorderError, BadInput
from anyorder.files import write_json
from anyorder.orders.policies import LearnedOrder
from anyorder.tasks import make_task
from anyorder.tasks.base import Instances, Task
from anyorder.training.denoiser import DenoiserJob
from anyorder.training.joint import JointJob
from anyorder.training.loop import TrainingResult, train
from anyorder.training.order import OrderJob
from anyorder.training.reward import RewardJob
from anyorder.training.settings import (
    AnyRecipe,
    DenoiserRecipe,
    ObjectiveSettings,
    OptimizerSettings,
    OrderRecipe,
    PolicySettings,
    RewardRecipe,
    RunSettings,
    TaskSettings,
    load_recipe,
)
from anyorder.zoo import load_denoiser, load_order


def run_recipe(recipe: AnyRecipe, folder: Path, console: Console | None = None) -> TrainingResult:
    """Train what a recipe describes into a folder; resume if the folder holds an unfinished run of it."""
    identity = recipe.model_dump(mode="json")
    try:
        job: DenoiserJob | OrderJob | RewardJob
        if isinstance(recipe, DenoiserRecipe):
            job = DenoiserJob(recipe)
        else:
            denoiser, task = load_denoiser(recipe.denoiser), make_task(recipe.task.name, **recipe.task.options)
            identity["denoiser_fingerprint"] = fingerprint(denoiser)
            if isinstance(recipe, RewardRecipe):
                job = RewardJob(recipe, denoiser, task)
            else:
                job = (JointJob if recipe.train_denoiser else OrderJob)(recipe, denoiser, task)
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, AnyorderError) else BadInput(f"this recipe cannot be used: {error}") from error
    result = train(job, recipe.run, recipe.optimizer, folder, seed=recipe.seed, recipe=identity, console=console)
    trained = isinstance(job, DenoiserJob | JointJob) or (isinstance(recipe, RewardRecipe) and recipe.update.train_denoiser)
    if result.finished and trained:
        write_json(folder / "task.json", recipe.task.model_dump())
    return result


def fit_order(
    denoiser: nn.Module,
    task: Task,
    instances: Instances,
    folder: str | Path,
    *,
    steps: int = 300,
    batch_size: int = 64,
    seed: int = 0,
    policy: PolicySettings | None = None,
    objective: ObjectiveSettings | None = None,
    console: Console | None = None,
) -> LearnedOrder:
    """Fit an order policy to your own frozen denoiser on your own problems, in minutes.

    Args:
        denoiser: any `Denoiser` module; its weights do not change.
        task: gives the checker, the relations and the augmentation.
        instances: problems with known solutions.
        folder: where the policy, its metrics and checkpoints go.
        steps, batch_size, seed: of the fit.
        policy, objective: the shipped defaults when not given.

    Returns:
        The fitted order, ready for `decode`.

    Raises:
        BadInput: the folder holds a fit to another denoiser or to other problems.
        KeyboardInterrupt: Ctrl-C; a checkpoint is written first, and the same call goes on from it.
    """
    arguments = {name: getattr(task, name, None) for name in inspect.signature(type(task)).parameters}
    options = getattr(task, "options", {n: v for n, v in arguments.items() if isinstance(v, int | float | str)})
    recipe = OrderRecipe(
        kind="order",
        seed=seed,
        task=TaskSettings(name=task.name, options=options),
        data=DEFAULT_ORDER_DATA,
        denoiser="given",
        policy=policy or PolicySettings(),
        objective=objective or ObjectiveSettings(),
        optimizer=DEFAULT_ORDER_OPTIMIZER,
        run=RunSettings(steps=steps, batch_size=batch_size),
    )
    identity = {
        **recipe.model_dump(mode="json"),
        "denoiser_fingerprint": fingerprint(denoiser),
        "problems": hashlib.sha256(instances.tokens.numpy().tobytes()).hexdigest()[:16],
    }
    device = next(denoiser.parameters()).device
    job = OrderJob(recipe, denoiser, task, instances)
    try:
        result = train(job, recipe.run, recipe.optimizer, Path(folder), seed=seed, recipe=identity, console=console)
    finally:
        denoiser.to(device)
    if not result.finished:
        raise KeyboardInterrupt
    return load_order(folder, denoiser).to(device)


_SHIPPED = load_recipe("sudoku9-order")
assert isinstance(_SHIPPED, OrderRecipe)
DEFAULT_ORDER_OPTIMIZER: OptimizerSettings = _SHIPPED.optimizer
DEFAULT_ORDER_DATA = _SHIPPED.data
