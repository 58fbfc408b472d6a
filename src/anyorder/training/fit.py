"""Run a recipe: the code of `anyorder train`, `anyorder.fit_order` and `anyorder.fit_order_by_reward`."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from rich.console import Console
from torch import nn

from anyorder.denoisers.base import device_of, fingerprint, move
from anyorder.denoisers.classes import make_denoiser
from anyorder.errors import AnyorderError, BadInput, first_line
from anyorder.files import write_json
from anyorder.orders.learned import LearnedOrder
from anyorder.processes import launched
from anyorder.registry import OBJECTIVES, POLICIES
from anyorder.relations import EVERYTHING
from anyorder.signatures import checked
from anyorder.tasks import make_task
from anyorder.tasks.base import Instances, Task
from anyorder.training.denoiser import DenoiserJob
from anyorder.training.grpo import GrpoJob
from anyorder.training.joint import JointJob
from anyorder.training.lo_arm import LoArmJob
from anyorder.training.loop import TrainingResult, train
from anyorder.training.objectives import LearnedOrderBound
from anyorder.training.order import OrderJob
from anyorder.training.recipes import AnyRecipe, DenoiserRecipe, GrpoRecipe, OrderRecipe, RewardRecipe, is_recipe, load_recipe
from anyorder.training.reward import RewardJob
from anyorder.training.rewards import Reward
from anyorder.training.run_folder import check_free, check_same_run
from anyorder.training.settings import (
    DataSettings,
    ObjectiveSettings,
    OptimizerSettings,
    PolicySettings,
    RolloutSettings,
    RunSettings,
    TaskSettings,
    UpdateSettings,
)
from anyorder.training.solutions import several_solutions
from anyorder.zoo import load_denoiser
from anyorder.zoo.matching import loaded, task_for


@checked("recipe", "folder")
def run_recipe(
    recipe: AnyRecipe,
    folder: str | Path,
    console: Console | None = None,
    *,
    trust_remote_code: bool = False,
    model_options: Mapping[str, Any] | None = None,
) -> TrainingResult:
    """Train what a recipe describes and write it to a folder; resume if the folder holds an unfinished run of the recipe.

    Args:
        recipe: a recipe from `load_recipe`.
        folder: folder of the run.
        console: console of the progress bar.
        trust_remote_code: run the code that comes with a model of Hugging Face.
        model_options: options of the denoiser, see `load_denoiser`; the training loop chooses the device.

    Raises:
        BadInput: parts that do not fit each other, or a folder with another run.
    """
    folder, identity = Path(folder), recipe.model_dump(mode="json")
    try:
        job: DenoiserJob | OrderJob | RewardJob | GrpoJob
        if isinstance(recipe, DenoiserRecipe):
            job = DenoiserJob(recipe)
        else:
            if "device" in (model_options or {}):
                raise BadInput("accelerate chooses the device of training: set CUDA_VISIBLE_DEVICES instead")
            options = {"device": "cpu", **(model_options or {})}
            if is_recipe(recipe.denoiser):
                task = make_task(recipe.task.name, **recipe.task.options)
                denoiser = _fresh_denoiser(recipe, task)
            else:
                denoiser = load_denoiser(recipe.denoiser, trust_remote_code=trust_remote_code, **options)
                task = task_for(denoiser, recipe.task.name, **recipe.task.options)
            identity["denoiser_fingerprint"] = fingerprint(denoiser)
            if isinstance(recipe, RewardRecipe):
                job = RewardJob(recipe, denoiser, task)
            elif isinstance(recipe, GrpoRecipe):
                job = GrpoJob(recipe, denoiser, task)
            else:
                job = order_job(recipe)(recipe, denoiser, task)
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, AnyorderError) else BadInput(f"this recipe cannot be used: {error}") from error
    result = train(job, recipe.run, recipe.optimizer, folder, seed=recipe.seed, recipe=identity, console=console)
    trained = isinstance(job, DenoiserJob | GrpoJob) or (
        recipe.update.train_denoiser if isinstance(recipe, RewardRecipe) else getattr(recipe, "train_denoiser", False)
    )
    if result.finished and trained and launched()[0] == 0:
        settings = recipe.task
        if not isinstance(recipe, DenoiserRecipe):  # whose denoiser may have brought options that the recipe does not name
            settings = settings.model_copy(update={"options": {**_task_settings(job.task).options, **settings.options}})
        write_json(folder / "task.json", settings.model_dump())
    return result


def _fresh_denoiser(recipe: OrderRecipe | RewardRecipe | GrpoRecipe, task: Task) -> Any:
    """The denoiser of a recipe for one, with random weights that follow from this recipe's seed, for joint training.

    Raises:
        BadInput: the denoiser would stay as it is, or the name is that of another kind of recipe.
    """
    described = load_recipe(recipe.denoiser)
    if not isinstance(described, DenoiserRecipe):
        raise BadInput(
            f"denoiser = {recipe.denoiser!r} is a recipe of kind {described.kind}: name a model, or a recipe of kind denoiser"
        )
    if not (isinstance(recipe, OrderRecipe) and recipe.train_denoiser):
        raise BadInput(
            f"denoiser = {recipe.denoiser!r} is a recipe, with random weights that only joint training (train_denoiser = true) "
            f"would train: run `anyorder train {recipe.denoiser}` and name its folder"
        )
    torch.manual_seed(recipe.seed)
    return make_denoiser(described.denoiser.architecture, task, described.denoiser.settings)


def order_job(recipe: OrderRecipe) -> type[OrderJob]:
    """The job that trains a recipe's order."""
    if OBJECTIVES[recipe.objective.name] is LearnedOrderBound:
        return LoArmJob
    return JointJob if recipe.train_denoiser else OrderJob


