"""What a sampler carries from step to step."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from anyorder import noise
from anyorder.errors import BadInput
from anyorder.signatures import checked


@dataclass(frozen=True, eq=False)
class DecodeState:
    """B partly decoded sequences of length L, before a forward pass of the denoiser.

    Every row has its own step number, budget and seed, so that rows never influence one another. States are values: a step
    returns a new one.

    Args:
        tokens: int64 (B, L), the denoiser's next input.
        masked: bool (B, L), positions that hold the mask.
        generated: bool (B, L), positions that decoding fills (masked at the start).
        mask_token_id: the mask.
        seeds: int64 (B,), one per sequence.
        step, steps: int64 (B,), the number of the next step, from 0, and the budget of steps.
        row: int64 (B,), the row of each sequence in the batch that was passed to `init`.
        commit_step: int64 (B, L), the step in which each committed position was committed, -1 elsewhere.
        token_log_probs: float32 (B, L), log-probability of each committed token when it was committed, 0 elsewhere.
        order_log_probs: float32 (B, L), log-probability with which a stochastic order drew the position; else 0.
        rejected: int64 (B, L), the token that was remasked at a position and is ruled out there until another one is
            committed, if the denoiser produces another one; -1 for none.
        nfe: int64 (B,), forward passes so far.
        remasked: int64 (B,), committed tokens that were remasked so far.
        attention_mask: bool (B, L), False at padding; None without padding.
        x0: int64 (B, L), the solution: for oracles and training only.
        open: bool (B, L), the masked positions that may be unmasked now, when decoding in blocks; None for all of them.
        block: bool (B, L), all positions of the open block, when decoding in blocks; None for all positions.
        model_block: positions per block of the denoiser's block-causal mask; None if it sees both sides.
        memory: what parts of the sampler remember of earlier predictions, see `anyorder.memory`.
    """

    tokens: Tensor
    masked: Tensor
    generated: Tensor
    mask_token_id: int
    seeds: Tensor
    step: Tensor
    steps: Tensor
    row: Tensor
    commit_step: Tensor
    token_log_probs: Tensor
    order_log_probs: Tensor
    rejected: Tensor
    nfe: Tensor
    remasked: Tensor
    attention_mask: Tensor | None = None
    x0: Tensor | None = None
    open: Tensor | None = None
    block: Tensor | None = None
    model_block: int | None = None
    memory: Mapping[Hashable, tuple[Tensor, ...]] = field(default_factory=dict)

    @classmethod
    def start(
        cls,
        tokens: Tensor,
        generated: Tensor,
        mask_token_id: int,
        seeds: Tensor,
        steps: Tensor,
        attention_mask: Tensor | None = None,
        x0: Tensor | None = None,
        model_block: int | None = None,
    ) -> "DecodeState":
        """The state before the first step: tokens (B, L) whose `generated` positions that hold the mask are to be filled."""
        zero = torch.zeros_like(steps)
        never = torch.full_like(tokens, -1)
        nothing = torch.zeros(tokens.shape, dtype=torch.float32, device=tokens.device)
        masked = generated & (tokens == mask_token_id)
        row = torch.arange(len(tokens), device=tokens.device)
        return cls(
            tokens, masked, generated, mask_token_id, seeds, zero, steps, row, never, nothing, nothing, never, zero, zero,
            attention_mask, x0, model_block=model_block,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def available(self) -> Tensor:
        """The masked positions that may be unmasked now, bool (B, L)."""
        return self.masked if self.open is None else self.open

    @property
    def unfilled(self) -> Tensor:
        """The generated positions that hold no token yet, bool (B, L): those that are masked, and with a block-causal denoiser
        those behind the open block too, which are not `masked` within a step."""
        return self.masked if self.model_block is None else self.generated & (self.commit_step < 0)

    def of_open_block(self) -> "DecodeState":
        """What a policy is shown: with a block-causal denoiser the open block of its mask as a problem of its own, on which
        policies are trained, with the tokens before it given and nothing generated behind it; else the state as it is."""
        if self.model_block is None or self.block is None:
            return self
        number = self.index.clamp(min=0) // self.model_block
        now = number.masked_fill(~self.block, -1).amax(dim=1, keepdim=True)
        inside = self.generated & ((number == now) | self.masked)  # the last step of a budget fills later blocks too
        return self.replace(generated=inside, commit_step=self.commit_step.masked_fill(~inside, -1), model_block=None)

    @property
    def committed(self) -> Tensor:
        """The generated positions that hold a token and may be remasked now, bool (B, L): in blocks, those of the open one."""
        committed = self.generated & ~self.masked
        return committed if self.block is None else committed & self.block

    @property
    def finished(self) -> Tensor:
        """Rows in which no position is masked, bool (B,)."""
        return ~self.masked.any(dim=1)

    @cached_property
    def index(self) -> Tensor:
        """Position of each token counted from the first real one, int64 (B, L), so that padding does not shift it."""
        if self.attention_mask is None:
            return torch.arange(self.tokens.shape[1], device=self.tokens.device).expand_as(self.tokens)
        return self.attention_mask.long().cumsum(dim=1) - 1

    @cached_property
    def path_log_probs(self) -> Tensor:
        """At each committed position, the sum of the log-probabilities of all tokens committed up to its step, float (B, L);
        0 elsewhere. It measures how sure the denoiser was of everything on which this token may depend."""
        committed = self.commit_step >= 0
        ranked, ranking = self.commit_step.sort(dim=1, stable=True)
        total = self.token_log_probs.float().masked_fill(~committed, 0.0).gather(1, ranking).cumsum(dim=1)
        last = torch.searchsorted(ranked, ranked, right=True) - 1  # the last position of the same step
        sums = torch.zeros_like(total).scatter(1, ranking, total.gather(1, last))
        return sums.masked_fill(~committed, 0.0)

    @property
    def attention_bias(self) -> Tensor | None:
        """Additive bias (B, 1, 1, L) that keeps attention off the padding; None without padding."""
        if self.attention_mask is None:
            return None
        bias = torch.zeros(self.tokens.shape, dtype=torch.float32, device=self.tokens.device)
        return bias.masked_fill(~self.attention_mask.bool(), torch.finfo(bias.dtype).min)[:, None, None, :]

    def uniform(self, purpose: int) -> Tensor:
        """Uniform numbers (B, L) of this step, fixed by each sequence's seed. Use one `purpose` per use: numbers
        below 10,000 belong to this package (`noise.Purpose`)."""
        return noise.uniform(*self._keys(purpose))

    def gumbel(self, purpose: int) -> Tensor:
        """Standard Gumbel noise (B, L), as `uniform`."""
        return noise.gumbel(*self._keys(purpose))

    def normal(self, purpose: int) -> Tensor:
        """Standard normal numbers (B, L), as `uniform`."""
        return noise.normal(*self._keys(purpose))

    def _keys(self, purpose: int) -> tuple[Tensor, int, Tensor, Tensor]:
        return self.seeds[:, None], purpose, self.step[:, None], self.index

    def recall(self, memory: Hashable) -> tuple[Tensor, ...]:
        """The tensors of a memory.

        Raises:
            BadInput: this state was not made by `step`, which keeps the memories that a sampler's parts declare.
        """
        if memory not in self.memory:
            raise BadInput(f"{memory} is kept by `decode` and `step` only: this state comes from elsewhere")
        return self.memory[memory]

    def replace(self, **changes: Any) -> "DecodeState":
        """A copy with some fields changed."""
        return replace(self, **changes)

    def rows(self, index: Tensor) -> "DecodeState":
        """Some of the sequences, by bool (B,) or int64 index."""
        index = index.nonzero()[:, 0] if index.dtype == torch.bool else index
        memory = {part: tuple(v.index_select(0, index) for v in values) for part, values in self.memory.items()}
        return self.replace(**{name: v.index_select(0, index) for name, v in self.tensors().items()}, memory=memory)

    def join(self, others: "DecodeState") -> "DecodeState":
        """The sequences of this state and those of another one of the same length. Memories that only one of them has are 0 in
        the rows of the other: a part starts its memory of a sequence anew at step 0."""
        theirs = others.tensors()
        joined = {name: torch.cat([mine, theirs[name]]) for name, mine in self.tensors().items()}
        memory = {
            part: tuple(map(torch.cat, zip(self._memory_or_0(part, others), others._memory_or_0(part, self), strict=True)))
            for part in {**self.memory, **others.memory}
        }
        return self.replace(**joined, memory=memory)

    def _memory_or_0(self, memory: Hashable, other: "DecodeState") -> tuple[Tensor, ...]:
        if memory in self.memory:
            return self.memory[memory]
        return tuple(values.new_zeros(len(self), *values.shape[1:]) for values in other.memory[memory])

    def where(self, rows: Tensor, other: "DecodeState") -> "DecodeState":
        """The sequences of `other` where `rows` (B,) is True and of this state elsewhere. Memories stay: a part starts its
        memory of a sequence anew at step 0."""
        theirs = other.tensors()
        mixed = {
            name: torch.where(rows.view(-1, *[1] * (mine.ndim - 1)), theirs[name], mine)
            for name, mine in self.tensors().items()
        }
        return self.replace(**mixed)

    def tensors(self) -> dict[str, Tensor]:
        """The fields that hold a tensor, all with a row per sequence."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}


