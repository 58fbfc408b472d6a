"""Every objective against values worked out by hand, and the gradients that the papers state."""

import math

import pytest
import torch

from anyorder.losses import (
    clipped_surrogate,
    correctness_loss,
    focal_weight,
    group_advantages,
    loss_regression,
    mdm_loss,
    order_loss,
    policy_aware_weight,
    policy_log_probabilities,
    rank_loss,
    selection_loss,
    token_cross_entropy,
    trajectory_kl_weight,
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
    assert mdm_loss(LOSSES, MASKED, normalize="tokens").item() == pytest.approx(6 / 3)
    assert mdm_loss(LOSSES, MASKED, normalize="rows").item() == pytest.approx((1.5 + 3) / 2)
    with pytest.raises(ValueError, match="normalize"):
        mdm_loss(LOSSES, MASKED, normalize="nonsense")


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


def step_on_free_scores(scores: torch.Tensor, expected_losses: torch.Tensor, rate: float = 1e-3) -> torch.Tensor:
    """q after one small step of gradient descent on L_ORDER with free scores, minus q before, over the rate."""
    scores = scores[None].double().requires_grad_()
    everywhere = torch.ones_like(scores, dtype=torch.bool)
    order_loss(scores, expected_losses[None].double(), everywhere).backward()
    assert scores.grad is not None
    q = torch.softmax(scores.detach(), dim=1)
    return ((torch.softmax(scores.detach() - rate * scores.grad, dim=1) - q) / rate)[0]


def test_the_change_of_the_right_positions_is_minus_a_covariance() -> None:
    generator = torch.Generator().manual_seed(3)
    scores, losses = torch.randn(7, generator=generator).double(), torch.rand(7, generator=generator).double() * 3
    right = torch.tensor([True, False, True, True, False, False, True])
    q = torch.softmax(scores, dim=0)
    advantage = q * (losses - (q * losses).sum())
    covariance = (q * right * advantage).sum() - (q * right).sum() * (q * advantage).sum()
    assert step_on_free_scores(scores, losses, 1e-6)[right].sum().item() == pytest.approx(-covariance.item(), abs=1e-6)


def test_a_step_favours_right_positions_when_every_one_is_better_than_average() -> None:
    losses = torch.tensor([0.1, 0.3, 2.0, 4.0])
    for scores in (torch.zeros(4), torch.tensor([0.5, -1.0, 2.0, 0.0])):
        change = step_on_free_scores(scores, losses)
        q = torch.softmax(scores, dim=0)
        assert ((losses < (q * losses).sum()) == torch.tensor([True, True, False, False])).all()
        assert change[:2].sum() > 0


def test_a_step_can_move_probability_away_from_right_positions() -> None:
    """Position 1 is right but unsure, the largest of many at p = .30; the others are wrong by a hair (.45 against .55, .497
    against .503), so their losses are lower."""
    right = torch.tensor([False, True, False])
    losses = -torch.tensor([0.45, 0.30, 0.497]).log()
    change = step_on_free_scores(torch.tensor([0.0, 1.0, 0.0]), losses)
    assert change[right].sum() < 0


def test_being_right_at_more_than_one_half_is_not_enough() -> None:
    scores, losses = torch.tensor([0.30, 0.65, 0.05]).log(), torch.tensor([0.01, 0.65, 0.75])  # right, right, wrong
    assert step_on_free_scores(scores, losses)[:2].sum() < 0


def test_in_expectation_it_ranks_by_cross_entropy_not_by_correctness() -> None:
    """Two calibrated posteriors: (.6, .4), and .65 with the rest on seven tokens. The second is more often right."""
    first, second = torch.tensor([0.6, 0.4]), torch.tensor([0.65, *[0.05] * 7])
    entropy = torch.stack([-(p * p.log()).sum() for p in (first, second)])
    assert second.max() > first.max()
    assert step_on_free_scores(torch.zeros(2), entropy)[0] > 0, "L_ORDER prefers the position that is less often right"
    wrong = torch.stack([1 - first.max(), 1 - second.max()])
    assert step_on_free_scores(torch.zeros(2), wrong)[1] > 0, "the same loss on correctness does not"


def test_selection_loss_for_one_of_two_by_hand() -> None:
    # one of two: pi = sigmoid(+-(s1 - s2) / 2T), since the level lies in the middle
    scores = torch.tensor([[1.0, 0.0, 7.0]], requires_grad=True)
    masked = torch.tensor([[True, True, False]])
    wrong = torch.tensor([[True, False, True]])
    loss = selection_loss(scores, wrong, masked, torch.tensor([1]), temperature=0.5)
    expected = 1 / (1 + math.exp(-1.0))
    assert loss.item() == pytest.approx(expected, abs=1e-5)
    loss.backward()
    assert scores.grad is not None  # d/ds1 of sigmoid((s1 - s2) / 2T) with 2T = 1
    slope = expected * (1 - expected)
    assert scores.grad[0].tolist() == pytest.approx([slope, -slope, 0.0], abs=1e-5)


def test_selection_loss_has_the_gradient_of_its_value() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(4, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    masked = torch.rand(4, 6, generator=generator) < 0.8
    wrong = torch.rand(4, 6, generator=generator) < 0.5
    weight = torch.tensor([1.0, 0.0, 2.0, 0.5], dtype=torch.float64)

    def value(scores: torch.Tensor) -> torch.Tensor:
        return selection_loss(scores, wrong, masked, torch.tensor([2, 2, 3, 1]), 0.7, weight)

    assert torch.autograd.gradcheck(value, (scores,), eps=1e-5, atol=1e-5)


def test_selection_loss_counts_nothing_where_there_is_no_choice() -> None:
    scores = torch.randn(2, 3, requires_grad=True)
    masked = torch.tensor([[True, True, False], [False, False, False]])
    loss = selection_loss(scores, masked, masked, torch.tensor([2, 1]), 0.5)
    loss.backward()
    assert loss.item() == 0.0
    assert scores.grad is not None
    assert torch.equal(scores.grad, torch.zeros_like(scores))


def test_policy_aware_weights_by_hand() -> None:
    scores = torch.tensor([[0.0, math.log(3.0), 5.0], [1.0, 0.0, 0.0]], requires_grad=True)
    weight = policy_aware_weight(scores, MASKED)
    assert weight.tolist() == [pytest.approx([1.25, 1.75, 0.0]), pytest.approx([2.0, 0.0, 0.0])]
    assert not weight.requires_grad
    without = policy_aware_weight(scores, MASKED, alpha=2.0, plus_one=False)
    assert without.tolist() == [pytest.approx([0.5, 1.5, 0.0]), pytest.approx([2.0, 0.0, 0.0])]
    assert mdm_loss(LOSSES, MASKED, token_weight=weight).item() == pytest.approx((1.25 + 2 * 1.75 + 2 * 3) / 2)
    papl = policy_aware_weight(-LOSSES / 1.0, MASKED, alpha=1.0)
    by_hand = ((1 + 1 / (1 + math.exp(-1))) * 1 + (1 + 1 / (1 + math.exp(1))) * 2) / 2 / 2 + (2 * 3) / 2
    assert mdm_loss(LOSSES, MASKED, token_weight=papl, normalize="rows").item() == pytest.approx(by_hand)


def test_a_uniform_policy_recovers_the_plain_loss() -> None:
    token_losses = torch.rand(3, 4)
    everywhere = torch.ones(3, 4, dtype=torch.bool)
    weight = policy_aware_weight(torch.zeros(3, 4), everywhere)
    plain = mdm_loss(token_losses, everywhere)
    assert mdm_loss(token_losses, everywhere, token_weight=weight).item() == pytest.approx(1.25 * plain.item())
    assert order_loss(torch.zeros(3, 4), token_losses, everywhere).item() == pytest.approx(plain.item() / 4)


def test_no_gradient_reaches_the_policy_through_the_weights() -> None:
    token_losses = torch.rand(2, 3, requires_grad=True)
    scores = torch.randn(2, 3, requires_grad=True)
    everywhere = torch.ones(2, 3, dtype=torch.bool)
    weight = policy_aware_weight(scores, everywhere)
    mdm_loss(token_losses, everywhere, token_weight=weight).backward()
    assert scores.grad is None
    torch.testing.assert_close(token_losses.grad, weight / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_group_advantages_by_hand(dtype: torch.dtype) -> None:
    returns = torch.tensor([1.0, 5.0, 0.0, 5.0, 2.0, 5.0], dtype=dtype)
    group = torch.tensor([0, 1, 0, 1, 0, 1])  # 1, 0, 2 with mean 1 and std sqrt(2/3); and three alike
    centred = group_advantages(returns, group, standardize=False)
    assert centred.dtype == dtype
    assert centred.tolist() == pytest.approx([0.0, 0.0, -1.0, 0.0, 1.0, 0.0])
    by_std = group_advantages(returns, group, standardize=True, epsilon=0.5)
    unit = 1 / (math.sqrt(2 / 3) + 0.5)
    assert by_std.tolist() == pytest.approx([0.0, 0.0, -unit, 0.0, unit, 0.0])


def test_a_group_of_returns_alike_counts_nothing_even_where_their_mean_is_rounded() -> None:
    returns = torch.full((7,), 0.1)
    assert torch.zeros(1).index_add(0, torch.zeros(7, dtype=torch.int64), returns) / 7 != returns[0]
    assert (group_advantages(returns, torch.zeros(7, dtype=torch.int64), standardize=True) == 0).all()


def test_groups_with_numbers_missing_between_them() -> None:
    returns = torch.tensor([1.0, 3.0, 2.0, 4.0])
    assert group_advantages(returns, torch.tensor([0, 0, 3, 3]), standardize=False).tolist() == [-1.0, 1.0, -1.0, 1.0]


def test_clipped_surrogate_by_hand() -> None:
    """A gain is capped where the ratio has grown, a loss where it has shrunk; the other two sides are not."""
    ratio = torch.tensor([1.0, 1.5, 0.5, 1.5, 0.5, 1.1])
    advantages = torch.tensor([2.0, 2.0, 2.0, -2.0, -2.0, -2.0])
    log_prob = ratio.log().requires_grad_()
    value = clipped_surrogate(log_prob, torch.zeros(6), advantages, 0.2)
    assert value.tolist() == pytest.approx([2.0, 2.4, 1.0, -3.0, -1.6, -2.2])
    value.sum().backward()
    assert log_prob.grad is not None  # d(rho A) = rho A, and 0 where clipped
    assert log_prob.grad.tolist() == pytest.approx([2.0, 0.0, 1.0, -3.0, 0.0, -2.2])


def test_trajectory_kl_weight_by_hand() -> None:
    now = torch.tensor([math.log(0.5), math.log(0.5), 0.0], requires_grad=True)
    old = torch.tensor([math.log(0.5), math.log(0.25), -100.0])
    reference = torch.tensor([math.log(0.5), math.log(0.125), 0.0])
    weight = trajectory_kl_weight(now, old, reference)
    assert not weight.requires_grad
    assert weight[:2].tolist() == pytest.approx([1.0, 2 * (1 + math.log(4))])
    assert weight[2].item() == pytest.approx(math.exp(20), rel=1e-4), "a ratio that would overflow is held back"
