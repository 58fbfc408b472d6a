"""Calls that users of other code know, against plain transcriptions of the published algorithms on the same tiny weights."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from anyorder.denoisers.wrapped import WrappedDenoiser
from anyorder.errors import BadInput
from anyorder.interfaces.llada import generate
from anyorder.prediction import Prediction
from anyorder.state import DecodeState

WORDS, MASK = 40, 39


class TinyLLaDA(nn.Module):
    """Bidirectional attention with the interface of LLaDA, which counts positions itself; it never proposes the mask."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.config = SimpleNamespace(vocab_size=WORDS, d_model=16)
        self.wte = nn.Embedding(WORDS, 16)
        self.places = nn.Embedding(64, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.ff_out = nn.Linear(16, WORDS, bias=False)

    def get_output_embeddings(self) -> nn.Linear:
        return self.ff_out

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        x = self.wte(input_ids) + self.places(torch.arange(input_ids.shape[1]))
        padding = None if attention_mask is None else ~attention_mask.bool()
        x = 3 * self.attention(x, x, x, key_padding_mask=padding, need_weights=False)[0] + x
        return SimpleNamespace(logits=self.ff_out(x))


MODEL = TinyLLaDA().eval()


@torch.no_grad()
def published(prompt: Tensor, steps: int, gen_length: int, block_length: int, cfg_scale: float = 0.0) -> Tensor:
    """LLaDA's generation, for one prompt (1, P): all logits, float64 softmax, top-k by confidence in the block; guidance."""
    x = torch.cat([prompt, torch.full((1, gen_length), MASK)], dim=1)
    blocks = gen_length // block_length
    per_block = steps // blocks
    for block in range(blocks):
        end = prompt.shape[1] + (block + 1) * block_length
        todo = int((x[0, end - block_length : end] == MASK).sum())
        counts = [todo // per_block + (i < todo % per_block) for i in range(per_block)]
        for count in counts:
            logits = MODEL(x).logits
            if cfg_scale:
                blind = x.clone()
                blind[:, : prompt.shape[1]] = MASK
                both, unguided = MODEL(torch.cat([x, blind])).logits.chunk(2)
                logits = unguided + (cfg_scale + 1) * (both - unguided)
            logits[..., MASK] = -torch.inf
            proposal = logits.argmax(dim=-1)
            probability = torch.softmax(logits.double(), dim=-1).gather(-1, proposal[..., None])[..., 0]
            sure = torch.where(x == MASK, probability, -torch.inf)
            sure[:, end:] = -torch.inf
            chosen = sure[0].topk(count).indices
            x[0, chosen] = proposal[0, chosen]
    return x


@pytest.mark.parametrize(("steps", "gen_length", "block_length"), [(8, 8, 8), (9, 12, 4), (6, 12, 6), (5, 16, 16), (7, 10, 10)])
def test_llada_gives_the_published_tokens(steps: int, gen_length: int, block_length: int) -> None:
    prompts = torch.randint(0, MASK, (5, 6), generator=torch.Generator().manual_seed(2))
    expected = torch.cat([published(prompts[i : i + 1], steps, gen_length, block_length) for i in range(5)])
    ours = generate(MODEL, prompts, None, steps, gen_length, block_length, mask_id=MASK)
    assert torch.equal(ours, expected)
    assert torch.equal(generate(MODEL, prompts[2:3], None, steps, gen_length, block_length, mask_id=MASK), expected[2:3])


@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.sampled_from(["left", "right"]), st.integers(0, 100))
@settings(max_examples=15, deadline=None)
def test_llada_at_any_batch_size_and_padding_side(lengths: list[int], side: str, seed: int) -> None:
    longest, pad = max(lengths), 0
    words = torch.randint(0, MASK, (len(lengths), longest), generator=torch.Generator().manual_seed(seed))
    places = torch.arange(longest)
    real = torch.stack([places >= longest - n if side == "left" else places < n for n in lengths])
    batch = words.masked_fill(~real, pad)
    together = generate(MODEL, batch, real, 6, 9, 9, mask_id=MASK)
    for row, length in enumerate(lengths):
        alone = published(batch[row][real[row]][None], 6, 9, 9)
        assert torch.equal(together[row, longest:], alone[0, length:])


def test_llada_with_guidance_gives_the_published_tokens() -> None:
    prompts = torch.randint(0, MASK, (4, 5), generator=torch.Generator().manual_seed(4))
    expected = torch.cat([published(prompts[i : i + 1], 8, 12, 6, cfg_scale=1.5) for i in range(4)])
    ours = generate(MODEL, prompts, None, 8, 12, 6, 0.0, 1.5, "low_confidence", MASK)
    assert torch.equal(ours, expected)
    assert not torch.equal(ours, generate(MODEL, prompts, None, 8, 12, 6, mask_id=MASK))
    padded = torch.cat([prompts, torch.zeros(4, 2, dtype=torch.int64)], dim=1)
    real = torch.arange(7) < torch.full((4, 1), 5)
    among = generate(MODEL, padded, real, 8, 12, 6, cfg_scale=1.5, mask_id=MASK)
    assert torch.equal(among[:, 7:], expected[:, 5:])
    with pytest.raises(BadInput, match="cfg_scale is -1"):
        generate(MODEL, prompts, None, 8, 12, 6, cfg_scale=-1, mask_id=MASK)


def test_llada_takes_any_denoiser_and_its_mask() -> None:
    prompts = torch.randint(0, MASK, (2, 5), generator=torch.Generator().manual_seed(4))
    denoiser = WrappedDenoiser(Logits(), MASK, WORDS)
    ours = generate(denoiser, prompts, None, 8, 8, 8)  # type: ignore[arg-type]
    assert torch.equal(ours, generate(MODEL, prompts, None, 8, 8, 8, mask_id=MASK))
    with pytest.raises(BadInput, match="this denoiser's mask is 39"):
        generate(denoiser, prompts, None, 8, 8, 8, mask_id=38)
    with pytest.raises(BadInput, match="126336 is not in the model's vocabulary of 40"):
        generate(MODEL, prompts, None, 8, 8, 8)


class Logits(nn.Module):
    def forward(self, tokens: Tensor) -> Any:
        return MODEL(tokens).logits


def test_another_order_and_sampling() -> None:
    prompts = torch.randint(0, MASK, (3, 4), generator=torch.Generator().manual_seed(3))

    def leftmost(state: DecodeState, prediction: Prediction) -> Tensor:
        return (-state.index).float().masked_fill(~state.masked, -torch.inf)

    one = generate(MODEL, prompts, None, 8, 8, 8, mask_id=MASK, order=leftmost)
    x = torch.cat([prompts, torch.full((3, 8), MASK)], dim=1)
    for place in range(4, 12):
        logits = MODEL(x).logits[:, place]
        logits[:, MASK] = -torch.inf
        x[:, place] = logits.argmax(dim=-1)
    assert torch.equal(one, x)
    hot = [generate(MODEL, prompts, None, 8, 8, 4, temperature=1.0, mask_id=MASK, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(hot[0], hot[1])
    assert not torch.equal(hot[0], hot[2])
    assert (hot[2] != MASK).all()


def test_lengths_that_do_not_fit_are_refused() -> None:
    prompt = torch.zeros(1, 2, dtype=torch.int64)
    with pytest.raises(BadInput, match="not a multiple of block_length"):
        generate(MODEL, prompt, None, 4, 10, 4, mask_id=MASK)
    with pytest.raises(BadInput, match="must be a multiple of 2, the number of blocks"):
        generate(MODEL, prompt, None, 5, 8, 4, mask_id=MASK)
    with pytest.raises(BadInput, match="low_confidence, random"):
        generate(MODEL, prompt, None, 4, 8, 8, remasking="entropy", mask_id=MASK)
