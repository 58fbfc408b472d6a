"""The samplers that are compared, with their labels and the kinds of their orders."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Literal

from anyorder.decoding.dependence import OwnPlanner
from anyorder.decoding.remaskers import Absorbing
from anyorder.decoding.sampler import Sampler, as_sampler
from anyorder.denoisers.base import Denoiser, fingerprint
from anyorder.errors import BadInput
from anyorder.orders.base import Order
from anyorder.orders.end_penalty import EarlyEndRejection, EndPenalty
from anyorder.orders.learned import Critic, LearnedOrder, SavedOrder, networks_of, saved_order
from anyorder.orders.perturbed import Perturbed
from anyorder.orders.policies import PolicyNetwork
from anyorder.parts import label_of, walk
from anyorder.registry import CACHES, COUNT_RULES, ORDERS, REMASKERS, TOKEN_RULES, Entry
from anyorder.tasks.base import Instances, Task

SamplerLike = str | Path | Sampler | Order | PolicyNetwork
"""A sampler's spelling or folder, a sampler, or an order: a function of a state and a prediction, or an object that is called
so."""

Samplers = SamplerLike | Sequence[SamplerLike] | Mapping[str, SamplerLike]
"""One or several of them, or a mapping from labels."""

Kind = Literal["heuristic", "oracle", "learned", "other"]
"""Of an order: one of the baselines, one that reads the solution, a policy, or anything else."""


def noise_name(noise: float, anneal: bool) -> str:
    """The noise of an order in words: "noise 2", "noise 2, annealed", or nothing."""
    return (f"noise {noise:g}" + ", annealed" * anneal) if noise else ""


def with_noise(name: str, noise: float, anneal: bool) -> str:
    """A name followed by the noise, if there is any."""
    return ", ".join(filter(None, (name, noise_name(noise, anneal))))


def described(sampler: Sampler) -> dict[str, Any]:
    """What decides the samples of a bound sampler, as plain values for a report: its parts as text, the length of its blocks,
    and a fingerprint of each network in them."""
    found = {name: label_of(getattr(sampler, name), registry) for name, registry in _REGISTRIES.items()}
    parts = (part for name in _REGISTRIES for part in walk(getattr(sampler, name)))
    networks = dict.fromkeys(network for part in parts for network in networks_of(part))
    return {**found, "block_length": sampler.block_length, "networks": [fingerprint(network) for network in networks]}


_REGISTRIES = {
    "order": ORDERS, "count": COUNT_RULES, "token": TOKEN_RULES, "remasker": REMASKERS, "cache": CACHES,
}  # fmt: skip


def as_samplers(samplers: Samplers, **fields: Any) -> dict[str, Sampler]:
    """Samplers by label.

    Args:
        samplers: spellings such as "policy+undo@threshold:0.9", folders of samplers or policies, samplers, orders, or a
            mapping from labels to any of these. Without a mapping, the label of a spelling or folder is the text as typed, that
            of a sampler `str(sampler)`, and that of an order its name.
        fields: further fields of the samplers that are made here, such as `count` and `token`; complete samplers keep theirs,
            and None leaves the default.

    Raises:
        BadInput: there are none, two have the same label, or one is not a sampler.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    if isinstance(samplers, Mapping):
        found = {str(label): as_sampler(one, **given) for label, one in samplers.items()}
    else:
        found = {}
        for one in samplers if isinstance(samplers, Sequence) and not isinstance(samplers, str) else [samplers]:
            label, sampler = label_for(one), as_sampler(one, **given)
            if label in found:
                raise BadInput(
                    f"two samplers are called {label!r}: leave one out, or in Python pass a mapping {{label: sampler}}"
                )
            found[label] = sampler
    if not found:
        raise BadInput("there is nothing to compare: give at least one sampler, such as 'confidence'")
    return found


