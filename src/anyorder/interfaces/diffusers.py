"""diffusers' scheduler for masked text: `BlockRefinementScheduler` with any order.

The original answers how many tokens are committed in a step (its schedule and its threshold), which tokens they are, and what
is edited afterwards. Only its answer to *where* is replaced: `anyorder.step` is run with the original's count and tokens.

Written for diffusers 0.42, whose timesteps are the numbers of the steps. Later versions are to count times down from 1 to 0
(pull request 14741), and to keep temperature, thresholds and mask token in the scheduler's configuration. A time in (0, 1] is
understood here already; a scheduler of the other form is refused, because `OrderScheduler` is a subclass of it.
"""

from dataclasses import dataclass
from inspect import signature
from numbers import Integral
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from anyorder.decoding.counts import CountRule, top
from anyorder.decoding.order_text import as_order
from anyorder.decoding.sampler import Sampler
from anyorder.decoding.step import step
from anyorder.decoding.tokens import TokenRule
from anyorder.denoisers.base import Denoiser
from anyorder.errors import BadInput
from anyorder.orders.base import Order, open_positions
from anyorder.orders.learned import LearnedOrder
from anyorder.parts import memories_of
from anyorder.prediction import Prediction
from anyorder.state import DecodeState

try:
    from diffusers.schedulers.scheduling_block_refinement import BlockRefinementScheduler, BlockRefinementSchedulerOutput
except ImportError as error:
    raise BadInput("the scheduler needs: pip install 'anyorder[diffusers]'") from error

if "mask_token_id" not in signature(BlockRefinementScheduler.step).parameters:
    raise BadInput(
        "OrderScheduler is for diffusers 0.42; this version's scheduler has another step: pip install 'anyorder[diffusers]'"
    )


class Seen(NamedTuple):
    """What a denoiser received and computed in its last forward pass.

    tokens int64 (B, S); hidden float (B, S, D), with D = 0 if it was not given; attention_mask (B, S), 0 at padding, or None.
    """

    tokens: Tensor
    hidden: Tensor
    attention_mask: Tensor | None


