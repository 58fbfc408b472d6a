"""How text becomes tokens: fixed alphabets of one symbol per token; those of tokenizers are in `tokenizer_alphabet`.

In text that a person types, `_` is an unknown symbol, and `_{12}` stands for twelve of them. The name of the mask token can be
used as well.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Protocol

from anyorder.denoisers.loading import load_transformers
from anyorder.errors import BadInput, first_line, shorten
from anyorder.files import cache_folder
from anyorder.hub import of_hub
from anyorder.tasks.tokenizer_alphabet import TokenizerAlphabet, refuse_too_many

_UNKNOWN = re.compile(r"_(?:\{(\d{1,6})\})?")


class Alphabet(Protocol):
    """Tokens of a sequence model.

    vocab_size, mask_token_id, pad_token_id: as the model has them.
    start, end: tokens that frame every sequence.
    symbols: tokens that a sequence may hold between its frame, and that a model may produce there.
    """

    @property
    def vocab_size(self) -> int: ...

    @property
    def mask_token_id(self) -> int: ...

    @property
    def pad_token_id(self) -> int: ...

    @property
    def start(self) -> tuple[int, ...]: ...

    @property
    def end(self) -> tuple[int, ...]: ...

    @property
    def symbols(self) -> frozenset[int]: ...

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without the frame, the mask at unknown places."""

    def decode(self, tokens: list[int]) -> str:
        """The text of tokens, with `_` at masked positions, without padding and frame."""

    def token_text(self, token: int) -> str:
        """The text of one token; special tokens are written by their names."""


@dataclass(frozen=True)
class Symbols:
    """An alphabet of fixed symbols.

    Args:
        tokens: the symbol of each token id.
        mask, pad: of `tokens`. start, end: of `tokens`, or none.
        special: symbols that no sequence holds.
        pattern: how text is split into symbols; by default into single characters.
        what: the name of a symbol in errors.
        leading_space: symbols bring the space before them along, so one before an unknown symbol is part of it.
        context: of `tokens`, symbols that a sequence may hold, but that no model is to produce.
        ignored: pattern of what is left out of a text.
        any_case: small letters stand for capitals.
    """

    tokens: tuple[str, ...]
    mask: str
    pad: str
    start_symbol: str | None = None
    end_symbol: str | None = None
    special: frozenset[str] = frozenset()
    pattern: str = r"."
    what: str = "symbol"
    leading_space: bool = False
    context: frozenset[str] = frozenset()
    ignored: str = ""
    any_case: bool = False

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}

    @cached_property
    def _cut(self) -> re.Pattern[str]:
        space = " ?" if self.leading_space else ""
        mask = rf"{space}(?:{re.escape(self.mask)}|{_UNKNOWN.pattern})"
        ignored = f"|(?P<ignored>{self.ignored})" if self.ignored else ""
        return re.compile(rf"(?P<mask>{mask}){ignored}|(?P<symbol>{self.pattern})", re.DOTALL)

    @property
    def vocab_size(self) -> int:
        """V."""
        return len(self.tokens)

    @property
    def mask_token_id(self) -> int:
        """The mask."""
        return self._ids[self.mask]

    @property
    def pad_token_id(self) -> int:
        """Padding."""
        return self._ids[self.pad]

    @property
    def start(self) -> tuple[int, ...]:
        """Tokens before every sequence."""
        return () if self.start_symbol is None else (self._ids[self.start_symbol],)

    @property
    def end(self) -> tuple[int, ...]:
        """Tokens after every sequence."""
        return () if self.end_symbol is None else (self._ids[self.end_symbol],)

    @cached_property
    def symbols(self) -> frozenset[int]:
        """All tokens but the special ones, and those that are context only."""
        special = self.special | self.context | {self.mask, self.pad, self.start_symbol, self.end_symbol}
        return frozenset(number for number, token in enumerate(self.tokens) if token not in special)

    @cached_property
    def _readable(self) -> frozenset[int]:
        return self.symbols | {self._ids[symbol] for symbol in self.context}

    def encode(self, text: str) -> list[int]:
        """See `Alphabet`.

        Raises:
            BadInput: a symbol that is not of this alphabet; the error says where. Or more unknown symbols than can be.
        """
        refuse_too_many(text)
        tokens: list[int] = []
        for match in self._cut.finditer(text):
            symbol = match["symbol"]
            if match["mask"] is not None:
                tokens += [self.mask_token_id] * int(match[2] or 1)
            elif symbol is not None:
                token = self._ids.get(symbol.upper() if self.any_case else symbol, -1)
                if token not in self._readable:
                    raise BadInput(
                        f"{shorten(symbol)!r} at position {match.start() + 1} is not one of the {self.what}s of this model"
                    )
                tokens.append(token)
        return tokens

    def decode(self, tokens: list[int]) -> str:
        """See `Alphabet`."""
        mask = self.mask_token_id
        return "".join("_" if t == mask else self.tokens[t] if t in self._readable else "" for t in tokens)

    def token_text(self, token: int) -> str:
        """See `Alphabet`."""
        return self.tokens[token]


AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
SMILES_PATTERN = r"\[[^\]]*\]|Br|Cl|%\d\d|."

_OTHER_RESIDUES = frozenset("XBUZOJ")  # unknown, one of two, or rare; models know some of them
_GAPS = r"[-.]|\*\Z"  # of alignments; a star ends a translated sequence


