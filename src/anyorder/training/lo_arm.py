"""Order policies trained by the variational bound of learning-order autoregressive models (LO-ARM, arXiv 2503.05979).

The order z is a latent variable: the policy pi is its prior, which sees what is committed, and a posterior q sees the complete
x0. For an order drawn from q, log p(x0) is at least the expectation of

    sum over i of log p(x0 at z_i | what is before) + log pi(z_i | what is before) - log q(z_i | z_1 ... z_(i-1), x0).

One step i is drawn per problem, and two orders from q, with one forward pass of the denoiser each. The expectation over z_i is
computed exactly, because one pass gives log p at all masked positions. The gradient through the positions before i is
REINFORCE, with the other order as the baseline (leave one out).

q is a Plackett-Luce distribution whose logits are computed once from x0, so an order is drawn at once by Gumbel noise. Its
network is ours, a block over the denoiser's hidden states of x0. The authors train the denoiser too and share its layers with
the policy; here the denoiser is frozen unless `train_denoiser`, and the policy is any architecture.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anyorder.decoding.tokens import Argmax, propose
from anyorder.denoisers.base import at_positions, attention_of, fingerprint, in_float32, move
from anyorder.denoisers.blocks import block_length_of
from anyorder.denoisers.classes import save_denoiser
from anyorder.denoisers.transformer import Block
from anyorder.errors import BadInput
from anyorder.losses import order_bound
from anyorder.noise import plackett_luce_log_probs
from anyorder.orders.policies import PolicyNetwork
from anyorder.prediction import Prediction
from anyorder.processes import Shard
from anyorder.state import DecodeState
from anyorder.tasks.base import Instances, Task
from anyorder.training.data import draw_clean, step_generator
from anyorder.training.objectives import LearnedOrderBound
from anyorder.training.order import OrderJob, scores_of
from anyorder.training.recipes import OrderRecipe

NOWHERE = -1e9
"""Logit of positions that are given: -inf would have no gradient."""


class Posterior(nn.Module):
    """Logits of the order, float (B, L), from the denoiser's hidden states (B, L, D) of complete sequences."""

    def __init__(self, hidden_size: int, settings: LearnedOrderBound) -> None:
        super().__init__()
        self.hidden_in = nn.Linear(hidden_size, settings.width)
        self.blocks = nn.ModuleList([Block(settings.width, settings.heads)])
        self.out = nn.Linear(settings.width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, hidden: Tensor, bias: Tensor | None) -> Tensor:
        """See the class; `bias` as in `Block`."""
        logits: Tensor = self.out(self.blocks[0](self.hidden_in(hidden.float()), bias))[..., 0]
        return logits


class Networks(nn.Module):
    """What is trained: policy and posterior, and the denoiser if the recipe says so."""

    def __init__(self, policy: PolicyNetwork, posterior: Posterior, denoiser: nn.Module | None) -> None:
        super().__init__()
        self.policy, self.posterior = policy, posterior
        if denoiser is not None:
            self.denoiser = denoiser


