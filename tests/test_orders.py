"""Heuristics against hand-worked scores; policies start at the confidence order and are small."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from anyorder.decoding.order_text import as_order
from anyorder.denoisers.transformer import paper_transformer
from anyorder.orders import heuristics as h
from anyorder.orders.learned import Critic, LearnedOrder
from anyorder.orders.policies import MLPPolicy
from anyorder.prediction import Prediction
from anyorder.registry import ORDERS, POLICIES
from anyorder.state import DecodeState
from anyorder.zoo import load_order

MakeState = Callable[..., tuple[DecodeState, Prediction]]

PROBABILITIES = [[0.7, 0.2, 0.1], [0.4, 0.35, 0.25], [0.05, 0.05, 0.9]]


def test_heuristics_by_hand(make_state: MakeState) -> None:
    seen = make_state(PROBABILITIES)
    assert h.confidence(*seen)[0].tolist() == pytest.approx([math.log(0.7), math.log(0.4), math.log(0.9)], rel=1e-5)
    assert h.margin(*seen)[0].tolist() == pytest.approx([0.5, 0.05, 0.85], rel=1e-5)
    assert h.log_margin(*seen)[0].tolist() == pytest.approx([math.log(3.5), math.log(0.4 / 0.35), math.log(18)], rel=1e-5)
    entropies = [-sum(p * math.log(p) for p in row) for row in PROBABILITIES]
    assert h.entropy(*seen)[0].tolist() == pytest.approx([-e for e in entropies], rel=1e-5)
    assert h.left_to_right(*seen)[0].tolist() == [0, -1, -2]
    assert h.right_to_left(*seen)[0].tolist() == [0, 1, 2]


def test_oracles_by_hand(make_state: MakeState) -> None:
    seen = make_state(PROBABILITIES, x0=torch.tensor([[1, 0, 2]]))
    assert h.oracle(*seen)[0].tolist() == pytest.approx([math.log(0.2), math.log(0.4), math.log(0.9)], rel=1e-5)
    assert h.gt_margin(*seen)[0].tolist() == pytest.approx([0.2 - 0.7, 0.4 - 0.35, 0.9 - 0.05], rel=1e-5)


def test_an_oracle_without_a_solution_says_so(make_state: MakeState) -> None:
    with pytest.raises(ValueError, match="needs the solution"):
        h.oracle(*make_state(PROBABILITIES))


def test_confidence_tells_apart_what_rounds_to_one(make_state: MakeState) -> None:
    logits = torch.tensor([[30.0, 0.0], [40.0, 0.0]])
    everywhere = torch.ones(1, 2, dtype=torch.bool)
    seen = make_state([[0.5, 0.5]] * 2, logits=logits, masked=everywhere)
    scores = h.confidence(*seen)[0]
    assert scores.exp().tolist() == [1.0, 1.0]
    assert scores[1] > scores[0]


@pytest.mark.parametrize("name", [*ORDERS.names(baseline=True), *ORDERS.names(oracle=True)])
def test_scores_are_float32_and_minus_infinity_where_nothing_is_predicted(make_state: MakeState, name: str) -> None:
    predicted = torch.tensor([[True, False, True]])
    logits = torch.tensor(PROBABILITIES).log()[[0, 2]]
    seen = make_state(PROBABILITIES, predicted=predicted, masked=predicted, logits=logits, x0=torch.tensor([[1, 0, 2]]))
    scores = ORDERS.make(name)(*seen)
    assert scores.dtype == torch.float32
    assert torch.isfinite(scores).tolist() == predicted.tolist()


@pytest.mark.parametrize("architecture", POLICIES.names(trained_by="supervised"))
def test_a_fresh_policy_is_the_confidence_order(make_state: MakeState, architecture: str) -> None:
    torch.manual_seed(0)
    seen = make_state(PROBABILITIES, hidden=torch.randn(1, 3, 8))
    scores = LearnedOrder(POLICIES[architecture](hidden_size=8, vocab_size=3, width=16))(*seen)
    odds = [math.log(p / (1 - p)) for p in (0.7, 0.4, 0.9)]
    assert scores[0].tolist() == pytest.approx(odds, rel=1e-4)
    assert scores.argsort(descending=True).tolist() == h.confidence(*seen).argsort(descending=True).tolist()


@pytest.mark.parametrize("architecture", ["mlp", "score_transformer", "score_hidden_transformer", "lookahead"])
def test_a_policy_without_a_start_is_its_network_alone(make_state: MakeState, architecture: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    seen = make_state(PROBABILITIES, hidden=torch.randn(1, 3, 8))
    policy = POLICIES[architecture](hidden_size=8, vocab_size=3, width=16, start="none")
    assert torch.equal(policy(*seen), policy.correct(*seen)[..., 0])
    assert policy(*seen).std() > 0, "random weights"
    assert "scale" not in policy.state_dict()
    policy.save_pretrained(tmp_path)
    assert torch.equal(load_order(tmp_path).policy(*seen), policy(*seen))


def test_the_published_mlp_has_the_weights_that_the_paper_counts() -> None:
    """Linear(1, d), Linear(d, 128), Linear(128, 1) at d = 384: about 50 K."""
    policy = MLPPolicy(hidden_size=384, vocab_size=31, start="none")
    assert sum(p.numel() for p in policy.parameters()) == 2 * 384 + (384 + 1) * 128 + 128 + 1


def test_an_unknown_start_names_the_two() -> None:
    with pytest.raises(ValueError, match="'margin'; it must be 'confidence' or 'none'"):
        MLPPolicy(hidden_size=8, vocab_size=3, start="margin")


def test_the_mlp_policy_is_under_one_percent_of_the_papers_denoiser() -> None:
    denoiser = paper_transformer(vocab_size=31, mask_token_id=2, max_length=164)
    policy = MLPPolicy(hidden_size=denoiser.hidden_size, vocab_size=31)
    weights = [sum(p.numel() for p in m.parameters()) for m in (policy, denoiser)]
    assert 5.3e6 < weights[1] < 6.5e6
    assert weights[0] < 0.01 * weights[1]


def test_an_unknown_architecture_or_setting_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="use one of mlp"):
        POLICIES["transformer-xxl"]
    with pytest.raises(ValueError, match="MLPPolicy has no setting heads; it has start, width"):
        MLPPolicy(hidden_size=8, vocab_size=3, heads=4)


def test_a_critic_needs_a_policy_that_was_trained_to_score_committed_tokens() -> None:
    with pytest.raises(ValueError, match="without scores of committed tokens"):
        Critic(MLPPolicy(hidden_size=4, vocab_size=3))
    assert LearnedOrder(MLPPolicy(hidden_size=4, vocab_size=3)).critic is None


def test_a_critic_beside_the_policy_scores_committed_tokens_and_does_not_order(make_state: MakeState, tmp_path: Path) -> None:
    def policy(shift: float, **changes: Any) -> MLPPolicy:
        made = MLPPolicy(hidden_size=4, vocab_size=3, denoiser_fingerprint="same", **changes)
        torch.nn.init.constant_(made.shift, shift)
        torch.nn.init.constant_(made.committed_shift, 10 * shift)
        return made

    where, critic = policy(1.0), policy(2.0, scores_committed=True)
    order = LearnedOrder(where, Critic(critic))
    predicted = torch.tensor([[True, False]])
    logits = torch.tensor([[0.2, 0.3, 0.5]]).log()
    seen = make_state([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]], masked=predicted, predicted=predicted, logits=logits)
    assert order(*seen)[0, 0].item() == pytest.approx(where(*seen)[0, 0].item())
    assert order.critic is not None and order.critic(*seen)[0, 1].item() == pytest.approx(20.0)

    order.save_pretrained(tmp_path)
    loaded = load_order(tmp_path)
    assert loaded.critic is not None and loaded.critic(*seen)[0, 1].item() == pytest.approx(20.0)
    assert loaded(*seen)[0, 0].item() == pytest.approx(order(*seen)[0, 0].item())


def test_a_policy_that_scores_committed_tokens_is_its_own_critic(tmp_path: Path) -> None:
    policy = MLPPolicy(hidden_size=4, vocab_size=3, scores_committed=True)
    LearnedOrder(policy, Critic(policy)).save_pretrained(tmp_path)
    assert not (tmp_path / "critic").exists()
    loaded = load_order(tmp_path)
    assert loaded.critic is not None and loaded.critic.policy is loaded.policy


@pytest.mark.parametrize("text", ["top_k:0", "confidence~-1", "confidence~x"])
def test_orders_with_impossible_arguments_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=text.split(":")[0].split("~")[0]):
        as_order(text)