class OrderScheduler(BlockRefinementScheduler):
    """`BlockRefinementScheduler` that commits where an order says. It is made, configured, saved and used as the original, in
    `LLaDA2Pipeline` too: `pipe.scheduler = OrderScheduler.from_config(pipe.scheduler.config, order="margin")`.

    Args:
        block_length, num_inference_steps, threshold, editing_threshold, minimal_topk: as in the original, where the last one
            bounds the pipeline's steps and nothing else.
        order: an `Order` or a heuristic's name; None for the original one, the probability of the sampled token. It is not part
            of the configuration that is saved.

    A learned order reads the denoiser's hidden states, which diffusers' pipelines do not pass on. Give them to `step`, or let
    `watch(denoiser)` be the pipeline's model, so that it also sees the whole sequence and not only the block. A scheduler
    cannot tell the policy which tokens were generated, when, and with what probability (the lookahead policy reads this).
    """

    def __init__(
        self,
        block_length: int = 32,
        num_inference_steps: int = 32,
        threshold: float = 0.95,
        editing_threshold: float | None = None,
        minimal_topk: int = 1,
        order: Order | str | None = None,
    ) -> None:
        super().__init__(block_length, num_inference_steps, threshold, editing_threshold, minimal_topk)
        self.unmasking_order = _find(order)  # `order` is diffusers' name for that of a solver
        self._watched: WatchedModel | None = None

    def watch(self, denoiser: Denoiser) -> "WatchedModel":
        """The denoiser in the form of `LLaDA2Pipeline`'s model. This scheduler reads its input and hidden states."""
        self._watched = WatchedModel(denoiser)
        return self._watched

    @torch.no_grad()
    def step(
        self,
        model_output: Tensor,
        timestep: int | float | Tensor,
        sample: Tensor,
        *,
        mask_token_id: int | None = None,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        sampling_method: str = "auto",
        threshold: float | None = None,
        editing_threshold: float | None = None,
        minimal_topk: int | None = None,
        prompt_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
        order: Order | str | None = None,
        input_ids: Tensor | None = None,
        hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> BlockRefinementSchedulerOutput | tuple[Tensor, ...]:
        """One step of the original, with as many commitments per row, made where the order says. Tokens above the threshold go
        first, as in the original; the order ranks all others.

        Args:
            model_output: float (B, L, V), logits of the block.
            timestep: number of the step within the block, from 0, or a time in (0, 1], from 1 down at even distances.
            sample: int64 (B, L), the block.
            mask_token_id: the mask; None is the original's mode without masks, in which nothing can be ordered.
            temperature, top_p, top_k, sampling_method, threshold: as in the original.
            editing_threshold, minimal_topk, prompt_mask, return_dict: as in the original.
            generator: as in the original; it also seeds random orders.
            order: order for this step, instead of the scheduler's.
            input_ids: int64 (B, S), the denoiser's input, with the block at its end; by default only the block.
            hidden_states: float (B, S, D), the denoiser's last hidden states for this input.
            attention_mask: bool or int (B, S), 0 at padding.

        Returns:
            The original's output: prev_sample, transfer_index, editing_transfer_index, sampled_tokens, sampled_probs, all
            (B, L), and pred_logits (B, L, V).

        Raises:
            BadInput: an order without masks, a learned order without hidden states, shapes that do not fit, NaN scores.
        """
        where = self.unmasking_order if order is None else _find(order)
        at = self._step_index(timestep)
        options: dict[str, Any] = {
            "mask_token_id": mask_token_id, "temperature": temperature, "top_p": top_p, "top_k": top_k,
            "sampling_method": sampling_method, "threshold": threshold, "editing_threshold": editing_threshold,
            "minimal_topk": minimal_topk, "prompt_mask": prompt_mask, "generator": generator,
        }  # fmt: skip
        if where is None:
            return super().step(model_output, at, sample, return_dict=return_dict, **options)
        if mask_token_id is None:
            raise BadInput("an order ranks masked positions: give mask_token_id, or no order")
        seen = self._seen(sample, input_ids, hidden_states, attention_mask)
        if isinstance(where, LearnedOrder) and where.policy.reads_hidden and seen.hidden.shape[2] == 0:
            raise BadInput(
                "this order reads the denoiser's hidden states: give hidden_states to step(), or build the pipeline with "
                "model=scheduler.watch(denoiser)"
            )
        out = super().step(model_output, at, sample, **options)
        masked = sample == mask_token_id
        count = out.transfer_index.sum(dim=1)
        editable = torch.ones_like(masked) if prompt_mask is None else ~prompt_mask.expand_as(masked)
        state, prediction = self._state(model_output, at, masked, editable, count, seen, mask_token_id, generator)
        sure = masked & (out.sampled_probs > (self.config.threshold if threshold is None else threshold))
        tokens = out.sampled_tokens[masked]
        tokens = torch.where(tokens == mask_token_id, int(mask_token_id == 0), tokens)  # a drawn mask is no token to be ranked
        drawn = Drawn(tokens, out.sampled_probs[masked])
        committed = step(state, prediction, Sampler(where, AsMany(count, sure), drawn))[1].selected
        out.transfer_index = committed[:, -sample.shape[1] :]
        out.prev_sample = torch.where(out.transfer_index | out.editing_transfer_index, out.sampled_tokens, sample)
        return out if return_dict else out.to_tuple()

    def _step_index(self, timestep: int | float | Tensor) -> int:
        """The number of the step, from 0.

        Raises:
            BadInput: a time outside (0, 1].
        """
        time = timestep.item() if isinstance(timestep, Tensor) else timestep
        if isinstance(time, Integral):
            return int(time)
        if not 0 < time <= 1:
            raise BadInput(f"timestep is {time}; it must be the number of the step, from 0, or a time in (0, 1]")
        steps: int = self.num_inference_steps
        return round((1 - float(time)) * steps)

    def _seen(self, sample: Tensor, tokens: Tensor | None, hidden: Tensor | None, attention_mask: Tensor | None) -> Seen:
        """What the denoiser saw: as given, else as watched, else the block alone."""
        watched = None if self._watched is None else self._watched.seen
        if tokens is None and hidden is None and watched is not None:
            tokens, hidden, attention_mask = watched
        tokens = sample if tokens is None else tokens
        hidden = sample.new_zeros((*tokens.shape, 0), dtype=torch.float32) if hidden is None else hidden
        if not torch.equal(tokens[:, -sample.shape[1] :], sample):
            raise BadInput(
                "the denoiser's input (input_ids, or the watched one) does not end in this block: give the input of this step"
            )
        if hidden.shape[:2] != tokens.shape:
            raise BadInput(
                f"hidden_states have shape {tuple(hidden.shape)}; for tokens {tuple(tokens.shape)} they must be "
                f"{(*tokens.shape, 'D')}. If they cover more than the block, give input_ids too"
            )
        return Seen(tokens, hidden, attention_mask)

    def _state(
        self,
        logits: Tensor,
        step: int,
        masked: Tensor,
        editable: Tensor,
        count: Tensor,
        seen: Seen,
        mask_token_id: int,
        generator: torch.Generator | None,
    ) -> tuple[DecodeState, Prediction]:
        """The block as an order sees it: at the end of all that the denoiser saw, only its masks to be ranked."""
        before = seen.tokens.shape[1] - masked.shape[1]
        everywhere = nn.functional.pad(masked, (before, 0))
        # in the last step of its budget `step` commits all of a row, which the scheduler need not do
        budget = torch.where(count < masked.sum(dim=1), max(self.num_inference_steps, step + 2), self.num_inference_steps)
        state = DecodeState.start(
            seen.tokens,
            nn.functional.pad(editable | masked, (before, 0)),
            mask_token_id,
            _seeds(len(masked), generator, masked.device),
            budget,
            None if seen.attention_mask is None else seen.attention_mask.bool(),
        ).replace(masked=everywhere, step=torch.full_like(budget, step))
        return state, Prediction(logits[masked], seen.hidden, everywhere)


def _seeds(count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Seeds (count,) on a device, drawn on that of the generator: one of the CPU draws the same for every device."""
    return torch.randint(2**62, (count,), generator=generator, device=generator.device if generator else device).to(device)


@dataclass(frozen=True, eq=False)
class AsMany(CountRule):
    """As many as the scheduler commits in each row, the positions above its threshold first, and after those that the order
    takes, if it leaves positions out, the ones of which the denoiser is surest.

    Args:
        count: int64 (B,).
        sure: bool (B, L), of the block, at the end of what the order sees.
    """

    count: Tensor
    sure: Tensor

    def __call__(self, scores: Tensor, state: DecodeState, prediction: Prediction, remasked: Tensor) -> Tensor:
        sure = nn.functional.pad(self.sure, (scores.shape[1] - self.sure.shape[1], 0))
        selected = top(scores.masked_fill(sure, torch.inf), self.count)
        left = open_positions(state, prediction) & ~selected
        surest = prediction.scatter(prediction.drawn_log_probs).masked_fill(~left, -torch.inf)
        return selected | top(surest, self.count - selected.sum(dim=1))


@dataclass(frozen=True, eq=False)
class Drawn(TokenRule):
    """The tokens that the scheduler drew.

    Args:
        tokens, probabilities: (K,), of the masked positions.
    """

    tokens: Tensor
    probabilities: Tensor

    def __call__(self, state: DecodeState, prediction: Prediction) -> tuple[Tensor, Tensor]:
        return self.tokens, self.probabilities.log()


class WatchedModel(nn.Module):
    """A denoiser in the form of `LLaDA2Pipeline`'s model; made by `OrderScheduler.watch`. `seen` is its last forward pass."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.seen: Seen | None = None

    @property
    def device(self) -> torch.device:
        """Of the denoiser's weights."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None) -> Any:
        """Logits (B, S, V) as `.logits`. Positions are the denoiser's own: they count real tokens."""
        logits, hidden = self.denoiser(input_ids, attention_mask)
        self.seen = Seen(input_ids.clone(), hidden, attention_mask)  # the pipeline writes into its tokens
        return SimpleNamespace(logits=logits)


def _find(order: Order | str | None) -> Order | None:
    """An order by name, or itself, if a scheduler can use it."""
    if order is None:
        return None
    found = as_order(order)
    if memories_of(found):
        raise BadInput("this order compares with earlier predictions, which a scheduler does not keep: use anyorder.decode")
    return found
