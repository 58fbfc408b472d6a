"""Schedules match their formulas; masking touches maskable positions only."""

import math

import pytest
import torch

from anyorder.diffusion import CosineSchedule, DiscreteSchedule, LinearSchedule, mask_tokens, stratified


def test_linear_schedule_by_hand() -> None:
    t = torch.tensor([0.25, 0.5, 1.0])
    assert LinearSchedule().alpha(t).tolist() == [0.75, 0.5, 0.0]
    assert LinearSchedule().weight(t).tolist() == [4.0, 2.0, 1.0]


def test_cosine_schedule_by_hand() -> None:
    schedule = CosineSchedule()
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    assert schedule.alpha(t).tolist() == pytest.approx([1.0, 1 - math.sqrt(0.5), 0.0])
    assert schedule.weight(torch.tensor([0.5])).item() == pytest.approx(math.pi / 2)  # tan(pi/4) = 1


@pytest.mark.parametrize("schedule", [LinearSchedule(), CosineSchedule()])
def test_weight_is_minus_alpha_slope_over_masked_share(schedule: LinearSchedule | CosineSchedule) -> None:
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64, requires_grad=True)
    alpha = schedule.alpha(t)
    (slope,) = torch.autograd.grad(alpha.sum(), t)
    torch.testing.assert_close(schedule.weight(t), -slope / (1 - alpha))


def test_discrete_schedule_is_that_of_ye_et_al() -> None:
    schedule = DiscreteSchedule(20)
    t = schedule.sample_times(torch.tensor([0.0, 0.0499, 0.05, 0.999]))
    assert t.tolist() == pytest.approx([1 / 20, 1 / 20, 2 / 20, 1.0])  # levels 0, 0, 1, 19: probability (level + 1) / 20
    assert (1 - schedule.alpha(t)).tolist() == pytest.approx(t.tolist())
    assert schedule.weight(t).tolist() == pytest.approx([20, 20, 19, 1])  # T - level


def test_stratified_times_fill_every_slice() -> None:
    t = stratified(torch.tensor([0.3, 0.9, 0.1, 0.5]))
    assert sorted((t * 4).floor().int().tolist()) == [0, 1, 2, 3]


def test_masking_leaves_other_positions_alone_and_has_the_right_share() -> None:
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randint(1, 9, (200, 100), generator=generator)
    maskable = torch.rand(200, 100, generator=generator) < 0.5
    x_t, masked = mask_tokens(x0, maskable, torch.full((200,), 0.3), 0, torch.rand(200, 100, generator=generator))
    assert not (masked & ~maskable).any()
    assert (x_t[~masked] == x0[~masked]).all()
    assert (x_t[masked] == 0).all()
    assert masked.sum().item() / maskable.sum().item() == pytest.approx(0.3, abs=0.02)


def test_masking_is_all_or_nothing_at_the_ends() -> None:
    x0, everywhere, uniform = torch.ones(2, 5, dtype=torch.int64), torch.ones(2, 5, dtype=torch.bool), torch.rand(2, 5)
    _, masked = mask_tokens(x0, everywhere, torch.tensor([0.0, 1.0]), 0, uniform)
    assert masked.sum(dim=1).tolist() == [0, 5]
