"""Puzzles and sums in words, for language models: 4x4 Sudoku, additions, Countdown and Zebra puzzles, checked by their
rules.

Layout: the prompt, `length` unknown tokens for the answer, its end and more ends behind it, then padding up to the longest of
the batch.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from anyorder.ends import Ends
from anyorder.errors import BadInput
from anyorder.registry import TASKS
from anyorder.tasks.alphabets import Alphabet, alphabet_of
from anyorder.tasks.base import CheckResult, Instances, Task
from anyorder.tasks.word_problems import KINDS, WordProblem


@TASKS.register("words")
class Words(Task):
    """Puzzles and sums in words. An answer is right if it satisfies the rules of its puzzle.

    Args:
        problems: kinds of problems, see `KINDS`, asked in turn; one that is named twice is asked twice as often.
        alphabet: an alphabet, the name of one, or a folder with a model's tokenizer (`alphabet_of`).
        length: tokens of the answer and its end.
        longest: largest number of tokens of prompt and answer.
    """

    correct_means: ClassVar[str] = "solved"
    sequential: ClassVar[bool] = True
    difficulty_order: ClassVar[tuple[str, ...]] = tuple(KINDS)
    pad_token_id: int

    def __init__(
        self,
        problems: str | Sequence[str] = tuple(KINDS),
        alphabet: str | Alphabet = "characters",
        length: int = 40,
        longest: int = 256,
    ) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        unknown = [name for name in self.problems if name not in KINDS]
        if unknown or not self.problems:
            raise BadInput(f"problems {unknown[0] if unknown else '()'!r} is unknown: use one or more of {', '.join(KINDS)}")
        if not 1 <= length <= longest:
            raise BadInput(f"length {length} must lie in 1..{longest}")
        self.kinds = {name: KINDS[name]() for name in dict.fromkeys(self.problems)}
        self.symbols = alphabet_of(alphabet) if isinstance(alphabet, str) else alphabet
        self.alphabet = alphabet
        self.answer_length, self.length = length, longest
        self.vocab_size, self.mask_token_id = self.symbols.vocab_size, self.symbols.mask_token_id
        self.pad_token_id = self.symbols.pad_token_id

    @property
    def options(self) -> dict[str, Any]:
        """The arguments that make this task again."""
        return {
            "problems": list(self.problems), "alphabet": self.alphabet, "length": self.answer_length, "longest": self.length
        }  # fmt: skip

    @property
    def stops_at(self) -> Ends:
        """The end of an answer, which also stands at all places behind it."""
        return Ends(self.symbols.end)

    # ---- problems -----------------------------------------------------------------------------------------------------

    def generate(self, count: int, seed: int, **options: Any) -> Instances:
        """Fresh problems, of each kind in turn. The label `difficulty` is the kind.

        Args:
            count: how many.
            seed: problem i depends on seed and i only.
            options: of each kind by its name, such as `addition={"digits": 3}`; see `generate` of the kinds.
        """
        unknown = [name for name in options if name not in self.kinds]
        if unknown:
            raise BadInput(f"{unknown[0]!r} is none of the kinds {', '.join(self.kinds)} of these problems")
        names = np.array([self.problems[number % len(self.problems)] for number in range(count)])
        made: list[WordProblem | None] = [None] * count
        for name, kind in self.kinds.items():
            places = np.flatnonzero(names == name)
            if len(places):
                for place, problem in zip(places, kind.generate(len(places), seed, **options.get(name, {})), strict=True):
                    made[place] = problem
        return self.encode(names.tolist(), [problem for problem in made if problem is not None])

    def encode(self, names: Sequence[str], problems: Sequence[WordProblem]) -> Instances:
        """Instances from problems and the names of their kinds; a problem without an answer has no solution.

        Raises:
            BadInput: a prompt or an answer that is too long.
        """
        prompts = [self._prompt(name, problem.problem) for name, problem in zip(names, problems, strict=True)]
        longest = max(map(len, prompts)) + self.answer_length
        x0 = np.full((len(prompts), longest), self.pad_token_id)
        maskable = np.zeros(x0.shape, dtype=bool)
        for row, own, prompt, problem in zip(x0, maskable, prompts, problems, strict=True):
            row[: len(prompt)] = prompt
            answer = slice(len(prompt), len(prompt) + self.answer_length)
            row[answer], own[answer] = self._answer(problem.answer), True
        known = all(problem.answer for problem in problems)
        labels = {
            "difficulty": np.array(names),
            "problem": np.array([problem.problem for problem in problems]),
            "answer": np.array([problem.answer for problem in problems]),
        }
        solved, where = torch.from_numpy(x0), torch.from_numpy(maskable)
        return Instances(solved.masked_fill(where, self.mask_token_id), where, solved if known else None, labels)

    def _prompt(self, name: str, problem: str) -> list[int]:
        tokens = [*self.symbols.start, *self.symbols.encode(self.kinds[name].ask(problem))]
        if len(tokens) + self.answer_length > self.length:
            raise BadInput(
                f"the prompt takes {len(tokens)} tokens and the answer {self.answer_length}, more than the {self.length} that "
                "there is room for: a larger `longest` would do"
            )
        return tokens

    def _answer(self, answer: str) -> list[int]:
        """The tokens of an answer, filled up with ends."""
        tokens = self.symbols.encode(answer)
        if len(tokens) >= self.answer_length:
            raise BadInput(f"the answer takes {len(tokens)} tokens and its end one more; length is {self.answer_length}")
        return [*tokens, *[self.symbols.end[0]] * (self.answer_length - len(tokens))]

    # ---- reading answers ----------------------------------------------------------------------------------------------

    def texts(self, instances: Instances, tokens: Tensor) -> list[str]:
        """The answers of completed sequences (N, L) as text, up to their end; `_` where masked."""
        return [self._until_end(row[own].tolist()) for row, own in zip(tokens, instances.maskable, strict=True)]

    def _until_end(self, answer: list[int]) -> str:
        ends = [place for place, token in enumerate(answer) if token in self.symbols.end]
        return self.symbols.decode(answer[: ends[0]] if ends else answer)

    def format(self, tokens: Tensor) -> str:
        """Prompt and answer as text, `_` where masked."""
        return self.symbols.decode(tokens.tolist())

    def token_text(self, token: int) -> str:
        """The symbol."""
        return self.symbols.token_text(token)

    def hidden_tokens(self) -> list[int]:
        """Padding, and what frames a sequence."""
        return [self.pad_token_id, *self.symbols.start, *self.symbols.end]

    # ---- checking -----------------------------------------------------------------------------------------------------

    def check(self, instances: Instances, tokens: Tensor) -> CheckResult:
        """By the rules of each puzzle: the prompt is unchanged, nothing is masked, and the answer up to its end is right.

        Cell accuracy is that of the puzzle's own task, in comparison with the stored solution.
        """
        kept = ((tokens == instances.tokens) | instances.maskable).all(dim=1) & (tokens != self.mask_token_id).all(dim=1)
        texts, names = np.array(self.texts(instances, tokens), dtype=object), instances.labels["difficulty"]
        right, cells = torch.zeros(len(tokens), dtype=torch.bool), torch.zeros(len(tokens))
        for name, kind in self.kinds.items():
            own = np.flatnonzero(names == name)
            if len(own):
                asked = [WordProblem(str(instances.labels["problem"][n]), str(instances.labels["answer"][n])) for n in own]
                right[own], cells[own] = kind.check(asked, texts[own].tolist())
        return CheckResult(right & kept, cells)

    def serves(self, other: Task) -> bool:
        """A denoiser serves all kinds that it was trained on, with answers of the same length."""
        return (
            isinstance(other, Words)
            and other.alphabet == self.alphabet
            and set(other.problems) <= set(self.problems)
            and (other.answer_length == self.answer_length and other.length <= self.length)
        )
