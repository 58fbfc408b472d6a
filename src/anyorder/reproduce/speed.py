"""Accuracy against forward passes of policies trained for speed (Jazbec et al., arXiv 2512.09106), on our own denoisers: in
full diffusion and in blocks, over several seeds and test-time temperatures, against forward passes and against compute."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from anyorder.decoding.sampler import Sampler
from anyorder.evaluation.batches import decode_in_batches
from anyorder.evaluation.compute import overhead
from anyorder.evaluation.curves import as_curves
from anyorder.evaluation.fronts import Front, area, attained, seed_front
from anyorder.evaluation.operating_points import mode_name
from anyorder.evaluation.tables import markdown_table
from anyorder.reproduce.outcome import Cells, Outcome, Solved, Target, percent
from anyorder.reproduce.reward import RewardSetting, RewardStudy
from anyorder.reproduce.study import Decoding, Setting
from anyorder.training.order import untrained_order
from anyorder.training.recipes import AnyRecipe, RewardRecipe, load_recipe
from anyorder.zoo import load_denoiser

LEVELS = {"30": "0.9", "10": "0.9", "3": "0.95", "1": "0.99", "0": "0.99"}
"""alpha of ((n - steps + 1) / n)^alpha, and the threshold whose imitation training starts from, a quick or a careful one.
Published are 10, 3, 1, .3 and 0, at 256 positions and more, from a fresh policy; of 57 positions one forward costs 1.8 % of the
reward for each unit of alpha, so that .3 is next to 0, and 30 would be needed for the quick end."""
BY_RULE = [f"confidence@{rule}" for rule in ("linear", "threshold", "factor", "entropy_bound", "klass")]
BY_SUPERVISION = [f"policy@{rule}" for rule in ("score_threshold", "predicted_error")]
_IMITATED = "confidence@threshold"
_BOUNDS = (2.0, 32.0)
_BUDGETS = np.array([4.0, 8.0, 16.0])
_DRAWS = 1000
TEMPERATURES = ("0", "0.5", "1", "2")
"""Of the draws in decoding; 0 is the mode, score > 0."""


@dataclass(frozen=True)
class SpeedSetting(RewardSetting):
    """A task of this study.

    Args:
        exponents: the alphas for which policies are trained, see `LEVELS`. in_blocks: those of policies trained in blocks.
        after_start: overrides of the recipe by reward that the imitation does not share.
        block: positions per block.
    """

    exponents: tuple[str, ...] = field(kw_only=True)
    in_blocks: tuple[str, ...] = field(kw_only=True)
    block: int = field(kw_only=True)
    after_start: tuple[str, ...] = field(default=(), kw_only=True)

    def trained(self, blocks: bool, exponents: tuple[str, ...]) -> tuple[list[str], list[str]]:
        """The models that imitate a threshold, and those trained by reward."""
        mark = "-blocks" if blocks else ""
        return [f"start-{level}{mark}" for level in dict.fromkeys(LEVELS[a] for a in exponents)], [
            f"alpha-{a}{mark}" for a in exponents
        ]


class SpeedStudy(RewardStudy):
    """Models `reward/start-P/SEED`, a policy on confidences that imitates the threshold P, and `reward/alpha-A/SEED`, trained
    from one of them for speed; `start-P-blocks` and `alpha-A-blocks`, in blocks. For each problem: whether it is solved, its
    share of right cells, and its NFE, float (3, N)."""

    def recipe(self, setting: Setting, kind: str, what: str, seed: str, changes: list[str]) -> AnyRecipe:
        """See `Study`."""
        assert isinstance(setting, SpeedSetting)
        changes = [*changes, *setting.reward_changes]
        name, value, *blocks = what.split("-")
        changes += [f"rollout.block={setting.block}"] if blocks else []
        if name == "start":
            return load_recipe(f"{setting.reward}-start", [*changes, f"update.imitate_level={value}"])
        start = self.ensure(setting, _start_of(f"{kind}/{what}/{seed}"))
        return load_recipe(setting.reward, [*changes, *setting.after_start, f"start={start}", f"reward.speed={value}"])

    def before(self, model: str) -> tuple[str, ...]:
        """See `Study`."""
        return (*super().before(model), *([_start_of(model)] if model.startswith("reward/alpha-") else []))

    @property
    def measure_mark(self) -> str:
        """See `Study`."""
        return ", NFE"

    def measure(self, denoiser: Any, decoding: Decoding, order: str) -> dict[str, Any]:
        """See `Study`."""
        task, problems = self.problems(decoding.setting)
        sampler = Sampler.parse(order, steps=decoding.steps, noise=decoding.noise).bind(denoiser)
        decoded = decode_in_batches(denoiser, problems, sampler, seed=0, batch_size=256, progress=None, name=order)
        checked = task.check(problems, decoded.tokens)
        outcome = self.keep(checked.instance_correct.numpy(), checked.cell_accuracy.numpy())
        return {**outcome, "nfe": decoded.nfe.tolist()}

    def kept(self, values: dict[str, Any]) -> np.ndarray:
        """See `Study`."""
        return np.concatenate([super().kept(values), np.array(values["nfe"], dtype=float)[None]])


def _start_of(model: str) -> str:
    """The model from which the training of `reward/alpha-A/SEED` starts."""
    _, what, seed = model.split("/")
    _, exponent, *blocks = what.split("-")
    return f"reward/{'-'.join(['start', LEVELS[exponent], *blocks])}/{seed}"


# ---- what is decoded ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class At:
    """An operating point: the curve that it belongs to, and how it is decoded."""

    curve: str
    label: str
    model: str
    order: str
    steps: int


def in_mode(order: str, block: int | None) -> str:
    """An order as it is spelled in blocks."""
    return order if block is None else order.replace("@", f"@blocks:{block}@", 1)


def points_of(s: Setting, block: int | None) -> list[At]:
    """The operating points of a mode: full diffusion, or blocks, with the policies of this mode, and in blocks those that were
    trained in full diffusion with the same exponents too."""
    assert isinstance(s, SpeedSetting)
    denoiser, found = load_denoiser(s.denoiser), []
    own = BY_SUPERVISION if getattr(denoiser, "own_order", None) else []
    for curve in as_curves([*BY_RULE, *own], denoiser, s.steps):
        for point in curve.points:
            found.append(At(curve.name, point.label, "frozen", in_mode(point.label, block), point.steps or s.steps))
    for blocks in (False,) if block is None else (True, False):  # policies of this mode first
        imitating, rewarded = s.trained(blocks, s.exponents if block is None else s.in_blocks)
        mine = blocks == (block is not None)
        where = "" if mine else ", trained in full diffusion"
        for t in TEMPERATURES if mine else ("0",):
            order, name = in_mode(f"policy@bernoulli:{t}", block), f"by reward{where}" + f", temperature {t}" * (t != "0")
            found += [At(name, f"{model}, temperature {t}", f"reward/{model}/{{seed}}", order, s.steps) for model in rewarded]
        if mine:
            order = in_mode("policy@bernoulli:0", block)
            found += [At("imitation of a threshold", n, f"reward/{n}/{{seed}}", order, s.steps) for n in imitating]
    return found


def _needs(settings: list[Setting], seeds: list[int], in_blocks: bool) -> list[Decoding]:
    groups: dict[tuple[Setting, str, int], list[str]] = {}
    for s in settings:
        block = _block(s, in_blocks)
        for at in points_of(s, block):
            for model in dict.fromkeys(at.model.format(seed=seed) for seed in seeds):
                groups.setdefault((s, model, at.steps), []).append(at.order)
    return [Decoding(s, model, tuple(dict.fromkeys(orders)), steps) for (s, model, steps), orders in groups.items()]


def _block(s: Setting, in_blocks: bool) -> int | None:
    assert isinstance(s, SpeedSetting)
    return s.block if in_blocks else None


# ---- fronts over seeds and problems ----------------------------------------------------------------------------------------


def front_over_seeds(nfe: np.ndarray, correct: np.ndarray) -> Front:
    """A curve's area and its accuracies at `_BUDGETS`, from NFE and outcomes (S, P, N)."""
    return seed_front(nfe, correct, _measure, _DRAWS)


