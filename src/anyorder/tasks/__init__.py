"""Tasks: puzzles, formulas, arithmetic, sorting and tours; text, proteins, antibodies, molecules; mathematics in words.

A new task is one class, registered with `@TASKS.register("my_task")` or named as `my_module:MyTask`.
"""

from anyorder.registry import TASKS
from anyorder.tasks.antibody import Antibody
from anyorder.tasks.arithmetic import Arithmetic
from anyorder.tasks.base import (
    CheckResult,
    Instances,
    Task,
    check_fits,
    make_task,
    task_class,
)
from anyorder.tasks.countdown import Countdown
from anyorder.tasks.drawing import Drawing
from anyorder.tasks.generation import check_size, per_instance_seeds
from anyorder.tasks.instances import cell_accuracy
from anyorder.tasks.math import Math
from anyorder.tasks.molecules import Molecules
from anyorder.tasks.problem_files import Unreadable, read_lines, read_rows
from anyorder.tasks.protein import Protein
from anyorder.tasks.sat import Sat
from anyorder.tasks.sequences import Sequences
from anyorder.tasks.sorting import Sorting
from anyorder.tasks.sudoku import Sudoku
from anyorder.tasks.tsp import Tsp
from anyorder.tasks.words import Words
from anyorder.tasks.zebra import Zebra

__all__ = [
    "TASKS",
    "Antibody",
    "Arithmetic",
    "CheckResult",
    "Countdown",
    "Drawing",
    "Instances",
    "Math",
    "Molecules",
    "Protein",
    "Sat",
    "Sequences",
    "Sorting",
    "Sudoku",
    "Task",
    "Tsp",
    "Unreadable",
    "Words",
    "Zebra",
    "cell_accuracy",
    "check_fits",
    "check_size",
    "make_task",
    "per_instance_seeds",
    "read_lines",
    "read_rows",
    "task_class",
]
