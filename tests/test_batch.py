"""`anyorder batch`: Parquet in, Parquet out; what is interrupted goes on; nothing is lost, nothing twice; with Ray the same."""

import os
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import commands
from anyorder.batch import Plan, run_batch
from anyorder.cli.language import open_language
from anyorder.errors import AnyorderError, BadInput

arrow = pytest.importorskip("pyarrow", reason="the tests of `anyorder batch` need: pip install 'anyorder[parquet]'")
import pyarrow.parquet as parquet  # noqa: E402

from tiny_server import save_tiny_words  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_words(tmp_path_factory.mktemp("batch") / "tiny")


def write_prompts(path: Path, count: int) -> Path:
    prompts = [f"What is {n} + {3 * n}?" for n in range(count)]
    parquet.write_table(arrow.table({"id": list(range(count)), "prompt": prompts}), path, row_group_size=7)
    return path


def plan(folder: Path, source: Path, out: Path, rows_per_part: int = 5, **options: Any) -> Plan:
    options = {"model": str(folder), "steps": "4", "temperature": 2.0, "seed": 3, **options}
    settings = {name: str(value) for name, value in options.items()}
    return Plan(source, out, partial(open_language, **options), settings, rows_per_part)


def answers(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = parquet.read_table(out).to_pylist()
    return sorted(rows, key=lambda row: row["row"])


def test_every_prompt_is_answered_once_whatever_the_parts(folder: Path, tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "in.parquet", 23)
    assert run_batch(plan(folder, source, tmp_path / "five")) == 5
    assert run_batch(plan(folder, source, tmp_path / "eight", 8)) == 3
    found = answers(tmp_path / "five")
    assert [row["row"] for row in found] == list(range(23))
    assert [row["prompt"] for row in found] == parquet.read_table(source)["prompt"].to_pylist()
    assert found == answers(tmp_path / "eight")
    assert len({row["answer"] for row in found}) > 10 and all(row["error"] is None and row["nfe"] <= 4 for row in found)
    asked = open_language(model=str(folder), steps="4", temperature=2.0)
    (alone,) = asked.model.generate([asked.model.prompt(found[9]["prompt"])], seeds=3 + 9)
    assert (alone.text, len(alone.tokens), alone.nfe) == (found[9]["answer"], found[9]["tokens"], found[9]["nfe"])


def test_an_interrupted_batch_goes_on_with_what_is_left(folder: Path, tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "in.parquet", 23)
    mine = plan(folder, source, tmp_path / "out")

    def interrupt(part: int, process: int) -> None:
        if part == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_batch(mine, on_part=interrupt)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*")}
    assert len(before) == 2
    done: list[int] = []
    assert run_batch(mine, on_part=lambda part, process: done.append(part)) == 3
    assert done == [2, 3, 4]
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == time for name, time in before.items())
    assert run_batch(mine) == 0
    run_batch(plan(folder, source, tmp_path / "whole"))
    assert answers(tmp_path / "out") == answers(tmp_path / "whole")


def test_prompts_that_cannot_be_answered_are_named_and_stop_nothing(folder: Path, tmp_path: Path) -> None:
    prompts = ["What is 1 + 2?", "☃", None, "7" * 60, "a_b", " ", "What is 3 + 4?"]
    parquet.write_table(arrow.table({"prompt": prompts}), tmp_path / "in.parquet")
    run_batch(plan(folder, tmp_path / "in.parquet", tmp_path / "out"))
    found = answers(tmp_path / "out")
    assert [row["error"] is None for row in found] == [True, False, False, False, False, False, True]
    assert "'☃' at position 1" in found[1]["error"] and "the model takes 64" in found[3]["error"]
    assert all(row["answer"] is None for row in found[1:6])