def _measure(nfe: np.ndarray, correct: np.ndarray) -> np.ndarray:
    return np.array([area(nfe, correct, *_BOUNDS), *attained(nfe, correct, _BUDGETS)])


# ---- the table ------------------------------------------------------------------------------------------------------------

_Points = dict[str, list[tuple[At, np.ndarray]]]


def _layout(settings: list[Setting], seeds: list[int], solved: Solved, folder: Path, in_blocks: bool) -> Outcome:
    cells, lines, parts, values = Cells(solved, seeds), {}, [], {}
    study = SpeedStudy(folder)
    for s in settings:
        shares = _overheads(study, s)
        parts.append(f"**{s.name}**: compute of a policy over that of the denoiser, multiply-adds per step: {_said(shares)}.\n")
        block = _block(s, in_blocks)
        curves: _Points = {}
        for at in points_of(s, block):
            curves.setdefault(at.curve, []).append((at, cells.of(s, at.model, at.order, steps=at.steps)))
        mode = mode_name(block)
        for axis, share in (("forward passes", lambda _: 0.0), ("compute, in forward passes of the denoiser", shares.get)):
            fronts = {name: _front(points, share) for name, points in curves.items()}
            parts.append(f"**{s.name}, {mode}: accuracy against {axis}**\n\n{_areas(fronts)}\n{_differences(fronts)}")
            values[f"{s.name}, {mode}, {axis}"] = {name: front.value.tolist() for name, front in fronts.items()}
            lines[f"{s.name}, {mode}: {axis.partition(',')[0]}"] = {n: _line(p, share) for n, p in curves.items()}
        parts.append(f"**{s.name}, {mode}: trained policies**\n\n{_operating_points(curves)}")
    title = "Jazbec et al.: accuracy against forward passes and compute"
    return Outcome(title, "\n".join(parts), values, lines, "forward passes per sequence", log_x=True)


