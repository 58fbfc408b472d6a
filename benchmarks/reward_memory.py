"""What an update by reward costs in memory: on stored features (arXiv 2510.05725, Algorithm 2), against the same update with
the denoiser in it. Linux only: the peak is that of the resident set, reset before the phase.

Tokens are sampled in both cases. With the likeliest tokens of this untrained denoiser, all trajectories of a group have the
same reward, and the update leaves them out: nothing would be measured.

    python benchmarks/reward_memory.py
"""

import subprocess
import sys
import time
from pathlib import Path

import torch

from anyorder.denoisers.base import fingerprint
from anyorder.denoisers.transformer import Transformer
from anyorder.processes import Shard
from anyorder.tasks.sudoku import Sudoku
from anyorder.training.recipes import RewardRecipe, validate_recipe
from anyorder.training.reward import RewardJob

WIDTH, LAYERS, BATCH, BLANKS = 256, 8, 12, 8


def megabytes(name: str) -> float:
    """A line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def measure(with_denoiser: bool, minibatches: int) -> None:
    """One rollout and one update in this process; prints what they cost."""
    torch.set_num_threads(1)
    task = Sudoku(box=3)
    recipe = validate_recipe(
        {
            "kind": "reward",
            "task": {"name": "sudoku"},
            "data": {"size": 8, "options": {"givens": 81 - BLANKS}},
            "denoiser": "made here",
            "policy": {"architecture": "upo", "heads": 4},
            "rollout": {"token_temperature": 1.0},
            "update": {"train_denoiser": with_denoiser, "minibatches": minibatches},
            "optimizer": {"lr": 1e-4},
            "run": {"steps": 1, "batch_size": BATCH},
        }
    )
    assert isinstance(recipe, RewardRecipe)
    torch.manual_seed(0)
    denoiser = Transformer(
        vocab_size=10, mask_token_id=0, max_length=81, width=WIDTH, layers=LAYERS, heads=["everything"] * 4, positions=True
    ).eval()
    before = fingerprint(denoiser)
    job = RewardJob(recipe, denoiser, task)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    denoiser.register_forward_hook(count)
    began = time.perf_counter()
    job.round = job._draw_round(0, Shard(0, 1), imitating=False)
    drawn, in_rollout = time.perf_counter() - began, calls
    assert all(len(step.rows) == BATCH for step in job.round.steps), "the update must use every trajectory"
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew
    low = megabytes("VmRSS")
    began = time.perf_counter()
    loss, _ = job.loss(job.model, 1, Shard(0, 1))
    loss.backward()
    torch.optim.AdamW(job.model.parameters(), lr=1e-4).step()
    updated = time.perf_counter() - began
    changed = "changed" if fingerprint(denoiser) != before else "unchanged"
    name = f"{'denoiser in the update' if with_denoiser else 'stored features'}, {minibatches} part{'s' * (minibatches > 1)}"
    peak = f"{megabytes('VmHWM') - low:.0f} MB"
    print(f"| {name} | {in_rollout} | {calls - in_rollout} | {changed} | {peak} | {drawn:.1f} s | {updated:.2f} s |")


def main() -> None:
    """Every case, each in a process of its own."""
    if len(sys.argv) > 1:
        return measure(sys.argv[1] == "with", int(sys.argv[2]))
    weights = sum(p.numel() for p in Transformer(10, 0, 81, WIDTH, LAYERS, ["everything"] * 4).parameters())
    print(f"denoiser of {weights / 1e6:.1f} M weights, {BATCH} trajectories of {BLANKS} steps, 81 tokens\n")
    print("| update | NFE, rollout | NFE, update | denoiser weights | peak memory of the update | rollout | update |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for kind, minibatches in (("without", 1), ("without", BLANKS), ("with", 1), ("with", BLANKS)):
        subprocess.run([sys.executable, __file__, kind, str(minibatches)], check=True)


if __name__ == "__main__":
    main()
