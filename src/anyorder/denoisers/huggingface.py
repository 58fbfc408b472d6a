"""Any masked-token model of the Hugging Face hub as a denoiser: `*ForMaskedLM` (BERT, ALBERT, ModernBERT, ESM, DPLM), and
masked diffusion models that come with their own code (LLaDA, Dream).

The output layer over a large vocabulary is most of the cost of a forward pass, and only masked positions need it. Its input is
therefore reduced to the chosen positions. This works for every model whose output layer is a module.

Models count positions in different ways (from 0, from the padding's id, relative to each other), and some take no position ids.
Padding is therefore moved to the right end before the model sees it, where it does not change the count.
"""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from anyorder.denoisers.base import DenoiserOutput
from anyorder.denoisers.padding import align_left, move_back
from anyorder.errors import BadCheckpoint, BadInput, first_line

_SHIFTED = {"dream"}
"""Model types whose logits at position i predict token i + 1, as in the causal models that they were adapted from."""

_MASK_AS_IS = {"dream"}
"""Model types that hand the attention mask to scaled_dot_product_attention as it is: it must be bool (B, 1, 1, L)."""


_POSITIONS_AFTER_PADDING = {
    "camembert", "data2vec-text", "esm", "ibert", "longformer", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta",
    "xlm-roberta-xl", "xmod",
}  # fmt: skip
"""Model types whose positions count from the padding token's id + 1, so that fewer are left for tokens."""

_UNUSED_WEIGHTS = ("esm.contact_head.",)
"""Weights that may be missing: prediction of masked tokens does not need them."""

_SOURCE_OPTIONS = ("revision", "code_revision", "token", "cache_dir", "local_files_only", "subfolder")
"""Where files come from: said once, it holds for configuration, code, weights and tokenizer."""

_UNLOADABLE = (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError)


