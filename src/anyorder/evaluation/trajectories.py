"""Decodings that can be played back: a documented, versioned format (docs/report.md), and the recording of it.

A file holds problems once, and runs of them: an order at a budget of steps and a scale of noise. A run has one decode per
problem, a decode one entry per forward pass: what the denoiser proposed, how the order scored it, what was committed and what
was remasked.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from anyorder.decoding.result import Decoded
from anyorder.decoding.sampler import Sampler
from anyorder.errors import BadInput, counted
from anyorder.evaluation.recorder import CANDIDATES, Move, Recorder
from anyorder.evaluation.samplers import Kind, kind_of, with_noise
from anyorder.files import finite
from anyorder.processes import Shard
from anyorder.tasks.base import Instances, Task
from anyorder.tasks.drawing import Drawing
from anyorder.tasks.instances import checked_result

FORMAT: Literal["anyorder.trajectories"] = "anyorder.trajectories"
VERSION: Literal[3] = 3
THOUSANDTHS = 1000
"""Probabilities are whole numbers of thousandths."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Step(_Part):
    """One forward pass.

    positions, tokens: those that got a token, ascending, and the tokens.
    remasked: positions whose token was remasked.
    predicted: positions that could be chosen, ascending; None for all that are masked before the step.
    scores: the order's score of each of them, to three significant digits and no finer than 0.0001; None where it
        excluded the position.
    candidates: k lists, one value per predicted position: the likeliest token, the second likeliest, and so on; -1 for one
        whose probability rounds to 0.
    probabilities: the same k lists, of the denoiser's probabilities in thousandths.
    """

    positions: list[int]
    tokens: list[int]
    remasked: list[int]
    predicted: list[int] | None = None
    scores: list[float | None]
    candidates: list[list[int]]
    probabilities: list[list[int]]

    @model_validator(mode="after")
    def _consistent(self) -> "Step":
        if len(self.positions) != len(self.tokens):
            raise ValueError(f"{len(self.positions)} positions and {len(self.tokens)} tokens")
        if len(self.candidates) != len(self.probabilities):
            raise ValueError(f"{len(self.candidates)} lists of candidates and {len(self.probabilities)} of probabilities")
        if {len(v) for v in (*self.candidates, *self.probabilities)} - {len(self.scores)}:
            raise ValueError("scores, candidates and probabilities have one value for each predicted position")
        return self


class Decode(_Part):
    """How one problem was decoded.

    tokens: the completed sequence. commit_step: the step, from 0, in which each position got its final token; -1 where given.
    nfe: forward passes of the denoiser. correct: the result of the task's check. cell_accuracy: see the task; None if unknown.
    dead_ends: the steps after which it is proven that no solution by the rules completes the state; None if there is no solver.
    wrong: if no solution is known, the first position whose token leaves no solution; None if that is unknown.
    steps: one entry per forward pass.
    """

    tokens: list[int]
    commit_step: list[int]
    nfe: int = Field(ge=0)
    correct: bool
    cell_accuracy: float | None = None
    dead_ends: list[int] | None = None
    wrong: int | None = Field(None, ge=0)
    steps: list[Step]


class Problem(_Part):
    """What was to be solved.

    tokens: the mask at every unknown position. solution: where one is known. labels: e.g. difficulty.
    notes: what a person must know besides, e.g. the clues.
    """

    tokens: list[int]
    solution: list[int] | None = None
    labels: dict[str, str | int | float] = {}
    notes: list[str] = []


class Run(_Part):
    """All problems under one order. steps: the budget of forward passes; noise: scale of the Gumbel noise on the
    scores, and whether it is annealed, see `Sampler`; kind: of the order, see `samplers.Kind`."""

    order: str
    kind: Kind
    steps: int = Field(ge=1)
    noise: float = Field(0.0, ge=0)
    anneal: bool = False
    decodes: list[Decode]

    @property
    def name(self) -> str:
        """What the run is called in tables and pictures."""
        return with_noise(f"{self.order}, {counted(self.steps, 'step')}", self.noise, self.anneal)


