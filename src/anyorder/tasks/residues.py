"""The alphabet of a protein model that brings its own tokenizer, such as ESMC: one letter per residue."""

from typing import Any

from anyorder.tasks.alphabets import AMINO_ACIDS, Symbols, amino_acids

_LETTERS = frozenset(AMINO_ACIDS) | frozenset("XBUZOJ")
_OTHERS = frozenset(".-|*")
"""Gaps, breaks between chains, the end of a translation: single characters that are no residues."""


def residues_of(tokenizer: Any, vocab_size: int) -> Symbols | None:
    """The alphabet of a tokenizer whose symbols are residues; None for any other tokenizer.

    Args:
        tokenizer: of a Hugging Face model, or None.
        vocab_size: outputs of the model, which may be more than the tokenizer has tokens (ESMC: 64 and 33).
    """
    known: dict[str, int] = {} if tokenizer is None else tokenizer.get_vocab()
    letters = {token for token in known if len(token) == 1}
    if not frozenset(AMINO_ACIDS) <= letters <= _LETTERS | _OTHERS or max(known.values()) >= vocab_size:
        return None
    names = (tokenizer.mask_token, tokenizer.pad_token, tokenizer.cls_token, tokenizer.eos_token or tokenizer.sep_token)
    framed = list(tokenizer("", add_special_tokens=True)["input_ids"])
    if (
        None in names
        or framed != [known[name] for name in names[2:]]
        or any(len(t) > 1 for t in known.keys() - _special(tokenizer))
    ):
        return None
    by_id = {number: token for token, number in known.items()}
    tokens = tuple(by_id.get(number, f"<none_{number}>") for number in range(vocab_size))
    return amino_acids(tokens, *names, special=frozenset(tokens) - _LETTERS - frozenset(names))


def _special(tokenizer: Any) -> set[str]:
    """Special tokens, and others in angle or square brackets."""
    bracketed = {token for token in tokenizer.get_vocab() if token[0] + token[-1] in ("<>", "[]")}
    return set(tokenizer.all_special_tokens) | bracketed
