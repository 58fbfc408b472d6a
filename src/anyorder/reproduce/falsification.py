"""The test that the review of arXiv 2606.00295 proposed: if a learned order is no better than a random one on sorting or the
traveling salesman problem at the same compute, the claim is refuted there."""

from pathlib import Path

from anyorder.evaluation.tables import markdown_table
from anyorder.reproduce.outcome import TASK_NAMES, Cells, Outcome, Solved, Target, difference, percent, points
from anyorder.reproduce.study import Decoding, Setting

_CURVES = {
    "random": ("frozen", "random"),
    "left to right": ("frozen", "left_to_right"),
    "confidence": ("frozen", "confidence"),
    "policy, L_ORDER, MLP": ("policy/mlp/{seed}", "policy"),
    "oracle": ("frozen", "oracle"),
    "trained by L_MDM, random order": ("joint/uniform/{seed}", "random"),
    "trained by L_MDM, confidence": ("joint/uniform/{seed}", "confidence"),
    "trained by eq. 4, its policy": ("joint/policy/{seed}", "policy"),
}
_PAIRS = (
    ("policy, L_ORDER, MLP", "random"),
    ("policy, L_ORDER, MLP", "confidence"),
    ("trained by eq. 4, its policy", "trained by L_MDM, random order"),
    ("trained by eq. 4, its policy", "trained by L_MDM, confidence"),
)


def _needs(settings: list[Setting], seeds: list[int]) -> list[Decoding]:
    return [
        Decoding(s, name, (order,), steps)
        for s in settings
        for steps in s.figure_steps
        for model, order in _CURVES.values()
        for name in dict.fromkeys(model.format(seed=seed) for seed in seeds)
    ]


def _layout(settings: list[Setting], seeds: list[int], solved: Solved, folder: Path) -> Outcome:
    cells, lines, parts = Cells(solved, seeds), {}, []
    values: dict[str, list[float]] = {}
    for s in settings:
        found = {
            label: [cells.of(s, model, order, steps=steps) for steps in s.figure_steps]
            for label, (model, order) in _CURVES.items()
        }
        rows = [[label, *map(percent, row)] for label, row in found.items()]
        budgets = [f"T = {t}" for t in s.figure_steps]
        tests = []
        for ours, other in _PAIRS:
            tests.append([f"{ours} - {other}", *(difference(a, b) for a, b in zip(found[ours], found[other], strict=True))])
        parts.append(
            f"**{TASK_NAMES[s.task]}**\n\n"
            + markdown_table(["order", *budgets], rows)
            + "\n"
            + markdown_table(["", *budgets], tests)
        )
        values |= {f"{s.task} {label}": [float(f.mean()) for f in row] for label, row in found.items()}
        lines[TASK_NAMES[s.task]] = {label: points(s.figure_steps, row) for label, row in found.items()}
    return Outcome("Falsification test: learned against random order", "\n".join(parts), values, lines, "steps T")


TARGETS = {"falsification": Target(("sorting", "tsp"), _needs, _layout)}
