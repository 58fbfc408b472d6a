"""Models of block diffusion in the interfaces of their own code: found out, decoded in their blocks, cached exactly."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.blocks import as_bias, block_causal_mask, block_numbers
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.denoisers.wrapped import WrappedDenoiser
from anyorder.errors import BadInput
from anyorder.interfaces import llada
from anyorder.interfaces.generate import generate
from anyorder.zoo import load_denoiser
from tiny_block_models import FAMILIES, MASK, WORDS, model_of, save_model

transformers = pytest.importorskip("transformers")

BLOCK = 4
FORM = {"LLaDA2": "bias", "SDAR": "bool", "Fast-dLLM": "own", "BD3LM": "own"}
CACHED = ["LLaDA2", "SDAR", "Fast-dLLM"]


def denoiser_of(name: str) -> HuggingFaceDenoiser:
    return HuggingFaceDenoiser(model_of(name), MASK, shift=name == "Fast-dLLM", block_length=BLOCK)


def prompts(rows: int = 3, new: int = 11) -> Tensor:
    """Prompts that end within a block, with a hole in one of them."""
    tokens = torch.randint(0, MASK - 1, (rows, 6), generator=torch.Generator().manual_seed(2))
    tokens[1, 2] = MASK
    return torch.nn.functional.pad(tokens, (0, new), value=MASK)


@torch.no_grad()
def logits_by_hand(name: str, tokens: Tensor) -> Tensor:
    """Logits (1, L, V) as the model's own `generate` computes them."""
    model, place = model_of(name), torch.arange(tokens.shape[1])
    seen = (place[:, None] // BLOCK >= place // BLOCK)[None, None]
    if name == "LLaDA2":
        return model(tokens, attention_mask=seen.float().log()).logits
    if name == "SDAR":
        return model(tokens, attention_mask=seen.float()).logits
    if name == "BD3LM":
        return model(tokens, timesteps=torch.zeros(1), sample_mode=True, return_dict=True).logits
    logits = model(tokens, block_size=BLOCK).logits
    return torch.cat([logits[:, :1], logits[:, :-1]], dim=1)


@torch.no_grad()
def by_hand(name: str, tokens: Tensor) -> Tensor:
    """The loop of the published code: block by block, the most confident position first, what is behind is not there."""
    x, length = tokens.clone(), tokens.shape[1]
    for start in range(0, length, BLOCK):
        while bool((x[:, start : start + BLOCK] == MASK).any()):
            logits = logits_by_hand(name, x[:, : start + BLOCK])
            logits[..., MASK] = -torch.inf
            sure, best = logits.softmax(dim=-1).max(dim=-1)
            masked = x[:, : start + BLOCK] == MASK
            masked[:, :start] = False
            place = int(sure.masked_fill(~masked, -1).argmax())
            x[0, place] = best[0, place]
    return x


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_are_those_of_the_published_loop(name: str) -> None:
    denoiser = denoiser_of(name)
    assert denoiser._block_inputs is not None and denoiser._block_inputs.form == FORM[name]
    found = decode(denoiser, prompts(), "confidence").tokens
    for row, tokens in enumerate(prompts()):
        assert torch.equal(found[row], by_hand(name, tokens[None])[0])


@pytest.mark.parametrize("name", CACHED)
@pytest.mark.parametrize("sampler", ["confidence", "margin@threshold:0.3", "entropy@blocks:2", "random+p2", "confidence+wino"])
def test_an_exact_cache_changes_no_token(name: str, sampler: str) -> None:
    denoiser, how = denoiser_of(name), Sampler.parse(sampler)
    plain, cached = (decode(denoiser, prompts(), each) for each in (how, how.replace(cache="exact")))
    assert torch.equal(plain.tokens, cached.tokens)
    assert torch.equal(plain.commit_step, cached.commit_step)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.filterwarnings("ignore:.*ignores the attention mask")
def test_rows_of_other_lengths_change_nothing(name: str, side: str) -> None:
    denoiser = denoiser_of(name)
    tokens, mask = prompts(), torch.ones(3, 17, dtype=torch.bool)
    for row, pad in enumerate((0, 3, 5)):
        mask[row, slice(pad) if side == "left" else slice(17 - pad, 17)] = False
    caches = ["none"] + ["exact"] * (name in CACHED)
    for cache in caches:
        together = decode(denoiser, tokens, Sampler("confidence", cache=cache), attention_mask=mask).tokens
        for row in range(3):
            alone = decode(denoiser, tokens[row][mask[row]][None], "confidence").tokens[0]
            assert torch.equal(together[row][mask[row]], alone), (cache, row)


@pytest.mark.parametrize("name", FAMILIES)
def test_they_load_with_their_head_their_blocks_and_their_mask(name: str, tmp_path: Path) -> None:
    folder = save_model(name, tmp_path / "model", vocab_size=WORDS)
    given = {} if name == "BD3LM" else {"mask_token_id": MASK}
    denoiser = load_denoiser(folder, trust_remote_code=True, device="cpu", **given)
    assert type(denoiser.model).__name__ == FAMILIES[name][2]
    assert denoiser.block_length == (32 if name == "LLaDA2" else BLOCK)
    assert denoiser.mask_token_id == MASK
    if name != "LLaDA2":
        assert torch.equal(generate(denoiser, prompts()[:1, :6], max_new_tokens=11), by_hand(name, prompts()[:1]))


def test_the_mask_token_of_the_published_code_is_known() -> None:
    model = model_of("LLaDA2", vocab_size=156896)
    tokens = generate(model, torch.tensor([[5, 6, 7]]), max_new_tokens=3, steps=1)
    assert tokens.shape == (1, 6) and not bool((tokens == 156895).any())


@pytest.mark.parametrize("call", [generate, llada.generate])
def test_blocks_that_only_the_call_names_are_those_of_the_mask(call: Any) -> None:
    """LLaDA2's and SDAR's own `generate` make the mask from their argument block_length."""
    named = {"mask_token_id": MASK} if call is generate else {"mask_id": MASK}
    length = {"max_new_tokens": 8, "steps": 8} if call is generate else {"gen_length": 8, "steps": 8}
    model = model_of("LLaDA2")
    found = call(model, prompts()[:1, :8], block_length=BLOCK, **named, **length)
    filled = prompts()[:1, :8].masked_fill(prompts()[:1, :8] == MASK, MASK)
    assert torch.equal(found, by_hand("LLaDA2", torch.nn.functional.pad(filled, (0, 8), value=MASK)))


def test_what_cannot_be_used_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"SDARForCausalLM .* does not name the length of a block: give block_length"):
        HuggingFaceDenoiser(model_of("SDAR", block_size=None), MASK)
    with pytest.raises(BadInput, match=r"BD3LM cannot be decoded .*Sampling only supported with SDPA"):
        HuggingFaceDenoiser(model_of("BD3LM", attn_backend="flex"), MASK)
    with pytest.raises(BadInput, match="BD3LM reads the time of the diffusion"):
        HuggingFaceDenoiser(model_of("BD3LM", time_conditioning=True), MASK)
    with pytest.raises(BadInput, match=r"BD3LM cannot be cached: .*takes no position_ids"):
        decode(denoiser_of("BD3LM"), prompts(), Sampler("confidence", cache="exact"))
    with pytest.raises(BadInput, match=r"BD3LM cannot be decoded .* 3 positions .*Is 3 the length that it was trained with"):
        HuggingFaceDenoiser(model_of("BD3LM"), MASK, block_length=3)
    with pytest.raises(BadInput, match="has blocks of 4: leave it out, or give a divisor of 4"):
        decode(denoiser_of("SDAR"), prompts(), "confidence@blocks:3")
    with pytest.raises(BadInput, match="block_length is 0; it must be a whole number of positions"):
        HuggingFaceDenoiser(model_of("SDAR"), MASK, block_length=0)
    folder = save_model("SDAR", tmp_path / "model")
    with pytest.raises(BadInput, match="comes with code of its own"):
        load_denoiser(folder, mask_token_id=MASK)