def _overheads(study: SpeedStudy, s: Setting) -> dict[str, float]:
    """Compute of a policy trained by reward over that of the denoiser, and ("frozen") of the shipped policy, if any."""
    assert isinstance(s, SpeedSetting)
    task, problems = study.problems(s)
    denoiser, first = load_denoiser(s.denoiser, device="cpu"), problems[slice(0, 1)]
    recipe = load_recipe(f"{s.reward}-start", list(s.reward_changes))
    assert isinstance(recipe, RewardRecipe)
    found = {"reward": overhead(denoiser, first, Sampler(untrained_order(recipe, denoiser, task)))}
    if getattr(denoiser, "own_order", None):
        found["frozen"] = overhead(denoiser, first, Sampler.parse("policy").bind(denoiser))
    return found


def _said(shares: dict[str, float]) -> str:
    names = {"reward": "policy on confidences", "frozen": "shipped policy"}
    return ", ".join(f"{names[kind]} {100 * share:.1f} %" for kind, share in shares.items())


def _share(at: At, share: Callable[[str], float | None]) -> float:
    return (share(at.model.partition("/")[0]) or 0.0) if at.order.startswith("policy") else 0.0


def _front(points: list[tuple[At, np.ndarray]], share: Callable[[str], float | None]) -> Front:
    nfe = np.stack([found[:, 2] * (1 + _share(at, share)) for at, found in points], axis=1)
    return front_over_seeds(nfe, np.stack([found[:, 0] for _, found in points], axis=1))


def _areas(fronts: dict[str, Front]) -> str:
    rules = [name for name in fronts if name in BY_RULE]
    best = max(rules, key=lambda name: fronts[name].value[0])
    rows, against = [], list(dict.fromkeys((best, _IMITATED)))
    for name, front in fronts.items():
        gaps = [front.minus(fronts[other]).shown("+")[0] if name != other else "" for other in against]
        rows.append([name, *front.shown()[:1], *gaps, *front.shown()[1:]])
    header = ["curve", f"area, {_BOUNDS[0]:g} to {_BOUNDS[1]:g}", *(f"minus {other}" for other in against)]
    return markdown_table([*header, *(f"at {b:g}" for b in _BUDGETS)], rows)


