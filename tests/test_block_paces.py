"""The pace in blocks: every block is finished in its share of the steps, whatever is remasked."""

from typing import Any

import pytest
import torch

from anyorder import Sampler, decode, init
from anyorder.decoding.actions import PlackettLuce
from anyorder.decoding.combined_counts import Deadline
from anyorder.decoding.counts import CountRule, EvenBlocks, Linear, PredictedError, Threshold
from anyorder.decoding.step import StepOutput
from anyorder.decoding.tokens import Argmax
from anyorder.denoisers.transformer import Transformer
from anyorder.orders.heuristics import confidence
from anyorder.training.rollout import Expert, Recorder, rollout
from conftest import HashDenoiser
from test_published_remaskers import IN_BLOCKS, WORDS, table

LENGTH, BLOCK = 24, 6
PACED: dict[str, CountRule] = {
    "linear": Linear(),
    "deadline": Deadline(Threshold(1.0), Linear()),
    "predicted_error": PredictedError(0.0),
    "plackett_luce": PlackettLuce(1.0),
}  # fmt: skip
"""Rules that spread the budget, and unmask no more than that here."""


def outputs_of(denoiser: Transformer | HashDenoiser, sampler: Sampler, length: int = LENGTH) -> list[StepOutput]:
    found: list[StepOutput] = []
    decode(denoiser, torch.zeros(2, length, dtype=torch.int64), sampler, on_step=found.append)
    return found


def test_even_blocks_give_each_block_the_same_number_of_steps(tiny_transformer: Transformer) -> None:
    """Seven positions in blocks of three: three blocks of 3, 3 and 1 in six steps, so two steps per block."""
    found = outputs_of(tiny_transformer, Sampler("confidence", steps=6, block_length=3), length=7)
    assert [int(output.selected[0].sum()) for output in found] == [2, 1, 2, 1, 1]
    assert [bool(EvenBlocks(3).closes(output.before)[0]) for output in found] == [False, True, False, True, False]


@pytest.mark.parametrize(("length", "steps"), [(21, 7), (45, 15), (45, 9), (50, 10), (85, 17), (255, 5)])
def test_the_linear_rule_unmasks_the_same_number_in_every_step(length: int, steps: int) -> None:
    found = outputs_of(HashDenoiser(), Sampler("random", steps=steps), length)
    assert [output.selected.sum(dim=1).tolist() for output in found] == [[length // steps] * 2] * steps


def test_a_block_that_is_opened_early_is_not_filled_at_the_end_of_the_share_of_another() -> None:
    """The first block is full after one step here, a token of it is remasked, and the second is opened in the third of the four
    steps of the first: the fourth then finishes nothing."""
    state = init(torch.zeros(1, 8, dtype=torch.int64), mask_token_id=0, steps=8)
    state = state.replace(step=torch.tensor([3]), remasked=torch.tensor([1]), masked=torch.tensor([[False] * 4 + [True] * 4]))
    rule = EvenBlocks(4)
    assert not rule.closes(state)
    scores = torch.rand(1, 8).masked_fill(~state.masked, -torch.inf)
    unused: Any = None
    assert int(rule(scores, state, unused, torch.zeros(1, dtype=torch.int64)).sum()) == 1
    late = state.replace(masked=torch.tensor([[False, True, False, False] + [True] * 4]))
    assert rule.closes(late), "its own block is open"


def test_a_complete_sequence_has_no_block_to_close_however_wide_its_batch_is() -> None:
    """ReMDM reviews complete sequences, and remasks nothing in a step that closes a block."""
    sampler = Sampler("confidence", EvenBlocks(3, 2), remasker="remdm:rescale:1", steps=20)
    tokens, width = torch.zeros(1, 2, dtype=torch.int64), 13
    padded = torch.nn.functional.pad(tokens, (0, width - 2))
    mask = torch.arange(width)[None] < 2
    for seed in range(10):
        alone = decode(HashDenoiser(), tokens, sampler, seeds=seed)
        wide = decode(HashDenoiser(), padded, sampler, seeds=seed, attention_mask=mask)
        assert torch.equal(alone.commit_step, wide.commit_step[:, :2]) and torch.equal(alone.remasked, wide.remasked)
        assert torch.equal(alone.tokens, wide.tokens[:, :2])


@pytest.mark.parametrize("name", PACED)
def test_a_rule_that_spreads_the_budget_spreads_it_over_the_blocks(name: str) -> None:
    sampler = Sampler("random", PACED[name], steps=8, block_length=BLOCK)
    assert [output.selected.sum(dim=1).tolist() for output in outputs_of(HashDenoiser(), sampler)] == [[3, 3]] * 8


@pytest.mark.parametrize("name", IN_BLOCKS)
def test_with_remasking_each_block_is_finished_in_its_share_of_the_steps(name: str) -> None:
    remasked = 0
    for seed in range(6):
        found: list[StepOutput] = []
        sampler = Sampler("confidence", Linear(), remasker=IN_BLOCKS[name](), steps=8, block_length=4)
        decode(table(seed, length=8), torch.full((1, 8), WORDS), sampler, on_step=found.append)
        masked = [int(output.after.masked.sum()) for output in found]
        assert (masked[3], masked[7]) == (4, 0) and masked == sorted(masked, reverse=True)
        remasked += sum(int(output.remasked.sum()) for output in found)
    assert remasked or name == "wino", "WINO remasks only where several positions are unmasked at once"


def test_a_rollout_in_blocks_spreads_the_budget_too() -> None:
    expert = Expert(confidence, Linear())
    recorder = Recorder(PlackettLuce(1.0), expert, expert_share=0.5)
    tokens = torch.zeros(2, LENGTH, dtype=torch.int64)
    steps, decoded = rollout(
        HashDenoiser(), confidence, recorder, tokens, first_seed=0, steps=8, block_length=BLOCK, token=Argmax(), x0=None
    )
    assert [(recorded.drawn >= 0).sum(dim=1).tolist() for recorded in steps] == [[3, 3]] * 7
    assert decoded.nfe.tolist() == [8, 8]


@pytest.mark.parametrize("name", ["timesteps", "ancestral"])
def test_rules_on_given_timesteps_are_refused_in_blocks(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} counts over the whole sequence"):
        Sampler("confidence", name, block_length=4)
