"""Plots of evaluations, as PNG or SVG."""

from pathlib import Path

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
}


def accuracy_against_steps(report: Report, path: Path, title: str = "") -> Path:
    """Instance accuracy against the mean number of forwards, one line per order, with 95 % intervals. PNG or SVG by suffix.

    With several scales of noise there is one panel for each.
    """
    if path.suffix not in (".png", ".svg"):
        raise BadInput(f"a plot is a .png or .svg file, not {path.name!r}")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

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
    file_format = path.suffix[1:]
    write_atomically(path, lambda temporary: figure.savefig(temporary, format=file_format, dpi=130, bbox_inches="tight"))
    plt.close(figure)
    return path
