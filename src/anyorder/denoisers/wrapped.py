"""Any module as a denoiser."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anyorder.denoisers.base import DenoiserOutput, check_mask_token, device_of, evaluating, forbid_mask
from anyorder.denoisers.blocks import block_causal_mask, block_numbers, breach, check_block_length, probe
from anyorder.denoisers.padding import Aligned, align_left, move_back, run_by_length
from anyorder.errors import BadInput
from anyorder.files import write_json, written_as_a_whole
from anyorder.hub import Pushable, save_weights
from anyorder.registry import DENOISERS
from anyorder.signatures import checked


class WrappedDenoiser(nn.Module, Pushable):
    """Make a denoiser of any module that maps tokens (B, L) to logits.

    The module may return logits (B, L, V), a tuple (logits, hidden), or an output with `.logits` and, if it has them,
    `.hidden_states` (of all layers, or the last ones alone) or `.last_hidden_state`. Without hidden states the logits take
    their place. The mask token is never predicted.

    Padding may be on either side. If the module's `forward` has an argument `attention_mask`, a batch with padding is passed as
    `module(tokens, attention_mask=mask)` with the padding moved behind the text; the mask is bool (B, L), False at padding. A
    batch without padding is passed as `module(tokens)`, unless the mask has no default. If `forward` has no such argument, the
    sequences of each length are passed without padding, in one call per length.

    With `block_length` the model is one of block diffusion. If the module's `forward` has an argument `attention_mask`, it is
    always passed a block-causal mask, bool (B, 1, L, L), True where a position sees another; else it must make its own.

    Args:
        module: the model.
        mask_token_id: the mask.
        vocab_size: V, the mask included.
        hidden_size: D of the hidden states; V if the module returns none.
        pad_token_id: padding, which the model never reads; None if the caller passes attention masks.
        block_length: positions per block of a block-causal mask; None for a model that sees both sides.
        module_arguments: what the module's constructor was called with, for `save_pretrained`; by default the module's
            attributes of the same names.

    Raises:
        BadInput: something that is not a module, a mask token outside the vocabulary, or one that is the padding too; from the
            first call, a module that does not respect the blocks that `block_length` promises.

    Example:
        >>> import torch
        >>> table = torch.nn.Embedding(5, 5)   # tokens (B, L) -> logits (B, L, 5)
        >>> denoiser = WrappedDenoiser(table, mask_token_id=4, vocab_size=5)
        >>> denoiser(torch.tensor([[0, 4]])).logits.shape
        torch.Size([1, 2, 5])
    """

    @checked("vocab_size", "hidden_size", "pad_token_id")
    def __init__(
        self,
        module: nn.Module,
        mask_token_id: int,
        vocab_size: int,
        hidden_size: int | None = None,
        pad_token_id: int | None = None,
        *,
        block_length: int | None = None,
        module_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise BadInput(f"module is {module!r}; it must be a torch.nn.Module")
        check_mask_token(mask_token_id, vocab_size, pad_token_id)
        check_block_length(block_length)
        self.module = module
        self.block_length = block_length
        self._tried = False
        self.mask_token_id = mask_token_id
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size or vocab_size
        self.pad_token_id = pad_token_id
        self.module_arguments = module_arguments

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None, positions: Tensor | None = None) -> DenoiserOutput:
        """See `Denoiser`."""
        if self.block_length is not None and not self._tried:
            self._try_blocks(self.block_length)
        if attention_mask is None or bool(attention_mask.all()):
            logits, hidden = self._without_padding(tokens)
        else:
            aligned = align_left(tokens, attention_mask)
            logits, hidden = (move_back(values, aligned.column) for values in self._padded(aligned))
        return DenoiserOutput(forbid_mask(logits if positions is None else logits[positions], self.mask_token_id), hidden)

    @property
    def _mask_argument(self) -> inspect.Parameter | None:
        """The argument `attention_mask` of the module's `forward`."""
        return inspect.signature(self.module.forward).parameters.get("attention_mask")

    def _without_padding(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and hidden states of a batch without padding."""
        argument = self._mask_argument
        if argument is not None and self.block_length is not None:
            return self._outputs(self.module(tokens, attention_mask=self._block_mask(tokens, None)), tokens)
        if argument is not None and argument.default is inspect.Parameter.empty:
            return self._outputs(self.module(tokens, attention_mask=torch.ones_like(tokens, dtype=torch.bool)), tokens)
        return self._outputs(self.module(tokens), tokens)

    def _padded(self, aligned: Aligned) -> tuple[Tensor, Tensor]:
        """Logits and hidden states of a batch with padding at its right end."""
        if self._mask_argument is not None:
            mask = aligned.attention_mask.bool()
            given = mask if self.block_length is None else self._block_mask(aligned.tokens, mask)
            output = self.module(aligned.tokens, attention_mask=given)
            return self._outputs(output, aligned.tokens)
        return run_by_length(lambda tokens, _: self._without_padding(tokens), aligned)

    def _try_blocks(self, block_length: int) -> None:
        """Raise BadInput if the module does not respect blocks, at the first call. One that fails on tokens of two blocks is
        not judged."""
        self._tried = True
        words = [token for token in range(min(self.vocab_size, 1000)) if token not in (self.mask_token_id, self.pad_token_id)]
        tokens = probe(words, 2 * block_length, device_of(self))
        with evaluating(self):
            try:
                reason = len(words) > 1 and breach(
                    lambda given: self._without_padding(given)[0], self, tokens, block_length, words
                )
            except (RuntimeError, IndexError):
                return
        if reason:
            raise BadInput(
                f"{type(self.module).__name__} does not respect blocks of {block_length} positions: {reason}. Let its forward "
                "take the block-causal attention_mask, or leave block_length out"
            )

    def _block_mask(self, tokens: Tensor, real: Tensor | None) -> Tensor:
        """The block-causal mask, bool (B, 1, L, L)."""
        assert self.block_length is not None
        seen = block_causal_mask(block_numbers(tokens, real, self.block_length), real)
        return seen.expand(len(tokens), -1, -1, -1)

    def _outputs(self, output: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, L, V) and hidden states (B, L, D) of what the module returned."""
        if hasattr(output, "logits") and not isinstance(output, DenoiserOutput):
            logits, hidden = output.logits, getattr(output, "hidden_states", None)
            if isinstance(hidden, tuple | list):  # of all layers
                hidden = hidden[-1] if hidden else None
            if hidden is None:
                hidden = getattr(output, "last_hidden_state", None)
        elif isinstance(output, tuple) and output:
            logits, hidden = output[0], output[min(1, len(output) - 1)]
        else:
            logits = hidden = output
        hidden = logits if hidden is None else hidden
        for name, found, size in (("logits", logits, "vocab_size"), ("hidden states", hidden, "hidden_size")):
            expected = (*tokens.shape, getattr(self, size))
            if not isinstance(found, Tensor) or found.shape != expected:
                given = tuple(found.shape) if isinstance(found, Tensor) else f"of type {type(found).__name__}"
                remedy = ": set hidden_size to the size of the hidden states" if name != "logits" else ""
                raise BadInput(
                    f"the wrapped module returned {name} {given}; for tokens {tuple(tokens.shape)} and {size}="
                    f"{getattr(self, size)} they must be {expected}{remedy}"
                )
        return logits, hidden

    # ---- saving -------------------------------------------------------------------------------------------------------

    @checked("folder")
    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors`. `load_denoiser(folder)` reads them wherever the module's class can be
        imported.

        Raises:
            BadInput: the module's class cannot be found by name, or the arguments of its constructor are not known.
        """
        config = {
            "class": reference_of(self),
            "module": reference_of(self.module),
            "module_arguments": self._module_arguments(),
            "mask_token_id": self.mask_token_id,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "pad_token_id": self.pad_token_id,
            "block_length": self.block_length,
        }
        with written_as_a_whole(folder) as place:
            save_weights(self, place)
            write_json(place / "config.json", config)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "WrappedDenoiser":
        """A denoiser with fresh weights from what `save_pretrained` wrote into `config.json`."""
        values = dict(config)
        kind, arguments = DENOISERS[str(values.pop("module"))], values.pop("module_arguments")
        return cls(kind(**arguments), **values, module_arguments=arguments)

    def _module_arguments(self) -> dict[str, Any]:
        """The arguments of the module's constructor, as plain values."""
        if self.module_arguments is not None:
            return dict(self.module_arguments)
        names = list(inspect.signature(type(self.module)).parameters)
        found = {name: getattr(self.module, name, self) for name in names}
        if unknown := [name for name, value in found.items() if not _is_plain(value)]:
            raise BadInput(
                f"the module {type(self.module).__name__} does not keep its arguments {', '.join(unknown)} as attributes: "
                "give WrappedDenoiser(..., module_arguments={...})"
            )
        return found


def reference_of(module: nn.Module) -> str:
    """The reference `package.module:Class` if the class of the module can be imported, or else its registered name.

    Raises:
        BadInput: the class was defined in a script or a function, and is not registered.
    """
    kind = type(module)
    if "<" in kind.__qualname__ or kind.__module__ == "__main__":
        return DENOISERS.name_of(module)
    return f"{kind.__module__}:{kind.__qualname__}"


def _is_plain(value: Any) -> bool:
    """Whether JSON gives the same value back."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
