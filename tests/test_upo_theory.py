"""The theory of unmasking policy optimization (arXiv 2510.05725), on a model small enough to enumerate every path."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anyorder.decoding.actions import PlackettLuce
from anyorder.decoding.tokens import Sample
from anyorder.evaluation.enumeration import (
    Paths,
    TabularOrder,
    best_order,
    best_order_by_path,
    confidence_softmax,
    deviation,
    enumerate_paths,
    kl_divergence,
    success_map,
    tilted,
)
from anyorder.losses import clipped_surrogate, group_advantages, trajectory_kl_weight
from anyorder.orders.base import Order
from anyorder.training.rollout import Recorder, rollout
from small_mdm import (
    EPSILON,
    MASKS,
    PATHS,
    REFERENCE,
    REWARD,
    SEQUENCES,
    data_of,
    denoiser_of,
    eq_10,
    paths_of,
    random_order,
    slope_of,
    step,
    success,
)

BETAS = (0.1, 0.5, 2.0, 5.0)


# ---- Proposition 1 and the score-function gradient ----------------------------------------------------------------------


def output_level(order: TabularOrder, old: Tensor, advantages: Tensor) -> Tensor:
    """Eq. 16: the mean over outputs of the old order of p / p_old * A, with p_old and A (O,)."""
    return (old * (PATHS.distribution(order) / old) * advantages).sum()


def token_level(order: TabularOrder, old: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Eq. 17, clipped as eq. 19: the mean over paths of the old order of sum_n rho_n A, with log g_old (N, T) and A (O,)."""
    weights = (old.sum(dim=1) + PATHS.token_log_probs.sum(dim=1)).exp()
    of_paths = advantages[PATHS.ends, None].expand_as(old)
    gain = clipped_surrogate(PATHS.choices(order).flatten(), old.flatten(), of_paths.flatten(), clip).view_as(old)
    return (weights * gain.sum(dim=1)).sum()


def standardized(p: Tensor) -> Tensor:
    rate = p @ REWARD
    return (REWARD - rate) / ((p @ (REWARD - rate).square()).sqrt() + EPSILON)


def both_gradients(order: TabularOrder, old_order: TabularOrder, clip: float) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        p, choices = PATHS.distribution(old_order), PATHS.choices(old_order)
    advantages = standardized(p)
    return (
        slope_of(output_level(order, p, advantages), order),
        slope_of(token_level(order, choices, advantages, clip), order),
    )


@pytest.mark.parametrize("clip", [0.2, math.inf])
def test_output_and_token_level_gradients_are_equal_at_the_first_step(clip: float) -> None:
    order = random_order(PATHS, 5)
    by_output, by_token = both_gradients(order, order, clip)
    assert by_output.norm() > 0.01
    torch.testing.assert_close(by_token, by_output)


def test_after_a_step_the_gradients_differ_and_the_more_the_longer_the_step() -> None:
    differences = []
    for length in (0.01, 0.1, 1.0):
        order, old = random_order(PATHS, 5), random_order(PATHS, 5)
        step(order, both_gradients(order, old, math.inf)[0], length)
        by_output, by_token = both_gradients(order, old, math.inf)
        differences.append(float((by_token - by_output).norm() / by_output.norm()))
    assert differences[0] > 1e-4
    assert differences[1] / differences[0] == pytest.approx(10, rel=0.3), "to first order in the step"
    assert differences[2] > differences[1]


def test_the_score_function_gradient_is_that_of_the_expected_reward() -> None:
    """A group of all paths, each weighed by its probability, whatever the baseline. (Training takes the mean over the steps,
    which all paths have as many of.)"""
    order = random_order(PATHS, 6)
    exact = slope_of(PATHS.distribution(order) @ REWARD, order)
    old = PATHS.choices(order).detach()
    rate = success(PATHS, order)
    for baseline in (0.0, rate, 0.9):
        found = slope_of(token_level(order, old, REWARD - baseline, clip=0.2), order)
        torch.testing.assert_close(found, exact)
    with_wrong_tokens = slope_of(token_level(order, old, REWARD.flip(0).roll(1), clip=0.2), order)
    assert (with_wrong_tokens - exact).norm() > 0.1 * exact.norm()


