"""Orders, count rules and policies read the token that was drawn, which is the likeliest one under argmax."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from anyorder import decode
from anyorder.decoding.counts import Fixed, Threshold
from anyorder.decoding.sampler import Sampler
from anyorder.decoding.tokens import Sample, TokenRule
from anyorder.errors import BadInput
from anyorder.evaluation.likelihood import Process, exact_bound, log_likelihood, of_proposal
from anyorder.orders.heuristics import confidence, log_margin, margin, max_confidence, max_log_margin, max_margin
from anyorder.orders.learned import load_policy
from anyorder.prediction import Prediction
from anyorder.state import DecodeState, init
from commands import refused, run
from conftest import HashDenoiser
from every_part import count_rules, network, orders
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


# ---- Every part ------------------------------------------------------------------------------------------------------------

TOKENS = torch.tensor([[1, 0, 0, 2, 0, 0, 0, 3], [0, 0, 0, 0, 4, 0, 1, 0], [2, 0, 0, 0, 0, 0, 0, 0]])


class Copied(TokenRule):
    """Argmax whose tokens are a copy, so that their probability is computed as that of any drawn token."""

    def __call__(self, state: DecodeState, prediction: Prediction) -> tuple[Tensor, Tensor]:
        return prediction.best_tokens.clone(), prediction.best_log_probs


def outcome(sampler: Sampler, tokens: Tensor = TOKENS, seeds: Tensor | int = 5) -> list[Tensor]:
    found = decode(HashDenoiser(), tokens, sampler, seeds=seeds, x0=torch.ones_like(tokens))
    return [found.tokens, found.commit_step, found.token_log_probs, found.order_log_probs]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", orders())
def test_every_order_sees_the_likeliest_token_under_argmax_bit_for_bit(name: str) -> None:
    order = orders()[name]
    assert same(outcome(Sampler(order, steps=4)), outcome(Sampler(order, steps=4, token=Copied())))


@pytest.mark.parametrize("name", count_rules())
@pytest.mark.parametrize(("order", "largest"), PAIRS)
def test_under_every_count_rule_argmax_makes_an_order_its_largest_form(name: str, order: object, largest: object) -> None:
    found = [outcome(Sampler(part, count_rules()[name], steps=6)) for part in (order, largest)]  # type: ignore[arg-type]
    assert same(*found)


@pytest.mark.parametrize("name", orders())
@pytest.mark.parametrize("anneal", [False, True])
def test_a_row_with_drawn_tokens_and_noise_is_decoded_alone_as_in_a_batch(name: str, anneal: bool) -> None:
    sampler = Sampler(orders()[name], steps=4, token=Sample(), noise=0.7, anneal=anneal)
    together = outcome(sampler)
    for row in range(len(TOKENS)):
        alone = outcome(sampler, TOKENS[row : row + 1], torch.tensor([5 + row]))
        assert same([values[row : row + 1] for values in together[:2]], alone[:2])
        assert all(torch.allclose(b[row], a[0], atol=1e-5) for b, a in zip(together[2:], alone[2:], strict=True))


# ---- Policies --------------------------------------------------------------------------------------------------------------


def scores(policy: object, shift: int) -> Tensor:
    """Of the first row, whose drawn tokens are the likeliest ones shifted by a number."""
    tokens = TOKENS[:1]
    logits, hidden = HashDenoiser()(tokens, None, tokens == 0)
    prediction = Prediction(logits, hidden, tokens == 0)
    drawn = (prediction.best_tokens - 1 + shift) % 4 + 1
    prediction = prediction.with_candidates(drawn, prediction.log_probs_of(drawn))
    return policy(init(tokens, 0), prediction)  # type: ignore[operator,no-any-return]


def test_a_policy_may_read_which_token_was_drawn() -> None:
    plain, reading = (network("lookahead", first_prediction=False, drawn=drawn) for drawn in (False, True))
    with torch.no_grad():
        for name, weight in plain.named_parameters():
            reading.get_parameter(name).copy_(weight)
        reading.get_parameter("drawn_embedding.weight").zero_()
        assert torch.equal(scores(plain, 1), scores(reading, 1))  # with no embedding it is the same network
        reading.get_parameter("drawn_embedding.weight").normal_()
    assert not torch.allclose(scores(plain, 1), scores(reading, 1))
    assert not torch.allclose(scores(plain, 1), scores(plain, 0)), "its features are those of the drawn token in any case"


def test_a_policy_saved_before_it_could_read_the_drawn_token_loads_and_scores_the_same(tmp_path: Path) -> None:
    policy = network("lookahead")
    policy.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("drawn") is False
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert torch.equal(scores(load_policy(tmp_path), 1), scores(policy, 1))


# ---- Commands --------------------------------------------------------------------------------------------------------------

MOLECULES = ("--task", "molecules", "--steps", 3, "--temperature", 1, "--orders", "confidence", "--noise", "0,2", "--anneal")


def test_annealed_noise_is_named_in_the_report(tmp_path: Path) -> None:
    lengths = tmp_path / "lengths.smi"
    lengths.write_text("_{6}\n_{5}\n")
    result = run("evaluate", *MOLECULES, "--data", lengths, "--json", tmp_path / "report.json")
    assert "3 steps, 2 instances" in result.stdout
    assert "3 steps, order noise 2, annealed, 2 instances" in result.stdout
    found = json.loads((tmp_path / "report.json").read_text())["results"]
    assert [(r["noise"], r["anneal"]) for r in found] == [(0, False), (2, True)]


def test_noise_makes_curves_of_operating_points(tmp_path: Path) -> None:
    lengths = tmp_path / "lengths.smi"
    lengths.write_text("_{6}\n_{5}\n")
    wanted = ("--orders", "confidence@fixed:2/3", "--temperature", 1, "--noise", "0,2", "--json", tmp_path / "front.json")
    assert run("pareto", "--task", "molecules", "--data", lengths, *wanted).returncode == 0
    found = json.loads((tmp_path / "front.json").read_text())
    assert [curve["curve"] for curve in found["curves"]] == ["confidence@fixed", "confidence@fixed, noise 2"]


@pytest.mark.parametrize("command", ["evaluate", "pareto"])
def test_there_must_be_noise_to_anneal(command: str) -> None:
    refused(run(command, "--task", "molecules", "--noise", "0", "--anneal"), "give a --noise above 0")
