"""What files and commands must not do silently: cut texts, keep other problems, take any text for true, drop options."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import anyorder
from anyorder.cli import app
from anyorder.cli.language import open_language
from anyorder.cli.options import check_suffix, read_budgets
from anyorder.decoding.counts import Fixed
from anyorder.decoding.sampler import Sampler
from anyorder.errors import BadInput
from anyorder.evaluation.curves import as_curves
from anyorder.evaluation.judges import PseudoLikelihood
from anyorder.reproduce import SCALES
from anyorder.reproduce.study import Study
from anyorder.tasks import make_task
from anyorder.tasks.problem_files import Unreadable
from anyorder.tasks.sequence_files import read_records
from anyorder.tasks.sequence_measures import identities
from anyorder.training.data import training_problems
from anyorder.training.recipes import load_recipe
from anyorder.zoo import load_denoiser


def said(*arguments: str) -> str:
    """What a command that fails says, on one line."""
    done = CliRunner(env={"COLUMNS": "300"}).invoke(app, list(arguments))
    assert done.exit_code != 0, done.output
    shown = str(done.exception) if isinstance(done.exception, BadInput) else done.output
    return " ".join(shown.split())


def printed(*arguments: str) -> str:
    done = CliRunner(env={"COLUMNS": "300"}).invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return str(done.output)


# ---- files --------------------------------------------------------------------------------------------------------------


def test_a_text_with_commas_must_be_quoted(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    path.write_text('id,text\n1,Hello there, my friend\n2,plain\n3,"quoted, and whole"\n4,trailing,\n')
    with pytest.raises(
        BadInput, match=r"texts\.csv, line 2: 3 fields where the header names 2: put a text with separators in quotes"
    ):
        list(read_records(path))
    skipping = Unreadable(skip=True)
    assert [record.text for record in read_records(path, unreadable=skipping)] == ["plain", "quoted, and whole", "trailing"]
    assert skipping.count == 1


@pytest.mark.parametrize("change", ["data.options={givens=9}", "data.seed=7", "task.options={box=3}"])
def test_kept_problems_are_of_the_recipe(change: str, tmp_path: Path) -> None:
    keep = ["data.size=6", f"data.keep={tmp_path / 'kept.safetensors'}", "data.options={givens=10}"]
    recipe: Any = load_recipe("sudoku4-order", keep)
    task = make_task(recipe.task.name, **recipe.task.options)
    first = training_problems(task, recipe.data)
    assert torch.equal(training_problems(task, recipe.data).tokens, first.tokens)
    other: Any = load_recipe("sudoku4-order", [*keep, change])
    with pytest.raises(BadInput, match=r"keeps other problems, made of .* name another file"):
        training_problems(make_task(other.task.name, **other.task.options), other.data)


def short(setting: Any) -> Any:
    changes = ("run.steps=1", "run.batch_size=2", "data.size=4")
    return replace(
        setting, denoiser_changes=(*setting.denoiser_changes, *changes), policy_changes=(*setting.policy_changes, *changes)
    )


def test_a_study_is_found_by_any_name_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trained, shipped = short(SCALES["small"]["words-sudoku4-weak"]), short(SCALES["small"]["sudoku"])
    made = Study(Path("rep")).ensure(trained, "policy/mlp/0")
    before = (made / "finished.json").stat().st_mtime_ns
    Study(tmp_path / "rep").ensure(trained, "policy/mlp/0")
    interrupted = Study(Path("rep")).ensure(shipped, "policy/mlp/0") / "finished.json"
    interrupted.unlink()
    Study(tmp_path / "rep").ensure(shipped, "policy/mlp/0")
    assert interrupted.is_file()
    (tmp_path / "rep").rename(tmp_path / "moved")
    moved = Study(Path("moved")).ensure(trained, "policy/mlp/0")
    assert (moved / "finished.json").stat().st_mtime_ns == before, "it was not made again"


# ---- options ------------------------------------------------------------------------------------------------------------


WORDS = ["evaluate", "--model", "words"]
PUZZLES = ["--task-option", "problems=sudoku4"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "--model", "sudoku4", "--generate", "unique=no"], "unique is 'no'; it must be true or false"),
        ([*WORDS, *PUZZLES, "--task-option", "prefill=no"], "prefill is 'no'; it must be true or false"),
        (["evaluate", "--model", "words", "--task-option", "chat=no"], "chat is 'no'; it must be true or false"),
        (["evaluate", "--model", "moses", "--task-option", "free_length=no"], "free_length is 'no'; it must be true or false"),
        (["evaluate", "--model", "moses", "--generate", "length=abc"], "length is 'abc'; it must be a whole number"),
        (["evaluate", "--model", "moses", "--task-option", "known=5"], "known is 5; it must name a file of molecules"),
        (["evaluate", "--model", "words", "--task-option", "alphabet=1"], "alphabet 1 is no alphabet"),
        (["evaluate", "--model", "sudoku4", "--draws", "2", "--against", "confidence"], "leave out .*--against"),
        (["evaluate", "--model", "sudoku4", "--limit", "2", "--steps", "1all"], "must be numbers separated by commas"),
        (["reproduce", "stability, nosuch"], "nosuch at scale small is unknown"),
    ],
)  # fmt: skip
def test_odd_options_are_one_error(arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("anyorder.reproduce.reproduce", lambda *_, **__: pytest.fail("the first target was made"))
    assert re.search(message, said(*arguments))


def test_the_count_rule_holds_for_draws_too() -> None:
    common = ["evaluate", "--model", "sudoku4", "--limit", "12", "--steps", "16", "--seed", "3"]
    rows = []
    for orders in (
        ["--orders", "confidence@blocks:4", "--count", "threshold:0.5"],
        ["--orders", "confidence@blocks:4@threshold:0.5"],
    ):
        text = printed(*common, *orders, "--draws", "2")
        rows.append([line.split("│")[2:] for line in text.splitlines() if line.startswith("│")])
    assert rows[0] == rows[1]


def test_a_saved_sampler_keeps_its_pace_everywhere(tmp_path: Path) -> None:
    Sampler.parse("confidence@threshold:0.9", steps=7).save_pretrained(tmp_path / "samp")
    folder = str(tmp_path / "samp")
    curves = as_curves([folder, "confidence@blocks:4@linear:5"], load_denoiser("sudoku4"), 16)
    assert [[(str(point.sampler.count), point.steps) for point in curve.points] for curve in curves] == [
        [(str(Sampler.parse("confidence@threshold:0.9").count), 7)], [(str(Sampler.parse("confidence@linear").count), 5)]
    ]  # fmt: skip
    assert curves[1].points[0].sampler.block_length == 4
    plain = ["evaluate", "--model", "words", "--task-option", "problems=addition", "--limit", "2", "--steps", "7"]
    assert "samp" in printed(*plain, "--orders", folder, "--eos-penalty", "1")
    assert "samp" in printed(*plain, "--orders", folder, "--draws", "2", "--count", "linear")


def test_a_saved_sampler_is_not_overruled_without_a_word(tmp_path: Path) -> None:
    Sampler.parse("confidence@fixed:2", steps=9).save_pretrained(tmp_path / "samp")
    Sampler.parse("confidence@blocks:4", steps=9).save_pretrained(tmp_path / "blocks")
    folder, words = str(tmp_path / "samp"), {"model": "words", "max_new_tokens": 8}
    for given, option in (
        ({"count": "linear"}, "--count"), ({"temperature": 1.0}, "--temperature"), ({"temperature": 1.0, "top_k": 3}, "--top-k")
    ):  # fmt: skip
        with pytest.raises(BadInput, match=rf"a saved sampler with rules of its own: leave out .*{option}"):
            open_language(**words, order=folder, **given)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="blocks of its own: leave out --block-length"):
        open_language(**words, order=str(tmp_path / "blocks"), block_length=2)  # type: ignore[arg-type]
    made = open_language(**words, order=folder, block_length=4, cache="dual").model.sampler  # type: ignore[arg-type]
    assert (made.steps, made.block_length, made.count) == (9, 4, Fixed(2)) and made.cache.__name__ == "dual"
    assert open_language(**words, order=folder, steps="all").model.sampler.steps is None  # type: ignore[arg-type]
    assert open_language(**words, order=folder, steps="5").model.sampler.steps == 5  # type: ignore[arg-type]
    assert open_language(**words, order="confidence").model.sampler.steps == 20  # type: ignore[arg-type]
    assert "leave out --temperature" in said(
        "sample", "1" + "0" * 15, "--task-option", "box=2", "--order", folder, "--temperature", "1"
    )


def test_a_report_says_how_its_samples_were_drawn(tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    plain = ["evaluate", "--model", "words", "--task-option", "problems=addition", "--limit", "2", "--steps", "3"]
    printed(
        *plain,
        "--orders",
        "confidence,random+wino",
        "--json",
        str(out),
        "--temperature",
        "1",
        "--top-p",
        ".5",
        "--eos-penalty",
        "inf",
    )
    about = json.loads(out.read_text())["meta"]["samplers"]
    assert {name: (one["token"], one["remasker"]) for name, one in about.items()} == {
        "confidence": ("sample:1:0.5", "none"), "random+wino": ("sample:1:0.5", "wino")
    }  # fmt: skip
    assert about["confidence"]["order"] != "confidence", "ends have a penalty"
    assert about["random+wino"]["count"] != "linear"
    denoiser = load_denoiser("sudoku9")
    problems = anyorder.task_for(denoiser).generate(1, 0, givens=40)
    networks = anyorder.evaluate(denoiser, None, problems, ["policy+undo"], 2).meta["samplers"]["policy+undo"]["networks"]
    assert len(networks) == 2 and all(len(mark) == 16 for mark in networks)


def test_budgets_and_scales_are_measured_once(tmp_path: Path) -> None:
    assert read_budgets("all, 3", 9) == [9, 3]
    task = make_task("sudoku", box=2)
    report = anyorder.evaluate(
        load_denoiser("sudoku4"), task, task.generate(4, 0, givens=8), ["random", "confidence"], [5, 5], noise=[1.0, 1.0]
    )
    assert len(report.results) == 2
    pytest.importorskip("pyarrow")
    report.save(tmp_path / "x.PARQUET")
    assert (tmp_path / "x.PARQUET").read_bytes()[:4] == b"PAR1"
    check_suffix(tmp_path / "x.PARQUET", (".json", ".parquet"))
    report.save(tmp_path / "x.json")
    assert len(json.loads((tmp_path / "x.json").read_text())["results"]) == 2


# ---- measures and checks ------------------------------------------------------------------------------------------------


def test_what_ends_at_once_has_no_likelihood_and_is_like_another_one() -> None:
    denoiser = load_denoiser("words")
    task = make_task("text", length=6, free_length=True)
    assert task.vocab_size == denoiser.vocab_size
    problems = task.encode(["_{6}"] * 3)
    ended = problems.tokens.clone()
    end = task.symbols.end[0]
    inner = slice(len(task.symbols.start), None)
    ended[:, inner] = end
    ended[2, len(task.symbols.start) : len(task.symbols.start) + 3] = torch.tensor(task.symbols.encode("abc"))
    found = PseudoLikelihood(denoiser)(task, problems, ended)
    assert np.isnan(found[:2]).all() and np.isfinite(found[2])
    empty, one = np.zeros(0, dtype=np.int64), np.array([1, 2])
    assert identities([empty, empty, one, one]).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("name", "options"), [("sudoku", {"box": 2, "layout": "prefix"}), ("sat", {"variables": 5, "layout": "prefix"})]
)
def test_unfinished_or_altered_sequences_are_not_right(name: str, options: dict[str, Any]) -> None:
    task = make_task(name, **options)
    problems = task.generate(1, 0)
    assert problems.x0 is not None and task.check(problems, problems.x0).instance_correct.all()
    for place in range(problems.x0.shape[1]):
        masked = problems.x0.clone()
        masked[0, place] = task.mask_token_id
        assert not task.check(problems, masked).instance_correct.any(), place
        if not problems.maskable[0, place]:
            altered = problems.x0.clone()
            altered[0, place] = (altered[0, place] + 1) % task.vocab_size
            assert not task.check(problems, altered).instance_correct.any(), place
