"""`generate`, `collate` and `infill`: prompts and texts of different lengths, in every form that users have them in."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import anyorder
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.errors import BadInput
from anyorder.interfaces.generate import generate
from anyorder.interfaces.infill import infill
from anyorder.interfaces.prompts import collate
from anyorder.interfaces.transformers import as_generator
from anyorder.prediction import Prediction
from anyorder.state import DecodeState
from test_huggingface_loading import save_bert

transformers = pytest.importorskip("transformers")

MASK = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of letters whose predictions depend on places and neighbors."""
    folder = save_bert(tmp_path_factory.mktemp("model") / "bert")
    model = transformers.BertForMaskedLM.from_pretrained(folder)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "LayerNorm" not in name and weight.dim() == 2:
                weight.normal_(std=0.5)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def denoiser(folder: Path) -> HuggingFaceDenoiser:
    found: HuggingFaceDenoiser = anyorder.load_denoiser(folder, device="cpu")
    return found


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder)


TEXTS = ["a [MASK] c [MASK] [MASK]", "[MASK] b", "c d e [MASK] f"]
PROMPTS = [[2, 5, MASK, 7, 3], [2, MASK, 3], [2, 6, 7, MASK, MASK, 8, 3]]


@given(st.sampled_from([0, 3]), st.sampled_from([0.0, 1.0]), st.sampled_from([None, 2]), st.integers(0, 20))
@settings(max_examples=12, deadline=None)
def test_prompts_of_different_lengths_are_each_as_alone(
    denoiser: HuggingFaceDenoiser, new: int, temperature: float, block_length: int | None, seed: int
) -> None:
    how: dict[str, Any] = {"max_new_tokens": new, "temperature": temperature, "block_length": block_length}
    together = generate(denoiser, PROMPTS, seed=seed, **how)
    tensors = generate(denoiser, [torch.tensor(row) for row in PROMPTS], seed=seed, **how)
    assert isinstance(together, list)
    for number, (row, prompt) in enumerate(zip(together, PROMPTS, strict=True)):
        alone = generate(denoiser, torch.tensor(prompt), seed=seed + number, **how)
        assert torch.equal(row, alone) and torch.equal(tensors[number], alone)
        assert alone.shape == (len(prompt) + new,) and (alone != MASK).all()
        assert [t for t, given in zip(alone.tolist(), prompt, strict=False) if given != MASK] == [
            t for t in prompt if t != MASK
        ]


def test_what_a_tokenizer_returns_is_taken_in_every_form(denoiser: HuggingFaceDenoiser, tokenizer: Any) -> None:
    lists = tokenizer(TEXTS)
    assert "token_type_ids" in lists
    expected = [generate(denoiser, torch.tensor(row)).tolist() for row in lists["input_ids"]]
    assert [row.tolist() for row in generate(denoiser, **lists)] == expected
    assert [row.tolist() for row in generate(denoiser, lists)] == expected
    for side in ("left", "right"):
        padded = tokenizer(TEXTS, padding=True, padding_side=side, return_tensors="pt")
        filled = generate(denoiser, **padded)
        assert isinstance(filled, Tensor)
        real = padded["attention_mask"].bool()
        assert [row[keep].tolist() for row, keep in zip(filled, real, strict=True)] == expected
        rows = generate(denoiser, **tokenizer(TEXTS, padding=True, padding_side=side))
        assert [row[keep].tolist() for row, keep in zip(rows, real, strict=True)] == expected
    assert generate(denoiser, **tokenizer(TEXTS[0])).tolist() == expected[0]
    one = tokenizer(TEXTS[0], return_tensors="pt")
    assert generate(denoiser, one["input_ids"][0], one["attention_mask"][0]).tolist() == expected[0]
    assert generate(denoiser, one["input_ids"].numpy())[0].tolist() == expected[0]
    assert as_generator(denoiser).generate(**tokenizer(TEXTS[0])).tolist() == expected[0]


def test_padding_inside_of_listed_prompts_is_padding(denoiser: HuggingFaceDenoiser) -> None:
    short, padded = generate(denoiser, [PROMPTS[1], PROMPTS[2]])[0], generate(denoiser, [[*PROMPTS[1], 0, 0], PROMPTS[2]])[0]
    assert torch.equal(padded[:3], short) and padded[3:].tolist() == [0, 0]