class Trajectories(_Part):
    """What a file holds.

    about: facts such as task, data, denoiser, seed. drawing: where positions stand. mask: its token.
    hidden: tokens that are not drawn where they are given: padding, and the frame of a sequence.
    texts: the text of each token that occurs.
    """

    format: Literal["anyorder.trajectories"] = FORMAT
    version: Literal[3] = VERSION
    about: dict[str, Any]
    drawing: Drawing
    mask: int
    hidden: list[int] = []
    texts: dict[int, str]
    problems: list[Problem]
    runs: list[Run]

    @model_validator(mode="after")
    def _consistent(self) -> "Trajectories":
        for name, tokens in self._sequences():
            if missing := {token for token in tokens if token not in self.texts}:
                raise ValueError(f"{name} holds token {min(missing)}, but texts has no entry for it")
        cells = self.drawing.cells or []
        for number, problem in enumerate(self.problems):
            if cells and not 0 <= min(cells) <= max(cells) < len(problem.tokens):
                raise ValueError(
                    f"cells of the drawing are outside of problem {number}, which has {len(problem.tokens)} tokens"
                )
            if problem.solution is not None and len(problem.solution) != len(problem.tokens):
                raise ValueError(f"problem {number} has {len(problem.tokens)} tokens, its solution {len(problem.solution)}")
        for run in self.runs:
            if len(run.decodes) != len(self.problems):
                raise ValueError(f"{run.name}: {len(run.decodes)} decodes of {len(self.problems)} problems")
            for number, (problem, decode) in enumerate(zip(self.problems, run.decodes, strict=True)):
                try:
                    _check(problem, decode, self.mask)
                except ValueError as error:
                    raise ValueError(f"{run.name}, problem {number}: {error}") from error
        return self

    def _sequences(self) -> Iterator[tuple[str, list[int]]]:
        yield "the mask", [self.mask]
        for number, problem in enumerate(self.problems):
            yield f"problem {number}", [*problem.tokens, *(problem.solution or [])]
        for run in self.runs:
            for number, decode in enumerate(run.decodes):
                proposed = {token for step in decode.steps for row in step.candidates for token in row}
                put = {token for step in decode.steps for token in step.tokens}
                yield f"{run.name}, problem {number},", [*decode.tokens, *put, *(proposed - {-1})]


def states_of(problem: Problem, decode: Decode, mask: int) -> list[list[int]]:
    """The tokens before the first step and after every step, as the entries of a decode say."""
    states = [list(problem.tokens)]
    for step in decode.steps:
        now = list(states[-1])
        for position, token in zip(step.positions, step.tokens, strict=True):
            now[position] = token
        for position in step.remasked:
            now[position] = mask
        states.append(now)
    return states


def predicted_of(step: Step, before: list[int], mask: int) -> list[int]:
    """The positions that could be chosen in a step."""
    return step.predicted if step.predicted is not None else [at for at, token in enumerate(before) if token == mask]


def _check(problem: Problem, decode: Decode, mask: int) -> None:
    length = len(problem.tokens)
    if len(decode.tokens) != length or len(decode.commit_step) != length:
        raise ValueError(f"the problem has {length} tokens, its decode {len(decode.tokens)}")
    places = {at for step in decode.steps for at in (*step.positions, *step.remasked, *(step.predicted or []))}
    if places and not (min(places) >= 0 and max(places) < length):
        raise ValueError(f"positions run from 0 to {length - 1}, not to {max(places, key=abs)}")
    states = states_of(problem, decode, mask)
    for number, (step, before) in enumerate(zip(decode.steps, states, strict=False)):
        if len(step.scores) != len(predicted_of(step, before, mask)):
            raise ValueError(f"step {number} has {len(step.scores)} scores for another number of positions")
    if states[-1] != decode.tokens:
        raise ValueError("the steps do not lead to its tokens")
    last = max(decode.commit_step, default=-1)
    if not all(-1 <= step < len(decode.steps) for step in (last, *(decode.dead_ends or []))):
        raise ValueError(f"it has {len(decode.steps)} steps, and speaks of others")


