"""What `decode` and `evaluate` take in place of a sampler, a denoiser and a batch, and what they say of anything else."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import anyorder
from anyorder.denoisers.base import fingerprint
from anyorder.errors import BadInput, WrongDenoiser
from anyorder.evaluation.samplers import as_samplers
from conftest import HashDenoiser
from every_part import learned, network

TOKENS = torch.tensor([[1, 0, 0, 2], [0, 0, 0, 3]])


def tokens_of(sampler: Any, denoiser: Any = None) -> list[list[int]]:
    found: list[list[int]] = anyorder.decode(denoiser or HashDenoiser(), TOKENS, sampler).tokens.tolist()
    return found


def test_decode_takes_whatever_makes_a_sampler(tmp_path: Path) -> None:
    margin, policy = tokens_of(anyorder.Sampler("margin")), tokens_of(anyorder.Sampler(learned()))
    anyorder.Sampler("margin").save_pretrained(tmp_path / "sampler")
    learned().save_pretrained(tmp_path / "policy")
    for same in ("margin", anyorder.orders.margin, tmp_path / "sampler", str(tmp_path / "sampler")):
        assert tokens_of(same) == margin
    for same in (learned(), learned().policy, tmp_path / "policy", str(tmp_path / "policy")):
        assert tokens_of(same) == policy


def test_saved_samplers_are_compared_by_their_folder(tmp_path: Path) -> None:
    saved = anyorder.Sampler("margin", token="sample:0.5", noise=0.1)
    saved.save_pretrained(tmp_path)
    assert as_samplers([str(tmp_path), "margin"]) == {str(tmp_path): saved, "margin": anyorder.Sampler("margin")}


@pytest.mark.parametrize("wrong", [None, 3, HashDenoiser, [anyorder.orders.margin]])
def test_what_makes_no_sampler_is_refused(wrong: Any) -> None:
    with pytest.raises(BadInput, match=r"order is .*; (it must be|make an instance)"):
        tokens_of(wrong)


def test_a_spelling_in_place_of_an_order_is_refused() -> None:
    for text in ("confidence@threshold:0.9", "policy+undo"):
        with pytest.raises(BadInput, match="is no order; the spelling of a whole sampler is read"):
            anyorder.Sampler(text)


def test_a_sampler_in_place_of_a_policy_is_refused(tmp_path: Path) -> None:
    anyorder.Sampler("margin").save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="holds a complete sampler, not a policy"):
        anyorder.load_order(tmp_path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tokens": [[1, 0]]}, "the tokens are a list; they must be an int64 tensor"),
        ({"tokens": "text"}, "the tokens are a str"),
        ({"denoiser": "sudoku4"}, "the denoiser is the text 'sudoku4': load it with anyorder.load_denoiser"),
        ({"denoiser": nn.Embedding(5, 5)}, "a Embedding is no denoiser: .* WrappedDenoiser"),
        ({"attention_mask": torch.ones(2, 3)}, r"attention_mask is torch.float32 of shape \(2, 3\); .*, \(2, 4\)"),
        ({"attention_mask": [[1]]}, "attention_mask is a list"),
        ({"attention_mask": torch.tensor([[0.0, 0.0, 0.0, -1e9]] * 2)}, r"attention_mask holds -1e\+09; it must be True or 1"),
        ({"attention_mask": torch.tensor([[1, 1, 2, 0]] * 2)}, "attention_mask holds 2; it must be True or 1 at tokens"),
        ({"x0": torch.zeros(2, 3, dtype=torch.int64)}, r"x0 is torch.int64 of shape \(2, 3\)"),
        ({"x0": torch.zeros(2, 4)}, "x0 is torch.float32 .*; it must be int64"),
        ({"seeds": "a"}, "seeds are 'a'"),
        ({"seeds": torch.arange(3)}, r"seeds are torch.int64 of shape \(3,\)"),
    ],
)
def test_a_batch_that_cannot_be_decoded_is_one_clear_error(given: dict[str, Any], said: str) -> None:
    values = {"denoiser": HashDenoiser(), "tokens": TOKENS, "sampler": "random", **given}
    with pytest.raises(BadInput, match=said):
        anyorder.decode(**values)


@pytest.mark.parametrize("call", [anyorder.evaluate, anyorder.headroom])
def test_what_cannot_be_compared_is_one_clear_error(call: Any) -> None:
    denoiser = anyorder.load_denoiser("sudoku4", device="cpu")
    task = anyorder.task_for(denoiser)
    problems = task.generate(2, seed=0, givens=8)
    samplers = {"samplers": ["confidence"], "steps": 2}
    for given, said in (
        (("sudoku5", task, problems), "sudoku5"),
        ((4, task, problems), "is no denoiser"),
        ((denoiser, 4, problems), "the task is 4; it must be a Task"),
        ((denoiser, "sat", problems), "sat"),
        ((denoiser, task, "problems.csv"), "problems.csv"),
        ((denoiser, task, problems.tokens), "they must be Instances"),
    ):
        with pytest.raises(BadInput, match=said):
            call(*given, **samplers)


class Weighted(HashDenoiser):
    """A denoiser with a weight, so that it has a fingerprint of its own, and dropout."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(value))
        self.dropout = nn.Dropout(0.1)


