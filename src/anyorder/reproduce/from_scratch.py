"""Does eq. 4 of arXiv 2606.00295 give a better denoiser? Joint training from random weights to the same number of updates.

In the other joint targets a trained denoiser is trained on, which costs it points under every objective. Here plain L_MDM
makes the denoiser better to the end (which is tested), so that an objective can be better or worse. Each denoiser is decoded
by heuristics, which tells what the weights of the tokens did to it, and by the policy that L_ORDER trained beside it.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from anyorder.evaluation.tables import markdown_table
from anyorder.reproduce.outcome import Cells, Outcome, Solved, Target, difference, interval, percent
from anyorder.reproduce.study import Decoding, Setting, Study
from anyorder.training.recipes import AnyRecipe, load_recipe

ORDERS = ("random", "confidence", "log_margin", "policy")
NOISE = 0.5
LENGTH = "L"
"""The alpha that is the number of answer positions."""

_ALPHAS = {"confidence": ("1", LENGTH), "margin": ("1", LENGTH), "papl": ("1", LENGTH), "policy": ("1", "10", LENGTH)}
WEIGHTED = tuple(
    f"{weights}-{alpha}{schedule}"
    for weights, alphas in _ALPHAS.items()
    for alpha in alphas
    for schedule in (("", "-growing") if weights == "policy" else ("",))
)
VARIANTS = ("plain", "plain-half", "plain-rows", *WEIGHTED)
"""What the denoiser is trained by: plain L_MDM, also for half of the updates, and averaged over rows as PAPL is; or its tokens
weighted by 1 + alpha w, with w the softmax of the policy (eq. 4), of an order, or of PAPL. `growing`: alpha grows from 0."""

WIDTHS = (1, 16, 160, 1700)
"""Of the policy, to compare its size with that of the denoiser."""

TITLES = {
    "scratch-sudoku4": "Minimal 4x4 Sudoku, plain attention",
    "scratch-sorting": "Sorting 12 numbers",
    "scratch-addition": "Addition of 6 digits, half of the sums with long carries",
}


@dataclass(frozen=True)
class ScratchSetting(Setting):
    """A task on which a denoiser is trained from scratch within a minute.

    Args:
        label: its name.
        answers: positions to decode, the L of alpha = L.
        updates: of each training.
        sizes: whether policies of several `WIDTHS` are compared.
    """

    label: str = ""
    answers: int = 0
    updates: int = 0
    sizes: bool = False

    @property
    def name(self) -> str:
        """See `Setting`."""
        return self.label

    @property
    def variants(self) -> tuple[str, ...]:
        """What is trained, `width W` for the policies of other sizes."""
        return (*VARIANTS, *(f"width-{width}" for width in WIDTHS if self.sizes))


class ScratchStudy(Study):
    """A study whose models are named `scratch/VARIANT/SEED`."""

    def recipe(self, setting: Setting, kind: str, what: str, seed: str, changes: list[str]) -> AnyRecipe:
        """See `Study`."""
        assert isinstance(setting, ScratchSetting)
        weights, *rest = what.split("-")
        updates = setting.updates // 2 if rest == ["half"] else setting.updates
        changes = [*changes, *setting.joint_changes, f"run.steps={updates}"]
        if weights == "width":
            changes.append(f"policy.width={rest[0]}")
        elif weights == "plain":
            changes += ["joint.weights=uniform", *(["masking.normalize=rows"] if rest == ["rows"] else [])]
        else:
            changes += [f"joint.weights={weights}", f"joint.alpha={setting.answers if rest[0] == LENGTH else rest[0]}"]
            changes += ["joint.alpha_schedule=linear"] if rest[1:] else []
        return load_recipe(setting.adaptive, changes)

    def before(self, model: str) -> tuple[str, ...]:
        """See `Study`: nothing, since all start from random weights."""
        return ()


Found = dict[tuple[str, str, float], np.ndarray]
"""Solved or not, bool (seeds, N), by variant, order and noise."""


def _needs(settings: list[Setting], seeds: list[int]) -> list[Decoding]:
    return [
        Decoding(s, f"scratch/{variant}/{seed}", ORDERS, s.steps, noise)
        for s in settings
        if isinstance(s, ScratchSetting)
        for seed in seeds
        for variant in s.variants
        for noise in (0.0, NOISE)
    ]


def _layout(settings: list[Setting], seeds: list[int], solved: Solved, folder: Path) -> Outcome:
    cells, parts = Cells(solved, seeds), []
    values: dict[str, list[float]] = {}
    bars: dict[str, dict[str, dict[str, tuple[float, float, float]]]] = {}
    for s in settings:
        assert isinstance(s, ScratchSetting)
        found = {
            (variant, order, noise): cells.of(s, f"scratch/{variant}/{{seed}}", order, noise)
            for variant in s.variants
            for order in ORDERS
            for noise in (0.0, NOISE)
        }
        parts += [f"### {TITLES[s.label]}\n", _levels(found), _differences(found)]
        if s.sizes:
            parts.append(_sizes(s, found, folder, seeds))
        values |= {f"{s.label} {' '.join(map(str, key))}": [float(row.mean()) for row in cell] for key, cell in found.items()}
        bars[TITLES[s.label]] = _bars(found)
    y_label = "instance accuracy by confidence, %"
    return Outcome("Joint training from scratch", "\n".join(parts), values, bars=bars, y_label=y_label)


def _bars(found: Found) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Each objective of the smallest and the largest alpha, beside plain L_MDM that is averaged alike."""

    def bar(variant: str) -> tuple[float, float, float]:
        solved = found[variant, "confidence", 0.0]
        low, high = interval(solved)
        return 100 * float(solved.mean()), 100 * low, 100 * high

    groups = [(weights, end) for weights in _ALPHAS for end in ("", "-growing") if f"{weights}-{LENGTH}{end}" in VARIANTS]
    return {
        weights + end.replace("-", ",\n"): {
            "plain L_MDM, averaged alike": bar(_plain_of(weights)),
            **{f"alpha = {alpha}": bar(f"{weights}-{alpha}{end}") for alpha in ("1", LENGTH)},
        }
        for weights, end in groups
    }