def test_a_sampler_takes_the_place_of_the_single_arguments(denoiser: HuggingFaceDenoiser, tmp_path: Path) -> None:
    expected = generate(denoiser, PROMPTS, order="margin", steps=2)
    sampler = Sampler("margin", steps=2)
    sampler.save_pretrained(tmp_path / "sampler")
    for named in (sampler, tmp_path / "sampler", str(tmp_path / "sampler")):
        assert all(map(torch.equal, generate(denoiser, PROMPTS, sampler=named), expected))
    spelled = generate(denoiser, PROMPTS, sampler="margin@threshold:0.5")
    assert all(map(torch.equal, generate(denoiser, PROMPTS, sampler=Sampler("margin", count="threshold:0.5")), spelled))
    assert all(map(torch.equal, generate(denoiser, PROMPTS, sampler=last_first), generate(denoiser, PROMPTS, order=last_first)))
    for more in ({"steps": 2}, {"threshold": 0.0}, {"order": "margin"}, {"temperature": 1.0}, {"block_length": 4}):
        with pytest.raises(BadInput, match="leave these out"):
            generate(denoiser, PROMPTS, sampler=sampler, **more)  # type: ignore[arg-type]


def last_first(state: DecodeState, prediction: Prediction) -> Tensor:
    return state.index.float().masked_fill(~prediction.predicted, -torch.inf)


def test_steps_are_streamed(denoiser: HuggingFaceDenoiser) -> None:
    seen: list[int] = []
    generate(denoiser, PROMPTS[0], max_new_tokens=4, steps=3, on_step=lambda output: seen.append(int(output.selected.sum())))
    assert len(seen) == 3 and sum(seen) == 5


@pytest.mark.parametrize(
    ("prompts", "how", "message"),
    [
        ("a [MASK]", {}, r"use anyorder\.infill for texts"),
        (TEXTS, {}, r"generate\(model, \*\*tokenizer\(texts\)\)"),
        (None, {}, "input_ids must be token ids"),
        ({"texts": TEXTS}, {}, "the prompts hold texts; they must hold input_ids"),
        ([[5, 4.5]], {}, "whole numbers"),
        ([[5, MASK], []], {}, "non-empty"),
        ([], {}, "at least one sequence"),
        ([[5, MASK], [[MASK]]], {}, "each a non-empty list|whole numbers"),
        ([[5, MASK], [MASK]], {"attention_mask": [[1], [1]]}, "other lengths than input_ids"),
        ([[5, 6]], {}, r"nothing to generate: input_ids hold no mask \(4\); give max_new_tokens"),
        ([[-1, MASK]], {}, "the tokens hold -1; they must be 0 or more"),
        ([[99, MASK]], {}, "the tokens go up to 99"),
        ([[5] * 60], {"max_new_tokens": 20}, "takes 64 tokens at most; input_ids and new tokens are 80"),
        ([[5, MASK]], {"sampler": "nosuch"}, "order 'nosuch' is unknown"),
        ([[5, MASK]], {"sampler": 3}, "order is 3; it must be the name of an order"),
    ],
)
def test_prompts_that_are_none_are_refused(
    denoiser: HuggingFaceDenoiser, prompts: Any, how: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        generate(denoiser, prompts, **how)


def test_models_that_fill_no_masks_are_refused(folder: Path) -> None:
    model = transformers.BertForMaskedLM.from_pretrained(folder)
    small = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    causal = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=30, n_embd=16, n_layer=1, n_head=2))
    classes = transformers.BertForSequenceClassification(transformers.BertConfig(**small)).eval()
    with pytest.raises(BadInput, match="GPT2LMHeadModel is a causal model: it has no mask token"):
        generate(causal, PROMPTS)
    for wrong in (model.bert, classes):
        with pytest.raises(BadInput, match=f"{type(wrong).__name__} returned .* not logits over its 30 tokens"):
            generate(wrong, PROMPTS, mask_token_id=MASK)
    with pytest.raises(BadInput, match="str is neither a model with a configuration nor a denoiser"):
        generate("bert", PROMPTS)


def test_prompts_beyond_the_learned_positions_are_refused_before_the_model_sees_them(denoiser: HuggingFaceDenoiser) -> None:
    """On a GPU an index without an embedding would end the process's use of it."""
    calls: list[int] = []
    hook = denoiser.model.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(BadInput, match="takes 64 tokens at most; input_ids and new tokens are 65"):
        generate(denoiser, [[5] * 45], max_new_tokens=20)
    hook.remove()
    assert not calls
    small = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    rotary = transformers.EsmConfig(
        **small, mask_token_id=MASK, pad_token_id=1, position_embedding_type="rotary", max_position_embeddings=12
    )
    turning = HuggingFaceDenoiser(transformers.EsmForMaskedLM(rotary).eval(), MASK)
    assert generate(turning, [5] * 20, max_new_tokens=2).shape == (22,)


