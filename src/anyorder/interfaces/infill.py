"""Complete texts with holes."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.base import Denoiser
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.errors import BadInput, shorten
from anyorder.interfaces.arguments import check_budget, find_sampler, whole
from anyorder.interfaces.ends import find_ends, penalized
from anyorder.interfaces.prompts import collate
from anyorder.orders.base import Order
from anyorder.signatures import check_argument
from anyorder.tasks import Sequences, check_fits
from anyorder.tasks.alphabets import TokenizerAlphabet
from anyorder.zoo.matching import source_of, task_for


def infill(
    denoiser: Any,
    texts: str | Sequence[str],
    sampler: Sampler | Order | str | Path = "confidence",
    *,
    steps: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
    eos_token_id: int | Iterable[int] | None = None,
    eos_penalty: float = 0.0,
    task: Sequences | None = None,
) -> Any:
    """Fill the holes of texts.

    Args:
        denoiser: a Hugging Face denoiser with a tokenizer, or one of our sequence models.
        texts: one text or a list. A hole is the model's mask token, or `_{5}` for five tokens; `_` alone in alphabets without
            that symbol.
        sampler: a `Sampler`, its spelling, its folder, or an order.
        steps: forward passes per text, instead of the sampler's; None for one token at a time if the sampler has none.
        seed: of sampling; text i uses seed + i.
        batch_size: texts at a time; results do not depend on it.
        eos_token_id, eos_penalty: the end of a text whose last hole is at its end, see `anyorder.generate`.
        task: the task that says what the denoiser's tokens mean; by default `task_for(denoiser)`.

    Returns:
        The completed text, or a list of them.

    Raises:
        BadInput: a model without tokens for text, a text without a hole, one that is too long, or a symbol that the model does
            not know.
    """
    check_argument("seed", seed, int)
    if not isinstance(texts, Iterable):
        raise BadInput(f"texts are {texts!r}; they must be a text, or a list of texts")
    several = [texts] if isinstance(texts, str) else list(texts)
    if not all(isinstance(text, str) for text in several):
        raise BadInput("texts must be strings: use anyorder.generate for token ids")
    whole("batch_size", batch_size, 1)
    if not several:
        return []
    task = _task(denoiser, several, task)
    names = [f"text {number}" for number in range(1, len(several) + 1)]
    problems = [task.encode([text], [name]) for text, name in zip(several, names, strict=True)]
    for text, problem in zip(several, problems, strict=True):
        if problem.x0 is not None:
            hole = "_{1}" if isinstance(task.symbols, TokenizerAlphabet) else "_"
            raise BadInput(f"{shorten(text)!r} has no hole: write {hole} for an unknown token, _{{5}} for five")
    sampler = find_sampler(sampler, denoiser).bind(denoiser)
    sampler = sampler if steps is None else sampler.replace(steps=whole("steps", steps, 1))
    check_budget(sampler.steps, sampler.block_length, max(problem.longest for problem in problems))
    ends = find_ends(denoiser, eos_token_id)
    sampler = sampler.replace(order=penalized(sampler.order, ends, eos_penalty))
    tokens = [problem.tokens[0] for problem in problems]
    filled: list[str] = []
    for first in range(0, len(tokens), batch_size):
        batch, mask = collate(tokens[first : first + batch_size], task.pad_token_id)
        mask = mask & (batch != task.pad_token_id)
        result = decode(denoiser, batch, sampler, seeds=seed + first, attention_mask=mask, ends=ends)
        filled += task.decode(result.tokens)
    return filled[0] if isinstance(texts, str) else filled


def _task(denoiser: Any, texts: list[str], task: Sequences | None) -> Sequences:
    """The task whose tokens are those of a denoiser, long enough for the texts and at their lengths."""
    if not isinstance(denoiser, Denoiser):
        raise BadInput(f"{type(denoiser).__name__} has no tokenizer: load the model with anyorder.load_denoiser(name)")
    if task is None:
        if not source_of(denoiser) and not (isinstance(denoiser, HuggingFaceDenoiser) and denoiser.tokenizer is not None):
            raise BadInput(
                "this denoiser has no tokenizer, so it cannot read texts: load it with anyorder.load_denoiser(name), "
                "or give the task whose alphabet it has (task=)"
            )
        found: Any = task_for(denoiser)
    else:
        found = task
        check_fits(task, denoiser)
    if not isinstance(found, Sequences):
        raise BadInput(f"infill needs a model of text or sequences; this one is for {found.name}")
    if found.free_length:  # which generates all that follows the start
        found = found.variant({"free_length": False})
    longest = max(_length(found, text, number) for number, text in enumerate(texts, start=1))
    return task_for(denoiser, length=longest) if task is None and longest > found.most else found  # type: ignore[return-value]


def _length(task: Sequences, text: str, number: int) -> int:
    """Symbols of a text."""
    try:
        return len(task.symbols.encode(text.strip()))
    except BadInput as error:
        raise BadInput(f"text {number}: {error}") from error
