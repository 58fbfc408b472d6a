"""Complete texts with holes."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anyorder.decoding.callbacks import Callback
from anyorder.decoding.constraints import AllowedTokens, LogitsMask, Matching, all_of
from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.base import Denoiser
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.ends import Ends
from anyorder.errors import BadInput, counted, shorten
from anyorder.interfaces.arguments import check_budget, find_sampler, whole
from anyorder.interfaces.ends import find_ends, with_late_ends
from anyorder.interfaces.holes import lengths_of
from anyorder.interfaces.patterns import automaton_of
from anyorder.interfaces.prompts import collate
from anyorder.orders.base import Order
from anyorder.prediction import Prediction
from anyorder.signatures import check_argument
from anyorder.state import DecodeState
from anyorder.tasks import Sequences, check_fits
from anyorder.tasks.tokenizer_alphabet import TokenizerAlphabet
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
    pattern: str | Sequence[str] | None = None,
    allowed: Sequence[Any] | None = None,
    logits_mask: LogitsMask | None = None,
    on_step: Callback | Sequence[Callback] = (),
) -> Any:
    """Fill the holes of texts.

    A hole is written `[MASK]`, or `[MASK:5]` for five tokens; also as the model's mask token, or as `_{5}`. The length of
    `[MASK:1-8]` is chosen: the text is decoded with each length of the range (each combination, if there are several such
    holes), and the one is kept whose new tokens have the largest mean log-probability, each as it was when it was committed.
    Lengths that no text of the pattern has are left out.

    Args:
        denoiser: a Hugging Face denoiser with a tokenizer, or one of our sequence models.
        texts: one text or a list.
        sampler: a `Sampler`, its spelling, its folder, or an order.
        steps: forward passes per text, instead of the sampler's; None for one token at a time if the sampler has none.
        seed: of sampling; text i uses seed + i.
        batch_size: texts at a time, each length of a hole counted; results do not depend on it.
        eos_token_id, eos_penalty: the end of a text whose last hole is at its end, see `anyorder.generate`.
        task: the task that says what the denoiser's tokens mean; by default `task_for(denoiser)`.
        pattern: a regular expression that every hole must match as a whole, or one for each hole of every text; see
            `Matching`. It needs the extra `grammar`.
        allowed: for each unknown token, from left to right, the tokens that it may be, as texts or ids, or None for any. Of
            several texts a list of such lists.
        logits_mask: a function that says which tokens may be committed, see `LogitsMask`.
        on_step: callbacks, see `decode`.

    Returns:
        The completed text, or a list of them.

    Raises:
        BadInput: a model without tokens for text, a text without a hole, one that is too long, a symbol that the model does
            not know, or a constraint that cannot be used or met.
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
    choices = [_lengths_of(text, number) for number, text in enumerate(several, start=1)]
    owners = [number for number, found in enumerate(choices) for _ in found]
    task = _task(denoiser, [text for found in choices for text in found], owners, task)
    problems = [task.encode([text], [f"text {n + 1}"]) for n, found in enumerate(choices) for text in found]
    for number, problem in zip(owners, problems, strict=True):
        if problem.x0 is not None:
            raise BadInput(f"{shorten(several[number])!r} has no hole: write [MASK] for an unknown token, [MASK:5] for five")
    sampler = find_sampler(sampler, denoiser)
    sampler = sampler if steps is None else sampler.replace(steps=whole("steps", steps, 1))
    for problem in problems:
        check_budget(denoiser, problem.tokens, None, sampler.steps, sampler.block_length)
    ends = find_ends(denoiser, eos_token_id)
    sampler = with_late_ends(sampler, ends, eos_penalty)
    masks = [mask for mask in (_symbols_alone(denoiser, task, ends), logits_mask) if mask is not None]
    if pattern is not None:
        given = [pattern] if isinstance(pattern, str) else list(pattern)
        matching = Matching(tuple(automaton_of(one, task.symbols) for one in given), sampler.token)
        sampler, masks = sampler.replace(token=matching), [*masks, matching.allowed]
        fitting = [matching.fits(problem.tokens[0] == task.mask_token_id) for problem in problems]
        possible = {number for number, fits in zip(owners, fitting, strict=True) if fits}
        kept = [n for n, number in enumerate(owners) if fitting[n] or number not in possible]  # the latter fail with a reason
        owners, problems = [owners[n] for n in kept], [problems[n] for n in kept]
    tokens = [problem.tokens[0] for problem in problems]
    if allowed is not None:
        listed = _positions(task, tokens, choices, [allowed] if isinstance(texts, str) else allowed)
    filled: dict[int, tuple[float, str]] = {}
    for first in range(0, len(tokens), batch_size):
        rows = slice(first, first + batch_size)
        batch, mask = collate(tokens[rows], task.pad_token_id)
        here: list[LogitsMask] = masks if allowed is None else [AllowedTokens(listed[rows]), *masks]
        result = decode(
            denoiser, batch, sampler, seeds=torch.tensor(owners[rows]) + seed, ends=ends, on_step=on_step,
            attention_mask=mask, logits_mask=all_of(here) if here else None,
        )  # fmt: skip
        new = batch == task.mask_token_id
        if ends is not None:  # the padding behind an end is no token of the text
            new = new & ~ends.behind(result.tokens, new, ~new & mask)
        scores = (result.token_log_probs.double() * new).sum(dim=1) / new.sum(dim=1)
        completed = zip(owners[rows], scores.tolist(), tokens[rows], result.tokens.tolist(), strict=True)
        for number, score, problem_tokens, row in completed:
            if number not in filled or score > filled[number][0]:
                filled[number] = (score, _completed(task, problem_tokens.tolist(), row))
    found = [filled[number][1] for number in range(len(several))]
    return found[0] if isinstance(texts, str) else found


