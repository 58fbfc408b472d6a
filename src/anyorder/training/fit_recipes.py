"""The recipes of `anyorder.fit_order` and `anyorder.fit_order_by_reward`: what they use where nothing is given."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from anyorder.errors import BadInput
from anyorder.registry import POLICIES
from anyorder.relations import EVERYTHING
from anyorder.tasks.base import Instances, Task
from anyorder.training.recipes import OrderRecipe, RewardRecipe
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

Given = Mapping[str, Any] | str | None
"""Settings as a mapping of their keys, as the value of their main key, or none."""

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


def order_recipe(
    task: Task,
    instances: Instances,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    policy: PolicySettings | Given = None,
    objective: ObjectiveSettings | Given = None,
    several: bool = False,
) -> OrderRecipe:
    """The recipe of a call of `fit_order`; `several` says whether problems have several solutions."""
    usual = default_fit("", task)[0]
    chosen = usual if policy is None else _policy_settings(policy, usual.architecture)
    aim = _settings(ObjectiveSettings, objective, "name")
    if aim is None:
        aim = default_fit(chosen.architecture)[1]
        if several:
            aim = aim.model_copy(update={"solutions": "nearest"})
    recipe: OrderRecipe = _checked(
        OrderRecipe,
        kind="order",
        seed=seed,
        task=task_settings(task),
        data=DataSettings(size=len(instances)),
        denoiser="given",
        policy=chosen,
        objective=aim,
        optimizer=ORDER_OPTIMIZER,
        run=_checked(RunSettings, steps=steps, batch_size=batch_size),
    )
    return recipe


def reward_recipe(
    task: Task,
    instances: Instances,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    policy: PolicySettings | Given = None,
    rollout: RolloutSettings | Mapping[str, Any] | None = None,
    update: UpdateSettings | Mapping[str, Any] | None = None,
) -> RewardRecipe:
    """The recipe of a call of `fit_order_by_reward`."""
    imitation = min(40, steps // 10)  # rounds of 4 updates: of a short run, two fifths
    upo = UpdateSettings(inner=2, minibatches=2, reference="confidence", beta=0.005, imitation=imitation)
    chosen = _settings(UpdateSettings, update, "") or upo
    if chosen.train_denoiser:
        raise BadInput(
            "update.train_denoiser: this call leaves your denoiser as it is; a recipe can train both (anyorder train)"
        )
    if chosen.imitation * chosen.inner * chosen.minibatches >= steps > 0 and chosen.imitation:
        raise BadInput(
            f"update.imitation = {chosen.imitation} rounds are all {steps} updates, so that the reward would have no effect: "
            "lower it, or raise steps"
        )
    values = {
        "kind": "reward",
        "seed": seed,
        "task": task_settings(task),
        "data": DataSettings(size=max(1, len(instances))),
        "denoiser": "given",
        "reward": {"name": "solved"},
        "optimizer": REWARD_OPTIMIZER,
        "run": _checked(RunSettings, steps=steps, batch_size=batch_size),
        "policy": _policy_settings(policy, "upo"),
        "rollout": _settings(RolloutSettings, rollout, "") or RolloutSettings(),
        "update": chosen,
    }
    recipe: RewardRecipe = _checked(RewardRecipe, **values)
    return recipe


def rules_recipe(
    task: Task, instances: Instances, *, steps: int, batch_size: int, seed: int, policy: Given = None, budget: int | None = None
) -> RewardRecipe:
    """The recipe with which `anyorder fit` trains an order by the rules of its task: by reward, with a network that reads the
    complete prediction, and without a reference.

    Args:
        batch_size: that of a supervised fit; there are three times as many trajectories.
        budget: forward passes of a trajectory; by default one per position.
    """
    usual = default_fit("" if task.relations() else "lookahead", task)[0]
    few = budget is not None and budget < instances.longest
    return reward_recipe(
        task, instances, steps=steps, batch_size=12 * max(1, batch_size // 4), seed=seed, policy=policy or usual,
        rollout={"steps": (budget, budget) if few else None},  # evenly over the budget
        update={"inner": 2, "minibatches": 2, "reference": "none", "beta": 0.0},
    )  # fmt: skip


def _policy_settings(given: PolicySettings | Given, default: str) -> PolicySettings:
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


def task_settings(task: Task) -> TaskSettings:
    """Name and options of a task, as far as they are plain values."""
    return TaskSettings(name=task.name, options={n: v for n, v in task.options.items() if isinstance(v, int | float | str)})
