"""Count rules against hand-worked selections."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from anyorder.decoding.counts import (
    COUNT_RULES,
    KLASS,
    Ancestral,
    Cosine,
    CountRule,
    EntropyBound,
    Factor,
    Fixed,
    InTime,
    Linear,
    PredictedError,
    SecondLook,
    Threshold,
    Timesteps,
    top,
)
from anyorder.orders.base import State
from anyorder.orders.heuristics import confidence

NONE = torch.zeros(1, dtype=torch.int64)


def binary(make_state: Callable[..., State], confidences: list[float], **changes: object) -> State:
    """Positions with two possible tokens, the first with the given probability."""
    return make_state([[c, 1 - c] for c in confidences], **changes)


def select(rule: CountRule, state: State, undone: int = 0) -> list[int]:
    chosen = rule(confidence(state), state, torch.tensor([undone]))
    return chosen[0].nonzero()[:, 0].tolist()


def test_ties_go_to_the_leftmost() -> None:
    scores = torch.tensor([[1.0, 2.0, 2.0, 2.0, -torch.inf]])
    assert top(scores, torch.tensor([2])).tolist() == [[False, True, True, False, False]]
    assert top(scores, torch.tensor([9])).sum().item() == 4


@pytest.mark.parametrize(("step", "count"), [(0, 2), (1, 2), (2, 2), (3, 2)])
def test_linear_spreads_evenly(make_state: Callable[..., State], step: int, count: int) -> None:
    generated = torch.ones(1, 8, dtype=torch.bool)
    masked = torch.arange(8)[None] >= 2 * step
    logits = torch.tensor([[0.9, 0.1]] * int(masked.sum())).log()
    state = make_state([[0.9, 0.1]] * 8, step=step, masked=masked, predicted=masked, generated=generated, logits=logits)
    assert len(select(Linear(), state)) == count


def test_linear_makes_up_for_what_is_undone(make_state: Callable[..., State]) -> None:
    state = binary(make_state, [0.9] * 8)
    assert len(select(Linear(), state)) == 2
    assert len(select(Linear(), state, undone=1)) == 3


def test_cosine_starts_slowly(make_state: Callable[..., State]) -> None:
    state = binary(make_state, [0.9] * 100)
    left = math.ceil(100 * math.cos(math.pi / 8))
    assert len(select(Cosine(), state)) == 100 - left


def test_fixed(make_state: Callable[..., State]) -> None:
    assert select(Fixed(2), binary(make_state, [0.6, 0.9, 0.8])) == [1, 2]


def test_threshold(make_state: Callable[..., State]) -> None:
    assert select(Threshold(0.75), binary(make_state, [0.6, 0.9, 0.8])) == [1, 2]
    assert select(Threshold(0.95), binary(make_state, [0.6, 0.9, 0.8])) == [1]


def test_factor(make_state: Callable[..., State]) -> None:
    # sorted .99 .9 .8 .6: (n+1)(1-c) = .02, .3, .8, 2.0
    state = binary(make_state, [0.6, 0.9, 0.8, 0.99])
    assert select(Factor(0.5), state) == [1, 3]
    assert select(Factor(1.0), state) == [1, 2, 3]
    assert select(Factor(0.001), state) == [3]


def test_entropy_bound(make_state: Callable[..., State]) -> None:
    def entropy(c: float) -> float:
        return -c * math.log(c) - (1 - c) * math.log(1 - c)

    state = binary(make_state, [0.6, 0.9, 0.8, 0.99])
    bound = entropy(0.99) + entropy(0.9)  # sum - max of the first three
    assert select(EntropyBound(bound + 1e-6), state) == [1, 2, 3]
    assert select(EntropyBound(bound - 1e-6), state) == [1, 3]
    assert select(EntropyBound(0.0), state) == [3]
    closed = torch.tensor([[0.0, 0.0, 0.0, -torch.inf]])  # as in blocks: masked, but not now
    assert EntropyBound(0.0)(closed, state, torch.zeros(1, dtype=torch.int64))[0].tolist() == [False, True, False, False]


def test_predicted_error_counts_expected_mistakes(make_state: Callable[..., State]) -> None:
    state = binary(make_state, [0.5] * 3, steps=9)
    scores = torch.logit(torch.tensor([[0.7, 0.95, 0.9]]))
    chosen = [PredictedError(bound)(scores, state, NONE)[0].tolist() for bound in (0.01, 0.16, 0.46)]
    assert chosen == [[False, True, False], [False, True, True], [True, True, True]]


def test_predicted_error_keeps_an_even_pace(make_state: Callable[..., State]) -> None:
    def count(step: int) -> int:
        state = binary(make_state, [0.5] * 12, step=step, steps=8)
        return int(PredictedError(0.0)(confidence(state), state, NONE).sum())

    assert [count(0), count(4), count(7)] == [2, 3, 12]


def test_second_look_changes_its_rule_once_something_was_undone(make_state: Callable[..., State]) -> None:
    rule = SecondLook(first=Fixed(1), again=Fixed(2), generous=Fixed(1))
    assert select(rule, binary(make_state, [0.6, 0.9, 0.8])) == [1]
    assert select(rule, binary(make_state, [0.6, 0.9, 0.8], undone=torch.tensor([0]))) == [1]
    assert select(rule, binary(make_state, [0.6, 0.9, 0.8], undone=torch.tensor([4]))) == [1, 2]


def test_second_look_is_quick_only_where_the_budget_is_small(make_state: Callable[..., State]) -> None:
    rule = SecondLook(first=Fixed(5), again=Fixed(2), generous=Fixed(1))
    counts = [len(select(rule, binary(make_state, [0.6] * 9, steps=steps))) for steps in (2, 3)]
    assert counts == [5, 1], "nine positions: three steps are one for every four or more, two are not"


def klass_state(make_state: Callable[..., State], confidences: list[float], drift: list[list[float]]) -> State:
    return binary(make_state, confidences, drift=torch.tensor([drift]))


def test_klass_unmasks_what_is_sure_and_at_rest(make_state: Callable[..., State]) -> None:
    """Latest drift first. The first position is not sure, the second moved just now, the third a step before; the last has no
    earlier prediction to compare with."""
    drift = [[0.0, 0.0], [0.02, 0.0], [0.0, 0.02], [0.005, 0.009], [0.0, 0.0], [0.0, math.inf]]
    state = klass_state(make_state, [0.7, 0.99, 0.99, 0.95, 0.91, 0.99], drift)
    assert select(KLASS(0.9, 0.01, 2), state) == [3, 4]
    assert select(KLASS(0.6, 0.01, 2), state) == [0, 3, 4]
    assert select(KLASS(0.9, 0.01, 1), state) == [2, 3, 4, 5]
    assert select(KLASS(0.9, 0.05, 2), state) == [1, 2, 3, 4]


def test_klass_takes_the_best_scored_where_nothing_is_ready(make_state: Callable[..., State]) -> None:
    state = klass_state(make_state, [0.6, 0.99, 0.98], [[math.inf, math.inf]] * 3)
    assert select(KLASS(), state) == [1]
    assert select(KLASS(k=2), state) == [1, 2]
    chosen = KLASS()(torch.tensor([[3.0, 1.0, -torch.inf]]), state, NONE)
    assert chosen.tolist() == [[True, False, False]], "by the order, and never where nothing is open"


def test_klass_without_a_memory_says_so(make_state: Callable[..., State]) -> None:
    with pytest.raises(ValueError, match="which only `decode` keeps"):
        select(KLASS(), binary(make_state, [0.6]))
    with pytest.raises(ValueError, match="at least 1"):
        KLASS(history=0)


def test_rules_made_of_others_remember_for_them() -> None:
    assert InTime(KLASS(history=3), Linear()).keep_drift == 3
    assert SecondLook(again=KLASS(history=4)).keep_drift == 4
    assert SecondLook().keep_drift == 0


@pytest.mark.parametrize("name", COUNT_RULES)
def test_every_rule_selects_at_least_one_and_only_open_positions(make_state: Callable[..., State], name: str) -> None:
    predicted = torch.tensor([[False, True, True, False]])
    logits = torch.full((2, 3), 1 / 3).log()
    drift = torch.zeros(1, 4, 2)
    state = make_state([[0.3, 0.3, 0.4]] * 4, predicted=predicted, masked=predicted, logits=logits, drift=drift)
    chosen = COUNT_RULES[name]()(confidence(state), state, NONE)
    assert chosen.any()
    assert not (chosen & ~predicted).any()


def test_threshold_by_something_else_is_an_error() -> None:
    with pytest.raises(ValueError, match="'confidence' or 'score'"):
        Threshold(0.9, by="luck")


@pytest.mark.parametrize(("step", "count"), [(0, 2), (1, 3), (2, 4), (3, 9)])
def test_timesteps_round_down(make_state: Callable[..., State], step: int, count: int) -> None:
    """On t = 1, 3/4, 1/2, 1/4 and almost 0, of ten positions: 10/4, 10/3, a little less than 10/2, a little less than 10."""
    state = binary(make_state, [0.5 + 0.04 * i for i in range(10)], step=step)
    assert select(Timesteps(1e-4), state) == list(range(10 - count, 10))


def test_timesteps_may_select_none(make_state: Callable[..., State]) -> None:
    assert select(Timesteps(), binary(make_state, [0.6, 0.9], steps=10)) == []


def test_ancestral_selects_each_with_the_same_probability_whatever_its_score(make_state: Callable[..., State]) -> None:
    state = binary(make_state, [0.5, 0.6, 0.7, 0.8, 0.9], step=1, steps=5)
    rule, rows = Ancestral(1e-3), 4000
    counts = torch.zeros(5)
    for seed in range(rows):
        counts[select(rule, replace(state, seeds=torch.tensor([seed]), memo={}))] += 1
    expected = 1 - (1 - 2 * 0.999 / 5) / (1 - 0.999 / 5)
    assert ((counts / rows - expected).abs() < 4 * math.sqrt(expected * (1 - expected) / rows)).all()


def test_in_time_takes_what_is_sure_and_at_least_what_the_schedule_says(make_state: Callable[..., State]) -> None:
    rule = InTime(Threshold(0.8), Fixed(3))
    assert select(rule, binary(make_state, [0.9, 0.6, 0.95, 0.85, 0.99])) == [0, 2, 3, 4]
    assert select(rule, binary(make_state, [0.9, 0.6, 0.7, 0.5, 0.99])) == [0, 2, 4]
    assert select(rule, binary(make_state, [0.6, 0.7])) == [0, 1]


def test_in_time_ranks_the_rest_by_the_order_and_not_by_confidence(make_state: Callable[..., State]) -> None:
    state = binary(make_state, [0.5, 0.6, 0.7, 0.9])
    chosen = InTime(Threshold(0.8), Fixed(2))(torch.tensor([[9.0, 1.0, 2.0, 0.0]]), state, NONE)
    assert chosen.tolist() == [[True, False, False, True]]
