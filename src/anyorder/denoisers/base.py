"""What a denoiser is: a network that reads a partly masked sequence and predicts each masked token."""

import functools
import hashlib
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from anyorder.errors import BadInput
from anyorder.signatures import checked


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


def check_is_denoiser(model: object) -> None:
    """Raise BadInput, with the way to make a denoiser of it, unless a model has the attributes of one."""
    if not (missing := missing_attributes(model)):
        return
    if isinstance(model, str | Path):
        raise BadInput(f"the denoiser is the text {str(model)!r}: load it with anyorder.load_denoiser")
    way = "use HuggingFaceDenoiser" if hasattr(model, "config") else "see Denoiser, or use WrappedDenoiser"
    raise BadInput(f"a {type(model).__name__} is no denoiser: it has no {', '.join(missing)}; {way}")


def check_mask_token(mask_token_id: object, vocab_size: int, pad_token_id: object = None) -> None:
    """Raise BadInput unless this is a token of the vocabulary, and not the padding too."""
    whole = isinstance(mask_token_id, Integral) and not isinstance(mask_token_id, bool)
    if not whole or not 0 <= int(mask_token_id) < vocab_size:  # type: ignore[call-overload]
        raise BadInput(
            f"the mask token {mask_token_id!r} is not in the model's vocabulary of {vocab_size}: give a token id, such as "
            "tokenizer.mask_token_id"
        )
    if pad_token_id == mask_token_id:
        raise BadInput(
            f"pad_token_id is {pad_token_id}, which is the mask: every mask would count as padding, and none be decoded; "
            "give another token, or None and attention masks"
        )


def device_of(denoiser: object, fallback: torch.device | str = "cpu") -> torch.device:
    """The device of a denoiser's weights or buffers, or the one that computes with them if accelerate keeps them elsewhere;
    `fallback` if it has none.

    Raises:
        BadInput: the weights have no values yet.
    """
    weights = next(chain(denoiser.parameters(), denoiser.buffers()), None) if isinstance(denoiser, nn.Module) else None
    if weights is None:
        return torch.device(fallback)
    if not weights.is_meta:
        return weights.device
    found = next(_devices_of_hooks(denoiser), None)
    if found is None:
        raise BadInput(f"the weights of {type(denoiser).__name__} are on the device meta, without values: load them first")
    return found


def move(denoiser: nn.Module, device: torch.device) -> None:
    """Move a denoiser, unless accelerate has placed its layers (`device_map`): then each stays where it is."""
    if next(_devices_of_hooks(denoiser), None) is None:
        denoiser.to(device)


def _devices_of_hooks(denoiser: Any) -> Iterator[torch.device]:
    """The devices on which the hooks of accelerate let the layers compute."""
    for module in denoiser.modules():
        hook = getattr(module, "_hf_hook", None)
        for each in getattr(hook, "hooks", [hook]):
            device = getattr(each, "execution_device", None)
            if isinstance(device, int | str | torch.device):
                yield torch.device(device)


@contextmanager
def evaluating(module: object) -> Iterator[None]:
    """A module in eval mode. A part that was in training mode returns to it when the last thread that evaluates it leaves, be
    it through this module or another one that holds the part."""
    while not isinstance(module, nn.Module) and hasattr(module, "denoiser"):  # a denoiser around another one
        module = module.denoiser
    parts = list(module.modules()) if isinstance(module, nn.Module) else []
    with _modes:
        changed = [part for part in parts if part.training or part in _evaluated]
        for part in changed:
            _evaluated[part] = _evaluated.get(part, 0) + 1
            part.training = False
    try:
        yield
    finally:
        with _modes:
            for part in changed:
                _evaluated[part] -= 1
                if not _evaluated[part]:
                    del _evaluated[part]
                    part.training = True


P = ParamSpec("P")
R = TypeVar("R")


def in_eval_mode(function: Callable[P, R]) -> Callable[P, R]:
    """A function that calls its first argument, a denoiser, in eval mode."""

    @functools.wraps(function)
    def evaluated(*args: P.args, **kwargs: P.kwargs) -> R:
        with evaluating(args[0] if args else kwargs.get("denoiser")):
            return function(*args, **kwargs)

    return evaluated


_modes = threading.Lock()
_evaluated: "weakref.WeakKeyDictionary[nn.Module, int]" = weakref.WeakKeyDictionary()


