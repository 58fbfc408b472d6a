"""`anyorder fit`: the library's story as one command. Bring a model and sequences; see what there is to gain, fit an order,
see what it gained, and get a folder with the policy and a card."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from torch import nn

from anyorder.decoding.tokens import Sample
from anyorder.denoisers.base import fingerprint
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.denoisers.transformer import Transformer
from anyorder.errors import BadInput
from anyorder.evaluation.evaluate import Progress, Report, evaluate
from anyorder.evaluation.statistics import mean_interval, sign_flip
from anyorder.evaluation.tables import markdown, rich_tables
from anyorder.files import write_json, write_text
from anyorder.orders.policies import ARCHITECTURES, LearnedOrder
from anyorder.session import key_values
from anyorder.tasks import TASKS, task_class
from anyorder.tasks.alphabets import Alphabet
from anyorder.tasks.base import Instances
from anyorder.tasks.sequence_files import Record, read_records, suffix_of
from anyorder.tasks.sequences import Sequences
from anyorder.training.fit import fit_order
from anyorder.training.settings import ObjectiveSettings, PolicySettings
from anyorder.zoo import SERVES, folder_of, speaks_esm, task_of
from anyorder.zoo.matching import task_for
from anyorder.zoo.options import load_model

HEURISTICS = ("random", "left_to_right", "confidence", "margin", "entropy")
TASK_OF_SUFFIX = {".fasta": "protein", ".fa": "protein", ".faa": "protein", ".smi": "molecules", ".smiles": "molecules"}
_TEST_SHARE, _TEST_MOST, _FEWEST = 0.1, 100, 10
_SMALL_LEAD = 1.0
"""Points of cell accuracy: an oracle that leads by less leaves an order nothing that is worth a fit."""


@dataclass(frozen=True)
class Wishes:
    """What the user asks for.

    Args:
        model: shipped or fetched name, folder or hub id.
        data: file of complete sequences.
        task: name of a sequence task; by the model, the column's name or the file's suffix when not given.
        steps: budget of forwards of the comparison. fit_steps, batch_size, seed: of the fit; comparisons take as large batches.
        hide: share of the symbols hidden in the in-filling comparison.
        samples: unconditional samples per order; 0 to leave that comparison out.
        architecture: of the policy.
        column: of a .csv or .jsonl file, where the sequences stand; `sequence`, `smiles` or `text` when not given.
        skip_unreadable: leave out sequences that the model cannot read; otherwise they are an error.
        headroom_only: stop once it is known what there is to gain.
        model_options: key=value options of the model, see `load_model`.
    """

    model: str
    data: Path
    task: str | None = None
    steps: int = 10
    fit_steps: int = 300
    batch_size: int = 32
    seed: int = 0
    hide: float = 0.5
    samples: int = 50
    architecture: str = "mlp"
    trust_remote_code: bool = False
    column: str = ""
    skip_unreadable: bool = False
    headroom_only: bool = False
    model_options: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Bench:
    """What is fitted and compared: complete sequences to fit to, others with a share hidden to compare on."""

    denoiser: Transformer | HuggingFaceDenoiser
    task: Sequences
    train: Instances
    test: Instances

    def lengths(self) -> list[int]:
        """Symbols of each test sequence."""
        frame = len(self.task.symbols.start) + len(self.task.symbols.end)
        return [int(n) - frame for n in (self.test.tokens != self.task.pad_token_id).sum(dim=1)]


def fit_and_compare(wishes: Wishes, folder: Path, console: Console, progress: Progress | None = None) -> LearnedOrder | None:
    """Measure the headroom, fit an order, compare, and write the policy, a report and a card into a folder.

    A tenth of the sequences (100 at most) is kept out of the fit and used for both comparisons. With `headroom_only` there is
    no fit and no policy, and the report has the first comparison alone.

    Raises:
        BadInput: a model or file that cannot be used, or a folder that holds another fit.
    """
    if wishes.headroom_only and (folder / "config.json").is_file():
        raise BadInput(f"{folder} holds a fit, whose report would be lost: give another folder with --out")
    bench = _prepare(wishes, console)
    none: dict[str, LearnedOrder] = {}

    def compare(orders: list[str], instances: Instances, policies: dict[str, LearnedOrder], sampled: bool) -> Report:
        report = evaluate(
            bench.denoiser, bench.task, instances, orders, [wishes.steps], load_policy=policies.__getitem__,
            seed=wishes.seed, batch_size=wishes.batch_size, progress=progress, token=Sample() if sampled else None,
            meta={"task": bench.task.name, "data": wishes.data.name, "denoiser": wishes.model, "hide": wishes.hide},
        )  # fmt: skip
        for table in rich_tables(report):
            console.print(table)
        return report

    hidden = f"{len(bench.test)} sequences, {100 * wishes.hide:.0f} % of their symbols hidden, {wishes.steps} steps"
    console.print(f"[bold]1. What is there to gain?[/bold] {hidden}; cell accuracy is the share recovered")
    first = compare([*HEURISTICS, "oracle"], bench.test, none, sampled=False)
    console.print(_headroom(first))
    if wishes.headroom_only:
        write_json(folder / "report.json", {"in-filling": first.to_json()})
        return None
    console.print(f"\n[bold]2. Fit an order[/bold] to {len(bench.train)} other sequences, by L_ORDER (arXiv 2606.00295, eq. 3)")
    policy = fit_order(
        bench.denoiser, bench.task, bench.train, folder, steps=wishes.fit_steps, batch_size=wishes.batch_size,
        seed=wishes.seed, policy=PolicySettings.model_validate({"architecture": wishes.architecture}), console=console,
        objective=ObjectiveSettings(name="order", states="uniform", quality=False),
    )  # fmt: skip
    console.print("\n[bold]3. What did it gain?[/bold] The same sequences")
    reports = {"in-filling": compare([*HEURISTICS, "policy", "oracle"], bench.test, {"policy": policy}, sampled=False)}
    verdict = _gain(reports["in-filling"])
    console.print(verdict)
    if wishes.samples:
        console.print(f"\n[bold]4. From nothing[/bold]: {wishes.samples} samples, lengths as in the data, temperature 1")
        lengths = bench.lengths()
        empty = bench.task.encode([f"_{{{lengths[i % len(lengths)]}}}" for i in range(wishes.samples)])
        reports["unconditional"] = compare([*HEURISTICS, "policy"], empty, {"policy": policy}, sampled=True)
    write_json(folder / "report.json", {what: report.to_json() for what, report in reports.items()})
    write_text(folder / "README.md", card(wishes, bench.task.name, bench.denoiser, len(bench.train), reports, verdict))
    return policy


def _prepare(wishes: Wishes, console: Console) -> _Bench:
    """Model, task and sequences, checked against one another."""
    if wishes.architecture not in ARCHITECTURES:
        raise BadInput(f"architecture {wishes.architecture!r} is unknown: use one of {', '.join(ARCHITECTURES)}")
    options = key_values(list(wishes.model_options), "--model-option")
    denoiser = load_model(wishes.model, options, trust_remote_code=wishes.trust_remote_code)
    records = list(read_records(wishes.data, wishes.column))
    name = wishes.task or _serves(wishes.model, denoiser) or _task_of_file(wishes.data, records)
    if not issubclass(task_class(name), Sequences):
        suitable = ", ".join(other for other in TASKS if issubclass(task_class(other), Sequences))
        raise BadInput(f"task {name!r} is not made of sequences: use one of {suitable}")
    lengths = _readable(name, wishes, denoiser, records, console)
    texts = list(lengths)
    if len(texts) < _FEWEST:
        which = " that the model can read" if wishes.skip_unreadable else ""
        raise BadInput(f"{wishes.data} holds {len(texts)} different sequences{which}; a fit needs {_FEWEST} or more")
    task = task_for(denoiser, name, length=max(lengths.values()))
    assert isinstance(task, Sequences)
    shuffled = [texts[i] for i in np.random.default_rng(wishes.seed).permutation(len(texts))]
    held = max(2, min(_TEST_MOST, int(_TEST_SHARE * len(texts))))
    test_task = task.variant({"hide": wishes.hide})
    return _Bench(denoiser, task, task.encode(shuffled[held:]), test_task.encode(shuffled[:held]))


def _serves(model: str, denoiser: Transformer | HuggingFaceDenoiser) -> str | None:
    """The task that a model is known to be for."""
    if isinstance(denoiser, Transformer):
        return task_of(folder_of(model)).name
    return "protein" if speaks_esm(denoiser) else SERVES.get(model)


def _task_of_file(path: Path, records: list[Record]) -> str:
    """The task that a file looks like: by the name of the column that the sequences stand in, else by its suffix."""
    if records and records[0].column.strip().lower() == "smiles":
        return "molecules"
    return TASK_OF_SUFFIX.get(suffix_of(path), "text")


def _readable(
    name: str, wishes: Wishes, denoiser: Transformer | HuggingFaceDenoiser, records: list[Record], console: Console
) -> dict[str, int]:
    """The different sequences that the model can read, and their symbols. The console says what is left out.

    Raises:
        BadInput: a sequence that it cannot read, where none is to be left out; the error says where.
    """
    task = task_for(denoiser, name)
    assert isinstance(task, Sequences)
    most = denoiser.max_length
    if most is not None:
        most -= len(task.symbols.start) + len(task.symbols.end)
    lengths: dict[str, int] = {}
    left_out, reason = 0, ""
    for record in records:
        text = record.text.strip()
        if text in lengths:
            continue
        try:
            lengths[text] = _count_symbols(text, task.symbols, most, f"{wishes.data}, {record.place}")
        except BadInput as error:
            if not wishes.skip_unreadable:
                raise BadInput(f"{error} (--skip-unreadable leaves such sequences out)") from error
            left_out, reason = left_out + 1, reason or str(error)
    if left_out:
        said = f"{left_out} of {len(records)} sequences left out, which the model cannot read; the first: {reason}"
        console.print(said, markup=False, soft_wrap=True)
    return lengths


def _count_symbols(text: str, symbols: Alphabet, most: int | None, place: str) -> int:
    """Symbols of a complete sequence.

    Raises:
        BadInput: it is empty, longer than `most`, not complete, or not of this alphabet.
    """
    try:
        tokens = symbols.encode(text)
    except BadInput as error:
        raise BadInput(f"{place}: {error}") from error
    if not tokens:
        raise BadInput(f"{place} is empty")
    if most is not None and len(tokens) > most:
        raise BadInput(f"{place} has {len(tokens)} symbols; this model takes {most} at most")
    if symbols.mask_token_id in tokens:
        number = tokens.index(symbols.mask_token_id) + 1
        raise BadInput(f"{place} has unknown symbols, the first is number {number}; a fit needs complete sequences")
    return len(tokens)


def _recovery(report: Report) -> dict[str, np.ndarray]:
    return {result.order: result.cells for result in report.results}


def _best(found: dict[str, np.ndarray]) -> str:
    return max(HEURISTICS, key=lambda name: float(found[name].mean()))


def _headroom(report: Report) -> str:
    found = _recovery(report)
    best = _best(found)
    mean, low, high = mean_interval(100 * (found["oracle"] - found[best]))
    said = (
        f"The best heuristic is {best} with {100 * found[best].mean():.1f} % recovered; the oracle's lead is {mean:.1f} points "
        f"({low:.1f} to {high:.1f})."
    )
    if mean < _SMALL_LEAD:
        return f"{said} No order can gain much here: the lead is under {_SMALL_LEAD:.0f} point."
    if low <= 0:
        return f"{said} No order can gain much here, as far as {len(found[best])} sequences tell: the interval includes 0."
    return said


def _gain(report: Report) -> str:
    found = _recovery(report)
    best = _best(found)
    difference = found["policy"] - found[best]
    mean, low, high = mean_interval(100 * difference)
    return (
        f"The policy recovers {100 * found['policy'].mean():.1f} %, {mean:+.1f} points ({low:+.1f} to {high:+.1f}, "
        f"p = {sign_flip(difference):.2g}) against the best heuristic, {best}, which was picked on these very sequences."
    )


def _command(wishes: Wishes, task: str) -> str:
    """The command that makes the same fit again."""
    options = {
        "model": wishes.model, "data": wishes.data.name, "task": task, "steps": wishes.steps, "fit-steps": wishes.fit_steps,
        "batch-size": wishes.batch_size, "hide": wishes.hide, "samples": wishes.samples, "architecture": wishes.architecture,
        "seed": wishes.seed,
    }  # fmt: skip
    if wishes.column:
        options["column"] = wishes.column
    flags = {"--skip-unreadable": wishes.skip_unreadable, "--trust-remote-code": wishes.trust_remote_code}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    words += [word for option in wishes.model_options for word in ("--model-option", option)]
    return shlex.join(["anyorder", "fit", *words, *(flag for flag, used in flags.items() if used)])


def card(wishes: Wishes, task: str, denoiser: nn.Module, fitted_to: int, reports: dict[str, Report], verdict: str) -> str:
    """A model card for the hub, with the tables."""
    header = {"library_name": "anyorder", "tags": ["masked-diffusion", "unmasking-order", task], "base_model": wishes.model}
    lines = "\n".join(f"{key}: {json.dumps(value)}" for key, value in header.items())
    use = ["anyorder", "sample", "PROBLEM", "--task", task, "--denoiser", wishes.model, "--policy", "THIS_FOLDER"]
    use += ["--order", "policy", *(["--trust-remote-code"] if wishes.trust_remote_code else [])]
    use += [word for option in wishes.model_options for word in ("--model-option", option)]
    parts = "\n".join(f"## {what.capitalize()}\n\n{markdown(report)}" for what, report in reports.items())
    return f"""---
{lines}
---

# An unmasking order for {wishes.model}

A {wishes.architecture} order policy fitted by L_ORDER (arXiv 2606.00295, eq. 3) to {fitted_to} sequences of {wishes.data.name},
{wishes.fit_steps} steps, for the denoiser with the fingerprint {fingerprint(denoiser)}.

```
{_command(wishes, task)}
{shlex.join(use)}
```

{verdict}

{parts}"""
