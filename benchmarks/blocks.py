"""The exact cache of finished blocks: a block-causal transformer with random weights, decoded in its blocks with the cache and
without, in one run. The tokens must be identical. Without a cache, a pass ends with the open block, as in the published loops.

    python benchmarks/blocks.py [--width 256] [--layers 4] [--vocabulary 8192] [--batch 1] [--prompt 768] [--generate 256]
        [--block 32] [--steps 128] [--device cpu] [--repeats 3]
"""

import argparse
import time

import torch

import anyorder
from anyorder.denoisers.transformer import Transformer
from anyorder.relations import EVERYTHING


def seconds(device: str) -> float:
    """Processor time on the CPU, else time on the clock once the device is done."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = {
        "width": 256, "layers": 4, "vocabulary": 8192, "batch": 1, "prompt": 768, "generate": 256, "block": 32, "steps": 128,
        "repeats": 3,
    }  # fmt: skip
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    heads = [EVERYTHING] * (options.width // 32)
    length, mask = options.prompt + options.generate, options.vocabulary - 1
    model = Transformer(options.vocabulary, mask, length, options.width, options.layers, heads, block_length=options.block)
    for weight in model.parameters():  # large enough that tokens depend on what is far away
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=1.5 * weight.shape[1] ** -0.5)
    denoiser = model.to(options.device).eval()
    prompt = torch.randint(0, mask, (options.batch, options.prompt), generator=torch.Generator().manual_seed(1))
    tokens = torch.nn.functional.pad(prompt, (0, options.generate), value=mask).to(options.device)
    samplers = {
        "none": anyorder.Sampler("confidence", steps=options.steps),
        "exact": anyorder.Sampler("confidence", steps=options.steps, cache="exact"),
    }
    found, best = {}, dict.fromkeys(samplers, float("inf"))
    for _ in range(options.repeats):
        for name, sampler in samplers.items():
            began = seconds(options.device)
            found[name] = anyorder.decode(denoiser, tokens, sampler).tokens
            best[name] = min(best[name], seconds(options.device) - began)
    same = float((found["none"] == found["exact"])[:, options.prompt :].double().mean())
    print(
        f"{options.prompt} + {options.generate} positions, {options.steps} steps, blocks of {options.block}, {options.device}"
    )
    for name, took in best.items():
        print(f"cache {name:6} {took:8.2f} s   {best['none'] / took:5.1f} times as fast   {100 * same:.1f} % equal tokens")


if __name__ == "__main__":
    main()
