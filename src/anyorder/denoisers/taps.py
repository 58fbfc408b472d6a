"""Hidden states of a model, and the input of its output layer reduced to chosen positions.

The output layer over a large vocabulary is most of the cost of a forward pass, and only masked positions need it. Hooks on the
model read the hidden states and cut the input of the output layer. They act for the forward pass that the current thread makes
within `tapped`, and on no other call, so several threads may use one model.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from anyorder.denoisers.padding import Wanted


@dataclass
class Tapped:
    """One forward pass of a model.

    Args:
        head, body: the output layer and the rest of the model; None where they are not known.
        shape: (B, L) of its tokens.
        wanted: positions whose logits are wanted; None for all.
        found: hidden states: the input of the head as `head`, the last ones of the body as `body`.
        cut: whether the head saw the wanted positions only.
    """

    head: nn.Module | None
    body: nn.Module | None
    shape: torch.Size
    wanted: Wanted | None
    found: dict[str, Tensor] = field(default_factory=dict)
    cut: bool = False


_current = threading.local()


@contextmanager
def tapped(head: nn.Module | None, body: nn.Module | None, shape: torch.Size, wanted: Wanted | None) -> Iterator[Tapped]:
    """Tap the forward pass that is made inside."""
    if head is not None and _before_head not in head._forward_pre_hooks.values():
        head.register_forward_pre_hook(_before_head)
    if body is not None and _after_body not in body._forward_hooks.values():
        body.register_forward_hook(_after_body)
    before = getattr(_current, "forward", None)
    _current.forward = forward = Tapped(head, body, shape, wanted)
    try:
        yield forward
    finally:
        _current.forward = before


def _before_head(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
    forward: Tapped | None = getattr(_current, "forward", None)
    if forward is None or module is not forward.head or not arguments:
        return None
    forward.found["head"] = hidden = arguments[0]
    if forward.wanted is None or hidden.shape[:2] != forward.shape:
        return None
    forward.cut = True
    return (hidden[on_device(forward.wanted, hidden.device)], *arguments[1:])


def _after_body(module: nn.Module, _arguments: Any, output: Any) -> None:
    forward: Tapped | None = getattr(_current, "forward", None)
    last = getattr(output, "last_hidden_state", None)
    if forward is not None and module is forward.body and last is not None:
        forward.found["body"] = last


def on_device(wanted: Wanted, device: torch.device) -> Wanted:
    """Positions on the device of what they index: layers of one model may be on several."""
    return wanted[0].to(device), wanted[1].to(device)


def is_compiled(model: nn.Module) -> bool:
    """Whether `torch.compile` made this model, or compiles its forward. Hooks have no effect within."""
    return hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None
