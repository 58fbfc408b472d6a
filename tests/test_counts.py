"""Count rules against hand-worked selections."""

import math
from collections.abc import Callable

import pytest
import torch

from anyorder.decoding.blocks import block_of, open_block
from anyorder.decoding.combined_counts import Deadline, IfUnsure, NumberOf, TwoPhase
from anyorder.decoding.counts import (
    KLASS,
    Cosine,
    CountRule,
    EvenBlocks,
    Factor,
    Fixed,
    Linear,
    PredictedError,
    ScoreThreshold,
    Threshold,
    top,
)
from anyorder.decoding.entropy_counts import EntropyBound, EntropyShare, EvenUnsure
from anyorder.decoding.timesteps import Ancestral, Timesteps
from anyorder.errors import BadInput
from anyorder.memory import Drift, FirstEntropy, remember
from anyorder.orders.heuristics import confidence
from anyorder.parts import memories_of
from anyorder.prediction import Prediction
from anyorder.registry import COUNT_RULES
from anyorder.state import DecodeState
from every_part import count_rules

Seen = tuple[DecodeState, Prediction]
MakeState = Callable[..., Seen]

NONE = torch.zeros(1, dtype=torch.int64)


def binary(make_state: MakeState, confidences: list[float], **changes: object) -> Seen:
    """Positions with two possible tokens, the first with the given probability."""
    return make_state([[c, 1 - c] for c in confidences], **changes)


def select(rule: CountRule, seen: Seen, remasked: int = 0) -> list[int]:
    chosen = rule(confidence(*seen), *seen, torch.tensor([remasked]))
    return chosen[0].nonzero()[:, 0].tolist()


def test_ties_go_to_the_leftmost() -> None:
    scores = torch.tensor([[1.0, 2.0, 2.0, 2.0, -torch.inf]])
    assert top(scores, torch.tensor([2])).tolist() == [[False, True, True, False, False]]
    assert top(scores, torch.tensor([9])).sum().item() == 4


@pytest.mark.parametrize(("step", "count"), [(0, 2), (1, 2), (2, 2), (3, 2)])
def test_linear_spreads_evenly(make_state: MakeState, step: int, count: int) -> None:
    generated = torch.ones(1, 8, dtype=torch.bool)
    masked = torch.arange(8)[None] >= 2 * step
    logits = torch.tensor([[0.9, 0.1]] * int(masked.sum())).log()
    seen = make_state([[0.9, 0.1]] * 8, step=step, masked=masked, predicted=masked, generated=generated, logits=logits)
    assert len(select(Linear(), seen)) == count


def test_linear_makes_up_for_what_is_remasked(make_state: MakeState) -> None:
    seen = binary(make_state, [0.9] * 8)
    assert len(select(Linear(), seen)) == 2
    assert len(select(Linear(), seen, remasked=1)) == 3


def test_cosine_starts_slowly(make_state: MakeState) -> None:
    seen = binary(make_state, [0.9] * 100)
    left = math.ceil(100 * math.cos(math.pi / 8))
    assert len(select(Cosine(), seen)) == 100 - left


def test_fixed(make_state: MakeState) -> None:
    assert select(Fixed(2), binary(make_state, [0.6, 0.9, 0.8])) == [1, 2]


def test_threshold(make_state: MakeState) -> None:
    assert select(Threshold(0.75), binary(make_state, [0.6, 0.9, 0.8])) == [1, 2]
    assert select(Threshold(0.95), binary(make_state, [0.6, 0.9, 0.8])) == [1]
    state, prediction = binary(make_state, [0.6, 0.9, 0.8])
    first = torch.tensor([[3.0, 1.0, 2.0]])
    assert Threshold(0.85)(first, state, prediction, NONE).tolist() == [[True, True, False]], "the best-scored one in any case"
    assert "and the best-scored one in any case" in COUNT_RULES.entry("threshold").help


