"""Mathematics in words, for language models: GSM8K and MATH-500 or any file like them, checked by the final answer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from anyorder.denoisers.base import Denoiser
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.errors import BadInput
from anyorder.registry import TASKS
from anyorder.tasks.alphabets import alphabet_of
from anyorder.tasks.base import CheckResult, Instances, check_fits, make, max_length_of
from anyorder.tasks.math_answers import Answer, equivalent, final_answer, require_library
from anyorder.tasks.math_prompts import TEMPLATES, Problem, read_problems
from anyorder.tasks.problem_files import Unreadable
from anyorder.tasks.prompted import Prompted
from anyorder.tasks.tokenizer_alphabet import TokenizerAlphabet, tokens_of_model

_LLADA_CONTEXT = 4096


@TASKS.register("math")
class Math(Prompted):
    """Mathematics in words (GSM8K, MATH-500) for language models. An answer is right if it is equivalent to the reference.

    Args:
        alphabet: the tokenizer of a model, or the folder or hub id of one that has it.
        prompt: name of a template, see `TEMPLATES`.
        shots: how many solved examples come before the question.
        examples: the file from which the first ones are taken; never the test file.
        chat: put the question through the tokenizer's chat template if it has one; not for base models.
        length: tokens of the answer.
        longest: largest number of tokens of prompt and answer.

    Raises:
        BadInput: arguments that contradict each other, no tokenizer, or math-verify is not installed.
    """

    correct_means: ClassVar[str] = "right"
    symbols: TokenizerAlphabet

    def __init__(
        self,
        alphabet: str | TokenizerAlphabet = "",
        prompt: str = "upo",
        shots: int = 0,
        examples: str = "",
        chat: bool = True,
        length: int = 128,
        longest: int = _LLADA_CONTEXT,
    ) -> None:
        require_library()
        if not alphabet:
            raise BadInput("math needs the tokenizer of a model: give the model (--model), or its folder as alphabet")
        symbols = alphabet_of(alphabet)
        if not isinstance(symbols, TokenizerAlphabet):
            raise BadInput(f"the alphabet {alphabet} is not the tokenizer of a model: give the folder of a model")
        if prompt not in TEMPLATES:
            raise BadInput(f"prompt {prompt!r} is unknown: use one of {', '.join(TEMPLATES)}")
        if shots < 0 or bool(shots) != bool(examples):
            raise BadInput(f"shots is {shots} and examples is {examples!r}: give both, a number and a file, or neither")
        self.prompt, self.shots, self.examples_file = prompt, shots, examples
        self.template = TEMPLATES[prompt]
        self.examples = read_problems(Path(examples), shots) if shots else []
        if len(self.examples) < shots:
            raise BadInput(f"{examples} holds {len(self.examples)} problems; shots asks for {shots}")
        self._set_up(symbols, chat, length, longest)

    @property
    def options(self) -> dict[str, Any]:
        """The arguments that make this task again; without `alphabet` if nobody knows where the tokenizer came from."""
        named = {"alphabet": self.symbols.source} if self.symbols.source else {}
        prompt = {"prompt": self.prompt, "shots": self.shots, "examples": self.examples_file, "chat": self.chat}
        return {**named, **prompt, "length": self.answer_length, "longest": self.length}

    @classmethod
    def for_denoiser(cls, denoiser: Denoiser, options: Mapping[str, Any], source: str = "") -> Self:
        """Mathematics in the model's own tokens; the model may end its answers, and padding is a token that no answer holds.

        Raises:
            BadInput: the denoiser has no tokenizer, or the options cannot be used.
        """
        if not isinstance(denoiser, HuggingFaceDenoiser) or denoiser.tokenizer is None:
            raise BadInput(f"{source or 'the denoiser'} has no tokenizer, and math needs one: use a model of Hugging Face")
        alphabet = tokens_of_model(denoiser, source)
        most = max_length_of(denoiser)
        room = {} if most is None else {"longest": most}
        task = make(cls, {"alphabet": alphabet, **room, **options})
        check_fits(task, denoiser)
        denoiser.allow(task.ends)
        denoiser.pad_with(task.pad_token_id)
        return task

    # ---- encoding -----------------------------------------------------------------------------------------------------

    def encode(
        self, problems: list[Problem], names: list[str] | None = None, unreadable: Unreadable | None = None
    ) -> Instances:
        """Instances from problems; labels: `answer`, the reference, and `difficulty` where a level is known.

        Raises:
            BadInput: a prompt that is too long or holds the mask, or a question that is among the examples.
        """
        rows, kept = [], []
        unreadable = unreadable or Unreadable()
        for number, problem in enumerate(problems):
            with unreadable.at(f"problem {number + 1}" if names is None else names[number]):
                rows.append(self._row(problem))
                kept.append(problem)
        if not rows:
            raise BadInput(f"there are no problems: {unreadable.said() or 'the list is empty'}")
        tokens = self._masked(rows)
        labels = {"answer": np.array([problem.answer for problem in kept])}
        if all(problem.level for problem in kept):
            labels["difficulty"] = np.array([f"level {problem.level}" for problem in kept])
        return Instances(tokens, tokens == self.mask_token_id, None, labels)

    def _row(self, problem: Problem) -> list[int]:
        """The tokens before the answer, refused if they cannot be used."""
        if any(problem.question == example.question for example in self.examples):
            raise BadInput("it is among the examples of the prompt: take the examples from another file")
        return self._with_room(self.prompt_tokens(self.template.ask(problem.question, self.examples), self.template.start))

    def load(self, path: str | Path, limit: int | None = None, unreadable: Unreadable | None = None) -> Instances:
        """The published files of GSM8K and MATH-500, and all like them, see `read_problems`.

        Raises:
            BadInput: as `read_problems` and `encode` do.
        """
        problems = read_problems(path, limit, unreadable)
        return self.encode(problems, [f"{path}, problem {number}" for number in range(1, len(problems) + 1)], unreadable)

    def parse(self, text: str) -> Instances:
        """One question, optionally with its answer as `... #### 42`; without it, any answer is right."""
        question, _, answer = text.partition("####")
        if not question.strip():
            raise BadInput("the question is empty")
        return self.encode([Problem(question.strip(), answer.strip(), "")], ["this question"])

    # ---- reading answers ----------------------------------------------------------------------------------------------

    def texts(self, instances: Instances, tokens: Tensor) -> list[str]:
        """The answers of completed sequences (N, L) as text, up to their end; `_` where masked."""
        texts = super().texts(instances, tokens)
        return [text.partition(self.template.stop)[0] if self.template.stop else text for text in texts]

    # ---- checking -----------------------------------------------------------------------------------------------------

    def check(self, instances: Instances, tokens: Tensor) -> CheckResult:
        """By the final answer (`final_answer`, `equivalent`): it is complete, the prompt is unchanged, and it is equivalent to
        the reference. Cell accuracy is nan: no answer is right token by token.
        """
        complete = ((tokens == instances.tokens) | instances.maskable).all(dim=1) & (tokens != self.mask_token_id).all(dim=1)
        references = instances.labels["answer"]
        right = [
            found is not None and (not reference or equivalent(str(reference), found.text))
            for found, reference in zip(self._final(instances, tokens), references, strict=True)
        ]
        return CheckResult(complete & torch.tensor(right, dtype=torch.bool), torch.full((len(tokens),), torch.nan))

    def measure(self, instances: Instances, tokens: Tensor) -> dict[str, np.ndarray]:
        """Per answer float (N,): answered, there is one at all; marked, by more than being the last number; its tokens up to
        the end."""
        found = self._final(instances, tokens)
        return {
            "answered": np.array([float(answer is not None) for answer in found]),
            "marked": np.array([float(answer is not None and answer.marked) for answer in found]),
            "tokens": np.array([float(len(answer)) for answer in self._answers(instances, tokens)]),
        }

    def _final(self, instances: Instances, tokens: Tensor) -> list[Answer | None]:
        return [final_answer(text) for text in self.texts(instances, tokens)]