def test_a_reward_by_position_earns_its_gradient_from_what_is_still_to_come() -> None:
    """The returns of SAS: the log-probability of each token, as of the step in which it is committed."""
    order = random_order(PATHS, 6)
    gains = PATHS.token_log_probs
    exact = slope_of((PATHS.log_probs(order).exp() * gains.sum(dim=1)).sum(), order)
    to_come = gains.flip(1).cumsum(dim=1).flip(1)
    choices = PATHS.choices(order)
    weights = PATHS.log_probs(order).exp().detach()
    surrogate = clipped_surrogate(choices.flatten(), choices.detach().flatten(), to_come.flatten(), 0.2).view_as(choices)
    torch.testing.assert_close(slope_of((weights * surrogate.sum(dim=1)).sum(), order), exact)


def test_the_ratio_is_one_only_at_the_first_inner_step() -> None:
    order = random_order(PATHS, 7)
    recorder = Recorder(PlackettLuce())
    tokens = MASKS.expand(50, -1)
    steps, _ = rollout(
        denoiser_of(0), order, recorder, tokens, first_seed=0, steps=None, block_length=None, token=Sample(), x0=None
    )

    def ratios() -> Tensor:
        scores = [order(s.state, s.prediction) for s in steps[:2]]
        return torch.cat([
            (PlackettLuce().log_prob(x, s.drawn) - s.log_prob).exp() for x, s in zip(scores, steps[:2], strict=True)
        ])  # fmt: skip

    assert (ratios() == 1).all()
    step(order, slope_of(PATHS.distribution(order) @ REWARD, order), 1.0)
    assert (ratios() != 1).all()


@given(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=4), st.integers(2, 6), st.booleans())
@settings(max_examples=40, deadline=None)
def test_groups_whose_returns_are_alike_are_skipped(levels: list[float], size: int, standardize: bool) -> None:
    """Exactly, wherever the order has moved to: they give no gradient at all."""
    returns = torch.tensor(levels).repeat_interleave(size)
    group = torch.arange(len(levels)).repeat_interleave(size)
    advantages = group_advantages(returns, group, standardize=standardize)
    assert (advantages == 0).all()
    log_prob = torch.linspace(-3, 0, len(returns), requires_grad=True)
    clipped_surrogate(log_prob, torch.full_like(returns, -1.0), advantages, 0.2).sum().backward()
    assert log_prob.grad is not None and (log_prob.grad == 0).all()


# ---- Theorem 1: success --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", BETAS)
def test_the_closed_form_is_the_maximum_of_eq_10_over_all_distributions_of_outputs(beta: float) -> None:
    reference = PATHS.distribution(REFERENCE)
    best = tilted(reference, REWARD, 0.6, beta, EPSILON)
    assert best.sum().item() == pytest.approx(1.0)
    generator = torch.Generator().manual_seed(0)
    for spread in (1e-3, 0.1, 1.0):
        for _ in range(20):
            other = torch.softmax(best.log() + spread * torch.randn(best.shape, generator=generator), dim=0)
            assert eq_10(other, reference, 0.6, beta) < eq_10(best, reference, 0.6, beta)


@pytest.mark.parametrize("beta", BETAS)
def test_success_follows_eq_11_and_settles_above_the_reference(beta: float) -> None:
    reference = PATHS.distribution(REFERENCE)
    start = rate = float(reference @ REWARD)
    for _ in range(5000):
        previous, rate = rate, float(tilted(reference, REWARD, rate, beta, EPSILON) @ REWARD)
        assert rate == pytest.approx(success_map(previous, start, beta, EPSILON), abs=1e-12)
        assert rate > start
        if abs(rate - previous) < 1e-13:
            break
    assert rate == pytest.approx(success_map(rate, start, beta, EPSILON), abs=1e-12), "a fixed point"
    moved = 1e-6
    slope = (success_map(rate - moved, start, beta, EPSILON) - rate) / -moved
    assert abs(slope) < 1, "an attracting one, as the theorem asks for"


