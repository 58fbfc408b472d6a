"""LLaDA's generate over our loop, against a plain transcription of it, on the same weights with LLaDA's vocabulary.

The transcription computes all logits, a float64 softmax over all of them, and a top-k per row, as published. Ours asks the head
for masked positions only and reads confidence off in float32. Tokens must be the same. Peak memory is that of a process of its
own for each; on a GPU, that of the tensors of torch.

    python benchmarks/llada.py [--width 256] [--layers 4] [--batch 4] [--prompt 32] [--generate 64] [--steps 16] [--repeats 3]
    python benchmarks/llada.py --width 4096 --layers 32 --device cuda --dtype bfloat16    # LLaDA's size, random weights
    python benchmarks/llada.py --model GSAI-ML/LLaDA-8B-Instruct --device cuda --dtype bfloat16    # runs the model's own code
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from anyorder.denoisers.transformer import Block
from anyorder.interfaces.llada import generate

VOCABULARY, MASK = 126464, 126336


class Model(nn.Module):
    """A random bidirectional transformer with LLaDA's interface."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(vocab_size=VOCABULARY, d_model=width, mask_token_id=MASK)
        self.wte = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.ModuleList(Block(width, max(8, width // 128)) for _ in range(layers))
        self.ff_out = nn.Linear(width, VOCABULARY, bias=False)

    def get_output_embeddings(self) -> nn.Linear:
        return self.ff_out

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        hidden = self.wte(input_ids)
        for block in self.blocks:
            hidden = block(hidden, None)
        return SimpleNamespace(logits=self.ff_out(hidden))


def transfer(logits: Tensor, x: Tensor, masked: Tensor, count: int) -> None:
    """Commit the `count` surest of the masked positions bool (B, n) of x (B, n), in place: the published selection."""
    proposal = logits.argmax(dim=-1)
    probability = torch.softmax(logits.double(), dim=-1).gather(-1, proposal[..., None])[..., 0]
    sure = torch.where(masked, probability, -torch.inf)
    for row in range(len(x)):
        chosen = sure[row].topk(count).indices
        x[row, chosen] = proposal[row, chosen]


@torch.no_grad()
def transcription(model: nn.Module, prompt: Tensor, steps: int, gen_length: int, mask: int) -> Tensor:
    """The published algorithm with one block: argmax tokens, low-confidence remasking."""
    x = torch.cat([prompt, prompt.new_full((len(prompt), gen_length), mask)], dim=1)
    counts = [gen_length // steps + (i < gen_length % steps) for i in range(steps)]
    for count in counts:
        masked = x == mask
        logits = model(x).logits
        logits[..., mask] = -torch.inf
        transfer(logits, x, masked, count)
    return x


def load(options: argparse.Namespace) -> nn.Module:
    """The model that was named, with the code that comes with it, or a small random one."""
    dtype = getattr(torch, options.dtype)
    if options.model is None:
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.device(options.device):
                return Model(options.width, options.layers).eval()
        finally:
            torch.set_default_dtype(default)
    from transformers import AutoModel

    found: Any = AutoModel.from_pretrained(options.model, trust_remote_code=True, dtype=dtype)
    return found.to(options.device).eval()


def synchronize(device: str) -> None:
    """Wait for the work of a GPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: str, *, reset: bool = False) -> int:
    """The most memory that this process ever held, in KiB (Linux; on a GPU its tensors); with `reset`, from now on."""
    if torch.device(device).type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device) // 1024
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in {
        "width": 256,
        "layers": 4,
        "batch": 4,
        "prompt": 32,
        "generate": 64,
        "steps": 16,
        "repeats": 3,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--model", help="hub id or folder of a LLaDA; its code is run")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--only", choices=["ours", "transcription"], help="run one of them once and print its peak memory")
    arguments = parser.parse_args()
    device, peak = arguments.device, {}
    if not arguments.only:  # before this process takes memory of the device itself
        command = [sys.executable, __file__, *sys.argv[1:], "--only"]
        peak = {name: int(subprocess.check_output([*command, name]).split()[-1]) / 1024 for name in ("transcription", "ours")}
    model: Any = load(arguments)
    mask = getattr(model.config, "mask_token_id", MASK)
    prompt = torch.randint(
        0, min(mask, 100_000), (arguments.batch, arguments.prompt), generator=torch.Generator().manual_seed(1)
    )
    prompt = prompt.to(device)
    work = {
        "transcription": lambda: transcription(model, prompt, arguments.steps, arguments.generate, mask),
        "ours": lambda: generate(
            model, prompt, None, arguments.steps, arguments.generate, arguments.generate, mask_id=mask
        ),
    }  # fmt: skip
    if arguments.only:
        before = peak_memory(device, reset=True)
        work[arguments.only]()
        print(peak_memory(device) - before)
        return
    tokens = {name: run() for name, run in work.items()}  # also the warm-up
    same = float((tokens["ours"] == tokens["transcription"]).double().mean())
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(arguments.repeats):
        for name, run in work.items():
            began = time.perf_counter()
            run()
            synchronize(device)
            times[name].append(time.perf_counter() - began)
    for name in work:
        print(f"{name:14} {statistics.median(times[name]):7.2f} s   {peak[name]:8.0f} MiB above the loaded model")
    ratio = statistics.median(times["transcription"]) / statistics.median(times["ours"])
    print(f"speed-up {ratio:.2f}, memory {peak['ours'] / peak['transcription']:.2f}, tokens equal {100 * same:.2f} %")


if __name__ == "__main__":
    main()
