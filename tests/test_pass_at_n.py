"""Pass@N: the estimator against enumeration, and the orders that are drawn for it."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from anyorder.decoding.counts import Fixed
from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.decoding.step import StepOutput
from anyorder.errors import BadInput
from anyorder.evaluation.batches import decode_in_batches
from anyorder.evaluation.repeated_draws import grid_of, pass_at_k, pass_at_n, shown_draws
from anyorder.evaluation.statistics import bootstrap_weights, percentile_interval
from anyorder.orders.base import Order
from anyorder.orders.heuristics import confidence
from anyorder.orders.learned import LearnedOrder
from anyorder.orders.perturbed import Perturbed, TopPositions
from anyorder.prediction import Prediction
from anyorder.registry import POLICIES
from anyorder.state import DecodeState
from anyorder.tasks.sudoku import Sudoku
from commands import refused, run
from conftest import HashDenoiser

CONFIDENCES = [0.5, 0.9, 0.6, 0.8, 0.7]


MakeState = Callable[..., tuple[DecodeState, Prediction]]


def drawn(order: Order, make_state: MakeState, seeds: int = 4000) -> Tensor:
    """How often each position comes first, (L,)."""
    state, prediction = make_state([[c, 1 - c] for c in CONFIDENCES])
    counts = torch.zeros(len(CONFIDENCES))
    for seed in range(seeds):
        counts[order(state.replace(seeds=torch.tensor([seed])), prediction).argmax()] += 1
    return counts / seeds


@pytest.mark.parametrize("draws", [1, 2, 5])
def test_the_estimate_is_the_share_of_all_subsets_that_hold_a_right_draw(draws: int) -> None:
    for right in range(draws + 1):
        outcomes = [True] * right + [False] * (draws - right)
        for k in range(1, draws + 1):
            subsets = list(itertools.combinations(outcomes, k))
            share = sum(any(subset) for subset in subsets) / len(subsets)
            assert pass_at_k(np.array([right]), draws, k)[0] == pytest.approx(share)


def test_the_estimate_does_not_overflow_where_binomials_do() -> None:
    found = pass_at_k(np.array([0, 1, 500, 2000]), 2000, 1000)
    assert found.tolist() == pytest.approx([0, 0.5, 1 - math.comb(1500, 1000) / math.comb(2000, 1000), 1])


def test_the_estimate_is_unbiased() -> None:
    p, draws, k = 0.3, 6, 3
    mean = sum(
        math.comb(draws, c) * p**c * (1 - p) ** (draws - c) * pass_at_k(np.array([c]), draws, k)[0] for c in range(draws + 1)
    )
    assert mean == pytest.approx(1 - (1 - p) ** k)


@pytest.mark.parametrize(("correct", "k"), [([1], 0), ([1], 4), ([4], 2), ([-1], 2)])
def test_impossible_numbers_are_refused(correct: list[int], k: int) -> None:
    with pytest.raises(ValueError, match="draws"):
        pass_at_k(np.array(correct), 3, k)


def test_without_noise_the_order_is_the_order(make_state: MakeState) -> None:
    seen = make_state([[c, 1 - c] for c in CONFIDENCES])
    plain, same = confidence(*seen), Perturbed(confidence, 0.0)(*seen)
    assert same.argsort(descending=True).tolist() == plain.argsort(descending=True).tolist()


def test_noise_is_on_the_scale_of_probabilities(make_state: MakeState) -> None:
    """Of two positions with g = .9 and .1 the second comes first when the difference of two normals exceeds .8."""
    scores = torch.tensor([[0.9, 0.1, 0.0, 0.0, 0.0]]).log()
    shares = drawn(Perturbed(lambda state, prediction: scores, 0.8), make_state)
    beyond = 0.5 * math.erfc((0.8 / (0.8 * math.sqrt(2))) / math.sqrt(2))
    assert shares[1].item() == pytest.approx(beyond, abs=4 * math.sqrt(beyond * (1 - beyond) / 4000))
    assert shares[2:].sum() == 0


def test_much_noise_is_the_uniform_choice_among_the_positions_of_a_restricted_policy(make_state: MakeState) -> None:
    """The correspondence of arXiv 2510.05725, appendix D.3."""
    for order in (Perturbed(confidence, 1e3, top_positions=3), TopPositions(3)):
        shares = drawn(order, make_state)
        assert shares[[0, 2]].sum() == 0, "the two least confident"
        assert shares[[1, 3, 4]].tolist() == pytest.approx([1 / 3] * 3, abs=0.03)


def test_the_best_position_alone_is_the_confidence_order() -> None:
    tokens = torch.zeros(6, 7, dtype=torch.int64)
    one = decode(HashDenoiser(), tokens, Sampler(TopPositions(1), Fixed(1)))
    other = decode(HashDenoiser(), tokens, Sampler(confidence, Fixed(1)))
    assert torch.equal(one.commit_step, other.commit_step)


def test_a_restricted_policy_is_perturbed_within_its_restriction(make_state: MakeState) -> None:
    policy = LearnedOrder(POLICIES["confidence_transformer"](hidden_size=4, vocab_size=5, top_positions=2).eval())
    shares = drawn(Perturbed(policy, 1e3), make_state, seeds=200)
    assert (shares > 0).nonzero()[:, 0].tolist() == [1, 3], "the two most confident"
    assert Sampler("confidence~0.5").order == Perturbed(confidence, 0.5)
    assert Sampler("top_k:5").order == TopPositions(5)


@pytest.mark.parametrize("spec", ["top_k:0", "top_k:few", "confidence~loud", "confidence~-1", "confidence~nan", "confidence~"])
def test_orders_that_cannot_be_drawn_are_refused(spec: str) -> None:
    with pytest.raises(BadInput, match=spec.partition("~")[0]):
        Sampler.parse(spec)


@pytest.mark.parametrize("spec", ["confidence~0.3", "top_k:2", "confidence@bernoulli:0.5", "random"])
def test_a_draw_belongs_to_the_sequence_and_not_to_its_batch_or_padding(spec: str) -> None:
    tokens = torch.zeros(5, 8, dtype=torch.int64)
    sampler = Sampler.parse(spec, steps=8)
    together = decode(HashDenoiser(), tokens, sampler, seeds=11)
    padded = torch.cat([torch.full((1, 3), 2), tokens[3:4]], dim=1)
    real = torch.arange(11)[None] >= 3
    alone = decode(HashDenoiser(), padded, sampler, seeds=torch.tensor([14]), attention_mask=real)
    assert torch.equal(alone.commit_step[0, 3:], together.commit_step[3])
    assert torch.equal(alone.tokens[0, 3:], together.tokens[3])


def test_draws_are_those_of_evaluate_and_a_draw_more_changes_none() -> None:
    task, denoiser = Sudoku(2), HashDenoiser(5)
    problems = task.generate(40, 0, givens=14)
    few, more = (pass_at_n(denoiser, task, problems, ["random", "confidence"], draws, steps=2, seed=3) for draws in (2, 3))
    sampler = Sampler("random", steps=2)
    right = [
        task.check(problems, decode_in_batches(
            denoiser, problems, sampler, seed=3 + j, batch_size=9, progress=None, name="").tokens).instance_correct
        for j in range(3)
    ]  # fmt: skip
    assert few[0].correct.tolist() == (right[0].long() + right[1].long()).tolist()
    assert more[0].correct.tolist() == (few[0].correct + right[2].numpy()).tolist()
    assert set(few[1].correct.tolist()) <= {0, 2}, "an order without chance gives the same in every draw"
    assert few[1].accuracy[0] == few[1].accuracy[1]
    assert few[0].accuracy[0] == pytest.approx(few[0].correct.mean() / 2)
    for found in (*few, *more):
        assert all(low <= a <= high for a, (low, high) in zip(found.accuracy, found.ci95, strict=True))
        assert found.accuracy == sorted(found.accuracy)


def test_the_table_shows_powers_of_two_and_all() -> None:
    assert shown_draws(1) == [1]
    assert shown_draws(6) == [1, 2, 4, 6]
    assert shown_draws(8) == [1, 2, 4, 8]
    found = pass_at_n(HashDenoiser(5), Sudoku(2), Sudoku(2).generate(6, 0, givens=14), ["random"], 3, steps=2)
    assert grid_of(found)[1] == ["order", "NFE per draw", "Pass@1", "Pass@2", "Pass@3"]


def test_resamples_of_a_mean_spread_by_its_standard_error() -> None:
    values = np.arange(200.0)
    weights = bootstrap_weights(200)
    assert weights.sum(axis=1) == pytest.approx(1)
    low, high = percentile_interval(weights @ values)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / math.sqrt(200), rel=0.08)
    assert (bootstrap_weights(200) == weights).all(), "the same resamples for all that is measured on the same instances"


def test_the_command_writes_what_it_found(tmp_path: Path) -> None:
    result = run("evaluate", "--task-option", "box=2", "--steps", "4", "--limit", "5", "--draws", "2",
                 "--orders", "random,confidence~0.1", "--json", tmp_path / "r.json",
                 "--markdown", tmp_path / "t.md", "--plot", tmp_path / "p.svg")  # fmt: skip
    assert result.returncode == 0, result.stderr
    values = json.loads((tmp_path / "r.json").read_text())
    assert [r["order"] for r in values["results"]] == ["random", "confidence~0.1"]
    assert len(values["results"][0]["correct"]) == 5
    assert "| random |" in (tmp_path / "t.md").read_text()
    assert (tmp_path / "p.svg").exists()
    refused(run("plot", "accuracy", tmp_path / "r.json", "-o", tmp_path / "q.svg"), "holds Pass@N")


def test_in_blocks_only_open_positions_share_the_probability_that_is_perturbed() -> None:
    """Noise of .1 on the scale of probabilities: the position that has nearly all of that of the open block is chosen."""

    tokens = torch.zeros(200, 32, dtype=torch.int64)
    steps: list[StepOutput] = []

    def last_block_first(state: DecodeState, prediction: Prediction) -> Tensor:
        return state.index.float() * 5.0  # the closed blocks would take all of the probability

    decode(HashDenoiser(), tokens, Sampler(Perturbed(last_block_first, 0.1), Fixed(1), block_length=4), on_step=steps.append)
    chosen = steps[0].selected.float().argmax(dim=1)
    assert (chosen == 3).float().mean() > 0.99
