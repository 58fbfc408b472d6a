"""Learned orders: small networks on top of a denoiser's scores and hidden states.

Every `Policy` starts AT a heuristic: its score is `scale * log-odds(c) + shift + correction`, with scale 1, shift 0 and a
correction whose last layer is zero, so before any training it is the confidence order and a short fit does not lose.

The score of an objective such as correctness is the log-odds that the position's token is right: of the denoiser's likeliest
token where masked, and, for policies that judge commitments, of the committed token elsewhere.
"""

from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from anyorder.denoisers.transformer import Block, RelationHeads
from anyorder.orders.base import State
from anyorder.relations import EVERYTHING, Relation

ARCHITECTURES = ("mlp", "score_transformer", "score_hidden_transformer", "lookahead")
_MASKED, _COMMITTED, _GIVEN = 0, 1, 2


class PolicyNetwork(nn.Module, PyTorchModelHubMixin, library_name="anyorder"):
    """What every order policy is: a network that scores the positions of a state. Saved apart from its denoiser, as
    `config.json` + `model.safetensors`.

    judges: whether the scores of committed positions were trained, so that commitments can be undone.
    first_look: whether it sees what the first forward predicted, before anything was committed.
    reads_hidden: whether it sees the denoiser's hidden states.
    reads_logits: whether it sees more of the logits than `State.summary` and `State.top_probabilities`.
    top_positions: how many of the most confident positions it is held to; 0 for all.
    """

    architecture: str
    denoiser_fingerprint: str
    judges = False
    first_look = False
    reads_hidden = True
    reads_logits = False
    top_positions = 0

    def refer_to(self, denoiser_fingerprint: str) -> None:
        """Remember another denoiser, when it was trained along with the policy."""
        self.denoiser_fingerprint = denoiser_fingerprint
        config: Any = self._hub_mixin_config
        config["denoiser_fingerprint"] = denoiser_fingerprint

    def set_relations(self, relations: dict[str, Relation]) -> None:
        """Give restricted heads the relations of a task; nothing to do where there are none."""


