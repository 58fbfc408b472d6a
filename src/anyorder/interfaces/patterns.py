"""Regular expressions as automata over the tokens of a model; interegular makes automata over characters of them."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from anyorder.decoding.constraints import Automaton
from anyorder.errors import BadInput, first_line, shorten
from anyorder.tasks.alphabets import Alphabet
from anyorder.tasks.tokenizer_alphabet import TokenizerAlphabet

_SPACE = "▁"
_MOST = 2**28
"""States times tokens: 2 GB."""


def automaton_of(pattern: str, alphabet: Alphabet) -> Automaton:
    """The texts that a regular expression matches as a whole, in the tokens of an alphabet.

    Args:
        pattern: in the syntax of Python's `re`, without back-references.
        alphabet: whose symbols may be used. Tokens that are a part of a character are left out.

    Raises:
        BadInput: interegular is not installed, a pattern that cannot be read, or a tokenizer whose tokens are no pieces of
            text.
    """
    try:
        import interegular
        from interegular.patterns import InvalidSyntax, Unsupported
    except ImportError as error:
        raise BadInput("patterns are read by interegular: pip install 'anyorder[grammar]'") from error
    if not isinstance(pattern, str) or not pattern:
        raise BadInput(f"pattern is {pattern!r}; it must be a regular expression, such as '[0-9]+'")
    try:
        machine = interegular.parse_pattern(pattern).to_fsm()
    except (InvalidSyntax, Unsupported) as error:
        said = first_line(error)
        raise BadInput(f"the pattern {shorten(pattern)!r} cannot be read" + f": {said}" * (" " in said)) from error
    if len(machine.states) * alphabet.vocab_size > _MOST:
        raise BadInput(
            f"the pattern {shorten(pattern)!r} has {len(machine.states):,} states, too many for {alphabet.vocab_size:,} "
            "tokens: simplify it, or bound its repetitions lower"
        )
    order = sorted(machine.states, key=lambda state: state != machine.initial)
    moves = _moves(machine, order)
    following = np.full((len(order), alphabet.vocab_size), -1)
    for token in sorted(alphabet.symbols):
        if piece := _text_of(alphabet, token):
            states = np.arange(len(order) + 1)
            for letter in piece:
                states = moves[machine.alphabet[letter]][states]
            following[:, token] = np.where(states == len(order), -1, states)[:-1]
    return Automaton(torch.from_numpy(following), torch.tensor([state in machine.finals for state in order]))


def _moves(machine: Any, order: list[Any]) -> Mapping[Any, np.ndarray]:
    """For each group of letters, the number of the state behind each state; the last number is the dead end."""
    number = {state: n for n, state in enumerate(order)}
    found = {}
    for letters in machine.alphabet.by_transition:
        targets = [machine.map.get(state, {}).get(letters) for state in order]
        found[letters] = np.array([*(number.get(target, len(order)) for target in targets), len(order)])
    return found


def _text_of(alphabet: Alphabet, token: int) -> str:
    """What a token is in a text; "" for a part of a character.

    Raises:
        BadInput: it is not the same everywhere: the tokenizer puts spaces between tokens, as those of BERT do.
    """
    if not isinstance(alphabet, TokenizerAlphabet):
        return alphabet.token_text(token)
    name = str(alphabet.tokenizer.convert_ids_to_tokens(token))
    kind = _decoder_of(alphabet.tokenizer)
    if kind == "bytes":
        return _whole(bytes(_byte_letters()[letter] for letter in name if letter in _byte_letters()))
    if kind == "pieces":
        return name.replace(_SPACE, " ") if not name.startswith("<0x") else ""
    raise BadInput("patterns need a tokenizer of bytes or of pieces with their spaces, and this one splits text at its spaces")


def _whole(piece: bytes) -> str:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return ""


def _decoder_of(tokenizer: Any) -> str:
    """How the names of tokens become text: "bytes" as in GPT-2, "pieces" as in SentencePiece, else ""."""
    decoder = repr(getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", ""))
    return "bytes" if "ByteLevel" in decoder else "pieces" if _SPACE in decoder or "Metaspace" in decoder else ""


@lru_cache
def _byte_letters() -> dict[str, int]:
    """The letters that byte-level tokenizers write bytes with."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + n): byte for n, byte in enumerate(hidden)}
