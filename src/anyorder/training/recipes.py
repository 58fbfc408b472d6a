"""Recipes: one TOML file per experiment, checked before anything is computed."""

import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError, model_validator
from pydantic_core import to_jsonable_python

from anyorder.errors import BadInput
from anyorder.files import read_text
from anyorder.signatures import checked
from anyorder.training.settings import (
    PAPL_WEIGHTS,
    POLICY_WEIGHTS,
    DataSettings,
    DenoiserSettings,
    GrpoSettings,
    JointSettings,
    MaskingSettings,
    ObjectiveSettings,
    OptimizerSettings,
    PartSection,
    PolicySettings,
    RewardSettings,
    RolloutSettings,
    RunSettings,
    Section,
    TaskSettings,
    UpdateSettings,
    check_count,
)


class _Recipe(Section):
    """What all kinds of recipes have."""

    description: str = Field("", description="one line, for lists of recipes")
    seed: int = Field(0, ge=0, lt=2**31, description="of the weights and of training")
    task: TaskSettings
    data: DataSettings
    optimizer: OptimizerSettings
    run: RunSettings


class DenoiserRecipe(_Recipe):
    """Train a denoiser, from random weights or from those of another one."""

    kind: Literal["denoiser"]
    denoiser: DenoiserSettings = Field(default_factory=DenoiserSettings)
    start: str | None = Field(
        None,
        description="name, folder or hub id of a trained denoiser with the same settings, from whose weights training starts; "
        "its task may be of another size if the task knows how (zebra)",
    )
    masking: MaskingSettings = MaskingSettings()


class UndoSettings(Section):
    """What `undo` reads from the configuration of a critic, where it was validated on problems that training did not use."""

    accept: float | None = Field(None, ge=0, le=1, description="a sequence with no token below this probability is accepted")
    pace: str | None = Field(None, description="count rule of the first completion, such as threshold:0.99")
    unsure_above: float | None = Field(None, ge=0, description="nats of the first prediction from which even_unsure is taken")

    @model_validator(mode="after")
    def _pace_is_known(self) -> "UndoSettings":
        check_count("pace", self.pace)
        return self


class OrderRecipe(_Recipe):
    """Fit an order policy to a denoiser (a name, folder or hub id), frozen or trained with it (Algorithm 1)."""

    kind: Literal["order"]
    denoiser: str = Field(
        description="name, folder or hub id of a denoiser; with train_denoiser also a recipe, whose network starts from scratch"
    )
    policy: PolicySettings = Field(default_factory=PolicySettings)
    objective: ObjectiveSettings = Field(default_factory=ObjectiveSettings)
    undo: UndoSettings = UndoSettings()
    start: str | None = Field(None, description="folder of a policy to start from, or policy for the denoiser's own")
    train_denoiser: bool = Field(False, description="train the denoiser too, see `[joint]`")
    joint: JointSettings = JointSettings()
    masking: MaskingSettings = MaskingSettings()

    @model_validator(mode="after")
    def _every_key_has_a_use(self) -> "OrderRecipe":
        """`[joint]` may stand in a recipe for both halves, switched by `train_denoiser`; all else must have a use."""
        masking, states = self.masking.model_fields_set, self.objective.states
        if self.start is not None and "policy" in self.model_fields_set:
            raise ValueError("policy would have no effect: the policy that start names brings its own settings")
        if self.undo.model_fields_set and not self.objective.critic:
            raise ValueError("undo would have no effect: it needs objective.critic = true")
        if self.joint.freeze_policy and (self.start is None or not self.train_denoiser):
            raise ValueError("joint.freeze_policy needs train_denoiser = true, and a policy that start names")
        if masking & {"schedule", "levels", "time_weight", "scope"} and states not in ("uniform", "drafts"):
            raise ValueError(
                "masking.schedule, levels, time_weight and scope have an effect only with objective.states "
                '= "uniform" or "drafts"'
            )
        if self.objective.solutions == "nearest" and self.masking.scope == "everything":
            raise ValueError('objective.solutions = "nearest" needs masking.scope = "unknown": else there is no problem')
        if self.train_denoiser:
            if states in ("model", "drafts"):
                raise ValueError(
                    'with train_denoiser, objective.states must be "uniform" or "teacher": a denoiser learns from true tokens'
                )
            if self.objective.critic:
                raise ValueError("with train_denoiser, objective.critic must be false: no wrong token is ever visible")
        elif "joint" not in self.model_fields_set and masking & {"scope", "focal_gamma", "normalize"}:
            raise ValueError("without train_denoiser, the masking of an order recipe has only schedule, levels and time_weight")
        elif self.joint.weights != POLICY_WEIGHTS:
            raise ValueError(f"joint.weights = {self.joint.weights!r} has an effect only with train_denoiser = true")
        self._check_weights()
        if self.train_denoiser and not self.masking.given("normalize"):
            unit = "rows" if self.joint.weights == PAPL_WEIGHTS else "sequences"
            object.__setattr__(self, "masking", self.masking.model_copy(update={"normalize": unit}))
        return self

    def _check_weights(self) -> None:
        """Refuse terms and settings of other objectives, which would have no effect."""
        objective, alone = self.objective, self.objective.name == "lo_arm"
        if objective.influence_weight and (self.train_denoiser or alone):
            raise ValueError("objective.influence_weight would have no effect: it is for an order on a frozen denoiser")
        if alone and objective.selection_weight:
            raise ValueError("objective.selection_weight would have no effect with the objective lo_arm")
        others = [key for key in sorted(self.joint.model_fields_set) if key != "lr_scale"]
        if alone and self.train_denoiser and (others or self.masking.model_fields_set):
            named = [*(f"joint.{key}" for key in others), *(f"masking.{key}" for key in sorted(self.masking.model_fields_set))]
            raise ValueError(f"{', '.join(named)} would have no effect with the objective lo_arm, which has a loss of its own")


