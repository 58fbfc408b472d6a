"""`anyorder fit`: find the best sampler for a model, problems and a budget of forward passes.

Heuristics are compared on validation problems, an order is fitted to other problems, samplers with it are compared on the
validation problems too, and the best sampler is tested on problems on which nothing was chosen. By construction it is as good
as the best heuristic, up to the error of the comparison.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from anyorder.decoding.sampler import Sampler
from anyorder.decoding.tokens import Sample
from anyorder.denoisers.shared_passes import SharedPasses
from anyorder.errors import BadInput, WrongDenoiser, counted
from anyorder.evaluation.batches import Progress
from anyorder.evaluation.choice import Compare, Gain, advice, best, choose, gain, heuristics, joined, learned, oracles
from anyorder.evaluation.comparison import evaluate
from anyorder.evaluation.critic_check import FEWEST, accept_level, review
from anyorder.evaluation.results import Report
from anyorder.evaluation.stages import Stages
from anyorder.evaluation.tables import grids_of, rich_table
from anyorder.files import check_writable, write_json, write_text
from anyorder.fitting.card import card
from anyorder.fitting.data import Bench, prepare
from anyorder.fitting.settings import FitSettings as FitSettings
from anyorder.orders.learned import LearnedOrder, saved_order
from anyorder.registry import POLICIES
from anyorder.tasks import Instances, Sequences, check_size
from anyorder.tasks.instances import check_open
from anyorder.training.fit import check_fit, fit_planned, plan_fit
from anyorder.training.run_folder import check_free
from anyorder.training.solutions import several_solutions

SAMPLER = "sampler"
"""Folder of the chosen sampler, within that of the fit."""


@dataclass(frozen=True)
class Fit:
    """The result of a fit.

    Args:
        sampler: the best one, with its budget.
        label: what it is called in the reports.
        heuristic: label of the best heuristic.
        order: the fitted order.
        gain: of the sampler over the best heuristic on the test problems, in points of the main metric; None if the sampler is
            that heuristic.
        reports: of the comparisons, by name.
        advice: what to do, in words.
        seconds: how long each stage took.
    """

    sampler: Sampler
    label: str
    heuristic: str
    order: LearnedOrder
    gain: Gain | None
    reports: dict[str, Report]
    advice: str
    seconds: dict[str, float]


def fit_and_compare(settings: FitSettings, folder: Path, console: Console, progress: Progress | None = None) -> Fit:
    """Compare heuristics, fit an order, choose a sampler, test it, and write the policy, the sampler, a report and a card.

    Raises:
        BadInput: a model or file that cannot be used, or a folder that holds another fit, a model or a card.
    """
    check_writable(folder, folder=True)
    if folder.exists() and Path(settings.model).exists() and folder.samefile(settings.model):
        raise BadInput(f"{folder} is the model's own folder, which the fit would overwrite: give another one with --out")
    check_free(folder, "README.md")
    if settings.architecture:
        POLICIES.entry(settings.architecture)  # an unknown one is an error before the work
    stages = Stages()
    bench = prepare(settings, console)
    for instances in (bench.train, bench.validation, bench.test):
        check_open(instances)
    check_size(settings.samples, bench.test.tokens.shape[1])
    several = several_solutions(bench.denoiser, bench.task, bench.train)
    recipe = plan_fit(
        bench.denoiser, bench.task, bench.train, steps=settings.updates, batch_size=settings.train_batch_size,
        seed=settings.seed, policy=settings.architecture or None, budget=settings.steps, several=several,
    )  # fmt: skip
    check_fit(recipe, bench.denoiser, bench.train, folder)
    run = _Run(settings, bench, console, progress)
    stages.lap("problems")
    budget = "one position per step" if settings.steps is None else f"{settings.steps} forward passes"
    console.print(f"[bold]1. Heuristics[/bold], {budget}: {counted(len(bench.first), 'problem')}{run.hidden}")
    compare = run.on(bench.first)
    reports = {"heuristics": run.show(joined(heuristics(bench.task, compare), compare(oracles())))}
    heuristic = best(reports["heuristics"], "heuristic").order
    stages.lap("heuristics")
    console.print(f"\n[bold]2. Fit an order[/bold] to {counted(len(bench.train), 'other problem')}")
    if recipe.kind == "reward":
        console.print("The problems have several solutions, of which the task knows one, so the order is trained by its rules.")
    order = fit_planned(recipe, bench.denoiser, bench.task, bench.train, folder, console)
    stages.lap("fit")
    if order.critic is not None:
        console.print(run.calibrate(order, folder))
        stages.lap("calibration")
    count = counted(len(bench.validation), "validation problem")
    console.print(f"\n[bold]3. Samplers that use it[/bold], and the best heuristic, on {count}{run.hidden}")
    samplers = {heuristic: run.samplers[heuristic], **run.learned(order, run.samplers[heuristic])}
    reports["choice"] = run.show(run.on(bench.validation)(samplers))
    label = choose(reports["choice"])
    console.print(f"Chosen: {label}")
    stages.lap("choice")
    console.print(f"\n[bold]4. Test[/bold] on {counted(len(bench.test), 'problem')} on which nothing was chosen{run.hidden}")
    tested = {name: samplers[name] for name in dict.fromkeys((heuristic, label, "policy"))}
    reports["test"] = test = run.show(run.on(bench.test)({**tested, **oracles()}))
    gains = [gain(test, name, heuristic) for name in tested if name != heuristic]
    if any(one.what == label and one.high < 0 for one in gains):
        console.print(
            f"{label} was chosen, and is significantly worse than {heuristic} on the test problems, which replaces it."
        )
        label = heuristic
    said = advice(test, heuristic, gains, several, label)
    console.print(said, style="bold")
    stages.lap("test")
    if settings.samples and isinstance(bench.task, Sequences):
        reports["unconditional"] = run.unconditional(bench.task, {heuristic: samplers[heuristic], "policy": Sampler(order)})
        stages.lap("unconditional generation")
    console.print(f"It took {stages}")
    sampler = samplers[label].replace(steps=settings.steps)
    sampler.save_pretrained(folder / SAMPLER)
    write_json(folder / "report.json", {what: one.to_json() for what, one in reports.items()})
    write_text(folder / "README.md", card(settings, order, bench, reports, said, label, SAMPLER, str(stages)))
    chosen = next((one for one in gains if one.what == label), None)
    return Fit(sampler, label, heuristic, order, chosen, reports, said, stages.seconds)


def _own_order(denoiser: Any, console: Console) -> LearnedOrder | None:
    """The model's own order, if it has one that was fitted to it."""
    if not getattr(denoiser, "own_order", None):
        return None
    try:
        return saved_order(denoiser)
    except WrongDenoiser:
        console.print(f"The model's own policy in {denoiser.own_order} was fitted to other weights, and is left out.")
        return None


