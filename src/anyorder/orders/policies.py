"""Learned orders: small networks on top of a denoiser's prediction and hidden states.

`PolicyNetwork` is the base of all. An architecture is one class with its own settings, registered in `POLICIES`. To add one,
write a file with a class like those below.

The supervised policies here start AT a heuristic: their score is `scale * log-odds(c) + shift + correction`, with scale 1,
shift 0 and a correction whose last layer is zero, so before any training they are the confidence order.

The score of an objective such as correctness is the log-odds that the position's token is right: at a predicted position the
drawn token, which under argmax is the likeliest one, and, for policies that score committed tokens (critics), the committed
token elsewhere.
"""

from abc import abstractmethod
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from anyorder.denoisers.base import in_float32
from anyorder.denoisers.transformer import Block, RelationHeads
from anyorder.errors import BadInput
from anyorder.files import write_json, written_as_a_whole
from anyorder.hub import Pushable, save_weights
from anyorder.memory import FirstPrediction, Memory
from anyorder.own_code import naming
from anyorder.prediction import Prediction
from anyorder.registry import POLICIES
from anyorder.relations import EVERYTHING, Relation
from anyorder.signatures import checked
from anyorder.state import DecodeState

_MASKED, _COMMITTED, _GIVEN = 0, 1, 2


@dataclass(frozen=True)
class NoSettings:
    """The settings of an architecture that has none."""