def test_the_weights_of_eq_33_need_the_root_that_eq_11_has() -> None:
    """Eq. 33 is printed without it; the recursion of eqs. 30-32 then has another success rate than eq. 11."""
    reference = PATHS.distribution(REFERENCE)
    start, beta = float(reference @ REWARD), 2.0

    def recursion(power: float) -> float:
        scale = (start * (1 - start) + EPSILON) ** power
        weight = torch.where(REWARD > 0, (1 - start) / scale, -start / scale) / beta
        unnormalized = reference * weight.exp()
        return float(unnormalized @ REWARD / unnormalized.sum())

    assert recursion(0.5) == pytest.approx(success_map(start, start, beta, EPSILON))
    assert abs(recursion(1.0) - success_map(start, start, beta, EPSILON)) > 0.03


# ---- Theorem 2: closeness to the data -----------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("seed", range(3))
def test_the_closed_form_is_nearer_to_the_data_by_the_logarithm_of_the_success_gained(beta: float, seed: int) -> None:
    paths, data = paths_of(seed), data_of(seed)
    reference = paths.distribution(REFERENCE)
    start = float(reference @ REWARD)
    best = tilted(reference, REWARD, start, beta, EPSILON)
    gained = kl_divergence(data, reference) - kl_divergence(data, best)
    assert gained.item() > 0
    assert gained.item() == pytest.approx(math.log(float(best @ REWARD) / start))


# ---- what an order can reach with a frozen denoiser ---------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_the_best_order_gains_success_but_less_than_eq_11_says(seed: int, beta: float) -> None:
    paths = paths_of(seed)
    start, limit = success(paths, REFERENCE), paths.highest(REWARD)
    best = best_order(paths, REFERENCE, REWARD, start, beta, EPSILON)
    assert -1e-12 < best.gap < 1e-5
    rate = success(paths, best.order)
    promised = success_map(start, start, beta, EPSILON)
    assert start < rate <= limit + 1e-12
    assert rate < promised - 0.01
    by_path = success(paths, best_order_by_path(paths, REFERENCE, REWARD, start, beta, EPSILON))
    assert start < by_path < rate


def test_small_beta_takes_eq_11_above_anything_that_an_order_can_do() -> None:
    start = success(PATHS, REFERENCE)
    assert success_map(start, start, 0.1, EPSILON) > 0.999
    assert PATHS.highest(REWARD) < 0.85


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_repeated_the_orders_settle_above_the_reference(beta: float) -> None:
    start = rate = success(PATHS, REFERENCE)
    for _ in range(12):
        previous, rate = rate, success(PATHS, best_order(PATHS, REFERENCE, REWARD, rate, beta, EPSILON).order)
        assert start < rate <= success_map(previous, start, beta, EPSILON) + 1e-9
        if abs(rate - previous) < 1e-4:
            break
    assert abs(rate - previous) < 1e-4


def test_theorem_2_can_fail_for_an_order() -> None:
    """Success rises, and so does the divergence from the data: the order moves probability between right sequences."""
    reference = PATHS.distribution(REFERENCE)
    start = float(reference @ REWARD)
    best = PATHS.distribution(best_order(PATHS, REFERENCE, REWARD, start, 0.1, EPSILON).order).detach()
    assert float(best @ REWARD) > start + 0.1
    assert kl_divergence(data_of(0), best) > kl_divergence(data_of(0), reference) + 0.1


@pytest.mark.parametrize("seed", range(4))
def test_theorem_2_holds_for_an_order_where_one_sequence_alone_is_right(seed: int) -> None:
    """Then the divergence from the data is -log of the success rate."""
    data = torch.zeros(len(SEQUENCES), dtype=torch.float64)
    data[5 + 4 * seed] = 1.0
    paths = enumerate_paths(denoiser_of(seed, data), MASKS)
    reference = paths.distribution(REFERENCE)
    start = float(reference @ data)
    best = paths.distribution(best_order(paths, REFERENCE, data, start, 0.5, EPSILON).order).detach()
    assert float(best @ data) > start
    assert kl_divergence(data, best).item() == pytest.approx(-math.log(float(best @ data)))
    assert kl_divergence(data, best) < kl_divergence(data, reference)


