"""Curves of operating points: an order and a count rule, from quick to careful."""

from dataclasses import dataclass

import numpy as np

from anyorder.errors import BadInput
from anyorder.evaluation.orders import NUMBERS, PolicyLoader, make_decoder
from anyorder.orders.policies import LearnedOrder
from anyorder.orders.reward_policies import RewardPolicy

VALUES = {
    "threshold": "0.5/0.7/0.8/0.9/0.95/0.99",
    "score_threshold": "0.5/0.7/0.8/0.9/0.95/0.99",
    "factor": "3/1.5/0.7/0.3/0.1/0.03",
    "entropy_bound": "3/1/0.3/0.1/0.03/0.01",
    "klass": "0.5:1/0.6:0.3/0.6:0.1/0.8:0.03/0.9:0.01/0.99:0.005",
    "predicted_error": "3/1/0.5/0.2/0.1/0.03",
    "bernoulli": "0/0.25/0.5/1/1.5/2",
    "dynamic_plackett_luce": "0.25/0.5/0.75/1/1.5/2",
}
"""What each rule is tried with when nobody says otherwise."""

_SHORT = 24
_HEURISTIC = ("linear", "threshold", "factor", "entropy_bound", "klass")
_SUPERVISED = ("linear", "score_threshold", "predicted_error")
_BY_REWARD = ("linear", "score_threshold", "bernoulli")


@dataclass(frozen=True)
class Point:
    """An operating point: a decoder as `make_decoder` reads it, and its budget of forwards; None for one position per step."""

    spec: str
    steps: int | None = None


@dataclass(frozen=True)
class Curve:
    """Operating points under one name."""

    name: str
    points: tuple[Point, ...]


def parse_curves(texts: list[str], load_policy: PolicyLoader, longest: int) -> list[Curve]:
    """Curves from `ORDER[@RULE[:V1/V2/...]]`.

    The values are what stands behind the rule's name in `make_decoder`; for a rule that takes no number (linear, cosine) they
    are budgets of forwards, and `all` is one position per step. Without values the rule is tried with `VALUES`, or with six
    budgets up to half of `longest` (all of it where problems are short). Without a rule there is a curve for each that suits
    the order; for an order that undoes or re-predicts, one over budgets with the rule that it has by itself.
    """
    found: dict[str, Curve] = {}
    for text in texts:
        order, at, rule = text.partition("@")
        for name in [rule] if at else _rules_of(order, load_policy):
            curve = _curve(order, name, longest)
            found[curve.name] = curve
    return list(found.values())


def _rules_of(order: str, load_policy: PolicyLoader) -> tuple[str, ...]:
    made = make_decoder(order, 1, 0.0, load_policy).order
    if "+" in order:
        return ("",)
    if not isinstance(made, LearnedOrder):
        return _HEURISTIC
    return _BY_REWARD if isinstance(made.policy, RewardPolicy) else _SUPERVISED


def _curve(order: str, rule: str, longest: int) -> Curve:
    name, _, text = rule.partition(":")
    label = f"{order}@{name}" if name else order
    if name in NUMBERS:
        values = _split(text or VALUES.get(name, ""), label)
        return Curve(label, tuple(Point(f"{label}:{value}") for value in values))
    if not text:
        most = longest if longest <= _SHORT else longest // 2
        budgets = np.geomspace(min(most, max(2, longest // 12)), most, 6).round().astype(int)
        return Curve(label, tuple(Point(label, int(budget)) for budget in np.unique(budgets)))
    return Curve(label, tuple(Point(label, _budget(value, label)) for value in _split(text, label)))


def _split(text: str, label: str) -> list[str]:
    values = [value.strip() for value in text.split("/")]
    if not all(values):
        raise BadInput(f"curve {label!r}: give its values, as in {label}:1/2/3")
    return values


def _budget(value: str, label: str) -> int | None:
    if value == "all":
        return None
    if not value.isdigit() or int(value) < 1:
        raise BadInput(f"curve {label!r}: {value!r} is no budget of forwards; numbers from 1 on, or 'all'")
    return int(value)
