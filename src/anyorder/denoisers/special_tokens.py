"""Tokens that are no text: the mask, padding, separators, and outputs of a model that its tokenizer has no word for."""

import warnings
from pathlib import Path
from typing import Any

from anyorder.denoisers.block_families import published_mask
from anyorder.errors import BadInput, first_line

UNLOADABLE = (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError)
"""What transformers raises where it cannot load something."""


def tokenizer_of(transformers: Any, name: str | Path, source: dict[str, Any]) -> Any:
    """The model's tokenizer; None where it has none, for token ids are enough. One that cannot be read is worth a warning."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **source)
    except UNLOADABLE as error:
        if any((Path(name) / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json")):
            warnings.warn(f"the tokenizer of {name} cannot be read, and is left out: {first_line(error)}", stacklevel=3)
        return None
    return None if len(tokenizer) <= len(tokenizer.all_special_ids) else tokenizer  # made up where there is no vocabulary


def mask_of(name: str | Path, given: int | None, tokenizer: Any, config: Any) -> int:
    """The mask: as given, or by tokenizer and configuration, which must agree."""
    if given is not None:
        return given
    found = (getattr(tokenizer, "mask_token_id", None), getattr(config, "mask_token_id", None))
    named = {int(token) for token in found if token is not None}
    if len(named) > 1:
        raise BadInput(
            f"tokenizer and configuration of {name} disagree: mask {found[0]} against {found[1]}; "
            "give mask_token_id (--model-option mask_token_id=N)"
        )
    if not named and (published := published_mask(config)) is not None:
        return published
    if not named:
        raise BadInput(f"{name} names no mask token: give mask_token_id (--model-option mask_token_id=N)")
    return named.pop()


def tokens_of_no_text(tokenizer: Any, vocab_size: int) -> set[int]:
    """Special tokens of a tokenizer, those added as special ones, and outputs of the model that it has no token for."""
    return special_tokens(tokenizer) | (set(range(vocab_size)) - set(tokenizer.get_vocab().values()))


def special_tokens(tokenizer: Any) -> set[int]:
    """Special tokens that a tokenizer names, and those that were added to it as special ones."""
    added = {number for number, token in getattr(tokenizer, "added_tokens_decoder", {}).items() if token.special}
    return added | set(tokenizer.all_special_ids)


def named_tokens(source: Any, without: str = "") -> set[int]:
    """Tokens that a configuration or a tokenizer names as first, last, padding or between."""
    found: set[int] = set()
    for which in {"bos", "eos", "pad", "cls", "sep"} - {without}:
        value = getattr(source, f"{which}_token_id", None)
        found |= {value} if isinstance(value, int) else set(value or ())
    return found
