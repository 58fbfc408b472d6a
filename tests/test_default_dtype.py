"""`torch.set_default_dtype` changes nothing: the same weights, tokens, numbers and training as with float32."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from anyorder.decoding.sampler import Sampler
from anyorder.evaluation.judges import make_judges
from anyorder.session import Session, open_session
from anyorder.tasks import make_task
from anyorder.training.fit import fit_order_by_reward, run_recipe
from anyorder.training.recipes import load_recipe
from test_fuzz import SMALL
from test_sampler_saving import EVERY_SAMPLER, decoded

KINDS = [torch.float64, torch.bfloat16]


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    yield request.param
    torch.set_default_dtype(torch.float32)


def with_default(kind: torch.dtype, call: Callable[[], Any]) -> Any:
    torch.set_default_dtype(kind)
    try:
        return call()
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def session() -> Session:
    return open_session(model="sudoku4", limit=3)


def test_shipped_models_and_policies_are_loaded_in_float32(kind: torch.dtype, session: Session) -> None:
    other = with_default(kind, lambda: open_session(model="sudoku4", limit=3))
    assert other.meta == session.meta and torch.equal(other.instances.tokens, session.instances.tokens)
    policy = with_default(kind, lambda: other.bind("policy").order.policy)
    for module in (other.denoiser, policy):
        assert {tensor.dtype for tensor in module.state_dict().values() if tensor.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize("name", EVERY_SAMPLER)
def test_every_sampler_decodes_the_same(name: str) -> None:
    sampler = Sampler(**EVERY_SAMPLER[name])
    expected = decoded(sampler)
    for kind in KINDS:
        found = with_default(kind, lambda: decoded(sampler))
        for field, value in expected.items():
            assert found[field].dtype == value.dtype and torch.equal(found[field], value), (field, kind)


@pytest.mark.parametrize("name", SMALL)
def test_every_task_checks_the_same(name: str) -> None:
    task = make_task(name, **SMALL[name])
    problems = task.generate(3, 0)
    tokens = (problems.tokens if problems.x0 is None else problems.x0).clone()
    tokens[0, -3:] = tokens[1, -3:]
    expected = task.check(problems, tokens)
    for kind in KINDS:
        found = with_default(kind, lambda: task.check(problems, tokens))
        assert torch.equal(found.instance_correct, expected.instance_correct)
        assert torch.equal(found.cell_accuracy.nan_to_num(-1), expected.cell_accuracy.nan_to_num(-1))


TRAINED = {
    "sudoku4-order": [], "sudoku4-denoiser": [], "sat9-adaptive": ["denoiser=sat9"],
}  # fmt: skip


@pytest.mark.parametrize("name", TRAINED)
def test_training_gives_the_same_weights(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, ["data.size=8", "run.steps=2", "run.batch_size=4", *TRAINED[name]])
    for kind in (torch.float32, *KINDS):
        with_default(kind, lambda kind=kind: run_recipe(recipe, tmp_path / str(kind)))
    expected, *others = (
        safetensors.torch.load_file(tmp_path / str(kind) / "model.safetensors") for kind in (torch.float32, *KINDS)
    )
    for found in others:
        assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_training_by_reward_and_a_judge_give_the_same(session: Session, tmp_path: Path) -> None:
    def fitted(kind: torch.dtype) -> Any:
        order = fit_order_by_reward(
            session.denoiser, session.task, session.instances, tmp_path / str(kind), steps=2, batch_size=6
        )
        (judge,) = make_judges(["pseudo_likelihood:3"], session.denoiser).values()
        assert session.instances.x0 is not None
        return order.policy.state_dict(), judge(session.task, session.instances, session.instances.x0)

    (weights, numbers), *others = (with_default(kind, lambda kind=kind: fitted(kind)) for kind in (torch.float32, *KINDS))
    for found, again in others:
        assert (again == numbers).all()
        assert all(torch.equal(found[key], value) for key, value in weights.items())
