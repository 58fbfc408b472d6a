"""The objectives as pure functions of tensors. Names follow the papers; equation numbers are those of arXiv 2606.00295.

Shapes: token losses, logits of a policy, weights: float (B, L); masked: bool (B, L); time weights: float (B,).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from anyorder.errors import LARGEST_FINITE, check_number


def token_cross_entropy(logits: Tensor, x0: Tensor, masked: Tensor) -> Tensor:
    """l_i = -log p_i(x0_i) at masked positions and 0 elsewhere, float (B, L), from logits (B, L, V)."""
    losses = F.cross_entropy(logits[masked].float(), x0[masked], reduction="none")
    return torch.zeros(masked.shape, dtype=losses.dtype, device=losses.device).masked_scatter(masked, losses)


def focal_weight(token_losses: Tensor, gamma: float, alpha: float = 0.25) -> Tensor:
    """alpha * (1 - p_i)^gamma with p_i = exp(-l_i): easy tokens count less (Ye et al. 2024). The gradient flows through it."""
    unsure = 1 - torch.exp(-token_losses)
    if 0 < gamma < 1:  # whose gradient has no bound at 0
        unsure = unsure.clamp(min=1e-6)
    return alpha * unsure**gamma


def mdm_loss(
    token_losses: Tensor,
    masked: Tensor,
    time_weight: Tensor | None = None,
    token_weight: Tensor | None = None,
    *,
    focal_gamma: float | None = None,
    focal_alpha: float = 0.25,
    normalize: str = "sequences",
) -> Tensor:
    """L_MDM (eq. 2): the mean over the batch of w_t * sum over masked i of l_i.

    Args:
        token_losses: l_i (B, L), 0 where not masked.
        masked: bool (B, L).
        time_weight: w_t (B,), or (B, L) where positions have times of their own; 1 by default.
        token_weight: (B, L); 1 by default, and never differentiated. With 1 + q this is L_PA-MDM (eq. 4).
        focal_gamma: if given, every l_i is multiplied by `focal_weight`.
        focal_alpha: scale of that weight.
        normalize: "sequences" divides by B as eq. 2 does; "tokens" by the number of masked tokens, as Ye et al. do; "rows"
            takes each row's mean over its masked tokens, then the mean of rows (the any-order autoregressive form of eq. 2).
    """
    losses = token_losses
    if focal_gamma is not None:
        losses = losses * focal_weight(token_losses, focal_gamma, focal_alpha)
    if time_weight is not None:
        losses = losses * (time_weight if time_weight.dim() == 2 else time_weight[:, None])
    if token_weight is not None:
        losses = losses * token_weight.detach()
    if normalize == "sequences":
        return losses.sum() / losses.shape[0]
    if normalize == "tokens":
        return losses.sum() / masked.sum().clamp(min=1)
    if normalize == "rows":
        return _mean_of_rows(losses, masked)
    raise ValueError(f"normalize is {normalize!r}; it must be 'sequences', 'tokens' or 'rows'")


def policy_log_probabilities(scores: Tensor, masked: Tensor) -> Tensor:
    """log q(i | x_t): log-softmax of the scores over the masked positions, -inf elsewhere, float (B, L).

    A row without masked positions is all -inf.
    """
    scores = scores.masked_fill(~masked, -torch.inf)
    empty = ~masked.any(dim=1, keepdim=True)
    log_q = torch.log_softmax(scores.masked_fill(empty, 0.0), dim=1)
    return log_q.masked_fill(~masked, -torch.inf)


def policy_aware_weight(scores: Tensor, masked: Tensor, *, alpha: float = 1.0, plus_one: bool = True) -> Tensor:
    """1 + alpha * q_i of L_PA-MDM (eq. 4) at masked positions and 0 elsewhere, (B, L), with q the softmax of the scores over M.

    The scores of a policy give eq. 4, log c_i or the margin gives the heuristic-aware controls, and log p_i(x0_i) / tau gives
    the weights of PAPL (arXiv 2509.23405), together with `normalize="rows"`. Not differentiable: no gradient reaches the
    scores.
    """
    q = policy_log_probabilities(scores.detach(), masked).exp()
    return (float(plus_one) + alpha * q) * masked


def order_loss(scores: Tensor, token_losses: Tensor, masked: Tensor, time_weight: Tensor | None = None) -> Tensor:
    """L_ORDER (eq. 3): mean of w_t * sum_i q(i | x_t) * stopgrad(l_i). For uniform q this is `L_MDM / |M|`, row by row."""
    q = policy_log_probabilities(scores, masked).exp()
    per_row = (q * token_losses.detach()).sum(dim=1)
    if time_weight is not None:
        per_row = per_row * time_weight
    return per_row.mean()


def correctness_loss(scores: Tensor, correct: Tensor, where: Tensor, row_weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of sigmoid(s_i) against "the token at i is right": mean over `where` in a row, then over rows,
    each multiplied by its weight (B,) where given."""
    losses = F.binary_cross_entropy_with_logits(scores, correct.to(scores.dtype), reduction="none")
    if row_weight is not None:
        losses = losses * row_weight[:, None]
    return _mean_of_rows(losses, where)


