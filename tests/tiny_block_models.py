"""Tiny models with the interfaces of published models of block diffusion, as remote code: what `forward` takes and refuses, who
makes the mask, which logits predict which position, which entries the configuration has. Written from their published code:

- LLaDA2 (inclusionAI/LLaDA2.0-mini): an additive mask (B, 1, L, L) and nothing else; blocks of 32, which only `generate` names;
  the configuration names no mask token; `AutoModel` is the body without a head.
- SDAR, TraDo (JetLM/SDAR-8B-Chat): a mask that is converted to bool; `store_kv`; grouped heads.
- Fast-dLLM v2 (Efficient-Large-Model/Fast_dLLM_v2_7B): makes its own mask (L, L) from `block_size`, ignores the attention mask,
  and the logits at position i predict token i + 1; `bd_size`.
- BD3LM (kuleshov-group/bd3lm-owt-block_size4): takes the time, and in `sample_mode` makes its own block-causal mask; no
  attention mask, no position ids; a model of length 2 n outside of it.
"""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

CODE = '''
import torch
import torch.nn.functional as F
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast, MaskedLMOutput


class Attention(nn.Module):
    """Rotary attention with one key head for two query heads, and an MLP."""

    def __init__(self, width):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, width // 2), nn.Linear(width, width // 2)
        self.out, self.up, self.down = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x, mask, position_ids):
        shape = (*x.shape[:2], -1, x.shape[2] // 2)
        q, k, v = (part(x).view(shape).transpose(1, 2) for part in (self.q, self.k, self.v))
        half = q.shape[3] // 2
        angle = position_ids[:, None, :, None] / 100.0 ** (torch.arange(half, device=x.device) / half)
        sin, cos = (torch.cat([part, part], dim=3).to(x.dtype) for part in (angle.sin(), angle.cos()))
        q, k = (a * cos + torch.cat([-a[..., half:], a[..., :half]], dim=3) * sin for a in (q, k))
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        x = x + self.out(seen.transpose(1, 2).reshape(x.shape))
        return x + self.down(F.silu(self.up(x)))


class LLaDA2MoeConfig(PretrainedConfig):
    model_type = "llada2_moe"

    def __init__(self, vocab_size=40, hidden_size=16, max_position_embeddings=512, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size, self.hidden_size, self.max_position_embeddings = vocab_size, hidden_size, max_position_embeddings


class LLaDA2MoeModel(PreTrainedModel):
    config_class = LLaDA2MoeConfig

    def __init__(self, config):
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Attention(config.hidden_size) for _ in range(2))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, **kwargs):
        rows, length = input_ids.shape
        if attention_mask.size() != (rows, 1, length, length):
            raise ValueError(f"LLaDA2.0 only support block attention mask with shape: {(rows, 1, length, length)}, "
                             f"the input attention with shape {attention_mask.size()=}")
        if attention_mask.dtype == torch.bool:  # where CUDA is used
            raise ValueError("expects a float `expanded_mask`, got a BoolTensor.")
        ids = torch.arange(length, device=input_ids.device)[None] if position_ids is None else position_ids
        x = self.word_embeddings(input_ids)
        for layer in self.layers:
            x = layer(x, attention_mask, ids)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(x))


class LLaDA2MoeModelLM(PreTrainedModel):
    config_class = LLaDA2MoeConfig
    base_model_prefix = "model"

    def __init__(self, config):
        super().__init__(config)
        self.model = LLaDA2MoeModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, labels=None,
                use_cache=None, **kwargs):
        x = self.model(input_ids, attention_mask, position_ids, past_key_values).last_hidden_state
        return CausalLMOutputWithPast(logits=self.lm_head(x).float())


class SDARConfig(PretrainedConfig):
    model_type = "sdar"

    def __init__(self, vocab_size=40, hidden_size=16, max_position_embeddings=512, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size, self.hidden_size, self.max_position_embeddings = vocab_size, hidden_size, max_position_embeddings


class SDARModel(PreTrainedModel):
    config_class = SDARConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Attention(config.hidden_size) for _ in range(2))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, store_kv=False, **kwargs):
        ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None] if position_ids is None else position_ids
        x = self.embed_tokens(input_ids)
        for layer in self.layers:
            x = layer(x, attention_mask.bool() if attention_mask is not None else None, ids)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(x))


class SDARForCausalLM(PreTrainedModel):
    config_class = SDARConfig
    base_model_prefix = "model"

    def __init__(self, config):
        super().__init__(config)
        self.model = SDARModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, labels=None,
                use_cache=None, store_kv=False, **kwargs):
        x = self.model(input_ids, attention_mask, position_ids, past_key_values, store_kv).last_hidden_state
        return CausalLMOutputWithPast(logits=self.lm_head(x))


class Fast_dLLM_QwenConfig(PretrainedConfig):
    model_type = "Fast_dLLM_Qwen"

    def __init__(self, vocab_size=40, hidden_size=16, max_position_embeddings=512, bd_size=32, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size, self.hidden_size, self.max_position_embeddings = vocab_size, hidden_size, max_position_embeddings
        self.bd_size = bd_size


class Fast_dLLM_QwenModel(SDARModel):
    config_class = Fast_dLLM_QwenConfig

    def forward(self, input_ids=None, labels=None, attention_mask=None, position_ids=None, past_key_values=None,
                update_past_key_values=False, block_size=32, **kwargs):
        assert not self.training, "training doubles the input"
        place = torch.arange(input_ids.shape[1], device=input_ids.device)
        seen = place[:, None] // block_size >= place[None, :] // block_size
        mask = torch.zeros(seen.shape, dtype=self.norm.weight.dtype, device=seen.device).masked_fill(~seen, float("-inf"))
        x = self.embed_tokens(input_ids)
        for layer in self.layers:
            x = layer(x, mask, place[None] if position_ids is None else position_ids)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(x))


class Fast_dLLM_QwenForCausalLM(PreTrainedModel):
    config_class = Fast_dLLM_QwenConfig
    base_model_prefix = "model"

    def __init__(self, config):
        super().__init__(config)
        self.model = Fast_dLLM_QwenModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, labels=None, use_cache=None,
                logits_to_keep=0, update_past_key_values=False, block_size=32, use_block_cache=False,
                block_past_key_values=None, replace_position=None, mask_id=151665, **kwargs):
        x = self.model(input_ids, labels, attention_mask, position_ids, block_size=block_size).last_hidden_state
        return CausalLMOutputWithPast(logits=self.lm_head(x))


class BD3LMConfig(PretrainedConfig):
    model_type = "bd3lm"

    def __init__(self, block_size=4, vocab_size=40, model_length=64, attn_backend="flex", hidden_dim=16,
                 time_conditioning=False, **kwargs):
        super().__init__(**kwargs)
        self.block_size, self.vocab_size, self.model_length, self.hidden_dim = block_size, vocab_size, model_length, hidden_dim
        self.attn_backend, self.time_conditioning = attn_backend, time_conditioning


class Backbone(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_dim)
        self.blocks = nn.ModuleList(Attention(config.hidden_dim) for _ in range(2))
        self.head = nn.Linear(config.hidden_dim, config.vocab_size)


class BD3LM(PreTrainedModel):
    config_class = BD3LMConfig
    base_model_prefix = "bd3lm"

    def __init__(self, config):
        super().__init__(config)
        self.backbone = Backbone(config)
        self.post_init()

    def forward(self, input_ids=None, timesteps=None, sample_mode=None, store_kv=None, output_hidden_states=None,
                return_dict=None):
        if sample_mode:
            assert self.config.attn_backend == "sdpa", "Sampling only supported with SDPA"
        timesteps.shape
        place = torch.arange(input_ids.shape[1], device=input_ids.device)
        if not sample_mode:
            raise RuntimeError("noised and clean tokens are needed")
        mask = place[:, None] // self.config.block_size >= place[None, :] // self.config.block_size
        x = self.backbone.embedding(input_ids)
        states = [x]
        for block in self.backbone.blocks:
            x = block(x, mask[None, None], place[None])
            states.append(x)
        logits = self.backbone.head(x)
        if return_dict:
            return MaskedLMOutput(logits=logits, hidden_states=states if output_hidden_states else None)
        return (logits, states) if output_hidden_states else logits
'''