def test_collate_pads_on_either_side() -> None:
    tokens, mask = collate([[1, 2, 3], torch.tensor([4])], 9)
    assert tokens.tolist() == [[1, 2, 3], [4, 9, 9]] and mask.tolist() == [[True] * 3, [True, False, False]]
    tokens, mask = collate([[1, 2, 3], [4]], side="left")
    assert tokens.tolist() == [[1, 2, 3], [0, 0, 4]] and mask.dtype == torch.bool
    with pytest.raises(BadInput, match="'left' or 'right'"):
        collate([[1]], side="up")


def test_texts_are_filled_and_given_words_stay(denoiser: HuggingFaceDenoiser) -> None:
    filled = infill(denoiser, [*TEXTS, "a_{3}b"])
    assert isinstance(filled, list) and len(filled) == 4
    for text, done in zip(TEXTS, filled, strict=False):
        assert all(given in ("[MASK]", word) for given, word in zip(text.split(), done.split(), strict=True))
    assert infill(denoiser, filled[1].replace("b", "_{1}")) != ""
    assert infill(denoiser, TEXTS[0]) == filled[0], "one text gives one text"
    assert infill(denoiser, []) == []


@pytest.mark.parametrize(
    "sampler", ["confidence", "margin@threshold:0.5", Sampler("random", token="sample", steps=3), last_first]
)
def test_texts_are_filled_alike_in_batches_of_any_size(denoiser: HuggingFaceDenoiser, sampler: Any) -> None:
    filled = infill(denoiser, TEXTS, sampler, seed=5)
    assert infill(denoiser, TEXTS, sampler, seed=5, batch_size=2) == filled
    assert [infill(denoiser, text, sampler, seed=5 + n) for n, text in enumerate(TEXTS)] == filled


def test_our_own_sequence_models_fill_texts_in_their_alphabets() -> None:
    texts = ["CC_{3}O", "c1ccccc1_{4}"]
    molecules = anyorder.load_denoiser("moses", device="cpu")
    filled = infill(molecules, texts, steps=2)
    assert filled[0].startswith("CC") and filled[0].endswith("O") and filled[1].startswith("c1ccccc1")
    assert infill(molecules, "CC__O", task=anyorder.task_for(molecules)).startswith("CC")
    words = anyorder.load_denoiser("wordnet", device="cpu")
    done = infill(words, ["a small _{6} of the sea", "the _{3}"], steps=3)
    assert done[0].startswith("a small ") and done[0].endswith(" of the sea") and "_" not in "".join(done)


@pytest.mark.parametrize(
    ("texts", "how", "message"),
    [
        (["a b"], {}, r"'a b' has no hole: write \[MASK\] for an unknown token, \[MASK:5\] for five"),
        (["a [MASK]", ""], {}, "text 2: it is empty"),
        (["a [MASK]", "ⵣⵣ [MASK]"], {}, "text 2: the tokenizer of .* does not know 'ⵣⵣ'"),
        (["_{100}"], {}, "takes 62 symbols at most, not 100"),
        ([[2, 4, 3]], {}, r"use anyorder\.generate for token ids"),
        (["a [MASK]"], {"batch_size": 0}, "batch_size is 0"),
        (["a [MASK]"], {"sampler": "nosuch"}, "order 'nosuch' is unknown"),
    ],
)
def test_texts_that_cannot_be_filled_are_refused(
    denoiser: HuggingFaceDenoiser, texts: Any, how: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        infill(denoiser, texts, **how)


def test_models_without_text_are_refused(denoiser: HuggingFaceDenoiser) -> None:
    model: Any = denoiser.model
    own = anyorder.WrappedDenoiser(torch.nn.Embedding(5, 5), 4, 5)
    for nameless in (HuggingFaceDenoiser(model, MASK), own):
        with pytest.raises(BadInput, match=r"no tokenizer, .* load it with anyorder\.load_denoiser\(name\)"):
            infill(nameless, "a [MASK]")
    with pytest.raises(BadInput, match="BertForMaskedLM has no tokenizer"):
        infill(model, "a [MASK]")
    with pytest.raises(BadInput, match="this one is for sudoku"):
        infill(anyorder.load_denoiser("sudoku4", device="cpu"), "1_3")
    with pytest.raises(BadInput, match="disagree: vocabulary size"):
        infill(own, "a_", task=anyorder.make_task("text"))
