"""Table 3 of "Adaptive Order Policies for Masked Diffusion" (arXiv 2606.00295) with its controls: decoding under Gumbel noise.

Noise of one scale disturbs an order the more, the smaller the scale of its scores is. So every order is compared at the same
noise, as published, and at the same diversity: the scale of the noise is then chosen on other problems. The controls are the
heuristics with their scores times 3, and policies before training.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from anyorder.decoding.result import Decoded
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.base import fingerprint
from anyorder.denoisers.shared_passes import SharedPasses
from anyorder.evaluation.batches import decode_in_batches, model_for
from anyorder.evaluation.comparison import order_diversity, order_diversity_each
from anyorder.evaluation.tables import markdown_table
from anyorder.reproduce import published
from anyorder.reproduce.outcome import TASK_NAMES, Cells, Outcome, Solved, difference, percent
from anyorder.reproduce.study import Decoding, Setting, Study
from anyorder.tasks.base import Instances

OTHER_PROBLEMS, OTHER_SEED = 100, 9_000_000
_HALVINGS = 10
_SCALES = (2.0**-24, 2.0**8)
"""Scales of noise among which one is looked for, by halving the interval of their logarithms."""


@dataclass(frozen=True)
class Mode:
    """How table 3 decodes: with or without re-prediction of what is committed, and under which noise."""

    name: str
    remasker: str = ""
    noise: bool = False
    anneal: bool = False


MODES = tuple(
    Mode(f"{name}, {kind}", remasker, noise, anneal)
    for name, remasker in (("absorbing", ""), ("re-predict", "+repredict"))
    for kind, noise, anneal in (("no noise", False, False), ("noise", True, False), ("annealed", True, True))
)
PLOTTED = (MODES[0], MODES[5])
"""Of the figures: the simplest mode, and that of the public code from which the paper has its terms."""


@dataclass(frozen=True)
class Row:
    """An order of the tables: the model that it belongs to, and the factor of its scores."""

    label: str
    model: str
    order: str
    factor: int = 1
    published: str = ""

    def decoding(self, s: Setting, mode: Mode, model: str = "", steps: int | None = None) -> Decoding:
        """How it is decoded. Scores times a factor are noise divided by it."""
        noise = s.noise / self.factor if mode.noise else 0.0
        return Decoding(s, model or self.model, (self.order + mode.remasker,), steps or s.steps, noise, mode.anneal)

    def needs(self, s: Setting, seeds: list[int], modes: tuple[Mode, ...] = MODES, steps: int | None = None) -> list[Decoding]:
        """The same in all modes, for all seeds of a trained model."""
        models = dict.fromkeys(self.model.format(seed=seed) for seed in seeds)
        return [self.decoding(s, mode, model, steps) for mode in modes for model in models]

    def of(self, cells: Cells, s: Setting, mode: Mode, steps: int | None = None) -> np.ndarray:
        """Solved, float (seeds, N)."""
        d = self.decoding(s, mode, steps=steps)
        return cells.of(s, d.model, d.orders[0], d.noise, d.steps, d.anneal)[:, 0]


FROZEN = (
    Row("confidence", "frozen", "confidence", published="confidence"),
    Row("confidence, times 3", "frozen", "confidence", 3),
    Row("margin", "frozen", "margin"),
    Row("log-margin", "frozen", "log_margin", published="margin"),
    Row("log-margin, times 3", "frozen", "log_margin", 3),
    Row("oracle", "frozen", "oracle"),
    Row("untrained, start at confidence (log-odds)", "untrained/mlp/0", "policy"),
    Row("untrained, start at confidence, times 3", "untrained/mlp/0", "policy", 3),
    Row("untrained, random start", "untrained/mlp-published/{seed}", "policy"),
    Row("MLP, start at confidence", "policy/mlp/{seed}", "policy", published="policy"),
    Row("MLP as published", "policy/mlp-published/{seed}", "policy", published="policy"),
    Row("MLP as published, trained longer", "policy/mlp-published-longer/{seed}", "policy"),
)
MATCHED = tuple(row for row in FROZEN if row.factor == 1)
"""The rows that are compared at equal diversity, where a factor changes nothing."""
POLICY = FROZEN[9]


class NoiseStudy(Study):
    """For each problem: the share of two draws that solve it (one draw without noise), 1 minus the correlation of their orders,
    and the scale of the noise, float (3, N)."""

    @property
    def measure_mark(self) -> str:
        """See `Study`."""
        return ", two draws"

    def measure(self, denoiser: Any, decoding: Decoding, order: str) -> dict[str, Any]:
        """See `Study`."""
        task, problems = self.problems(decoding.setting)
        sampler = Sampler.parse(order, steps=decoding.steps, noise=decoding.noise, anneal=decoding.anneal).bind(denoiser)
        if decoding.diversity is not None:
            count = min(OTHER_PROBLEMS, decoding.setting.problems)
            others = task.generate(count, OTHER_SEED, **decoding.setting.generate)
            sampler = sampler.replace(noise=matched_noise(denoiser, others, sampler, decoding.diversity))
        draws = _draws(denoiser, problems, sampler, 2 if sampler.noise else 1)
        solved = torch.stack([task.check(problems, draw.tokens).instance_correct for draw in draws])
        differing = order_diversity_each(draws[0].commit_step, draws[-1].commit_step).nan_to_num(0.0)
        return {
            "nfe": float(draws[0].nfe.double().mean()), "scale": sampler.noise,
            "solved_share": solved.double().mean(dim=0).tolist(), "order_diversity": [round(float(d), 4) for d in differing],
        }  # fmt: skip

    def kept(self, values: dict[str, Any]) -> np.ndarray:
        """See `Study`."""
        share, differing = np.array(values["solved_share"], dtype=float), np.array(values["order_diversity"], dtype=float)
        if share.shape != (values["problems"],) or share.shape != differing.shape:
            raise ValueError("it holds two numbers of each problem")
        return np.stack([share, differing, np.full_like(share, values["scale"])])


def _draws(denoiser: Any, problems: Instances, sampler: Sampler, count: int) -> list[Decoded]:
    model = model_for(sampler, denoiser, _shared(denoiser))
    return [
        decode_in_batches(model, problems, sampler, seed=seed, batch_size=256, progress=None, name=str(sampler))
        for seed in range(count)
    ]


_passes: dict[str, SharedPasses] = {}
"""Of the last denoiser of this process: its draws, modes, orders and policies meet many of the same states."""


def _shared(denoiser: Any) -> SharedPasses:
    mark = fingerprint(denoiser)
    if mark not in _passes:
        _passes.clear()
        _passes[mark] = SharedPasses(denoiser)
    return _passes[mark]


def matched_noise(denoiser: Any, problems: Instances, sampler: Sampler, diversity: float) -> float:
    """The scale of noise with which the orders of two draws have this diversity on these problems."""
    low, high = np.log2(_SCALES)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        first, second = _draws(denoiser, problems, sampler.replace(noise=float(2.0**middle)), 2)
        if order_diversity(first.commit_step, second.commit_step) < diversity:
            low = middle
        else:
            high = middle
    return float(2.0 ** ((low + high) / 2))


# ---- table 3 ------------------------------------------------------------------------------------------------------------


def needs(settings: list[Setting], seeds: list[int], joint: tuple[Row, ...] = ()) -> list[Decoding]:
    """The decodings of table 3."""
    found = [need for s in settings for row in (*FROZEN, *joint) for need in row.needs(s, seeds)]
    return found + [
        Decoding(s, model, (row.order,), s.steps, 0.0, anneal, diversity)
        for s in settings for row in MATCHED for model in dict.fromkeys(row.model.format(seed=seed) for seed in seeds)
        for anneal in (False, True) for diversity in s.diversities
    ]  # fmt: skip


def layout(settings: list[Setting], seeds: list[int], solved: Solved, joint: tuple[Row, ...], ours: Row) -> Outcome:
    """Table 3: of each task the frozen denoiser, the same at equal diversity, and joint training; `ours` is the joint row that
    is compared with the others."""
    cells, parts = Cells(solved, seeds), []
    values: dict[str, Any] = {}
    for s in settings:
        name = TASK_NAMES[s.task]
        for title, rows, best, paper in (
            ("policy-only: a frozen denoiser", FROZEN, POLICY, published.TABLE3_POLICY_ONLY),
            ("joint training", joint, ours, published.TABLE3_JOINT),
        ):
            parts.append(f"**{name}, {title}**\n\n" + by_mode(cells, s, rows, paper))
            noisy = tuple(mode for mode in MODES if mode.noise)
            parts.append(f"**{name}, {best.label} minus**\n\n" + gaps_by_mode(cells, s, rows, best, noisy))
            values |= {f"{s.task} {row.label}": [float(row.of(cells, s, mode).mean()) for mode in MODES] for row in rows}
        markdown, values[f"{s.task} equal diversity"] = _matched(cells, s)
        parts.insert(-2, f"**{name}, noise at equal diversity of the order (absorbing)**\n\n" + markdown)
    return Outcome("Table 3: deterministic and stochastic decoding (Gumbel noise)", "\n".join(parts), values)


def by_mode(cells: Cells, s: Setting, rows: tuple[Row, ...], paper: dict[str, Any]) -> str:
    """Percent solved in all modes, beside the published figures without and with noise."""
    table = []
    for row in rows:
        given = paper.get(row.published, {})
        given = given.get(s.task, "") if isinstance(given, dict) else given
        shown = " / ".join(map(str, given)) if isinstance(given, tuple) else str(given)
        table.append([row.label, *(percent(row.of(cells, s, mode)) for mode in MODES), shown])
    return markdown_table(["order", *(mode.name for mode in MODES), "published"], table)


def gaps_by_mode(cells: Cells, s: Setting, rows: tuple[Row, ...], best: Row, modes: tuple[Mode, ...]) -> str:
    """Differences of one row from all others."""
    table = [
        [row.label, *(difference(best.of(cells, s, mode), row.of(cells, s, mode)) for mode in modes)]
        for row in rows
        if row != best
    ]
    return markdown_table(["order", *(mode.name for mode in modes)], table)


def _matched(cells: Cells, s: Setting) -> tuple[str, dict[str, Any]]:
    """Percent solved by all orders at the same diversities, and the scale of noise that each needs."""
    header, table = ["order"], []
    values: dict[str, Any] = {}
    cases = [(diversity, anneal) for diversity in s.diversities for anneal in (False, True)]
    for diversity, anneal in cases:
        header += [f"diversity {diversity:g}{', annealed' * anneal}", "(noise, diversity)", f"{POLICY.label} minus"]
    for row in MATCHED:
        line = [row.label]
        for diversity, anneal in cases:
            of = [cells.of(s, r.model, r.order, 0.0, s.steps, anneal, diversity) for r in (row, POLICY)]
            share, differing, scale = of[0][:, 0], of[0][:, 1], of[0][:, 2]
            gap = "" if row == POLICY else difference(of[1][:, 0], share)
            line += [percent(share), f"{scale.mean():.2g}, {differing.mean():.2f}", gap]
            values[f"{row.label}, {diversity:g}{', annealed' * anneal}"] = float(share.mean())
        table.append(line)
    return markdown_table(header, table), values
