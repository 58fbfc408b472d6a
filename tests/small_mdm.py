"""A masked diffusion model small enough to enumerate: three positions, three words, 162 paths, and a denoiser that is wrong.

Tokens are drawn from the denoiser, which is frozen. An order is a table with a score of its own for every position of every
state, so that it can be any order at all. Right is a sequence with no word twice.
"""

import itertools

import torch
from torch import Tensor

from anyorder.evaluation.enumeration import (
    Paths,
    TableDenoiser,
    TabularOrder,
    confidence_softmax,
    deviation,
    enumerate_paths,
    kl_divergence,
)
from anyorder.orders.base import Order

WORDS, LENGTH = 3, 3
MASKS = torch.full((LENGTH,), WORDS)
SEQUENCES = torch.tensor(list(itertools.product(range(WORDS), repeat=LENGTH)))
REWARD = torch.tensor([float(len(set(x)) == LENGTH) for x in SEQUENCES.tolist()], dtype=torch.float64)  # no word twice
EPSILON = 1e-4


def data_of(seed: int) -> Tensor:
    """A distribution over the six sequences that are right, none like another."""
    weights = REWARD * torch.rand(len(REWARD), generator=torch.Generator().manual_seed(100 + seed), dtype=torch.float64)
    return weights / weights.sum()


def denoiser_of(seed: int, data: Tensor | None = None) -> TableDenoiser:
    return TableDenoiser.imperfect(data_of(seed) if data is None else data, WORDS, smear=0.3, shake=1.0, seed=seed)


def paths_of(seed: int) -> Paths:
    return enumerate_paths(denoiser_of(seed), MASKS)


def random_order(paths: Paths, seed: int) -> TabularOrder:
    generator = torch.Generator().manual_seed(seed)
    return TabularOrder(paths, [torch.randn(s.tokens.shape, generator=generator, dtype=torch.float64) for s in paths.states])


def success(paths: Paths, order: Order) -> float:
    return float((paths.distribution(order) @ REWARD).detach())


def slope_of(value: Tensor, order: TabularOrder) -> Tensor:
    """The gradient with respect to every score."""
    return torch.autograd.grad(value, order.scores)[0]


def step(order: TabularOrder, slope: Tensor, length: float) -> None:
    """An ascent step."""
    with torch.no_grad():
        order.scores += length * slope


def eq_10(p: Tensor, reference: Tensor, previous: float, beta: float) -> Tensor:
    advantages = (REWARD - previous) / deviation(previous, EPSILON)
    return p @ advantages - beta * kl_divergence(p, reference)


PATHS = paths_of(0)
REFERENCE = confidence_softmax(0.05)
