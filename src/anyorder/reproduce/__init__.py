"""Reproducing the papers: one target per table or figure, at two scales, each with one command."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from anyorder.errors import BadInput, shorten
from anyorder.evaluation.comparison import environment
from anyorder.files import write_json, write_text
from anyorder.report.plots import bars, panels
from anyorder.reproduce import (
    adaptive,
    draws,
    falsification,
    from_scratch,
    language,
    proteins,
    reward,
    speed,
    stability,
    transfer,
)
from anyorder.reproduce.outcome import Outcome
from anyorder.reproduce.study import Setting, is_given

TARGETS = (
    adaptive.TARGETS
    | stability.TARGETS
    | from_scratch.TARGETS
    | falsification.TARGETS
    | proteins.TARGETS
    | reward.TARGETS
    | draws.TARGETS
    | speed.TARGETS
    | transfer.TARGETS
    | language.TARGETS
)

_SORTING = ("task.name=sorting", "task.options={items=16}", "data.options={}", "run.log_steps=10")
_TSP = ("task.name=tsp", "task.options={cities=5, grid=5}", "data.options={}", "run.log_steps=10")
_EASY: dict[str, object] = {"givens": (31, 36), "difficulty": "naked single"}
_EASY_DATA = ('data.options={givens=[31, 36], difficulty="naked single"}',)
"""Puzzles that naked singles solve, as all those of the paper's source do; the recipes alone train on puzzles of any kind."""
_SETTINGS: dict[str, list[Setting]] = {
    "small": [
        Setting(
            task="sudoku",
            options={"box": 3},
            denoiser="sudoku9",
            adaptive="sudoku9-adaptive",
            policy_changes=("run.steps=150",),
            from_random=("run.steps=600",),
            longer=("run.steps=1200",),
            joint_changes=("run.steps=150", "joint.lr_scale=0.3"),
            problems=300,
            generate={"givens": 0},
            figure_steps=(5, 10, 20),
        ),
        Setting(
            task="sat",
            options={"variables": 9},
            denoiser="sat9",
            adaptive="sat9-adaptive",
            policy_changes=("run.steps=80", "run.batch_size=32"),
            from_random=("run.steps=300",),
            longer=("run.steps=600",),
            joint_changes=("run.steps=100", "run.batch_size=32", "joint.lr_scale=0.3"),
            problems=400,
            steps=9,
            figure_steps=(1, 3, 5, 9),
        ),
        Setting(
            task="sorting",
            options={"items": 16},
            denoiser="sorting-denoiser",
            denoiser_changes=("run.steps=200", "optimizer.ema=0.95"),
            adaptive="sudoku9-adaptive",
            policy_changes=(*_SORTING, "run.steps=100"),
            joint_changes=(*_SORTING, "run.steps=100"),
            problems=500,
            figure_steps=(1, 2, 4, 8, 16),
        ),
        Setting(
            task="tsp",
            options={"cities": 5, "grid": 5},
            denoiser="tsp-denoiser",
            denoiser_changes=(
                "task.options={cities=5, grid=5}",
                "run.steps=600",
                "optimizer.ema=0.99",
                "masking.normalize=rows",
            ),
            adaptive="sudoku9-adaptive",
            policy_changes=(*_TSP, "run.steps=100"),
            joint_changes=(*_TSP, "run.steps=100"),
            problems=500,
            figure_steps=(1, 2, 4),
        ),
        *reward.SMALL,
        speed.SUDOKU,
        speed.WORDS,
        *transfer.SMALL,
        *language.SMALL,
        *from_scratch.SMALL,
    ],
    "paper": [
        Setting(
            task="sudoku",
            options={"box": 3, "layout": "prefix"},
            denoiser="sudoku9-paper-denoiser",
            adaptive="sudoku9-paper-adaptive",
            problems=1000,
            generate=_EASY,
            denoiser_changes=_EASY_DATA,
            policy_changes=_EASY_DATA,
            joint_changes=_EASY_DATA,
            figure_steps=(5, 10, 20, 50, 100),
        ),
        Setting(
            task="sat",
            options={"variables": 9, "layout": "prefix"},
            denoiser="sat9-paper-denoiser",
            adaptive="sat9-paper-adaptive",
            problems=1000,
            figure_steps=(1, 3, 5, 9, 20),
        ),
        proteins.PAPER,
    ],
}
SCALES = {scale: {s.name: s for s in settings} for scale, settings in _SETTINGS.items()}


def check_target(target: str, scale: str, only: str = "") -> None:
    """Refuse a target that is unknown, or has no such scale or task.

    Raises:
        BadInput: it is, or has none.
    """
    if target not in TARGETS or scale not in SCALES:
        raise BadInput(f"{target} at scale {scale} is unknown: use one of {', '.join(TARGETS)}, and {' or '.join(SCALES)}")
    tasks = TARGETS[target].tasks
    missing = [task for task in tasks if task not in SCALES[scale]]
    if missing:
        elsewhere = " or ".join(name for name, found in SCALES.items() if set(tasks) <= found.keys())
        raise BadInput(f"{target} has no {scale} scale: {', '.join(missing)} run at --scale {elsewhere}")
    if only and only not in tasks:
        raise BadInput(f"{target} is not about {shorten(only)!r}: its tasks are {', '.join(tasks)}")


