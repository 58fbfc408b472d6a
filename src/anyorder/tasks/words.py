"""Puzzles and sums in words, for language models: 4x4 Sudoku, additions, Countdown and Zebra puzzles, checked by their rules.

Layout: the prompt, `length` unknown tokens for the answer and its end, which also stands at all places behind it, then padding.

Files are JSON lines, {"kind": "addition", "problem": "17 + 25", "solution": "42"}, with the problem in the notation of
the puzzle's own task and the solution as the prompt asks for it. A task of one kind also reads the files of that task.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from anyorder.denoisers.base import Denoiser
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.ends import Ends
from anyorder.errors import BadInput, shorten, truth
from anyorder.files import open_text
from anyorder.registry import TASKS
from anyorder.signatures import checked
from anyorder.tasks.alphabets import Alphabet, alphabet_of
from anyorder.tasks.base import CheckResult, Instances, Task, check_fits, make, max_length_of, same_tokens
from anyorder.tasks.drawing import Drawing
from anyorder.tasks.generation import check_size, per_instance_seeds
from anyorder.tasks.problem_files import PROBLEM, SOLUTION, Unreadable, first_row, json_line, pick, read_rows
from anyorder.tasks.prompted import Prompted
from anyorder.tasks.tokenizer_alphabet import TokenizerAlphabet, tokens_of_model
from anyorder.tasks.word_problems import KINDS, STYLES, Kind, WordProblem


@TASKS.register("words")
class Words(Prompted):
    """Puzzles and sums in words. An answer is right if it satisfies the rules of its puzzle.

    Args:
        problems: kinds of problems, with commas between them, or a list of them: see `KINDS`. They are asked in turn; one that
            is named twice is asked twice as often.
        prompt: the style of the prompts, see `STYLES`.
        alphabet: an alphabet, the name of one, or a folder with a model's tokenizer (`alphabet_of`).
        chat: put the question through the tokenizer's chat template if it has one; not for base models.
        prefill: the given cells of a Sudoku stand in its answer too, and so does its end, as in UPO (arXiv 2510.05725).
        length: tokens of the answer and its end.
        longest: largest number of tokens of prompt and answer.

    Raises:
        BadInput: an unknown kind, one that cannot be prefilled, or an alphabet without an end.
    """

    correct_means: ClassVar[str] = "solved"
    difficulty_order: ClassVar[tuple[str, ...]] = tuple(KINDS)
    file_suffix: ClassVar[str] = ".jsonl"

    @checked("problems", "length", "longest")
    def __init__(
        self,
        problems: str | Sequence[str] = ",".join(KINDS),
        prompt: str = "short",
        alphabet: str | Alphabet = "characters",
        chat: bool = True,
        prefill: bool = False,
        length: int = 40,
        longest: int = 256,
    ) -> None:
        names = problems.split(",") if isinstance(problems, str) else list(problems)
        unknown = [name for name in names if name not in KINDS]
        if unknown or not names:
            raise BadInput(f"problems {unknown[0] if unknown else names!r} is unknown: use one or more of {', '.join(KINDS)}")
        if prompt not in STYLES:
            raise BadInput(f"prompt {prompt!r} is unknown: use one of {', '.join(STYLES)}")
        without = [name for name in names if prompt not in KINDS[name].questions]
        if without:
            raise BadInput(f"there is no prompt {prompt!r} of {without[0]}: use {', '.join(KINDS[without[0]].questions)}")
        whole = [name for name in names if prefill and not KINDS[name].can_be_prefilled]
        if whole:
            raise BadInput(f"the answers of {whole[0]} cannot be prefilled: leave prefill out")
        self.names = names
        self.kinds: dict[str, Kind] = {name: KINDS[name]() for name in dict.fromkeys(names)}
        for kind in self.kinds.values():
            kind.style = prompt
        self.prompt, self.style = prompt, STYLES[prompt]
        self.alphabet, self.prefill = alphabet, truth("prefill", prefill)
        self._set_up(alphabet_of(alphabet), chat, length, longest)
        if not self.ends:
            raise BadInput("this tokenizer has no token that ends a text: give it an end of text")

    @property
    def options(self) -> dict[str, Any]:
        """The arguments that make this task again; without `alphabet` if that has no name."""
        source = self.symbols.source if isinstance(self.symbols, TokenizerAlphabet) else self.alphabet
        named = {"alphabet": source} if isinstance(source, str) and source else {}
        sizes = {"length": self.answer_length, "longest": self.length}
        return {
            "problems": ",".join(self.names),
            "prompt": self.prompt,
            **named,
            "chat": self.chat,
            "prefill": self.prefill,
            **sizes,
        }

    @cached_property
    def ends(self) -> frozenset[int]:
        """Tokens that end an answer; those that frame every text if the tokenizer names no end."""
        return super().ends or frozenset(self.symbols.end[:1])

    @property
    def _end(self) -> int:
        """The token that stands behind an answer."""
        end = getattr(self.tokenizer, "eos_token_id", None)
        return min(self.ends) if end is None else int(end)

    @property
    def stops_at(self) -> Ends:
        """The ends of an answer, with the first of them at all places behind it."""
        return Ends((self._end, *sorted(self.ends - {self._end})))

    # ---- encoding -----------------------------------------------------------------------------------------------------

    def encode(
        self, problems: Sequence[tuple[str, WordProblem]], places: Sequence[str] = (), unreadable: Unreadable | None = None
    ) -> Instances:
        """Instances from problems with their kinds. Labels: `difficulty`, the kind, and `problem`.

        Args:
            problems: the name of a kind and a problem, each.
            places: what to call them in errors.
            unreadable: what becomes of problems that are too long.

        Raises:
            BadInput: a prompt or an answer that is too long, or cells that are not one token each.
        """
        unreadable, kept, prompts, answers = unreadable or Unreadable(), [], [], []
        for number, (name, problem) in enumerate(problems):
            with unreadable.at(places[number] if places else f"problem {number + 1}"):
                prompt = self._with_room(self.ask(self.kinds[name].ask(problem.problem)))
                answers.append(self._answer(self.kinds[name], problem))
                prompts.append(prompt)
                kept.append((name, problem))
        if not kept:
            raise BadInput(f"there are no problems: {unreadable.said() or 'the list is empty'}")
        tokens = self._masked(prompts)
        open_places = tokens == self.mask_token_id
        given, solved = (torch.tensor(part).flatten() for part in zip(*answers, strict=True))
        x0 = tokens.masked_scatter(open_places, solved)
        tokens = tokens.masked_scatter(open_places, given)
        known = all(problem.answer for _, problem in kept)
        labels = {
            "difficulty": np.array([name for name, _ in kept]),
            "problem": np.array([problem.problem for _, problem in kept]),
        }
        return Instances(tokens, tokens == self.mask_token_id, x0 if known else None, labels)

    def ask(self, question: str) -> list[int]:
        """See `PromptFormat`; the question as the task puts it."""
        return self.prompt_tokens(question, self.style.start, between="\n")

    def _answer(self, kind: Kind, problem: WordProblem) -> tuple[list[int], list[int]]:
        """The answer with the mask for all that is not given, and the complete one: `length` tokens each."""
        solved = self._filled(self.tokens_of(problem.answer + self.style.stop))
        if not self.prefill:
            return [self.mask_token_id] * self.answer_length, solved
        parts = re.split("(_)", kind.outline(problem.problem) + self.style.stop)
        given = self._filled([t for part in parts for t in ([self.mask_token_id] if part == "_" else self.tokens_of(part))])
        if problem.answer and any(a not in (b, self.mask_token_id) for a, b in zip(given, solved, strict=True)):
            raise BadInput("this tokenizer writes several cells as one token: leave prefill out")
        return given, solved

    def _filled(self, tokens: list[int]) -> list[int]:
        """The tokens of an answer, filled up with ends."""
        if len(tokens) >= self.answer_length:
            raise BadInput(f"the answer takes {len(tokens)} tokens and its end one more; length is {self.answer_length}")
        return tokens + [self._end] * (self.answer_length - len(tokens))

    # ---- problems -----------------------------------------------------------------------------------------------------

    def generate(
        self,
        count: int,
        seed: int,
        digits: int | tuple[int, int] = (3, 6),
        givens: int | tuple[int, int] = 8,
        unique: bool = False,
    ) -> Instances:
        """Fresh problems, of each kind in turn.

        Args:
            count: how many.
            seed: problem i depends on seed and i only.
            digits: of each of the two numbers of an addition, or a range (low, high) drawn from uniformly.
            givens: clues of a Sudoku, or a range of them.
            unique: a Sudoku has one solution.
        """
        per_instance_seeds(seed, count)  # which refuses what is no number of problems
        check_size(count, self.length)
        options = {"digits": digits, "givens": givens, "unique": unique}
        fresh = {}
        for name, kind in self.kinds.items():
            own = sum(self.names[number % len(self.names)] == name for number in range(count))
            fresh[name] = iter(kind.generate(own, seed, **{key: options[key] for key in kind.takes}) if own else [])
        names = [self.names[number % len(self.names)] for number in range(count)]
        return self.encode([(name, next(fresh[name])) for name in names])

    def load(self, path: str | Path, limit: int | None = None, unreadable: Unreadable | None = None) -> Instances:
        """JSON lines or another table with the columns `kind`, `problem` and perhaps `solution`; without `kind`, files of the
        puzzle's task, such as `sudoku4/d1_test.csv`, if the task asks one kind only.

        Raises:
            BadInput: no such file, another layout, or a problem that cannot be read; the error says which.
        """
        with open_text(path, newline="") as file:
            mixed = "kind" in first_row(file.readline, PROBLEM)
        if mixed or len(self.kinds) > 1:
            found = read_rows(path, limit, self._row, "problems", PROBLEM, unreadable)
        else:
            (name, kind), *_ = self.kinds.items()
            found = [(name, problem) for problem in kind.load(path, limit, unreadable)]
        return self.encode(found, [f"{path}, problem {number}" for number in range(1, len(found) + 1)], unreadable)

    def _row(self, row: Mapping[str, Any]) -> tuple[str, WordProblem]:
        name, problem, solution = row.get("kind"), pick(row, PROBLEM), pick(row, SOLUTION)
        if not (isinstance(name, str) and isinstance(problem, str) and isinstance(solution, str | None)):
            raise BadInput(
                'expected texts "kind", "problem" and perhaps "solution"; files of one puzzle are read by a task that asks it '
                "alone, such as problems=sudoku4"
            )
        read = self._kind(name).parse(problem)
        if solution is None or solution == read.answer:
            return name, read
        if not self.kinds[name].check([read.problem], [solution], None).instance_correct.all():
            raise BadInput(f"{shorten(solution)!r} does not solve {shorten(problem)!r}")
        return name, WordProblem(read.problem, solution)

    def _kind(self, name: str) -> Kind:
        if name not in self.kinds:
            raise BadInput(f"the kind {name!r} is none of those of this task: {', '.join(self.kinds)}")
        return self.kinds[name]

    def parse(self, text: str) -> Instances:
        """One problem as `addition: 17 + 25`, without the kind if the task asks one only."""
        name, colon, problem = (part.strip() for part in text.partition(":"))
        if not colon and len(self.kinds) == 1:
            name, problem = self.names[0], text
        elif not colon:
            raise BadInput(f"{shorten(text)!r} names no kind: write addition: 17 + 25; the kinds are {', '.join(self.kinds)}")
        return self.encode([(name, self._kind(name).parse(problem))], ["this problem"])

    def problem_text(self, tokens: Tensor) -> str:
        """A problem (L,) as `addition: 17 + 25`.

        Raises:
            BadInput: the tokenizer does not give the prompt back as it was.
        """
        name, problem = self._asked(tokens)
        return f"{name}: {problem}"

    def _asked(self, tokens: Tensor) -> tuple[str, str]:
        """Kind and problem, from the prompt."""
        text = self.symbols.decode(tokens.tolist()).rpartition(self._after)[0]
        found = [(name, problem) for name, kind in self.kinds.items() if (problem := kind.problem_in(text)) is not None]
        if not found:
            raise BadInput(f"{shorten(text)!r} is no prompt of {', '.join(self.kinds)}")
        return found[0]

    @cached_property
    def _after(self) -> str:
        """The text between question and answer, as it is decoded."""
        return self.symbols.decode(self.ask("?")).rpartition("?")[2]

    def file_line(self, tokens: Tensor, solution: Tensor | None) -> str:
        """Kind, problem and solution as JSON."""
        name, problem = self._asked(tokens)
        answer = None if solution is None else self._until_stop(self.symbols.decode(self._answer_of(solution, solution)))
        return json_line(kind=name, problem=problem, solution=answer)

    # ---- reading answers ----------------------------------------------------------------------------------------------

    def _answers(self, instances: Instances, tokens: Tensor) -> list[list[int]]:
        """The tokens of each answer, up to the first end, given ones too."""
        return [self._answer_of(*rows) for rows in zip(instances.tokens, tokens, strict=True)]

    def texts(self, instances: Instances, tokens: Tensor) -> list[str]:
        """The answers of completed sequences (N, L) as text, without what stands behind them; `_` where masked."""
        return [self._until_stop(text) for text in super().texts(instances, tokens)]

    def _until_stop(self, text: str) -> str:
        return text.partition(self.style.stop.strip())[0].rstrip() if self.style.stop else text

    def _answer_of(self, problem: Tensor, tokens: Tensor) -> list[int]:
        """The tokens of the answer up to its first end, from a problem (L,) and a completed sequence (L,)."""
        stop = int((problem != self.pad_token_id).sum())
        return self.until_end(tokens[stop - self.answer_length : stop].tolist())

    def generated(self, instances: Instances, tokens: Tensor) -> Tensor:
        """Positions bool (N, L) that were generated and count: those before the end."""
        ends = torch.isin(tokens, torch.tensor(sorted(self.ends))) & instances.maskable
        return instances.maskable & (ends.cumsum(dim=1) == 0)

    def drawing(self) -> Drawing:
        """Symbols one after the other."""
        return Drawing(symbols="text")

    def token_text(self, token: int) -> str:
        """The symbol; of a tokenizer, what the token is in a text, with its leading space."""
        return self.symbols.token_text(token)

    def hidden_tokens(self) -> list[int]:
        """Padding, and what frames a sequence."""
        return [self.pad_token_id, *self.symbols.start, *self.ends]

    # ---- checking -----------------------------------------------------------------------------------------------------

    def check(self, instances: Instances, tokens: Tensor) -> CheckResult:
        """By the rules of each puzzle: the prompt is unchanged, nothing is masked, and the answer up to its end is right.

        Cell accuracy is that of the puzzle's own task.
        """
        kept = ((tokens == instances.tokens) | instances.maskable).all(dim=1) & (tokens != self.mask_token_id).all(dim=1)
        answers = np.array(self.texts(instances, tokens), dtype=object)
        stored = None if instances.x0 is None else np.array(self.texts(instances, instances.x0), dtype=object)
        right, cells = torch.zeros(len(tokens), dtype=torch.bool), torch.zeros(len(tokens), dtype=torch.float32)
        for name, kind in self.kinds.items():
            own = np.flatnonzero(instances.labels["difficulty"] == name)
            if len(own):
                problems = instances.labels["problem"][own].tolist()
                known = None if stored is None else stored[own].tolist()
                right[own], found = kind.check(problems, answers[own].tolist(), known)
                cells[own] = found.float()
        return CheckResult(right & kept, cells)

    # ---- the denoiser -------------------------------------------------------------------------------------------------

    @classmethod
    def for_denoiser(cls, denoiser: Denoiser, options: Mapping[str, Any], source: str = "") -> Self:
        """Problems in the default alphabet if it fits the denoiser, else in the tokens of a model of Hugging Face, which is
        allowed to end its answers.

        Raises:
            BadInput: the options cannot be used, or the denoiser has another vocabulary and no tokenizer.
        """
        task = make(cls, options)
        if "alphabet" not in options and not same_tokens(task, denoiser):
            if not isinstance(denoiser, HuggingFaceDenoiser) or denoiser.tokenizer is None:
                raise BadInput(f"{source or 'the denoiser'} has no tokenizer: name the alphabet of the model (option alphabet)")
            alphabet = tokens_of_model(denoiser, source)
            task = make(cls, {"alphabet": alphabet, **options})
        most = max_length_of(denoiser)
        if most is not None and "longest" not in options and most < task.length:
            task = make(cls, {"alphabet": task.alphabet, "longest": most, **options})
        check_fits(task, denoiser)
        if isinstance(denoiser, HuggingFaceDenoiser):
            denoiser.allow(task.ends)
            denoiser.pad_with(task.pad_token_id)
        return task

    def serves(self, other: Task) -> bool:
        """A denoiser serves the kinds that it was trained on, prefilled or not."""
        own, mine = (dict(task.options, problems="", prefill=False) for task in (self, other))
        return isinstance(other, Words) and own == mine and set(other.kinds) <= set(self.kinds)
