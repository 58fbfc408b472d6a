"""What a denoiser predicts for the masked positions in one forward pass, and what is derived from it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

_CHUNK_CPU, _CHUNK = 2**18, 2**25
"""Logits that are summarized at once: as many as the cache of a CPU core holds; enough to keep a GPU busy."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """The output of one forward pass for B sequences, with logits for K of their positions.

    Everything that is derived from the logits is computed on first use and kept.

    Args:
        logits: float (K, V), one row per True entry of `predicted`, in row-major order.
        hidden: float (B, L, D), the denoiser's last hidden states.
        predicted: bool (B, L), the positions that have logits: the masked ones, or all generated ones when committed
            positions are predicted again.
        candidates: int64 (K,), the tokens that the token rule proposes, and `candidate_log_probs` float (K,), their
            log-probabilities under the rule; None before the token rule was applied.
        committed_log_probs: float32 (B, L), the denoiser's log-probability of each committed token, 0 elsewhere; None unless
            the remasker asks for it (`Remasker.verifies`).
        attention: float (B, L, L), how much each position attended to each other one, see `anyorder.denoisers.attention`; None
            unless a part of the sampler reads it.
    """

    logits: Tensor
    hidden: Tensor
    predicted: Tensor
    candidates: Tensor | None = None
    candidate_log_probs: Tensor | None = None
    committed_log_probs: Tensor | None = None
    attention: Tensor | None = None
    _by_position: dict[object, Tensor] = field(default_factory=dict, repr=False)  # (K, ...)
    _by_row: dict[object, Tensor] = field(default_factory=dict, repr=False)  # (B, ...), may depend on the candidates
    _by_draw: dict[str, Tensor] = field(default_factory=dict, repr=False)  # (K,), depends on the candidates

    @property
    def best_tokens(self) -> Tensor:
        """The likeliest token, int64 (K,): the first one if several have the same logit, as `argmax` gives it."""
        return self._best[0]

    @property
    def best_log_probs(self) -> Tensor:
        """Log-probability of the likeliest token, float32 (K,). It is computed from the log-odds, which avoids the rounding of
        log_softmax near 0."""
        return self.once("best_log_probs", lambda: -torch.nn.functional.softplus(-self.log_odds))

    @property
    def log_odds(self) -> Tensor:
        """log c - log(1 - c) of the likeliest token's probability c, float32 (K,). It still distinguishes values that float32
        rounds to c = 1. NaN where the logits are not a distribution: they hold NaN or +inf, or are all -inf."""
        return self._best[1]

    @property
    def drawn_tokens(self) -> Tensor:
        """The tokens that would be committed, int64 (K,): the candidates of the token rule, or before it was applied the
        likeliest ones."""
        return self.best_tokens if self.candidates is None else self.candidates

    @property
    def drawn_log_odds(self) -> Tensor:
        """log p - log(1 - p) of the drawn token, float32 (K,), where p is the denoiser's probability, before the token rule's
        temperature and truncation. Equal to `log_odds` bit for bit where the drawn token is the likeliest one."""
        if "log_odds" not in self._by_draw:
            tokens = self.drawn_tokens
            found = self.log_odds if tokens is self.best_tokens else in_chunks(_log_odds_of, self.logits, tokens)[0]
            self._by_draw["log_odds"] = found
        return self._by_draw["log_odds"]

    @property
    def drawn_log_probs(self) -> Tensor:
        """The denoiser's log-probability of the drawn token, float32 (K,), see `drawn_log_odds`."""
        return -torch.nn.functional.softplus(-self.drawn_log_odds)

    @property
    def other_log_probs(self) -> Tensor:
        """Log-probability of the likeliest token other than the drawn one, float32 (K,)."""
        return torch.where(self.drawn_tokens == self.best_tokens, self._second[1], self.best_log_probs)

    @property
    def top_tokens(self) -> Tensor:
        """The two likeliest tokens (K, 2), likeliest first."""
        return torch.stack([self.best_tokens, self._second[0]], dim=-1)

    @property
    def top_log_probs(self) -> Tensor:
        """Log-probabilities (K, 2) of the two likeliest tokens, float32."""
        return torch.stack([self.best_log_probs, self._second[1]], dim=-1)

    @property
    def entropy(self) -> Tensor:
        """Entropy in nats, float32 (K,)."""

        def compute(logits: Tensor) -> tuple[Tensor, ...]:
            log_probs = torch.log_softmax(logits, dim=-1)
            probabilities = log_probs.exp()
            return (-probabilities.mul_(log_probs.masked_fill_(log_probs == -torch.inf, 0.0)).sum(dim=-1),)

        return self.once("entropy", lambda: in_chunks(compute, self.logits)[0])

    @property
    def _best(self) -> tuple[Tensor, Tensor]:
        """The likeliest token and its log-odds, (K,) each."""

        def compute(logits: Tensor) -> tuple[Tensor, ...]:
            token = logits.max(dim=-1).indices
            return token, _log_odds_of(logits, token)[0]

        if "best_tokens" not in self._by_position:
            self._by_position["best_tokens"], self._by_position["log_odds"] = in_chunks(compute, self.logits)
        return self._by_position["best_tokens"], self._by_position["log_odds"]

    @property
    def _second(self) -> tuple[Tensor, Tensor]:
        """The second likeliest token and its log-probability, (K,) each."""

        def compute(logits: Tensor, best: Tensor) -> tuple[Tensor, ...]:
            log_prob, token = torch.log_softmax(logits, dim=-1).scatter_(1, best[:, None], -torch.inf).max(dim=-1)
            return token, log_prob

        if "second_tokens" not in self._by_position:
            second = in_chunks(compute, self.logits, self.best_tokens)
            self._by_position["second_tokens"], self._by_position["second_log_probs"] = second
        return self._by_position["second_tokens"], self._by_position["second_log_probs"]

    def log_probs(self) -> Tensor:
        """Log-probabilities float32 (K, V). Not kept."""
        return torch.log_softmax(self.logits.float(), dim=-1)

    def log_probs_of(self, tokens: Tensor) -> Tensor:
        """log p_i(token_i) at the predicted positions, float32 (K,), of tokens (K,)."""

        def compute(logits: Tensor, token: Tensor) -> tuple[Tensor, ...]:
            return (torch.log_softmax(logits, dim=-1).gather(1, token[:, None])[:, 0],)

        return in_chunks(compute, self.logits, tokens)[0]

    def probabilities(self) -> Tensor:
        """The denoiser's distribution at the predicted positions, 0 elsewhere, float32 (B, L, V)."""
        probabilities = torch.softmax(self.logits.float(), dim=-1)
        out = torch.zeros((*self.predicted.shape, self.logits.shape[-1]), dtype=probabilities.dtype, device=self.logits.device)
        return out.masked_scatter(self.predicted[..., None], probabilities)

    def top_probabilities(self, count: int) -> Tensor:
        """The `count` largest probabilities of each predicted position, decreasing, 0 elsewhere, float32 (B, L, count)."""

        def compute() -> Tensor:
            (top,) = in_chunks(largest, self.logits)
            out = torch.zeros((*self.predicted.shape, count), dtype=top.dtype, device=top.device)
            return out.masked_scatter(self.predicted[..., None], top)

        def largest(logits: Tensor) -> tuple[Tensor, ...]:
            return ((logits.topk(count, dim=-1).values - logits.logsumexp(dim=-1, keepdim=True)).exp(),)

        return self.once(("top", count), compute, per_row=True)

    def soft_confidence(self, temperature: float) -> Tensor:
        """log of the sum of exp(p / temperature) over all tokens, at each predicted position, -inf elsewhere, float32 (B, L):
        the scores of the softmax reference of UPO (arXiv 2510.05725, eq. 25)."""

        def compute(logits: Tensor) -> tuple[Tensor, ...]:
            return ((torch.softmax(logits, dim=-1) / temperature).logsumexp(dim=-1),)

        return self.once(("soft", temperature), lambda: self.scatter(in_chunks(compute, self.logits)[0]), per_row=True)

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
        """The same with the proposals of the token rule, (K,) each. What was derived from other proposals is not kept."""
        return replace(self, candidates=tokens, candidate_log_probs=log_probs, _by_row={}, _by_draw={})

    def with_logits(self, logits: Tensor, hidden: Tensor | None = None) -> "Prediction":
        """The same positions and candidates with other logits (K, V), and other hidden states if given."""
        hidden = self.hidden if hidden is None else hidden
        log_probs = self.candidate_log_probs
        return Prediction(logits, hidden, self.predicted, self.candidates, log_probs, self.committed_log_probs, self.attention)

    def compact(self) -> "Prediction":
        """The same without logits. What was derived from them so far is kept, so that a policy that reads no more than that can
        be evaluated later without the denoiser."""
        _ = self.top_log_probs, self.entropy, self.drawn_log_odds
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
            committed_log_probs=None if self.committed_log_probs is None else self.committed_log_probs[index],
            attention=None if self.attention is None else self.attention[index],
            _by_position={key: value[inside] for key, value in self._by_position.items()},
            _by_row={key: value[index] for key, value in self._by_row.items()},
            _by_draw={key: value[inside] for key, value in self._by_draw.items()},
        )


