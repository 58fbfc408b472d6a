"""Several processes do the work of one: the same weights, the same tables, one voice; and they stop together."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import commands
from anyorder.errors import BadInput
from anyorder.files import locked
from anyorder.processes import Shard
from anyorder.training.checkpoint import list_checkpoints, load_latest
from anyorder.training.fit import run_recipe
from anyorder.training.recipes import load_recipe
from proc import alive, children

HEADS = '["row", "column", "box", "everything"]'
TASK = 'task = {name = "sudoku", options = {box = 2}}\n'
DATA = "data = {size = 50, options = {givens = 8}}\n"
POLICY = f'policy = {{architecture = "lookahead", width = 16, layers = 1, heads = {HEADS}}}\n'
OPTIMIZER = 'optimizer = {name = "muon", lr = 0.01, warmup_steps = 2, ema = 0.9}\n'
RUN = "run = {steps = 8, batch_size = 16, checkpoint_steps = 4, log_steps = 1}\n"
RECIPES = {
    "denoiser": f'kind = "denoiser"\ndenoiser = {{width = 16, layers = 1, heads = {HEADS}}}\n',
    "order": f'kind = "order"\ndenoiser = "sudoku4-weak"\n{POLICY}'
    'objective = {name = "correctness", states = "model", critic = true, rollout_steps = [2, 6]}\n',
    "joint": f'kind = "order"\ndenoiser = "sudoku4-weak"\ntrain_denoiser = true\n{POLICY}'
    'objective = {name = "order", states = "uniform", critic = false}\njoint = {decode_every = 4, decode_problems = 8}\n',
    "reward": 'kind = "reward"\ndenoiser = "sudoku4-weak"\npolicy = {architecture = "upo", width = 16, heads = 4}\n'
    'rollout = {group_size = 4, actions = "bernoulli"}\nreward = {name = "solved"}\n'
    'update = {inner = 2, minibatches = 2, reference = "none"}\n',
}
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
"""`torchrun --nproc_per_node 2`, on a free port."""


def run(*command: str | Path, code: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **more}
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, env=environment)
    assert result.returncode == code, result.stdout + result.stderr
    return result


def anyorder(*arguments: str | Path, two: bool = False, **more: Any) -> subprocess.CompletedProcess[str]:
    return run(*(TWO if two else [sys.executable]), "-m", "anyorder", *arguments, **more)


def told(*arguments: str, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    """What this process says if a launcher has set these variables."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        result = commands.run(*arguments)
    assert result.returncode == code, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("recipes")
    paths = {name: folder / f"{name}.toml" for name in RECIPES}
    for name, text in RECIPES.items():
        paths[name].write_text(text + TASK + DATA + OPTIMIZER + RUN)
    return paths


def difference(a: Path, b: Path) -> float:
    """The largest of all weights, over all models of a run."""
    found = 0.0
    for path in sorted(a.rglob("model.safetensors")):
        one, two = safetensors.torch.load_file(path), safetensors.torch.load_file(b / path.relative_to(a))
        assert one.keys() == two.keys()
        found = max(found, *(float((one[name].double() - two[name].double()).abs().max()) for name in one))
    return found


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_learn_what_one_does_up_to_rounding(recipes: dict[str, Path], tmp_path: Path) -> None:
    script = Path(__file__).with_name("many_processes.py")
    for name, launcher in (("one", [sys.executable]), ("two", TWO)):
        run(*launcher, script, "doubles", tmp_path / name, *recipes.values())
    for kind in RECIPES:
        one, two = tmp_path / "one" / kind, tmp_path / "two" / kind
        assert difference(one, two) < 1e-9, kind
        assert [row["step"] for row in metrics(two)] == list(range(1, 9))
        for a, b in zip(metrics(one), metrics(two), strict=True):
            assert b["loss"] == pytest.approx(a["loss"], abs=1e-6)
            assert b["gradient_norm"] == pytest.approx(a["gradient_norm"], abs=1e-6)
        assert [path.name for path in list_checkpoints(two / "checkpoints")] == [
            path.name for path in list_checkpoints(one / "checkpoints")
        ]


