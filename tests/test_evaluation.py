"""Statistics against known values, reports with the promised fields, calibration by hand."""

import json
import math
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from anyorder.decoding.counts import Linear, Threshold
from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.decoding.tokens import Sample
from anyorder.denoisers.transformer import Transformer
from anyorder.errors import BadInput
from anyorder.evaluation.batches import decode_in_batches
from anyorder.evaluation.calibration import calibration, path_calibration
from anyorder.evaluation.choice import baselines
from anyorder.evaluation.comparison import evaluate, order_diversity
from anyorder.evaluation.critic_check import review
from anyorder.evaluation.headroom_check import headroom, recommendation
from anyorder.evaluation.results import Report
from anyorder.evaluation.samplers import as_samplers, default_samplers, kind_of
from anyorder.evaluation.statistics import (
    crossed_interval,
    crossed_share,
    mcnemar,
    mean_interval,
    oracle_gap_closed,
    paired_interval,
    share_interval,
    sign_flip,
    wilson,
)
from anyorder.evaluation.tables import grids_of, markdown, rich_tables, rows_of
from anyorder.orders.heuristics import confidence
from anyorder.orders.learned import Critic, LearnedOrder
from anyorder.prediction import Prediction
from anyorder.registry import ORDERS, POLICIES
from anyorder.report.plots import accuracy_against_steps
from anyorder.session import open_session
from anyorder.state import DecodeState
from anyorder.tasks import make_task
from anyorder.tasks.sudoku import Sudoku
from anyorder.zoo import load_denoiser
from anyorder.zoo.matching import task_for
from conftest import HashDenoiser
from every_part import learned


def toy_policy() -> LearnedOrder:
    torch.manual_seed(0)
    network = POLICIES["mlp"](hidden_size=4, vocab_size=5, scores_committed=True).eval()
    return LearnedOrder(network, Critic(network))


@pytest.fixture(scope="module")
def report() -> Report:
    task = Sudoku(2)
    samplers = {name: name for name in ("random", "confidence", "confidence+repredict", "oracle")}
    policies = {"policy": toy_policy(), "policy+undo": Sampler(toy_policy(), remasker="undo")}
    problems = task.generate(30, 0, givens=12)
    return evaluate(HashDenoiser(5), task, problems, {**samplers, **policies}, [2, 4], noise=[0.0, 0.5], seed=3)


