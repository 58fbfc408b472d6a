"""Training that starts from the weights of a trained denoiser."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import anyorder
from anyorder.errors import BadInput
from anyorder.processes import Shard
from anyorder.tasks.sudoku import Sudoku
from anyorder.tasks.zebra import Zebra
from anyorder.training import starting
from anyorder.training.denoiser import DenoiserJob
from anyorder.training.fit import _fresh_denoiser, run_recipe
from anyorder.training.recipes import DenoiserRecipe, load_recipe


def recipe(start: str, name: str = "sudoku4-weak-denoiser", *overrides: str) -> DenoiserRecipe:
    found = load_recipe(name, [f"start={start}", "data.size=20", "run.steps=2", "run.batch_size=4", *overrides])
    assert isinstance(found, DenoiserRecipe)
    return found


def weights(denoiser: nn.Module) -> dict[str, Any]:
    return dict(denoiser.named_parameters())


def test_training_goes_on_from_the_weights_of_a_denoiser() -> None:
    before, started = weights(anyorder.load_denoiser("sudoku4-weak", device="cpu")), DenoiserJob(recipe("sudoku4-weak"))
    assert all(torch.equal(weights(started.denoiser)[name], weight) for name, weight in before.items())
    assert all(weight.requires_grad for weight in weights(started.denoiser).values())
    loss, _ = started.loss(started.model, 0, Shard())
    fresh = DenoiserJob(load_recipe("sudoku4-weak-denoiser", ["data.size=20"]))  # type: ignore[arg-type]
    assert loss < 0.7 * fresh.loss(fresh.model, 0, Shard())[0]


def test_buffers_are_taken_too(monkeypatch: pytest.MonkeyPatch) -> None:
    trained, fresh = (anyorder.load_denoiser("sudoku4-weak", device="cpu") for _ in range(2))
    for value, denoiser in enumerate((fresh, trained)):
        denoiser.register_buffer("running_mean", torch.full((3,), float(value)))  # type: ignore[operator]
    monkeypatch.setattr(starting, "load_denoiser", lambda *_args, **_options: trained)
    starting.start_from("sudoku4-weak", fresh, Sudoku(2))  # type: ignore[arg-type]
    assert fresh.running_mean.tolist() == [1.0, 1.0, 1.0]  # type: ignore[attr-defined]


def test_a_run_is_trained_saved_and_resumed(tmp_path: Path) -> None:
    run_recipe(recipe("sudoku4-weak", "sudoku4-weak-denoiser"), tmp_path / "first")
    second = recipe(str(tmp_path / "first"))
    run_recipe(second, tmp_path / "second")
    one, other = (weights(anyorder.load_denoiser(tmp_path / name, device="cpu")) for name in ("first", "second"))
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert json.loads((tmp_path / "second" / "recipe.json").read_text())["start"] == str(tmp_path / "first")
    assert run_recipe(second, tmp_path / "second").finished
    anyorder.load_denoiser("sudoku4-weak", device="cpu").save_pretrained(tmp_path / "first")
    with pytest.raises(BadInput, match="denoiser_fingerprint"):
        run_recipe(recipe(str(tmp_path / "first"), "sudoku4-weak-denoiser", "run.steps=3"), tmp_path / "second")


def test_joint_training_starts_from_the_denoiser_that_its_recipe_starts_from(tmp_path: Path) -> None:
    shipped = resources.files("anyorder.recipes").joinpath("sudoku4-weak-denoiser.toml").read_text()
    (tmp_path / "further.toml").write_text(shipped.replace('kind = "denoiser"', 'kind = "denoiser"\nstart = "sudoku4-weak"'))
    joint: Any = load_recipe("sudoku4-joint", [f"denoiser={tmp_path / 'further.toml'}"])
    started = weights(_fresh_denoiser(joint, Sudoku(2)))
    before = weights(anyorder.load_denoiser("sudoku4-weak", device="cpu"))
    assert all(torch.equal(started[name], weight) for name, weight in before.items())


@pytest.mark.parametrize(("houses", "attributes"), [(5, 5), (3, 3), (6, 3), (3, 6), (4, 4)])
def test_puzzles_of_another_size_start_with_like_tokens_and_positions(houses: int, attributes: int) -> None:
    small, task = Zebra(4, 4), Zebra(houses, attributes)
    tokens, positions = task.alike(small)
    assert tokens.shape == (task.vocab_size,) and positions.shape == (task.length,)
    for token, other in enumerate(tokens.tolist()):
        assert 0 <= other < small.vocab_size
        if 1 <= token <= task.values:
            attribute, number = divmod(token - 1, houses)
            assert other == 1 + min(attribute, 3) * 4 + min(number, 3)
        elif token:
            assert other - small.vocab_size == token - task.vocab_size, "no operand and the types stand at the end"
    clues, cells = positions[: 4 * task.slots], positions[4 * task.slots :].view(attributes, houses) - 4 * small.slots
    assert torch.equal(clues % 4, torch.arange(4 * task.slots) % 4), "operands stay operands of their kind"
    assert cells.min() >= 0
    assert cells[0].tolist() == {3: [0, 2, 3], 4: [0, 1, 2, 3], 5: [0, 1, 2, 2, 3], 6: [0, 1, 1, 2, 2, 3]}[houses]
    assert torch.equal(cells // 4, torch.arange(attributes).clamp(max=3)[:, None].expand_as(cells))


def test_a_larger_denoiser_starts_with_what_a_smaller_one_knows() -> None:
    size = ["task.options.houses=5", "task.options.attributes=5"]
    grown = DenoiserJob(recipe("zebra", "zebra-denoiser", *size))
    before, after = weights(anyorder.load_denoiser("zebra", device="cpu")), weights(grown.denoiser)
    assert torch.equal(after["blocks.2.qkv.weight"], before["blocks.2.qkv.weight"])
    tokens, positions = Zebra(5, 5).alike(Zebra(4, 4))
    assert torch.equal(after["token_embedding.weight"], before["token_embedding.weight"][tokens])
    assert torch.equal(after["head.bias"], before["head.bias"][tokens])
    assert torch.equal(after["position_embedding.weight"], before["position_embedding.weight"][positions])


@pytest.mark.parametrize(
    ("start", "name", "more", "message"),
    [
        (
            "sudoku4-weak",
            "sudoku4-weak-denoiser",
            ["denoiser.width=64"],
            "the network of start = 'sudoku4-weak' is another one",
        ),
        ("sudoku4-weak", "sudoku4-weak-denoiser", ["denoiser.layers=9"], r"has the shape None there and .* here"),
        ("sudoku9", "sudoku4-weak-denoiser", [], "was trained for sudoku with .* start from a denoiser of the same task"),
        ("zebra", "sudoku4-weak-denoiser", [], "was trained for zebra with .* and this recipe is for sudoku"),
        ("wordless", "sudoku4-weak-denoiser", [], "wordless"),
    ],
)
def test_what_cannot_be_started_from_is_one_clear_error(
    start: str, name: str, more: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=message):
        run_recipe(recipe(start, name, *more), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_heads_with_other_relations_are_refused() -> None:
    own: Any = load_recipe("sudoku4-denoiser")
    heads = json.dumps(own.denoiser.settings["heads"][::-1])
    others = json.dumps(["everything"] * len(own.denoiser.settings["heads"]))
    for wrong in (heads, others):
        with pytest.raises(BadInput, match="the heads of start = 'sudoku4' are"):
            DenoiserJob(recipe("sudoku4", "sudoku4-denoiser", f"denoiser.heads={wrong}"))