class Watch:
    """Records how problems are decoded.

    Args:
        task, instances: the problems to record; they must be the first of those that are decoded.
        about: facts to keep with them.
        candidates: k, tokens kept per position and forward pass.

    Raises:
        BadInput: the task describes its problems by other values than the format has.
    """

    def __init__(self, task: Task, instances: Instances, about: dict[str, Any], candidates: int = CANDIDATES) -> None:
        self.task, self.instances, self.candidates = task, instances, candidates
        pad = task.pad_token_id
        self.pad = None if pad is None else int(pad)
        self.about = {**about, "correct_means": task.correct_means, "main_metric": task.main_metric(instances)}
        self.lengths = _lengths(instances.tokens.numpy(), self.pad)
        self.runs: list[Run] = []
        self.trajectories()  # a task of somebody's own is checked before anything is decoded

    def record(self, seed: int) -> Recorder:
        """The callback to pass to `decode_in_batches` with this seed."""
        self.recorder = Recorder(seed * 2**32, len(self.instances), self.candidates)
        return self.recorder

    def note(self, label: str, sampler: Sampler, decoded: Decoded, shard: Shard = Shard()) -> None:
        """Keep what was recorded, as a run of this label.

        Args:
            label: of the sampler.
            sampler: what decoded.
            decoded: the result, the kept problems first.
            shard: this process among those that decoded it together.
        """
        count = len(self.instances)
        self.recorder.gather(shard)
        checked = checked_result(self.task, self.instances, decoded.tokens[:count])
        decodes = []
        for number, steps in enumerate(self.recorder.moves()):
            length, cells = self.lengths[number], float(checked.cell_accuracy[number])
            decodes.append(
                Decode(
                    tokens=decoded.tokens[number, :length].tolist(),
                    commit_step=decoded.commit_step[number, :length].tolist(),
                    nfe=int(decoded.nfe[number]),
                    correct=bool(checked.instance_correct[number]),
                    cell_accuracy=None if math.isnan(cells) else round(cells, 4),
                    steps=[_step(move) for move in steps],
                )
            )
        self._find_dead_ends(decodes)
        budget = sampler.steps or self.instances.longest
        noise, anneal = sampler.noise, sampler.anneal and sampler.noise > 0
        self.runs.append(Run(order=label, kind=kind_of(sampler), steps=budget, noise=noise, anneal=anneal, decodes=decodes))

    def _find_dead_ends(self, decodes: list[Decode]) -> None:
        """Ask the task's solver about every state; tasks without one leave it open."""
        mask = self.task.mask_token_id
        states, rows = [], []
        for number, decode in enumerate(decodes):
            problem = Problem(tokens=self.instances.tokens[number].tolist())
            after = states_of(problem, decode, mask)[1:]
            states += after
            rows += [number] * len(after)
        proven = self._proven(rows, states)
        if proven is None:
            return
        dead = iter(proven)
        for decode in decodes:
            decode.dead_ends = [step for step, is_dead in enumerate(islice(dead, len(decode.steps))) if is_dead]
        if self.instances.x0 is None:
            self._find_wrong_cells(decodes)

    def _find_wrong_cells(self, decodes: list[Decode]) -> None:
        """Name the cell that led into the first dead end: commit the tokens of that step one by one and ask the solver."""
        mask = self.task.mask_token_id
        states, rows, cells = [], [], []
        for number, decode in enumerate(decodes):
            if not decode.dead_ends:
                continue
            first = decode.dead_ends[0]
            problem = Problem(tokens=self.instances.tokens[number].tolist())
            now, step = list(states_of(problem, decode, mask)[first]), decode.steps[first]
            for position in step.remasked:
                now[position] = mask
            for position, token in zip(step.positions, step.tokens, strict=True):
                now[position] = token
                states.append(list(now))
                rows.append(number)
                cells.append(position)
        for number, position, dead in zip(rows, cells, self._proven(rows, states) or [], strict=False):
            if dead and decodes[number].wrong is None:
                decodes[number].wrong = position

    def _proven(self, rows: list[int], states: list[list[int]]) -> Sequence[bool] | None:
        """What the task's solver says of states of the problems `rows`; None if there are no states, or no solver."""
        proven = self.task.dead_ends(self.instances[torch.tensor(rows)], torch.tensor(states)) if rows else None
        if proven is None:
            return None
        found: Any = proven.tolist() if hasattr(proven, "tolist") else proven
        flat = isinstance(found, list | tuple) and not any(isinstance(one, list | tuple) for one in found)
        if not flat or len(found) != len(rows):
            raise BadInput(f"{self.task.name}.dead_ends must return a bool tensor of shape ({len(rows)},), or None")
        listed: Sequence[bool] = found
        return listed

    def trajectories(self) -> Trajectories:
        """All that was kept.

        Raises:
            BadInput: see the class.
        """
        try:
            return self._trajectories()
        except ValidationError as error:
            fault = error.errors()[0]
            where, said = ".".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, ")
            raise BadInput(
                f"the task {self.task.name} cannot be played back: {where + ': ' if where else ''}{said}; see its methods "
                "token_text, notes, drawing and hidden_tokens, and its labels"
            ) from error

    def _trajectories(self) -> Trajectories:
        tokens, solutions = self.instances.tokens.tolist(), self.instances.x0
        problems = [
            Problem(
                tokens=tokens[number][:length],
                solution=None if solutions is None else solutions[number, :length].tolist(),
                labels=_labels(self.instances, number),
                notes=self.task.notes(self.instances.tokens[number]),
            )
            for number, length in enumerate(self.lengths)
        ]
        values: dict[str, Any] = {"about": self.about, "drawing": self.task.drawing(), "mask": self.task.mask_token_id}
        values |= {"hidden": self.task.hidden_tokens(), "problems": problems, "runs": self.runs}
        used = {t for _, row in Trajectories.model_construct(**values)._sequences() for t in row}
        return Trajectories(**values, texts={token: self.task.token_text(token) for token in sorted(used)})


