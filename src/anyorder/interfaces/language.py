"""A language model: text in, text out, by any denoiser whose tokens are text."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from anyorder.decoding.callbacks import Callback
from anyorder.decoding.constraints import LogitsMask, Matching
from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.base import Denoiser, check_seeds
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.errors import BadInput
from anyorder.interfaces.arguments import check_budget, find_sampler, whole
from anyorder.interfaces.ends import with_late_ends
from anyorder.interfaces.infill import infill
from anyorder.interfaces.patterns import automaton_of
from anyorder.interfaces.prompts import batch_of
from anyorder.orders.base import Order
from anyorder.signatures import check_argument
from anyorder.tasks import Sequences
from anyorder.tasks.base import max_length_of
from anyorder.tasks.prompt_format import PromptFormat, Turn
from anyorder.tasks.prompted import Prompted
from anyorder.tasks.tokenizer_alphabet import tokens_of_model
from anyorder.zoo.matching import source_of, task_for

_USUAL_LENGTH = 128


class Answer(NamedTuple):
    """What a model answered.

    text: up to its end.
    tokens: of the answer, up to its end.
    nfe: forward passes.
    """

    text: str
    tokens: list[int]
    nfe: int


class LanguageModel:
    """A denoiser of text with a sampler.

    Args:
        denoiser: one of Hugging Face with its tokenizer, or one of ours for text, such as `words`. A Hugging Face denoiser is
            allowed to end its texts, and gets a padding that no text holds.
        sampler: a `Sampler`, its spelling, its folder, or an order.
        chat: ask as the model was taught to be asked: by the chat template of its tokenizer, or by the prompts of the task
            that it was trained for. False passes prompts on as they are, as base models want them.
        eos_penalty: subtracted from the score of a token that ends the text, `math.inf` for ends last.

    Attributes:
        format: how prompts and answers are written in tokens.
        room: most tokens of a prompt and its answer; None if the denoiser does not say.
        usual_length: tokens of an answer where nobody says how many.

    Raises:
        BadInput: a model without tokens for text, or no sampler.

    Example:
        >>> import anyorder
        >>> model = anyorder.LanguageModel(anyorder.load_denoiser("words", device="cpu"))
        >>> model.generate([model.prompt("What is 482 + 903?")])[0].text
        '1385'
    """

    def __init__(
        self,
        denoiser: Denoiser,
        sampler: Sampler | Order | str | Any = "confidence",
        *,
        chat: bool = True,
        eos_penalty: float = 0.0,
    ) -> None:
        if not isinstance(denoiser, Denoiser):
            raise BadInput(f"{type(denoiser).__name__} has no tokenizer: load the model with anyorder.load_denoiser(name)")
        check_argument("chat", chat, bool)
        self.denoiser = denoiser
        self.format = format_of(denoiser, chat=chat)
        self.ends = self.format.stops_at
        bound = find_sampler(sampler, denoiser)
        self.sampler = with_late_ends(bound, self.ends, eos_penalty)
        self.room = max_length_of(denoiser)
        self.usual_length = usual_length(self.format, self.room)

    def prompt(self, text: str | Sequence[Turn], system: str = "") -> list[int]:
        """The tokens of a prompt: the question, or a conversation of turns with roles.

        Raises:
            BadInput: an empty prompt, one that holds the mask, turns or a system prompt without a chat template, or text that
                the model has no tokens for.
        """
        if not text or (isinstance(text, str) and not text.strip()):
            raise BadInput("the prompt is empty: write a question or the beginning of a text")
        turns = [] if isinstance(text, str) else list(text)
        if system:
            turns = [{"role": "system", "content": system}, *(turns or [{"role": "user", "content": str(text)}])]
        if turns and not self.format.chat:
            raise BadInput(
                f"{source_of(self.denoiser) or 'this model'} has no chat template in use, which a system prompt and turns "
                "need: write everything as one prompt"
            )
        tokens = self.format.tokens_of(self.format.render(turns, True)) if turns else self.format.ask(str(text))
        if self.denoiser.mask_token_id in tokens:
            raise BadInput("the prompt holds the mask token: use anyorder.infill for texts with holes")
        return tokens

    def check_steps(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        """Raise BadInput if the sampler has fewer steps than there are blocks in the answer to a prompt."""
        tokens = torch.tensor([[*prompt, *[self.denoiser.mask_token_id] * max_new_tokens]])
        check_budget(self.denoiser, tokens, None, self.sampler.steps, self.sampler.block_length)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int | None = None,
        *,
        seeds: Tensor | int = 0,
        batch_size: int = 32,
        pattern: str | None = None,
        on_step: Callback | Sequence[Callback] = (),
    ) -> list[Answer]:
        """Answer prompts.

        Args:
            prompts: the tokens of each, see `prompt`.
            max_new_tokens: masks behind each; None for `usual_length`.
            seeds: int64 (N,), or a number to which prompt i adds i.
            batch_size: prompts at a time; results do not depend on it.
            pattern: a regular expression that the answer up to its end must match as a whole, see `Matching`; it needs the
                extra `grammar`.
            on_step: callbacks, see `decode`.

        Raises:
            BadInput: a pattern that cannot be used or that no answer of this length matches, a prompt that leaves no room for
                its answer, or fewer steps than blocks.
        """
        whole("batch_size", batch_size, 1)
        if not prompts:
            return []
        new = self.usual_length if max_new_tokens is None else whole("max_new_tokens", max_new_tokens, 1)
        for prompt in prompts:
            self.check_steps(prompt, new)
        sampler, mask = self._constrained(pattern)
        check_seeds(seeds, len(prompts))
        each = torch.arange(len(prompts)) + seeds if isinstance(seeds, int) else seeds
        answers: dict[int, Answer] = {}
        ranked = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
        for first in range(0, len(ranked), batch_size):
            rows = ranked[first : first + batch_size]
            given = [list(prompts[number]) for number in rows]
            every = [[1] * len(prompt) for prompt in given]  # whatever the padding: nothing of a prompt is hidden
            batch = batch_of(given, every, self.denoiser, new=new, what="the prompt")
            decoded = decode(
                self.denoiser, batch.tokens, sampler, seeds=each[rows], attention_mask=batch.attention_mask, ends=self.ends,
                logits_mask=mask, on_step=on_step,
            )  # fmt: skip
            for number, tokens, nfe in zip(rows, decoded.tokens[:, -new:].tolist(), decoded.nfe.tolist(), strict=True):
                answers[number] = self._answer(tokens, nfe)
        return [answers[number] for number in range(len(prompts))]

    def fill(self, text: str, *, seed: int = 0, pattern: str | None = None) -> str:
        """Complete a text with holes, see `anyorder.infill`; no hole holds an end of the text."""
        filled: str = infill(self.denoiser, text, self.sampler, seed=seed, pattern=pattern)
        return filled

    def _constrained(self, pattern: str | None) -> tuple[Sampler, LogitsMask | None]:
        if pattern is None:
            return self.sampler, None
        automaton = automaton_of(pattern, self.format.symbols)
        if self.ends is not None:
            automaton = automaton.ended_by(self.ends.tokens, self.format.pad_token_id)
        matching = Matching((automaton,), self.sampler.token)
        return self.sampler.replace(token=matching), matching.allowed

    def _answer(self, tokens: list[int], nfe: int) -> Answer:
        kept = self.format.until_end(tokens)
        return Answer(self.format.symbols.decode(kept), kept, nfe)


def usual_length(form: PromptFormat, room: int | None) -> int:
    """Tokens of an answer where nobody says how many: those that the model was trained for, or 128, but at most half of what
    there is room for."""
    if isinstance(form, Prompted):
        return form.answer_length
    return _USUAL_LENGTH if room is None else max(1, min(_USUAL_LENGTH, room // 2))


def format_of(denoiser: Denoiser, *, chat: bool) -> PromptFormat:
    """How prompts and answers of a denoiser are written.

    Raises:
        BadInput: its tokens are not known, or are not text.
    """
    hugging_face = isinstance(denoiser, HuggingFaceDenoiser) and denoiser.tokenizer is not None
    if not source_of(denoiser) and not hugging_face:
        raise BadInput("this denoiser has no tokenizer, so it cannot read texts: load it with anyorder.load_denoiser(name)")
    task = task_for(denoiser)
    if isinstance(task, Prompted):
        return task if chat else PromptFormat(task.symbols, chat=False)
    if isinstance(denoiser, HuggingFaceDenoiser) and hugging_face:
        found = PromptFormat(tokens_of_model(denoiser, source_of(denoiser)), chat=chat)
        denoiser.allow(found.ends)
        denoiser.pad_with(found.pad_token_id)
        return found
    if not isinstance(task, Sequences):
        raise BadInput(f"{source_of(denoiser)} is a model for {task.name}, not for text: name another one with --model")
    return PromptFormat(task.symbols, chat=chat)
