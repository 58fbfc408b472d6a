"""One answer while it is generated: the draft, the text that is final from the left, and why it ended."""

from bisect import bisect_left
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from anyorder.decoding.sampler import Sampler
from anyorder.serving.texts import Framed, Texts

_INCOMPLETE = "\ufffd"
"""What a tokenizer makes of a part of a character."""


@dataclass(frozen=True)
class Event:
    """What a step did to an answer.

    text: what is final from the left now and was not before.
    finish: "stop" at an end of the text or a stop text, "length" where all tokens are used; None before.
    step: steps so far.
    draft: the text of each generated token, None where it is masked.
    committed, remasked: places in the draft.
    tokens: of the answer, up to its end.
    """

    text: str
    finish: str | None
    step: int
    draft: list[str | None]
    committed: list[int]
    remasked: list[int]
    tokens: int


class Choice:
    """An answer, as a job of the engine.

    Args:
        texts: what the tokens mean.
        framed: the prompt.
        count: tokens to generate.
        sampler, key, steps, seed: see `Job`.
        stop: texts before which the answer ends.
        every_step: emit an event after each step, rather than at the end only.
        emit: called with an `Event`, or with the error that ended the answer.
    """

    def __init__(
        self,
        texts: Texts,
        framed: Framed,
        count: int,
        sampler: Sampler,
        key: Hashable,
        *,
        steps: int | None,
        seed: int,
        stop: tuple[str, ...],
        every_step: bool,
        emit: Callable[[Event | Exception], None],
    ) -> None:
        self.tokens = [*framed.before, *[texts.symbols.mask_token_id] * count, *framed.behind]
        self.sampler, self.key, self.steps, self.seed, self.cancelled = sampler, key, steps, seed, False
        self._texts, self._stop, self._emit, self._every_step = texts, stop, emit, every_step
        self._place = slice(len(framed.before), len(framed.before) + count)
        self._passed, self._known, self._text, self._sent = 0, 0, "", ""

    def fail(self, error: Exception) -> None:
        """See `Job`."""
        self._emit(error)

    def step(self, tokens: list[int], selected: list[bool], remasked: list[bool], over: bool) -> bool:
        """See `Job`."""
        self._passed += 1
        if not (over or self._every_step or self._stop):
            return False
        answer = tokens[self._place]
        text, stopped = self._final_text(answer, over)
        done = over or stopped
        if done or self._every_step:
            self._emit(self._event(answer, text, selected[self._place], remasked[self._place], done, stopped))
        return done

    def _final_text(self, answer: list[int], over: bool) -> tuple[str, bool]:
        """The text that does not change any more, and whether a stop text ends it."""
        if over or self.sampler.remasker.final:
            mask = self._texts.symbols.mask_token_id
            known = answer.index(mask) if mask in answer else len(answer)
            if known > self._known or over:
                self._known, self._text = known, self._texts.text(answer[:known])
        found = [at for at in map(self._text.find, self._stop) if at >= 0]
        if found:
            return self._text[: min(found)], True
        if over:
            return self._text, False
        begun = (length for stop in self._stop for length in range(1, len(stop)) if self._text.endswith(stop[:length]))
        text = self._text[: len(self._text) - max(begun, default=0)].rstrip(_INCOMPLETE)
        return (text if text.startswith(self._sent) else self._sent), False

    def _has_stop(self, known: list[int]) -> bool:
        text = self._texts.text(known)
        return any(stop in text for stop in self._stop)

    def _event(
        self, answer: list[int], text: str, selected: list[bool], remasked: list[bool], done: bool, stopped: bool
    ) -> Event:
        new = text[len(self._sent) :]
        self._sent = text
        ends = set() if self._texts.ends is None else set(self._texts.ends.tokens)
        length = next((place for place, token in enumerate(answer) if token in ends), len(answer))
        if stopped:  # tokens up to the stop text; behind it may be masks
            length = min(length, bisect_left(range(self._known), True, key=lambda known: self._has_stop(answer[:known])))
        reason = ("stop" if stopped or length < len(answer) else "length") if done else None
        places = range(len(answer))
        return Event(
            new, reason, self._passed, [self._texts.piece(token) for token in answer],
            [at for at in places if selected[at]], [at for at in places if remasked[at]], length,
        )  # fmt: skip
