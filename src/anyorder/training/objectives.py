"""Objectives of supervised policies: functions that turn scores and the truth into a loss.

An objective is a function `(scores, truth) -> loss`, or a frozen dataclass with such a `__call__`, whose fields are settings of
the recipe's section `[objective]`. A new one takes a few lines, in any module::

    @OBJECTIVES.register("my_objective")
    def my_objective(scores: Tensor, truth: Truth) -> Tensor:
        return correctness_loss(scores, truth.correct, truth.masked)

`objective.name = "my_objective"`, or `"my_package.module:my_objective"` without registration, trains a policy for it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from anyorder import losses
from anyorder.errors import LARGEST_FINITE, BadInput, check_number
from anyorder.orders.heuristics import gt_margin
from anyorder.prediction import Prediction
from anyorder.registry import OBJECTIVES
from anyorder.state import DecodeState


@dataclass(frozen=True, eq=False)
class Truth:
    """The truth with which the scores of a batch are compared.

    Args:
        state: the states, with the solutions `state.x0`.
        prediction: what the denoiser predicts at the masked positions.
        token_losses: l_i = -log p_i(x0_i) at masked positions (30 at most), 0 elsewhere, float (B, L).
        correct: whether the drawn token (masked positions) or the present one (elsewhere) is the solution's, bool (B, L).
        row_weight: float (B,), 1, or `objective.incorrect_weight` if a visible token is already wrong.
        time_weight: w_t of the schedule, float (B,); None if the recipe does not use it.
    """

    state: DecodeState
    prediction: Prediction
    token_losses: Tensor
    correct: Tensor
    row_weight: Tensor
    time_weight: Tensor | None = None

    @property
    def masked(self) -> Tensor:
        """The masked positions, bool (B, L)."""
        return self.state.masked


Objective = Callable[[Tensor, Truth], Tensor]
"""The loss, a differentiable scalar, of scores float (B, L). Scores of unmasked positions belong to the critic."""


@OBJECTIVES.register("order")
def order(scores: Tensor, truth: Truth) -> Tensor:
    """L_ORDER: the expected token loss under the policy's softmax (arXiv 2606.00295, eq. 3)."""
    weight = truth.row_weight if truth.time_weight is None else truth.time_weight * truth.row_weight
    return losses.order_loss(scores, truth.token_losses, truth.masked, weight)


@OBJECTIVES.register("correctness")
def correctness(scores: Tensor, truth: Truth) -> Tensor:
    """Cross-entropy of the scores as log-odds that the drawn token is right."""
    return losses.correctness_loss(scores, truth.correct, truth.masked, truth.row_weight)


@OBJECTIVES.register("loss")
def loss(scores: Tensor, truth: Truth) -> Tensor:
    """Regression of the denoiser's token losses."""
    return losses.loss_regression(scores, truth.token_losses, truth.masked)


@OBJECTIVES.register("rank")
@dataclass(frozen=True)
class Rank:
    """Cross-entropy from the softmax of the oracle's scores log p(x0) to that of the policy's."""

    temperature: float = field(default=1.0, metadata={"help": "of the oracle's softmax"})

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, above=0, most=LARGEST_FINITE)

    def __call__(self, scores: Tensor, truth: Truth) -> Tensor:
        return losses.rank_loss(scores, -truth.token_losses, truth.masked, self.temperature, truth.row_weight)


@OBJECTIVES.register("gt_margin")
@dataclass(frozen=True)
class GtMargin:
    """1 - NDCG of the ranking by the scores, relaxed (PiRank), where early positions should have a large margin of the true
    token: the objective of the Gt-Margin planner (arXiv 2602.09501).

    The margin p(x0) - max p(other) is in [-1, 1], and a gain must not be negative, so the gain is (1 + margin) / 2. Which gain,
    temperature and cut-off of the ranking the authors use could not be found out.
    """

    temperature: float = field(default=1.0, metadata={"help": "of the relaxed permutation matrix"})

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, above=0, most=LARGEST_FINITE)

    def __call__(self, scores: Tensor, truth: Truth) -> Tensor:
        gains = (1 + gt_margin(truth.state, truth.prediction)) / 2
        return losses.pirank_loss(scores, gains, truth.masked, self.temperature, truth.row_weight)


@OBJECTIVES.register("lo_arm")
@dataclass(frozen=True)
class LearnedOrderBound:
    """The variational bound of LO-ARM (arXiv 2503.05979) on log p(x0), with a posterior of orders that reads x0. It needs
    states of its own, which `anyorder.training.lo_arm` draws."""

    width: int = field(default=64, metadata={"help": "width of the posterior's network"})
    heads: int = field(default=4, metadata={"help": "attention heads of the posterior's network"})

    def __post_init__(self) -> None:
        if self.width < 1 or self.heads < 1 or self.width % self.heads:
            raise BadInput(f"objective.width is {self.width}; it must be a multiple of the {self.heads} heads")

    def __call__(self, scores: Tensor, truth: Truth) -> Tensor:
        raise BadInput("lo_arm is trained by its own job: use a recipe, or anyorder.fit_order")