def label_for(one: SamplerLike) -> str:
    """What a sampler is called in tables."""
    if isinstance(one, str | Path | Sampler):
        return str(one)
    if isinstance(one, LearnedOrder | PolicyNetwork):
        return "policy"
    module = getattr(one, "__module__", "")
    return label_of(one, ORDERS).removeprefix(f"{module}:")


def kind_of(sampler: Sampler) -> Kind:
    """The kind of order that a sampler has, by the facts of the registry.

    An order of another package, or one that is not registered, is "other": results are never compared with it by default. So is
    a baseline with a remasker. A sampler whose count or token rule is learned is "learned" too.
    """
    inside = [_facts(part) for part in walk(sampler.order)]
    if any(facts.get("oracle") for facts in inside):
        return "oracle"
    parts = [part for rule in (sampler.order, sampler.count, sampler.token) for part in walk(rule)]
    if any(isinstance(part, LearnedOrder | SavedOrder | Critic | OwnPlanner) for part in parts):
        return "learned"
    order = sampler.order.order if isinstance(sampler.order, Perturbed | EndPenalty | EarlyEndRejection) else sampler.order
    baseline = _facts(order).get("baseline") and isinstance(sampler.remasker, Absorbing)
    return "heuristic" if baseline else "other"


def _facts(part: Any) -> Mapping[str, Any]:
    """The facts under which an order of this package is registered; {} for any other."""
    entry = next((e for e in ORDERS.known() if e.part is part or e.part is type(part)), None)
    return {} if entry is None else entry.facts


def color_of(label: str) -> str | None:
    """The color that the order of a label is registered with, if there is one."""
    color = _facts_of_label(label).get("color")
    return None if color is None else str(color)


def is_oracle(label: str) -> bool:
    """Whether the order of a label is registered as an oracle."""
    return bool(_facts_of_label(label).get("oracle"))


def _facts_of_label(label: str) -> Mapping[str, Any]:
    name = re.split("[@+~:]", label)[0]
    return ORDERS.entry(name).facts if name in ORDERS else {}


def check_oracles(samplers: Mapping[str, Sampler], instances: Instances) -> None:
    """Refuse oracles if the solutions are unknown.

    Raises:
        BadInput: there is one.
    """
    oracles = [label for label, sampler in samplers.items() if kind_of(sampler) == "oracle"]
    if oracles and instances.x0 is None:
        raise BadInput(f"{oracles[0]} is an oracle and reads the solutions, which these problems do not have: leave it out")


def default_samplers(task: Task, denoiser: Denoiser, instances: Instances, *, strict: bool = True) -> list[str]:
    """What `anyorder evaluate` compares by default: the orders that are registered with `default=True`, those of other packages
    unless they are registered with `default=False`, and the denoiser's own policy.

    Orders by position are included only if they suit the task (`Task.sequential`), oracles only if the solutions are known, and
    `policy+undo` only if the policy has a critic. With `strict`, a policy that was fitted to another denoiser is refused.
    """
    found = []
    for entry in ORDERS.entries():
        if not entry.facts.get("default", is_foreign(entry)) or any(a.default is MISSING for a in entry.arguments):
            continue
        if not suits(entry, task) or (entry.facts.get("oracle") and instances.x0 is None):
            continue
        found.append(entry.name)
    own = getattr(denoiser, "own_order", None)
    if own and (Path(own) / "config.json").is_file():
        found.append("policy")
        if saved_order(denoiser, strict=strict).critic is not None:  # type: ignore[arg-type]
            found.append("policy+undo")
    return found


def suits(entry: Entry, task: Task) -> bool:
    """Whether an order is sensible for a task: one by position only if the task is read in its direction."""
    return bool(entry.facts.get("sequential", task.sequential) == task.sequential)


def is_foreign(entry: Entry) -> bool:
    """Whether a part comes from another package."""
    return str(getattr(entry.part, "__module__", "")).partition(".")[0] != __name__.partition(".")[0]
