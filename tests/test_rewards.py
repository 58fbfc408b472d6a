"""What completed sequences are worth, against values worked out by hand."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anyorder.decoding.result import Decoded
from anyorder.errors import BadInput, PartFailed
from anyorder.tasks import make_task
from anyorder.tasks.base import Instances
from anyorder.tasks.sequences import Sequences
from anyorder.tasks.sudoku import Sudoku
from anyorder.training.rewards import (
    REWARDS,
    JudgeReward,
    Outcome,
    Reward,
    Varied,
    likelihood_bonus,
    returns_at,
    rewards_of,
    with_speed,
    with_step_cost,
)
from anyorder.training.settings import RewardSettings

TASK = Sudoku(2)
SOLUTION = "1234341221434321"
OTHER = "1234341243212143"  # also valid; the last two rows change places
PUZZLE = "1234341200000000"  # both complete it
RIGHT, SECOND, WRONG = (list(map(int, text)) for text in (SOLUTION, OTHER, "1234341221434322"))


def decoded_of(tokens: list[list[int]], nfe: list[int] | None = None, log_probs: Tensor | None = None) -> Decoded:
    filled = torch.tensor(tokens)
    count = torch.zeros(len(filled), dtype=torch.int64)
    zeros = torch.zeros(filled.shape)
    return Decoded(
        filled, torch.zeros_like(filled), count if nfe is None else torch.tensor(nfe), count,
        zeros if log_probs is None else log_probs, zeros,
    )  # fmt: skip


def outcome_of(tokens: list[list[int]], nfe: list[int] | None = None, known: bool = True) -> Outcome:
    """Decoded grids of one puzzle whose last two rows were blank."""
    puzzle = torch.tensor([list(map(int, PUZZLE))]).expand(len(tokens), -1)
    x0 = torch.tensor([RIGHT]).expand(len(tokens), -1) if known else None
    instances = Instances(puzzle, puzzle == 0, x0)
    decoded = decoded_of(tokens, nfe)
    return Outcome(TASK, instances, decoded, TASK.check(instances, decoded.tokens))


def test_solved_asks_the_rules_and_any_solution_will_do() -> None:
    assert REWARDS["solved"](outcome_of([RIGHT, SECOND, WRONG])).tolist() == [1.0, 1.0, 0.0]


def test_a_changed_given_is_never_solved() -> None:
    swapped = [{1: 2, 2: 1}.get(digit, digit) for digit in RIGHT]
    assert REWARDS["solved"](outcome_of([swapped])).tolist() == [0.0]


def test_cells_compare_the_blanks_with_the_stored_solution() -> None:
    assert REWARDS["cells"](outcome_of([RIGHT, SECOND, WRONG])).tolist() == pytest.approx([1.0, 0.0, 7 / 8])
    with pytest.raises(BadInput, match="known solutions"):
        REWARDS["cells"](outcome_of([RIGHT], known=False))


@pytest.mark.parametrize("known", [True, False])
def test_rules_look_at_no_solution(known: bool) -> None:
    """The last cell clashes in its row, its column and its box: of the 8 blanks 2 more clash with it, and not those given."""
    found = REWARDS["rules"](outcome_of([RIGHT, SECOND, WRONG], known=known))
    assert found[:2].tolist() == [1.0, 1.0]
    grid = torch.tensor(WRONG).view(4, 4)
    assert (
        grid[3].tolist() == [4, 3, 2, 2]
        and grid[:, 3].tolist() == [4, 2, 3, 2]
        and grid[2:, 2:].flatten().tolist() == [4, 3, 2, 2]
    )
    assert found[2].item() == pytest.approx((6 / 8 + 0) / 2)


def varied(texts: list[str], power: float = 2.0, task: Sequences | None = None) -> list[float]:
    """The reward of texts of one problem, without a solution."""
    return Varied(power)(end_of(texts, task or make_task("text", alphabet="characters", length=4))).tolist()


def end_of(texts: list[str], task: Sequences) -> Outcome:
    """What a reward receives for texts of one problem, without a solution."""
    instances = task.generate(len(texts), 0, length=len(texts[0]))
    tokens = task.encode(texts).x0
    assert tokens is not None
    return Outcome(task, instances, decoded_of(tokens.tolist()), task.check(instances, tokens))


def test_varied_is_worth_as_much_as_a_text_differs_from_the_others() -> None:
    apart = 1 - (3 / 4 + 2 / 3) / 2  # of abcd and abce: a, b, c of 4 symbols, and ab, bc of 3 pairs
    assert varied(["abcd", "abce", "xyzw"], power=1.0) == pytest.approx([(apart + 1) / 2, (apart + 1) / 2, 1.0])
    assert varied(["abcd", "abce", "xyzw"]) == pytest.approx([((apart + 1) / 2) ** 2, ((apart + 1) / 2) ** 2, 1.0])
    assert varied(["abcd", "abcd"]) == [0.0, 0.0]
    assert varied(["abcd", "abcd"], power=0.0) == [1.0, 1.0]
    assert varied(["abcd"]) == [1.0], "there is nothing that it could repeat"


def test_with_a_weight_the_difference_is_added_to_a_reward_that_may_be_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JudgeReward, "_judge", SimpleNamespace(nats=lambda texts: np.arange(1.0, 1 + len(texts))))
    outcome = end_of(["abcd", "abcd", "xyzw"], make_task("text", alphabet="characters", length=4))
    found = Varied(1.0, of="judge", settings={"model": "any"}, weight=3.0)(outcome)
    assert found.tolist() == pytest.approx([-1 + 3 * 0.5, -2 + 3 * 0.5, -3 + 3 * 1.0])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"of": "judge", "settings": {"model": "x"}}, "the reward judge can be negative: give a weight"),
        ({"of": "judge", "weight": 1.0}, "the reward judge needs 'model'"),
        ({"of": "judge", "settings": {"model": "x", "modle": "y"}, "weight": 1.0}, "unknown key 'modle'"),
        ({"settings": {"model": "x"}}, "unknown key 'model'"),
        ({"weight": -1.0}, "weight is -1.0"),
        ({"of": "likelihood"}, "earned step by step"),
    ],
)
def test_varied_refuses_settings_that_do_not_go_together(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Varied(**settings)


def test_varied_compares_the_sequences_of_one_problem_only() -> None:
    task = make_task("text", alphabet="characters", length=4)
    short, long = task.encode(["ab_", "ab_", "abc_"]), task.encode(["abc", "abc", "abcd"])
    assert long.x0 is not None
    end = Outcome(task, short, decoded_of(long.x0.tolist()), task.check(short, long.x0))
    assert Varied(1.0)(end).tolist() == [0.0, 0.0, 1.0]


def test_varied_knows_molecules_and_gives_nothing_for_invalid_ones() -> None:
    pytest.importorskip("rdkit")
    task = make_task("molecules")
    found = varied(["CCO", "OCC", "C(C", "CCN"], power=1.0, task=task)
    tokens = task.encode(["CCO", "OCC", "CCN"]).x0
    apart = task.differences(task.generate(3, 0, length=3), tokens)
    assert apart[0, 1] == 0 and 0 < apart[0, 2] < 1
    assert found == pytest.approx([apart[0, 2] / 2, apart[0, 2] / 2, 0.0, apart[0, 2]])


def test_qed_is_that_of_rdkit_for_valid_molecules_and_nothing_for_others() -> None:
    pytest.importorskip("rdkit")
    task = make_task("molecules")
    texts = ["CCO", "C(C", "CCN"]
    assert task.qed(texts) == pytest.approx([0.4068, 0.0, 0.4062], abs=1e-3)
    outcome = end_of(texts, task)
    assert REWARDS["qed"](outcome).tolist() == pytest.approx(task.qed(texts).tolist())
    apart = task.differences(task.generate(2, 0, length=3), outcome.decoded.tokens[[0, 2]])[0, 1]
    assert Varied(1.0, of="qed")(outcome).tolist() == pytest.approx([0.4068 * apart, 0.0, 0.4062 * apart], abs=1e-3)
    described = task.measure(outcome.instances, outcome.decoded.tokens)["QED"]
    assert np.isnan(described[1]) and described[[0, 2]].tolist() == pytest.approx(task.qed(["CCO", "CCN"]).tolist())


def test_qed_is_refused_for_what_is_no_molecule() -> None:
    with pytest.raises(BadInput, match="the reward qed reads `qed` of its task, which Sequences does not have"):
        REWARDS["qed"](end_of(["abcd"], make_task("text", alphabet="characters", length=4)))


def test_varied_multiplies_rewards_of_whole_sequences_only() -> None:
    with pytest.raises(BadInput, match="likelihood is earned step by step"):
        Varied(of="likelihood")
    with pytest.raises(BadInput, match="reward 'nothing' is unknown: use one of"):
        Varied(of="nothing")


def test_varied_counts_only_what_was_generated_of_a_puzzle() -> None:
    """The two solutions differ in all eight blanks and in none of the givens."""
    assert Varied(1.0)(outcome_of([RIGHT, SECOND, SECOND, WRONG])).tolist() == [1.0, 0.5, 0.5, 0.0]


def test_varied_needs_a_power() -> None:
    with pytest.raises(BadInput, match="power is -1"):
        Varied(-1)


def test_likelihood_is_earned_token_by_token() -> None:
    log_probs = torch.zeros(1, 16)
    log_probs[0, 8:] = torch.arange(8) * -0.5
    end = outcome_of([RIGHT])
    found = REWARDS["likelihood"](end._replace(decoded=decoded_of([RIGHT], log_probs=log_probs)))
    assert found.shape == (1, 16)
    assert found[0, 8:].tolist() == pytest.approx([-0.5 * i / 8 for i in range(8)])
    assert found.sum().item() == pytest.approx(log_probs.sum().item() / 8)


@pytest.mark.parametrize(
    ("exponent", "expected"), [(0.0, [1, 1, 1, 0]), (1.0, [1, 5 / 8, 1 / 8, 0]), (2.0, [1, 25 / 64, 1 / 64, 0])]
)
def test_speed_multiplies_what_is_right(exponent: float, expected: list[float]) -> None:
    end = outcome_of([RIGHT, RIGHT, SECOND, WRONG], nfe=[1, 4, 8, 1])
    assert with_speed(REWARDS["solved"], exponent)(end).tolist() == pytest.approx(expected)


def test_more_forward_passes_than_positions_earn_nothing_and_nothing_below() -> None:
    assert with_speed(REWARDS["solved"], 1.0)(outcome_of([RIGHT, RIGHT], nfe=[9, 20])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("more", [{"speed": 1.0}, {"likelihood_bonus": 0.1}])
def test_settings_refuse_what_does_not_go_with_a_reward_of_every_step(more: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="earned step by step"):
        RewardSettings(name="likelihood", **more)  # type: ignore[arg-type]
    RewardSettings(name="cells", **more)  # type: ignore[arg-type]


def test_the_likeliest_path_of_a_group_has_the_whole_bonus() -> None:
    totals = torch.tensor([-3.0, -1.0, -2.0, -7.0, -9.0])
    log_probs = torch.zeros(5, 16)
    log_probs[:, 0], log_probs[:, 5] = totals / 2, totals / 2
    bonus = likelihood_bonus(decoded_of([RIGHT] * 5, log_probs=log_probs), torch.tensor([0, 0, 0, 1, 1]), most=0.4)
    assert bonus.tolist() == pytest.approx([0.0, 0.4, 0.2, 0.4, 0.0])


def test_paths_that_are_alike_or_alone_have_the_same_bonus() -> None:
    log_probs = torch.zeros(4, 16)
    log_probs[:, 0] = torch.tensor([-1.0, -1.0, -2.0, -5.0])
    bonus = likelihood_bonus(decoded_of([RIGHT] * 4, log_probs=log_probs), torch.tensor([0, 0, 0, 1]), most=1.0)
    assert bonus.tolist() == pytest.approx([0.5, 0.5, 0.0, 0.0])


def test_returns_are_all_of_a_reward_at_the_end_and_the_rest_of_one_by_position() -> None:
    at_the_end = torch.tensor([1.0, 2.0])
    commit_step = torch.tensor([[0, 1, 1, -1], [2, 0, 1, -1]])
    for step in range(3):
        assert returns_at(at_the_end, commit_step, step).tolist() == [1.0, 2.0]
    by_position = torch.tensor([[1.0, 2.0, 4.0, 100.0], [1.0, 2.0, 4.0, 100.0]])  # what was given earns nothing
    assert [returns_at(by_position, commit_step, step).tolist() for step in range(4)] == [
        [7.0, 7.0], [6.0, 5.0], [0.0, 1.0], [0.0, 0.0],
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["solved", "cells", "rules"])
def test_rewards_at_the_end_lie_between_nothing_and_one(name: str) -> None:
    reward: Reward = REWARDS[name]
    grids = torch.randint(1, 5, (50, 16), generator=torch.Generator().manual_seed(0))
    grids[:, :8] = torch.tensor(RIGHT[:8])
    found = reward(outcome_of(grids.tolist()))
    assert found.dtype == torch.float32
    assert ((found >= 0) & (found <= 1)).all()
    assert not math.isnan(found.sum().item())


def test_a_reward_that_is_not_finite_becomes_the_lowest_of_its_group() -> None:
    end, groups = outcome_of([RIGHT] * 6), torch.tensor([0, 0, 0, 1, 1, 2])
    given = torch.tensor([2.0, float("nan"), 1.0, float("-inf"), 3.0, float("inf")])
    assert rewards_of(lambda outcome: given, end, groups).tolist() == [2.0, 1.0, 1.0, 3.0, 3.0, 0.0]
    by_position = torch.full((6, len(RIGHT)), float("inf"))
    assert rewards_of(lambda outcome: by_position, end, groups).abs().sum() == 0
    with pytest.raises(BadInput, match=r"the reward has the shape \(2,\): it must be \(6,\) or \(6, 16\)"):
        rewards_of(lambda outcome: given[:2], end, groups)


def by_place(outcome: Outcome) -> Tensor:
    """A reward of one's own that is earned step by step, which no registry knows."""
    return torch.ones(outcome.decoded.tokens.shape)


def fails(outcome: Outcome) -> Tensor:
    raise ZeroDivisionError("no sequence")


@pytest.mark.parametrize(
    "changed",
    [
        lambda reward: with_speed(reward, 1.0),
        lambda reward: with_step_cost(reward, 0.1),
        lambda reward: Varied(of=reference(reward)),
    ],
)
def test_what_changes_a_reward_of_ones_own_refuses_one_by_position_and_names_one_that_fails(changed: Any) -> None:
    """With as many sequences as positions, a product of both would have a shape that may be a reward by position."""
    square = outcome_of([RIGHT] * 16)
    with pytest.raises(BadInput, match=r"earned step by step, \(16, 16\): it takes neither speed"):
        rewards_of(changed(by_place), square, torch.zeros(16, dtype=torch.int64))
    with pytest.raises(PartFailed, match=r"the reward test_rewards:fails failed in line .* no sequence"):
        rewards_of(changed(fails), square, torch.zeros(16, dtype=torch.int64))


def reference(reward: Reward) -> str:
    return f"test_rewards:{reward.__name__}"  # type: ignore[attr-defined]
