"""Plots for papers, as PNG or SVG by suffix: accuracy against forward passes, Pareto fronts, calibration of scores, maps of
orders, training."""

from collections import Counter
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anyorder.errors import BadInput
from anyorder.evaluation.calibration import Calibration, calibration
from anyorder.evaluation.operating_points import Fronts, lines_of
from anyorder.evaluation.results import Report, Result
from anyorder.evaluation.samplers import noise_name
from anyorder.evaluation.tables import metric_name
from anyorder.evaluation.trajectories import THOUSANDTHS, Run, Trajectories, predicted_of, states_of
from anyorder.report.style import COLORS, figure, legend_aside, look_of, spread

MARKERS = "osD^vP*X"


def accuracy_against_steps(report: Report, path: Path, title: str = "") -> Path:
    """The main metric against the mean number of forward passes, one line per order, with 95 % intervals.

    With several scales of noise there is one panel for each.
    """
    noises = list(dict.fromkeys(noise_name(r.cell.noise, r.cell.anneal) for r in report.results))
    with figure(path, len(noises), 5.0, 4.2, share_y=True) as axes:
        for axis, noise in zip(axes, noises, strict=True):
            markers: dict[str, str] = {}
            for number, order in enumerate(dict.fromkeys(r.order for r in report.results)):
                rule = order.partition("@")[2]  # orders have colors, and count rules have markers
                marker = markers.setdefault(rule, MARKERS[len(markers) % len(MARKERS)])
                mine = [r for r in report.results if r.order == order and noise_name(r.cell.noise, r.cell.anneal) == noise]
                rows = sorted(mine, key=lambda r: r.nfe)
                _accuracies(axis, rows, report.main_metric, marker=marker, label=order, **look_of(order, number))
            axis.set_xlabel("NFE: forward passes per sequence")
            axis.set_ylim(0, 102)
            axis.set_title(title if not noise else f"{title}, order {noise}".lstrip(", "))
        axes[0].set_ylabel(f"{metric_name(report)}, %")
        legend_aside(axes[-1])
    return path


def pareto_front(report: Report, path: Path, title: str = "") -> Path:
    """Accuracy against forward passes, a curve for each order through all its budgets, noises and count rules, with 95 %
    intervals.

    The thick line is the front: the points that no other order beats with as many forward passes or fewer. Oracles are left out
        of it.
    """
    markers = cycle(MARKERS)
    with figure(path, 1, 5.6, 4.4, aside=2.0) as (axis,):
        honest = [r for r in report.results if r.kind != "oracle"]
        front = front_of(honest, report.main_metric)
        if front:
            x = [r.nfe for r in front] + [max(r.nfe for r in honest)]
            y = [100 * r.main(report.main_metric)[0] for r in front]
            axis.step(x, [*y, y[-1]], where="post", color="#1a1e24", alpha=0.16, linewidth=7, label="front", zorder=1)
        families = dict.fromkeys(_family(r.order) for r in report.results)
        for number, family in enumerate(families):
            rows = sorted((r for r in report.results if _family(r.order) == family), key=lambda r: r.nfe)
            _accuracies(axis, rows, report.main_metric, marker=next(markers), label=family, **look_of(family, number))
        axis.set_xlabel("NFE: forward passes per sequence")
        axis.set_ylabel(f"{metric_name(report)}, %")
        axis.set_title(title)
        legend_aside(axis)
    return path


def fronts(found: Fronts, path: Path) -> Path:
    """What `pareto` found: accuracy against forward passes, one panel per mode, one line per curve."""
    labels = ("forward passes per sequence (NFE)", f"{found.meta.get('correct_means', 'accuracy')}, %")
    return panels(lines_of(found), path, *labels, log_x=True)


def front_of(results: list[Result], metric: str = "instance_correct") -> list[Result]:
    """The results that no other one beats in accuracy with as many forward passes or fewer, by their number."""
    front: list[Result] = []
    for result in sorted(results, key=lambda r: (r.nfe, -r.main(metric)[0])):
        if not front or result.main(metric)[0] > front[-1].main(metric)[0]:
            front.append(result)
    return front


def _family(order: str) -> str:
    """An order without its count rule, whose settings make one curve."""
    order, _, rule = order.partition("@")
    return f"{order}@{rule.partition(':')[0]}" if rule else order


def _accuracies(axis: Any, rows: list[Result], metric: str, **style: Any) -> None:
    found = [r.main(metric) for r in rows]
    y = [100 * value for value, _ in found]
    bars = [spread(100 * value, 100 * low, 100 * high) for value, (low, high) in found]
    axis.errorbar([r.nfe for r in rows], y, yerr=np.array(bars).reshape(-1, 2).T, elinewidth=1.0, **style)


