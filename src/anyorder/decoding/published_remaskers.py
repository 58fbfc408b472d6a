"""Published rules for what to remask, besides those of `remaskers` and `remdm`. A token that they remask may come back."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from anyorder.decoding.counts import CountRule, top
from anyorder.decoding.part_checks import check_critic
from anyorder.decoding.remaskers import CriticFunction, OwnCritic, Remasker, probability_of_right
from anyorder.denoisers.base import at_positions, evaluating
from anyorder.errors import LARGEST_FINITE, BadInput, check_number
from anyorder.prediction import Prediction
from anyorder.registry import COUNT_RULES, REMASKERS
from anyorder.state import DecodeState


class Forgiving(Remasker):
    """Base class of remaskers that rule no token out."""

    def reject(self, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        """See `Remasker`."""
        return torch.zeros_like(remasked)


def committed_log_probs(state: DecodeState, prediction: Prediction) -> Tensor:
    """The denoiser's log-probabilities of the committed tokens, float32 (B, L), 0 elsewhere.

    Raises:
        BadInput: the prediction was not made by `predict` with a sampler whose remasker verifies.
    """
    if prediction.committed_log_probs is None:
        raise BadInput(
            "this prediction holds no probabilities of committed tokens: make it with predict(denoiser, state, sampler)"
        )
    return prediction.committed_log_probs


@REMASKERS.register("below")
@dataclass(frozen=True)
class Below(Forgiving):
    """Remask every committed token that the denoiser now gives a probability below a level.

    Threshold remasking, the criterion of the second look in WINO (arXiv 2507.18578) without its limits. The denoiser predicts
    visible tokens too, which says little unless it was trained on states with wrong tokens. A deterministic sampler may commit
    and remask a token until its steps are used up.
    """

    level: float = field(
        default=0.1, metadata={"help": "tokens below this probability are remasked", "values": (0.01, 0.1, 0.5)}
    )

    in_blocks = True
    verifies = True

    def __post_init__(self) -> None:
        check_number("level", self.level, 0, 1)

    def remask(self, state: DecodeState, prediction: Prediction) -> Tensor:
        """See `Remasker`."""
        return state.committed & (committed_log_probs(state, prediction).exp() < self.level)


@COUNT_RULES.register("wide_in")
@dataclass(frozen=True)
class WideIn(CountRule):
    """All positions whose drawn token has a probability above the level, or else the best-scored one; of n masked positions at
    most int(fraction * n), this number limited to `least` ... `most`, the best-scored ones (WINO, arXiv 2507.18578, and its
    code)."""

    level: float = field(default=0.6, metadata={"help": "least probability of the drawn token"})
    fraction: float = field(default=0.7, metadata={"help": "of the masked positions that are unmasked at most"})
    least: int = field(default=5, metadata={"help": "lower end of this number"})
    most: int = field(default=20, metadata={"help": "upper end of this number"})

    def __post_init__(self) -> None:
        check_number("level", self.level, 0, 1)
        check_number("fraction", self.fraction, 0, 1)
        check_number("least", self.least, 1)
        check_number("most", self.most, self.least)

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        available = scores > -torch.inf
        sure = available & (prediction.scatter(prediction.drawn_log_probs.exp()) > self.level)
        limit = (available.sum(dim=1).double() * self.fraction).long().clamp(self.least, self.most)
        return top(scores.masked_fill(~sure, -torch.inf), limit) | (
            top(scores, torch.ones_like(limit)) & ~sure.any(dim=1)[:, None]
        )


@REMASKERS.register("wino")
@dataclass(frozen=True)
class Wino(Forgiving):
    """Wide in, narrow out: unmask generously, and remask what the denoiser no longer believes (WINO, arXiv 2507.18578,
    Algorithm 1).

    Its count rule unmasks all positions above the probability `wide` (`WideIn`). If that is more than one, committed tokens of
    the open block with a probability below `narrow` are remasked, the least probable first and fewer than were unmasked in the
    step before, as in the authors' code. The authors verify with mask tokens appended to the sequence, which attend to all but
    the token of their own position. Here the denoiser's prediction at the visible position is read, which any denoiser has and
    which costs no longer sequence, so a denoiser that copies visible tokens remasks nothing.
    """

    wide: float = field(default=0.6, metadata={"help": "positions above this probability are unmasked"})
    narrow: float = field(default=0.9, metadata={"help": "committed tokens below this probability are remasked"})

    in_blocks = True
    verifies = True

    def __post_init__(self) -> None:
        for name in ("wide", "narrow"):
            check_number(name, getattr(self, name), 0, 1)

    @property
    def usual_count(self) -> CountRule:
        """See `Remasker`."""
        return WideIn(self.wide)

    def revise(
        self, state: DecodeState, prediction: Prediction, scores: Tensor, selected: Tensor, remasked: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `Remasker`."""
        probability = committed_log_probs(state, prediction).exp()
        doubtful = state.committed & (probability < self.narrow)
        before = (state.committed & (state.commit_step == state.step[:, None] - 1)).sum(dim=1)
        most = (before - 1).clamp(min=0).masked_fill(selected.sum(dim=1) <= 1, 0)
        return selected, top((-probability).masked_fill(~doubtful, -torch.inf), most)