WORDS, MASK = 40, 39
FAMILIES: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "LLaDA2": ("LLaDA2MoeConfig", "LLaDA2MoeModel", "LLaDA2MoeModelLM", {}),
    "SDAR": ("SDARConfig", "SDARModel", "SDARForCausalLM", {"block_size": 4}),
    "Fast-dLLM": ("Fast_dLLM_QwenConfig", "Fast_dLLM_QwenModel", "Fast_dLLM_QwenForCausalLM", {"bd_size": 4}),
    "BD3LM": ("BD3LMConfig", "BD3LM", "BD3LM", {"block_size": 4, "attn_backend": "sdpa"}),
}
"""Classes of configuration, body, and model with a head; entries of the configuration."""

_CLASSES: dict[str, Any] = {}
exec(CODE, _CLASSES)


def model_of(name: str, **entries: Any) -> Any:
    """A model of a family with random weights, so large that far tokens matter."""
    config, _, kind, usual = FAMILIES[name]
    torch.manual_seed(5)
    model = _CLASSES[kind](_CLASSES[config](**{**usual, **entries})).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=1.3 * parameter.shape[1] ** -0.5)
    return model


def save_model(name: str, folder: Path, **entries: Any) -> Path:
    """Weights, code and configuration, as the model is published."""
    config, body, kind, usual = FAMILIES[name]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "modeling_blocks.py").write_text(CODE)
    auto = {"AutoConfig": config, "AutoModel": body}
    auto |= {"AutoModelForMaskedLM": kind} if name == "BD3LM" else {"AutoModelForCausalLM": kind}
    values = {"model_type": _CLASSES[config].model_type, "architectures": [kind], "vocab_size": WORDS, **usual, **entries,
              "auto_map": {key: f"modeling_blocks.{value}" for key, value in auto.items()}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(values))
    weights = model_of(name, **entries).state_dict()
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder
