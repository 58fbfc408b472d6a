"""Tasks: puzzles, formulas, sorting and tours; text, proteins, antibodies, molecules; mathematics in words. A new task is one
new file here and one line in `TASKS`."""

from typing import Any

from anyorder.errors import BadInput
from anyorder.tasks.antibody import Antibody
from anyorder.tasks.base import Instances, Task, Verdict
from anyorder.tasks.countdown import Countdown
from anyorder.tasks.maths import Maths
from anyorder.tasks.molecules import Molecules
from anyorder.tasks.protein import Protein
from anyorder.tasks.sat import Sat
from anyorder.tasks.sequences import Sequences
from anyorder.tasks.sorting import Sorting
from anyorder.tasks.sudoku import Sudoku
from anyorder.tasks.tsp import Tsp
from anyorder.tasks.zebra import Zebra

TASKS: dict[str, Any] = {
    task.name: task for task in (Sudoku, Sat, Countdown, Zebra, Sorting, Tsp, Sequences, Protein, Antibody, Molecules, Maths)
}

__all__ = ["TASKS", "Instances", "Task", "Verdict", "make_task"]


def make_task(name: str, **options: Any) -> Task:
    """A task by name with the arguments of its class, e.g. `make_task("sudoku", box=2)`."""
    if name not in TASKS:
        raise BadInput(f"task {name!r} is unknown: use one of {', '.join(TASKS)}")
    try:
        task: Task = TASKS[name](**options)
        return task
    except TypeError as error:
        raise BadInput(f"task {name!r} cannot be made from {options}: {error}") from error
