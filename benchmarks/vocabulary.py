"""Memory and time of what is read off the logits, at the vocabulary of a language model.

Each case runs in a process of its own on the same random logits. Memory is the peak above the logits, as a multiple of their
size. Time is that of the fastest repeat, on a CPU that of the processor, as a multiple of softmax and max in the logits' dtype.

    python benchmarks/vocabulary.py [--positions 1024] [--vocabulary 126464] [--dtype bfloat16] [--device cpu] [--repeats 3]
    python benchmarks/vocabulary.py --against CHECKOUT          # another revision of the package as well
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
CASES = {
    "softmax and max": "what LLaDA computes for the confidence",
    "float32 softmax and max": "the same after a conversion to float32",
    "confidence": "likeliest token and its log-probability",
    "margin": "the two likeliest",
    "entropy": "entropy",
    "gumbel": "a token drawn as LLaDA does: float64 noise for all tokens",
    "sample": "a token drawn by the token rule `sample`",
    "sample top_p": "the same with top_p = .9",
}


def work_of(case: str, logits: Tensor) -> Callable[[], object]:
    """What is measured."""
    from anyorder import init
    from anyorder.decoding.tokens import Argmax, Sample
    from anyorder.prediction import Prediction

    count = len(logits)
    state = init(torch.zeros(1, count, dtype=torch.int64, device=logits.device), 0, steps=1)

    def prediction() -> Prediction:
        return Prediction(logits, torch.zeros(1, count, 1, device=logits.device), state.masked)

    def gumbel() -> Tensor:
        wide = logits.to(torch.float64)
        noise = (-torch.log(torch.rand_like(wide))) ** 0.7
        return torch.argmax(wide.exp() / noise, dim=-1)

    rules = {"confidence": Argmax(), "sample": Sample(0.7), "sample top_p": Sample(0.7, top_p=0.9)}
    if case in rules:
        return lambda: rules[case](state, prediction())
    return {
        "softmax and max": lambda: torch.softmax(logits, dim=-1).max(dim=-1),
        "float32 softmax and max": lambda: torch.softmax(logits.float(), dim=-1).max(dim=-1),
        "margin": lambda: prediction().top_log_probs,
        "entropy": lambda: prediction().entropy,
        "gumbel": gumbel,
    }[case]


def measure(case: str, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of the fastest repeat, and the peak of memory in MiB above the logits."""
    torch.manual_seed(0)
    device = torch.device(options.device)
    logits = torch.empty(options.positions, options.vocabulary, dtype=getattr(torch, options.dtype), device=device)
    for row in logits:
        row.copy_(3 * torch.randn(options.vocabulary))
    work_of(case, logits[:1])()  # warm-up
    before, seconds = peak(device), []
    for _ in range(options.repeats):
        began = clock(device)
        work_of(case, logits)()
        seconds.append(clock(device) - began)
    return {"seconds": min(seconds), "MiB": peak(device) - before, "logits": logits.nbytes / 2**20}


def clock(device: torch.device) -> float:
    """Seconds of work so far: of this process on a CPU, so that other processes do not count."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def peak(device: torch.device) -> float:
    """Most memory in use so far, in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def in_process(case: str, package: Path, arguments: list[str]) -> dict[str, float]:
    """`measure` in a fresh process with a revision of the package."""
    environment = {**os.environ, "PYTHONPATH": str(package / "src")}
    command = [sys.executable, __file__, *arguments, "--case", case]
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=126_464)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.case:
        print(json.dumps(measure(options.case, options)))
        return
    arguments = sys.argv[1:]
    if options.against:
        at = arguments.index("--against")
        del arguments[at : at + 2]
    revisions = {"": ROOT} | ({"before": options.against.resolve()} if options.against else {})
    base = None
    print(
        f"{options.positions} positions x {options.vocabulary} tokens, {options.dtype}, {options.device}, "
        f"threads: {options.threads}"
    )
    print(f"{'':24} {'revision':9} {'seconds':>8} {'x base':>7} {'MiB':>7} {'x logits':>8}")
    for case in CASES:
        for revision, package in revisions.items():
            found = in_process(case, package, arguments)
            base = base or found["seconds"]
            print(
                f"{case:24} {revision:9} {found['seconds']:8.2f} {found['seconds'] / base:7.2f} {found['MiB']:7.0f} "
                f"{found['MiB'] / found['logits']:8.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
