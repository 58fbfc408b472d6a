"""One instance of every registered part of a sampler, for tests that must hold for all of them."""

import functools
from typing import Any

import torch
from torch import Tensor

from anyorder.decoding.counts import top
from anyorder.decoding.dependence import DependencyGuided
from anyorder.decoding.published_remaskers import Below, CriticP2, Prism
from anyorder.decoding.remaskers import CriticUndo
from anyorder.decoding.remdm import SCHEDULES, ReMDM
from anyorder.denoisers.base import fingerprint
from anyorder.orders.half_planned import PlannedFirst
from anyorder.orders.learned import Critic, LearnedOrder
from anyorder.orders.perturbed import Perturbed
from anyorder.orders.policies import PolicyNetwork
from anyorder.prediction import Prediction
from anyorder.registry import COUNT_RULES, ORDERS, POLICIES, REMASKERS, TOKEN_RULES
from anyorder.state import DecodeState
from conftest import HashDenoiser


def order_of_tests(state: DecodeState, prediction: Prediction) -> Tensor:
    """An order that is not registered, but can be found by reference."""
    return -prediction.scatter(prediction.top_log_probs[:, 1], torch.inf)


def rule_of_tests(scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
    """A count rule that is a plain function."""
    return top(scores, torch.full_like(remasked, 2))


ARGUMENTS = {"even_blocks": (3,)}
ORDER_ARGUMENTS = {"eoser": (2,)}
"""Of parts that have no defaults."""


def named_orders() -> dict[str, Any]:
    """Every registered order as it is made from text."""
    return {name: ORDERS.make(":".join([name, *map(str, ORDER_ARGUMENTS.get(name, ()))])) for name in ORDERS}


@functools.cache
def network(architecture: str, seed: int = 0, scores_committed: bool = False, **settings: Any) -> PolicyNetwork:
    """A policy for `conftest.HashDenoiser` with random weights everywhere, so that it is not the confidence order."""
    torch.manual_seed(seed)
    known = {"width": 8, "heads": 2} if architecture != "lookahead" else {"width": 8}
    fields = POLICIES[architecture].Settings.__dataclass_fields__
    settings = {name: value for name, value in known.items() if name in fields} | settings
    policy: PolicyNetwork = POLICIES[architecture](
        hidden_size=4,
        vocab_size=5,
        scores_committed=scores_committed,
        denoiser_fingerprint=fingerprint(HashDenoiser()),
        **settings,
    )
    for parameter in policy.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return policy.eval()


@functools.cache
def learned(architecture: str = "lookahead") -> LearnedOrder:
    """A learned order with a critic of its own."""
    return LearnedOrder(network(architecture), Critic(network("mlp", seed=1, scores_committed=True)))


def orders() -> dict[str, Any]:
    """Every registered order, every architecture of policies, and a perturbed one. `policy` is a learned order."""
    found = named_orders() | {"policy": learned(), "gt_margin_planner": PlannedFirst(learned())}
    policies = {f"policy {name}": LearnedOrder(network(name)) for name in POLICIES}
    restricted = LearnedOrder(network("upo", top_positions=2))
    return found | policies | {"perturbed": Perturbed(learned(), 0.2), "perturbed and restricted": Perturbed(restricted, 0.2)}


def named_count_rules() -> dict[str, Any]:
    """Every registered count rule as it is made from text."""
    return {name: COUNT_RULES[name](*ARGUMENTS.get(name, ())) for name in COUNT_RULES}


def count_rules() -> dict[str, Any]:
    """Every registered count rule; `demask` with a planner of its own."""
    return named_count_rules() | {"demask": DependencyGuided(0.5, planner=LearnedOrder(network("pairwise")))}


def token_rules() -> dict[str, Any]:
    """Every registered token rule."""
    return {name: TOKEN_RULES[name]() for name in TOKEN_RULES} | {"sample of few": TOKEN_RULES["sample"](0.8, 0.9, 3)}


def remaskers() -> dict[str, Any]:
    """Every registered remasker; `undo` with a critic of its own that doubts much."""
    found = {name: REMASKERS[name]() for name in REMASKERS}
    critic = Critic(network("mlp", seed=2, scores_committed=True))
    found |= {"undo": CriticUndo(0.5, 0.9, True, critic), "undo without memory": CriticUndo(0.5, 0.9, False, critic)}
    found |= {"p2_critic": CriticP2(1.0, critic), "prism": Prism(2, critic), "below": Below(0.3)}
    return found | {f"remdm {name}": ReMDM(name, 0.5) for name in SCHEDULES}