def test_factor(make_state: MakeState) -> None:
    # sorted .99 .9 .8 .6: (n+1)(1-c) = .02, .3, .8, 2.0
    seen = binary(make_state, [0.6, 0.9, 0.8, 0.99])
    assert select(Factor(0.5), seen) == [1, 3]
    assert select(Factor(1.0), seen) == [1, 2, 3]
    assert select(Factor(0.001), seen) == [3]


def test_entropy_bound(make_state: MakeState) -> None:
    def entropy(c: float) -> float:
        return -c * math.log(c) - (1 - c) * math.log(1 - c)

    seen = binary(make_state, [0.6, 0.9, 0.8, 0.99])
    bound = entropy(0.99) + entropy(0.9)  # sum - max of the first three
    assert select(EntropyBound(bound + 1e-6), seen) == [1, 2, 3]
    assert select(EntropyBound(bound - 1e-6), seen) == [1, 3]
    assert select(EntropyBound(0.0), seen) == [3]
    closed = torch.tensor([[0.0, 0.0, 0.0, -torch.inf]])  # as in blocks: masked, but not now
    assert EntropyBound(0.0)(closed, *seen, NONE)[0].tolist() == [False, True, False, False]


def test_entropy_share_spends_the_entropy_over_the_budget(make_state: MakeState) -> None:
    def entropy(c: float) -> float:
        return -c * math.log(c) - (1 - c) * math.log(1 - c)

    confidences = [0.6, 0.9, 0.8, 0.99]
    total = sum(map(entropy, confidences))
    bound = entropy(0.99) + entropy(0.9)  # sum - max of the first three
    for steps in (2, 5):
        seen = binary(make_state, confidences, steps=steps)
        share = bound / total * steps**2
        assert select(EntropyShare(share * 1.0001), seen) == [1, 2, 3]
        assert select(EntropyShare(share * 0.9999, least=0), seen) == [1, 3]
        assert select(EntropyShare(0.0, least=bound * 1.0001), seen) == [1, 2, 3], "what is always allowed"
        assert select(EntropyShare(0.0, least=0), seen) == [3]


def test_entropy_share_spends_a_small_budget_at_an_even_pace(make_state: MakeState) -> None:
    for steps, expected in ((2, [1, 3]), (3, [3])):  # two of four, or what is always allowed
        seen = binary(make_state, [0.6, 0.9, 0.8, 0.99], steps=steps)
        assert select(EntropyShare(0.0, least=0, even_below=3), seen) == expected
    with pytest.raises(BadInput, match="even_below"):
        EntropyShare(even_below=3).in_blocks(2)


def test_entropy_share_can_count_the_largest_entropy(make_state: MakeState) -> None:
    def entropy(c: float) -> float:
        return -c * math.log(c) - (1 - c) * math.log(1 - c)

    seen = binary(make_state, [0.6, 0.9, 0.8, 0.99], steps=5)
    for chosen in ([0.99], [0.99, 0.9], [0.99, 0.9, 0.8]):
        bound, places = sum(map(entropy, chosen)), {0.99: 3, 0.9: 1, 0.8: 2}
        expected = sorted(places[c] for c in chosen)
        assert select(EntropyShare(0.0, least=bound * 1.0001, counts_largest=True), seen) == expected
        fewer = chosen[:-1] or chosen  # at least one
        assert select(EntropyShare(0.0, least=bound * 0.9999, counts_largest=True), seen) == sorted(places[c] for c in fewer)
    closed = torch.tensor([[0.0, 0.0, 0.0, -torch.inf]])
    assert EntropyShare(0.0, least=0, counts_largest=True)(closed, *seen, NONE)[0].tolist() == [False, True, False, False]