def _differences(fronts: dict[str, Front]) -> str:
    """The policy by reward at its mode against every other curve that is not by reward, by area and at each budget."""
    others = [name for name in fronts if not name.startswith("by reward")]
    rows = [[name, *fronts["by reward"].minus(fronts[name]).shown("+")] for name in others]
    return markdown_table(["by reward minus", "area", *(f"at {b:g}" for b in _BUDGETS)], rows)


def _operating_points(curves: _Points) -> str:
    rows = [
        [at.label + ("" if at.curve.startswith(("imit", "by reward, temp")) or at.curve == "by reward" else f" ({at.curve})"),
         f"{found[:, 2].mean():.1f}", percent(found[:, 0])]
        for points in curves.values() for at, found in points if at.model != "frozen"
    ]  # fmt: skip
    return markdown_table(["policy", "NFE", "solved"], rows)


def _line(points: list[tuple[At, np.ndarray]], share: Callable[[str], float | None]) -> list[tuple[float, float, float, float]]:
    """(passes, percent, lowest and highest seed) of each point, from the cheapest on."""
    found = []
    for at, values in points:
        by_seed = 100 * values[:, 0].mean(axis=1)
        cost = float(values[:, 2].mean() * (1 + _share(at, share)))
        found.append((cost, float(by_seed.mean()), float(by_seed.min()), float(by_seed.max())))
    return sorted(found)


def _about(settings: list[Setting], seeds: list[int], scale: str) -> str:
    """The settings that stand above the table."""
    lines = [
        f"Scale {scale}; seeds {', '.join(map(str, seeds))}. The likeliest token. A policy trained by reward is one operating "
        "point for each alpha. Temperature 0 decides by the mode, score > 0; others draw. A rule is one operating point for "
        "each value. NFE counts the denoiser's forward passes, compute the multiply-adds of denoiser and policy. Area: mean "
        "accuracy over budgets that are evenly spaced on a log scale; the front of each seed, averaged. 95 % intervals over "
        "seeds and problems (hierarchical bootstrap). The best rule is chosen on the same problems, which favors the rules."
    ]
    for s in settings:
        assert isinstance(s, SpeedSetting)
        lines.append(
            f"- {s.name}: {s.problems} generated problems ({s.generated}), the same for all; denoiser `{s.denoiser}`; alpha "
            f"{', '.join(s.exponents)} in full diffusion, {', '.join(s.in_blocks)} in blocks of {s.block}."
        )
    return "\n".join(lines) + "\n"


SUDOKU = SpeedSetting(
    task="sudoku",
    options={"box": 3},
    denoiser="sudoku9",
    adaptive="sudoku9-adaptive",
    problems=200,
    generate={"givens": 0},
    steps=64,
    key="sudoku9-speed",
    reward="sudoku9-speed",
    exponents=("30", "10", "3", "1"),
    in_blocks=("10",),
    block=9,
)
WORDS = SpeedSetting(
    task="words",
    options={"problems": "countdown"},
    denoiser="words",
    adaptive="words-order",
    problems=200,
    steps=40,
    key="words-speed",
    reward="sudoku9-speed",
    reward_changes=("task.name=words", 'task.options={problems="countdown"}', "data.options={}", "run.steps=160"),
    exponents=("3",),
    in_blocks=("3",),
    block=8,
    after_start=("run.steps=120", "run.batch_size=64"),
)
"""A denoiser of 6.4 M weights, of which the policy is a small part, and answers with long tails of end tokens. Of its problems
only Countdown leaves something to win: every sum is solved in one pass."""
TARGETS = {
    f"jazbec-{kind}{ending}": Target(
        (s.name,), partial(_needs, in_blocks=kind == "blocks"), partial(_layout, in_blocks=kind == "blocks"), SpeedStudy, _about
    )
    for s, ending in ((SUDOKU, ""), (WORDS, "-words"))
    for kind in ("pareto", "blocks")
}