def _plain_of(variant: str) -> str:
    """The control of a variant: PAPL is averaged over rows."""
    return "plain-rows" if variant.startswith("papl") else "plain"


def _levels(found: Found) -> str:
    header = ["denoiser trained by", *(f"decoded by {order}" for order in ORDERS), f"by its policy, noise {NOISE}"]
    rows = [
        [variant, *(percent(found[variant, order, 0.0]) for order in ORDERS), percent(found[variant, "policy", NOISE])]
        for variant in VARIANTS
    ]
    return markdown_table(header, rows)


def _differences(found: Found) -> str:
    """What an objective adds to plain L_MDM under one order, and what the policy adds to confidence on one denoiser."""
    improved = difference(found["plain", "confidence", 0.0], found["plain-half", "confidence", 0.0], by_seed=False)
    rows = []
    for variant in VARIANTS:
        ours = {order: found[variant, order, 0.0] for order in ORDERS}
        control = _plain_of(variant)
        others = [] if variant == "plain" else [difference(ours[o], found[control, o, 0.0], by_seed=False) for o in ORDERS[1:]]
        rows.append([variant, *(others or [""] * 3), difference(ours["policy"], ours["confidence"], by_seed=False)])
    header = ["", *(f"minus plain, both by {order}" for order in ORDERS[1:]), "policy minus confidence, same denoiser"]
    note = f"The second half of plain training adds {improved} under confidence. For PAPL, plain is `plain-rows`.\n\n"
    return note + markdown_table(header, rows)


def _sizes(setting: ScratchSetting, found: Found, folder: Path, seeds: list[int]) -> str:
    """Does the size of the policy matter?"""
    study, rows = ScratchStudy(folder), []
    for width in WIDTHS:
        place = study.model_folder(setting, f"scratch/width-{width}/{seeds[0]}")
        share = weight_count(place / "order") / weight_count(place)
        ours = {order: found[f"width-{width}", order, 0.0] for order in ("confidence", "policy")}
        rows.append(
            [
                f"{width}", f"{100 * share:.2g} %", percent(ours["confidence"]), percent(ours["policy"]),
                difference(ours["confidence"], found["plain", "confidence", 0.0], by_seed=False),
                difference(ours["policy"], ours["confidence"], by_seed=False),
            ]
        )  # fmt: skip
    header = [
        "width of the policy", "its weights over those of the denoiser", "by confidence", "by the policy",
        "minus plain, both by confidence", "policy minus confidence",
    ]  # fmt: skip
    return "Eq. 4 with alpha 1 and policies of several sizes:\n\n" + markdown_table(header, rows)


def weight_count(folder: Path) -> int:
    """How many numbers the weights in a folder hold."""
    return sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())


def _about(settings: list[Setting], seeds: list[int], scale: str) -> str:
    lines = [
        f"Scale {scale}; seeds {', '.join(map(str, seeds))}, each with its own denoiser, policy and batches. Percent of "
        "problems solved, by the rules; 95 % intervals over seeds and problems; p by a sign-flip test over the problems for "
        "these seeds. Argmax tokens. Denoiser and policy start from random weights; all variants of a seed see the same "
        "batches and take the same number of updates. The tokens are weighted by 1 + alpha w: with w the softmax of the "
        "policy (eq. 4), of an order, or of PAPL, and alpha as named; `growing`: from 0. L_ORDER trains a policy beside each "
        "denoiser, also where the weights are not its own.\n"
    ]
    for s in settings:
        assert isinstance(s, ScratchSetting)
        lines.append(
            f"- {s.label}: {s.task} {s.options}, {s.problems} generated problems ({s.generated}), "
            f"T = {s.steps}, L = {s.answers}; `{s.adaptive}` with run.steps={s.updates} {' '.join(s.joint_changes)}"
        )
    return "\n".join(lines) + "\n"


_MUON = ("optimizer.name=muon", "optimizer.lr=4e-3", "optimizer.ema=0.95")
SMALL = (
    ScratchSetting(
        task="sudoku", options={"box": 2}, denoiser="", adaptive="sudoku4-joint", problems=500, generate={"givens": 0}, steps=4,
        label="scratch-sudoku4", answers=16, updates=300, sizes=True,
    ),
    ScratchSetting(
        task="sorting", options={"items": 12, "values": 40}, denoiser="", adaptive="sudoku4-joint",
        joint_changes=(
            "denoiser=sorting-denoiser", 'task={name="sorting", options={items=12, values=40}}', "data.options={}", *_MUON,
        ),
        problems=500, steps=2, label="scratch-sorting", answers=12, updates=200,
    ),
    ScratchSetting(
        task="arithmetic", options={"operation": "add", "digits": 6}, denoiser="", adaptive="sudoku4-joint",
        joint_changes=(
            "denoiser=addition-denoiser", 'task={name="arithmetic", options={operation="add", digits=6}}',
            "data.options={carry=0.5}", *_MUON,
        ),
        problems=500, generate={"carry": 0.5}, steps=2, label="scratch-addition", answers=7, updates=250,
    ),
)  # fmt: skip
TARGETS = {"joint-from-scratch": Target(tuple(TITLES), _needs, _layout, ScratchStudy, _about, minutes=25)}
