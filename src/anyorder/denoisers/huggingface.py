"""Any masked-token model of the Hugging Face hub as a denoiser: `*ForMaskedLM` (BERT, ALBERT, ModernBERT, ESM, DPLM), and
masked diffusion models that come with their own code (LLaDA, Dream).

The output layer over a large vocabulary is most of the cost of a forward pass, and only masked positions need it. So its input
is reduced to the chosen positions; this works for every model whose output layer is a module, see `taps`.

Models count positions in different ways (from 0, from the padding's id, relative to one another), and some take no position
ids. So padding is moved to the right end before the model sees it, where it disturbs no way of counting. The code of some
models (LLaDA-8B's) ignores the attention mask; their sequences are passed without padding, in one call per length.
"""

import functools
import warnings
import weakref
from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from anyorder.denoisers.base import DenoiserOutput, check_mask_token, device_of, evaluating, move
from anyorder.denoisers.block_families import BlockInputs, block_length_for, find_inputs, reads_no_time
from anyorder.denoisers.families import (
    MASK_AS_IS,
    absolute_positions,
    auto_class,
    body_of,
    hidden_size_of,
    is_shifted,
    last_hidden,
    max_length,
    model_type,
    outputs_of,
)
from anyorder.denoisers.huggingface_cache import HuggingFaceCache, start_cache
from anyorder.denoisers.loading import load_transformers, quietly, refuse_code, weights_of
from anyorder.denoisers.padding import Wanted, align_left, depends_on_padding, move_back, run_by_length
from anyorder.denoisers.special_tokens import UNLOADABLE, mask_of, named_tokens, tokenizer_of, tokens_of_no_text
from anyorder.denoisers.taps import is_compiled, on_device, tapped
from anyorder.denoisers.unsupported import (
    NEEDS_BLOCKS,
    check_adapter,
    check_causal,
    check_configuration,
    check_forward,
    check_type,
)
from anyorder.errors import BadCheckpoint, BadInput, first_line
from anyorder.files import written_as_a_whole
from anyorder.hub import of_hub
from anyorder.signatures import check_argument, checked
from anyorder.weights import check_finite, limited_to

_UNUSED_WEIGHTS = ("esm.contact_head.",)
"""Weights that may be missing: prediction of masked tokens does not need them."""

_SOURCE_OPTIONS = ("revision", "code_revision", "token", "cache_dir", "local_files_only", "subfolder")
"""Where files come from: said once, it holds for configuration, code, weights and tokenizer."""


