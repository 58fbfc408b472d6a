"""Prompts as tokens, and tokens as text, for any denoiser of text."""

from collections.abc import Sequence
from typing import NamedTuple

from anyorder.denoisers.base import Denoiser
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.errors import BadInput
from anyorder.interfaces.language import format_of, usual_length
from anyorder.tasks.base import max_length_of
from anyorder.tasks.prompt_format import Turn
from anyorder.tasks.prompted import Prompted
from anyorder.tasks.tokenizer_alphabet import TokenizerAlphabet


class Framed(NamedTuple):
    """A prompt around the tokens that are to be generated: those before them and those behind them."""

    before: list[int]
    behind: list[int]


class Texts:
    """What a denoiser's tokens mean.

    Args:
        denoiser: a model of prompts and answers, of text or of sequences; one of Hugging Face is allowed to end its texts.

    Attributes:
        usual_length: tokens of an answer where a request does not say.
        ends: tokens that end a text; None where the model was never taught to end one.
        room: tokens that the model takes; None if it does not say.

    Raises:
        BadInput: a denoiser of something else, such as puzzles.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self.format = format_of(denoiser, chat=True)
        self.symbols = self.format.symbols
        self.pad_token_id = self.format.pad_token_id
        self.room = max_length_of(denoiser)
        self.usual_length = usual_length(self.format, self.room)
        self.asks = isinstance(self.format, Prompted)
        framed = not self.asks and bool(self.symbols.end)  # as BERT: a text is as long as its masks
        self.ends = None if framed else self.format.stops_at
        self._behind = list(self.symbols.end) if framed else []
        if framed and isinstance(denoiser, HuggingFaceDenoiser):  # what frames a text does not stand in it
            denoiser.forbid(self.symbols.end)

    def prompt(self, text: str, suffix: str = "") -> Framed:
        """A text to go on with, and what is to stand behind it.

        Raises:
            BadInput: a symbol that the model does not know.
        """
        return self._whole([*self.symbols.start, *self._tokens(text)], self._tokens(suffix))

    def tokens(self, tokens: Sequence[int], vocab_size: int) -> Framed:
        """The same, in tokens.

        Raises:
            BadInput: a number that is none of the model's tokens.
        """
        wrong = next((token for token in tokens if not 0 <= token < vocab_size), None)
        if wrong is not None:
            raise BadInput(f"the prompt holds the token {wrong}; the model has {vocab_size} tokens, from 0")
        return self._whole(list(tokens), [])

    def chat(self, turns: Sequence[Turn]) -> Framed:
        """A conversation that the model answers: by its chat template, or as it was trained to be asked.

        Raises:
            BadInput: the model has no chat template and takes no questions, or a question alone.
        """
        if self.format.chat:
            return self._whole(self.format.tokens_of(self.format.render(turns, True)), [])
        if not self.asks:
            raise BadInput("this model has no chat template: use /v1/completions")
        if [turn["role"] for turn in turns] != ["user"]:
            raise BadInput("this model answers one question at a time: send one message, of the user")
        return self._whole(self.format.ask(turns[0]["content"]), [])

    def _tokens(self, text: str) -> list[int]:
        if isinstance(self.symbols, TokenizerAlphabet):  # what looks like a hole, as x_{1}, is text here
            return self.symbols.known(text, self.symbols.tokens_of(text))
        return list(self.symbols.encode(text)) if text else []

    def _whole(self, before: list[int], behind: list[int]) -> Framed:
        if self.symbols.mask_token_id in (*before, *behind):
            raise BadInput("the prompt holds an unknown token (the mask): use suffix for what follows the generated text")
        return Framed(before, [*behind, *self._behind])

    def text(self, tokens: Sequence[int]) -> str:
        """The text of generated tokens, up to the first end."""
        kept = list(tokens)
        if self.ends is not None:
            ends = set(self.ends.tokens)
            kept = kept[: next((place for place, token in enumerate(kept) if token in ends), len(kept))]
        return self.symbols.decode(kept)

    def piece(self, token: int) -> str | None:
        """The text of one token; None of the mask, "" of an end and of padding."""
        if token == self.symbols.mask_token_id:
            return None
        nothing = token == self.pad_token_id or (self.ends is not None and token in self.ends.tokens)
        return "" if nothing else self.symbols.token_text(token)
