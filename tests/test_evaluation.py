"""Statistics against known values, reports with the promised fields, calibration by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from anyorder.decoding.actions import Bernoulli, DynamicPlackettLuce, PlackettLuce
from anyorder.decoding.blocks import EvenBlocks, InBlocks
from anyorder.decoding.counts import KLASS, Linear, Threshold
from anyorder.decoding.loop import Decoder, decode
from anyorder.decoding.tokens import Sample
from anyorder.denoisers.transformer import Transformer
from anyorder.errors import BadInput
from anyorder.evaluation.calibration import calibration, path_calibration
from anyorder.evaluation.evaluate import Report, decode_in_batches, evaluate, order_diversity
from anyorder.evaluation.headroom import measure, verdict
from anyorder.evaluation.orders import make_decoder, parse_count_rule
from anyorder.evaluation.statistics import mcnemar, oracle_gap_closed, paired_interval, wilson
from anyorder.evaluation.tables import markdown, rich_tables
from anyorder.orders.heuristics import confidence
from anyorder.orders.policies import LearnedOrder, Policy
from anyorder.report.plots import accuracy_against_steps
from anyorder.tasks import make_task
from anyorder.tasks.sudoku import Sudoku
from conftest import HashDenoiser


def no_policy(name: str) -> LearnedOrder:
    raise AssertionError(name)


def toy_policy(name: str) -> LearnedOrder:
    torch.manual_seed(0)
    return LearnedOrder(Policy("mlp", hidden_size=4, vocab_size=5, judges=True).eval())


@pytest.fixture(scope="module")
def report() -> Report:
    task = Sudoku(2)
    orders = ["random", "confidence", "policy", "policy+undo", "confidence+repredict", "oracle"]
    return evaluate(
        HashDenoiser(5), task, task.generate(30, 0, givens=12), orders, [2, 4], noise=[0.0, 0.5], load_policy=toy_policy, seed=3
    )


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
    half = 1.96 * np.std([0, 1, 0, 1], ddof=1) / 2
    assert (low, high) == (pytest.approx(0.5 - half), pytest.approx(0.5 + half))


def test_the_share_of_the_gap_is_that_of_the_paper() -> None:
    assert oracle_gap_closed(90.82, 89.84, 100) == pytest.approx(0.0965, abs=1e-4)
    assert oracle_gap_closed(0.5, 1.0, 1.0) is None


def test_a_report_has_every_cell_and_the_promised_fields(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path / "r.json")
    values = json.loads((tmp_path / "r.json").read_text())
    assert len(values["results"]) == 6 * 2 * 2
    needed = {"order", "steps", "noise", "instances", "instance_accuracy", "cell_accuracy", "ci95", "forwards", "seconds"}
    assert needed <= values["results"][0].keys()
    assert {"order", "against", "steps", "difference", "p_value", "oracle_gap_closed"} <= values["comparisons"][0].keys()
    assert {"versions", "seed"} <= values["meta"].keys()
    for result in values["results"]:
        assert result["ci95"][0] <= result["instance_accuracy"] <= result["ci95"][1]
        assert result["forwards"] <= result["steps"]
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
        evaluate(
            HashDenoiser(5), task, instances, ["random"], [3], noise=[0.5], load_policy=no_policy, batch_size=size
        ).results[0]
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
    with pytest.raises(BadInput, match="leave the oracle out"):
        evaluate(HashDenoiser(5), task, puzzle, ["oracle"], [2], load_policy=no_policy)
    with pytest.raises(BadInput, match="not among the orders"):
        evaluate(HashDenoiser(5), task, puzzle, ["random"], [2], load_policy=no_policy, against="margin")


@pytest.mark.parametrize(
    ("spec", "message"),
    [("best", "use one of random"), ("confidence+magic", "'\\+repredict' or '\\+undo'"), ("random+undo+undo", "nothing")],
)
def test_unknown_orders_list_the_known_ones(spec: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make_decoder(spec, 3, 0.0, no_policy)


def test_an_order_can_have_a_count_rule_of_its_own() -> None:
    decoder = make_decoder("confidence@threshold:0.8", 3, 0.0, no_policy)
    assert decoder.count == parse_count_rule("threshold:0.8")
    assert make_decoder("confidence", 3, 0.0, no_policy).count == parse_count_rule("linear")
    assert make_decoder("policy+undo", 3, 0.0, toy_policy).count == parse_count_rule("second_look")


def test_an_order_can_be_held_to_blocks() -> None:
    decoder = make_decoder("confidence@blocks:4", 3, 0.0, no_policy)
    assert decoder.order == InBlocks(confidence, 4)
    assert decoder.count == EvenBlocks(4)
    for spec in ("confidence@blocks:4@entropy_bound:0.2", "confidence@entropy_bound:0.2@blocks:4"):
        assert make_decoder(spec, 3, 0.0, no_policy).count == parse_count_rule("entropy_bound:0.2")
    for spec, message in {
        "confidence@blocks": "blocks:32",
        "confidence@blocks:0": "blocks:32",
        "confidence@blocks:4@cosine": "use linear, fixed, threshold",
        "confidence+repredict@blocks:4": "nothing is undone in blocks",
        "confidence@blocks:4@blocks:2": "once",
        "confidence@fixed:1@fixed:2": "one count rule",
    }.items():
        with pytest.raises(BadInput, match=message):
            make_decoder(spec, 3, 0.0, no_policy)


def test_count_rules_by_name() -> None:
    assert parse_count_rule("threshold:0.8") == type(parse_count_rule("threshold"))(0.8)
    with pytest.raises(BadInput, match="use one of linear"):
        parse_count_rule("all-at-once")
    for text, message in (("linear:3", "takes no number"), ("fixed:0", "at least one position")):
        with pytest.raises(BadInput, match=message):
            parse_count_rule(text)
    with pytest.raises(BadInput, match="is not a number"):
        parse_count_rule("threshold:high")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("klass", KLASS()), ("klass:0.6:0.015", KLASS(0.6, 0.015)), ("klass:0.6:0.015:3:2", KLASS(0.6, 0.015, 3, 2)),
        ("score_threshold:0.7", Threshold(0.7, by="score")), ("bernoulli:0.5", Bernoulli(0.5)), ("bernoulli:0", Bernoulli(0.0)),
        ("dynamic_plackett_luce", DynamicPlackettLuce()), ("plackett_luce:2", PlackettLuce(2.0, Linear())),
    ],
)  # fmt: skip
def test_rules_with_several_numbers_and_rules_that_draw(text: str, rule: object) -> None:
    assert make_decoder(f"policy@{text}", 3, 0.0, toy_policy).count == rule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("klass:1:2:3:4:5", "klass takes 4 numbers at most"), ("threshold:0.5:0.6", "takes one number"),
        ("bernoulli:-1", "cannot be negative"), ("dynamic_plackett_luce:0", "must be above 0"),
        ("bernoulli:hot", "not a number"),
        ("klass:0.9:0.01:0", "must be at least 1"), ("coin", "use one of linear.*bernoulli"),
    ],
)  # fmt: skip
def test_rules_that_cannot_be_are_refused(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        parse_count_rule(text)


def test_rules_that_draw_are_held_to_blocks() -> None:
    assert make_decoder("policy@bernoulli:0.5@blocks:4", 3, 0.0, toy_policy).count == Bernoulli(0.5)
    assert make_decoder("policy@plackett_luce:2@blocks:4", 3, 0.0, toy_policy).count == PlackettLuce(2.0, EvenBlocks(4))


def test_temperature_zero_is_the_mode_and_a_threshold_on_the_score_at_one_half_the_same() -> None:
    """The knobs at test time of arXiv 2512.09106."""
    task = Sudoku(2)
    problems = task.generate(20, 0, givens=8)
    mode, half = (
        decode(HashDenoiser(5), problems.tokens, make_decoder(f"policy@{rule}", 16, 0.0, toy_policy))
        for rule in ("bernoulli:0", "score_threshold:0.5")
    )
    assert torch.equal(mode.commit_step, half.commit_step)


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
    found = measure(HashDenoiser(5), task, task.generate(10, 0, givens=12), 3)
    assert {r.order for r in found.report.results} >= {"random", "confidence", "oracle", "gt_margin"}
    assert "best heuristic" in verdict(found)
    every, first = path_calibration(HashDenoiser(5), task.generate(10, 0, givens=12), 3)
    assert every.count >= first.count > 0


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_sequences_of_any_length_come_back_in_their_places(batch_size: int) -> None:
    task = make_task("protein", length=20)
    torch.manual_seed(0)
    denoiser = Transformer(33, 32, task.length, 16, 1, ["everything"] * 2, pad_token_id=1).eval()
    problems = task.encode(["AC_D_", "MKTAYIAK_", "____", "G__________W", "A_"])  # type: ignore[attr-defined]
    decoder = Decoder(confidence, token=Sample(1.0), steps=4)
    whole = decode(denoiser, problems.tokens, decoder, seeds=torch.arange(5) + 7 * 2**32)
    found = decode_in_batches(denoiser, problems, decoder, seed=7, batch_size=batch_size, progress=None, name="")
    for name in ("tokens", "commit_step", "forwards", "undone"):
        assert torch.equal(getattr(found, name), getattr(whole, name)), name
    assert torch.allclose(found.token_log_probs, whole.token_log_probs, atol=1e-5)
