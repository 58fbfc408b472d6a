"""Parts as values: what is inside them, how they are written down, and how text says them."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from anyorder.decoding.combined_counts import Deadline, NumberOf, TwoPhase
from anyorder.decoding.counts import KLASS, CountRule, EvenBlocks, Fixed, Linear, Threshold
from anyorder.decoding.loop import decode
from anyorder.decoding.remaskers import CriticUndo
from anyorder.decoding.sampler import Sampler
from anyorder.decoding.tokens import Sample
from anyorder.errors import BadInput
from anyorder.memory import Drift, FirstPrediction
from anyorder.orders.end_penalty import EndPenalty
from anyorder.orders.half_planned import GtMarginPlanner
from anyorder.orders.heuristics import confidence
from anyorder.orders.learned import Critic, LearnedOrder, SavedOrder
from anyorder.orders.perturbed import Perturbed, TopPositions
from anyorder.parts import from_config, label_of, memories_of, rebuild, spelling, to_config, walk, written
from anyorder.prediction import Prediction
from anyorder.registry import COUNT_RULES, ORDERS, REMASKERS, TOKEN_RULES, Registry
from anyorder.state import DecodeState
from anyorder.tasks import make_task
from anyorder.zoo import load_denoiser
from every_part import learned, named_count_rules, named_orders, orders, remaskers, token_rules


def order_of_tests(state: DecodeState, prediction: Prediction) -> Tensor:
    return confidence(state, prediction)


def critic_of_tests(state: DecodeState, prediction: Prediction) -> Tensor:
    return torch.zeros(state.tokens.shape)


@dataclass(frozen=True)
class RuleOfTests(CountRule):
    """A rule around another one."""

    inner: CountRule = Threshold()
    often: int = 1

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        return self.inner(scores, state, prediction, remasked)


def no_weights(part: Any) -> dict[str, Any] | None:
    return None


def again(part: Any, kind: str) -> Any:
    return from_config(to_config(part, no_weights, kind), lambda values: pytest.fail(f"no weights expected: {values}"))


def test_walk_finds_all_parts_inside() -> None:
    rule = Deadline(Threshold(0.5), TwoPhase(first=Fixed(2)))
    assert [type(part).__name__ for part in walk(rule)] == [
        "Deadline", "Threshold", "TwoPhase", "Fixed", "Threshold",
    ]  # fmt: skip
    assert list(walk(Perturbed(confidence, 0.1)))[1] is confidence


def test_memories_are_collected_once_however_deep() -> None:
    assert memories_of(Perturbed(learned(), 0.1), Deadline(KLASS(), KLASS())) == (FirstPrediction(), Drift(2))
    assert memories_of(confidence, Linear()) == ()


def test_rebuild_changes_parts_inside_and_leaves_all_others_alone() -> None:
    rule = Deadline(RuleOfTests(Fixed(1)), Linear())
    changed = rebuild(rule, lambda part: Fixed(7) if isinstance(part, Fixed) else part)
    assert changed == Deadline(RuleOfTests(Fixed(7)), Linear())
    assert rebuild(rule, lambda part: part) is rule


def has_critic(part: Any) -> bool:
    return any(isinstance(inside, Critic) for inside in walk(part))


def has_network(part: Any) -> bool:
    return any(isinstance(inside, LearnedOrder) for inside in walk(part))


PLAIN = {
    **{("order", name): part for name, part in orders().items() if not has_network(part)},
    **{("count rule", name): part for name, part in named_count_rules().items()},
    **{("token rule", name): part for name, part in token_rules().items()},
    **{("remasker", name): part for name, part in remaskers().items() if not has_critic(part)},
    ("order", "perturbed"): Perturbed(TopPositions(3), 0.25, 4),
    ("order", "function"): order_of_tests,
    ("count rule", "of others"): Deadline(RuleOfTests(KLASS(0.8, history=3), 4), TwoPhase(again=Fixed(3))),
    ("remasker", "with a function"): CriticUndo(0.2, 0.8, False, critic_of_tests),
}


@pytest.mark.parametrize(("kind", "name"), PLAIN)
def test_parts_are_the_same_after_being_written_and_read(kind: str, name: str) -> None:
    assert again(PLAIN[kind, name], kind) == PLAIN[kind, name]


def test_what_is_written_are_kinds_names_and_arguments() -> None:
    assert to_config(Deadline(Threshold(0.5), Linear()), no_weights, "count rule") == {
        "kind": "count rule",
        "name": "deadline",
        "rule": {"kind": "count rule", "name": "threshold", "level": 0.5},
        "schedule": {"kind": "count rule", "name": "linear"},
    }
    assert to_config(order_of_tests, no_weights, "order") == {"kind": "order", "name": f"{__name__}:order_of_tests"}


def test_tuples_of_plain_values_are_written_as_lists_and_read_as_tuples() -> None:
    order = EndPenalty(order_of_tests, (2, 1), 0.5)
    values = to_config(order, no_weights, "order")
    assert values["tokens"] == [2, 1]
    assert again(order, "order") == order


@dataclass(frozen=True)
class Heavy:
    table: frozenset[int] = frozenset({1, 2})

    def __call__(self, state: DecodeState, prediction: Prediction) -> Tensor: ...


@dataclass(frozen=True)
class Levels:
    levels: tuple[float, ...] = (0.5,)

    def __call__(self, state: DecodeState, prediction: Prediction) -> Tensor: ...


class Stateful:
    def __call__(self, state: DecodeState, prediction: Prediction) -> Tensor: ...


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (lambda state, prediction: None, "the order '.*<lambda>' cannot be found by name later: register it"),
        (Heavy(), "Heavy.table is a frozenset, which cannot be saved"),
        (Levels((0.5, math.inf)), r"Levels.levels is \(0.5, inf\); in a tuple, only finite numbers can be saved"),
        (Stateful(), "the order Stateful cannot be saved: it must be a function or a dataclass"),
        (Perturbed(lambda state, prediction: None, 0.1), "<lambda>' cannot be found by name later"),
        (torch.nn.Linear(2, 2), "the order Linear cannot be saved"),
    ],
)
def test_parts_that_cannot_be_read_again_are_refused(part: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        to_config(part, no_weights, "order")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "order", "name": "no_such"}, "order 'no_such' is unknown"),
        ({"kind": "magic", "name": "confidence"}, "'magic' 'confidence' is not a part of a sampler"),
        ({"kind": "order"}, "is not a part of a sampler"),
        ({"kind": "order", "name": "confidence", "level": 1}, "'confidence' takes no arguments"),
        ({"kind": "order", "name": "top_k", "k": 0}, "'top_k' cannot be made: k is 0"),
        ({"kind": "order", "name": "top_k", "size": 3}, "'top_k' has no argument 'size': it has"),
        ({"kind": "order", "name": "subprocess:Popen", "args": "true"}, "neither a function nor a dataclass"),
        ({"kind": "order", "name": "no_such_package:part"}, "is unknown"),
        ({"kind": "count rule", "name": "deadline", "rule": {"kind": "count rule", "name": "no"}}, "'no' is unknown"),
    ],
)
def test_damaged_values_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        from_config(values, lambda entry: None)


SPELLED = {
    **{(ORDERS, name): part for name, part in named_orders().items()},
    **{(COUNT_RULES, name): part for name, part in named_count_rules().items()},
    **{(TOKEN_RULES, name): part for name, part in token_rules().items()},
    **{(REMASKERS, name): REMASKERS.make(name) for name in REMASKERS},
    (COUNT_RULES, "all arguments"): KLASS(0.123456789, 1e-7, 3, 4),
    (COUNT_RULES, "the last alone"): KLASS(k=2),
    (COUNT_RULES, "none in between"): EvenBlocks(3, 2),
    (TOKEN_RULES, "the last"): Sample(top_k=4),
    (REMASKERS, "a flag"): CriticUndo(remembers=False),
    (ORDERS, "a reference"): order_of_tests,
}


@pytest.mark.parametrize(("registry", "name"), SPELLED, ids=lambda value: value.kind if isinstance(value, Registry) else value)
def test_a_spelling_reads_back_to_the_same_part(registry: Registry, name: str) -> None:
    part = SPELLED[registry, name]
    assert registry.make(spelling(part, registry)) == part


def test_texts_of_a_part_are_spelled_so_that_they_are_read_back_or_not_at_all() -> None:
    for part, text in (
        (GtMarginPlanner(folder="runs/lr=0.1"), "gt_margin_planner:0.5:folder=runs/lr=0.1"),
        (SavedOrder("runs/lr=0.1"), "policy:folder=runs/lr=0.1"),
    ):
        assert spelling(part, ORDERS) == text and ORDERS.make(text) == part
    with pytest.raises(BadInput, match="policy has the folder 'C:/order', which cannot be written as text"):
        spelling(SavedOrder("C:/order"), ORDERS)
    assert label_of(SavedOrder("C:/order"), ORDERS) == "policy(C:/order)"


def test_a_spelling_leaves_out_defaults() -> None:
    assert spelling(Threshold(), COUNT_RULES) == "threshold"
    assert spelling(Threshold(0.99), COUNT_RULES) == "threshold:0.99"
    assert spelling(KLASS(0.5, 0.1), COUNT_RULES) == "klass:0.5:0.1"
    assert spelling(TopPositions(3), ORDERS) == "top_k:3"


def test_a_part_inside_a_part_is_spelled_behind_it() -> None:
    for rule, text in (
        (Deadline(Threshold(0.95)), "deadline:threshold:0.95"),
        (NumberOf(), "number_of:entropy_share"),
        (NumberOf(Deadline(KLASS(0.5, 0.1))), "number_of:deadline:klass:0.5:0.1"),
    ):
        assert spelling(rule, COUNT_RULES) == text
        assert COUNT_RULES.make(text) == rule
        assert Sampler.parse(f"margin@blocks:4@{text}").count == rule
    assert COUNT_RULES.make("number_of") == COUNT_RULES.make("anyorder.decoding.combined_counts:NumberOf") == NumberOf()
    assert COUNT_RULES.make("anyorder.decoding.combined_counts:NumberOf:fixed:2") == NumberOf(Fixed(2))
    assert COUNT_RULES.usage("number_of") == "number_of[:RULE...]"
    with pytest.raises(BadInput, match="count rule 'thresold' is unknown"):
        COUNT_RULES.make("number_of:thresold:0.9")
    with pytest.raises(BadInput, match="threshold has no argument 'lvl'"):
        COUNT_RULES.make("deadline:threshold:lvl=0.9")
    with pytest.raises(BadInput, match="more than 50 values"):
        COUNT_RULES.make("number_of:" * 3000 + "linear")


def test_a_rule_inside_a_rule_may_be_a_text_or_a_function() -> None:
    def all_of_them(scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        return scores > -torch.inf

    assert NumberOf("fixed:2") == NumberOf(Fixed(2))  # type: ignore[arg-type]
    assert Deadline("threshold:0.8", "fixed:3") == Deadline(Threshold(0.8), Fixed(3))  # type: ignore[arg-type]
    denoiser, task = load_denoiser("sudoku4"), make_task("sudoku", box=2)
    tokens = task.generate(2, 0, givens=6).tokens
    for rules in ("", "@blocks:4"):
        sampler = Sampler.parse(f"margin{rules}", steps=10).replace(count=NumberOf(all_of_them))  # type: ignore[arg-type]
        assert decode(denoiser, tokens, sampler).nfe.tolist() == ([3, 3] if rules else [1, 1])
    with pytest.raises(BadInput, match="rule is the class Fixed; make an instance of it"):
        NumberOf(Fixed)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="schedule is 3; it must be the name of a count rule"):
        Deadline(Threshold(0.8), 3)  # type: ignore[arg-type]


def test_a_rule_that_wraps_names_a_field_of_its_own() -> None:
    registry = Registry("count rule", "none", ())
    with pytest.raises(ValueError, match="'lost' is a dataclass without the field 'inner' that wraps names"):
        registry.register("lost", wraps="inner")(NumberOf)


def test_parts_that_text_cannot_say_have_a_label_that_tells_them_apart() -> None:
    assert label_of(Deadline(Threshold(0.95), Fixed(2)), COUNT_RULES) == "deadline(threshold:0.95, fixed:2)"
    assert label_of(lambda state, prediction: None, ORDERS) == "<lambda>"
    assert label_of(Stateful(), ORDERS) == f"{__name__}:Stateful"
    with pytest.raises(BadInput, match="cannot be written as text"):
        spelling(Deadline(Threshold(0.95), Fixed(2)), COUNT_RULES)


@pytest.mark.parametrize("number", [0.1, 1.0, 1e-9, 0.30000000000000004, 2 / 3, 1e22])
def test_numbers_are_written_shortly_and_exactly(number: float) -> None:
    assert float(written(number)) == number
    assert written(1.0) == "1" and written(0.9) == "0.9"
