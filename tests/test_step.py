"""The step is pure, rows do not influence one another, and callbacks see every commit."""

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anyorder.decoding.loop import decode
from anyorder.decoding.remaskers import CriticUndo
from anyorder.decoding.result import Decoded
from anyorder.decoding.sampler import Sampler
from anyorder.decoding.step import StepOutput, predict, step
from anyorder.memory import Drift, FirstPrediction
from anyorder.prediction import Prediction
from anyorder.registry import COUNT_RULES, ORDERS, REMASKERS, TOKEN_RULES
from anyorder.state import DecodeState, init
from conftest import HashDenoiser
from every_part import count_rules, learned, orders, remaskers, token_rules

VOCAB = 5
EVERY_SAMPLER = {
    **{f"order {name}": {"order": part, "noise": 0.3} for name, part in orders().items()},
    **{f"count rule {name}": {"order": "margin", "count": part} for name, part in count_rules().items()},
    **{f"token rule {name}": {"order": "entropy", "token": part} for name, part in token_rules().items()},
    **{f"remasker {name}": {"order": learned(), "remasker": part} for name, part in remaskers().items()},
    "in blocks": {"order": "confidence", "block_length": 3},
    "in blocks with a threshold": {"order": "random", "count": "threshold:0.6", "block_length": 2},
}
LOOKS_AHEAD = {"order info_gain"}
"""Orders whose steps cost up to 8 forward passes more."""

pytestmark = pytest.mark.filterwarnings("ignore:nothing to decode")


def a_batch(rows: int = 5, length: int = 8) -> tuple[Tensor, Tensor]:
    """Tokens with masks (0) and solutions, (rows, length)."""
    generator = torch.Generator().manual_seed(3)
    x0 = torch.randint(1, VOCAB, (rows, length), generator=generator)
    return x0.masked_fill(torch.rand(rows, length, generator=generator) < 0.7, 0), x0


def same(one: Decoded, other: Decoded) -> None:
    """Integers are equal; floats too, but for the rounding of a policy's matrix products, which depends on the batch."""
    for name in (field.name for field in dataclasses.fields(Decoded)):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), msg=name)


@torch.no_grad()
def run(state: DecodeState, sampler: Sampler) -> Decoded:
    """Step until every row is complete or its own budget is spent."""
    rows, done = [], []
    while len(state):
        state, output = step(state, predict(HashDenoiser(VOCAB), state, sampler), sampler)
        over = sampler.remasker.over(output.before, state)
        rows.append(state.row[over])
        done.append(Decoded.of(state, over))
        state = state.rows(~over)
    return Decoded.join(done)[torch.cat(rows).argsort()]


def test_every_registered_part_is_tried() -> None:
    for kind, registry in (
        ("order", ORDERS),
        ("count rule", COUNT_RULES),
        ("token rule", TOKEN_RULES),
        ("remasker", REMASKERS),
    ):
        assert {f"{kind} {name}" for name in registry} <= set(EVERY_SAMPLER)


@pytest.mark.parametrize("name", EVERY_SAMPLER)
@pytest.mark.parametrize("steps", [None, 3, 12])
def test_decoding_a_batch_is_decoding_each_row_alone(name: str, steps: int | None) -> None:
    sampler = Sampler(**EVERY_SAMPLER[name], steps=steps)
    tokens, x0 = a_batch()
    together = decode(HashDenoiser(VOCAB), tokens, sampler, seeds=7, x0=x0)
    for row in range(len(tokens)):
        some = slice(row, row + 1)
        alone = decode(HashDenoiser(VOCAB), tokens[some], sampler, seeds=7 + row, x0=x0[some])
        same(alone, together[torch.tensor([row])])


@pytest.mark.parametrize("name", EVERY_SAMPLER)
@given(budgets=st.lists(st.integers(1, 9), min_size=5, max_size=5))
@settings(max_examples=8, deadline=None)
def test_rows_with_budgets_of_their_own_are_decoded_as_if_alone(name: str, budgets: list[int]) -> None:
    sampler = Sampler(**EVERY_SAMPLER[name]).bind(HashDenoiser(VOCAB))
    tokens, x0 = a_batch()
    start = init(tokens, 0, seeds=7, x0=x0).replace(steps=torch.tensor(budgets))
    together = run(start, sampler)
    for row, budget in enumerate(budgets):
        some = slice(row, row + 1)
        alone = run(init(tokens[some], 0, steps=budget, seeds=7 + row, x0=x0[some]), sampler)
        same(alone, together[torch.tensor([row])])
        assert alone.nfe.item() <= budget * (9 if name in LOOKS_AHEAD else 1)


@pytest.mark.parametrize("name", [name for name in EVERY_SAMPLER if not name.startswith("remasker")])
@torch.no_grad()
def test_a_loop_by_hand_may_keep_rows_that_are_complete(name: str) -> None:
    """As in docs/concepts.md; each row has as many steps as positions to fill, so some are past their budget before others."""
    sampler = Sampler(**EVERY_SAMPLER[name]).bind(HashDenoiser(VOCAB))
    tokens, x0 = a_batch()
    state = init(tokens, 0, seeds=7, x0=x0)
    while not state.finished.all():
        state, _ = step(state, predict(HashDenoiser(VOCAB), state, sampler), sampler)
    expected = decode(HashDenoiser(VOCAB), tokens, sampler, seeds=7, x0=x0)
    assert torch.equal(state.tokens, expected.tokens) and torch.equal(state.commit_step, expected.commit_step)


