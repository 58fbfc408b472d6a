"""The policy networks of the papers that train orders by reward."""

from typing import Any

import torch
from torch import Tensor, nn

from anyorder.denoisers.transformer import Block
from anyorder.orders.base import State
from anyorder.orders.policies import PolicyNetwork

_FAR_BELOW = 1e4
"""Distance of positions outside a restricted set: their probability is 0 in float32, and they still have an order."""


class RewardPolicy(PolicyNetwork):
    """What policies trained by reward have in common: they score masked positions only, and can be held to the best of them.

    Args:
        architecture: its name.
        denoiser_fingerprint: of the denoiser that the policy was fitted to.
        top_positions: K of the restricted policy of UPO (eq. 27): only the K most confident positions can be drawn; 0 for all.
    """

    def __init__(self, architecture: str, denoiser_fingerprint: str, top_positions: int) -> None:
        super().__init__()
        if top_positions < 0:
            raise ValueError(f"top_positions is {top_positions}; 0 means all, and K > 0 the K most confident")
        self.architecture = architecture
        self.denoiser_fingerprint = denoiser_fingerprint
        self.top_positions = top_positions

    def restrict(self, scores: Tensor, state: State) -> Tensor:
        """Scores (B, L) with all but the most confident positions far below them."""
        if not self.top_positions:
            return scores
        inside = most_confident(state, self.top_positions)
        bound = scores.masked_fill(~inside, torch.inf).amin(dim=1, keepdim=True).detach()
        confidence = state.scatter(state.summary.top_log_probs[:, 0], 0.0)
        return torch.where(inside, scores, bound - _FAR_BELOW + confidence)


def most_confident(state: State, count: int) -> Tensor:
    """The `count` positions of highest confidence in each row among those that may be unmasked now, bool (B, L); ties go to the
    leftmost."""
    confidence = state.scatter(state.summary.log_odds).masked_fill(~state.available, -torch.inf)
    rank = confidence.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return (rank < count) & state.available


class UnmaskingPolicy(RewardPolicy):
    """The policy of UPO (arXiv 2510.05725, figure 2 and eq. 21): one transformer layer on the denoiser's last hidden states,
    the top-K probabilities of each position beside its output, and a 3-layer MLP.

    Args:
        hidden_size, vocab_size: of the denoiser.
        width: hidden units of the MLP.
        heads: of the transformer layer; it must divide hidden_size.
        top_probabilities: K of the probabilities.
        top_positions, denoiser_fingerprint, architecture: see `RewardPolicy`.
        about: free-form facts about the fit, kept in config.json.
    """

    def __init__(
        self,
        hidden_size: int,
        vocab_size: int,
        width: int = 128,
        heads: int = 4,
        top_probabilities: int = 5,
        top_positions: int = 0,
        denoiser_fingerprint: str = "",
        about: dict[str, Any] | None = None,
        architecture: str = "upo",
    ) -> None:
        super().__init__(architecture, denoiser_fingerprint, top_positions)
        if hidden_size % heads:
            raise ValueError(f"{heads} heads do not divide the denoiser's hidden size {hidden_size}")
        self.top_probabilities = min(top_probabilities, vocab_size)
        self.block = Block(hidden_size, heads)
        self.norm = nn.LayerNorm(hidden_size)
        self.mlp = nn.Sequential(
            nn.Linear(hidden_size + self.top_probabilities, width), nn.GELU(),
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1),
        )  # fmt: skip

    def forward(self, state: State) -> Tensor:
        """Scores float32 (B, L)."""
        mixed = self.norm(self.block(state.hidden.float(), state.attention_bias))
        features = torch.cat([mixed, state.top_probabilities(self.top_probabilities)], dim=-1)
        return self.restrict(self.mlp(features)[..., 0], state)


class ConfidencePolicy(RewardPolicy):
    """The policy of Jazbec et al. (arXiv 2512.09106): of each position it sees the confidence and whether it is masked, and how
    many steps have passed; one transformer block with adaptive layer norm. It reads no hidden state, so it can be used on
    another denoiser and at another length.

    The modulation starts at zero and the output at `bias`: before training every position has the same score.

    Args:
        hidden_size, vocab_size: ignored; so that all policies are made alike.
        width, heads, mlp_ratio: of the block.
        bias: first score of every position; -2 unmasks one in eight by `Bernoulli`.
        top_positions, denoiser_fingerprint, architecture: see `RewardPolicy`.
        about: free-form facts about the fit, kept in config.json.
    """

    reads_hidden = False

    def __init__(
        self,
        hidden_size: int = 0,
        vocab_size: int = 0,
        width: int = 128,
        heads: int = 2,
        mlp_ratio: int = 4,
        bias: float = -2.0,
        top_positions: int = 0,
        denoiser_fingerprint: str = "",
        about: dict[str, Any] | None = None,
        architecture: str = "confidence_transformer",
    ) -> None:
        super().__init__(architecture, denoiser_fingerprint, top_positions)
        self.token_in = nn.Linear(2, width)
        self.time_in = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.block = AdaptiveBlock(width, heads, mlp_ratio)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.final_modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, 1)
        nn.init.zeros_(self.final_modulation.weight)
        nn.init.zeros_(self.final_modulation.bias)
        nn.init.zeros_(self.out.weight)
        nn.init.constant_(self.out.bias, bias)

    def forward(self, state: State) -> Tensor:
        """Scores float32 (B, L)."""
        confidence = state.scatter(state.summary.top_log_probs[:, 0].exp(), 1.0)
        hidden = self.token_in(torch.stack([confidence, state.masked.float()], dim=-1))
        total = state.generated.sum(dim=1, keepdim=True).clamp(min=1)
        time = self.time_in(state.step / total.float())
        hidden = self.block(hidden, time, state.attention_bias)
        shift, scale = self.final_modulation(time)[:, None].chunk(2, dim=-1)
        return self.restrict(self.out(self.norm(hidden) * (1 + scale) + shift)[..., 0], state)


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
        """hidden (B, L, D), time (B, D), bias as in `Block`."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(time)[:, None].chunk(6, dim=-1)
        inner = self.inner
        hidden = hidden + gate_a * inner.attend(inner.attention_norm(hidden) * (1 + scale_a) + shift_a, bias)
        changed: Tensor = hidden + gate_m * inner.mlp(inner.mlp_norm(hidden) * (1 + scale_m) + shift_m)
        return changed


REWARD_POLICIES: dict[str, type[UnmaskingPolicy] | type[ConfidencePolicy]] = {
    "upo": UnmaskingPolicy,
    "confidence_transformer": ConfidencePolicy,
}
"""By architecture."""
