"""What an order sees, and what it gives back."""

from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from anyorder import noise
from anyorder.errors import BadInput


class Summary(NamedTuple):
    """The denoiser's prediction at each of K positions, in float32.

    top_log_probs (K, 2) and top_tokens (K, 2): the two likeliest tokens, likeliest first.
    log_odds (K,): log c - log(1 - c) of the likeliest token; it still tells apart what float32 rounds to c = 1.
    entropy (K,): in nats.
    """

    top_log_probs: Tensor
    top_tokens: Tensor
    log_odds: Tensor
    entropy: Tensor


@dataclass(frozen=True)
class State:
    """A partly unmasked batch after one forward of the denoiser.

    Args:
        tokens: int64 (B, L), the denoiser's input.
        masked: bool (B, L), positions that hold the mask.
        generated: bool (B, L), positions that decoding fills (masked at the start).
        predicted: bool (B, L), positions that have logits and can be scored: the masked ones, or all generated ones when
            the decoding mode predicts committed positions again.
        logits: float (K, V), one row per True entry of `predicted`, in row-major order.
        hidden: float (B, L, D), the denoiser's last hidden states.
        step, steps: number of this step, from 0, and the budget of steps.
        seeds: int64 (B,), one per sequence.
        attention_mask: bool (B, L), False at padding; None where there is none.
        x0: int64 (B, L), the truth: for oracles and training only.
        first_look: float (B, L, V), the probabilities that the first forward gave to the generated positions, before anything
            was committed; 0 elsewhere. None at the first forward itself, and where nobody kept it.
        drift: float (B, L, n), KL(prediction now || prediction one step before) in nats, and the same of the n - 1 steps
            before, the latest first; inf where there was no earlier prediction. None where nobody kept it.
        undone: int64 (B,), commitments taken back so far; None where nobody counted.
        commit_step: int64 (B, L), the step in which each committed position was committed, -1 elsewhere; None where nobody
            kept it.
        committed_log_probs: float (B, L), log-probability that each committed token had then, 0 elsewhere; None likewise.
        open: bool (B, L), the masked positions that may be unmasked now, in decoding by blocks; None for all of them.
    """

    tokens: Tensor
    masked: Tensor
    generated: Tensor
    predicted: Tensor
    logits: Tensor
    hidden: Tensor
    step: int
    steps: int
    seeds: Tensor
    attention_mask: Tensor | None = None
    x0: Tensor | None = None
    first_look: Tensor | None = None
    commit_step: Tensor | None = None
    committed_log_probs: Tensor | None = None
    undone: Tensor | None = None
    drift: Tensor | None = None
    open: Tensor | None = None
    memo: dict[object, Tensor] = field(default_factory=dict)  # what has been computed from this state

    @cached_property
    def summary(self) -> Summary:
        """What heuristics and policies read off the logits."""
        return summarise(self.logits)

    @cached_property
    def index(self) -> Tensor:
        """Position of each token counted from the first real one, int64 (B, L), so that padding does not shift it."""
        if self.attention_mask is None:
            return torch.arange(self.tokens.shape[1], device=self.tokens.device).expand_as(self.tokens)
        return self.attention_mask.long().cumsum(dim=1) - 1

    def scatter(self, values: Tensor, fill: float = -torch.inf) -> Tensor:
        """Spread values (K,) of the predicted positions over (B, L), `fill` elsewhere."""
        out = torch.full(self.tokens.shape, fill, dtype=values.dtype, device=values.device)
        return out.masked_scatter(self.predicted, values)

    @cached_property
    def path_log_probs(self) -> Tensor:
        """At each committed position, the sum of the log-probabilities of all tokens committed up to its step, float (B, L):
        how sure the denoiser was of everything that this token may rest upon. 0 elsewhere, and where nobody kept track."""
        if self.commit_step is None or self.committed_log_probs is None:
            return torch.zeros(self.tokens.shape, device=self.tokens.device)
        committed = self.commit_step >= 0
        ranked, ranking = self.commit_step.sort(dim=1, stable=True)
        total = self.committed_log_probs.float().masked_fill(~committed, 0.0).gather(1, ranking).cumsum(dim=1)
        last = torch.searchsorted(ranked, ranked, right=True) - 1  # the last position of the same step
        sums = torch.zeros_like(total).scatter(1, ranking, total.gather(1, last))
        return sums.masked_fill(~committed, 0.0)

    def uniform(self, purpose: int) -> Tensor:
        """Uniform numbers (B, L) of this step, fixed by each sequence's seed. Use one `purpose` number per use."""
        return noise.uniform(self.seeds[:, None], purpose, self.step, self.index)

    def probabilities(self) -> Tensor:
        """The denoiser's distribution at the predicted positions, 0 elsewhere, float32 (B, L, V)."""
        probabilities = torch.softmax(self.logits.float(), dim=-1)
        out = torch.zeros((*self.tokens.shape, self.logits.shape[-1]), device=self.logits.device)
        return out.masked_scatter(self.predicted[..., None], probabilities)

    def top_probabilities(self, count: int) -> Tensor:
        """The `count` largest probabilities of each predicted position, falling, 0 elsewhere, float32 (B, L, count)."""
        if ("top", count) not in self.memo:
            logits = self.logits.float()
            top = (logits.topk(count, dim=-1).values - logits.logsumexp(dim=-1, keepdim=True)).exp()
            out = torch.zeros((*self.tokens.shape, count), device=top.device)
            self.memo["top", count] = out.masked_scatter(self.predicted[..., None], top)
        return self.memo["top", count]

    def soft_confidence(self, temperature: float) -> Tensor:
        """log of the sum of exp(p / temperature) over all tokens, at each predicted position, -inf elsewhere, float32 (B, L):
        the scores of the softmax reference of UPO (arXiv 2510.05725, eq. 25)."""
        if ("soft", temperature) not in self.memo:
            probabilities = torch.softmax(self.logits.float(), dim=-1)
            self.memo["soft", temperature] = self.scatter((probabilities / temperature).logsumexp(dim=-1))
        return self.memo["soft", temperature]

    @property
    def attention_bias(self) -> Tensor | None:
        """Additive bias (B, 1, 1, L) that keeps attention off the padding; None where there is none."""
        if self.attention_mask is None:
            return None
        bias = torch.zeros(self.tokens.shape, device=self.tokens.device)
        return bias.masked_fill(~self.attention_mask.bool(), torch.finfo(bias.dtype).min)[:, None, None, :]

    def compact(self) -> "State":
        """The same without logits: what has been read off them so far is kept, so that a policy which reads no more than that
        can be asked again when the denoiser is long gone."""
        return self._with(logits=self.logits[:, :0])

    @property
    def available(self) -> Tensor:
        """The masked positions that may be unmasked now, bool (B, L)."""
        return self.masked if self.open is None else self.open

    def limited(self, open: Tensor) -> "State":
        """The same where only the masked positions in `open` (B, L) may be unmasked now."""
        return self._with(open=open & self.masked)

    def rows(self, kept: Tensor) -> "State":
        """The sequences where `kept` (B,) is True, with what has been computed of them."""
        inside = kept[:, None].expand_as(self.predicted)[self.predicted]  # (K,)
        tensors = {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}
        changes: dict[str, Any] = {name: value[inside if name == "logits" else kept] for name, value in tensors.items()}
        changed = replace(self, **changes, memo={what: value[kept] for what, value in self.memo.items()})
        changed.__dict__["summary"] = Summary(*(part[inside] for part in self.summary))
        return changed

    def _with(self, **changes: Any) -> "State":
        """Changed in what the summary does not depend on, so that it need not be made again."""
        changed = replace(self, **changes)
        changed.__dict__["summary"] = self.summary  # where cached_property looks
        return changed

    def truth_log_probs(self) -> Tensor:
        """log p_i(x0_i) at the predicted positions (K,)."""
        if self.x0 is None:
            raise BadInput("an oracle needs the truth: problems with known solutions (x0)")
        return torch.log_softmax(self.logits.float(), dim=-1).gather(1, self.x0[self.predicted][:, None])[:, 0]


class Order(Protocol):
    """Where is it safest to unmask? A score for every predicted position; the larger, the sooner.

    Returns float32 (B, L), -inf where `state.predicted` is False. Ties are broken by position, the leftmost first.
    """

    def __call__(self, state: State) -> Tensor: ...


def summarise(logits: Tensor) -> Summary:
    """The summary of logits (K, V)."""
    logits = logits.float()
    log_probs = torch.log_softmax(logits, dim=-1)
    top, tokens = log_probs.topk(2, dim=-1)
    others = logits.scatter(1, tokens[:, :1], -torch.inf)
    log_odds = logits.gather(1, tokens[:, :1])[:, 0] - torch.logsumexp(others, dim=-1)
    log_confidence = -torch.nn.functional.softplus(-log_odds)  # log c without the rounding of log_softmax near 0
    top = torch.stack([log_confidence, top[:, 1]], dim=-1)
    entropy = -(log_probs.exp() * log_probs.masked_fill(log_probs == -torch.inf, 0.0)).sum(dim=-1)
    return Summary(top, tokens, log_odds, entropy)