def forbid(logits: Tensor, rejected: Tensor) -> Tensor:
    """Logits (K, V) without the rejected token of each position (K,), -1 for none. It stays where the denoiser produces no
    other token."""
    some = (rejected >= 0)[:, None]
    if not some.any():
        return logits
    token = rejected.clamp(min=0)[:, None]
    own = logits.gather(1, token)
    others = logits.scatter(1, token, own.masked_fill(some, -torch.inf))
    only = others.amax(dim=1, keepdim=True) == -torch.inf
    return others.scatter_(1, token, own.masked_fill(some & ~only, -torch.inf))


def in_chunks(compute: Callable[..., tuple[Tensor, ...]], logits: Tensor, *along: Tensor) -> tuple[Tensor, ...]:
    """`compute(logits, *along)` for a few rows of logits (K, V) at a time, so that a large vocabulary costs little memory.

    It is given float32 copies, which it may change. `along` (K, ...) and the results have a row per row of logits."""
    rows = max(1, (_CHUNK_CPU if logits.device.type == "cpu" else _CHUNK) // max(1, logits.shape[-1]))
    results: tuple[Tensor, ...] = ()
    for start in range(0, max(1, len(logits)), rows):
        chunk = slice(start, start + rows)
        wide = logits[chunk].float()
        wide = wide.clone() if wide.dtype == logits.dtype else wide
        found = compute(wide, *(values[chunk] for values in along))
        if len(logits) <= rows:
            return found
        results = results or tuple(part.new_empty((len(logits), *part.shape[1:])) for part in found)
        for result, part in zip(results, found, strict=True):
            result[chunk] = part
    return results


def _log_odds_of(logits: Tensor, token: Tensor) -> tuple[Tensor]:
    """log p - log(1 - p) of tokens (K,), from logits (K, V), which it overwrites; NaN where the token's logit is +inf."""
    own = logits.gather(1, token[:, None])
    others = _logsumexp_(logits.scatter_(1, token[:, None], -torch.inf))
    return ((own[:, 0] - others).masked_fill(own[:, 0] == torch.inf, torch.nan),)


def _logsumexp_(values: Tensor) -> Tensor:
    """`values.logsumexp(dim=-1)` of values (K, V), which it overwrites."""
    highest = values.amax(dim=-1, keepdim=True)
    highest.masked_fill_(highest.isinf(), 0.0)
    return values.sub_(highest).exp_().sum(dim=-1).log_().add_(highest[:, 0])
