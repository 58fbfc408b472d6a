"""What tasks of prompts and answers in text share: the layout, the ends of answers, padding, and the reading of answers.

Layout: the prompt, unknown tokens for the answer, padding up to the longest of the batch. An order decodes them all at once, or
in blocks (`confidence@blocks:32`).
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from anyorder.denoisers.special_tokens import special_tokens
from anyorder.ends import Ends
from anyorder.errors import BadInput, first_line
from anyorder.tasks.alphabets import Alphabet, TokenizerAlphabet
from anyorder.tasks.base import Instances, Task


class Prompted(Task):
    """A task of prompts and answers in the tokens of an alphabet.

    Attributes:
        symbols: the alphabet.
        chat: prompts go through the tokenizer's chat template.
        answer_length: tokens of an answer.
    """

    sequential: ClassVar[bool] = True
    pad_token_id: int
    symbols: Alphabet
    chat: bool
    answer_length: int

    def _set_up(self, symbols: Alphabet, chat: bool, length: int, longest: int) -> None:
        """Set the sizes of the task, for the constructors of subclasses.

        Raises:
            BadInput: `length` is not in 1..longest, or the alphabet cannot be used.
        """
        if not 1 <= length <= longest:
            raise BadInput(f"length {length} must lie in 1..{longest}")
        self.symbols = symbols
        self.chat = bool(chat) and bool(getattr(self._tokenizer, "chat_template", None))
        self.answer_length, self.length = length, longest
        self.vocab_size, self.mask_token_id = symbols.vocab_size, symbols.mask_token_id
        self.pad_token_id = symbols.pad_token_id if self._tokenizer is None else self._padding()

    # ---- tokens that are no text --------------------------------------------------------------------------------------

    @property
    def _tokenizer(self) -> Any:
        """The tokenizer of a model; None with an alphabet of fixed symbols."""
        return self.symbols.tokenizer if isinstance(self.symbols, TokenizerAlphabet) else None

    @cached_property
    def ends(self) -> frozenset[int]:
        """Tokens that end an answer: the end of text, and the end of a turn in the chat template. A model must be allowed to
        produce them (`HuggingFaceDenoiser.allow`)."""
        if self._tokenizer is None:
            return frozenset(self.symbols.end)
        found = {self._tokenizer.eos_token_id} - {None}
        if self.chat:
            turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
            after = self._tokens(self._render(turns, False).rpartition("!")[2])
            found |= set(after[:1]) & self._special
        return frozenset(found)

    @property
    def stops_at(self) -> Ends | None:
        """The ends of an answer, with padding behind them; None if the tokenizer has none."""
        return Ends(tuple(sorted(self.ends)), self.pad_token_id) if self.ends else None

    def _padding(self) -> int:
        """Padding: the tokenizer's own, unless it ends answers as well (LLaDA); then a special token of no other use here."""
        tokenizer = self._tokenizer
        used = self.ends | set(self._prompt("?")) | {self.mask_token_id}
        candidates = [tokenizer.pad_token_id, tokenizer.unk_token_id, *sorted(self._special)]
        free = [token for token in candidates if token is not None and token not in used]
        if not free:
            raise BadInput("this tokenizer has no special token to pad with: give it a pad token of its own")
        return int(free[0])

    @property
    def _special(self) -> set[int]:
        return special_tokens(self._tokenizer)

    # ---- prompts ------------------------------------------------------------------------------------------------------

    def _tokens(self, text: str) -> list[int]:
        """The tokens of a text, without a frame."""
        if self._tokenizer is None:
            return self.symbols.encode(text)
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _render(self, turns: list[dict[str, str]], asks: bool) -> str:
        try:
            return str(self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=asks))
        except Exception as error:  # whatever the template's own code raises
            raise BadInput(
                f"the tokenizer's chat template cannot be used: {first_line(error)}; chat=0 leaves it out"
            ) from error

    def _prompt(self, asked: str, start: str = "", between: str = "\n\n") -> list[int]:
        """The tokens before the answer.

        Args:
            asked: what the user says.
            start: the first words of the answer, given to the model.
            between: what stands between them without a chat template.
        """
        if self.chat:
            return self._tokens(self._render([{"role": "user", "content": asked}], True) + start)
        return [*self.symbols.start, *self._tokens(f"{asked}{between}{start}" if start else asked)]

    def _with_room(self, prompt: list[int]) -> list[int]:
        """A prompt that leaves room for the answer and holds no mask.

        Raises:
            BadInput: it does not.
        """
        if len(prompt) + self.answer_length > self.length:
            raise BadInput(
                f"the prompt takes {len(prompt)} tokens and the answer {self.answer_length}, more than the {self.length} that "
                "there is room for: a smaller length, fewer shots or a larger `longest` would do"
            )
        if self.mask_token_id in prompt:
            raise BadInput("the question holds the mask token itself")
        return prompt

    def _masked(self, prompts: Sequence[list[int]]) -> Tensor:
        """Prompts with masked answers: int64 (N, L)."""
        longest = max(map(len, prompts)) + self.answer_length
        tokens = torch.full((len(prompts), longest), self.pad_token_id)
        for out, prompt in zip(tokens, prompts, strict=True):
            out[: len(prompt)] = torch.tensor(prompt)
            out[len(prompt) : len(prompt) + self.answer_length] = self.mask_token_id
        return tokens

    # ---- reading answers ----------------------------------------------------------------------------------------------

    def _answers(self, instances: Instances, tokens: Tensor) -> list[list[int]]:
        """The tokens of each answer, up to the first end."""
        return [self._until_end(row[own].tolist()) for row, own in zip(tokens, instances.maskable, strict=True)]

    def texts(self, instances: Instances, tokens: Tensor) -> list[str]:
        """The answers of completed sequences (N, L) as text, up to their end; `_` where masked."""
        return [self.symbols.decode(answer) for answer in self._answers(instances, tokens)]

    def _until_end(self, answer: list[int]) -> list[int]:
        """The tokens of an answer up to its first end."""
        ends = [place for place, token in enumerate(answer) if token in self.ends]
        return answer[: ends[0]] if ends else answer

    def format(self, tokens: Tensor) -> str:
        """Prompt and answer as text, `_` where masked, without special tokens."""
        return self.symbols.decode([token for token in tokens.tolist() if token != self.pad_token_id])
