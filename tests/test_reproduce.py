"""The reproduction targets, end to end on models of a few hundred weights: they train, decode, keep, lay out, and go on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from anyorder import reproduce as package
from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.base import fingerprint
from anyorder.errors import BadInput
from anyorder.evaluation.batches import decode_in_batches
from anyorder.evaluation.comparison import order_diversity
from anyorder.evaluation.compute import multiply_adds, overhead
from anyorder.evaluation.fronts import area
from anyorder.evaluation.statistics import wilson
from anyorder.files import read_json, write_json
from anyorder.orders.learned import LearnedOrder
from anyorder.orders.policies import MLPPolicy
from anyorder.reproduce import (
    SCALES,
    TARGETS,
    describe_targets,
    from_scratch,
    language,
    reproduce,
    speed,
    stochastic,
    trainings,
    transfer,
)
from anyorder.reproduce.outcome import difference, interval, percent
from anyorder.reproduce.reward import SEEN, UNSEEN, VARIANTS, RewardSetting, share
from anyorder.reproduce.study import Decoding, Setting, Study
from anyorder.tasks import Instances, make_task
from anyorder.tasks.sudoku_classes import classes_of
from anyorder.training.checkpoint import list_checkpoints
from anyorder.training.recipes import load_recipe, recipe_names
from anyorder.zoo import load_denoiser
from proc import alive, children
from tiny_llada import save_tokenizer

TINY = (
    'task.options={box=2}', "data.size=40", "data.options={givens=6}", "run.batch_size=8", "run.steps=3",
    "run.log_steps=1", "optimizer.ema=0.0",
)  # fmt: skip


def tiny_setting() -> Setting:
    order = (*TINY, "policy.width=16")
    return Setting(
        task="sudoku", options={"box": 2}, denoiser="sudoku9-denoiser", adaptive="sudoku9-adaptive",
        denoiser_changes=(*TINY, "denoiser.width=16", "denoiser.layers=1"),
        policy_changes=order, joint_changes=(*order, "joint.decode_problems=4"), problems=6, generate={"givens": 6},
        steps=4, figure_steps=(2, 4), diversities=(0.3,),
    )  # fmt: skip


def tiny_reward() -> RewardSetting:
    return replace(SEEN, problems=6, reward_changes=(
        "run.steps=8", "run.batch_size=12", "run.log_steps=4", "update.imitation=1", "data.size=40"),
        policy_changes=(*SEEN.policy_changes, "run.steps=2", "data.size=40"))  # fmt: skip


def tiny_speed() -> speed.SpeedSetting:
    changes = ("task.options={box=2}", "data.options={givens=6}", "data.size=20", "run.steps=2", "run.batch_size=16")
    return replace(speed.SUDOKU, options={"box": 2}, denoiser="sudoku4", problems=6, generate={"givens": 6}, steps=10,
                   exponents=("10", "1"), in_blocks=("10",), block=3,
                   reward_changes=(*changes, "update.minibatches=1", "run.log_steps=1"))  # fmt: skip


def tiny_words(setting: language.LanguageSetting) -> language.LanguageSetting:
    model = ("denoiser.width=16", "denoiser.layers=1", 'denoiser.heads=["everything"]', "data.size=40", "run.steps=2")
    short = ("data.size=40", "run.steps=2", "run.batch_size=6")
    return replace(
        setting, denoiser="words-denoiser", problems=3, steps=4,
        denoiser_changes=(*setting.denoiser_changes, *model, "run.batch_size=6"),
        policy_changes=(*setting.policy_changes, *short, "objective.rollout_steps=[2,4]"),
        grpo_changes=(*setting.grpo_changes, *short, "run.log_steps=1", "grpo.steps=3"),
        reward_changes=(*setting.reward_changes, *short, "run.log_steps=1", "rollout.steps=3", "policy.width=16"))  # fmt: skip


@pytest.fixture(scope="session")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal model with one token a byte."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("judge")
    save_tokenizer(folder, chat=False)
    config = transformers.GPT2Config(vocab_size=272, n_positions=200, n_embd=8, n_layer=1, n_head=1)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def tiny_judged(judge: Path) -> language.LanguageSetting:
    prompts = judge / "prompts.txt"
    prompts.write_text("a person who acts\nthe quality of being good\n" * 4)
    changes = (f"data.file={prompts}", f"reward.model={judge}", "data.size=8", "run.batch_size=6", "run.log_steps=1")
    return replace(
        language.JUDGED, prompts=str(prompts), judge=str(judge), problems=4, steps=3,
        reward_changes=(*changes, "run.steps=2", "rollout.steps=3", "policy.width=16"))  # fmt: skip


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, judge: Path) -> Path:
    monkeypatch.setitem(package.SCALES, "small", dict.fromkeys(("sudoku", "sat", "sorting", "tsp"), tiny_setting()))
    for name in ("sudoku4", "sudoku4-unseen"):  # one key, so one set of models
        monkeypatch.setitem(package.SCALES["small"], name, tiny_reward())
    for name in ("sudoku9-speed", "words-speed"):
        monkeypatch.setitem(package.SCALES["small"], name, replace(tiny_speed(), key=name))
    homes = (replace(tiny_speed(), denoiser="sudoku4-weak", key="sudoku4-weak-speed", exponents=("10",)),)
    short: dict[str, dict[str, object]] = {"sudoku4-weak": {}, "sat9": {}, "moses": {"length": 5}}
    visited = [s for s in transfer.SMALL if s.denoiser in short]
    for s in visited:
        generate = {**s.generate, **short[s.denoiser]}
        monkeypatch.setitem(package.SCALES["small"], s.name, replace(s, problems=4, homes=homes, generate=generate))
    target = replace(TARGETS["jazbec-transfer"], tasks=tuple(s.name for s in visited))
    monkeypatch.setitem(TARGETS, "jazbec-transfer", target)
    monkeypatch.setattr(stochastic, "_HALVINGS", 2)
    monkeypatch.setattr(speed, "_DRAWS", 20)
    monkeypatch.setattr(transfer, "_DRAWS", 20)
    monkeypatch.setattr(transfer, "RULES", ("threshold",))
    for setting in language.WORDS:
        monkeypatch.setitem(package.SCALES["small"], setting.name, tiny_words(setting))
    monkeypatch.setitem(package.SCALES["small"], language.JUDGED.name, tiny_judged(judge))
    monkeypatch.setattr(from_scratch, "VARIANTS", ("plain", "plain-half", "plain-rows", "papl-1", "papl-L"))
    monkeypatch.setattr(from_scratch, "WIDTHS", (2,))
    for scratch in from_scratch.SMALL:
        changes = (*scratch.joint_changes, "data.size=40", "run.batch_size=8", "run.log_steps=1")
        monkeypatch.setitem(
            package.SCALES["small"], scratch.name, replace(scratch, updates=2, problems=4, joint_changes=changes)
        )
    return tmp_path


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(name, marks=pytest.mark.slow if name.endswith("-words") else ())  # the code of the one without -words
        for name, target in TARGETS.items()
        if "protein" not in target.tasks
    ],
)
def test_every_target_runs_and_is_not_done_twice(target: str, tiny: Path) -> None:
    said: list[str] = []
    outcome = reproduce(target, "small", tiny, seeds=[0, 1], workers=1, say=said.append)
    assert said
    written = (tiny / f"{target}.md").read_text()
    assert outcome.markdown in written
    assert "nan" not in written
    assert json.loads((tiny / f"{target}.json").read_text())["seeds"] == [0, 1]
    assert (tiny / f"{target}.png").exists() == ("table" not in target)
    kept = {
        path: path.stat().st_mtime_ns for path in tiny.rglob("*") if path.suffix in (".safetensors",) or "cells" in path.parts
    }
    assert kept
    reproduce(target, "small", tiny, seeds=[0, 1], workers=1, say=said.append)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_workers_and_one_process_find_the_same(tiny: Path) -> None:
    decodings = [Decoding(tiny_setting(), "frozen", ("confidence",), 4)]
    decodings += [Decoding(tiny_setting(), model, ("confidence", "policy"), 4) for model in ("policy/mlp/0", "joint/uniform/0")]
    one = Study(tiny / "one").decode_all(decodings, 1, lambda _: None)
    two = Study(tiny / "two").decode_all(decodings, 2, lambda _: None)
    for decoding in decodings:
        assert {k: v.tolist() for k, v in one[decoding].items()} == {k: v.tolist() for k, v in two[decoding].items()}


def test_noise_is_chosen_for_a_diversity_of_the_order() -> None:
    denoiser, task = load_denoiser("sudoku4"), make_task("sudoku", box=2)
    puzzles = task.generate(30, seed=5, givens=5)
    scales = {}
    for name in ("confidence", "log_margin"):
        sampler = Sampler.parse(name, steps=11)
        scales[name] = stochastic.matched_noise(denoiser, puzzles, sampler, 0.5)
        noisy = sampler.replace(noise=scales[name])
        a, b = (decode_in_batches(denoiser, puzzles, noisy, seed=k, batch_size=30, progress=None, name="") for k in (0, 1))
        assert order_diversity(a.commit_step, b.commit_step) == pytest.approx(0.5, abs=0.15)
    assert scales["confidence"] < scales["log_margin"] / 5, "their scores differ in scale"


def test_draws_share_passes_and_are_the_same(tmp_path: Path) -> None:
    study, setting = stochastic.NoiseStudy(tmp_path), tiny_setting()
    _, puzzles = study.problems(setting)
    for model, order in (("frozen", "confidence"), ("frozen", "log_margin+repredict"), ("untrained/mlp-published/0", "policy")):
        decoding = Decoding(setting, model, (order,), 4, 0.5)
        found = study.decode(decoding)[order]
        denoiser = study.load(decoding)
        sampler = Sampler.parse(order, steps=4, noise=0.5).bind(denoiser)
        alone = [decode_in_batches(denoiser, puzzles, sampler, seed=k, batch_size=7, progress=None, name="") for k in (0, 1)]
        solved = sum(make_task("sudoku", box=2).check(puzzles, one.tokens).instance_correct.double() for one in alone) / 2
        assert found[0].tolist() == solved.tolist()
    (shared,) = stochastic._passes.values()
    assert shared.seen >= len(puzzles) * 5, "every draw meets the first state"


def test_scores_times_three_are_a_third_of_the_noise() -> None:
    setting, mode = tiny_setting(), stochastic.MODES[1]
    once, thrice = (stochastic.Row("", "frozen", "confidence", factor).decoding(setting, mode) for factor in (1, 3))
    assert (once.noise, thrice.noise) == (0.5, 0.5 / 3)
    assert {mode.name for mode in stochastic.MODES} == {
        f"{name}, {kind}" for name in ("absorbing", "re-predict") for kind in ("no noise", "noise", "annealed")
    }


def test_an_untrained_policy_is_the_confidence_order_and_a_published_one_is_not(tmp_path: Path) -> None:
    study, setting = Study(tmp_path), tiny_setting()
    denoiser = load_denoiser(str(study.ensure(setting, "frozen")))
    _, puzzles = study.problems(setting)
    steps = {"confidence": decode(denoiser, puzzles.tokens, Sampler.parse("confidence", steps=4)).commit_step}
    for name in ("mlp", "mlp-published"):
        policy = LearnedOrder.from_pretrained(study.ensure(setting, f"untrained/{name}/0"), denoiser)
        steps[name] = decode(denoiser, puzzles.tokens, Sampler(policy, steps=4)).commit_step
    assert torch.equal(steps["mlp"], steps["confidence"])
    assert not torch.equal(steps["mlp-published"], steps["confidence"])


def test_kept_results_need_no_weights(tmp_path: Path) -> None:
    study = Study(tmp_path)
    decodings = [
        Decoding(tiny_setting(), "policy/mlp/0", ("policy",), 4),
        Decoding(tiny_setting(), "frozen", ("confidence",), 4),
    ]
    found = study.decode_all(decodings, 1, lambda _: None)
    (tmp_path / "sudoku" / "policy" / "mlp" / "0" / "model.safetensors").unlink()
    again = study.decode_all(decodings, 1, lambda _: None)
    assert all(found[d][o].tolist() == again[d][o].tolist() for d in decodings for o in d.orders)


def test_a_kept_model_is_refused_for_other_settings_and_not_for_those_that_came_later(tmp_path: Path) -> None:
    study, setting = Study(tmp_path), tiny_setting()
    finished = study.ensure(setting, "untrained/mlp/0") / "finished.json"
    kept = read_json(finished)
    del kept["recipe"]["joint"], kept["recipe"]["objective"]["solutions"], kept["recipe"]["policy"]["start"]
    write_json(finished, kept)
    study.ensure(setting, "untrained/mlp/0")
    other = replace(setting, policy_changes=(*setting.policy_changes, "policy.start=none"))
    with pytest.raises(BadInput, match="holds a model of other settings"):
        study.ensure(other, "untrained/mlp/0")


def test_compute_counts_a_policy_and_no_heuristic() -> None:
    denoiser = load_denoiser("sudoku4")
    puzzle = make_task("sudoku", box=2).generate(1, seed=0)
    assert overhead(denoiser, puzzle, Sampler.parse("confidence")) == 0
    policy = MLPPolicy(hidden_size=denoiser.hidden_size, vocab_size=5, width=8, denoiser_fingerprint=fingerprint(denoiser))
    ours = 16 * (denoiser.hidden_size + denoiser.hidden_size * 8 + 8)
    whole = multiply_adds(denoiser, puzzle, Sampler(policy))
    assert whole - multiply_adds(denoiser, puzzle, Sampler.parse("confidence")) == ours


def test_the_front_of_several_seeds() -> None:
    rng = np.random.default_rng(0)
    nfe = rng.integers(2, 30, (1, 4, 50)).astype(float)
    correct = (rng.random((1, 4, 50)) < 0.6).astype(float)
    alone = speed.front_over_seeds(nfe, correct)
    assert alone.value[0] == pytest.approx(area(nfe[0].mean(axis=1), correct[0].mean(axis=1), 2.0, 32.0))
    same = speed.front_over_seeds(np.repeat(nfe, 3, axis=0), np.repeat(correct, 3, axis=0))
    assert same.value == pytest.approx(alone.value)
    assert same.draws == pytest.approx(alone.draws), "seeds that do not differ add no variance"
    differing = speed.front_over_seeds(np.repeat(nfe, 2, axis=0), np.concatenate([correct, np.zeros_like(correct)]))
    assert differing.value == pytest.approx(alone.value / 2)
    assert np.ptp(differing.draws[:, 0]) > np.ptp(alone.draws[:, 0])
    assert not alone.minus(same).value.any(), "paired"


def test_a_policy_is_compared_with_a_rule_at_as_many_passes() -> None:
    # a rule that solves half in 2 passes and all in 6; a policy of two seeds, 4 passes for 3/4 (level) and 2 for 3/4 (+1/4)
    rule = np.zeros((1, 2, 2, 4))
    rule[0, 0], rule[0, 1] = [[1, 1, 0, 0], [1, 1, 1, 1]], [[2] * 4, [6] * 4]
    policy = np.zeros((2, 2, 1, 4))
    policy[:, 0], policy[0, 1], policy[1, 1] = [1, 1, 1, 0], 4, 2
    assert transfer.gap(policy, rule).value == pytest.approx([0.125])
    cheap = policy.copy()
    cheap[:, 1] = 1  # half of the cheapest point, with a coin: a quarter
    assert transfer.gap(cheap, rule).value == pytest.approx([0.5])


def test_a_policy_visits_another_denoiser_and_stays_where_it_was_trained(tiny: Path) -> None:
    visited = SCALES["small"]["transfer-sat9"]
    study, model = transfer.TransferStudy(tiny), "sudoku4-weak-speed:reward/start-0.9/0"
    decoding = Decoding(visited, model, ("policy@bernoulli:0",), 9)
    assert study.ensure(visited, model) == tiny / "sudoku4-weak-speed" / "reward" / "start-0.9" / "0"
    denoiser = study.load(decoding)
    assert fingerprint(denoiser) == fingerprint(load_denoiser("sat9")) != fingerprint(load_denoiser("sudoku4-weak"))
    assert denoiser.own_order == str(study.ensure(visited, model))
    assert study.worker_key(decoding) == ("sudoku4-weak-speed", "reward/start-0.9/0")
    assert trainings("jazbec-transfer", [0]) == 2, "one policy by imitation, one by reward, for three denoisers"
    solved, nfe = study.decode(decoding)["policy@bernoulli:0"]
    assert set(solved.tolist()) <= {0.0, 1.0} and (nfe >= 1).all() and (nfe <= 9).all()


def test_numbers_by_hand() -> None:
    a = np.array([[True, True, False, True], [True, False, False, True]])
    b = np.array([[True, False, False, False], [True, False, False, True]])
    assert percent(a).startswith("62.5 (")
    assert percent(a).endswith("sd 17.7)")
    assert difference(a, b).startswith("+25.0 (")
    assert difference(a, b).endswith("; by seed +50.0 +0.0; p = 0.5)")
    assert "by seed +50.0 +25.0;" in difference(a, b[:1])
    assert "by seed" not in difference(a[:1], b[:1])


def test_no_interval_is_narrower_than_that_over_the_puzzles() -> None:
    all_right = np.ones((3, 200), dtype=bool)
    assert interval(all_right) == interval(all_right[:1]) == wilson(200, 200)
    seeds_differ = np.repeat([[True], [False], [True]], 200, axis=1)
    assert interval(seeds_differ).low < 0.1
    assert interval(seeds_differ).high == 1.0


def test_the_interval_of_a_share_ends_at_one() -> None:
    assert share(np.array([[1.0] * 49 + [0.75]])).endswith("-100.0)")


def test_the_help_lists_targets_by_the_models_that_they_train() -> None:
    assert trainings("upo-figure1") == 0
    assert trainings("upo-table2") == 2 * 7 * 3
    described = describe_targets()
    assert described.startswith("upo-figure1 (0 trainings")
    assert "upo-table2 (42 trainings, 50 min)" in described


def test_the_control_for_memory_is_tested_on_classes_that_no_order_was_trained_on() -> None:
    def classes(found: Instances) -> set[int]:
        return set(classes_of(found.tokens.numpy()).tolist())

    tested = classes(make_task("sudoku", box=2).generate(60, 999_999, **UNSEEN.generate))
    by_reward = load_recipe(UNSEEN.reward, list(UNSEEN.reward_changes)).data
    supervised = load_recipe(UNSEEN.adaptive, list(UNSEEN.policy_changes)).data
    trained = [classes(make_task("sudoku", box=2).generate(60, 0, **data.options)) for data in (by_reward, supervised)]
    assert len(tested) > 20 and not tested & trained[0] and not tested & trained[1]
    seen = classes(make_task("sudoku", box=2).generate(60, 999_999, **SEEN.generate))
    assert seen & tested and seen & trained[0]


def test_the_recipes_of_both_scales_can_be_loaded() -> None:
    for settings in SCALES.values():
        for s in settings.values():
            load_recipe(s.denoiser, list(s.denoiser_changes)) if s.denoiser in recipe_names() else None
            if isinstance(s, from_scratch.ScratchSetting):
                for variant in s.variants:
                    found = from_scratch.ScratchStudy(Path()).recipe(s, "scratch", variant, "0", ["seed=0"])
                    assert found.kind == "order"
                    assert found.train_denoiser
                assert found.policy.settings["width"] == from_scratch.WIDTHS[-1] or not s.sizes
                continue
            load_recipe(s.adaptive, list(s.policy_changes))
            if isinstance(s, speed.SpeedSetting):
                for name in (s.reward, f"{s.reward}-start"):
                    assert load_recipe(name, [*s.reward_changes, "reward.speed=30"]).kind == "reward"
                continue
            if isinstance(s, RewardSetting):
                if isinstance(s, language.LanguageSetting) and s.grpo:
                    assert load_recipe(s.grpo, list(s.grpo_changes)).kind == "grpo"
                for changes in VARIANTS.values():
                    assert load_recipe(s.reward, [*s.reward_changes, *changes]).kind == "reward"
                continue
            joint = load_recipe(s.adaptive, [*s.joint_changes, "train_denoiser=true", "joint.weights=papl"])
            assert joint.kind == "order"


def test_unknown_targets_say_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="table2 has no small scale: protein run at --scale paper"):
        reproduce("table2", "small", tmp_path, seeds=[0], workers=1)
    with pytest.raises(BadInput, match="no paper scale: sorting"):
        reproduce("falsification", "paper", tmp_path, seeds=[0], workers=1)
    with pytest.raises(BadInput, match="table1, table3"):
        reproduce("table9", "small", tmp_path, seeds=[0], workers=1)
    with pytest.raises(BadInput, match="table3 is not about 'sorting': its tasks are sudoku, sat"):
        reproduce("table3", "small", tmp_path, seeds=[0], workers=1, only="sorting")
    assert not list(tmp_path.iterdir())


def test_one_task_of_a_target_trains_and_shows_nothing_of_the_others(tiny: Path) -> None:
    part = reproduce("upo-table2-llm", "small", tiny, seeds=[0], workers=1, only="words-countdown", say=lambda _: None)
    assert part.markdown.count("| confidence |") == 1 and "words-sudoku4-weak" not in part.markdown
    assert part.markdown in (tiny / "upo-table2-llm-words-countdown.md").read_text()
    assert not (tiny / "upo-table2-llm.md").exists() and not (tiny / "words-sudoku4-weak").exists()


_LONG = """
import sys
from dataclasses import replace
from pathlib import Path
from anyorder.reproduce.reward import SEEN, RewardStudy
from anyorder.reproduce.study import Decoding

