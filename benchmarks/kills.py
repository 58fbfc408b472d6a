"""Kill -9 at random moments, again and again, and hold what comes of it against a run that nobody disturbed, bit for bit.

    python benchmarks/kills.py [--kills 20] [--seed 0] [--kinds denoiser,order,joint,reward,fit,reproduce] [--out FILE.md]

Each kind of work is done once without a kill. Then it is started in a process of its own, killed after a random time, and
started again on the same folder, until it has been killed so often; a run that ends before is compared and begun anew. Every
start is a fork of one process that has loaded the libraries, so that the kills fall on the work and not on imports (Unix only).
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from rich.console import Console

from anyorder.fitting import FitSettings, fit_and_compare
from anyorder.reproduce.study import Decoding, Setting, Study
from anyorder.tasks.sudoku import Sudoku
from anyorder.training.checkpoint import list_checkpoints, load_latest
from anyorder.training.fit import run_recipe
from anyorder.training.recipes import validate_recipe

HEADS = ["row", "column", "box", "everything"]
INTERVAL = 4
"""Steps between checkpoints; a round of rollouts has as many."""

_COMMON = {
    "task": {"name": "sudoku", "options": {"box": 2}},
    "data": {"size": 50, "options": {"givens": 8}},
    "optimizer": {"name": "muon", "lr": 0.01, "ema": 0.9, "warmup_steps": 2},
}
_RUN = {"batch_size": 16, "checkpoint_steps": INTERVAL, "log_steps": 1}
_SMALL = {"width": 16, "layers": 1, "heads": HEADS}
RECIPES = {
    "denoiser": _COMMON | {"kind": "denoiser", "denoiser": _SMALL | {"dropout": 0.1}, "run": _RUN | {"steps": 240}},
    "order": _COMMON
    | {
        "kind": "order", "denoiser": "sudoku4-weak", "policy": _SMALL | {"architecture": "lookahead"},
        "objective": {"name": "correctness", "states": "model", "critic": True, "rollout_steps": [2, 6]},
        "run": _RUN | {"steps": 160},
    },
    "joint": _COMMON
    | {
        "kind": "order", "denoiser": "sudoku4-weak", "policy": _SMALL | {"architecture": "lookahead"}, "train_denoiser": True,
        "objective": {"name": "order", "states": "teacher", "critic": False},
        "joint": {"decode_every": 20, "decode_problems": 8}, "run": _RUN | {"steps": 120},
    },
    "reward": _COMMON
    | {
        "kind": "reward", "denoiser": "sudoku4-weak", "policy": {"architecture": "upo", "width": 16, "heads": 4},
        "rollout": {"group_size": 4}, "reward": {"name": "solved"}, "update": {"inner": 2, "minibatches": 2},
        "run": _RUN | {"steps": 80},
    },
}  # fmt: skip


@dataclass
class Tally:
    """What happened to one kind of work."""

    kills: int = 0
    at_work: int = 0
    finished: int = 0
    alike: int = 0
    lost: list[int] = field(default_factory=list)
    unreadable: int = 0
    halves: int = 0


def train(kind: str) -> Callable[[Path], None]:
    """`anyorder train` on a tiny recipe of a kind."""
    recipe = validate_recipe(RECIPES[kind], kind)
    return lambda folder: void(run_recipe(recipe, folder, Console(quiet=True)))


def fit(folder: Path) -> None:
    """`anyorder fit` of an order to a shipped model of molecules."""
    data = folder.with_suffix(".smi")
    data.write_text("".join(f"{'C' * (i % 5 + 1)}{'ON'[i % 2]}{'C' * (i // 5 + 1)}\n" for i in range(40)))
    fit_and_compare(FitSettings("moses", data, steps=3, updates=24, train_batch_size=4, samples=3), folder, Console(quiet=True))


def reproduce(folder: Path) -> None:
    """The machinery of `anyorder reproduce`: a denoiser, a policy and a pair, trained and decoded into cells."""
    tiny = ("task.options={box=2}", "data.size=40", "data.options={givens=6}", "run.batch_size=8", "run.steps=24",
            f"run.checkpoint_steps={INTERVAL}", "optimizer.ema=0.0")  # fmt: skip
    order = (*tiny, "policy.width=16")
    setting = Setting(
        task="sudoku", options={"box": 2}, denoiser="sudoku9-denoiser", adaptive="sudoku9-adaptive",
        denoiser_changes=(*tiny, "denoiser.width=16", "denoiser.layers=1"), policy_changes=order,
        joint_changes=(*order, "joint.decode_problems=4"), problems=40, generate={"givens": 6}, steps=4,
    )  # fmt: skip
    wanted = [Decoding(setting, m, ("confidence", "random", "policy"), 4, 0.5) for m in ("policy/mlp/0", "joint/uniform/0")]
    Study(folder).decode_all(wanted, 1, lambda _: None)


KINDS: dict[str, Callable[[Path], None]] = {kind: train(kind) for kind in RECIPES} | {"fit": fit, "reproduce": reproduce}


def void(_: object) -> None:
    return None


def start(work: Callable[[Path], None], folder: Path) -> int:
    """Begin, or go on, in a process of its own; its id."""
    child = os.fork()
    if child:
        return child
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    code = 1
    try:
        work(folder)
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)


def whole(work: Callable[[Path], None], folder: Path) -> float:
    """Do the work undisturbed; seconds."""
    began = time.monotonic()
    _, status = os.waitpid(start(work, folder), 0)
    if status:
        raise SystemExit(f"the undisturbed run failed with status {status}")
    return time.monotonic() - began


def results(folder: Path) -> dict[str, str]:
    """What the work leaves, by name: hashes of weights, of the metrics of every step, of decoded cells."""
    found = {}
    for path in sorted(folder.rglob("*")):
        kept = path.name in ("model.safetensors", "metrics.jsonl", "config.json") or path.parent.name == "cells"
        if kept and path.is_file():
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    report = folder / "report.json"
    if report.exists():  # of a fit: all but the seconds
        plain = json.loads(report.read_text())
        for part in plain.values():
            for result in part["results"]:
                del result["seconds"]
        found["report.json"] = json.dumps(plain)
    return found


def newest_change(folder: Path) -> int:
    """When anything in a folder last changed."""
    return max((path.stat().st_mtime_ns for path in folder.rglob("*")), default=0)


def look(folder: Path, tally: Tally) -> None:
    """After a kill: is every checkpoint whole, and how many logged steps lie past the newest?"""
    for checkpoints in {path.parent for path in folder.rglob("step-*.safetensors")}:
        newest, problems = load_latest(checkpoints)
        tally.unreadable += len(problems)
        tally.halves += sum(path.name.startswith(".") for path in checkpoints.iterdir())
        log = checkpoints.parent / "metrics.jsonl"
        if newest is None or not log.exists() or not list_checkpoints(checkpoints):
            continue
        steps = [json.loads(line)["step"] for line in log.read_text().splitlines() if line.endswith("}")]
        tally.lost.append(max(0, max(steps, default=0) - newest.step))


def torment(name: str, kills: int, seed: int, room: Path) -> Tally:
    """Kill one kind of work `kills` times."""
    work, moments, tally = KINDS[name], random.Random(f"{name} {seed}"), Tally()
    folder = room / "work"  # one name for all runs: models remember where their denoiser is
    seconds = whole(work, folder)
    reference = results(folder)
    shutil.rmtree(folder)
    while tally.kills < kills or not tally.finished or folder.exists():
        before = newest_change(folder)
        child = start(work, folder)
        until = time.monotonic() + (moments.uniform(0, seconds) if tally.kills < kills else 1e9)
        done = status = 0
        while not done and time.monotonic() < until:
            done, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.002)
        if not done:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            tally.kills += 1
            tally.at_work += newest_change(folder) > before
            look(folder, tally)
            continue
        if status:
            raise SystemExit(f"{name}: a run that went on after a kill failed with status {status}")
        tally.finished += 1
        tally.alike += results(folder) == reference
        shutil.rmtree(folder)
    return tally


def main() -> None:
    """Torment each kind, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--out", type=Path, help="write the table here as well")
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    Sudoku(2).generate(2, 0, givens=8)  # compiled once, for all forks
    lines = [
        "| work | kills | after a file had changed | runs that ended | bit for bit alike | most steps done again | "
        "checkpoints unreadable | half-written files left |",
        "|---|---|---|---|---|---|---|---|",
    ]
    fine = True
    for name in wanted.kinds.split(","):
        with tempfile.TemporaryDirectory() as room:
            tally = torment(name, wanted.kills, wanted.seed, Path(room))
        again = max(tally.lost, default=0)
        lines.append(
            f"| {name} | {tally.kills} | {tally.at_work} | {tally.finished} | {tally.alike} | {again} | {tally.unreadable} | "
            f"{tally.halves} |"
        )
        print(lines[-1], file=sys.stderr)
        fine &= tally.alike == tally.finished > 0 and not tally.unreadable
    print("\n".join(lines))
    if wanted.out:
        wanted.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