def test_wilson_interval_matches_the_textbook() -> None:
    low, high = wilson(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson(0, 10).low == 0.0
    assert wilson(10, 10).high == 1.0


def test_mcnemar_is_a_coin_test_on_what_differs() -> None:
    a = np.array([True] * 9 + [False] * 1 + [True] * 50)
    b = np.array([False] * 9 + [True] * 1 + [True] * 50)
    assert mcnemar(a, b) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar(a, a) == 1.0


def test_paired_interval_by_hand() -> None:
    low, high = paired_interval(np.array([True, True, False, True]), np.array([True, False, False, False]))
    half = 1.96 * math.sqrt((3 / 6 + 1 / 6 - (3 / 6 - 1 / 6) ** 2) / 6)  # Bonett and Price: 3 and 1 discordant pairs of 6
    assert (low, high) == pytest.approx((2 / 6 - half, 2 / 6 + half))
    low, high = paired_interval(np.array([0.4, 0.7, 0.6, 0.9]), np.array([0.5, 0.6, 0.7, 0.8]))
    half = 1.96 * np.std([-0.1, 0.1, -0.1, 0.1], ddof=1) / 2
    assert (low, high) == pytest.approx((-half, half))


def test_where_nothing_differs_a_small_difference_is_not_excluded() -> None:
    for count in (30, 300):
        solved = np.arange(count) % 3 == 0
        low, high = paired_interval(solved, solved)
        assert -low == high == pytest.approx(1.96 * math.sqrt(2) / (count + 2))
        assert paired_interval(solved / 2, solved / 2) == pytest.approx((-3 / count, 3 / count))
        assert crossed_interval(np.zeros((3, count))) == pytest.approx((-3 / count, 3 / count))
        assert crossed_share(np.ones((3, count))) == pytest.approx((1 - 3 / count, 1))
        assert share_interval(np.ones(count)) == wilson(count, count)


def test_paired_intervals_of_few_instances_that_differ_cover_the_difference() -> None:
    rng, covered = np.random.default_rng(0), 0
    for _ in range(1000):
        worse = rng.random(100) < 0.5
        low, high = paired_interval(worse | (rng.random(100) < 0.04), worse)  # the normal approximation covers 87 %
        covered += low <= 0.02 <= high
    assert covered >= 940


def test_the_sign_flip_test_takes_little_memory() -> None:
    gained = np.random.default_rng(0).choice([-1.0, 1.0], 2000, p=[0.48, 0.52])
    tracemalloc.start()
    p = sign_flip(gained)
    assert tracemalloc.get_traced_memory()[1] < 2**26, "20,000 draws of 2,000 signs take 305 MiB at once"
    tracemalloc.stop()
    assert p == pytest.approx(binomtest(int((gained > 0).sum()), 2000).pvalue, abs=0.01)


def test_the_share_of_the_gap_is_that_of_the_paper() -> None:
    assert oracle_gap_closed(90.82, 89.84, 100) == pytest.approx(0.0965, abs=1e-4)
    assert oracle_gap_closed(0.5, 1.0, 1.0) is None


def test_a_report_has_every_cell_and_the_promised_fields(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path / "r.json")
    values = json.loads((tmp_path / "r.json").read_text())
    assert len(values["results"]) == 6 * 2 * 2
    needed = {"order", "steps", "noise", "instances", "instance_accuracy", "cell_accuracy", "ci95", "nfe", "seconds"}
    assert needed <= values["results"][0].keys()
    assert {"order", "against", "steps", "difference", "p_value", "oracle_gap_closed"} <= values["comparisons"][0].keys()
    assert {"versions", "seed"} <= values["meta"].keys()
    for result in values["results"]:
        assert result["ci95"][0] <= result["instance_accuracy"] <= result["ci95"][1]
        assert result["nfe"] <= result["steps"]
        assert result["noise"] > 0 or result["order_diversity"] == pytest.approx(0.0)
        assert result["noise"] == 0 or result["order_diversity"] > 0 or result["order"] not in ("random", "confidence")


def test_the_reference_is_the_best_heuristic_of_the_same_cell(report: Report) -> None:
    for c in report.comparisons:
        cell = {r.order: r.instance_accuracy for r in report.results if (r.steps, r.noise) == (c.steps, c.noise)}
        assert c.against in ("random", "confidence")
        assert cell[c.against] == max(cell["random"], cell["confidence"])
        assert c.difference == pytest.approx(cell[c.order] - cell[c.against])


def test_results_do_not_depend_on_the_batch_size() -> None:
    task = Sudoku(2)
    instances = task.generate(9, 0, givens=12)
    outcomes = [
        evaluate(HashDenoiser(5), task, instances, ["random"], [3], noise=[0.5], batch_size=size).results[0]
        for size in (1, 4, 9)
    ]
    assert all((o.correct == outcomes[0].correct).all() for o in outcomes)


def test_tables_and_plots_come_out(report: Report, tmp_path: Path) -> None:
    assert len(rich_tables(report)) == 8  # four cells, each also by difficulty
    assert markdown(report).count("| confidence |") == 8
    assert "naked single (" in markdown(report)
    for name in ("a.png", "a.svg"):
        assert accuracy_against_steps(report, tmp_path / name).stat().st_size > 5000
    with pytest.raises(BadInput, match=r"\.png or \.svg"):
        accuracy_against_steps(report, tmp_path / "a.txt")


def test_parquet(report: Report, tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    report.save(tmp_path / "r.parquet")
    assert len(pd.read_parquet(tmp_path / "r.parquet")) == 24


def test_an_oracle_without_solutions_is_refused() -> None:
    task = Sudoku(2)
    puzzle = task.parse("1000000000000000")
    with pytest.raises(BadInput, match="oracle and reads the solutions"):
        evaluate(HashDenoiser(5), task, puzzle, ["oracle"], [2])
    with pytest.raises(BadInput, match="not among the samplers"):
        evaluate(HashDenoiser(5), task, puzzle, ["random"], [2], against="margin")


def outside_in(state: DecodeState, prediction: Prediction) -> torch.Tensor:
    """An order that nobody registered."""
    middle = (state.tokens.shape[1] - 1) / 2
    return (state.index - middle).abs().float()


def test_an_own_function_is_compared_under_its_name() -> None:
    task = Sudoku(2)
    report = evaluate(HashDenoiser(5), task, task.generate(12, 0, givens=12), [outside_in, "random"], 3)
    assert [(r.order, r.kind) for r in report.results] == [("outside_in", "other"), ("random", "heuristic")]
    assert [(c.order, c.against) for c in report.comparisons] == [("outside_in", "random")]


def test_a_mapping_gives_the_labels() -> None:
    task = Sudoku(2)
    samplers = {"mine": outside_in, "fast": Sampler("confidence", count="threshold:0.5"), "usual": "confidence"}
    report = evaluate(HashDenoiser(5), task, task.generate(5, 0, givens=12), samplers, [3], against="usual")
    assert [r.order for r in report.results] == ["mine", "fast", "usual"]
    assert {c.against for c in report.comparisons} == {"usual"}


def test_equal_labels_and_nothing_at_all_are_refused() -> None:
    with pytest.raises(BadInput, match="two samplers are called 'confidence': leave one out, or in Python pass a mapping"):
        as_samplers(["confidence", confidence])
    with pytest.raises(BadInput, match="nothing to compare"):
        as_samplers([])
    with pytest.raises(BadInput, match="use one of random"):
        as_samplers(["best"])


def test_an_order_of_another_package_is_no_baseline() -> None:
    ORDERS.register("outside_in_test", default=True)(outside_in)
    try:
        assert kind_of(Sampler("outside_in_test")) == "other"
        task = Sudoku(2)
        assert "outside_in_test" in default_samplers(task, HashDenoiser(5), task.generate(2, 0))
    finally:
        del ORDERS._entries["outside_in_test"]
    texts = ("margin~0.1", "top_k:3", "margin+repredict", "gt_margin", "policy", "confidence@demask")
    kinds = ["heuristic", "heuristic", "other", "oracle", "learned", "learned"]
    assert [kind_of(Sampler.parse(text)) for text in texts] == kinds


def test_a_table_without_a_heuristic_names_no_reference() -> None:
    task = Sudoku(2)
    problems = task.generate(4, 0)
    alone = evaluate(HashDenoiser(5), task, problems, ["oracle", "gt_margin"], 2)
    assert [row[5] for row in rows_of(alone, alone.results[0].cell)] == ["", ""]
    both = evaluate(HashDenoiser(5), task, problems, ["oracle", "confidence"], 2)
    assert [row[5] == "reference" for row in rows_of(both, both.results[0].cell)] == [False, True]


def test_a_critic_reviews_every_sequence_whatever_the_pace() -> None:
    """None is left with a certainty that no critic gave it, neither with a rule that spreads the budget nor with a fast one."""
    task = Sudoku(2)
    problems = task.generate(12, 0, givens=6)
    found = [review(HashDenoiser(5), task, problems, learned(), 4, count=count) for count in (None, Linear(), Threshold(0.0))]
    assert all(((one.least > 0) & (one.least < 1)).all() for one in found)
    assert len({tuple(one.least.tolist()) for one in found}) > 1


def test_the_default_samplers_suit_task_and_problems() -> None:
    task = Sudoku(2)
    found = default_samplers(task, HashDenoiser(5), task.generate(2, 0))
    assert {"random", "confidence", "oracle"} <= set(found) and not {"left_to_right", "policy", "gt_margin"} & set(found)
    assert "oracle" not in default_samplers(task, HashDenoiser(5), task.parse("1000000000000000"))
    assert "left_to_right" in default_samplers(make_task("protein"), HashDenoiser(5), task.generate(2, 0))
    sums = default_samplers(make_task("arithmetic"), HashDenoiser(5), task.generate(2, 0))
    assert "right_to_left" in sums and "left_to_right" not in sums
    assert "right_to_left" in baselines(make_task("arithmetic")) and "right_to_left" not in baselines(make_task("protein"))


def test_for_infilling_the_recovered_share_comes_first() -> None:
    task = make_task("protein", length=12)
    torch.manual_seed(0)
    denoiser = Transformer(33, 32, task.length, 16, 1, ["everything"] * 2, pad_token_id=1).eval()
    problems = task.encode(["ACDEFGH", "MKTAYIAK", "GGGGA"])  # type: ignore[attr-defined]
    report = evaluate(denoiser, task, problems, ["confidence", "random"], 3)
    header, rows = grids_of(report)[0][1:]
    assert header[:5] == ["order", "cell accuracy", "95 % interval", task.correct_means, "NFE"]
    for result, row in zip(report.results, rows, strict=True):
        low, high = result.cell_ci95 or (-1, 2)
        assert 0 <= low <= (result.cell_accuracy or 0) <= high <= 1
        assert row[1] == f"{100 * (result.cell_accuracy or 0):.1f} %"
    best, worse = sorted((r.cell_accuracy or 0 for r in report.results), reverse=True)
    assert report.comparisons[0].difference == pytest.approx(worse - best)


def test_intervals_of_shares_are_within_zero_and_one() -> None:
    assert mean_interval(np.array([1.0, 1.0, 0.0]))[1:] == wilson(2, 3)
    assert share_interval(np.array([0.9, 1.0, 1.0, 0.5])).high == 1.0
    assert paired_interval(np.array([True, True, True]), np.array([False, False, False])).high == 1.0


def test_order_diversity_by_hand() -> None:
    reference = torch.tensor([[0, 1, 2, -1], [3, 3, -1, -1]])
    assert order_diversity(reference, reference) == pytest.approx(0.0)
    assert order_diversity(torch.tensor([[2, 1, 0, -1], [3, 3, -1, -1]]), reference) == pytest.approx(2.0)
    assert order_diversity(torch.tensor([[0, 2, 1, -1], [3, 3, -1, -1]]), reference) == pytest.approx(0.5)


def test_calibration_by_hand() -> None:
    confidences = torch.tensor([0.95, 0.95, 0.55, 0.55])
    found = calibration(confidences, torch.tensor([True, True, True, False]))
    assert [(b.count, b.accuracy) for b in found.bins] == [(2, 0.5), (2, 1.0)]
    assert found.error == pytest.approx(0.05)
    assert found.overconfidence == pytest.approx(0.0, abs=1e-6)
    assert calibration(torch.ones(4), torch.tensor([True, False, False, False])).overconfidence == pytest.approx(0.75)


def test_headroom_measures_all_orders_and_says_what_it_means() -> None:
    task = Sudoku(2)
    found = headroom(HashDenoiser(5), task, task.generate(10, 0, givens=12), 3)
    assert {r.order for r in found.report.results} >= {"random", "confidence", "oracle", "gt_margin"}
    assert "best heuristic" in recommendation(found) and recommendation(found) in str(found) and "| oracle |" in str(found)
    every, first = path_calibration(HashDenoiser(5), task.generate(10, 0, givens=12), 3)
    assert every.count >= first.count > 0


def test_sequences_that_are_hidden_completely_are_no_question() -> None:
    denoiser = load_denoiser("wordnet", device="cpu")
    texts = ["a person who acts", "a small house"]
    for hide, kinds in ((1.0, [UserWarning]), (0.5, [])):
        task = task_for(denoiser, hide=hide)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            headroom(denoiser, task, task.encode(texts), 2)  # type: ignore[attr-defined]
        assert [one.category for one in caught] == kinds


def test_the_command_hides_half_of_complete_texts_unless_told_otherwise(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("a person who acts\na small house\n")
    for options, share in (([], 0.5), (["hide=1"], 1.0), (["hide=0.2"], 0.2)):
        session = open_session(model="wordnet", data=tmp_path / "texts.txt", task_options=options, hide=0.5)
        assert session.task.options["hide"] == share
    assert "hide" not in open_session(model="sudoku4", limit=1, hide=0.5).task.options


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_sequences_of_any_length_come_back_in_their_places(batch_size: int) -> None:
    task = make_task("protein", length=20)
    torch.manual_seed(0)
    denoiser = Transformer(33, 32, task.length, 16, 1, ["everything"] * 2, pad_token_id=1).eval()
    problems = task.encode(["AC_D_", "MKTAYIAK_", "____", "G__________W", "A_"])  # type: ignore[attr-defined]
    sampler = Sampler(confidence, token=Sample(1.0), steps=4)
    expected = decode(denoiser, problems.tokens, sampler, seeds=torch.arange(5) + 7 * 2**32)
    found = decode_in_batches(denoiser, problems, sampler, seed=7, batch_size=batch_size, progress=None, name="")
    for name in ("tokens", "commit_step", "nfe", "remasked"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert torch.allclose(found.token_log_probs, expected.token_log_probs, atol=1e-5)


def test_an_interval_over_seeds_and_instances_has_the_width_of_both() -> None:
    """Sums of a seed's and an instance's effect: the variance of the mean is s^2 / S + p^2 / N."""
    rng = np.random.default_rng(0)
    seeds, instances = 40, 400
    values = rng.normal(size=(seeds, 1)) + 10 * rng.normal(size=(1, instances))
    low, high = crossed_interval(values)
    by_theory = values.mean(axis=1).var(ddof=1) / seeds + values.mean(axis=0).var(ddof=1) / instances
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * by_theory**0.5, rel=0.05)


def test_an_interval_over_seeds_covers_the_variance_of_few() -> None:
    rng = np.random.default_rng(1)
    widths = []
    for _ in range(40):
        low, high = crossed_interval(np.repeat(rng.normal(size=(4, 1)), 5, axis=1))
        widths.append(((high - low) / (2 * 1.96)) ** 2)
    assert np.mean(widths) == pytest.approx(1 / 4, rel=0.35), "of normal seeds with variance 1, not 3/4 of it"


def test_one_seed_says_nothing_of_others() -> None:
    values = np.random.default_rng(2).normal(size=(1, 300))
    low, high = crossed_interval(values)
    assert high - low == pytest.approx(2 * 1.96 * values.std(ddof=1) / 300**0.5, rel=0.08)
