"""Decodings that can be watched again: what is recorded, the format, and what bad files are answered with."""

import contextlib
import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anyorder.decoding.loop import decode
from anyorder.decoding.remaskers import CriticUndo
from anyorder.decoding.result import History
from anyorder.decoding.sampler import Sampler
from anyorder.errors import BadInput
from anyorder.evaluation.comparison import evaluate
from anyorder.evaluation.recorder import Recorder
from anyorder.evaluation.results import Report
from anyorder.evaluation.saved import join, load, load_trajectories, report_of, save_trajectories, trajectories_from
from anyorder.evaluation.trajectories import Trajectories, Watch, predicted_of, states_of
from anyorder.orders import heuristics
from anyorder.prediction import Prediction
from anyorder.state import DecodeState
from anyorder.tasks import make_task
from anyorder.tasks.base import Instances
from anyorder.tasks.protein import Protein
from anyorder.tasks.sudoku import Sudoku
from commands import refused, run
from conftest import HashDenoiser
from test_decoding import VOCAB, any_mode, problems

TASK = Sudoku(2)


class Doubt:
    """A critic that believes the first generated position wrong, the others doubtful, until something was remasked."""

    def __call__(self, state: DecodeState, prediction: Prediction) -> Tensor:
        doubted = torch.full(state.tokens.shape, 0.5)
        doubted[:, 0] = torch.where(state.remasked > 0, 3.0, -3.0)
        return doubted


def watched(orders: list[str], count: int = 6, steps: int = 4) -> tuple[Trajectories, Report]:
    instances = TASK.generate(count, 0, givens=8)
    watch = Watch(TASK, instances, {"task": "sudoku"})
    report = evaluate(HashDenoiser(5), TASK, instances, orders, [steps], watch=watch)
    return watch.trajectories(), report


@pytest.fixture(scope="module")
def trajectories() -> Trajectories:
    return watched(["confidence", "random", "confidence+repredict", "oracle"])[0]


@settings(max_examples=60, deadline=None)
@given(problems(), any_mode)
def test_what_is_recorded_is_what_happened(problem: tuple[Tensor, int], sampler: Sampler) -> None:
    tokens, seed = problem
    recorder, history = Recorder(seed, len(tokens)), History(tokens)
    out = decode(HashDenoiser(VOCAB), tokens, sampler, seeds=seed, on_step=[recorder, history])
    plain = decode(HashDenoiser(VOCAB), tokens, sampler, seeds=seed)
    assert (out.tokens == plain.tokens).all() and (out.commit_step == plain.commit_step).all()  # watching changes nothing
    for row, moves in enumerate(recorder.moves()):
        assert len(moves) == out.nfe[row]
        state, committed = tokens[row].numpy().copy(), np.full(tokens.shape[1], -1)
        for step, move in enumerate(moves):
            assert (state[move.positions] != move.tokens).all() and (state[move.remasked] != 0).all()
            state[move.positions], state[move.remasked] = move.tokens, 0
            committed[move.positions], committed[move.remasked] = step, -1
            assert (state == history.tokens[step + 1][row].numpy()).all()
            assert len(move.scores) == move.candidates.shape[1] == len(move.predicted)
            assert (np.diff(move.probabilities, axis=0) <= 0).all()
        assert (state == out.tokens[row].numpy()).all()
        assert (committed == out.commit_step[row].numpy()).all()


def test_only_the_wanted_sequences_are_recorded() -> None:
    recorder = Recorder(10, 2)
    decode(HashDenoiser(5), torch.zeros(5, 4, dtype=torch.int64), "confidence", seeds=10, on_step=recorder)
    assert [len(moves) for moves in recorder.moves()] == [4, 4]


def test_remasked_tokens_are_recorded() -> None:
    instances = TASK.generate(1, 0, givens=8)
    sampler = Sampler(heuristics.confidence, count="linear", remasker=CriticUndo(critic=Doubt()), steps=12)
    watch = Watch(TASK, instances, {})
    out = decode(HashDenoiser(5), instances.tokens, sampler, on_step=watch.record(0))
    watch.note("with undo", sampler, out)
    problem, decode_ = watch.trajectories().problems[0], watch.runs[0].decodes[0]
    remasked = [step.remasked for step in decode_.steps if step.remasked]
    assert int(out.remasked[0]) == sum(map(len, remasked)) > 0
    numbers = [number for number, step in enumerate(decode_.steps) if step.remasked]
    after = states_of(problem, decode_, 0)[numbers[0] + 1]
    assert all(after[at] == 0 for at in remasked[0])