def test_entropy_share_divides_the_steps_among_blocks(make_state: MakeState) -> None:
    def in_the_first_block(steps: int) -> tuple[DecodeState, Prediction]:
        state, prediction = binary(make_state, [0.7] * 4, steps=steps)
        return state.replace(open=torch.tensor([[True, True, False, False]])), prediction

    block = torch.tensor([[0.0, 0.0, -torch.inf, -torch.inf]])
    seen = in_the_first_block(4)  # two of its four steps
    one = EntropyShare(1.9, least=0)(block, *seen, NONE)[0].tolist()
    two = EntropyShare(2.1, least=0)(block, *seen, NONE)[0].tolist()
    assert one == [True, False, False, False] and two == [True, True, False, False]
    last = in_the_first_block(2)  # its only step
    assert EntropyShare(0.0, least=0)(block, *last, NONE)[0].tolist() == [True, True, False, False]


def test_sure_positions_take_no_step_and_the_others_are_spread_evenly(make_state: MakeState) -> None:
    confidences = [0.6, 1.0, 0.8, 0.7, 0.999, 0.9]
    assert select(EvenUnsure(), binary(make_state, confidences, steps=4)) == [1, 4, 5], "two are sure; one of four"
    assert select(EvenUnsure(), binary(make_state, confidences, steps=3)) == [1, 4, 5], "rounded down"
    assert select(EvenUnsure(), binary(make_state, confidences, steps=2)) == [1, 2, 4, 5], "two of four"
    assert select(EvenUnsure(), binary(make_state, confidences, steps=9)) == [1, 4, 5], "at least one"
    assert select(EvenUnsure(), binary(make_state, confidences, steps=4, step=3)) == list(range(6))
    assert select(EvenUnsure(sure=0), binary(make_state, confidences, steps=5)) == [1, 4], "one of five that are unsure"
    scores = torch.tensor([[1.0, -torch.inf, 0.0, 3.0, 2.0, 0.0]])  # position 1 is closed, as in blocks
    seen = binary(make_state, confidences, steps=4)
    assert EvenUnsure()(scores, *seen, NONE)[0].nonzero()[:, 0].tolist() == [3, 4], "the order decides which"


def test_sure_positions_in_blocks_share_the_steps(make_state: MakeState) -> None:
    seen = binary(make_state, [0.7] * 4, steps=4)
    block = torch.tensor([[0.0, 0.0, -torch.inf, -torch.inf]])  # two of its four steps
    assert EvenUnsure()(block, *seen, NONE)[0].tolist() == [True, False, False, False]


def test_a_rule_for_sequences_of_which_the_denoiser_was_unsure(make_state: MakeState) -> None:
    def after(confidences: list[float], later: list[float], rule: IfUnsure) -> list[int]:
        state, prediction = binary(make_state, confidences)
        first = remember(state, prediction, memories_of(rule))
        mean = sum(-c * math.log(c) - (1 - c) * math.log(1 - c) for c in confidences) / len(confidences)
        assert first.recall(FirstEntropy())[0].item() == pytest.approx(mean)
        state, prediction = binary(make_state, later, step=1, memory=first.memory)
        return select(rule, (remember(state, prediction, memories_of(rule)), prediction))

    rule = IfUnsure(Fixed(1), Fixed(2), above=0.5, below=2)
    unsure, sure = [0.6, 0.7, 0.8], [0.9, 0.99, 0.95]
    assert after(unsure, sure, rule) == [1, 2], "the first prediction decides"
    assert after(sure, unsure, rule) == [2]
    assert after(unsure, unsure, IfUnsure(Fixed(1), Fixed(2), above=0.7, below=2)) == [2]
    assert after(unsure, sure, IfUnsure(Fixed(1), Fixed(2), above=0.5, below=1.33)) == [1], "four passes for three positions"
    for wrong in ("above", "below"):
        with pytest.raises(BadInput, match=wrong):
            IfUnsure(**{wrong: -1.0})
    with pytest.raises(BadInput, match="cosine"):
        IfUnsure(Fixed(1), Cosine()).in_blocks(2)


