"""Which sampler is best at a budget of forward passes: candidates, the choice on validation problems, and the advice.

A sampler with a learned part is chosen only if it is better than the best heuristic on the validation problems, by a paired
95 % interval and an exact test (p < .05). So what is chosen is as good as the best heuristic, up to the error of that test,
which grows with the number of candidates; what is significantly worse on the test problems is not recommended.
"""

from collections.abc import Callable
from dataclasses import MISSING, dataclass
from typing import Any

from anyorder.decoding.combined_counts import Deadline, NumberOf
from anyorder.decoding.counts import Fixed
from anyorder.decoding.remaskers import CriticUndo
from anyorder.decoding.sampler import Sampler
from anyorder.errors import BadInput, counted
from anyorder.evaluation.results import Report, Result, compare_all
from anyorder.evaluation.samplers import Kind, is_foreign, suits
from anyorder.evaluation.statistics import mcnemar, paired_interval, sign_flip
from anyorder.evaluation.tables import metric_name, p_text
from anyorder.orders.learned import LearnedOrder
from anyorder.registry import COUNT_RULES, ORDERS
from anyorder.tasks.base import Task

_SIGNIFICANT = 0.05

WORTH = 1.0
"""Points of the main metric. A gain below this is not worth a fit."""

Compare = Callable[[dict[str, Sampler]], Report]
"""Decodes the validation problems with samplers at the budget."""


@dataclass(frozen=True)
class Gain:
    """What one sampler gains over another on the same problems, in points of the main metric: mean, 95 % interval, p-value."""

    what: str
    mean: float
    low: float
    high: float
    p_value: float

    def __str__(self) -> str:
        return f"{self.what} {self.mean:+.1f} points ({self.low:+.1f} to {self.high:+.1f}, {p_text(self.p_value)})"


def baselines(task: Task) -> dict[str, Sampler]:
    """The orders that need no training and take no arguments, at an even pace, but for those that are the same as another one
    (`twin`) where the likeliest tokens are committed; those of other packages unless they are registered with
    `default=False`."""
    found = {}
    for entry in ORDERS.entries():
        own = is_foreign(entry) and entry.facts.get("default", True) and not entry.facts.get("oracle")
        if (own or entry.facts.get("baseline")) and suits(entry, task) and not entry.arguments and not entry.facts.get("twin"):
            found[entry.name] = Sampler.parse(entry.name)
    return found


def adaptive(*, every: bool = True) -> dict[str, Sampler]:
    """The confidence order with each count rule that reads the predictions, with every value that the rule is registered with
    or with its default alone; and with the rules that are registered as a `candidate`, as they are."""
    found: list[str] = []
    for entry in COUNT_RULES.entries():
        if entry.facts.get("candidate"):
            found.append(f"confidence@{entry.name}")
        if "heuristic" not in entry.facts.get("curve_for", ()) or entry.name == "linear":
            continue
        if not entry.arguments:
            found.append(f"confidence@{entry.name}")
            continue
        first = entry.arguments[0]
        values = first.values if every or first.default is MISSING else [first.default]
        found += [f"confidence@{entry.name}:{value}" for value in values]
    return {text: Sampler.parse(text) for text in found}


def oracles() -> dict[str, Sampler]:
    """The orders that read the solutions, at an even pace."""
    return {name: Sampler.parse(name) for name in ORDERS.names(oracle=True)}


def heuristics(task: Task, compare: Compare) -> Report:
    """Compare all heuristics: the baselines, then confidence with the adaptive count rules, then the best of these rules with
    the even pace of the budget as its slowest, and with noise on the order."""
    report = compare(baselines(task) | adaptive())
    name = best(report, "heuristic", "@").order
    sampler = Sampler.parse(name)
    paced = sampler.replace(count=Deadline(sampler.count))
    return joined(report, compare({f"{name}, within the budget": paced, f"{name}, noise 1": sampler.replace(noise=1.0)}))


def learned(order: LearnedOrder, heuristic: Sampler, name: str = "policy", *, slow: bool = True) -> dict[str, Sampler]:
    """The samplers that use a policy: its order at an even pace and with as many positions per step as the best heuristic, and
    undo by its critic, if it has one, after its own order, fast or one position at a time, and after the best heuristic."""
    found = {name: Sampler(order)}
    adaptive_rule = heuristic.count != Sampler(order).count
    if adaptive_rule:
        found[f"{name}, pace of the heuristic"] = Sampler(order, NumberOf(heuristic.count))
    if order.critic is not None:
        undo = CriticUndo(critic=order.critic)
        found[f"{name}+undo"] = Sampler(order, remasker=undo)
        if slow:
            found[f"{name}+undo, one at a time"] = Sampler(order, Fixed(), remasker=undo)
        pace: Any = heuristic.count if adaptive_rule else None
        found["heuristic+undo" if name == "policy" else f"heuristic+undo by {name}"] = Sampler(
            heuristic.order, pace, remasker=undo
        )
    return found


