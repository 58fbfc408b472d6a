"""The cache: a pass over some positions gives what a pass over all gives, and decoding with it keeps its invariants."""

import json
import math
import runpy
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import anyorder
from anyorder.decoding.cache import Cache, drift
from anyorder.decoding.caches import Window, dual
from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.decoding.step import predict, step
from anyorder.denoisers.attention_store import Columns
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.denoisers.transformer import Transformer
from anyorder.denoisers.wrapped import WrappedDenoiser
from anyorder.errors import BadInput, PartFailed
from anyorder.interfaces import llada
from anyorder.orders.learned import LearnedOrder
from anyorder.registry import COUNT_RULES, POLICIES
from anyorder.relations import EVERYTHING, Relation
from anyorder.state import DecodeState, init
from conftest import HashDenoiser
from test_huggingface import MASK, MODELS, SMALL, WORDS, transformers

LENGTH = 24
"""Longer than ModernBERT's window of attention in these tests."""


def plain() -> Transformer:
    return Transformer(WORDS, MASK, 64, 16, 2, [EVERYTHING] * 2, loops=2)


def structured() -> Transformer:
    """One head sees neighbors, one the positions that share a group with one of its tokens."""
    places = torch.arange(LENGTH)
    near = (places[:, None] - places[None]).abs() < 4
    group = places % 3
    relations = {"near": Relation(near), "shared": Relation(near, group, torch.arange(WORDS) % 3)}
    model = Transformer(WORDS, MASK, LENGTH, 16, 2, ["near", "shared"], positions=False)
    model.set_relations(relations)
    return model


def esmc() -> Any:
    return transformers.EsmcForMaskedLM(transformers.EsmcConfig(**SMALL, mask_token_id=MASK))


def eurobert() -> Any:
    """Two heads share the keys and values of one."""
    special = {"bos_token_id": 1, "eos_token_id": 2, "mask_token_id": MASK}
    return transformers.EuroBertForMaskedLM(transformers.EuroBertConfig(**SMALL, num_key_value_heads=1, **special))


class Rotary(nn.Module):
    """LLaDA's: rotates queries and keys (B, H, T, d) by their columns, and takes no position ids."""

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        angle = torch.arange(k.shape[2], device=q.device)[:, None] / 10.0 ** torch.arange(q.shape[3] // 2, device=q.device)
        sin, cos = (torch.cat([part, part], dim=1).to(q.dtype) for part in (angle.sin(), angle.cos()))
        half = q.shape[3] // 2
        return tuple(x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=3) * sin for x in (q, k))  # type: ignore[return-value]


class RemoteLLaDA(nn.Module):
    """The attention of LLaDA's own code: rotary embedding without position ids, no attention mask."""

    def __init__(self, width: int = 16, layers: int = 2) -> None:
        super().__init__()
        self.config = SimpleNamespace(vocab_size=WORDS, d_model=width, mask_token_id=MASK, model_type="llada")
        self.wte = nn.Embedding(WORDS, width)
        self.rotary_emb = Rotary()
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(layers))
        self.ff_out = nn.Linear(width, WORDS)

    def get_output_embeddings(self) -> nn.Module:
        return self.ff_out

    def rotated(self, q: Tensor, k: Tensor, position_ids: Tensor | None) -> tuple[Tensor, Tensor]:
        rotated: tuple[Tensor, Tensor] = self.rotary_emb(q, k)
        return rotated

    def logits(self, input_ids: Tensor, position_ids: Tensor | None, mask: Tensor | None) -> Any:
        x = self.wte(input_ids)
        for layer in self.qkv:
            q, k, v = layer(x).view(*x.shape[:2], 3, 2, -1).permute(2, 0, 3, 1, 4)
            q, k = self.rotated(q, k, position_ids)
            seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=0.0, is_causal=False)
            x = x + seen.transpose(1, 2).reshape(x.shape)
        return SimpleNamespace(logits=self.ff_out(x))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, use_cache: bool = False) -> Any:
        return self.logits(input_ids, None, None)