def calibration_of_scores(trajectories: Trajectories, path: Path) -> Path:
    """The reliability of a policy's scores, one panel per run: the observed share of right proposals against the predicted one,
    by the denoiser's confidence and, for learned orders, by the score as the log-odds of being right (objective `correctness`).
    Every proposal of every forward pass counts, for the score if the order scored it (in blocks it leaves out those that are
    closed); the area of a dot is their number.

    Raises:
        BadInput: no solutions are known.
    """
    with figure(path, len(trajectories.runs), 3.6, 3.9, aside=1.0) as axes:
        for axis, run in zip(axes, trajectories.runs, strict=True):
            for name, part, color in _reliability(trajectories, run):
                most = max(b.count for b in part.bins)
                x, y = [b.confidence for b in part.bins], [b.accuracy for b in part.bins]
                label = f"{name}: error {part.error:.3f}, overconfident by {part.overconfidence:+.3f}"
                axis.plot(x, y, color=color, label=label)
                axis.scatter(x, y, s=[8 + 90 * b.count / most for b in part.bins], color=color)
            axis.plot([0, 1], [0, 1], color="#8a94a2", linestyle=":", linewidth=1)
            axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="predicted", title=run.name)
            axis.legend(loc="upper left", fontsize=7)
        axes[0].set_ylabel("share right")
    return path


def _reliability(trajectories: Trajectories, run: Run) -> list[tuple[str, Calibration, str]]:
    confidences, scores, right = [], [], []
    for problem, decode in zip(trajectories.problems, run.decodes, strict=True):
        if problem.solution is None:
            raise BadInput("calibration needs problems with known solutions")
        for step, before in zip(decode.steps, states_of(problem, decode, trajectories.mask), strict=False):
            positions = predicted_of(step, before, trajectories.mask)
            if positions and step.candidates:
                confidences += [p / THOUSANDTHS for p in step.probabilities[0]]
                scores += [float("nan") if score is None else score for score in step.scores]
                right += [problem.solution[at] == token for at, token in zip(positions, step.candidates[0], strict=True)]
    if not right:
        raise BadInput(f"{run.name}: nothing was predicted in it")
    hits = torch.tensor(right)
    found = [("confidence", calibration(torch.tensor(confidences), hits), COLORS[0])]
    log_odds = torch.tensor(scores)
    scored = ~log_odds.isnan()
    if run.kind == "learned" and scored.any():
        found.append(("score", calibration(torch.sigmoid(log_odds[scored]), hits[scored]), COLORS[1]))
    return found


def order_map(trajectories: Trajectories, path: Path) -> Path:
    """When each position is committed, one panel per run: the mean step, from 1, of the last commitment in each cell of a
    grid, or at each position of a sequence with a band of one standard deviation. Given positions do not count."""
    grid = trajectories.drawing.kind == "grid"
    steps = [_commit_steps(trajectories, run) for run in trajectories.runs]
    means = [_mean(values) for values in steps]
    most = max(float(np.nanmax(mean)) if np.isfinite(mean).any() else 1.0 for mean in means)
    with figure(path, len(steps), 3.7 if grid else 5.5, 3.9 if grid else 3.2, aside=0.8, share_y=not grid) as axes:
        for axis, run, values, mean in zip(axes, trajectories.runs, steps, means, strict=True):
            axis.set_title(run.name)
            if grid:
                image = _draw_grid(axis, trajectories, mean, most)
                continue
            place = np.arange(1, len(mean) + 1)
            band = np.sqrt(_mean((values - mean) ** 2))
            axis.plot(place, mean, color=COLORS[0])
            axis.fill_between(place, mean - band, mean + band, color=COLORS[0], alpha=0.18, linewidth=0)
            axis.set_xlabel("position")
        if grid:
            axes[-1].figure.colorbar(image, ax=list(axes), fraction=0.03, pad=0.02, label="mean step")
        else:
            axes[0].set_ylabel("mean step of the commitment")
    return path


