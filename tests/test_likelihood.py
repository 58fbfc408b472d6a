"""The bounds of appendix C against enumeration, against simulation, and where theory says that they are tight."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from anyorder.decoding.counts import Fixed
from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.decoding.step import StepOutput
from anyorder.decoding.tokens import Sample
from anyorder.denoisers.base import DenoiserOutput, forbid_mask
from anyorder.errors import BadInput
from anyorder.evaluation.likelihood import Process, estimate_bound, exact_bound, log_likelihood, uniform
from anyorder.losses import mdm_loss, policy_log_probabilities, token_cross_entropy
from anyorder.orders.heuristics import max_confidence
from anyorder.prediction import Prediction
from anyorder.registry import ORDERS
from anyorder.state import DecodeState

LENGTH, WORDS, MASK = 3, 2, 2
EMPTY = torch.full((LENGTH,), MASK)
ALL = [torch.tensor(words) for words in itertools.product(range(WORDS), repeat=LENGTH)]


class Table(nn.Module):
    """A denoiser that looks its logits up: one table entry per state, none consistent with another."""

    mask_token_id, vocab_size, hidden_size = MASK, WORDS + 1, 1

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits  # (3^L, L, V)

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None, positions: Tensor | None = None) -> DenoiserOutput:
        index = (tokens * 3 ** torch.arange(LENGTH)).sum(dim=1)
        logits = forbid_mask(self.logits[index], MASK)
        return DenoiserOutput(logits if positions is None else logits[positions], torch.zeros(*tokens.shape, 1))


def arbitrary_denoiser(seed: int = 0) -> Table:
    return Table(2 * torch.randn(3**LENGTH, LENGTH, WORDS + 1, generator=torch.Generator().manual_seed(seed)))


def perfect_denoiser() -> tuple[Table, Tensor]:
    """The conditionals of one joint distribution over the eight sequences, and its log-probabilities."""
    log_joint = torch.log_softmax(torch.randn(len(ALL), generator=torch.Generator().manual_seed(1)).double(), dim=0)
    logits = torch.zeros(3**LENGTH, LENGTH, WORDS + 1, dtype=torch.float64)
    for state in itertools.product(range(WORDS + 1), repeat=LENGTH):
        fits = torch.tensor([all(s in (MASK, int(w)) for s, w in zip(state, words, strict=True)) for words in ALL])
        index = sum(s * 3**i for i, s in enumerate(state))
        for i, word in itertools.product(range(LENGTH), range(WORDS)):
            here = fits & torch.tensor([int(words[i]) == word for words in ALL])
            logits[index, i, word] = torch.logsumexp(log_joint[here], dim=0) if here.any() else -torch.inf
    return Table(logits), log_joint


def proposal_confidence(state: DecodeState, prediction: Prediction, z: Tensor) -> Tensor:
    """log-probability of the proposed token: the order of algorithms that rank their samples."""
    log_probs = torch.log_softmax(prediction.logits.float(), dim=-1)
    return prediction.scatter(log_probs.gather(1, z[state.masked][:, None])[:, 0])


def leftmost(state: DecodeState, prediction: Prediction) -> Tensor:
    return (-1000.0 * state.index).float().masked_fill(~state.masked, -torch.inf)


PROCESSES: dict[str, Callable[[], Process]] = {
    "confidence": lambda: Process(arbitrary_denoiser(), max_confidence, 0.5),
    "entropy": lambda: Process(arbitrary_denoiser(1), ORDERS["entropy"], 0.2),
    "sampled confidence": lambda: Process(arbitrary_denoiser(2), proposal_confidence, 0.7, looks_at_proposal=True),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_likelihoods_of_all_sequences_sum_to_one_and_bounds_lie_below(name: str) -> None:
    process = PROCESSES[name]()
    total = 0.0
    for x0 in ALL:
        exact, bound = log_likelihood(process, EMPTY, x0), exact_bound(process, EMPTY, x0)
        total += math.exp(exact)
        assert bound.total == pytest.approx(bound.e1 + bound.e2)
        assert bound.total < exact, "these conditionals contradict one another, so the bound is strict"
        if not process.looks_at_proposal:
            assert bound.e2 == 0.0
    assert total == pytest.approx(1.0, abs=1e-6)


def test_the_second_term_may_not_be_left_out_for_orders_that_look_at_their_samples() -> None:
    process = PROCESSES["sampled confidence"]()
    pairs = [(exact_bound(process, EMPTY, x0), log_likelihood(process, EMPTY, x0)) for x0 in ALL]
    assert all(bound.e2 != 0 for bound, _ in pairs)
    assert any(bound.e1 > exact for bound, exact in pairs), "E1 alone is no bound for such an order"


def test_the_exact_likelihood_by_hand_over_all_orders() -> None:
    process = PROCESSES["confidence"]()
    x0 = ALL[5]
    total = 0.0
    for path in itertools.permutations(range(LENGTH)):
        tokens, chance = EMPTY.clone(), 1.0
        for i in path:
            logits = process.denoiser(tokens[None]).logits[0, :, :WORDS]
            p = torch.softmax(logits, dim=-1)
            open_ = tokens == MASK
            q = torch.softmax(p.max(dim=-1).values.log().masked_fill(~open_, -torch.inf) / 0.5, dim=0)  # score: log c
            chance *= float(q[i] * p[i, x0[i]])
            tokens[i] = x0[i]
        total += chance
    assert log_likelihood(process, EMPTY, x0) == pytest.approx(math.log(total), abs=1e-6)


@pytest.mark.parametrize("name", ["confidence", "random weights"])
def test_a_perfect_denoiser_makes_the_bound_tight_whatever_the_order(name: str) -> None:
    denoiser, log_joint = perfect_denoiser()
    orders = {"confidence": max_confidence}
    order = orders.get(name, lambda state, prediction: prediction.scatter(prediction.logits[:, 0].float()))
    process = Process(denoiser, order, 0.3)
    for x0, expected in zip(ALL, log_joint.tolist(), strict=True):
        assert exact_bound(process, EMPTY, x0).total == pytest.approx(expected, abs=1e-5)
        assert log_likelihood(process, EMPTY, x0) == pytest.approx(expected, abs=1e-5)


def test_a_deterministic_order_makes_the_bound_tight_whatever_the_denoiser() -> None:
    process = Process(arbitrary_denoiser(3), leftmost)
    for x0 in ALL:
        bound = exact_bound(process, EMPTY, x0)
        assert bound.total == pytest.approx(log_likelihood(process, EMPTY, x0), abs=1e-9)


def test_decoding_draws_sequences_with_the_exact_probabilities() -> None:
    process = PROCESSES["confidence"]()
    draws = 4000
    sampler = Sampler(max_confidence, Fixed(1), Sample(temperature=1.0), noise=0.5)
    decoded = decode(process.denoiser, EMPTY.expand(draws, -1), sampler, seeds=7)
    for x0 in ALL:
        share = float((decoded.tokens == x0).all(dim=1).double().mean())
        expected = math.exp(log_likelihood(process, EMPTY, x0))
        assert abs(share - expected) < 4.5 * math.sqrt(expected * (1 - expected) / draws) + 1e-9


@pytest.mark.parametrize("name", PROCESSES)
def test_the_path_estimate_is_unbiased(name: str) -> None:
    process = PROCESSES[name]()
    exact = exact_bound(process, EMPTY, ALL[3])
    estimate = estimate_bound(process, EMPTY, ALL[3], 3000, seed=1)
    assert abs(estimate.total - exact.total) < 4 * estimate.standard_error
    assert estimate.standard_error < 0.1


def test_drawn_proposals_approach_the_enumerated_ones_from_below() -> None:
    exact = PROCESSES["sampled confidence"]()

    def drawn(draws: int) -> Process:
        return Process(exact.denoiser, proposal_confidence, 0.7, looks_at_proposal=True, proposals=draws)

    bound = exact_bound(exact, EMPTY, ALL[2]).total
    many, few = (estimate_bound(drawn(draws), EMPTY, ALL[2], samples) for draws, samples in ((100, 2000), (1, 15_000)))
    assert abs(many.total - bound) < 4 * many.standard_error + 0.02
    assert few.total < bound - 4 * few.standard_error, "the logarithm of one draw is far too low on average"
    with pytest.raises(BadInput, match="no exact likelihood"):
        log_likelihood(drawn(5), EMPTY, ALL[2])


def test_for_orders_that_look_at_samples_no_bound_is_tight() -> None:
    denoiser, log_joint = perfect_denoiser()
    process = Process(denoiser, proposal_confidence, 0.3, looks_at_proposal=True)
    exact = [log_likelihood(process, EMPTY, x0) for x0 in ALL]
    assert all(exact_bound(process, EMPTY, x0).total < value - 1e-4 for x0, value in zip(ALL, exact, strict=True))
    assert max(abs(a - b) for a, b in zip(exact, log_joint.tolist(), strict=True)) > 0.01, "nor does it draw the joint"


def test_nothing_to_decode_is_certain() -> None:
    assert estimate_bound(PROCESSES["confidence"](), ALL[0], ALL[0], 3, states="forward").total == 0.0
    assert log_likelihood(PROCESSES["confidence"](), ALL[0], ALL[0]) == 0.0


def test_forward_states_are_biased_unless_the_policy_is_uniform() -> None:
    denoiser = arbitrary_denoiser()
    uniform = Process(denoiser, lambda state, prediction: prediction.scatter(torch.zeros(len(prediction.logits))))
    estimate = estimate_bound(uniform, EMPTY, ALL[1], 4000, states="forward", seed=2)
    assert abs(estimate.total - exact_bound(uniform, EMPTY, ALL[1]).total) < 4 * estimate.standard_error
    sharp = Process(denoiser, max_confidence, 0.05)
    biased = estimate_bound(sharp, EMPTY, ALL[1], 4000, states="forward", seed=2)
    assert abs(biased.total - exact_bound(sharp, EMPTY, ALL[1]).total) > 6 * biased.standard_error


def test_the_uniform_bound_is_minus_l_mdm() -> None:
    """L_MDM with the linear schedule's 1/t over all t, integrated by hand over the number of masks: the same number."""
    denoiser, x0 = arbitrary_denoiser(), ALL[6]
    uniform = Process(denoiser, lambda state, prediction: prediction.scatter(torch.zeros(len(prediction.logits))))
    total = 0.0
    for hidden in range(1, LENGTH + 1):
        subsets = list(itertools.combinations(range(LENGTH), hidden))
        for subset in subsets:
            masked = torch.zeros(1, LENGTH, dtype=torch.bool)
            masked[0, list(subset)] = True
            losses = token_cross_entropy(denoiser(torch.where(masked, MASK, x0[None])).logits, x0[None], masked)
            total += mdm_loss(losses, masked, normalize="rows").item() / len(subsets)
    assert exact_bound(uniform, EMPTY, x0).total == pytest.approx(-total, abs=1e-5)


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_stratified_states_have_the_same_mean_and_less_variance(samples: int) -> None:
    process, exact = Process(arbitrary_denoiser(), uniform), exact_bound(Process(arbitrary_denoiser(), uniform), EMPTY, ALL[1])
    found = {
        states: torch.tensor(
            [estimate_bound(process, EMPTY, ALL[1], samples, states=states, seed=seed).e1 for seed in range(400)]
        )
        for states in ("forward", "stratified")
    }
    for values in found.values():
        assert abs(values.mean() - exact.e1) < 4 * values.std() / 20
    if samples == 5:
        assert found["stratified"].std() < 0.8 * found["forward"].std()


