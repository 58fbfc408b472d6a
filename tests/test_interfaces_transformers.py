"""`generate` for masked models of Transformers: in-filling and continuing, with any order."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.base import fingerprint
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.denoisers.wrapped import WrappedDenoiser
from anyorder.errors import BadInput, WrongDenoiser
from anyorder.interfaces import llada
from anyorder.interfaces.dream import diffusion_generate
from anyorder.interfaces.transformers import MaskedGenerationMixin, as_generator
from anyorder.orders.heuristics import margin
from anyorder.orders.learned import LearnedOrder
from anyorder.orders.policies import MLPPolicy, ScoreTransformer
from anyorder.prediction import Prediction
from anyorder.state import DecodeState

transformers = pytest.importorskip("transformers")

WORDS, MASK = 30, 4
SPECIAL = [0, 1, 2, 3]


class MaskedBert(MaskedGenerationMixin, transformers.BertForMaskedLM):  # type: ignore[misc, name-defined]
    """What a user writes."""


def config_of(**how: Any) -> Any:
    return transformers.BertConfig(
        vocab_size=WORDS, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, pad_token_id=0, initializer_range=0.5, **how,
    )  # fmt: skip


def random_model(seed: int) -> Any:
    """A model whose predictions depend on places and on other tokens, as those of fresh weights hardly do."""
    torch.manual_seed(seed)
    model = transformers.BertForMaskedLM(config_of()).eval()
    with torch.no_grad():
        model.bert.embeddings.position_embeddings.weight *= 3
        model.bert.encoder.layer[0].attention.output.dense.weight *= 6
        model.bert.embeddings.word_embeddings.weight[MASK] = 0
    return model


PLAIN = random_model(0)
MODEL = MaskedBert(config_of(mask_token_id=MASK)).eval()
MODEL.load_state_dict(PLAIN.state_dict())


def sentences(rows: int = 3, length: int = 9, masks: float = 0.5, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(5, WORDS, (rows, length), generator=generator)
    return tokens.masked_fill(torch.rand(rows, length, generator=generator) < masks, MASK)


@torch.no_grad()
def one_by_one(tokens: Tensor, threshold: float = 1.0) -> Tensor:
    """A plain transcription for one row (1, L): all tokens above the threshold, else the likeliest, until no mask is left."""
    tokens = tokens.clone()
    while (tokens == MASK).any():
        logits = PLAIN(input_ids=tokens).logits[0]
        logits[:, MASK] = -torch.inf
        p, proposal = torch.softmax(logits, dim=-1).max(dim=-1)
        p = p.masked_fill(tokens[0] != MASK, -1.0)
        chosen = (p > threshold) | (p == p.max())
        tokens[0, chosen] = proposal[chosen]
    return tokens


@pytest.mark.parametrize("threshold", [None, 0.3, 0.6])
def test_masks_are_filled_by_confidence(threshold: float | None) -> None:
    tokens = sentences()
    expected = torch.cat([one_by_one(row[None], 1.0 if threshold is None else threshold) for row in tokens])
    assert torch.equal(MODEL.generate(tokens, threshold=threshold), expected)
    assert torch.equal(as_generator(PLAIN, mask_token_id=MASK).generate(tokens, threshold=threshold), expected)


@given(
    st.lists(st.integers(2, 9), min_size=1, max_size=4),
    st.sampled_from(["left", "right"]),
    st.sampled_from([None, 4, 7]),
    st.sampled_from([None, 3]),
    st.sampled_from([None, 0.4]),
    st.sampled_from([0.0, 1.0]),
    st.integers(0, 50),
)
@settings(max_examples=40, deadline=None)
def test_a_row_is_filled_alike_alone_and_among_others(
    lengths: list[int], side: str, steps: int | None, block_length: int | None, threshold: float | None, temperature: float,
    seed: int,
) -> None:  # fmt: skip
    places = torch.arange(max(lengths))
    real = torch.stack([places >= max(lengths) - n if side == "left" else places < n for n in lengths])
    batch = sentences(len(lengths), max(lengths), seed=seed).masked_fill(~real, 0)
    how: dict[str, Any] = {
        "max_new_tokens": 3, "steps": steps, "block_length": block_length, "threshold": threshold, "temperature": temperature
    }  # fmt: skip
    together = MODEL.generate(batch, real, seed=seed, **how)
    assert together.shape == (len(lengths), max(lengths) + 3)
    ends = torch.ones(len(lengths), 3, dtype=torch.bool)
    kept = torch.cat([real & (batch != MASK), ~ends], dim=1)
    assert torch.equal(together[kept], nn.functional.pad(batch, (0, 3))[kept])
    for row in range(len(lengths)):
        alone = MODEL.generate(batch[row][real[row]][None], seed=seed + row, **how)
        assert torch.equal(together[row][torch.cat([real[row], ends[0]])], alone[0])
        assert (alone != MASK).all()


def test_blocks_and_steps_are_those_of_llada() -> None:
    prompts = sentences(masks=0.0)
    ours = as_generator(PLAIN, mask_token_id=MASK).generate(prompts, max_new_tokens=12, steps=6, block_length=4)
    assert torch.equal(ours, llada.generate(PLAIN, prompts, None, 6, 12, 4, mask_id=MASK))
    assert not torch.equal(ours, MODEL.generate(prompts, max_new_tokens=12, steps=6))


def test_steps_are_kept_with_a_threshold_that_nothing_reaches() -> None:
    calls: list[int] = []
    hook = MODEL.register_forward_pre_hook(lambda *_: calls.append(1))
    prompts = sentences(masks=0.0)
    hard = MODEL.generate(prompts, max_new_tokens=12, steps=6, block_length=4, threshold=1.0)
    assert len(calls) == 6
    easy = MODEL.generate(prompts, max_new_tokens=12, steps=12, block_length=4, threshold=0.0)
    hook.remove()
    assert len(calls) == 6 + 3, "a block in one step"
    assert torch.equal(hard, MODEL.generate(prompts, max_new_tokens=12, steps=6, block_length=4))
    assert not torch.equal(easy, hard)


def test_orders_by_name_by_hand_and_from_a_folder(tmp_path: Path) -> None:
    tokens = sentences(masks=0.7)
    denoiser = HuggingFaceDenoiser(PLAIN, MASK)
    torch.manual_seed(2)
    policy = MLPPolicy(hidden_size=16, vocab_size=WORDS, width=8, denoiser_fingerprint=fingerprint(denoiser))
    nn.init.normal_(policy.out.weight, std=3.0)
    policy.save_pretrained(tmp_path / "policy")
    expected = decode(denoiser, tokens, Sampler(LearnedOrder(policy.eval()), steps=3)).tokens
    assert torch.equal(MODEL.generate(tokens, steps=3, order=tmp_path / "policy"), expected)
    assert torch.equal(MODEL.generate(tokens, steps=3, order=str(tmp_path / "policy")), expected)
    assert torch.equal(MODEL.generate(tokens, steps=3, order=LearnedOrder(policy)), expected)
    assert not torch.equal(MODEL.generate(tokens, steps=3), expected)
    assert torch.equal(MODEL.generate(tokens, steps=3, order="margin"), MODEL.generate(tokens, steps=3, order=margin))
    other = as_generator(random_model(9), mask_token_id=MASK)
    with pytest.raises(WrongDenoiser, match="was fitted to the denoiser"):
        other.generate(tokens, order=tmp_path / "policy")
    with pytest.raises(BadInput, match="holds no order policy"):
        MODEL.generate(tokens, order=tmp_path)


def test_the_other_calls_take_names_and_folders_too(tmp_path: Path) -> None:
    prompts = sentences(masks=0.0)
    theirs = fingerprint(HuggingFaceDenoiser(PLAIN, MASK))
    policy = ScoreTransformer(hidden_size=16, vocab_size=WORDS, width=8, denoiser_fingerprint=theirs)
    policy.save_pretrained(tmp_path)
    confident = llada.generate(PLAIN, prompts, None, 4, 8, 8, mask_id=MASK)
    assert torch.equal(llada.generate(PLAIN, prompts, None, 4, 8, 8, mask_id=MASK, order=tmp_path), confident), (
        "a policy that was not trained yet is the confidence order"
    )
    leftmost = llada.generate(PLAIN, prompts, None, 4, 8, 8, mask_id=MASK, order="left_to_right")
    assert not torch.equal(leftmost, confident)
    denoiser = HuggingFaceDenoiser(PLAIN, MASK)
    by_folder = diffusion_generate(denoiser, prompts, max_new_tokens=8, steps=4, order=tmp_path)
    assert isinstance(by_folder, Tensor)
    greedy = diffusion_generate(denoiser, prompts, max_new_tokens=8, steps=4, alg="maskgit_plus")
    assert isinstance(greedy, Tensor) and torch.equal(by_folder, greedy)


def test_suppressed_tokens_and_the_mask_are_never_produced() -> None:
    prompts = sentences(20, 4, masks=0.0)
    hot = {"max_new_tokens": 20, "steps": 5, "temperature": 3.0}
    free, held = MODEL.generate(prompts, **hot), MODEL.generate(prompts, suppress_tokens=SPECIAL, **hot)
    assert torch.isin(free, torch.tensor(SPECIAL)).any() and (free != MASK).all()
    assert (held > MASK).all()
    assert not torch.equal(held, MODEL.generate(prompts, suppress_tokens=SPECIAL, seed=100, **hot))
    narrow = MODEL.generate(prompts, top_p=1e-6, **hot)
    assert torch.equal(narrow, MODEL.generate(prompts, max_new_tokens=20, steps=5)), "one token is left to draw from"


def test_a_mixed_model_is_saved_and_loaded_as_ever(tmp_path: Path) -> None:
    MODEL.save_pretrained(tmp_path)
    again = MaskedBert.from_pretrained(tmp_path).eval()
    assert torch.equal(again.generate(sentences()), MODEL.generate(sentences()))


def test_a_loaded_model_is_left_as_it_is() -> None:
    keys = set(PLAIN.state_dict())
    as_generator(PLAIN, mask_token_id=MASK).generate(sentences())
    assert set(PLAIN.state_dict()) == keys
    assert type(PLAIN) is transformers.BertForMaskedLM


def test_any_denoiser_becomes_a_generator() -> None:
    class Table(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return nn.functional.one_hot((tokens.cumsum(dim=1)) % 5, 6).float()

    denoiser = WrappedDenoiser(Table(), mask_token_id=5, vocab_size=6)
    tokens = torch.tensor([[1, 5, 5, 2]])
    assert torch.equal(
        as_generator(denoiser).generate(tokens, steps=2), decode(denoiser, tokens, Sampler(_leftmost, steps=2)).tokens
    )
    with pytest.raises(BadInput, match="forbidden"):
        as_generator(denoiser, suppress_tokens=[1])


def _leftmost(state: DecodeState, prediction: Prediction) -> Tensor:
    """All positions of the table are equally sure, so that confidence goes from the left."""
    return -state.index.float().masked_fill(~prediction.predicted, torch.inf)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"order": "best"}, "random, left_to_right, right_to_left, confidence"),
        ({"steps": 0}, "steps is 0; it must be a whole number, 1 or more"),
        ({"block_length": 0}, "block_length is 0; it must be a whole number, 1 or more"),
        ({"max_new_tokens": 12, "steps": 2, "block_length": 4}, "are too few for"),
        ({"threshold": 1.5}, "from 0 to 1"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"top_p": 2.0}, "must be a number above 0 and at most 1"),
        ({"max_new_tokens": -2}, "0 or more"),
        ({"attention_mask": torch.ones(3, 5)}, "must have that of the tokens"),
        ({"input_ids": torch.ones(3, 4)}, "must be int64"),
        ({"input_ids": torch.full((2, 4), 7)}, "hold no mask"),
        ({"mask_token_id": 30}, "not in the model's vocabulary of 30"),
    ],
)
def test_bad_arguments_are_refused_with_what_would_be_right(how: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        MODEL.generate(**{"input_ids": sentences(), **how})


def test_a_model_that_names_no_mask_is_refused() -> None:
    with pytest.raises(BadInput, match="BertForMaskedLM names no mask token: give mask_token_id"):
        as_generator(PLAIN)
