"""Diagnostics of joint training: is the denoiser still learning everywhere, has the policy collapsed, are the samples still
diverse?"""

import math

import torch
from torch import Tensor, nn

from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.base import evaluating
from anyorder.losses import policy_log_probabilities
from anyorder.orders.learned import LearnedOrder
from anyorder.orders.policies import PolicyNetwork
from anyorder.tasks.base import Instances, Task
from anyorder.tasks.instances import checked_result

LEVELS = 5
STARVED = 0.1
"""A position is starved when the batch-average policy gives it less than this share of what a uniform policy would."""


def level_numbers(token_losses: Tensor, right: Tensor, masked: Tensor, generated: Tensor) -> dict[str, float]:
    """Mean loss and accuracy of masked tokens, by the share of the generated positions that is masked.

    Args:
        token_losses: l_i (B, L), 0 where not masked.
        right: whether the likeliest token is right, bool (B, L).
        masked, generated: bool (B, L).

    Returns:
        `loss_level_K` and `accuracy_level_K` for K = 0 (a fifth masked or less) to 4 (more than four fifths), where the batch
        has such rows.
    """
    share = masked.sum(dim=1).float() / generated.sum(dim=1).clamp(min=1)
    level = (share * LEVELS).ceil().long().sub(1).clamp(0, LEVELS - 1)
    numbers = {}
    for k in range(LEVELS):
        here = masked & (level == k)[:, None]
        if here.any():
            numbers[f"loss_level_{k}"] = float(token_losses[here].mean())
            numbers[f"accuracy_level_{k}"] = float(right[here].double().mean())
    return numbers


def policy_numbers(scores: Tensor, masked: Tensor) -> dict[str, float]:
    """How concentrated a policy is, from its scores (B, L).

    Returns:
        policy_entropy: mean over rows of H(q) / log |M|, 1 for a uniform policy, 0 for a deterministic one.
        policy_positions: effective number of positions, the perplexity of the batch-average q.
        policy_reach: that number over the most that these rows could show: the one of a uniform policy on the same masks, or
            the number of rows where that is less.
        policy_starved: share of the positions that get less than a tenth of what a uniform policy would give them.
    """
    rows = masked.sum(dim=1) > 1
    if not rows.any():
        return {"policy_entropy": 1.0, "policy_positions": 1.0, "policy_reach": 1.0, "policy_starved": 0.0}
    scores, masked = scores[rows], masked[rows]
    log_q = policy_log_probabilities(scores, masked).masked_fill(~masked, 0.0)
    q = log_q.exp() * masked
    uniform = masked.float() / masked.sum(dim=1, keepdim=True)
    entropy = -(q * log_q).sum(dim=1) / masked.sum(dim=1).float().log()
    average, reference = q.mean(dim=0), uniform.mean(dim=0)
    used = reference > 0
    return {
        "policy_entropy": float(entropy.mean()),
        "policy_positions": _perplexity(average),
        "policy_reach": min(1.0, _perplexity(average) / min(_perplexity(reference), len(q))),
        "policy_starved": float((average < STARVED * reference)[used].double().mean()),
    }


def attention_to_mistakes(weight: Tensor | None, right: Tensor, masked: Tensor) -> dict[str, float]:
    """How much weight the denoiser's loss gives to tokens that it does not know yet, from weights (B, L), None if equal.

    Returns:
        weight_on_wrong: the share of all weight that lies on wrongly predicted masked tokens, over the share that equal
            weights would put there. 1 for L_MDM; near 0, the denoiser is trained on what it knows. Absent if every token is
            right.
    """
    wrong = masked & ~right
    if weight is None or not wrong.any():
        return {"weight_on_wrong": 1.0} if wrong.any() else {}
    share = float(weight[wrong].sum() / weight[masked].sum().clamp(min=1e-30))
    return {"weight_on_wrong": share * float(masked.sum()) / float(wrong.sum())}


def _perplexity(probabilities: Tensor) -> float:
    return math.exp(-float(torch.special.xlogy(probabilities, probabilities).sum()))


@torch.no_grad()
def decoded_numbers(
    denoiser: nn.Module, policy: PolicyNetwork, task: Task, problems: Instances, steps: int
) -> dict[str, float]:
    """Decode a fixed batch of problems as they are now: accuracy, and how different the samples are from one another.

    Returns:
        decoded_accuracy: instance accuracy by the task's rules.
        decoded_diversity, truth_diversity: 1 minus the mean pairwise identity (eq. 10) of the samples and of the truth, over
            the positions that both of a pair generate. Samples far below the truth have lost diversity.
    """
    with evaluating(policy):
        decoded = decode(denoiser, problems.tokens, Sampler(LearnedOrder(policy), steps=steps))  # type: ignore[arg-type]
    tokens = decoded.tokens
    numbers = {"decoded_accuracy": float(checked_result(task, problems, tokens).instance_correct.double().mean())}
    numbers["decoded_diversity"] = pairwise_diversity(tokens, problems.maskable)
    if problems.x0 is not None:
        numbers["truth_diversity"] = pairwise_diversity(problems.x0, problems.maskable)
    return numbers


def pairwise_diversity(tokens: Tensor, where: Tensor) -> float:
    """1 minus the mean identity of all pairs of rows (N, L), over the positions `where` both count (eqs. 9 and 10)."""
    both = where[:, None] & where[None]
    same = ((tokens[:, None] == tokens[None]) & both).sum(dim=-1).float() / both.sum(dim=-1).clamp(min=1)
    pairs = torch.ones_like(same, dtype=torch.bool).triu(diagonal=1)
    return float(1 - same[pairs].double().mean())