def _upo(policy: Any = None) -> Any:
    """The policy of a reward recipe: UPO's unless it names another architecture."""
    return {"architecture": "upo", **(policy or {})} if policy is None or isinstance(policy, dict) else policy


class RewardRecipe(_Recipe):
    """Train an order policy by reward on a denoiser (a name, folder or hub id), frozen or trained with it."""

    kind: Literal["reward"]
    denoiser: str = Field(description="name, folder or hub id of a denoiser")
    policy: Annotated[PolicySettings, BeforeValidator(_upo)] = Field(default_factory=_upo, validate_default=True)
    start: str | None = Field(None, description="folder of a policy to start from, or policy for the denoiser's own")
    rollout: RolloutSettings = Field(default_factory=RolloutSettings)
    reward: RewardSettings = Field(default_factory=RewardSettings)
    update: UpdateSettings = UpdateSettings()

    @model_validator(mode="after")
    def _parts_fit(self) -> "RewardRecipe":
        rollout, update = self.rollout, self.update
        if update.reference != "none" and (rollout.actions, rollout.per_step) != ("plackett_luce", 1):
            raise ValueError("references are orders of one position per step: rollout.actions plackett_luce, per_step 1")
        if update.reference in ("softmax", "top_k") and isinstance(rollout.steps, tuple):
            raise ValueError(
                f"the divergence from {update.reference} is of one position per step, and a range of rollout.steps sets "
                "another pace: leave one of them out"
            )
        if update.reference == "top_k" and self.start is None and not self.policy.settings.get("top_positions"):
            raise ValueError("the reference top_k needs a policy that is restricted to the same K: set policy.top_positions")
        if update.train_denoiser and not rollout.token_temperature:
            raise ValueError("to train the denoiser its tokens must be drawn: rollout.token_temperature above 0")
        if self.run.batch_size % rollout.group_size:
            raise ValueError(
                f"run.batch_size {self.run.batch_size} is not a multiple of rollout.group_size {rollout.group_size}"
            )
        if self.start is not None and "policy" in self.model_fields_set:
            raise ValueError("policy would have no effect: the policy that start names brings its own settings")
        return self


class GrpoRecipe(_Recipe):
    """Train a denoiser (a name, folder or hub id) by reward on the answers that it decodes."""

    kind: Literal["grpo"]
    denoiser: str = Field(description="name, folder or hub id of a denoiser")
    reward: RewardSettings = Field(default_factory=RewardSettings)
    grpo: GrpoSettings = GrpoSettings()

    @model_validator(mode="after")
    def _groups_are_whole(self) -> "GrpoRecipe":
        if self.run.batch_size % self.grpo.group_size:
            raise ValueError(
                f"run.batch_size {self.run.batch_size} is not a multiple of grpo.group_size {self.grpo.group_size}"
            )
        return self


Recipe = Annotated[DenoiserRecipe | OrderRecipe | RewardRecipe | GrpoRecipe, Field(discriminator="kind")]
AnyRecipe = DenoiserRecipe | OrderRecipe | RewardRecipe | GrpoRecipe

_KINDS: dict[str, type[BaseModel]] = {
    "denoiser": DenoiserRecipe, "order": OrderRecipe, "reward": RewardRecipe, "grpo": GrpoRecipe
}  # fmt: skip


class _Checked(BaseModel):
    recipe: Recipe


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("anyorder.recipes")
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def is_recipe(name: str) -> bool:
    """Whether a name is that of a shipped recipe, or of a TOML file."""
    return name in recipe_names() or name.endswith(".toml")


