"""Hugging Face models as denoisers: tiny random models of the true classes, and doubles of the interfaces that LLaDA and Dream
publish (their code lives on the hub)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.base import fingerprint
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.errors import BadInput
from anyorder.orders.heuristics import confidence

transformers = pytest.importorskip("transformers")

WORDS = 30
MASK = 4
SMALL = {"vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
         "max_position_embeddings": 64, "pad_token_id": 0}  # fmt: skip


def bert() -> Any:
    return transformers.BertForMaskedLM(transformers.BertConfig(**SMALL))


def albert() -> Any:
    return transformers.AlbertForMaskedLM(transformers.AlbertConfig(**SMALL, embedding_size=8))


def modernbert() -> Any:
    config = transformers.ModernBertConfig(**SMALL, global_attn_every_n_layers=2, local_attention=8, cls_token_id=1,
                                           sep_token_id=2, bos_token_id=1, eos_token_id=2)  # fmt: skip
    return transformers.ModernBertForMaskedLM(config)


def esm() -> Any:
    return transformers.EsmForMaskedLM(
        transformers.EsmConfig(**SMALL, position_embedding_type="rotary", mask_token_id=MASK, token_dropout=True)
    )


def absolute_esm() -> Any:
    return transformers.EsmForMaskedLM(
        transformers.EsmConfig(**SMALL, position_embedding_type="absolute", mask_token_id=MASK, token_dropout=False)
    )


def roberta() -> Any:
    return transformers.RobertaForMaskedLM(transformers.RobertaConfig(**SMALL, bos_token_id=1, eos_token_id=2))


def mpnet() -> Any:
    return transformers.MPNetForMaskedLM(transformers.MPNetConfig(**SMALL, bos_token_id=1, eos_token_id=2))


MODELS: dict[str, Callable[[], Any]] = {
    "bert": bert, "albert": albert, "modernbert": modernbert, "esm": esm, "absolute_esm": absolute_esm, "roberta": roberta,
    "mpnet": mpnet,
}  # fmt: skip


def denoiser_of(name: str) -> HuggingFaceDenoiser:
    torch.manual_seed(0)
    return HuggingFaceDenoiser(MODELS[name](), MASK, forbidden=[0, 1, 2, 3]).eval()


def tokens_of(length: int = 9, rows: int = 3) -> Tensor:
    tokens = torch.randint(5, WORDS, (rows, length), generator=torch.Generator().manual_seed(1))
    tokens[:, ::2] = MASK
    return tokens


@pytest.mark.parametrize("pad", [-1, WORDS])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "mpnet"])
def test_padding_that_is_no_token_of_the_model_is_never_looked_up(name: str, pad: int) -> None:
    """Some configurations name -1; others a token that was added to the tokenizer alone."""
    denoiser = denoiser_of(name)
    denoiser.pad_token_id = pad
    tokens, cached = tokens_of(), Sampler(confidence, steps=3, block_length=3, cache="dual")
    padded = torch.cat([torch.nn.functional.pad(tokens, (2, 0), value=pad), torch.nn.functional.pad(tokens, (0, 2), value=pad)])
    for sampler in (Sampler(confidence, steps=3), cached):
        expected = decode(denoiser, tokens, sampler).tokens
        found = decode(denoiser, padded, sampler).tokens
        assert torch.equal(found[:3, 2:], expected) and torch.equal(found[3:, :-2], expected)
        assert (found[:3, :2] == pad).all() and (found[3:, -2:] == pad).all()


def test_a_mask_that_is_the_padding_too_is_refused() -> None:
    with pytest.raises(BadInput, match=r"pad_token_id is 4, which is the mask: .* give another token, or None"):
        HuggingFaceDenoiser(bert(), MASK, pad_token_id=MASK)


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_chosen_positions_are_those_of_the_whole(name: str) -> None:
    denoiser, tokens = denoiser_of(name), tokens_of()
    with torch.no_grad():
        whole, hidden = denoiser(tokens)
        part, same = denoiser(tokens, None, tokens == MASK)
        output = denoiser.model(input_ids=tokens, attention_mask=torch.ones_like(tokens), output_hidden_states=True)
    plain = output.logits
    torch.testing.assert_close(hidden, output.hidden_states[-1])
    assert part.shape == (int((tokens == MASK).sum()), WORDS)
    torch.testing.assert_close(part, whole[tokens == MASK])
    torch.testing.assert_close(same, hidden)
    assert hidden.shape == (*tokens.shape, denoiser.hidden_size)
    torch.testing.assert_close(whole[..., 5:], plain[..., 5:])
    assert (whole[..., :5] == -torch.inf).all(), "mask and special tokens are never produced"


@pytest.mark.parametrize("name", MODELS)
def test_the_head_sees_masked_positions_only(name: str) -> None:
    denoiser, tokens = denoiser_of(name), tokens_of()
    seen: list[torch.Size] = []
    denoiser.model.get_output_embeddings().register_forward_hook(lambda _m, given, _out: seen.append(given[0].shape))
    denoiser(tokens, None, tokens == MASK)
    assert [tuple(shape)[:-1] for shape in seen] == [(int((tokens == MASK).sum()),)]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing(name: str, side: str) -> None:
    denoiser, tokens = denoiser_of(name), tokens_of()
    pad = torch.zeros(len(tokens), 4, dtype=torch.int64)
    parts = [pad, tokens] if side == "left" else [tokens, pad]
    padded = torch.cat(parts, dim=1)
    mask = torch.cat([part != 0 for part in parts], dim=1)
    with torch.no_grad():
        alone = denoiser(tokens, None, tokens == MASK).logits
        among = denoiser(padded, mask, padded == MASK).logits
    torch.testing.assert_close(among, alone, atol=2e-5, rtol=1e-4)
    decoder = Sampler(confidence, steps=3)
    a = decode(denoiser, tokens, decoder).tokens
    b = decode(denoiser, padded, decoder, attention_mask=mask).tokens[mask].view_as(a)
    assert torch.equal(a, b)
    assert (a >= 5).all()


@pytest.mark.parametrize("name", MODELS)
def test_saved_models_load_from_a_folder(name: str, tmp_path: Path) -> None:
    denoiser = denoiser_of(name)
    denoiser.model.save_pretrained(tmp_path)
    if "esm" in name:  # its configuration names the mask
        loaded = HuggingFaceDenoiser.from_pretrained(tmp_path)
    else:
        with pytest.raises(BadInput, match="names no mask token: give mask_token_id"):
            HuggingFaceDenoiser.from_pretrained(tmp_path)
        loaded = HuggingFaceDenoiser.from_pretrained(tmp_path, mask_token_id=MASK)
    assert fingerprint(loaded) == fingerprint(denoiser)
    half = HuggingFaceDenoiser.from_pretrained(tmp_path, mask_token_id=MASK, dtype=torch.bfloat16)
    assert next(half.parameters()).dtype == torch.bfloat16


def test_a_tokenizer_gives_mask_and_special_tokens_and_must_fit(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(chr(97 + i) for i in range(25))]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    bert().save_pretrained(tmp_path)
    denoiser = HuggingFaceDenoiser.from_pretrained(tmp_path)
    assert denoiser.mask_token_id == MASK
    assert denoiser.forbidden == [0, 1, 2, 3, 4]
    assert 3 not in HuggingFaceDenoiser.from_pretrained(tmp_path, allow=[3]).forbidden
    tokens = denoiser.tokenizer("a b [MASK]", return_tensors="pt")["input_ids"]
    assert denoiser.maskable(tokens)[0].tolist() == [False, True, True, True, False]
    transformers.BertForMaskedLM(transformers.BertConfig(**{**SMALL, "vocab_size": 20})).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="disagree: 30 tokens against 20 outputs"):
        HuggingFaceDenoiser.from_pretrained(tmp_path)


def test_models_that_are_not_there_or_not_masked_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be loaded"):
        HuggingFaceDenoiser.from_pretrained(tmp_path / "nothing")
    with pytest.raises(BadInput, match="not in the model's vocabulary of 30"):
        HuggingFaceDenoiser(bert(), 30)


LLADA = '''
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast


class {name}Config(PretrainedConfig):
    model_type = "{kind}"

    def __init__(self, d_model=16, n_layers=1, vocab_size=30, mask_token_id=4, **kwargs):
        super().__init__(**kwargs)
        self.d_model, self.n_layers, self.vocab_size, self.mask_token_id = d_model, n_layers, vocab_size, mask_token_id
        {size}


class {name}Model(PreTrainedModel):
    """Bidirectional attention; embeddings and head under the names of the original."""

    config_class = {name}Config
    base_model_prefix = "model"

    def __init__(self, config):
        super().__init__(config)
        self.model = nn.Module()
        self.model.wte = nn.Embedding(config.vocab_size, config.d_model)
        self.model.attention = nn.MultiheadAttention(config.d_model, 2, batch_first=True)
        self.model.ff_out = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.wte

    def get_output_embeddings(self):
        return self.model.ff_out

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        x = self.model.wte(input_ids)
        padding = None if attention_mask is None else ~attention_mask.bool()
        x = x + self.model.attention(x, x, x, key_padding_mask=padding, need_weights=False)[0]
        return CausalLMOutputWithPast(logits=self.model.ff_out(x))
'''


def remote(folder: Path, name: str, kind: str, size: str) -> Path:
    """A folder with code of its own, as LLaDA and Dream are published."""
    folder.mkdir()
    module = f"modeling_{kind}"
    (folder / f"{module}.py").write_text(LLADA.format(name=name, kind=kind, size=size))
    auto_map = {"AutoConfig": f"{module}.{name}Config", "AutoModel": f"{module}.{name}Model"}
    config = {"model_type": kind, "architectures": [f"{name}Model"], "auto_map": auto_map, "d_model": 16, "vocab_size": 30,
              "mask_token_id": 4}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(3)
    namespace: dict[str, Any] = {}
    exec((folder / f"{module}.py").read_text(), namespace)
    model = namespace[f"{name}Model"](namespace[f"{name}Config"]())
    import safetensors.torch

    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    return folder


def test_code_of_a_model_runs_only_when_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = remote(tmp_path / "llada", "LLaDA", "llada", "pass")
    with pytest.raises(BadInput, match="code of its own: read it, then allow it by trust_remote_code=True"):
        HuggingFaceDenoiser.from_pretrained(folder)
    denoiser = HuggingFaceDenoiser.from_pretrained(folder, trust_remote_code=True)
    tokens = tokens_of()
    whole = denoiser(tokens).logits
    torch.testing.assert_close(denoiser(tokens, None, tokens == MASK).logits, whole[tokens == MASK])
    assert denoiser.hidden_size == 16
    assert not denoiser.shift


def test_dreams_logits_are_shifted_by_one(tmp_path: Path) -> None:
    folder = remote(tmp_path / "dream", "Dream", "Dream", "self.hidden_size = d_model")
    denoiser = HuggingFaceDenoiser.from_pretrained(folder, trust_remote_code=True)
    assert denoiser.shift
    tokens = tokens_of()
    with torch.no_grad():
        plain = denoiser.model(input_ids=tokens).logits
        whole, hidden = denoiser(tokens)
        part = denoiser(tokens, None, tokens == MASK).logits
    expected = torch.cat([plain[:, :1], plain[:, :-1]], dim=1)  # as in Dream's diffusion_generate
    keep = [i for i in range(WORDS) if i != MASK]
    torch.testing.assert_close(whole[..., keep], expected[..., keep])
    torch.testing.assert_close(part, whole[tokens == MASK])
    assert hidden.shape == (3, 9, 16)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_between_does_not_shift_dreams_logits(tmp_path: Path, side: str) -> None:
    folder = remote(tmp_path / "dream", "Dream", "Dream", "self.hidden_size = d_model")
    source = (folder / "modeling_Dream.py").read_text()
    as_is = source.replace(
        "padding = None if attention_mask is None else ~attention_mask.bool()",
        "padding = None if attention_mask is None else ~attention_mask[:, 0, 0]  # Dream's attention takes bool (B, 1, 1, L)",
    )
    assert as_is != source
    (folder / "modeling_Dream.py").write_text(as_is)
    denoiser = HuggingFaceDenoiser.from_pretrained(folder, trust_remote_code=True)
    tokens = tokens_of()
    pad = torch.zeros(len(tokens), 3, dtype=torch.int64)
    padded = torch.cat([pad, tokens] if side == "left" else [tokens[:, :4], pad, tokens[:, 4:]], dim=1)
    with torch.no_grad():
        alone, hidden = denoiser(tokens, None, tokens == MASK)
        among, moved = denoiser(padded, padded != 0, padded == MASK)
    torch.testing.assert_close(among, alone)
    torch.testing.assert_close(moved[padded != 0], hidden.flatten(0, 1))