def _symbols_alone(denoiser: Any, task: Sequences, ends: Ends | None) -> LogitsMask | None:
    """Lets a hole hold the symbols of texts alone, and ends if they are asked for; None if the denoiser produces no others."""
    row = torch.zeros(task.vocab_size, dtype=torch.bool)
    row[sorted({*task.symbols.symbols, *(() if ends is None else ends.tokens)})] = True
    if set((~row).nonzero()[:, 0].tolist()) <= set(getattr(denoiser, "forbidden", ())):
        return None

    def allowed(state: DecodeState, prediction: Prediction) -> Tensor:
        return row.to(prediction.logits.device).expand_as(prediction.logits)

    return allowed


def _completed(task: Sequences, given: list[int], filled: list[int]) -> str:
    """A completed problem as text, without its frame, up to a generated end, with the special tokens that the user wrote."""
    symbols, mask = task.symbols, task.mask_token_id
    places = range(len(symbols.start), len(given) - len(symbols.end))
    stop = next((n for n in places if given[n] == mask and filled[n] in symbols.end), places.stop)
    tokens = [filled[n] for n in range(places.start, stop) if given[n] != mask or filled[n] in symbols.symbols]
    if isinstance(symbols, TokenizerAlphabet) and not symbols.symbols.issuperset(tokens):
        return str(symbols.tokenizer.decode(tokens))
    return symbols.decode(tokens)


def _lengths_of(text: str, number: int) -> list[str]:
    try:
        return lengths_of(text)
    except BadInput as error:
        raise BadInput(f"text {number}: {error}") from error


def _positions(
    task: Sequences, tokens: list[Tensor], choices: list[list[str]], allowed: Sequence[Any]
) -> list[dict[int, set[int]]]:
    """For each text the tokens that its unknown positions may hold.

    Raises:
        BadInput: other numbers of texts or positions, a length that is not known, or what is no token.
    """
    if len(allowed) != len(choices):
        raise BadInput(f"allowed has {len(allowed)} lists for {counted(len(choices), 'text')}: give one for each")
    found = []
    for number, (row, texts, lists) in enumerate(zip(tokens, choices, allowed, strict=False), start=1):
        unknown = (row == task.mask_token_id).nonzero()[:, 0].tolist()
        if len(texts) > 1 or not isinstance(lists, Sequence) or isinstance(lists, str) or len(lists) != len(unknown):
            raise BadInput(
                f"text {number}: allowed must be a list with one entry for each unknown token, here {len(unknown)}, and holes "
                "of known length"
            )
        found.append({n: _tokens(task, names) for n, names in zip(unknown, lists, strict=True) if names is not None})
    return found


def _tokens(task: Sequences, names: Iterable[str | int]) -> set[int]:
    """Tokens by their texts or ids."""
    tokens = set()
    for name in names:
        read = [name] if isinstance(name, int) else task.symbols.encode(name)
        if len(read) != 1 or read[0] not in task.symbols.symbols:
            raise BadInput(f"{name!r} is not one token of this model: list texts of one token each, or token ids")
        tokens.update(read)
    if not tokens:
        raise BadInput("an entry of allowed lists no token: list one or more, or None for any")
    return tokens


def _task(denoiser: Any, texts: list[str], owners: list[int], task: Sequences | None) -> Sequences:
    """The task whose tokens are those of a denoiser, long enough for the texts and at their lengths; `owners` are the numbers
    of the user's texts."""
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
    longest = max(_length(found, text, number + 1) for number, text in zip(owners, texts, strict=True))
    return task_for(denoiser, length=longest) if task is None and longest > found.most else found  # type: ignore[return-value]


def _length(task: Sequences, text: str, number: int) -> int:
    """Symbols of a text."""
    try:
        return len(task.symbols.encode(task.text_of(text)))
    except BadInput as error:
        raise BadInput(f"text {number}: {error}") from error
