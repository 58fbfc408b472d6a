"""What training on texts costs with all padding, without the padding that a batch does not need, and in batches of like length.

    anyorder fetch wordnet && python benchmarks/lengths.py [--recipe text-denoiser] [--steps 20] [--rounds 3]

Steps per second of forward and backward, the three ways in turn in every round, and the ratios.
"""

import argparse
import time
from unittest.mock import patch

import torch

from anyorder.processes import Shard
from anyorder.training.denoiser import GROUP, DenoiserJob
from anyorder.training.recipes import DenoiserRecipe, load_recipe

WAYS = {"all padding": (False, True), "cut to the longest": (False, False), "of like length, cut": (True, False)}


def seconds(job: DenoiserJob, steps: range) -> float:
    start = time.perf_counter()
    for step in steps:
        job.model.zero_grad()
        job.loss(job.model, step, Shard(0, 1))[0].backward()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="text-denoiser")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    jobs = {}
    for group in (False, True):
        recipe = load_recipe(arguments.recipe, [f"data.group_by_length={str(group).lower()}", "data.size=20000"])
        assert isinstance(recipe, DenoiserRecipe)
        jobs[group] = DenoiserJob(recipe)
    spent = dict.fromkeys(WAYS, 0.0)
    for turn in range(arguments.rounds):
        for name, (group, whole) in WAYS.items():
            first = GROUP * turn
            steps = range(first, first + min(GROUP, arguments.steps))
            if whole:
                with patch("anyorder.training.denoiser.without_padding", lambda tokens, pad: slice(None)):
                    spent[name] += seconds(jobs[group], steps)
            else:
                spent[name] += seconds(jobs[group], steps)
    done = arguments.rounds * min(GROUP, arguments.steps)
    print(f"{arguments.recipe}, torch {torch.__version__}, {torch.get_num_threads()} thread(s)")
    for name, time_spent in spent.items():
        print(f"{name:22} {done / time_spent:6.2f} steps/s  {spent['all padding'] / time_spent:5.2f} x")


if __name__ == "__main__":
    main()
