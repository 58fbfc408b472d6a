"""What a learned order and the decoding loop cost, next to the bare forward passes of the paper's denoiser.

Two ratios in one run, medians over interleaved repeats:
    policy / forward: the MLP policy of arXiv 2606.00295 on one state, against one forward pass of its denoiser;
    loop / forward passes: a whole decode with that policy, against the same forward passes on the same inputs and nothing else.
A profile says where the rest goes.

With `--against`, the same decodings are timed with another revision of the package, in a process of its own, in turns with this
one. Every shipped denoiser decodes by the confidence order, by its own policy and with undo, as far as it has them.

    python benchmarks/overhead.py [--device cuda] [--batch 32] [--repeats 9] [--json FILE]
    python benchmarks/overhead.py --against CHECKOUT [--denoisers sudoku4,moses]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
TEXTS = ("confidence", "policy", "policy+undo")


class Recorder(torch.nn.Module):
    """A denoiser that remembers its inputs, so that the bare forward passes can be replayed."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        self.mask_token_id, self.vocab_size, self.hidden_size = model.mask_token_id, model.vocab_size, model.hidden_size
        self.calls: list[tuple] = []

    def forward(self, *inputs: torch.Tensor) -> object:
        self.calls.append(inputs)
        return self.model(*inputs)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def ratio(parts: dict[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each part, measured in turns so that all see the same machine."""
    times: dict[str, list[float]] = {name: [] for name in parts}
    for turn in range(repeats + 1):
        for name, work in parts.items():
            elapsed = seconds(work, device)
            if turn:  # the first is a warm-up
                times[name].append(elapsed)
    return {name: statistics.median(values) for name, values in times.items()}


@torch.no_grad()
def measure(model: torch.nn.Module, order: object, tokens: torch.Tensor, steps: int, repeats: int) -> dict[str, float]:
    """Both ratios for one denoiser and one policy."""
    from anyorder.decoding.loop import decode
    from anyorder.decoding.sampler import Sampler
    from anyorder.decoding.step import predict
    from anyorder.prediction import Prediction
    from anyorder.state import init

    device = tokens.device
    by_policy, by_confidence = Sampler(order, steps=steps), Sampler("confidence", steps=steps)
    recorder = Recorder(model)
    decode(recorder, tokens, by_policy)
    masked = tokens == model.mask_token_id
    state = init(tokens, model.mask_token_id, steps=steps)
    seen = predict(model, state, by_policy)

    def policy_alone() -> None:
        order(state, Prediction(seen.logits, seen.hidden, seen.predicted))  # what is read off the logits is part of the cost

    found = ratio(
        {
            "forward": lambda: model(tokens, None, masked),
            "policy": policy_alone,
            "forward passes": lambda: [model(*inputs) for inputs in recorder.calls],
            "loop, confidence": lambda: decode(model, tokens, by_confidence),
            "loop, policy": lambda: decode(model, tokens, by_policy),
        },
        repeats,
        device,
    )
    return {
        "policy / forward": found["policy"] / found["forward"],
        "loop with confidence / forward passes": found["loop, confidence"] / found["forward passes"],
        "loop with policy / forward passes": found["loop, policy"] / found["forward passes"],
        "forward, ms": 1000 * found["forward"],
    }


def profile(model: torch.nn.Module, order: object, tokens: torch.Tensor, steps: int) -> str:
    """The operators that take the most time of their own in one decode."""
    from anyorder.decoding.loop import decode
    from anyorder.decoding.sampler import Sampler

    with torch.profiler.profile() as record:
        decode(model, tokens, Sampler(order, steps=steps))
    return str(record.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=40))


# ---- two revisions ----


def prepare(name: str, text: str, batch: int, steps: int, device: torch.device) -> Callable[[], object] | None:
    """A decoding by whatever revision of the package is imported; None where the denoiser has no such order.

    The problems are those of the golden results, repeated to the size of the batch, so that no generator matters.
    """
    from anyorder.decoding.loop import decode
    from anyorder.decoding.sampler import Sampler
    from anyorder.zoo import load_denoiser, load_order, order_folder

    stored = json.loads((ROOT / "tests" / "golden.json").read_text())["problems"][name]["tokens"]
    tokens = torch.tensor(stored).repeat(-(-batch // len(stored)), 1)[:batch].to(device)
    denoiser = load_denoiser(name).to(device)
    order = load_order(name, denoiser) if (order_folder(name) / "config.json").is_file() else None
    if "policy" in text and order is None:
        return None
    if order is not None:
        order.policy.to(device)
    if "undo" in text and order.critic is None:
        return None
    denoiser.own_order = str(order_folder(name))
    sampler = Sampler.parse(text, steps=steps).bind(denoiser)
    return lambda: decode(denoiser, tokens, sampler)


def serve(arguments: argparse.Namespace) -> None:
    """Time one decoding for each line `DENOISER ORDER` of the standard input."""
    device = torch.device(arguments.device)
    ready: dict[str, Callable[[], object] | None] = {}
    for line in sys.stdin:
        if line not in ready:
            name, text = line.split()
            ready[line] = prepare(name, text, arguments.batch, arguments.steps, device)
        work = ready[line]
        print(-1.0 if work is None else seconds(work, device), flush=True)


class Revision:
    """A process that times decodings with the package of one checkout."""

    def __init__(self, checkout: Path, arguments: argparse.Namespace) -> None:
        options = ["--device", arguments.device, "--batch", str(arguments.batch), "--steps", str(arguments.steps)]
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(checkout / "src")},
        )  # fmt: skip

    def time(self, name: str, text: str) -> float:
        """Seconds of one decoding; -1 where the denoiser has no such order."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(name, text, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())


def compare(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Ratios of the time of this checkout to that of the other one: of medians, and of the fastest runs."""
    here, there = Revision(ROOT, arguments), Revision(arguments.against, arguments)
    found = {}
    for name in arguments.denoisers.split(","):
        for text in TEXTS:
            new, old = [], []
            if min(here.time(name, text), there.time(name, text)) < 0:  # a warm-up
                continue
            for turn in range(arguments.repeats):
                for revision, times in ((here, new), (there, old))[:: 1 - 2 * (turn % 2)]:
                    times.append(revision.time(name, text))
            found[f"{name} {text}"] = {
                "median": statistics.median(new) / statistics.median(old), "fastest": min(new) / min(old), "ms": 1000 * min(new)
            }  # fmt: skip
            print(
                f"{name:14s} {text:12s}", *(f"{key} {value:8.3f}" for key, value in found[f"{name} {text}"].items()), flush=True
            )
    for revision in (here, there):
        revision.process.kill()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--against", type=Path, help="checkout of another revision")
    parser.add_argument("--denoisers", default="moses,sat9,sudoku4,sudoku4-weak,sudoku9,sudoku9-easy,wordnet")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(arguments)
    results = compare(arguments) if arguments.against else overhead(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))


def overhead(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """What a policy and the loop cost beside the forward passes."""
    from anyorder.denoisers.transformer import paper_transformer
    from anyorder.orders.learned import LearnedOrder
    from anyorder.orders.policies import MLPPolicy
    from anyorder.tasks.sudoku import Sudoku
    from anyorder.zoo import load_denoiser, load_order

    device = torch.device(arguments.device)
    torch.manual_seed(0)
    task = Sudoku(3, "prefix")
    tokens = task.generate(arguments.batch, 0, givens=29).tokens.to(device)
    model = paper_transformer(task.vocab_size, task.mask_token_id, task.length).eval().to(device)
    mlp = LearnedOrder(MLPPolicy(hidden_size=model.hidden_size, vocab_size=model.vocab_size).eval()).to(device)
    shipped = load_denoiser("sudoku9").to(device)
    lookahead = load_order("sudoku9", shipped)
    grids = Sudoku(3).generate(arguments.batch, 0, givens=29).tokens.to(device)

    print(f"device {device}, {torch.get_num_threads()} threads, batch {arguments.batch}, {arguments.steps} steps")
    results = {
        "paper's denoiser (5.5 M) and MLP policy": measure(model, mlp, tokens, arguments.steps, arguments.repeats),
        "shipped denoiser (0.7 M) and lookahead policy": measure(shipped, lookahead, grids, arguments.steps, arguments.repeats),
    }
    for name, values in results.items():
        print(name)
        for key, value in values.items():
            print(f"  {key:34s} {value:.3f}")
    if arguments.profile:
        print(profile(model, mlp, tokens, arguments.steps))
    return results


if __name__ == "__main__":
    main()
