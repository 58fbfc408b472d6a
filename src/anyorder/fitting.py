"""`anyorder fit`: the library's story as one command. Bring a model and sequences; see what there is to gain, fit an order,
see what it gained, and get a folder with the policy and a card."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from torch import nn

from anyorder.decoding.tokens import Sample
from anyorder.denoisers.base import default_device, fingerprint
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.denoisers.transformer import Transformer
from anyorder.errors import BadInput
from anyorder.evaluation.evaluate import Progress, Report, evaluate
from anyorder.evaluation.statistics import mean_interval, sign_flip
from anyorder.evaluation.tables import markdown, rich_tables
from anyorder.files import write_json, write_text
from anyorder.orders.policies import ARCHITECTURES, LearnedOrder
from anyorder.tasks import TASKS, make_task
from anyorder.tasks.base import Instances
from anyorder.tasks.sequences import Sequences, read_sequences
from anyorder.training.fit import fit_order
from anyorder.training.settings import ObjectiveSettings, PolicySettings
from anyorder.zoo import SERVES, folder_of, load_denoiser, task_of
from anyorder.zoo.serving import task_for

HEURISTICS = ("random", "left_to_right", "confidence", "margin", "entropy")
TASK_OF_SUFFIX = {".fasta": "protein", ".fa": "protein", ".faa": "protein", ".smi": "molecules", ".smiles": "molecules"}
_TEST_SHARE, _TEST_MOST, _FEWEST = 0.1, 100, 10


@dataclass(frozen=True)
class Wishes:
    """What the user asks for.

    Args:
        model: shipped or fetched name, folder or hub id.
        data: file of complete sequences.
        task: name of a sequence task; by the model or the file's suffix when not given.
        steps: budget of forwards of the comparison. fit_steps, batch_size, seed: of the fit.
        hide: share of the symbols hidden in the in-filling comparison.
        samples: unconditional samples per order; 0 to leave that comparison out.
        architecture: of the policy.
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


def fit_and_compare(wishes: Wishes, folder: Path, console: Console, progress: Progress | None = None) -> LearnedOrder:
    """Measure the headroom, fit an order, compare, and write the policy, a report and a card into a folder.

    A tenth of the sequences (100 at most) is kept out of the fit and used for both comparisons.

    Raises:
        BadInput: a model or file that cannot be used, or a folder that holds another fit.
    """
    bench = _prepare(wishes)
    none: dict[str, LearnedOrder] = {}

    def compare(orders: list[str], instances: Instances, policies: dict[str, LearnedOrder], sampled: bool) -> Report:
        report = evaluate(
            bench.denoiser, bench.task, instances, orders, [wishes.steps], load_policy=policies.__getitem__,
            seed=wishes.seed, batch_size=32, progress=progress, token=Sample() if sampled else None,
            meta={"task": bench.task.name, "data": wishes.data.name, "denoiser": wishes.model, "hide": wishes.hide},
        )  # fmt: skip
        for table in rich_tables(report):
            console.print(table)
        return report

    hidden = f"{len(bench.test)} sequences, {100 * wishes.hide:.0f} % of their symbols hidden, {wishes.steps} steps"
    console.print(f"[bold]1. What is there to gain?[/bold] {hidden}; cell accuracy is the share recovered")
    console.print(_headroom(compare([*HEURISTICS, "oracle"], bench.test, none, sampled=False)))
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