@pytest.mark.parametrize("name", CACHED)
def test_a_model_that_is_moved_to_another_dtype_gets_its_mask_in_that_dtype(name: str) -> None:
    denoiser = denoiser_of(name).to(torch.bfloat16)
    for cache in ("none", "exact"):
        assert not bool((decode(denoiser, prompts(), Sampler("confidence", cache=cache)).tokens == MASK).any())
    with torch.autocast("cpu", torch.bfloat16):
        assert not bool((decode(denoiser_of(name), prompts(), "confidence").tokens == MASK).any())


def bert() -> Any:
    torch.manual_seed(0)
    sizes = {"vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    return transformers.BertForMaskedLM(transformers.BertConfig(**sizes, initializer_range=0.8)).eval()


def test_any_model_that_takes_a_mask_can_be_used_in_blocks() -> None:
    denoiser = HuggingFaceDenoiser(bert(), MASK, block_length=BLOCK)
    plain, cached = (decode(denoiser, prompts(), Sampler("margin", cache=cache)).tokens for cache in ("none", "exact"))
    assert torch.equal(plain, cached)
    assert not torch.equal(plain, decode(HuggingFaceDenoiser(bert(), MASK), prompts(), "margin@blocks:4").tokens)


def test_a_model_without_masks_is_not_taken_for_one() -> None:
    class Both(nn.Module):
        """Sees both sides, whatever it is told."""

        def __init__(self) -> None:
            super().__init__()
            self.model = bert()
            self.config = copy.copy(self.model.config)

        def get_output_embeddings(self) -> nn.Module:
            head: nn.Module = self.model.get_output_embeddings()
            return head

        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
            return self.model(input_ids)

    with pytest.raises(BadInput, match=r"Both cannot be decoded .*: a block sees what stands behind it"):
        HuggingFaceDenoiser(Both(), MASK, block_length=BLOCK)


class Module(nn.Module):
    """A module of a user's own that takes the block-causal mask."""

    def __init__(self, words: int = WORDS) -> None:
        super().__init__()
        self.words = words
        self.inner = model_of("SDAR")

    def forward(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        """Word 0 is never produced."""
        assert attention_mask.shape == (len(tokens), 1, tokens.shape[1], tokens.shape[1])
        found: Tensor = self.inner(tokens, attention_mask=attention_mask).logits
        return found.index_fill(2, torch.tensor([0]), -torch.inf)


class OwnMask(Module):
    """One that makes it."""

    def forward(self, tokens: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(tokens, block_causal_mask(block_numbers(tokens, None, BLOCK)).expand(len(tokens), -1, -1, -1))


@pytest.mark.parametrize("module", [Module, OwnMask])
def test_a_wrapped_module_of_block_diffusion(module: Any, tmp_path: Path) -> None:
    denoiser = WrappedDenoiser(module(), MASK, WORDS, block_length=BLOCK)
    same = HuggingFaceDenoiser(model_of("SDAR"), MASK, [0])
    found, expected = (decode(each, prompts(), "confidence").tokens for each in (denoiser, same))
    assert torch.equal(found, expected)
    mask = torch.ones(3, 17, dtype=torch.bool)
    mask[1, :3] = False
    together = decode(denoiser, prompts(), "confidence", attention_mask=mask).tokens
    assert torch.equal(together[1, 3:], decode(denoiser, prompts()[1:2, 3:], "confidence").tokens[0])
    denoiser.save_pretrained(tmp_path / "wrapped")
    again = load_denoiser(tmp_path / "wrapped", device="cpu")
    assert again.block_length == BLOCK


def test_a_wrapped_module_that_sees_both_sides_is_refused_at_its_first_call() -> None:
    class Both(Module):
        def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            return super().forward(tokens, torch.ones(len(tokens), 1, tokens.shape[1], tokens.shape[1]))

    with pytest.raises(BadInput, match="Both does not respect blocks of 4 positions: a block sees what stands behind it"):
        decode(WrappedDenoiser(Both(), MASK, WORDS, block_length=BLOCK), prompts(), "confidence")


def test_masks() -> None:
    number = block_numbers(torch.zeros(1, 5, dtype=torch.int64), None, 2)
    assert number.tolist() == [[0, 0, 1, 1, 2]]
    seen = block_causal_mask(number)[0, 0].int().tolist()
    assert seen == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    real = torch.tensor([[False, True, True, True, True]])  # blocks are counted from the first real token
    assert block_numbers(real.long(), real, 2).tolist() == [[0, 0, 0, 1, 1]]
    seen = block_causal_mask(block_numbers(real.long(), real, 2), real)[0, 0].int().tolist()
    assert seen == [[1, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 1, 1], [0, 1, 1, 1, 1]]
    assert as_bias(torch.tensor([True, False]), torch.float32).tolist() == [0.0, -torch.inf]
