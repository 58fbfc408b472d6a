"""The result of decoding: what was put where, when, and at what cost."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from anyorder.errors import BadInput
from anyorder.files import write_atomically

FORMAT_VERSION = 1


@dataclass
class Decoded:
    """N decoded sequences.

    tokens: int64 (N, L), complete.
    commit_step: int64 (N, L), the step (from 0) in which the position got its final token; -1 where it was given.
    forwards: int64 (N,), forwards of the denoiser that the sequence cost.
    undone: int64 (N,), commitments taken back.
    token_log_probs: float32 (N, L), log-probability of the token when it was committed; 0 where given.
    order_log_probs: float32 (N, L), log-probability with which a stochastic order drew the position then; else 0.
    history: int64 (steps + 1, N, L), tokens before the first and after every step; None unless asked for.
    """

    tokens: Tensor
    commit_step: Tensor
    forwards: Tensor
    undone: Tensor
    token_log_probs: Tensor
    order_log_probs: Tensor
    history: Tensor | None = None

    @classmethod
    def empty(cls, tokens: Tensor, generated: Tensor) -> "Decoded":
        """Nothing decoded yet."""
        count = torch.zeros(tokens.shape[0], dtype=torch.int64, device=tokens.device)
        zeros = torch.zeros(tokens.shape, device=tokens.device)
        never = torch.full_like(tokens, -1)
        return cls(tokens, never, count, count.clone(), zeros, zeros.clone())

    def commit(self, rows: Tensor, chosen: Tensor, step: int, log_probs: Tensor, order_log_probs: Tensor | None) -> None:
        """Note the positions `chosen` (len(rows), L) of one step, and a forward for each of the rows."""
        self.forwards[rows] += 1
        self.commit_step[rows] = torch.where(chosen, step, self.commit_step[rows])
        self.token_log_probs[rows] = torch.where(chosen, log_probs.float(), self.token_log_probs[rows])
        if order_log_probs is not None:
            self.order_log_probs[rows] = torch.where(chosen, order_log_probs.float(), self.order_log_probs[rows])

    def undo(self, rows: Tensor, undone: Tensor) -> None:
        """Note commitments taken back."""
        self.undone[rows] += undone.sum(dim=1)
        self.commit_step[rows] = torch.where(undone, -1, self.commit_step[rows])
        self.token_log_probs[rows] = self.token_log_probs[rows].masked_fill(undone, 0.0)

    def finish(self, tokens: Tensor, snapshots: list[Tensor] | None) -> "Decoded":
        """The finished result."""
        self.tokens = tokens
        self.history = torch.stack(snapshots) if snapshots else None
        return self

    def widen(self, length: int, pad: int) -> "Decoded":
        """The same with padding behind, up to `length` columns; the history is dropped."""
        more = (0, length - self.tokens.shape[1])
        fill = {"tokens": pad, "commit_step": -1, "token_log_probs": 0, "order_log_probs": 0}
        wide = {name: torch.nn.functional.pad(getattr(self, name), more, value=value) for name, value in fill.items()}
        return Decoded(**wide, forwards=self.forwards, undone=self.undone)

    def __getitem__(self, index: Tensor) -> "Decoded":
        """The sequences of an index, in its order; the history is dropped."""
        return Decoded(**{name: value[index] for name, value in vars(self).items() if name != "history"})

    @classmethod
    def join(cls, parts: list["Decoded"]) -> "Decoded":
        """Batches put together; histories are dropped."""
        names = ("tokens", "commit_step", "forwards", "undone", "token_log_probs", "order_log_probs")
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))

    def cpu(self) -> "Decoded":
        """The same in main memory."""
        values: dict[str, Any] = {name: None if value is None else value.cpu() for name, value in vars(self).items()}
        return Decoded(**values)

    def save(self, path: Path) -> None:
        """Write as safetensors, atomically."""
        tensors = {name: value.contiguous() for name, value in vars(self).items() if value is not None}
        metadata = {"format": "anyorder.decoded", "version": str(FORMAT_VERSION)}
        write_atomically(path, lambda temporary: safetensors.torch.save_file(tensors, temporary, metadata))

    @classmethod
    def load(cls, path: Path) -> "Decoded":
        """Inverse of `save`."""
        try:
            return cls(**safetensors.torch.load_file(path))
        except (safetensors.SafetensorError, OSError, TypeError) as error:
            raise BadInput(f"{path} holds no decoded sequences: {error}") from error
