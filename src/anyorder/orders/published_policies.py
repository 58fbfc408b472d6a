"""The networks of published planners, as policies.

| architecture | planner | trained by |
|---|---|---|
| `pairwise` | the dependency predictor of DEMASK (arXiv 2604.02560), for the count rule `demask` | supervision |
| `dultra` | the planner head of dUltra (arXiv 2512.21446) | imitation of a count rule, then reward |

Others need no network of their own: the head of OnTrack is an `mlp` of 0.8 M weights, the planner of Gt-Margin a `lookahead`,
and LO-ARM and SAS train any policy. See the recipes of these names.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from anyorder.orders.policies import MLPPolicy
from anyorder.orders.reward_policies import AdaptiveBlock, RewardPolicy
from anyorder.prediction import Prediction
from anyorder.registry import POLICIES
from anyorder.state import DecodeState


@dataclass(frozen=True)
class PairwiseSettings:
    """Settings of `PairwisePolicy`."""

    width: int = field(default=128, metadata={"help": "hidden units of the MLP"})
    pair_width: int = field(default=64, metadata={"help": "width of the two projections whose product is a pair's score"})


@POLICIES.register("pairwise", trained_by="supervised")
class PairwisePolicy(MLPPolicy):
    """The policy `mlp`, and a prediction for each pair of positions: by how much a token at i moves the denoiser's distribution
    at j, in total variation. It is read off the hidden states, as by the predictor of DEMASK (arXiv 2604.02560), and is for the
    count rule `demask`.

    Influence of i on j: sigmoid(q_i . k_j / sqrt(pair_width) + b), with b = -2 and q = 0 before training. The form of the
    predictor is ours: of the authors' it is known that it reads the final hidden states in the same forward pass."""

    Settings = PairwiseSettings  # type: ignore[assignment]

    def build(self, settings: PairwiseSettings) -> None:  # type: ignore[override]
        """See `PolicyNetwork`."""
        super().build(settings)  # type: ignore[arg-type]
        self.query = nn.Linear(self.hidden_size, settings.pair_width)
        self.key = nn.Linear(self.hidden_size, settings.pair_width)
        self.pair_shift = nn.Parameter(torch.full((), -2.0))
        nn.init.zeros_(self.query.weight)
        nn.init.zeros_(self.query.bias)

    def influence_logits(self, prediction: Prediction) -> Tensor:
        """Logits (B, L, L) of the influence of a token at the first position on the distribution at the second one."""
        hidden = prediction.hidden.float()
        query, key = self.query(hidden), self.key(hidden)
        pairs: Tensor = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5 + self.pair_shift
        return pairs

    def influences(self, prediction: Prediction) -> Tensor:
        """Predicted influences (B, L, L), in (0, 1)."""
        return torch.sigmoid(self.influence_logits(prediction))


@dataclass(frozen=True)
class DUltraSettings:
    """Settings of `DUltraPolicy`."""

    heads: int = field(default=4, metadata={"help": "attention heads; they must divide the denoiser's hidden size"})
    mlp_ratio: int = field(default=4, metadata={"help": "hidden units of the block's MLP over the denoiser's hidden size"})
    bias: float = field(default=0.0, metadata={"help": "first score of every position"})
    top_positions: int = field(default=0, metadata={"help": "K most confident positions it chooses among; 0 for all"})


@POLICIES.register("dultra", trained_by="reward")
class DUltraPolicy(RewardPolicy):
    """The planner head of dUltra (arXiv 2512.21446): a transformer block of the denoiser's width on its last hidden states,
    with adaptive layer norm by the share of positions that are known and by whether the position is masked, and one logit per
    position, the log-odds of unmasking it now. For `bernoulli`.

    As in the authors' code, but that the norm before the block is its own, and that the modulation and the output start at
    zero."""

    Settings = DUltraSettings
    reads_draw = False

    def build(self, settings: DUltraSettings) -> None:
        """See `PolicyNetwork`."""
        super().build(settings)
        width = self.hidden_size
        if width % settings.heads:
            raise ValueError(f"{settings.heads} heads do not divide the denoiser's hidden size {width}")
        self.reads_draw = bool(settings.top_positions)
        self.time_in = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
        self.mask_embedding = nn.Embedding(2, width)
        self.block = AdaptiveBlock(width, settings.heads, settings.mlp_ratio)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.final_modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, 1)
        for layer in (self.final_modulation, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.out.bias, settings.bias)

    def score(self, state: DecodeState, prediction: Prediction) -> Tensor:
        """See `RewardPolicy`."""
        total = state.generated.sum(dim=1, keepdim=True).clamp(min=1)
        known = 1 - state.masked.sum(dim=1, keepdim=True) / total
        about = nn.functional.silu(self.time_in(known.float())[:, None] + self.mask_embedding(state.masked.long()))
        hidden = self.block(prediction.hidden.float(), about, state.attention_bias)
        shift, scale = self.final_modulation(about).chunk(2, dim=-1)
        scores: Tensor = self.out(self.norm(hidden) * (1 + scale) + shift)[..., 0]
        return scores