def test_each_row_has_the_rule_of_its_own_first_prediction(make_state: MakeState) -> None:
    logits = torch.cat([make_state([[c, 1 - c]] * 3)[1].logits for c in (0.6, 0.99)])
    everywhere, none = torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, dtype=torch.int64)
    prediction = Prediction(logits, torch.zeros(2, 3, 4), everywhere)
    rule = IfUnsure(Fixed(1), Fixed(2), above=0.5, below=2)
    state = DecodeState.start(torch.zeros(2, 3, dtype=torch.int64), everywhere, 0, none, none + 4)
    state = remember(state, prediction, memories_of(rule))
    assert rule(confidence(state, prediction), state, prediction, none).sum(dim=1).tolist() == [2, 1]


def test_predicted_error_counts_expected_mistakes(make_state: MakeState) -> None:
    seen = binary(make_state, [0.5] * 3, steps=9)
    scores = torch.logit(torch.tensor([[0.7, 0.95, 0.9]]))
    chosen = [PredictedError(bound)(scores, *seen, NONE)[0].tolist() for bound in (0.01, 0.16, 0.46)]
    assert chosen == [[False, True, False], [False, True, True], [True, True, True]]


def test_predicted_error_keeps_an_even_pace(make_state: MakeState) -> None:
    def count(step: int) -> int:
        seen = binary(make_state, [0.5] * 12, step=step, steps=8)
        return len(select(PredictedError(0.0), seen))

    assert [count(0), count(4), count(7)] == [2, 3, 12]


def test_two_phase_changes_its_rule_once_something_was_remasked(make_state: MakeState) -> None:
    rule = TwoPhase(first=Fixed(1), again=Fixed(2))
    assert select(rule, binary(make_state, [0.6, 0.9, 0.8])) == [1]
    assert select(rule, binary(make_state, [0.6, 0.9, 0.8], remasked=torch.tensor([0]))) == [1]
    assert select(rule, binary(make_state, [0.6, 0.9, 0.8], remasked=torch.tensor([4]))) == [1, 2]


def klass_state(make_state: MakeState, confidences: list[float], drift: list[list[float]]) -> Seen:
    moved = torch.tensor([drift])
    nothing = torch.zeros(1, len(confidences), 2)
    memory = {Drift(n): (moved[..., :n], nothing) for n in (1, 2)}
    return binary(make_state, confidences, memory=memory)


def test_klass_unmasks_what_is_sure_and_at_rest(make_state: MakeState) -> None:
    """Latest drift first. The first position is not sure, the second moved just now, the third a step before; the last has no
    earlier prediction to compare with."""
    drift = [[0.0, 0.0], [0.02, 0.0], [0.0, 0.02], [0.005, 0.009], [0.0, 0.0], [0.0, math.inf]]
    seen = klass_state(make_state, [0.7, 0.99, 0.99, 0.95, 0.91, 0.99], drift)
    assert select(KLASS(0.9, 0.01, 2), seen) == [3, 4]
    assert select(KLASS(0.6, 0.01, 2), seen) == [0, 3, 4]
    assert select(KLASS(0.9, 0.01, 1), seen) == [2, 3, 4, 5]
    assert select(KLASS(0.9, 0.05, 2), seen) == [1, 2, 3, 4]


def test_klass_takes_the_best_scored_where_nothing_is_ready(make_state: MakeState) -> None:
    seen = klass_state(make_state, [0.6, 0.99, 0.98], [[math.inf, math.inf]] * 3)
    assert select(KLASS(), seen) == [1]
    assert select(KLASS(k=2), seen) == [1, 2]
    chosen = KLASS()(torch.tensor([[3.0, 1.0, -torch.inf]]), *seen, NONE)
    assert chosen.tolist() == [[True, False, False]], "by the order, and never where nothing is open"


def test_klass_without_a_memory_says_so(make_state: MakeState) -> None:
    with pytest.raises(ValueError, match="is kept by `decode` and `step` only"):
        select(KLASS(), binary(make_state, [0.6]))
    with pytest.raises(ValueError, match="history is 0; it must be a number of 1 or more"):
        KLASS(history=0)


