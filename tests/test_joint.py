"""Joint training of denoiser and policy: where gradients go, what is logged, when a collapse is reported, exact resume."""

import json
import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from anyorder.denoisers.base import fingerprint
from anyorder.denoisers.transformer import Transformer
from anyorder.errors import BadInput
from anyorder.losses import mdm_loss, order_loss, token_cross_entropy
from anyorder.processes import Shard
from anyorder.tasks.sudoku import Sudoku
from anyorder.training.diagnostics import attention_to_mistakes, level_numbers, pairwise_diversity, policy_numbers
from anyorder.training.fit import run_recipe
from anyorder.training.joint import CollapseWarning, JointJob
from anyorder.training.order import scores_of
from anyorder.training.recipes import OrderRecipe, validate_recipe
from anyorder.zoo import load_denoiser, load_order

HEADS = ["row", "column", "box", "everything"]


def small_denoiser() -> Transformer:
    torch.manual_seed(0)
    task = Sudoku(2)
    denoiser = Transformer(task.vocab_size, task.mask_token_id, task.length, 16, 1, HEADS, positions=False)
    denoiser.set_relations(task.relations())
    return denoiser


def recipe(denoiser: str = "given", run: dict[str, Any] | None = None, **joint: Any) -> OrderRecipe:
    values = {
        "kind": "order",
        "denoiser": denoiser,
        "train_denoiser": True,
        "task": {"name": "sudoku", "options": {"box": 2}},
        "data": {"size": 50, "options": {"givens": 6}},
        "policy": {"architecture": "mlp", "width": 8},
        "objective": {"name": "order", "states": "uniform", "critic": False},
        "joint": {"decode_problems": 8, "decode_steps": 4, **joint},
        "optimizer": {"lr": 0.01, "warmup_steps": 2},
        "run": {"steps": 6, "batch_size": 8, "log_steps": 1, "checkpoint_steps": 2, **(run or {})},
    }
    made = validate_recipe(values)
    assert isinstance(made, OrderRecipe)
    return made


def gradients(module: torch.nn.Module) -> float:
    return sum(float(p.grad.abs().sum()) for p in module.parameters() if p.grad is not None)


def test_the_loss_is_pa_mdm_plus_order_worked_out_apart() -> None:
    job = JointJob(recipe(), small_denoiser(), Sudoku(2))
    torch.nn.init.normal_(job.policy.out.weight)  # so that q is not near uniform
    loss, logged = job.loss(job.pair, 0, Shard(0, 1))
    batch = job._draw(0, Shard(0, 1))
    masked = batch.state.masked
    logits, hidden = job.pair.denoiser(batch.state.tokens)
    scores = job.policy(*batch.see(logits[masked], hidden))
    q = torch.softmax(scores.masked_fill(~masked, -torch.inf), dim=1).nan_to_num(0.0)
    losses = token_cross_entropy(logits, batch.state.x0, masked)
    denoiser_part = ((1 + q) * losses).sum() / 8
    assert logged["denoiser_loss"] == pytest.approx(denoiser_part.item(), rel=1e-5)
    assert loss.item() == pytest.approx((denoiser_part + (q * losses).sum() / 8).item(), rel=1e-5)


def test_no_gradient_crosses_between_denoiser_and_policy() -> None:
    job = JointJob(recipe(), small_denoiser(), Sudoku(2))
    torch.nn.init.normal_(job.policy.out.weight)
    batch = job._draw(0, Shard(0, 1))
    masked = batch.state.masked
    logits, state, prediction, scores = job.pair(batch.state, masked, batch.see, scores_of)
    losses = torch.zeros(masked.shape).masked_scatter(
        masked, torch.nn.functional.cross_entropy(logits, batch.state.x0[masked], reduction="none")
    )
    mdm_loss(losses, masked, token_weight=job._token_weight(0, state, prediction, scores)).backward(retain_graph=True)
    assert gradients(job.pair.denoiser) > 0
    assert gradients(job.policy) == 0, "q is detached in eq. 4"
    job.pair.zero_grad(set_to_none=True)
    order_loss(scores, losses, masked).backward()
    assert gradients(job.policy) > 0
    assert gradients(job.pair.denoiser) == 0, "the policy's loss and input are detached"


@pytest.mark.parametrize("weights", ["policy", "confidence", "margin", "papl", "uniform"])
def test_every_control_trains_both_and_its_weights_add_up(weights: str) -> None:
    job = JointJob(recipe(weights=weights, alpha=3.0), small_denoiser(), Sudoku(2))
    batch = job._draw(0, Shard(0, 1))
    _, state, prediction, scores = job.pair(batch.state, batch.state.masked, batch.see, scores_of)
    weight = job._token_weight(0, state, prediction, scores)
    if weights == "uniform":
        assert weight is None
    else:
        assert weight is not None
        count = batch.state.masked.sum(dim=1).float()
        torch.testing.assert_close(weight.sum(dim=1), count + 3.0 * (count > 0))
    loss, _ = job.loss(job.pair, 0, Shard(0, 1))
    loss.backward()
    assert gradients(job.pair.denoiser) > 0
    assert gradients(job.policy) > 0


