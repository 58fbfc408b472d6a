"""Orders that need no training. Scores, larger = sooner; p is the denoiser's distribution at a position.

| name | score | source |
|---|---|---|
| random | uniform noise | the standard reverse process (arXiv 2606.00295, eq. 1) |
| left_to_right | minus the position | autoregressive order |
| confidence | log of the largest probability | LLaDA (arXiv 2502.09992) |
| margin | largest minus second largest probability | arXiv 2502.06768 |
| log_margin | the same of log-probabilities | the margin whose scale noise does not drown |
| entropy | minus the entropy of p, in nats | arXiv 2505.24857 |
| oracle | log p(x0) | arXiv 2606.00295, section 2.2 |
| gt_margin | p(x0) minus the largest probability of another token | arXiv 2602.09501 |

The scale of a score matters as soon as noise is added to it: log-probabilities and log-margins are unbounded, margins lie
in [0, 1], entropies in [-log V, 0].
"""

import torch
from torch import Tensor

from anyorder.orders.base import Order, State

_RANDOM_ORDER = 1


def random(state: State) -> Tensor:
    """Uniform numbers in (0, 1), fresh at every step."""
    return state.uniform(_RANDOM_ORDER).float().masked_fill(~state.predicted, -torch.inf)


def left_to_right(state: State) -> Tensor:
    """Minus the position."""
    return -state.index.float().masked_fill(~state.predicted, torch.inf)


def confidence(state: State) -> Tensor:
    """log c_i, where c_i is the largest probability (not that of a sampled token; they coincide under argmax)."""
    return state.scatter(state.summary.top_log_probs[:, 0])


def margin(state: State) -> Tensor:
    """Largest minus second largest probability."""
    top = state.summary.top_log_probs.exp()
    return state.scatter(top[:, 0] - top[:, 1])


def log_margin(state: State) -> Tensor:
    """Largest minus second largest log-probability."""
    top = state.summary.top_log_probs
    return state.scatter(top[:, 0] - top[:, 1])


def entropy(state: State) -> Tensor:
    """Minus the entropy in nats."""
    return state.scatter(-state.summary.entropy)


def oracle(state: State) -> Tensor:
    """log p_i(x0_i): the position where the denoiser's loss is least. Needs the truth."""
    return state.scatter(state.truth_log_probs())


def gt_margin(state: State) -> Tensor:
    """p_i(x0_i) minus the largest probability of any other token. Needs the truth."""
    truth = state.truth_log_probs()
    assert state.x0 is not None
    top, tokens = state.summary.top_log_probs, state.summary.top_tokens
    is_first = tokens[:, 0] == state.x0[state.predicted]
    return state.scatter(truth.exp() - torch.where(is_first, top[:, 1], top[:, 0]).exp())


HEURISTICS: dict[str, Order] = {
    "random": random,
    "left_to_right": left_to_right,
    "confidence": confidence,
    "margin": margin,
    "log_margin": log_margin,
    "entropy": entropy,
}
"""Orders that anyone can use."""

ORACLES: dict[str, Order] = {"oracle": oracle, "gt_margin": gt_margin}
"""Orders that look at the truth: upper bounds, not methods."""