def test_a_rule_made_of_others_declares_what_they_remember() -> None:
    assert memories_of(Deadline(KLASS(history=3), Linear())) == (Drift(3),)
    assert memories_of(TwoPhase(again=KLASS(history=4))) == (Drift(4),)
    assert memories_of(TwoPhase(KLASS(), KLASS(history=1))) == (Drift(2), Drift(1))
    assert memories_of(TwoPhase()) == ()


MAY_SELECT_NONE = {"timesteps", "ancestral"}
ARGUMENTS = {"even_blocks": (2,)}


@pytest.mark.parametrize("name", COUNT_RULES.names())
def test_every_rule_selects_only_open_positions_and_at_least_one(make_state: MakeState, name: str) -> None:
    predicted = torch.tensor([[False, True, True, False]])
    logits = torch.full((2, 3), 1 / 3).log()
    memory = {Drift(2): (torch.zeros(1, 4, 2), torch.zeros(1, 4, 3)), FirstEntropy(): (torch.ones(1),)}
    seen = make_state(
        [[0.3, 0.3, 0.4]] * 4,
        predicted=predicted,
        masked=predicted,
        generated=predicted,
        logits=logits,
        memory=memory,
        attention=torch.full((1, 4, 4), 0.25),
    )
    rule = COUNT_RULES[name](*ARGUMENTS.get(name, ())) if name != "demask" else count_rules()[name]
    chosen = rule(confidence(*seen), *seen, NONE)
    assert chosen.any() or name in MAY_SELECT_NONE
    assert not (chosen & ~predicted).any()


def test_score_threshold_reads_scores_as_log_odds(make_state: MakeState) -> None:
    seen = binary(make_state, [0.99] * 4)
    scores = torch.logit(torch.tensor([[0.4, 0.6, 0.8, 0.5]]))
    chosen = [ScoreThreshold(level)(scores, *seen, NONE)[0].tolist() for level in (0.55, 0.9)]
    assert chosen == [[False, True, True, False], [False, False, True, False]]


def test_even_blocks_unmask_as_many_more_as_are_remasked_and_close_a_block_in_its_last_step(make_state: MakeState) -> None:
    state, prediction = binary(make_state, [0.9] * 8, step=1, steps=8)  # blocks of 4 in 4 steps
    scores = confidence(state, prediction).masked_fill(block_of(state.generated, 4) != 0, -torch.inf)
    counts = [int(EvenBlocks(4)(scores, state, prediction, torch.tensor([n])).sum()) for n in (0, 1, 5)]
    assert counts == [1, 2, 4]
    for before, count in ((0, 1), (2, 4)):
        last = state.replace(step=torch.tensor([3]), remasked=torch.tensor([before]))
        assert int(EvenBlocks(4)(scores, last, prediction, NONE).sum()) == count
    closing = [bool(EvenBlocks(4).closes(state.replace(step=torch.tensor([step])))) for step in range(8)]
    assert closing == [False, False, False, True] * 2


def test_the_open_block_is_the_leftmost_one_with_a_mask(make_state: MakeState) -> None:
    state, _ = binary(make_state, [0.9] * 7)
    assert open_block(state, 3)[0].tolist() == [True] * 3 + [False] * 4
    later = state.replace(masked=torch.tensor([[False, False, False, True, False, True, True]]))
    assert open_block(later, 3)[0].tolist() == [False] * 3 + [True] * 3 + [False]
    generated = torch.tensor([[False, True, True, False, True, True, True]])  # given positions count for no block
    assert block_of(generated, 2)[0].tolist() == [-1, 0, 0, -1, 1, 1, 2]


