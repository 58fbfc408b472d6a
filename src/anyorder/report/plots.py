"""Plots of evaluations, as PNG or SVG."""

from pathlib import Path
from typing import Any

from anyorder.errors import BadInput
from anyorder.evaluation.evaluate import Report
from anyorder.files import write_atomically

_STYLE = {
    "oracle": ("#9aa0a6", ":"),
    "gt_margin": ("#c0c4c8", ":"),
    "random": ("#c9b037", "-"),
    "confidence": ("#1f77b4", "-"),
    "margin": ("#2ca02c", "-"),
    "log_margin": ("#17becf", "-"),
    "entropy": ("#9467bd", "-"),
    "policy": ("#d62728", "-"),
    "policy+undo": ("#8c1010", "--"),
    "MLP policy, L_ORDER": ("#ff7f0e", "-"),
    "policy, L_ORDER, MLP": ("#ff7f0e", "-"),
    "shipped policy": ("#d62728", "-"),
    "released denoiser": ("#9aa0a6", "--"),
    "plain L_MDM": ("#8c564b", "-"),
}


def accuracy_against_steps(report: Report, path: Path, title: str = "") -> Path:
    """Instance accuracy against the mean number of forwards, one line per order, with 95 % intervals. PNG or SVG by suffix.

    With several scales of noise there is one panel for each.
    """
    plt = _pyplot(path)
    noises = list(dict.fromkeys(r.noise for r in report.results))
    figure, axes = plt.subplots(1, len(noises), figsize=(1.5 + 5.0 * len(noises), 4.2), sharey=True, squeeze=False)
    for axis, noise in zip(axes[0], noises, strict=True):
        for order in dict.fromkeys(r.order for r in report.results):
            rows = sorted((r for r in report.results if r.order == order and r.noise == noise), key=lambda r: r.forwards)
            colour, line = _STYLE.get(order, (None, "-."))
            y = [100 * r.instance_accuracy for r in rows]
            low = [max(0.0, 100 * (r.instance_accuracy - r.ci95[0])) for r in rows]
            high = [max(0.0, 100 * (r.ci95[1] - r.instance_accuracy)) for r in rows]
            axis.errorbar(
                [r.forwards for r in rows], y, yerr=[low, high], label=order, color=colour, linestyle=line,
                marker="o", markersize=4, capsize=2, linewidth=2.2 if order.startswith("policy") else 1.4,
            )  # fmt: skip
        axis.set_xlabel("forwards of the denoiser per sequence")
        axis.set_ylim(0, 102)
        axis.grid(alpha=0.25)
        axis.set_title(title if not noise else f"{title}, order noise {noise:g}".lstrip(", "), fontsize=10)
    axes[0][0].set_ylabel("instance accuracy, %")
    axes[0][-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.tight_layout()
    return _save(figure, path)


def panels(
    lines: dict[str, dict[str, list[tuple[float, float, float, float]]]],
    path: Path,
    x_label: str,
    y_label: str,
    log_x: bool = False,
) -> Path:
    """One panel per name, one line per label through points (x, y, low, high) in percent."""
    plt = _pyplot(path)
    figure, axes = plt.subplots(1, len(lines), figsize=(1.5 + 4.2 * len(lines), 4.0), squeeze=False)
    for axis, (title, curves) in zip(axes[0], lines.items(), strict=True):
        for label, points in curves.items():
            x, y, low, high = zip(*sorted(points), strict=True)
            colour, line = _STYLE.get(label, (None, "-"))
            error = [[max(0.0, b - a) for a, b in zip(*pair, strict=True)] for pair in ((low, y), (y, high))]
            axis.errorbar(x, y, yerr=error, label=label, color=colour, linestyle=line, marker="o", markersize=4, capsize=2)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(x_label)
        axis.grid(alpha=0.25)
        if log_x:
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_formatter("{x:g}")
    axes[0][0].set_ylabel(y_label)
    axes[0][-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return _save(figure, path)


def bars(groups: dict[str, dict[str, dict[str, tuple[float, float, float]]]], path: Path, y_label: str) -> Path:
    """One panel per name, a group of bars per second name, a bar per label: (y, low, high) in percent."""
    plt = _pyplot(path)
    figure, axes = plt.subplots(1, len(groups), figsize=(1.5 + 3.2 * len(groups), 3.8), squeeze=False)
    for axis, (title, panel) in zip(axes[0], groups.items(), strict=True):
        labels = list(dict.fromkeys(label for group in panel.values() for label in group))
        width = 0.8 / len(labels)
        for number, label in enumerate(labels):
            places = [x + (number - (len(labels) - 1) / 2) * width for x in range(len(panel))]
            y, low, high = zip(*(group[label] for group in panel.values()), strict=True)
            error = [[max(0.0, b - a) for a, b in zip(*pair, strict=True)] for pair in ((low, y), (y, high))]
            axis.bar(places, y, width, yerr=error, label=label, capsize=2)
        axis.set_xticks(range(len(panel)), panel)
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.25, axis="y")
    axes[0][0].set_ylabel(y_label)
    axes[0][-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return _save(figure, path)


def training_curves(metrics: list[dict[str, float]], path: Path) -> Path:
    """What happened in a joint run, from its `metrics.jsonl`: denoiser by masking level, policy, decoded samples."""
    plt = _pyplot(path)
    figure, axes = plt.subplots(1, 4, figsize=(17, 3.6))
    groups = {
        "loss of masked tokens, by share masked": [f"loss_level_{k}" for k in range(5)],
        "accuracy of masked tokens, by share masked": [f"accuracy_level_{k}" for k in range(5)],
        "policy": ["policy_entropy", "policy_reach", "policy_starved", "weight_on_wrong"],
        "decoded samples": ["decoded_accuracy", "decoded_diversity", "truth_diversity"],
    }
    for axis, (title, names) in zip(axes, groups.items(), strict=True):
        for name in names:
            points = [(row["step"], row[name]) for row in metrics if name in row]
            if points:
                axis.plot(*zip(*points, strict=True), label=name.replace("_", " "), linewidth=1.3)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.25)
        if axis.lines:
            axis.legend(fontsize=7)
    figure.tight_layout()
    return _save(figure, path)


def _pyplot(path: Path) -> Any:
    if path.suffix not in (".png", ".svg"):
        raise BadInput(f"a plot is a .png or .svg file, not {path.name!r}")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> Path:
    file_format = path.suffix[1:]
    write_atomically(path, lambda temporary: figure.savefig(temporary, format=file_format, dpi=130, bbox_inches="tight"))
    _pyplot(path).close(figure)
    return path
