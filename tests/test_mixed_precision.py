"""Half precision: denoisers in bfloat16 and float16 with float32 policies, and `torch.autocast` around every call."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import anyorder
from anyorder.decoding.sampler import Sampler
from anyorder.evaluation.judges import make_judges
from anyorder.evaluation.likelihood import Process, estimate_bound, log_likelihood, of_proposal
from anyorder.session import Session, open_session
from anyorder.state import init
from anyorder.training.fit import fit_order, fit_order_by_reward
from conftest import HashDenoiser
from every_part import network
from test_sampler_saving import EVERY_SAMPLER, decoded

HALF = [torch.bfloat16, torch.float16]


def autocast(dtype: torch.dtype = torch.bfloat16) -> torch.autocast:
    return torch.autocast("cpu", dtype)


@pytest.fixture(scope="module")
def session() -> Session:
    return open_session(model="sudoku4", limit=4)


@pytest.mark.parametrize("name", EVERY_SAMPLER)
def test_autocast_changes_nothing_but_the_denoiser(name: str) -> None:
    sampler = Sampler(**EVERY_SAMPLER[name])
    expected = decoded(sampler)
    for dtype in HALF:
        with autocast(dtype):
            found = decoded(sampler)
        for field, value in expected.items():
            assert found[field].dtype == value.dtype and torch.equal(found[field], value), (field, dtype)


@pytest.mark.parametrize("architecture", list(anyorder.POLICIES))
@pytest.mark.parametrize("dtype", HALF)
def test_policies_score_in_float32_what_a_half_precision_denoiser_predicts(architecture: str, dtype: torch.dtype) -> None:
    policy = network(architecture)
    tokens = torch.tensor([[1, 0, 0, 2], [0, 0, 0, 3]])
    logits, hidden = HashDenoiser()(tokens, None, tokens == 0)
    prediction = anyorder.Prediction(logits.to(dtype), hidden.to(dtype), tokens == 0)
    state = init(tokens, 0)
    scores = policy(state, prediction)
    assert scores.dtype == torch.float32
    with autocast(dtype):
        assert torch.equal(policy(state, prediction), scores)


def finite(values: Any) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in values if value.is_floating_point())


def few_masks(session: Session) -> tuple[torch.Tensor, torch.Tensor]:
    """A problem with three masks, and its solution."""
    x0 = session.instances.x0[0]  # type: ignore[index]
    return x0.masked_fill(torch.arange(len(x0)) < 3, session.denoiser.mask_token_id), x0


CALLS: dict[str, Callable[[Session, Path], Any]] = {
    "evaluate": lambda s, _: anyorder.evaluate(s.denoiser, s.task, s.instances, samplers=["random", s.bind("policy")], steps=4),
    "headroom": lambda s, _: anyorder.headroom(s.denoiser, s.task, s.instances, samplers=["confidence", "entropy"], steps=4),
    "generate": lambda s, _: anyorder.generate(s.denoiser, s.instances.tokens, order="margin"),
    "judge": lambda s, _: [
        judge(s.task, s.instances, s.instances.x0) for judge in make_judges(["pseudo_likelihood:2"], s.denoiser).values()
    ],
    "fit_order": lambda s, folder: fit_order(s.denoiser, s.task, s.instances, folder, steps=2, batch_size=4),
    "fit_order_by_reward": lambda s, folder: fit_order_by_reward(
        s.denoiser, s.task, s.instances, folder, steps=2, batch_size=6
    ),
    "likelihood": lambda s, _: [
        estimate_bound(Process(s.denoiser, anyorder.orders.max_confidence), s.instances.tokens[0], s.instances.x0[0], 2),
        log_likelihood(Process(s.denoiser, of_proposal(s.bind("policy").order), looks_at_proposal=True), *few_masks(s)),
    ],
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:the policy in .* was fitted to")  # float16 rounds the weights differently
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", CALLS)
def test_every_call_works_under_autocast_and_with_a_half_precision_denoiser(
    name: str, dtype: torch.dtype, session: Session, tmp_path: Path
) -> None:
    with autocast(dtype):
        found = [CALLS[name](session, tmp_path / "autocast")]
    half = open_session(model="sudoku4", limit=4, strict=False, model_options=[f"dtype={str(dtype)[6:]}"])
    found.append(CALLS[name](half, tmp_path / "half"))
    if name.startswith("fit"):
        for order in found:
            weights = list(order.policy.state_dict().values())
            assert finite(weights) and {w.dtype for w in weights if w.is_floating_point()} == {torch.float32}
