"""What is written: never in place of a device, a link's target or another run's weights, as the umask says, as strict JSON; and
what cannot be written is refused before the work."""

import json
import math
import os
import resource
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn
from transformers import BertConfig, BertForMaskedLM
from typer.testing import CliRunner

from anyorder.cli import app
from anyorder.cli.options import check_outputs, check_suffix
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.classes import save_denoiser
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.denoisers.wrapped import WrappedDenoiser
from anyorder.errors import AnyorderError, BadInput
from anyorder.evaluation.results import Report
from anyorder.evaluation.saved import load, save_trajectories
from anyorder.files import check_writable, dump_json, write_atomically, write_json, write_tensors, write_text
from anyorder.fitting import FitSettings, fit_and_compare
from anyorder.hub import save_weights
from anyorder.report.sources import read_metrics
from anyorder.session import open_session
from anyorder.tasks import make_task
from anyorder.training.fit import run_recipe
from anyorder.training.metrics import MetricsLog
from anyorder.training.recipes import load_recipe
from anyorder.zoo import folder_of, load_denoiser, load_order

PUZZLE = "1030041000404001"


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A /dev/null of one's own."""
    try:
        os.mknod(tmp_path / "null.json", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except (PermissionError, AttributeError):
        pytest.skip("only root can make a device")
    return tmp_path / "null.json"


@pytest.fixture
def umask() -> Any:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def read_in_background(path: Path) -> tuple[threading.Thread, list[bytes]]:
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(path.read_bytes()))
    reader.start()
    return reader, found


# ---- where it goes ------------------------------------------------------------------------------------------------------


def test_a_device_is_written_into_and_not_replaced(device: Path) -> None:
    write_json(device, {"a": 1})
    write_tensors(device, {"a": torch.zeros(3)}, {})
    write_atomically(device, lambda path: shutil.copy(__file__, path))
    assert stat.S_ISCHR(device.stat().st_mode) and os.listdir(device.parent) == ["null.json"]


def test_standard_output_takes_any_format_also_where_it_is_a_file() -> None:
    check_suffix(Path("/dev/stdout"), (".json",))
    with pytest.raises(BadInput, match=r"end it in \.json"):
        check_suffix(Path("stdout"), (".json",))


def test_a_pipe_gets_every_byte_and_stays_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader, found = read_in_background(tmp_path / "pipe")
    write_text(tmp_path / "pipe", "x" * 300_000)
    reader.join()
    assert found == [b"x" * 300_000] and stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.parametrize("target", ["there.json", "folder/not_there.json"])
def test_a_symbolic_link_stays_one_and_its_target_is_written(target: str, tmp_path: Path) -> None:
    (tmp_path / "there.json").write_text("old")
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "link to the link").symlink_to("link")
    write_json(tmp_path / "link to the link", 1)
    assert (tmp_path / target).read_text() == "1\n"
    assert (tmp_path / "link").is_symlink() and (tmp_path / "link to the link").is_symlink()


