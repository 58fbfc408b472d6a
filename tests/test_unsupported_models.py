"""Models that fill no masks, as they are published or handed in: one sentence each says why, before anything is computed."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anyorder.decoding.loop import decode
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.denoisers.unsupported import check_configuration
from anyorder.denoisers.wrapped import WrappedDenoiser
from anyorder.errors import BadInput
from anyorder.interfaces.dream import diffusion_generate
from anyorder.interfaces.generate import generate
from anyorder.interfaces.llada import generate as llada
from anyorder.interfaces.transformers import as_generator
from anyorder.zoo import load_denoiser

transformers = pytest.importorskip("transformers")

WORDS, MASK = 30, 4
PROMPT = torch.tensor([[7, MASK, 8]])

_DIT = {"architectures": ["DIT"], "auto_map": {"AutoConfig": "configuration_dit.DITConfig",
        "AutoModelForMaskedLM": "modeling_dit.DIT"}, "hidden_size": 768, "max_seq_len": 512, "model_type": "dit",
        "num_hidden_layers": 12, "vocab_size": 50258}  # fmt: skip
_SEDD = {"ngpus": 8, "tokens": 50257, "noise": {"type": "geometric"}, "model": {"name": "small", "hidden_size": 768}}

UNIFORM: dict[str, dict[str, Any]] = {
    "DUO": {"architectures": ["DUO"], "auto_map": {"AutoConfig": "model_config.DUOConfig", "AutoModelForMaskedLM": "model.DUO"},
            "causal": False, "hidden_dim": 768, "model_length": 1024, "model_type": "DUO", "vocab_size": 50258},
    "UDLM": {"architectures": ["UDLM"], "auto_map": {"AutoModelForMaskedLM": "modeling_udlm.UDLM"}, "model_type": "udlm",
             "hidden_dim": 768, "time_conditioning": True, "vocab_size": 30522},
    "SEDD": _SEDD | {"graph": {"type": "uniform", "file": "data"}},
    "GIDD": _DIT | {"p_uniform": 0.1},
    "GIDD of 3 B": {"model_type": "gidd", "auto_map": {"AutoModel": "modeling_gidd_hf.GiddModel"}, "noise_type": 1000.0},
    "the code of UDLM": {"diffusion": "uniform", "backbone": "dit", "parameterization": "d3pm"},
    "the code of DUO": {"algo": {"name": "duo_base", "backbone": "dit"}, "model": {"length": 1024}},
}  # fmt: skip

MASKED: dict[str, dict[str, Any]] = {
    "GIDD": _DIT | {"p_uniform": 0.0},
    "GIDD of 3 B": UNIFORM["GIDD of 3 B"] | {"noise_type": -1000.0},
    "SEDD": _SEDD | {"graph": {"type": "absorb"}},
    "the code of UDLM": {"diffusion": "absorbing_state"},
    "BERT": {"model_type": "bert", "noise_type": 3.0},
}


def as_object(value: Any) -> Any:
    return SimpleNamespace(**{k: as_object(v) for k, v in value.items()}) if isinstance(value, Mapping) else value


@pytest.mark.parametrize("name", UNIFORM)
def test_uniform_state_models_are_refused_by_name(name: str, tmp_path: Path) -> None:
    config = UNIFORM[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    said = r" is a uniform-state diffusion model \(.*\): .* no mask token .*\. Use a model of masked .* diffusion$"
    for given in (config, as_object(config)):
        with pytest.raises(BadInput, match=name + said):
            check_configuration(name, given)
    with pytest.raises(BadInput, match=f"{tmp_path}{said}"):  # before its code is asked for
        load_denoiser(tmp_path)
    handed = nn.Embedding(WORDS, WORDS)
    handed.config = as_object(config)  # type: ignore[assignment]
    for call in (lambda: HuggingFaceDenoiser(handed, MASK), lambda: generate(handed, PROMPT), lambda: llada(handed, PROMPT)):
        with pytest.raises(BadInput, match="Embedding" + said):
            call()


@pytest.mark.parametrize("name", MASKED)
def test_their_masked_siblings_are_not(name: str) -> None:
    check_configuration(name, MASKED[name])
    check_configuration(name, as_object(MASKED[name]))


def gpt2() -> Any:
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=WORDS, n_embd=16, n_layer=1, n_head=2)).train()


def llama() -> Any:
    torch.manual_seed(0)
    small = {"vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**small, num_key_value_heads=2))


@pytest.mark.parametrize("make", [gpt2, llama])
def test_causal_models_are_refused_in_one_sentence(make: Any, tmp_path: Path) -> None:
    model, said = make(), "is a causal model: it has no mask token, and a position does not see what stands behind it"
    training = model.training
    for call in (
        lambda: HuggingFaceDenoiser(model, MASK),
        lambda: as_generator(model),
        lambda: generate(model, PROMPT, mask_token_id=MASK),
        lambda: llada(model, PROMPT, mask_id=MASK),
        lambda: diffusion_generate(model, PROMPT, max_new_tokens=2, steps=2),
    ):
        with pytest.raises(BadInput, match=f"{type(model).__name__} {said}"):
            call()
    assert model.training == training
    model.save_pretrained(tmp_path)
    for options in ({}, {"mask_token_id": MASK}):
        with pytest.raises(BadInput, match=f"{tmp_path} {said}"):
            load_denoiser(tmp_path, **options)


def bert() -> Any:
    torch.manual_seed(0)
    sizes = {"vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return transformers.BertForMaskedLM(transformers.BertConfig(**sizes, initializer_range=0.8)).eval()


class Double(nn.Module):
    """A model with the body of BERT and the interface of another."""

    def __init__(self, model_type: str = "other") -> None:
        super().__init__()
        self.model = bert()
        self.config = SimpleNamespace(vocab_size=WORDS, hidden_size=16, model_type=model_type)

    def get_output_embeddings(self) -> nn.Module:
        head: nn.Module = self.model.get_output_embeddings()
        return head

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        return self.model(input_ids, attention_mask=attention_mask)


def test_a_model_of_masked_diffusion_may_be_called_causal() -> None:
    class MaskedDiffusionForCausalLM(Double):
        """As Dream's and others', whose code was adapted from a causal model."""

    tokens = generate(MaskedDiffusionForCausalLM(), PROMPT, mask_token_id=MASK)
    assert torch.equal(tokens, generate(bert(), PROMPT, mask_token_id=MASK))


class LLaDA2(Double):
    """Takes a block attention mask only."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        rows, length = input_ids.shape
        if attention_mask is None or attention_mask.shape != (rows, 1, length, length):
            raise ValueError(f"LLaDA2.0 only support block attention mask with shape: {(rows, 1, length, length)}")
        return self.model(input_ids)