class RemoteDream(RemoteLLaDA):
    """Dream's: position ids, a bool mask (B, 1, 1, L), and logits of the next position."""

    def __init__(self) -> None:
        super().__init__()
        self.config.model_type = "dream"

    def rotated(self, q: Tensor, k: Tensor, position_ids: Tensor | None) -> tuple[Tensor, Tensor]:
        ids = torch.arange(q.shape[2], device=q.device)[None] if position_ids is None else position_ids
        angle = ids[:, None, :, None] / 10.0 ** torch.arange(q.shape[3], device=q.device)
        return q * angle.cos(), k * angle.cos()

    def forward(  # type: ignore[override]
        self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
    ) -> Any:
        return self.logits(input_ids, position_ids, attention_mask)


CACHED: dict[str, Callable[[], Any]] = {
    **{name: make for name, make in MODELS.items() if name != "mpnet"},
    "esmc": esmc, "eurobert": eurobert, "LLaDA": RemoteLLaDA, "Dream": RemoteDream, "plain": plain, "structured": structured,
}  # fmt: skip
PADDED = [name for name in CACHED if name != "structured"]


def denoiser_of(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """With weights so large that tokens far away matter."""
    torch.manual_seed(0)
    model = CACHED[name]()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(math.sqrt(0.5 * parameter.shape[-1]) / parameter.data.std() / parameter.shape[-1])
    model = model.eval().to(dtype)
    return model if isinstance(model, Transformer) else HuggingFaceDenoiser(model, MASK, [0, 1, 2, 3], shift=name == "Dream")


def tokens_of(rows: int = 3, masks: int = 12) -> Tensor:
    tokens = torch.randint(5, WORDS, (rows, LENGTH), generator=torch.Generator().manual_seed(1))
    tokens[:, LENGTH - masks :] = MASK
    tokens[:, 2] = MASK
    return tokens


def padded(tokens: Tensor, side: str = "left") -> tuple[Tensor, Tensor]:
    pad = torch.zeros(len(tokens), 3, dtype=torch.int64)
    parts = [pad, tokens] if side == "left" else [tokens, pad]
    return torch.cat(parts, dim=1), torch.cat([torch.full(part.shape, part is tokens) for part in parts], dim=1)


def some(tokens: Tensor) -> Tensor:
    """Different numbers of positions in each row, bool (B, L)."""
    fresh = torch.zeros_like(tokens, dtype=torch.bool)
    fresh[0, 4:9] = fresh[1, 13:15] = fresh[2, 20] = fresh[2, 5] = True
    return fresh


@pytest.mark.parametrize("name", CACHED)
def test_a_pass_over_some_positions_gives_what_a_pass_over_all_gives(name: str) -> None:
    denoiser, tokens = denoiser_of(name), tokens_of()
    fresh, rows = some(tokens), torch.tensor([2, 0])
    cache = denoiser.start_cache()
    with torch.no_grad():
        whole, hidden = denoiser(tokens)
        filled = cache.full(tokens, None, tokens == MASK, None)
        part, inside = cache.part(tokens, None, fresh, fresh, None)
        two, _ = cache.part(tokens[rows], None, fresh[rows], fresh[rows], rows)
    assert torch.equal(filled.logits, denoiser(tokens, None, tokens == MASK).logits), "the full pass is that without a cache"
    torch.testing.assert_close(part, whole[fresh], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(inside, hidden[fresh], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(two, whole[rows][fresh[rows]], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("most", [1, 2, 9])
def test_models_of_few_positions_and_tokens_are_tried_too(most: int) -> None:
    sizes = {**SMALL, "vocab_size": 6, "max_position_embeddings": most + 2, "pad_token_id": 1}
    model = transformers.RobertaForMaskedLM(transformers.RobertaConfig(**sizes, bos_token_id=0, eos_token_id=2))
    cache = HuggingFaceDenoiser(model.eval(), MASK, [0]).start_cache()
    assert cache.first == 2, "RoBERTa counts positions from its padding"


@pytest.mark.parametrize("name", CACHED)
def test_stored_positions_are_read_as_they_were(name: str) -> None:
    """Changing a token that is not computed changes nothing, and one that is computed changes the others."""
    denoiser, tokens = denoiser_of(name), tokens_of()
    if name == "esm":
        denoiser.model.esm.embeddings.token_dropout = False  # with it, every embedding depends on the number of masks
    cache, fresh = denoiser.start_cache(), torch.zeros_like(tokens, dtype=torch.bool)
    fresh[:, 5:9] = True
    hidden_one, shown = tokens.clone(), tokens.clone()
    hidden_one[:, 10], shown[:, 7] = MASK, MASK
    with torch.no_grad():
        cache.full(tokens, None, fresh, None)
        first, again, changed = (cache.part(given, None, fresh, fresh, None).logits for given in (tokens, hidden_one, shown))
    assert torch.equal(first, again)
    assert not torch.allclose(first, changed, atol=1e-3)


@pytest.mark.parametrize("name", PADDED)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(name: str, side: str) -> None:
    denoiser, tokens = denoiser_of(name), tokens_of()
    with_padding, mask = padded(tokens, side)
    (fresh, _), alone, among = padded(some(tokens).long(), side), denoiser.start_cache(), denoiser.start_cache()
    with torch.no_grad():
        one = alone.full(tokens, None, some(tokens), None), alone.part(tokens, None, some(tokens), some(tokens), None)
        other = (
            among.full(with_padding, mask, fresh.bool(), None),
            among.part(with_padding, mask, fresh.bool(), fresh.bool(), None),
        )
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a.logits, b.logits, atol=2e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:.*ignores the attention mask")
@pytest.mark.parametrize("name", CACHED)
@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_decoding_with_a_full_pass_in_every_step_is_that_without_a_cache(name: str, cache: str) -> None:
    denoiser, tokens = denoiser_of(name), tokens_of()
    mask = None
    if name != "structured":
        tokens, mask = padded(tokens)
    without = decode(denoiser, tokens, Sampler("margin", block_length=5), attention_mask=mask)
    every = decode(denoiser, tokens, Sampler("margin", block_length=5, cache=cache, refresh=1), attention_mask=mask)
    assert torch.equal(without.tokens, every.tokens) and torch.equal(without.commit_step, every.commit_step)


@pytest.mark.parametrize("name", ["plain", "modernbert", "esm", "Dream"])
@pytest.mark.parametrize("refresh", ["block", 3, 0.05])
def test_a_row_is_decoded_alone_as_in_a_batch(name: str, refresh: Any) -> None:
    """Rows whose blocks end at different times, with padding of different lengths."""
    denoiser, tokens = denoiser_of(name), tokens_of()
    tokens[1, 15:18] = 7
    tokens[2, :4] = 0
    mask = tokens != 0
    sampler = Sampler("confidence", "threshold:0.2", block_length=5, cache="dual", refresh=refresh)
    together = decode(denoiser, tokens, sampler, attention_mask=mask)
    assert len(set(together.nfe.tolist())) > 1
    for row in range(3):
        real = mask[row]
        alone = decode(denoiser, tokens[row : row + 1, real], sampler, seeds=row)
        assert torch.equal(alone.tokens[0], together.tokens[row, real])


class Counted(nn.Module):
    """A transformer that notes how many columns of how many rows each pass computes."""

    def __init__(self) -> None:
        super().__init__()
        self.model = denoiser_of("plain")
        self.mask_token_id, self.vocab_size, self.hidden_size = MASK, WORDS, 16
        self.seen: list[tuple[int, int]] = []
        self.model.blocks[0].register_forward_hook(lambda _m, given, _out: self.seen.append(tuple(given[0].shape[:2])))

    def forward(self, *arguments: Any) -> Any:
        return self.model(*arguments)

    def start_cache(self) -> Any:
        return self.model.start_cache()


def columns_of_passes(cache: str, refresh: Any) -> list[int]:
    """Columns that each pass over one row with blocks of 4 computes; without the second loop through the block."""
    denoiser = Counted()
    tokens = tokens_of(1)
    decode(denoiser, tokens, Sampler("confidence", "fixed:1", block_length=4, cache=cache, refresh=refresh))
    return [columns for _, columns in denoiser.seen[::2]]


def test_the_dual_cache_computes_the_open_block() -> None:
    passes = columns_of_passes("dual", "block")
    assert passes == [24, 4, 4, 4] * 3 + [24]


def test_a_refresh_comes_every_so_many_steps_or_at_a_drift() -> None:
    every = columns_of_passes("dual", 5)
    assert [number for number, columns in enumerate(every) if columns == 24] == [0, 5, 10]
    never = columns_of_passes("dual", 1e9)
    assert [number for number, columns in enumerate(never) if columns == 24] == [0]
    assert columns_of_passes("dual", 0.0).count(24) == 7, "every second step: a full pass has no drift"


def test_the_prefix_cache_computes_the_open_block_and_all_behind_it() -> None:
    tokens = tokens_of(1)
    tokens[0, 2] = 9
    denoiser = Counted()
    decode(denoiser, tokens, Sampler("confidence", block_length=4, cache="prefix"))
    assert [columns for _, columns in denoiser.seen[::2]] == [24, 12, 12, 12, 24, 8, 8, 8, 24, 4, 4, 4]


def test_a_window_computes_the_positions_near_the_open_block() -> None:
    tokens = tokens_of(1)
    tokens[0, 2] = 9
    block = torch.zeros_like(tokens, dtype=torch.bool)
    block[0, [1, 12, 13]] = True
    computed = Window(2)(init(tokens, MASK), block)[0].nonzero()[:, 0].tolist()
    assert computed == [0, 1, 2, 3, 10, 11, 12, 13, 14, 15]
    assert torch.equal(Window(0)(init(tokens, MASK), block), block) and Window(99)(init(tokens, MASK), block).all()
    denoiser = Counted()
    decode(denoiser, tokens, Sampler("confidence", block_length=4, cache="window:3"))
    assert [columns for _, columns in denoiser.seen[::2]] == [24, 10, 10, 10, 24, 10, 10, 10, 24, 7, 7, 7]


def even(state: DecodeState, block: Tensor) -> Tensor:
    """A cache of one's own: every second position."""
    return torch.arange(block.shape[1]).expand_as(block) % 2 == 0


def test_a_cache_of_ones_own(tmp_path: Path) -> None:
    denoiser, tokens = denoiser_of("plain"), tokens_of()
    sampler = Sampler("confidence", block_length=4, cache=even)
    found = decode(denoiser, tokens, sampler)
    assert not (found.tokens == MASK).any()
    sampler.save_pretrained(tmp_path)
    assert Sampler.from_pretrained(tmp_path) == sampler
    with pytest.raises(BadInput, match="the cache must return the positions to compute, a bool tensor"):
        decode(denoiser, tokens, sampler.replace(cache=lambda state, block: block.long()))
    with pytest.raises(PartFailed, match="the cache test_cache:broken failed"):
        decode(denoiser, tokens, sampler.replace(cache=broken))


def broken(state: DecodeState, block: Tensor) -> Tensor:
    raise RuntimeError("no")


def test_samplers_that_were_saved_without_a_cache_have_none(tmp_path: Path) -> None:
    Sampler("margin").save_pretrained(tmp_path)
    values = json.loads((tmp_path / "sampler.json").read_text())
    del values["cache"], values["refresh"]
    (tmp_path / "sampler.json").write_text(json.dumps(values))
    assert Sampler.from_pretrained(tmp_path) == Sampler("margin")


def test_the_last_step_fills_all_blocks() -> None:
    """Six steps for three blocks of one token a step."""
    denoiser, tokens = denoiser_of("plain"), tokens_of()
    found = decode(denoiser, tokens, Sampler("confidence", "fixed:1", block_length=4, cache="dual", steps=6))
    assert not (found.tokens == MASK).any() and found.nfe.tolist() == [6, 6, 6]
    assert found.commit_step.amax().item() == 5


def test_tokens_that_change_outside_the_block_are_computed_again() -> None:
    """A position that was filled is masked again, by whatever means: its keys are those of the mask from then on."""
    denoiser, tokens = denoiser_of("plain"), tokens_of()
    sampler = Sampler("confidence", block_length=4, cache="dual", refresh=100)
    cache, state = Cache(denoiser, dual, 100, 4), init(tokens, MASK)
    with torch.no_grad():
        for _ in range(6):
            state, _ = step(state, predict(denoiser, state, sampler, cache), sampler)
        reopened = torch.zeros_like(state.masked)
        reopened[:, [2, 13]] = True
        state = state.replace(masked=state.masked | reopened, tokens=state.tokens.masked_fill(reopened, MASK))
        predict(denoiser, state, sampler, cache)
        whole = denoiser.start_cache()
        whole.full(state.tokens, None, state.masked, None)
    torch.testing.assert_close(cache.store.store.layers[0].keys, whole.store.layers[0].keys)  # of the tokens alone


def test_the_policy_reads_new_hidden_states_of_the_block_and_stored_ones_elsewhere() -> None:
    denoiser, tokens = denoiser_of("plain"), tokens_of()
    torch.manual_seed(1)
    policy = POLICIES["mlp"](hidden_size=16, vocab_size=WORDS)
    sampler = Sampler(LearnedOrder(policy.eval()), "fixed:1", block_length=4, cache="dual")
    seen: list[Tensor] = []
    predicted: list[Tensor] = []

    def note(output: Any) -> None:
        seen.append(output.prediction.hidden)
        predicted.append(output.prediction.predicted)

    decode(denoiser, tokens, sampler, on_step=note)
    block = torch.zeros(LENGTH, dtype=torch.bool)
    block[[2, 12, 13, 14]] = True
    assert predicted[0].sum(dim=1).tolist() == [13] * 3 and predicted[1].sum(dim=1).tolist() == [3] * 3
    same = (seen[0] == seen[1]).all(dim=2)
    assert same[:, ~block].all() and not same[:, block].any()


def test_sequences_that_grow_are_computed_as_a_whole() -> None:
    denoiser, tokens = denoiser_of("plain"), tokens_of()
    cache, state = Cache(denoiser, dual, "block", 4), init(tokens, MASK)
    longer = init(F.pad(tokens, (0, 3), value=MASK), MASK)
    with torch.no_grad():
        cache.predict(state, state.masked)
        logits, _, where = cache.predict(longer, longer.masked)
        assert torch.equal(where, longer.masked) and torch.equal(logits, denoiser(longer.tokens, None, where).logits)
        others, _, _ = cache.predict(state.replace(row=state.row + 7), state.masked)
        assert torch.equal(others, denoiser(tokens, None, state.masked).logits), "sequences that it does not know"


def test_threads_with_caches_on_one_model_get_the_tokens_of_one() -> None:
    denoiser, sampler = denoiser_of("esm"), Sampler("confidence", block_length=4, cache="dual")
    batches = [torch.roll(tokens_of(2), shift, dims=1) for shift in range(4)]
    found: dict[int, Tensor] = {}
    threads = [
        threading.Thread(target=lambda n=n: found.update({n: decode(denoiser, batches[n], sampler).tokens})) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[n], decode(denoiser, batches[n], sampler).tokens) for n in range(4))


@pytest.mark.parametrize("architecture", POLICIES.names())
def test_every_policy_decodes_with_a_cache(architecture: str) -> None:
    denoiser, tokens = denoiser_of("plain"), tokens_of()
    torch.manual_seed(1)
    policy = POLICIES[architecture](hidden_size=16, vocab_size=WORDS)
    for parameter in policy.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    sampler = Sampler(LearnedOrder(policy.eval()), "fixed:2", block_length=4, cache="dual")
    together = decode(denoiser, tokens, sampler)
    assert not (together.tokens == MASK).any()
    assert torch.equal(decode(denoiser, tokens[1:2], sampler, seeds=1).tokens[0], together.tokens[1])


def works_with_a_cache(rule: str) -> bool:
    try:
        Sampler("margin", rule, block_length=4, cache="dual")
    except BadInput:
        return False
    return True


RULES = [
    *filter(works_with_a_cache, (rule for rule in COUNT_RULES.names() if rule not in ("even_blocks", "demask"))),
    "even_blocks:4",
]


@pytest.mark.parametrize("rule", RULES)
def test_every_count_rule_that_works_with_a_cache_decodes_with_it(rule: str) -> None:
    denoiser, tokens = denoiser_of("plain"), tokens_of()
    found = decode(denoiser, tokens, Sampler.parse(f"margin@blocks:4@cache:dual@{rule}", steps=13))
    assert not (found.tokens == MASK).any() and int(found.nfe.max()) <= 13


def test_drift_is_the_share_by_which_unchanged_positions_have_moved() -> None:
    then = torch.tensor([[[3.0, 4.0], [100.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    now = torch.tensor([[[3.0, 5.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    where = torch.tensor([[True, False], [True, True]])
    assert drift(then, now, where).tolist() == pytest.approx([0.2, 0.0])
    assert drift(then, now, torch.zeros_like(where)).tolist() == [0.0, 0.0]


def test_columns_are_repeated_where_a_row_has_fewer() -> None:
    columns = Columns(torch.tensor([[False, True, False, True], [False, False, True, False]]))
    assert columns.index.tolist() == [[1, 3], [2, 2]] and columns.real.tolist() == [[True, True], [True, False]]
    assert columns.slot[0, 3] == 1 and columns.slot[1, 2] == 0
    assert Columns(torch.tensor([[True]])).index.tolist() == [[0, 0]]


def test_guidance_has_a_cache_with_the_prompt_and_one_without() -> None:
    denoiser, tokens = llada.Without(llada.Guided(denoiser_of("LLaDA"), 1.5, 6), [9]), tokens_of()
    fresh, cache = some(tokens), denoiser.start_cache()
    with torch.no_grad():
        whole = denoiser(tokens, None, fresh).logits
        assert torch.equal(cache.full(tokens, None, fresh, None).logits, whole)
        torch.testing.assert_close(cache.part(tokens, None, fresh, fresh, None).logits, whole, atol=2e-5, rtol=1e-4)
        cache.keep(torch.tensor([2]))
        alone = cache.part(tokens[2:], None, fresh[2:], fresh[2:], None).logits
    torch.testing.assert_close(alone, whole[-2:], atol=2e-5, rtol=1e-4)
    options: dict[str, Any] = {"steps": 8, "gen_length": 8, "block_length": 4, "cfg_scale": 1.5, "mask_id": MASK}
    model, prompt = denoiser_of("LLaDA").model, tokens[:, 3:9]
    without = llada.generate(model, prompt, **options)
    assert torch.equal(llada.generate(model, prompt, **options, cache="dual", refresh=1), without)
    assert not (llada.generate(model, prompt, **options, cache="dual") == MASK).any()


def test_the_dual_cache_gives_the_tokens_of_fast_dllm(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(__file__).resolve().parents[1] / "benchmarks"
    monkeypatch.syspath_prepend(folder)
    benchmark: dict[str, Any] = runpy.run_path(str(folder / "cache.py"))
    model = benchmark["Model"](32, 2, 50).eval()
    prompt = torch.randint(0, 49, (2, 20), generator=torch.Generator().manual_seed(2))
    published = benchmark["of_fast_dllm"](model, prompt, 24, 8, 12)
    ours = llada.generate(model, prompt, steps=12, gen_length=24, block_length=8, cache="dual")
    assert torch.equal(ours, published)
    assert not torch.equal(ours, benchmark["of_llada"](model, prompt, 24, 8, 12))


def test_generate_with_a_cache() -> None:
    model = denoiser_of("bert").model
    options: dict[str, Any] = {"max_new_tokens": 16, "block_length": 4, "mask_token_id": MASK, "suppress_tokens": (0, 1, 2, 3)}
    prompts = [[5, 6, 7], [8, 9, 10, 11, 12]]
    without = anyorder.generate(model, prompts, **options)
    for one, other in zip(without, anyorder.generate(model, prompts, **options, cache="dual", refresh=1), strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))
    cached = anyorder.generate(model, prompts, **options, cache="prefix")
    assert [len(row) for row in cached] == [19, 21] and all(MASK not in torch.as_tensor(row) for row in cached)
    with pytest.raises(BadInput, match="threshold, cache and refresh: leave these out"):
        anyorder.generate(model, prompts, max_new_tokens=4, mask_token_id=MASK, sampler="margin@blocks:4", cache="dual")


@pytest.mark.parametrize("name", ["plain", "bert", "esm", "modernbert"])
def test_in_bfloat16(name: str) -> None:
    denoiser, tokens = denoiser_of(name, torch.bfloat16), tokens_of()
    cache, fresh = denoiser.start_cache(), some(tokens)
    with torch.no_grad():
        whole = cache.full(tokens, None, fresh, None).logits
        part = cache.part(tokens, None, fresh, fresh, None).logits
    torch.testing.assert_close(whole.float(), part.float(), atol=0.2, rtol=0.05)
    found = decode(denoiser, tokens, Sampler("confidence", block_length=5, cache="dual"))
    assert not (found.tokens == MASK).any()


@pytest.mark.parametrize("text", ["margin@blocks:4@cache:dual", "confidence@blocks:8@cache:prefix@refresh:4@threshold:0.5",
                                  "confidence@blocks:8@cache:window:3@refresh:0.25"])  # fmt: skip
def test_a_sampler_with_a_cache_is_written_and_saved(text: str, tmp_path: Any) -> None:
    sampler = Sampler.parse(text)
    assert str(sampler) == text
    sampler.save_pretrained(tmp_path)
    assert Sampler.from_pretrained(tmp_path) == sampler


@pytest.mark.parametrize(("fields", "said"), [
    ({"cache": "both"}, "cache 'both' is unknown: use one of none, prefix, dual, exact, window"),
    ({"cache": "dual", "block_length": None}, "give block_length"),
    ({"cache": "dual", "refresh": 0}, "refresh is 0; it must be"),
    ({"cache": "dual", "refresh": "step"}, "refresh is 'step'; it must be"),
    ({"cache": "dual", "refresh": math.nan}, "refresh is nan; it must be"),
    ({"cache": "dual", "refresh": True}, "refresh is True; it must be"),
    ({"refresh": 3}, "no cache to refresh"),
    ({"cache": 3}, "cache is 3; it must be the name of a cache, or a cache"),
    ({"cache": lambda state: state.masked}, "a cache is called with 2 arguments"),
    ({"cache": "window:-1"}, "size"),
])  # fmt: skip
def test_settings_that_mean_nothing_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        Sampler("confidence", **{"block_length": 4, **fields})


class NoPositions(RemoteDream):
    """Positions are not known from outside."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:  # type: ignore[override]
        return self.logits(input_ids, None, attention_mask)


def eager() -> HuggingFaceDenoiser:
    config = transformers.BertConfig(**SMALL, attn_implementation="eager")
    return HuggingFaceDenoiser(transformers.BertForMaskedLM(config), MASK)


def compiled() -> Transformer:
    model = plain()
    model.compile()  # of the module itself, which compiles nothing yet
    return model


def test_attention_that_is_changed_later_is_noticed() -> None:
    denoiser, tokens = denoiser_of("bert"), tokens_of()
    sampler = Sampler("confidence", block_length=5, cache="dual")
    decode(denoiser, tokens, sampler)
    denoiser.model.set_attn_implementation("eager")
    with pytest.raises(BadInput, match="does not call scaled_dot_product_attention"):
        decode(denoiser, tokens, sampler)


@pytest.mark.parametrize(("denoiser", "said"), [
    (lambda: HuggingFaceDenoiser(MODELS["mpnet"](), MASK), "does not call scaled_dot_product_attention"),
    (eager, "load it with attn_implementation='sdpa'"),
    (lambda: HuggingFaceDenoiser(NoPositions(), MASK), "its forward takes no position_ids"),
    (lambda: HuggingFaceDenoiser(torch.compile(MODELS["bert"]()), MASK), "is compiled, and the cache cannot reach"),
    (compiled, "is compiled, and the cache cannot reach"),
    (HashDenoiser, "HashDenoiser cannot be cached"),
    (lambda: WrappedDenoiser(nn.Embedding(6, 6), MASK, 6), "WrappedDenoiser cannot be cached"),
])  # fmt: skip
def test_models_that_cannot_be_cached_are_refused(denoiser: Callable[[], Any], said: str) -> None:
    model = denoiser()
    tokens = torch.tensor([[model.mask_token_id] * 4])
    with pytest.raises(BadInput, match=said):
        decode(model, tokens, Sampler("confidence", block_length=2, cache="dual"))
