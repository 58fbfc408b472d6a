"""Training a denoiser and its order policy together: Algorithm 1 of arXiv 2606.00295, its controls, and PAPL.

One optimizer step lowers L_PA-MDM (eq. 4) plus the policy's objective, L_ORDER (eq. 3) in the paper. No gradient reaches the
denoiser through the policy, and none reaches the policy through the token losses: the policy sees detached logits and hidden
states, and the weights of the tokens are detached.
"""

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from anyorder.denoisers.base import at_positions, fingerprint
from anyorder.denoisers.classes import save_denoiser
from anyorder.losses import mdm_loss, policy_aware_weight
from anyorder.prediction import Prediction
from anyorder.processes import Shard
from anyorder.registry import ORDERS
from anyorder.state import DecodeState
from anyorder.tasks.base import Instances, Task
from anyorder.training.data import generate_parts
from anyorder.training.diagnostics import attention_to_mistakes, decoded_numbers, level_numbers, policy_numbers
from anyorder.training.order import OrderJob, scores_of
from anyorder.training.recipes import OrderRecipe
from anyorder.training.settings import PAPL_WEIGHTS, POLICY_WEIGHTS, UNIFORM_WEIGHTS

COLLAPSED = 0.1
"""Share of the positions that a uniform policy would reach, below which a policy is called collapsed."""

STARVING = 0.1
"""Share of their equal weight that wrong tokens get in the denoiser's loss, below which the denoiser is called starving."""


class CollapseWarning(UserWarning):
    """The policy gives nearly all its probability to the same few positions, or only to tokens that are already known."""


See = Callable[[Tensor, Tensor], tuple[DecodeState, Prediction]]
"""State and prediction from logits (K, V) and hidden states (B, L, D)."""

Score = Callable[[nn.Module, DecodeState, Prediction], Tensor]
"""The scores (B, L) of a policy."""