ORDER_OPTIMIZER = OptimizerSettings(name="muon", lr=4e-3, weight_decay=0.05, warmup_steps=20, ema=0.98)
"""Optimizer of `fit_order`."""

REWARD_OPTIMIZER = OptimizerSettings(lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1, schedule="linear", clip_norm=0.2)
"""Optimizer of `fit_order_by_reward`: that of UPO (arXiv 2510.05725), with a higher learning rate for small policies."""


def default_fit(architecture: str = "", task: Task | None = None) -> tuple[PolicySettings, ObjectiveSettings]:
    """The settings of policy and objective that `fit_order` uses if none are given.

    For tasks whose positions are related, such as Sudoku, the policy is `lookahead` with two heads per relation and two that
    see everything. For others it is `mlp` (arXiv 2606.00295, section 3), which is cheap for every denoiser. Both are trained
    for `correctness` on the states of their own path. A policy that reads the denoiser's logits (`reads_logits`, such as
    `lookahead`) is trained as a critic too. The score transformers are not, although they read all positions together: of a
    committed token they do not read how likely it was.
    """
    related = [] if task is None else list(task.relations())
    policy = PolicySettings(architecture=architecture or ("lookahead" if related else "mlp"))
    if not architecture and related:
        heads = [name for relation in (*related, EVERYTHING) for name in (relation, relation)]
        policy = _checked(PolicySettings, architecture="lookahead", width=12 * len(heads), heads=heads)
    critic = POLICIES[policy.architecture].reads_logits
    return policy, ObjectiveSettings(name="correctness", states="model", critic=critic)


