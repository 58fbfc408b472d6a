"""Every objective against values worked out by hand, and the gradients that the papers state."""

import math

import pytest
import torch

from anyorder.losses import (
    correctness_loss,
    focal_weight,
    loss_regression,
    mdm_loss,
    order_loss,
    policy_log_probabilities,
    rank_loss,
    token_cross_entropy,
)

LOSSES = torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.0, 0.0]])
MASKED = torch.tensor([[True, True, False], [True, False, False]])


def test_cross_entropy_is_minus_log_probability_where_masked() -> None:
    logits = torch.log(torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]]))
    losses = token_cross_entropy(logits, torch.tensor([[1, 2]]), torch.tensor([[True, False]]))
    assert losses.tolist() == [[pytest.approx(math.log(4)), 0.0]]


def test_mdm_loss_by_hand() -> None:
    assert mdm_loss(LOSSES, MASKED).item() == pytest.approx((1 + 2 + 3) / 2)
    assert mdm_loss(LOSSES, MASKED, torch.tensor([2.0, 0.5])).item() == pytest.approx((2 * 3 + 0.5 * 3) / 2)
    assert mdm_loss(LOSSES, MASKED, normalise="tokens").item() == pytest.approx(6 / 3)
    assert mdm_loss(LOSSES, MASKED, normalise="rows").item() == pytest.approx((1.5 + 3) / 2)
    with pytest.raises(ValueError, match="normalise"):
        mdm_loss(LOSSES, MASKED, normalise="nonsense")


def test_focal_weight_by_hand_and_with_gradient() -> None:
    losses = torch.tensor([math.log(2.0)], requires_grad=True)  # p = 1/2
    assert focal_weight(losses, 2.0).item() == pytest.approx(0.25 * 0.25)
    loss = mdm_loss(losses[None], torch.tensor([[True]]), focal_gamma=1.0)
    assert loss.item() == pytest.approx(0.25 * 0.5 * math.log(2))
    loss.backward()
    # d/dl of 0.25 (1 - e^-l) l = 0.25 (e^-l l + 1 - e^-l)
    assert losses.grad is not None
    assert losses.grad.item() == pytest.approx(0.25 * (0.5 * math.log(2) + 0.5))


def test_policy_probabilities_live_on_masked_positions() -> None:
    masked = torch.tensor([[True, False, True], [False, False, False]])
    log_q = policy_log_probabilities(torch.tensor([[0.0, 9.0, math.log(3.0)], [1.0, 2.0, 3.0]]), masked)
    assert log_q.exp()[0].tolist() == pytest.approx([0.25, 0.0, 0.75])
    assert (log_q[1] == -torch.inf).all()


def test_order_loss_by_hand() -> None:
    scores = torch.tensor([[0.0, math.log(3.0), 5.0], [1.0, 0.0, 0.0]])
    expected = (0.25 * 1 + 0.75 * 2 + 3) / 2
    assert order_loss(scores, LOSSES, MASKED).item() == pytest.approx(expected)


def test_uniform_policy_gives_mdm_loss_over_the_number_of_masked() -> None:
    generator = torch.Generator().manual_seed(0)
    masked = torch.rand(6, 9, generator=generator) < 0.6
    losses = torch.rand(6, 9, generator=generator) * masked
    weight = torch.rand(6, generator=generator)
    for row in range(6):
        uniform = order_loss(torch.zeros(1, 9), losses[row : row + 1], masked[row : row + 1], weight[row : row + 1])
        plain = mdm_loss(losses[row : row + 1], masked[row : row + 1], weight[row : row + 1])
        assert uniform.item() == pytest.approx(plain.item() / max(1, int(masked[row].sum())))


def test_order_loss_gradient_is_q_times_advantage_and_none_reaches_the_losses() -> None:
    scores = torch.tensor([[0.3, -0.2, 0.9]], requires_grad=True)
    losses = torch.tensor([[1.0, 2.0, 4.0]], requires_grad=True)
    masked = torch.ones(1, 3, dtype=torch.bool)
    order_loss(scores, losses, masked, torch.tensor([2.0])).backward()
    q = torch.softmax(scores.detach(), dim=1)
    expected = 2.0 * q * (losses.detach() - (q * losses.detach()).sum())
    torch.testing.assert_close(scores.grad, expected)
    assert losses.grad is None


def test_rows_without_masks_cost_nothing_and_have_finite_gradients() -> None:
    scores = torch.zeros(2, 3, requires_grad=True)
    masked = torch.tensor([[True, True, False], [False, False, False]])
    loss = order_loss(scores, LOSSES, masked) + rank_loss(scores, -LOSSES, masked) + correctness_loss(scores, masked, masked)
    loss.backward()
    assert torch.isfinite(loss)
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


def test_correctness_loss_by_hand() -> None:
    scores = torch.tensor([[0.0, math.log(3.0), 9.0]])  # probabilities 1/2, 3/4
    right = torch.tensor([[True, False, True]])
    where = torch.tensor([[True, True, False]])
    assert correctness_loss(scores, right, where).item() == pytest.approx((math.log(2) + math.log(4)) / 2)


def test_loss_regression_is_zero_when_the_score_names_the_loss() -> None:
    losses = torch.tensor([[0.1, 1.0, 3.0]])
    scores = -torch.log(torch.expm1(losses))  # softplus(-s) = l
    everywhere = torch.ones(1, 3, dtype=torch.bool)
    assert loss_regression(scores, losses, everywhere).item() == pytest.approx(0.0, abs=1e-10)
    zero_score = loss_regression(torch.zeros(1, 1), torch.tensor([[1.0]]), everywhere[:, :1])
    assert zero_score.item() == pytest.approx((math.log(1 + math.log(2)) - math.log(2)) ** 2)


def test_rank_loss_by_hand() -> None:
    gains = torch.tensor([[math.log(1.0), math.log(3.0)]])  # target 1/4, 3/4
    everywhere = torch.ones(1, 2, dtype=torch.bool)
    assert rank_loss(torch.zeros(1, 2), gains, everywhere).item() == pytest.approx(math.log(2))
    best = rank_loss(gains, gains, everywhere).item()
    assert best == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)))
