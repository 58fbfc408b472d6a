"""What a task is: data, an encoding and a checker, without a model.

A task turns problems into token sequences whose unknown positions hold the mask, and checks completed sequences by the
rules of the problem, not only by comparison with one stored solution.
"""

import gzip
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from anyorder.denoisers.base import Denoiser, check_is_denoiser
from anyorder.ends import Ends
from anyorder.errors import BadInput, shorten
from anyorder.files import is_special, write_bytes
from anyorder.own_code import reported
from anyorder.registry import TASKS
from anyorder.relations import Relation
from anyorder.signatures import check_argument, checked
from anyorder.tasks.drawing import Drawing
from anyorder.tasks.instances import CheckResult, Instances, check_problems, on_cpu
from anyorder.tasks.instances import cell_accuracy as cell_accuracy  # other packages import it from here
from anyorder.tasks.problem_files import Unreadable

_READ_PROBLEMS = {"load": ("path", "limit", "unreadable"), "parse": ("text",), "generate": ("count", "seed")}
_READ_COMPLETED = {
    **dict.fromkeys(("check", "measure", "generated", "texts"), ("instances", "tokens")),
    **dict.fromkeys(("format", "notes", "problem_text"), ("tokens",)),
    "dead_ends": ("instances", "states"),
    "nearest_solutions": ("instances", "tokens", "certain"),
}
"""Methods of tasks, and those of their arguments whose types are checked."""


