"""Calls that users of other code know, against plain transcriptions of the published algorithms on the same tiny weights."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from anyorder.decoding.loop import decode
from anyorder.decoding.step import StepOutput
from anyorder.denoisers.wrapped import WrappedDenoiser
from anyorder.errors import BadInput
from anyorder.interfaces import llada
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
        x = self.wte(input_ids) + self.places(torch.arange(input_ids.shape[1], device=input_ids.device))
        padding = None if attention_mask is None else ~attention_mask.bool()
        x = 3 * self.attention(x, x, x, key_padding_mask=padding, need_weights=False)[0] + x
        return SimpleNamespace(logits=self.ff_out(x))


MODEL = TinyLLaDA().eval()


@torch.no_grad()
def published(
    prompt: Tensor, steps: int, gen_length: int, block_length: int, cfg_scale: float = 0.0, *, never: int | None = None,
    late: tuple[int, ...] = (),
) -> Tensor:  # fmt: skip
    """LLaDA's generation, for one prompt (1, P): all logits, float64 softmax, top-k by confidence in the block; guidance.

    `never` is the token of `logits_eos_inf`. Those of `confidence_eos_eot_inf`, `late`, lose their probability after the tokens
    were chosen; equal confidences go to the left.
    """
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
            logits[..., [MASK] if never is None else [MASK, never]] = -torch.inf
            proposal = logits.argmax(dim=-1)
            logits[..., list(late)] = -torch.inf
            probability = torch.softmax(logits.double(), dim=-1).gather(-1, proposal[..., None])[..., 0]
            sure = torch.where(x == MASK, probability, -torch.inf)
            sure[:, end:] = -torch.inf
            chosen = sure[0].sort(descending=True, stable=True).indices[:count]
            x[0, chosen] = proposal[0, chosen]
    return x


@torch.no_grad()
def fast(prompt: Tensor, gen_length: int, block_length: int, threshold: float) -> tuple[Tensor, int]:
    """Fast-dLLM's generation without a cache, for one prompt (1, P): in each block all tokens at the threshold, or else
    the surest one."""
    x = torch.cat([prompt, torch.full((1, gen_length), MASK)], dim=1)
    nfe = 0
    for end in range(prompt.shape[1] + block_length, x.shape[1] + 1, block_length):
        while (x[:, end - block_length : end] == MASK).any():
            nfe += 1
            logits = MODEL(x).logits
            logits[..., MASK] = -torch.inf
            probability, proposal = torch.softmax(logits.double(), dim=-1).max(dim=-1)
            sure = torch.where(x == MASK, probability, -torch.inf)
            sure[:, end:] = -torch.inf
            chosen = sure >= min(threshold, float(sure.max()))
            x[chosen] = proposal[chosen]
    return x, nfe


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


def two_likeliest(prompts: Tensor) -> tuple[int, int]:
    """The tokens that the model proposes most often, for ends that it writes early."""
    with torch.no_grad():
        logits = MODEL(torch.nn.functional.pad(prompts, (0, 12), value=MASK)).logits
    logits[..., MASK] = -torch.inf
    first, second = logits[:, prompts.shape[1] :].argmax(dim=-1).flatten().bincount().topk(2).indices.tolist()
    return first, second


def test_llada_without_early_ends_gives_the_published_tokens() -> None:
    prompts = torch.randint(0, MASK, (6, 5), generator=torch.Generator().manual_seed(4))
    eos, eot = two_likeliest(prompts)
    ids: dict[str, Any] = {"mask_id": MASK, "eos_id": eos, "eot_id": eot}
    for block_length, steps in ((12, 12), (12, 5), (6, 4)):
        how = (steps, 12, block_length)
        plain = generate(MODEL, prompts, None, *how, mask_id=MASK)
        for cfg_scale in (0.0, 1.5):
            never = torch.cat([published(row[None], *how, cfg_scale, never=eos) for row in prompts])
            ours = generate(MODEL, prompts, None, *how, cfg_scale=cfg_scale, logits_eos_inf=True, **ids)
            assert torch.equal(ours, never)
            assert (ours[:, 5:] != eos).all() and (plain[:, 5:] == eos).any()
        late = torch.cat([published(row[None], *how, late=(eos, eot)) for row in prompts])
        assert torch.equal(generate(MODEL, prompts, None, *how, confidence_eos_eot_inf=True, **ids), late)
        assert not torch.equal(late, plain)
        both = torch.cat([published(row[None], *how, never=eos, late=(eos, eot)) for row in prompts])
        denoiser = WrappedDenoiser(Logits(), MASK, WORDS)
        ids_of_denoiser = {"logits_eos_inf": True, "confidence_eos_eot_inf": True, "eos_id": eos, "eot_id": eot}
        assert torch.equal(generate(denoiser, prompts, None, *how, **ids_of_denoiser), both)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "how", [{}, {"temperature": 0.7}, {"order": "margin"}, {"remasking": "random"}, {"threshold": 0.2, "temperature": 0.7}]
)
def test_late_ends_come_when_no_other_token_is_left(how: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = torch.randint(0, MASK, (6, 5), generator=torch.Generator().manual_seed(4))
    late = torch.tensor(two_likeliest(prompts))
    seen: list[int] = []

    def check(output: StepOutput) -> None:
        tokens = output.before.tokens.masked_scatter(output.before.masked, output.prediction.candidates)  # type: ignore[arg-type]
        is_end = torch.isin(tokens, late)
        for row in range(len(tokens)):
            if (output.selected & is_end)[row].any():
                assert not (output.before.masked & ~output.selected & ~is_end)[row].any()
                seen.append(row)

    monkeypatch.setattr(llada, "decode", lambda *a, **k: decode(*a, **k, on_step=check))
    eos, eot = late.tolist()
    generate(MODEL, prompts, None, 12, 12, 12, mask_id=MASK, confidence_eos_eot_inf=True, eos_id=eos, eot_id=eot, **how)
    assert seen


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.4, 0.9, 1.0])
def test_fast_dllm_gives_the_published_tokens_and_forward_passes(threshold: float) -> None:
    prompts = torch.randint(0, MASK, (5, 6), generator=torch.Generator().manual_seed(2))
    found = [fast(prompts[i : i + 1], 12, 4, threshold) for i in range(5)]
    for i, (ids, nfe) in enumerate(found):
        alone = generate(MODEL, prompts[i : i + 1], None, 3, 12, 4, mask_id=MASK, threshold=threshold)
        assert isinstance(alone, tuple) and torch.equal(alone[0], ids) and alone[1] == nfe
    ids, nfe = generate(MODEL, prompts, None, 3, 12, 4, mask_id=MASK, threshold=threshold)
    assert torch.equal(ids, torch.cat([row for row, _ in found])) and nfe == max(n for _, n in found)
    assert {0.0: 3, 1.0: 12}.get(threshold, nfe) == nfe


def test_confidence_by_name_is_the_original_s_remasking() -> None:
    prompts = torch.randint(0, MASK, (4, 4), generator=torch.Generator().manual_seed(3))
    for temperature in (0.0, 0.7):
        how: dict[str, Any] = {"mask_id": MASK, "temperature": temperature, "seed": 3}
        named = generate(MODEL, prompts, None, 4, 8, 8, order="confidence", **how)
        assert torch.equal(named, generate(MODEL, prompts, None, 4, 8, 8, **how))


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
    with pytest.raises(BadInput, match="are not divisible by 2 blocks"):
        generate(MODEL, prompt, None, 5, 8, 4, mask_id=MASK)
    with pytest.raises(BadInput, match="low_confidence, random"):
        generate(MODEL, prompt, None, 4, 8, 8, remasking="entropy", mask_id=MASK)
