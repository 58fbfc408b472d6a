"""Decoding of many requests at once: rows with the same sampler share their forward passes, and join and leave at any step."""

import logging
import threading
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from anyorder.decoding.cache import Cache
from anyorder.decoding.loop import advance
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.base import Denoiser, device_of
from anyorder.denoisers.blocks import block_length_of
from anyorder.ends import Ends
from anyorder.errors import AnyorderError, BadInput
from anyorder.state import DecodeState, init
from anyorder.tasks.base import max_length_of

_log = logging.getLogger("anyorder.serving")

WIDTH = 32
"""Rows are padded to a multiple of so many tokens, so that requests of other lengths can share a batch."""


class Busy(AnyorderError):
    """The queue is full."""


class Closed(AnyorderError):
    """The engine does not take requests any more."""


class Job(Protocol):
    """A row that is decoded, and what becomes of it. Its methods are called by the thread of the engine.

    Attributes:
        tokens: of the row, the mask where it is to be filled.
        sampler: how. Rows whose `key` is equal have equal samplers, and are decoded together.
        steps: its budget; None for one token at a time.
        seed: of its random numbers.
        cancelled: nobody waits for it any more.
    """

    tokens: list[int]
    sampler: Sampler
    key: Hashable
    steps: int | None
    seed: int
    cancelled: bool

    def step(self, tokens: list[int], selected: list[bool], remasked: list[bool], over: bool) -> bool:
        """Called after each step with the row. Returns whether nothing more of it is needed."""

    def fail(self, error: Exception) -> None:
        """Called where its decoding raised an error."""


@dataclass(eq=False)
class _Batch:
    """Rows of one sampler and one width."""

    kind: tuple[Hashable, int]
    sampler: Sampler
    state: DecodeState
    cache: Cache | None
    jobs: dict[int, Job] = field(default_factory=dict)
    stepping: bool = False

    def alone(self) -> "list[_Batch]":
        """Each row as a batch of its own; without a cache only."""
        rows = enumerate(self.state.row.tolist())
        jobs, self.jobs = self.jobs, {}
        return [
            _Batch(self.kind, self.sampler, self.state.rows(torch.tensor([place], device=self.state.row.device)), None,
                   {number: jobs[number]})
            for place, number in rows
        ]  # fmt: skip

    def drop(self, numbers: set[int]) -> None:
        """Leave rows out, by their numbers."""
        if numbers:
            self.jobs = {number: job for number, job in self.jobs.items() if number not in numbers}
            kept = [number not in numbers for number in self.state.row.tolist()]
            self.state = self.state.rows(torch.tensor(kept, device=self.state.row.device))

    def step(self, denoiser: Denoiser, ends: Ends | None) -> None:
        """Decode all rows by one step; those that are complete leave."""
        self.drop({number for number, job in self.jobs.items() if job.cancelled})
        if not self.jobs:
            return
        self.stepping = True
        self.state, output, over = advance(denoiser, self.state, self.sampler, self.cache, ends)
        self.stepping = False
        rows = [self.state.row, self.state.tokens, output.selected, output.remasked, over]
        values = zip(*(tensor.tolist() for tensor in rows), strict=True)
        self.drop({number for number, *seen in values if self._leaves(self.jobs[number], seen)})

    @staticmethod
    def _leaves(job: Job, seen: list[Any]) -> bool:
        """Tell a row what its step gave. Returns whether it leaves, as it does if it fails on it, which is its matter alone."""
        try:
            return job.step(*seen)
        except Exception as error:
            _log.exception("a step could not be handed over")
            job.fail(error)
            return True


