"""Recipes: one TOML file per experiment, checked before anything is computed."""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from anyorder.errors import BadInput
from anyorder.files import read_text


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskSettings(_Section):
    """Which task, and the arguments of its class."""

    name: str
    options: dict[str, Any] = {}


class DataSettings(_Section):
    """Training problems: `size` of them, drawn once from the task's generator or read from a file (here, or among what was
    fetched, such as moses/train.smi), then augmented afresh in every batch. With `group_by_length` the problems of a batch are
    of similar length, so that less is spent on padding."""

    size: int = Field(gt=0)
    seed: int = 1
    options: dict[str, Any] = {}
    file: str | None = None
    group_by_length: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> "DataSettings":
        if self.file is not None and self.options:
            raise ValueError("options are of the generator; they have no meaning together with a file")
        return self


class MaskingSettings(_Section):
    """The forward process of training."""

    schedule: Literal["linear", "cosine", "discrete"] = "linear"
    levels: int = Field(20, gt=0, description="of the discrete schedule")
    scope: Literal["unknown", "everything"] = "unknown"
    time_weight: bool = False
    focal_gamma: float | None = None
    normalise: Literal["sequences", "tokens", "rows"] = "tokens"


class DenoiserSettings(_Section):
    """The network. `form = "paper"` ignores the rest."""

    form: Literal["structured", "paper"] = "structured"
    width: int = 96
    layers: int = 6
    heads: list[str] = ["everything"]
    mlp_ratio: int = 4
    dropout: float = 0.0
    loops: int = 1
    positions: bool = False


class PolicySettings(_Section):
    """The order policy: see `anyorder.orders.policies`."""

    architecture: Literal[
        "mlp", "score_transformer", "score_hidden_transformer", "lookahead", "upo", "confidence_transformer"
    ] = "lookahead"
    width: int = Field(128, gt=0)
    layers: int = Field(2, gt=0)
    heads: list[str] = ["everything"]
    first_look: bool = True
    top_positions: int = Field(0, ge=0, description="K most confident positions among which upo and the like choose; 0 = all")


class ObjectiveSettings(_Section):
    """What the policy is trained for, and on which states."""

    name: Literal["order", "correctness", "loss", "rank"] = "correctness"
    states: Literal["uniform", "teacher", "model"] = "model"
    quality: bool = True
    rank_temperature: float = Field(1.0, gt=0)
    rollout_steps: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] = (5, 40)
    lost_weight: float = Field(0.1, ge=0, description="weight of states that already hold a wrong token")
    keep_lost: float = Field(1.0, ge=0, le=1, description="share of the problems that go on once they hold a wrong token")
    selection_weight: float = Field(0.0, ge=0, description="of the expected number of wrong tokens selected, `selection_loss`")
    selection_temperature: float = Field(0.5, gt=0)
    complete_weight: float = Field(5.0, ge=0, description="weight of complete states, for quality")
    undo_rounds: int = Field(1, ge=0, description="how often a problem may be opened again")


class JointSettings(_Section):
    """How the denoiser is trained along with its policy: which weights its tokens get in L_MDM, and how fast it learns."""

    weights: Literal["policy", "confidence", "margin", "papl", "uniform"] = "policy"
    plus_one: bool = Field(True, description="1 + alpha * w (eq. 4), or alpha * w alone")
    alpha: float = Field(1.0, gt=0)
    temperature: float = Field(1.0, gt=0, description="tau of the softmax of confidence, margin and papl")
    lr_scale: float = Field(1.0, gt=0, description="the denoiser's learning rate over the policy's")
    decode_every: int = Field(100, ge=0, description="steps between decodings of a fixed batch of problems; 0 = never")
    decode_problems: int = Field(64, gt=1)
    decode_steps: int = Field(10, gt=0)


class RolloutSettings(_Section):
    """How the trajectories are drawn that a policy is trained on by reward."""

    group: int = Field(6, gt=1, description="trajectories of one problem")
    actions: Literal["plackett_luce", "bernoulli", "dynamic_plackett_luce"] = "plackett_luce"
    temperature: float = Field(1.0, gt=0, description="of the scores")
    per_step: int = Field(1, gt=0, description="positions per step, for plackett_luce")
    steps: int | None = Field(None, gt=0, description="budget of forwards; none = one for each position")
    block: int | None = Field(None, gt=0, description="positions per block, for decoding block by block")
    token_temperature: float = Field(0.0, ge=0, description="0 = the likeliest token")
    experts: int = Field(0, ge=0, description="trajectories of an expert beside each group")
    expert_level: float = Field(0.9, gt=0, le=1, description="of the expert, which unmasks what is more confident than this")


