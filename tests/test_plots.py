"""Plots from saved results, and the command that makes them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from anyorder.errors import BadInput
from anyorder.evaluation.results import Report
from anyorder.evaluation.saved import load, report_of, save_trajectories
from anyorder.registry import ORDERS
from anyorder.report import plots
from anyorder.report.sources import read_metrics, read_sources, select
from anyorder.report.style import COLORS, look_of
from commands import refused, run
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
    for some in ((found, None), (None, load(tmp_path / "report.json"))):
        with pytest.raises(BadInput, match="there are no results of polcy; there are confidence, 4 steps; random, 4 steps"):
            select(*some, ["random", "polcy"], None)


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


def test_trajectories_and_a_report_of_other_problems_are_refused(tmp_path: Path) -> None:
    trajectories, report = watched(["confidence"])
    facts = {"task": "sudoku", "data": "puzzles.csv", "seed": 1}
    trajectories.about.update(facts)
    report.meta.update(facts)
    for change, said in (
        ({"task": "zebra"}, "task is 'sudoku' in one and 'zebra' in the other"),
        ({"data": "other.csv"}, "data is 'puzzles.csv' in one and 'other.csv' in the other"),
        ({"seed": 2}, None),  # of the decoding: the problems of a file are the same
        ({"data": "generated sudoku"}, "data is 'puzzles.csv' in one"),
    ):
        save_trajectories(trajectories, tmp_path / "t.json")
        replace(report, meta={**report.meta, **change}).save(tmp_path / "report.json")
        if said is None:
            assert read_sources([tmp_path])[1] is not None
            continue
        with pytest.raises(BadInput, match=f"t.json and .*report.json are about different problems: {said}"):
            read_sources([tmp_path])
    trajectories.about["data"] = "generated sudoku"
    save_trajectories(trajectories, tmp_path / "t.json")
    replace(report, meta={**facts, "data": "generated sudoku", "seed": 2}).save(tmp_path / "report.json")
    with pytest.raises(BadInput, match="seed is 1 in one and 2 in the other"):
        read_sources([tmp_path])
    fewer = [replace(result, instances=3) for result in report.results]
    Report(fewer, [], {}).save(tmp_path / "report.json")
    with pytest.raises(BadInput, match="about different problems: 6 in one and 3 in the other"):
        read_sources([tmp_path])


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


def test_positions_that_an_order_left_out_have_no_part_in_the_reliability_of_its_scores() -> None:
    trajectories, _ = watched(["confidence"])
    run = trajectories.runs[0].model_copy(update={"kind": "learned"})
    (_, confidence, _), (_, scored, _) = plots._reliability(trajectories, run)
    assert scored.count == confidence.count
    step = run.decodes[0].steps[0]
    step.scores = [None, *step.scores[1:]]
    (_, again, _), (_, fewer, _) = plots._reliability(trajectories, run)
    assert again == confidence and fewer.count == scored.count - 1
    for step in (step for decoded in run.decodes for step in decoded.steps):
        step.scores = [None] * len(step.scores)
    assert [name for name, *_ in plots._reliability(trajectories, run)] == ["confidence"]


def test_options_without_effect_and_titles_that_are_no_formula_are_refused(tmp_path: Path) -> None:
    trajectories, _ = watched(["confidence"])
    save_trajectories(trajectories, tmp_path / "t.json")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}')
    out = ["-o", tmp_path / "plot.svg"]
    for kind, option, value in (
        ("calibration", "--title", "mine"),
        ("order-map", "--title", "mine"),
        ("training", "--title", "mine"),
        ("training", "--only-orders", "confidence"),
        ("training", "--only-steps", "4"),
    ):
        refused(run("plot", kind, tmp_path / "t.json", *out, option, value), f"{option} has no effect for the kind {kind}")
    title = ["--title", r"costs $\x and $5"]
    refused(run("plot", "accuracy", tmp_path / "t.json", *out, *title), "which is no formula: ")
    assert not (tmp_path / "plot.svg").exists()
    assert run("plot", "accuracy", tmp_path / "t.json", *out, "--title", r"$\alpha$ costs \$5").returncode == 0


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    for metrics, said in (
        ([{"step": 1, "loss": "low"}], "loss is 'low', which is no number"),
        ([{"step": [1], "loss": 1.0}], r"step is \[1\], which is no number"),
    ):
        with pytest.raises(BadInput, match=said):
            plots.training_curves(metrics, tmp_path / "p.png")  # type: ignore[arg-type]
    _, report = watched(["confidence"])
    report.save(tmp_path / "report.json")
    values = json.loads((tmp_path / "report.json").read_text())
    for name, value in (("nfe", None), ("nfe", "many"), ("instance_accuracy", None)):
        changed = {**values, "results": [{**values["results"][0], name: value}]}
        (tmp_path / "report.json").write_text(json.dumps(changed))
        with pytest.raises(BadInput, match=r"report\.json holds no report of `anyorder evaluate --json`"):
            load(tmp_path / "report.json")
