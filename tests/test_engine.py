"""The engine of `anyorder serve` where the decoding of a row fails."""

import queue
from dataclasses import dataclass, field

import torch
from torch import Tensor

from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.base import DenoiserOutput
from anyorder.errors import PartFailed
from anyorder.serving.engine import Engine
from conftest import HashDenoiser

PAD = 5


class Picky(HashDenoiser):
    """Fails where a row begins with the token 3."""

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None, positions: Tensor | None = None) -> DenoiserOutput:
        if bool((tokens[:, 0] == 3).any()):
            raise ValueError("a row begins with 3")
        return super().forward(tokens, attention_mask, positions)


@dataclass
class Waiting:
    """A job that puts its answer, or its error, into a queue."""

    tokens: list[int]
    sampler: Sampler
    key: str = "same"
    steps: int | None = None
    seed: int = 0
    cancelled: bool = False
    answers: "queue.Queue[list[int] | Exception]" = field(default_factory=queue.Queue)

    def step(self, tokens: list[int], selected: list[bool], remasked: list[bool], over: bool) -> bool:
        if over:
            self.answers.put(tokens[: len(self.tokens)])
        return over

    def fail(self, error: Exception) -> None:
        self.answers.put(error)


def answers_of(engine: Engine, jobs: list[Waiting]) -> list[list[int] | Exception]:
    """The answers to jobs that are submitted together; the engine is closed."""
    try:
        engine.submit(jobs)
        return [job.answers.get(timeout=60) for job in jobs]
    finally:
        engine.close()


def check_others(jobs: list[Waiting], answers: list[list[int] | Exception], failed: Waiting) -> None:
    """All jobs but one were answered as each is alone."""
    for job, answer in zip(jobs, answers, strict=True):
        if job is not failed:
            assert answer == decode(HashDenoiser(), torch.tensor([job.tokens]), job.sampler).tokens[0].tolist()


def test_a_row_that_fails_takes_no_other_with_it() -> None:
    sampler = Sampler("confidence")
    jobs = [Waiting([first, 0, 0, 0], sampler) for first in (1, 3, 2, 4)]
    answers = answers_of(Engine(Picky(), PAD), jobs)
    assert isinstance(answers[1], PartFailed) and "a row begins with 3" in str(answers[1])
    check_others(jobs, answers, jobs[1])


def test_the_engine_goes_on_after_a_row_that_was_alone() -> None:
    engine = Engine(Picky(), PAD)
    try:
        bad, good = Waiting([3, 0], Sampler("confidence")), Waiting([1, 0], Sampler("confidence"))
        engine.submit([bad])
        assert isinstance(bad.answers.get(timeout=60), PartFailed)
        engine.submit([good])
        assert isinstance(good.answers.get(timeout=60), list)
    finally:
        engine.close()


class Untold(Waiting):
    """A job that cannot take what its step gave."""

    def step(self, tokens: list[int], selected: list[bool], remasked: list[bool], over: bool) -> bool:
        raise ValueError("its text cannot be decoded")


def test_a_row_whose_text_fails_takes_no_other_with_it() -> None:
    sampler = Sampler("confidence")
    jobs = [kind([first, 0, 0, 0], sampler) for kind, first in ((Waiting, 1), (Untold, 2), (Waiting, 4))]
    answers = answers_of(Engine(HashDenoiser(), PAD), jobs)
    assert isinstance(answers[1], ValueError)
    check_others(jobs, answers, jobs[1])
