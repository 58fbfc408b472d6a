"""Small exact denoisers, tiny real ones, and where the published benchmark files may be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anyorder.denoisers.base import DenoiserOutput, forbid_mask
from anyorder.denoisers.transformer import Transformer
from anyorder.prediction import Prediction
from anyorder.state import DecodeState

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


class HashDenoiser(nn.Module):
    """A made-up denoiser whose logits depend on the whole sequence, exactly, whatever the batch and the padding.

    Token 0 is the mask. Visible tokens and their places are hashed into integers, and these into logits: no floating-point
    sum depends on the batch.
    """

    def __init__(self, vocab_size: int = 5) -> None:
        super().__init__()
        self.mask_token_id, self.vocab_size, self.hidden_size = 0, vocab_size, 4

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None, positions: Tensor | None = None) -> DenoiserOutput:
        real = torch.ones_like(tokens) if attention_mask is None else attention_mask.long()
        index = real.cumsum(dim=1) - 1
        context = (tokens * (index + 3) * 7919 * real).sum(dim=1)[:, None, None]
        words = torch.arange(self.vocab_size, device=tokens.device)
        mixed = (context + 1) * 31 + (index[..., None] + 1) * 1009 + (words + 1) * 9176
        logits = ((mixed * mixed) % 1013).double() / 250
        hidden = torch.stack([tokens, index, tokens * index, tokens + index], dim=-1).float() / 10
        chosen = logits if positions is None else logits[positions]
        return DenoiserOutput(forbid_mask(chosen, 0), hidden)

    def with_attention(
        self, tokens: Tensor, attention_mask: Tensor | None = None, positions: Tensor | None = None
    ) -> tuple[DenoiserOutput, Tensor]:
        """Made-up attention that depends on the places alone; its rows do not sum to 1."""
        index = torch.arange(tokens.shape[1]) if attention_mask is None else attention_mask.long().cumsum(dim=1) - 1
        index = index.expand_as(tokens)
        mixed = (index[:, :, None] + 1) * 7919 + (index[:, None, :] + 1) * 104729
        return self(tokens, attention_mask, positions), (mixed * mixed % 101).float() / 4000


@pytest.fixture
def hash_denoiser() -> HashDenoiser:
    return HashDenoiser()


@pytest.fixture
def tiny_transformer() -> Transformer:
    torch.manual_seed(0)
    return Transformer(
        vocab_size=5, mask_token_id=0, max_length=12, width=16, layers=2, heads=["everything"] * 2
    ).eval()  # fmt: skip


@pytest.fixture
def make_state() -> Callable[..., tuple[DecodeState, Prediction]]:
    """A state and its prediction, of one row whose positions are all masked, from probabilities (L, V).

    Changes are fields of either; `step`, `steps` and `seeds` may be plain numbers.
    """

    def make(probabilities: list[list[float]], **changes: Any) -> tuple[DecodeState, Prediction]:
        logits = torch.tensor(probabilities, dtype=torch.float64).log()
        length = logits.shape[0]
        everywhere = torch.ones(1, length, dtype=torch.bool)
        prediction = Prediction(
            changes.pop("logits", logits),
            changes.pop("hidden", torch.zeros(1, length, 4)),
            changes.pop("predicted", everywhere),
            attention=changes.pop("attention", None),
        )
        one = torch.ones(1, dtype=torch.int64)
        state = DecodeState.start(torch.zeros(1, length, dtype=torch.int64), everywhere, 0, 0 * one, 4 * one)
        rows = {name: one * value if isinstance(value, int) else value for name, value in changes.items()}
        return state.replace(**rows), prediction

    return make


def shared_file(name: str) -> Path:
    """A published benchmark file, or a skip that says plainly why."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"the benchmark file {name} is not here: it is other people's data and does not come with the project")
    return path
