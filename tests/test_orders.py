"""Heuristics against hand-worked scores; policies start at the confidence order and are small."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from anyorder.denoisers.transformer import paper_transformer
from anyorder.orders import heuristics as h
from anyorder.orders.base import State
from anyorder.orders.policies import ARCHITECTURES, LearnedOrder, Policy
from anyorder.zoo import load_order

PROBABILITIES = [[0.7, 0.2, 0.1], [0.4, 0.35, 0.25], [0.05, 0.05, 0.9]]


def test_heuristics_by_hand(make_state: Callable[..., State]) -> None:
    state = make_state(PROBABILITIES)
    assert h.confidence(state)[0].tolist() == pytest.approx([math.log(0.7), math.log(0.4), math.log(0.9)], rel=1e-5)
    assert h.margin(state)[0].tolist() == pytest.approx([0.5, 0.05, 0.85], rel=1e-5)
    assert h.log_margin(state)[0].tolist() == pytest.approx([math.log(3.5), math.log(0.4 / 0.35), math.log(18)], rel=1e-5)
    entropies = [-sum(p * math.log(p) for p in row) for row in PROBABILITIES]
    assert h.entropy(state)[0].tolist() == pytest.approx([-e for e in entropies], rel=1e-5)
    assert h.left_to_right(state)[0].tolist() == [0, -1, -2]


def test_oracles_by_hand(make_state: Callable[..., State]) -> None:
    state = make_state(PROBABILITIES, x0=torch.tensor([[1, 0, 2]]))
    assert h.oracle(state)[0].tolist() == pytest.approx([math.log(0.2), math.log(0.4), math.log(0.9)], rel=1e-5)
    assert h.gt_margin(state)[0].tolist() == pytest.approx([0.2 - 0.7, 0.4 - 0.35, 0.9 - 0.05], rel=1e-5)


def test_an_oracle_without_the_truth_says_so(make_state: Callable[..., State]) -> None:
    with pytest.raises(ValueError, match="needs the truth"):
        h.oracle(make_state(PROBABILITIES))


def test_confidence_tells_apart_what_rounds_to_one(make_state: Callable[..., State]) -> None:
    logits = torch.tensor([[30.0, 0.0], [40.0, 0.0]])
    everywhere = torch.ones(1, 2, dtype=torch.bool)
    state = make_state([[0.5, 0.5]] * 2, logits=logits, masked=everywhere)
    scores = h.confidence(state)[0]
    assert scores.exp().tolist() == [1.0, 1.0]
    assert scores[1] > scores[0]


@pytest.mark.parametrize("name", [*h.HEURISTICS, *h.ORACLES])
def test_scores_are_float32_and_minus_infinity_where_nothing_is_predicted(make_state: Callable[..., State], name: str) -> None:
    predicted = torch.tensor([[True, False, True]])
    logits = torch.tensor(PROBABILITIES).log()[[0, 2]]
    state = make_state(PROBABILITIES, predicted=predicted, masked=predicted, logits=logits, x0=torch.tensor([[1, 0, 2]]))
    scores = (h.HEURISTICS | h.ORACLES)[name](state)
    assert scores.dtype == torch.float32
    assert torch.isfinite(scores).tolist() == predicted.tolist()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_fresh_policy_is_the_confidence_order(make_state: Callable[..., State], architecture: str) -> None:
    torch.manual_seed(0)
    state = make_state(PROBABILITIES, hidden=torch.randn(1, 3, 8))
    scores = LearnedOrder(Policy(architecture, hidden_size=8, vocab_size=3, width=16))(state)
    odds = [math.log(p / (1 - p)) for p in (0.7, 0.4, 0.9)]
    assert scores[0].tolist() == pytest.approx(odds, rel=1e-4)
    assert scores.argsort(descending=True).tolist() == h.confidence(state).argsort(descending=True).tolist()


def test_the_mlp_policy_is_under_one_percent_of_the_papers_denoiser() -> None:
    denoiser = paper_transformer(vocab_size=31, mask_token_id=2, max_length=164)
    policy = Policy("mlp", hidden_size=denoiser.hidden_size, vocab_size=31)
    weights = [sum(p.numel() for p in m.parameters()) for m in (policy, denoiser)]
    assert 5.3e6 < weights[1] < 6.5e6
    assert weights[0] < 0.01 * weights[1]


def test_an_unknown_architecture_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="use one of mlp"):
        Policy("transformer-xxl", hidden_size=8, vocab_size=3)


def test_undo_needs_a_policy_that_was_trained_to_judge(make_state: Callable[..., State]) -> None:
    order = LearnedOrder(Policy("mlp", hidden_size=4, vocab_size=3, judges=False))
    with pytest.raises(ValueError, match="without a quality score"):
        order.quality(make_state(PROBABILITIES))


def test_a_judge_beside_the_policy_judges_and_does_not_order(make_state: Callable[..., State], tmp_path: Path) -> None:
    def policy(shift: float, **changes: Any) -> Policy:
        made = Policy("mlp", hidden_size=4, vocab_size=3, denoiser_fingerprint="same", **changes)
        torch.nn.init.constant_(made.shift, shift)
        torch.nn.init.constant_(made.committed_shift, 10 * shift)
        return made

    where, judge = policy(1.0), policy(2.0, judges=True)
    order = LearnedOrder(where, judge)
    state = make_state([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]], masked=torch.tensor([[True, False]]),
                       predicted=torch.tensor([[True, False]]), logits=torch.tensor([[0.2, 0.3, 0.5]]).log())  # fmt: skip
    assert order(state)[0, 0].item() == pytest.approx(where(state)[0, 0].item())
    assert order.quality(state)[0, 1].item() == pytest.approx(20.0)
    assert not LearnedOrder(where).judges

    where.save_pretrained(tmp_path)
    judge.save_pretrained(tmp_path / "judge")
    loaded = load_order(tmp_path)
    assert loaded.quality(state)[0, 1].item() == pytest.approx(20.0)
    assert loaded(state)[0, 0].item() == pytest.approx(order(state)[0, 0].item())
