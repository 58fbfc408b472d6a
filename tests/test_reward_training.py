"""Training by reward: what a round does, whom it touches, and that it can be stopped at any moment."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from anyorder.decoding.actions import Bernoulli, PlackettLuce
from anyorder.decoding.counts import Threshold
from anyorder.decoding.tokens import Argmax
from anyorder.denoisers.base import DenoiserOutput
from anyorder.denoisers.transformer import Transformer
from anyorder.errors import BadInput
from anyorder.orders.heuristics import confidence
from anyorder.orders.learned import LearnedOrder
from anyorder.orders.reward_policies import ConfidenceTransformer, UPOPolicy, most_confident
from anyorder.prediction import Prediction
from anyorder.processes import Shard
from anyorder.state import DecodeState
from anyorder.tasks import make_task
from anyorder.tasks.base import Instances
from anyorder.tasks.sudoku import Sudoku
from anyorder.training import reward
from anyorder.training.fit import fit_order_by_reward, run_recipe
from anyorder.training.loop import train
from anyorder.training.recipes import RewardRecipe, validate_recipe
from anyorder.training.reward import RewardJob, Round
from anyorder.training.rewards import Outcome
from anyorder.training.rollout import Expert, Recorder, Step, rollout
from anyorder.training.settings import RolloutSettings, UpdateSettings
from anyorder.zoo import load_denoiser, load_order

TASK = Sudoku(box=2)
SMALL: dict[str, dict[str, Any]] = {
    "upo": {"width": 16, "heads": 2},
    "confidence_transformer": {"width": 16, "heads": 2},
    "mlp": {"width": 16},
    "score_hidden_transformer": {"width": 16, "heads": 2},
    "lookahead": {"width": 16, "heads": ["row", "column"]},
}
HERE = Shard(0, 1)
PLAIN: dict[str, Any] = {"steps": None, "block_length": None, "token": Argmax(), "x0": None}


def recipe_of(**sections: dict[str, Any]) -> RewardRecipe:
    values: dict[str, Any] = {
        "kind": "reward",
        "task": {"name": "sudoku", "options": {"box": 2}},
        "data": {"size": 30, "options": {"givens": 8, "unique": False}},
        "denoiser": "sudoku4-weak",
        "policy": {"architecture": "upo", "width": 16, "heads": 2},
        "rollout": {"group_size": 4},
        "update": {"inner": 3},
        "optimizer": {"lr": 1e-3, "warmup_steps": 1},
        "run": {"steps": 9, "batch_size": 16, "log_steps": 1},
    }
    for name, section in sections.items():
        kept = {} if "architecture" in section else values.get(name, {})  # each architecture has its own settings
        values[name] = {**kept, **section}
    found = validate_recipe(values)
    assert isinstance(found, RewardRecipe)
    return found


def job_of(**sections: Any) -> RewardJob:
    return RewardJob(recipe_of(**sections), load_denoiser("sudoku4-weak"), TASK)


def round_of(job: RewardJob) -> Round:
    """What the job drew last."""
    assert job.round is not None
    return job.round


def scores_now(job: RewardJob, step: Step) -> Tensor:
    """The scores of a recorded step under the current weights."""
    return job._current(job.model, step, round_of(job))[0]


class Counting(Transformer):
    """A denoiser that counts how often it is asked."""

    asked = 0

    def forward(self, *arguments: Any) -> DenoiserOutput:
        self.asked += 1
        return super().forward(*arguments)


def gradients(job: RewardJob, step: int) -> list[Tensor]:
    job.model.zero_grad()
    loss, _ = job.loss(job.model, step, HERE)
    loss.backward()
    return [p.grad.clone() for p in job.policy.parameters() if p.grad is not None]


def test_updates_do_not_ask_the_denoiser_and_leave_it_as_it_is() -> None:
    job = job_of()
    before = {name: tensor.clone() for name, tensor in job.denoiser.state_dict().items()}
    job.denoiser.__class__ = Counting
    job.loss(job.model, 0, HERE)
    asked = job.denoiser.asked
    assert asked > 0
    for step in (1, 2):
        loss, _ = job.loss(job.model, step, HERE)
        loss.backward()
    assert job.denoiser.asked == asked
    assert all(torch.equal(before[name], tensor) for name, tensor in job.denoiser.state_dict().items())
    assert all(p.grad is None for p in job.denoiser.parameters())


def test_stored_states_carry_no_logits_unless_the_policy_reads_them() -> None:
    job = job_of()
    job.loss(job.model, 0, HERE)
    assert all(step.prediction.logits.numel() == 0 for step in round_of(job).steps)
    job = job_of(policy={"architecture": "lookahead"})
    job.loss(job.model, 0, HERE)
    assert all(step.prediction.logits.numel() > 0 for step in round_of(job).steps)


@pytest.mark.parametrize("architecture", list(SMALL))
def test_the_kept_view_gives_the_probabilities_that_were_drawn_from(architecture: str) -> None:
    """Before any update the ratio is 1; after one it is not."""
    job = job_of(policy={"architecture": architecture, **SMALL[architecture]})
    job.loss(job.model, 0, HERE)

    def ratios() -> Tensor:
        found = []
        for kept in round_of(job).steps:
            found.append((job.actions.log_prob(scores_now(job, kept), kept.drawn) - kept.log_prob).exp())
        return torch.cat(found).detach()

    assert torch.allclose(ratios(), torch.ones(()), atol=1e-5)
    with torch.no_grad():
        for parameter in job.policy.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    assert float((ratios() - 1).abs().max()) > 1e-3


@pytest.mark.parametrize("architecture", list(SMALL))
def test_a_policy_scores_some_of_the_rows_as_it_scores_them_among_all(architecture: str) -> None:
    policy = {"architecture": architecture, **SMALL[architecture]}
    job = job_of(policy=policy, update={"beta": 0.1, "reference": "confidence"})
    job.loss(job.model, 0, HERE)
    step = round_of(job).steps[2]
    kept = torch.arange(len(step.rows)) % 3 == 1
    part = step.only(kept)
    assert len(part.rows) == 5 and torch.equal(part.state.seeds, step.state.seeds[kept])
    among_all = job.policy(step.state, step.prediction)
    assert torch.allclose(job.policy(part.state, part.prediction), among_all[kept], atol=1e-5)
    mine, all_of_them = (view.prediction.scatter(view.prediction.entropy) for view in (part, step))
    assert torch.equal(mine, all_of_them[kept])


def test_a_choice_of_a_long_trajectory_weighs_as_much_as_one_of_a_short() -> None:
    """The gradient of one group is that of the mean reward, up to a factor: sum of A log p over all its choices."""
    job = job_of(rollout={"actions": "bernoulli"}, run={"batch_size": 4}, update={"inner": 1, "standardize": False})
    job.reward = lambda end: end.decoded.nfe.float()
    found = gradients(job, 0)
    drawn = round_of(job)
    worth = drawn.decoded.nfe.float()
    assert len(set(worth.tolist())) > 1
    choices = sum(len(step.rows) for step in drawn.steps)
    job.model.zero_grad()
    expected = sum(
        (job.actions.log_prob(scores_now(job, step), step.drawn) * (worth - worth.mean())[step.rows]).sum()
        for step in drawn.steps
    )
    (-expected / choices).backward()
    for mine, p in zip(found, job.policy.parameters(), strict=True):
        assert p.grad is not None and torch.allclose(mine, p.grad, atol=1e-6)
    assert max(float(g.abs().max()) for g in found) > 1e-3


def test_trajectories_no_better_than_their_group_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def first_group_differs(end: Outcome) -> Tensor:
        found = torch.ones(len(end.decoded.tokens))
        found[1] = 0
        return found

    def gradient(skip: bool) -> list[Tensor]:
        job = RewardJob(recipe_of(), load_denoiser("sudoku4-weak"), TASK, reward=first_group_differs)
        if not skip:
            monkeypatch.setattr(reward, "_only_what_teaches", lambda drawn: drawn)
        found = gradients(job, 0)
        assert {len(step.rows) for step in round_of(job).steps} == {4 if skip else 16}
        return found

    for some, every in zip(gradient(True), gradient(False), strict=True):
        assert torch.allclose(some, every, atol=1e-6)
        assert float(every.abs().max()) > 0 or every.numel() == 1


def test_groups_whose_trajectories_earn_the_same_give_no_gradient() -> None:
    recipe = recipe_of()
    denoiser = load_denoiser("sudoku4-weak")
    job = RewardJob(recipe, denoiser, TASK, reward=lambda end: torch.ones(len(end.decoded.tokens)))
    assert all(float(g.abs().max()) == 0 for g in gradients(job, 0))
    assert round_of(job).numbers["groups_alike"] == 1


@pytest.mark.parametrize(
    ("name", "reward_name"),
    [
        ("zebra", "rules"),
        ("zebra", "cells"),
        ("sudoku", "rules"),
        ("sudoku", "cells"),
        ("sat", "cells"),
        ("countdown", "cells"),
    ],
)
def test_every_puzzle_can_be_learned_by_reward(name: str, reward_name: str) -> None:
    task = make_task(name)
    torch.manual_seed(0)
    denoiser = Transformer(task.vocab_size, task.mask_token_id, task.length, width=16, layers=1, heads=["everything"])
    recipe = recipe_of(
        task={"name": name, "options": {}}, data={"size": 4, "options": {}}, reward={"name": reward_name},
        rollout={"group_size": 4, "steps": 4, "actions": "bernoulli", "token_temperature": 1.0}, run={"batch_size": 8},
    )  # fmt: skip
    job = RewardJob(recipe, denoiser, task)
    found = gradients(job, 0)
    assert 0 <= round_of(job).numbers["reward"] <= 1
    assert round_of(job).numbers["groups_alike"] < 1 and max(float(g.abs().max()) for g in found) > 0


def test_positions_that_are_rewarded_are_drawn_sooner() -> None:
    """A reward of our own: fill the upper half first. Only the order can bring that about."""
    problems = TASK.generate(20, 5, givens=8, unique=False)

    def early(end: Outcome) -> Tensor:
        upper = end.instances.maskable & (torch.arange(16) < 8)
        return -(end.decoded.commit_step * upper).sum(dim=1) / upper.sum(dim=1).clamp(min=1)

    def mean_step(job: RewardJob) -> float:
        return -job._draw_round(99, HERE, imitating=False).numbers["reward"]

    job = RewardJob(recipe_of(run={"batch_size": 64}), load_denoiser("sudoku4-weak"), TASK, problems, early)
    before = mean_step(job)
    optimizer = torch.optim.Adam(job.policy.parameters(), lr=3e-3)
    for step in range(90):
        optimizer.zero_grad()
        job.loss(job.model, step, HERE)[0].backward()
        optimizer.step()
    assert mean_step(job) < before - 1


def test_imitation_learns_the_expert() -> None:
    job = job_of(update={"inner": 1, "imitation": 40})
    optimizer = torch.optim.Adam(job.policy.parameters(), lr=3e-3)
    losses = []
    for step in range(40):
        optimizer.zero_grad()
        loss, _ = job.loss(job.model, step, HERE)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_imitated_trajectories_are_the_experts_own() -> None:
    job = job_of(update={"imitation": 1})
    job.loss(job.model, 0, HERE)
    for kept in round_of(job).steps:
        best = confidence(kept.state, kept.prediction).argmax(dim=1)
        assert torch.equal(kept.drawn.argmax(dim=1), best)


def test_oracles_can_be_imitated_where_solutions_are_known_only() -> None:
    job = job_of(update={"imitation": 1, "imitate": "gt_margin"})
    assert float(job.loss(job.model, 0, HERE)[0].detach()) > 0
    problems = replace(TASK.generate(10, 1, givens=8, unique=False), x0=None)
    job = RewardJob(
        recipe_of(update={"imitation": 1, "imitate": "gt_margin"}, reward={"name": "rules"}),
        load_denoiser("sudoku4-weak"), TASK, problems,
    )  # fmt: skip
    with pytest.raises(BadInput, match="solution"):
        job.loss(job.model, 0, HERE)


def test_the_expert_shares_its_likelihood_with_the_policy() -> None:
    """Expert steering: the likelihood of an action is that of the mixture, whoever took it."""
    job = job_of(rollout={"group_size": 4, "experts": 1, "actions": "bernoulli"})
    job.loss(job.model, 0, HERE)
    assert round_of(job).count == 4 * 5
    experts = Expert(confidence, Threshold(0.9))
    for kept in round_of(job).steps:
        own = job.actions.log_prob(scores_now(job, kept), kept.drawn).detach().exp()
        advice = experts.draw(kept.state, kept.prediction, torch.zeros(len(kept.rows)))
        same = ((advice >= 0) == (kept.drawn >= 0)).all(dim=1)
        assert torch.allclose(kept.log_prob.exp(), 0.8 * own + 0.2 * same, atol=1e-5)
        is_expert = kept.rows >= 16
        assert bool(same[is_expert].all())


@pytest.mark.parametrize(
    "rollout_settings",
    [
        {"actions": "bernoulli"},
        {"actions": "dynamic_plackett_luce"},
        {"per_step": 3},
        {"steps": 4, "per_step": 2},
        {"block": 3},
        {"token_temperature": 1.0},
    ],
)
def test_every_way_to_draw_trains(rollout_settings: dict[str, Any]) -> None:
    job = job_of(rollout={"group_size": 4, **rollout_settings})
    found = gradients(job, 0)
    assert sum(float(g.abs().sum()) for g in found) > 0
    assert all(bool(g.isfinite().all()) for g in found)


def test_in_blocks_only_the_open_block_is_drawn_from() -> None:
    job = job_of(rollout={"group_size": 4, "block": 4})
    job.loss(job.model, 0, HERE)
    first = round_of(job).steps[0]
    number = first.state.generated.long().cumsum(dim=1).gather(1, first.drawn.argmax(dim=1, keepdim=True))
    assert int(number.max()) <= 4


@pytest.mark.parametrize("reference", ["confidence", "softmax", "top_k"])
def test_references_pull_the_policy(reference: str) -> None:
    """With nothing to earn, the divergence alone is left, and following its gradient lowers it."""
    settings = {"reference": reference, "beta": 1.0, "inner": 1}
    policy = {"top_positions": 3 if reference == "top_k" else 0}
    recipe = recipe_of(update=settings, policy=policy, rollout={"group_size": 4}, run={"batch_size": 32})
    job = RewardJob(
        recipe, load_denoiser("sudoku4-weak"), TASK, reward=lambda end: torch.zeros(len(end.decoded.tokens))
    )  # fmt: skip

    @torch.no_grad()
    def divergence() -> float:
        """KL from the policy to the reference, or cross-entropy where that is one position, in the states of one round."""
        job.round = job._draw_round(1000, HERE, imitating=False)
        total = []
        for kept in round_of(job).steps:
            log_q = torch.log_softmax(scores_now(job, kept), dim=1)
            if reference == "confidence":
                best = confidence(kept.state, kept.prediction).argmax(dim=1, keepdim=True)
                total.append(-log_q.gather(1, best)[:, 0])
            else:
                gap = (log_q - job._reference(kept.state, kept.prediction)).masked_fill(log_q.exp() == 0, 0.0)
                total.append((log_q.exp() * gap).sum(dim=1))
        return float(torch.cat(total).mean())

    with torch.no_grad():  # away from where it starts, which for top_k is the reference itself
        job.policy.mlp[-1].weight += 5 * torch.randn(
            job.policy.mlp[-1].weight.shape, generator=torch.Generator().manual_seed(1)
        )
    before = divergence()
    optimizer = torch.optim.Adam(job.policy.parameters(), lr=3e-3)
    for step in range(30):
        optimizer.zero_grad()
        job.loss(job.model, step, HERE)[0].backward()
        optimizer.step()
    assert divergence() < 0.8 * before


def test_the_restricted_policy_never_leaves_its_top_positions() -> None:
    job = job_of(policy={"top_positions": 2})
    job.loss(job.model, 0, HERE)
    for kept in round_of(job).steps:
        assert bool((most_confident(kept.state, kept.prediction, 2) | (kept.drawn < 0)).all())


@pytest.mark.parametrize("architecture", SMALL)
def test_the_denoiser_can_be_trained_along(architecture: str) -> None:
    policy = {"architecture": architecture, **SMALL[architecture]}
    settings = {"train_denoiser": True, "lr_scale": 1.0}
    job = job_of(policy=policy, update=settings, rollout={"group_size": 4, "per_step": 2, "token_temperature": 1.0})
    loss, _ = job.loss(job.model, 0, HERE)
    for kept in round_of(job).steps:  # where and what: the ratio of both is 1 before an update
        scores, tokens, _ = job._current(job.model, kept, round_of(job))
        ratio = (job.actions.log_prob(scores, kept.drawn) + tokens - kept.log_prob).exp()
        assert torch.allclose(ratio, torch.ones(()), atol=1e-4)
        proposals = kept.prediction.scatter(kept.prediction.candidate_log_probs, 0.0)
        every = torch.allclose(tokens, proposals.sum(dim=1), atol=1e-4)
        assert every == job.policy.reads_draw or kept.number > 0, "an order that reads the draw depends on every proposal"
    loss.backward()
    assert sum(float(p.grad.abs().sum()) for p in job.denoiser.parameters() if p.grad is not None) > 0


def test_the_weight_of_the_divergence_counts_tokens_on_both_sides() -> None:
    """Before an update the current policy is the one that drew: kappa is 1 + log g - log g_ref, of the positions alone."""
    job = job_of(
        policy={"top_positions": 3}, update={"train_denoiser": True, "reference": "top_k", "beta": 0.1},
        rollout={"group_size": 4, "token_temperature": 1.0},
    )  # fmt: skip
    job.loss(job.model, 0, HERE)
    drawn, expected = round_of(job), torch.ones(round_of(job).count)
    for kept in drawn.steps:
        scores, _, prediction = job._current(job.model, kept, drawn)
        reference = job._reference(kept.state, prediction).gather(1, kept.drawn.argmax(dim=1, keepdim=True))[:, 0]
        expected[kept.rows] += (job.actions.log_prob(scores, kept.drawn) - reference).detach()
    assert job.kl_weight is not None and torch.allclose(job.kl_weight, expected, atol=1e-3)


def test_speed_is_learned_where_it_is_rewarded(tmp_path: Path) -> None:
    recipe = recipe_of(
        policy={"architecture": "confidence_transformer", "width": 32},
        rollout={"group_size": 8, "actions": "bernoulli"},
        reward={"name": "solved", "speed": 10.0},
        update={"inner": 2, "standardize": False, "clip": 0.5},
        optimizer={"lr": 1e-2},
        run={"steps": 60, "batch_size": 64, "log_steps": 2},
    )
    job = RewardJob(recipe, load_denoiser("sudoku4"), TASK)
    train(job, recipe.run, recipe.optimizer, tmp_path, seed=0, recipe={})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["nfe"] < 0.7 * lines[0]["nfe"]


def test_a_run_that_is_stopped_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    def run(folder: Path, stop_after: int | None) -> None:
        job = job_of()
        plain = job.loss

        def failing(model: torch.nn.Module, step: int, shard: Shard) -> tuple[Tensor, dict[str, float]]:
            if step == stop_after:
                raise RuntimeError("power cut")
            return plain(model, step, shard)

        job.loss = failing  # type: ignore[method-assign]
        recipe = recipe_of(run={"checkpoint_steps": 1})
        train(job, recipe.run, recipe.optimizer, folder, seed=0, recipe=recipe.model_dump(mode="json"))

    run(tmp_path / "whole", None)
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "cut", 7)
    saved = {int(p.stem.split("-")[1]) for p in (tmp_path / "cut" / "checkpoints").glob("*.safetensors")}
    assert saved == {3, 6}, "checkpoints lie between rounds only"
    run(tmp_path / "cut", None)
    whole, cut = (load_order(tmp_path / name).policy.state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_recipes_and_python_give_an_order_that_decodes(tmp_path: Path) -> None:
    result = run_recipe(recipe_of(run={"steps": 3}), tmp_path / "recipe")
    assert result.finished
    denoiser = load_denoiser("sudoku4-weak")
    assert isinstance(load_order(tmp_path / "recipe", denoiser).policy, UPOPolicy)
    problems = TASK.generate(12, 3, givens=8, unique=False)
    order = fit_order_by_reward(
        denoiser, TASK, replace(problems, x0=None), tmp_path / "python", steps=4, batch_size=8,
        policy={"architecture": "confidence_transformer", "width": 16},
        rollout=RolloutSettings(group_size=4), update=UpdateSettings(inner=2),
    )  # fmt: skip
    assert isinstance(order, LearnedOrder) and isinstance(order.policy, ConfidenceTransformer)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"update": {"reference": "confidence"}}, "beta"),
        ({"update": {"reference": "top_k", "beta": 0.1}}, "top_positions"),
        ({"update": {"train_denoiser": True}}, "token_temperature"),
        ({"rollout": {"actions": "bernoulli", "per_step": 2}}, "per_step"),
        ({"rollout": {"group_size": 5}}, "multiple"),
        ({"reward": {"name": "judge"}}, "judge"),
        (
            {"update": {"reference": "softmax", "beta": 0.1}, "rollout": {"group_size": 4, "actions": "bernoulli"}},
            "one position",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        recipe_of(**sections)


def test_rewards_that_need_solutions_say_so() -> None:
    problems = replace(TASK.generate(10, 1, givens=8, unique=False), x0=None)
    job = RewardJob(recipe_of(), load_denoiser("sudoku4-weak"), TASK, problems)
    with pytest.raises(BadInput, match="known solutions"):
        job.loss(job.model, 0, HERE)


def test_a_bonus_is_for_sequences_and_not_for_positions() -> None:
    """16 trajectories of 16 positions: the bonus of each would have been added to a position of all."""
    job = RewardJob(
        recipe_of(reward={"likelihood_bonus": 0.5}), load_denoiser("sudoku4-weak"), TASK,
        reward=lambda end: torch.ones(end.decoded.tokens.shape),
    )  # fmt: skip
    with pytest.raises(BadInput, match=r"earned step by step, \(16, 16\)"):
        job.loss(job.model, 0, Shard(0, 1))


def test_a_rollout_notes_every_choice_of_every_row() -> None:
    """The log-probabilities of a row's steps belong to the positions that it committed, in this order."""
    denoiser = load_denoiser("sudoku4-weak")
    problems: Instances = TASK.generate(5, 2, givens=(6, 10), unique=False)
    recorder = Recorder(PlackettLuce(0.5))
    steps, decoded = rollout(denoiser, confidence, recorder, problems.tokens, first_seed=70, **PLAIN)
    for row in range(5):
        mine = [(s, int((s.rows == row).nonzero()[0, 0])) for s in steps if bool((s.rows == row).any())]
        for kept, at in mine:
            place = int(kept.drawn[at].argmax())
            assert int(decoded.commit_step[row, place]) == kept.number
        blanks = int(problems.maskable[row].sum())
        longest = int(problems.maskable.sum(dim=1).max())
        assert len(mine) == (blanks if blanks < longest else blanks - 1)  # the last step of the budget is nobody's choice