def _prepare(wishes: Wishes) -> _Bench:
    """Model, task and sequences, checked against one another."""
    if wishes.architecture not in ARCHITECTURES:
        raise BadInput(f"architecture {wishes.architecture!r} is unknown: use one of {', '.join(ARCHITECTURES)}")
    denoiser = load_denoiser(wishes.model, trust_remote_code=wishes.trust_remote_code)
    denoiser.to(default_device())
    places: dict[str, str] = {}
    for place, line in read_sequences(wishes.data):
        places.setdefault(line.strip(), f"{wishes.data}, {place}")
    texts = list(places)
    name = wishes.task or _serves(wishes.model, denoiser) or TASK_OF_SUFFIX.get(wishes.data.suffix.lower(), "text")
    if name not in TASKS or not issubclass(TASKS[name], Sequences):
        raise BadInput(f"task {name!r} is none of sequences: use text, protein, antibody or molecules")
    if len(texts) < _FEWEST:
        raise BadInput(f"{wishes.data} holds {len(texts)} different sequences; a fit needs {_FEWEST} or more")
    task = task_for(name, wishes.model, denoiser, {"length": _longest(name, wishes.model, denoiser, places)})
    assert isinstance(task, Sequences)
    shuffled = [texts[i] for i in np.random.default_rng(wishes.seed).permutation(len(texts))]
    held = max(2, min(_TEST_MOST, int(_TEST_SHARE * len(texts))))
    test_task = make_task(name, **{**task.options, "hide": wishes.hide})
    assert isinstance(test_task, Sequences)
    train, test = task.encode(shuffled[held:]), test_task.encode(shuffled[:held])
    if train.x0 is None or test.x0 is None:
        raise BadInput(f"{wishes.data} holds sequences with unknown symbols; a fit needs complete ones")
    return _Bench(denoiser, task, train, test)


def _serves(model: str, denoiser: nn.Module) -> str | None:
    """The task that a model is known to be for."""
    return task_of(folder_of(model)).name if isinstance(denoiser, Transformer) else SERVES.get(model)


def _longest(name: str, model: str, denoiser: nn.Module, places: dict[str, str]) -> int:
    """Symbols of the longest sequence.

    Args:
        places: where in the file each sequence stands.
    """
    task: Any = task_for(name, model, denoiser, {})  # type: ignore[arg-type]
    frame = len(task.symbols.start) + len(task.symbols.end)
    most, longest = getattr(denoiser, "max_length", None), 1
    for text, place in places.items():
        try:
            count = len(task.symbols.encode(text))
        except BadInput as error:
            raise BadInput(f"{place}: {error}") from error
        if most is not None and count + frame > most:
            raise BadInput(f"{place} has {count} symbols; this model takes {most - frame} at most")
        longest = max(longest, count)
    return longest


def _recovery(report: Report) -> dict[str, np.ndarray]:
    return {result.order: result.cells for result in report.results}


def _best(found: dict[str, np.ndarray]) -> str:
    return max(HEURISTICS, key=lambda name: float(found[name].mean()))


def _headroom(report: Report) -> str:
    found = _recovery(report)
    best = _best(found)
    room = 100 * float(found["oracle"].mean() - found[best].mean())
    return (
        f"The best heuristic is {best} with {100 * found[best].mean():.1f} % recovered; the oracle's lead is {room:.1f} points."
    )


def _gain(report: Report) -> str:
    found = _recovery(report)
    best = _best(found)
    difference = found["policy"] - found[best]
    mean, low, high = mean_interval(100 * difference)
    return (
        f"The policy recovers {100 * found['policy'].mean():.1f} %, {mean:+.1f} points ({low:+.1f} to {high:+.1f}, "
        f"p = {sign_flip(difference):.2g}) against the best heuristic, {best}, which was picked on these very sequences."
    )


def card(wishes: Wishes, task: str, denoiser: nn.Module, fitted_to: int, reports: dict[str, Report], verdict: str) -> str:
    """A model card for the hub, with the tables."""
    header = {"library_name": "anyorder", "tags": ["masked-diffusion", "unmasking-order", task], "base_model": wishes.model}
    lines = "\n".join(f"{key}: {json.dumps(value)}" for key, value in header.items())
    parts = "\n".join(f"## {what.capitalize()}\n\n{markdown(report)}" for what, report in reports.items())
    return f"""---
{lines}
---

# An unmasking order for {wishes.model}

A {wishes.architecture} order policy fitted by L_ORDER (arXiv 2606.00295, eq. 3) to {fitted_to} sequences of {wishes.data.name},
{wishes.fit_steps} steps, for the denoiser with the fingerprint {fingerprint(denoiser)}.

```
anyorder fit --model {wishes.model} --data {wishes.data.name} --task {task} --fit-steps {wishes.fit_steps} --seed {wishes.seed}
anyorder sample PROBLEM --task {task} --denoiser {wishes.model} --policy THIS_FOLDER --order policy
```

{verdict}

{parts}"""