# ---- Propositions 2 and 3: the divergence of paths ----------------------------------------------------------------------


def path_divergence(order: Order, reference: Order, paths: Paths = PATHS) -> Tensor:
    log_p, log_ref = paths.log_probs(order), paths.log_probs(reference)
    return (log_p.exp() * (log_p - log_ref)).sum()


@pytest.mark.parametrize("seed", range(5))
def test_the_divergence_of_paths_bounds_that_of_outputs(seed: int) -> None:
    first, second = random_order(PATHS, seed), random_order(PATHS, seed + 50)
    of_outputs = kl_divergence(PATHS.distribution(first), PATHS.distribution(second)).item()
    of_paths = path_divergence(first, second).item()
    assert 0 < of_outputs < of_paths


@pytest.mark.parametrize(
    "reference", [REFERENCE, confidence_softmax(0.5), random_order(PATHS, 9)], ids=["sharp", "soft", "table"]
)
@pytest.mark.parametrize("moved", [0.0, 0.5, 3.0])
def test_the_surrogate_has_the_gradient_of_the_divergence_of_paths(reference: Order, moved: float) -> None:
    """On the policy that drew the paths, and on one that has moved away from it."""
    order, old = random_order(PATHS, 10), random_order(PATHS, 10)
    step(order, slope_of(PATHS.distribution(order) @ REWARD, order), moved)
    choices = PATHS.choices(order)
    with torch.no_grad():
        sums = [PATHS.choices(x).sum(dim=1) for x in (order, old, reference)]
        weight = trajectory_kl_weight(*sums)
        drawn = PATHS.log_probs(old).exp()
    assert not weight.requires_grad
    surrogate = (drawn * weight * choices.sum(dim=1)).sum()
    torch.testing.assert_close(slope_of(surrogate, order), slope_of(path_divergence(order, reference), order))


def test_without_the_ratio_the_surrogate_is_wrong_off_the_policy() -> None:
    """So that the test above can fail."""
    order, old, reference = random_order(PATHS, 10), random_order(PATHS, 10), confidence_softmax(0.5)
    step(order, slope_of(PATHS.distribution(order) @ REWARD, order), 3.0)
    with torch.no_grad():
        now, ref = PATHS.choices(order).sum(dim=1), PATHS.choices(reference).sum(dim=1)
        drawn = PATHS.log_probs(old).exp()
        weight = trajectory_kl_weight(now, now, ref)
    found = slope_of((drawn * weight * PATHS.choices(order).sum(dim=1)).sum(), order)
    exact = slope_of(path_divergence(order, reference), order)
    assert (found - exact).norm() > 0.05 * exact.norm()


def test_the_best_order_by_path_is_where_reward_and_surrogate_balance() -> None:
    """No gradient is left there of what is trained: success over its deviation, minus beta times the divergence of paths."""
    start, beta = success(PATHS, REFERENCE), 0.5
    order = best_order_by_path(PATHS, REFERENCE, REWARD, start, beta, EPSILON)

    def value(order: TabularOrder) -> Tensor:
        gain = (PATHS.distribution(order) @ REWARD) / deviation(start, EPSILON)
        return gain - beta * path_divergence(order, REFERENCE)

    assert slope_of(value(order), order).abs().max() < 1e-9
    most = value(order).item()
    assert all(value(random_order(PATHS, seed)).item() < most for seed in range(20))


RISE: list[Callable[[Paths, float], Order]] = [
    lambda paths, beta: best_order(paths, REFERENCE, REWARD, success(paths, REFERENCE), beta, EPSILON).order,
    lambda paths, beta: best_order_by_path(paths, REFERENCE, REWARD, success(paths, REFERENCE), beta, EPSILON),
]


@pytest.mark.parametrize("rise", RISE, ids=["outputs", "paths"])
def test_success_falls_back_to_the_reference_as_beta_grows(rise: Callable[[Paths, float], Order]) -> None:
    start = success(PATHS, REFERENCE)
    rates = [success(PATHS, rise(PATHS, beta)) for beta in (0.2, 2.0, 200.0)]
    assert rates[0] > rates[1] > rates[2] > start
    assert rates[2] == pytest.approx(start, abs=0.01)