class Task(ABC):
    """A kind of problem: one class, registered with `@TASKS.register("my_task")` or named as `my_module:MyTask`.

    A subclass sets `vocab_size`, `mask_token_id` and `length` and implements `check`. Everything else has a default. Methods
    that read completed sequences take them from any device and get them on the CPU.

    Attributes:
        vocab_size: V, number of tokens, the mask included.
        mask_token_id: token of an unknown position.
        length: L, the largest number of tokens of a sequence.
        pad_token_id: padding behind shorter sequences; None if all sequences have the same length.
        correct_means: heading of the share of correct instances in tables, such as "valid".
        sequential: True if left to right is a sensible order, as in text; "from the right", as in written sums.
        difficulty_order: values of the label `difficulty` from easy to hard.
        suffixes: suffixes of files that hold problems of this task and no other.
        file_suffix: of the files that `save` writes.
    """

    vocab_size: int
    mask_token_id: int
    length: int
    pad_token_id: int | None = None
    correct_means: ClassVar[str] = "instance accuracy"
    sequential: ClassVar[bool | str] = False
    difficulty_order: ClassVar[tuple[str, ...]] = ()
    suffixes: ClassVar[tuple[str, ...]] = ()
    file_suffix: ClassVar[str] = ".txt"

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        for name in (*_READ_PROBLEMS, *_READ_COMPLETED, "augment", "relations", "differences"):
            if name in vars(cls):
                setattr(cls, name, reported("task")(vars(cls)[name]))
        for name in _READ_COMPLETED & vars(cls).keys():
            setattr(cls, name, on_cpu(vars(cls)[name]))
        for name, arguments in (_READ_PROBLEMS | _READ_COMPLETED).items():
            if name in vars(cls):
                setattr(cls, name, checked(*arguments, like=getattr(Task, name))(vars(cls)[name]))

    # ---- what the task is ---------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The registered name, a reference to the class if there is none, or its bare name if it is defined in a script."""
        try:
            return TASKS.name_of(self)
        except BadInput:
            return type(self).__name__

    @property
    def options(self) -> dict[str, Any]:
        """The arguments that rebuild this task, as plain values. By default the attributes of the same names."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    @staticmethod
    def options_of(first_lines: Callable[[], str] | None, text: str | None) -> dict[str, Any]:
        """Options that a file (`first_lines()` reads one line) or a problem typed as text reveals; {} if unclear."""
        return {}

    def main_metric(self, instances: Instances) -> str:
        """The number that matters most for these problems: "instance_correct" or "cell_accuracy"."""
        return "instance_correct"

    def relations(self) -> Mapping[str, Relation]:
        """The relations between positions that a structured denoiser may use."""
        return {}

    @property
    def stops_at(self) -> Ends | None:
        """Tokens behind which nothing counts, so that a sequence is not decoded further; None if there are none."""
        return None

    # ---- problems -----------------------------------------------------------------------------------------------------

    def generate(self, count: int, seed: int, *args: Any, **options: Any) -> Instances:
        """Make `count` fresh problems. The i-th depends on the seed, the options and i only.

        Raises:
            BadInput: this task has no generator.
        """
        raise BadInput(f"the task {self.name} has no generator: give a file of problems (--data)")

    def augment(self, x0: Tensor, tokens: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Replace solutions and problems (B, L) by equivalent ones, drawn from the task's symmetries. None by default."""
        return x0, tokens

    def load(self, path: str | Path, limit: int | None = None, unreadable: Unreadable | None = None) -> Instances:
        """Read problems from a file; `read_lines` and `read_rows` do most of the work.

        Args:
            path: of the file.
            limit: the first so many; all by default.
            unreadable: what becomes of problems that cannot be read, and how many there were; by default the first is an error.

        Raises:
            BadInput: no such file, a problem that cannot be read, or this task reads no files.
        """
        raise BadInput(f"the task {self.name} reads no files: use generated problems or a problem as text")

    def parse(self, text: str) -> Instances:
        """One problem from text typed by a person.

        Raises:
            BadInput: the text is not a problem, or this task does not read text.
        """
        raise BadInput(f"the task {self.name} reads no problems as text: use generated problems or a file")

    def problem_text(self, tokens: Tensor) -> str:
        """Inverse of `parse`: a problem (L,) as text.

        Raises:
            BadInput: this task does not write text, or not of this problem.
        """
        raise BadInput(f"the task {self.name} writes no problems as text")

    def file_line(self, tokens: Tensor, solution: Tensor | None) -> str:
        """A problem (L,) and its solution (L,), None if it is not known, as a line of a file that `load` reads. By default the
        text of the problem alone."""
        return self.problem_text(tokens)

    def save(self, instances: Instances, path: str | Path) -> None:
        """Inverse of `load`: write problems, with their solutions where the layout has room for them. Labels are not written.

        Args:
            instances: the problems.
            path: a name that ends in `file_suffix`, or in that and .gz, which packs the file.

        Raises:
            BadInput: as `problem_text`, or a name that ends otherwise. AnyorderError: the file cannot be written.
        """
        check_argument("path", path, str | Path)
        path, ends = Path(path), (self.file_suffix, f"{self.file_suffix}.gz")
        if not path.name.lower().endswith(ends) and not is_special(path):
            raise BadInput(f"{path.name!r} does not name the format that {self.name} writes: end it in {' or '.join(ends)}")
        check_problems(self, instances)
        solutions = [None] * len(instances) if instances.x0 is None else instances.x0
        lines = [self.file_line(*problem) for problem in zip(instances.tokens, solutions, strict=True)]
        data = "".join(f"{line}\n" for line in lines).encode(errors="replace")
        write_bytes(path, gzip.compress(data, mtime=0) if path.suffix.lower() == ".gz" else data)

    # ---- completed sequences ------------------------------------------------------------------------------------------

    @abstractmethod
    def check(self, instances: Instances, tokens: Tensor) -> CheckResult:
        """Check completed sequences (N, L) by the rules."""

    def measure(self, instances: Instances, tokens: Tensor) -> dict[str, np.ndarray]:
        """Further numbers of each completed sequence by name, float (N,), nan where one has none. Tables show the means."""
        return {}

    @checked("instances", "tokens")
    def generated(self, instances: Instances, tokens: Tensor) -> Tensor:
        """Positions bool (N, L) of completed sequences that were generated and count as content."""
        return instances.maskable

    def texts(self, instances: Instances, tokens: Tensor) -> list[str]:
        """Completed sequences (N, L) as text, as a model of text or of sequences reads them.

        Raises:
            BadInput: this task is not made of text.
        """
        raise BadInput(f"the task {self.name} is not made of text: use a task of sequences, such as text")

    def differences(self, instances: Instances, tokens: Tensor) -> np.ndarray:
        """How different N completed sequences (N, L) of one problem are, float (N, N) in 0..1: the share of the generated
        positions at which two of them hold different tokens."""
        filled = tokens[:, instances.maskable.any(dim=0)]
        unlike: np.ndarray = (filled[:, None] != filled[None]).double().mean(dim=2).numpy()
        return unlike

    def format(self, tokens: Tensor) -> str:
        """A sequence (L,) as text for a person."""
        return " ".join(self.token_text(token) for token in tokens.tolist())

    def dead_ends(self, instances: Instances, states: Tensor) -> Tensor | None:
        """Whether it is proven that no solution completes a partly filled sequence (N, L), bool (N,).

        None if the task has no solver that could prove it.
        """
        return None

    @on_cpu
    def nearest_solutions(self, instances: Instances, tokens: Tensor, certain: Tensor) -> Tensor:
        """A solution of each problem that differs little from a filled sequence, int64 (N, L), for training where problems
        have several solutions. The default knows two: the stored one, and the sequence itself if it satisfies the rules.

        Args:
            instances: with their stored solutions.
            tokens: filled sequences (N, L).
            certain: positions bool (N, L) at which agreement counts first.
        """
        assert instances.x0 is not None
        return torch.where(self.check(instances, tokens).instance_correct[:, None], tokens, instances.x0)

    # ---- drawing ------------------------------------------------------------------------------------------------------

    def drawing(self) -> Drawing:
        """The layout of the positions: one after the other by default."""
        return Drawing()

    def token_text(self, token: int) -> str:
        """The text of a token: its number by default."""
        return str(token)

    def hidden_tokens(self) -> list[int]:
        """Tokens that are not drawn where they are given, such as padding."""
        return []

    def notes(self, tokens: Tensor) -> list[str]:
        """What a reader needs to know about a problem (L,) besides its positions, such as the clues."""
        return []

    # ---- the denoiser -------------------------------------------------------------------------------------------------

    @classmethod
    def for_denoiser(cls, denoiser: Denoiser, options: Mapping[str, Any], source: str = "") -> Self:
        """The task of this kind for a denoiser that was not trained by a recipe, such as a model of Hugging Face.

        The default makes the task from its options. A task whose vocabulary is that of the model overrides this.

        Args:
            denoiser: any denoiser.
            options: arguments of the task.
            source: name or folder of the denoiser, for its vocabulary and for messages; "" if unknown.

        Raises:
            BadInput: the options cannot be used, or task and denoiser do not match, see `check_fits`.
        """
        task = make(cls, options)
        check_fits(task, denoiser)
        return task

    def variant(self, options: Mapping[str, Any]) -> Self:
        """This task with other options, for the denoiser that was trained for it.

        The default refuses every change. A task whose denoiser serves many problems overrides this.

        Raises:
            BadInput: the denoiser cannot serve that task.
        """
        other = make(type(self), {**self.options, **options})
        if not self.serves(other):
            changed = ", ".join(f"{key}={value}" for key, value in other.options.items() if self.options.get(key) != value)
            raise BadInput(f"the denoiser is for {self.name} with other options than {changed}: leave them out, or train one")
        return other

    def serves(self, other: "Task") -> bool:
        """Whether a denoiser that was trained for this task also serves the other task."""
        return type(other) is type(self) and other.options == self.options