def attention_of(denoiser: object, tokens: Tensor) -> Tensor | None:
    """The attention mask (B, L) that a batch needs: False at the denoiser's `pad_token_id`; None where nothing is padded."""
    pad = getattr(denoiser, "pad_token_id", None)
    if pad is None:
        return None
    real = tokens != pad
    return None if bool(real.all()) else real


def check_batch(
    tokens: Tensor,
    denoiser: "Denoiser",
    *,
    attention_mask: Tensor | None = None,
    x0: Tensor | None = None,
    seeds: Tensor | int = 0,
) -> None:
    """Raise BadInput unless tokens are int64 (B, L) of this denoiser's vocabulary, and the others have the shape for that."""
    check_is_denoiser(denoiser)
    check_tokens(tokens, denoiser)
    for name, given, whole in (("attention_mask", attention_mask, False), ("x0", x0, True)):
        if given is None:
            continue
        if not isinstance(given, Tensor) or given.shape != tokens.shape or (whole and given.dtype != torch.int64):
            kind = "int64" if whole else "bool"
            raise BadInput(f"{name} is {_said(given)}; it must be {kind} of the shape of the tokens, {tuple(tokens.shape)}")
    if attention_mask is not None and attention_mask.dtype != torch.bool:
        odd = attention_mask[(attention_mask != 0) & (attention_mask != 1)]
        if len(odd):
            raise BadInput(
                f"attention_mask holds {odd[0].item():g}; it must be True or 1 at tokens, and False or 0 at padding (it is no "
                "bias that is added to the attention)"
            )
    if x0 is not None and x0.numel():
        low, high = int(x0.min()), int(x0.max())
        most = max(denoiser.vocab_size - 1, getattr(denoiser, "pad_token_id", None) or 0)
        if low < 0 or high > most:
            raise BadInput(f"x0 holds the token {low if low < 0 else high}; the tokens of this denoiser are 0 to {most}")
    check_seeds(seeds, len(tokens))


def check_seeds(seeds: object, count: int) -> None:
    """Raise BadInput unless seeds are a whole number or int64 (count,)."""
    if isinstance(seeds, bool) or not isinstance(seeds, int | Tensor):
        raise BadInput(f"seeds are {seeds!r}; they must be a whole number, or one int64 per sequence")
    if isinstance(seeds, int) and not -(2**63) <= seeds < 2**63 - count:
        raise BadInput(f"the seed {seeds} does not fit 64 bits with a sign: use a smaller one")
    if isinstance(seeds, Tensor) and (seeds.shape != (count,) or seeds.dtype != torch.int64):
        raise BadInput(f"seeds are {_said(seeds)}; they must be a whole number, or int64 of shape ({count},)")


def _said(given: object) -> str:
    return f"{given.dtype} of shape {tuple(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"


def check_tokens(tokens: Tensor, denoiser: "Denoiser") -> None:
    """Raise BadInput unless tokens are int64 (B, L) of this denoiser's vocabulary (or its padding)."""
    if not isinstance(tokens, Tensor):
        raise BadInput(f"the tokens are a {type(tokens).__name__}; they must be an int64 tensor (batch, length), see collate")
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


