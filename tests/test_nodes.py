"""Two nodes, each with a launcher and an address of its own, do the work of one process: the same tables, bit for bit."""

import os
import socket
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from anyorder.decoding.result import Decoded
from commands import assert_same_evaluation
from test_processes import anyorder

pytestmark = pytest.mark.slow


def torchrun(node: int, port: int) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node_rank", str(node), "--nproc_per_node", "1",
            "--master_addr", "127.0.0.1", "--master_port", str(port), "--local_addr", f"127.0.0.{node + 1}"]  # fmt: skip


def accelerate(node: int, port: int) -> list[str]:
    return [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "2", "--num_processes", "2",
            "--machine_rank", str(node), "--main_process_ip", "127.0.0.1", "--main_process_port", str(port),
            "--mixed_precision", "no", "--dynamo_backend", "no"]  # fmt: skip


LAUNCHERS = {"torchrun": torchrun, "accelerate": accelerate}


def on_two_nodes(launcher: str, *arguments: str | Path, code: int = 0) -> tuple[str, str]:
    """What each node prints."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    nodes = [
        subprocess.Popen(
            [*LAUNCHERS[launcher](node, port), "-m", "anyorder", *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables,
        )
        for node in (0, 1)
    ]  # fmt: skip
    try:
        said = [node.communicate(timeout=200) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert nodes[0].returncode == code, said  # that of the first process is everyone's; another node may end before it knows
    return said[0][0], said[1][0]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_an_evaluation_on_two_nodes_is_that_on_one_process_bit_for_bit(launcher: str, tmp_path: Path) -> None:
    common = ["evaluate", "--model", "sudoku4", "--task-option", "box=2", "--generate", "givens=5", "--limit", "30",
              "--batch-size", "8", "--orders", "random,policy+undo", "--steps", "3,5", "--temperature", "0.7",
              "--seed", "3"]  # fmt: skip

    def files(name: str) -> list[str | Path]:
        return ["--json", tmp_path / f"{name}.json", "--trajectories", tmp_path / f"{name}.json.gz"]

    one = anyorder(*common, *files("one")).stdout
    first, second = on_two_nodes(launcher, *common, *files("two"))
    assert first == one and second == ""
    assert_same_evaluation(tmp_path)


def test_samples_of_two_nodes_are_those_of_one_process(tmp_path: Path) -> None:
    common: list[str | Path] = ["sample", "addition: 123 + 456", "--model", "words", "--steps", "6", "--number", "5",
                                "--temperature", "3", "--batch-size", "2"]  # fmt: skip
    one = anyorder(*common, "--out", tmp_path / "one.safetensors", code=1)
    first, second = on_two_nodes("torchrun", *common, "--out", tmp_path / "two.safetensors", code=1)
    assert first == one.stdout and second == ""
    found = [Decoded.load(tmp_path / f"{name}.safetensors") for name in ("one", "two")]
    for field in fields(Decoded):
        assert torch.equal(getattr(found[0], field.name), getattr(found[1], field.name)), field.name
