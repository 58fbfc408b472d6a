"""Run a recipe: the code of `anyorder train`, `anyorder.fit_order` and `anyorder.fit_order_by_reward`."""

import functools
import hashlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from anyorder.denoisers.base import device_of, fingerprint, move
from anyorder.denoisers.classes import make_denoiser
from anyorder.errors import AnyorderError, BadInput, first_line
from anyorder.files import write_json
from anyorder.orders.learned import LearnedOrder
from anyorder.processes import launched
from anyorder.registry import OBJECTIVES
from anyorder.signatures import checked
from anyorder.tasks import make_task
from anyorder.tasks.base import Instances, Task
from anyorder.tasks.instances import check_open
from anyorder.training.denoiser import DenoiserJob
from anyorder.training.fit_recipes import order_recipe, reward_recipe, rules_recipe, task_settings
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
from anyorder.training.settings import ObjectiveSettings, PolicySettings, RolloutSettings, UpdateSettings
from anyorder.training.solutions import only_stored, several_solutions
from anyorder.training.starting import start_from
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
            if recipe.start is not None:
                identity["denoiser_fingerprint"] = fingerprint(job.denoiser)
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
            settings = settings.model_copy(update={"options": {**task_settings(job.task).options, **settings.options}})
        write_json(folder / "task.json", settings.model_dump())
    return result