T = TypeVar("T", bound=Task)


def make(kind: type[T], options: Mapping[str, Any]) -> T:
    """A task of a class from its options.

    Raises:
        BadInput: the class has no such option, or a value cannot be used.
    """
    known = inspect.signature(kind).parameters
    name = _name_of(kind)
    unknown = [key for key in options if key not in known]
    if unknown:
        has = f"its options are {', '.join(known)}" if known else "it has none"
        raise BadInput(f"the task {name} has no option {unknown[0]!r}: {has}")
    try:
        task = kind(**options)
    except TypeError as error:
        given = ", ".join(f"{key}={shorten(repr(value))}" for key, value in options.items())
        raise BadInput(f"the task {name} cannot be made with {given or 'no options'}: {error}") from error
    check_task(task)
    return task


def make_task(name: str, **options: Any) -> Task:
    """A task by registered name, or as `module:Class`, with the arguments of its class, e.g. `make_task("sudoku", box=2)`.

    Raises:
        BadInput: no such task, an option that it does not have, or a value that cannot be used.
    """
    return make(task_class(name), options)


def task_class(name: str) -> type[Task]:
    """The class of a task by registered name, or as `module:Class`.

    Raises:
        BadInput: no such task, or something else than a subclass of `Task`.
    """
    found: Any = TASKS[name]
    if not (inspect.isclass(found) and issubclass(found, Task)):
        raise BadInput(f"{name} is not a task: it must be a subclass of anyorder.tasks.Task")
    return found