class RewardSettings(_Section):
    """What a trajectory is worth: see `anyorder.training.rewards`."""

    name: Literal["solved", "cells", "rules", "likelihood", "judge"] = "cells"
    speed: float | None = Field(None, ge=0, description="exponent of the factor that rewards few forwards")
    likelihood_bonus: float = Field(0.0, ge=0, description="for the likeliest path of a group, down to 0 for the least")
    judge: str | None = Field(None, description="causal language model: folder or hub id")

    @model_validator(mode="after")
    def _a_judge_has_a_model(self) -> "RewardSettings":
        if (self.name == "judge") != (self.judge is not None):
            raise ValueError('reward.judge is the model of the reward "judge": give both or none')
        if self.name == "likelihood" and (self.speed is not None or self.likelihood_bonus):
            raise ValueError("the reward likelihood is earned step by step: it takes neither speed nor likelihood_bonus")
        return self


class UpdateSettings(_Section):
    """Group-relative policy optimisation."""

    inner: int = Field(8, gt=0, description="updates on the same trajectories")
    minibatches: int = Field(1, gt=0, description="parts into which the steps of the trajectories are cut, an update for each")
    clip: float = Field(0.2, gt=0)
    standardise: bool = Field(True, description="divide advantages by the group's standard deviation")
    reference: Literal["none", "confidence", "softmax", "top_k"] = "none"
    beta: float = Field(0.0, ge=0, description="weight of the divergence from the reference")
    reference_temperature: float = Field(0.05, gt=0, description="of the softmax reference")
    imitation: int = Field(0, ge=0, description="rounds, first of all, in which the policy imitates `imitate`")
    imitate: str = Field("confidence", description="order to imitate; oracle and gt_margin need solutions")
    imitate_level: float | None = Field(None, gt=0, le=1, description="imitate all that is more confident than this")
    train_denoiser: bool = False
    lr_scale: float = Field(0.01, gt=0, description="the denoiser's learning rate over the policy's")

    @model_validator(mode="after")
    def _a_reference_has_a_weight(self) -> "UpdateSettings":
        if (self.beta > 0) != (self.reference != "none"):
            raise ValueError("update.beta > 0 and update.reference go together")
        return self


class OptimizerSettings(_Section):
    """Muon is used for the matrices inside blocks, AdamW for everything else; "adamw" uses AdamW throughout."""

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = Field(gt=0)
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.98)
    warmup_steps: int = 50
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    final_lr: float = Field(0.02, ge=0, le=1, description="as a share of lr, for linear and cosine")
    clip_norm: float = 1.0
    ema: float = Field(0.0, ge=0, lt=1)


class RunSettings(_Section):
    """How long, how large, and what is kept."""

    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    checkpoint_minutes: float = Field(2.0, ge=0)
    checkpoint_steps: int | None = Field(None, gt=0)
    keep: int = Field(2, gt=0)
    log_steps: int = Field(20, gt=0)
    tensorboard: bool = False


class DenoiserRecipe(_Section):
    """Train a denoiser from scratch."""

    kind: Literal["denoiser"]
    description: str = ""
    seed: int = 0
    task: TaskSettings
    data: DataSettings
    denoiser: DenoiserSettings
    masking: MaskingSettings = MaskingSettings()
    optimizer: OptimizerSettings
    run: RunSettings


class OrderRecipe(_Section):
    """Fit an order policy to a denoiser (a zoo name or a folder), frozen or trained along with it (Algorithm 1)."""

    kind: Literal["order"]
    description: str = ""
    seed: int = 0
    task: TaskSettings
    data: DataSettings
    denoiser: str
    policy: PolicySettings = PolicySettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    train_denoiser: bool = False
    joint: JointSettings = JointSettings()
    masking: MaskingSettings = MaskingSettings()
    optimizer: OptimizerSettings
    run: RunSettings

    @model_validator(mode="after")
    def _nothing_is_silently_ignored(self) -> "OrderRecipe":
        """`[joint]` may stand in a recipe for both halves, which one switch turns to policy-only; all else must have a use."""
        masking, states = self.masking.model_fields_set, self.objective.states
        if masking & {"schedule", "levels", "time_weight", "scope"} and states != "uniform":
            raise ValueError(
                'masking.schedule, levels, time_weight and scope have a meaning only with objective.states = "uniform"'
            )
        if self.train_denoiser:
            if states == "model":
                raise ValueError(
                    'with train_denoiser, objective.states must be "uniform" or "teacher": a denoiser learns from true tokens'
                )
            if self.objective.quality:
                raise ValueError("with train_denoiser, objective.quality must be false: no wrong token is ever visible")
        elif "joint" not in self.model_fields_set and masking & {"scope", "focal_gamma", "normalise"}:
            raise ValueError("without train_denoiser, the masking of an order recipe has only schedule, levels and time_weight")
        elif self.joint.weights != "policy":
            raise ValueError(f"joint.weights = {self.joint.weights!r} has a meaning only with train_denoiser = true")
        return self


