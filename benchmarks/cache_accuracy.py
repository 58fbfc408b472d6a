"""What a cache costs in accuracy and saves in computed positions, on denoisers with real weights.

Every sampler decodes the same problems in the same blocks with the same seeds. "Computed" is the number of positions that the
forward passes compute, as a share of that without a cache. "Changed" counts what is correct only without the cache, and what is
only with it. Correct means: a puzzle is solved, a molecule is valid, an antibody can be numbered; for texts, a hidden symbol is
recovered.

    anyorder fetch antiberty; anyorder fetch rxnmapper
    anyorder fetch wordnet; cp ~/.cache/anyorder/wordnet/test.txt wordnet.txt
    anyorder sample 40 --task molecules --order confidence --temperature 1 --number 150 --seed 5 --only-valid > rxnmapper.txt
    python benchmarks/cache_accuracy.py [--models sudoku9,moses,antiberty,wordnet.txt,rxnmapper.txt]
        [--caches none,dual] [--order policy] [--scale 1]

A name that ends in `.txt` is a file of texts for the denoiser of the same name, such as `wordnet.txt`.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import anyorder
from anyorder.decoding.tokens import Argmax, Sample
from anyorder.denoisers.base import DenoiserOutput
from anyorder.evaluation.statistics import wilson

HIDE = 0.3
"""Share of the symbols of a text that are hidden."""
CACHES = ("none", "prefix", "dual", "window:10", "dual@refresh:4", "dual@refresh:2", "dual@refresh:0.1", "dual@refresh:0.2")


@dataclass(frozen=True)
class Setting:
    """How a model is decoded: problems, their length (0 for that of the task), positions per block, steps, temperature."""

    number: int
    length: int
    block: int
    steps: int | None = None
    temperature: float = 0.0


SETTINGS = {
    "sudoku9": Setting(100, 0, 27),
    "moses": Setting(200, 40, 10, temperature=1.0),
    "antiberty": Setting(16, 118, 32, steps=32, temperature=1.0),
    "wordnet.txt": Setting(200, 0, 6),
    "rxnmapper.txt": Setting(100, 0, 6),
}


class Counting(nn.Module):
    """A denoiser that counts the positions that it computes."""

    def __init__(self, denoiser: Any) -> None:
        super().__init__()
        self.denoiser, self.computed = denoiser, 0
        self.mask_token_id, self.vocab_size, self.hidden_size = (
            denoiser.mask_token_id, denoiser.vocab_size, denoiser.hidden_size
        )  # fmt: skip
        self.pad_token_id = getattr(denoiser, "pad_token_id", None)

    def forward(self, tokens: Tensor, *rest: Any) -> DenoiserOutput:
        self.computed += tokens.numel()
        found: DenoiserOutput = self.denoiser(tokens, *rest)
        return found

    def start_cache(self) -> "CountingCache":
        return CountingCache(self)


class CountingCache:
    """Its cache."""

    def __init__(self, counting: Counting) -> None:
        self.counting, self.inner = counting, counting.denoiser.start_cache()
        self.keep = self.inner.keep

    def full(self, tokens: Tensor, *rest: Any) -> DenoiserOutput:
        self.counting.computed += tokens.numel()
        found: DenoiserOutput = self.inner.full(tokens, *rest)
        return found

    def part(self, tokens: Tensor, mask: Tensor | None, positions: Tensor, fresh: Tensor, rows: Any) -> DenoiserOutput:
        self.counting.computed += int(fresh.sum())
        found: DenoiserOutput = self.inner.part(tokens, mask, positions, fresh, rows)
        return found


def compare(name: str, setting: Setting, caches: list[str], scale: float, order: str) -> None:
    """Print a row for each cache."""
    denoiser = anyorder.load_denoiser(name.removesuffix(".txt"), device="cpu")
    task: Any = anyorder.task_for(denoiser)
    number = max(1, round(scale * setting.number))
    if name.endswith(".txt"):
        problems = task.variant({"hide": HIDE}).load(Path(name), limit=number)
    else:
        problems = task.generate(number, 8_000_000, **({"length": setting.length} if setting.length else {}))
    token = Sample(setting.temperature) if setting.temperature else Argmax()
    first: dict[str, Any] = {}
    for cache in caches:
        text = f"{order}@blocks:{setting.block}" + ("" if cache == "none" else f"@cache:{cache}")
        sampler = anyorder.Sampler.parse(text, token=token, steps=setting.steps).bind(denoiser)
        counting = Counting(denoiser)
        began = time.process_time()
        out = torch.cat([
            anyorder.decode(counting, problems.tokens[at : at + 50], sampler, seeds=at).tokens for at in range(0, number, 50)
        ])  # fmt: skip
        seconds = time.process_time() - began
        hidden = problems.tokens == denoiser.mask_token_id
        right = (out == problems.x0)[hidden] if name.endswith(".txt") else task.check(problems, out).instance_correct
        first = first or {"out": out, "right": right, "computed": counting.computed}
        same = float((out == first["out"])[hidden].float().mean())
        share = counting.computed / first["computed"]
        low, high = wilson(int(right.sum()), len(right))
        correct = f"{100 * right.float().mean():.1f} ({100 * low:.1f}-{100 * high:.1f})"
        changed = f"-{int((first['right'] & ~right).sum())} +{int((~first['right'] & right).sum())}"
        print(
            f"| `{name}` | {setting.block} | `{cache}` | {correct} | {changed} | {100 * same:.1f} | {100 * share:.0f} | "
            f"{seconds:.1f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(SETTINGS))
    parser.add_argument("--caches", default=",".join(CACHES))
    parser.add_argument("--order", default="confidence")
    parser.add_argument("--scale", type=float, default=1.0, help="so many times the number of problems")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | block | cache | correct, % | changed | equal tokens, % | computed, % | seconds of one core |")
    print("|---|---|---|---|---|---|---|---|")
    for name in options.models.split(","):
        compare(name, SETTINGS[Path(name).name], options.caches.split(","), options.scale, options.order)


if __name__ == "__main__":
    main()
