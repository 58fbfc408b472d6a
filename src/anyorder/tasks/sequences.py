"""Sequences of any length: text, proteins, molecules. This module holds what they share: files, encoding, framing and padding,
in-filling, and measures of a set of samples.

Layout: start, the sequence, end, padding up to the longest of the batch. A problem is a sequence with unknown symbols: all of
them (unconditional generation at a given length), those that the user masks, or a share that the task hides.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from anyorder.denoisers.base import Denoiser
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.ends import Ends
from anyorder.errors import BadInput, shorten, truth
from anyorder.registry import TASKS
from anyorder.signatures import check_argument, checked
from anyorder.tasks.alphabets import Alphabet, alphabet_of, has_plain_vocabulary
from anyorder.tasks.base import CheckResult, Instances, Task, check_fits, make, max_length_of, same_tokens
from anyorder.tasks.drawing import Drawing
from anyorder.tasks.generation import per_instance_seeds, range_of
from anyorder.tasks.problem_files import Unreadable, collect, json_line
from anyorder.tasks.residues import residues_of
from anyorder.tasks.sequence_files import read_records
from anyorder.tasks.sequence_measures import first_occurrence, mean_identity, over_pairs, overlaps, token_entropy
from anyorder.tasks.tokenizer_alphabet import TokenizerAlphabet, tokens_of_model


@TASKS.register("text")
class Sequences(Task):
    """Text, or any sequences over an alphabet; valid means complete, with the given symbols kept.

    Args:
        alphabet: an alphabet, the name of one, or a folder with a model's tokenizer (`alphabet_of`).
        length: largest number of symbols of a sequence, without its frame.
        hide: share of the symbols that is unknown in problems made from complete sequences: 1 for unconditional generation.
        free_length: the end is generated as well, anywhere in the `length` positions; everything after the first end is cut
            off.
    """

    correct_means: ClassVar[str] = "complete"
    sequential: ClassVar[bool | str] = True
    pad_token_id: int
    drawn_as: ClassVar[Literal["amino acids", "smiles", "text"]] = "text"
    default_alphabet: ClassVar[str] = "characters"
    default_length: ClassVar[int] = 128
    file_suffix: ClassVar[str] = ".jsonl"

    @checked("length", "hide")
    def __init__(self, alphabet: str | Alphabet = "", length: int = 0, hide: float = 1.0, free_length: bool = False) -> None:
        self.alphabet = alphabet or self.default_alphabet
        self.symbols = alphabet_of(self.alphabet)
        self.most = length or self.default_length
        if self.most < 1:
            raise BadInput(f"length {length} must be at least 1")
        if not 0 < hide <= 1:
            raise BadInput(f"hide {hide} must be a share above 0 and at most 1")
        if free_length and not self.symbols.end:
            raise BadInput(f"the alphabet {self.alphabet_name} has no end symbol: leave free_length out")
        self.hide, self.free_length = hide, truth("free_length", free_length)
        self.vocab_size = self.symbols.vocab_size
        self.mask_token_id = self.symbols.mask_token_id
        self.pad_token_id = self.symbols.pad_token_id
        self.length = self.most + len(self.symbols.start) + len(self.symbols.end)

    @property
    def alphabet_name(self) -> str:
        """The name of the alphabet, or of the model whose tokenizer it is; "" if it has none."""
        if isinstance(self.alphabet, str):
            return self.alphabet
        return self.alphabet.source if isinstance(self.alphabet, TokenizerAlphabet) else ""

    @property
    def options(self) -> dict[str, Any]:
        """The arguments that rebuild this task; without `alphabet` if that has no name."""
        named = {"alphabet": self.alphabet_name} if self.alphabet_name else {}
        return {**named, "length": self.most, "hide": self.hide, "free_length": self.free_length}

    def main_metric(self, instances: Instances) -> str:
        """The share of hidden symbols that were recovered if these are known, else whether a sequence is valid."""
        return "instance_correct" if instances.x0 is None else "cell_accuracy"

    # ---- encoding -----------------------------------------------------------------------------------------------------

    def encode(self, texts: list[str], names: list[str] | None = None, unreadable: Unreadable | None = None) -> Instances:
        """Problems from texts. Symbols marked as unknown are generated; in a text without any, a share `hide` of them.

        Which symbols of a complete text are hidden depends on its place in the list only. Symbols that are context only, such
        as an X of a protein, are never hidden.

        Args:
            texts: one for each problem.
            names: what to call them in errors.
            unreadable: what becomes of texts that cannot be encoded.

        Raises:
            BadInput: an empty text, one that is too long, or a symbol that the alphabet does not have.
        """
        read: list[list[int]] = []
        unreadable = unreadable or Unreadable()
        for number, text in enumerate(texts):
            with unreadable.at(f"sequence {number + 1}" if names is None else names[number]):
                read.append(self._tokens(text))
        if not read:
            raise BadInput(f"there are no sequences: {unreadable.said() or 'the list is empty'}")
        return self._problems(read)

    def _problems(self, read: list[list[int]]) -> Instances:
        known = [self.mask_token_id not in tokens for tokens in read]
        seeds = per_instance_seeds(7, len(read))
        rows = [self._hidden(*row) if complete else row[0] for *row, complete in zip(read, seeds, known, strict=True)]
        return self._instances(self._frame(rows), self._frame(read) if all(known) else None)

    def _tokens(self, text: str) -> list[int]:
        """The tokens of a text, refused if they are none, too many, or leave nothing to generate."""
        tokens = self.symbols.encode(self.text_of(text))
        if not tokens:
            raise BadInput("it is empty")
        if len(tokens) > self.most:
            raise BadInput(f"it has {len(tokens)} symbols; this task takes {self.most} at most (option length)")
        if not self._producible & set(tokens):
            raise BadInput(
                f"{shorten(text.strip())!r} holds no symbol that the model may produce: there is nothing to generate"
            )
        return tokens

    def text_of(self, text: str) -> str:
        """A text as it is read: without spaces around it, unless these are tokens of the model."""
        return text if isinstance(self.symbols, TokenizerAlphabet) else text.strip()

    @cached_property
    def _producible(self) -> frozenset[int]:
        return self.symbols.symbols | {self.mask_token_id}

    def _hidden(self, tokens: list[int], seed: int) -> list[int]:
        """Tokens of a complete sequence with a share of them masked."""
        places = [place for place, token in enumerate(tokens) if token in self._producible]
        hidden = list(tokens)
        for number in np.random.default_rng(seed).permutation(len(places))[: max(1, round(self.hide * len(places)))]:
            hidden[places[number]] = self.mask_token_id
        return hidden

    def _instances(self, tokens: Tensor, x0: Tensor | None) -> Instances:
        if self.free_length:
            after = torch.arange(tokens.shape[1]) >= len(self.symbols.start)
            unknown = (tokens == self.mask_token_id).any(dim=1, keepdim=True)
            x0 = x0 if x0 is None else torch.where(after & (x0 == self.pad_token_id), self.symbols.end[0], x0)
            tokens = torch.where(after & unknown, self.mask_token_id, tokens)
        lengths = (tokens != self.pad_token_id).sum(dim=1).numpy()
        return Instances(tokens, tokens == self.mask_token_id, x0, {"length": lengths})

    def _frame(self, rows: list[list[int]]) -> Tensor:
        """Start, symbols, end, padding: int64 (N, L)."""
        start, end = list(self.symbols.start), list(self.symbols.end)
        longest = self.most if self.free_length else max(map(len, rows))
        out = torch.full((len(rows), longest + len(start) + len(end)), self.pad_token_id, dtype=torch.long)
        for row, tokens in zip(out, rows, strict=True):
            framed = [*start, *tokens, *end]
            row[: len(framed)] = torch.tensor(framed)
        return out

    def texts(self, instances: Instances, tokens: Tensor) -> list[str]:
        """Completed sequences (N, L) as text, see `decode`."""
        return self.decode(tokens)

    def decode(self, tokens: Tensor) -> list[str]:
        """Sequences (N, L) as text: up to the first end, without frame and padding; `_` where masked."""
        found = []
        for row in tokens.tolist():
            inner = row[len(self.symbols.start) :]
            ends = [n for n, token in enumerate(inner) if token in self.symbols.end]
            found.append(self.symbols.decode(inner[: ends[0]] if ends else inner))
        return found

    # ---- problems -----------------------------------------------------------------------------------------------------

    def generate(self, count: int, seed: int, length: int | Sequence[int] = 0) -> Instances:
        """Empty sequences of a length, or of lengths drawn uniformly from a range (low, high); `length` of the task if 0.

        They have no solution (x0 is None): completed sequences are checked for validity, and `measure` describes the set.
        """
        check_argument("length", length, int | Sequence)
        low, high = range_of("length", length)
        low, high = (low, high) if high else (self.most, self.most)
        if not 1 <= low <= high <= self.most:
            raise BadInput(f"length {length} must lie in 1..{self.most}")
        seeds = per_instance_seeds(seed, count)
        lengths = low + np.array([int(s % (high - low + 1)) for s in seeds], dtype=np.int64)
        return self._instances(self._frame([[self.mask_token_id] * n for n in lengths]), None)

    def load(self, path: str | Path, limit: int | None = None, unreadable: Unreadable | None = None) -> Instances:
        """Sequences from a file, see `read_records`.

        Raises:
            BadInput: an unreadable file, an empty one, or a sequence that cannot be encoded; the error says where.
        """
        unreadable = unreadable or Unreadable()
        read = ((record.place, partial(self._tokens, record.text)) for record in read_records(path, unreadable=unreadable))
        return self._problems(collect(path, read, limit, "sequences", unreadable))

    def parse(self, text: str) -> Instances:
        """One sequence with its unknown symbols as `_`, or `_{n}` for n of them; a number alone is that many unknown."""
        text = text.strip()
        return self.encode([f"_{{{text}}}" if text.isdigit() and len(text) < 6 else text], ["this sequence"])

    def problem_text(self, tokens: Tensor) -> str:
        """A sequence (L,) with its unknown symbols as `_{n}`.

        Raises:
            BadInput: it cannot be read back, because a tokenizer cuts its text into other tokens, or nothing is unknown.
        """
        start, end = len(self.symbols.start), {*self.symbols.end, self.pad_token_id}
        inner = takewhile(lambda token: token not in end, tokens[start : start + self.most].tolist())
        runs = [(unknown, list(run)) for unknown, run in groupby(inner, lambda token: token == self.mask_token_id)]
        text = "".join(f"_{{{len(run)}}}" if unknown else self.symbols.decode(run) for unknown, run in runs)
        again = self.parse(text).tokens[0]
        if not torch.equal(again, tokens[: len(again)]) or not (tokens[len(again) :] == self.pad_token_id).all():
            raise BadInput(f"{shorten(text)!r} is read as other tokens than those of this problem")
        return text

    def file_line(self, tokens: Tensor, solution: Tensor | None) -> str:
        """The sequence as JSON, with what is unknown; a solution is not written."""
        return json_line(sequence=self.problem_text(tokens))

    def format(self, tokens: Tensor) -> str:
        """The sequence as text, `_` for what is still masked."""
        return self.decode(tokens[None])[0]

    # ---- checking -----------------------------------------------------------------------------------------------------

    def differences(self, instances: Instances, tokens: Tensor) -> np.ndarray:
        """1 minus what all pairs of sequences (N, L) have in common, float (N, N), see `overlaps`: symbols and pairs of
        symbols, wherever they stand."""
        return 1 - overlaps(self._generated(instances, tokens))

    def valid(self, texts: list[str]) -> np.ndarray:
        """Which texts are valid, bool (N,). Every text is; other tasks override this."""
        return np.ones(len(texts), dtype=bool)

    def check(self, instances: Instances, tokens: Tensor) -> CheckResult:
        """Complete, given symbols kept, only symbols of the alphabet where generated, and `valid`.

        Cell accuracy is the share of generated symbols that equal the hidden ones, nan where these are unknown.
        """
        allowed = torch.tensor(sorted(self.symbols.symbols | (set(self.symbols.end) if self.free_length else set())))
        kept = ((tokens == instances.tokens) | instances.maskable).all(dim=1)
        complete = (torch.isin(tokens, allowed) | ~instances.maskable).all(dim=1) & kept
        good = np.zeros(len(tokens), dtype=bool)
        if bool(complete.any()):
            good[complete.numpy()] = self.valid(self.decode(tokens[complete]))
        if instances.x0 is None:
            accuracy = torch.full((len(tokens),), torch.nan, dtype=torch.float32)
        else:
            hit = (tokens == instances.x0) & instances.maskable
            accuracy = hit.sum(dim=1).float() / instances.maskable.sum(dim=1).clamp(min=1)
        return CheckResult(torch.from_numpy(good), accuracy)

    def measure(self, instances: Instances, tokens: Tensor) -> dict[str, np.ndarray]:
        """Numbers per sample float (N,), nan where one has none; their means describe the set."""
        texts = self.decode(tokens)
        return {
            "token entropy": np.array([token_entropy(row) for row in self._generated(instances, tokens)]),
            "unique": first_occurrence(texts),
            "diversity": over_pairs(1 - mean_identity(self._generated(instances, tokens))),
        }

    def _generated(self, instances: Instances, tokens: Tensor) -> list[np.ndarray]:
        """The tokens of each sequence that `generated` names."""
        return [row[where].numpy() for row, where in zip(tokens, self.generated(instances, tokens), strict=True)]

    def generated(self, instances: Instances, tokens: Tensor) -> Tensor:
        """Positions bool (N, L) that were generated and count: at free length, those before the end."""
        if not self.free_length:
            return instances.maskable
        ends = torch.isin(tokens, torch.tensor(self.symbols.end)) & instances.maskable
        return instances.maskable & (ends.cumsum(dim=1) == 0)

    @property
    def stops_at(self) -> Ends | None:
        """At free length the end, which also stands at all places behind it."""
        return Ends(tuple(self.symbols.end)) if self.free_length else None

    # ---- drawing ------------------------------------------------------------------------------------------------------

    def drawing(self) -> Drawing:
        """Symbols one after the other, in the colors of their kind."""
        return Drawing(symbols=self.drawn_as)

    def token_text(self, token: int) -> str:
        """The symbol; of a tokenizer, what the token is in a text, with its leading space."""
        return self.symbols.token_text(token)

    def hidden_tokens(self) -> list[int]:
        """Padding, and what frames a sequence."""
        return [self.pad_token_id, *self.symbols.start, *self.symbols.end]

    # ---- the denoiser -------------------------------------------------------------------------------------------------

    @classmethod
    def for_denoiser(cls, denoiser: Denoiser, options: Mapping[str, Any], source: str = "") -> Self:
        """Sequences in the alphabet of a model: the default one if it fits, else that of the model's tokenizer or vocabulary.

        If no length is given, it is limited to what the model takes. A Hugging Face denoiser gets its padding token, and the
        permission to produce the end if the length is free.

        Raises:
            BadInput: the options cannot be used, the alphabet is not that of the model, or the length is too large for it.
        """
        task = make(cls, options)
        if "alphabet" not in options and not same_tokens(task, denoiser) and isinstance(denoiser, HuggingFaceDenoiser):
            options = {**options, "alphabet": _alphabet_of(denoiser, source)}
            task = make(cls, options)
        most = max_length_of(denoiser)
        if most is not None and task.length > most and same_tokens(task, denoiser):
            most -= task.length - task.most
            if "length" in options:
                raise BadInput(f"{source or 'the denoiser'} takes {most} symbols at most, not {options['length']}")
            task = make(cls, {**options, "length": most})
        check_fits(task, denoiser)
        if isinstance(denoiser, HuggingFaceDenoiser):
            if task.free_length:
                denoiser.allow(task.symbols.end)
            if denoiser.pad_token_id != task.pad_token_id:  # it has none, or one that ends texts as well
                denoiser.pad_with(task.pad_token_id)
        return task

    def variant(self, options: Mapping[str, Any]) -> Self:
        """Sequences in the same alphabet with other options: the denoiser of one task serves all that are no longer.

        Raises:
            BadInput: another alphabet, a larger length, or a free length where the denoiser never learned to end.
        """
        other = make(type(self), {**self.options, "alphabet": self.alphabet, **options})
        if not same_tokens(self, other):
            raise BadInput(
                f"the alphabet {other.alphabet_name} has {other.vocab_size} tokens with mask {other.mask_token_id}, the "
                f"denoiser {self.vocab_size} with mask {self.mask_token_id}: leave the alphabet out"
            )
        if other.most > self.most:
            raise BadInput(f"the denoiser takes {self.most} symbols at most, not {other.most}")
        if other.free_length and not self.free_length:
            raise BadInput("the denoiser was trained at given lengths and never ends a sequence: leave free_length out")
        return other

    def serves(self, other: Task) -> bool:
        """A denoiser of sequences serves all tasks of its kind."""
        return type(other) is type(self)


def _alphabet_of(denoiser: HuggingFaceDenoiser, source: str) -> str | Alphabet:
    """The symbols of a model: those of its tokenizer, or of its plain list."""
    if source and (denoiser.tokenizer is None or has_plain_vocabulary(source)):
        return source
    if denoiser.tokenizer is None:
        raise BadInput("the denoiser has no tokenizer: name the alphabet of the model (option alphabet)")
    residues = residues_of(denoiser.tokenizer, denoiser.vocab_size)
    return residues or tokens_of_model(denoiser, source)
