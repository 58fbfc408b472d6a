"""What each part of `undo` contributes: solved problems and forward passes of the same sampler with one thing changed.

    python benchmarks/undo.py --data diabolical.csv --skip 2000 --limit 200 --steps 40,160

Prints a table in Markdown: percentage solved with its 95 % Wilson interval over the problems, and the mean number of forward
passes. One seed, one fit of the critic. The problems are Sudokus, since one variant remasks what breaks their rules.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

import anyorder
from anyorder import CriticUndo, DecodeState, Prediction, Sampler
from anyorder.evaluation.batches import decode_in_batches
from anyorder.evaluation.statistics import wilson
from anyorder.tasks.sudoku import Sudoku


@dataclass(frozen=True)
class ByConflict(CriticUndo):
    """Of a rejected grid, remask the cells whose digit occurs twice in a row, column or box, and by doubt if there are none."""

    def remask(self, state: DecodeState, prediction: Prediction) -> Tensor:
        """See `Remasker`."""
        doubtful = super().remask(state, prediction)
        twice = conflicts(state.tokens) & state.generated & doubtful.any(dim=1, keepdim=True)
        return torch.where(twice.any(dim=1, keepdim=True), twice, doubtful)


@dataclass(frozen=True)
class ByDependence(CriticUndo):
    """Of a rejected grid, remask the doubtful tokens, and all that were committed after the first of them."""

    def remask(self, state: DecodeState, prediction: Prediction) -> Tensor:
        """See `Remasker`."""
        doubtful = super().remask(state, prediction)
        first = torch.where(doubtful, state.commit_step, state.steps[:, None]).amin(dim=1, keepdim=True)
        return doubtful | (state.generated & (state.commit_step > first))


def conflicts(tokens: Tensor) -> Tensor:
    """Cells of complete grids (B, L) whose digit occurs twice in a row, column or box, bool (B, L)."""
    side = round(tokens.shape[1] ** 0.5)
    houses = Sudoku(box=round(side**0.5)).relations().values()
    together = torch.stack([house.pairs for house in houses]).any(dim=0) & ~torch.eye(side * side, dtype=torch.bool)
    return ((tokens[:, :, None] == tokens[:, None, :]) & together).any(dim=2)


UNDO = Sampler("policy", remasker=CriticUndo())
VARIANTS = {
    "policy+undo": UNDO,
    "confidence as the order": UNDO.replace(order="confidence"),
    "no noise on the order": UNDO.replace(remasker=CriticUndo(noise=0)),
    "likeliest tokens": UNDO.replace(remasker=CriticUndo(temperature=0)),
    "neither": UNDO.replace(remasker=CriticUndo(noise=0, temperature=0)),
    "nothing ruled out": UNDO.replace(remasker=CriticUndo(remembers=False)),
    "remask below .9 only": UNDO.replace(remasker=CriticUndo(doubt=0.9)),
    "remask what conflicts": UNDO.replace(remasker=ByConflict()),
    "remask what depends on a doubtful token": UNDO.replace(remasker=ByDependence()),
    "accept from .3": UNDO.replace(remasker=CriticUndo(accept=0.3)),
    "accept from .3, remask below .9, no noise, likeliest tokens, last attempt kept": UNDO.replace(
        remasker=CriticUndo(doubt=0.9, accept=0.3, noise=0, temperature=0, keeps_best=False),
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="sudoku9")
    options.add_argument("--data", type=Path, help="a file of problems; by default they are generated")
    options.add_argument("--skip", type=int, default=0, help="leave out the first problems")
    options.add_argument("--limit", type=int, default=200)
    options.add_argument("--steps", default="40,160", help="budgets of forward passes")
    options.add_argument("--only", default="", help="variants whose name contains this")
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    denoiser = anyorder.load_denoiser(given.model)
    task = anyorder.task_for(denoiser)
    count = given.skip + given.limit
    problems = (task.load(given.data) if given.data else task.generate(count, 8_000_000, givens=0))[given.skip : count]
    budgets = [int(budget) for budget in given.steps.split(",")]
    print("| sampler |" + "".join(f" budget {budget} | NFE |" for budget in budgets))
    print("|---|" + "---|---|" * len(budgets))
    for name, sampler in VARIANTS.items():
        if given.only not in name:
            continue
        cells = []
        for budget in budgets:
            bound = replace(sampler, steps=budget).bind(denoiser)
            out = decode_in_batches(denoiser, problems, bound, seed=0, batch_size=200, progress=None, name=name)
            right = int(task.check(problems, out.tokens).instance_correct.sum())
            low, high = wilson(right, len(problems))
            cells += [f"{100 * right / len(problems):.1f} ({100 * low:.1f}-{100 * high:.1f})", f"{out.nfe.float().mean():.1f}"]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
