"""Plots from saved results, and the command that makes them."""

import json
from pathlib import Path

import pytest

from anyorder.errors import BadInput
from anyorder.evaluation.saved import report_of, save_trajectories
from anyorder.registry import ORDERS
from anyorder.report import plots
from anyorder.report.sources import read_metrics, read_sources, select
from anyorder.report.style import COLORS, look_of
from test_trajectories import watched


def test_the_front_is_what_nothing_else_beats() -> None:
    _, report = watched(["confidence", "random"])
    results = [
        type(r)(**{**vars(r), "nfe": nfe, "instance_accuracy": accuracy})
        for r, nfe, accuracy in zip(report.results * 3, (4, 4, 9, 2, 12, 6), (0.5, 0.6, 0.8, 0.1, 0.8, 0.4), strict=True)
    ]
    assert [(r.nfe, r.instance_accuracy) for r in plots.front_of(results)] == [(2, 0.1), (4, 0.6), (9, 0.8)]


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_every_plot_comes_out(tmp_path: Path, suffix: str) -> None:
    trajectories, report = watched(["confidence", "random+repredict", "oracle"])
    metrics = [{"step": step, "loss": 1 / step, "loss_level_0": 0.1, "bce_policy": 0.2} for step in (1, 2, 3)]
    drawn = [
        plots.pareto_front(report, tmp_path / f"pareto{suffix}"),
        plots.calibration_of_scores(trajectories, tmp_path / f"calibration{suffix}"),
        plots.order_map(trajectories, tmp_path / f"map{suffix}"),
        plots.training_curves(metrics, tmp_path / f"training{suffix}"),
    ]
    assert all(path.stat().st_size > 5000 for path in drawn)


def test_sources_are_files_or_a_folder_and_can_be_narrowed(tmp_path: Path) -> None:
    trajectories, report = watched(["confidence", "random"])
    with pytest.raises(BadInput, match="holds neither trajectories nor a report"):
        read_sources([tmp_path])
    save_trajectories(trajectories, tmp_path / "trajectories.json.gz")
    report.save(tmp_path / "report.json")
    found, results = read_sources([tmp_path])
    assert found == trajectories and results is not None
    with pytest.raises(BadInput, match="both reports of an evaluation"):
        read_sources([tmp_path, tmp_path / "report.json"])
    narrowed, results = select(found, results, ["random"], 4)
    assert narrowed is not None and results is not None
    assert [run.order for run in narrowed.runs] == [r.order for r in results.results] == ["random"]
    with pytest.raises(BadInput, match="no such run; there are confidence, 4 steps; random, 4 steps"):
        select(found, None, ["policy"], None)


def test_a_folder_is_read_by_content_and_says_what_it_does_not_use(tmp_path: Path) -> None:
    trajectories, report = watched(["confidence"])
    save_trajectories(trajectories, tmp_path / "tuesday.json")
    report.save(tmp_path / "table-of-tuesday.json")
    (tmp_path / "settings.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("no JSON at all")
    said: list[str] = []
    found, results = read_sources([tmp_path], said.append)
    assert found == trajectories and results is not None
    assert len(said) == 1 and "settings.json holds no trajectories" in said[0]


def test_colors_come_from_the_registry_or_else_in_turn() -> None:
    assert look_of("confidence@threshold:0.9")["color"] == ORDERS.entry("confidence").facts["color"]
    assert look_of("mine", 1)["color"] == COLORS[1]
    assert [look_of(name)["linestyle"] for name in ("oracle", "policy+undo", "policy", "mine")] == [":", "--", "-", "-."]


def test_metrics_are_read_and_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0}) + "\n")
    assert read_metrics([tmp_path]) == [{"step": 1, "loss": 2.0}]
    for text in ("", "[1]", "{"):
        (tmp_path / "metrics.jsonl").write_text(text)
        with pytest.raises(BadInput, match="holds no metrics"):
            read_metrics([tmp_path])


def test_calibration_needs_solutions(tmp_path: Path) -> None:
    trajectories, _ = watched(["confidence"])
    for problem in trajectories.problems:
        problem.solution = None
    with pytest.raises(BadInput, match="known solutions"):
        plots.calibration_of_scores(trajectories, tmp_path / "c.png")
    assert report_of(trajectories).results[0].exact_match is None
