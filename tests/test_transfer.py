"""Policies on denoisers, lengths and tasks that they were not fitted to."""

import warnings
from pathlib import Path

import pytest
import torch

from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.base import fingerprint
from anyorder.errors import WrongDenoiser
from anyorder.evaluation.comparison import evaluate
from anyorder.registry import POLICIES
from anyorder.tasks import make_task
from anyorder.zoo import load_denoiser, load_order
from commands import refused, run


def confidence_policy(folder: Path, denoiser: str = "sudoku4") -> Path:
    """A policy of Jazbec et al. with weights that are not those of the start, for a denoiser of 16 positions."""
    torch.manual_seed(0)
    made = load_denoiser(denoiser)
    policy = POLICIES["confidence_transformer"](
        hidden_size=made.hidden_size, vocab_size=made.vocab_size, denoiser_fingerprint=fingerprint(made)
    )
    for parameter in policy.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    policy.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "task", "options"),
    [("sudoku9", "sudoku", {"box": 3}), ("sat9", "sat", {"variables": 9}), ("sudoku9-easy", "sudoku", {"box": 3})],
)
def test_a_policy_of_confidences_runs_on_another_denoiser_at_another_length(
    name: str, task: str, options: dict[str, int], tmp_path: Path
) -> None:
    folder, denoiser = confidence_policy(tmp_path), load_denoiser(name)
    with pytest.warns(UserWarning, match="it can be used here"):
        order = load_order(folder, denoiser, strict=False)
    made = make_task(task, **options)
    problems = made.generate(3, 0)
    samplers = {rule: Sampler(order, count=rule) for rule in ("bernoulli:0.5", "score_threshold:0.5", "linear")}
    report = evaluate(denoiser, made, problems, samplers, [6])
    assert all(1 <= result.nfe <= 6 for result in report.results)


def test_it_is_refused_unless_one_insists_and_the_error_says_that_one_can(tmp_path: Path) -> None:
    folder = confidence_policy(tmp_path)
    with pytest.raises(WrongDenoiser, match=r"reads confidences and no hidden states.*--ignore-fingerprint"):
        load_order(folder, load_denoiser("sudoku9"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_order(folder, load_denoiser("sudoku4"))


@pytest.mark.parametrize("policy", [("mlp", 32), ("upo", 32), ("lookahead", 96)])
def test_a_policy_that_reads_what_the_denoiser_does_not_give_is_refused_whatever_one_says(
    policy: tuple[str, int], tmp_path: Path
) -> None:
    name, hidden_size = policy
    POLICIES[name](hidden_size=hidden_size, vocab_size=5).save_pretrained(tmp_path)
    with pytest.raises(WrongDenoiser, match=r"with (hidden_size 96|vocab_size 10); the policy needs (32|5): fit a policy"):
        load_order(tmp_path, load_denoiser("sudoku9"), strict=False)


def test_a_policy_that_reads_hidden_states_of_the_same_size_may_be_tried(tmp_path: Path) -> None:
    POLICIES["mlp"](hidden_size=96, vocab_size=10, denoiser_fingerprint="another").save_pretrained(tmp_path)
    denoiser = load_denoiser("sudoku9")
    with pytest.raises(WrongDenoiser, match="fitted to the denoiser another") as refusal:
        load_order(tmp_path, denoiser)
    assert "transferred" not in str(refusal.value)
    with pytest.warns(UserWarning, match="fitted to the denoiser another"):
        load_order(tmp_path, denoiser, strict=False)


def test_the_commands_carry_a_policy_over(tmp_path: Path) -> None:
    folder = confidence_policy(tmp_path, "sudoku9")
    arguments = ["evaluate", "--task", "sat", "--policy", folder, "--orders", "confidence,policy@bernoulli:0", "--steps", "9",
                 "--limit", "3"]  # fmt: skip
    refused(run(*arguments), "fitted to the denoiser")
    carried = run(*arguments, "--ignore-fingerprint")
    assert carried.returncode == 0, carried.stderr
    assert "policy@bernoulli:0" in carried.stdout
