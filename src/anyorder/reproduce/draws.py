"""Pass@N of UPO (arXiv 2510.05725, figures 1 and 8): how often at least one of N draws of an order is right."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from anyorder.evaluation.repeated_draws import PassAtN, grid_of, lines_of, of_counts, pass_at_n
from anyorder.evaluation.tables import markdown_table
from anyorder.reproduce.outcome import Cells, Outcome, Solved, Target
from anyorder.reproduce.reward import RewardStudy, about
from anyorder.reproduce.study import Decoding, Setting

DRAWS = 16
BASELINES = ("random", "top_k:5")
SIGMAS = ("policy~0.1", "policy~0.5", "policy~2")
_MODEL = "reward/top_k/{seed}"


class DrawStudy(RewardStudy):
    """For each problem, how many of `DRAWS` draws are right, int (N,); a deterministic order is drawn once."""

    @property
    def measure_mark(self) -> str:
        """See `Study`."""
        return f", {DRAWS} draws"

    def measure(self, denoiser: Any, decoding: Decoding, order: str) -> dict[str, Any]:
        """See `Study`."""
        task, problems = self.problems(decoding.setting)
        draws = DRAWS if _is_drawn(order) else 1
        result = pass_at_n(denoiser, task, problems, [order], draws, steps=decoding.steps)[0]
        return {"draws": draws, "nfe": result.nfe, "correct": result.correct.tolist()}

    def kept(self, values: dict[str, Any]) -> np.ndarray:
        """See `Study`."""
        correct = np.array(values["correct"])
        if correct.shape != (values["problems"],):
            raise ValueError("it holds the number of right draws of each problem")
        return correct


def _is_drawn(order: str) -> bool:
    return order in BASELINES or "~" in order


def _needs(with_policy: bool) -> Any:
    def needs(settings: list[Setting], seeds: list[int]) -> list[Decoding]:
        found = [Decoding(s, "frozen", (*BASELINES, "confidence"), s.steps) for s in settings]
        if with_policy:
            found += [Decoding(s, _MODEL.format(seed=k), ("policy", *SIGMAS), s.steps) for s in settings for k in seeds]
        return found

    return needs


def _layout(title: str, with_policy: bool) -> Any:
    def layout(settings: list[Setting], seeds: list[int], solved: Solved, folder: Path) -> Outcome:
        cells, lines, parts, values = Cells(solved, seeds), {}, [], {}
        for s in settings:

            def of(model: str, order: str, s: Setting = s) -> PassAtN:
                return of_counts(order, cells.of(s, model, order), DRAWS if _is_drawn(order) else 1, float(s.steps))

            drawn = [of("frozen", order) for order in BASELINES]
            single = [of("frozen", "confidence")]
            if with_policy:
                drawn += [of(_MODEL, order) for order in SIGMAS]
                single.append(of(_MODEL, "policy"))
            _, header, rows = grid_of(drawn)
            once = [[r.order, f"{100 * r.accuracy[0]:.1f} %"] for r in single]
            parts.append(
                f"**{s.name}**\n\n{markdown_table(header, rows)}\n{markdown_table(['without chance', 'solved'], once)}"
            )
            lines[s.name] = lines_of(drawn)
            for r in single:
                _, once_right, low, high = lines_of([r])[r.order][0]
                lines[s.name][f"{r.order}, one draw"] = [(float(k), once_right, low, high) for k in (1, DRAWS)]
            values[s.name] = {r.order: r.accuracy for r in (*drawn, *single)}
        return Outcome(title, "\n".join(parts), values, lines, "N draws", "Pass@N, %")

    return layout


_about = partial(about, positions=f"positions drawn {DRAWS} times per problem")
"""The settings that stand above these figures."""

TARGETS = {
    "upo-figure1": Target(
        ("sudoku4",), _needs(False), _layout("UPO, figure 1: Pass@N of random and top-5 orders", False), DrawStudy, _about
    ),
    "upo-figure8": Target(
        ("sudoku4",), _needs(True), _layout("UPO, figure 8: Pass@N of a policy held to the top 5", True), DrawStudy, _about
    ),
}
