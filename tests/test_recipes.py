"""Recipes name parts: registered ones and references, each with the settings that it declares and no others."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import anyorder
from anyorder import Sampler
from anyorder.denoisers.base import DenoiserOutput, fingerprint, forbid_mask
from anyorder.denoisers.wrapped import WrappedDenoiser
from anyorder.errors import BadInput
from anyorder.losses import correctness_loss
from anyorder.orders.learned import saved_order
from anyorder.orders.policies import LookaheadPolicy, LookaheadSettings, TransformerSettings
from anyorder.processes import Shard
from anyorder.registry import OBJECTIVES, POLICIES, REWARDS
from anyorder.tasks.sudoku import Sudoku
from anyorder.training.data import generate_parts, training_problems
from anyorder.training.fit import fit_order, fit_order_by_reward, run_recipe
from anyorder.training.fit_recipes import default_fit
from anyorder.training.joint import JointJob
from anyorder.training.objectives import Truth
from anyorder.training.order import policy_to_start_from, untrained_order
from anyorder.training.recipes import (
    AnyRecipe,
    OrderRecipe,
    RewardRecipe,
    UndoSettings,
    load_recipe,
    recipe_names,
    validate_recipe,
)
from anyorder.training.reward import RewardJob
from anyorder.training.rewards import Outcome
from anyorder.training.settings import ObjectiveSettings, PolicySettings
from anyorder.zoo import load_denoiser, load_order
from anyorder.zoo.matching import task_for

TASK = Sudoku(box=2)


class Deaf(WrappedDenoiser):
    """A denoiser of a user that takes nothing from the task."""

    def __init__(self, vocab_size: int = 3) -> None:
        super().__init__(nn.Embedding(3, 3), mask_token_id=0, vocab_size=3)


@dataclasses.dataclass(frozen=True)
class Sharper:
    """An objective of a user, with one setting."""

    by: float

    def __call__(self, scores: Tensor, truth: Truth) -> Tensor:
        return correctness_loss(self.by * scores, truth.correct, truth.masked)


def sooner(outcome: Outcome) -> Tensor:
    """A reward of a user."""
    return -outcome.decoded.commit_step.float().mean(dim=1)


def misshapen(outcome: Outcome) -> Tensor:
    """A reward of a user who forgot the sequences."""
    return outcome.check.instance_correct.float().mean()


class Wide(LookaheadPolicy):
    """A policy of a user."""

    Settings = LookaheadSettings


class Recurrent(nn.Module):
    """A denoiser of a user, with nothing that only anyorder asks for."""

    def __init__(self, vocab_size: int, mask_token_id: int, hidden_size: int = 8) -> None:
        super().__init__()
        self.vocab_size, self.mask_token_id, self.hidden_size = vocab_size, mask_token_id, hidden_size
        self.embed = nn.Embedding(vocab_size, hidden_size)
        self.mix = nn.GRU(hidden_size, hidden_size // 2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(hidden_size, vocab_size)

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None, positions: Tensor | None = None) -> DenoiserOutput:
        hidden = self.mix(self.embed(tokens))[0]
        chosen = hidden if positions is None else hidden[positions]
        return DenoiserOutput(forbid_mask(self.out(chosen), self.mask_token_id), hidden)


def values(kind: str, **sections: Any) -> dict[str, Any]:
    common: dict[str, Any] = {
        "kind": kind,
        "task": {"name": "sudoku", "options": {"box": 2}},
        "data": {"size": 20, "options": {"givens": 8, "unique": False}},
        "optimizer": {"lr": 0.01, "warmup_steps": 1},
        "run": {"steps": 4, "batch_size": 8},
    }
    if kind != "denoiser":
        common["denoiser"] = "sudoku4-weak"
    if kind == "reward":
        common["rollout"] = {"group_size": 4}
    return common | sections


def recipe(kind: str, **sections: Any) -> AnyRecipe:
    return validate_recipe(values(kind, **sections))


# ---- every part brings its own settings ----


@pytest.mark.parametrize("name", list(POLICIES))
def test_a_policy_takes_the_settings_that_it_declares_and_no_others(name: str) -> None:
    declared = {field.name for field in dataclasses.fields(POLICIES[name].Settings)}
    assert PolicySettings(architecture=name).settings.keys() == declared
    with pytest.raises(BadInput, match=rf"unknown key 'nonsense'; the settings of the policy {name} are: .*"):
        recipe("order", policy={"architecture": name, "nonsense": 3})


@pytest.mark.parametrize(
    ("kind", "section", "given", "message"),
    [
        ("order", "policy", {"architecture": "mlp", "heads": 2}, "unknown key 'heads'"),
        ("order", "policy", {"architecture": "lookahead", "heads": 2}, "'heads' is 2"),
        ("reward", "policy", {"architecture": "upo", "heads": ["row"]}, r"'heads' is \['row'\]"),
        ("order", "policy", {"architecture": "nonsense"}, "policy 'nonsense' is unknown: use one of .*mlp"),
        ("order", "objective", {"name": "nonsense"}, "objective 'nonsense' is unknown: use one of .*correctness"),
        ("order", "objective", {"name": "order", "temperature": 2.0}, "unknown key 'temperature'"),
        ("reward", "reward", {"name": "nonsense"}, "reward 'nonsense' is unknown: use one of .*solved"),
        ("reward", "reward", {"name": "solved", "model": "gpt2"}, "unknown key 'model'"),
        ("reward", "reward", {"name": "judge"}, "needs 'model'"),
        ("reward", "rollout", {"group_size": 4, "actions": "fixed"}, "does not draw"),
        ("denoiser", "denoiser", {"architecture": "nonsense"}, "denoiser class 'nonsense' is unknown: use one of .*structured"),
        ("denoiser", "denoiser", {"architecture": "paper", "dropout": 0.1}, "unknown key 'dropout'"),
        ("denoiser", "denoiser", {"architecture": "test_recipes:sooner"}, "not a class of denoisers"),
    ],
)
def test_what_a_part_does_not_take_is_one_clear_error(kind: str, section: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        recipe(kind, **{section: given})
    assert section in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"states": "uniform", "rollout_steps": [2, 4]}, "rollout_steps would have no effect"),
        ({"states": "teacher", "keep_incorrect": 0.5}, "keep_incorrect would have no effect"),
        ({"critic": False, "undo_rounds": 2}, "undo_rounds would have no effect"),
        ({"selection_temperature": 0.1}, "selection_temperature would have no effect"),
    ],
)
def test_keys_that_the_other_settings_make_useless_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        recipe("order", objective={"name": "correctness", **given})


def test_nearest_solutions_need_a_problem() -> None:
    with pytest.raises(BadInput, match=r'"nearest" needs masking.scope = "unknown"'):
        load_recipe(
            "sudoku4-joint",
            [
                "objective.name=correctness",
                "objective.states=uniform",
                "objective.solutions=nearest",
                "masking.scope=everything",
            ],
        )


def test_an_override_that_names_another_part_keeps_the_settings_that_fit_it() -> None:
    def policy(*overrides: str) -> dict[str, Any]:
        found = load_recipe("sudoku4-order", list(overrides))
        assert isinstance(found, OrderRecipe)
        return found.policy.settings

    file = policy()
    assert policy("policy.architecture=mlp") == {**policy("policy.architecture=mlp"), "width": file["width"]}
    assert policy("policy.architecture=score_transformer")["heads"] == TransformerSettings().heads, "a list does not fit"
    assert policy("policy.heads=3", "policy.architecture=score_transformer")["heads"] == 3
    assert policy("policy.architecture=lookahead") == file
    with pytest.raises(BadInput, match="policy 'nonsense' is unknown"):
        policy("policy.architecture=nonsense")
    with pytest.raises(BadInput, match="unknown key 'heads'"):
        policy("policy.architecture=mlp", "policy.heads=3")


def test_an_override_of_start_takes_the_place_of_the_policy() -> None:
    found = load_recipe("sudoku4-upo", ["start=runs/mine"])
    assert isinstance(found, RewardRecipe) and found.start == "runs/mine"
    with pytest.raises(BadInput, match="policy would have no effect"):
        load_recipe("sudoku4-upo", ["start=runs/mine", "policy.width=8"])


def undo_of(folder: Path) -> dict[str, Any]:
    """What a shipped critic tells `undo`."""
    about = json.loads((folder / "config.json").read_text()).get("about", {})
    return {key: about[key] for key in UndoSettings.model_fields if key in about}


CRITICS = sorted(
    folder
    for pattern in ("*/order", "*/order/critic")
    for folder in Path(anyorder.zoo.__file__).parent.glob(pattern)
    if (folder / "config.json").is_file() and undo_of(folder)
)


@pytest.mark.parametrize("folder", CRITICS, ids=lambda folder: "-".join(folder.parts[-3:]))
def test_the_recipe_of_a_shipped_critic_names_the_settings_of_undo_that_are_shipped(folder: Path) -> None:
    model = folder.parts[len(Path(anyorder.zoo.__file__).parent.parts)]
    recipe = load_recipe(f"{model}-{folder.name}")  # the folder is called order or critic
    assert isinstance(recipe, OrderRecipe)
    assert recipe.undo.model_dump(exclude_none=True) == undo_of(folder)


def test_shipped_critics_with_settings_of_undo_are_found() -> None:
    assert len(CRITICS) >= 6


def test_a_critic_is_saved_with_the_settings_of_undo_of_its_recipe(tmp_path: Path) -> None:
    small = ["data.size=8", "run.steps=1", "run.batch_size=4"]
    recipe = load_recipe("sudoku4-order", [*small, "undo.accept=0.7", "undo.pace=threshold:0.99"])
    run_recipe(recipe, tmp_path / "fit", None)
    critic = load_order(tmp_path / "fit", load_denoiser("sudoku4")).critic
    assert critic is not None
    assert (critic.accept, critic.pace, critic.unsure_above) == (0.7, "threshold:0.99", None)
    again = load_recipe("sudoku4-order", [*small, f"start={tmp_path / 'fit'}", "undo.accept=0.8"])
    run_recipe(again, tmp_path / "again", None)
    critic = load_order(tmp_path / "again", load_denoiser("sudoku4")).critic
    assert critic is not None
    assert (critic.accept, critic.pace) == (0.8, "threshold:0.99")
    with pytest.raises(BadInput, match="undo would have no effect: it needs objective"):
        load_recipe("sudoku4-order", ["undo.accept=0.7", "objective.critic=false"])
    with pytest.raises(BadInput, match=r"pace is 'thresold:0\.9': count rule 'thresold' is unknown"):
        load_recipe("sudoku4-order", ["undo.pace=thresold:0.9"])


OF_A_MODEL = ("gsm8k-upo", "words-llada-upo")
"""Recipes whose problems are written with the tokenizer of a language model that is not shipped."""


@pytest.mark.parametrize("name", [name for name in recipe_names() if name not in OF_A_MODEL])
def test_the_generator_takes_the_options_of_a_shipped_recipe(name: str) -> None:
    recipe = load_recipe(name)
    if not recipe.data.file:
        task = anyorder.make_task(recipe.task.name, **recipe.task.options)
        assert len(training_problems(task, recipe.data.model_copy(update={"size": 3}))) == 3


def test_a_recipe_survives_being_written_and_read() -> None:
    for name in recipe_names():
        checked = load_recipe(name)
        assert validate_recipe(checked.model_dump(exclude_unset=True)) == checked


# ---- references ----


def test_an_order_recipe_takes_a_policy_and_an_objective_by_reference(tmp_path: Path) -> None:
    made = recipe(
        "order",
        policy={"architecture": "test_recipes:Wide", "width": 16, "layers": 1, "heads": ["row", "column"]},
        objective={"name": "test_recipes:Sharper", "by": 2.0},
    )
    assert run_recipe(made, tmp_path).finished
    assert isinstance(load_order(tmp_path, load_denoiser("sudoku4-weak")).policy, Wide)
    with pytest.raises(BadInput, match="needs 'by'"):
        recipe("order", objective={"name": "test_recipes:Sharper"})


def test_a_reward_recipe_takes_a_reward_by_reference(tmp_path: Path) -> None:
    made = recipe("reward", policy={"width": 16, "heads": 2}, reward={"name": "test_recipes:sooner"}, update={"inner": 2})
    assert run_recipe(made, tmp_path).finished


def test_a_reward_of_the_wrong_shape_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"shape \(\).*\(8,\).*\(8, 16\)"):
        run_recipe(recipe("reward", reward={"name": "test_recipes:misshapen"}), tmp_path)


def test_a_denoiser_recipe_trains_any_module_which_is_loaded_by_its_folder(tmp_path: Path) -> None:
    made = recipe("denoiser", denoiser={"architecture": "test_recipes:Recurrent", "hidden_size": 12})
    assert run_recipe(made, tmp_path / "denoiser").finished
    denoiser = load_denoiser(tmp_path / "denoiser")
    assert isinstance(denoiser, Recurrent) and denoiser.hidden_size == 12
    order = recipe("order", policy={"architecture": "mlp", "width": 8}, objective={"critic": False})
    values_of_order = order.model_dump(exclude_unset=True) | {"denoiser": str(tmp_path / "denoiser")}
    assert run_recipe(validate_recipe(values_of_order), tmp_path / "order").finished
    assert load_order(tmp_path / "order", denoiser).policy.denoiser_fingerprint == fingerprint(denoiser)


def test_a_denoiser_class_that_disagrees_with_the_task_is_refused_before_training(tmp_path: Path) -> None:
    made = recipe("denoiser", denoiser={"architecture": "test_recipes:Deaf"})
    with pytest.raises(BadInput, match="vocabulary size 5 of the task against 3"):
        run_recipe(made, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_denoiser_that_is_trained_further_keeps_the_options_of_its_task(tmp_path: Path) -> None:
    made = recipe(
        "order", task={"name": "sudoku", "options": {}}, denoiser="sudoku4-weak", train_denoiser=True,
        policy={"architecture": "mlp", "width": 8}, objective={"name": "order", "states": "uniform", "critic": False},
        joint={"decode_every": 0},
    )  # fmt: skip
    run_recipe(made, tmp_path)
    assert vars(task_for(load_denoiser(tmp_path))) == vars(TASK)


def test_joint_training_without_decodings_needs_no_generator(tmp_path: Path) -> None:
    class Silent(Sudoku):
        def generate(self, *_: Any, **__: Any) -> Any:
            raise BadInput("no generator")

    made = recipe(
        "order", train_denoiser=True, policy={"architecture": "mlp", "width": 8}, joint={"decode_every": 0},
        objective={"name": "order", "states": "uniform", "critic": False},
    )  # fmt: skip
    assert isinstance(made, OrderRecipe)
    job = JointJob(made, load_denoiser("sudoku4-weak"), Silent(box=2), TASK.generate(8, 0, givens=8))
    assert torch.isfinite(job.loss(job.model, 0, Shard(0, 1))[0])


def test_a_mixture_of_problems_has_equal_parts() -> None:
    kinds: list[dict[str, Any]] = [{"givens": 8}, {"givens": [3, 4], "unique": False}, {}]
    data = load_recipe("sudoku4-order", ["data.size=8", "data.seed=5"]).data.model_copy(update={"options": kinds})
    made = training_problems(TASK, data)
    parts = [TASK.generate(n, 5 + k, **kind) for k, (n, kind) in enumerate(zip((2, 3, 3), kinds, strict=True))]
    assert torch.equal(made.tokens, torch.cat([part.tokens for part in parts]))
    assert made.x0 is not None and torch.equal(made.x0, torch.cat([part.x0 for part in parts if part.x0 is not None]))
    assert made.labels["givens"].tolist() == [g for part in parts for g in part.labels["givens"]]
    assert len(generate_parts(TASK, 2, 0, kinds)) == 2, "fewer problems than parts"


def test_a_mixture_is_an_override_of_a_recipe() -> None:
    options = ["data.options=[{givens=8}, {givens=[3, 4], unique=false}]"]
    made = load_recipe("sudoku4-order", options)
    assert made.data.options == [{"givens": 8}, {"givens": [3, 4], "unique": False}]
    for wrong, message in (("[]", "lists 0 kinds"), ("[1]", "data.options"), ("1", "data.options")):
        with pytest.raises(BadInput, match=message):
            load_recipe("sudoku4-order", [f"data.options={wrong}"])
    with pytest.raises(BadInput, match="lists 2 kinds of problems; it must be between 1 and size, 1"):
        load_recipe("sudoku4-order", [*options, "data.size=1"])
    with pytest.raises(BadInput, match=r"data\.options"):
        load_recipe("sudoku4-order", [*options, "data.options.givens=8"])


# ---- every objective and reward trains ----


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_every_objective_is_reached_by_a_recipe(name: str, tmp_path: Path) -> None:
    made = recipe("order", policy={"architecture": "mlp", "width": 8}, objective={"name": name, "critic": False})
    assert run_recipe(made, tmp_path).finished


@pytest.mark.parametrize("name", [name for name in REWARDS if name != "judge" and "reads" not in REWARDS.entry(name).facts])
def test_every_reward_gives_a_gradient(name: str) -> None:
    """`likelihood` is earned position by position, the others at the end."""
    made = recipe(
        "reward", policy={"architecture": "upo", "width": 16, "heads": 2}, reward={"name": name},
        run={"steps": 4, "batch_size": 64},
    )  # fmt: skip
    job = RewardJob(made, load_denoiser("sudoku4-weak"), TASK)  # type: ignore[arg-type]
    loss, numbers = job.loss(job.model, 0, Shard(0, 1))
    loss.backward()
    assert max(float(p.grad.abs().max()) for p in job.policy.parameters() if p.grad is not None) > 0
    assert numbers["reward_std"] > 0
    assert numbers["reward"] < 0 if name == "likelihood" else 0 <= numbers["reward"] <= 1


@pytest.mark.parametrize("reward", [{"name": "qed"}, {"name": "varied", "of": "qed"}])
def test_a_reward_is_refused_before_training_for_a_task_that_lacks_what_it_reads(reward: dict[str, str]) -> None:
    made = recipe("reward", policy={"architecture": "upo", "width": 16, "heads": 2}, reward=reward)
    with pytest.raises(BadInput, match="the reward qed reads `qed` of its task, which Sudoku does not have"):
        RewardJob(made, load_denoiser("sudoku4-weak"), TASK)  # type: ignore[arg-type]


# ---- before training ----


def test_the_order_of_a_recipe_before_training_is_that_of_confidence_and_depends_on_the_seed_alone() -> None:
    denoiser = load_denoiser("sudoku4-weak")
    puzzles = TASK.generate(6, 0, givens=4)
    made = recipe("order", policy={"architecture": "mlp", "width": 8}, objective={"name": "correctness", "critic": True})
    order, again = (untrained_order(made, denoiser, TASK) for _ in range(2))  # type: ignore[arg-type]
    steps = [
        anyorder.decode(denoiser, puzzles.tokens, Sampler(o)).commit_step for o in (order, Sampler.parse("confidence").order)
    ]
    assert torch.equal(*steps)
    assert order.policy.scores_committed
    assert all(torch.equal(a, b) for a, b in zip(order.policy.parameters(), again.policy.parameters(), strict=True))
    other = untrained_order(made.model_copy(update={"seed": 1}), denoiser, TASK)  # type: ignore[arg-type]
    assert not all(torch.equal(a, b) for a, b in zip(order.policy.parameters(), other.policy.parameters(), strict=True))


# ---- from Python ----


@pytest.mark.parametrize("policy", ["mlp", {"architecture": "mlp", "width": 8}, PolicySettings(architecture="mlp")])
@pytest.mark.parametrize("objective", ["rank", {"name": "rank", "critic": False, "temperature": 0.5}])
def test_fit_order_takes_names_mappings_and_settings(policy: Any, objective: Any, tmp_path: Path) -> None:
    if objective == "rank":
        objective = ObjectiveSettings(name="rank", critic=False)
    denoiser = load_denoiser("sudoku4-weak")
    problems = TASK.generate(20, 0, givens=8)
    order = fit_order(denoiser, TASK, problems, tmp_path, steps=2, batch_size=8, policy=policy, objective=objective)
    assert order.policy.denoiser_fingerprint == fingerprint(denoiser)
    assert order.critic is None


def test_fit_order_takes_the_names_of_a_denoiser_and_a_task_and_a_file_of_problems(tmp_path: Path) -> None:
    problems = TASK.generate(20, 0, givens=8)
    assert problems.x0 is not None
    rows = ["".join(map(str, tokens.tolist())) for pair in zip(problems.tokens, problems.x0, strict=True) for tokens in pair]
    lines = ["puzzle,solution", *(f"{a},{b}" for a, b in zip(rows[::2], rows[1::2], strict=True))]
    (tmp_path / "problems.csv").write_text("\n".join(lines))
    by_name = fit_order("sudoku4-weak", None, tmp_path / "problems.csv", tmp_path / "a", steps=2, batch_size=8)
    denoiser = load_denoiser("sudoku4-weak")
    by_object = fit_order(denoiser, "sudoku", TASK.load(tmp_path / "problems.csv"), tmp_path / "b", steps=2, batch_size=8)
    mine, same = by_name.policy.state_dict(), by_object.policy.state_dict()
    assert all(torch.equal(mine[name], same[name]) for name in mine)


def test_the_default_fit_trains_a_critic_if_the_policy_reads_positions_together() -> None:
    policy, objective = default_fit()
    assert (policy.architecture, objective.critic) == ("mlp", False)
    policy, objective = default_fit("lookahead")
    assert (policy.architecture, objective.critic) == ("lookahead", True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": "nonsense"}, "policy 'nonsense' is unknown"),
        ({"policy": {"architecture": "mlp", "heads": 3}}, "unknown key 'heads'"),
        ({"policy": 3}, "3 is not a PolicySettings"),
        ({"objective": "nonsense"}, "objective 'nonsense' is unknown"),
        ({"steps": 0}, "steps"),
    ],
)
def test_fit_order_says_what_is_wrong(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    problems = TASK.generate(20, 0, givens=8)
    with pytest.raises(BadInput, match=message):
        fit_order(load_denoiser("sudoku4-weak"), TASK, problems, tmp_path / "fit", **{"steps": 2, "batch_size": 8, **arguments})
    assert not (tmp_path / "fit").exists()


def test_settings_that_name_no_architecture_are_those_of_the_default(tmp_path: Path) -> None:
    denoiser, problems = load_denoiser("sudoku4-weak"), TASK.generate(20, 0, givens=8)
    supervised = fit_order(denoiser, TASK, problems, tmp_path / "order", steps=1, batch_size=8, policy={"width": 8})
    rewarded = recipe("reward", policy={"width": 8, "heads": 2})
    assert POLICIES.name_of(supervised.policy) == default_fit("", TASK)[0].architecture == "lookahead"
    assert isinstance(rewarded, RewardRecipe) and rewarded.policy.architecture == "upo"


def test_fit_order_by_reward_takes_mappings_and_says_what_is_wrong(tmp_path: Path) -> None:
    denoiser, problems = load_denoiser("sudoku4-weak"), TASK.generate(20, 0, givens=8)
    small: dict[str, Any] = {"steps": 2, "batch_size": 8, "policy": {"architecture": "upo", "width": 8, "heads": 2}}
    order = fit_order_by_reward(
        denoiser, TASK, problems, tmp_path, reward=sooner, rollout={"group_size": 4}, update={"inner": 1}, **small
    )  # fmt: skip
    assert order.policy.denoiser_fingerprint == fingerprint(denoiser)
    with pytest.raises(BadInput, match=r"not a multiple of rollout\.group_size"):
        fit_order_by_reward(denoiser, TASK, problems, tmp_path / "odd", rollout={"group_size": 3}, **small)


def test_importing_the_trainer_reads_no_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib
    import tomllib

    from anyorder.training import fit

    def read(text: str) -> dict[str, Any]:
        raise AssertionError("a recipe was parsed at import")

    monkeypatch.setattr(tomllib, "loads", read)
    importlib.reload(fit)


def test_the_seed_of_a_policy_is_that_of_the_recipe(tmp_path: Path) -> None:
    made = recipe("order", policy={"architecture": "mlp", "width": 8}, objective={"critic": False})
    for name in ("one", "two"):
        torch.manual_seed(5 if name == "one" else 6)
        run_recipe(made, tmp_path / name)
    one, two = (load_order(tmp_path / name, load_denoiser("sudoku4-weak")).policy.state_dict() for name in ("one", "two"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_training_can_start_from_the_own_order_of_the_denoiser() -> None:
    denoiser = load_denoiser("sat9")
    own, started = saved_order(denoiser).policy, policy_to_start_from("policy", denoiser)
    assert started is not own, "training must not change the order that samplers use"
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), started.parameters(), strict=True))
    with pytest.raises(BadInput, match="no learned order of its own"):
        policy_to_start_from("policy", load_denoiser("moses-block"))
