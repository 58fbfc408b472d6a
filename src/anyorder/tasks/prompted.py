"""What tasks of prompts and answers in text share: the layout, and the reading of answers.

Layout: the prompt, unknown tokens for the answer, padding up to the longest of the batch. An order decodes them all at once, or
in blocks (`confidence@blocks:32`).
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from anyorder.errors import BadInput
from anyorder.tasks.alphabets import Alphabet
from anyorder.tasks.base import Instances, Task
from anyorder.tasks.prompt_format import PromptFormat


class Prompted(PromptFormat, Task):
    """A task of prompts and answers in the tokens of an alphabet.

    Attributes:
        answer_length: tokens of an answer.
    """

    sequential: ClassVar[bool | str] = True
    pad_token_id: int
    answer_length: int

    def _set_up(self, symbols: Alphabet, chat: bool, length: int, longest: int) -> None:
        """Set the sizes of the task, for the constructors of subclasses.

        Raises:
            BadInput: `length` is not in 1..longest, or the alphabet cannot be used.
        """
        if not 1 <= length <= longest:
            raise BadInput(f"length {length} must lie in 1..{longest}")
        self._set_format(symbols, chat)
        self.answer_length, self.length = length, longest
        self.vocab_size, self.mask_token_id = symbols.vocab_size, symbols.mask_token_id

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
        return [self.until_end(row[own].tolist()) for row, own in zip(tokens, instances.maskable, strict=True)]

    def texts(self, instances: Instances, tokens: Tensor) -> list[str]:
        """The answers of completed sequences (N, L) as text, up to their end; `_` where masked."""
        return [self.symbols.decode(answer) for answer in self._answers(instances, tokens)]

    def format(self, tokens: Tensor) -> str:
        """Prompt and answer as text, `_` where masked, without special tokens."""
        return self.symbols.decode([token for token in tokens.tolist() if token != self.pad_token_id])
