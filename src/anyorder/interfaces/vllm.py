"""vLLM's sampler of diffusion language models, with any order, for models that start from masks.

In vLLM's model runner V2 the state of a model may replace the sampler: `ModelState.custom_sampler(sampler)` returns the new one
(and None for the rejection sampler). `order_sampler` makes one for a model state that holds `diffusion_states` as that of
DiffusionGemma does: `canvas` int64 (slots, L), `step` (slots,), `is_encoder_phase` bool (slots,). A request alternates between
passes that denoise its canvas (bidirectional; nothing is emitted) and one that emits it (causal, which stores its keys and
values).
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anyorder.errors import BadInput
from anyorder.interfaces.blocks import BlockSampler
from anyorder.state import DecodeState

try:
    from vllm.v1.worker.gpu.sample.output import SamplerOutput
except ImportError as error:
    raise BadInput("this sampler runs inside vLLM (model runner V2), which is not installed here") from error

_NO_PENALTIES = SimpleNamespace(output_bin_counts=None)


def order_sampler(base: Any, diffusion_states: Any, mask_token_id: int, **options: Any) -> tuple["OrderSampler", None]:
    """What `custom_sampler` returns.

    Args:
        base: vLLM's own sampler, which `custom_sampler` gets.
        diffusion_states: of the model state; its canvas is masked from now on.
        mask_token_id: the mask.
        options: of `BlockSampler`.

    Raises:
        BadInput: options that cannot be used, or states without a canvas.
    """
    return OrderSampler(base, diffusion_states, BlockSampler(mask_token_id, options)), None


class OrderSampler:
    """Takes the place of vLLM's sampler; what is not about tokens is left to it. See `order_sampler`."""

    def __init__(self, base: Any, diffusion_states: Any, blocks: BlockSampler) -> None:
        missing = [name for name in ("canvas", "step", "is_encoder_phase") if not hasattr(diffusion_states, name)]
        if missing:
            raise BadInput(f"these states have no {missing[0]}: give the diffusion_states of a diffusion model's ModelState")
        self.base, self.states, self.blocks = base, diffusion_states, blocks
        self.canvas_length = diffusion_states.canvas.shape[1]
        self._rows: dict[int, DecodeState] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)

    @property
    def penalties_state(self) -> Any:
        """No penalties: the runner keeps no counts for them."""
        return _NO_PENALTIES

    def add_request(self, req_idx: int, prompt_len: int, sampling_params: Any) -> None:
        """A request takes a slot; what an aborted one left there is forgotten."""
        self._rows.pop(req_idx, None)
        self.base.sampling_states.add_request(req_idx, sampling_params)

    def apply_staged_writes(self) -> None:
        """See vLLM's sampler."""
        self.base.sampling_states.apply_staged_writes()

    def __call__(self, logits: Tensor, input_batch: Any, draft_logits: Tensor | None = None) -> Any:
        """One pass of a batch: prompts that are complete get a masked canvas, canvases are denoised by one step, and those that
        were complete are emitted.

        Args:
            logits: float (K, V), of all canvas positions of the requests that are decoded, in their order.
            input_batch: vLLM's; `cu_num_logits_np` says how many logits each request has, 0 while its prompt is read.
            draft_logits: not used.
        """
        count, states, device = input_batch.num_reqs, self.states, logits.device
        slots = [int(slot) for slot in input_batch.idx_mapping_np[:count]]
        lengths = np.diff(input_batch.cu_num_logits_np[: count + 1])
        sampled = torch.zeros(count, self.canvas_length, dtype=torch.int32, device=device)
        emitted = torch.zeros(count, dtype=torch.int32, device=device)
        denoised: list[tuple[int, int]] = []
        at = 0
        blocks: list[Tensor] = []
        for row, (slot, length) in enumerate(zip(slots, lengths.tolist(), strict=True)):
            if length == 0:
                self._end_prompt(input_batch, row, slot)
            elif bool(states.is_encoder_phase[slot]):
                sampled[row] = states.canvas[slot].int()
                emitted[row] = length
                self._fresh(slot)
            else:
                blocks.append(torch.nn.functional.pad(logits[at : at + length], (0, 0, 0, self.canvas_length - length)))
                denoised.append((slot, length))
            at += length
        if denoised:
            self._denoise(denoised, torch.stack(blocks))
        self.base.req_states.draft_tokens[slots, : self.canvas_length] = states.canvas[slots].to(
            self.base.req_states.draft_tokens.dtype
        )
        return self._output(input_batch, sampled, emitted, torch.as_tensor(lengths, device=device))

    def _end_prompt(self, batch: Any, row: int, slot: int) -> None:
        """Begin the first canvas once the whole prompt has been read."""
        read = batch.num_computed_prefill_tokens_np[row] + batch.num_scheduled_tokens[row]
        if read >= batch.prefill_len_np[row]:
            self._fresh(slot)

    def _fresh(self, slot: int) -> None:
        """A canvas of masks."""
        self.states.canvas[slot] = self.blocks.mask_token_id
        self.states.step[slot] = 0
        self.states.is_encoder_phase[slot] = False
        self._rows.pop(slot, None)

    def _denoise(self, rows: list[tuple[int, int]], logits: Tensor) -> None:
        """One step of some canvases. Positions beyond the longest text of the model are no part of a canvas."""
        before = [self._rows.get(slot) or self._start(slot, length) for slot, length in rows]
        for (slot, _), state in zip(rows, self.blocks.step(before, logits), strict=True):
            self._rows[slot] = state
            self.states.canvas[slot] = state.tokens[0].to(self.states.canvas.dtype)
            self.states.step[slot] += 1
            self.states.is_encoder_phase[slot] = bool(state.finished[0])

    def _start(self, slot: int, length: int) -> DecodeState:
        state = self.blocks.start(self.states.canvas[slot])
        inside = torch.arange(self.canvas_length, device=state.tokens.device) < length
        masked = state.masked & inside
        steps = masked.sum(dim=1) if self.blocks.steps is None else state.steps
        return state.replace(masked=masked, generated=state.generated & inside, attention_mask=inside[None], steps=steps)

    def _output(self, batch: Any, sampled: Tensor, emitted: Tensor, lengths: Tensor) -> Any:
        """Denoising passes emit nothing: all that was scheduled for them is computed again."""
        scheduled = torch.as_tensor(np.diff(batch.query_start_loc_np[: len(emitted) + 1]), device=emitted.device)
        denoised = (lengths > 0) & (emitted == 0)
        rejected = torch.where(denoised, scheduled, lengths - emitted).int()
        return SamplerOutput(
            sampled_token_ids=sampled, logprobs_tensors=None, num_nans=None, num_sampled=emitted, num_rejected=rejected
        )
