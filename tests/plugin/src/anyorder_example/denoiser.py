"""A denoiser: any `nn.Module` with the members of `anyorder.denoisers.base.Denoiser`."""

import torch
from torch import Tensor, nn

from anyorder.denoisers.base import DenoiserOutput, forbid_mask
from anyorder.registry import DENOISERS


@DENOISERS.register("mixer")
class Mixer(nn.Module):
    """An MLP over the whole sequence.

    Args:
        vocab_size, mask_token_id, max_length: of the task.
        width: hidden units per position.
    """

    def __init__(self, vocab_size: int, mask_token_id: int, max_length: int, width: int = 16) -> None:
        super().__init__()
        self.vocab_size, self.mask_token_id, self.max_length = vocab_size, mask_token_id, max_length
        self.hidden_size = width
        self.words = nn.Embedding(vocab_size, width)
        self.mix = nn.Sequential(nn.Linear(max_length * width, 4 * width), nn.GELU(), nn.Linear(4 * width, max_length * width))
        self.out = nn.Linear(width, vocab_size)

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None, positions: Tensor | None = None) -> DenoiserOutput:
        """See `Denoiser`."""
        words = self.words(tokens)
        hidden = words + torch.relu(self.mix(words.flatten(1)).view_as(words))
        logits = self.out(hidden if positions is None else hidden[positions])
        return DenoiserOutput(forbid_mask(logits, self.mask_token_id), hidden)
