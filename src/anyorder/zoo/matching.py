"""The task of a denoiser."""

from pathlib import Path
from typing import Any

from torch import nn

from anyorder.denoisers.base import Denoiser, check_is_denoiser
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.errors import BadInput
from anyorder.tasks import Instances, Task, check_fits, task_class
from anyorder.zoo import (
    SERVES,
    alphabet_elsewhere,
    folder_of,
    is_class,
    is_hub_id,
    load_denoiser,
    saved_task,
    speaks_esm,
    task_of,
)  # fmt: skip


def task_for(denoiser: Denoiser, name: str | None = None, /, **options: Any) -> Task:
    """Make the right task for a denoiser: the one that it was trained for, or one in the tokens of a Hugging Face model.

    Args:
        denoiser: any denoiser; `load_denoiser` records on it where it came from.
        name: name of the task. By default the task that the denoiser was trained for; for models of Hugging Face, proteins if
            the model has the alphabet of ESM, else text.
        options: arguments of the task that should differ.

    Raises:
        BadInput: the denoiser is for another task, or the options do not fit it.

    Example:
        >>> import anyorder
        >>> denoiser = anyorder.load_denoiser("sudoku4")
        >>> anyorder.task_for(denoiser).options
        {'box': 2, 'layout': 'infill'}
    """
    check_is_denoiser(denoiser)
    source = source_of(denoiser)
    folder = None if not source or is_hub_id(source) or is_class(source) else folder_of(source)
    wanted = None if name is None else task_class(name)  # first, since its module may register the task that was saved
    saved = saved_task(folder) if folder is not None and (folder / "task.json").is_file() else None
    if saved is None or isinstance(denoiser, HuggingFaceDenoiser):  # whose tokens only the model knows
        if saved is not None and name in (None, saved[0]):
            if alphabet_elsewhere(saved[1]):  # the model's own tokenizer lies beside it
                del saved[1]["alphabet"]
            name, options = saved[0], {**saved[1], **options}
        return task_class(name or _usual_task(denoiser, source)).for_denoiser(denoiser, options, source)
    assert folder is not None
    named = {"alphabet": options["alphabet"]} if "alphabet" in options and alphabet_elsewhere(saved[1]) else {}
    trained = task_of(folder, **named)
    if wanted not in (None, type(trained)):
        raise BadInput(f"the denoiser {source} is for {trained.name}, not for {name}: choose another task or another denoiser")
    task = trained.variant(options)
    check_fits(task, denoiser)
    return task


def loaded(
    denoiser: Denoiser | nn.Module | str | Path, task: Task | str | None, instances: Instances | str | Path
) -> tuple[Denoiser, Task, Instances]:
    """Denoiser, task and problems, loaded where they are given by name.

    Args:
        denoiser: a denoiser, or the name, folder or hub id of one, see `load_denoiser`.
        task: a task, or the name of one; None for the task of the denoiser.
        instances: problems, or a file of them.

    Raises:
        BadInput: something that cannot be loaded, or task and denoiser that do not match.
    """
    model: Any = load_denoiser(denoiser) if isinstance(denoiser, str | Path) else denoiser
    found = task_for(model, task) if task is None or isinstance(task, str) else task
    problems = found.load(instances) if isinstance(instances, str | Path) and isinstance(found, Task) else instances
    if problems is None:
        raise BadInput("there are no problems: give Instances, as from task.generate, or a file of problems")
    check_fits(found, model, problems)
    return model, found, problems


def source_of(denoiser: Denoiser) -> str:
    """The name, folder or hub id from which a denoiser was loaded; "" if it was made in this process."""
    return str(getattr(denoiser, "source", ""))


def _usual_task(denoiser: Denoiser, source: str) -> str:
    """The task of a denoiser that no recipe trained."""
    if source in SERVES:
        return SERVES[source]
    if not isinstance(denoiser, HuggingFaceDenoiser):
        name = source or f"of the class {type(denoiser).__name__}"
        raise BadInput(
            f"the denoiser {name} does not say which task it is for: name one, as task_for(denoiser, 'text') or --task text do"
        )
    return "protein" if speaks_esm(denoiser) else "text"
