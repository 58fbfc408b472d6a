"""What a denoiser says about the masked positions in one forward pass, and what is read off it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Prediction:
    """The output of one forward pass for B sequences, K of whose positions were asked for.

    Everything that is read off the logits is computed on first use and kept.

    Args:
        logits: float (K, V), one row per True entry of `predicted`, in row-major order.
        hidden: float (B, L, D), the denoiser's last hidden states.
        predicted: bool (B, L), the positions that have logits: the masked ones, or all generated ones when committed
            positions are predicted again.
        candidates: int64 (K,), the tokens that the token rule proposes, and `candidate_log_probs` float (K,), their
            log-probabilities under the rule; None before the token rule was asked.
    """

    logits: Tensor
    hidden: Tensor
    predicted: Tensor
    candidates: Tensor | None = None
    candidate_log_probs: Tensor | None = None
    _by_position: dict[object, Tensor] = field(default_factory=dict, repr=False)  # (K, ...)
    _by_row: dict[object, Tensor] = field(default_factory=dict, repr=False)  # (B, ...)

    @property
    def top_tokens(self) -> Tensor:
        """The two likeliest tokens (K, 2), likeliest first."""
        return self._top[1]

    @property
    def top_log_probs(self) -> Tensor:
        """Log-probabilities (K, 2) of the two likeliest tokens, float32. The first is computed from the log-odds, which avoids
        the rounding of log_softmax near 0."""

        def compute() -> Tensor:
            return torch.stack([-torch.nn.functional.softplus(-self.log_odds), self._top[0][:, 1]], dim=-1)

        return self.once("top_log_probs", compute)

    @property
    def log_odds(self) -> Tensor:
        """log c - log(1 - c) of the likeliest token's probability c, float32 (K,). It still tells apart what float32 rounds to
        c = 1."""

        def compute() -> Tensor:
            logits, best = self.logits.float(), self.top_tokens[:, :1]
            others = logits.scatter(1, best, -torch.inf)
            return logits.gather(1, best)[:, 0] - torch.logsumexp(others, dim=-1)

        return self.once("log_odds", compute)

    @property
    def entropy(self) -> Tensor:
        """Entropy in nats, float32 (K,)."""

        def compute() -> Tensor:
            log_probs = self.log_probs()
            return -(log_probs.exp() * log_probs.masked_fill(log_probs == -torch.inf, 0.0)).sum(dim=-1)

        return self.once("entropy", compute)

    @property
    def _top(self) -> tuple[Tensor, Tensor]:
        if "top_tokens" not in self._by_position:
            self._by_position["top_values"], self._by_position["top_tokens"] = self.log_probs().topk(2, dim=-1)
        return self._by_position["top_values"], self._by_position["top_tokens"]

    def log_probs(self) -> Tensor:
        """Log-probabilities float32 (K, V). Not kept."""
        return torch.log_softmax(self.logits.float(), dim=-1)

    def log_probs_of(self, tokens: Tensor) -> Tensor:
        """log p_i(token_i) at the predicted positions, float32 (K,), of tokens (K,)."""
        return self.log_probs().gather(1, tokens[:, None])[:, 0]

    def probabilities(self) -> Tensor:
        """The denoiser's distribution at the predicted positions, 0 elsewhere, float32 (B, L, V)."""
        probabilities = torch.softmax(self.logits.float(), dim=-1)
        out = torch.zeros((*self.predicted.shape, self.logits.shape[-1]), device=self.logits.device)
        return out.masked_scatter(self.predicted[..., None], probabilities)

    def top_probabilities(self, count: int) -> Tensor:
        """The `count` largest probabilities of each predicted position, decreasing, 0 elsewhere, float32 (B, L, count)."""

        def compute() -> Tensor:
            logits = self.logits.float()
            top = (logits.topk(count, dim=-1).values - logits.logsumexp(dim=-1, keepdim=True)).exp()
            out = torch.zeros((*self.predicted.shape, count), device=top.device)
            return out.masked_scatter(self.predicted[..., None], top)

        return self.once(("top", count), compute, per_row=True)

    def soft_confidence(self, temperature: float) -> Tensor:
        """log of the sum of exp(p / temperature) over all tokens, at each predicted position, -inf elsewhere, float32 (B, L):
        the scores of the softmax reference of UPO (arXiv 2510.05725, eq. 25)."""

        def compute() -> Tensor:
            probabilities = torch.softmax(self.logits.float(), dim=-1)
            return self.scatter((probabilities / temperature).logsumexp(dim=-1))

        return self.once(("soft", temperature), compute, per_row=True)

    def scatter(self, values: Tensor, fill: float = -torch.inf) -> Tensor:
        """Spread values (K,) of the predicted positions over (B, L), `fill` elsewhere."""
        out = torch.full(self.predicted.shape, fill, dtype=values.dtype, device=values.device)
        return out.masked_scatter(self.predicted, values)

    def once(self, key: object, compute: Callable[[], Tensor], *, per_row: bool = False) -> Tensor:
        """`compute()`, kept under a key. The value has a row per predicted position (K, ...), or per sequence (B, ...)."""
        kept = self._by_row if per_row else self._by_position
        if key not in kept:
            kept[key] = compute()
        return kept[key]

    def with_candidates(self, tokens: Tensor, log_probs: Tensor) -> "Prediction":
        """The same with what the token rule proposes, (K,) each."""
        return replace(self, candidates=tokens, candidate_log_probs=log_probs)

    def with_logits(self, logits: Tensor, hidden: Tensor | None = None) -> "Prediction":
        """The same positions with other logits (K, V), and other hidden states if given. Nothing is kept."""
        return Prediction(logits, self.hidden if hidden is None else hidden, self.predicted)

    def compact(self) -> "Prediction":
        """The same without logits. What was read off them so far is kept, so that a policy that reads no more than that can be
        asked again later without the denoiser."""
        _ = self.top_log_probs, self.entropy
        return replace(self, logits=self.logits[:, :0])

    def rows(self, index: Tensor) -> "Prediction":
        """The sequences where `index` bool (B,) is True, with everything that was computed of them."""
        inside = index[:, None].expand_as(self.predicted)[self.predicted]  # (K,)
        return Prediction(
            logits=self.logits[inside],
            hidden=self.hidden[index],
            predicted=self.predicted[index],
            candidates=None if self.candidates is None else self.candidates[inside],
            candidate_log_probs=None if self.candidate_log_probs is None else self.candidate_log_probs[inside],
            _by_position={key: value[inside] for key, value in self._by_position.items()},
            _by_row={key: value[index] for key, value in self._by_row.items()},
        )


def forbid(logits: Tensor, rejected: Tensor) -> Tensor:
    """Logits (K, V) without the rejected token of each position (K,), -1 for none."""
    some = rejected >= 0
    if not some.any():
        return logits
    ban = torch.zeros_like(logits, dtype=torch.bool).scatter(1, rejected.clamp(min=0)[:, None], some[:, None])
    return logits.masked_fill(ban, -torch.inf)
