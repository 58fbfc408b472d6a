"""`anyorder fit`: measure the headroom of a model on sequences, fit an order, measure its gain, and write a folder with the
policy and a card."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from torch import nn

from anyorder.decoding.tokens import Sample
from anyorder.denoisers.base import fingerprint
from anyorder.errors import BadInput, counted
from anyorder.evaluation.batches import Progress
from anyorder.evaluation.comparison import evaluate
from anyorder.evaluation.headroom_check import best_of, oracle_lead
from anyorder.evaluation.results import Report
from anyorder.evaluation.statistics import mean_interval, sign_flip
from anyorder.evaluation.tables import markdown, rich_tables
from anyorder.files import check_writable, write_json, write_text
from anyorder.orders.learned import LearnedOrder
from anyorder.registry import ORDERS, POLICIES, TASKS
from anyorder.session import key_values
from anyorder.tasks import Instances, Sequences, check_size, task_class
from anyorder.tasks.alphabets import Alphabet
from anyorder.tasks.problem_files import Unreadable
from anyorder.tasks.sequence_files import Record, read_records, suffix_of
from anyorder.training.fit import check_fit, fit_order
from anyorder.training.run_folder import check_free
from anyorder.zoo import SERVES, folder_of, is_ours, load_denoiser, speaks_esm, task_of
from anyorder.zoo.matching import task_for

_TEST_SHARE, _TEST_MOST, _FEWEST = 0.1, 100, 10


def _heuristics() -> list[str]:
    """The orders that need no training, without those that take arguments."""
    return [name for name in ORDERS.names(baseline=True) if not ORDERS.entry(name).arguments]


@dataclass(frozen=True)
class FitSettings:
    """The settings of a fit and its comparisons.

    Args:
        model: shipped or fetched name, folder or hub id.
        data: file of complete sequences.
        task: name of a sequence task; by default inferred from the model, the column's name or the file's suffix.
        steps: budget of forward passes of the comparison; None for one position per step.
        updates, train_batch_size, seed: those of the fit.
        batch_size: sequences decoded together.
        hide: share of the symbols hidden in the in-filling comparison.
        samples: unconditional samples per order; 0 to leave that comparison out.
        architecture: architecture of the policy; by default that of `fit_order`.
        column: column of a .csv or .jsonl file; by default `sequence`, `smiles` or `text`.
        skip_unreadable: leave out sequences that the model cannot read; otherwise they are an error.
        headroom_only: stop after the headroom is measured.
        model_options: key=value options of the model, see `load_denoiser`.
    """

    model: str
    data: Path
    task: str | None = None
    steps: int | None = 20
    updates: int = 300
    train_batch_size: int = 32
    batch_size: int = 256
    seed: int = 0
    hide: float = 0.5
    samples: int = 50
    architecture: str = ""
    trust_remote_code: bool = False
    column: str = ""
    skip_unreadable: bool = False
    headroom_only: bool = False
    model_options: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Comparison:
    """The data of a fit: complete sequences to fit to, and others with a share hidden to compare on."""

    denoiser: Any
    task: Sequences
    train: Instances
    test: Instances

    def lengths(self) -> list[int]:
        """Symbols of each test sequence."""
        frame = len(self.task.symbols.start) + len(self.task.symbols.end)
        return [int(n) - frame for n in (self.test.tokens != self.task.pad_token_id).sum(dim=1)]


def fit_and_compare(
    settings: FitSettings, folder: Path, console: Console, progress: Progress | None = None
) -> LearnedOrder | None:
    """Measure the headroom, fit an order, compare, and write the policy, a report and a card into a folder.

    A tenth of the sequences (100 at most) is held out and used for both comparisons. With `headroom_only` there is no fit and
    no policy, and the report has only the first comparison.

    Raises:
        BadInput: a model or file that cannot be used, or a folder that holds another fit, a model or a card.
    """
    check_writable(folder, folder=True)
    if folder.exists() and Path(settings.model).exists() and folder.samefile(settings.model):
        raise BadInput(f"{folder} is the model's own folder, which the fit would overwrite: give another one with --out")
    check_free(folder, "README.md")
    if settings.headroom_only and (folder / "config.json").is_file():
        raise BadInput(f"{folder} holds a fit whose report would be lost: choose another folder with --out")
    bench = _prepare(settings, console)
    check_size(settings.samples, bench.test.tokens.shape[1])
    fit: dict[str, Any] = {
        "steps": settings.updates, "batch_size": settings.train_batch_size, "seed": settings.seed,
        "policy": settings.architecture or None,
    }  # fmt: skip
    check_fit(bench.denoiser, bench.task, bench.train, folder, **fit)
    heuristics = _heuristics()

    def compare(samplers: Mapping[str, Any], instances: Instances, sampled: bool) -> Report:
        report = evaluate(
            bench.denoiser, bench.task, instances, samplers, settings.steps or instances.longest, seed=settings.seed,
            batch_size=settings.batch_size, progress=progress, token=Sample() if sampled else None,
            meta={"task": bench.task.name, "data": settings.data.name, "denoiser": settings.model, "hide": settings.hide},
        )  # fmt: skip
        for table in rich_tables(report):
            console.print(table)
        return report

    known = {name: name for name in heuristics}
    budget = "one position per step" if settings.steps is None else counted(settings.steps, "step")
    hidden = f"{len(bench.test)} sequences, {100 * settings.hide:.0f} % of their symbols hidden, {budget}"
    console.print(f"[bold]1. Headroom[/bold]: {hidden}")
    first = compare({**known, "oracle": "oracle"}, bench.test, sampled=False)
    console.print(oracle_lead(first))
    if settings.headroom_only:
        write_json(folder / "report.json", {"in-filling": first.to_json()})
        return None
    console.print(f"\n[bold]2. Fit an order[/bold] to {len(bench.train)} other sequences")
    order = fit_order(bench.denoiser, bench.task, bench.train, folder, **fit, console=console)
    console.print("\n[bold]3. Gain[/bold] on the same sequences as in 1")
    reports = {"in-filling": compare({**known, "policy": order, "oracle": "oracle"}, bench.test, sampled=False)}
    gained = _gain(reports["in-filling"])
    console.print(gained)
    if settings.samples:
        console.print(
            f"\n[bold]4. Unconditional generation[/bold]: {settings.samples} samples, lengths as in the data, temperature 1"
        )
        lengths = bench.lengths()
        empty = bench.task.encode([f"_{{{lengths[i % len(lengths)]}}}" for i in range(settings.samples)])
        reports["unconditional"] = compare({**known, "policy": order}, empty, sampled=True)
    write_json(folder / "report.json", {what: report.to_json() for what, report in reports.items()})
    trained = str(order.policy.config()["architecture"])
    write_text(
        folder / "README.md", card(settings, trained, bench.task.name, bench.denoiser, len(bench.train), reports, gained)
    )
    return order


def _prepare(settings: FitSettings, console: Console) -> _Comparison:
    """Model, task and sequences, checked for agreement."""
    if settings.architecture:
        POLICIES.entry(settings.architecture)  # an unknown one is an error before the work
    options = key_values(list(settings.model_options), "--model-option")
    denoiser = load_denoiser(settings.model, trust_remote_code=settings.trust_remote_code, **options)
    unreadable = Unreadable(settings.skip_unreadable, hint=" (--skip-unreadable leaves such sequences out)")
    records = list(read_records(settings.data, settings.column, unreadable))
    name = settings.task or _serves(settings.model, denoiser) or _task_of_file(settings.data, records)
    if not issubclass(task_class(name), Sequences):
        suitable = ", ".join(other for other in TASKS if issubclass(task_class(other), Sequences))
        raise BadInput(f"task {name!r} is not made of sequences: use one of {suitable}, or fit an order with a recipe")
    any_length = task_for(denoiser, name)
    assert isinstance(any_length, Sequences)
    lengths = _readable(any_length, settings, denoiser, records, unreadable, console)
    texts = list(lengths)
    if len(texts) < _FEWEST:
        which = " that the model can read" if settings.skip_unreadable else ""
        raise BadInput(f"{settings.data} holds {len(texts)} different sequences{which}; a fit needs {_FEWEST} or more")
    task = task_for(denoiser, name, length=max(lengths.values()))
    assert isinstance(task, Sequences)
    shuffled = [texts[i] for i in np.random.default_rng(settings.seed).permutation(len(texts))]
    held = max(2, min(_TEST_MOST, int(_TEST_SHARE * len(texts))))
    test_task = task.variant({"hide": settings.hide})
    return _Comparison(denoiser, task, task.encode(shuffled[held:]), test_task.encode(shuffled[:held]))


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
    return next((name for name in TASKS if suffix in task_class(name).suffixes), "text")


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


def _gain(report: Report) -> str:
    """Say what the policy gained over the best heuristic."""
    policy = next(result for result in report.results if result.order == "policy").cells
    best = best_of(report, "heuristic")
    difference = policy - best.cells
    mean, low, high = mean_interval(100 * difference)
    return (
        f"The policy recovers {100 * policy.mean():.1f} %, {mean:+.1f} points ({low:+.1f} to {high:+.1f}, "
        f"p = {sign_flip(difference):.2g}) compared with the best heuristic, {best.order}, which was chosen on these sequences."
    )


def _command(settings: FitSettings, task: str) -> str:
    """The command that makes the same fit again."""
    options = {
        "model": settings.model, "data": settings.data.name, "task": task, "steps": settings.steps or "all",
        "updates": settings.updates, "train-batch-size": settings.train_batch_size, "batch-size": settings.batch_size,
        "hide": settings.hide, "samples": settings.samples, "seed": settings.seed,
    }  # fmt: skip
    if settings.architecture:
        options["architecture"] = settings.architecture
    if settings.column:
        options["column"] = settings.column
    flags = {"--skip-unreadable": settings.skip_unreadable, "--trust-remote-code": settings.trust_remote_code}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    words += [word for option in settings.model_options for word in ("--model-option", option)]
    return shlex.join(["anyorder", "fit", *words, *(flag for flag, used in flags.items() if used)])


def card(
    settings: FitSettings,
    architecture: str,
    task: str,
    denoiser: nn.Module,
    fitted_to: int,
    reports: dict[str, Report],
    gained: str,
) -> str:
    """A model card for the hub, with the tables."""
    header = {"library_name": "anyorder", "tags": ["masked-diffusion", "unmasking-order", task], "base_model": settings.model}
    lines = "\n".join(f"{key}: {json.dumps(value)}" for key, value in header.items())
    use = ["anyorder", "sample", "PROBLEM", "--task", task, "--model", settings.model, "--policy", "THIS_FOLDER"]
    use += ["--order", "policy", *(["--trust-remote-code"] if settings.trust_remote_code else [])]
    use += [word for option in settings.model_options for word in ("--model-option", option)]
    parts = "\n".join(f"## {what.capitalize()}\n\n{markdown(report)}" for what, report in reports.items())
    return f"""---
{lines}
---

# An unmasking order for {settings.model}

An order policy ({architecture}) fitted to {fitted_to} sequences of {settings.data.name},
{settings.updates} updates, for the denoiser with the fingerprint {fingerprint(denoiser)}.

```
{_command(settings, task)}
{shlex.join(use)}
```

{gained}

{parts}"""
