"""Training: exact resume whatever happens, atomic checkpoints, clear refusals."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from anyorder import files, losses
from anyorder.decoding.sampler import Sampler
from anyorder.decoding.step import predict
from anyorder.errors import AnyorderError, BadCheckpoint, BadInput
from anyorder.orders.heuristics import confidence
from anyorder.prediction import Prediction
from anyorder.processes import Shard
from anyorder.state import DecodeState, init
from anyorder.tasks import make_task
from anyorder.tasks.sudoku import Sudoku
from anyorder.training.checkpoint import list_checkpoints, load_latest
from anyorder.training.data import training_problems
from anyorder.training.denoiser import DenoiserJob
from anyorder.training.fit import fit_order, run_recipe
from anyorder.training.loop import train
from anyorder.training.objectives import Truth
from anyorder.training.optimizer import learning_rate
from anyorder.training.order import OrderJob, make_policy
from anyorder.training.recipes import DenoiserRecipe, OrderRecipe, completed, load_recipe, recipe_names, validate_recipe
from anyorder.training.settings import DataSettings, ObjectiveSettings, OptimizerSettings, PolicySettings
from commands import run

HEADS = ["row", "column", "box", "everything"]


def denoiser_values(optimizer: dict[str, Any] | None = None, **run: Any) -> dict[str, Any]:
    return {
        "kind": "denoiser",
        "task": {"name": "sudoku", "options": {"box": 2}},
        "data": {"size": 50, "options": {"givens": 6}},
        "denoiser": {"width": 16, "layers": 1, "heads": HEADS, "dropout": 0.1},
        "optimizer": {"name": "muon", "lr": 0.01, "ema": 0.9, "warmup_steps": 2},
        "run": {"steps": 12, "batch_size": 8, "checkpoint_steps": 4, "log_steps": 1, **run},
        **({} if optimizer is None else {"optimizer": optimizer}),
    }


def run_denoiser(folder: Path, stop_after: int | None = None, **run: Any) -> None:
    recipe = validate_recipe(denoiser_values(**run))
    assert isinstance(recipe, DenoiserRecipe)
    job = DenoiserJob(recipe)
    if stop_after is not None:
        plain = job.loss

        def failing(model: torch.nn.Module, step: int, shard: Shard) -> tuple[Tensor, dict[str, float]]:
            if step == stop_after:
                raise RuntimeError("power cut")
            return plain(model, step, shard)

        job.loss = failing  # type: ignore[method-assign]
    train(job, recipe.run, recipe.optimizer, folder, seed=0, recipe=recipe.model_dump(mode="json"))


def order_recipe(objective: str = "correctness", states: str = "model", **changes: Any) -> OrderRecipe:
    path: dict[str, Any] = {} if states in ("uniform", "drafts") else {"rollout_steps": [2, 6]}
    history = {"history": False} if states == "drafts" else {}
    recipe = validate_recipe(
        {
            "kind": "order",
            "task": {"name": "sudoku", "options": {"box": 2}},
            "data": {"size": 40, "options": {"givens": 5}},
            "denoiser": "given",
            "policy": {"architecture": "lookahead", "width": 16, "layers": 1, "heads": HEADS, **history},
            "objective": {"name": objective, "states": states, **path, **changes},
            "optimizer": {"lr": 0.01, "warmup_steps": 2},
            "run": {"steps": 10, "batch_size": 8, "checkpoint_steps": 3},
        }
    )
    assert isinstance(recipe, OrderRecipe)
    return recipe


def small_denoiser() -> torch.nn.Module:
    recipe = validate_recipe(denoiser_values())
    assert isinstance(recipe, DenoiserRecipe)
    return DenoiserJob(recipe).denoiser.eval()


def weights(folder: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


def same_weights(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_a_run_that_breaks_and_resumes_ends_with_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    run_denoiser(tmp_path / "whole")
    for broken_at in (5, 9):
        with pytest.raises(RuntimeError, match="power cut"):
            run_denoiser(tmp_path / "broken", stop_after=broken_at)
    run_denoiser(tmp_path / "broken")
    assert same_weights(tmp_path / "whole", tmp_path / "broken")
    steps = [json.loads(line)["step"] for line in (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 13))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("states", ["uniform", "drafts", "teacher", "model"])
def test_an_order_fit_resumes_exactly_with_its_half_decoded_problems(tmp_path: Path, states: str, temperature: float) -> None:
    denoiser, task, recipe = small_denoiser(), Sudoku(2), order_recipe(states=states, token_temperature=temperature)
    for name in ("whole", "broken"):
        job = OrderJob(recipe, denoiser, task)
        if name == "broken":
            short = job.loss

            def failing(model, step, shard, short=short):  # type: ignore[no-untyped-def]
                if step == 7:
                    raise RuntimeError("power cut")
                return short(model, step, shard)

            job.loss = failing  # type: ignore[method-assign]
            with pytest.raises(RuntimeError, match="power cut"):
                train(job, recipe.run, recipe.optimizer, tmp_path / name, seed=0, recipe={})
            job = OrderJob(recipe, denoiser, task)
        train(job, recipe.run, recipe.optimizer, tmp_path / name, seed=0, recipe={})
    assert same_weights(tmp_path / "whole", tmp_path / "broken")


def test_kill_minus_nine_loses_nothing_but_the_last_interval(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'kind = "denoiser"\ntask = {name = "sudoku", options = {box = 2}}\ndata = {size = 50, options = {givens = 6}}\n'
        f"denoiser = {{width = 16, layers = 1, heads = {json.dumps(HEADS)}}}\n"
        "optimizer = {lr = 0.01}\nrun = {steps = 150, batch_size = 8, checkpoint_steps = 5, log_steps = 1}\n"
    )
    command = [sys.executable, "-m", "anyorder.cli", "train", str(recipe), "--out"]
    assert run("train", recipe, "--out", tmp_path / "whole").returncode == 0
    killed = 0
    for patience in (0.2, 0.4):
        process = subprocess.Popen([*command, str(tmp_path / "killed")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seen = len(list_checkpoints(tmp_path / "killed" / "checkpoints"))
        newest = seen and list_checkpoints(tmp_path / "killed" / "checkpoints")[-1]
        for _ in range(600):
            now = list_checkpoints(tmp_path / "killed" / "checkpoints")
            if process.poll() is not None or (now and now[-1] != newest):
                break
            time.sleep(0.05)
        time.sleep(patience / 4)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
    assert run("train", recipe, "--out", tmp_path / "killed").returncode == 0
    assert killed >= 1
    assert same_weights(tmp_path / "whole", tmp_path / "killed")


def test_ctrl_c_writes_a_checkpoint_and_says_how_to_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "anyorder.cli", "train", "sudoku4-denoiser", "--out", str(tmp_path / "run"),
               "--set", "data.size=50", "--set", "run.steps=100000", "--set", "run.log_steps=1"]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run" / "metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command to resume" in errors
    assert "Traceback" not in errors
    checkpoint, _ = load_latest(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.step > 0


def test_a_truncated_checkpoint_falls_back_to_the_one_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_denoiser(tmp_path / "whole")
    with pytest.raises(RuntimeError):
        run_denoiser(tmp_path / "cut", stop_after=10)
    newest = list_checkpoints(tmp_path / "cut" / "checkpoints")[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    run_denoiser(tmp_path / "cut")
    assert "truncated" in capsys.readouterr().out
    assert same_weights(tmp_path / "whole", tmp_path / "cut")


def test_when_no_checkpoint_can_be_read_nothing_is_overwritten(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        run_denoiser(tmp_path, stop_after=5)
    (only,) = list_checkpoints(tmp_path / "checkpoints")
    only.write_bytes(b"short")
    with pytest.raises(BadCheckpoint, match="delete it to start again"):
        run_denoiser(tmp_path)
    assert only.read_bytes() == b"short"


def test_a_full_disk_is_one_clear_error_and_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError):
        run_denoiser(tmp_path, stop_after=5)
    before = {path: path.read_bytes() for path in list_checkpoints(tmp_path / "checkpoints")}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(AnyorderError, match=r"cannot write .*No space left on device; nothing was changed"):
        run_denoiser(tmp_path)
    assert {path: path.read_bytes() for path in list_checkpoints(tmp_path / "checkpoints")} == before
    assert [p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.startswith(".")] == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_really_full_device_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")

    def write(temporary: Path) -> None:
        with open("/dev/full", "w") as file:
            file.write("new" * 10_000)

    with pytest.raises(AnyorderError, match="No space left"):
        files.write_atomically(path, write)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.json"]


def test_old_checkpoints_are_deleted(tmp_path: Path) -> None:
    run_denoiser(tmp_path, keep=2)
    assert [p.name for p in list_checkpoints(tmp_path / "checkpoints")] == [
        "step-00000008.safetensors",
        "step-00000012.safetensors",
    ]


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    run_denoiser(tmp_path)
    with pytest.raises(BadInput, match=r"other settings \(run.batch_size\)"):
        run_denoiser(tmp_path, batch_size=16)


def test_a_run_from_before_a_setting_goes_on_at_its_default(tmp_path: Path) -> None:
    run_denoiser(tmp_path)
    path, recipe = tmp_path / "recipe.json", files.read_json(tmp_path / "recipe.json")
    del recipe["masking"], recipe["optimizer"]["betas"], recipe["denoiser"]["mlp_ratio"]
    files.write_json(path, recipe)
    run_denoiser(tmp_path)
    del recipe["run"]["batch_size"]  # which has no default
    files.write_json(path, recipe)
    with pytest.raises(BadInput, match=r"other settings \(run.batch_size\)"):
        run_denoiser(tmp_path)


@pytest.mark.parametrize("name", recipe_names())
def test_every_setting_that_may_be_missing_has_its_default(name: str) -> None:
    recipe = load_recipe(name)
    full = recipe.model_dump(mode="json")
    assert completed(recipe.model_dump(mode="json", exclude_defaults=True), full) == files.finite(full)


def test_a_finished_run_started_again_does_nothing(tmp_path: Path) -> None:
    run_denoiser(tmp_path)
    before = weights(tmp_path)
    run_denoiser(tmp_path)
    assert all(torch.equal(before[k], v) for k, v in weights(tmp_path).items())


def test_a_finished_run_can_be_extended_and_ends_as_if_it_had_been_that_long(tmp_path: Path) -> None:
    """With a constant learning rate; otherwise the rate follows the new length from there on."""
    constant = {"optimizer": {"lr": 0.01, "schedule": "constant", "ema": 0.9}}
    run_denoiser(tmp_path / "long", steps=12, **constant)
    run_denoiser(tmp_path / "extended", steps=6, **constant)
    before = weights(tmp_path / "extended")
    run_denoiser(tmp_path / "extended", steps=12, **constant)
    assert not all(torch.equal(before[k], v) for k, v in weights(tmp_path / "extended").items())
    assert same_weights(tmp_path / "long", tmp_path / "extended")
    steps = [json.loads(line)["step"] for line in (tmp_path / "extended" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 13))
    assert files.read_json(tmp_path / "extended" / "recipe.json")["run"]["steps"] == 12


def test_an_extension_that_changes_more_or_shortens_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    run_denoiser(tmp_path)
    before = files.read_json(tmp_path / "recipe.json")
    with pytest.raises(BadInput, match=r"run of 12 steps, more than 6: give 12 or more"):
        run_denoiser(tmp_path, steps=6)
    with pytest.raises(BadInput, match=r"other settings \(run.batch_size, run.steps\)"):
        run_denoiser(tmp_path, steps=24, batch_size=16)
    assert files.read_json(tmp_path / "recipe.json") == before


def test_two_shards_see_the_two_halves_of_the_batch() -> None:
    recipe = validate_recipe(denoiser_values())
    assert isinstance(recipe, DenoiserRecipe)
    job = DenoiserJob(recipe)
    job.model.eval()
    whole, _ = job.loss(job.model, 3, Shard(0, 1))
    halves = [job.loss(job.model, 3, Shard(i, 2))[0] for i in range(2)]
    torch.testing.assert_close(sum(halves) / 2, whole)


@pytest.mark.parametrize("objective", ["order", "correctness", "loss", "rank"])
def test_every_objective_trains_the_policy_and_leaves_the_denoiser_alone(tmp_path: Path, objective: str) -> None:
    denoiser, task, recipe = small_denoiser(), Sudoku(2), order_recipe(objective, "model")
    before = {k: v.clone() for k, v in denoiser.state_dict().items()}
    job = OrderJob(recipe, denoiser, task)
    start = {k: v.clone() for k, v in job.policy.state_dict().items()}
    train(job, recipe.run, recipe.optimizer, tmp_path, seed=0, recipe={})
    assert all(torch.equal(before[k], v) for k, v in denoiser.state_dict().items())
    assert any(not torch.equal(start[k], v) for k, v in job.policy.state_dict().items())


def test_the_path_pool_keeps_its_promises() -> None:
    recipe = order_recipe()
    job = OrderJob(recipe, small_denoiser(), Sudoku(2))
    for step in range(30):
        loss, logged = job.loss(job.policy, step, Shard(0, 1))
        assert torch.isfinite(loss)
        assert job.pool is not None
        given = ~job.pool.state.generated
        assert (job.pool.state.tokens[given] == job.pool.state.x0[given]).all()
        assert (job.pool.state.tokens[given] != 0).all()
        committed = job.pool.state.generated & (job.pool.state.tokens != 0)
        assert (job.pool.state.commit_step[committed] >= 0).all()
        assert (job.pool.state.commit_step[~committed] == -1).all()
        assert (job.pool.state.token_log_probs[~committed] == 0).all()
    assert 0 < logged["committed_correct"] <= 1


def test_teacher_paths_hold_true_tokens_only() -> None:
    job = OrderJob(order_recipe(states="teacher"), small_denoiser(), Sudoku(2))
    for step in range(15):
        job.loss(job.policy, step, Shard(0, 1))
        assert job.pool is not None
        visible = job.pool.state.tokens != 0
        assert (job.pool.state.tokens[visible] == job.pool.state.x0[visible]).all()


@pytest.mark.parametrize("states", ["uniform", "teacher", "model"])
def test_a_policy_is_trained_on_the_tokens_that_are_drawn(states: str) -> None:
    job = OrderJob(order_recipe(states=states, token_temperature=2.0), small_denoiser(), Sudoku(2))
    seen: list[Prediction] = []
    truths: list[Truth] = []
    job.policy.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    objective = job.objective
    job.objective = lambda scores, truth: (truths.append(truth), objective(scores, truth))[1]
    unlikely = 0
    for step in range(5):
        job.loss(job.policy, step, Shard(0, 1))
        truth, prediction = truths[-1], seen[-1]
        assert truth.state.x0 is not None
        drawn = prediction.drawn_tokens
        unlikely += int((drawn != prediction.best_tokens).sum())
        assert torch.equal(truth.correct[truth.masked], drawn == truth.state.x0[truth.masked])
        if states == "model":
            assert job.pool is not None
            after, proposed = job.pool.state, truth.state.tokens.masked_scatter(truth.masked, drawn)
            new = truth.masked & ~after.masked
            assert new.any() and torch.equal(after.tokens[new], proposed[new]), "what the policy scored is what is committed"
    assert unlikely > 0


def test_a_draft_holds_drawn_tokens_that_cannot_be_told_from_given_ones() -> None:
    job = OrderJob(order_recipe(states="drafts", token_temperature=2.0), small_denoiser(), Sudoku(2))
    seen: list[tuple[DecodeState, Prediction]] = []
    job.policy.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    wrong, left = 0, 0
    for step in range(5):
        before = job._draw(step, Shard(0, 1))
        first = job._predict(before)
        batch = before.with_draft(*first)
        state, _ = job._predict(batch)
        drafted = batch.drafted
        assert drafted is not None and state.x0 is not None and before.chance is not None
        assert torch.equal(state.masked, first[0].masked & ~drafted), "only masked positions are filled, and the others stay"
        expected = (before.chance[:, 0] * (first[0].masked.sum(dim=1) + 1)).floor().long()
        assert torch.equal(drafted.sum(dim=1), expected)
        drawn = state.tokens.masked_scatter(first[0].masked, first[1].drawn_tokens)
        assert torch.equal(state.tokens[drafted], drawn[drafted])
        _, logged = job.loss(job.policy, step, Shard(0, 1))
        assert torch.equal(seen[-1][0].tokens, state.tokens)
        assert (seen[-1][0].commit_step == -1).all() and (seen[-1][0].token_log_probs == 0).all()
        wrong += int((state.tokens != state.x0)[drafted].sum())
        left += int(state.masked.sum())
        assert logged["committed_correct"] < 1
    assert wrong > 0 and left > 0


def test_drafts_do_not_depend_on_the_number_of_processes() -> None:
    job = OrderJob(order_recipe(states="drafts", token_temperature=2.0), small_denoiser(), Sudoku(2))
    whole, parts = (
        [batch.with_draft(*job._predict(batch)) for batch in (job._draw(3, Shard(rank, count)) for rank in range(count))]
        for count in (1, 2)
    )
    for values in (lambda batch: batch.state.tokens, lambda batch: batch.drafted):
        assert torch.equal(values(whole[0]), torch.cat([values(part) for part in parts]))


def test_the_critic_of_drafts_learns_from_the_drawn_tokens_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    job = OrderJob(order_recipe(states="drafts", token_temperature=2.0), small_denoiser(), Sudoku(2))
    asked: list[Tensor] = []
    plain = losses.correctness_loss

    def noted(scores: Tensor, correct: Tensor, where: Tensor, weight: Tensor | None = None) -> Tensor:
        asked.append(where)
        return plain(scores, correct, where, weight)

    monkeypatch.setattr("anyorder.training.order.correctness_loss", noted)
    batch = job._draw(0, Shard(0, 1))
    drafted = batch.with_draft(*job._predict(batch)).drafted
    job.loss(job.policy, 0, Shard(0, 1))
    assert drafted is not None and torch.equal(asked[-1], drafted)


def test_drafts_are_refused_where_they_would_give_away_what_was_drawn() -> None:
    values = order_recipe(states="drafts").model_dump(exclude_unset=True)
    told = validate_recipe({**values, "policy": {**values["policy"], "history": True}})
    assert isinstance(told, OrderRecipe)
    with pytest.raises(BadInput, match=r"policy\.history = false"):
        OrderJob(told, small_denoiser(), Sudoku(2))
    with pytest.raises(BadInput, match='must be "uniform" or "teacher"'):
        validate_recipe({**values, "train_denoiser": True})


def test_without_history_a_policy_does_not_see_how_likely_a_commit_was() -> None:
    denoiser, task = small_denoiser(), Sudoku(2)
    scores = {}
    for history in (True, False):
        torch.manual_seed(0)
        settings = {"width": 16, "layers": 1, "heads": tuple(HEADS), "start": "none", "history": history}
        policy = make_policy(denoiser, task, PolicySettings(architecture="lookahead", **settings), critic=True)
        state = init(task.parse("12" + "_" * 14).tokens, task.mask_token_id)
        state = state.replace(commit_step=state.commit_step.masked_fill(torch.arange(16) < 1, 0))
        found = []
        for log_p in (-0.1, -3.0):
            told = state.replace(token_log_probs=torch.full((1, 16), log_p))
            found.append(policy(told, predict(denoiser, told, Sampler("confidence"))))
        scores[history] = torch.equal(*found)
    assert scores == {True: False, False: True}


def test_path_log_probs_by_hand() -> None:
    state = init(torch.zeros(1, 16, dtype=torch.int64), 0)
    steps = torch.full((1, 16), -1)
    steps[0, :4] = torch.tensor([2, 0, 2, 1])
    log_probs = torch.zeros(1, 16)
    log_probs[0, :4] = torch.tensor([-1.0, -2.0, -4.0, -8.0])
    kept = replace(state, commit_step=steps, token_log_probs=log_probs)
    assert kept.path_log_probs[0, :5].tolist() == [-15.0, -2.0, -15.0, -10.0, 0.0]


def test_fit_order_gives_a_usable_order(tmp_path: Path) -> None:
    denoiser, task = small_denoiser(), Sudoku(2)
    order = fit_order(
        denoiser, task, task.generate(30, 0, givens=5), tmp_path, steps=6, batch_size=8,
        policy=PolicySettings(width=16, layers=1, heads=HEADS), objective=ObjectiveSettings(rollout_steps=(2, 5)),
    )  # fmt: skip
    puzzles = task.generate(4, 1, givens=5)
    state = init(puzzles.tokens, denoiser.mask_token_id)
    prediction = predict(denoiser, state, Sampler("confidence"))
    assert order(state, prediction).shape == confidence(state, prediction).shape
    assert torch.isfinite(order(state, prediction)).equal(state.masked)


def test_a_fit_to_another_denoiser_does_not_go_on_from_this_one(tmp_path: Path) -> None:
    task = Sudoku(2)
    problems = task.generate(30, 0, givens=5)
    small = {"steps": 3, "batch_size": 8, "policy": PolicySettings(architecture="mlp")}
    first = small_denoiser()
    fit_order(first, task, problems, tmp_path, **small)  # type: ignore[arg-type]
    second = small_denoiser()
    with torch.no_grad():
        next(second.parameters()).add_(0.1)
    with pytest.raises(BadInput, match="denoiser_fingerprint"):
        fit_order(second, task, problems, tmp_path, **small)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="problems"):
        fit_order(first, task, task.generate(30, 9, givens=5), tmp_path, **small)  # type: ignore[arg-type]


def test_a_policy_that_is_trained_without_critic_says_so() -> None:
    policy = make_policy(small_denoiser(), Sudoku(2), PolicySettings(architecture="mlp"), critic=False)
    assert not policy.scores_committed


def test_learning_rate_by_hand() -> None:
    settings = OptimizerSettings(lr=1.0, warmup_steps=4, schedule="linear", final_lr=0.0)
    assert [learning_rate(s, 12, settings) for s in (0, 3, 4, 8)] == [0.25, 1.0, 1.0, 0.5]
    cosine = OptimizerSettings(lr=1.0, warmup_steps=0, schedule="cosine", final_lr=0.1)
    assert learning_rate(5, 10, cosine) == pytest.approx(0.55)
    constant = OptimizerSettings(lr=2.0, warmup_steps=0, schedule="constant")
    assert learning_rate(9, 10, constant) == 2.0


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_are_valid(name: str) -> None:
    assert load_recipe(name).description


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.stepz=3", "unknown key 'run.stepz'"),
        ("run.steps=many", "'run.steps' is 'many'"),
        ("run.steps=0", "'run.steps' is 0"),
        ("optimizer.name=sgd", "'optimizer.name' is 'sgd'"),
        ("kind=magic", "kind must be 'denoiser', 'order', 'reward' or 'grpo'"),
        ("nonsense", "must look like section.key=value"),
    ],
)
def test_bad_recipes_name_the_key(override: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load_recipe("sudoku4-denoiser", [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective.rollout_steps=[0,4]", "rollout_steps"),
        ("data.options.givns=3", "givns"),
        ("policy.width=97", "not a multiple"),
        ("denoiser=sudoku9", "is for sudoku with other options than box=2"),
        ("masking.focal_gamma=1.0", "only schedule, levels and time_weight"),
    ],
)
def test_a_recipe_that_cannot_be_carried_out_is_bad_input(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        run_recipe(load_recipe("sudoku4-order", ["data.size=10", override]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_missing_recipes_and_broken_toml_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no recipe called 'nope': give a .toml file or one of"):
        load_recipe("nope")
    (tmp_path / "bad.toml").write_text("kind = ")
    with pytest.raises(BadInput, match="is not valid TOML"):
        load_recipe(tmp_path / "bad.toml")


@pytest.mark.parametrize(("name", "options"), [("sudoku", {"box": 2}), ("sat", {"variables": 5}), ("sorting", {"items": 4})])
def test_kept_problems_are_generated_once(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    task, path = make_task(name, **options), tmp_path / "new" / "problems.safetensors"
    data = DataSettings(size=5, seed=3, keep=str(path))
    first = training_problems(task, data)
    task.generate = None  # type: ignore[assignment, method-assign]
    again = training_problems(task, data)
    assert torch.equal(first.tokens, again.tokens) and torch.equal(first.maskable, again.maskable)
    assert first.x0 is not None and again.x0 is not None and torch.equal(first.x0, again.x0)
    assert {k: v.tolist() for k, v in first.labels.items()} == {k: v.tolist() for k, v in again.labels.items()}
    with pytest.raises(BadInput, match="holds 5 problems"):
        training_problems(task, DataSettings(size=6, seed=3, keep=str(path)))
    with pytest.raises(BadInput, match="keeps other problems"):
        training_problems(task, DataSettings(size=5, seed=4, keep=str(path)))
    path.write_bytes(b"something else")
    with pytest.raises(BadInput, match="delete it, and they are made again"):
        training_problems(task, data)


def test_problems_of_a_file_are_not_kept() -> None:
    with pytest.raises(ValueError, match="keep would have no effect"):
        DataSettings(size=5, file="puzzles.csv", keep="kept.safetensors")


def test_a_recipe_names_its_precision_for_one_run(tmp_path: Path) -> None:
    def trained(name: str, *changes: str) -> dict[str, torch.Tensor]:
        small = ("task.options={box=2}", "data.size=20", "data.options={givens=6}", "run.batch_size=4", "run.steps=2")
        recipe = load_recipe("sudoku9-denoiser", [*small, "denoiser.width=16", "denoiser.layers=1", *changes])
        run_recipe(recipe, tmp_path / name)
        return safetensors.torch.load_file(tmp_path / name / "model.safetensors")

    half, usual, full = trained("half", "run.mixed_precision=bf16"), trained("usual"), trained("full", "run.mixed_precision=no")
    assert all(torch.equal(usual[key], full[key]) for key in full)
    assert any(not torch.equal(half[key], full[key]) for key in full)
    assert {value.dtype for value in half.values()} == {value.dtype for value in full.values()}
