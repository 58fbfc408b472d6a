"""Running a recipe: what `anyorder train` and `anyorder.fit_order` do."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from anyorder.denoisers.base import fingerprint
from anyorder.errors import AnyorderError, BadInput
from anyorder.files import write_json
from anyorder.orders.policies import LearnedOrder
from anyorder.processes import launched
from anyorder.tasks.base import Instances, Task
from anyorder.training.denoiser import DenoiserJob
from anyorder.training.joint import JointJob
from anyorder.training.loop import TrainingResult, train
from anyorder.training.order import OrderJob
from anyorder.training.reward import RewardJob
from anyorder.training.rewards import Reward
from anyorder.training.settings import (
    AnyRecipe,
    DenoiserRecipe,
    ObjectiveSettings,
    OptimizerSettings,
    OrderRecipe,
    PolicySettings,
    RewardRecipe,
    RolloutSettings,
    RunSettings,
    TaskSettings,
    UpdateSettings,
    load_recipe,
)
from anyorder.zoo import load_order
from anyorder.zoo.matching import task_for
from anyorder.zoo.options import load_model


def run_recipe(
    recipe: AnyRecipe,
    folder: Path,
    console: Console | None = None,
    *,
    trust_remote_code: bool = False,
    model_options: Mapping[str, Any] | None = None,
) -> TrainingResult:
    """Train what a recipe describes into a folder; resume if the folder holds an unfinished run of it.

    With `trust_remote_code`, the code that comes with a model of Hugging Face is run. `model_options` are of the denoiser that
    an order is fitted to, see `load_model`; where it runs is for the training loop to say.
    """
    identity = recipe.model_dump(mode="json")
    try:
        job: DenoiserJob | OrderJob | RewardJob
        if isinstance(recipe, DenoiserRecipe):
            job = DenoiserJob(recipe)
        else:
            if "device" in (model_options or {}):
                raise BadInput("training runs where accelerate puts it: choose the device by CUDA_VISIBLE_DEVICES")
            wishes = {"device": "cpu", **(model_options or {})}
            denoiser = load_model(recipe.denoiser, wishes, trust_remote_code=trust_remote_code)
            task = task_for(denoiser, recipe.task.name, **recipe.task.options)
            identity["denoiser_fingerprint"] = fingerprint(denoiser)
            if isinstance(recipe, RewardRecipe):
                job = RewardJob(recipe, denoiser, task)
            else:
                job = (JointJob if recipe.train_denoiser else OrderJob)(recipe, denoiser, task)
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, AnyorderError) else BadInput(f"this recipe cannot be used: {error}") from error
    result = train(job, recipe.run, recipe.optimizer, folder, seed=recipe.seed, recipe=identity, console=console)
    trained = isinstance(job, DenoiserJob | JointJob) or (isinstance(recipe, RewardRecipe) and recipe.update.train_denoiser)
    if result.finished and trained and launched()[0] == 0:
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
    recipe = OrderRecipe(
        kind="order",
        seed=seed,
        task=TaskSettings(name=task.name, options=_options_of(task)),
        data=DEFAULT_ORDER_DATA,
        denoiser="given",
        policy=policy or PolicySettings(),
        objective=objective or ObjectiveSettings(),
        optimizer=DEFAULT_ORDER_OPTIMIZER,
        run=RunSettings(steps=steps, batch_size=batch_size),
    )
    return _fit(OrderJob(recipe, denoiser, task, instances), recipe, denoiser, instances, Path(folder), console)


def fit_order_by_reward(
    denoiser: nn.Module,
    task: Task,
    instances: Instances,
    folder: str | Path,
    *,
    reward: Reward | None = None,
    steps: int = 1600,
    batch_size: int = 96,
    seed: int = 0,
    policy: PolicySettings | None = None,
    rollout: RolloutSettings | None = None,
    update: UpdateSettings | None = None,
    console: Console | None = None,
) -> LearnedOrder:
    """Train an order policy by a reward of your own on your own frozen denoiser: UPO and its kin, see
    `anyorder.training.reward`.

    Args:
        denoiser, task, instances, folder, seed: as in `fit_order`; solutions need not be known.
        reward: gives N decoded sequences a number each, see `anyorder.training.rewards`; 1 where the task's checker finds
            nothing wrong when not given.
        steps, batch_size: updates, and trajectories drawn in each round of them.
        policy, rollout, update: the settings of UPO with its max-confidence reference when not given.

    Returns:
        The trained order, ready for `decode`.

    Raises:
        BadInput: the folder holds a run on another denoiser or other problems, or with other settings.
        KeyboardInterrupt: Ctrl-C; a checkpoint is written first, and the same call goes on from it.
    """
    default = DEFAULT_REWARD_RECIPE
    values = {
        "kind": "reward",
        "seed": seed,
        "task": {"name": task.name, "options": _options_of(task)},
        "data": {"size": len(instances)},
        "denoiser": "given",
        "reward": {"name": "solved"},
        "optimizer": default.optimizer,
        "run": {"steps": steps, "batch_size": batch_size},
        "policy": policy or default.policy,
        "rollout": rollout or default.rollout,
        "update": update or default.update,
    }
    recipe = RewardRecipe.model_validate(values)
    return _fit(RewardJob(recipe, denoiser, task, instances, reward), recipe, denoiser, instances, Path(folder), console)


def _options_of(task: Task) -> dict[str, Any]:
    """The arguments that make a task again, as far as they are plain."""
    return {n: v for n, v in task.options.items() if isinstance(v, int | float | str)}


def _fit(
    job: OrderJob | RewardJob,
    recipe: OrderRecipe | RewardRecipe,
    denoiser: nn.Module,
    instances: Instances,
    folder: Path,
    console: Console | None,
) -> LearnedOrder:
    """Run a job on a denoiser that was given, and load what it saved."""
    identity = {
        **recipe.model_dump(mode="json"),
        "denoiser_fingerprint": fingerprint(denoiser),
        "problems": hashlib.sha256(instances.tokens.numpy().tobytes()).hexdigest()[:16],
    }
    device = next(denoiser.parameters()).device
    try:
        result = train(job, recipe.run, recipe.optimizer, folder, seed=recipe.seed, recipe=identity, console=console)
    finally:
        denoiser.to(device)
    if not result.finished:
        raise KeyboardInterrupt
    return load_order(folder, denoiser).to(device)


_SHIPPED, _UPO = load_recipe("sudoku9-order"), load_recipe("sudoku4-upo")
assert isinstance(_SHIPPED, OrderRecipe)
assert isinstance(_UPO, RewardRecipe)
DEFAULT_ORDER_OPTIMIZER: OptimizerSettings = _SHIPPED.optimizer
DEFAULT_ORDER_DATA = _SHIPPED.data
DEFAULT_REWARD_RECIPE: RewardRecipe = _UPO