class HuggingFaceDenoiser(nn.Module):
    """A loaded Hugging Face model as a `Denoiser`.

    Args:
        model: maps `input_ids`, `attention_mask` to an output with `logits` (B, L, V).
        mask_token_id: the mask.
        forbidden: tokens that are never produced, besides the mask: padding, separators and the like.
        shift: the logits at position i predict token i + 1 (Dream).
        pad_token_id: padding, which the model never reads; None if the caller passes attention masks.
        tokenizer: kept for encoding and decoding text, not used here.
        block_length: positions per block of a block-causal attention mask; by default that of models that are known to have one
            (LLaDA2, SDAR, Fast-dLLM v2, BD3LM), and None, which sees both sides, for others.

    Raises:
        BadInput: no model of Hugging Face, one that fills no masks, or one that does not respect a block-causal mask.
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
        block_length: int | None = None,
    ) -> None:
        super().__init__()
        self.source = ""
        self.model = model
        loaded: Any = model  # of the many classes of the hub
        check_argument("model", model, nn.Module)
        if not hasattr(model, "config"):
            raise BadInput(f"{type(model).__name__} has no configuration, as models of Hugging Face have: use WrappedDenoiser")
        config: Any = loaded.config
        check_configuration(type(model).__name__, config)
        if not reads_no_time(config):
            check_forward(model)
        self.block_length = block_length_for(type(model).__name__, config, block_length)
        self._block_inputs: BlockInputs | None = None
        self.vocab_size: int = outputs_of(loaded, config)
        head = loaded.get_output_embeddings() if hasattr(loaded, "get_output_embeddings") else None
        self._parts = [head if isinstance(head, nn.Module) else None, body_of(loaded)]  # listed, so as to be no submodules
        self.hidden_size = hidden_size_of(config)
        check_mask_token(mask_token_id, self.vocab_size, pad_token_id)
        self.mask_token_id = mask_token_id
        self.shift = shift
        self.pad_token_id = pad_token_id
        self.tokenizer = tokenizer
        self.forbidden = sorted({mask_token_id, *(token for token in forbidden if 0 <= token < self.vocab_size)})
        if len(self.forbidden) == self.vocab_size:
            raise BadInput(f"all {self.vocab_size} tokens are forbidden: at least one must remain")
        self.max_length = max_length(config)
        self._mask_as_is = model_type(config) in MASK_AS_IS
        self._absolute = absolute_positions(model)
        with evaluating(self):
            if self.block_length is not None:
                self._block_inputs = self._tried(self.block_length)
            else:
                check_causal(model, lambda tokens: self._run(tokens, None, None).logits, device_of(self))

    @classmethod
    @checked("name")
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        mask_token_id: int | None = None,
        allow: Iterable[int] = (),
        forbid: Iterable[int] = (),
        shift: bool | None = None,
        block_length: int | None = None,
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
            block_length: see the class.
            trust_remote_code: run the code that comes with the model, which must not happen without the user's consent.
            device: where the model goes.
            options: passed to `from_pretrained`: dtype, quantization_config, revision, attn_implementation, ...

        Raises:
            BadInput: no such model, remote code that was not allowed, no mask token, or a tokenizer that does not fit.
            BadCheckpoint: weights that cannot be read, are not finite, or are far fewer than the configuration asks for.
        """
        transformers = load_transformers("Hugging Face models need")
        check_adapter(Path(name))
        options = of_hub(name, options)
        source = {"trust_remote_code": trust_remote_code} | {k: options[k] for k in _SOURCE_OPTIONS if k in options}
        try:
            check_configuration(name, transformers.PretrainedConfig.get_config_dict(name, **source)[0])
            config = transformers.AutoConfig.from_pretrained(name, **source)
            check_type(name, config)
            with quietly(transformers), limited_to(weights_of(name, options)):
                model, report = auto_class(transformers, config).from_pretrained(
                    name, trust_remote_code=trust_remote_code, output_loading_info=True, **options
                )
        except BadInput:
            raise
        except UNLOADABLE as error:
            refuse_code(name, error, "trust_remote_code=True (--trust-remote-code)")
            raise BadInput(f"{name} cannot be loaded as a masked-token model: {first_line(error)}") from error
        except (SafetensorError, RuntimeError, EOFError, UnpicklingError) as error:
            raise BadCheckpoint(f"{name} holds no readable weights for its configuration: {first_line(error)}") from error
        missing = sorted(key for key in report["missing_keys"] if not key.startswith(_UNUSED_WEIGHTS))
        if missing:  # a head that was never trained gives no error later, only nonsense
            raise BadInput(f"{name} has no weights for {', '.join(missing[:3])}...: it is no trained masked-token model")
        check_finite(model, name)
        tokenizer = tokenizer_of(transformers, name, source)
        mask_token_id = mask_of(name, mask_token_id, tokenizer, config)
        if tokenizer is not None:
            special = tokens_of_no_text(tokenizer, outputs_of(model, config))
        elif not (special := set(forbid)):
            special = named_tokens(config)
        pad = getattr(tokenizer, "pad_token_id", None)
        pad = getattr(config, "pad_token_id", None) if pad is None else pad
        denoiser = cls(
            model,
            mask_token_id,
            (special | set(forbid)) - set(allow),
            shift=is_shifted(config) if shift is None else shift,
            pad_token_id=None if pad in {mask_token_id} | named_tokens(tokenizer, "pad") | named_tokens(config, "pad") else pad,
            tokenizer=tokenizer,
            block_length=block_length,
        )
        if tokenizer is not None and len(tokenizer) > denoiser.vocab_size:
            raise BadInput(
                f"tokenizer and model of {name} disagree: {len(tokenizer)} tokens against {denoiser.vocab_size} outputs"
            )
        if device is not None:
            move(denoiser, torch.device(device))
        return denoiser.eval()

    @property
    def _head(self) -> nn.Module | None:
        return self._parts[0]

    @property
    def _body(self) -> nn.Module | None:
        return self._parts[1]

    @property
    def forbidden(self) -> list[int]:
        """Tokens that are never produced, the mask among them."""
        return self._forbidden

    @forbidden.setter
    def forbidden(self, tokens: Iterable[int]) -> None:
        self._forbidden = sorted(tokens)
        self._ban = torch.zeros(self.vocab_size, dtype=torch.bool)
        self._ban[self._forbidden] = True

    @checked("folder")
    def save_pretrained(self, folder: str | Path) -> None:
        """Model and tokenizer, as `from_pretrained` reads them; of a model with adapters (PEFT) the adapters alone.

        Raises:
            BadInput: a model that transformers cannot save, such as one that torch has quantized.
        """
        model: Any = self.model
        with written_as_a_whole(folder) as place:
            try:
                model.save_pretrained(place)
            except OSError:
                raise
            except (*UNLOADABLE, RuntimeError) as error:
                raise BadInput(
                    f"{type(model).__name__} cannot be saved: {first_line(error)}. Save it before it is quantized or offloaded"
                ) from error
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(place)

    def allow(self, tokens: Iterable[int]) -> None:
        """Let these special tokens be produced, such as the end of a sequence whose length is free."""
        self.forbidden = set(self.forbidden) - set(tokens)

    def forbid(self, tokens: Iterable[int]) -> None:
        """Let these tokens never be produced."""
        self.forbidden = {*self.forbidden, *tokens}

    def pad_with(self, token: int) -> None:
        """Use another token as padding, which is never read and never produced."""
        self.pad_token_id = token
        self.forbid([token])

    def maskable(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Positions bool (B, L) that may be masked: no special tokens, no padding."""
        special = torch.tensor([t for t in self.forbidden if t != self.mask_token_id], device=tokens.device)
        fit = ~torch.isin(tokens, special)
        return fit if attention_mask is None else fit & attention_mask.bool()

    def forward(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        *,
        by_length: bool = True,
    ) -> DenoiserOutput:
        """See `Denoiser`. Padding may stand on either side. Hidden states are those that the model's head reads, or of its
        last layer where the model's body gives them. With `by_length`, a model that ignores the attention mask is called once
        for the sequences of each length."""
        if attention_mask is not None and attention_mask.shape != tokens.shape:
            raise BadInput(
                f"attention_mask has shape {tuple(attention_mask.shape)}; it must have that of the tokens, "
                f"{tuple(tokens.shape)}: False at padding"
            )
        if self._absolute and self.max_length is not None and tokens.shape[1] > self.max_length:
            raise BadInput(self._too_long(tokens))
        column: Tensor | None = None  # (B, L), the column in which the model predicts each position
        aligned = None if attention_mask is None else align_left(tokens, attention_mask, self.vocab_size)
        if aligned is not None:
            tokens, column = aligned.tokens, aligned.column
        if self.shift:  # the token before a position predicts it; the first one predicts itself, as in Dream
            column = (torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens) if column is None else column) - 1
            column = column.clamp(min=0)
        wanted = None if positions is None else _at(positions, column)
        if aligned is None or not by_length or bool(aligned.attention_mask.all()) or not self._ignores_padding():
            logits, hidden = self._run(tokens, None if aligned is None else aligned.attention_mask, wanted)
        else:
            logits, hidden = run_by_length(lambda part, at: self._run(part, None, at), aligned, wanted)
        if wanted is None:
            logits = move_back(logits, column)
        return DenoiserOutput(self._without_forbidden(logits), move_back(hidden, column))

    def start_cache(self) -> HuggingFaceCache:
        """An empty cache, for `anyorder.decoding.cache`.

        Raises:
            BadInput: the model's attention cannot be reached.
        """
        return start_cache(self)

    def run_columns(self, tokens: Tensor, position_ids: Tensor | None, wanted: Wanted) -> DenoiserOutput:
        """The model over some columns alone, within `AttentionStore.part`: tokens and position ids int64 (B, n).

        Returns:
            logits (K, V) at the wanted rows and columns, and hidden states (B, n, D).
        """
        logits, hidden = self._run(tokens, None, wanted, position_ids)
        return DenoiserOutput(self._without_forbidden(logits), hidden)

    def _without_forbidden(self, logits: Tensor) -> Tensor:
        """Logits (..., V) with minus infinity for forbidden tokens."""
        if self._ban.device != logits.device:
            self._ban = self._ban.to(logits.device)
        return logits.masked_fill(self._ban, -torch.inf)

    def _run(
        self, tokens: Tensor, attention_mask: Tensor | None, wanted: Wanted | None, position_ids: Tensor | None = None
    ) -> DenoiserOutput:
        """One call of the model: logits (B, L, V), or (K, V) at the wanted rows and columns, and hidden states (B, L, D)."""
        real = torch.ones_like(tokens) if attention_mask is None else attention_mask
        inputs: dict[str, Any] = {"input_ids": tokens, "attention_mask": real}
        if position_ids is not None:
            inputs["position_ids"] = position_ids
        if self._block_inputs is not None:
            del inputs["attention_mask"]
            inputs |= self._block_inputs(tokens, attention_mask, position_ids is not None)
        elif self._mask_as_is:
            inputs["attention_mask"] = None if bool(real.all()) else real.bool()[:, None, None, :]
        compiled = is_compiled(self.model)
        if compiled:
            inputs["output_hidden_states"] = True
        head, body = (None, None) if compiled else (self._head, self._body)
        try:
            with tapped(head, body, tokens.shape, wanted) as forward:
                output = self.model(**inputs)
        except (RuntimeError, IndexError) as error:
            if self.max_length is not None and tokens.shape[1] > self.max_length:
                raise BadInput(self._too_long(tokens)) from error
            raise
        except ValueError as error:
            if self.block_length is None and "attention" in str(error) and "block" in str(error):
                raise BadInput(f"{type(self.model).__name__} {NEEDS_BLOCKS} ({first_line(error)})") from error
            raise
        logits = output.logits if hasattr(output, "logits") else output[0]
        fits = logits.dim() == 2 if forward.cut else logits.shape[:-1] == tokens.shape
        if logits.shape[-1] != self.vocab_size or not fits:
            raise BadInput(
                f"{type(self.model).__name__} returned {tuple(logits.shape)} for tokens {tuple(tokens.shape)}, which are not "
                f"logits over its {self.vocab_size} tokens: load a model for masked tokens (*ForMaskedLM)"
            )
        if wanted is not None and not forward.cut:  # the head has seen every position
            logits = logits[on_device(wanted, logits.device)]
        hidden = forward.found.get("body", forward.found.get("head", last_hidden(output)))
        if hidden is None:
            raise BadInput("this model shows no hidden states: wrap it with WrappedDenoiser")
        return DenoiserOutput(logits.to(tokens.device), hidden.to(tokens.device))

    def _tried(self, block_length: int) -> BlockInputs:
        """How the model is called with a block-causal mask."""
        words = [token for token in range(min(self.vocab_size, 1000)) if token not in (self.pad_token_id, *self.forbidden)]
        words = words if len(words) > 1 else [0, self.vocab_size - 1]

        def logits_of(inputs: BlockInputs, tokens: Tensor) -> Tensor:
            self._block_inputs = inputs
            return self._run(tokens, None, None).logits

        return find_inputs(self.model, block_length, logits_of, words, self.max_length, device_of(self))

    def _ignores_padding(self) -> bool:
        """Whether the model's logits depend on what stands at padding. It is tried once for each model, with a warning."""
        if self.model not in _ignoring:
            words = [t for t in range(self.vocab_size) if t not in (self.pad_token_id, *self.forbidden)][:2]
            with torch.no_grad(), evaluating(self):
                run = functools.partial(self._run, wanted=None)
                found = len(words) == 2 and depends_on_padding(run, self.mask_token_id, words, device_of(self))
            _ignoring[self.model] = found
            if found:
                warnings.warn(
                    f"{type(self.model).__name__} ignores the attention mask: sequences of different lengths are decoded in "
                    "one call per length, so that padding does not change them",
                    stacklevel=2,
                )
        return _ignoring[self.model]

    def _too_long(self, tokens: Tensor) -> str:
        return f"the model takes {self.max_length} tokens at most; it was given {tokens.shape[1]}"


_ignoring: "weakref.WeakKeyDictionary[nn.Module, bool]" = weakref.WeakKeyDictionary()


def _at(positions: Tensor, column: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows and columns at which the chosen positions bool (B, L) are predicted."""
    rows, places = positions.nonzero(as_tuple=True)
    return rows, places if column is None else column[rows, places]
