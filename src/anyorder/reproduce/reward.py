"""The tables and figures of "Improving Discrete Diffusion Unmasking Policies Beyond Explicit Reference Policies" (UPO,
arXiv 2510.05725), on our own denoisers, which leave room for an order."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from anyorder.evaluation.statistics import crossed_share, share_interval, sign_flip
from anyorder.evaluation.tables import markdown_table
from anyorder.files import read_json
from anyorder.report.sources import read_metrics
from anyorder.reproduce import published
from anyorder.reproduce.outcome import Cells, Outcome, Solved, Target, difference, percent
from anyorder.reproduce.study import Decoding, Setting, Study
from anyorder.training.checkpoint import load_latest
from anyorder.training.recipes import AnyRecipe, load_recipe

HEURISTICS = ("random", "margin", "entropy", "confidence")
REFERENCES = {
    "confidence": "max-confidence: imitation, then cross-entropy",
    "softmax": "softmax of confidence: imitation, then KL",
    "top_k": "top-K, KL",
    "none": "none, random start (as DCoLT)",
}
ABLATIONS = {"confidence-without": "imitation, without cross-entropy", "top_k-without": "top-K, without KL"}
VARIANTS: dict[str, tuple[str, ...]] = {
    "confidence": (),
    "binary": ("reward.name=solved",),
    "softmax": ("update.reference=softmax", "update.beta=1e-4"),
    "top_k": ("update.reference=top_k", "update.beta=1e-3", "update.imitation=0", "policy.top_positions=5"),
    "none": ("update.reference=none", "update.beta=0", "update.imitation=0"),
    "lookahead": ("update.imitation=0",),
    "lookahead-without": ("update.reference=none", "update.beta=0", "update.imitation=0"),
    "from-supervised": ("update.reference=none", "update.beta=0", "update.imitation=0", "optimizer.lr=3e-4"),
    "confidence-without": ("update.reference=none", "update.beta=0"),
    "judged": (),
    "top_k-without": ("update.reference=none", "update.beta=0", "update.imitation=0", "policy.top_positions=5"),
}
"""Changes of the recipe of UPO: references of its table 1 (max-confidence and softmax start from the imitation), another
network and start, rewards of its table 4, ablations of its figure 4. `lookahead` has the network of the task's supervised
order, which starts at confidence; `from-supervised` goes on from that order."""


@dataclass(frozen=True)
class RewardSetting(Setting):
    """A task of this study.

    Args:
        key: its name.
        reward: the recipe of UPO for it. reward_changes: overrides of it.
    """

    key: str = field(kw_only=True)
    reward: str = field(kw_only=True)
    reward_changes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """See `Setting`."""
        return self.key


class RewardStudy(Study):
    """Models `reward/VARIANT/SEED` beside those of `Study`; for each problem, whether it is solved and its share of right
    cells, float (2, N)."""

    def recipe(self, setting: Setting, kind: str, what: str, seed: str, changes: list[str]) -> AnyRecipe:
        """See `Study`."""
        if kind != "reward":
            return super().recipe(setting, kind, what, seed, changes)
        assert isinstance(setting, RewardSetting)
        changes = [*changes, *setting.reward_changes, *VARIANTS[what]]
        if what.startswith("lookahead"):
            network = load_recipe(setting.adaptive, list(setting.policy_changes)).policy  # type: ignore[union-attr]
            changes += [f"policy.{name}={json.dumps(value)}" for name, value in network.model_dump().items()]
        if what == "from-supervised":
            changes.append(f"start={self.ensure(setting, f'policy/lookahead/{seed}')}")
        return load_recipe(setting.reward, changes)

    def before(self, model: str) -> tuple[str, ...]:
        """See `Study`."""
        more = (f"policy/lookahead/{model.rpartition('/')[2]}",) if model.startswith("reward/from-supervised/") else ()
        return (*super().before(model), *more)

    def keep(self, correct: np.ndarray, cells: np.ndarray) -> dict[str, Any]:
        """See `Study`."""
        return {**super().keep(correct, cells), "right_cells": [round(float(c), 6) for c in cells]}

    def kept(self, values: dict[str, Any]) -> np.ndarray:
        """See `Study`."""
        return np.stack([super().kept(values).astype(float), np.array(values["right_cells"])])


class Both:
    """Outcomes looked up, as instances solved (seeds, N) or as shares of right cells (seeds, N)."""

    def __init__(self, solved: Solved, seeds: list[int]) -> None:
        self.cells = Cells(solved, seeds)

    def of(self, setting: Setting, model: str, order: str) -> tuple[np.ndarray, np.ndarray]:
        """(solved, right cells)."""
        found = self.cells.of(setting, model, order)
        return found[:, 0], found[:, 1]


def share(cells: np.ndarray) -> str:
    """Mean of shares (seeds, N) in percent, its 95 % interval over seeds and problems, and the sd over seeds."""
    low, high = share_interval(cells[0]) if len(cells) == 1 else crossed_share(cells)
    spread = f", sd {100 * cells.mean(axis=1).std(ddof=1):.1f}" if len(cells) > 1 else ""
    return f"{100 * cells.mean():.1f} ({100 * low:.1f}-{100 * high:.1f}{spread})"


# ---- table 2: UPO against the heuristics; table 4: dense and binary rewards ----------------------------------------------


_TABLE2 = ("confidence", "none", "lookahead", "lookahead-without", "from-supervised")


_TABLE2_PAIRS = (
    ("UPO", "no reference (as DCoLT)"),
    ("UPO, lookahead network", "no reference, lookahead network"),
    ("UPO, lookahead network", "UPO"),
    ("supervised, lookahead", "UPO, lookahead network"),
    ("supervised, then by reward", "supervised, lookahead"),
)


def _table2_needs(settings: list[Setting], seeds: list[int]) -> list[Decoding]:
    return [
        need
        for s in settings
        for need in (
            Decoding(s, "frozen", (*HEURISTICS, "oracle"), s.steps),
            *(Decoding(s, f"reward/{v}/{seed}", ("policy",), s.steps) for v in _TABLE2 for seed in seeds),
            *(Decoding(s, f"policy/{kind}/{seed}", ("policy",), s.steps) for kind in ("mlp", "lookahead") for seed in seeds),
        )
    ]


Rows = dict[str, tuple[str, str]]
"""The (model, order) of each label."""


def against_confidence(
    both: Both, s: Setting, rows: Rows, paper: dict[str, float], pairs: Sequence[tuple[str, str]] = ()
) -> tuple[str, dict]:
    """A table of one task: by cells, by rules, and both minus confidence; below it the differences of pairs of rows."""
    lines, values = [], {}
    reference = both.of(s, "frozen", "confidence")
    for label, (model, order) in rows.items():
        solved, cells = both.of(s, model, order)
        gaps = ["", ""] if order == "confidence" else [difference(solved, reference[0]), difference(cells, reference[1])]
        lines.append([label, percent(solved), gaps[0], share(cells), gaps[1], str(paper.get(label, ""))])
        values[label] = {"solved": float(solved.mean()), "cells": float(cells.mean())}
        if order != "confidence":
            values[label]["p"] = sign_flip(solved.mean(axis=0) - reference[0].mean(axis=0))
    header = ["order", "solved, by the rules", "minus confidence", "right cells", "minus confidence", "published, right cells"]
    markdown = f"**{s.name}**\n\n" + markdown_table(header, lines)
    if pairs:
        found = {label: both.of(s, *rows[label]) for pair in pairs for label in pair}
        tested = [[f"{a} minus {b}", *map(difference, found[a], found[b])] for a, b in pairs]
        markdown += "\n" + markdown_table(["difference", "solved, by the rules", "right cells"], tested)
    return markdown, values


def _table2(settings: list[Setting], seeds: list[int], solved: Solved, folder: Path) -> Outcome:
    both, parts, values = Both(solved, seeds), [], {}
    rows = {name: ("frozen", name) for name in (*HEURISTICS, "oracle")} | {
        "UPO": ("reward/confidence/{seed}", "policy"),
        "no reference (as DCoLT)": ("reward/none/{seed}", "policy"),
        "UPO, lookahead network": ("reward/lookahead/{seed}", "policy"),
        "no reference, lookahead network": ("reward/lookahead-without/{seed}", "policy"),
        "supervised, MLP": ("policy/mlp/{seed}", "policy"),
        "supervised, lookahead": ("policy/lookahead/{seed}", "policy"),
        "supervised, then by reward": ("reward/from-supervised/{seed}", "policy"),
    }
    for s in settings:
        markdown, values[s.name] = against_confidence(both, s, rows, published.UPO_TABLE2.get(s.task, {}), _TABLE2_PAIRS)
        cost = [[label, *_cost(folder, s, model, seeds)] for label, (model, _) in rows.items() if model != "frozen"]
        parts.append(markdown + "\n" + markdown_table(["trained order", "updates", "seconds of training", "NFE"], cost))
        parts.append(deviations(s, list(_TABLE2)))
    return Outcome("UPO, table 2: one position at a time", "\n".join(parts), values)


def _cost(folder: Path, s: Setting, model: str, seeds: list[int]) -> list[str]:
    """What training a model took: updates, seconds, and sequences times forward passes of the denoiser."""
    study = RewardStudy(folder)
    seconds = []
    for seed in seeds:
        found, _ = load_latest(study.model_folder(s, model.format(seed=seed)) / "checkpoints")
        seconds += [found.values["seconds"]] if found else []
    recipe = read_json(study.model_folder(s, model.format(seed=seeds[0])) / "recipe.json")
    updates, batch = recipe["run"]["steps"], recipe["run"]["batch_size"]
    rounds = (
        updates / (recipe["update"]["inner"] * recipe["update"]["minibatches"]) * s.steps if "update" in recipe else updates
    )
    return [str(updates), f"{np.mean(seconds):.0f}" if seconds else "", f"{rounds * batch:,.0f}"]


def deviations(s: Setting, variants: Sequence[str], theirs: dict[str, str] | None = None, of: str = "4x4 Sudoku") -> str:
    """A table of where our training of these variants differs from what was published (by default for the puzzles)."""
    assert isinstance(s, RewardSetting)
    rows = []
    for variant in variants:
        recipe: Any = load_recipe(s.reward, [*s.reward_changes, *VARIANTS[variant]])
        update, run = recipe.update, recipe.run
        ours = {
            "lr": f"{recipe.optimizer.lr:g} {recipe.optimizer.schedule}",
            "beta": f"{update.beta:g}",
            "inner updates": str(update.inner * update.minibatches),
            "trajectories per update": str(run.batch_size),
        }
        known = (theirs or published.UPO_SETTINGS) | {"beta": published.UPO_BETA.get(update.reference, "0")}
        rows.append([variant, *(f"{value} ({known[name]})" for name, value in ours.items())])
    return f"Ours (published, on {of}):\n\n" + markdown_table(["recipe", *ours], rows)


def _table4_needs(settings: list[Setting], seeds: list[int]) -> list[Decoding]:
    return [
        need
        for s in settings
        for need in (
            Decoding(s, "frozen", ("random", "confidence"), s.steps),
            *(Decoding(s, f"reward/{v}/{seed}", ("policy",), s.steps) for v in ("confidence", "binary") for seed in seeds),
        )
    ]


def _table4(settings: list[Setting], seeds: list[int], solved: Solved, folder: Path) -> Outcome:
    both, parts, values = Both(solved, seeds), [], {}
    rows = {
        "random": ("frozen", "random"),
        "confidence": ("frozen", "confidence"),
        "UPO, binary reward": ("reward/binary/{seed}", "policy"),
        "UPO, dense reward": ("reward/confidence/{seed}", "policy"),
    }
    for s in settings:
        pairs = (("UPO, dense reward", "UPO, binary reward"),)
        markdown, values[s.name] = against_confidence(both, s, rows, published.UPO_TABLE4.get(s.task, {}), pairs)
        parts.append(markdown)
    return Outcome("UPO, table 4: dense and binary rewards", "\n".join(parts), values)


# ---- figures 3 and 4: training under different references ----------------------------------------------------------------


def _figure_needs(variants: list[str]) -> Any:
    def needs(settings: list[Setting], seeds: list[int]) -> list[Decoding]:
        trained = [
            Decoding(s, f"reward/{v}/{seed}", ("policy",), s.steps) for s in settings for v in variants for seed in seeds
        ]
        return [*trained, *(Decoding(s, "frozen", ("confidence",), s.steps) for s in settings)]

    return needs


def _curve(folder: Path, s: Setting, variant: str, seeds: list[int], key: str) -> list[tuple[float, float, float, float]]:
    """(update, mean over seeds, lowest, highest) of what was logged, smoothed over five logged lines, times 100."""
    runs = []
    for seed in seeds:
        rows = read_metrics([RewardStudy(folder).model_folder(s, f"reward/{variant}/{seed}")])
        runs.append({row["step"]: row[key] for row in rows})
    steps = sorted(set.intersection(*(set(run) for run in runs)))
    table = np.array([[run[step] for step in steps] for run in runs])
    width = min(5, len(steps))
    smooth = np.stack([np.convolve(row, np.ones(width) / width, mode="valid") for row in table])
    return [
        (float(step), 100 * float(m), 100 * float(low), 100 * float(high))
        for step, m, low, high in zip(steps[width - 1 :], smooth.mean(0), smooth.min(0), smooth.max(0), strict=True)
    ]


def _figure3(settings: list[Setting], seeds: list[int], solved: Solved, folder: Path) -> Outcome:
    both, lines, parts, values = Both(solved, seeds), {}, [], {}
    for s in settings:
        lines[s.name] = {label: _curve(folder, s, v, seeds, "solved") for v, label in REFERENCES.items()}
        rows = {"confidence": ("frozen", "confidence")}
        rows |= {label: (f"reward/{v}/{{seed}}", "policy") for v, label in REFERENCES.items()}
        pairs = [(label, REFERENCES["none"]) for v, label in REFERENCES.items() if v != "none"]
        markdown, values[s.name] = against_confidence(both, s, rows, {}, pairs)
        parts.append(markdown + "\n" + deviations(s, list(REFERENCES)))
    text = "Sampled trajectories in training (mean over five logged rounds, over the seeds; band: lowest to highest seed), and "
    text += "the trained policies decoded without sampling:\n\n"
    title = "UPO, figure 3: training accuracy under different references"
    return Outcome(title, text + "\n".join(parts), values, lines, "update", "solved in training, %")


def _figure4(settings: list[Setting], seeds: list[int], solved: Solved, folder: Path) -> Outcome:
    both, lines, parts, values = Both(solved, seeds), {}, [], {}
    names = {k: REFERENCES[k] for k in ("confidence", "top_k")} | ABLATIONS
    for s in settings:
        for key, label in (("reward", "mean of group reward"), ("reward_std", "sd of group reward")):
            lines[f"{s.name}: {label}"] = {name: _curve(folder, s, v, seeds, key) for v, name in names.items()}
        rows = {"confidence": ("frozen", "confidence")}
        rows |= {label: (f"reward/{v}/{{seed}}", "policy") for v, label in names.items()}
        pairs = [(names[v], names[f"{v}-without"]) for v in ("confidence", "top_k")]
        markdown, values[s.name] = against_confidence(both, s, rows, {}, pairs)
        drawn = [lines[f"{s.name}: {k}"] for k in ("mean of group reward", "sd of group reward")]
        last = [[label, *(f"{panel[label][-1][1]:.1f}" for panel in drawn)] for label in names.values()]
        parts.append(markdown + "\n" + markdown_table(["last rounds", "mean of group reward, %", "sd, %"], last))
    title = "UPO, figure 4: what the divergence does"
    return Outcome(title, "\n".join(parts), values, lines, "update", "%")


def about(settings: list[Setting], seeds: list[int], scale: str, positions: str = "no sampling of positions") -> str:
    """The settings that stand above these tables; `positions` says whether they are drawn."""
    lines = [
        f"Scale {scale}; seeds {', '.join(map(str, seeds))}. Mean over seeds; 95 % intervals over seeds and problems "
        "(hierarchical bootstrap; for one seed over the problems alone), sd over seeds. Differences are paired, p by a "
        f"sign-flip test over the problems for these seeds. One position per step, the likeliest token, {positions}. "
        "Right cells are those of one stored solution, as published, although many problems have several; solved "
        "is checked by the rules."
    ]
    for s in settings:
        assert isinstance(s, RewardSetting)
        lines.append(
            f"- {s.name}: {s.problems} generated problems ({s.generated}), the same for every order; frozen denoiser "
            f"`{s.denoiser}`; by reward `{s.reward}`, by supervision `{s.adaptive}` with {'; '.join(s.policy_changes)}. "
            "Published figures are of LLaDA-8B on other problems: compare the pattern and not the level."
        )
    return "\n".join(lines) + "\n"


_TASKS = ("sudoku4",)
_UNSEEN = "sudoku4-unseen"
TARGETS = {
    "upo-table2": Target((*_TASKS, _UNSEEN), _table2_needs, _table2, RewardStudy, about, minutes=50),
    "upo-table4": Target(_TASKS, _table4_needs, _table4, RewardStudy, about),
    "upo-figure3": Target(_TASKS, _figure_needs(list(REFERENCES)), _figure3, RewardStudy, about),
    "upo-figure4": Target(_TASKS, _figure_needs(["confidence", "top_k", *ABLATIONS]), _figure4, RewardStudy, about),
}
SEEN = RewardSetting(
    task="sudoku",
    options={"box": 2},
    denoiser="sudoku4-weak",
    adaptive="sudoku4-order",
    policy_changes=("data.options={givens=8, unique=false}", "objective.critic=false"),
    problems=500,
    generate={"givens": 8, "unique": False},
    steps=8,
    key="sudoku4",
    reward="sudoku4-upo",
)
UNSEEN = replace(
    SEEN,
    key=_UNSEEN,
    policy_changes=("data.options={givens=8, unique=false, half='first'}", "objective.critic=false"),
    reward_changes=("data.options={givens=8, unique=false, half='first'}",),
    generate={"givens": 8, "unique": False, "half": "second"},
)
"""The control for memory: trained on one half of the classes of puzzles up to symmetry, tested on the other."""
SMALL = (SEEN, UNSEEN)
