"""The whole way on GSM8K with a tiny model of LLaDA's interface: rollouts in blocks, reward, updates, evaluation."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from anyorder.cli import app
from anyorder.errors import BadInput
from anyorder.training.fit import run_recipe
from anyorder.training.recipes import RewardRecipe, load_recipe
from anyorder.zoo import load_denoiser, load_order
from conftest import SHARED
from tiny_llada import save_llada

pytest.importorskip("math_verify")
GSM8K = SHARED / "math" / "gsm8k_test.jsonl"
QUESTIONS = [
    {"question": f"Tom has {a} apples and buys {b} more. How many has he?", "answer": f"{a} + {b} = {a + b}\n#### {a + b}"}
    for a, b in ((1, 2), (3, 4), (5, 6), (7, 8), (2, 9), (4, 4))
]


@pytest.fixture(params=["own questions", pytest.param("GSM8K", marks=pytest.mark.slow)])
def questions(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file of questions: made up ones, and those of the benchmark where it lies."""
    if request.param == "GSM8K":
        if not GSM8K.is_file():
            pytest.skip(f"the benchmark's file {GSM8K.name} is not here")
        return GSM8K
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, QUESTIONS)), encoding="utf-8")
    return path


def recipe_on(folder: Path, questions: Path, **changes: Any) -> RewardRecipe:
    values = {
        "denoiser": folder, "data.file": questions, "data.size": 6, "task.options.length": 12, "rollout.block": 4,
        "policy.width": 16, "optimizer.lr": 1e-3, "optimizer.warmup_steps": 1, "run.steps": 16, "run.batch_size": 12,
        "run.log_steps": 1, **changes,
    }  # fmt: skip
    found = load_recipe("gsm8k-upo", [f"{key}={value}" for key, value in values.items()])
    assert isinstance(found, RewardRecipe)
    return found


def test_rollout_reward_update_evaluate(questions: Path, tmp_path: Path) -> None:
    model, out = save_llada(tmp_path / "llada"), tmp_path / "run"
    before = {n: w.clone() for n, w in load_denoiser(str(model), trust_remote_code=True).state_dict().items()}
    result = run_recipe(recipe_on(model, questions), out, trust_remote_code=True)
    assert result.finished

    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 16
    for row in rows:  # a group of six: bonuses 0, .05, ..., .25, besides what is solved
        assert row["reward"] == pytest.approx(row["solved"] + 0.125, abs=0.03)
        assert row["nfe"] == 12
    assert {row["reward_std"] for row in rows} != {0.0}, "paths differ in likelihood, and that is what is learned from here"

    denoiser = load_denoiser(str(model), trust_remote_code=True)
    assert all(torch.equal(before[name], weight) for name, weight in denoiser.state_dict().items())
    fresh = recipe_on(model, questions, **{"run.steps": 8, "optimizer.lr": 1e-12})
    assert run_recipe(fresh, tmp_path / "still", trust_remote_code=True).finished
    moved, still = (load_order(folder, denoiser).policy.state_dict() for folder in (out, tmp_path / "still"))
    assert any(not torch.equal(moved[name], still[name]) for name in moved)

    report = tmp_path / "report.json"
    arguments = ["evaluate", "--task", "math", "--model", str(model), "--trust-remote-code", "--data", str(questions)]
    arguments += ["--limit", "3", "--task-option", "length=12", "--orders", "confidence@blocks:4,policy@blocks:4", "--steps",
                  "12", "--policy", str(out), "--json", str(report)]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    cells = json.loads(report.read_text())["results"]
    assert [cell["order"] for cell in cells] == ["confidence@blocks:4", "policy@blocks:4"]
    assert all(cell["nfe"] == 12 and cell["instances"] == 3 for cell in cells)


def test_remote_code_runs_only_when_the_user_says_so(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(QUESTIONS[0]), encoding="utf-8")
    with pytest.raises(BadInput, match="trust"):
        run_recipe(recipe_on(save_llada(tmp_path / "llada"), path), tmp_path / "run")
    assert not (tmp_path / "run").exists()