@pytest.mark.parametrize("kind", ["sampler", "policy"])
def test_a_policy_that_was_loaded_without_a_denoiser_is_checked_on_first_use(kind: str, tmp_path: Path) -> None:
    mine, other = Weighted(1.0).eval(), Weighted(2.0).eval()
    policy = network("mlp", seed=9)
    before, policy.denoiser_fingerprint = policy.denoiser_fingerprint, fingerprint(mine)
    try:
        (anyorder.Sampler(policy) if kind == "sampler" else policy).save_pretrained(tmp_path)
    finally:
        policy.denoiser_fingerprint = before
    load: Any = anyorder.Sampler.from_pretrained if kind == "sampler" else anyorder.load_order
    with pytest.raises(WrongDenoiser, match="was fitted to the denoiser"):
        tokens_of(load(tmp_path), other)
    assert tokens_of(load(tmp_path), mine) == tokens_of(load(tmp_path, strict=False), other)  # the same network


def test_a_policy_that_a_sampler_names_by_its_folder_is_saved_with_its_weights(tmp_path: Path) -> None:
    learned().save_pretrained(tmp_path / "policy")
    sampler = anyorder.Sampler.parse(f"policy:{tmp_path / 'policy'}")
    sampler.save_pretrained(tmp_path / "sampler")
    expected = tokens_of(sampler)
    (tmp_path / "policy").rename(tmp_path / "elsewhere")
    assert tokens_of(tmp_path / "sampler") == expected


def test_a_denoiser_in_training_mode_decodes_as_in_eval_mode_and_stays_in_it() -> None:
    class Random(Weighted):
        def forward(self, *inputs: Any) -> Any:
            logits, hidden = super().forward(*inputs)
            return type(super().forward(*inputs))(self.dropout(logits.float() + 100), hidden)

    denoiser = Random(1.0)
    expected = tokens_of("margin", denoiser.eval())
    denoiser.train()
    denoiser.dropout.eval()  # a part that was frozen on purpose
    assert tokens_of("margin", denoiser) == expected
    assert denoiser.training and not denoiser.dropout.training
    denoiser.train()
    assert tokens_of("margin", denoiser) == expected
    assert denoiser.dropout.training


@pytest.mark.parametrize("wrong", ["[MASK]", 4.0, True, -1, 9])
def test_a_mask_that_is_no_token_is_refused(wrong: Any) -> None:
    with pytest.raises(BadInput, match="is not in the model's vocabulary of 9: give a token id"):
        anyorder.WrappedDenoiser(nn.Embedding(9, 9), mask_token_id=wrong, vocab_size=9)


def test_what_is_no_model_or_no_problems_is_one_clear_error(tmp_path: Path) -> None:
    learned().save_pretrained(tmp_path / "policy")
    with pytest.raises(BadInput, match="holds an order policy, which is no denoiser"):
        anyorder.load_denoiser(tmp_path / "policy")
    for wrong in (None, nn.Embedding(5, 5)):
        with pytest.raises(BadInput, match="is no name of a denoiser"):
            anyorder.load_denoiser(wrong)
    with pytest.raises(BadInput, match="the problems are of type list; they must be Instances"):
        anyorder.fit_order("sudoku4", None, ["0000"], tmp_path / "fit")
    problems = anyorder.make_task("sudoku", box=2).generate(2, seed=0, givens=8)
    with pytest.raises(BadInput, match="seed: Input should be a valid integer"):
        anyorder.fit_order("sudoku4", None, problems, tmp_path / "fit", seed="a")
    problems = anyorder.Instances(problems.tokens, problems.maskable)
    with pytest.raises(BadInput, match="training needs problems with known solutions"):
        anyorder.fit_order("sudoku4", None, problems, tmp_path / "fit")
    assert not (tmp_path / "fit").exists()