@pytest.mark.parametrize("states", ["path", "forward", "stratified"])
def test_bounds_do_not_depend_on_the_batch_size(states: str) -> None:
    denoiser = arbitrary_denoiser()
    whole, parts = Process(denoiser, uniform), Process(denoiser, uniform, batch_size=3)
    assert estimate_bound(whole, EMPTY, ALL[2], 8, states=states) == estimate_bound(parts, EMPTY, ALL[2], 8, states=states)
    assert exact_bound(whole, EMPTY, ALL[2]) == exact_bound(parts, EMPTY, ALL[2])


def test_too_many_orders_or_proposals_are_refused() -> None:
    with pytest.raises(BadInput, match="too many orders"):
        log_likelihood(PROCESSES["confidence"](), torch.full((15,), MASK), torch.zeros(15, dtype=torch.int64))
    with pytest.raises(BadInput, match="'path', 'forward' or 'stratified'"):
        estimate_bound(PROCESSES["confidence"](), EMPTY, ALL[0], 3, states="sideways")


@pytest.mark.parametrize("order", ["confidence", "margin", "top_k:1"])
def test_an_order_that_reads_the_drawn_tokens_must_say_so(order: str) -> None:
    with pytest.raises(BadInput, match=r"reads the drawn tokens: give of_proposal\(order\)"):
        log_likelihood(Process(arbitrary_denoiser(), ORDERS.make(order)), EMPTY, ALL[0])


