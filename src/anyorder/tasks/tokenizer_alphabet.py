"""The tokenizer of a Hugging Face model as an alphabet."""

import itertools
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from anyorder.denoisers.special_tokens import tokens_of_no_text
from anyorder.errors import BadInput, shorten

_COUNT = re.compile(r"_\{(\d{1,6})\}")
_LONGEST = 2**20


def refuse_too_many(text: str) -> None:
    """Count the unknown symbols of a text before there is a token for each of them.

    Raises:
        BadInput: they are more than a million.
    """
    count = sum(int(number) for number in _COUNT.findall(text))
    if count > _LONGEST:
        raise BadInput(f"it asks for {count:,} unknown symbols; {_LONGEST:,} are the most that are read")


@dataclass(frozen=True)
class TokenizerAlphabet:
    """The tokenizer of a Hugging Face model as an `Alphabet`.

    Args:
        tokenizer: a fast or slow tokenizer.
        vocab_size: of the model, whose output may have more entries than the tokenizer.
        mask_token_id: the mask, which the tokenizer may not know.
        source: name or folder of the model, where the tokenizer can be found again; "" if unknown.
        padding: the padding that the model has now, which is kept if no text holds it; None for the tokenizer's.

    Raises:
        BadInput: there is no token to pad with.
    """

    tokenizer: Any
    vocab_size: int
    mask_token_id: int
    source: str = ""
    padding: int | None = None
    pad_token_id: int = field(init=False)
    start: tuple[int, ...] = field(init=False)
    end: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        probe = list(self.tokenizer("", add_special_tokens=True)["input_ids"])
        first = {self.tokenizer.cls_token_id, self.tokenizer.bos_token_id} - {None}
        leading = next((n for n, token in enumerate(probe) if token not in first), len(probe))
        object.__setattr__(self, "start", tuple(probe[:leading]))
        object.__setattr__(self, "end", tuple(probe[leading:]))
        object.__setattr__(self, "pad_token_id", self._padding(set(probe) | {self.mask_token_id}))

    def _padding(self, used: set[int]) -> int:
        """The model's or the tokenizer's own padding, unless it frames texts as well; then another token that is not text."""
        kept = self.padding if self.padding in self.of_no_text else None
        candidates = [kept, self.tokenizer.pad_token_id, self.tokenizer.unk_token_id, *sorted(self.of_no_text)]
        free = [token for token in candidates if token is not None and token not in used]
        if not free:
            raise BadInput(
                f"the tokenizer of {self.source or 'the model'} has no special token to pad with: give it a pad token"
            )
        return int(free[0])

    @cached_property
    def of_no_text(self) -> frozenset[int]:
        """Tokens that are never part of a text: the mask, special ones, and outputs of the model without a token."""
        return frozenset(tokens_of_no_text(self.tokenizer, self.vocab_size)) | {self.mask_token_id}

    @cached_property
    def symbols(self) -> frozenset[int]:
        """All tokens but those."""
        return frozenset(range(self.vocab_size)) - self.of_no_text

    def encode(self, text: str) -> list[int]:
        """See `Alphabet`. Unknown places are written as `_{n}` or as the tokenizer's own mask token; a bare `_` is text.
        A space before such a place belongs to its first token."""
        refuse_too_many(text)
        mask = re.escape(self.tokenizer.convert_ids_to_tokens(self.mask_token_id) or "<mask>")
        tokens: list[int] = []
        at = 0
        for match in re.finditer(rf" ?_\{{(\d{{1,6}})\}}| ?{mask}", text):
            tokens += self.tokens_of(text[at : match.start()])
            tokens += [self.mask_token_id] * int(match[1] or 1)
            at = match.end()
        return self.known(text, tokens + self.tokens_of(text[at:]))

    def known(self, text: str, tokens: list[int]) -> list[int]:
        """The tokens of a text.

        Raises:
            BadInput: one of them stands for what the tokenizer does not know.
        """
        unknown = self.tokenizer.unk_token_id
        if unknown is not None and unknown in tokens:
            raise BadInput(f"the tokenizer of {self.source or 'the model'} does not know {self._unknown_in(text)}")
        return tokens

    def tokens_of(self, text: str) -> list[int]:
        """The tokens of a text as it is, in which nothing is unknown, without a frame.

        Raises:
            BadInput: it is not valid Unicode.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadInput(f"the text is not valid Unicode: character {error.start + 1} is half of a surrogate pair") from error
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    def _unknown_in(self, text: str) -> str:
        """The first word that the tokenizer does not know, or the text if all words are known one by one."""
        unknown = self.tokenizer.unk_token_id
        found = next((word for word in text.split() if unknown in self.tokens_of(word)), None)
        return f"a part of {shorten(text)!r}" if found is None else f"{shorten(found)!r}"

    def decode(self, tokens: list[int]) -> str:
        """See `Alphabet`."""
        parts: list[str] = []
        for kept, run in itertools.groupby(tokens, key=lambda t: t if t == self.mask_token_id else t in self.symbols):
            if kept is True:
                parts.append(self.tokenizer.decode(list(run)))
            elif kept == self.mask_token_id:
                parts.append("_" * len(list(run)))
        return "".join(parts)

    def token_text(self, token: int) -> str:
        """See `Alphabet`; an ordinary token with its leading space."""
        piece = str(self.tokenizer.convert_ids_to_tokens(token))
        return piece if token in self.tokenizer.all_special_ids else piece.replace("Ġ", " ").replace("▁", " ")


def tokens_of_model(denoiser: Any, source: str) -> TokenizerAlphabet:
    """The alphabet of a Hugging Face denoiser with a tokenizer, and with the padding that it has, so that all who use the
    denoiser agree."""
    return TokenizerAlphabet(denoiser.tokenizer, denoiser.vocab_size, denoiser.mask_token_id, source, denoiser.pad_token_id)