def test_without_a_solution_the_solver_names_the_wrong_cell() -> None:
    instances = TASK.generate(8, 0, givens=8)
    unknown = Instances(instances.tokens, instances.maskable, None, {})
    watch = Watch(TASK, unknown, {})
    evaluate(HashDenoiser(5), TASK, unknown, ["random"], [3], watch=watch)
    wrong = [decode_ for decode_ in watch.runs[0].decodes if decode_.dead_ends]
    assert wrong
    for decode_ in wrong:
        assert decode_.dead_ends is not None and decode_.wrong in decode_.steps[decode_.dead_ends[0]].positions
    known = watched(["random"], count=8, steps=3)[0]
    assert all(decode_.wrong is None for decode_ in known.runs[0].decodes)


def test_scores_and_candidates_are_those_of_the_moment() -> None:
    trajectories, _ = watched(["confidence"], count=2)
    for problem, decode_ in zip(trajectories.problems, trajectories.runs[0].decodes, strict=True):
        states = states_of(problem, decode_, 0)
        for step, before in zip(decode_.steps, states, strict=False):
            logits = HashDenoiser(5)(torch.tensor([before])).logits[0]
            positions = predicted_of(step, before, 0)
            likeliest = torch.softmax(logits.float(), dim=-1)[positions].max(dim=-1)
            assert step.candidates[0] == likeliest.indices.tolist()
            assert step.probabilities[0] == [round(1000 * p) for p in likeliest.values.tolist()]
            assert step.scores == pytest.approx(likeliest.values.log().tolist(), rel=0.006, abs=1e-4)
            chosen = set(step.positions)
            worst = min((s for s, at in zip(step.scores, positions, strict=True) if at in chosen), default=0.0)
            assert all(s <= worst for s, at in zip(step.scores, positions, strict=True) if at not in chosen)