@pytest.mark.slow
def test_accelerate_launches_a_training_that_another_number_of_processes_ends(recipes: dict[str, Path], tmp_path: Path) -> None:
    order = recipes["order"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
              "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m", "anyorder"]  # fmt: skip
    two = run(*launch, "train", order, "--out", tmp_path / "two")
    assert two.stdout.count("8 steps in") == 1
    anyorder("train", order, "--out", tmp_path / "one")
    assert difference(tmp_path / "one", tmp_path / "two") < 0.02  # float32: Muon enlarges what rounding leaves
    (tmp_path / "two" / "model.safetensors").unlink()
    list_checkpoints(tmp_path / "two" / "checkpoints")[-1].unlink()
    anyorder("train", order, "--out", tmp_path / "two")
    assert difference(tmp_path / "one", tmp_path / "two") < 0.02
    assert [row["step"] for row in metrics(tmp_path / "two")] == list(range(1, 9))


@pytest.mark.slow
def test_weights_cut_over_processes_are_the_same_weights(recipes: dict[str, Path], tmp_path: Path) -> None:
    script, kinds = Path(__file__).with_name("many_processes.py"), ("denoiser", "joint")
    paths = [recipes[kind] for kind in kinds]
    run(sys.executable, script, "plain", tmp_path / "one", *paths)
    run(*TWO, script, "cut", tmp_path / "two", *paths)
    for kind in kinds:
        assert difference(tmp_path / "one" / kind, tmp_path / "two" / kind) < 0.02
        (tmp_path / "two" / kind / "model.safetensors").unlink()
        list_checkpoints(tmp_path / "two" / kind / "checkpoints")[-1].unlink()
    run(*TWO, script, "cut", tmp_path / "two", *paths)  # goes on from the middle, and cuts again what was put together
    for kind in kinds:
        assert difference(tmp_path / "one" / kind, tmp_path / "two" / kind) < 0.02


def test_an_evaluation_on_two_processes_is_that_on_one_bit_for_bit(tmp_path: Path) -> None:
    common = ["evaluate", "--model", "sudoku4", "--task-option", "box=2", "--generate", "givens=5", "--limit", "30",
              "--batch-size", "8", "--orders", "random,policy,policy+undo,confidence@bernoulli:1", "--steps", "3,5",
              "--noise", "0,0.5", "--temperature", "0.7", "--seed", "3"]  # fmt: skip
    said = {}
    for name, two in (("one", False), ("two", True)):
        files = ["--json", tmp_path / f"{name}.json", "--trajectories", tmp_path / f"{name}.json.gz"]
        said[name] = anyorder(*common, *files, two=two).stdout if two else told(*map(str, common + files)).stdout
    assert said["one"] == said["two"]
    commands.assert_same_evaluation(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["pareto", "evaluate"])
def test_fronts_and_draws_on_two_processes_are_those_on_one(command: str, tmp_path: Path) -> None:
    common = [
        command,
        "--model",
        "sudoku4",
        "--generate",
        "givens=5",
        "--limit",
        "20",
        "--batch-size",
        "8",
    ]
    curves = "random,confidence@threshold:0.5/0.9"
    common += ["--draws", "2", "--orders", "random"] if command == "evaluate" else ["--orders", curves]
    said = [anyorder(*common, "--json", tmp_path / f"{two}.json", two=two).stdout for two in (False, True)]
    assert said[0] == said[1]
    assert (tmp_path / "False.json").read_bytes() == (tmp_path / "True.json").read_bytes()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGKILL", marks=pytest.mark.slow)])
