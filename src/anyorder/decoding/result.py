"""The result of decoding: which token was committed where, when, and at what cost."""

from dataclasses import dataclass, fields
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from anyorder.decoding.step import StepOutput
from anyorder.errors import BadCheckpoint, BadInput
from anyorder.files import write_tensors
from anyorder.signatures import checked
from anyorder.state import DecodeState
from anyorder.weights import check_file

FORMAT_VERSION = 2
_FORMAT = "anyorder.decoded"


@dataclass(frozen=True, eq=False)
class Decoded:
    """N decoded sequences.

    tokens: int64 (N, L), complete.
    commit_step: int64 (N, L), the step (from 0) in which the position got its final token; -1 where it was given.
    nfe: int64 (N,), forward passes of the denoiser that the sequence cost.
    remasked: int64 (N,), committed tokens that were remasked.
    token_log_probs: float32 (N, L), log-probability of the token when it was committed; 0 where given.
    order_log_probs: float32 (N, L), log-probability with which a stochastic order drew the position then; else 0.
    """

    tokens: Tensor
    commit_step: Tensor
    nfe: Tensor
    remasked: Tensor
    token_log_probs: Tensor
    order_log_probs: Tensor

    @classmethod
    def of(cls, state: DecodeState, finished: Tensor) -> "Decoded":
        """The sequences of a state where `finished` bool (B,) is True."""
        index = finished.nonzero()[:, 0]
        return cls(**{name: getattr(state, name).index_select(0, index) for name in _names()})

    def widen(self, length: int, pad: int) -> "Decoded":
        """The same with padding at the end, up to `length` columns."""
        more = (0, length - self.tokens.shape[1])
        fill = {"tokens": pad, "commit_step": -1, "token_log_probs": 0, "order_log_probs": 0}
        wide = {name: torch.nn.functional.pad(getattr(self, name), more, value=value) for name, value in fill.items()}
        return Decoded(**wide, nfe=self.nfe, remasked=self.remasked)

    def __getitem__(self, index: Tensor) -> "Decoded":
        """The sequences of an index, in its order."""
        return Decoded(**{name: getattr(self, name)[index] for name in _names()})

    @classmethod
    @checked("parts")
    def join(cls, parts: list["Decoded"]) -> "Decoded":
        """Join batches, one or more."""
        if not parts or not all(isinstance(part, Decoded) for part in parts):
            raise BadInput("there is nothing to join: give a list of Decoded, with at least one")
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in _names()})

    def to(self, device: torch.device | str) -> "Decoded":
        """The same on a device."""
        return Decoded(**{name: getattr(self, name).to(device) for name in _names()})

    @checked("path")
    def save(self, path: str | Path) -> None:
        """Write as safetensors, atomically."""
        tensors = {name: getattr(self, name).contiguous() for name in _names()}
        metadata = {"format": _FORMAT, "version": str(FORMAT_VERSION)}
        write_tensors(Path(path), tensors, metadata)

    @classmethod
    @checked("path")
    def load(cls, path: str | Path) -> "Decoded":
        """Inverse of `save`.

        Raises:
            BadInput: the file holds something else.
        """
        try:
            check_file(Path(path))
            with safetensors.safe_open(path, "pt") as file:
                found = (file.metadata() or {}).get("format"), (file.metadata() or {}).get("version")
            if found != (_FORMAT, str(FORMAT_VERSION)):
                raise BadInput(f"{path} holds no decoded sequences: its format is {found[0]!r}, version {found[1]!r}")
            return cls(**safetensors.torch.load_file(path))
        except (BadCheckpoint, safetensors.SafetensorError, OSError, TypeError) as error:
            raise BadInput(f"{path} holds no decoded sequences: {error}") from error


def _names() -> list[str]:
    return [field.name for field in fields(Decoded)]


class History:
    """A callback of `decode` that keeps the tokens (N, L) before the first and after every step."""

    @checked("tokens")
    def __init__(self, tokens: Tensor) -> None:
        self.tokens = [tokens.clone()]

    def __call__(self, output: StepOutput) -> None:
        after = self.tokens[-1].clone()
        after[output.after.row.to(after.device)] = output.after.tokens.to(after.device)
        self.tokens.append(after)
