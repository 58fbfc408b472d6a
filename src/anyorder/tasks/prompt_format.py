"""How a prompt and its answer are written in the tokens of an alphabet: chat template, ends of answers, padding."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from anyorder.denoisers.special_tokens import special_tokens
from anyorder.ends import Ends
from anyorder.errors import BadInput, first_line, truth
from anyorder.tasks.alphabets import Alphabet
from anyorder.tasks.tokenizer_alphabet import TokenizerAlphabet

Turn = Mapping[str, str]
"""What was said: {"role": "user", "content": "..."}; roles are those of the chat template."""


class PromptFormat:
    """Prompts and answers in the tokens of an alphabet.

    Args:
        symbols: the alphabet.
        chat: put prompts through the tokenizer's chat template if it has one; not for base models.

    Attributes:
        chat: whether they are.
        pad_token_id: padding, a token that no prompt and no answer holds.
    """

    symbols: Alphabet
    chat: bool
    pad_token_id: int

    def __init__(self, symbols: Alphabet, chat: bool = True) -> None:
        self._set_format(symbols, chat)

    def _set_format(self, symbols: Alphabet, chat: bool) -> None:
        self.symbols = symbols
        self.chat = truth("chat", chat) and bool(getattr(self.tokenizer, "chat_template", None))
        self.pad_token_id = symbols.pad_token_id if self.tokenizer is None else self._padding()

    # ---- tokens that are no text --------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of a model; None with an alphabet of fixed symbols."""
        return self.symbols.tokenizer if isinstance(self.symbols, TokenizerAlphabet) else None

    @cached_property
    def ends(self) -> frozenset[int]:
        """Tokens that end an answer: the end of text, and the end of a turn in the chat template. A model must be allowed to
        produce them (`HuggingFaceDenoiser.allow`)."""
        if self.tokenizer is None:
            return frozenset(self.symbols.end)
        found = {self.tokenizer.eos_token_id} - {None}
        if self.chat:
            turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
            after = self.tokens_of(self.render(turns, False).rpartition("!")[2])
            found |= set(after[:1]) & special_tokens(self.tokenizer)
        return frozenset(found)

    @property
    def stops_at(self) -> Ends | None:
        """The ends of an answer, with padding behind them; None if the tokenizer has none."""
        return Ends(tuple(sorted(self.ends)), self.pad_token_id) if self.ends else None

    def _padding(self) -> int:
        """Padding: that of the alphabet, unless it ends answers as well (LLaDA); then a special token of no other use here."""
        tokenizer = self.tokenizer
        used = self.ends | set(self.prompt_tokens("?")) | {self.symbols.mask_token_id}
        candidates = [
            self.symbols.pad_token_id,
            tokenizer.pad_token_id,
            tokenizer.unk_token_id,
            *sorted(special_tokens(tokenizer)),
        ]
        free = [token for token in candidates if token is not None and token not in used]
        if not free:
            raise BadInput("this tokenizer has no special token to pad with: give it a pad token of its own")
        return int(free[0])

    # ---- prompts ------------------------------------------------------------------------------------------------------

    def tokens_of(self, text: str) -> list[int]:
        """The tokens of a text, without a frame."""
        return self.symbols.tokens_of(text) if isinstance(self.symbols, TokenizerAlphabet) else self.symbols.encode(text)

    def render(self, turns: Sequence[Turn], asks: bool) -> str:
        """A conversation as text by the chat template, with the start of the next answer if it `asks` for one.

        Raises:
            BadInput: a template that cannot be used, or that does not take these roles.
        """
        try:
            return str(self.tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=asks))
        except Exception as error:  # whatever the template's own code raises
            raise BadInput(
                f"the tokenizer's chat template cannot be used: {first_line(error)}; chat=0 leaves it out"
            ) from error

    def prompt_tokens(self, asked: str, start: str = "", between: str = "\n\n") -> list[int]:
        """The tokens before the answer.

        Args:
            asked: what the user says.
            start: the first words of the answer, given to the model.
            between: what stands between them without a chat template.
        """
        if self.chat:
            return self.tokens_of(self.render([{"role": "user", "content": asked}], True) + start)
        return [*self.symbols.start, *self.tokens_of(f"{asked}{between}{start}" if start else asked)]

    def ask(self, question: str) -> list[int]:
        """The tokens before the answer to a question, as a model of this format was taught to be asked."""
        return self.prompt_tokens(question)

    # ---- answers ------------------------------------------------------------------------------------------------------

    def until_end(self, answer: list[int]) -> list[int]:
        """The tokens of an answer up to its first end."""
        ends = [place for place, token in enumerate(answer) if token in self.ends]
        return answer[: ends[0]] if ends else answer
