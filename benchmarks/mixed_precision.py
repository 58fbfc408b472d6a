"""Training a denoiser in bfloat16 on a CPU: time of an update against float32, and what our attention contributes.

    OMP_NUM_THREADS=1 python benchmarks/mixed_precision.py zebra5-denoiser sudoku9-denoiser words-denoiser

For each recipe, one process computes losses and gradients of the same batches in turn: in float32, in bfloat16, and in bfloat16
with PyTorch's own attention in that type. Medians of `--updates`; ratios to float32. bfloat16 pays only on a processor that
multiplies in it (AVX512-BF16, AMX); `lscpu` names them.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F

from anyorder.denoisers import transformer
from anyorder.processes import Shard
from anyorder.training.denoiser import DenoiserJob
from anyorder.training.recipes import load_recipe


def plain_attention(query: Any, key: Any, value: Any, bias: Any) -> Any:
    """PyTorch's attention, in the type that it is given."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)


def seconds(job: DenoiserJob, step: int, context: Callable[[], Any]) -> float:
    """The time of one loss and its gradients."""
    job.model.zero_grad()
    started = time.perf_counter()
    with context():
        loss, _ = job.loss(job.model, step, Shard())
    loss.backward()
    return time.perf_counter() - started


def main() -> None:
    """Print a row for each recipe."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("recipes", nargs="+", help="recipes of denoisers whose problems are generated")
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--updates", type=int, default=5)
    told = options.parse_args()
    print("| recipe | batch | float32 | bfloat16 | bfloat16, PyTorch's attention |\n|---|---|---|---|---|")
    for name in told.recipes:
        job = DenoiserJob(load_recipe(name, [f"run.batch_size={told.batch}", f"data.size={10 * told.batch}"]))  # type: ignore[arg-type]
        job.model.train()

        def half() -> Any:
            return torch.autocast("cpu", torch.bfloat16)

        taken: dict[str, list[float]] = {"float32": [], "bfloat16": [], "plain": []}
        for step in range(told.updates + 1):  # the first one is not counted
            taken["float32"].append(seconds(job, step, nullcontext))
            taken["bfloat16"].append(seconds(job, step, half))
            with patch.object(transformer, "scaled_dot_product", plain_attention):
                taken["plain"].append(seconds(job, step, half))
        usual, ours, plain = (statistics.median(times[1:]) for times in taken.values())
        print(f"| `{name}` | {told.batch} | {1000 * usual:.0f} ms | {ours / usual:.2f} | {plain / usual:.2f} |", flush=True)


if __name__ == "__main__":
    main()