def test_alpha_may_grow_from_0_to_its_value() -> None:
    job = JointJob(recipe(alpha=3.0, alpha_schedule="linear"), small_denoiser(), Sudoku(2))  # 6 updates
    batch = job._draw(0, Shard(0, 1))
    _, state, prediction, scores = job.pair(batch.state, batch.state.masked, batch.see, scores_of)
    count = batch.state.masked.sum(dim=1).float()
    for step, alpha in ((0, 0.5), (3, 2.0), (5, 3.0)):
        weight = job._token_weight(step, state, prediction, scores)
        assert weight is not None
        torch.testing.assert_close(weight.sum(dim=1), count + alpha * (count > 0))


def test_joint_training_from_scratch_draws_the_weights_with_its_seed(tmp_path: Path) -> None:
    starts = []
    for seed in (0, 0, 1):
        values = recipe("sudoku4-denoiser", {"steps": 1}).model_dump(exclude_unset=True) | {"seed": seed}
        folder = tmp_path / str(len(starts))
        run_recipe(validate_recipe(values), folder)
        starts.append(fingerprint(load_denoiser(folder)))
    assert starts[0] == starts[1] != starts[2]
    trained = load_denoiser("sudoku4")
    assert {name: p.shape for name, p in load_denoiser(tmp_path / "0").named_parameters()} == {
        name: p.shape for name, p in trained.named_parameters()
    }, "the network of the recipe"


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"denoiser": "sudoku4-order"}, "a recipe of kind order"), ({"train_denoiser": False}, "anyorder train sudoku4-denoiser")],
)
def test_a_recipe_as_the_denoiser_must_be_of_one_that_is_trained(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    values = recipe("sudoku4-denoiser").model_dump(exclude_unset=True) | changes
    with pytest.raises(BadInput, match=message):
        run_recipe(validate_recipe(values), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_joint_run_resumes_exactly_and_is_a_denoiser_with_its_order(tmp_path: Path) -> None:
    start = tmp_path / "start"
    small_denoiser().save_pretrained(start)
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    joint = recipe(str(start), decode_every=3)
    run_recipe(joint, whole)

    class Stop(Exception):
        pass

    plain = JointJob.loss

    def failing(self: JointJob, model: Any, step: int, shard: Shard) -> Any:
        if step == 4:
            raise Stop
        return plain(self, model, step, shard)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JointJob, "loss", failing)
        with pytest.raises(Stop):
            run_recipe(joint, halves)
    run_recipe(joint, halves)
    for name in ("model.safetensors", "order/model.safetensors"):
        one, two = (safetensors.torch.load_file(folder / name) for folder in (whole, halves))
        assert all(torch.equal(one[key], two[key]) for key in one), name
    denoiser = load_denoiser(whole)
    assert fingerprint(denoiser) != fingerprint(load_denoiser(start)), "the denoiser was trained"
    assert load_order(whole, denoiser).policy.denoiser_fingerprint == fingerprint(denoiser)
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert {"denoiser_loss", "order_loss", "policy_entropy", "policy_reach", "policy_starved"} <= rows[-1].keys()
    assert any(key.startswith("accuracy_level_") for key in rows[-1])
    assert [row["step"] for row in rows if "decoded_accuracy" in row] == [1, 3, 6]


def test_level_numbers_by_hand() -> None:
    generated = torch.ones(2, 10, dtype=torch.bool)
    masked = generated.clone()
    masked[0, 1:] = False  # a tenth masked: level 0; all masked: level 4
    losses = torch.full((2, 10), 2.0) * masked
    losses[0, 0] = 0.5
    right = torch.zeros(2, 10, dtype=torch.bool)
    right[1, :5] = True
    numbers = level_numbers(losses, right, masked, generated)
    assert numbers == {"loss_level_0": 0.5, "accuracy_level_0": 0.0, "loss_level_4": 2.0, "accuracy_level_4": 0.5}


def test_policy_numbers_of_uniform_and_collapsed_policies() -> None:
    masked = torch.ones(10, 8, dtype=torch.bool)
    uniform = policy_numbers(torch.zeros(10, 8), masked)
    assert uniform == pytest.approx(
        {"policy_entropy": 1, "policy_positions": 8, "policy_reach": 1, "policy_starved": 0}, abs=1e-5
    )
    one = torch.zeros(10, 8)
    one[:, 0] = 1000.0
    collapsed = policy_numbers(one, masked)
    assert collapsed == pytest.approx(
        {"policy_entropy": 0, "policy_positions": 1, "policy_reach": 1 / 8, "policy_starved": 7 / 8}, abs=1e-5
    )
    sharp_but_various = policy_numbers(1000.0 * torch.eye(8), torch.ones(8, 8, dtype=torch.bool))
    assert sharp_but_various["policy_entropy"] == pytest.approx(0, abs=1e-5)
    assert sharp_but_various["policy_reach"] == pytest.approx(1), "sharp on each state, but it reaches all positions"
    two = torch.tensor([[math.log(3.0), 0.0]])
    by_hand = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(2)
    assert policy_numbers(two, torch.ones(1, 2, dtype=torch.bool))["policy_entropy"] == pytest.approx(by_hand)


def test_collapse_and_starvation_are_reported_once_each() -> None:
    job = JointJob(recipe(plus_one=False), small_denoiser(), Sudoku(2))
    with pytest.warns(CollapseWarning, match="only 5 % of the positions.*plus_one = false"):
        job._warn_of_collapse({"policy_reach": 0.05}, 10)
    with pytest.warns(CollapseWarning, match="starving.*only 3 % of the weight"):
        job._warn_of_collapse({"policy_reach": 0.05, "weight_on_wrong": 0.03}, 11)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        job._warn_of_collapse({"policy_reach": 0.05, "weight_on_wrong": 0.03}, 12)


def test_weight_on_wrong_tokens_by_hand() -> None:
    masked = torch.tensor([[True, True, True, True, False]])
    right = torch.tensor([[True, True, True, False, False]])
    weight = torch.tensor([[3.0, 3.0, 3.0, 1.0, 99.0]])
    assert attention_to_mistakes(weight, right, masked)["weight_on_wrong"] == pytest.approx((1 / 10) / (1 / 4))
    assert attention_to_mistakes(None, right, masked) == {"weight_on_wrong": 1.0}
    assert attention_to_mistakes(weight, ~right, masked)["weight_on_wrong"] == pytest.approx((9 / 10) / (3 / 4))
    assert attention_to_mistakes(weight, masked, masked) == {}


def test_a_small_batch_of_sharp_and_various_rows_is_no_collapse() -> None:
    masked = torch.ones(4, 64, dtype=torch.bool)
    assert policy_numbers(1000.0 * torch.eye(64)[:4], masked)["policy_reach"] == pytest.approx(1)


def test_settings_without_a_use_are_refused() -> None:
    for changes, message in [
        ({"train_denoiser": False, "joint": {"weights": "papl"}}, "only with train_denoiser"),
        ({"objective": {"states": "teacher", "critic": False}, "masking": {"schedule": "cosine"}}, "uniform"),
    ]:
        with pytest.raises(BadInput, match=message):
            validate_recipe({**recipe().model_dump(exclude_unset=True), **changes})


def test_pairwise_diversity_by_hand() -> None:
    tokens = torch.tensor([[1, 2, 3], [1, 2, 4], [1, 9, 9]])
    where = torch.tensor([[True, True, True]] * 3)
    assert pairwise_diversity(tokens, where) == pytest.approx((1 / 3 + 2 / 3 + 2 / 3) / 3)


def test_settings_that_contradict_one_another_are_refused() -> None:
    good = recipe().model_dump(exclude_unset=True)
    for changes, message in [
        ({"objective": {"states": "model", "critic": False}}, "uniform.*teacher"),
        ({"objective": {"states": "teacher", "critic": True}}, "critic must be false"),
        ({"joint": {"weights": "nonsense"}}, "weights is 'nonsense'.*policy, uniform, papl.*margin"),
    ]:
        with pytest.raises(BadInput, match=message):
            validate_recipe({**good, **changes})


@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one(tmp_path: Path) -> None:
    source = tmp_path / "joint.toml"
    source.write_text(
        'kind = "order"\ndenoiser = "sudoku4"\n[task]\nname = "sudoku"\noptions = { box = 2 }\n'
        "[data]\nsize = 50\noptions = { givens = 6 }\n"
        '[policy]\narchitecture = "mlp"\nwidth = 8\n[objective]\nname = "order"\nstates = "uniform"\ncritic = false\n'
        "[joint]\ndecode_every = 0\n[optimizer]\nlr = 1e-3\n[run]\nsteps = 4\nbatch_size = 8\nlog_steps = 1\n"
    )
    arguments = ["-m", "anyorder.cli", "train", str(source), "--set", "train_denoiser=true"]
    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run([sys.executable, *arguments, "--out", str(one)], check=True, capture_output=True)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29617"]
    subprocess.run([*launcher, *arguments, "--out", str(two)], check=True, capture_output=True)
    rows = [json.loads((folder / "metrics.jsonl").read_text().splitlines()[0]) for folder in (one, two)]
    assert rows[0]["loss"] != rows[1]["loss"], "the first of two processes saw half of the batch"
    for name in ("model.safetensors", "order/model.safetensors"):
        a, b = (safetensors.torch.load_file(folder / name) for folder in (one, two))
        assert all(torch.allclose(a[key].float(), b[key].float(), atol=1e-4) for key in a), name
