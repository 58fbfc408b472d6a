"""The choice of a sampler: gains, the rule by which one is chosen, the advice, headroom's probe, and `fit` for puzzles."""

import itertools
import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import anyorder
from anyorder.decoding.combined_counts import NumberOf
from anyorder.decoding.counts import Threshold
from anyorder.errors import BadInput
from anyorder.evaluation.choice import adaptive, advice, best, choose, gain, heuristics, joined, learned
from anyorder.evaluation.headroom_check import area_under_roc, headroom, recommendation
from anyorder.evaluation.results import Cell, Report
from anyorder.fitting import FitSettings, data, fit_and_compare
from anyorder.registry import COUNT_RULES
from anyorder.session import key_values
from anyorder.tasks import Instances, Task, make_task
from anyorder.tasks.instances import joined as together
from anyorder.training.fit import fit_order, plan_fit
from anyorder.training.fit_recipes import default_fit
from anyorder.training.solutions import several_solutions, share_with_several
from anyorder.zoo import load_denoiser, load_order
from permutations import Permutations, Prone


def result(order: str, outcomes: list[float], kind: str, nfe: float = 4.0) -> SimpleNamespace:
    values = np.array(outcomes)
    return SimpleNamespace(
        order=order,
        kind=kind,
        nfe=nfe,
        correct=values,
        main=lambda _: (values.mean(), None),
        outcomes=lambda _: values,
        cell=Cell(4, 0.0, False),
    )


def report(**rows: tuple[list[float], str]) -> Report:
    return Report([result(name, *row) for name, row in rows.items()], [], {"main_metric": "cell_accuracy"})  # type: ignore[misc]


LOW, HIGH, EQUAL = [0.5, 0.6, 0.7, 0.8], [0.6, 0.7, 0.8, 0.9], [0.4, 0.7, 0.6, 0.9]


def test_a_gain_is_the_mean_difference_with_its_paired_interval() -> None:
    found = gain(report(a=(HIGH, "learned"), b=(LOW, "heuristic")), "a", "b")
    assert [round(value, 6) for value in (found.mean, found.low, found.high)] == [10.0, 10.0, 10.0]
    found = gain(report(a=(EQUAL, "learned"), b=(LOW, "heuristic")), "a", "b")
    half = 100 * 1.96 * np.array([-0.1, 0.1, -0.1, 0.1]).std(ddof=1) / 2
    assert (found.mean, found.low, found.high) == pytest.approx((0.0, -half, half))
    assert found.p_value == 1.0


@pytest.mark.parametrize(("policy", "chosen"), [(HIGH, "policy"), (EQUAL, "b"), (LOW, "b"), ([0.9, 0.5, 0.9, 0.8], "b")])
def test_a_learned_sampler_is_chosen_only_if_its_whole_interval_is_above_the_best_heuristic(
    policy: list[float], chosen: str
) -> None:
    rows = {
        "a": ([0.1] * 4, "heuristic"),
        "b": (LOW, "heuristic"),
        "policy": (policy, "learned"),
        "oracle": ([1.0] * 4, "oracle"),
    }
    assert choose(report(**{name: (3 * values, kind) for name, (values, kind) in rows.items()})) == chosen
    assert choose(report(**rows)) == "b"  # of four problems nothing is significant


@pytest.mark.parametrize(("gained", "chosen"), [(4, "b"), (6, "policy")])
def test_a_few_problems_more_are_no_reason_to_choose(gained: int, chosen: str) -> None:
    solved = np.arange(500) < 250
    found = report(b=(list(solved), "heuristic"), policy=(list(np.arange(500) < 250 + gained), "learned"))
    assert (gain(found, "policy", "b").low > 0) == (chosen == "policy")  # as the exact test, p = .12 and .03
    assert choose(found) == chosen


def test_without_a_learned_sampler_the_best_heuristic_is_chosen_and_among_equals_the_cheapest() -> None:
    found = Report(
        [result(n, LOW, "heuristic", nfe) for n, nfe in (("a", 9.0), ("b", 3.0), ("c", 5.0))],  # type: ignore[misc]
        [],
        {"main_metric": "cell_accuracy"},
    )
    assert choose(found) == best(found, "heuristic").order == "b"
    with pytest.raises(BadInput, match="has no oracle"):
        best(found, "oracle")