@checked("folder")
def fit_order(
    denoiser: nn.Module | str | Path,
    task: Task | str | None,
    instances: Instances | str | Path,
    folder: str | Path,
    *,
    steps: int = 300,
    batch_size: int = 64,
    seed: int = 0,
    policy: PolicySettings | Mapping[str, Any] | str | None = None,
    objective: ObjectiveSettings | Mapping[str, Any] | str | None = None,
    console: Console | None = None,
) -> LearnedOrder:
    """Fit an order policy to your own frozen denoiser on your own problems.

    Where problems have several solutions, which a few decodings find out, a token is right if it belongs to the solution
    nearest to the state (`objective.solutions = "nearest"`), unless an objective is given.

    Args:
        denoiser: any `Denoiser` module, or the name, folder or hub id of one; its weights do not change.
        task: gives the checker, the relations and the augmentation; or its name. None for the task of the denoiser.
        instances: problems with known solutions, or a file of them.
        folder: folder of the policy, its metrics and checkpoints.
        steps: optimizer updates. batch_size, seed: those of the fit.
        policy: the name of an architecture, its settings, or a mapping such as `{"architecture": "lookahead", "width": 96}`;
            see `default_fit` for the default.
        objective: a name, settings, or a mapping, as for the policy.

    Returns:
        The fitted order, ready for `Sampler`.

    Raises:
        BadInput: settings that cannot be used, problems without solutions, a task and a denoiser that do not match, or a folder
            that holds a fit to another denoiser or to other problems.
        KeyboardInterrupt: Ctrl-C; a checkpoint is written first, and the same call resumes.
    """
    model: Any
    model, task, instances = loaded(denoiser, task, instances)
    recipe = _order_recipe(
        model, task, instances, steps=steps, batch_size=batch_size, seed=seed, policy=policy, objective=objective
    )  # fmt: skip
    job = partial(order_job(recipe), recipe, model, task, instances)
    return _fit(job, recipe, model, instances, Path(folder), console)


def check_fit(denoiser: nn.Module, task: Task, instances: Instances, folder: Path, **settings: Any) -> None:
    """Refuse, before other work, a folder in which `fit_order` with these settings would find another run or a model.

    Raises:
        BadInput: it would.
    """
    recipe = _order_recipe(denoiser, task, instances, **settings)
    check_free(folder)
    check_same_run(folder, _identity(recipe, denoiser, instances), cycle=1)


def _order_recipe(
    denoiser: Any,
    task: Task,
    instances: Instances,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    policy: PolicySettings | Mapping[str, Any] | str | None = None,
    objective: ObjectiveSettings | Mapping[str, Any] | str | None = None,
) -> OrderRecipe:
    """The recipe of a call of `fit_order`."""
    usual = default_fit("", task)[0]
    chosen = usual if policy is None else _policy_settings(policy, usual.architecture)
    aim = _settings(ObjectiveSettings, objective, "name")
    if aim is None:
        aim = default_fit(chosen.architecture)[1]
        if several_solutions(denoiser, task, instances):
            aim = aim.model_copy(update={"solutions": "nearest"})
    recipe: OrderRecipe = _checked(
        OrderRecipe,
        kind="order",
        seed=seed,
        task=_task_settings(task),
        data=DataSettings(size=len(instances)),
        denoiser="given",
        policy=chosen,
        objective=aim,
        optimizer=ORDER_OPTIMIZER,
        run=_checked(RunSettings, steps=steps, batch_size=batch_size),
    )
    return recipe


