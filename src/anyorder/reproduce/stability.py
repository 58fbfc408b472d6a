"""Is joint training stable, as the review of arXiv 2606.00295 asked? Denoiser, policy and samples during joint training, with
and without the "+1" of eq. 4."""

from pathlib import Path

from anyorder.evaluation.tables import markdown_table
from anyorder.report.sources import read_metrics
from anyorder.reproduce.outcome import TASK_NAMES, Cells, Outcome, Solved, Target, difference, percent
from anyorder.reproduce.study import Decoding, Setting, Study

RUNS = {"plain L_MDM": "joint/uniform", "eq. 4": "joint/policy", "eq. 4 without the 1": "joint-without-one/policy"}
LOGGED = {
    "denoiser loss, few masks": "loss_level_0",
    "denoiser loss, many masks": "loss_level_4",
    "denoiser accuracy, few masks": "accuracy_level_0",
    "denoiser accuracy, many masks": "accuracy_level_4",
    "policy entropy": "policy_entropy",
    "policy reach": "policy_reach",
    "weight on wrong tokens": "weight_on_wrong",
    "starved positions": "policy_starved",
    "sample diversity": "decoded_diversity",
    "diversity of the truth": "truth_diversity",
}
_LAST = 40
"""Steps at the end of a run over which what was logged is averaged."""


def _needs(settings: list[Setting], seeds: list[int]) -> list[Decoding]:
    return [
        Decoding(s, f"{model}/{seed}", ("confidence", "policy"), s.steps)
        for s in settings
        for model in RUNS.values()
        for seed in seeds
    ]


def _layout(settings: list[Setting], seeds: list[int], solved: Solved, folder: Path) -> Outcome:
    cells, values, lines, parts = Cells(solved, seeds), {}, {}, []
    study = Study(folder)
    for s in settings:
        rows, panel = [], {}
        for label, model in RUNS.items():
            runs = []
            for seed in seeds:
                runs.append(read_metrics([study.model_folder(s, f"{model}/{seed}")]))
            found = {
                name: [row[key] for run in runs for row in run if key in row and row["step"] > run[-1]["step"] - _LAST]
                for name, key in LOGGED.items()
            }
            means = {name: sum(numbers) / len(numbers) if numbers else None for name, numbers in found.items()}
            by_policy = cells.of(s, f"{model}/{{seed}}", "policy")
            plain = cells.of(s, "joint/uniform/{seed}", "policy")
            rows.append(
                [
                    label,
                    *("" if number is None else f"{number:.3f}" for number in means.values()),
                    percent(cells.of(s, f"{model}/{{seed}}", "confidence")),
                    percent(by_policy),
                    "" if label == "plain L_MDM" else difference(by_policy, plain),
                ]
            )
            values[f"{s.task} {label}"] = means
            steps = sorted({row["step"] for run in runs for row in run if "policy_reach" in row})
            at = {t: [row["policy_reach"] for run in runs for row in run if row["step"] == t] for t in steps}
            panel[label] = [(float(t), 100 * sum(r) / len(r), 100 * min(r), 100 * max(r)) for t, r in at.items()]
        header = ["denoiser's objective", *LOGGED, "solved by confidence", "solved by policy", "by policy, minus plain L_MDM"]
        parts.append(f"**{TASK_NAMES[s.task]}**\n\n" + markdown_table(header, rows))
        lines[f"{TASK_NAMES[s.task]}: policy reach"] = panel
    title = f"Stability of joint training (means over the last {_LAST} steps and all seeds)"
    return Outcome(title, "\n".join(parts), values, lines, "step", "effective positions over those of a uniform policy, %")


TARGETS = {"stability": Target(("sudoku",), _needs, _layout)}