@pytest.mark.parametrize(
    ("policy", "oracle", "several", "said"),
    [
        (HIGH, HIGH, 0.0, r"use a learned sampler \(policy\); anyorder fit"),
        (LOW, HIGH, 0.0, r"use b unless .* neither shown nor excluded \(policy: up to 25\.0 points\)"),
        (EQUAL, HIGH, 0.0, r"use b unless a longer fit .* neither shown nor excluded \(policy: up to 5\.9 points\)"),
        (None, HIGH, 0.0, "use b, or let anyorder fit try"),
        (HIGH, LOW, 0.0, "That is no bound for undo"),
        (LOW, HIGH, 0.25, "no bound: at least 25 % of the problems have other solutions"),
    ],
)
def test_the_advice_says_what_was_gained_and_what_to_do(
    policy: list[float] | None, oracle: list[float], several: float, said: str
) -> None:
    rows = {} if policy is None else {"policy": (3 * policy, "learned")}
    found = report(b=(3 * LOW, "heuristic"), oracle=(3 * oracle, "oracle"), **rows)
    gains = [gain(found, name, "b") for name in rows]
    text = advice(found, "b", gains, several)
    assert text.startswith("The best heuristic is b: 65.0 % cell accuracy with 4.0 forward passes (12 problems).")
    assert re.search(said, text), text


@pytest.mark.parametrize(("problems", "said"), [(60, "neither shown nor excluded"), (400, "gains less than 1 point")])
def test_a_gain_is_excluded_only_by_enough_problems(problems: int, said: str) -> None:
    solved = list(np.arange(problems) % 2 == 0)
    found = report(b=(solved, "heuristic"), oracle=([True] * problems, "oracle"), policy=(solved, "learned"))
    assert said in advice(found, "b", [gain(found, "policy", "b")], 0.0)


def test_a_task_without_room_needs_no_order() -> None:
    assert "less than 1 point is left" in advice(report(b=([1.0] * 4, "heuristic")), "b", [])


def test_every_adaptive_count_rule_for_heuristics_is_tried() -> None:
    rules = [e.name for e in COUNT_RULES.entries() if "heuristic" in e.facts.get("curve_for", ()) and e.arguments]
    others = {"cosine", "if_unsure", "saber"}
    assert {text.split("@")[1].split(":")[0] for text in adaptive()} == set(rules) | others
    assert len(adaptive(every=False)) == len(rules) + len(others) < len(adaptive())


def test_the_best_rule_is_tried_within_the_budget_and_with_noise() -> None:
    tried: list[str] = []

    def compare(samplers: dict[str, anyorder.Sampler]) -> Report:
        tried.extend(samplers)
        worth = [0.9] * 4 if "confidence@factor:3" in samplers else LOW
        return report(**{name: (worth if name == "confidence@factor:3" else LOW, "heuristic") for name in samplers})

    found = heuristics(make_task("sudoku", box=2), compare)
    assert tried[-2:] == ["confidence@factor:3, within the budget", "confidence@factor:3, noise 1"]
    assert best(found, "heuristic").order == "confidence@factor:3"


def test_area_under_the_roc_by_hand() -> None:
    scores = torch.tensor([3.0, 1.0, 2.0, 2.0])
    right = torch.tensor([True, True, False, False])
    assert area_under_roc(scores, right) == 0.5  # 3 > 2, 3 > 2, 1 < 2, 1 < 2
    assert area_under_roc(scores, torch.tensor([True, False, True, False])) == pytest.approx((1 + 1 + 1 + 0.5) / 4)
    assert np.isnan(area_under_roc(scores, torch.ones(4) > 0))


# ---- several solutions --------------------------------------------------------------------------------------------------


