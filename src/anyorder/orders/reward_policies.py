"""The policy networks of the papers that train orders by reward."""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from anyorder.denoisers.transformer import Block
from anyorder.orders.base import open_positions
from anyorder.orders.policies import PolicyNetwork
from anyorder.prediction import Prediction
from anyorder.registry import POLICIES
from anyorder.state import DecodeState

_FAR_BELOW = 1e4
"""Distance of positions outside a restricted set: their probability is 0 in float32, and they still have an order."""


class RewardPolicy(PolicyNetwork):
    """Base class of policies that are trained by reward: they score masked positions only, and can be restricted to the most
    confident ones by a setting `top_positions` (K of arXiv 2510.05725, eq. 27; 0 for all). Their training decodes, so they see
    whole sequences."""

    one_block = False

    def build(self, settings: Any) -> None:
        """See `PolicyNetwork`."""
        if settings.top_positions < 0:
            raise ValueError(f"top_positions is {settings.top_positions}; 0 means all, and K > 0 the K most confident")
        self.top_positions = settings.top_positions

    @abstractmethod
    def score(self, state: DecodeState, prediction: Prediction) -> Tensor:
        """Scores float32 (B, L) of an unrestricted policy."""

    def forward(self, state: DecodeState, prediction: Prediction) -> Tensor:
        """Scores float32 (B, L); all but the most confident positions are far below the others."""
        scores = self.score(state, prediction)
        if not self.top_positions:
            return scores
        inside = most_confident(state, prediction, self.top_positions)
        bound = scores.masked_fill(~inside, torch.inf).amin(dim=1, keepdim=True).detach()
        confidence = prediction.scatter(prediction.drawn_log_probs, 0.0)
        return torch.where(inside, scores, bound - _FAR_BELOW + confidence)


def most_confident(state: DecodeState, prediction: Prediction, count: int) -> Tensor:
    """The `count` positions of highest confidence in each row among those that may hold a token after this step, bool (B, L);
    ties go to the leftmost."""
    inside = open_positions(state, prediction)
    confidence = prediction.scatter(prediction.drawn_log_odds).masked_fill(~inside, -torch.inf)
    rank = confidence.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return (rank < count) & inside


@dataclass(frozen=True)
class UPOSettings:
    """Settings of `UPOPolicy`."""

    width: int = field(default=128, metadata={"help": "hidden units of the MLP"})
    heads: int = field(default=4, metadata={"help": "attention heads; they must divide the denoiser's hidden size"})
    top_probabilities: int = field(default=5, metadata={"help": "probabilities of each position that are read"})
    top_positions: int = field(default=0, metadata={"help": "K most confident positions it chooses among; 0 for all"})


@POLICIES.register("upo", trained_by="reward")
class UPOPolicy(RewardPolicy):
    """The policy of UPO (arXiv 2510.05725, figure 2 and eq. 21): one transformer layer on the denoiser's last hidden states,
    the top-K probabilities of each position beside its output, and a 3-layer MLP."""

    Settings = UPOSettings

    def build(self, settings: UPOSettings) -> None:
        """See `PolicyNetwork`."""
        super().build(settings)
        if self.hidden_size % settings.heads:
            raise ValueError(f"{settings.heads} heads do not divide the denoiser's hidden size {self.hidden_size}")
        self.top_probabilities = min(settings.top_probabilities, self.vocab_size)
        width = settings.width
        self.reads_draw = bool(settings.top_positions)
        self.block = Block(self.hidden_size, settings.heads)
        self.norm = nn.LayerNorm(self.hidden_size)
        self.mlp = nn.Sequential(
            nn.Linear(self.hidden_size + self.top_probabilities, width), nn.GELU(),
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1),
        )  # fmt: skip

    def score(self, state: DecodeState, prediction: Prediction) -> Tensor:
        """See `RewardPolicy`."""
        mixed = self.norm(self.block(prediction.hidden.float(), state.attention_bias))
        features = torch.cat([mixed, prediction.top_probabilities(self.top_probabilities)], dim=-1)
        scores: Tensor = self.mlp(features)[..., 0]
        return scores


@dataclass(frozen=True)
class ConfidenceTransformerSettings:
    """Settings of `ConfidenceTransformer`."""

    width: int = field(default=128, metadata={"help": "width of the block"})
    heads: int = field(default=2, metadata={"help": "attention heads"})
    mlp_ratio: int = field(default=4, metadata={"help": "hidden units of the block's MLP over its width"})
    bias: float = field(default=-2.0, metadata={"help": "first score of every position; -2 unmasks one in eight by Bernoulli"})
    top_positions: int = field(default=0, metadata={"help": "K most confident positions it chooses among; 0 for all"})


@POLICIES.register("confidence_transformer", trained_by="reward")
class ConfidenceTransformer(RewardPolicy):
    """The policy of Jazbec et al. (arXiv 2512.09106): of each position it reads the confidence and whether it is masked, and
    how many steps have passed; one transformer block with adaptive layer norm. It reads no hidden state, so it can be used on
    another denoiser and at another length.

    The modulation starts at zero and the output at `bias`: before training every position has the same score."""

    Settings = ConfidenceTransformerSettings
    reads_hidden = False

    def build(self, settings: ConfidenceTransformerSettings) -> None:
        """See `PolicyNetwork`."""
        super().build(settings)
        width = settings.width
        self.token_in = nn.Linear(2, width)
        self.time_in = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.block = AdaptiveBlock(width, settings.heads, settings.mlp_ratio)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.final_modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, 1)
        nn.init.zeros_(self.final_modulation.weight)
        nn.init.zeros_(self.final_modulation.bias)
        nn.init.zeros_(self.out.weight)
        nn.init.constant_(self.out.bias, settings.bias)

    def score(self, state: DecodeState, prediction: Prediction) -> Tensor:
        """See `RewardPolicy`."""
        confidence = prediction.scatter(prediction.drawn_log_probs.exp(), 1.0)
        hidden = self.token_in(torch.stack([confidence, state.masked.float()], dim=-1))
        total = state.generated.sum(dim=1, keepdim=True).clamp(min=1)
        time = self.time_in(total.float().reciprocal() * state.step[:, None])
        hidden = self.block(hidden, time, state.attention_bias)
        shift, scale = self.final_modulation(time)[:, None].chunk(2, dim=-1)
        scores: Tensor = self.out(self.norm(hidden) * (1 + scale) + shift)[..., 0]
        return scores


class AdaptiveBlock(nn.Module):
    """A transformer block whose layer norms are shifted, scaled and gated by the time (AdaLN-Zero, arXiv 2212.09748)."""

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.inner = Block(width, heads, mlp_ratio)
        for norm in (self.inner.attention_norm, self.inner.mlp_norm):
            norm.requires_grad_(False)  # the modulation takes their place
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, hidden: Tensor, time: Tensor, bias: Tensor | None) -> Tensor:
        """hidden (B, L, D), time (B, D), or (B, L, D) if it differs from position to position, bias as in `Block`."""
        modulation = self.modulation(time if time.ndim == 3 else time[:, None])
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation.chunk(6, dim=-1)
        inner = self.inner
        hidden = hidden + gate_a * inner.attend(inner.attention_norm(hidden) * (1 + scale_a) + shift_a, bias)
        changed: Tensor = hidden + gate_m * inner.mlp(inner.mlp_norm(hidden) * (1 + scale_m) + shift_m)
        return changed