def _fresh_denoiser(recipe: OrderRecipe | RewardRecipe | GrpoRecipe, task: Task) -> Any:
    """The denoiser of a recipe for one, with the weights that it starts from, by this recipe's seed, for joint training.

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
    denoiser = make_denoiser(described.denoiser.architecture, task, described.denoiser.settings)
    if described.start is not None:
        start_from(described.start, denoiser, task)
    return denoiser


def order_job(recipe: OrderRecipe) -> type[OrderJob]:
    """The job that trains a recipe's order."""
    if OBJECTIVES[recipe.objective.name] is LearnedOrderBound:
        return LoArmJob
    return JointJob if recipe.train_denoiser else OrderJob


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
    nearest to the state (`objective.solutions = "nearest"`), unless an objective is given. A task without a
    `nearest_solutions` of its own knows the stored one alone: then there is a warning, and `fit_order_by_reward` trains by the
    rules.

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
        BadInput: settings that cannot be used, problems without solutions or with nothing to fill, a task and a denoiser that
            do not match, or a folder that holds a fit to another denoiser, other problems or solutions, or by another reward.
        KeyboardInterrupt: Ctrl-C; a checkpoint is written first, and the same call resumes.
    """
    model: Any
    model, task, instances = loaded(denoiser, task, instances)
    check_open(instances)
    share = several_solutions(model, task, instances) if objective is None else 0.0
    if share and only_stored(task):
        warnings.warn(
            f"at least {100 * share:.0f} % of the problems have several solutions, of which {type(task).__name__} knows the "
            "stored one alone, so a right token of another solution counts as wrong: train by the rules with "
            "fit_order_by_reward, as anyorder fit does, or give the task a method nearest_solutions",
            stacklevel=3,
        )
    recipe = order_recipe(
        task, instances, steps=steps, batch_size=batch_size, seed=seed, policy=policy, objective=objective,
        several=bool(share),
    )  # fmt: skip
    return fit_planned(recipe, model, task, instances, Path(folder), console)


def plan_fit(
    denoiser: Any,
    task: Task,
    instances: Instances,
    *,
    budget: int | None = None,
    several: float | None = None,
    **settings: Any,
) -> OrderRecipe | RewardRecipe:
    """How an order is fitted to problems: as by `fit_order`, or by the rules of the task, where problems have several solutions
    of which the task knows the stored one alone.

    Args:
        budget: forward passes at which the order will be used.
        several: share of the problems that are known to have several solutions, if that is known already.
        settings: steps, batch_size, seed and policy, as of `fit_order`.
    """
    several = several_solutions(denoiser, task, instances) if several is None else several
    if several and only_stored(task):
        return rules_recipe(task, instances, budget=budget, **settings)
    return order_recipe(task, instances, several=several > 0, **settings)


def check_fit(recipe: OrderRecipe | RewardRecipe, denoiser: nn.Module, instances: Instances, folder: Path) -> None:
    """Refuse, before other work, a folder in which this fit would find another run or a model.

    Raises:
        BadInput: it would.
    """
    check_free(folder)
    check_same_run(folder, _identity(recipe, denoiser, instances), cycle=1)


def fit_planned(
    recipe: OrderRecipe | RewardRecipe, denoiser: Any, task: Task, instances: Instances, folder: Path, console: Console | None
) -> LearnedOrder:
    """Fit an order as `plan_fit` says."""
    kind: Any = RewardJob if isinstance(recipe, RewardRecipe) else order_job(recipe)
    return _fit(partial(kind, recipe, denoiser, task, instances), recipe, denoiser, instances, folder, console)


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
    check_open(instances)
    if reward is not None and not callable(reward):
        raise BadInput(f"reward is {reward!r}; it must be a function of an anyorder.Outcome")
    recipe = reward_recipe(
        task, instances, steps=steps, batch_size=batch_size, seed=seed, policy=policy, rollout=rollout, update=update
    )  # fmt: skip
    job = partial(RewardJob, recipe, model, task, instances, reward)
    return _fit(job, recipe, model, instances, Path(folder), console, reward)


def _fit(
    make_job: Callable[[], OrderJob | RewardJob],
    recipe: OrderRecipe | RewardRecipe,
    denoiser: nn.Module,
    instances: Instances,
    folder: Path,
    console: Console | None,
    reward: Reward | None = None,
) -> LearnedOrder:
    """Run a job on a denoiser that was given, and load what it saved."""
    identity = _identity(recipe, denoiser, instances, reward)
    with torch.random.fork_rng([]):
        return _run_fit(make_job, recipe, identity, denoiser, folder, console)


def _run_fit(
    make_job: Callable[[], OrderJob | RewardJob],
    recipe: OrderRecipe | RewardRecipe,
    identity: dict[str, Any],
    denoiser: nn.Module,
    folder: Path,
    console: Console | None,
) -> LearnedOrder:
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


def _identity(
    recipe: OrderRecipe | RewardRecipe, denoiser: nn.Module, instances: Instances, reward: Reward | None = None
) -> dict[str, Any]:
    """What a fit must share with a run in its folder to go on with it."""
    x0 = instances.x0
    return {
        **recipe.model_dump(mode="json"),
        "denoiser_fingerprint": fingerprint(denoiser),
        "problems": _hash_of(*(t.cpu().numpy().tobytes() for t in (instances.tokens, instances.maskable, x0) if t is not None)),
        **({} if reward is None else {"reward_function": _hash_of(*_code_of(reward))}),
    }


def _hash_of(*parts: bytes) -> str:
    return hashlib.sha256(b"|".join(parts)).hexdigest()[:16]


def _code_of(reward: Reward) -> Iterator[bytes]:
    """What tells a reward from another one: its name, its code, and the plain values that it was made with."""
    if isinstance(reward, functools.partial):
        yield from _code_of(reward.func)
        yield _plain([*reward.args, *reward.keywords.items()])
        return
    function: Any = reward if inspect.isroutine(reward) else type(reward)
    yield f"{function.__module__}:{function.__qualname__}".encode()
    with suppress(OSError, TypeError):  # it was typed, or is not written in Python
        yield inspect.getsource(function).encode()
    cells = getattr(function, "__closure__", None) or ()
    yield _plain([cell.cell_contents for cell in cells] or list(getattr(reward, "__dict__", {}).items()))


def _plain(values: list[Any]) -> bytes:
    """Numbers and texts among values, and in pairs of them."""
    kinds = str | int | float | bool | None
    return repr(
        [v for v in values if isinstance(v, kinds) or (isinstance(v, tuple) and all(isinstance(p, kinds) for p in v))]
    ).encode()


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