def best(report: Report, kind: Kind | None = None, part: str = "") -> Result:
    """The result of one kind of samplers with the largest main metric; among equals the one with the fewest forward passes.

    Raises:
        BadInput: the report has none of this kind.
    """
    found = [r for r in report.results if (r.kind == kind or (kind is None and r.kind not in ("heuristic", "oracle")))]
    found = [r for r in found if part in r.order]
    if not found:
        raise BadInput(f"headroom compares heuristics with oracles: this evaluation has no {kind}, give at least one")
    return max(found, key=lambda result: (result.main(report.main_metric)[0], -result.nfe))


def choose(report: Report) -> str:
    """The label of the sampler to use: the best one with a learned part if it is better than the best heuristic by a paired
    95 % interval and p < .05, else that heuristic. Oracles are not candidates."""
    heuristic = best(report, "heuristic")
    if all(result.kind in ("heuristic", "oracle") for result in report.results):
        return heuristic.order
    challenger = best(report)
    found = gain(report, challenger.order, heuristic.order)
    return challenger.order if found.low > 0 and found.p_value < _SIGNIFICANT else heuristic.order


def gain(report: Report, order: str, against: str) -> Gain:
    """What a sampler of a report gains over another one."""
    metric, by_label = report.main_metric, {result.order: result for result in report.results}
    one, other = by_label[order].outcomes(metric), by_label[against].outcomes(metric)
    low, high = paired_interval(one, other)
    differences = one.astype(float) - other.astype(float)
    p = mcnemar(one, other) if one.dtype == bool else sign_flip(differences)
    return Gain(order, 100 * float(differences.mean()), 100 * low, 100 * high, p)


def joined(one: Report, other: Report) -> Report:
    """Two reports on the same problems as one, compared with the best heuristic of both."""
    results = [*one.results, *other.results]
    return Report(results, compare_all(results, "best", one.main_metric), one.meta)


def advice(report: Report, heuristic: str, gains: list[Gain], several: float = 0.0, chosen: str = "") -> str:
    """What to do, in the same words wherever it is said: what the best heuristic reaches, what was gained over it, and whether
    that is worth a fit.

    Args:
        report: with the heuristic, and with an oracle if there is one.
        heuristic: label of the best heuristic.
        gains: of learned samplers over it; none if nothing was fitted.
        several: share of the problems that are known to have several solutions.
        chosen: label of the sampler that was chosen on other problems; by default nothing was.
    """
    result = next(r for r in report.results if r.order == heuristic)
    count = len(result.correct)
    value = result.main(report.main_metric)[0]
    said = [
        f"The best heuristic is {heuristic}: {100 * value:.1f} % {metric_name(report)} with {result.nfe:.1f} forward passes "
        f"({counted(count, 'problem')})."
    ]
    if gains:
        said.append(f"Gained over it: {'; '.join(map(str, gains))}.")
    if any(r.kind == "oracle" for r in report.results):
        said.append(_of_oracle(gain(report, best(report, "oracle").order, heuristic), several, gains))
    elif several:
        said.append(f"At least {100 * several:.0f} % of the problems have several solutions.")
    return " ".join([*said, _verdict(heuristic, gains, 100 * (1 - value), chosen)])


def _of_oracle(lead: Gain, several: float, gains: list[Gain]) -> str:
    """How far the oracle is ahead, and when that is no bound."""
    points = f"{lead.mean:.1f} points ahead ({lead.low:.1f} to {lead.high:.1f})"
    if lead.mean < 0:
        points = f"{-lead.mean:.1f} points behind ({-lead.high:.1f} to {-lead.low:.1f})"
    said = f"The oracle order, which reads the stored solution, is {points}."
    if several:
        return f"{said} That is no bound: at least {100 * several:.0f} % of the problems have other solutions too."
    if any(one.mean > lead.mean for one in gains):
        return f"{said} That is no bound for undo, which can correct tokens, or for other count rules."
    return said


def _verdict(heuristic: str, gains: list[Gain], room: float, chosen: str) -> str:
    """One sentence that says what to do; `room` is how many points are left to 100 %."""
    if chosen:
        return f"Advice: use {chosen}" + ("." if chosen != heuristic else ", since nothing that was learned was better.")
    proven = [one for one in gains if one.low > 0 and one.p_value < _SIGNIFICANT and one.mean >= WORTH]
    if proven:
        most = max(proven, key=lambda one: one.mean)
        return f"Advice: use a learned sampler ({most.what}); anyorder fit makes and tests one."
    if room < WORTH:
        return f"Advice: use {heuristic}; less than {WORTH:.0f} point is left to gain."
    if gains and max(one.high for one in gains) < WORTH:
        return f"Advice: use {heuristic}; what was learned gains less than {WORTH:.0f} point."
    if gains:
        most = max(gains, key=lambda one: one.high)
        return (
            f"Advice: use {heuristic} unless a longer fit (anyorder fit) shows more; a gain is neither shown nor excluded "
            f"({most.what}: up to {most.high:.1f} points)."
        )
    return f"Advice: use {heuristic}, or let anyorder fit try what can be learned."
