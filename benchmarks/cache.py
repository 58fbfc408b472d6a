"""Decoding in blocks with and without a cache, against plain transcriptions of LLaDA's generate and of Fast-dLLM's dual cache.

All run on the same random weights with LLaDA's interface (rotary embedding, no position ids, no attention mask), one after the
other. Fast-dLLM's model code stores keys before their rotation, writes the block's into them in place, and rotates all of them
in every layer of every step. Peak memory is that of a process of its own for each.

    python benchmarks/cache.py [--width 256] [--layers 4] [--vocabulary 8192] [--batch 1] [--prompt 768] [--generate 256]
        [--block 32] [--steps 128] [--refresh block]
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from llada import peak_memory, transfer
from torch import Tensor, nn

from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.interfaces.llada import generate

Past = list[tuple[Tensor, Tensor]]


class Rotary(nn.Module):
    """LLaDA's rotary embedding: of the last columns for queries (B, H, n, d), of all for keys (B, H, L, d)."""

    def forward(self, q: Tensor, k: Tensor, end: int | None = None) -> tuple[Tensor, Tensor]:
        half = q.shape[3] // 2
        angle = torch.arange(k.shape[2])[:, None] / 10_000 ** (torch.arange(half) / half)
        sin, cos = (torch.cat([part, part], dim=1) for part in (angle.sin(), angle.cos()))
        first = (k.shape[2] if end is None else end) - q.shape[2]
        last = first + q.shape[2]
        return self.rotated(q, sin[first:last], cos[first:last]), self.rotated(k, sin, cos)

    def rotated(self, x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
        one, other = x.chunk(2, dim=3)
        return x * cos + torch.cat([-other, one], dim=3) * sin


class Layer(nn.Module):
    """Pre-norm attention and MLP. `past` is changed in place at the columns `replaced` (B, L), as in Fast-dLLM."""

    def __init__(self, width: int, heads: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.rotary_emb = Rotary()

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None, replaced: Tensor | None) -> Any:
        normed = self.attention_norm(x)
        q, k, v = (part(normed).view(*x.shape[:2], self.heads, -1).transpose(1, 2) for part in (self.q, self.k, self.v))
        end = None
        if past is not None and replaced is not None:
            for row in range(len(x)):
                columns = replaced[row].nonzero()[:, 0]
                past[0][row][:, columns], past[1][row][:, columns] = k[row], v[row]
            k, v, end = *past, int(replaced.nonzero()[:, 1].max()) + 1
        stored = k, v
        q, k = self.rotary_emb(q, k) if end is None else self.rotary_emb(q, k, end)
        seen = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(seen.transpose(1, 2).reshape(x.shape))
        return x + self.down(F.silu(self.up(self.mlp_norm(x)))), stored


class Model(nn.Module):
    """A random bidirectional transformer with the interface of LLaDA as Fast-dLLM extends it."""

    def __init__(self, width: int, layers: int, vocabulary: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(vocab_size=vocabulary, d_model=width, mask_token_id=vocabulary - 1, model_type="llada")
        self.wte = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(Layer(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.ff_out = nn.Linear(width, vocabulary, bias=False)

    def get_output_embeddings(self) -> nn.Linear:
        return self.ff_out

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Past | None = None,
        use_cache: bool = False,
        replace_position: Tensor | None = None,
    ) -> Any:
        x, stored = self.wte(input_ids), []
        for number, layer in enumerate(self.layers):
            x, pair = layer(x, None if past_key_values is None else past_key_values[number], replace_position)
            if use_cache:
                stored.append(pair)
        return SimpleNamespace(logits=self.ff_out(self.norm(x)), past_key_values=stored)


@torch.no_grad()
def of_llada(model: Any, prompt: Tensor, length: int, block: int, steps: int) -> Tensor:
    """LLaDA's generate: argmax tokens, low-confidence remasking, logits of all positions in every step."""
    mask = model.config.mask_token_id
    x = F.pad(prompt, (0, length), value=mask)
    for start in range(prompt.shape[1], x.shape[1], block):
        for _ in range(steps * block // length):
            masked = x == mask
            masked[:, start + block :] = False
            logits = model(x).logits
            logits[..., mask] = -torch.inf
            transfer(logits, x, masked, length // steps)
    return x


@torch.no_grad()
def of_fast_dllm(model: Any, prompt: Tensor, length: int, block: int, steps: int) -> Tensor:
    """Fast-dLLM's generate_with_dual_cache."""
    mask = model.config.mask_token_id
    x = F.pad(prompt, (0, length), value=mask)
    for start in range(prompt.shape[1], x.shape[1], block):
        inside = slice(start, start + block)
        masked = x == mask
        masked[:, start + block :] = False
        output = model(x, use_cache=True)
        past = output.past_key_values
        output.logits[..., mask] = -torch.inf
        transfer(output.logits, x, masked, length // steps)
        replaced = torch.zeros_like(masked)
        replaced[:, inside] = True
        while (x[:, inside] == mask).any():
            logits = model(x[:, inside], past_key_values=past, use_cache=True, replace_position=replaced).logits
            logits[..., mask] = -torch.inf
            transfer(logits, x[:, inside], x[:, inside] == mask, length // steps)
    return x


def calls(options: argparse.Namespace) -> dict[str, Callable[[Any, Tensor], Tensor]]:
    """What is compared."""
    sizes = {"length": options.generate, "block": options.block, "steps": options.steps}
    refresh = Sampler.parse(f"confidence@blocks:8@cache:dual@refresh:{options.refresh}").refresh

    def ours(cache: str) -> Callable[[Any, Tensor], Tensor]:
        def run(model: Any, prompt: Tensor) -> Tensor:
            denoiser = HuggingFaceDenoiser(model, model.config.mask_token_id)
            found: Tensor = generate(
                denoiser, prompt, steps=options.steps, gen_length=options.generate, block_length=options.block, cache=cache,
                refresh="block" if cache == "none" else refresh,
            )  # fmt: skip
            return found

        return run

    return {
        "LLaDA's generate": lambda model, prompt: of_llada(model, prompt, **sizes),
        "Fast-dLLM's dual cache": lambda model, prompt: of_fast_dllm(model, prompt, **sizes),
        "ours without a cache": ours("none"),
        "ours, prefix": ours("prefix"),
        "ours, dual": ours("dual"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = {
        "width": 256, "layers": 4, "vocabulary": 8192, "batch": 1, "prompt": 768, "generate": 256, "block": 32, "steps": 128,
    }  # fmt: skip
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--refresh", default="block", help="of our caches: block, a number of steps, or a bound of the drift")
    parser.add_argument("--only", help="run one of them and print its time and peak memory")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.only is None:
        return compare()
    model = Model(options.width, options.layers, options.vocabulary).eval()
    prompt = torch.randint(
        0, options.vocabulary - 1, (options.batch, options.prompt), generator=torch.Generator().manual_seed(1)
    )
    with torch.no_grad():
        model(prompt[:, :64])  # warm-up
    before, began = peak_memory("cpu", reset=True), time.process_time()
    tokens = calls(options)[options.only](model, prompt)
    print(time.process_time() - began, (peak_memory("cpu") - before) / 1024, *tokens[:, options.prompt :].flatten().tolist())


def compare() -> None:
    """Each in a process of its own, one after the other."""
    named = calls(argparse.Namespace(generate=1, block=1, steps=1, refresh="block"))
    found: dict[str, list[float]] = {}
    for name in named:
        out = subprocess.check_output([sys.executable, __file__, *sys.argv[1:], "--only", name])
        found[name] = [float(value) for value in out.split()]
    slowest, whole = found["LLaDA's generate"], found["ours without a cache"]
    print(f"{'':24}{'time':>8}{'memory':>10}   speed-up over LLaDA's, over ours without; tokens as LLaDA's, as Fast-dLLM's")
    for name, (seconds, memory, *tokens) in found.items():
        same = (
            sum(a == b for a, b in zip(tokens, found[other][2:], strict=True)) / len(tokens)
            for other in ("LLaDA's generate", "Fast-dLLM's dual cache")
        )
        print(
            f"{name:24}{seconds:6.1f} s{memory:6.0f} MiB{slowest[0] / seconds:8.1f}{whole[0] / seconds:8.1f}"
            + "".join(f"{100 * share:8.1f} %" for share in same)
        )


if __name__ == "__main__":
    main()