class Policy(PolicyNetwork):
    """A policy that is trained by supervision; it starts at the confidence order.

    Args:
        architecture: "mlp": per token, max log-probability -> Linear to D, + hidden, -> MLP D-width-1 with ReLU (arXiv
            2606.00295, 3); "score_transformer": max log-probability -> width, one encoder layer (its appendix B);
            "score_hidden_transformer": the same plus the hidden state; "lookahead": hidden state, expected token, scores and
            status of every position, then `layers` blocks whose heads may be restricted to the task's relations: a second look
            at the whole proposal of the denoiser.
        hidden_size, vocab_size: of the denoiser.
        max_length: the only length when heads are restricted; 0 otherwise.
        width: hidden units of the MLP, or width of the transformer.
        layers: blocks of the lookahead policy.
        heads: one relation name per head.
        first_look: whether the lookahead policy also sees what the first forward predicted, before anything was committed.
        judges: whether the scores of committed positions were trained, so that commitments can be undone.
        denoiser_fingerprint: of the denoiser that the policy was fitted to.
        about: free-form facts about the fit, kept in config.json.
    """

    def __init__(
        self,
        architecture: str,
        hidden_size: int,
        vocab_size: int,
        max_length: int = 0,
        width: int = 128,
        layers: int = 2,
        heads: list[str] | None = None,
        first_look: bool = False,
        judges: bool = False,
        denoiser_fingerprint: str = "",
        about: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if architecture not in ARCHITECTURES:
            raise ValueError(f"architecture {architecture!r} is unknown: use one of {', '.join(ARCHITECTURES)}")
        self.architecture = architecture
        self.judges = judges
        self.first_look = first_look and architecture == "lookahead"
        self.reads_hidden = architecture != "score_transformer"
        self.reads_logits = architecture == "lookahead"
        self.denoiser_fingerprint = denoiser_fingerprint
        heads = heads or [EVERYTHING] * 4
        if architecture != "mlp" and width % len(heads):
            raise ValueError(f"policy width {width} is not a multiple of the {len(heads)} heads")
        self.scale = nn.Parameter(torch.ones(()))
        self.shift = nn.Parameter(torch.zeros(()))
        self.committed_shift = nn.Parameter(torch.full((), 2.0))
        restricted = architecture == "lookahead" and bool(set(heads) - {EVERYTHING})
        self.relations = RelationHeads(heads, max_length, vocab_size) if restricted else None
        if architecture == "mlp":
            self.score_in = nn.Linear(1, hidden_size)
            self.mlp_in = nn.Linear(hidden_size, width)
            self.out = nn.Linear(width, 1)
        else:
            self.score_in = nn.Linear(1 if architecture != "lookahead" else 8, width)
            if architecture != "score_transformer":
                self.hidden_in = nn.Linear(hidden_size, width)
            if architecture == "lookahead":
                self.token_embedding = nn.Embedding(vocab_size, width)
                self.first_in = nn.Linear(vocab_size, width, bias=False) if first_look else None
                self.status_embedding = nn.Embedding(3, width)
                nn.init.normal_(self.token_embedding.weight, std=0.3)
                nn.init.normal_(self.status_embedding.weight, std=0.3)
            depth = layers if architecture == "lookahead" else 1
            self.blocks = nn.ModuleList(Block(width, len(heads)) for _ in range(depth))
            self.norm = nn.LayerNorm(width)
            self.out = nn.Linear(width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def set_relations(self, relations: dict[str, Relation]) -> None:
        """Give restricted heads the relations of a task."""
        if self.relations is not None:
            self.relations.set(relations)

    def forward(self, state: State) -> Tensor:
        """Scores float32 (B, L) of all positions: of the proposed token where predicted, of the present one elsewhere."""
        summary = state.summary
        if self.architecture == "mlp":
            log_c = state.scatter(summary.top_log_probs[:, 0], 0.0)
            features = self.score_in(log_c[..., None]) + state.hidden.float()
            correction = self.out(torch.relu(self.mlp_in(features)))
        else:
            correction = self.out(self.norm(self._transform(state)))
        base = self.scale * state.scatter(summary.log_odds.clamp(-30, 30), 0.0) + self.shift
        base = torch.where(state.predicted, base, self.committed_shift)
        scores: Tensor = base + correction[..., 0]
        return scores

    def _transform(self, state: State) -> Tensor:
        summary = state.summary
        hidden: Tensor
        bias = state.attention_bias
        if self.architecture == "lookahead":
            log_probs = summary.top_log_probs
            scores = torch.stack(
                [log_probs[:, 0].exp(), log_probs[:, 1].exp(), summary.entropy, summary.log_odds.clamp(-15, 15) / 5], dim=-1
            )
            features = torch.zeros((*state.tokens.shape, 8), device=scores.device)
            features[..., :4] = features[..., :4].masked_scatter(state.predicted[..., None], scores)
            if state.committed_log_probs is not None:  # how sure the denoiser was of this commitment, and of all before
                committed = state.generated & ~state.predicted
                for at, log_p in ((4, state.committed_log_probs.float()), (6, state.path_log_probs)):
                    log_p = log_p.clamp(min=-8)
                    features[..., at] = log_p.exp().masked_fill(~committed, 0.0)
                    features[..., at + 1] = torch.log(1e-6 - torch.expm1(log_p)).masked_fill(~committed, 0.0) / 5
            probabilities = state.probabilities()
            words = self.token_embedding(state.tokens)
            words = torch.where(state.predicted[..., None], probabilities @ self.token_embedding.weight, words)
            status = torch.where(state.masked, _MASKED, torch.where(state.generated, _COMMITTED, _GIVEN))
            hidden = self.hidden_in(state.hidden.float()) + words + self.status_embedding(status) + self.score_in(features)
            if self.first_in is not None:
                hidden = hidden + self.first_in(probabilities if state.first_look is None else state.first_look)
            if self.relations is not None:
                bias = self.relations.bias(state.tokens, hidden.dtype)
        else:
            hidden = self.score_in(state.scatter(summary.top_log_probs[:, 0], 0.0)[..., None])
            if self.architecture == "score_hidden_transformer":
                hidden = hidden + self.hidden_in(state.hidden.float())
        for block in self.blocks:
            hidden = block(hidden, bias)
        return hidden


class LearnedOrder:
    """A policy as an `Order`, and, where it or a judge beside it was trained for that, as the `Quality` that undoes
    commitments. Scores are computed once per state, for both.

    Args:
        policy: where.
        judge: whose scores of committed positions say what to undo; the policy itself when not given. An order is best
            trained on states that can still be won, a judge on complete ones as decoding leaves them.
    """

    def __init__(self, policy: PolicyNetwork, judge: PolicyNetwork | None = None) -> None:
        self.policy = policy
        self.judge = judge or policy

    @property
    def judges(self) -> bool:
        """Whether commitments can be undone by it."""
        return self.judge.judges

    @property
    def keep_first_look(self) -> bool:
        """Whether decoding should keep the first forward's prediction for this policy, or its judge."""
        return self.policy.first_look or (self.judges and self.judge.first_look)

    @property
    def reads_hidden(self) -> bool:
        """Whether scores depend on the denoiser's hidden states."""
        return self.policy.reads_hidden

    def to(self, device: torch.device | str) -> "LearnedOrder":
        """Move policy and judge."""
        self.policy.to(device), self.judge.to(device)
        return self

    def _scores(self, policy: PolicyNetwork, state: State) -> Tensor:
        if policy not in state.memo:
            scores: Tensor = policy(state)
            state.memo[policy] = scores
        return state.memo[policy]

    def __call__(self, state: State) -> Tensor:
        return self._scores(self.policy, state).masked_fill(~state.predicted, -torch.inf)

    def quality(self, state: State) -> Tensor:
        """Log-odds that a committed token is right (B, L)."""
        if not self.judges:
            raise ValueError("this policy was fitted without a quality score: it cannot undo. Fit with quality = true")
        return self._scores(self.judge, state)
