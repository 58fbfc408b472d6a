"""Streamers of transformers: text as it is decoded, for one prompt."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anyorder.decoding.step import StepOutput
from anyorder.ends import Ends
from anyorder.errors import BadInput


class Streaming:
    """A callback of `decode` that feeds a streamer, such as transformers' `TextDiffusionStreamer`, `TextStreamer` or
    `TextIteratorStreamer`.

    The streamer gets the prompt, then every new token as soon as all tokens left of it are committed (`put`). Where it has
    `put_draft`, it also gets the rest of the answer after every step: the committed tokens, and the drawn ones at the other
    positions (the mask where nothing was predicted, see `Sampler.cache`). With a remasker nothing is final before the end.

    Args:
        streamer: what has `put` and `end`.
        prompt: int64 (L,), what stands before the new tokens.
        ends: the answer stops behind the first of them.
        final: committed tokens stay.

    Raises:
        BadInput: no streamer.
    """

    def __init__(self, streamer: Any, prompt: Tensor, ends: Ends | None = None, *, final: bool = True) -> None:
        if not all(callable(getattr(streamer, name, None)) for name in ("put", "end")):
            raise BadInput(
                f"{type(streamer).__name__} is no streamer: it must have `put` and `end`, see transformers.TextStreamer"
            )
        self.streamer, self.ends, self.final = streamer, ends, final
        self.start, self.done = len(prompt), 0
        self.draft: Callable[..., None] | None = getattr(streamer, "put_draft", None)
        streamer.put(prompt.cpu())

    def __call__(self, output: StepOutput) -> None:
        """Pass on what a step has committed."""
        tokens, masked = output.after.tokens[0, self.start :], output.after.masked[0, self.start :]
        if self.final:
            first = masked.nonzero()[:1, 0].tolist()
            self._put(tokens[: first[0] if first else None])
        if self.draft is not None and bool(masked.any()):
            said = output.prediction
            shown = torch.where(said.predicted, said.scatter(said.drawn_tokens, 0), output.before.tokens)[0, self.start :]
            self.draft(value=torch.where(masked, shown, tokens)[self.done :].cpu())

    def close(self, tokens: Tensor) -> None:
        """Pass on what is left of the decoded tokens int64 (L + new,), and end the stream."""
        self._put(tokens[self.start :])
        self.streamer.end()

    def _put(self, tokens: Tensor) -> None:
        """Pass on the new ones of the first tokens of the answer."""
        if self.ends is not None:
            tokens = tokens[: next(iter((self.ends.found(tokens).nonzero()[:1, 0] + 1).tolist()), None)]
        if len(tokens) > self.done:
            self.streamer.put(tokens[self.done :].cpu())
            self.done = len(tokens)
