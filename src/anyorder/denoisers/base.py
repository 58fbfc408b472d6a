"""What a denoiser is: a network that reads a partly masked sequence and predicts each masked token."""

import hashlib
import weakref
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

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

    If a denoiser has an attribute `pad_token_id`, `decode` and training derive the attention mask from it.
    """

    mask_token_id: int
    vocab_size: int
    hidden_size: int

    def __call__(
        self, tokens: Tensor, attention_mask: Tensor | None = None, positions: Tensor | None = None
    ) -> DenoiserOutput: ...


def default_device() -> str:
    """The GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def missing_attributes(module: object) -> list[str]:
    """The attributes of a `Denoiser` that a module lacks."""
    return [name for name in ("mask_token_id", "vocab_size", "hidden_size") if not hasattr(module, name)]


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
    if not tokens.numel():
        return
    if int(tokens.min()) < (0 if pad is None else min(pad, 0)):
        raise BadInput(f"the tokens hold {int(tokens.min())}; they must be 0 or more (a position to fill holds the mask token)")
    if int(tokens.max()) >= max(denoiser.vocab_size, 0 if pad is None else pad + 1):
        raise BadInput(
            f"the tokens go up to {int(tokens.max())}, and the denoiser has a vocabulary of {denoiser.vocab_size}: they come "
            "from another task or tokenizer (anyorder.task_for(denoiser) makes the right task)"
        )


def forbid_mask(logits: Tensor, mask_token_id: int) -> Tensor:
    """The denoiser never predicts the mask token: its logit becomes -inf. Not in place."""
    forbidden = torch.arange(logits.shape[-1], device=logits.device) == mask_token_id
    return logits.masked_fill(forbidden, -torch.inf)


def fingerprint(denoiser: nn.Module) -> str:
    """A short hash of a denoiser's weights. A policy stores it, so that its use on another denoiser is noticed.

    It reads the names, shapes and values of all parameters and buffers. Weights count in bfloat16, so a model that is loaded in
    float32 or in bfloat16 is the same one. (In float16 it is another one, since it is rounded differently.) The weights are
    read in pieces, and only once as long as they do not change.
    """
    weights = sorted(denoiser.state_dict().items())
    if any(tensor.is_inference() for _, tensor in weights):  # such tensors do not count their changes
        return _hash_of(weights)
    state = [(name, tensor.data_ptr(), tensor._version) for name, tensor in weights]
    known = _fingerprints.get(denoiser)
    if known is None or known[0] != state:
        _fingerprints[denoiser] = known = (state, _hash_of(weights))
    return known[1]


_fingerprints: "weakref.WeakKeyDictionary[nn.Module, tuple[Any, str]]" = weakref.WeakKeyDictionary()
_PIECE = 2**24  # values


def _hash_of(weights: list[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in weights:
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        if tensor.is_meta:  # offloaded: its values are elsewhere
            continue
        for piece in tensor.detach().reshape(-1).split(_PIECE):
            values = piece.to(torch.bfloat16) if piece.is_floating_point() else piece
            digest.update(values.cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