def test_bernoulli_rollouts_never_stall() -> None:
    def reluctant(state: DecodeState, prediction: Prediction) -> Tensor:
        return torch.full(state.tokens.shape, -20.0)

    denoiser = load_denoiser("sudoku4-weak")
    problems = TASK.generate(5, 2, givens=8, unique=False)
    recorder = Recorder(Bernoulli())
    steps, decoded = rollout(denoiser, reluctant, recorder, problems.tokens, first_seed=1, **PLAIN)
    assert int(decoded.nfe.max()) == 8
    assert all(bool((s.drawn < 0).all()) for s in steps)


def test_two_processes_draw_and_learn_what_one_does() -> None:
    """Trajectory i has the same seed on whatever process, and the mean of the processes' gradients is that of one."""
    whole = gradients(job_of(), 0)
    halves = []
    for index in range(2):
        job = job_of()
        job.loss(job.model, 0, Shard(index, 2))[0].backward()
        halves.append([p.grad for p in job.policy.parameters() if p.grad is not None])
    for one, first, second in zip(whole, *halves, strict=True):
        assert torch.allclose(one, (first + second) / 2, atol=1e-6)
    with pytest.raises(BadInput, match="processes"):
        job_of().loss(job_of().model, 0, Shard(0, 3))


def test_the_softmax_reference_sums_over_all_tokens(make_state: Callable[..., tuple[DecodeState, Prediction]]) -> None:
    """Eq. 25 at tau .05: (.6, .4) against (.5, .5) is (e^12 + e^8) to 2 e^10."""
    soft = make_state([[0.6, 0.4], [0.5, 0.5]])[1].soft_confidence(0.05)[0]
    odds = (math.exp(12) + math.exp(8)) / (2 * math.exp(10))
    assert float((soft[0] - soft[1]).exp()) == pytest.approx(odds, rel=1e-5)


def test_what_cannot_be_judged_is_worth_no_more_than_the_worst() -> None:
    def half_judged(end: Outcome) -> Tensor:
        worth = -torch.arange(1.0, len(end.decoded.tokens) + 1)
        worth[::4] = torch.nan
        return worth

    job = RewardJob(recipe_of(), load_denoiser("sudoku4-weak"), TASK, reward=half_judged)
    job.loss(job.model, 0, HERE)
    first = round_of(job).advantages[0]
    for group in range(4):
        assert int(first[4 * group : 4 * group + 4].argmin()) == 0
