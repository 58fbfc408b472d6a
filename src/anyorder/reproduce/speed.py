"""Accuracy against forward passes of policies trained for speed (Jazbec et al., arXiv 2512.09106), on our own denoiser."""

from pathlib import Path
from typing import Any

import numpy as np

from anyorder.decoding.sampler import Sampler
from anyorder.evaluation.batches import decode_in_batches
from anyorder.evaluation.comparison import environment
from anyorder.evaluation.curves import as_curves
from anyorder.evaluation.operating_points import Measured, fronts_of, grids_of, lines_of, measured
from anyorder.evaluation.samplers import Kind
from anyorder.evaluation.tables import markdown_grids, markdown_table
from anyorder.reproduce.outcome import Cells, Outcome, Solved, Target
from anyorder.reproduce.reward import RewardSetting, RewardStudy
from anyorder.reproduce.study import Decoding, Setting
from anyorder.training.recipes import AnyRecipe, load_recipe
from anyorder.zoo import load_denoiser

EXPONENTS = {"30": "0.9", "10": "0.9", "3": "0.95", "1": "0.99", "0": "0.99"}
"""alpha of ((n - steps + 1) / n)^alpha, and the threshold whose imitation training starts from, a quick or a careful one.
Published are 10, 3, 1, .3 and 0, at 256 positions and more, from a fresh policy; of 57 positions one forward costs 1.8 % of the
reward for each unit of alpha, so that .3 is next to 0, and 30 is needed for the quick end."""
BY_RULE = [f"confidence@{rule}" for rule in ("linear", "threshold", "factor", "entropy_bound", "klass")]
BY_SUPERVISION = [f"policy@{rule}" for rule in ("score_threshold", "predicted_error")]
LEVELS = tuple(dict.fromkeys(EXPONENTS.values()))
_TRAINED = ("imitation", "by reward")
_IMITATED = "confidence@threshold"
_DECIDES = "policy@bernoulli:0"
_BOUNDS = (2.0, 32.0)


class SpeedStudy(RewardStudy):
    """Models `reward/start-P/SEED`, a policy on confidences that imitates the threshold P, and `reward/alpha-A/SEED`, trained
    from one of them for speed. For each problem: whether it is solved, its share of right cells, and its NFE, float (3, N)."""

    def recipe(self, setting: Setting, kind: str, what: str, seed: str, changes: list[str]) -> AnyRecipe:
        """See `Study`."""
        assert isinstance(setting, RewardSetting)
        changes = [*changes, *setting.reward_changes]
        name, _, value = what.partition("-")
        if name == "start":
            return load_recipe(f"{setting.reward}-start", [*changes, f"update.imitate_level={value}"])
        start = self.ensure(setting, _start_of(f"{kind}/{what}/{seed}"))
        return load_recipe(setting.reward, [*changes, f"start={start}", f"reward.speed={value}"])

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
    return f"reward/start-{EXPONENTS[what.removeprefix('alpha-')]}/{seed}"


def _rule_points(s: Setting) -> list[tuple[str, str, int]]:
    """(curve, order, steps) of what needs no training here."""
    curves = as_curves([*BY_RULE, *BY_SUPERVISION], load_denoiser(s.denoiser), s.steps)
    return [(curve.name, point.label, point.steps or s.steps) for curve in curves for point in curve.points]


def _needs(settings: list[Setting], seeds: list[int]) -> list[Decoding]:
    found = []
    for s in settings:
        points = _rule_points(s)
        for steps in dict.fromkeys(steps for *_, steps in points):
            found.append(Decoding(s, "frozen", tuple(order for _, order, n in points if n == steps), steps))
        models = [*(f"start-{level}" for level in LEVELS), *(f"alpha-{exponent}" for exponent in EXPONENTS)]
        found += [Decoding(s, f"reward/{model}/{seed}", (_DECIDES,), s.steps) for seed in seeds for model in models]
    return found


def _layout(settings: list[Setting], seeds: list[int], solved: Solved, folder: Path) -> Outcome:
    cells, lines, parts, values = Cells(solved, seeds), {}, [], {}
    for s in settings:

        def point(curve: str, label: str, model: str, order: str, steps: int, s: Setting = s) -> Measured:
            right, share, nfe = cells.of(s, model, order, steps=steps)[0]
            kind: Kind = "learned" if order.startswith("policy") else "heuristic"
            return measured(curve, label, kind, steps, None, right.astype(bool), share, nfe.astype(int))

        points = [point(curve, order, "frozen", order, steps) for curve, order, steps in _rule_points(s)]
        for seed in seeds:
            mark = f", seed {seed}" if len(seeds) > 1 else ""
            for curve, name, turns in zip(_TRAINED, ("start", "alpha"), (LEVELS, EXPONENTS), strict=True):
                points += [
                    point(curve + mark, f"{curve}, {name} {turn}{mark}", f"reward/{name}-{turn}/{seed}", _DECIDES, s.steps)
                    for turn in turns
                ]
        facts = {**environment(), "correct_means": "instance accuracy"}
        found = fronts_of(points, _BOUNDS, "best", facts)
        header, rows = grids_of(fronts_of(points, _BOUNDS, _IMITATED, facts))[1][1:]
        against = markdown_table(header, [row for row in rows if row[0].startswith((*_TRAINED, _IMITATED))])
        parts.append(f"**{s.name}**\n\n{markdown_grids(grids_of(found))}\n**the same, minus {_IMITATED}**\n\n{against}")
        lines[s.name] = lines_of(found)["full diffusion"]
        values[s.name] = {
            "areas": {c.curve: c.area for c in found.curves},
            "points": {p.label: (p.nfe, p.accuracy) for p in points},
        }
    title = "Jazbec et al.: accuracy against forward passes, full diffusion"
    return Outcome(title, "\n".join(parts), values, lines, "forward passes per sequence (NFE)", log_x=True)


def _about(settings: list[Setting], seeds: list[int], scale: str) -> str:
    """The settings that stand above the table."""
    lines = [
        f"Scale {scale}; seeds {', '.join(map(str, seeds))}. Full diffusion, the likeliest token. A policy trained by reward "
        f"is one operating point for each alpha ({', '.join(EXPONENTS)}) and decides by the mode, score > 0. A rule is "
        "one operating point for each value. NFE counts the denoiser's forward passes and not those of a policy."
    ]
    for s in settings:
        lines.append(f"- {s.name}: {s.problems} generated problems ({s.generated}), the same for all; denoiser `{s.denoiser}`.")
    return "\n".join(lines) + "\n"


SMALL = RewardSetting(
    task="sudoku",
    options={"box": 3},
    denoiser="sudoku9",
    adaptive="sudoku9-adaptive",
    problems=500,
    generate={"givens": 0},
    steps=64,
    key="sudoku9-speed",
    reward="sudoku9-speed",
)
TARGETS = {"jazbec-pareto": Target((SMALL.name,), _needs, _layout, SpeedStudy, _about, minutes=30)}