def filled(task: Task, problems: Instances, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Solutions with some tokens replaced, and which positions are certain."""
    rng = torch.Generator().manual_seed(seed)
    noise = torch.randint(1, task.vocab_size, problems.tokens.shape, generator=rng)
    flip = torch.rand(problems.tokens.shape, generator=rng) < 0.4
    assert problems.x0 is not None
    tokens = torch.where(problems.maskable & flip, noise, problems.x0)
    return tokens, torch.rand(problems.tokens.shape, generator=rng) < 0.5


@pytest.mark.parametrize(("layout", "givens"), [("infill", 6), ("infill", 9), ("prefix", 8)])
def test_the_nearest_solution_of_a_sudoku_is_that_of_enumeration(layout: str, givens: int) -> None:
    task = make_task("sudoku", box=2, layout=layout)
    problems = task.generate(20, 3, givens=givens, unique=False)
    tokens, certain = filled(task, problems)
    found = task.nearest_solutions(problems, tokens, certain)
    assert task.check(problems, found).instance_correct.all()
    grids = [grid for grid in itertools.product(itertools.permutations((1, 2, 3, 4)), repeat=4) if _is_sudoku(grid)]
    assert len(grids) == 288
    every = torch.tensor(grids).flatten(1)
    answer = slice(None) if layout == "infill" else slice(17, 33)
    zero = 0 if layout == "infill" else int(problems.x0[0, 17]) - int(task._grid(problems.x0)[0, 0])  # type: ignore[index, attr-defined]
    for row in range(len(problems)):
        puzzle = task._puzzle_grid(problems.tokens[row : row + 1])[0]  # type: ignore[attr-defined]
        fits = every[((every == puzzle) | (puzzle == 0)).all(dim=1)]
        wished = tokens[row, answer] - zero
        weight = torch.where(certain[row, answer], 17, 1) * ((wished >= 1) & (wished <= 4))
        costs = (weight * (fits != wished)).sum(dim=1)
        assert (weight * (found[row, answer] - zero != wished)).sum() == costs.min()


def _is_sudoku(grid: tuple[tuple[int, ...], ...]) -> bool:
    columns = all(len({row[c] for row in grid}) == 4 for c in range(4))
    return columns and all(len({grid[r + i][c + j] for i in (0, 1) for j in (0, 1)}) == 4 for r in (0, 2) for c in (0, 2))


@pytest.mark.parametrize("layout", ["infill", "prefix"])
def test_the_nearest_model_of_a_formula_is_that_of_enumeration(layout: str) -> None:
    task = (
        make_task("sat", variables=5, clauses=10, layout="infill")
        if layout == "infill"
        else make_task("sat", variables=5, layout=layout)
    )
    problems = task.generate(20, 1)
    tokens, certain = filled(task, problems, 1)
    found = task.nearest_solutions(problems, tokens, certain)
    assert task.check(problems, found).instance_correct.all()
    places, names = task._answer_places, task._names  # type: ignore[attr-defined]
    for row in range(len(problems)):
        costs = {}
        for signs in itertools.product((0, 1), repeat=5):
            answer = problems.x0[row].clone()  # type: ignore[index]
            answer[places] = torch.tensor([names[v + 5 * sign] for v, sign in enumerate(signs)])
            if task.check(problems[row : row + 1], answer[None]).instance_correct:
                costs[signs] = _cost(task, tokens[row], answer, certain[row])
        assert _cost(task, tokens[row], found[row], certain[row]) == min(costs.values())


def _cost(task: Task, tokens: torch.Tensor, answer: torch.Tensor, certain: torch.Tensor) -> int:
    """Weight of the differences of truth values, where the sequence holds a literal."""
    places = task._answer_places  # type: ignore[attr-defined]
    values, other = (task._literal_of(v[places]).sign() for v in (tokens, answer))  # type: ignore[attr-defined]
    return int(((values != other) * (values != 0) * torch.where(certain[places], task.length + 1, 1)).sum())


def test_the_default_takes_tensors_from_any_device() -> None:
    """As `check` does, and its overrides: a trainer passes those of a GPU."""
    assert getattr(Task.nearest_solutions, "__wrapped__", None) is not None


def test_a_task_without_a_solver_knows_its_stored_solution_and_what_satisfies_the_rules() -> None:
    task = make_task("sudoku", box=2)
    problems = task.generate(30, 3, givens=5, unique=False)
    other = task.nearest_solutions(problems, filled(task, problems)[0], problems.maskable)
    wrong = torch.where(problems.maskable, 1, problems.tokens)
    for tokens, expected in ((other, other), (wrong, problems.x0)):
        assert torch.equal(Task.nearest_solutions(task, problems, tokens, problems.maskable), expected)  # type: ignore[arg-type]


def test_several_solutions_are_found_out_by_the_rules() -> None:
    denoiser = load_denoiser("sudoku4")
    task = anyorder.task_for(denoiser)
    assert several_solutions(denoiser, task, task.generate(64, 1, givens=7, unique=False)) > 0.1
    assert several_solutions(denoiser, task, task.generate(64, 1, givens=7)) == 0
    assert share_with_several(make_task("sat"), make_task("sat").generate(64, 1)) > 0.2, "by the label models"
    assert share_with_several(make_task("text"), make_task("text", hide=0.5).encode(["abc"])) == 0


# ---- headroom and fit ---------------------------------------------------------------------------------------------------


def test_headroom_fits_a_probe_and_says_what_it_gained() -> None:
    denoiser = load_denoiser("sudoku4-weak")
    task = anyorder.task_for(denoiser)
    problems = task.generate(60, 5, givens=8)
    found = headroom(denoiser, task, problems, 8, updates=3)
    assert found.probe is not None and 0.4 < found.probe.auroc < 1
    assert {"policy", "policy+undo", "heuristic+undo"} <= {one.what for one in found.probe.gains}
    assert all(len(one.correct) == 30 for one in found.probe.report.results)
    said = recommendation(found)
    for part in (
        "is overconfident on its own path",
        "AUROC",
        "The best heuristic is",
        "Gained over it: policy",
        "Advice: use",
    ):
        assert part in said
    for without in (headroom(denoiser, task, problems, 8, updates=0), headroom(denoiser, task, problems[:20], 8)):
        assert without.probe is None and "let anyorder fit try" in recommendation(without)


def test_a_probe_is_measured_on_problems_that_it_has_not_seen() -> None:
    denoiser = load_denoiser("sudoku4-weak")
    task = anyorder.task_for(denoiser)
    problems = task.generate(60, 5, givens=8)
    twice = together([problems[:32], problems[:8], problems[36:60]])  # 8 are repeated in the second half
    found = headroom(denoiser, task, twice, 4, samplers=["confidence", "oracle"], updates=1).probe
    assert found is not None and all(len(one.correct) == 24 for one in found.report.results)
    twice = together([problems[:40], problems[:40]])
    assert headroom(denoiser, task, twice, 4, samplers=["confidence", "oracle"], updates=1).probe is None


def test_a_learned_sampler_is_advised_only_if_the_exact_test_agrees() -> None:
    number = np.arange(30)
    found = report(
        b=(list(number < 10), "heuristic"), oracle=([True] * 30, "oracle"),
        policy=(list((number < 17) & (number > 0)), "learned"),
    )  # fmt: skip
    one = gain(found, "policy", "b")  # 7 more are solved, and 1 is not
    assert one.low > 0 and one.p_value == pytest.approx(2 * 9 / 2**8)
    assert "neither shown nor excluded (policy" in advice(found, "b", [one], 0.0)


def test_a_fit_to_puzzles_hands_over_a_sampler_and_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_GENERATED", {"train": 20, "validation": 12, "test": 16})
    settings = FitSettings("sudoku4-weak", steps=8, updates=3, train_batch_size=4, generate=("givens=9", "unique=false"))
    found = fit_and_compare(settings, tmp_path / "out", Console(quiet=True))
    assert found.order.critic is not None, "positions of a Sudoku are related, so the policy is a critic too"
    assert {len(r.correct) for r in found.reports["choice"].results} == {12}
    assert {len(r.correct) for r in found.reports["test"].results} == {16}
    assert found.advice in (tmp_path / "out" / "README.md").read_text()
    denoiser = load_denoiser("sudoku4-weak")
    task = anyorder.task_for(denoiser)
    problems = task.generate(4, 9, givens=9)
    again = anyorder.decode(denoiser, problems.tokens, tmp_path / "out" / "sampler").tokens
    assert torch.equal(again, anyorder.decode(denoiser, problems.tokens, found.sampler).tokens)
    assert load_order(tmp_path / "out", denoiser).critic is not None


def test_the_three_sets_of_a_file_have_no_problem_in_common(tmp_path: Path) -> None:
    task = make_task("sudoku", box=2)
    problems = task.generate(60, 1, givens=9)
    assert problems.x0 is not None
    rows = ["puzzle,solution"] + [
        "".join(map(str, puzzle)) + "," + "".join(map(str, solution))
        for puzzle, solution in zip(problems.tokens.tolist(), problems.x0.tolist(), strict=True)
    ]
    (tmp_path / "p.csv").write_text("\n".join(rows))
    bench = data.prepare(FitSettings("sudoku4-weak", tmp_path / "p.csv"), Console(quiet=True))
    sets = [{tuple(row) for row in part.tokens.tolist()} for part in (bench.train, bench.validation, bench.test)]
    assert [len(part) for part in sets] == [36, 12, 12]
    assert len(set.union(*sets)) == 60
    assert {tuple(row) for row in bench.first.tokens.tolist()} == sets[0] | sets[1], "never those of the test"
    (tmp_path / "few.csv").write_text("\n".join(rows[:6]))
    with pytest.raises(BadInput, match=r"few\.csv holds 5 problems; a fit needs 10"):
        data.prepare(FitSettings("sudoku4-weak", tmp_path / "few.csv"), Console(quiet=True))
    with pytest.raises(BadInput, match="--generate has no effect with a file"):
        data.prepare(FitSettings("sudoku4-weak", tmp_path / "p.csv", generate=("givens=8",)), Console(quiet=True))


def test_the_policy_of_related_positions_reads_the_relations() -> None:
    policy, objective = default_fit("", make_task("sudoku", box=2))
    assert policy.architecture == "lookahead" and objective.critic
    assert list(policy.settings["heads"]) == ["row", "row", "column", "column", "box", "box", "everything", "everything"]
    assert default_fit("", make_task("text"))[0].architecture == "mlp"


def test_samplers_with_a_critic_undo() -> None:
    denoiser = load_denoiser("sudoku4")
    order = load_order(Path(denoiser.own_order), denoiser)  # type: ignore[attr-defined]
    plain = learned(order, anyorder.Sampler.parse("confidence"))
    assert list(plain) == ["policy", "policy+undo", "policy+undo, one at a time", "heuristic+undo"]
    paced = learned(order, anyorder.Sampler.parse("confidence@threshold:0.8"))["policy, pace of the heuristic"]
    assert paced.count == NumberOf(Threshold(0.8)) and paced.order == order
    order.critic = None
    assert list(learned(order, anyorder.Sampler.parse("confidence"))) == ["policy"]


def test_words_on_the_command_line_can_be_true_or_false() -> None:
    assert key_values(["unique=false", "a=True", "b=1"], "--generate") == {"unique": False, "a": True, "b": 1}
    with pytest.raises(BadInput, match="--generate gives a twice, 1 and 2: give it once"):
        key_values(["a=1", "a=2"], "--generate")


def test_joined_reports_keep_the_facts_of_the_first() -> None:
    one, two = report(a=(LOW, "heuristic")), report(b=(HIGH, "learned"))
    assert [r.order for r in joined(one, two).results] == ["a", "b"]
    assert joined(one, two).meta is one.meta


# ---- several solutions, of which the task knows one ---------------------------------------------------------------------


def test_where_only_one_of_many_solutions_is_known_an_order_is_trained_by_the_rules(tmp_path: Path) -> None:
    denoiser, task = Prone(), Permutations()
    problems = task.generate(160, 5)
    found = headroom(denoiser, task, problems, 6, updates=40)
    assert found.several > 0.1 and found.probe is not None
    (gained,) = [one for one in found.probe.gains if one.what == "policy"]
    assert gained.mean > 5  # 15 to 25; supervision by the stored solutions loses 10
    said = recommendation(found)
    assert "is that of the stored solution" in said and "points behind" in said and "no bound" in said
    settings: dict[str, Any] = {"steps": 40, "batch_size": 32, "seed": 0}
    assert plan_fit(denoiser, task, problems, **settings).kind == "reward"
    assert plan_fit(denoiser, task, task.generate(160, 5, blanks=1), **settings).kind == "order"  # one solution each
    sudoku = make_task("sudoku", box=2)  # knows all solutions
    many = sudoku.generate(64, 1, givens=7, unique=False)
    assert plan_fit(load_denoiser("sudoku4"), sudoku, many, **settings).kind == "order"


def test_supervision_by_one_of_many_solutions_is_warned_of(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 1, "batch_size": 4, "console": Console(quiet=True)}
    with pytest.warns(UserWarning, match="several solutions, of which Permutations knows the stored one alone"):
        fit_order(Prone(), Permutations(), Permutations().generate(64, 1), tmp_path / "warned", **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_order(Prone(), Permutations(), Permutations().generate(64, 1, blanks=1), tmp_path / "one", **settings)
        asked = {"name": "correctness", "states": "model"}
        fit_order(Prone(), Permutations(), Permutations().generate(64, 1), tmp_path / "asked", objective=asked, **settings)