def _commit_steps(trajectories: Trajectories, run: Run) -> np.ndarray:
    """Step of every drawn position, from 1, float (N, cells); nan where it was given or is past the end."""
    longest = max(len(problem.tokens) for problem in trajectories.problems)
    cells = trajectories.drawing.cells or list(range(longest))
    rows = np.full((len(run.decodes), longest), np.nan)
    for row, decode in zip(rows, run.decodes, strict=True):
        committed = np.array(decode.commit_step, dtype=float)
        row[: len(committed)] = np.where(committed < 0, np.nan, committed + 1)
    return rows[:, cells]


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over rows without the nans, nan where there is nothing else."""
    count = np.isfinite(values).sum(axis=0)
    mean: np.ndarray = np.where(count > 0, np.nansum(values, axis=0) / np.maximum(count, 1), np.nan)
    return mean


def _draw_grid(axis: Any, trajectories: Trajectories, mean: np.ndarray, most: float) -> Any:
    drawing = trajectories.drawing
    table = mean.reshape(drawing.rows, drawing.columns)
    image = axis.imshow(table, cmap="Blues", vmin=0, vmax=most * 1.15)
    axis.grid(False)
    axis.set_xticks(range(drawing.columns), drawing.column_names or range(1, drawing.columns + 1))
    axis.set_yticks(range(drawing.rows), drawing.row_names or range(1, drawing.rows + 1))
    for (row, column), value in np.ndenumerate(table):
        if np.isfinite(value):
            color = "#ffffff" if value > 0.7 * most else "#1a1e24"
            axis.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=7, color=color)
    for line in range(drawing.box, drawing.columns, drawing.box) if drawing.box else ():
        axis.axvline(line - 0.5, color="#5a6472", linewidth=1)
        axis.axhline(line - 0.5, color="#5a6472", linewidth=1)
    return image


_TRAINING = {
    "loss": ["loss", "denoiser_loss", "order_loss", "token_loss"],
    "is the likeliest token right? (cross-entropy)": ["bce_confidence", "bce_policy", "bce_critic"],
    "share right": ["candidates_correct", "committed_correct"],
    "loss of masked tokens, by share masked": [f"loss_level_{k}" for k in range(5)],
    "accuracy of masked tokens, by share masked": [f"accuracy_level_{k}" for k in range(5)],
    "policy": ["policy_entropy", "policy_reach", "policy_starved", "weight_on_wrong"],
    "decoded samples": ["decoded_accuracy", "decoded_diversity", "truth_diversity"],
    "gradient": ["gradient_norm"],
}
_LEVELS = ("up to 1/5 masked", "1/5 to 2/5", "2/5 to 3/5", "3/5 to 4/5", "more than 4/5")


def training_curves(metrics: list[dict[str, float]], path: Path) -> Path:
    """The course of a training run, from its `metrics.jsonl`: losses, denoiser by masking level, policy, decoded samples.

    Raises:
        BadInput: it holds nothing that can be drawn.
    """
    logged = {name for row in metrics for name in row}
    groups = {title: [n for n in names if n in logged] for title, names in _TRAINING.items()}
    groups = {title: names for title, names in groups.items() if names}
    if not groups or not all("step" in row for row in metrics):
        raise BadInput("these metrics are not those of a training run: steps with a loss are needed")
    drawn = {"step", *(name for names in groups.values() for name in names)}
    for row in metrics:
        for name in sorted(drawn & row.keys()):
            if not isinstance(row[name], int | float):
                raise BadInput(f"these metrics are not those of a training run: {name} is {row[name]!r}, which is no number")
    with figure(path, len(groups), 3.8, 3.4, aside=0.3) as axes:
        for axis, (title, names) in zip(axes, groups.items(), strict=True):
            for number, name in enumerate(names):
                points = [(row["step"], row[name]) for row in metrics if name in row]
                label = _LEVELS[int(name[-1])] if "_level_" in name else name.replace("_", " ")
                axis.plot(*zip(*points, strict=True), label=label, color=COLORS[number])
            axis.set(title=title, xlabel="step")
            axis.legend(fontsize=7)
    return path


def panels(
    lines: dict[str, dict[str, list[tuple[float, float, float, float]]]],
    path: Path,
    x_label: str,
    y_label: str,
    log_x: bool = False,
) -> Path:
    """One panel per name, one line per label through points (x, y, low, high) in percent."""
    with figure(path, len(lines), 4.2, 4.0) as axes:
        for axis, (title, curves) in zip(axes, lines.items(), strict=True):
            orders = Counter(label.partition("@")[0] for label in curves)
            for number, (label, points) in enumerate(curves.items()):
                x, y, low, high = zip(*sorted(points), strict=True)
                bars = np.array([spread(*values) for values in zip(y, low, high, strict=True)]).T
                look = look_of(label, number)
                if orders[label.partition("@")[0]] > 1:  # one order under several rules: the colors tell the rules apart
                    look["color"] = COLORS[number % len(COLORS)]
                marker = "os^D"[number // len(COLORS) % 4]  # colors repeat after a while
                axis.errorbar(x, y, yerr=bars, label=label, marker=marker, elinewidth=1.0, **look)
            axis.set(title=title, xlabel=x_label)
            if log_x:
                axis.set_xscale("log", base=2)
                axis.xaxis.set_major_formatter("{x:g}")
        axes[0].set_ylabel(y_label)
        legend_aside(axes[-1])
    return path


def bars(groups: dict[str, dict[str, dict[str, tuple[float, float, float]]]], path: Path, y_label: str) -> Path:
    """One panel per name, a group of bars per second name, a bar per label: (y, low, high) in percent."""
    most = max(map(len, groups.values()))
    with figure(path, len(groups), max(3.2, 0.9 * most), 3.8) as axes:
        for axis, (title, panel) in zip(axes, groups.items(), strict=True):
            labels = list(dict.fromkeys(label for group in panel.values() for label in group))
            width = 0.8 / len(labels)
            for number, label in enumerate(labels):
                places = [x + (number - (len(labels) - 1) / 2) * width for x in range(len(panel))]
                y, low, high = zip(*(group[label] for group in panel.values()), strict=True)
                error = np.array([spread(*values) for values in zip(y, low, high, strict=True)]).T
                axis.bar(places, y, width, yerr=error, label=label, capsize=2, color=COLORS[number % len(COLORS)])
            axis.set_xticks(range(len(panel)), list(panel))
            axis.set_title(title)
            axis.grid(False, axis="x")
        axes[0].set_ylabel(y_label)
        legend_aside(axes[-1])
    return path