@checked("tokens", "mask_token_id", "steps", "seeds", "attention_mask", "x0")
def init(
    tokens: Tensor,
    mask_token_id: int,
    *,
    steps: int | None = None,
    seeds: Tensor | int = 0,
    attention_mask: Tensor | None = None,
    x0: Tensor | None = None,
    model_block: int | None = None,
) -> DecodeState:
    """The state before the first step; every position of tokens (B, L) that holds the mask and is not padding is generated.

    Args:
        steps: budget of every sequence; None for as many as it has positions to fill.
        seeds: one int64 per sequence (B,), or one number to which row i adds i.
        model_block: the denoiser's `block_length` if it has one.

    Other tensors may be on another device than the tokens; they are moved there.
    """
    count = torch.arange(len(tokens), device=tokens.device)
    generated = tokens == mask_token_id
    if attention_mask is not None:
        attention_mask = attention_mask.to(tokens.device)
        generated = generated & attention_mask.bool()
    budget = generated.sum(dim=1).clamp(min=1) if steps is None else torch.full_like(count, steps)
    seeds = seeds + count if isinstance(seeds, int) else seeds.to(tokens.device)
    x0 = None if x0 is None else x0.to(tokens.device)
    return DecodeState.start(tokens, generated, mask_token_id, seeds, budget, attention_mask, x0, model_block)