class RewardRecipe(_Section):
    """Train an order policy by reward on a frozen denoiser (a zoo name or a folder), or along with it."""

    kind: Literal["reward"]
    description: str = ""
    seed: int = 0
    task: TaskSettings
    data: DataSettings
    denoiser: str
    policy: PolicySettings = PolicySettings(architecture="upo", heads=["everything"] * 4)
    start: str | None = Field(None, description="folder of a policy to go on from, instead of a fresh one")
    rollout: RolloutSettings = RolloutSettings()
    reward: RewardSettings = RewardSettings()
    update: UpdateSettings = UpdateSettings()
    optimizer: OptimizerSettings
    run: RunSettings

    @model_validator(mode="after")
    def _parts_fit(self) -> "RewardRecipe":
        rollout, update = self.rollout, self.update
        if rollout.actions != "plackett_luce" and rollout.per_step != 1:
            raise ValueError(f"rollout.per_step is for plackett_luce; {rollout.actions} decides itself how many")
        if update.reference != "none" and (rollout.actions, rollout.per_step) != ("plackett_luce", 1):
            raise ValueError("references are orders of one position per step: rollout.actions plackett_luce, per_step 1")
        if update.reference == "top_k" and not self.policy.top_positions:
            raise ValueError("the reference top_k needs a policy that is held to the same K: set policy.top_positions")
        if update.train_denoiser and not rollout.token_temperature:
            raise ValueError("to train the denoiser its tokens must be drawn: rollout.token_temperature above 0")
        if self.run.batch_size % rollout.group:
            raise ValueError(f"run.batch_size {self.run.batch_size} is no multiple of the group {rollout.group}")
        return self


Recipe = Annotated[DenoiserRecipe | OrderRecipe | RewardRecipe, Field(discriminator="kind")]
AnyRecipe = DenoiserRecipe | OrderRecipe | RewardRecipe


class _Checked(BaseModel):
    recipe: Recipe


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("anyorder.recipes")
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def load_recipe(source: str | Path, overrides: list[str] | None = None) -> AnyRecipe:
    """A recipe from a TOML file or by the name of a shipped one, with `key.subkey=value` overrides (values are TOML).

    Raises:
        BadInput: no such recipe, a syntax error, an unknown key, a wrong type.
    """
    path = Path(source)
    if path.suffix == ".toml" or path.is_file():
        try:
            text = read_text(path)
        except OSError as error:
            raise BadInput(f"cannot read the recipe {path}: {error.strerror}") from error
    elif str(source) in recipe_names():
        text = resources.files("anyorder.recipes").joinpath(f"{source}.toml").read_text(encoding="utf-8")
    else:
        raise BadInput(f"no recipe called {str(source)!r}: give a .toml file or one of {', '.join(recipe_names())}")
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{source} is not valid TOML: {error}") from error
    for override in overrides or []:
        _apply_override(values, override)
    return validate_recipe(values, str(source))


def validate_recipe(values: dict[str, Any], source: str = "recipe") -> AnyRecipe:
    """A checked recipe from plain values."""
    try:
        return _Checked.model_validate({"recipe": values}).recipe
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise BadInput(f"{source}: " + "; ".join(lines)) from error


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise BadInput(f"--set {override!r} must look like section.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text
    *sections, last = key.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise BadInput(f"--set {override!r}: {section!r} is not a section")
    values[last] = value


def _explain(problem: Any) -> str:
    keys = [str(part) for part in problem["loc"][2:]]
    where = ".".join(keys) or "kind"
    if problem["type"] == "extra_forbidden":
        return f"unknown key {where!r}"
    if problem["type"] == "missing":
        return f"{where!r} is missing"
    if problem["type"].startswith("union_tag"):
        return "kind must be 'denoiser', 'order' or 'reward'"
    given = problem.get("input")
    return f"{where!r} is {given!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
