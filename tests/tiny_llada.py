"""A tiny model with LLaDA's interface, its own code, and a tokenizer as LLaDA's: a chat template, padding that is the end of
text, and a mask that only the configuration names."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

CODE = '''
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast


class TinyConfig(PretrainedConfig):
    model_type = "llada"

    def __init__(self, d_model=32, vocab_size=272, mask_token_id=263, longest=2048, **kwargs):
        super().__init__(**kwargs)
        self.d_model, self.vocab_size, self.mask_token_id, self.longest = d_model, vocab_size, mask_token_id, longest


class TinyModel(PreTrainedModel):
    """One layer of bidirectional attention; embeddings and head under the names of the original."""

    config_class = TinyConfig
    base_model_prefix = "model"

    def __init__(self, config):
        super().__init__(config)
        width = config.d_model
        self.model = nn.Module()
        self.model.wte = nn.Embedding(config.vocab_size, width)
        self.model.places = nn.Embedding(config.longest, width)
        self.model.layer = nn.TransformerEncoderLayer(width, 2, 2 * width, 0.0, batch_first=True, norm_first=True)
        self.model.ff_out = nn.Linear(width, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.wte

    def get_output_embeddings(self):
        return self.model.ff_out

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.model.wte(input_ids) + self.model.places(places)
        padding = None if attention_mask is None else ~attention_mask.bool()
        return CausalLMOutputWithPast(logits=self.model.ff_out(self.model.layer(x, src_key_padding_mask=padding)))
'''

SPECIAL = ["<|startoftext|>", "<|endoftext|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "[CLS]", "[gMASK]",
           "<|mdm_mask|>"]  # fmt: skip
START, END, _, _, TURN_END, CLS, _, MASK = range(256, 264)
CHAT = (
    "{% for m in messages %}{{ (bos_token if loop.first else '') + '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' "
    "+ m['content'] + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def save_tokenizer(folder: Path, *, chat: bool = True) -> Any:
    """One token a byte."""
    import transformers
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    raw = Tokenizer(models.BPE(vocab=letters, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token=SPECIAL[0], eos_token=SPECIAL[1], pad_token=SPECIAL[1], cls_token=SPECIAL[5]
    )
    tokenizer.chat_template = CHAT if chat else None
    tokenizer.save_pretrained(folder)
    return tokenizer


def save_llada(folder: Path, *, chat: bool = True) -> Path:
    """Random weights, code, configuration and tokenizer, as LLaDA is published."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "modeling_tiny.py").write_text(CODE)
    auto_map = {"AutoConfig": "modeling_tiny.TinyConfig", "AutoModel": "modeling_tiny.TinyModel"}
    config = {"model_type": "llada", "architectures": ["TinyModel"], "auto_map": auto_map, "d_model": 32, "vocab_size": 272,
              "mask_token_id": MASK, "longest": 2048}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    namespace: dict[str, Any] = {}
    exec(CODE, namespace)
    torch.manual_seed(3)
    model = namespace["TinyModel"](namespace["TinyConfig"]())
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    save_tokenizer(folder, chat=chat)
    return folder