@dataclass(frozen=True)
class DenoiserCritic:
    """Another denoiser as a critic: its log-odds of each committed token in the draft, where every masked position holds its
    drawn token. The external planner of P2; its forward pass is not counted in `nfe`.

    Args:
        denoiser: of the same vocabulary. It has weights of its own, so a sampler with it cannot be saved.
    """

    denoiser: Any

    def __call__(self, state: DecodeState, prediction: Prediction) -> Tensor:
        draft = state.tokens.masked_scatter(prediction.predicted, prediction.drawn_tokens)
        committed = state.generated & ~state.masked
        with evaluating(self.denoiser):
            logits, hidden = at_positions(self.denoiser(draft, state.attention_mask, committed), committed)
        if logits.shape[-1] != prediction.logits.shape[-1]:
            words = f"{logits.shape[-1]} words, and the denoiser {prediction.logits.shape[-1]}"
            raise BadInput(f"the planner has {words}: use one of the same vocabulary")
        seen = Prediction(logits, hidden, committed, candidates=state.tokens[committed])
        return seen.scatter(seen.drawn_log_odds, 0.0)


@REMASKERS.register("p2")
@dataclass(frozen=True)
class P2(Forgiving):
    """Committed tokens compete with masked positions for the places that the count rule grants (path planning, arXiv
    2502.03540, Algorithm 1).

    If c tokens are committed and the count rule unmasks n more, the c + n positions of the highest planner scores hold a token
    after the step: the drawn one if it was masked. The planner score is log p(drawn token) at a masked position, and
    eta * log p(token) at a committed one, both under the denoiser (self-planning), or the latter under an external planner.
    eta = 0 remasks nothing, and more remasks more. Other orders than `confidence` may have scores of any scale: the masked
    position that is k-th in line (those that the count rule selected, then the others, both by score) competes with the k-th
    highest confidence.

    Args:
        planner: log-odds of committed tokens, such as a critic, or `DenoiserCritic(other)`; None for the denoiser itself.
    """

    eta: float = field(
        default=1.0, metadata={"help": "weight of the committed tokens' log-probability", "values": (0, 0.5, 1, 2)}
    )
    planner: CriticFunction | None = None

    in_blocks = True

    def __post_init__(self) -> None:
        check_number("eta", self.eta, 0, LARGEST_FINITE)
        if self.planner is not None:
            check_critic("planner", self.planner)

    @property
    def verifies(self) -> bool:  # type: ignore[override]
        """See `Remasker`."""
        return self.planner is None

    def revise(
        self, state: DecodeState, prediction: Prediction, scores: Tensor, selected: Tensor, remasked: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `Remasker`."""
        committed = state.committed
        if self.planner is None:
            log_probs = committed_log_probs(state, prediction)
        else:
            log_probs = torch.nn.functional.logsigmoid(self.planner(state, prediction).float())
        kept = (self.eta * log_probs).nan_to_num(nan=0.0)  # 0 * -inf
        plan = torch.where(committed, kept, _ranked_confidence(scores, selected, prediction))
        chosen = top(plan, (committed | selected).sum(dim=1))
        return chosen & ~committed, committed & ~chosen


@REMASKERS.register("p2_critic")
@dataclass(frozen=True)
class CriticP2(P2):
    """P2 whose planner is the critic of the sampler's own learned order, or else of the denoiser's.

    RemeDi (arXiv 2509.23653) keeps the positions of the highest scores of its critic so, with eta = 1 and a critic that
    scores masked positions too; here these are ranked by the order, and compared by the denoiser's confidence.
    """

    planner: CriticFunction | None = OwnCritic()


def _ranked_confidence(scores: Tensor, selected: Tensor, prediction: Prediction) -> Tensor:
    """The log-probabilities of the drawn tokens, float32 (B, L), in each row the k-th highest at the position that is k-th in
    line: the selected ones, then the others, both by score; -inf where nothing can be unmasked. Below 0, so that a committed
    token of score 0 keeps its place."""
    log_probs = prediction.scatter(prediction.drawn_log_probs).clamp(max=-torch.finfo(torch.float32).tiny)
    ranked = log_probs.masked_fill(scores == -torch.inf, -torch.inf).sort(dim=1, descending=True).values
    ranking = scores.argsort(dim=1, descending=True, stable=True)
    ranking = ranking.gather(1, selected.gather(1, ranking).long().argsort(dim=1, descending=True, stable=True))
    return torch.zeros_like(ranked).scatter(1, ranking, ranked)


@REMASKERS.register("prism")
@dataclass(frozen=True)
class Prism(Forgiving):
    """In every step, remask the few committed tokens of the lowest quality according to a learned critic (PRISM, arXiv
    2510.01384, as in its decoding of LLaDA).

    The linear count rule unmasks as many more. The authors' critic is a head on the denoiser, and here it is a policy network;
    both predict whether a committed token is right. Token-Critic (arXiv 2209.04439) ranks all positions of a completed draft by
    such a critic.
    """

    count: int = field(default=1, metadata={"help": "tokens that are remasked per step", "values": (1, 2, 4)})
    critic: CriticFunction = OwnCritic()

    in_blocks = True

    def __post_init__(self) -> None:
        check_number("count", self.count, 0)
        check_critic("critic", self.critic)

    def remask(self, state: DecodeState, prediction: Prediction) -> Tensor:
        """See `Remasker`."""
        committed = state.committed
        if not committed.any():
            return torch.zeros_like(committed)
        wrong = -probability_of_right(self.critic, state, prediction)
        return top(wrong.masked_fill(~committed, -torch.inf), torch.full_like(state.step, self.count))
