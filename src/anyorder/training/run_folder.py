"""The folder of a run: claimed by one process, for one recipe."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from anyorder.errors import AnyorderError, BadCheckpoint, BadInput, first_line
from anyorder.files import UNFINISHED, finite, locked, read_json, write_json
from anyorder.training.checkpoint import Checkpoint, list_checkpoints, step_of
from anyorder.training.divergence import MARK, REMEDIES
from anyorder.training.recipes import completed

_LENGTH = "run.steps"
_KEEP = "data.keep"  # the name of a file that says itself what it holds

_MODEL_FILES = (
    "config.json", ".safetensors", ".index.json", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx",
)  # fmt: skip
"""How the names of models end, in the libraries that people use."""

_OF_A_RUN = ("config.json", "model.safetensors")
"""The names of models that a run writes."""


def claim_folder(folder: Path, recipe: dict[str, Any], cycle: int, held: ExitStack) -> AnyorderError | None:
    """Lock a folder for this run until `held` is closed, and write its recipe.

    Args:
        folder: of the run.
        recipe: all settings.
        cycle: steps that belong together; a run that ended within a cycle cannot be extended.
        held: closed at the end of the run.

    Returns:
        Why the folder cannot be used; None if it can.
    """
    try:
        held.enter_context(locked(folder))
        _check_recipe(folder, recipe, cycle)
    except AnyorderError as error:
        return error
    return None


def _check_recipe(folder: Path, recipe: dict[str, Any], cycle: int) -> None:
    """Write the recipe into a folder; refuse a folder with a run of another one. A larger `run.steps` extends the run; one that
    diverged may go on with another optimizer."""
    path = folder / "recipe.json"
    check_free(folder)
    check_same_run(folder, recipe, cycle)
    for unfinished in (folder / "checkpoints").glob(".step-*"):  # of a write that was killed
        unfinished.unlink(missing_ok=True)
    for left in folder.rglob(f"{UNFINISHED}*"):
        shutil.rmtree(left, ignore_errors=True)
    write_json(path, recipe)
    (folder / MARK).unlink(missing_ok=True)


def check_same_run(folder: Path, recipe: dict[str, Any], cycle: int) -> None:
    """Refuse a folder with a run of another recipe, which this one does not extend. Arguments as for `claim_folder`.

    A setting that came after that run does not count at its default.
    """
    path = folder / "recipe.json"
    if not (list_checkpoints(folder / "checkpoints") or (path.is_file() and _models_in(folder))):
        return
    try:
        existing = read_json(path)
    except (OSError, BadInput) as error:
        raise BadInput(f"{folder} has checkpoints but no readable recipe.json: choose another folder") from error
    remedies = {_KEEP} | (REMEDIES if (folder / MARK).exists() else set())
    changed = sorted({*_differences(completed(existing, recipe), finite(recipe))} - remedies)
    if changed == [_LENGTH]:
        _check_longer(folder, existing["run"].get("steps"), recipe["run"]["steps"], cycle)
    elif changed:
        raise BadInput(f"{folder} holds a run with other settings ({', '.join(changed)}): choose another folder")


def check_free(folder: Path, *files: str) -> None:
    """Refuse a folder with a model in any form, or one of these files, that no training run has put there.

    Beside a `recipe.json`, files as a run writes them are its own: `check_same_run` compares that run with this one.
    """
    run = (folder / "recipe.json").is_file()
    found = [name for name in _models_in(folder) if not (run and Path(name).name in _OF_A_RUN)]
    for name in (*found, *(name for name in ("task.json", "metrics.jsonl", *files) if not run and (folder / name).is_file())):
        raise BadInput(f"{folder} holds {name}, which this run would overwrite: choose another folder")


def _models_in(folder: Path) -> list[str]:
    """Configurations and weights in a folder, in the form of any library."""
    places = ("", "order/", "critic/", "order/critic/")
    paths = [(place, path) for place in places if (folder / place).is_dir() for path in sorted((folder / place).iterdir())]
    models = (place + path.name for place, path in paths if path.is_file() and path.name.lower().endswith(_MODEL_FILES))
    return sorted(models, key=lambda name: name.endswith("config.json"))  # weights are named first


def _check_longer(folder: Path, before: Any, now: int, cycle: int) -> None:
    """Raise BadInput unless a run of `before` steps can be extended to `now`."""
    if not (isinstance(before, int) and now > before):
        raise BadInput(
            f"{folder} holds a run of {before} steps, more than {now}: give {before} or more, or choose another folder"
        )
    checkpoints = list_checkpoints(folder / "checkpoints")
    if not checkpoints:
        raise BadInput(f"{folder} holds a run without its checkpoints, which cannot be extended: choose another folder")
    done = step_of(checkpoints[-1])
    if done % cycle:
        raise BadInput(
            f"{folder} holds a run that ended within a round of {cycle} updates, after {done}, so it cannot be extended: "
            f"choose another folder and a multiple of {cycle} for run.steps"
        )


def _differences(a: Any, b: Any, where: str = "") -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in a.keys() | b.keys():
            yield from _differences(a.get(key), b.get(key), f"{where}.{key}".lstrip("."))
    elif a != b:
        yield where


@contextmanager
def restoring(folder: Path, checkpoint: Checkpoint | None) -> Iterator[None]:
    """Report errors in the body as the fault of the checkpoint.

    Raises:
        BadCheckpoint: anything in the body did not fit the run.
    """
    try:
        yield
    except (torch.OutOfMemoryError, torch.distributed.DistError):
        raise
    except (RuntimeError, KeyError, ValueError, TypeError, IndexError) as error:
        if checkpoint is None:
            raise
        fault = (
            f"the checkpoint of step {checkpoint.step} in {folder / 'checkpoints'} does not fit this run ({first_line(error)})"
        )
        raise BadCheckpoint(f"{fault}: delete it to resume from the previous one") from error