class LoArmJob(OrderJob):
    """A `Job`: the policy of a recipe with the objective `lo_arm`, whatever its `objective.states`: they follow the posterior.

    Raises:
        BadInput: as `OrderJob`, the recipe asks for a critic, which this objective does not train, or a block-causal denoiser.
    """

    def __init__(self, recipe: OrderRecipe, denoiser: nn.Module, task: Task, instances: Instances | None = None) -> None:
        if recipe.objective.critic:
            raise BadInput("the objective lo_arm sees true tokens only, so it trains no critic: set objective.critic = false")
        if block_length_of(denoiser) is not None:
            raise BadInput(
                "the objective lo_arm draws orders of whole sequences, and a block-causal denoiser is decoded block by block: "
                "use another objective, such as correctness, or a denoiser that sees both sides"
            )
        super().__init__(recipe, denoiser, task, instances)
        settings: Any = self.objective
        size: Any = denoiser.hidden_size
        self.joint = recipe.train_denoiser
        self.denoiser.requires_grad_(self.joint)
        with in_float32():
            posterior = Posterior(size, settings)
        self.model = Networks(self.policy, posterior, self.denoiser if self.joint else None)
        self.posterior = posterior
        self.rate_scales = {"denoiser.": recipe.joint.lr_scale} if self.joint else {}

    def to(self, device: torch.device) -> None:
        self.device = device
        if not self.joint:
            move(self.denoiser, device)

    def loss(self, model: nn.Module, step: int, shard: Shard) -> tuple[Tensor, dict[str, float]]:
        """1. logits of q from x0; 2. two orders, and a step of each; 3. the bounds of both states; 4. leave one out."""
        rng = step_generator(self.recipe.seed, step)
        size, rows = self.recipe.run.batch_size, shard.slice(self.recipe.run.batch_size)
        x0, tokens, generated = (v[rows].to(self.device) for v in draw_clean(self.task, self.instances, self.recipe, step, rng))
        share = torch.from_numpy(rng.random(size))[rows].to(self.device)
        chance = torch.from_numpy(rng.random((2, size, x0.shape[1])))[:, rows].to(self.device)
        count = generated.sum(dim=1)
        known = (share * count).long()  # positions before the step, 0 to count - 1
        logits = self._posterior(x0).masked_fill(~generated, NOWHERE)
        bounds, log_qs = [], []
        for uniform in chance:
            ranking = (logits.detach() - (-uniform.log()).log()).argsort(dim=1, descending=True, stable=True)
            before = torch.zeros_like(generated).scatter(1, ranking, _index(ranking) < known[:, None])
            log_qs.append(plackett_luce_log_probs(logits, ranking, before).sum(dim=1))
            bounds.append(self._bound(x0, torch.where(before, x0, tokens), generated, logits))
        loss = -leave_one_out(bounds[0], bounds[1], log_qs[0], log_qs[1]).mean()
        return loss, {"bound_per_token": float(torch.stack(bounds).mean().detach()), "known": float(known.float().mean())}

    def _posterior(self, x0: Tensor) -> Tensor:
        mask, nowhere = attention_of(self.denoiser, x0), torch.zeros_like(x0, dtype=torch.bool)
        with torch.no_grad(), self.autocast():
            hidden = at_positions(self.denoiser(x0, mask, nowhere), nowhere)[1].float()
        state = DecodeState.start(x0, nowhere, self.task.mask_token_id, *_zeros(x0), mask)
        with self.autocast():
            found: Tensor = self.posterior(hidden, state.attention_bias)
        return found.float()

    def _bound(self, x0: Tensor, tokens: Tensor, generated: Tensor, logits: Tensor) -> Tensor:
        """The bound (B,) of the next position of partly known sequences (B, L)."""
        mask = attention_of(self.denoiser, tokens)
        state = DecodeState.start(tokens, generated, self.task.mask_token_id, *_zeros(x0), mask, x0)
        with torch.set_grad_enabled(self.joint and torch.is_grad_enabled()), self.autocast():
            out, hidden = at_positions(self.denoiser(tokens, mask, state.masked), state.masked)
        out, hidden = out.float(), hidden.float()
        seen = Prediction(out.detach(), hidden.detach(), state.masked)
        seen = seen.with_candidates(*propose(Argmax(), state, seen))
        scores = scores_of(self.policy, state, seen)
        log_p = torch.log_softmax(out.float(), dim=-1).gather(1, x0[state.masked][:, None])[:, 0].clamp(min=-30)
        return order_bound(seen.scatter(log_p, 0.0), scores, logits, state.masked)

    def save(self, folder: Path) -> None:
        """The policy, as `OrderJob`; if the denoiser was trained, both, as `JointJob`. The posterior has no use in decoding."""
        if not self.joint:
            return super().save(folder)
        save_denoiser(self.denoiser, folder)
        self.policy.denoiser_fingerprint = fingerprint(self.denoiser)
        return self.policy.save_pretrained(folder / "order")


def leave_one_out(first: Tensor, second: Tensor, log_q_first: Tensor, log_q_second: Tensor) -> Tensor:
    """What is to be maximized, float (B,): its value is the mean of two bounds, and its gradient includes that of the
    probabilities with which their states were drawn, each with the other bound as the baseline."""
    difference = (first - second).detach()
    reinforce = difference * (log_q_first - log_q_second)
    return (first + second + reinforce - reinforce.detach()) / 2


def _index(ranking: Tensor) -> Tensor:
    return torch.arange(ranking.shape[1], device=ranking.device).expand_as(ranking)


def _zeros(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Seeds and budgets of a state that is not decoded."""
    zero = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
    return zero, zero + 1
