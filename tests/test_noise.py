"""Noise belongs to a sequence; Plackett-Luce probabilities are exact."""

from itertools import permutations

import pytest
import torch

from anyorder.noise import gumbel, plackett_luce_log_probs, uniform


def test_uniform_numbers_are_uniform_and_independent_of_one_another() -> None:
    u = uniform(torch.arange(400)[:, None], 1, 5, torch.arange(250))
    assert u.min() > 0
    assert u.max() < 1
    counts = torch.histc(u.float().flatten(), bins=20, min=0, max=1)
    expected = u.numel() / 20
    assert ((counts - expected) ** 2 / expected).sum() < 43.8  # chi-square, 19 degrees of freedom, p = .001
    for a, b in ((u[:, :-1], u[:, 1:]), (u[:-1], u[1:])):
        correlation = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
        assert abs(correlation.item()) < 0.01


def test_each_key_matters() -> None:
    base = uniform(torch.tensor([3]), 1, 2, torch.tensor([4])).item()
    others = [uniform(torch.tensor([a]), b, c, torch.tensor([d])).item() for a, b, c, d in
              ((4, 1, 2, 4), (3, 2, 2, 4), (3, 1, 3, 4), (3, 1, 2, 5), (-3, 1, 2, 4))]  # fmt: skip
    assert base not in others
    assert len(set(others)) == 5


def test_gumbel_has_its_mean_and_variance() -> None:
    g = gumbel(torch.arange(200_000))
    assert g.mean().item() == pytest.approx(0.5772, abs=0.01)
    assert g.var().item() == pytest.approx(1.6449, abs=0.03)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_plackett_luce_probabilities_of_all_draws_sum_to_one(k: int) -> None:
    logits = torch.tensor([[0.3, -1.0, 2.0, 0.0]], dtype=torch.float64)
    total = 0.0
    for ranking in permutations(range(4)):
        if list(ranking[k:]) != sorted(ranking[k:]):
            continue  # the order of what is not drawn does not matter
        chosen = torch.zeros(1, 4, dtype=torch.bool)
        chosen[0, list(ranking[:k])] = True
        total += plackett_luce_log_probs(logits, torch.tensor([ranking]), chosen).sum().exp().item()
    assert total == pytest.approx(1.0)


def test_gumbel_top_k_draws_from_plackett_luce() -> None:
    logits = torch.tensor([0.0, 1.0, -0.5], dtype=torch.float64)
    draws = 40_000
    noisy = logits + gumbel(torch.arange(draws)[:, None], 7, torch.arange(3))
    ranking = noisy.argsort(dim=1, descending=True)[:, :2]
    for first, second in permutations(range(3), 2):
        share = ((ranking[:, 0] == first) & (ranking[:, 1] == second)).double().mean().item()
        full = torch.tensor([[first, second, 3 - first - second]])
        chosen = torch.zeros(1, 3, dtype=torch.bool)
        chosen[0, [first, second]] = True
        exact = plackett_luce_log_probs(logits[None], full, chosen).sum().exp().item()
        assert share == pytest.approx(exact, abs=0.012)


def test_plackett_luce_does_not_overflow() -> None:
    logits = torch.tensor([[500.0, -500.0, -torch.inf]])
    log_probs = plackett_luce_log_probs(logits, torch.tensor([[0, 1, 2]]), torch.tensor([[True, True, False]]))
    assert log_probs.tolist() == [[0.0, 0.0, 0.0]]