def at_positions(output: Any, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (K, V) of the asked positions bool (B, L), and hidden states (B, L, D), of what a denoiser returned; its logits
    may be those of all positions.

    Raises:
        BadInput: it returned something else.
    """
    if not isinstance(output, tuple | list) or len(output) != 2 or not all(isinstance(part, Tensor) for part in output):
        raise BadInput(f"the denoiser returned {_said(output)}; it must return DenoiserOutput(logits, hidden), two tensors")
    logits, hidden = output
    logits = logits[positions] if logits.shape[:-1] == positions.shape else logits
    if logits.dim() != 2:
        raise BadInput(
            f"the denoiser returned logits of shape {tuple(logits.shape)}; they must be (K, V) for the K asked positions, or "
            f"{(*positions.shape, 'V')}"
        )
    return logits, hidden


@contextmanager
def in_float32() -> Iterator[None]:
    """Networks that are made in the body are float32, whatever `torch.set_default_dtype` says."""
    before = torch.get_default_dtype()
    if before == torch.float32:
        yield
        return
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def forbid_mask(logits: Tensor, mask_token_id: int) -> Tensor:
    """The denoiser never predicts the mask token: its logit becomes -inf. Not in place."""
    forbidden = torch.arange(logits.shape[-1], device=logits.device) == mask_token_id
    return logits.masked_fill(forbidden, -torch.inf)


@checked("denoiser")
def fingerprint(denoiser: nn.Module) -> str:
    """A short hash of a denoiser's weights. A policy stores it, so that its use on another denoiser is noticed.

    It reads the names, shapes and values of all parameters and buffers. Weights count in bfloat16, so a model that is loaded in
    float32 or in bfloat16 is the same one. (In float16 it is another one, since it is rounded differently.) The weights are
    read in pieces, and only once as long as they do not change, also if they are wrapped anew (`generate` wraps a model in each
    call). Other tensors and operations on them are noticed as changes. Changes through `.data`, as when an average of the
    weights is swapped in, are noticed by a few values of each tensor: one that leaves all of these as they were is not.
    """
    weights = [part for name, value in sorted(denoiser.state_dict().items()) for part in _tensors(name, value)]
    if any(tensor.is_inference() for _, tensor in weights):  # such tensors do not count their changes
        return _hash_of(denoiser, weights)
    parts = (part for part in denoiser.modules() if list(chain(part.parameters(False), part.buffers(False))))
    owner = next(parts, denoiser)
    state = [(name, tensor.data_ptr(), tensor._version) for name, tensor in weights], _some_values(weights)
    known = _fingerprints.get(owner)
    if known is None or known[0] != state:
        _fingerprints[owner] = known = (state, _hash_of(denoiser, weights))
    return known[1]


_fingerprints: "weakref.WeakKeyDictionary[nn.Module, tuple[Any, str]]" = weakref.WeakKeyDictionary()
"""(names, addresses, versions and a few values of the weights, hash), by the first part with weights, which is the same in any
wrapper."""
_PIECE = 2**24  # values
_LOOKED_AT = 16  # values of each tensor
_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Types that show the bits of others, by their bytes."""


def _some_values(weights: list[tuple[str, Tensor]]) -> list[bytes]:
    """The bits of a few values of each tensor, evenly spaced in its memory, by one small transfer from each device."""
    found: dict[torch.device, dict[torch.dtype, list[Tensor]]] = {}
    for _, tensor in weights:
        kind = _WHOLE.get(tensor.element_size())
        if kind is None or tensor.is_meta or tensor.layout != torch.strided or tensor.is_conj() or not tensor.numel():
            continue
        last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        values = tensor.detach().view(kind).as_strided((min(last, _LOOKED_AT) + 1,), (max(1, last // _LOOKED_AT),))
        found.setdefault(tensor.device, {}).setdefault(kind, []).append(values)
    joined = (torch.cat([torch.cat(values).long() for values in kinds.values()]) for kinds in found.values())
    return [values.cpu().numpy().tobytes() for values in joined]


def _tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """The plain tensors in an entry of a state dict. Quantized weights come packed: in tuples, or as tensors made of others."""
    if isinstance(value, tuple | list):
        for number, part in enumerate(value):
            yield from _tensors(f"{name}.{number}", part)
    elif isinstance(value, Tensor) and hasattr(value, "__tensor_flatten__"):
        for part in value.__tensor_flatten__()[0]:
            yield from _tensors(f"{name}.{part}", getattr(value, part))
    elif isinstance(value, Tensor):
        yield name, value.dequantize() if value.is_quantized else value


def _hash_of(denoiser: nn.Module, weights: list[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in weights:
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        with _loaded(denoiser, name, tensor) as values:
            for piece in values.detach().reshape(-1).split(_PIECE):
                rounded = piece.to(torch.bfloat16) if piece.is_floating_point() else piece
                digest.update(rounded.cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


@contextmanager
def _loaded(denoiser: nn.Module, name: str, tensor: Tensor) -> Iterator[Tensor]:
    """A weight with its values, which accelerate keeps elsewhere if it is on the device meta."""
    if not tensor.is_meta:
        yield tensor
        return
    from accelerate.utils import align_module_device

    owner, _, own = name.rpartition(".")
    module = denoiser.get_submodule(owner)
    with align_module_device(module):
        found = getattr(module, own)
        if found.is_meta:
            raise BadInput(f"the weight {name} is on the device meta, without values: load it first")
        yield found