class _Run:
    """The comparisons of a fit. `samplers` are those compared so far, by label."""

    def __init__(self, settings: FitSettings, bench: Bench, console: Console, progress: Progress | None) -> None:
        self.settings, self.bench, self.console, self.progress = settings, bench, console, progress
        self.samplers: dict[str, Sampler] = {}
        self.shared = SharedPasses(bench.denoiser)
        self.own_order = _own_order(bench.denoiser, console)
        sequences = isinstance(bench.task, Sequences)
        self.hidden = f", {100 * settings.hide:.0f} % of their symbols hidden" if sequences else ""

    def on(self, instances: Instances) -> Compare:
        """A function that compares samplers on problems."""
        settings, bench = self.settings, self.bench
        name = "generated" if settings.data is None else settings.data.name
        meta = {"task": bench.task.name, "data": name, "denoiser": settings.model}

        def compare(samplers: Mapping[str, Sampler]) -> Report:
            self.samplers |= samplers
            return evaluate(
                bench.denoiser, bench.task, instances, samplers, settings.steps or instances.longest, seed=settings.seed,
                batch_size=settings.batch_size, progress=self.progress, meta=meta, shared=self.shared,
            )  # fmt: skip

        return compare

    def show(self, report: Report) -> Report:
        """Print a report, and return it."""
        for title, header, rows in grids_of(report):
            if "by difficulty" not in title:  # they are in the card
                self.console.print(rich_table(title, header, rows))
        return report

    def learned(self, order: LearnedOrder, heuristic: Sampler) -> dict[str, Sampler]:
        """Samplers with the fitted order, and with the model's own order, if it has one."""
        slow = self.settings.steps is None or self.settings.steps > self.bench.validation.longest
        found = learned(order, heuristic, slow=slow)
        if self.own_order is not None:
            found |= learned(self.own_order, heuristic, "shipped policy", slow=slow)
        return found

    def calibrate(self, order: LearnedOrder, folder: Path) -> str:
        """Choose on the validation problems from which doubt on `undo` rejects a sequence, and save it with the policy."""
        settings, bench = self.settings, self.bench
        steps = settings.steps or bench.validation.longest
        found = review(
            self.shared, bench.task, bench.validation, order, steps, seed=settings.seed, batch_size=settings.batch_size,
            progress=self.progress,
        )  # fmt: skip
        level = accept_level(found)
        if level is None:
            return f"The critic was not validated: fewer than {FEWEST} of the validation problems were decoded right, or wrong."
        order.policy.about["accept"] = level
        order.policy.save_pretrained(folder)
        right, wrong = found.least[found.correct] >= level, found.least[~found.correct] < level
        if not level:
            return "The critic does not tell right sequences from wrong ones: undo accepts all."
        return (
            f"The critic accepts {100 * right.double().mean():.0f} % of the right sequences and rejects "
            f"{100 * wrong.double().mean():.0f} % of the wrong ones, at the level {level:.2f}."
        )

    def unconditional(self, task: Sequences, samplers: Mapping[str, Sampler]) -> Report:
        """Samples of empty sequences, at temperature 1."""
        count = self.settings.samples
        self.console.print(
            f"\n[bold]5. Unconditional generation[/bold]: {counted(count, 'sample')}, lengths as in the data, temperature 1"
        )
        lengths = self.bench.lengths()
        empty = task.encode([f"_{{{lengths[i % len(lengths)]}}}" for i in range(count)])
        drawn = {label: sampler.replace(token=Sample()) for label, sampler in samplers.items()}
        return self.show(self.on(empty)({"random": Sampler.parse("random", token=Sample()), **drawn}))
