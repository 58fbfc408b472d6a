"""What samplers gain from sharing forward passes: the heuristics and oracles of `headroom`, decoded with and without.

    python benchmarks/shared_passes.py

Both times are from one run, on one thread. The reports must be equal but for the seconds.
"""

import argparse
import time

import torch

import anyorder
from anyorder.evaluation.choice import adaptive, baselines, oracles

CASES = [
    ("sudoku4-weak", {"givens": 8, "unique": False}, 8),
    ("sudoku9", {"givens": 0}, 5),
    ("sudoku9", {"givens": 0}, 20),
    ("sat9", {}, 9),
    ("zebra", {}, 16),
    ("addition", {"carry": 1.0}, 5),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=100, help="problems of each case")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| denoiser, passes | forward passes shared | memory | seconds alone | shared | ratio | reports equal |")
    print("|---|---|---|---|---|---|---|")
    for model, options, steps in CASES:
        denoiser = anyorder.load_denoiser(model)
        task = anyorder.task_for(denoiser)
        problems = task.generate(given.limit, 77, **options)
        samplers = {**baselines(task), **adaptive(every=False), **oracles()}
        seconds, rows = [], []
        shared = anyorder.SharedPasses(denoiser)
        for passes in (None, shared):
            began = time.perf_counter()
            report = anyorder.evaluate(denoiser, task, problems, samplers, steps, shared=passes)
            seconds.append(time.perf_counter() - began)
            rows.append([{k: v for k, v in row.items() if k != "seconds"} for row in report.to_json()["results"]])
        share = f"{100 * shared.seen / shared.rows:.0f} % of {shared.rows:,}"
        print(
            f"| {model}, {steps} | {share} | {shared.bytes / 2**20:.0f} MiB | {seconds[0]:.1f} | {seconds[1]:.1f} | "
            f"{seconds[0] / seconds[1]:.2f} | {'yes' if rows[0] == rows[1] else 'NO'} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
