"""How often `fit` chooses a sampler that gains nothing, because it is the best of several on the validation problems.

    python benchmarks/choice.py

Simulated: 500 problems, of which the best heuristic solves half; each candidate differs from it on 6 % of them, independently.
So every candidate is level, and each choice is a false one. The rule is that of `anyorder.evaluation.choice.choose`: the
candidate with the largest share, if it is better by a paired 95 % interval and an exact test (p < .05). The heuristic was
itself the best of several on other problems, which the simulation leaves out. Intervals are Wilson's over the simulated fits.
"""

import argparse

import numpy as np

from anyorder.evaluation.statistics import mcnemar, paired_interval, wilson


def falsely_chosen(candidates: int, problems: int, differ: float, rng: np.random.Generator) -> bool:
    """Whether a simulated fit chooses one of its candidates, none of which is better."""
    heuristic = rng.random(problems) < 0.5
    found = [heuristic ^ (rng.random(problems) < differ) for _ in range(candidates)]
    best = max(found, key=lambda right: right.mean())
    return paired_interval(best, heuristic).low > 0 and mcnemar(best, heuristic) < 0.05


def main() -> None:
    """Print the share of fits with a false choice, by the number of candidates."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--fits", type=int, default=4000)
    options.add_argument("--problems", type=int, default=500)
    options.add_argument("--differ", type=float, default=0.06)
    words = options.parse_args()
    rng = np.random.default_rng(0)
    print("| candidates | a level one is chosen |\n|---|---|")
    for candidates in (1, 2, 4, 9):
        chosen = sum(falsely_chosen(candidates, words.problems, words.differ, rng) for _ in range(words.fits))
        low, high = wilson(chosen, words.fits)
        print(f"| {candidates} | {100 * chosen / words.fits:.1f} % ({100 * low:.1f}-{100 * high:.1f}) |")


if __name__ == "__main__":
    main()
