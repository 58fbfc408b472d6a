"""The problems of a fit: some to fit to, others to choose a sampler on, and others that only test it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from anyorder.errors import BadInput
from anyorder.fitting.settings import FitSettings
from anyorder.session import key_values
from anyorder.tasks import Instances, Sequences, Task, task_class
from anyorder.tasks.alphabets import Alphabet
from anyorder.tasks.generation import make_problems
from anyorder.tasks.problem_files import Unreadable, load_problems
from anyorder.tasks.sequence_files import Record, read_records, suffix_of
from anyorder.training.data import with_solutions
from anyorder.zoo import SERVES, folder_of, is_ours, load_denoiser, speaks_esm, task_of
from anyorder.zoo.matching import task_for

FEWEST = 10
FIRST = 200
"""Problems on which the heuristics are compared, of which there are many."""

_GENERATED = {"train": 4000, "validation": 500, "test": 500}
_SHARE = 0.1


@dataclass(frozen=True)
class Bench:
    """A model and the problems of a fit.

    Args:
        train: to which the policy is fitted.
        validation: on which the sampler is chosen.
        test: on which the chosen sampler is tested.
        first: on which the heuristics are compared: validation problems, and training problems where these are few, since
            heuristics are not fitted. No problem is in two of the other sets.
    """

    denoiser: Any
    task: Task
    train: Instances
    validation: Instances
    test: Instances
    first: Instances

    def lengths(self) -> list[int]:
        """Symbols of each test sequence, if the task is made of sequences."""
        assert isinstance(self.task, Sequences)
        frame = len(self.task.symbols.start) + len(self.task.symbols.end)
        return [int(n) - frame for n in (self.test.tokens != self.task.pad_token_id).sum(dim=1)]


def prepare(settings: FitSettings, console: Console) -> Bench:
    """Load the model, and read or generate the problems.

    Raises:
        BadInput: a model, a file or options that cannot be used, too few problems, or problems without solutions.
    """
    options = key_values(list(settings.model_options), "--model-option")
    denoiser = load_denoiser(settings.model, trust_remote_code=settings.trust_remote_code, **options)
    records: list[Record] = []
    name = settings.task or _serves(settings.model, denoiser)
    unreadable = Unreadable(settings.skip_unreadable, hint=" (--skip-unreadable leaves such sequences out)")
    if name is None or issubclass(task_class(name), Sequences):
        if settings.data is None:
            raise BadInput("a fit to sequences needs a file of complete ones: give it with --data")
        records = list(read_records(settings.data, settings.column, unreadable))
        name = name or _task_of_file(settings.data, records)
    if issubclass(task_class(name), Sequences):
        return _of_sequences(settings, denoiser, name, records, unreadable, console)
    return _of_problems(settings, denoiser, task_for(denoiser, name))


# ---- problems with rules ------------------------------------------------------------------------------------------------


def _of_problems(settings: FitSettings, denoiser: Any, task: Task) -> Bench:
    chosen = key_values(list(settings.generate), "--generate")
    if settings.data is None:
        made = [
            make_problems(task, count, _seed(settings.seed, part), chosen) for part, count in enumerate(_GENERATED.values())
        ]
        fitted, tried, tested = _apart(*made)
        return Bench(denoiser, task, fitted, tried, tested, first=tried[slice(0, FIRST)])
    if chosen:
        raise BadInput("--generate has no effect with a file of problems: leave one of them out")
    found = load_problems(task, settings.data, None, settings.skip_unreadable, "--skip-unreadable leaves such problems out")
    found = with_solutions(found)
    if len(found) < FEWEST:
        raise BadInput(f"{settings.data} holds {len(found)} problems; a fit needs {FEWEST} or more")
    shuffled = torch.from_numpy(np.random.default_rng(settings.seed).permutation(len(found)))
    validation, test = (max(2, min(most, len(found) // 5)) for most in (_GENERATED["validation"], _GENERATED["test"]))
    chosen_on, train = shuffled[test : test + validation], shuffled[test + validation :]
    fitted, tried, tested = _apart(found[train], found[chosen_on], found[shuffled[:test]])
    return Bench(denoiser, task, fitted, tried, tested, first=_others(found[shuffled[test : test + FIRST]], tested))


def _others(problems: Instances, tested: Instances) -> Instances:
    """The problems that are not among those of the test."""
    held = {row.tobytes() for row in tested.tokens.numpy()}
    kept = [number for number, row in enumerate(problems.tokens.numpy()) if row.tobytes() not in held]
    return problems[torch.tensor(kept, dtype=torch.int64)]


def _apart(train: Instances, validation: Instances, test: Instances) -> tuple[Instances, Instances, Instances]:
    """The sets without problems that a later one holds too, and without repetitions in the last two.

    Raises:
        BadInput: hardly any are left.
    """
    seen: set[bytes] = set()
    parts = []
    for problems, once in ((test, True), (validation, True), (train, False)):
        before, kept = set(seen), []
        for number, row in enumerate(problems.tokens.numpy()):
            key = row.tobytes()
            if key not in (seen if once else before):
                kept.append(number)
            seen.add(key)
        parts.append(problems[torch.tensor(kept, dtype=torch.int64)])
    if min(map(len, parts)) < 2:
        raise BadInput("hardly any of these problems differ from one another: a fit needs others to choose and to test on")
    return parts[2], parts[1], parts[0]


def _seed(seed: int, part: int) -> int:
    """Of generated problems: another one for each part, and none that `evaluate` or a recipe uses."""
    return 2_000_000 + 10 * seed + part


# ---- sequences ----------------------------------------------------------------------------------------------------------


def _of_sequences(
    settings: FitSettings, denoiser: Any, name: str, records: list[Record], unreadable: Unreadable, console: Console
) -> Bench:
    if settings.generate:
        raise BadInput("--generate is for problems that are generated, and a fit to sequences reads a file: leave it out")
    any_length = task_for(denoiser, name)
    assert isinstance(any_length, Sequences)
    lengths = _readable(any_length, settings, denoiser, records, unreadable, console)
    texts = list(lengths)
    if len(texts) < FEWEST:
        which = " that the model can read" if settings.skip_unreadable else ""
        raise BadInput(f"{settings.data} holds {len(texts)} different sequences{which}; a fit needs {FEWEST} or more")
    task = task_for(denoiser, name, length=max(lengths.values()))
    assert isinstance(task, Sequences)
    shuffled = [texts[i] for i in np.random.default_rng(settings.seed).permutation(len(texts))]
    held = max(2, min(100, int(_SHARE * len(texts))))
    hidden = task.variant({"hide": settings.hide})
    test, validation, train = shuffled[:held], shuffled[held : 2 * held], shuffled[2 * held :]
    chosen_on = hidden.encode(validation)
    return Bench(denoiser, task, task.encode(train), chosen_on, hidden.encode(test), chosen_on)


def _serves(model: str, denoiser: Any) -> str | None:
    """The task that a model is known to be for."""
    if model in SERVES:
        return SERVES[model]
    if is_ours(model):
        return task_of(folder_of(model)).name
    return "protein" if speaks_esm(denoiser) else None


def _task_of_file(path: Path, records: list[Record]) -> str:
    """The task inferred from a file: by the name of the column of its sequences, else by its suffix."""
    if records and records[0].column.strip().lower() == "smiles":
        return "molecules"
    suffix = suffix_of(path)
    return next((name for name in _sequence_tasks() if suffix in task_class(name).suffixes), "text")


def _sequence_tasks() -> list[str]:
    from anyorder.registry import TASKS

    return [name for name in TASKS if issubclass(task_class(name), Sequences)]


def _readable(
    task: Sequences, settings: FitSettings, denoiser: Any, records: list[Record], unreadable: Unreadable, console: Console
) -> dict[str, int]:
    """The different sequences that the model can read, and their symbols. The console says what is left out.

    Raises:
        BadInput: a sequence that it cannot read, unless such sequences are left out; the error says where it is.
    """
    most = denoiser.max_length
    if most is not None:
        most -= len(task.symbols.start) + len(task.symbols.end)
    lengths: dict[str, int] = {}
    seen: set[tuple[int, ...]] = set()
    repeated = 0
    for record in records:
        with unreadable.at(f"{settings.data}, {record.place}"):
            tokens = tuple(_complete(record.text.strip(), task.symbols, most))
            repeated += tokens in seen
            if tokens not in seen:
                lengths[record.text.strip()] = len(tokens)
            seen.add(tokens)
    count = len(records)
    if repeated:
        console.print(f"{repeated} of {count} sequences are repeated in the file and used once", markup=False)
    if unreadable.count:
        console.print(f"{unreadable.said()} ({count} sequences were read)", markup=False, soft_wrap=True)
    return lengths


def _complete(text: str, symbols: Alphabet, most: int | None) -> list[int]:
    """Tokens of a complete sequence.

    Raises:
        BadInput: it is empty, longer than `most`, not complete, or not of this alphabet.
    """
    tokens = symbols.encode(text)
    if not tokens:
        raise BadInput("it is empty")
    if most is not None and len(tokens) > most:
        raise BadInput(f"it has {len(tokens)} symbols; this model takes {most} at most")
    if symbols.mask_token_id in tokens:
        number = tokens.index(symbols.mask_token_id) + 1
        raise BadInput(f"it has unknown symbols, the first is number {number}; a fit needs complete sequences")
    return tokens
