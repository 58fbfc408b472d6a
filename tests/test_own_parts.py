"""Parts of a user's own, in one file in the working directory: what works, and what nonsense is told."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import anyorder
from anyorder.errors import BadCheckpoint, BadInput
from anyorder.evaluation.results import Report
from anyorder.evaluation.saved import load, report_of, save_trajectories
from anyorder.evaluation.trajectories import Trajectories, Watch
from anyorder.registry import COUNT_RULES, ORDERS
from anyorder.tasks import CheckResult, Instances
from anyorder.tasks.drawing import Drawing
from anyorder.training.fit import run_recipe
from anyorder.training.recipes import validate_recipe

MODULE = '''
from dataclasses import dataclass, field

import torch
from torch import nn

import anyorder
from anyorder.registry import COUNT_RULES, ORDERS
from anyorder.decoding.counts import top
from anyorder.tasks import CheckResult, Instances


class Copies(anyorder.Task):
    """Sequences of one repeated symbol."""

    def __init__(self, length: int = 4):
        self.vocab_size, self.mask_token_id, self.length = 4, 0, length

    def generate(self, count, seed, blanks=2):
        generator = torch.Generator().manual_seed(seed)
        x0 = torch.randint(1, 4, (count, 1), generator=generator).repeat(1, self.length)
        hidden = torch.zeros(count, self.length, dtype=torch.bool)
        hidden[:, :blanks] = True
        return Instances(x0.masked_fill(hidden, 0), hidden, x0)

    def check(self, instances, tokens):
        right = tokens == instances.x0
        return CheckResult(right.all(dim=1), right.double().mean(dim=1))


class Net(nn.Module):
    """Returns logits, and hidden states of another size."""

    def __init__(self, vocab_size: int, width: int = 6):
        super().__init__()
        self.table = nn.Embedding(vocab_size, width)
        self.out = nn.Linear(width, vocab_size)
        if width == 7:
            raise RuntimeError("7 brings bad luck")

    def forward(self, tokens):
        hidden = self.table(tokens) + self.table(tokens).mean(dim=1, keepdim=True)
        return self.out(hidden), hidden


@ORDERS.register("own_backwards")
def backwards(state, prediction):
    """From right to left."""
    return state.index.float()


@COUNT_RULES.register("own_share")
@dataclass(frozen=True)
class Share(anyorder.CountRule):
    """A share of the masked positions."""

    share: float = field(default=0.25, metadata={"values": (0.25, 0.5)})

    def __call__(self, scores, state, prediction, remasked):
        return top(scores, (self.share * state.masked.sum(dim=1)).ceil().long())
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    (folder / "own_parts_here.py").write_text(MODULE)
    return folder


@pytest.fixture
def own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(folder))
    for registry in (ORDERS, COUNT_RULES):  # what the module registers does not outlive the test
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    sys.modules.pop("own_parts_here", None)
    import own_parts_here

    return own_parts_here  # type: ignore[no-any-return]


def recipe(**denoiser: Any) -> Any:
    return validate_recipe(
        {
            "kind": "denoiser",
            "task": {"name": "own_parts_here:Copies"},
            "data": {"size": 20},
            "denoiser": {"architecture": "own_parts_here:Net", **denoiser},
            "optimizer": {"lr": 1e-2},
            "run": {"steps": 2, "batch_size": 4},
        }
    )


def test_a_module_with_hidden_states_is_trained_and_loaded(own: ModuleType, tmp_path: Path) -> None:
    run_recipe(recipe(width=6, hidden_size=6), tmp_path / "run")
    denoiser = anyorder.load_denoiser(tmp_path / "run", device="cpu")
    assert (denoiser.hidden_size, denoiser.module.table.embedding_dim) == (6, 6)
    weights = tmp_path / "run/model.safetensors"
    sizes = {"mask_token_id": 0, "vocab_size": 4}
    same = anyorder.load_denoiser("own_parts_here:Net", device="cpu", weights=weights, hidden_size=6, **sizes)
    assert torch.equal(same.module.out.weight, denoiser.module.out.weight)
    with pytest.raises(BadCheckpoint, match=r"no weights of own_parts_here:Net: .*size mismatch for table.weight"):
        anyorder.load_denoiser("own_parts_here:Net", weights=weights, width=5, **sizes)


def test_settings_that_a_module_refuses_are_one_error(own: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"hidden states .* must be .*: set hidden_size to the size of the hidden states"):
        run_recipe(recipe(), tmp_path / "a")
    with pytest.raises(BadInput, match="own_parts_here:Net cannot be made from vocab_size=4, width=7: 7 brings bad luck"):
        run_recipe(recipe(width=7), tmp_path / "b")


def test_a_curve_takes_a_reference_with_values(own: ModuleType) -> None:
    task, denoiser = own.Copies(), anyorder.WrappedDenoiser(nn.Embedding(4, 4), 0, 4)
    curves = ["confidence@own_parts_here:Share:0.25/1", "own_parts_here:backwards@own_parts_here:Share"]
    found = anyorder.pareto(denoiser, task, task.generate(3, 0), curves)
    assert [curve.curve for curve in found.curves] == [f"{c.removesuffix(':0.25/1')}" for c in curves]
    assert sum(point.curve == "confidence@own_parts_here:Share" for point in found.points) == 2


def test_parts_of_the_decorator_are_found_in_a_new_process(own: ModuleType, folder: Path, tmp_path: Path) -> None:
    sampler = anyorder.Sampler("own_backwards", count="own_share:0.5", steps=3)
    sampler.save_pretrained(tmp_path / "saved")
    code = f"import anyorder; print(anyorder.Sampler.from_pretrained({str(tmp_path / 'saved')!r}))"
    path = os.pathsep.join([str(Path(anyorder.__file__).parents[1]), str(folder)])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(sampler) == "own_backwards@own_share:0.5"


def test_the_script_finds_modules_in_the_working_directory(folder: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(anyorder.__file__).parents[1])}
    script = tmp_path / "anyorder"  # as an installer writes it; the folder of a script is searched, not the working directory
    script.write_text("from anyorder.cli import main\nmain()\n")
    model = ["--model", "own_parts_here:Net", "--model-option", "mask_token_id=0", "--model-option", "vocab_size=4"]
    rest = ["--model-option", "hidden_size=6", "--task", "own_parts_here:Copies", "--orders", "confidence", "--limit", "2"]
    done = subprocess.run(
        [sys.executable, str(script), "evaluate", *model, *rest], env=environment, cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "confidence" in done.stdout


def _selects(value: Any) -> Any:
    return lambda scores, state, prediction, remasked: value(state)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (lambda state: None, "returned NoneType"),
        (lambda state: state.masked.long(), r"returned torch.int64 \(2, 4\)"),
        (lambda state: state.masked[:, 0], r"returned torch.bool \(2,\)"),
    ],
)
def test_what_a_count_rule_returns_is_checked(value: Any, said: str) -> None:
    denoiser = anyorder.WrappedDenoiser(nn.Embedding(4, 4), 0, 4)
    with pytest.raises(BadInput, match=rf"the count rule test_own_parts:\S+ {said}; .* must be a bool tensor \(2, 4\)"):
        anyorder.decode(denoiser, torch.zeros(2, 4, dtype=torch.int64), anyorder.Sampler("confidence", count=_selects(value)))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"order": "confidence", "count": "own_parts_here:backwards"},
            "count is the order own_parts_here:backwards; it must be a count rule",
        ),
        ({"order": "confidence", "count": lambda state: state}, r"count is <lambda>\(.*\); .* 4 arguments"),
        ({"order": lambda state: state}, "an order is called with 2 arguments"),
        ({"order": "own_parts_here:Copies"}, "order is an object of the class Copies; it must be the name of an order"),
        ({"order": "nosuch_module:order"}, "'nosuch_module:order' is unknown, and there is no module 'nosuch_module'"),
    ],
)
def test_a_part_of_the_wrong_kind_is_refused(own: ModuleType, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        anyorder.Sampler(**fields)


def test_a_policy_must_be_one(own: ModuleType, tmp_path: Path) -> None:
    task, denoiser = own.Copies(), anyorder.WrappedDenoiser(nn.Embedding(4, 4), 0, 4)
    with pytest.raises(BadInput, match="own_parts_here:Net is no architecture of policies"):
        anyorder.fit_order(denoiser, task, task.generate(3, 0), tmp_path, policy="own_parts_here:Net")


def test_folders_of_samplers_and_policies_are_told_apart(tmp_path: Path) -> None:
    policy = anyorder.MLPPolicy(hidden_size=4, vocab_size=4)
    anyorder.Sampler(policy).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match=r"complete sampler, not a policy: load it with Sampler.from_pretrained"):
        anyorder.load_order(tmp_path)
    with pytest.raises(BadInput, match=r"no sampler .*: load a policy with load_order"):
        anyorder.Sampler.from_pretrained(tmp_path / "policy-0")


def _changed(kind: type, **attributes: Any) -> Any:
    task = kind()
    for name, value in attributes.items():
        setattr(task, name, value)
    return task


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vocab_size": None}, "has the vocab_size None; its constructor must set a whole number"),
        ({"mask_token_id": 9}, "has the mask token 9; it must lie in 0..3"),
        ({"mask_token_id": 3}, "mask token 3 of the task against 0"),
        ({"length": "long"}, "has the length 'long'"),
        ({"generate": lambda n, s: 5}, "of type int; they must be Instances"),
        ({"check": lambda i, t: t[:, 0] > 0}, "must return a CheckResult of two tensors"),
        ({"check": lambda i, t: CheckResult(torch.ones(1), torch.ones(1))}, r"of shape \(3,\)"),
        ({"measure": lambda i, t: [1.0, 2.0, 3.0]}, "measure returns list; it must return a mapping from names"),
        ({"measure": lambda i, t: {"mine": [1.0, 2.0]}}, r"the measure 'mine' of .* has the shape \(2,\); it must be \(3,\)"),
        (
            {"measure": lambda i, t: {"mine": "abc"}},
            "the measure 'mine' of .* must be 3 numbers, one for each sequence: could not",
        ),
    ],
)
def test_a_task_that_is_incomplete_says_what_is_missing(own: ModuleType, change: dict[str, Any], said: str) -> None:
    task = _changed(own.Copies, **change)
    denoiser = anyorder.WrappedDenoiser(nn.Embedding(4, 4), 0, 4)
    with pytest.raises(BadInput, match=said):
        anyorder.evaluate(denoiser, task, change.get("generate", own.Copies().generate)(3, 0), ["confidence"], 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"token_text": lambda token: token}, "cannot be played back: texts.0: Input should be a valid string; see"),
        ({"notes": lambda tokens: "a clue"}, "cannot be played back: notes: Input should be a valid list; see its methods"),
        ({"hidden_tokens": lambda: ["pad"]}, "cannot be played back: hidden.0: Input should be a valid integer"),
        ({"drawing": lambda: None}, "cannot be played back: drawing: "),
        (
            {"drawing": lambda: Drawing(cells=[1, 2, 3, 4])},
            "cannot be played back: cells of the drawing are outside of problem 0, which has 4 tokens",
        ),
    ],
)
def test_a_task_that_cannot_be_drawn_is_refused_before_decoding(own: ModuleType, change: dict[str, Any], said: str) -> None:
    task = _changed(own.Copies, **change)
    with pytest.raises(BadInput, match=said):
        Watch(task, task.generate(3, 0), {})


def test_what_a_solver_returns_is_checked(own: ModuleType) -> None:
    denoiser, problems = anyorder.WrappedDenoiser(nn.Embedding(4, 4), 0, 4), own.Copies().generate(3, 0)
    found = []
    for answer in (torch.zeros, np.zeros, lambda count: [False] * count):
        task = _changed(own.Copies, dead_ends=lambda instances, states: answer(len(states)))  # noqa: B023
        watch = Watch(task, problems, {})
        anyorder.evaluate(denoiser, task, problems, ["confidence"], 2, watch=watch)
        found.append([decode.dead_ends for decode in watch.trajectories().runs[0].decodes])
    assert found == [[[]] * 3] * 3
    task = _changed(own.Copies, dead_ends=lambda instances, states: torch.zeros(1))
    with pytest.raises(BadInput, match=r"dead_ends must return a bool tensor of shape \(6,\), or None"):
        anyorder.evaluate(denoiser, task, problems, ["confidence"], 2, watch=Watch(task, problems, {}))


def _instances(tokens: Tensor, maskable: Tensor) -> Instances:
    return Instances(tokens, maskable)


@pytest.mark.parametrize(
    ("tokens", "maskable", "said"),
    [
        (torch.zeros(2, 4), torch.ones(2, 4, dtype=torch.bool), "have tokens torch.float32"),
        (torch.zeros(2, 4, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool), r"have maskable torch.bool \(2, 3\)"),
        (torch.zeros(0, 4, dtype=torch.int64), torch.ones(0, 4, dtype=torch.bool), "there are no problems"),
        (torch.full((2, 4), 8), torch.ones(2, 4, dtype=torch.bool), "tokens above 3, and its vocab_size is 4"),
        (torch.ones(2, 4, dtype=torch.int64), torch.ones(2, 4, dtype=torch.bool), "no position .* holds the mask token 0"),
    ],
)
def test_problems_that_are_not_those_of_the_task_are_refused(own: ModuleType, tokens: Any, maskable: Any, said: str) -> None:
    denoiser = anyorder.WrappedDenoiser(nn.Embedding(4, 4), 0, 4)
    with pytest.raises(BadInput, match=said):
        anyorder.evaluate(denoiser, own.Copies(), _instances(tokens, maskable), ["confidence"], 2)


def test_labels_and_measures_may_be_any_numbers(own: ModuleType, tmp_path: Path) -> None:
    denoiser, problems = anyorder.WrappedDenoiser(nn.Embedding(4, 4), 0, 4), own.Copies().generate(4, 0)
    task = _changed(own.Copies, measure=lambda i, t: {"ones": [1, True, None, 1.0], "tensor": torch.arange(len(t))})
    dates = np.array(["2024-01-01"] * 4, dtype="datetime64[D]")
    tables = {}
    for name, values in (
        ("numbers", np.array([10, 2, 2, 10])), ("list", [10, 2, 2, 10]), ("tensor", torch.tensor([10, 2, 2, 10])),
        ("objects", np.array([10, 2, "2", "10"], dtype=object)), ("texts", ["10", "2", "2", "10"]),
    ):  # fmt: skip
        given = dataclasses.replace(problems, labels={"difficulty": values, "found": dates})
        watch = Watch(task, given, {})
        report = anyorder.evaluate(denoiser, task, given, ["confidence"], 2, watch=watch)
        report.save(tmp_path / "report.json")
        save_trajectories(watch.trajectories(), tmp_path / "t.json")
        read = load(tmp_path / "report.json")
        assert isinstance(read, Report) and read.results[0].by_difficulty == report.results[0].by_difficulty
        trajectories = load(tmp_path / "t.json")
        assert isinstance(trajectories, Trajectories) and trajectories.problems[0].labels["found"] == "2024-01-01"
        assert report_of(trajectories).results[0].by_difficulty == report.results[0].by_difficulty
        assert report.results[0].measures["ones"][0] == 1 and report.results[0].measures["tensor"][0] == 1.5
        tables[name] = {label: count for label, (count, _) in report.results[0].by_difficulty.items()}
    assert all(table == {"2": 2, "10": 2} for table in tables.values())
    assert list(tables["numbers"]) == ["2", "10"]  # from the least


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.zeros((3, 2)), r"have labels 'mine' \(3, 2\); they must be \(3,\)"),
        ([1, 2], r"have labels 'mine' \(2,\); they must be \(3,\)"),
        (7, r"have labels 'mine' \(\); they must be \(3,\)"),
        ([[1], [1, 2], []], r"the label 'mine' must be an array \(N,\), one value for each problem"),
    ],
)
def test_labels_of_another_shape_are_refused_before_decoding(own: ModuleType, labels: Any, said: str) -> None:
    denoiser, problems = anyorder.WrappedDenoiser(nn.Embedding(4, 4), 0, 4), own.Copies().generate(3, 0)
    decoded: list[int] = []
    with pytest.raises(BadInput, match=said):
        anyorder.evaluate(
            denoiser, own.Copies(), dataclasses.replace(problems, labels={"mine": labels}), ["confidence"], 2,
            progress=lambda name, done, count: decoded.append(done),
        )  # fmt: skip
    assert not decoded


def test_arguments_of_the_wrong_type_are_one_error(own: ModuleType) -> None:
    task, denoiser = own.Copies(), anyorder.WrappedDenoiser(nn.Embedding(4, 4), 0, 4)
    problems = task.generate(3, 0)
    for arguments, said in (
        ((nn.Embedding(4, 4), task, problems), "a Embedding is no denoiser"),
        ((denoiser, "latin", problems), "task 'latin' is unknown: use one of"),
        ((denoiser, own.Copies, problems), "it must be a Task"),
        ((denoiser, task, problems.tokens), "they must be Instances"),
    ):
        with pytest.raises(BadInput, match=said):
            anyorder.evaluate(*arguments, ["confidence"], 2)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="steps is 'all'"):
        anyorder.evaluate(denoiser, task, problems, ["confidence"], "all")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="the tokens are a str"):
        anyorder.decode(denoiser, "text", "confidence")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="the mask token 'x' is not in the model's vocabulary"):
        anyorder.WrappedDenoiser(nn.Embedding(4, 4), "x", 4)  # type: ignore[arg-type]


def test_a_policy_is_no_denoiser(tmp_path: Path) -> None:
    anyorder.MLPPolicy(hidden_size=4, vocab_size=4).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="holds an order policy, which is no denoiser"):
        anyorder.load_denoiser(tmp_path)


def test_a_recipe_takes_no_truth_value_for_a_number() -> None:
    values = {"kind": "denoiser", "task": {"name": "sudoku"}, "data": {"size": 2}, "run": {"steps": 1, "batch_size": 1}}
    with pytest.raises(BadInput, match="optimizer: lr is true; it must be a number"):
        validate_recipe({**values, "optimizer": {"lr": True}})
    with pytest.raises(BadInput, match=r"'denoiser' is \{\}: .* \(name, folder or hub id of a denoiser; with"):
        validate_recipe({**values, "kind": "order", "denoiser": {}, "optimizer": {"lr": 1}})