class HuggingFaceDenoiser(nn.Module):
    """A loaded Hugging Face model as a `Denoiser`.

    Args:
        model: maps `input_ids`, `attention_mask` to an output with `logits` (B, L, V).
        mask_token_id: the mask.
        forbidden: tokens that are never produced, besides the mask: padding, separators and the like.
        shift: the logits at position i predict token i + 1 (Dream).
        pad_token_id: padding, which the model never reads; None if the caller passes attention masks.
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
        self.source = ""
        self.model = model
        loaded: Any = model  # of the many classes of the hub
        config: Any = loaded.config
        self.vocab_size: int = _outputs(loaded, config)
        head = loaded.get_output_embeddings() if hasattr(loaded, "get_output_embeddings") else None
        self._head = [head] if isinstance(head, nn.Module) else []  # in a list, so that its weights are not listed twice
        self.hidden_size: int = config.hidden_size if hasattr(config, "hidden_size") else config.d_model
        if not 0 <= mask_token_id < self.vocab_size:
            raise BadInput(f"the mask token {mask_token_id} is not in the model's vocabulary of {self.vocab_size}")
        self.mask_token_id = mask_token_id
        self.shift = shift
        self.pad_token_id = pad_token_id
        self.tokenizer = tokenizer
        self.forbidden = sorted({mask_token_id, *(token for token in forbidden if 0 <= token < self.vocab_size)})
        self.max_length = _max_length(config)
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
            mask_token_id: the mask, if neither tokenizer nor configuration names it.
            allow: special tokens that may be produced, such as the end of the text.
            forbid: tokens that may not be produced, besides the special ones of the tokenizer.
            shift: see the class; by default true for models that are known to need it.
            trust_remote_code: run the code that comes with the model, which must not happen without the user's consent.
            device: where the model goes.
            options: passed to `from_pretrained`: dtype, quantization_config, revision, attn_implementation, ...

        Raises:
            BadInput: no such model, remote code that was not allowed, no mask token, or a tokenizer that does not fit.
        """
        transformers = load_transformers("Hugging Face models need")
        source = {"trust_remote_code": trust_remote_code} | {k: options[k] for k in _SOURCE_OPTIONS if k in options}
        try:
            config = transformers.AutoConfig.from_pretrained(name, **source)
            with _quietly(transformers):
                model, report = _auto_class(transformers, config).from_pretrained(
                    name, trust_remote_code=trust_remote_code, output_loading_info=True, **options
                )
        except _UNLOADABLE as error:
            if "trust_remote_code" in str(error):
                raise BadInput(
                    f"{name} comes with code of its own: read it, then allow it by trust_remote_code=True (--trust-remote-code)"
                ) from error
            raise BadInput(f"{name} cannot be loaded as a masked-token model: {first_line(error)}") from error
        except (SafetensorError, RuntimeError, EOFError, UnpicklingError) as error:
            raise BadCheckpoint(f"{name} holds no readable weights for its configuration: {first_line(error)}") from error
        missing = sorted(key for key in report["missing_keys"] if not key.startswith(_UNUSED_WEIGHTS))
        if missing:  # a head that was never trained gives no error later, only nonsense
            raise BadInput(f"{name} has no weights for {', '.join(missing[:3])}...: it is not a trained masked-token model")
        tokenizer = _tokenizer_of(transformers, name, source)
        mask_token_id = _mask_of(name, mask_token_id, tokenizer, config)
        if tokenizer is not None:
            special = tokens_of_no_text(tokenizer, _outputs(model, config))
        elif not (special := set(forbid)):
            special = _special_of(config)
        pad = getattr(tokenizer, "pad_token_id", None)
        pad = getattr(config, "pad_token_id", None) if pad is None else pad
        denoiser = cls(
            model,
            mask_token_id,
            (special | set(forbid)) - set(allow),
            shift=is_shifted(config) if shift is None else shift,
            pad_token_id=None if pad in _special_of(tokenizer, "pad") | _special_of(config, "pad") else pad,
            tokenizer=tokenizer,
        )
        if tokenizer is not None and len(tokenizer) > denoiser.vocab_size:
            raise BadInput(
                f"tokenizer and model of {name} disagree: {len(tokenizer)} tokens against {denoiser.vocab_size} outputs"
            )
        return denoiser.eval().to(device) if device is not None else denoiser.eval()

    @property
    def forbidden(self) -> list[int]:
        """Tokens that are never produced, the mask among them."""
        return self._forbidden

    @forbidden.setter
    def forbidden(self, tokens: Iterable[int]) -> None:
        self._forbidden = sorted(tokens)
        self._ban = torch.zeros(self.vocab_size, dtype=torch.bool)
        self._ban[self._forbidden] = True

    def save_pretrained(self, folder: str | Path) -> None:
        """Model and tokenizer, as `from_pretrained` reads them."""
        model: Any = self.model
        model.save_pretrained(folder)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)

    def allow(self, tokens: Iterable[int]) -> None:
        """Let these special tokens be produced, such as the end of a sequence whose length is free."""
        self.forbidden = set(self.forbidden) - set(tokens)

    def pad_with(self, token: int) -> None:
        """Use another token as padding, which is never read and never produced."""
        self.pad_token_id = token
        self.forbidden = {*self.forbidden, token}

    def maskable(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Positions bool (B, L) that may be masked: no special tokens, no padding."""
        special = torch.tensor([t for t in self.forbidden if t != self.mask_token_id], device=tokens.device)
        fit = ~torch.isin(tokens, special)
        return fit if attention_mask is None else fit & attention_mask.bool()

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None, positions: Tensor | None = None) -> DenoiserOutput:
        """See `Denoiser`. Padding may be on either side. Hidden states are those that the model's head reads, or else those of
        the last layer."""
        real = torch.ones_like(tokens) if attention_mask is None else attention_mask.long()
        column: Tensor | None = None  # (B, L), the column in which the model predicts each position
        if attention_mask is not None:
            tokens, real, column = align_left(tokens, attention_mask)
        if self.shift:  # the token before a position predicts it; the first one predicts itself, as in Dream
            column = (torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens) if column is None else column) - 1
            column = column.clamp(min=0)
        inputs: dict[str, Any] = {"input_ids": tokens, "attention_mask": real}
        if self._mask_as_is:
            inputs["attention_mask"] = None if bool(real.all()) else real.bool()[:, None, None, :]
        wanted = positions if positions is None or column is None else _at(positions, column)
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
        except (RuntimeError, IndexError) as error:
            if self.max_length is not None and tokens.shape[1] > self.max_length:
                raise BadInput(f"the model takes {self.max_length} tokens at most; it was given {tokens.shape[1]}") from error
            raise
        finally:
            for hook in hooks:
                hook.remove()
        logits = output.logits if hasattr(output, "logits") else output[0]
        if logits.shape[-1] != self.vocab_size or logits.dim() != (2 if "cut" in caught else 3):
            raise BadInput(
                f"{type(self.model).__name__} returned {tuple(logits.shape)} for tokens {tuple(tokens.shape)}, which are not "
                f"logits over its {self.vocab_size} tokens: load a model for masked tokens (*ForMaskedLM)"
            )
        if "cut" not in caught:  # the head is not a module of its own: it has seen every position
            logits = move_back(logits, column) if wanted is None else logits[wanted]
        hidden = caught.get("body", caught.get("head"))
        if hidden is None:
            raise BadInput("this model shows no hidden states: wrap it with WrappedDenoiser")
        if self._ban.device != logits.device:
            self._ban = self._ban.to(logits.device)
        return DenoiserOutput(logits.masked_fill(self._ban, -torch.inf), move_back(hidden, column))


def is_shifted(config: Any) -> bool:
    """Do the logits of models with this configuration predict the next position, as Dream's do?"""
    return _model_type(config) in _SHIFTED


def _max_length(config: Any) -> int | None:
    """Largest length of a sequence, special tokens included; None if the configuration does not give it."""
    most = getattr(config, "max_position_embeddings", None) or getattr(config, "max_sequence_length", None)
    if most is not None and _model_type(config) in _POSITIONS_AFTER_PADDING:
        most -= (config.pad_token_id or 0) + 1
    return most


def _model_type(config: Any) -> str:
    return str(getattr(config, "model_type", "")).lower()


def _at(positions: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns at which the chosen positions bool (B, L) are predicted."""
    rows, places = positions.nonzero(as_tuple=True)
    return rows, column[rows, places]


def _tokenizer_of(transformers: Any, name: str | Path, source: dict[str, Any]) -> Any:
    """The model's tokenizer; None if it has none, since token ids are enough. One that cannot be read gives a warning."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **source)
    except _UNLOADABLE as error:
        if any((Path(name) / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json")):
            warnings.warn(f"the tokenizer of {name} cannot be read, and is left out: {first_line(error)}", stacklevel=3)
        return None
    return None if len(tokenizer) <= len(tokenizer.all_special_ids) else tokenizer  # made up where there is no vocabulary


def _mask_of(name: str | Path, given: int | None, tokenizer: Any, config: Any) -> int:
    """The mask: as given, or by tokenizer and configuration, which must agree."""
    if given is not None:
        return given
    found = (getattr(tokenizer, "mask_token_id", None), getattr(config, "mask_token_id", None))
    named = {int(token) for token in found if token is not None}
    if len(named) > 1:
        raise BadInput(
            f"tokenizer and configuration of {name} disagree: mask {found[0]} against {found[1]}; "
            "give mask_token_id (--model-option mask_token_id=N)"
        )
    if not named:
        raise BadInput(f"{name} names no mask token: give mask_token_id (--model-option mask_token_id=N)")
    return named.pop()


def tokens_of_no_text(tokenizer: Any, vocab_size: int) -> set[int]:
    """Special tokens of a tokenizer, also those added later, and outputs of the model for which it has no token."""
    return special_tokens(tokenizer) | (set(range(vocab_size)) - set(tokenizer.get_vocab().values()))


def special_tokens(tokenizer: Any) -> set[int]:
    """Special tokens that a tokenizer names, and those that were added to it as special ones."""
    added = {number for number, token in getattr(tokenizer, "added_tokens_decoder", {}).items() if token.special}
    return added | set(tokenizer.all_special_ids)


def _special_of(source: Any, without: str = "") -> set[int]:
    """Tokens that a configuration or a tokenizer names as first, last, padding or between."""
    found: set[int] = set()
    for which in {"bos", "eos", "pad", "cls", "sep"} - {without}:
        value = getattr(source, f"{which}_token_id", None)
        found |= {value} if isinstance(value, int) else set(value or ())
    return found


def _outputs(model: Any, config: Any) -> int:
    """The number of tokens in a model's vocabulary."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return head.out_features if isinstance(head, nn.Linear) else int(config.vocab_size)


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
