"""Any masked-token model of the Hugging Face hub as a denoiser: `*ForMaskedLM` (BERT, ALBERT, ModernBERT, ESM, DPLM), and
masked diffusion models that come with their own code (LLaDA, Dream).

The head of a large vocabulary is the cost of a forward, and only masked positions need it. So the input of the model's output
embedding is cut down to the chosen positions before the head sees it; this works for every model whose head is a module.
"""

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from anyorder.denoisers.base import DenoiserOutput
from anyorder.errors import BadCheckpoint, BadInput, first_line

_SHIFTED = {"dream"}
"""Model types whose logits at position i predict token i + 1, as in the causal models that they were adapted from."""

_MASK_AS_IS = {"dream"}
"""Model types that hand the attention mask to scaled_dot_product_attention as it is: it must be bool (B, 1, 1, L)."""


_POSITIONS_AFTER_PADDING = {"esm", "roberta", "xlm-roberta", "camembert"}
"""Model types whose positions count from the padding token's id + 1, so that fewer are left for tokens."""


class HuggingFaceDenoiser(nn.Module):
    """A loaded Hugging Face model as a `Denoiser`.

    Args:
        model: maps `input_ids`, `attention_mask` to an output with `logits` (B, L, V).
        mask_token_id: the mask.
        forbidden: tokens that are never produced, besides the mask: padding, separators and the like.
        shift: the logits at position i predict token i + 1 (Dream).
        pad_token_id: padding, which is never looked at; None where the caller gives attention masks.
        tokenizer: kept for encoding and decoding text, not used here.
    """

    def __init__(
        self,
        model: nn.Module,
        mask_token_id: int,
        forbidden: Iterable[int] = (),
        *,
        shift: bool = False,
        pad_token_id: int | None = None,
        tokenizer: Any = None,
    ) -> None:
        super().__init__()
        self.model = model
        loaded: Any = model  # of the many classes of the hub
        config: Any = loaded.config
        self.vocab_size: int = config.vocab_size
        head = loaded.get_output_embeddings() if hasattr(loaded, "get_output_embeddings") else None
        self._head = [head] if isinstance(head, nn.Module) else []  # in a list, so that its weights are not listed twice
        if self._head and isinstance(self._head[0], nn.Linear):
            self.vocab_size = self._head[0].out_features
        self.hidden_size: int = config.hidden_size if hasattr(config, "hidden_size") else config.d_model
        if not 0 <= mask_token_id < self.vocab_size:
            raise BadInput(f"the mask token {mask_token_id} is not in the model's vocabulary of {self.vocab_size}")
        self.mask_token_id = mask_token_id
        self.shift = shift
        self.pad_token_id = pad_token_id
        self.tokenizer = tokenizer
        self.forbidden = sorted({mask_token_id, *(token for token in forbidden if 0 <= token < self.vocab_size)})
        self.max_length = _max_length(config)
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self._mask_as_is = _model_type(config) in _MASK_AS_IS

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        mask_token_id: int | None = None,
        allow: Iterable[int] = (),
        forbid: Iterable[int] = (),
        shift: bool | None = None,
        trust_remote_code: bool = False,
        device: str | torch.device | None = None,
        **options: Any,
    ) -> "HuggingFaceDenoiser":
        """Load a model and its tokenizer from a hub id or a folder.

        Args:
            name: hub id or folder.
            mask_token_id: the mask, where neither tokenizer nor configuration names it.
            allow: special tokens that may be produced all the same, such as the end of the text.
            forbid: tokens that may not, besides the special ones of the tokenizer.
            shift: see the class; by default true for models that are known to need it.
            trust_remote_code: run the code that comes with the model. Never without the user's word.
            device: where the model goes.
            options: passed to `from_pretrained`: dtype, quantization_config, revision, attn_implementation, ...

        Raises:
            BadInput: no such model, remote code that was not allowed, no mask token, or a tokenizer that does not fit.
        """
        transformers = load_transformers("Hugging Face models need")
        try:
            config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
            with _quietly(transformers):
                model, report = _auto_class(transformers, config).from_pretrained(
                    name, trust_remote_code=trust_remote_code, output_loading_info=True, **options
                )
        except (OSError, ValueError, ImportError) as error:
            if "trust_remote_code" in str(error):
                raise BadInput(
                    f"{name} comes with code of its own: read it, then allow it with trust_remote_code=True"
                ) from error
            raise BadInput(f"{name} cannot be loaded as a masked-token model: {first_line(error)}") from error
        except SafetensorError as error:
            raise BadCheckpoint(f"{name} holds no readable weights: {error}") from error
        if report["missing_keys"]:  # a head that was never trained gives no error later, only nonsense
            missing = ", ".join(sorted(report["missing_keys"])[:3])
            raise BadInput(f"{name} has no weights for {missing}...: it is no trained masked-token model")
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
        except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError):
            tokenizer = None  # token ids are enough
        if tokenizer is not None and len(tokenizer) <= len(tokenizer.all_special_ids):
            tokenizer = None  # made up where the folder has no vocabulary
        if mask_token_id is None:
            mask_token_id = getattr(tokenizer, "mask_token_id", None)
        if mask_token_id is None:
            mask_token_id = getattr(config, "mask_token_id", None)
        if mask_token_id is None:
            raise BadInput(f"{name} names no mask token: give mask_token_id")
        special = set(getattr(tokenizer, "all_special_ids", []))
        if shift is None:
            shift = is_shifted(config)
        pad = getattr(tokenizer, "pad_token_id", None)
        pad = getattr(config, "pad_token_id", None) if pad is None else pad
        ends = {getattr(tokenizer, "eos_token_id", None), getattr(config, "eos_token_id", None)}
        forbidden = (special | set(forbid)) - set(allow)
        denoiser = cls(
            model, mask_token_id, forbidden, shift=shift, pad_token_id=None if pad in ends else pad, tokenizer=tokenizer
        )
        if tokenizer is not None and len(tokenizer) > denoiser.vocab_size:
            raise BadInput(
                f"tokenizer and model of {name} disagree: {len(tokenizer)} tokens against {denoiser.vocab_size} outputs"
            )
        return denoiser.eval().to(device) if device is not None else denoiser.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Model and tokenizer, as `from_pretrained` reads them."""
        model: Any = self.model
        model.save_pretrained(folder)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)

    def allow(self, tokens: Iterable[int]) -> None:
        """Let these special tokens be produced, such as the end of a sequence whose length is free."""
        self.forbidden = sorted(set(self.forbidden) - set(tokens))

    def pad_with(self, token: int) -> None:
        """Take another token for padding: it is never looked at, and never produced."""
        self.pad_token_id = token
        self.forbidden = sorted({*self.forbidden, token})

    def maskable(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Positions bool (B, L) that may be masked: no special tokens, no padding."""
        special = torch.tensor([t for t in self.forbidden if t != self.mask_token_id], device=tokens.device)
        fit = ~torch.isin(tokens, special)
        return fit if attention_mask is None else fit & attention_mask.bool()

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None, positions: Tensor | None = None) -> DenoiserOutput:
        """See `Denoiser`. Padding may stand on either side. Hidden states are those that the model's head reads, or of its
        last layer where the model's body gives them."""
        real = torch.ones_like(tokens) if attention_mask is None else attention_mask.long()
        inputs: dict[str, Any] = {"input_ids": tokens, "attention_mask": real}
        if self._mask_as_is:
            inputs["attention_mask"] = None if bool(real.all()) else real.bool()[:, None, None, :]
        if self._takes_positions:
            inputs["position_ids"] = (real.cumsum(dim=1) - 1).clamp(min=0)
        source = _source(real) if self.shift else None
        wanted = positions if positions is None or source is None else _at(positions, source)
        caught: dict[str, Tensor] = {}

        def cut(_module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            caught["head"] = arguments[0]
            if wanted is None or arguments[0].shape[:2] != tokens.shape:
                return arguments
            caught["cut"] = arguments[0]
            return (arguments[0][wanted], *arguments[1:])

        def keep(_module: nn.Module, _arguments: Any, output: Any) -> None:
            last = getattr(output, "last_hidden_state", None)
            if last is not None:
                caught["body"] = last

        body: Any = getattr(self.model, "base_model", self.model)
        hooks = [head.register_forward_pre_hook(cut) for head in self._head]
        hooks += [body.register_forward_hook(keep)] if body is not self.model else []
        try:
            output = self.model(**inputs)
        finally:
            for hook in hooks:
                hook.remove()
        logits = output.logits if hasattr(output, "logits") else output[0]
        if "cut" not in caught:  # the head is no module of its own: it has seen every position
            logits = _moved(logits, source) if wanted is None else logits[wanted]
        hidden = caught.get("body", caught.get("head"))
        if hidden is None:
            raise BadInput("this model shows no hidden states: wrap it with WrappedDenoiser")
        ban = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
        ban[self.forbidden] = True
        return DenoiserOutput(logits.masked_fill(ban, -torch.inf), _moved(hidden, source))


def is_shifted(config: Any) -> bool:
    """Do the logits of models with this configuration predict the next position, as Dream's do?"""
    return _model_type(config) in _SHIFTED


def _max_length(config: Any) -> int | None:
    """Most tokens of a sequence, special ones included; None where the configuration does not say."""
    most = getattr(config, "max_position_embeddings", None)
    if most is not None and _model_type(config) in _POSITIONS_AFTER_PADDING:
        most -= (config.pad_token_id or 0) + 1
    return most


def _model_type(config: Any) -> str:
    return str(getattr(config, "model_type", "")).lower()


def _source(real: Tensor) -> Tensor:
    """Where a shifted model predicts each position, int64 (B, L): at the one before it, padding left out; the first real
    position stands for itself, as in Dream."""
    places = torch.arange(real.shape[1], device=real.device).expand_as(real)
    latest = torch.where(real.bool(), places, -1).cummax(dim=1).values
    before = torch.nn.functional.pad(latest[:, :-1], (1, 0), value=-1)
    return torch.where(before < 0, places, before)


def _at(positions: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns at which the chosen positions bool (B, L) are predicted."""
    rows, columns = positions.nonzero(as_tuple=True)
    return rows, source[rows, columns]


def _moved(values: Tensor, source: Tensor | None) -> Tensor:
    """Values (B, L, D) moved to the positions that they speak of."""
    return values if source is None else values[torch.arange(len(values), device=values.device)[:, None], source]


def _auto_class(transformers: Any, config: Any) -> Any:
    """The auto class that gives a model with a head over tokens."""
    remote = getattr(config, "auto_map", None) or {}
    architecture = (getattr(config, "architectures", None) or [""])[0]
    if architecture.endswith("ForMaskedLM") or "AutoModelForMaskedLM" in remote:
        return transformers.AutoModelForMaskedLM
    if remote:
        return transformers.AutoModel if "AutoModel" in remote else transformers.AutoModelForCausalLM
    return transformers.AutoModelForMaskedLM


@contextmanager
def _quietly(transformers: Any) -> Iterator[None]:
    """Without transformers' progress bars and remarks about weights that are left over."""
    log = transformers.utils.logging
    bars, level = log.is_progress_bar_enabled(), log.get_verbosity()
    log.disable_progress_bar(), log.set_verbosity_error()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def load_transformers(what: str) -> Any:
    """The package transformers, which `what` needs.

    Raises:
        BadInput: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise BadInput(f"{what}: pip install 'anyorder[hf]'") from error
    return transformers