@checked("folder")
def fit_order_by_reward(
    denoiser: nn.Module | str | Path,
    task: Task | str | None,
    instances: Instances | str | Path,
    folder: str | Path,
    *,
    reward: Reward | None = None,
    steps: int = 1600,
    batch_size: int = 96,
    seed: int = 0,
    policy: PolicySettings | Mapping[str, Any] | str | None = None,
    rollout: RolloutSettings | Mapping[str, Any] | None = None,
    update: UpdateSettings | Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> LearnedOrder:
    """Train an order policy by your own reward on your own frozen denoiser: UPO and related methods, see
    `anyorder.training.reward`.

    Args:
        denoiser, task, instances, folder, seed: as in `fit_order`; solutions are not needed.
        reward: a function that gives each of N decoded sequences a number, see `anyorder.training.rewards`; by default 1 if the
            sequence passes the task's check, else 0.
        steps, batch_size: optimizer updates, and trajectories drawn in each round of them.
        policy, rollout, update: by default those of UPO with its max-confidence reference.

    Returns:
        The trained order, ready for `Sampler`.

    Raises:
        BadInput, KeyboardInterrupt: as `fit_order`.
    """
    model: Any
    model, task, instances = loaded(denoiser, task, instances)
    upo = UpdateSettings(inner=2, minibatches=2, reference="confidence", beta=0.005, imitation=40)
    values = {
        "kind": "reward",
        "seed": seed,
        "task": _task_settings(task),
        "data": DataSettings(size=max(1, len(instances))),
        "denoiser": "given",
        "reward": {"name": "solved"},
        "optimizer": REWARD_OPTIMIZER,
        "run": _checked(RunSettings, steps=steps, batch_size=batch_size),
        "policy": _policy_settings(policy, "upo"),
        "rollout": _settings(RolloutSettings, rollout, "") or RolloutSettings(),
        "update": _settings(UpdateSettings, update, "") or upo,
    }
    recipe = _checked(RewardRecipe, **values)
    job = partial(RewardJob, recipe, model, task, instances, reward)
    return _fit(job, recipe, model, instances, Path(folder), console)


def _policy_settings(given: PolicySettings | Mapping[str, Any] | str | None, default: str) -> PolicySettings:
    """Settings of a policy, with the default architecture unless they name another."""
    given = {} if given is None else given
    found: PolicySettings = _settings(
        PolicySettings, {"architecture": default, **given} if isinstance(given, Mapping) else given, "architecture"
    )
    return found


def _settings(kind: type, given: Any, key: str) -> Any:
    """Settings from an object, a mapping, or the value of their main key; None for None."""
    if given is None or isinstance(given, kind):
        return given
    if isinstance(given, str) and key:
        given = {key: given}
    if not isinstance(given, Mapping):
        raise BadInput(f"{given!r} is not a {kind.__name__}: pass one, or a mapping of its keys")
    return _checked(kind, **given)


def _checked(kind: Any, /, **values: Any) -> Any:
    """A section or recipe from values, whose errors are those of the user."""
    try:
        return kind(**values)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise BadInput(f"{where + ': ' if where else ''}{problem['msg'].removeprefix('Value error, ')}") from error


def _task_settings(task: Task) -> TaskSettings:
    """Name and options of a task, as far as they are plain values."""
    return TaskSettings(name=task.name, options={n: v for n, v in task.options.items() if isinstance(v, int | float | str)})


def _fit(
    make_job: Callable[[], OrderJob | RewardJob],
    recipe: OrderRecipe | RewardRecipe,
    denoiser: nn.Module,
    instances: Instances,
    folder: Path,
    console: Console | None,
) -> LearnedOrder:
    """Run a job on a denoiser that was given, and load what it saved."""
    identity = _identity(recipe, denoiser, instances)
    with _handed_back(denoiser):
        try:
            job = make_job()
            result = train(job, recipe.run, recipe.optimizer, folder, seed=recipe.seed, recipe=identity, console=console)
        except ValueError as error:
            raise (
                error if isinstance(error, AnyorderError) else BadInput(f"this fit cannot be made: {first_line(error)}")
            ) from error
    if not result.finished:
        raise KeyboardInterrupt
    return LearnedOrder.from_pretrained(folder, denoiser)


def _identity(recipe: OrderRecipe | RewardRecipe, denoiser: nn.Module, instances: Instances) -> dict[str, Any]:
    """What a fit must share with a run in its folder to go on with it."""
    return {
        **recipe.model_dump(mode="json"),
        "denoiser_fingerprint": fingerprint(denoiser),
        "problems": hashlib.sha256(instances.tokens.numpy().tobytes()).hexdigest()[:16],
    }


@contextmanager
def _handed_back(denoiser: nn.Module) -> Iterator[None]:
    """Afterwards, a denoiser is on its device, in its mode, and the same weights take gradients as before."""
    device = device_of(denoiser)
    modes = [(part, part.training) for part in denoiser.modules()]
    gradients = {name: weight.requires_grad for name, weight in denoiser.named_parameters()}
    try:
        yield
    finally:
        move(denoiser, device)
        for part, training in modes:
            part.training = training
        for name, weight in denoiser.named_parameters():  # other objects, where accelerate loads them for each call
            weight.requires_grad_(gradients[name])