def test_rules_that_count_over_the_whole_sequence_are_refused_in_blocks() -> None:
    assert Linear().in_blocks(4) == EvenBlocks(4)
    assert Deadline(Threshold(0.8), Linear()).in_blocks(4) == Deadline(Threshold(0.8), EvenBlocks(4))
    for rule in (Cosine(), TwoPhase(), Deadline(Threshold(), Cosine())):
        with pytest.raises(ValueError, match="counts over the whole sequence"):
            rule.in_blocks(4)


@pytest.mark.parametrize(("step", "count"), [(0, 2), (1, 3), (2, 4), (3, 9)])
def test_timesteps_round_down(make_state: MakeState, step: int, count: int) -> None:
    """On t = 1, 3/4, 1/2, 1/4 and almost 0, of ten positions: 10/4, 10/3, a little less than 10/2, a little less than 10."""
    seen = binary(make_state, [0.5 + 0.04 * i for i in range(10)], step=step)
    assert select(Timesteps(1e-4), seen) == list(range(10 - count, 10))


def test_timesteps_may_select_none(make_state: MakeState) -> None:
    assert select(Timesteps(), binary(make_state, [0.6, 0.9], steps=10)) == []


def test_ancestral_selects_each_with_the_same_probability_whatever_its_score(make_state: MakeState) -> None:
    state, prediction = binary(make_state, [0.5, 0.6, 0.7, 0.8, 0.9], step=1, steps=5)
    rule, rows = Ancestral(1e-3), 4000
    counts = torch.zeros(5)
    for seed in range(rows):
        counts[select(rule, (state.replace(seeds=torch.tensor([seed])), prediction))] += 1
    expected = 1 - (1 - 2 * 0.999 / 5) / (1 - 0.999 / 5)
    assert ((counts / rows - expected).abs() < 4 * math.sqrt(expected * (1 - expected) / rows)).all()


def test_a_deadline_selects_what_is_sure_and_at_least_as_many_as_the_schedule(make_state: MakeState) -> None:
    rule = Deadline(Threshold(0.8), Fixed(3))
    assert select(rule, binary(make_state, [0.9, 0.6, 0.95, 0.85, 0.99])) == [0, 2, 3, 4]
    assert select(rule, binary(make_state, [0.9, 0.6, 0.7, 0.5, 0.99])) == [0, 2, 4]
    assert select(rule, binary(make_state, [0.6, 0.7])) == [0, 1]


def test_a_deadline_ranks_the_rest_by_the_order_and_not_by_confidence(make_state: MakeState) -> None:
    seen = binary(make_state, [0.5, 0.6, 0.7, 0.9])
    chosen = Deadline(Threshold(0.8), Fixed(2))(torch.tensor([[9.0, 1.0, 2.0, 0.0]]), *seen, NONE)
    assert chosen.tolist() == [[True, False, False, True]]


def test_number_of_takes_the_number_from_a_rule_and_the_positions_from_the_order(make_state: MakeState) -> None:
    seen = binary(make_state, [0.5, 0.6, 0.7, 0.9])
    scores = torch.tensor([[9.0, 1.0, 2.0, 0.0]])
    assert Threshold(0.8)(scores, *seen, NONE).tolist() == [[True, False, False, True]]
    assert NumberOf(Threshold(0.8))(scores, *seen, NONE).tolist() == [[True, False, True, False]]
    assert NumberOf(Threshold(0.99))(scores, *seen, NONE).tolist() == [[True, False, False, False]]


def test_number_of_asks_its_rule_about_blocks(make_state: MakeState) -> None:
    assert NumberOf(Linear()).in_blocks(4) == NumberOf(Linear().in_blocks(4)) != NumberOf(Linear())
    with pytest.raises(BadInput, match="two_phase"):
        NumberOf(TwoPhase()).in_blocks(4)
    state, _ = binary(make_state, [0.5, 0.6])
    assert torch.equal(NumberOf(EvenBlocks(2, 1)).closes(state), EvenBlocks(2, 1).closes(state))
    assert NumberOf(Linear()).closes(state) is None
