"""From texts with holes to texts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anyorder.decoding.loop import decode
from anyorder.decoding.sampler import Sampler
from anyorder.denoisers.base import device_of
from anyorder.errors import BadInput
from anyorder.interfaces.generate import collate
from anyorder.tasks import Sequences
from anyorder.zoo.matching import task_for


def infill(
    denoiser: Any,
    texts: str | Sequence[str],
    sampler: Sampler | str | Path = "confidence",
    *,
    steps: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
) -> Any:
    """Fill the holes of texts.

    Args:
        denoiser: a Hugging Face denoiser with a tokenizer, or one of our sequence models.
        texts: one text or a list. A hole is the model's mask token, or `_{5}` for five tokens; `_` alone in alphabets without
            that symbol.
        sampler: a `Sampler`, its spelling, or its folder.
        steps: forward passes per text, in place of the sampler's; None for one token at a time if the sampler names none.
        seed: of sampling; text i uses seed + i.
        batch_size: texts at a time; results do not depend on it.

    Returns:
        The completed text, or a list of them.

    Raises:
        BadInput: a model without tokens for text, a text without a hole, or a symbol that the model does not know.
    """
    several = [texts] if isinstance(texts, str) else list(texts)
    if not several:
        return []
    task = task_for(denoiser)
    if not isinstance(task, Sequences):
        raise BadInput(f"infill needs a model of text or sequences; this one is for {task.name}")
    problems = [task.encode([text], [f"text {number}"]) for number, text in enumerate(several, start=1)]
    for text, problem in zip(several, problems, strict=True):
        if problem.x0 is not None:
            hole = "_" if hasattr(task.symbols, "tokens") else "_{1}"
            raise BadInput(f"{text[:40]!r} has no hole: write {hole} for an unknown token, _{{5}} for five")
    if isinstance(sampler, str | Path):
        sampler = Sampler.from_pretrained(sampler, denoiser) if Path(sampler).is_dir() else Sampler.parse(str(sampler))
    sampler = sampler if steps is None else sampler.replace(steps=steps)
    tokens = [problem.tokens[0] for problem in problems]
    device = device_of(denoiser)
    filled: list[str] = []
    for first in range(0, len(tokens), batch_size):
        batch, mask = collate(tokens[first : first + batch_size], task.pad_token_id)
        mask = mask & (batch != task.pad_token_id)
        result = decode(denoiser, batch.to(device), sampler, seeds=seed + first, attention_mask=mask.to(device))
        filled += task.decode(result.tokens.cpu())
    return filled[0] if isinstance(texts, str) else filled