def reproduce(
    target: str,
    scale: str,
    folder: Path,
    *,
    seeds: list[int],
    workers: int,
    problems: int | None = None,
    only: str = "",
    say: Callable[[str], None] = print,
) -> Outcome:
    """Train and decode what a target needs and the folder does not hold yet, and write TARGET.md, .json and .png to the folder,
    with `only` TARGET-ONLY.md and so on.

    Args:
        target: a table or figure, see `TARGETS`.
        scale: "small" (two cores, within an hour) or "paper" (one GPU).
        folder: the folder of all targets of this scale; they share models and decodings.
        seeds: seeds of the fits.
        workers: number of processes.
        problems: test problems per task, instead of the scale's own number.
        only: the one task of the target that is wanted; all of them by default.
        say: called with reports of progress.

    Raises:
        BadInput: an unknown target or scale, a target whose models cannot be reached, or which has no such task.
    """
    check_target(target, scale, only)
    if len(set(seeds)) < len(seeds):
        raise BadInput(f"seeds {', '.join(map(str, seeds))}: give each seed once")
    known, tasks = SCALES[scale], (only,) if only else TARGETS[target].tasks
    settings = [replace(known[task], problems=problems or known[task].problems) for task in tasks]
    needs = TARGETS[target].needs(settings, seeds)
    solved = TARGETS[target].study(folder).decode_all(needs, workers, say)
    outcome = TARGETS[target].layout(settings, seeds, solved, folder)
    about = (TARGETS[target].about or _about)(settings, seeds, scale)
    name = f"{target}-{only}" if only else target
    write_text(folder / f"{name}.md", f"# {outcome.title}\n\n{about}\n{outcome.markdown}")
    write_json(
        folder / f"{name}.json",
        {
            "target": target, "scale": scale, "seeds": seeds, "values": outcome.values,
            "settings": [asdict(s) for s in settings], "meta": environment(),
        },
    )  # fmt: skip
    if outcome.lines:
        panels(outcome.lines, folder / f"{name}.png", outcome.x_label, outcome.y_label, outcome.log_x)
    elif outcome.bars:
        bars(outcome.bars, folder / f"{name}.png", outcome.y_label)
    return replace(outcome, markdown=f"{about}\n{outcome.markdown}")


def describe_targets() -> str:
    """Every target with its cost at small scale, the fewest trainings first, for help texts."""

    def cost(name: str) -> tuple[float, str]:
        if not set(TARGETS[name].tasks) <= SCALES["small"].keys():
            return math.inf, "paper scale only"
        count, minutes = trainings(name), TARGETS[name].minutes
        return count, f"{count} trainings, {minutes} min" if minutes else f"{count} trainings"

    return ", ".join(f"{name} ({cost(name)[1]})" for name in sorted(TARGETS, key=lambda name: (cost(name)[0], name)))


def trainings(target: str, seeds: Sequence[int] = (0, 1, 2)) -> int:
    """How many models a target trains at small scale, from an empty folder."""
    settings = [SCALES["small"][task] for task in TARGETS[target].tasks]
    study = TARGETS[target].study(Path())
    models = set()
    for decoding in TARGETS[target].needs(settings, list(seeds)):
        for model in (*study.before(decoding.model), decoding.model):
            if not is_given(decoding.setting, model):
                models.add(study.model_folder(decoding.setting, model))
    return len(models)


def _about(settings: list[Setting], seeds: list[int], scale: str) -> str:
    """The settings that stand above every table."""
    lines = [
        f"Scale {scale}; seeds {', '.join(map(str, seeds))}. Percent of instances solved, by the rules: mean over seeds, 95 % "
        "interval over seeds and puzzles (hierarchical bootstrap; Wilson's over the puzzles for one seed), sd over seeds. "
        "Differences are paired, p by a sign-flip test over the puzzles for these seeds. Absorbing decoding with argmax tokens "
        "and a linear schedule unless stated otherwise; policies start at the confidence order unless stated otherwise."
    ]
    for s in settings:
        changes = [f"{name} {' '.join(values)}" for name, values in _changes(s) if values]
        lines.append(
            f"- {s.task} {s.options}: {s.problems} generated problems ({s.generated}), the same "
            f"for every model; T = {s.steps}; denoiser `{s.denoiser}`, from which joint training starts; `{s.adaptive}`"
            f"{' with ' + '; '.join(changes) if changes else ''}."
        )
    return "\n".join(lines) + "\n"


def _changes(s: Setting) -> list[tuple[str, tuple[str, ...]]]:
    return [
        ("denoiser:", s.denoiser_changes),
        ("policy:", s.policy_changes),
        ("joint:", s.joint_changes),
    ]
