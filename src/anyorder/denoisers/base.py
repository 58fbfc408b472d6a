"""What a denoiser is: a network that looks at a partly masked sequence and says what each masked token may be."""

import hashlib
import inspect
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from anyorder.denoisers.padding import Aligned, align_left, move_back
from anyorder.errors import BadInput


class DenoiserOutput(NamedTuple):
    """logits float (B, L, V), or (K, V) for K chosen positions in row-major order; hidden float (B, L, D)."""

    logits: Tensor
    hidden: Tensor


@runtime_checkable
class Denoiser(Protocol):
    """A masked-token model as the rest of the library sees it. Any `nn.Module` with these members will do.

    `forward(tokens, attention_mask, positions)` takes tokens int64 (B, L), an optional attention mask bool (B, L) that is
    False at padding, and optionally the positions bool (B, L) whose logits are wanted: then logits are (K, V), K being
    the number of True entries. The output layer over a large vocabulary is most of the cost of a forward pass.

    A denoiser with an attribute `pad_token_id` is never asked about padding: `decode` and training derive the attention mask.
    """

    mask_token_id: int
    vocab_size: int
    hidden_size: int

    def __call__(
        self, tokens: Tensor, attention_mask: Tensor | None = None, positions: Tensor | None = None
    ) -> DenoiserOutput: ...


class WrappedDenoiser(nn.Module):
    """Make a denoiser of any module that maps tokens (B, L) to logits.

    The module may return logits (B, L, V), a tuple (logits, hidden), or an output with `.logits` and, if it has them,
    `.hidden_states` or `.last_hidden_state`. Without hidden states the logits take their place. The mask token is never
    predicted.

    A batch with padding is passed as `module(tokens, attention_mask)`, with the padding moved behind the text, so that it may
    be on either side. A module whose `forward` takes no attention mask sees the sequences of each length alone.

    Args:
        module: the model.
        mask_token_id: the mask.
        vocab_size: V, the mask included.
        hidden_size: D of the hidden states; V if the module returns none.
        pad_token_id: padding, which is never looked at; None if the caller passes attention masks.

    Raises:
        BadInput: a mask token outside the vocabulary.

    Example:
        >>> import torch
        >>> table = torch.nn.Embedding(5, 5)   # tokens (B, L) -> logits (B, L, 5)
        >>> denoiser = WrappedDenoiser(table, mask_token_id=4, vocab_size=5)
        >>> denoiser(torch.tensor([[0, 4]])).logits.shape
        torch.Size([1, 2, 5])
    """

    def __init__(
        self,
        module: nn.Module,
        mask_token_id: int,
        vocab_size: int,
        hidden_size: int | None = None,
        pad_token_id: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= mask_token_id < vocab_size:
            raise BadInput(f"mask_token_id is {mask_token_id}; it must lie in 0..{vocab_size - 1}")
        self.module = module
        self.mask_token_id = mask_token_id
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size or vocab_size
        self.pad_token_id = pad_token_id

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None, positions: Tensor | None = None) -> DenoiserOutput:
        """See `Denoiser`."""
        if attention_mask is None or bool(attention_mask.all()):
            logits, hidden = self._outputs(self.module(tokens), tokens)
        else:
            aligned = align_left(tokens, attention_mask)
            logits, hidden = (move_back(values, aligned.column) for values in self._padded(aligned))
        return DenoiserOutput(forbid_mask(logits if positions is None else logits[positions], self.mask_token_id), hidden)

    def _padded(self, aligned: Aligned) -> tuple[Tensor, Tensor]:
        """Logits and hidden states of a batch with padding at its right end."""
        if _takes_attention_mask(self.module):
            return self._outputs(self.module(aligned.tokens, aligned.attention_mask), aligned.tokens)
        lengths = aligned.attention_mask.sum(dim=1)
        logits = hidden = torch.zeros(0)
        for length in lengths.unique().tolist():
            rows = lengths == length
            found = self._outputs(self.module(aligned.tokens[rows, :length]), aligned.tokens[rows, :length])
            if not len(logits):
                logits, hidden = (v.new_zeros((*aligned.tokens.shape, v.shape[-1])) for v in found)
            logits[rows, :length], hidden[rows, :length] = found
        return logits, hidden

    def _outputs(self, output: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, L, V) and hidden states (B, L, D) of what the module returned."""
        if isinstance(output, tuple) and not hasattr(output, "logits"):
            logits, hidden = output[0], output[1]
        elif hasattr(output, "logits"):
            logits, states = output.logits, getattr(output, "hidden_states", None)
            last = states[-1] if states else getattr(output, "last_hidden_state", None)
            hidden = logits if last is None else last
        else:
            logits = hidden = output
        expected = (*tokens.shape, self.vocab_size)
        if not isinstance(logits, Tensor) or logits.shape != expected:
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise BadInput(
                f"the wrapped module returned logits {found}; for tokens {tuple(tokens.shape)} they must be {expected}"
            )
        return logits, hidden


def _takes_attention_mask(module: nn.Module) -> bool:
    """Whether the module's `forward` takes a second argument."""
    parameters = list(inspect.signature(module.forward).parameters.values())
    plain = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(plain) > 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters)


def default_device() -> str:
    """The GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_of(denoiser: object, fallback: torch.device | str = "cpu") -> torch.device:
    """The device of a denoiser's weights; `fallback` if it has none."""
    weights = next(iter(denoiser.parameters()), None) if isinstance(denoiser, nn.Module) else None
    return torch.device(fallback) if weights is None else weights.device


def attention_of(denoiser: object, tokens: Tensor) -> Tensor | None:
    """The attention mask (B, L) that a batch needs: False at the denoiser's `pad_token_id`; None where nothing is padded."""
    pad = getattr(denoiser, "pad_token_id", None)
    if pad is None:
        return None
    real = tokens != pad
    return None if bool(real.all()) else real


def check_tokens(tokens: Tensor, denoiser: "Denoiser") -> None:
    """Raise BadInput unless tokens are int64 (B, L) of this denoiser's vocabulary (or its padding)."""
    if tokens.dim() != 2 or tokens.dtype != torch.int64:
        raise BadInput(f"the tokens are {tokens.dtype} of shape {tuple(tokens.shape)}; they must be int64 (batch, length)")
    pad = getattr(denoiser, "pad_token_id", None)
    if tokens.numel() and int(tokens.max()) >= max(denoiser.vocab_size, 0 if pad is None else pad + 1):
        raise BadInput(
            f"the tokens go up to {int(tokens.max())}, and the denoiser has a vocabulary of {denoiser.vocab_size}: they come "
            "from another task or tokenizer (anyorder.task_for(denoiser) makes the right task)"
        )


def forbid_mask(logits: Tensor, mask_token_id: int) -> Tensor:
    """The denoiser never predicts the mask token: its logit becomes -inf. Not in place."""
    forbidden = torch.arange(logits.shape[-1], device=logits.device) == mask_token_id
    return logits.masked_fill(forbidden, -torch.inf)


def fingerprint(denoiser: nn.Module) -> str:
    """A short hash of a denoiser's weights. A policy remembers it, so that it is not used on another denoiser unnoticed.

    It reads the names, shapes and values of all parameters and buffers, in float32 on the CPU.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(denoiser.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