class Pair(nn.Module):
    """A denoiser and its policy as one module, so that all processes keep the same weights of both."""

    def __init__(self, denoiser: nn.Module, policy: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.policy = policy

    def forward(
        self, state: DecodeState, positions: Tensor, see: See, score: Score
    ) -> tuple[Tensor, DecodeState, Prediction, Tensor]:
        """Logits (K, V) of the positions bool (B, L); state and prediction for the policy, detached; its scores (B, L)."""
        logits, hidden = at_positions(self.denoiser(state.tokens, state.attention_mask, positions), positions)
        state, prediction = see(logits.detach(), hidden.detach())
        return logits, state, prediction, score(self.policy, state, prediction)


class JointJob(OrderJob):
    """A `Job`: the denoiser and the policy of a recipe, together."""

    def __init__(self, recipe: OrderRecipe, denoiser: nn.Module, task: Task, instances: Instances | None = None) -> None:
        super().__init__(recipe, denoiser, task, instances)
        self.joint = recipe.joint
        denoiser.requires_grad_(True)
        self.policy.requires_grad_(not recipe.joint.freeze_policy)
        self.pair = Pair(denoiser, self.policy)
        self.model = self.pair
        self.rate_scales = {"denoiser.": recipe.joint.lr_scale}
        self.unsharded = [self.policy]
        self.normalize = recipe.masking.normalize
        self.problems: Instances | None = None
        if recipe.joint.decode_every:
            seed = recipe.data.seed + 1_000_000  # other problems than those of training
            self.problems = generate_parts(task, recipe.joint.decode_problems, seed, recipe.data.options)
        self.warned: set[str] = set()

    def to(self, device: torch.device) -> None:
        self.device = device

    def loss(self, model: nn.Module, step: int, shard: Shard) -> tuple[Tensor, dict[str, float]]:
        """1. states; 2. predictions of the denoiser and scores of the policy; 3. the denoiser's loss, weighted; 4. the policy's
        objective."""
        batch = self._draw(step, shard)
        x0, masked = batch.state.x0, batch.state.masked
        assert x0 is not None
        logits, state, prediction, scores = model(batch.state, masked, batch.see, scores_of)
        token_losses = torch.nn.functional.cross_entropy(logits.float(), x0[masked], reduction="none")
        losses = torch.zeros_like(masked, dtype=token_losses.dtype).masked_scatter(masked, token_losses)
        masking, token_weight = self.recipe.masking, self._token_weight(step, state, prediction, scores)
        denoiser_loss = mdm_loss(
            losses, masked, batch.time_weight, token_weight,
            focal_gamma=masking.focal_gamma, normalize=self.normalize,
        )  # fmt: skip
        if self.normalize == "tokens":  # processes average their losses: weigh by this one's share of the tokens
            denoiser_loss = denoiser_loss * masked.sum() * shard.count / shard.total(masked.sum()).clamp(min=1)
        state = self._with_solutions(state, prediction)
        order_loss, logged = self._objective(scores, state, prediction, batch)
        logged |= {"denoiser_loss": float(denoiser_loss.detach()), "order_loss": float(order_loss.detach())}
        last = step + 1 == self.recipe.run.steps
        if (step + 1) % self.recipe.run.log_steps == 0 or last:
            right = prediction.scatter(prediction.best_tokens, -1) == x0
            logged |= level_numbers(losses.detach(), right, masked, state.generated)
            logged |= policy_numbers(scores.detach(), masked)
            logged |= attention_to_mistakes(token_weight, right, masked)
            self._warn_of_collapse(logged, step + 1)
        every = self.joint.decode_every
        if self.problems is not None and ((step + 1) % every == 0 or step == 0 or last):
            if isinstance(model, FSDPModule):  # weights outside its blocks are there only while the pair is called
                model.unshard()
            logged |= decoded_numbers(self.pair.denoiser, self.policy, self.task, self.problems, self.joint.decode_steps)
            if isinstance(model, FSDPModule):
                model.reshard()
        self._advance(batch, state, prediction, scores)
        return denoiser_loss + order_loss, logged

    def _token_weight(self, step: int, state: DecodeState, prediction: Prediction, scores: Tensor) -> Tensor | None:
        """The weights of the tokens in L_MDM (B, L) at an update, counted from 0; None for all alike."""
        joint = self.joint
        if joint.weights == UNIFORM_WEIGHTS:
            return None
        if joint.weights != POLICY_WEIGHTS:
            name = "oracle" if joint.weights == PAPL_WEIGHTS else joint.weights
            scores = ORDERS.make(name)(state, prediction) / joint.temperature
        grown = (step + 1) / self.recipe.run.steps if joint.alpha_schedule == "linear" else 1.0
        return policy_aware_weight(scores, state.masked, alpha=grown * joint.alpha, plus_one=joint.plus_one)

    def _warn_of_collapse(self, logged: dict[str, float], step: int) -> None:
        without_one = "; with joint.plus_one = false the denoiser learns only what the policy chooses" * (
            not self.joint.plus_one
        )
        if logged["policy_reach"] < COLLAPSED:
            self._warn(
                f"step {step}: the policy has collapsed: over a batch it reaches only {100 * logged['policy_reach']:.0f} % of "
                f"the positions that a uniform policy would{without_one}"
            )
        if logged.get("weight_on_wrong", 1.0) < STARVING:
            self._warn(
                f"step {step}: the denoiser is starving: the tokens that it gets wrong have only "
                f"{100 * logged['weight_on_wrong']:.0f} % of the weight that equal weights would give them{without_one}"
            )

    def _warn(self, message: str) -> None:
        """Warn once per run of each kind of problem."""
        kind = message.split(":")[1]
        if kind not in self.warned:
            self.warned.add(kind)
            warnings.warn(message, CollapseWarning, stacklevel=3)

    def save(self, folder: Path) -> None:
        """The denoiser, and in `order/` the policy with its fingerprint, as the zoo keeps them."""
        save_denoiser(self.pair.denoiser, folder)
        self.policy.denoiser_fingerprint = fingerprint(self.pair.denoiser)
        self.policy.save_pretrained(folder / "order")