def loss_regression(scores: Tensor, token_losses: Tensor, masked: Tensor) -> Tensor:
    """Regress l_i: the predicted loss is softplus(-s_i), so exp(-softplus(-s_i)) = sigmoid(s_i) is the predicted p_i(x0_i).

    Squared error in log(1 + l), since losses of 10 and 12 are nearly the same; mean over a row's masked positions, then over
    rows.
    """
    error = torch.log1p(F.softplus(-scores)) - torch.log1p(token_losses.detach())
    return _mean_of_rows(error.square(), masked)


def selection_loss(
    scores: Tensor, wrong: Tensor, masked: Tensor, count: Tensor, temperature: float, row_weight: Tensor | None = None
) -> Tensor:
    """Expected number of wrong tokens among the `count` that are unmasked now: eq. 3 for several positions at a time.

    Position i is selected when its score plus logistic noise exceeds the row's level, with probability
    pi_i = sigmoid((s_i - level) / temperature); the level is such that the pi_i add up to `count`. The gradient
    pi_j (1 - pi_j) (w_j - mean of w under pi (1 - pi)) / temperature is that of eq. 3 with pi in place of q: it acts at
    the boundary, where the choice is made, and it rewards scores that stand out from the noise.

    Args:
        scores: float (B, L).
        wrong: bool (B, L), or any loss of unmasking a position; not differentiated.
        masked: bool (B, L).
        count: (B,), how many are selected; rows with no more masked positions than that have no choice and do not count.
        temperature: scale of the noise.
        row_weight: float (B,).
    """
    available = masked.sum(dim=1)
    choice = available > count
    with torch.no_grad():
        inside = scores.masked_fill(~masked, torch.nan).nan_to_num(0.0)
        low, high = inside.amin(dim=1) - 40 * temperature, inside.amax(dim=1) + 40 * temperature
        for _ in range(50):
            level = (low + high) / 2
            expected = (torch.sigmoid((scores - level[:, None]) / temperature) * masked).sum(dim=1)
            low, high = torch.where(expected > count, level, low), torch.where(expected > count, high, level)
        level = (low + high) / 2
    chance = torch.sigmoid((scores - level[:, None]) / temperature) * masked
    slope = (chance * (1 - chance)).sum(dim=1).detach().clamp(min=1e-6)
    level = level + (chance.sum(dim=1) - count) * temperature / slope  # 0, but with the gradient of the level
    chance = torch.sigmoid((scores - level[:, None]) / temperature) * masked
    per_row = (chance * wrong.to(scores.dtype)).sum(dim=1) * choice
    return (per_row if row_weight is None else per_row * row_weight).mean()


def _mean_of_rows(values: Tensor, where: Tensor) -> Tensor:
    """Mean over the True positions of each row, 0 for a row with none, then over all rows."""
    return (torch.where(where, values, 0.0).sum(dim=1) / where.sum(dim=1).clamp(min=1)).mean()


def rank_loss(
    scores: Tensor, gains: Tensor, masked: Tensor, temperature: float = 1.0, row_weight: Tensor | None = None
) -> Tensor:
    """Listwise imitation of an oracle: cross-entropy from softmax_M(gain / temperature) to the policy q.

    Args:
        scores: the policy's scores (B, L).
        gains: the oracle's scores (B, L), for instance log p_i(x0_i) or the ground-truth margin (arXiv 2602.09501).
        masked: bool (B, L).
        temperature: of the oracle's softmax; towards 0 only its best position counts.
        row_weight: float (B,).

    Raises:
        BadInput: a temperature that is not above 0.
    """
    check_number("temperature", temperature, above=0, most=LARGEST_FINITE)
    target = policy_log_probabilities(gains.detach() / temperature, masked).exp()
    log_q = policy_log_probabilities(scores, masked).masked_fill(~masked, 0.0)
    per_row = -(target * log_q).sum(dim=1)
    return (per_row if row_weight is None else per_row * row_weight).mean()


