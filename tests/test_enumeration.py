"""The enumeration of paths, against the library's likelihoods, against decoding, and its maxima against other orders."""

import itertools
import math

import pytest
import torch

from anyorder.decoding.actions import PlackettLuce
from anyorder.decoding.tokens import Sample
from anyorder.errors import BadInput
from anyorder.evaluation.enumeration import TableDenoiser, TabularOrder, best_order, best_order_by_path, enumerate_paths
from anyorder.evaluation.likelihood import Process, log_likelihood
from anyorder.training.rollout import Recorder, rollout
from small_mdm import EPSILON, LENGTH, MASKS, PATHS, REFERENCE, REWARD, SEQUENCES, WORDS, denoiser_of, eq_10, random_order


def test_paths_and_outputs_are_distributions() -> None:
    order = random_order(PATHS, 1)
    assert len(PATHS.ends) == math.factorial(LENGTH) * WORDS**LENGTH
    assert PATHS.log_probs(order).exp().sum().item() == pytest.approx(1.0)
    assert PATHS.distribution(order).sum().item() == pytest.approx(1.0)


def test_outputs_have_the_likelihoods_that_the_library_gives_them() -> None:
    order = random_order(PATHS, 1)
    process = Process(denoiser_of(0), order)
    found = [log_likelihood(process, MASKS, x) for x in SEQUENCES]
    assert PATHS.outputs.equal(SEQUENCES)
    torch.testing.assert_close(PATHS.distribution(order).log().detach(), torch.tensor(found).double(), rtol=1e-5, atol=1e-5)


def test_given_tokens_stay() -> None:
    paths = enumerate_paths(denoiser_of(0), torch.tensor([WORDS, 1, WORDS]))
    assert len(paths.ends) == 2 * WORDS**2
    assert (paths.outputs[:, 1] == 1).all()
    assert paths.distribution(REFERENCE).sum().item() == pytest.approx(1.0)


def test_too_many_paths_are_refused() -> None:
    class Wide:
        mask_token_id, vocab_size, hidden_size = 0, 10, 1

    with pytest.raises(BadInput, match="5 masked positions of 9 words have 7085880 paths"):
        enumerate_paths(Wide(), torch.zeros(5, dtype=torch.int64))  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="0 masked positions"):
        enumerate_paths(denoiser_of(0), torch.zeros(3, dtype=torch.int64))


def test_rollouts_draw_paths_with_their_probabilities_and_record_them() -> None:
    order, count = random_order(PATHS, 2), 20_000
    recorder = Recorder(PlackettLuce())
    steps, decoded = rollout(
        denoiser_of(0), order, recorder, MASKS.expand(count, -1), first_seed=5, steps=None, block_length=None, token=Sample(),
        x0=None,
    )  # fmt: skip
    places = torch.stack([s.drawn.argmax(dim=1) for s in steps], dim=1)  # of the first two; the third is forced
    codes = torch.cat([decoded.tokens, places[:, :2]], dim=1) @ (10 ** torch.arange(LENGTH + 2))
    known = torch.cat([PATHS.outputs[PATHS.ends], PATHS.places[:, :2]], dim=1) @ (10 ** torch.arange(LENGTH + 2))
    path = (codes[:, None] == known).long().argmax(dim=1)
    shares = torch.bincount(path, minlength=len(known)).double() / count
    exact = PATHS.log_probs(order).exp().detach()
    assert (shares - exact).abs().sum().item() / 2 < 0.045  # total variation; the square root of 162 / 20,000 is .09
    recorded = torch.stack([s.log_prob for s in steps], dim=1)
    torch.testing.assert_close(recorded, PATHS.choices(order).detach()[path][:, : recorded.shape[1]])
    torch.testing.assert_close(
        decoded.token_log_probs.double().sum(dim=1), PATHS.token_log_probs[path].sum(dim=1), rtol=1e-5, atol=1e-5
    )


def test_the_highest_worth_is_that_of_the_best_of_all_deterministic_orders() -> None:
    data = torch.tensor([0.4, 0.0, 0.1, 0.0, 0.0, 0.2, 0.0, 0.3])
    paths = enumerate_paths(TableDenoiser.imperfect(data, 2, smear=0.4, shake=1.0, seed=1), torch.full((3,), 2))
    worth = torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    free = [[m.nonzero()[:, 0].tolist() for m in state.masked] for state in paths.states[:2]]  # the last step is forced
    assert [len(f) for f in free] == [1, 6]
    found = []
    for places in itertools.product(*itertools.chain.from_iterable(free)):
        tables = [torch.zeros(s.tokens.shape, dtype=torch.float64) for s in paths.states]
        for row, place in enumerate(places):
            tables[min(row, 1)][max(row - 1, 0), place] = 500.0
        found.append(float((paths.distribution(TabularOrder(paths, tables)) @ worth).detach()))
    assert len(found) == 3 * 2**6
    assert paths.highest(worth) == pytest.approx(max(found), abs=1e-12)


def test_a_mixture_of_orders_is_an_order() -> None:
    """The convexity on which the bound of `best_order` rests."""
    first, second = (PATHS.log_probs(random_order(PATHS, seed)).exp().detach() for seed in (3, 4))
    mixture = PATHS.order_of(0.3 * first + 0.7 * second)
    expected = 0.3 * PATHS.gather(first) + 0.7 * PATHS.gather(second)
    torch.testing.assert_close(PATHS.distribution(mixture).detach(), expected)


@pytest.mark.parametrize("beta", [0.3, 3.0])
def test_no_other_order_does_better(beta: float) -> None:
    reference = PATHS.distribution(REFERENCE)
    start = float(reference @ REWARD)
    best = best_order(PATHS, REFERENCE, REWARD, start, beta, EPSILON)
    value = float(eq_10(PATHS.distribution(best.order).detach(), reference, start, beta))
    others = [random_order(PATHS, seed) for seed in range(20)]
    others += [best_order_by_path(PATHS, REFERENCE, REWARD, start, b, EPSILON) for b in (0.03, 0.1, 0.3, 1.0)]
    for other in others:
        assert float(eq_10(PATHS.distribution(other).detach(), reference, start, beta)) <= value + best.gap
    for seed in range(10):
        noise = torch.randn(best.order.scores.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        nearby = TabularOrder(PATHS, [best.order.scores.detach() + 0.1 * noise])
        assert float(eq_10(PATHS.distribution(nearby).detach(), reference, start, beta)) <= value + best.gap


def test_a_denoiser_that_rules_something_out_is_refused() -> None:
    denoiser = denoiser_of(0)
    denoiser.logits[..., 0] = -torch.inf
    paths = enumerate_paths(denoiser, MASKS)
    with pytest.raises(BadInput, match="no chance under the reference"):
        best_order(paths, REFERENCE, REWARD, 0.5, 1.0)
