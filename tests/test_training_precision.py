"""Training in mixed precision, what the environment may change of it, and settings without an effect or beyond their range."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

import anyorder
from anyorder.denoisers.base import DenoiserOutput
from anyorder.denoisers.transformer import Transformer, scaled_dot_product
from anyorder.errors import BadInput
from anyorder.evaluation.likelihood import Process, estimate_bound
from anyorder.losses import mdm_loss
from anyorder.orders.heuristics import max_confidence
from anyorder.training import grpo, loop, reward
from anyorder.training.checkpoint import list_checkpoints, load_checkpoint
from anyorder.training.denoiser import DenoiserJob
from anyorder.training.fit import run_recipe
from anyorder.training.recipes import AnyRecipe, validate_recipe

TASK = {"name": "sudoku", "options": {"box": 2}}
DENOISER = {"width": 8, "layers": 1, "heads": ["row", "column"]}
JOINT = {
    "train_denoiser": True, "policy": {"architecture": "mlp", "width": 8}, "joint": {"decode_every": 0},
    "objective": {"name": "order", "states": "uniform", "critic": False},
}  # fmt: skip
LO_ARM = {
    "policy": {"architecture": "mlp", "width": 8},
    "objective": {"name": "lo_arm", "critic": False, "width": 8, "heads": 2, "states": "uniform"},
}


def recipe(kind: str, run: dict[str, Any] | None = None, **more: Any) -> AnyRecipe:
    denoiser = DENOISER if kind == "denoiser" else "sudoku4-weak"
    return validate_recipe(
        {
            "task": TASK, "data": {"size": 20, "options": {"givens": 8}}, "denoiser": denoiser, "kind": kind,
            "optimizer": {"lr": 0.01, "warmup_steps": 0}, "run": {"steps": 3, "batch_size": 4, "log_steps": 1, **(run or {})},
            **more,
        }
    )  # fmt: skip


def weights(folder: Path) -> dict[str, Tensor]:
    return load_checkpoint(list_checkpoints(folder / "checkpoints")[-1]).tensors


def alike(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return all(torch.equal(a[name], b[name]) for name in a)


# ---- precision --------------------------------------------------------------------------------------------------------------


def test_a_run_in_fp16_is_resumed_with_the_scale_of_its_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(mixed_precision: str | None) -> Accelerator:
        AcceleratorState._reset_state()
        accelerator = Accelerator(cpu=True)
        accelerator.state._mixed_precision, accelerator.native_amp = "fp16", True
        accelerator.scaler = torch.amp.GradScaler("cpu")
        return accelerator

    class Stop(Exception):
        pass

    plain = DenoiserJob.loss

    def stopping(self: DenoiserJob, model: Any, step: int, shard: Any) -> Any:
        if step == 5:
            raise Stop
        return plain(self, model, step, shard)

    monkeypatch.setattr(loop, "_accelerator", made)
    asked = recipe("denoiser", {"steps": 8, "checkpoint_steps": 4}, masking={"normalize": "sequences"})
    run_recipe(asked, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(DenoiserJob, "loss", stopping)
        with pytest.raises(Stop):
            run_recipe(asked, tmp_path / "cut")
    run_recipe(asked, tmp_path / "cut")
    assert alike(tmp_path / "whole", tmp_path / "cut")
    AcceleratorState._reset_state()


def test_a_run_goes_on_in_its_precision_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    AcceleratorState._reset_state()
    with monkeypatch.context() as patch:
        patch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
        run_recipe(recipe("denoiser"), tmp_path)
    AcceleratorState._reset_state()
    assert run_recipe(recipe("denoiser"), tmp_path).finished, "what is done stays done"
    with pytest.raises(BadInput, match="was computed with mixed precision bf16, and would go on with no"):
        run_recipe(recipe("denoiser", {"steps": 5}), tmp_path)


def test_the_environment_does_not_scale_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_recipe(recipe("denoiser"), tmp_path / "plain")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "8")
    run_recipe(recipe("denoiser"), tmp_path / "set")
    assert alike(tmp_path / "plain", tmp_path / "set")


@pytest.mark.parametrize("joint", [False, True])
def test_lo_arm_computes_in_the_precision_that_is_asked_for(joint: bool, tmp_path: Path) -> None:
    for precision in ("no", "bf16"):
        run_recipe(recipe("order", {"mixed_precision": precision}, train_denoiser=joint, **LO_ARM), tmp_path / precision)
    assert not alike(tmp_path / "no", tmp_path / "bf16")
    moved = weights(tmp_path / "bf16")
    assert all(bool(torch.isfinite(tensor).all()) for name, tensor in moved.items() if name.startswith("model."))


@pytest.mark.parametrize("kind", ["order", "reward"])
@pytest.mark.parametrize(("precision", "dtype"), [("no", torch.float32), ("bf16", torch.bfloat16)])
def test_a_frozen_denoiser_computes_in_the_precision_of_the_run(
    kind: str, precision: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[torch.dtype] = set()
    plain = Transformer.forward

    def watching(self: Transformer, *args: Any, **kwargs: Any) -> DenoiserOutput:
        output = plain(self, *args, **kwargs)
        seen.add(output.logits.dtype)
        return output

    monkeypatch.setattr(Transformer, "forward", watching)
    more: dict[str, Any] = {"policy": {"architecture": "pairwise", "width": 8}, "objective": {"influence_weight": 0.5}}
    if kind == "reward":
        more = {"policy": {"architecture": "upo", "width": 8, "heads": 2}, "rollout": {"group_size": 2}}
    run_recipe(recipe(kind, {"mixed_precision": precision, "steps": 2}, **more), tmp_path)
    assert seen == {dtype}
    moved = [tensor for name, tensor in weights(tmp_path).items() if name.startswith("model.")]
    assert all(tensor.dtype != torch.bfloat16 and bool(torch.isfinite(tensor).all()) for tensor in moved)


def test_attention_in_mixed_precision_is_computed_in_float32_on_a_cpu() -> None:
    query, key, value = torch.randn(3, 2, 2, 5, 4).unbind()
    bias = torch.zeros(5, 5).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    half = [tensor.bfloat16() for tensor in (query, key, value)]
    exact = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    rounded = F.scaled_dot_product_attention(*(tensor.float() for tensor in half), attn_mask=bias)
    plain = F.scaled_dot_product_attention(*half, attn_mask=bias.bfloat16())
    half[0].requires_grad_()
    assert torch.equal(scaled_dot_product(*half, bias.bfloat16()), plain), "of a model in half precision it is PyTorch's"
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(scaled_dot_product(query, key, value, bias), exact)
        found = scaled_dot_product(*half, bias.bfloat16())
    assert torch.equal(found, rounded.bfloat16())
    found.sum().backward()
    assert half[0].grad is not None and half[0].grad.dtype == torch.bfloat16


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_first_update_sees_the_probabilities_of_the_draws(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    plain = reward.clipped_surrogate

    def watching(now: Tensor, old: Tensor, advantages: Tensor, clip: float) -> Tensor:
        seen.append(float(((now - old).exp() - 1).abs().max()))
        return plain(now, old, advantages, clip)

    monkeypatch.setattr(reward, "clipped_surrogate", watching)
    asked = recipe(
        "reward", {"mixed_precision": precision, "steps": 1}, policy={"architecture": "upo", "width": 8, "heads": 2},
        rollout={"group_size": 2, "token_temperature": 1.0}, update={"inner": 1, "train_denoiser": True},
    )  # fmt: skip
    run_recipe(asked, tmp_path)
    assert max(seen) < 1e-5


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_grpo_begins_without_divergence(precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    plain = grpo._divergence

    def watching(now: Tensor, reference: Tensor) -> Tensor:
        value = plain(now, reference)
        seen.append(float(value.detach().abs().max()))
        return value

    monkeypatch.setattr(grpo, "_divergence", watching)
    asked = recipe("grpo", {"mixed_precision": precision, "steps": 1}, grpo={"group_size": 2, "inner": 1, "beta": 0.1})
    run_recipe(asked, tmp_path)
    assert max(seen) < 1e-6
    moved = weights(tmp_path)
    before = anyorder.load_denoiser("sudoku4-weak", device="cpu").state_dict()
    assert any(not torch.equal(moved[f"model.{name}"], value) for name, value in before.items()), "and has a gradient"


# ---- settings ---------------------------------------------------------------------------------------------------------------


def test_a_joint_recipe_records_the_unit_of_its_loss(tmp_path: Path) -> None:
    found: Any = [recipe("order", **JOINT), recipe("order", **{**JOINT, "joint": {"decode_every": 0, "weights": "papl"}})]
    assert [one.model_dump()["masking"]["normalize"] for one in found] == ["sequences", "rows"]
    run_recipe(recipe("order", {"steps": 1}, **JOINT), tmp_path)
    assert json.loads((tmp_path / "recipe.json").read_text())["masking"]["normalize"] == "sequences"
    with pytest.raises(BadInput, match="normalize"):
        run_recipe(recipe("order", {"steps": 2}, **JOINT, masking={"normalize": "tokens"}), tmp_path)


@pytest.mark.parametrize(
    ("said", "more"),
    [
        ("influence_weight", {**JOINT, "policy": {"architecture": "pairwise"},
                              "objective": {**JOINT["objective"], "influence_weight": 1.0}}),
        ("influence_weight", {**LO_ARM, "policy": {"architecture": "pairwise"},
                              "objective": {**LO_ARM["objective"], "influence_weight": 1.0}}),
        ("selection_weight", {**LO_ARM, "objective": {**LO_ARM["objective"], "states": "model", "selection_weight": 3.0}}),
        ("joint.weights", {**LO_ARM, "train_denoiser": True, "joint": {"weights": "uniform", "lr_scale": 0.5}}),
        ("masking.focal_gamma", {**LO_ARM, "train_denoiser": True, "masking": {"focal_gamma": 2.0}}),
        ("focal_gamma", {**JOINT, "masking": {"focal_gamma": -1.0}}),
    ],
)  # fmt: skip
def test_settings_without_an_effect_are_refused(said: str, more: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=said):
        recipe("order", **more)


def test_focal_weights_have_a_gradient_where_a_token_is_certain() -> None:
    for gamma in (0.5, 2.0):
        losses = torch.tensor([[0.0, 1.0]], requires_grad=True)
        mdm_loss(losses, torch.ones(1, 2, dtype=torch.bool), focal_gamma=gamma).backward()
        assert losses.grad is not None and bool(torch.isfinite(losses.grad).all())


@pytest.mark.parametrize(
    ("said", "given", "samples"),
    [
        ("temperature", {"temperature": 0.0}, 5), ("temperature", {"temperature": -1.0}, 5),
        ("batch_size", {"batch_size": -1}, 5), ("proposals", {"proposals": 0}, 5), ("samples", {}, 0), ("samples", {}, -1),
    ],
)  # fmt: skip
def test_numbers_of_a_likelihood_have_bounds(said: str, given: dict[str, Any], samples: int) -> None:
    denoiser = anyorder.load_denoiser("sudoku4-weak", device="cpu")
    problem = anyorder.task_for(denoiser).generate(1, seed=0, givens=9)
    assert problem.x0 is not None
    with pytest.raises(BadInput, match=said):
        estimate_bound(Process(denoiser, max_confidence, **given), problem.tokens[0], problem.x0[0], samples)


# ---- diffusers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [None, "top_k:1", "top_k:2"])
def test_the_scheduler_fills_its_block_under_orders_that_leave_positions_out(order: str | None) -> None:
    pytest.importorskip("diffusers")
    from anyorder.interfaces.diffusers import OrderScheduler

    scheduler = OrderScheduler(block_length=8, num_inference_steps=2, order=order)
    scheduler.set_timesteps(2)
    logits = torch.randn(1, 8, 10, generator=torch.Generator().manual_seed(0))
    logits[..., 9] = -30

    class Model:
        mask_token_id, vocab_size, hidden_size = 9, 10, 4

        def __call__(self, tokens: Tensor, attention_mask: Any = None, positions: Any = None) -> DenoiserOutput:
            return DenoiserOutput(logits if positions is None else logits[positions], torch.zeros(1, 8, 4))

    sample = torch.full((1, 8), 9)
    for step in range(2):
        sample = scheduler.step(logits, step, sample, mask_token_id=9, threshold=2.0).prev_sample
    own = anyorder.decode(Model(), torch.full((1, 8), 9), anyorder.Sampler.parse(order or "confidence", steps=2))  # type: ignore[arg-type]
    assert torch.equal(sample, own.tokens)
