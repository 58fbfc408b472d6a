"""Problems with many solutions, of which one is stored: complete a permutation."""

from typing import Any

import torch
from torch import Tensor, nn

import anyorder
from anyorder.denoisers.base import DenoiserOutput, forbid_mask
from anyorder.tasks import CheckResult, Instances

LENGTH = 8


class Permutations(anyorder.Task):
    """Every completion that repeats no symbol is right."""

    def __init__(self, length: int = LENGTH) -> None:
        self.vocab_size, self.mask_token_id, self.length = length + 1, 0, length

    @property
    def options(self) -> dict[str, Any]:
        return {"length": self.length}

    def generate(self, count: int, seed: int, blanks: int = 6) -> Instances:
        generator = torch.Generator().manual_seed(seed)
        x0, places = (torch.rand(count, self.length, generator=generator).argsort(dim=1) for _ in range(2))
        hidden = places < blanks
        return Instances((x0 + 1).masked_fill(hidden, 0), hidden, x0 + 1)

    def check(self, instances: Instances, tokens: Tensor) -> CheckResult:
        repeated = (tokens[:, :, None] == tokens[:, None]).sum(dim=2) > 1
        right = ~repeated & ((tokens == instances.tokens) | instances.maskable)
        return CheckResult(right.all(dim=1), right.double().mean(dim=1))


class Prone(nn.Module):
    """A denoiser that prefers some symbols at some places, and avoids those that are there already, but not enough."""

    mask_token_id, vocab_size, hidden_size = 0, LENGTH + 1, LENGTH + 1

    def __init__(self) -> None:
        super().__init__()
        preferred = torch.randn(LENGTH, LENGTH + 1, generator=torch.Generator().manual_seed(1))
        self.preferred = nn.Parameter(1.5 * preferred)

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None, positions: Tensor | None = None) -> DenoiserOutput:
        there = nn.functional.one_hot(tokens, self.vocab_size).amax(dim=1)
        scores = self.preferred - 2.0 * there[:, None]
        logits = forbid_mask(scores, self.mask_token_id)
        return DenoiserOutput(logits if positions is None else logits[positions], scores)