def test_what_is_no_batch_is_refused(folder: Path, tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "in.parquet", 3)
    with pytest.raises(BadInput, match="no such file"):
        run_batch(plan(folder, tmp_path / "none.parquet", tmp_path / "out"))
    (tmp_path / "text.parquet").write_text("prompt\n1 + 2\n")
    with pytest.raises(BadInput, match="is not a Parquet file"):
        run_batch(plan(folder, tmp_path / "text.parquet", tmp_path / "out"))
    parquet.write_table(arrow.table({"prompt": [1], "question": ["?"]}), tmp_path / "other.parquet")
    with pytest.raises(BadInput, match=r"no column 'prompt' of texts .* are prompt \(int64\), question \(string\)"):
        run_batch(plan(folder, tmp_path / "other.parquet", tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    damaged = bytearray(source.read_bytes())
    end = len(damaged) - 8 - int.from_bytes(damaged[-8:-4], "little")
    damaged[4:end] = bytes(end - 4)
    (tmp_path / "damaged.parquet").write_bytes(damaged)
    with pytest.raises(BadInput, match=r"damaged\.parquet is damaged"):
        run_batch(plan(folder, tmp_path / "damaged.parquet", tmp_path / "damaged"))
    with pytest.raises(BadInput, match="holds something else"):
        run_batch(plan(folder, source, tmp_path))
    (tmp_path / "out").mkdir()
    for left in (".lock", "._settings.json.0123456789ab"):  # by one that was killed before it had begun
        (tmp_path / "out" / left).touch()
    run_batch(plan(folder, source, tmp_path / "out"))
    for other in (plan(folder, source, tmp_path / "out", seed=4), plan(folder, source, tmp_path / "out", 6)):
        with pytest.raises(BadInput, match=r"holds another batch \((seed|rows_per_part) differ"):
            run_batch(other)


def test_an_attempt_that_could_not_begin_does_not_keep_the_folder(folder: Path, tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "in.parquet", 3)
    with pytest.raises(BadInput, match="order 'nonsense' is unknown"):
        run_batch(plan(folder, source, tmp_path / "out", order="nonsense"))
    assert run_batch(plan(folder, source, tmp_path / "out")) == 1
    with pytest.raises(BadInput, match="holds another batch"):
        run_batch(plan(folder, source, tmp_path / "out", order="random"))


def test_the_command(folder: Path, tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "in.parquet", 11)
    command = ["batch", source, tmp_path / "out", "--model", folder, "--steps", "3", "--rows-per-part", "4"]
    said = commands.run(*command)
    assert said.returncode == 0 and "11 prompts in 3 parts, 3 of them answered now" in said.stdout
    assert "0 of them answered now" in commands.run(*command).stdout
    commands.refused(commands.run(*command, "--seed", "1"), "holds another batch (seed differ)")


def test_a_folder_belongs_to_the_weights_not_to_their_name(folder: Path, tmp_path: Path) -> None:
    source, model = write_prompts(tmp_path / "in.parquet", 3), tmp_path / "model"
    shutil.copytree(folder, model)
    command = ["batch", source, tmp_path / "out", "--model", model, "--steps", "3"]
    assert commands.run(*command).returncode == 0
    for path in model.iterdir():
        path.touch()
    assert commands.run(*command).returncode == 0, "the same weights, written again"
    with safe_open(model / "model.safetensors", "pt") as file:
        about = file.metadata()
    weights = load_file(model / "model.safetensors")
    name = next(name for name, value in weights.items() if value.is_floating_point())
    save_file({**weights, name: weights[name] + 1}, model / "model.safetensors", about)
    commands.refused(commands.run(*command), "holds another batch (model differ)")


def test_without_ray_there_is_one_sentence(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    source = write_prompts(tmp_path / "in.parquet", 3)
    command = ["batch", source, tmp_path / "out", "--model", folder, "--workers", "2"]
    commands.refused(commands.run(*command), "--workers above 1 needs: pip install 'anyorder[ray]'")


@pytest.mark.slow
def test_a_worker_of_ray_that_is_killed_loses_nothing_and_repeats_nothing(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the tests of Ray need: pip install 'anyorder[ray]'")
    source = write_prompts(tmp_path / "in.parquet", 400)
    killed: list[int] = []
    done: list[int] = []

    def kill(part: int, process: int) -> None:
        done.append(part)
        if not killed:
            killed.append(process)
            os.kill(process, signal.SIGKILL)

    assert run_batch(plan(folder, source, tmp_path / "two"), workers=2, on_part=kill) == 80
    assert killed and sorted(done) == list(range(80))
    run_batch(plan(folder, source, tmp_path / "one"))
    assert answers(tmp_path / "two") == answers(tmp_path / "one")
    with pytest.raises(AnyorderError, match="no denoiser called 'nothing'"):
        run_batch(plan(folder, source, tmp_path / "three", model="nothing"), workers=2)