@pytest.mark.parametrize("name", ["t.json", "t.json.gz", "t.parquet"])
def test_round_trip(trajectories: Trajectories, tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    save_trajectories(trajectories, tmp_path / name)
    assert load_trajectories(tmp_path / name) == trajectories


def test_every_mode_replays_to_its_answer_and_check(trajectories: Trajectories) -> None:
    instances = TASK.generate(6, 0, givens=8)
    for run_ in trajectories.runs:
        for number, decode_ in enumerate(run_.decodes):
            states = states_of(trajectories.problems[number], decode_, 0)
            assert states[-1] == decode_.tokens
            right = TASK.check(instances[slice(number, number + 1)], torch.tensor([decode_.tokens])).instance_correct
            assert decode_.correct == bool(right)
            assert decode_.dead_ends is not None
            assert (len(decode_.steps) - 1 in decode_.dead_ends) == (not decode_.correct)  # a wrong grid has no way out


def test_a_report_can_be_made_of_trajectories() -> None:
    trajectories, report = watched(["confidence", "random", "oracle"])
    again = report_of(trajectories)
    for a, b in zip(again.results, report.results, strict=True):
        assert (a.order, a.steps, a.instance_accuracy, a.ci95, a.nfe) == (
            b.order, b.steps, b.instance_accuracy, b.ci95, b.nfe
        )  # fmt: skip
        assert a.cell_accuracy == pytest.approx(b.cell_accuracy, abs=1e-3)
    assert [c.p_value for c in again.comparisons] == [c.p_value for c in report.comparisons]


@pytest.mark.parametrize("make", [lambda: TASK, lambda: make_task("zebra", houses=3, attributes=3), lambda: make_task("sat")])
def test_dead_ends_are_those_that_search_proves(make: Any) -> None:
    task = make()
    instances = task.generate(8, 3)
    assert not task.dead_ends(instances, instances.tokens).any()
    assert not task.dead_ends(instances, instances.x0).any()
    random = torch.randint(1, task.vocab_size, instances.tokens.shape, generator=torch.Generator().manual_seed(0))
    filled = torch.where(instances.maskable, random, instances.tokens)
    assert (task.dead_ends(instances, filled) == ~task.check(instances, filled).instance_correct).all()


class Copied(list[bool]):
    """Counts what slices copy."""

    count = 0

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        if isinstance(index, slice):
            Copied.count += len(found)
            return Copied(found)
        return found


def test_dead_ends_are_dealt_out_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Sudoku(2)
    solver = task.dead_ends
    asked = []

    def dead_ends(instances: Instances, states: Tensor) -> Any:
        proven = Copied(solver(instances, states).tolist())
        asked.append(len(proven))
        return SimpleNamespace(tolist=lambda: proven)

    monkeypatch.setattr(task, "dead_ends", dead_ends)
    watch = Watch(task, task.generate(30, 0, givens=8), {})
    evaluate(HashDenoiser(5), task, watch.instances, ["confidence"], [4], watch=watch)
    found = [decode.dead_ends for decode in watch.runs[0].decodes]
    assert asked == [120] and Copied.count <= 120
    assert found == [decode.dead_ends for decode in watched(["confidence"], 30)[0].runs[0].decodes]
    assert any(found)


def test_padding_is_left_out_and_frames_are_hidden() -> None:
    task = Protein()
    instances = task.encode(["ACD__", "A__"])
    watch = Watch(task, instances, {})
    sampler = Sampler(heuristics.left_to_right, steps=2)
    denoiser = HashDenoiser(task.vocab_size)
    denoiser.mask_token_id = task.mask_token_id
    real = instances.tokens != task.pad_token_id
    out = decode(denoiser, instances.tokens, sampler, attention_mask=real, on_step=watch.record(0))
    watch.note("left_to_right", sampler, out)
    found = watch.trajectories()
    assert [len(problem.tokens) for problem in found.problems] == [7, 5]
    assert found.texts[found.problems[0].tokens[1]] == "A"
    assert found.problems[0].tokens[0] in found.hidden
    assert found.runs[0].decodes[1].dead_ends is None  # there is no solver


def values_of(trajectories: Trajectories) -> dict[str, Any]:
    values: dict[str, Any] = trajectories.model_dump(mode="json")
    return values


def spoil(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place: Any = values
    for part in way:
        place = place[part]
    place[last] = value
    return values


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", "else", "holds no trajectories"),
        ("version", 2, "version 2 of the format; this anyorder reads version 3: record it again with"),
        ("version", None, "version None"),
        ("runs.0.steps", 0, "runs.0.steps: Input should be greater than"),
        ("runs.0.decodes.0.steps.0.positions", [99], "runs.0.decodes.0.steps.0: 1 positions and"),
        ("runs.0.decodes.0.steps.0.remasked", [16], "positions run from 0 to 15"),
        ("runs.0.decodes.0.steps.0.remasked", [-1], "positions run from 0 to 15"),
        ("runs.0.decodes.0.steps.0.scores", [], "one value for each predicted position"),
        ("runs.0.decodes.0.tokens", [1] * 16, "the steps do not lead to its tokens"),
        ("runs.0.decodes.0.tokens", [1] * 15, "the problem has 16 tokens, its decode 15"),
        ("runs.0.decodes.0.dead_ends", [77], "it has 4 steps, and speaks of others"),
        ("runs.0.decodes", [], "0 decodes of 6 problems"),
        ("texts", {}, "texts has no entry for it"),
        ("problems.0.solution", [1], "its solution 1"),
        ("drawing.rows", 3, "a grid of 3 x 4 names the position of each of its cells"),
        ("surprise", 1, "surprise: Extra inputs are not permitted"),
    ],
)
def test_a_damaged_file_is_one_clear_error(
    trajectories: Trajectories, tmp_path: Path, path: str, value: Any, message: str
) -> None:
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(spoil(values_of(trajectories), path, value)))
    with pytest.raises(BadInput) as caught:
        load(file)
    assert message in str(caught.value) and str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_spoilt_value_ends_in_a_traceback(data: st.DataObject) -> None:
    values = values_of(_SMALL)
    leaf = data.draw(st.sampled_from(_LEAVES))
    spoil(values, leaf, data.draw(st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.just([]) | st.just({})))
    with contextlib.suppress(BadInput):  # some spoilt values are still good ones
        trajectories_from(values, Path("spoilt.json"))