@checked("source", "overrides")
def load_recipe(source: str | Path, overrides: Sequence[str] | None = None) -> AnyRecipe:
    """A recipe from a TOML file or by the name of a shipped one, with `key.subkey=value` overrides (values are TOML).
    An override that names another part (`policy.architecture=mlp`) keeps the settings of the file that this part has as well;
    an override of `start` takes the place of the whole section `[policy]`.

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
    given = [_parse_override(override) for override in overrides or []]
    for key, value in given:
        _drop_settings_of_another_part(values, key, value)
    if any(key == "start" for key, _ in given):
        values.pop("policy", None)
    for key, value in given:
        _apply_override(values, key, value)
    return validate_recipe(values, str(source))


def validate_recipe(values: dict[str, Any], source: str = "recipe") -> AnyRecipe:
    """A checked recipe from plain values.

    Raises:
        BadInput: an unknown key, a missing one, a wrong type, or a key that would have no effect.
    """
    try:
        return _Checked.model_validate({"recipe": values}).recipe
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise BadInput(f"{source}: " + "; ".join(lines)) from error


def completed(kept: Any, recipe: dict[str, Any]) -> Any:
    """A recipe that an older version wrote, with the settings that have come since, at their defaults.

    Args:
        kept: as it was read.
        recipe: the plain values of a recipe of today, which names its kind and its parts.
    """
    kind = _KINDS.get(recipe.get("kind", ""))
    return kept if kind is None else _over(_defaults(kind, recipe), kept)


def _defaults(section: type[BaseModel], values: dict[str, Any]) -> dict[str, Any]:
    """The defaults of a section, and of the part that these values name, as plain values."""
    found: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found[name] = _defaults(field.annotation, values[name])
        elif not field.is_required():
            found[name] = field.get_default(call_default_factory=True)
    if issubclass(section, PartSection):
        _, declared = section.declared(values[section.part_key])
        found |= {name: default for name, (_, default) in declared.items() if default is not ...}
    return dict(to_jsonable_python(found))


def _over(defaults: Any, kept: Any) -> Any:
    """Nested values, where what was kept goes before the defaults."""
    if not (isinstance(defaults, dict) and isinstance(kept, dict)):
        return kept
    return defaults | {name: _over(defaults.get(name), value) for name, value in kept.items()}


_PARTS: dict[str, type[PartSection]] = {
    name: section
    for kind in _KINDS.values()
    for name, field in kind.model_fields.items()
    if isinstance(section := field.annotation, type) and issubclass(section, PartSection)
}
"""The sections that name a registered part."""


def _parse_override(override: str) -> tuple[str, Any]:
    """The key and the value of `section.key=value`; a value that is no TOML is a string."""
    key, equals, text = override.partition("=")
    if not equals:
        raise BadInput(f"--set {override!r} must look like section.key=value")
    try:
        return key.strip(), tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return key.strip(), text


def _drop_settings_of_another_part(values: dict[str, Any], key: str, part: Any) -> None:
    """If an override names a part, drop the settings in its section that this part does not take."""
    section, _, last = key.partition(".")
    kind, present = _PARTS.get(section), values.get(section)
    if kind is None or last != kind.part_key or not isinstance(present, dict) or not isinstance(part, str):
        return
    _, declared = kind.declared(part)
    values[section] = {
        key: value for key, value in present.items()
        if key in kind.model_fields or (key in declared and _fits(value, declared[key][0]))
    }  # fmt: skip


def _fits(value: Any, hint: Any) -> bool:
    try:
        TypeAdapter(hint).validate_python(value)
    except ValidationError:
        return False
    return True


def _apply_override(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise BadInput(f"--set {key}: {section!r} is not a section")
    values[last] = value


def _explain(problem: Any) -> str:
    """What pydantic found, as one clause that names the key."""
    keys = [str(part) for part in problem["loc"][2:]]
    where = ".".join(keys) or "kind"
    if problem["type"] == "extra_forbidden":
        known = _known_keys(str(problem["loc"][1]), keys[:-1])
        return f"unknown key {where!r}; {'.'.join(keys[:-1]) or 'a recipe of this kind'} has {', '.join(known)}"
    if problem["type"] == "missing":
        return f"{where!r} is missing"
    if problem["type"].startswith("union_tag"):
        return "kind must be 'denoiser', 'order', 'reward' or 'grpo'"
    if problem["type"] == "value_error":  # of a section as a whole: the message names the keys
        return (f"{where}: " if keys else "") + str(problem["ctx"]["error"])
    given = problem.get("input")
    field = _KINDS[str(problem["loc"][1])].model_fields.get(keys[0]) if len(keys) == 1 else None
    about = f" ({field.description})" if field is not None and field.description else ""
    return f"{where!r} is {given!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}{about}"


def _known_keys(kind: str, sections: list[str]) -> list[str]:
    """The keys of a section of a recipe."""
    model: Any = _KINDS[kind]
    for section in sections:
        model = model.model_fields[section].annotation
    return list(model.model_fields)
