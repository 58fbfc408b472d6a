"""Fronts by hand; curves of operating points; and every curve on the same instances."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from anyorder.decoding.counts import EvenBlocks
from anyorder.decoding.entropy_counts import EntropyBound
from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.errors import BadInput
from anyorder.evaluation.curves import as_curves
from anyorder.evaluation.fronts import area, attained, hull, non_dominated
from anyorder.evaluation.operating_points import Fronts, grids_of, lines_of, pareto
from anyorder.evaluation.saved import load_fronts
from anyorder.files import dump_json
from anyorder.orders.heuristics import confidence, entropy
from anyorder.orders.learned import LearnedOrder
from anyorder.registry import COUNT_RULES, POLICIES
from anyorder.tasks.sudoku import Sudoku
from commands import refused, run
from conftest import HashDenoiser


def points(*pairs: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    nfe, accuracy = zip(*pairs, strict=True)
    return np.array(nfe, dtype=float), np.array(accuracy, dtype=float)


def test_the_front_leaves_out_what_is_dominated() -> None:
    found = non_dominated(*points((4, 0.9), (2, 0.5), (3, 0.4), (2, 0.3), (8, 0.9), (9, 0.95)))
    assert found.tolist() == [1, 0, 5]
    assert non_dominated(*points((2, 0.5), (2, 0.5))).tolist() == [0]


def test_what_a_mixture_of_two_points_beats_is_no_corner_of_the_hull() -> None:
    """From (2, .5) to (4, .9) a coin gives .7 at 3; trying half of the problems with (4, .8) gives .4 at 2."""
    xs, ys = hull(*points((4, 0.9), (3, 0.69), (2, 0.5), (5, 0.9)))
    assert (xs.tolist(), ys.tolist()) == ([0, 2, 4], [0, 0.5, 0.9])
    assert hull(*points((2, 0.39), (4, 0.8)))[0].tolist() == [0, 4]


def test_at_a_budget_the_mixture_is_attained_and_below_the_cheapest_point_its_share() -> None:
    found = attained(*points((4, 0.9), (2, 0.5), (3, 0.1)), np.array([1.0, 2.0, 3.0, 4.0, 99.0]))
    assert found.tolist() == pytest.approx([0.25, 0.5, 0.7, 0.9, 0.9])


def test_the_area_by_hand() -> None:
    """NFE 2 and 4, accuracies .5 and .9. From 1 to 2 y = x / 4, so the integral of y dx / x is .25; from 2 to 4
    y = .1 + .2 x: .1 ln 2 + .4; from 4 to 8 y = .9: .9 ln 2. Over ln 8: (.65 + ln 2) / (3 ln 2)."""
    expected = (0.65 + math.log(2)) / (3 * math.log(2))
    assert area(*points((2, 0.5), (4, 0.9)), 1, 8) == pytest.approx(expected)
    assert area(*points((4, 0.9), (3, 0.6), (2, 0.5)), 1, 8) == pytest.approx(expected), "a further point never takes away"


def test_the_area_is_the_mean_over_budgets_that_lie_evenly_by_logarithm() -> None:
    curve = points((3, 0.2), (5, 0.7), (11, 0.8))
    assert area(*curve, 2, 30) == pytest.approx(attained(*curve, np.geomspace(2, 30, 200_001)).mean(), abs=1e-5)
    with pytest.raises(ValueError, match="the first must be above 0"):
        area(*curve, 8, 8)


def test_a_better_front_has_a_larger_area() -> None:
    worse, better = points((3, 0.4), (8, 0.6)), points((3, 0.4), (6, 0.6))
    assert area(*better, 3, 16) > area(*worse, 3, 16)


def test_curves_from_text() -> None:
    found = {c.name: c for c in as_curves(["confidence@threshold:0.5/0.9", "entropy@linear:3/all"], HashDenoiser(), 57)}
    assert [p.label for p in found["confidence@threshold"].points] == ["confidence@threshold:0.5", "confidence@threshold:0.9"]
    assert [(p.label, p.steps) for p in found["entropy@linear"].points] == [("entropy@linear", 3), ("entropy@linear", None)]


def supervised() -> LearnedOrder:
    return LearnedOrder(POLICIES["mlp"](hidden_size=4, vocab_size=5))


def by_reward() -> LearnedOrder:
    return LearnedOrder(POLICIES["confidence_transformer"](hidden_size=4, vocab_size=5))


def test_an_order_without_a_rule_has_a_curve_for_each_that_suits_it() -> None:
    def names(order: object) -> list[str]:
        return [curve.name.partition("@")[2] for curve in as_curves([order], HashDenoiser(), 57)]  # type: ignore[list-item]

    assert names("confidence") == [
        "linear",
        "threshold",
        "factor",
        "klass",
        "entropy_bound",
        "entropy_share",
        "even_unsure",
    ]
    assert set(names(supervised())) == {"linear", "score_threshold", "predicted_error"}
    assert set(names(by_reward())) == {"linear", "score_threshold", "bernoulli"}
    assert [c.name for c in as_curves(["confidence+repredict"], HashDenoiser(), 57)] == ["confidence+repredict"]


def test_a_rule_around_another_is_one_curve_over_budgets() -> None:
    even, wrapped = as_curves(["confidence@linear", "confidence@number_of:threshold:0.8"], HashDenoiser(), 57)
    assert wrapped.name == "confidence@number_of:threshold:0.8"
    assert [point.steps for point in wrapped.points] == [point.steps for point in even.points] and len(even.points) == 6
    assert {str(point.sampler.count) for point in wrapped.points} == {str(Sampler.parse(wrapped.name).count)}


def test_orders_and_samplers_make_curves_under_their_labels() -> None:
    samplers = {"mine": confidence, "careful": Sampler("entropy", steps=9), "slow": Sampler("margin")}
    found = {curve.name: curve for curve in as_curves(samplers, HashDenoiser(), 10)}
    assert {"mine@linear", "mine@threshold", "careful", "slow"} <= set(found)
    assert [p.steps for p in found["careful"].points] == [9] and len(found["slow"].points) > 4
    with pytest.raises(BadInput, match="two curves are called 'margin'"):
        as_curves([Sampler("margin", steps=3), Sampler("margin", steps=4)], HashDenoiser(), 10)


@pytest.mark.parametrize("longest", [10, 57, 162])
def test_every_default_curve_has_at_least_five_operating_points(longest: int) -> None:
    rules = [e.name for e in COUNT_RULES.entries() if e.facts.get("curve_for") or any(a.values for a in e.arguments)]
    assert len(rules) >= 8
    for curve in as_curves([f"confidence@{rule}" for rule in rules], HashDenoiser(), longest):
        assert len(curve.points) >= 5, curve.name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("confidence@linear:few", "not a budget of forward passes"),
        ("confidence@linear:0", "numbers from 1 on"),
        ("confidence@fixed", "give its values"),
        ("confidence@threshold:0.5//0.9", "give its values"),
        ("best", "order 'best' is unknown"),
    ],
)
def test_curves_that_cannot_be_are_refused(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        as_curves([text], HashDenoiser(), 9)


@pytest.fixture(scope="module")
def found() -> Fronts:
    task = Sudoku(2)
    texts = ["confidence@threshold:0.3/0.9", "random@linear:2/4", "confidence@klass:0.5:1/0.9:0.1"]
    return pareto(HashDenoiser(5), task, task.generate(40, 0, givens=12), texts, [None, 2], bounds=(1.0, 4.0))


def test_every_operating_point_is_measured_in_every_mode(found: Fronts) -> None:
    assert [(p.label, p.block) for p in found.points[:2]] == [
        ("confidence@threshold:0.3", None), ("confidence@threshold:0.9", None)
    ]  # fmt: skip
    assert len(found.points) == 2 * 6
    for p in found.points:
        assert p.nfe == pytest.approx(p.nfe_each.mean()) and p.accuracy == pytest.approx(p.correct.mean())
        assert p.nfe <= p.steps


def test_the_front_of_a_mode_is_taken_over_all_curves(found: Fronts) -> None:
    for block in (None, 2):
        mode = [p for p in found.points if p.block == block]
        for p in mode:
            beaten = any(q.nfe <= p.nfe and q.accuracy > p.accuracy for q in mode)
            beaten |= any(q.nfe < p.nfe and q.accuracy >= p.accuracy for q in mode)
            assert not (p.on_front and beaten)
        assert any(p.on_front for p in mode)


def test_areas_are_those_of_the_points_and_differences_are_to_the_best_heuristic_of_the_mode(found: Fronts) -> None:
    for curve in found.curves:
        mine = [p for p in found.points if (p.curve, p.block) == (curve.curve, curve.block)]
        expected = area(np.array([p.nfe for p in mine]), np.array([p.accuracy for p in mine]), 1.0, 4.0)
        assert curve.area == pytest.approx(expected)
        mode = {c.curve: c.area for c in found.curves if c.block == curve.block}
        assert curve.against is not None and mode[curve.against] == max(mode.values())
        if curve.curve != curve.against:
            assert curve.area_difference == pytest.approx(curve.area - mode[curve.against])
            assert curve.area_difference_ci95 is not None
            low, high = curve.area_difference_ci95
            assert low <= curve.area_difference <= high


def test_outcomes_are_kept_and_everything_is_shown(found: Fronts) -> None:
    values = json.loads(json.dumps(found.to_json()))
    assert all(len(p["correct"]) == len(p["nfe_each"]) == 40 for p in values["points"])
    assert [title.split(",")[0].split(":")[0] for title, _, _ in grids_of(found)] == ["full diffusion"] * 3 + [
        "blocks of 2"
    ] * 3
    assert list(lines_of(found)) == ["full diffusion", "blocks of 2"]


def test_without_bounds_the_area_runs_from_one_forward_pass_to_one_position_per_step() -> None:
    task = Sudoku(2)
    problems = task.generate(10, 0, givens=12)
    curves = ["random@linear:1/2", "confidence@linear:2/4"]
    found = pareto(HashDenoiser(5), task, problems, curves, [None])
    assert found.bounds == (1.0, 4.0) and found.budgets == [1.0, 2.0, 4.0]
    with pytest.raises(BadInput, match="give --bounds"):
        pareto(HashDenoiser(5), task, task.generate(2, 0, givens=15), curves, [None])
    with pytest.raises(BadInput, match="not among the curves"):
        pareto(HashDenoiser(5), task, problems, curves, [None], against="margin@linear")


def test_the_entropy_bound_in_blocks_looks_at_the_open_block_alone() -> None:
    """Something is unmasked in every step although the surest positions lie in later blocks."""
    tokens = torch.zeros(20, 8, dtype=torch.int64)
    out = decode(HashDenoiser(), tokens, Sampler(entropy, EntropyBound(0.0), block_length=2))
    steps = [sorted(set(row)) for row in out.commit_step.tolist()]
    assert all(row == list(range(len(row))) for row in steps)


@pytest.mark.parametrize(("length", "budget"), [(8, 8), (9, 9), (5, 9), (8, 4)])
def test_a_budget_spread_over_blocks_wastes_no_forward_pass(length: int, budget: int) -> None:
    tokens = torch.zeros(3, 9, dtype=torch.int64)
    tokens[1, length:] = 1  # a shorter sequence beside longer ones
    sampler = Sampler.parse("confidence@blocks:3", steps=budget)
    assert isinstance(sampler.count_rule, EvenBlocks)
    out = decode(HashDenoiser(), tokens, sampler)
    for row, nfe in zip(out.commit_step.tolist(), out.nfe.tolist(), strict=True):
        assert len({step for step in row if step >= 0}) == nfe
        first = [max(step for step in row[i : i + 3]) for i in range(0, 9, 3)]
        assert first == sorted(first) or -1 in first


def test_the_command_writes_what_it_found(tmp_path: Path) -> None:
    curves = "confidence@threshold:0.5/0.99,policy@linear:2/5"
    files = ["--json", tmp_path / "r.json", "--markdown", tmp_path / "t.md", "--plot", tmp_path / "p.png"]
    result = run("pareto", "--task-option", "box=2", "--limit", "6", "--orders", curves, "--blocks", "full,4", *files,
                 "--against", "confidence@threshold", "--bounds", "1,8")  # fmt: skip
    assert result.returncode == 0, result.stderr
    values = json.loads((tmp_path / "r.json").read_text())
    assert [(c["curve"], c["block"]) for c in values["curves"]] == [
        (name, block) for block in (None, 4) for name in ("confidence@threshold", "policy@linear")
    ]
    assert values["meta"]["denoiser"] == "sudoku4"
    assert "| policy@linear |" in (tmp_path / "t.md").read_text()
    assert (tmp_path / "p.png").exists()

    fronts = load_fronts(tmp_path / "r.json")
    assert fronts is not None and json.loads(dump_json(fronts.to_json())) == values
    assert run("plot", "pareto", tmp_path / "r.json", "-o", tmp_path / "q.svg").returncode == 0
    only = ["--only-orders", "policy@linear", "--only-steps", "5"]
    assert run("plot", "pareto", tmp_path / "r.json", "-o", tmp_path / "r.svg", *only).returncode == 0
    assert (tmp_path / "q.svg").stat().st_size > (tmp_path / "r.svg").stat().st_size
    refused(
        run("plot", "pareto", tmp_path / "r.json", "-o", tmp_path / "s.svg", "--only-orders", "x"), "no such curve; there are"
    )
    for option, value, said in (
        ("--only-orders", "policy@linear,x", "there are no results of x"),
        ("--title", "mine", "--title has no effect with"),
    ):
        refused(run("plot", "pareto", tmp_path / "r.json", "-o", tmp_path / "s.svg", option, value), said)
    refused(run("plot", "accuracy", tmp_path / "r.json", "-o", tmp_path / "s.svg"), "`anyorder plot pareto` draws it")
    (tmp_path / "r.json").write_text(json.dumps(values | {"points": [{"curve": 1}]}))
    refused(run("plot", "pareto", tmp_path / "r.json", "-o", tmp_path / "s.svg"), "holds no report of `anyorder pareto --json`")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--blocks", "0"], "write 'full' and numbers of positions"),
        (["--bounds", "9,3"], "two numbers, the first above 0"),
        (["--orders", "policy@bernoulli:high"], "must be a number"),
    ],
)
def test_bad_input_is_one_clear_error(arguments: list[str], message: str) -> None:
    refused(run("pareto", "--task-option", "box=2", "--limit", "2", *arguments), message)


def test_confidence_is_the_order_within_blocks() -> None:
    tokens = torch.zeros(4, 6, dtype=torch.int64)
    out = decode(HashDenoiser(), tokens, Sampler.parse("confidence@blocks:6", steps=6))
    same = decode(HashDenoiser(), tokens, Sampler(confidence, steps=6))
    assert torch.equal(out.commit_step, same.commit_step)


def test_a_sampler_that_names_blocks_is_measured_in_them_alone() -> None:
    task = Sudoku(2)
    puzzles, texts = task.generate(20, 0, givens=8), ["confidence@linear:4", "confidence@blocks:2@linear:4"]
    found = pareto(HashDenoiser(5), task, puzzles, texts, [None, 4], bounds=(1.0, 4.0))
    assert [(p.curve, p.block) for p in found.points] == [
        ("confidence@linear", None), ("confidence@blocks:2@linear", 2), ("confidence@linear", 4)
    ]  # fmt: skip
    own = decode(HashDenoiser(5), puzzles.tokens, Sampler.parse(texts[1].removesuffix(":4"), steps=4))
    assert found.points[1].correct.tolist() == task.check(puzzles, own.tokens).instance_correct.tolist()
    assert [curve.against for curve in found.curves] == [curve.curve for curve in found.curves], "each alone in its mode"
    named = pareto(HashDenoiser(5), task, puzzles, texts, [None], against="confidence@linear", bounds=(1.0, 4.0))
    assert [curve.against for curve in named.curves] == ["confidence@linear", None]


def test_an_accuracy_that_is_not_known_is_left_empty() -> None:
    found = pareto(HashDenoiser(5), Sudoku(2), Sudoku(2).generate(5, 0, givens=8), ["confidence@linear:4"], bounds=(1.0, 4.0))
    found.points[0].cell_accuracy = float("nan")
    assert "nan" not in str(grids_of(found))
