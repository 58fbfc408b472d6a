"""Curves of operating points: a sampler and a count rule, from fast to slow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anyorder.decoding.remaskers import Absorbing
from anyorder.decoding.sampler import Sampler, as_sampler
from anyorder.denoisers.base import Denoiser
from anyorder.errors import BadInput
from anyorder.evaluation.samplers import SamplerLike, label_for, with_noise
from anyorder.orders.learned import LearnedOrder
from anyorder.parts import walk
from anyorder.registry import COUNT_RULES, POLICIES

_SHORT = 24


@dataclass(frozen=True)
class Point:
    """An operating point: a label, a sampler bound to its denoiser, and a budget of forward passes; None for one position per
    step."""

    label: str
    sampler: Sampler
    steps: int | None = None


@dataclass(frozen=True)
class Curve:
    """Operating points under one name."""

    name: str
    points: tuple[Point, ...]


CurveLike = SamplerLike | Curve
Curves = CurveLike | Sequence[CurveLike] | Mapping[str, CurveLike]


def as_curves(samplers: Curves, denoiser: Denoiser, longest: int, *, token: Any = None, strict: bool = True) -> list[Curve]:
    """Curves from samplers.

    Args:
        samplers: texts of the form `ORDER[+REMASKER][@blocks:LENGTH][@cache:CACHE][@RULE[:V1/V2/...]]`, orders, samplers or
            their folders, curves, or a mapping from labels to any of these. Without a rule there is a curve for each count rule
            that is registered for this kind of order (`curve_for`), or one over budgets if the order has a remasker. Without
            values a rule is tried with those that it is registered with; a rule without arguments is tried with budgets of
            forward passes, six up to half of `longest` (all of it for short problems), and `all` is one position per step. A
            sampler with `steps` is one point.
        denoiser: what the samplers are bound to.
        longest: positions to fill in the longest problem.
        token: token rule of the samplers that are made here.
        strict: a policy that was fitted to another denoiser is an error; otherwise a warning.

    Raises:
        BadInput: an unknown order or rule, values that cannot be read, or two different curves with the same name.
    """
    if isinstance(samplers, Mapping):
        pairs = [(str(label), one) for label, one in samplers.items()]
    else:
        several = samplers if isinstance(samplers, Sequence) and not isinstance(samplers, str) else [samplers]
        pairs = [("", one) for one in several]
    if not pairs:
        raise BadInput("there is nothing to compare: give at least one order, such as 'confidence'")
    fields = {} if token is None else {"token": token}
    found: dict[str, Curve] = {}
    for label, one in pairs:
        for curve in _curves(label, one, denoiser, longest, fields, strict):
            if found.setdefault(curve.name, curve) != curve:
                raise BadInput(
                    f"two curves are called {curve.name!r}: leave one out, or in Python pass a mapping {{label: sampler}}"
                )
    return list(found.values())


def noisy(curves: list[Curve], noise: Sequence[float] | None, anneal: bool | None) -> list[Curve]:
    """Every curve at every scale of noise, named by it; with None for each sampler's own."""

    def changed(one: Sampler, scale: float | None) -> Sampler:
        return one.replace(noise=one.noise if scale is None else scale, anneal=one.anneal if anneal is None else anneal)

    def named(name: str, scale: float | None) -> str:
        return with_noise(name, scale or 0.0, bool(anneal))

    scales = [None] if noise is None else sorted(set(noise))
    return [
        Curve(
            named(curve.name, scale),
            tuple(Point(named(p.label, scale), changed(p.sampler, scale), p.steps) for p in curve.points),
        )
        for scale in scales
        for curve in curves
    ]


def _curves(label: str, one: CurveLike, denoiser: Denoiser, longest: int, fields: dict[str, Any], strict: bool) -> list[Curve]:
    if isinstance(one, Curve):
        return [one]
    if isinstance(one, str | Path) and (Path(one) / "sampler.json").is_file():
        label, one = label or label_for(one), Sampler.from_pretrained(one)
    order, rule = _split(one) if isinstance(one, str) else (one, "")
    base = as_sampler(order, **fields).bind(denoiser, strict=strict)
    if isinstance(one, Sampler):
        name = label or label_for(one)
        budgets = [base.steps] if base.steps else _budgets(longest)
        return [Curve(name, tuple(Point(name, base, budget) for budget in budgets))]
    name = label or label_for(order)
    rules = [rule] if rule else _rules_for(base)
    return [_curve(name, base, text, longest) for text in rules]


def _split(text: str) -> tuple[str, str]:
    """An order with the blocks and the cache that are spelled behind it, and the count rule; "" if there is none."""
    order, *parts = text.split("@")
    others = [part.partition(":")[0] in ("blocks", "cache", "refresh") for part in parts]
    before = others.index(False) if False in others else len(parts)
    return "@".join([order, *parts[:before]]), "@".join(parts[before:])


def _rules_for(sampler: Sampler) -> list[str]:
    """The count rules that are tried with an order."""
    if not isinstance(sampler.remasker, Absorbing):
        return [""]  # its own
    policy = next((part.policy for part in walk(sampler.order) if isinstance(part, LearnedOrder)), None)
    kind = "heuristic"
    if policy is not None:
        facts = next((e.facts for e in POLICIES.known() if e.part is type(policy)), {})
        kind = str(facts.get("trained_by", "supervised"))
    return [entry.name for entry in COUNT_RULES.entries() if kind in entry.facts.get("curve_for", ())]


def _curve(order: str, base: Sampler, rule: str, longest: int) -> Curve:
    name, given = COUNT_RULES.split(rule)
    text = ":".join(given)
    label = f"{order}@{name}" if name else order
    entry = COUNT_RULES.entry(name) if name else None
    if entry is not None and entry.facts.get("wraps"):  # a curve over budgets, whatever is inside
        label, name, text = f"{order}@{rule}", rule, ""
    arguments = () if entry is None else entry.arguments
    if arguments:
        values = text.split("/") if text else [str(value) for value in arguments[0].values]
        spelled = [f"{name}:{value}" for value in _checked(values, label)]
        return Curve(label, tuple(Point(f"{order}@{rule}", base.replace(count=rule)) for rule in spelled))
    sampler = base.replace(count=name) if name else base
    budgets = [_budget(value, label) for value in _checked(text.split("/"), label)] if text else _budgets(longest)
    return Curve(label, tuple(Point(label, sampler, budget) for budget in budgets))


def _budgets(longest: int) -> list[int | None]:
    """Six budgets of forward passes, evenly by ratio."""
    most = longest if longest <= _SHORT else longest // 2
    budgets = np.geomspace(min(most, max(2, longest // 12)), most, 6).round().astype(int)
    return [int(budget) for budget in np.unique(budgets)]


def _checked(values: list[str], label: str) -> list[str]:
    values = [value.strip() for value in values]
    if not values or not all(values):
        raise BadInput(f"curve {label!r}: give its values, as in {label}:1/2/3")
    return values


def _budget(value: str, label: str) -> int | None:
    if value == "all":
        return None
    if not value.isdigit() or int(value) < 1:
        raise BadInput(f"curve {label!r}: {value!r} is not a budget of forward passes; use whole numbers from 1 on, or 'all'")
    return int(value)
