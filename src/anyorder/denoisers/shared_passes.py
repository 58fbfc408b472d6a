"""Forward passes that several samplers share."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from anyorder.denoisers.base import Denoiser, DenoiserOutput, at_positions, device_of
from anyorder.own_code import naming

_LIMIT = 2**30  # bytes


class SharedPasses(nn.Module):
    """A denoiser that keeps what it predicted, and runs only for sequences that it has not seen.

    Samplers that decode the same problems meet many of the same states: every one of them the first state, and similar orders
    many more (nearly half of all with the heuristics of `headroom` on 9x9 Sudoku in 20 steps). The output is that of the
    denoiser, up to the rounding of a matrix product in a smaller batch; so are the forward passes that a sampler counts. Only
    the time differs, so leave it out where time is measured.

    It is meant for the CPU, where a forward pass of half a batch takes half the time: on another device, with gradients,
    without `positions`, or if the logits of a batch take more than a quarter of `limit`, every call runs the denoiser. A
    sampler that reads attention or has a cache needs the denoiser itself.

    Args:
        denoiser: the model. Its weights must not change.
        limit: bytes of predictions that are kept; the oldest are forgotten.

    Attributes:
        rows, seen: sequences that were asked for, and how many of them had been seen; bytes: of what is kept now.
    """

    def __init__(self, denoiser: Denoiser, limit: int = _LIMIT) -> None:
        super().__init__()
        self.denoiser: Any = denoiser
        self.limit = limit
        self.rows = self.seen = self.bytes = 0
        self._kept: OrderedDict[tuple[int, bytes], tuple[Tensor, Tensor]] = OrderedDict()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            inner = self.__dict__.get("denoiser", self.__dict__.get("_modules", {}).get("denoiser"))
            if inner is None:  # not made yet
                raise
            return getattr(inner, name)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The weights of the denoiser under its own names: policies that were fitted to it recognize it by them."""
        return self.denoiser.state_dict(*args, **kwargs)

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None, positions: Tensor | None = None) -> DenoiserOutput:
        """See `Denoiser`."""
        if positions is None or torch.is_grad_enabled() or device_of(self.denoiser, tokens.device).type != "cpu":
            return self._run(tokens, attention_mask, positions)
        if 4 * int(positions.sum()) * int(self.denoiser.vocab_size) > self.limit / 4:  # a large vocabulary: few would be kept
            return self._run(tokens, attention_mask, positions)
        parts = [tokens, positions.long()] + ([] if attention_mask is None else [attention_mask.long()])
        keys = [(tokens.shape[1], row.tobytes()) for row in torch.cat(parts, dim=1).numpy()]
        found = [self._kept.get(key) for key in keys]
        first = {key: number for number, key in reversed(list(enumerate(keys)))}
        new = torch.tensor(
            [one is None and first[key] == number for number, (key, one) in enumerate(zip(keys, found, strict=True))]
        )
        self.rows, self.seen = self.rows + len(keys), self.seen + len(keys) - int(new.sum())
        if bool(new.any()):
            mask = None if attention_mask is None else attention_mask[new]
            logits, hidden = self._run(tokens[new], mask, positions[new])
            fresh = zip(logits.split(positions[new].sum(dim=1).tolist()), hidden, strict=True)
            for number in new.nonzero()[:, 0].tolist():
                found[number] = one = next(fresh)
                self._keep(keys[number], one)
        rows = [one for number in map(first.__getitem__, keys) if (one := found[number]) is not None]
        return DenoiserOutput(torch.cat([logits for logits, _ in rows]), torch.stack([hidden for _, hidden in rows]))

    def _run(self, tokens: Tensor, attention_mask: Tensor | None, positions: Tensor | None) -> DenoiserOutput:
        with naming("denoiser", self.denoiser):
            output: DenoiserOutput = self.denoiser(tokens, attention_mask, positions)
        return output if positions is None else DenoiserOutput(*at_positions(output, positions))

    def _keep(self, key: tuple[int, bytes], one: tuple[Tensor, Tensor]) -> None:
        """The parts of a batch share its memory, which is free again when the last of them is forgotten."""
        self._kept[key] = one
        self.bytes += one[0].nbytes + one[1].nbytes
        while self.bytes > self.limit and self._kept:
            _, (logits, hidden) = self._kept.popitem(last=False)
            self.bytes -= logits.nbytes + hidden.nbytes
