"""Which task a denoiser is used for."""

from typing import Any

from torch import nn

from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.denoisers.transformer import Transformer
from anyorder.errors import BadInput
from anyorder.tasks import TASKS, make_task
from anyorder.tasks.alphabets import TokenizerAlphabet, has_plain_vocabulary
from anyorder.tasks.base import Task
from anyorder.tasks.maths import Maths
from anyorder.tasks.sequences import Sequences
from anyorder.zoo import folder_of, task_of


def task_for(task_name: str, denoiser_name: str, denoiser: Transformer | HuggingFaceDenoiser, options: dict[str, Any]) -> Task:
    """The task that a denoiser is used for: the one it was trained for, or sequences in the alphabet of the model.

    Raises:
        BadInput: task and denoiser do not fit one another.
    """
    sequences = issubclass(TASKS[task_name], Sequences)
    if not isinstance(denoiser, HuggingFaceDenoiser):
        task = task_of(folder_of(denoiser_name))
        if isinstance(task, Sequences) and task.name == task_name:  # the same model serves many problems
            return _other_problems(task, denoiser_name, denoiser, options)
        if task.name != task_name or (options and vars(make_task(task_name, **options)) != vars(task)):
            raise BadInput(
                f"the denoiser {denoiser_name} is for {task.name} of another kind than {task_name} {options or ''}".rstrip()
            )
        return task
    if issubclass(TASKS[task_name], Maths):
        return _maths_for(denoiser_name, denoiser, options)
    if not sequences:
        names = ", ".join(name for name, cls in TASKS.items() if issubclass(cls, Sequences | Maths))
        raise BadInput(f"{denoiser_name} is a model of sequences, not of {task_name}: use --task {names}")

    task = make_task(task_name, **options)
    if "alphabet" not in options and not _fits(task, denoiser):
        options = {**options, "alphabet": _alphabet_of(denoiser_name, denoiser)}
        task = make_task(task_name, **options)
    _same_alphabet(task, denoiser_name, denoiser)
    if denoiser.max_length is not None and task.length > denoiser.max_length:
        most = denoiser.max_length - (task.length - task.most)  # type: ignore[attr-defined]
        if "length" in options:
            raise BadInput(f"{denoiser_name} takes {most} symbols at most, not {options['length']}")
        task = make_task(task_name, **options, length=most)
    if task.free_length:  # type: ignore[attr-defined]
        denoiser.allow(task.symbols.end)  # type: ignore[attr-defined]
    if denoiser.pad_token_id != task.pad_token_id:  # type: ignore[attr-defined]  # none, or one that ends texts as well
        denoiser.pad_with(task.pad_token_id)  # type: ignore[attr-defined]
    return task


def _alphabet_of(name: str, denoiser: HuggingFaceDenoiser) -> str | TokenizerAlphabet:
    """The symbols of a model: those of its tokenizer, or of its plain list."""
    if denoiser.tokenizer is None or has_plain_vocabulary(name):
        return name
    return TokenizerAlphabet(denoiser.tokenizer, denoiser.vocab_size, denoiser.mask_token_id, f"of {name}")


def _other_problems(trained: Sequences, name: str, denoiser: nn.Module, options: dict[str, Any]) -> Task:
    """The task that a denoiser of sequences was trained for, with other options."""
    task = make_task(trained.name, **{**trained.options, **options})
    assert isinstance(task, Sequences)
    _same_alphabet(task, name, denoiser)
    if task.most > trained.most:
        raise BadInput(f"{name} takes {trained.most} symbols at most, not {task.most}")
    if task.free_length and not trained.free_length:
        raise BadInput(f"{name} was trained at given lengths: it never ends a sequence, so free_length has no meaning")
    return task


def _fits(task: Task, denoiser: nn.Module) -> bool:
    return (task.vocab_size, task.mask_token_id) == (denoiser.vocab_size, denoiser.mask_token_id)


def _same_alphabet(task: Task, name: str, denoiser: nn.Module) -> None:
    if not _fits(task, denoiser):
        raise BadInput(
            f"the alphabet {getattr(task, 'alphabet_name', task.name)} has {task.vocab_size} tokens with mask "
            f"{task.mask_token_id}, the model {name} {denoiser.vocab_size} with mask {denoiser.mask_token_id}"
        )


def _maths_for(denoiser_name: str, denoiser: HuggingFaceDenoiser, options: dict[str, Any]) -> Task:
    """Mathematics in the model's own tokens; the model may end its answers, and padding is what no answer holds."""
    if denoiser.tokenizer is None:
        raise BadInput(f"{denoiser_name} has no tokenizer, and maths needs one")
    alphabet = TokenizerAlphabet(denoiser.tokenizer, denoiser.vocab_size, denoiser.mask_token_id)
    room = {} if denoiser.max_length is None else {"longest": denoiser.max_length}
    task = make_task("maths", **{"alphabet": alphabet, **room, **options})
    assert isinstance(task, Maths)
    denoiser.allow(task.ends)
    denoiser.pad_with(task.pad_token_id)
    return task
