"""For engines that run the model themselves: they bring the tokens and logits of blocks, and keep the state of each block."""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from anyorder.decoding.combined_counts import Deadline
from anyorder.decoding.counts import Fixed, Linear, Threshold
from anyorder.decoding.remaskers import Absorbing
from anyorder.decoding.sampler import Sampler, as_sampler
from anyorder.decoding.step import step
from anyorder.denoisers.base import forbid_mask
from anyorder.errors import BadInput, shorten
from anyorder.interfaces.arguments import check_threshold, token_rule, whole
from anyorder.orders.base import Unbound
from anyorder.orders.learned import networks_of
from anyorder.parts import walk
from anyorder.prediction import Prediction
from anyorder.state import DecodeState, init

OPTIONS = ("sampler", "steps", "threshold", "temperature", "top_p", "top_k", "seed")
"""Options of engines: those of `anyorder.generate`."""


_TOKEN = ("temperature", "top_p", "top_k")


class BlockSampler:
    """A sampler for blocks of masked tokens that an engine denoises.

    Args:
        mask_token_id: the mask.
        options: of `OPTIONS`: `sampler`, a spelling such as `margin@threshold:0.9`; `steps`, forward passes per block; and
            `threshold`, `temperature`, `top_p`, `top_k` and `seed` as in `anyorder.generate`.

    Raises:
        BadInput: an unknown option, or a sampler that needs more than tokens and logits: a policy, which reads hidden states, a
            remasker, blocks or a cache (which are the engine's).
    """

    def __init__(self, mask_token_id: int, options: Mapping[str, Any]) -> None:
        unknown = [name for name in options if name not in OPTIONS]
        if unknown:
            raise BadInput(f"option {unknown[0]!r} is unknown: use {', '.join(OPTIONS)}")
        given: dict[str, Any] = {name: options.get(name) for name in OPTIONS}
        steps, threshold = given["steps"], given["threshold"]
        self.steps = None if steps is None else whole("steps", steps, 1)
        check_threshold(threshold)
        fields: dict[str, Any] = {"token": token_rule(given["temperature"] or 0.0, given["top_p"], given["top_k"])}
        if threshold is not None:
            fields["count"] = Deadline(Threshold(threshold), Fixed(1) if steps is None else Linear())
        self.sampler = as_sampler(given["sampler"] or "confidence", **fields)
        ruled = threshold is not None and self.sampler.count != fields["count"]
        if ruled or (any(given[name] is not None for name in _TOKEN) and self.sampler.token != fields["token"]):
            name = "threshold" if ruled else next(name for name in _TOKEN if given[name] is not None)
            raise BadInput(f"the sampler {shorten(str(given['sampler']))!r} brings its own rule: leave {name} out")
        self.steps = self.sampler.steps if self.steps is None else self.steps
        self.mask_token_id, self._seed = mask_token_id, whole("seed", given["seed"] or 0, 0)
        self._check()

    def _check(self) -> None:
        sampler: Sampler = self.sampler
        parts = [part for field in ("order", "count", "token") for part in walk(getattr(sampler, field))]
        deep = sampler.reads_attention or any(
            isinstance(part, Unbound) or hasattr(part, "passes") or networks_of(part) for part in parts
        )
        why = {
            "it reads hidden states, attention or the model itself, which the engine keeps": deep,
            "committed tokens stay: leave the remasker out": sampler.remasker != Absorbing(),
            "blocks and their cache are the engine's": sampler.block_length is not None,
        }
        for reason, true in why.items():
            if true:
                raise BadInput(f"the sampler {shorten(str(sampler))!r} cannot be used in an engine: {reason}")

    def start(self, tokens: Tensor) -> DecodeState:
        """The state of a new block, tokens int64 (L,). Each block has a seed of its own: the next number."""
        self._seed += 1
        return init(tokens[None].long(), self.mask_token_id, steps=self.steps, seeds=self._seed - 1)

    @torch.no_grad()
    def step(self, states: Sequence[DecodeState], logits: Tensor) -> list[DecodeState]:
        """The states of blocks after one step.

        Args:
            states: one per block, of equal lengths; those without a mask stay as they are.
            logits: float (B, L, V), at the positions that they predict.
        """
        open_rows = [row for row, state in enumerate(states) if bool(state.masked.any())]
        found = list(states)
        if not open_rows:
            return found
        state = reduce(DecodeState.join, [states[row] for row in open_rows])
        rows = logits[torch.tensor(open_rows, device=logits.device)]
        hidden = rows.new_zeros(*state.tokens.shape, 0)
        prediction = Prediction(forbid_mask(rows[state.masked], self.mask_token_id), hidden, state.masked)
        after = step(state, prediction, self.sampler)[0]
        for number, row in enumerate(open_rows):
            found[row] = after.rows(torch.tensor([number], device=after.tokens.device))
        return found