def pirank_loss(
    scores: Tensor, gains: Tensor, masked: Tensor, temperature: float = 1.0, row_weight: Tensor | None = None
) -> Tensor:
    """1 - NDCG of the ranking by the scores, made differentiable by NeuralSort as PiRank does (arXiv 2012.06731).

    Row i of the relaxed permutation matrix is softmax_j(((n + 1 - 2 i) s_j - sum_k |s_j - s_k|) / temperature) over the n
    masked positions, the gain of rank i is its mean under row i, and its discount 1 / log2(i + 1). Towards temperature 0 this
    is the exact NDCG.

    Args:
        scores: the policy's scores (B, L).
        gains: float (B, L), 0 or more, what it is worth to have a position early; not differentiated.
        masked: bool (B, L).
        temperature: of the softmax.
        row_weight: float (B,).

    Raises:
        BadInput: a temperature that is not above 0.
    """
    check_number("temperature", temperature, above=0, most=LARGEST_FINITE)
    both = masked[:, :, None] & masked[:, None, :]
    spread = ((scores[:, :, None] - scores[:, None, :]).abs() * both).sum(dim=2)
    rank = torch.arange(1, masked.shape[1] + 1, device=scores.device)
    count = masked.sum(dim=1, keepdim=True)
    logits = (count + 1 - 2 * rank)[:, :, None] * scores[:, None, :] - spread[:, None, :]
    logits = logits.masked_fill(~masked[:, None, :], torch.finfo(scores.dtype).min)
    gains = gains.detach().masked_fill(~masked, 0.0)
    ranked = (torch.softmax(logits / temperature, dim=2) @ gains[:, :, None])[:, :, 0]
    discount = (rank <= count) / (rank + 1.0).log2()
    best = (gains.sort(dim=1, descending=True).values * discount).sum(dim=1)
    per_row = 1 - (ranked * discount).sum(dim=1) / best.clamp(min=1e-6)
    per_row = per_row * (best > 0)
    return (per_row if row_weight is None else per_row * row_weight).mean()


def order_bound(log_probs: Tensor, policy: Tensor, posterior: Tensor, masked: Tensor) -> Tensor:
    """The part of the bound of LO-ARM (arXiv 2503.05979) that belongs to the next position z of a state:
    sum_z q(z) (log p(x_z) + log pi(z) - log q(z)) over the masked positions, in nats, float (B,).

    Args:
        log_probs: log p(x0) under the denoiser, float (B, L).
        policy, posterior: scores (B, L) whose softmax over the masked positions is pi, and q.
        masked: bool (B, L); a row without any counts 0.
    """
    log_pi = policy_log_probabilities(policy, masked).masked_fill(~masked, 0.0)
    log_q = policy_log_probabilities(posterior, masked)
    gain = log_probs.masked_fill(~masked, 0.0) + log_pi - log_q.masked_fill(~masked, 0.0)
    return (log_q.exp() * gain).sum(dim=1)


def influence_loss(logits: Tensor, influence: Tensor, where: Tensor) -> Tensor:
    """Squared error of sigmoid(logits) as predicted influences in [0, 1]; mean over `where` in a row, then over rows (B, L)."""
    return _mean_of_rows((torch.sigmoid(logits) - influence.detach()).square(), where)


# ---- by reward ----------------------------------------------------------------------------------------------------------


def group_advantages(returns: Tensor, group: Tensor, *, standardize: bool, epsilon: float = 1e-4) -> Tensor:
    """How much better each trajectory is than its group: r - mean, divided by (std + epsilon) if `standardize` (GRPO,
    arXiv 2402.03300; without the std arXiv 2512.09106). Exactly 0 in a group whose returns are all alike.

    Args:
        returns: float (N,).
        group: int64 (N,), the number of each trajectory's group, from 0.
        standardize: divide by the group's standard deviation (of the population).
        epsilon: added to it.
    """
    count = int(group.max()) + 1
    size = torch.zeros(count, dtype=returns.dtype, device=returns.device).index_add(0, group, torch.ones_like(returns))
    mean = torch.zeros_like(size).index_add(0, group, returns) / size.clamp(min=1)
    centered = returns - mean[group]
    std = (torch.zeros_like(size).index_add(0, group, centered.square()) / size.clamp(min=1)).sqrt()
    advantages = centered / (std[group] + epsilon) if standardize else centered
    highest = torch.full_like(size, -torch.inf).scatter_reduce(0, group, returns, "amax")
    lowest = torch.full_like(size, torch.inf).scatter_reduce(0, group, returns, "amin")
    return advantages.masked_fill((highest == lowest)[group], 0.0)


def clipped_surrogate(log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """min(rho A, clip(rho, 1 - clip, 1 + clip) A) with rho = exp(log_prob - old_log_prob), float (B,), to be maximized
    (arXiv 2510.05725, eq. 19)."""
    ratio = (log_prob - old_log_prob).exp()
    return torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def trajectory_kl_weight(log_prob: Tensor, old_log_prob: Tensor, reference_log_prob: Tensor) -> Tensor:
    """What sum_n log g(a_n | x_n) is multiplied with so that its gradient, averaged over trajectories of the old policy, is
    that of the KL divergence of trajectories (arXiv 2510.05725, eq. 24 and Proposition 3): float (N,), not differentiable.

    Args:
        log_prob, old_log_prob, reference_log_prob: float (N,), sums over the trajectory under the current policy, under the
            policy that drew the trajectory, and under the reference.
    """
    ratio = (log_prob - old_log_prob).clamp(max=20.0).exp()
    return (ratio * (1 + log_prob - reference_log_prob)).detach()