def test_a_model_that_asks_for_a_block_causal_mask_is_refused_with_the_way_to_give_it() -> None:
    model = LLaDA2("other")
    said = "LLaDA2 needs a block-causal attention mask: give block_length, the number of positions per block"
    for call in (
        lambda: llada(model, torch.tensor([[2, 7, 8]]), steps=4, gen_length=8, block_length=4, mask_id=MASK),
        lambda: generate(model, PROMPT, mask_token_id=MASK),
        lambda: decode(HuggingFaceDenoiser(model, MASK), PROMPT, "confidence"),
    ):
        with pytest.raises(BadInput, match=said):
            call()


class MDLM(Double):
    """Reads the time, as MDLM's and GIDD's code on the hub does."""

    def forward(self, input_ids: Tensor, timesteps: Tensor) -> Tensor:
        return self.model(input_ids).logits + timesteps[:, None, None]


def test_a_model_that_reads_the_time_is_refused_with_a_way_that_works() -> None:
    with pytest.raises(BadInput, match=r"MDLM reads the time of the diffusion \(timesteps\).* wrap that with WrappedDenoiser"):
        generate(MDLM(), PROMPT, mask_token_id=MASK)

    class Timeless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = MDLM()

        def forward(self, tokens: Tensor) -> Tensor:
            found: Tensor = self.model(tokens, tokens.new_zeros(len(tokens)))
            return found

    tokens = decode(WrappedDenoiser(Timeless(), MASK, WORDS), PROMPT, "confidence").tokens
    assert torch.equal(tokens, generate(bert(), PROMPT, mask_token_id=MASK))
