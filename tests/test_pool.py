"""The pool of training problems decodes as `decode` does, and survives a checkpoint."""

from typing import Any

import pytest
import torch

from anyorder.decoding.counts import Fixed
from anyorder.decoding.loop import decode
from anyorder.decoding.remaskers import Absorbing, CriticUndo
from anyorder.decoding.sampler import Sampler
from anyorder.memory import FirstPrediction, remember
from anyorder.orders.learned import LearnedOrder
from anyorder.orders.policies import LookaheadPolicy
from anyorder.prediction import Prediction, forbid
from anyorder.tasks.sudoku import Sudoku
from anyorder.training.pool import Pool, TrueTokens
from anyorder.zoo import load_denoiser

TASK = Sudoku(box=2)
PUZZLES = TASK.generate(12, 3, givens=(3, 10), unique=False)
PER_STEP, STEPS = 2, 40


def policy() -> LookaheadPolicy:
    """A policy with random weights that remembers the first prediction and scores committed tokens."""
    torch.manual_seed(0)
    made = LookaheadPolicy(hidden_size=48, vocab_size=5, max_length=16, scores_committed=True, width=16, layers=1)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    made.committed_shift.data.fill_(-0.35)  # some problems are opened again, some of them forever
    return made.eval()


def start(reviews: int) -> Pool:
    x0, generated = PUZZLES.x0, PUZZLES.maskable
    assert x0 is not None
    budget = generated.sum(dim=1) / PER_STEP
    return Pool.start(x0, PUZZLES.tokens, generated, 0, budget, reviews, torch.ones(len(x0), dtype=torch.bool))


@torch.no_grad()
def advance(pool: Pool, denoiser: Any, network: LookaheadPolicy, **how: Any) -> Pool:
    """One training step of the pool, without the training."""
    state = pool.state
    logits, hidden = denoiser(state.tokens, None, state.masked)
    prediction = Prediction(forbid(logits, state.rejected[state.masked]), hidden, state.masked)
    state = remember(state, prediction, network.memories)
    return pool.advance(state, prediction, network(state, prediction), **how)


@pytest.mark.parametrize("undo", [False, True])
def test_a_pool_with_a_fixed_policy_decodes_what_decode_decodes(undo: bool) -> None:
    """With undo, the problems whose review found no mistake before `decode` came to its last step are compared."""
    denoiser, network = load_denoiser("sudoku4-weak"), policy()
    again = CriticUndo(critic=network, doubt=0.9, accept=0.3, noise=0, temperature=0, keeps_best=False)
    remasker = again if undo else Absorbing()
    sampler = Sampler(LearnedOrder(network), Fixed(PER_STEP), remasker=remasker, steps=STEPS)
    expected = decode(denoiser, PUZZLES.tokens, sampler)
    pool = start(reviews=STEPS if undo else 0)
    for _ in range(STEPS):
        pool = advance(pool, denoiser, network, undo=undo)
    finished = pool.done if undo else pool.state.finished
    assert finished.sum() >= 6
    assert torch.equal(pool.state.tokens[finished], expected.tokens[finished])
    assert torch.equal(pool.state.commit_step[finished], expected.commit_step[finished])
    assert torch.equal(pool.state.token_log_probs[finished], expected.token_log_probs[finished])
    assert torch.equal(pool.state.remasked[finished], expected.remasked[finished])
    assert bool(expected.remasked[finished].any()) == undo


def test_a_pool_survives_a_checkpoint_with_its_memory() -> None:
    denoiser, network = load_denoiser("sudoku4-weak"), policy()
    pool = start(reviews=1)
    for _ in range(3):
        pool = advance(pool, denoiser, network, undo=True)
    again = Pool.of(pool.tensors(), 0, network.memories)
    assert again.state.memory.keys() == {FirstPrediction()}
    for _ in range(2):
        pool, again = (advance(one, denoiser, network, undo=True) for one in (pool, again))
    assert all(torch.equal(tensor, again.tensors()[name]) for name, tensor in pool.tensors().items())


def test_problems_that_are_done_are_replaced_and_remember_nothing_of_the_old_one() -> None:
    denoiser, network = load_denoiser("sudoku4-weak"), policy()
    pool = start(reviews=0)
    while not pool.done.any():
        pool = advance(pool, denoiser, network)
    done = pool.done
    assert not done.all()
    pool = advance(pool.refill(start(reviews=0)), denoiser, network)
    assert (pool.state.step[done] == 1).all() and (pool.state.step[~done] > 1).all()
    fresh = advance(start(reviews=0), denoiser, network)
    (remembered,), (expected,) = pool.state.recall(FirstPrediction()), fresh.state.recall(FirstPrediction())
    assert torch.equal(remembered, expected), "these fresh problems are the old ones again"


def test_teacher_forcing_commits_the_solution() -> None:
    denoiser, network = load_denoiser("sudoku4-weak"), policy()
    pool = start(reviews=0)
    for _ in range(20):
        pool = advance(pool, denoiser, network, token=TrueTokens())
    assert pool.state.finished.all() and torch.equal(pool.state.tokens, PUZZLES.x0)  # type: ignore[arg-type]