def amino_acids(tokens: tuple[str, ...], mask: str, pad: str, start: str, end: str, special: frozenset[str]) -> Symbols:
    """An alphabet of proteins: the twenty amino acids are produced, others are kept as context if they are among `tokens`.
    Small letters, the gaps of an alignment and the star at the end of a sequence are understood."""
    context = _OTHER_RESIDUES & set(tokens)
    return Symbols(
        tokens, mask, pad, start, end, special - context, what="amino acid", context=context, ignored=_GAPS, any_case=True
    )


ANTIBERTY = amino_acids(
    ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *AMINO_ACIDS), "[MASK]", "[PAD]", "[CLS]", "[SEP]", frozenset({"[UNK]"})
)
"""Of AntiBERTy: the twenty amino acids."""

ESM = amino_acids(
    ("<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPNKQFYMHWCXBUZO.-", "<null_1>", "<mask>"),
    "<mask>", "<pad>", "<cls>", "<eos>", frozenset({"<unk>", "<null_1>", *".-"}),
)  # fmt: skip
"""Of ESM-2 and DPLM. Only the twenty amino acids are produced; X, B, U, Z and O are kept where they are given."""

SMILES = Symbols(
    ("[PAD]", "[MASK]", "[CLS]", "[SEP]", *"CcNnOoSsF()=#123456-", "Cl", "Br", "[nH]", "[H]"),
    "[MASK]", "[PAD]", "[CLS]", "[SEP]", pattern=SMILES_PATTERN, what="SMILES symbol",
)  # fmt: skip
"""Of the molecules of MOSES (arXiv 1811.12823)."""

_PRINTABLE = tuple(chr(code) for code in range(32, 127) if chr(code) != "_")
CHARACTERS = Symbols(("[PAD]", "[MASK]", "[CLS]", "[SEP]", "\n", *_PRINTABLE), "[MASK]", "[PAD]", "[CLS]", "[SEP]")
"""Printable ASCII, one character a token."""


def longest_first(words: Iterable[str]) -> str:
    """The pattern that splits text into the longest of these words at each place, and into single characters elsewhere."""
    return "|".join([*map(re.escape, sorted((w for w in words if len(w) > 1), key=len, reverse=True)), "."])


_SUBWORDS = tuple(json.loads(resources.files("anyorder.tasks").joinpath("subwords.json").read_text(encoding="utf-8")))
SUBWORDS = Symbols(
    _SUBWORDS, "[MASK]", "[PAD]", "[CLS]", "[SEP]", pattern=longest_first(_SUBWORDS[4:]), leading_space=True
)  # fmt: skip
"""Printable ASCII and 1,950 pieces of English words, by byte-pair encoding of short definitions; the longest is cut."""

ALPHABETS = {"antiberty": ANTIBERTY, "esm": ESM, "smiles": SMILES, "characters": CHARACTERS, "subwords": SUBWORDS}


def alphabet_of(name: str | Alphabet) -> Alphabet:
    """An alphabet by name, or of a model with a tokenizer or a vocabulary: its folder, hub id, or the name of a fetched one. An
    alphabet is returned as it is.

    Raises:
        BadInput: no such alphabet, something else than a name, or a folder without a tokenizer.
    """
    if not isinstance(name, str):
        if not hasattr(name, "vocab_size"):
            raise BadInput(f"alphabet {name!r} is no alphabet, and no name of one")
        return name
    if name in ALPHABETS:
        return ALPHABETS[name]
    if has_plain_vocabulary(name):
        return _from_vocabulary(_folder(name) / "vocab.txt")
    folder = _folder(name)
    transformers = load_transformers("a model's own tokenizer needs")
    try:
        source = folder if folder.is_dir() else name
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False, **of_hub(source))
        vocab_size = _vocab_size(folder, len(tokenizer))
    except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError) as error:
        raise BadInput(
            f"{name!r} is neither an alphabet ({', '.join(ALPHABETS)}) nor a model with a tokenizer: {first_line(error)}"
        ) from error
    if tokenizer.mask_token_id is None:
        raise BadInput(f"the tokenizer of {name} has no mask token")
    return TokenizerAlphabet(tokenizer, vocab_size, tokenizer.mask_token_id, name)


def has_plain_vocabulary(name: str) -> bool:
    """Whether a model, by folder or fetched name, has only a list of symbols as its tokenizer, without pieces of words."""
    path = _folder(name) / "vocab.txt"
    if not path.is_file() or (path.parent / "tokenizer.json").is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as lines:
        return not any(line.startswith("##") for line in lines)


def _folder(name: str) -> Path:
    return Path(name) if Path(name).is_dir() else cache_folder() / name


def _vocab_size(folder: Path, fallback: int) -> int:
    try:
        return int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"])
    except (OSError, ValueError, KeyError):
        return fallback


def _from_vocabulary(path: Path) -> Symbols:
    """A list of symbols, one per line: that of ESM, or one like BERT's, where brackets around a word of capitals or `unused`
    make it special."""
    tokens = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    if tokens == ESM.tokens:
        return ESM
    special = frozenset(token for token in tokens if re.fullmatch(r"\[(UNK|unused\d*)\]", token))
    missing = [token for token in ("[PAD]", "[MASK]", "[CLS]", "[SEP]") if token not in tokens]
    if missing:
        raise BadInput(f"{path} does not hold {', '.join(missing)}")
    words = [token for token in tokens if not re.fullmatch(r"\[(PAD|MASK|CLS|SEP)\]", token)]
    if set(AMINO_ACIDS) <= set(words) - special <= set(AMINO_ACIDS) | _OTHER_RESIDUES:
        return amino_acids(tokens, "[MASK]", "[PAD]", "[CLS]", "[SEP]", special)
    return Symbols(tokens, "[MASK]", "[PAD]", "[CLS]", "[SEP]", special, longest_first(words))