class Engine:
    """A thread that decodes what is submitted, several rows at once.

    Args:
        denoiser: the model, which is put in eval mode.
        pad_token_id: padding behind shorter rows.
        ends: tokens that end a text.
        max_rows: rows that are decoded at once.
        max_queue: rows that may wait.
    """

    def __init__(
        self, denoiser: Denoiser, pad_token_id: int, ends: Ends | None = None, *, max_rows: int = 32, max_queue: int = 256
    ) -> None:
        self.denoiser, self.pad_token_id, self.ends = denoiser, pad_token_id, ends
        self.max_rows, self.max_queue = max_rows, max_queue
        self._waiting: deque[Job] = deque()
        self._batches: list[_Batch] = []
        self._count, self._closed = 0, False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="anyorder-engine", daemon=True)
        if isinstance(denoiser, torch.nn.Module):
            denoiser.eval()
        self._thread.start()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Let these rows be decoded, all or none of them.

        Raises:
            BadInput: they are more than may ever wait. Busy: too many wait already. Closed: the engine is closed.
        """
        if len(jobs) > self.max_queue:
            raise BadInput(f"the request asks for {len(jobs)} texts, and the queue has {self.max_queue} places: ask for fewer")
        with self._changed:
            if self._closed:
                raise Closed("the server is shutting down")
            if len(self._waiting) + len(jobs) > self.max_queue:
                raise Busy(f"{len(self._waiting)} of {self.max_queue} places in the queue are taken: try again later")
            self._waiting.extend(jobs)
            self._changed.notify()

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Drop these rows: those that wait at once, those that are decoded before their next step."""
        with self._changed:
            for job in jobs:
                job.cancelled = True
            self._waiting = deque(job for job in self._waiting if not job.cancelled)
            self._changed.notify()

    @property
    def load(self) -> dict[str, int]:
        """Rows that are decoded now and rows that wait."""
        with self._changed:
            return {"running": sum(len(batch.jobs) for batch in self._batches), "waiting": len(self._waiting)}

    def close(self) -> None:
        """Give up what is not complete, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    # ---- the thread ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _run(self) -> None:
        while self._admit():
            for batch in self._batches:
                self._step(batch)
        for job in [*self._waiting, *(job for batch in self._batches for job in batch.jobs.values())]:
            job.fail(Closed("the server is shutting down"))
        self._waiting.clear()
        self._batches.clear()

    def _admit(self) -> bool:
        """Wait until there is something to do, and let waiting rows in. Returns whether the engine is still open."""
        with self._changed:
            self._batches = [batch for batch in self._batches if batch.jobs]
            self._changed.wait_for(lambda: self._closed or self._waiting or self._batches)
            free = self.max_rows - sum(len(batch.jobs) for batch in self._batches)
            fresh = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
            groups: dict[tuple[Hashable, int], list[Job]] = {}
            for job in fresh:
                groups.setdefault((job.key, -(-len(job.tokens) // WIDTH) * WIDTH), []).append(job)
            for kind, jobs in groups.items():
                try:
                    self._place(kind, jobs)
                except Exception as error:
                    for job in jobs:
                        job.fail(error)
            return not self._closed

    def _place(self, kind: tuple[Hashable, int], jobs: list[Job]) -> None:
        """Let rows join a batch of their kind, or begin one. Batches with a key-value cache are not joined."""
        numbers = range(self._count, self._count + len(jobs))
        self._count += len(jobs)
        state, cache = self._start(kind[1], jobs, numbers), jobs[0].sampler.start_cache(self.denoiser)
        found = next((batch for batch in self._batches if batch.kind == kind and batch.jobs and batch.cache is None), None)
        if found is None or cache is not None:
            self._batches.append(_Batch(kind, jobs[0].sampler, state, cache, dict(zip(numbers, jobs, strict=True))))
        else:
            found.state = found.state.join(state)
            found.jobs.update(zip(numbers, jobs, strict=True))

    def _start(self, width: int, jobs: list[Job], numbers: range) -> DecodeState:
        """The state of new rows, padded to the width of their batch."""
        width = min(width, max_length_of(self.denoiser) or width)
        tokens = torch.full((len(jobs), width), self.pad_token_id)
        known = torch.zeros(tokens.shape, dtype=torch.bool)
        for row, job in enumerate(jobs):
            tokens[row, : len(job.tokens)] = torch.tensor(job.tokens)
            known[row, : len(job.tokens)] = True
        device = device_of(self.denoiser)
        seeds = torch.tensor([job.seed for job in jobs])
        state = init(
            tokens.to(device), self.denoiser.mask_token_id, seeds=seeds, attention_mask=known,
            model_block=block_length_of(self.denoiser),
        )  # fmt: skip
        asked = torch.tensor([job.steps or 0 for job in jobs], device=device)
        return state.replace(
            steps=torch.where(asked > 0, asked, state.steps), row=torch.tensor(list(numbers), device=device)
        )  # fmt: skip

    def _step(self, batch: _Batch) -> None:
        try:
            batch.step(self.denoiser, self.ends)
        except Exception as error:
            if batch.stepping and batch.cache is None and len(batch.jobs) > 1:
                self._batches += batch.alone()  # the others than the one that fails go on
                return
            if not isinstance(error, AnyorderError):
                _log.exception("decoding failed")
            for job in batch.jobs.values():
                job.fail(error)
            batch.jobs = {}