def test_a_command_writes_to_a_pipe_a_link_and_a_device_under_the_umask(tmp_path: Path, device: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.md").symlink_to("new.md")
    reader, found = read_in_background(tmp_path / "pipe")
    command = [sys.executable, "-m", "anyorder", "evaluate", "--model", "sudoku4", "--orders", "confidence", "--limit", "2"]
    command += ["--json", "pipe", "--markdown", "link.md", "--trajectories", "null.json"]
    done = subprocess.run(command, cwd=tmp_path, umask=0o027, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reader.join()
    assert json.loads(found[0])["results"][0]["instances"] == 2
    assert "| confidence |" in (tmp_path / "new.md").read_text() and oct(mode(tmp_path / "new.md")) == "0o640"
    assert (tmp_path / "link.md").is_symlink() and stat.S_ISCHR(device.stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["link.md", "new.md", "null.json", "pipe"]


def test_standard_output_by_name_is_written_behind_the_table_and_its_file_is_not_replaced(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; from pathlib import Path; from anyorder.files import write_json\n"
               "print('table'); write_json(Path('/dev/stdout'), [1]); print('end')"]  # fmt: skip
    with open(tmp_path / "out", "w") as out:
        subprocess.run(command, stdout=out, check=True)
    assert (tmp_path / "out").read_text().split() == ["table", "[", "1", "]", "end"]
    assert subprocess.run(command, capture_output=True, check=True).stdout.split() == [b"table", b"[", b"1", b"]", b"end"]


# ---- who may read it ----------------------------------------------------------------------------------------------------

WRITERS: dict[str, Callable[[Path], None]] = {
    "text": lambda path: write_text(path, "x"),
    "tensors": lambda path: write_tensors(path, {"a": torch.zeros(3)}, {}),
    "weights": lambda path: (save_weights(nn.Linear(2, 2), path.parent), (path.parent / "model.safetensors").rename(path))[0],
}


@pytest.mark.parametrize("kind", WRITERS)
def test_the_umask_holds_for_what_is_new_and_old_permissions_for_what_is_replaced(
    kind: str, tmp_path: Path, umask: Callable[[int], int]
) -> None:
    for mask, allowed in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        umask(mask)
        path = tmp_path / f"{mask}"
        WRITERS[kind](path)
        assert oct(mode(path)) == oct(allowed)
    path.chmod(0o640)
    write_text(path, "again")
    assert mode(path) == 0o640


def test_saved_folders_are_as_readable_as_the_umask_says(tmp_path: Path, umask: Callable[[int], int]) -> None:
    session = open_session(model="sudoku4", limit=1)
    session.bind("policy+undo").save_pretrained(tmp_path / "sampler")
    run_recipe(tiny(), tmp_path / "run")
    modes = {path.name: oct(mode(path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert "model.safetensors" in modes and "step-00000002.safetensors" in modes and set(modes.values()) == {"0o644"}


# ---- what is refused before the work ------------------------------------------------------------------------------------


def as_anybody(call: Callable[[], None]) -> str:
    """The error of a call made by a user without root's rights."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        if os.getuid() == 0:
            os.setgid(65534), os.setuid(65534)
        try:
            call()
            said = ""
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as file:
        return file.read()


def test_names_that_cannot_be_written_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for name, message in {
        "": "is a folder: give the name of a file",
        "file/r.json": "Not a directory",
        "a": "symbolic links",
        "x" * 300: "File name too long",
    }.items():
        with pytest.raises(BadInput, match=message):
            check_writable(tmp_path / name)
    with pytest.raises(BadInput, match=r"cannot write /proc/none/r\.json"):
        check_writable(Path("/proc/none/r.json"))
    for name, message in {"file": "is a file: give a folder", "file/run": "Not a directory"}.items():
        with pytest.raises(BadInput, match=message):
            check_writable(tmp_path / name, folder=True)
    check_writable(tmp_path / "new" / "folder" / "r.json")
    check_writable(tmp_path / "new" / "run", folder=True)
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "file"]


def test_what_a_user_may_not_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in list(tmp_path.parents)[:2]:
        parent.chmod(0o755)
    (tmp_path / "mine.json").write_text("x")
    (tmp_path / "mine.json").chmod(0o444)
    (tmp_path / "closed").mkdir(mode=0o555)
    assert "cannot write" in as_anybody(lambda: check_writable(tmp_path / "mine.json"))
    assert "cannot write" in as_anybody(lambda: check_writable(tmp_path / "closed" / "r.json"))
    assert "cannot write" in as_anybody(lambda: check_writable(tmp_path / "closed" / "run", folder=True))


def test_an_output_overwrites_neither_an_input_nor_another_output(tmp_path: Path, device: Path) -> None:
    data, other = tmp_path / "p.txt", tmp_path / "link.safetensors"
    data.write_text(PUZZLE)
    other.symlink_to("p.txt")
    with pytest.raises(BadInput, match="is an input, which would be lost"):
        check_outputs(read=[data], tensors=other)
    with pytest.raises(BadInput, match="is an output already"):
        check_outputs(json=tmp_path / "a.json", report=tmp_path / "b" / ".." / "a.json")
    check_outputs(json=device, report=device, plot=None, read=[PUZZLE, None, "\0"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "--plot", "p.pdf"], "a plot is a .png or .svg file"),
        (["evaluate", "--json", "."], "is a folder"),
        (["evaluate", "--json", "a.json", "--trajectories", "a.json"], "an output already"),
        (["evaluate", "--json", "a.csv"], "does not name the format that is written: end it in .json or .parquet"),
        (["evaluate", "--draws", "2", "--json", "a.parquet"], "end it in .json"),
        (["evaluate", "--markdown", "a.html"], "end it in .md"),
        (["pareto", "--json", "a.parquet"], "end it in .json"),
        (["fold", "s.txt", "--json", "a"], "end it in .json"),
        (["sample", PUZZLE, "--out", "a.json"], "end it in .safetensors"),
        (["sample", PUZZLE, "--fasta", "a.csv"], "end it in .fasta"),
        (["report", "p.csv", "--out", "a.pdf"], "end it in .html"),
        (["pareto", "--markdown", "/proc/none/t.md"], "cannot write"),
        (["pareto", "--plot", "p"], "a plot is"),
        (["sample", "p.csv", "--fasta", "p.csv"], "is an input"),
        (["sample", PUZZLE, "--out", "p.csv/x"], "cannot write"),
        (["sample", PUZZLE, "--trajectories", "t.txt"], "trajectories are written as"),
        (["fold", "s.txt", "--json", "s.txt"], "is an input"),
        (["report", "p.csv", "--out", "none.html/x.html"], "cannot write"),
        (["plot", "accuracy", "p.csv", "--out", "/proc/none/p.png"], "cannot write"),
        (["train", "sudoku4-order", "--out", "p.csv"], "is a file"),
        (["fit", "--model", "sudoku4", "--data", "p.csv", "--out", "p.csv"], "is a file"),
        (["reproduce", "all", "--out", "/proc/none"], "cannot write"),
        (["demo", "--out", "/proc/none"], "cannot write"),
    ],
)
def test_every_command_refuses_a_bad_output_before_it_starts(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worked(*_: object, **__: object) -> None:
        pytest.fail("the work has begun")

    monkeypatch.chdir(tmp_path)
    for start in (
        "session.open_session",
        "fitting.prepare",
        "training.fit.run_recipe",
        "reproduce.reproduce",
        "demo.run_demo",
    ):
        monkeypatch.setattr(f"anyorder.{start}", worked)
    for name in ("p.csv", "s.txt", "none.html"):
        Path(name).write_text("ACDE\n")
    found = CliRunner().invoke(app, arguments)
    assert isinstance(found.exception, BadInput) and message in str(found.exception), found.exception
    assert sorted(os.listdir()) == ["none.html", "p.csv", "s.txt"]


# ---- weights of another run ---------------------------------------------------------------------------------------------


def tiny(*changes: str) -> Any:
    return load_recipe("sudoku4-order", [
        "data.size=8", "run.steps=2", "run.batch_size=4", "policy.width=8", "policy.layers=1", 'policy.heads=["everything"]',
        *changes,
    ])  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_training_does_not_overwrite_a_model_or_another_run(tmp_path: Path) -> None:
    shutil.copytree(folder_of("sudoku4"), tmp_path / "m")
    before = contents(tmp_path / "m")
    for recipe in (tiny(), load_recipe("sudoku4-denoiser", ["data.size=4", "run.steps=1", "run.batch_size=4"])):
        with pytest.raises(BadInput, match=r"holds model\.safetensors, which this run would overwrite"):
            run_recipe(recipe, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    with pytest.raises(BadInput, match=r"holds order/model\.safetensors"):
        run_recipe(tiny(), tmp_path / "m")
    assert contents(tmp_path / "m").items() <= before.items()

    run_recipe(tiny(), tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    before = contents(tmp_path / "run")
    with pytest.raises(BadInput, match=r"holds a run with other settings \(policy\.width\)"):
        run_recipe(tiny("policy.width=16"), tmp_path / "run")
    with pytest.raises(BadInput, match="a run without its checkpoints, which cannot be extended"):
        run_recipe(tiny("run.steps=4"), tmp_path / "run")
    assert contents(tmp_path / "run") == before
    assert run_recipe(tiny(), tmp_path / "run").finished, "the same run may be made again"


@pytest.mark.parametrize(
    "files",
    [
        ["config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors"],
        ["config.json", "pytorch_model.bin"],
        ["order/pytorch_model.bin"],
        ["model.PT"],
        ["tiny-q4.gguf"],
        ["config.json"],
        ["recipe.json", "pytorch_model.bin"],
        ["recipe.json", "config.json"],
        ["task.json"],
    ],
)
def test_no_model_in_the_form_of_any_library_is_overwritten(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyorder.fitting.prepare", lambda *_: pytest.fail("the work has begun"))
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"mine": 1}')
    before = contents(tmp_path)
    with pytest.raises(BadInput, match=r"which this run would overwrite|holds a run with other settings"):
        run_recipe(tiny(), tmp_path)
    if files != ["recipe.json", "config.json"]:  # which is found to be another run once the model is known
        with pytest.raises(BadInput, match="which this run would overwrite"):
            fit_and_compare(FitSettings("sudoku4", tmp_path / "s.txt"), tmp_path, Console())
    assert contents(tmp_path) == before


def test_a_fit_overwrites_neither_its_model_nor_a_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anyorder.fitting.prepare", lambda *_: pytest.fail("the work has begun"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder_of("sudoku4"), "m")
    Path("s.txt").write_text("abc\n")
    Path("README.md").write_text("mine")
    (tmp_path / "link").symlink_to("m")
    for out, message in {"m": "is the model's own folder", "link": "own folder", ".": r"holds README.md"}.items():
        found = CliRunner().invoke(app, ["fit", "--model", "m", "--data", "s.txt", "--out", out])
        assert isinstance(found.exception, BadInput) and message in str(found.exception)


# ---- a full disk --------------------------------------------------------------------------------------------------------


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """In the body, no file can be larger than so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_at_the_last_save_is_one_error_and_the_old_file_stays(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with full_disk(0), pytest.raises(AnyorderError, match=r"cannot write .*; nothing was changed"):
        WRITERS[kind](tmp_path / "file")
    assert (tmp_path / "file").read_text() == "old" and os.listdir(tmp_path) == ["file"]


def hugging_face() -> HuggingFaceDenoiser:
    config = BertConfig(vocab_size=99, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    return HuggingFaceDenoiser(BertForMaskedLM(config), 4)


def wrapped() -> WrappedDenoiser:
    return WrappedDenoiser(nn.Embedding(100, 5), 4, 5, module_arguments={"num_embeddings": 100, "embedding_dim": 5})


SAVERS: dict[str, Callable[[Path], object]] = {
    "transformer": lambda path: load_denoiser("sudoku4", device="cpu").save_pretrained(path),
    "denoiser of a recipe": lambda path: save_denoiser(wrapped(), path),
    "wrapped": lambda path: wrapped().save_pretrained(path),
    "Hugging Face": lambda path: hugging_face().save_pretrained(path),
    "policy": lambda path: load_order("sudoku4").policy.save_pretrained(path),
    "order": lambda path: load_order("sudoku4").save_pretrained(path),
    "sampler": lambda path: Sampler(load_order("sudoku4")).save_pretrained(path),
}
"""What writes a folder with weights."""


@pytest.mark.parametrize("kind", SAVERS)
def test_a_full_disk_changes_no_file_of_a_model(kind: str, tmp_path: Path) -> None:
    save = SAVERS[kind]
    with full_disk(1_000), pytest.raises(AnyorderError, match=r"cannot write .*; nothing was changed"):
        save(tmp_path / "new")
    assert os.listdir(tmp_path) == []
    save(tmp_path / "old")
    before = {path: path.read_bytes() for path in (tmp_path / "old").rglob("*") if path.is_file()}
    for path in before:
        path.write_bytes(b"old")
    with full_disk(1_000), pytest.raises(AnyorderError, match=r"cannot write .*; nothing was changed"):
        save(tmp_path / "old")
    assert {path for path in (tmp_path / "old").rglob("*") if path.is_file()} == before.keys()
    assert {path.read_bytes() for path in before} == {b"old"}
    save(tmp_path / "old")
    assert {path for path in before if path.read_bytes() == b"old"} <= {tmp_path / "old" / "README.md"}


@pytest.mark.parametrize("kind", SAVERS)
def test_a_saved_model_is_as_readable_as_the_umask_says(kind: str, tmp_path: Path, umask: Callable[[int], int]) -> None:
    umask(0o027)
    SAVERS[kind](tmp_path / "model")
    paths = list((tmp_path / "model").rglob("*"))
    assert {mode(path) for path in paths if path.is_file()} == {0o640}
    assert {mode(path) for path in (tmp_path / "model", *paths) if path.is_dir()} == {0o750}


def test_shards_of_the_weights_that_are_replaced_do_not_stay(tmp_path: Path) -> None:
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "notes.txt"):
        (tmp_path / name).write_text("old")
    SAVERS["Hugging Face"](tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"notes.txt", "model.safetensors", "config.json"}
    assert not list(tmp_path.glob("model-*")) and not list(tmp_path.glob("*.index.json"))


# ---- strict JSON --------------------------------------------------------------------------------------------------------


def strict(text: str | bytes) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_has_no_nan_and_no_infinity() -> None:
    value = {"a": [math.nan, (math.inf, 1.5)], "b": {"c": -math.inf, "d": np.float64("nan")}, "e": [True, None, "NaN", 3]}
    assert strict(dump_json(value)) == {"a": [None, [None, 1.5]], "b": {"c": None, "d": None}, "e": [True, None, "NaN", 3]}


def test_a_report_of_one_sequence_whose_intervals_are_infinite_is_read_back(tmp_path: Path) -> None:
    from anyorder.evaluation.comparison import evaluate
    from conftest import HashDenoiser

    task = make_task("text", length=6)
    denoiser = HashDenoiser(task.vocab_size)
    denoiser.mask_token_id = task.mask_token_id
    problems = task.generate(1, 0)
    judge = {"unknown": lambda *_: np.array([math.nan])}
    report = evaluate(denoiser, task, problems, ["confidence", "margin"], [3], judges=judge)
    report.save(tmp_path / "r.json")
    values = strict((tmp_path / "r.json").read_text())
    assert values["results"][0]["measures"]["unknown"] == [None, None, None]
    again = load(tmp_path / "r.json")
    assert isinstance(again, Report)
    assert np.isnan(again.results[0].measures["unknown"]).all()
    assert again.results[0].instance_accuracy == report.results[0].instance_accuracy


def test_trajectories_of_problems_with_a_rating_that_is_no_number_are_saved(tmp_path: Path) -> None:
    session = open_session(model="sudoku4", limit=2)
    session.instances.labels["rating"] = np.array([math.nan, 2.5])
    watch = session.watch(0)
    save_trajectories(watch.trajectories(), tmp_path / "t.json")
    problems = strict((tmp_path / "t.json").read_text())["problems"]
    assert "rating" not in problems[0]["labels"] and problems[1]["labels"]["rating"] == 2.5


def test_metrics_of_a_run_that_overflowed_are_read_without_what_is_no_number(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0, tensorboard=False)
    log.write({"step": 1, "loss": 0.5})
    log.write({"step": 2, "loss": math.inf})
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        strict(line)
    assert read_metrics([tmp_path]) == [{"step": 1, "loss": 0.5}, {"step": 2}]


def test_a_sampler_with_an_infinite_setting_is_saved_and_loaded(tmp_path: Path) -> None:
    Sampler.parse("confidence@entropy_bound:inf", steps=4).save_pretrained(tmp_path)
    strict((tmp_path / "sampler.json").read_text())
    assert str(Sampler.from_pretrained(tmp_path)) == "confidence@entropy_bound:inf"


def test_a_recipe_with_an_infinite_setting_is_refused() -> None:
    with pytest.raises(BadInput, match=r"optimizer.clip_norm' is inf: input should be a finite number"):
        tiny("optimizer.clip_norm=inf")