def leaves(value: Any, path: str = "") -> list[str]:
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in leaves(inner, f"{path}.{key}")]
    if isinstance(value, list) and value:
        return [path[1:], *(leaf for number, inner in enumerate(value[:3]) for leaf in leaves(inner, f"{path}.{number}"))]
    return [path[1:]]


_SMALL = watched(["confidence"], count=2)[0]
_LEAVES = leaves(values_of(_SMALL))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"results": 1, "comparisons": 1, "meta": 1}']
)
def test_what_is_no_such_file_is_said(tmp_path: Path, content: bytes) -> None:
    for name, data in (
        ("f.json", content),
        ("g.json.gz", gzip.compress(content)),
        ("h.json.gz", content),
        ("i.parquet", content),
    ):
        if name.endswith("parquet"):
            pytest.importorskip("pyarrow")
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BadInput, match=name.replace(".", r"\.")):
            load(tmp_path / name)
    complete = gzip.compress(b"{}" * 1000)
    (tmp_path / "cut.json.gz").write_bytes(complete[: len(complete) // 2])
    with pytest.raises(BadInput, match=r"not readable JSON|not a complete gzip file"):
        load(tmp_path / "cut.json.gz")


def test_files_are_joined_if_they_are_about_the_same_problems(tmp_path: Path) -> None:
    first, _ = watched(["confidence"])
    second, _ = watched(["random"])
    both = join([(Path("a"), first), (Path("b"), second)])
    assert [r.order for r in both.runs] == ["confidence", "random"]
    with pytest.raises(BadInput, match="both hold confidence, 4 steps"):
        join([(Path("a"), first), (Path("b"), first)])
    with pytest.raises(BadInput, match="a and b hold different problems"):
        join([(Path("a"), first), (Path("b"), watched(["random"], count=3)[0])])


def test_a_saved_report_is_read_again(tmp_path: Path) -> None:
    _, report = watched(["confidence", "random"])
    report.save(tmp_path / "r.json")
    again = load(tmp_path / "r.json")
    assert isinstance(again, Report)
    assert again.to_json() == report.to_json()


def test_the_format_is_compact(tmp_path: Path) -> None:
    """Per decode of a 4x4 grid in 4 steps; docs/report.md has the 9x9 figures."""
    instances: Instances = TASK.generate(100, 0, givens=8)
    watch = Watch(TASK, instances, {})
    evaluate(HashDenoiser(5), TASK, instances, ["confidence"], [4], watch=watch)
    save_trajectories(watch.trajectories(), tmp_path / "t.json.gz")
    assert (tmp_path / "t.json.gz").stat().st_size < 100 * 400


def test_sample_and_evaluate_write_them(tmp_path: Path) -> None:
    puzzle = "1000020000300004"
    result = run("sample", puzzle, "--trajectories", tmp_path / "s.json", "--order", "confidence")
    assert result.returncode in (0, 1), result.stderr
    assert load_trajectories(tmp_path / "s.json").runs[0].order == "confidence"
    result = run(
        "evaluate", "--task-option", "box=2", "--limit", "4", "--orders", "confidence,policy", "--steps", "3", "--keep", "3",
        "--trajectories", tmp_path / "e.json.gz",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = load_trajectories(tmp_path / "e.json.gz")
    assert [r.name for r in found.runs] == ["confidence, 3 steps", "policy, 3 steps"]
    assert len(found.problems) == 3 and found.about["denoiser"] == "sudoku4"
    refused(run("evaluate", "--trajectories", "t.txt", cwd=tmp_path), "trajectories are written as .json, .json.gz, .parquet")
    refused(run("evaluate", "--keep", "3", cwd=tmp_path), "--keep says how many problems are recorded")
