"""Sizes and positions of Hugging Face models by their configurations, and what one has to know of some families."""

from typing import Any

from torch import Tensor, nn

_SHIFTED = {"dream", "fast_dllm_qwen"}
"""Model types whose logits at position i predict token i + 1, as in the causal models that they were adapted from."""

MASK_AS_IS = {"dream"}
"""Model types that hand the attention mask to scaled_dot_product_attention as it is: it must be bool (B, 1, 1, L)."""


_POSITIONS_AFTER_PADDING = {
    "camembert", "data2vec-text", "esm", "ibert", "longformer", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta",
    "xlm-roberta-xl", "xmod",
}  # fmt: skip
"""Model types whose positions count from the padding token's id + 1, so that fewer are left for tokens."""


def is_shifted(config: Any) -> bool:
    """Do the logits of models with this configuration predict the next position, as Dream's do?"""
    return model_type(config) in _SHIFTED


def max_length(config: Any) -> int | None:
    """Largest length of a sequence, special tokens included; None if the configuration does not give it."""
    most = getattr(config, "max_position_embeddings", None) or getattr(config, "max_sequence_length", None)
    if most is not None and model_type(config) in _POSITIONS_AFTER_PADDING:
        most -= (config.pad_token_id or 0) + 1
    return most


def model_type(config: Any) -> str:
    """The name of a model's family, in lower case."""
    return str(getattr(config, "model_type", "")).lower()


def absolute_positions(model: nn.Module) -> bool:
    """Whether the model has an embedding for every position, so that there is none for more."""
    return any("position" in name and isinstance(module, nn.Embedding) for name, module in model.named_modules())


def outputs_of(model: Any, config: Any) -> int:
    """The number of tokens in a model's vocabulary."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return head.out_features if isinstance(head, nn.Linear) else int(config.vocab_size)


def hidden_size_of(config: Any) -> int:
    """The size of a model's hidden states."""
    sizes = (getattr(config, key, None) for key in ("hidden_size", "d_model", "hidden_dim"))
    return next(int(size) for size in sizes if size is not None)


def body_of(model: Any) -> nn.Module | None:
    """The model without its head, whose output has the last hidden states; None where there is none."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # of adapters (PEFT)
    body = getattr(inner, "base_model", None)
    return body if isinstance(body, nn.Module) and body is not inner else None


def last_hidden(output: Any) -> Tensor | None:
    """Hidden states (B, L, D) that an output carries itself."""
    states = getattr(output, "hidden_states", None)
    last: Tensor | None = states[-1] if states else getattr(output, "last_hidden_state", None)
    return last


def auto_class(transformers: Any, config: Any) -> Any:
    """The auto class that gives a model with a head over tokens."""
    remote = getattr(config, "auto_map", None) or {}
    architecture = (getattr(config, "architectures", None) or [""])[0]
    if architecture.endswith("ForMaskedLM") or "AutoModelForMaskedLM" in remote:
        return transformers.AutoModelForMaskedLM
    if remote:
        with_head = str(remote.get("AutoModelForCausalLM", "")).endswith(f".{architecture}")  # AutoModel may be the body alone
        body_alone = not str(remote.get("AutoModel", "")).endswith(f".{architecture}")
        plain = "AutoModel" in remote and not (with_head and body_alone)
        return transformers.AutoModel if plain else transformers.AutoModelForCausalLM
    return transformers.AutoModelForMaskedLM
