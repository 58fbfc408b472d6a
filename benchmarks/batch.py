"""`anyorder batch` on a local Ray: 10,000 prompts, two workers, one of them killed on the way. Is anything lost, or twice?

    python benchmarks/batch.py --prompts 10000 --workers 2

The model is tiny and has random weights; its answers are compared with those of one process without Ray.
"""

import argparse
import os
import signal
import tempfile
import time
from functools import partial
from pathlib import Path

import pyarrow
import pyarrow.parquet
import torch
from torch import nn

from anyorder.batch import Plan, run_batch
from anyorder.cli.language import open_language
from anyorder.denoisers.classes import save_denoiser
from anyorder.denoisers.transformer import Transformer
from anyorder.files import write_json
from anyorder.tasks import make_task

OPTIONS = {"problems": "addition", "length": 12, "longest": 64}


def tiny_model(folder: Path) -> Path:
    """A denoiser of sums in words with random weights."""
    torch.manual_seed(0)
    denoiser = Transformer.for_task(make_task("words", **OPTIONS), width=16, layers=1, heads=["everything"] * 2)
    for parameter in denoiser.parameters():
        nn.init.normal_(parameter, std=0.6)
    save_denoiser(denoiser, folder)
    write_json(folder / "task.json", {"name": "words", "options": OPTIONS})
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, source = tiny_model(folder / "model"), folder / "prompts.parquet"
        table = pyarrow.table({"prompt": [f"What is {n} + {7 * n}?" for n in range(given.prompts)]})
        pyarrow.parquet.write_table(table, source, row_group_size=1000)
        opened = partial(open_language, model=str(model), steps="4", temperature=1.5)
        killed: list[int] = []
        parts: list[int] = []

        def kill_one(part: int, process: int) -> None:
            parts.append(part)
            if len(parts) == 10:
                killed.append(process)
                os.kill(process, signal.SIGKILL)

        for kind, workers, on_part in (("ray", given.workers, kill_one), ("alone", 1, lambda part, process: None)):
            began = time.monotonic()
            run_batch(Plan(source, folder / kind, opened, {}, rows_per_part=200), workers, on_part=on_part)
            print(f"{kind}: {workers} workers, {time.monotonic() - began:.0f} s")
        found = {kind: pyarrow.parquet.read_table(folder / kind).sort_by("row") for kind in ("ray", "alone")}
        rows = found["ray"]["row"].to_pylist()
        print(f"{len(killed)} worker killed after 10 of {len(parts)} parts")
        print(f"{len(rows)} answers to {given.prompts} prompts; {len(set(range(given.prompts)) - set(rows))} lost, "
              f"{len(rows) - len(set(rows))} twice, {len(parts) - len(set(parts))} parts answered twice; "
              f"equal to one process: {found['ray'].equals(found['alone'])}")  # fmt: skip


if __name__ == "__main__":
    main()
