"""Doubles of the parts of SGLang and vLLM that call an algorithm or a sampler, written from their published interfaces.

docs/engines.md says what was read. The engines need CUDA, and these do not. The model is `HashDenoiser`, to which masks are
nothing, so that later blocks do not matter, as in a model of blocks.
"""

import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import HashDenoiser

MASK = 0


def install(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    """A module of a package that is not installed, with the packages around it."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        path = ".".join(parts[:end])
        if end < len(parts):
            monkeypatch.setitem(sys.modules, path, sys.modules.get(path) or ModuleType(path))
    module = ModuleType(name)
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, name, module)


class DllmAlgorithm:
    """SGLang's base class: a block of each request goes through the model until `step` says that all are done, or (first done,
    first out) one step at a time."""

    def __init__(self, config: Any) -> None:
        self.block_size, self.mask_id, self.fdfo = config.block_size, config.mask_id, config.first_done_first_out_mode

    def init_step_state(self, forward_batch: Any) -> list[Any]:
        return [None] * forward_batch.batch_size

    def max_steps(self, block_size: int) -> int:
        return block_size + 1

    def step(self, forward_batch: Any, logits_output: Any, states: list[Any]) -> list[bool]:
        raise NotImplementedError

    def run(self, runner: Any, batch: Any, carried: list[Any] | None = None) -> tuple[list[list[int]], list[Any] | None]:
        """The tokens of finished blocks (all of them without `fdfo`), and the states to carry on."""
        if not self.fdfo:
            states = self.init_step_state(batch)
            for _ in range(1 + self.max_steps(self.block_size)):
                if all(self.step(batch, runner.forward(batch), states)):
                    return batch.input_ids.view(batch.batch_size, -1).tolist(), None
            raise AssertionError("max_steps were too few")
        states = list(carried or [None] * batch.batch_size)
        fresh = self.init_step_state(batch)
        states = [fresh[row] if state is None else state for row, state in enumerate(states)]
        done = self.step(batch, runner.forward(batch), states)
        tokens = batch.input_ids.view(batch.batch_size, -1).tolist()
        return [row if ended else [] for row, ended in zip(tokens, done, strict=True)], [
            None if ended else state for state, ended in zip(states, done, strict=True)
        ]


class Runner:
    """SGLang's model runner: logits of a block behind the context of its request."""

    def __init__(self, contexts: list[list[int]]) -> None:
        self.contexts, self.denoiser, self.passes = contexts, HashDenoiser(7), 0

    def forward(self, batch: Any) -> Any:
        self.passes += 1
        blocks = batch.input_ids.view(batch.batch_size, -1)
        return SimpleNamespace(full_logits=torch.cat([
            self.denoiser(torch.cat([torch.tensor(context), block])[None]).logits[0, len(context) :]
            for context, block in zip(self.contexts, blocks, strict=True)
        ]))  # fmt: skip


@dataclass
class SamplerOutput:
    """vLLM's."""

    sampled_token_ids: Tensor
    logprobs_tensors: Any
    num_nans: Any
    num_sampled: Tensor
    num_rejected: Tensor


@dataclass
class VllmRunner:
    """vLLM's model runner V2, as far as a sampler sees it: slots, prompts read in pieces, canvases as draft tokens."""

    canvas_length: int
    piece: int = 4
    slots: int = 4
    sampler: Any = None
    denoiser: HashDenoiser = field(default_factory=lambda: HashDenoiser(7))

    def __post_init__(self) -> None:
        self.states = SimpleNamespace(
            canvas=torch.full((self.slots, self.canvas_length), 5),
            step=torch.zeros(self.slots, dtype=torch.int32),
            is_encoder_phase=torch.zeros(self.slots, dtype=torch.bool),
        )
        self.told: list[Any] = []
        tell = SimpleNamespace(add_request=lambda *told: self.told.append(told), apply_staged_writes=lambda: None)
        drafts = SimpleNamespace(draft_tokens=torch.zeros(self.slots, self.canvas_length, dtype=torch.int64))
        self.base = SimpleNamespace(sampling_states=tell, req_states=drafts, logprobs_mode="raw_logprobs")
        self.prompts: dict[int, list[int]] = {}
        self.read: dict[int, int] = {}
        self.texts: dict[int, list[int]] = {}
        self.passes = 0

    def add(self, slot: int, prompt: list[int]) -> None:
        self.prompts[slot], self.read[slot], self.texts[slot] = prompt, 0, []
        self.states.is_encoder_phase[slot] = True
        self.sampler.add_request(slot, len(prompt), None)

    def step(self, slots: list[int], room: int = 1000) -> None:
        """One pass for the requests in these slots; `room` is the longest text of the model."""
        scheduled, logits, lengths = [], [], []
        for slot in slots:
            left = len(self.prompts[slot]) - self.read[slot]
            if left:
                scheduled.append(min(self.piece, left))
                lengths.append(0)
                continue
            context = [*self.prompts[slot], *self.texts[slot]]
            length = min(self.canvas_length, room - len(context))
            canvas = self.base.req_states.draft_tokens[slot, :length]
            whole = torch.cat([torch.tensor(context), canvas])
            logits.append(self.denoiser(whole[None]).logits[0, len(context) :])
            scheduled.append(length)
            lengths.append(length)
        batch = SimpleNamespace(
            num_reqs=len(slots), num_draft_tokens=sum(lengths), idx_mapping_np=np.array(slots, dtype=np.int32),
            cu_num_logits_np=np.cumsum([0, *lengths]), query_start_loc_np=np.cumsum([0, *scheduled]),
            num_computed_prefill_tokens_np=np.array([self.read[slot] for slot in slots]),
            num_scheduled_tokens=np.array(scheduled), prefill_len_np=np.array([len(self.prompts[slot]) for slot in slots]),
        )  # fmt: skip
        self.passes += 1
        found = self.sampler(torch.cat(logits) if logits else torch.zeros(0, 7), batch)
        for row, slot in enumerate(slots):
            count = int(found.num_sampled[row])
            if lengths[row] == 0:
                self.read[slot] += scheduled[row]
                assert count == 0 and int(found.num_rejected[row]) == 0
            elif count == 0:
                assert int(found.num_rejected[row]) == scheduled[row], "a pass that denoises advances nothing"
            else:
                assert count + int(found.num_rejected[row]) == lengths[row]
                self.texts[slot] += found.sampled_token_ids[row, :count].tolist()