def _name_of(kind: type[Task]) -> str:
    try:
        return TASKS.name_of(kind)
    except BadInput:
        return kind.__name__


def check_fits(task: Task, denoiser: Any, instances: Instances | None = None) -> None:
    """Refuse a task and a denoiser that do not match.

    Args:
        task: any task.
        denoiser: any denoiser.
        instances: the problems that are to be decoded. If they are given, their length counts instead of the task's longest.

    Raises:
        BadInput: they disagree in vocabulary size, mask token or length; the message names which. Or one of them is something
            else than a task, a denoiser or problems of this task.
    """
    check_task(task)
    check_is_denoiser(denoiser)
    if instances is not None:
        check_problems(task, instances)
    length = task.length if instances is None else instances.tokens.shape[1]
    most = max_length_of(denoiser)
    facts = {
        "vocabulary size": (task.vocab_size, denoiser.vocab_size),
        "mask token": (task.mask_token_id, denoiser.mask_token_id),
        "length": (length, length if most is None else most),
    }
    wrong = [name for name, (own, other) in facts.items() if (own > other if name == "length" else own != other)]
    if wrong:
        said = "; ".join(f"{name} {facts[name][0]} of the task against {facts[name][1]} of the denoiser" for name in wrong)
        raise BadInput(
            f"the task {task.name} and the denoiser disagree: {said}. anyorder.task_for(denoiser) makes the right task"
        )


def check_task(task: Any) -> None:
    """Refuse something else than a task, or one that does not set its sizes.

    Raises:
        BadInput: no `Task`, a size that is no whole number, or a mask token outside the vocabulary.
    """
    if not isinstance(task, Task):
        raise BadInput(f"the task is {shorten(repr(task))}; it must be a Task: make_task(name), task_for(denoiser) or your own")
    for name in ("vocab_size", "mask_token_id", "length"):
        size = getattr(task, name, None)
        if isinstance(size, bool) or not isinstance(size, int):
            raise BadInput(f"the task {task.name} has the {name} {size!r}; its constructor must set a whole number")
    if not 0 <= task.mask_token_id < task.vocab_size:
        raise BadInput(f"the task {task.name} has the mask token {task.mask_token_id}; it must lie in 0..{task.vocab_size - 1}")


def same_tokens(one: Task | Denoiser, other: Task | Denoiser) -> bool:
    """Whether two tasks or denoisers have the same vocabulary size and mask token."""
    return (one.vocab_size, one.mask_token_id) == (other.vocab_size, other.mask_token_id)


def max_length_of(denoiser: Denoiser) -> int | None:
    """The largest number of tokens that a denoiser takes; None if it does not say."""
    most: int | None = getattr(denoiser, "max_length", None)
    return most
