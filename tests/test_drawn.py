"""Orders, count rules and policies read the token that was drawn, which is the likeliest one under argmax."""

import math

import pytest
import torch
from torch import Tensor

from anyorder import decode
from anyorder.decoding.counts import Fixed, Threshold
from anyorder.decoding.sampler import Sampler
from anyorder.decoding.tokens import Sample
from anyorder.errors import BadInput
from anyorder.evaluation.likelihood import Process, exact_bound, log_likelihood, of_proposal
from anyorder.orders.heuristics import confidence, log_margin, margin, max_confidence, max_log_margin, max_margin
from anyorder.prediction import Prediction
from anyorder.state import init
from test_likelihood import ALL, EMPTY, LENGTH, MASK, arbitrary_denoiser

PROBABILITIES = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1]])
MASKED = torch.tensor([[True, True]])
STATE = init(torch.full((1, 2), 3), 3)
PAIRS = [(confidence, max_confidence), (margin, max_margin), (log_margin, max_log_margin)]


def predicted(tokens: list[int] | None = None) -> Prediction:
    found = Prediction(PROBABILITIES.log(), torch.zeros(1, 2, 1), MASKED)
    return found if tokens is None else found.with_candidates(torch.tensor(tokens), torch.zeros(2))


@pytest.mark.parametrize(("order", "largest"), PAIRS)
def test_an_order_equals_its_largest_form_bit_for_bit_where_the_likeliest_token_is_drawn(
    order: object, largest: object
) -> None:
    for said in (predicted(), predicted([0, 1])):
        assert torch.equal(order(STATE, said), largest(STATE, said))  # type: ignore[operator]


def test_scores_of_a_drawn_token_that_is_not_the_likeliest() -> None:
    said = predicted([1, 1])
    assert confidence(STATE, said).exp().tolist()[0] == pytest.approx([0.3, 0.7])
    assert margin(STATE, said).tolist()[0] == pytest.approx([0.3 - 0.6, 0.7 - 0.2])
    assert log_margin(STATE, said).tolist()[0] == pytest.approx([math.log(0.3 / 0.6), math.log(0.7 / 0.2)])
    assert max_confidence(STATE, said).exp().tolist()[0] == pytest.approx([0.6, 0.7])


def test_a_threshold_reads_the_drawn_token() -> None:
    scores, none = torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64)
    assert Threshold(0.5)(scores - torch.tensor([1.0, 0.0]), STATE, predicted([1, 1]), none).tolist() == [[False, True]]
    assert Threshold(0.5)(scores - torch.tensor([1.0, 0.0]), STATE, predicted([0, 1]), none).tolist() == [[True, True]]


def test_what_was_derived_from_one_draw_is_not_kept_for_another() -> None:
    first = predicted([1, 1])
    _ = first.drawn_log_probs
    assert first.with_candidates(torch.tensor([2, 1]), torch.zeros(2)).drawn_log_probs.exp()[0].item() == pytest.approx(0.1)


def test_rows_without_logits_keep_the_draw() -> None:
    small = predicted([1, 1]).compact().rows(torch.tensor([True]))
    assert small.drawn_log_probs.exp().tolist() == pytest.approx([0.3, 0.7])


def process() -> Process:
    return Process(arbitrary_denoiser(), of_proposal(confidence), looks_at_proposal=True)


def test_the_likelihoods_of_an_order_that_reads_the_draw_sum_to_one_and_the_bound_holds() -> None:
    likelihoods = [log_likelihood(process(), EMPTY, x0) for x0 in ALL]
    assert sum(map(math.exp, likelihoods)) == pytest.approx(1, abs=1e-5)
    bounds = [exact_bound(process(), EMPTY, x0) for x0 in ALL]
    assert all(bound.total <= found + 1e-6 for bound, found in zip(bounds, likelihoods, strict=True))
    assert any(abs(bound.e2) > 1e-3 for bound in bounds)  # E1 alone is no bound here


def test_decoding_draws_from_the_likelihood_of_the_drawn_order() -> None:
    count = 20_000
    sampler = Sampler(confidence, Fixed(1), Sample(), noise=1.0)
    tokens = decode(arbitrary_denoiser(), EMPTY.expand(count, -1).clone(), sampler, seeds=3).tokens
    found = torch.bincount(index(tokens), minlength=len(ALL)) / count
    drawn = torch.tensor([math.exp(log_likelihood(process(), EMPTY, x0)) for x0 in ALL])
    other = Process(arbitrary_denoiser(), max_confidence)
    largest = torch.tensor([math.exp(log_likelihood(other, EMPTY, x0)) for x0 in ALL])
    assert (found - drawn).abs().max() < 0.015 < (found - largest).abs().max()


def index(tokens: Tensor) -> Tensor:
    return (tokens * torch.tensor([2 ** (LENGTH - 1 - i) for i in range(LENGTH)])).sum(dim=1)


def test_annealed_noise_is_that_of_each_step_and_none_in_the_last() -> None:
    tokens = torch.full((64, LENGTH), MASK)
    plain = decode(arbitrary_denoiser(), tokens, Sampler(confidence, Fixed(1), noise=0.9))
    lower = decode(arbitrary_denoiser(), tokens, Sampler(confidence, Fixed(1), noise=0.9, anneal=True))
    weaker = decode(arbitrary_denoiser(), tokens, Sampler(confidence, Fixed(1), noise=0.6))
    first = lower.commit_step == 0
    assert torch.equal(first, weaker.commit_step == 0)  # 0.9 * (1 - 1 / 3)
    assert torch.allclose(lower.order_log_probs[first], weaker.order_log_probs[first])
    assert not torch.equal(plain.order_log_probs, lower.order_log_probs)
    assert (lower.order_log_probs[lower.commit_step == LENGTH - 1] == 0).all()


def test_anneal_must_be_a_bool() -> None:
    with pytest.raises(BadInput, match="anneal is 'linear'; it must be True or False"):
        Sampler("confidence", noise=1.0, anneal="linear")  # type: ignore[arg-type]
