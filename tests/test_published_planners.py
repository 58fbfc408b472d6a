"""Published learned planners against hand-worked scores and enumeration."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from anyorder import Sampler, load_order
from anyorder.decoding.counts import Factor
from anyorder.decoding.dependence import DependencyGuided, bounded_set
from anyorder.decoding.loop import decode
from anyorder.denoisers.transformer import Transformer
from anyorder.errors import BadInput
from anyorder.losses import order_bound, pirank_loss
from anyorder.noise import Purpose, plackett_luce_log_probs
from anyorder.orders import GtMarginPlanner, LearnedOrder, PairwisePolicy, margin
from anyorder.orders.half_planned import PlannedFirst
from anyorder.orders.heuristics import confidence, left_to_right
from anyorder.prediction import Prediction
from anyorder.processes import Shard
from anyorder.registry import POLICIES
from anyorder.state import DecodeState
from anyorder.tasks.base import Instances
from anyorder.tasks.sudoku import Sudoku
from anyorder.training.fit import order_job, run_recipe
from anyorder.training.influence import draw_pivot, measured_influence
from anyorder.training.joint import JointJob
from anyorder.training.lo_arm import LoArmJob, leave_one_out
from anyorder.training.objectives import GtMargin, Truth
from anyorder.training.order import OrderJob, make_policy
from anyorder.training.recipes import load_recipe, validate_recipe
from anyorder.training.reward import RewardJob
from anyorder.training.rewards import Outcome, with_step_cost
from anyorder.zoo import load_denoiser
from conftest import HashDenoiser
from every_part import network
from test_published_orders import Copies

Seen = tuple[DecodeState, Prediction]
MakeState = Callable[..., Seen]
TASK = Sudoku(box=2)
ONCE = Shard(0, 1)


def recipe(kind: str = "order", **sections: Any) -> Any:
    values: dict[str, Any] = {
        "kind": kind, "denoiser": "sudoku4-weak", "task": {"name": "sudoku", "options": {"box": 2}},
        "data": {"size": 40, "options": {"givens": 8, "unique": False}}, "optimizer": {"lr": 0.01, "warmup_steps": 1},
        "run": {"steps": 3, "batch_size": 12},
    }  # fmt: skip
    return validate_recipe(values | sections)


# ---- Gt-Margin --------------------------------------------------------------------------------------------------------------


def ndcg(gains: list[float]) -> float:
    """Of gains in the order of their ranks."""
    found, best = (sum(g / math.log2(i + 2) for i, g in enumerate(row)) for row in (gains, sorted(gains, reverse=True)))
    return found / best


@pytest.mark.parametrize("ranking", list(itertools.permutations(range(3))))
def test_a_cold_pirank_is_the_exact_ndcg(ranking: tuple[int, ...]) -> None:
    gains, scores = torch.tensor([[0.9, 0.5, 0.1, 7.0]]), torch.tensor([[0.0, 0.0, 0.0, 9.0]])
    for place, position in enumerate(ranking):
        scores[0, position] = -float(place)
    masked = torch.tensor([[True, True, True, False]])
    expected = 1 - ndcg([gains[0, position].item() for position in ranking])
    assert pirank_loss(scores, gains, masked, 1e-3).item() == pytest.approx(expected, abs=1e-6)


def test_pirank_relaxes_the_permutation_as_neural_sort() -> None:
    """Two positions with scores 1 and 0: rows softmax(1 - 1, 0 - 1) and softmax(-1 - 1, 0 - 1)."""
    first, second = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))
    ranked = [0.8 * first + 0.2 * (1 - first), 0.8 * second + 0.2 * (1 - second)]
    expected = 1 - (ranked[0] + ranked[1] / math.log2(3)) / (0.8 + 0.2 / math.log2(3))
    scores = torch.tensor([[1.0, 0.0]], requires_grad=True)
    loss = pirank_loss(scores, torch.tensor([[0.8, 0.2]]), torch.ones(1, 2, dtype=torch.bool))
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    loss.backward()
    assert scores.grad is not None and scores.grad[0, 0] < 0 < scores.grad[0, 1], "the larger gain is to be ranked first"


def test_a_row_without_masks_costs_nothing_and_a_temperature_must_be_above_0() -> None:
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    assert pirank_loss(torch.zeros(1, 2), torch.ones(1, 2), nothing).item() == 0
    with pytest.raises(BadInput, match="temperature"):
        pirank_loss(torch.zeros(1, 2), torch.ones(1, 2), ~nothing, 0.0)
    with pytest.raises(BadInput, match="temperature"):
        GtMargin(temperature=0.0)


def test_the_gain_is_the_margin_of_the_true_token(make_state: MakeState) -> None:
    """Margins .7 - .2, .1 - .6 and .5 - .3: the second position holds a wrong proposal."""
    state, prediction = make_state(
        [[0.7, 0.2, 0.1], [0.6, 0.1, 0.3], [0.3, 0.2, 0.5]], x0=torch.tensor([[0, 1, 2]])
    )  # fmt: skip
    truth = Truth(state, prediction, torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool), torch.ones(1))
    by_confidence = prediction.scatter(prediction.best_log_probs) * 1e3
    expected = 1 - ndcg([(1 + m) / 2 for m in (0.5, -0.5, 0.2)])
    assert GtMargin(temperature=0.01)(by_confidence, truth).item() == pytest.approx(expected, abs=1e-5)


def test_the_planner_orders_the_first_half_and_the_margin_the_second(make_state: MakeState) -> None:
    seen = make_state([[0.6, 0.4], [0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    order = PlannedFirst(left_to_right)
    assert order(*seen)[0].argmax() == 0
    masked = torch.tensor([[False, True, True, True]])
    assert order(seen[0].replace(masked=masked), seen[1])[0].tolist() == [0, -1, -2, -3]
    later = seen[0].replace(masked=torch.tensor([[False, False, True, True]]))
    assert torch.equal(order(later, seen[1]), margin(*seen))


def test_the_planner_is_named_with_its_folder_and_saved_with_the_sampler(tmp_path: Path) -> None:
    policy = network("mlp")
    policy.save_pretrained(tmp_path / "policy")
    named = Sampler.parse(f"gt_margin_planner:0.5:{tmp_path / 'policy'}")
    masks = torch.zeros(2, 4, dtype=torch.int64)
    direct = decode(HashDenoiser(), masks, Sampler(PlannedFirst(LearnedOrder(policy))))
    assert torch.equal(decode(HashDenoiser(), masks, named).commit_step, direct.commit_step)
    named.bind(HashDenoiser()).save_pretrained(tmp_path / "sampler")
    loaded = Sampler.from_pretrained(tmp_path / "sampler", HashDenoiser())
    assert torch.equal(decode(HashDenoiser(), masks, loaded).commit_step, direct.commit_step)
    with pytest.raises(BadInput, match="bound to its denoiser first"):
        GtMarginPlanner()(None, None)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="planned"):
        GtMarginPlanner(planned=1.5)


# ---- LO-ARM -----------------------------------------------------------------------------------------------------------------


class ThreePositions:
    """log p(x) of each unknown position and the scores of a policy, in each of the eight states of three positions."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.log_p = -torch.rand(8, 3, generator=generator, dtype=torch.float64) * 3
        self.scores = torch.randn(8, 3, generator=generator, dtype=torch.float64)

    def of(self, known: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """log p, scores and masked, (1, 3) each."""
        number = sum(2**position for position in known)
        masked = torch.tensor([[position not in known for position in range(3)]])
        return self.log_p[number][None], self.scores[number][None], masked

    def bound(self, known: tuple[int, ...], logits: Tensor) -> Tensor:
        log_p, scores, masked = self.of(known)
        return order_bound(log_p, scores, logits[None], masked)[0]

    def log_q(self, order: tuple[int, ...], logits: Tensor) -> Tensor:
        """Of the first positions of an order."""
        ranking = torch.tensor([[*order, *(p for p in range(3) if p not in order)]])
        chosen = torch.tensor([[position in order for position in range(3)]])
        return plackett_luce_log_probs(logits[None], ranking, chosen).sum()

    def elbo(self, logits: Tensor) -> Tensor:
        """By the sum over all orders."""
        total = torch.zeros((), dtype=torch.float64)
        for order in itertools.permutations(range(3)):
            log_q = self.log_q(order, logits)
            total = total + log_q.exp() * (self.log_joint(order) - log_q)
        return total

    def log_joint(self, order: tuple[int, ...]) -> Tensor:
        """log of the probability that the policy takes this order and the denoiser these tokens."""
        total = torch.zeros((), dtype=torch.float64)
        for place, position in enumerate(order):
            log_p, scores, masked = self.of(order[:place])
            log_pi = torch.log_softmax(scores.masked_fill(~masked, -torch.inf), dim=1)
            total = total + log_p[0, position] + log_pi[0, position]
        return total


def test_the_bound_of_lo_arm_and_its_gradient_are_those_of_all_orders() -> None:
    """The expectation of the estimator, over the step and both orders, against the enumerated bound."""
    model = ThreePositions()
    logits = torch.tensor([0.3, -0.5, 0.9], dtype=torch.float64, requires_grad=True)
    exact = model.elbo(logits)
    (expected,) = torch.autograd.grad(exact, logits)
    total = torch.zeros((), dtype=torch.float64)
    for step in range(3):
        prefixes = list(itertools.permutations(range(3), step))
        for first, second in itertools.product(prefixes, repeat=2):
            log_qs = model.log_q(first, logits), model.log_q(second, logits)
            chance = (log_qs[0] + log_qs[1]).exp().detach()
            total = total + chance * leave_one_out(model.bound(first, logits), model.bound(second, logits), *log_qs)
    assert total.item() == pytest.approx(exact.item())
    (found,) = torch.autograd.grad(total, logits)
    assert torch.allclose(found, expected)
    evidence = torch.logsumexp(torch.stack([model.log_joint(order) for order in itertools.permutations(range(3))]), dim=0)
    assert exact.item() < evidence.item()


@pytest.mark.parametrize("joint", [False, True])
def test_lo_arm_trains_policy_and_posterior_and_the_denoiser_only_if_asked(joint: bool) -> None:
    made = recipe(
        policy={"architecture": "mlp", "width": 8}, train_denoiser=joint,
        objective={"name": "lo_arm", "states": "teacher", "critic": False, "width": 8, "heads": 2},
    )  # fmt: skip
    assert order_job(made) is LoArmJob
    job = LoArmJob(made, load_denoiser("sudoku4-weak"), TASK)
    loss, logged = job.loss(job.model, 0, ONCE)
    loss.backward()
    assert logged["bound_per_token"] == pytest.approx(-loss.item())
    reached = {name.split(".")[0] for name, p in job.model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert reached == {"policy", "posterior"} | ({"denoiser"} if joint else set())


def test_lo_arm_refuses_a_critic_blocks_and_widths_that_heads_do_not_divide(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="trains no critic"):
        LoArmJob(recipe(objective={"name": "lo_arm"}), load_denoiser("sudoku4-weak"), TASK)
    blocks = Transformer(5, 0, 16, width=8, layers=1, heads=["everything"], block_length=4)
    with pytest.raises(BadInput, match="lo_arm draws orders of whole sequences, and a block-causal denoiser"):
        LoArmJob(recipe(objective={"name": "lo_arm", "critic": False}), blocks, TASK)
    with pytest.raises(BadInput, match="multiple of the 4 heads"):
        run_recipe(recipe(objective={"name": "lo_arm", "critic": False, "width": 6}), tmp_path)


# ---- DEMASK -----------------------------------------------------------------------------------------------------------------

INFLUENCES = torch.tensor([[[0.0, 0.2, 0.0, 0.3], [0.1, 0.0, 0.3, 0.0], [0.0, 0.0, 0.0, 0.1], [0.9, 0.9, 0.9, 0.0]]])


@pytest.mark.parametrize(
    ("bound", "taken"),
    [(0.0, [0, 2]), (0.19, [0, 2]), (0.2, [0, 1]), (0.5, [0, 1, 2]), (0.89, [0, 1, 2]), (0.9, [0, 1, 2, 3])],
)
def test_a_set_is_taken_until_its_influences_reach_the_bound(bound: float, taken: list[int]) -> None:
    """By rank 0, 1, 2, 3. Onto 1: .2. Onto 2: 0, and .3 with 1. Onto 3: .3 + 0 + .1. The last row counts for nobody."""
    rank = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    assert bounded_set(INFLUENCES, rank, bound)[0].nonzero()[:, 0].tolist() == taken


def test_influences_count_from_the_earlier_on_the_later_position() -> None:
    rank = torch.tensor([[1.0, -torch.inf, -torch.inf, 2.0]])
    assert bounded_set(INFLUENCES, rank, 0.8)[0].tolist() == [False, False, False, True], "3 moves 0 by .9"
    assert bounded_set(INFLUENCES, -rank.nan_to_num(neginf=torch.inf), 0.8)[0].tolist() == [True, False, False, True]


def test_the_influence_is_the_total_variation_that_a_token_causes(make_state: MakeState) -> None:
    """Of the equal positions 0 and 1, probabilities (.6, .4): token 1 moves the other to (1, 0), token 2 to (0, 1)."""
    state, prediction = make_state([[0, p, 1 - p] for p in (0.6, 0.6, 0.9, 0.8)])
    for token, moved in ((1, 0.4), (2, 0.6)):
        found, where = measured_influence(Copies(), state, prediction, torch.tensor([0]), torch.tensor([token]))
        assert found[0].tolist() == pytest.approx([0, moved, 0, 0], abs=1e-6) and where[0].tolist() == [False, True, True, True]
    found, _ = measured_influence(Copies(), state, prediction, torch.tensor([2]), torch.tensor([1]))
    assert found[0].tolist() == pytest.approx([0, 0, 0, 0], abs=1e-6)
    drawn = [draw_pivot(state.replace(seeds=torch.tensor([seed])), prediction) for seed in range(60)]
    assert {int(pivot) for pivot, _ in drawn} == {0, 1, 2, 3} and {int(token) for _, token in drawn} == {1, 2}


def test_a_fresh_pairwise_policy_expects_the_same_influence_of_all() -> None:
    policy: Any = POLICIES["pairwise"](hidden_size=4, vocab_size=5)
    prediction = Prediction(torch.zeros(6, 5), torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.bool))
    assert torch.allclose(policy.influences(prediction), torch.sigmoid(torch.tensor(-2.0)).expand(2, 3, 3))


def test_demask_takes_its_planner_from_the_order_and_is_saved_with_it(tmp_path: Path) -> None:
    policy: Any = network("pairwise")
    policy.save_pretrained(tmp_path / "policy")
    sampler = Sampler.parse(f"{tmp_path / 'policy'}@demask:1.5").bind(HashDenoiser())
    assert isinstance(sampler.count.planner.policy, PairwisePolicy)
    masks = torch.zeros(2, 6, dtype=torch.int64)
    result = decode(HashDenoiser(), masks, sampler)
    sampler.save_pretrained(tmp_path / "sampler")
    again = decode(HashDenoiser(), masks, Sampler.from_pretrained(tmp_path / "sampler", HashDenoiser()))
    assert torch.equal(again.commit_step, result.commit_step) and result.nfe.max() < 6
    one = Sampler("confidence", count=DependencyGuided(0.0, planner=load_order(tmp_path / "policy", HashDenoiser())))
    assert (decode(HashDenoiser(), masks, one).nfe == 6).all(), "every pair has some influence"


def test_below_the_level_only_the_first_position_is_taken(make_state: MakeState) -> None:
    seen = make_state([[0.6, 0.4], [0.95, 0.05], [0.7, 0.3]])
    planner = LearnedOrder(POLICIES["pairwise"](hidden_size=4, vocab_size=2))
    scores, none = confidence(*seen), torch.zeros(1, dtype=torch.int64)
    assert DependencyGuided(9.0, 0.65, planner)(scores, *seen, none)[0].tolist() == [False, True, True]
    assert DependencyGuided(9.0, 0.99, planner)(scores, *seen, none)[0].tolist() == [False, True, False]


def test_demask_needs_a_policy_that_predicts_influences(make_state: MakeState) -> None:
    with pytest.raises(BadInput, match=r"policy\.architecture = 'pairwise'"):
        Sampler(LearnedOrder(network("mlp")), count="demask").bind(HashDenoiser())
    with pytest.raises(BadInput, match="bound to its denoiser first"):
        DependencyGuided()(torch.zeros(1, 1), *make_state([[0.5, 0.5]]), torch.zeros(1, dtype=torch.int64))
    made = recipe(policy={"architecture": "mlp"}, objective={"name": "correctness", "critic": False, "influence_weight": 1.0})
    with pytest.raises(BadInput, match="for the policy pairwise; mlp predicts no influences"):
        OrderJob(made, load_denoiser("sudoku4-weak"), TASK)


def test_the_influence_loss_reaches_the_pairs_only_if_weighted() -> None:
    for weight in (0.0, 1.0):
        made = recipe(
            policy={"architecture": "pairwise", "width": 8, "pair_width": 4},
            objective={"name": "correctness", "critic": False, "influence_weight": weight},
        )  # fmt: skip
        job = OrderJob(made, load_denoiser("sudoku4-weak"), TASK)
        loss, logged = job.loss(job.model, 0, ONCE)
        loss.backward()
        policy: Any = job.policy
        assert (policy.pair_shift.grad is not None) == ("influence_loss" in logged) == bool(weight)


# ---- whose path -------------------------------------------------------------------------------------------------------------


def test_states_follow_the_order_that_the_recipe_names() -> None:
    objective = {"name": "correctness", "states": "teacher", "path": "left_to_right", "critic": False}
    made = recipe(policy={"architecture": "mlp"}, objective=objective)
    job = OrderJob(made, load_denoiser("sudoku4-weak"), TASK)
    for step in range(3):
        job.loss(job.model, step, ONCE)
    assert job.pool is not None
    state = job.pool.state
    known, open_ = state.generated & ~state.masked, state.masked
    index = torch.arange(16).expand_as(known)
    last = torch.where(known, index, -1).amax(dim=1)
    first = torch.where(open_, index, 99).amin(dim=1)
    assert known.any() and (last < first).all()
    with pytest.raises(BadInput, match="path is 'nonsense'"):
        recipe(objective={"path": "nonsense"})
    for name in ("policy", "info_gain", "gt_margin_planner"):
        with pytest.raises(BadInput, match=f"path is '{name}': the order {name} needs the denoiser itself"):
            recipe(objective={"path": name})
    with pytest.raises(BadInput, match=r"weights is 'info_gain'.* the order info_gain needs the denoiser itself"):
        recipe(train_denoiser=True, objective=objective, joint={"weights": "info_gain"})
    with pytest.raises(BadInput, match="path would have no effect"):
        recipe(objective={"path": "confidence", "states": "uniform", "critic": False})


def test_a_random_path_is_another_one_for_each_problem_and_each_time() -> None:
    """Empty puzzles, one position per step: alike but for their random numbers."""
    x0 = TASK.generate(1, 0).x0
    assert x0 is not None
    empty = Instances(torch.zeros_like(x0), torch.ones_like(x0, dtype=torch.bool), x0)
    objective = {"states": "teacher", "path": "random", "critic": False, "rollout_steps": (16, 16)}
    firsts = []
    for step in range(2):
        job = OrderJob(recipe(policy={"architecture": "mlp"}, objective=objective), load_denoiser("sudoku4-weak"), TASK, empty)
        job.loss(job.model, step, ONCE)
        assert job.pool is not None
        firsts.append(job.pool.state.commit_step.argmax(dim=1))
    assert len(firsts[0].unique()) > 4, "of 12 problems"
    assert not torch.equal(*firsts)


def test_random_weights_of_a_joint_fit_differ_from_problem_to_problem() -> None:
    made = recipe(
        policy={"architecture": "mlp"}, train_denoiser=True, joint={"weights": "random", "decode_every": 0},
        objective={"name": "order", "states": "uniform", "critic": False},
    )  # fmt: skip
    job = JointJob(made, load_denoiser("sudoku4-weak"), TASK)
    drawn = [job._draw(step, ONCE).state.uniform(Purpose.RANDOM_ORDER) for step in range(2)]
    assert len(torch.cat(drawn).unique(dim=0)) == 24, "each of 12 problems has weights of its own in each of 2 updates"


# ---- SAS --------------------------------------------------------------------------------------------------------------------


def test_the_second_stage_of_sas_trains_the_denoiser_and_keeps_the_order(tmp_path: Path) -> None:
    objective = {"name": "order", "states": "teacher", "critic": False}
    first = recipe(policy={"architecture": "mlp", "width": 8}, objective=objective)
    run_recipe(first, tmp_path / "order")
    second = recipe(
        start=str(tmp_path / "order"), train_denoiser=True, objective=objective,
        joint={"freeze_policy": True, "weights": "uniform", "decode_every": 0},
    )  # fmt: skip
    assert order_job(second) is JointJob
    run_recipe(second, tmp_path / "tuned")
    denoiser, before = load_denoiser(tmp_path / "tuned"), load_denoiser("sudoku4-weak")
    changed = [not torch.equal(a, b) for a, b in zip(denoiser.parameters(), before.parameters(), strict=True)]
    assert any(changed)
    old, new = load_order(tmp_path / "order", before).policy, load_order(tmp_path / "tuned" / "order", denoiser).policy
    assert all(torch.equal(a, b) for a, b in zip(old.parameters(), new.parameters(), strict=True))


def test_a_frozen_policy_must_be_there() -> None:
    joint = {"train_denoiser": True, "joint": {"freeze_policy": True, "decode_every": 0}}
    objective = {"name": "order", "states": "uniform", "critic": False}
    with pytest.raises(BadInput, match="a policy that start names"):
        recipe(objective=objective, **joint)
    with pytest.raises(BadInput, match="policy would have no effect"):
        recipe(objective=objective, start="runs/x", policy={"architecture": "mlp"}, **joint)


# ---- dUltra -----------------------------------------------------------------------------------------------------------------


def test_the_head_of_dultra_imitates_a_count_rule() -> None:
    made = recipe(
        "reward", policy={"architecture": "dultra"}, rollout={"actions": "bernoulli", "group_size": 2},
        update={"imitation": 5, "imitate_count": "factor:1", "inner": 1}, reward={"name": "solved"},
    )  # fmt: skip
    job = RewardJob(made, load_denoiser("sudoku4-weak"), TASK)
    assert job._guide(True).count == Factor(1.0)  # type: ignore[union-attr]
    losses = []
    optimizer = torch.optim.Adam(job.model.parameters(), 3e-3)
    for _ in range(25):
        loss, _ = job.loss(job.model, 0, ONCE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0], "on the same trajectories"


def test_before_training_the_head_of_dultra_unmasks_every_second_position(make_state: MakeState) -> None:
    policy: Any = POLICIES["dultra"](hidden_size=4, vocab_size=2)
    seen = make_state([[0.6, 0.4], [0.9, 0.1]], hidden=torch.randn(1, 2, 4))
    assert policy(*seen).tolist() == [[0.0, 0.0]]
    assert not policy.reads_draw and sum(p.numel() for p in policy.parameters()) > 0
    with pytest.raises(ValueError, match="3 heads do not divide"):
        POLICIES["dultra"](hidden_size=4, vocab_size=2, heads=3)


def test_every_pass_costs_a_part_of_the_reward() -> None:
    class Ended:
        nfe = torch.tensor([5, 10])

    def won(outcome: Outcome) -> Tensor:
        return torch.tensor([1.0, 1.0])

    ended: Any = Ended()
    outcome = Outcome(TASK, None, ended, None)  # type: ignore[arg-type]
    assert with_step_cost(won, 0.02)(outcome).tolist() == pytest.approx([0.9, 0.8])


@pytest.mark.parametrize(
    ("section", "given", "message"),
    [
        ("update", {"imitate_count": "factor:1"}, "imitate_count would have no effect"),
        ("update", {"imitation": 1, "imitate_count": "nonsense"}, "imitate_count is 'nonsense'"),
        ("update", {"imitation": 1, "imitate_count": "factor:1", "imitate_level": 0.9}, "set one of them"),
        ("reward", {"name": "likelihood", "step_cost": 0.1}, "neither speed, step_cost nor"),
    ],
)
def test_settings_of_dultra_that_do_not_fit(section: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        recipe("reward", **{section: given})


# ---- the recipes ------------------------------------------------------------------------------------------------------------


def test_the_head_of_ontrack_has_the_published_size() -> None:
    made: Any = load_recipe("sudoku9-ontrack")
    policy = make_policy(load_denoiser("sudoku9"), Sudoku(3), made.policy, critic=False)
    assert 0.75e6 < sum(p.numel() for p in policy.parameters()) < 0.85e6