@torch.no_grad()
def test_a_row_past_its_budget_is_not_opened_again() -> None:
    sampler = Sampler(**EVERY_SAMPLER["remasker remdm"]).bind(HashDenoiser(VOCAB))
    never_right = Sampler(
        "confidence", remasker=CriticUndo(critic=lambda state, prediction: torch.full(state.tokens.shape, -9.0))
    )
    for one in (sampler, never_right):
        state = init(a_batch()[0], 0, steps=3)
        for _ in range(6):
            state, output = step(state, predict(HashDenoiser(VOCAB), state, one), one)
            assert not (output.remasked.any(dim=1) & (output.before.step >= 2)).any()
        assert state.finished.all()


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors of a state or a prediction, those of memories included."""
    held = [v for v in vars(value).values() if isinstance(v, Tensor)]
    return held + [tensor for kept in getattr(value, "memory", {}).values() for tensor in kept]


@pytest.mark.parametrize("name", EVERY_SAMPLER)
def test_a_step_changes_neither_state_nor_prediction(name: str) -> None:
    sampler = Sampler(**EVERY_SAMPLER[name], steps=6).bind(HashDenoiser(VOCAB))
    tokens, x0 = a_batch()
    state = init(tokens, 0, steps=6, seeds=7, x0=x0)
    for _ in range(5):
        prediction = predict(HashDenoiser(VOCAB), state, sampler)
        before = [(tensor, tensor.clone()) for value in (state, prediction) for tensor in tensors_in(value)]
        memory = dict(state.memory)
        after, _ = step(state, prediction, sampler)
        again, _ = step(state, prediction, sampler)
        assert all(torch.equal(tensor, kept) for tensor, kept in before)
        assert state.memory == memory and prediction.candidates is None
        for field, value in after.tensors().items():
            assert torch.equal(value, again.tensors()[field]), f"{field}: a second call gives something else"
        state = after


@pytest.mark.parametrize("name", EVERY_SAMPLER)
def test_callbacks_see_every_commit_exactly_once(name: str) -> None:
    sampler = Sampler(**EVERY_SAMPLER[name], steps=9)
    tokens, x0 = a_batch()
    outputs: list[StepOutput] = []
    out = decode(HashDenoiser(VOCAB), tokens, sampler, seeds=7, x0=x0, on_step=[outputs.append])
    seen = tokens.clone()
    commits = torch.zeros_like(tokens)
    passes = torch.zeros(len(tokens), dtype=torch.int64)
    remasked = torch.zeros(len(tokens), dtype=torch.int64)
    for output in outputs:
        rows = output.before.row
        assert torch.equal(output.after.row, rows)
        assert torch.equal(output.before.tokens, seen[rows]), "no change happens between two callbacks"
        assert not (output.selected & output.remasked).any()
        became = (output.before.tokens == 0) & (output.after.tokens != 0)
        assert torch.equal(became, output.selected & output.before.masked)
        commits[rows] += became.long()
        passes[rows] += 1
        remasked[rows] += output.remasked.sum(dim=1)
        seen[rows] = output.after.tokens
    assert torch.equal(seen, out.tokens)
    assert torch.equal(passes, out.nfe) or name in LOOKS_AHEAD
    assert torch.equal(remasked, out.remasked)
    if sampler.remasker.final:
        assert torch.equal(commits, (tokens == 0).long())


class Watch:
    """A count rule that declares memories and keeps what it recalls."""

    memories = (FirstPrediction(), Drift(2))

    def __init__(self) -> None:
        self.recalled: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        self.recalled.append((state.step, state.recall(FirstPrediction())[0], state.recall(Drift(2))[0]))
        return scores == scores.amax(dim=1, keepdim=True)


def test_memories_restart_at_step_0_of_a_sequence() -> None:
    """A row that is replaced by a new sequence remembers nothing of the old one, while the other rows go on remembering."""
    watch = Watch()
    sampler = Sampler("left_to_right", watch)
    tokens = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 0], [0, 2, 0, 0]])
    state = init(tokens, 0, steps=9)
    denoiser = HashDenoiser(VOCAB)
    first = predict(denoiser, state, sampler).probabilities()
    for _ in range(2):
        state, _ = step(state, predict(denoiser, state, sampler), sampler)
    fresh = init(torch.tensor([[3, 0, 0, 0]] * 3), 0, steps=9)
    state = state.where(torch.tensor([False, True, False]), fresh)
    prediction = predict(denoiser, state, sampler)
    step(state, prediction, sampler)

    steps, kept, drift = watch.recalled[-1]
    assert steps.tolist() == [2, 0, 2]
    assert torch.equal(kept[0], first[0]) and torch.equal(kept[2], first[2])
    assert torch.equal(kept[1], prediction.probabilities()[1])
    assert torch.isinf(drift[1]).all(), "the new sequence has no earlier prediction"
    assert torch.isfinite(drift[0][prediction.predicted[0]]).all()


def test_memories_follow_the_rows_that_remain() -> None:
    watch = Watch()
    sampler = Sampler("left_to_right", watch)
    tokens = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0], [0, 1, 1, 1]])
    decode(HashDenoiser(VOCAB), tokens, sampler)
    first = watch.recalled[0][1]
    assert [len(steps) for steps, _, _ in watch.recalled] == [3, 1, 1]
    assert torch.equal(watch.recalled[1][1], first[1:2])


def test_two_parts_with_equal_memories_share_one() -> None:
    sampler = Sampler("confidence", "klass:0.9:0.01:2")
    state = init(torch.zeros(1, 3, dtype=torch.int64), 0)
    after, _ = step(state, predict(HashDenoiser(VOCAB), state, sampler), sampler)
    assert list(after.memory) == [Drift(2)]
    assert state.memory == {}


def test_a_memory_that_was_never_kept_says_so() -> None:
    with pytest.raises(ValueError, match="is kept by `decode` and `step` only"):
        init(torch.zeros(1, 3, dtype=torch.int64), 0).recall(Drift(2))
