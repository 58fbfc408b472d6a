"""Samplers that share forward passes decode as they would alone."""

from typing import Any

import pytest
import torch
from torch import Tensor

from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.base import DenoiserOutput, fingerprint
from anyorder.denoisers.shared_passes import SharedPasses
from anyorder.denoisers.transformer import Transformer
from anyorder.errors import BadInput, PartFailed
from anyorder.evaluation.comparison import evaluate
from anyorder.evaluation.headroom_check import headroom
from anyorder.evaluation.operating_points import pareto
from anyorder.evaluation.results import Report
from anyorder.tasks.sudoku import Sudoku
from anyorder.zoo import load_denoiser

SAMPLERS = (
    "random",
    "confidence",
    "margin",
    "confidence@entropy_share",
    "confidence+p2:4",
    "confidence@dapd",
    "policy",
    "policy+undo",
    "oracle",
)
TASK = Sudoku(2)
PROBLEMS = TASK.generate(24, 3, givens=5)


class Counting(Transformer):
    """Counts the sequences that it is run for."""

    rows = 0

    def forward(self, tokens: Tensor, *args: Any, **kwargs: Any) -> DenoiserOutput:
        self.rows += len(tokens)
        return super().forward(tokens, *args, **kwargs)


def counting() -> Counting:
    torch.manual_seed(0)
    return Counting(vocab_size=5, mask_token_id=0, max_length=16, width=16, layers=1, heads=["everything"] * 2).eval()


def told(report: Report) -> list[dict[str, Any]]:
    """All that a report says, except for the seconds."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in report.to_json()["results"]]


def test_a_report_is_the_same() -> None:
    denoiser = load_denoiser("sudoku4")
    shared = SharedPasses(denoiser)
    alone = evaluate(denoiser, TASK, PROBLEMS, SAMPLERS, [3, 8], batch_size=10)
    together = evaluate(denoiser, TASK, PROBLEMS, SAMPLERS, [3, 8], batch_size=10, shared=shared)
    again = evaluate(denoiser, TASK, PROBLEMS, SAMPLERS, [3, 8], batch_size=7, shared=shared)
    assert told(alone) == told(together) == told(again)
    assert shared.seen > shared.rows / 2


def test_the_denoiser_runs_once_for_each_state() -> None:
    denoiser = counting()
    shared = SharedPasses(denoiser)
    evaluate(denoiser, TASK, PROBLEMS, ["confidence"], 8, shared=shared)
    once = denoiser.rows
    assert once == 8 * 24 == shared.rows
    evaluate(denoiser, TASK, PROBLEMS, ["confidence", "left_to_right"], 8, shared=shared)
    assert denoiser.rows == shared.rows - shared.seen
    assert once + 7 * 24 >= denoiser.rows > once  # at least the first state is shared
    evaluate(denoiser, TASK, PROBLEMS, ["confidence"], 8)
    assert denoiser.rows == shared.rows - shared.seen + once  # nothing is kept in the denoiser itself


@pytest.mark.parametrize("limit", [0, 30_000])
def test_what_is_kept_stays_below_the_limit(limit: int) -> None:
    denoiser, samplers = load_denoiser("sudoku4"), ["confidence", "entropy", "oracle"]
    shared = SharedPasses(denoiser, limit)
    found = evaluate(denoiser, TASK, PROBLEMS, samplers, 8, shared=shared)
    kept = sum(logits.nbytes + hidden.nbytes for logits, hidden in shared._kept.values())
    assert kept == shared.bytes <= limit
    assert told(found) == told(evaluate(denoiser, TASK, PROBLEMS, samplers, 8))


def test_outputs_are_those_of_the_denoiser_for_any_positions_and_masks() -> None:
    denoiser = counting()
    shared = SharedPasses(denoiser)
    tokens = torch.tensor([[0, 1, 2, 0], [0, 1, 2, 0], [3, 0, 0, 1]])
    mask = torch.tensor([[True] * 4, [True] * 4, [False, True, True, True]])
    some = torch.tensor([[True, False, False, True], [True, False, False, False], [False, True, True, False]])
    with torch.no_grad():
        for attention_mask in (None, mask):
            for positions in (some, tokens == 0, some, torch.zeros_like(some)):
                expected, found = denoiser(tokens, attention_mask, positions), shared(tokens, attention_mask, positions)
                assert torch.equal(found.logits, expected.logits) and torch.equal(found.hidden, expected.hidden)
                found.logits.zero_()  # what a caller does with its copy changes nothing that is kept
                found.hidden.zero_()
    before = denoiser.rows
    assert shared(tokens, None, some).logits.requires_grad and denoiser.rows == before + 3  # with gradients, it is run


def test_it_stands_for_the_denoiser() -> None:
    denoiser = counting()
    shared = SharedPasses(denoiser)
    assert shared.max_length == 16 and shared.mask_token_id == 0 and fingerprint(shared) == fingerprint(denoiser)
    with pytest.raises(AttributeError, match="no_such"):
        _ = shared.no_such
    with pytest.raises(BadInput, match="of another denoiser"):
        evaluate(counting(), TASK, PROBLEMS, ["confidence"], 8, shared=shared)


def test_samplers_with_attention_or_a_cache_use_the_denoiser_itself() -> None:
    denoiser = counting()
    shared = SharedPasses(denoiser)
    cached = Sampler("confidence", block_length=4, cache="dual")
    evaluate(denoiser, TASK, PROBLEMS, {"cached": cached, "dapd": "confidence@dapd"}, 8, shared=shared)
    assert shared.rows == 0


def test_errors_name_the_denoiser() -> None:
    class Broken(Counting):
        def forward(self, *args: Any, **kwargs: Any) -> DenoiserOutput:
            raise ValueError("no weights today")

    denoiser = Broken(vocab_size=5, mask_token_id=0, max_length=16, width=16, layers=1, heads=["everything"] * 2)
    with pytest.raises(PartFailed, match=r"the denoiser test_shared_passes:.*Broken failed.*no weights today"):
        evaluate(denoiser, TASK, PROBLEMS, ["confidence"], 8, shared=SharedPasses(denoiser))


def test_headroom_runs_the_denoiser_once_for_each_state() -> None:
    denoiser = counting()
    found = headroom(denoiser, TASK, PROBLEMS, 8, updates=0)
    assert denoiser.rows < 0.8 * 24 * sum(result.nfe for result in found.report.results)


def test_pareto_runs_the_denoiser_once_for_each_state() -> None:
    denoiser = counting()
    found = pareto(denoiser, TASK, PROBLEMS, ["confidence@linear", "confidence@threshold"])
    assert denoiser.rows < 0.8 * 24 * sum(point.nfe for point in found.points)