if __name__ == "__main__":
    setting = replace(SEEN, problems=6, reward_changes=("run.steps=80000", "run.batch_size=12", "data.size=40"))
    wanted = [Decoding(setting, f"reward/none/{seed}", ("policy",), 8) for seed in range(6)]
    RewardStudy(Path(sys.argv[1])).decode_all(wanted, 2, print)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("send", "blow"),
    [
        pytest.param(os.killpg, signal.SIGINT, id="terminal", marks=pytest.mark.slow),
        pytest.param(os.kill, signal.SIGINT, id="int", marks=pytest.mark.slow),
        pytest.param(os.kill, signal.SIGKILL, id="kill"),
    ],
)
def test_workers_end_with_whoever_started_them_and_leave_a_checkpoint(
    send: Callable[[int, int], None], blow: signal.Signals, tmp_path: Path
) -> None:
    """A terminal sends Ctrl-C to the whole group. More models wait than there are workers; none of them is begun any more."""
    script = tmp_path / "long.py"
    script.write_text(_LONG)
    command = [sys.executable, str(script), str(tmp_path / "out")]
    parent = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    runs = [tmp_path / f"out/sudoku4/reward/none/{seed}" for seed in (0, 1)]
    _wait_for(lambda: all((run / "log.txt").exists() and "step" in (run / "log.txt").read_text() for run in runs))
    workers = children(parent.pid)
    try:
        assert len(workers) >= 2
        send(parent.pid, blow)
        parent.wait(timeout=60)
        _wait_for(lambda: not any(alive(worker) for worker in workers))
    finally:
        for process in (parent.pid, *workers):
            if alive(process):
                os.kill(process, signal.SIGKILL)
    assert all(list_checkpoints(run / "checkpoints") for run in runs)
    assert sorted(runs[0].parent.iterdir()) == runs


def _wait_for(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not done():
        assert time.monotonic() < end
        time.sleep(0.1)