class PolicyNetwork(nn.Module, Pushable):
    """Base class of order policies: a network that scores the positions of a state.

    A subclass declares its settings in a dataclass `Settings`, which recipes and commands read. It builds its layers in `build`
    and computes scores in `forward`. It is saved separately from its denoiser, as `config.json` and `model.safetensors`.

    Args:
        hidden_size, vocab_size: those of the denoiser.
        max_length: length of the task, for heads that are restricted to relations between its positions; else 0.
        scores_committed: whether the scores of committed tokens are trained, so that the policy can be a critic.
        denoiser_fingerprint: fingerprint of the denoiser to which the policy was fitted.
        about: facts about the fit, kept in `config.json`.
        settings: the fields of `Settings`.

    Attributes:
        reads_hidden: whether it reads the denoiser's hidden states.
        reads_logits: whether it reads more of the logits than the log-probabilities of the drawn and the two likeliest tokens,
            `entropy` and `top_probabilities`.
        reads_draw: whether its scores depend on the tokens that the token rule proposes, so that the likelihood of a trajectory
            includes all proposals.
        top_positions: how many of the most confident positions it is restricted to; 0 for all.
        one_block: whether it is shown the open block of a block-causal denoiser as a problem of its own, as supervised training
            shows it (`DecodeState.of_open_block`), or the whole sequence.
        memories: what it remembers of earlier predictions, see `anyorder.memory`.
        unchecked: the folder that it was loaded from without a denoiser, until it is checked against the first one that it is
            used with; else None.
    """

    Settings: ClassVar[type] = NoSettings
    reads_hidden: bool = True
    reads_logits: bool = False
    reads_draw: bool = True
    top_positions: int = 0
    one_block: bool = True
    memories: tuple[Memory, ...] = ()
    unchecked: Path | None = None

    def __init__(
        self,
        *,
        hidden_size: int,
        vocab_size: int,
        max_length: int = 0,
        scores_committed: bool = False,
        denoiser_fingerprint: str = "",
        about: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        known = {f.name for f in fields(self.Settings)}
        if unknown := sorted(settings.keys() - known):
            raise ValueError(
                f"{type(self).__name__} has no setting {', '.join(unknown)}; it has {', '.join(sorted(known)) or 'none'}"
            )
        self.hidden_size, self.vocab_size, self.max_length = hidden_size, vocab_size, max_length
        self.scores_committed = scores_committed
        self.denoiser_fingerprint = denoiser_fingerprint
        self.about = about or {}
        self.settings: Any = self.Settings(**settings)
        with in_float32():
            self.build(self.settings)

    def __call__(self, state: DecodeState, prediction: Prediction) -> Tensor:
        """`forward`, in float32 under `torch.autocast` as well."""
        kind = state.tokens.device.type
        state = state.of_open_block() if self.one_block else state
        with naming("policy", self):
            if not torch.is_autocast_enabled(kind):
                return super().__call__(state, prediction)  # type: ignore[no-any-return]
            with torch.autocast(kind, enabled=False):
                return super().__call__(state, prediction)  # type: ignore[no-any-return]

    @abstractmethod
    def build(self, settings: Any) -> None:
        """Make the layers."""

    @abstractmethod
    def forward(self, state: DecodeState, prediction: Prediction) -> Tensor:
        """Scores float32 (B, L) of all positions: of the proposed token where predicted, of the present one elsewhere."""

    def set_relations(self, relations: dict[str, Relation]) -> None:
        """Set the relations of a task for heads that are restricted to relations. By default there are no such heads."""

    def config(self) -> dict[str, Any]:
        """The values that rebuild the network, without its weights."""
        shape = {"hidden_size": self.hidden_size, "vocab_size": self.vocab_size, "max_length": self.max_length}
        return {
            "architecture": POLICIES.lasting_name_of(self),
            **shape,
            **asdict(self.settings),
            "scores_committed": self.scores_committed,
            "denoiser_fingerprint": self.denoiser_fingerprint,
            "about": self.about,
        }

    @checked("folder")
    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors`, or nothing if one of them cannot be written."""
        with written_as_a_whole(folder) as place:
            save_weights(self, place)
            write_json(place / "config.json", self.config())


def policy_class(name: str) -> type[PolicyNetwork]:
    """An architecture of policies by registered name, or as `module:Class`.

    Raises:
        BadInput: no such architecture, or something else than a subclass of `PolicyNetwork`.
    """
    found: Any = POLICIES[name]
    if not (isinstance(found, type) and issubclass(found, PolicyNetwork)):
        raise BadInput(f"{name} is no architecture of policies: it must be a subclass of anyorder.PolicyNetwork")
    return found


@dataclass(frozen=True)
class SupervisedSettings:
    """Settings of every `SupervisedPolicy`."""

    start: Literal["confidence", "none"] = field(
        default="confidence", metadata={"help": "start as the confidence order, or at random as published"}
    )


@dataclass(frozen=True)
class MLPSettings(SupervisedSettings):
    """Settings of `MLPPolicy`."""

    width: int = field(default=128, metadata={"help": "hidden units"})


@dataclass(frozen=True)
class TransformerSettings(SupervisedSettings):
    """Settings of the score transformers."""

    width: int = field(default=128, metadata={"help": "width of the layer"})
    heads: int = field(default=4, metadata={"help": "attention heads"})


@dataclass(frozen=True)
class LookaheadSettings(SupervisedSettings):
    """Settings of `LookaheadPolicy`."""

    width: int = field(default=128, metadata={"help": "width of the blocks"})
    layers: int = field(default=2, metadata={"help": "number of blocks"})
    heads: tuple[str, ...] = field(
        default=(EVERYTHING,) * 4, metadata={"help": "one relation of the task per head; 'everything' is plain attention"}
    )
    first_prediction: bool = field(default=True, metadata={"help": "read what the first forward pass predicted"})
    drawn: bool = field(default=False, metadata={"help": "read which token was drawn, for decoding with sampled tokens"})
    history: bool = field(default=True, metadata={"help": "read with which probabilities tokens were committed"})


class SupervisedPolicy(PolicyNetwork):
    """Base class of policies that are trained by supervision: the confidence order plus a correction that starts at zero; with
    `start = "none"` the correction alone, from random weights, as in arXiv 2606.00295."""

    Settings: ClassVar[type] = SupervisedSettings

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        if not isinstance(getattr(self, "out", None), nn.Linear) or self.out.out_features != 1:
            raise BadInput(f"{type(self).__name__}.build must make self.out, the last layer: an nn.Linear with one output")
        if self.from_confidence:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def build(self, settings: Any) -> None:
        """Make the layers; a subclass adds its own and `self.out`."""
        start = getattr(settings, "start", "confidence")  # settings of one's own may lack it
        if start not in ("confidence", "none"):
            raise ValueError(f"start is {start!r}; it must be 'confidence' or 'none'")
        self.from_confidence = start == "confidence"
        if self.from_confidence:
            self.scale = nn.Parameter(torch.ones(()))
            self.shift = nn.Parameter(torch.zeros(()))
            self.committed_shift = nn.Parameter(torch.full((), 2.0))
        self.out: nn.Linear

    @abstractmethod
    def correct(self, state: DecodeState, prediction: Prediction) -> Tensor:
        """What is added to the confidence order, float (B, L, 1)."""

    def forward(self, state: DecodeState, prediction: Prediction) -> Tensor:
        """See `PolicyNetwork`."""
        correction = self.correct(state, prediction)
        if (shape := tuple(correction.shape)) != (*state.tokens.shape, 1):
            raise BadInput(f"{type(self).__name__}.correct returned {shape}; it must be {(*state.tokens.shape, 1)}")
        if not self.from_confidence:
            return correction[..., 0]
        base = self.scale * prediction.scatter(prediction.drawn_log_odds.clamp(-30, 30), 0.0) + self.shift
        base = torch.where(prediction.predicted, base, self.committed_shift)
        scores: Tensor = base + correction[..., 0]
        return scores


@POLICIES.register("mlp", trained_by="supervised")
class MLPPolicy(SupervisedPolicy):
    """Per token: log-probability of the drawn token -> Linear to D, plus the hidden state, then an MLP D-width-1 with ReLU
    (arXiv 2606.00295, section 3)."""

    Settings = MLPSettings

    def build(self, settings: MLPSettings) -> None:
        """See `PolicyNetwork`."""
        super().build(settings)
        self.score_in = nn.Linear(1, self.hidden_size)
        self.mlp_in = nn.Linear(self.hidden_size, settings.width)
        self.out = nn.Linear(settings.width, 1)

    def correct(self, state: DecodeState, prediction: Prediction) -> Tensor:
        """See `SupervisedPolicy`."""
        log_c = prediction.scatter(prediction.drawn_log_probs, 0.0)
        features = self.score_in(log_c[..., None]) + prediction.hidden.float()
        corrected: Tensor = self.out(torch.relu(self.mlp_in(features)))
        return corrected


@POLICIES.register("score_transformer", trained_by="supervised")
class ScoreTransformer(SupervisedPolicy):
    """Log-probability of the drawn token -> width, then one encoder layer (arXiv 2606.00295, appendix B)."""

    Settings = TransformerSettings
    reads_hidden = False

    def build(self, settings: TransformerSettings) -> None:
        """See `PolicyNetwork`."""
        super().build(settings)
        check_heads(settings.width, settings.heads)
        self.score_in = nn.Linear(1, settings.width)
        if self.reads_hidden:
            self.hidden_in = nn.Linear(self.hidden_size, settings.width)
        self.blocks = nn.ModuleList([Block(settings.width, settings.heads)])
        self.norm = nn.LayerNorm(settings.width)
        self.out = nn.Linear(settings.width, 1)

    def correct(self, state: DecodeState, prediction: Prediction) -> Tensor:
        """See `SupervisedPolicy`."""
        hidden = self.score_in(prediction.scatter(prediction.drawn_log_probs, 0.0)[..., None])
        if self.reads_hidden:
            hidden = hidden + self.hidden_in(prediction.hidden.float())
        corrected: Tensor = self.out(self.norm(self.blocks[0](hidden, state.attention_bias)))
        return corrected


@POLICIES.register("score_hidden_transformer", trained_by="supervised")
class ScoreHiddenTransformer(ScoreTransformer):
    """The score transformer plus the denoiser's hidden state (arXiv 2606.00295, appendix B)."""

    reads_hidden = True


@POLICIES.register("lookahead", trained_by="supervised")
class LookaheadPolicy(SupervisedPolicy):
    """Reads the complete proposal of the denoiser before anything is committed: hidden state, expected token, scores and status
    of every position, with `drawn` the drawn token as well, then blocks whose heads may be restricted to the task's
    relations."""

    Settings = LookaheadSettings
    reads_logits = True

    def build(self, settings: LookaheadSettings) -> None:
        """See `PolicyNetwork`."""
        super().build(settings)
        width, heads = settings.width, list(settings.heads)
        check_heads(width, len(heads))
        restricted = bool(set(heads) - {EVERYTHING})
        self.memories = (FirstPrediction(),) if settings.first_prediction else ()
        self.relations = RelationHeads(heads, self.max_length, self.vocab_size) if restricted else None
        self.score_in = nn.Linear(8, width)
        self.hidden_in = nn.Linear(self.hidden_size, width)
        self.token_embedding = nn.Embedding(self.vocab_size, width)
        self.first_in = nn.Linear(self.vocab_size, width, bias=False) if settings.first_prediction else None
        self.drawn_embedding = nn.Embedding(self.vocab_size, width) if settings.drawn else None
        self.status_embedding = nn.Embedding(3, width)
        nn.init.normal_(self.token_embedding.weight, std=0.3)
        nn.init.normal_(self.status_embedding.weight, std=0.3)
        if self.drawn_embedding is not None:
            nn.init.normal_(self.drawn_embedding.weight, std=0.3)
        self.blocks = nn.ModuleList(Block(width, len(heads)) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, 1)

    def set_relations(self, relations: dict[str, Relation]) -> None:
        """See `PolicyNetwork`."""
        if self.relations is not None:
            self.relations.set(relations)

    def correct(self, state: DecodeState, prediction: Prediction) -> Tensor:
        """See `SupervisedPolicy`."""
        probabilities = prediction.probabilities()
        tokens = state.tokens.clamp(0, self.vocab_size - 1)  # padding may be none of the vocabulary
        words = self.token_embedding(tokens)
        words = torch.where(prediction.predicted[..., None], probabilities @ self.token_embedding.weight, words)
        status = torch.where(state.masked, _MASKED, torch.where(state.generated, _COMMITTED, _GIVEN))
        scores = self.score_in(self._features(state, prediction))
        hidden = self.hidden_in(prediction.hidden.float()) + words + self.status_embedding(status) + scores
        if self.first_in is not None:
            first = state.memory.get(FirstPrediction())
            hidden = hidden + self.first_in(probabilities if first is None else first[0])
        if self.drawn_embedding is not None:
            hidden = hidden + self.drawn_embedding(tokens.masked_scatter(prediction.predicted, prediction.drawn_tokens))
        bias = state.attention_bias
        if self.relations is not None:
            related = self.relations.bias(tokens, hidden.dtype)
            bias = related if bias is None else torch.minimum(related, bias)
        for block in self.blocks:
            hidden = block(hidden, bias)
        corrected: Tensor = self.out(self.norm(hidden))
        return corrected

    def _features(self, state: DecodeState, prediction: Prediction) -> Tensor:
        """Float (B, L, 8): four scores of each prediction (probabilities of the drawn token and of the likeliest other one,
        entropy, the drawn token's log-odds), and four of each committed token, 0 where there are none or without `history`."""
        drawn, other = prediction.drawn_log_probs.exp(), prediction.other_log_probs.exp()
        scores = torch.stack([drawn, other, prediction.entropy, prediction.drawn_log_odds.clamp(-15, 15) / 5], dim=-1)
        features = torch.zeros((*state.tokens.shape, 8), dtype=scores.dtype, device=scores.device)
        features[..., :4] = features[..., :4].masked_scatter(prediction.predicted[..., None], scores)
        if not self.settings.history:
            return features
        committed = (state.commit_step >= 0) & ~prediction.predicted
        for at, log_p in ((4, state.token_log_probs.float()), (6, state.path_log_probs)):
            log_p = log_p.clamp(min=-8)
            features[..., at] = log_p.exp().masked_fill(~committed, 0.0)
            features[..., at + 1] = torch.log(1e-6 - torch.expm1(log_p)).masked_fill(~committed, 0.0) / 5
        return features


def check_heads(width: int, heads: int) -> None:
    """Raise ValueError unless the heads divide the width."""
    if heads < 1 or width % heads:
        raise ValueError(f"policy width {width} is not a multiple of the {heads} heads")
