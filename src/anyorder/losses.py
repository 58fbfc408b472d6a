"""Every objective as a pure function of tensors. Names follow the papers; equation numbers are those of arXiv 2606.00295.

Shapes: token losses, logits of a policy, weights: float (B, L); masked: bool (B, L); time weights: float (B,).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def token_cross_entropy(logits: Tensor, x0: Tensor, masked: Tensor) -> Tensor:
    """l_i = -log p_i(x0_i) at masked positions and 0 elsewhere, float (B, L), from logits (B, L, V)."""
    losses = F.cross_entropy(logits[masked].float(), x0[masked], reduction="none")
    return torch.zeros(masked.shape, dtype=losses.dtype, device=losses.device).masked_scatter(masked, losses)


def focal_weight(token_losses: Tensor, gamma: float, alpha: float = 0.25) -> Tensor:
    """alpha * (1 - p_i)^gamma with p_i = exp(-l_i): easy tokens count less (Ye et al. 2024). The gradient flows through it."""
    return alpha * (1 - torch.exp(-token_losses)) ** gamma


def mdm_loss(
    token_losses: Tensor,
    masked: Tensor,
    time_weight: Tensor | None = None,
    *,
    focal_gamma: float | None = None,
    focal_alpha: float = 0.25,
    normalise: str = "sequences",
) -> Tensor:
    """L_MDM (eq. 2): the mean over the batch of w_t * sum over masked i of l_i.

    Args:
        token_losses: l_i (B, L), 0 where not masked.
        masked: bool (B, L).
        time_weight: w_t (B,), 1 when not given.
        focal_gamma: when given, every l_i is multiplied by `focal_weight`.
        focal_alpha: scale of that weight.
        normalise: "sequences" divides by B as eq. 2 does; "tokens" by the number of masked tokens, as Ye et al. do; "rows"
            takes each row's mean over its masked tokens, then the mean of rows (the any-order autoregressive form of eq. 2).
    """
    losses = token_losses
    if focal_gamma is not None:
        losses = losses * focal_weight(token_losses, focal_gamma, focal_alpha)
    if time_weight is not None:
        losses = losses * time_weight[:, None]
    if normalise == "sequences":
        return losses.sum() / losses.shape[0]
    if normalise == "tokens":
        return losses.sum() / masked.sum().clamp(min=1)
    if normalise == "rows":
        return _mean_of_rows(losses, masked)
    raise ValueError(f"normalise is {normalise!r}; it must be 'sequences', 'tokens' or 'rows'")


def policy_log_probabilities(scores: Tensor, masked: Tensor) -> Tensor:
    """log q(i | x_t): log-softmax of the scores over the masked positions, -inf elsewhere, float (B, L).

    A row without masked positions is all -inf.
    """
    scores = scores.masked_fill(~masked, -torch.inf)
    empty = ~masked.any(dim=1, keepdim=True)
    log_q = torch.log_softmax(scores.masked_fill(empty, 0.0), dim=1)
    return log_q.masked_fill(~masked, -torch.inf)


def order_loss(scores: Tensor, token_losses: Tensor, masked: Tensor, time_weight: Tensor | None = None) -> Tensor:
    """L_ORDER (eq. 3): mean of w_t * sum_i q(i | x_t) * stopgrad(l_i). For uniform q this is L_MDM / |M|, row by row."""
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

    Squared error in log(1 + l), since a loss of 10 and one of 12 are much the same; mean over a row's masked, then rows.
    """
    error = torch.log1p(F.softplus(-scores)) - torch.log1p(token_losses.detach())
    return _mean_of_rows(error.square(), masked)


def _mean_of_rows(values: Tensor, where: Tensor) -> Tensor:
    """Mean over the True positions of each row, 0 for a row with none, then over all rows."""
    return (torch.where(where, values, 0.0).sum(dim=1) / where.sum(dim=1).clamp(min=1)).mean()


def rank_loss(scores: Tensor, gains: Tensor, masked: Tensor, temperature: float = 1.0) -> Tensor:
    """Listwise imitation of an oracle: cross-entropy from softmax_M(gain / temperature) to the policy q.

    Args:
        scores: the policy's scores (B, L).
        gains: the oracle's scores (B, L), for instance log p_i(x0_i) or the ground-truth margin (arXiv 2602.09501).
        masked: bool (B, L).
        temperature: of the oracle's softmax; towards 0 only its best position counts.
    """
    target = policy_log_probabilities(gains.detach() / temperature, masked).exp()
    log_q = policy_log_probabilities(scores, masked).masked_fill(~masked, 0.0)
    return -(target * log_q).sum(dim=1).mean()