def _step(move: Move) -> Step:
    """A move in the numbers of the format."""
    thousandths = np.rint(move.probabilities * THOUSANDTHS).astype(int)
    return Step(
        positions=move.positions.tolist(),
        tokens=move.tokens.tolist(),
        remasked=move.remasked.tolist(),
        predicted=move.predicted.tolist() if move.unusual else None,
        scores=[float(f"{round(score, 4) + 0.0:.3g}") if math.isfinite(score) else None for score in move.scores.tolist()],
        candidates=np.where(thousandths > 0, move.candidates, -1).tolist(),
        probabilities=thousandths.tolist(),
    )


def _lengths(tokens: np.ndarray, pad: int | None) -> list[int]:
    """The number of tokens of each row (N, L) without trailing padding."""
    columns = np.arange(1, tokens.shape[1] + 1)
    lengths: list[int] = np.where(tokens != (-1 if pad is None else pad), columns, 0).max(axis=1).tolist()
    return lengths


def _labels(instances: Instances, number: int) -> dict[str, Any]:
    """What is known of an instance; a rating that is not finite says nothing."""
    found = {name: _plain(values[number]) for name, values in instances.labels.items()}
    return {name: value for name, value in found.items() if finite(value) is not None}


def _plain(value: Any) -> Any:
    """A text or a number of the format; other values, such as dates, as text."""
    value = value.item() if isinstance(value, np.generic) else value
    return value if value is None or isinstance(value, str | int | float) else str(value)