# ---- what an order sees ---------------------------------------------------------------------------------------------------


def status(state: DecodeState, prediction: Prediction) -> Tensor:
    """An order that tells given positions from committed ones, reads the clock, and sees padding."""
    real = torch.ones_like(state.tokens) if state.attention_mask is None else state.attention_mask
    seen = (state.generated & ~state.masked).sum(dim=1, keepdim=True) + 10 * state.step[:, None] / state.steps[:, None]
    return (state.index * seen + real.sum(dim=1, keepdim=True)).float() / 7


def test_an_order_sees_the_same_as_in_decoding() -> None:
    """In decoding and in likelihoods, orders get equal scores in equal states of a padded sequence with a given token."""
    denoiser = arbitrary_denoiser()
    found: list[StepOutput] = []
    tokens = torch.tensor([1, MASK, MASK])
    decode(denoiser, tokens[None], Sampler(status, Fixed(), steps=2), on_step=found.append)
    assert [int(output.selected.sum()) for output in found] == [1, 1]
    process, seen = Process(denoiser, status), found[1]
    x0 = seen.after.tokens
    _, log_r, _ = process.transitions(seen.before.tokens, x0, generated=tokens == MASK)
    _, blind, _ = process.transitions(found[0].before.tokens, x0)
    expected = policy_log_probabilities(found[0].scores.double(), found[0].before.masked)
    assert torch.equal(blind, expected) and float(blind.exp().sum()) == pytest.approx(1)
    states: list[DecodeState] = []

    def spy(state: DecodeState, prediction: Prediction) -> Tensor:
        states.append(state)
        return status(state, prediction)

    Process(denoiser, spy).transitions(seen.before.tokens, x0, generated=tokens == MASK)
    assert torch.equal(status(states[0], seen.prediction), status(seen.before, seen.prediction))
    assert not torch.equal(status(states[0], seen.prediction), status(found[0].before, found[0].prediction))
    assert float(log_r.exp().sum()) == pytest.approx(1)
    log_likelihood(Process(denoiser, spy), tokens, x0[0])
    clocks = {(int(s.step[n]), int((s.generated & ~s.masked)[n].sum())) for s in states[2:] for n in range(len(s))}
    assert clocks == {(0, 0), (1, 1), (2, 2)}