def test_when_the_launcher_is_stopped_its_processes_save_and_end(name: str, recipes: dict[str, Path], tmp_path: Path) -> None:
    command = [*TWO, "-m", "anyorder", "train", str(recipes["denoiser"]), "--set", "run.steps=1000000", "--set",
               "run.checkpoint_steps=1000000", "--out", str(tmp_path / "run")]  # fmt: skip
    launcher = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    for _ in range(1200):
        if (tmp_path / "run" / "metrics.jsonl").exists() or launcher.poll() is not None:
            break
        time.sleep(0.1)
    workers = children(launcher.pid)
    try:
        assert len(workers) >= 2
        launcher.send_signal(getattr(signal, name))
        launcher.wait(timeout=60)
        for _ in range(300):
            if not any(alive(worker) for worker in workers):
                break
            time.sleep(0.1)
        assert not any(alive(worker) for worker in workers)
    finally:
        for process in (launcher.pid, *workers):
            if alive(process):
                os.kill(process, signal.SIGKILL)
    checkpoint, problems = load_latest(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.step > 0
    assert not problems


@pytest.mark.slow
def test_a_batch_that_does_not_divide_is_refused_once(recipes: dict[str, Path], tmp_path: Path) -> None:
    odd = anyorder("train", recipes["denoiser"], "--set", "run.batch_size=7", "--out", str(tmp_path / "odd"), two=True, code=1)
    assert odd.stderr.count("batch_size 7 is not divisible by 2 processes") == 1


def test_commands_of_one_process_are_refused_once() -> None:
    alone = told("list", code=2, RANK="0", WORLD_SIZE="2")
    assert (
        alone.stderr == "error: list runs on one process only; these run on several: train, evaluate, pareto, sample, lm-eval\n"
    )
    assert told("list", code=2, RANK="1", WORLD_SIZE="2").stderr == ""


@pytest.mark.parametrize(
    ("variables", "why"),
    [({"RANK": "x", "WORLD_SIZE": "2"}, "not a launcher's"), ({"OMPI_COMM_WORLD_SIZE": "2"}, "MPI")],
)
def test_a_launcher_that_is_not_understood_is_refused(variables: dict[str, str], why: str) -> None:
    said = told("list", code=2, **variables).stderr
    assert said.startswith("error: ") and said.count("\n") == 1 and why in said


def test_one_process_speaks_whatever_number_it_has() -> None:
    assert told("--version", RANK="1").stdout


def test_a_launcher_that_starts_one_process_only_is_called_out() -> None:
    said = told("list", "orders", ACCELERATE_USE_CPU="True", MASTER_ADDR="127.0.0.1").stderr
    assert "starts one process, whatever --num_processes says" in said


def test_a_folder_has_one_process_at_work(recipes: dict[str, Path], tmp_path: Path) -> None:
    recipe = load_recipe(recipes["denoiser"])
    with locked(tmp_path), pytest.raises(BadInput, match="another process is at work"):
        run_recipe(recipe, tmp_path)
    assert run_recipe(recipe, tmp_path).finished


def test_what_a_kill_left_half_written_is_cleared_away(recipes: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".step-00000004.safetensors.x1y2").write_bytes(b"half")
    (tmp_path / ".unfinished-x1y2").mkdir()
    (tmp_path / ".unfinished-x1y2" / "model.safetensors").write_bytes(b"half")
    run_recipe(load_recipe(recipes["denoiser"]), tmp_path)
    assert not [path for path in tmp_path.rglob(".*") if path.name != ".lock"]


def test_one_process_is_a_shard_that_has_everything() -> None:
    shard = Shard.join()
    assert (shard.index, shard.count) == (0, 1)
    assert shard.gather("mine") == ["mine"]
    assert shard.slice(6) == slice(0, 6)
    assert shard.total(torch.tensor(3)) == 3


def test_the_shipped_configuration_of_fsdp_is_what_accelerate_reads() -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    path = str(resources.files("anyorder.recipes").joinpath("fsdp2.yaml"))
    assert load_config_from_file(path).distributed_type == "FSDP"
    parsed = launch_command_parser().parse_args(["--config_file", path, "--main_process_port", "0", "-m", "anyorder", "list"])
    arguments, _, _ = _validate_launch_command(parsed)
    environment = prepare_multi_gpu_env(arguments)
    assert environment["ACCELERATE_USE_FSDP"] == "true"
    assert environment["FSDP_VERSION"] == "2"
    assert environment["FSDP_TRANSFORMER_CLS_TO_WRAP"] == "Block"
    assert environment["ACCELERATE_MIXED_PRECISION"] == "no"
