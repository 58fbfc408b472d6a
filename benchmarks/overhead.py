"""What a learned order and the decoding loop cost, next to the bare forwards of the paper's denoiser.

Two ratios in one run, medians over interleaved repeats:
    policy / forward: the MLP policy of arXiv 2606.00295 on one state, against one forward of its denoiser;
    loop / forwards: a whole decode with that policy, against the same forwards on the same inputs and nothing else.
A profile says where the rest goes.

    python benchmarks/overhead.py [--device cuda] [--batch 32] [--repeats 9] [--json FILE]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from anyorder.decoding.loop import Decoder, decode
from anyorder.denoisers.transformer import paper_transformer
from anyorder.orders.heuristics import confidence
from anyorder.orders.policies import LearnedOrder, Policy
from anyorder.tasks.sudoku import Sudoku
from anyorder.training.order import observe
from anyorder.zoo import load_denoiser, load_order


class Recorder(torch.nn.Module):
    """A denoiser that remembers its inputs, so that the bare forwards can be replayed."""

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
def measure(model: torch.nn.Module, order: LearnedOrder, tokens: torch.Tensor, steps: int, repeats: int) -> dict[str, float]:
    """Both ratios for one denoiser and one policy."""
    device = tokens.device
    decoder = Decoder(order, steps=steps)
    recorder = Recorder(model)
    decode(recorder, tokens, decoder)
    masked = tokens == model.mask_token_id
    seen = observe(model, tokens, masked)

    def policy_alone() -> None:
        order(replace(seen, memo={}))  # a new state: nothing is remembered, the summary is part of the cost

    found = ratio(
        {
            "forward": lambda: model(tokens, None, masked),
            "policy": policy_alone,
            "forwards": lambda: [model(*inputs) for inputs in recorder.calls],
            "loop, confidence": lambda: decode(model, tokens, Decoder(confidence, steps=steps)),
            "loop, policy": lambda: decode(model, tokens, decoder),
        },
        repeats,
        device,
    )
    return {
        "policy / forward": found["policy"] / found["forward"],
        "loop with confidence / forwards": found["loop, confidence"] / found["forwards"],
        "loop with policy / forwards": found["loop, policy"] / found["forwards"],
        "forward, ms": 1000 * found["forward"],
    }


def profile(model: torch.nn.Module, order: LearnedOrder, tokens: torch.Tensor, steps: int) -> str:
    """The operators that take the most time of their own in one decode."""
    with torch.profiler.profile() as record:
        decode(model, tokens, Decoder(order, steps=steps))
    return str(record.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=40))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.manual_seed(0)

    task = Sudoku(3, "prefix")
    tokens = task.generate(arguments.batch, 0, givens=29).tokens.to(device)
    model = paper_transformer(task.vocab_size, task.mask_token_id, task.length).eval().to(device)
    mlp = LearnedOrder(Policy("mlp", model.hidden_size, model.vocab_size).eval().to(device))
    shipped = load_denoiser("sudoku9").to(device)
    lookahead = load_order("sudoku9", shipped)
    lookahead.policy.to(device)
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
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
