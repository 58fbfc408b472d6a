"""Numbers that a part cannot use are one error, wherever they are given; errors in one's own code say whose they are; and what
`fit_order` takes by name, the other calls take too."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import anyorder
from anyorder.cli import app
from anyorder.decoding.counts import EvenBlocks, Factor, Threshold
from anyorder.decoding.sampler import Sampler
from anyorder.decoding.timesteps import Timesteps
from anyorder.decoding.tokens import Sample
from anyorder.errors import BadInput, PartFailed, counted
from anyorder.losses import rank_loss
from anyorder.orders.heuristics import confidence
from anyorder.orders.perturbed import Perturbed
from anyorder.training.objectives import Rank
from anyorder.training.recipes import load_recipe
from conftest import HashDenoiser

TOKENS = torch.zeros(2, 8, dtype=torch.int64)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        *((lambda t=t: Sample(t), "finite number above 0") for t in (math.nan, math.inf, 0, -1.0, True, "1", None)),
        (lambda: Sample(1e-320), "below 1e-30 the logits overflow: use Argmax"),
        (lambda: Sample(top_p=math.nan), "top_p is nan"),
        *((lambda k=k: Sample(top_k=k), "whole number, 1 or more") for k in (0, 1.5, True)),
        (lambda: Threshold(7), "level is 7; it must be a number of 0 or more and at most 1"),
        (lambda: Factor(math.nan), "factor is nan"),
        (lambda: Timesteps(0), "eps is 0"),
        (lambda: EvenBlocks(0), "length is 0"),
        (lambda: Perturbed(confidence, math.inf), "sigma is inf"),
        (lambda: Sampler("confidence", noise=math.inf), "noise is inf"),
        (lambda: Rank(-1), "temperature is -1; it must be a finite number above 0"),
        (lambda: rank_loss(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 2) > 0, -1.0), "temperature is -1.0"),
        *((lambda s=s: Sampler.parse(s), " is ") for s in (
            "confidence@threshold:7", "confidence@entropy_bound:nan", "confidence@factor:-1", "confidence@klass:7:1",
            "confidence@klass:0.5:nan", "policy@score_threshold:-1", "policy@predicted_error:nan", "policy@bernoulli:nan",
            "policy@plackett_luce:inf", "policy@dynamic_plackett_luce:0", "policy+undo:2", "confidence@ancestral:0",
        )),
        (lambda: load_recipe("sudoku4-order", ["policy.width=true"]), "'width' is true; it must be a number"),
        (lambda: load_recipe("sudoku4-denoiser", ["denoiser.layers=false"]), "'layers' is false; it must be a number"),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_refused_where_they_are_given(make: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make()


@pytest.mark.parametrize("command", ["evaluate", "pareto", "sample"])
@pytest.mark.parametrize("value", ["inf", "nan", "-1"])
def test_every_command_refuses_a_temperature_that_is_none(command: str, value: str) -> None:
    problem = ["1030041000404001"] if command == "sample" else ["--limit", "2"]
    found = CliRunner().invoke(app, [command, *problem, "--model", "sudoku4", "--temperature", value])
    assert found.exit_code and ("temperature" in str(found.exception) or "--temperature" in found.output)


def test_a_temperature_next_to_nothing_takes_the_likeliest_token() -> None:
    arguments = ["sample", "1030041000404001", "--model", "sudoku4", "--temperature"]
    cold, zero = (CliRunner().invoke(app, [*arguments, value]).stdout for value in ("1e-320", "0"))
    assert cold == zero and len(cold.strip()) >= 16


@pytest.mark.parametrize("on_step", [3, [3], "confidence"])
def test_what_is_no_callback_is_refused(on_step: Any) -> None:
    with pytest.raises(BadInput, match="it must be a function of a StepOutput, or a list of them"):
        anyorder.decode(HashDenoiser(), TOKENS, "confidence", on_step=on_step)


@pytest.mark.parametrize("steps", [5, 9])
def test_more_steps_for_a_block_than_positions_waste_no_forward_pass(steps: int) -> None:
    sampler = Sampler("confidence", count=EvenBlocks(4, steps), block_length=4)
    assert anyorder.decode(HashDenoiser(), TOKENS, sampler).nfe.tolist() == [8, 8]


def failing_order(state: Any, prediction: Any) -> torch.Tensor:
    raise KeyError("mine")


def failing_rule(scores: Any, state: Any, prediction: Any, remasked: Any) -> torch.Tensor:
    return scores > {}["limit"]


class Failing(nn.Module):
    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("mine")


@pytest.mark.parametrize(
    ("kind", "name", "cause", "call"),
    [
        ("order", "failing_order", KeyError, lambda: anyorder.decode(HashDenoiser(), TOKENS, failing_order)),
        ("order", "failing_order", KeyError, lambda: anyorder.decode(HashDenoiser(), TOKENS, Perturbed(failing_order, 0.1))),
        (
            "count rule", "failing_rule", KeyError,
            lambda: anyorder.decode(HashDenoiser(), TOKENS, Sampler("confidence", count=failing_rule, steps=3)),
        ),
        (
            "denoiser", "Failing", ZeroDivisionError,
            lambda: anyorder.decode(anyorder.WrappedDenoiser(Failing(), 0, 5), TOKENS, "confidence"),
        ),
    ],
)  # fmt: skip
def test_an_error_in_own_code_says_whose_it_is_and_keeps_its_cause(kind: str, name: str, cause: type, call: Any) -> None:
    with pytest.raises(
        PartFailed, match=rf"the {kind} test_values:{name} failed in line \d+ of .*test_values.py with"
    ) as raised:
        call()
    assert isinstance(raised.value.__cause__, cause)


def test_an_error_of_this_library_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anyorder.decoding.counts.top", lambda *_: {}["mistake"])
    with pytest.raises(KeyError):
        anyorder.decode(HashDenoiser(), TOKENS, Sampler("confidence", steps=3))


def test_models_tasks_and_files_by_name_give_the_same_as_objects(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("puzzle,solution\n1030341000004021,1234341221434321\n")
    denoiser, task = anyorder.load_denoiser("sudoku4"), anyorder.make_task("sudoku", box=2)
    by_object = (denoiser, task, task.load(tmp_path / "p.csv"))
    for by_name in (("sudoku4", None, str(tmp_path / "p.csv")), ("sudoku4", "sudoku", tmp_path / "p.csv")):
        for call in (
            lambda *given: anyorder.evaluate(*given, ["confidence"], 3).results[0].nfe,
            lambda *given: anyorder.pareto(*given, ["confidence@linear:3"]).points[0].nfe,
            lambda *given: anyorder.pass_at_n(*given, ["random"], 2, steps=3)[0].accuracy,
            lambda *given: anyorder.headroom(*given, 3).report.results[0].nfe,
        ):
            assert call(*by_name) == call(*by_object)
    with pytest.raises(BadInput, match="no denoiser called"):
        anyorder.evaluate("nothing", None, tmp_path / "p.csv", ["confidence"], 3)
    with pytest.raises(BadInput, match="no such file"):
        anyorder.evaluate("sudoku4", None, tmp_path / "q.csv", ["confidence"], 3)


def test_one_thing_is_not_written_in_the_plural() -> None:
    assert [counted(n, "step") for n in (0, 1, 2)] == ["0 steps", "1 step", "2 steps"]
    found = CliRunner().invoke(
        app, ["evaluate", "--model", "sudoku4", "--limit", "1", "--steps", "1", "--orders", "confidence"]
    )
    assert "1 step, 1 instance" in found.stdout and "1 steps" not in found.stdout and "1 instances" not in found.stdout
