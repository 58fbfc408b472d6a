"""Load what every command needs: a task, problems, a denoiser, and samplers bound to it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyorder.decoding.sampler import Sampler, as_sampler
from anyorder.denoisers.base import fingerprint
from anyorder.errors import BadInput
from anyorder.evaluation.comparison import environment
from anyorder.evaluation.samplers import default_samplers
from anyorder.evaluation.trajectories import Watch
from anyorder.files import find_file, open_text
from anyorder.interfaces.ends import with_late_ends
from anyorder.orders.learned import check_policy_folder
from anyorder.tasks import Instances, Sequences, Task, make_task, task_class
from anyorder.tasks.generation import Span, make_problems
from anyorder.tasks.problem_files import load_problems
from anyorder.tasks.sequence_files import looks_like_a_file
from anyorder.zoo import default_denoiser, load_denoiser
from anyorder.zoo.matching import task_for

DEFAULT_TASK = "sudoku"
_GENERATED = 200
_SKIP = "--skip-unreadable leaves such problems out"


@dataclass(frozen=True)
class Session:
    """A task, problems and a denoiser, loaded and checked against each other.

    Args:
        task, instances, denoiser: the task, its problems, and the model.
        meta: facts for reports.
        strict: whether a policy of another denoiser is an error.
    """

    task: Task
    instances: Instances
    denoiser: Any
    meta: dict[str, Any]
    strict: bool

    @property
    def longest(self) -> int:
        """See `Instances.longest`."""
        return self.instances.longest

    def samplers(self) -> list[str]:
        """The samplers that are compared when none are named."""
        return default_samplers(self.task, self.denoiser, self.instances, strict=self.strict)

    def best_sampler(self) -> str:
        """The denoiser's own policy, with undo if it has a critic; confidence if there is no policy."""
        known = self.samplers()
        return next((name for name in ("policy+undo", "policy") if name in known), "confidence")

    def bind(self, text: str, **fields: Any) -> Sampler:
        """A sampler from text, with these fields, or from its folder as it was saved; with its policies loaded."""
        return as_sampler(text, **fields).bind(self.denoiser, strict=self.strict)

    def late_ends(self, sampler: Sampler, penalty: float) -> Sampler:
        """The sampler, with a penalty on the scores of tokens that end a sequence of the task; 0 for none, infinity for ends
        last, whatever the count rule is.

        Raises:
            BadInput: no token ends the task's sequences.
        """
        if not penalty:
            return sampler
        ends = self.task.stops_at
        if ends is None:
            raise BadInput(f"--eos-penalty is for texts that end by a token, and {self.task.name} has none")
        return with_late_ends(sampler, ends, penalty)

    def watch(self, seed: int, keep: int | None = None, instances: Instances | None = None) -> Watch:
        """A recorder of how the first `keep` of these problems, or of the session's, are decoded."""
        problems = self.instances if instances is None else instances
        about = {**environment(), **self.meta, "seed": seed}
        return Watch(self.task, problems[slice(0, keep)], about)


def open_session(
    *,
    task: str | None = None,
    data: Path | None = None,
    model: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    generate: list[str] | None = None,
    task_options: list[str] | None = None,
    policy: Path | None = None,
    strict: bool = True,
    problem: str | None = None,
    trust_remote_code: bool = False,
    model_options: list[str] | None = None,
    skip_unreadable: bool = False,
    hide: float | None = None,
) -> Session:
    """Load everything, or raise an error that says what does not fit.

    Args:
        task: name of the task; by default the task of the model, or sudoku without a model.
        data: a file of problems, here or among the fetched ones; without it and `problem`, problems are generated.
        model: shipped or fetched name, folder, hub id, or package.module:Class; by default the model shipped for the task.
        limit: first N problems (200 if they are generated).
        seed: seed of generated problems.
        generate: key=value options of the generator.
        task_options: key=value options of the task; by default inferred from the data.
        policy: folder that the order `policy` stands for; by default the denoiser's own.
        strict: a policy of another denoiser is an error, otherwise a warning.
        problem: a problem as text or the path of a file, instead of `data`.
        trust_remote_code: run the code that comes with a model of Hugging Face.
        model_options: key=value options of the denoiser, see `load_denoiser`.
        skip_unreadable: leave out problems of a file that cannot be read, and say so on standard error.
        hide: share hidden of complete texts and sequences, unless the options of the task name one.

    Raises:
        BadInput: something does not fit, cannot be read, or is too large.
    """
    path = (data and found(data)) if problem is None else _named(problem)
    if generate and path is not None:
        raise BadInput("--generate has no effect with a file of problems: leave one of them out")
    options = key_values(task_options, "--task-option")
    supposed = task is None and model is None and (path is not None or problem is not None)
    if model is None:
        task = task or DEFAULT_TASK
        options = {**_options_of(task_class(task), path, problem), **options}
        model = default_denoiser(task, options)
    asked = key_values(model_options, "--model-option")
    denoiser = load_denoiser(model, trust_remote_code=trust_remote_code, **asked)
    if policy is not None:
        check_policy_folder(policy)
        denoiser.own_order = str(policy)
    made = task_for(denoiser, task, **options)
    if hide is not None and isinstance(made, Sequences) and "hide" not in options:
        made = made.variant({"hide": hide})
    if path is not None or problem is not None:
        try:
            if path is None:
                instances, source = made.parse(str(problem)), "text"
            else:
                instances, source = load_problems(made, path, limit, skip_unreadable, _SKIP), path.name
        except BadInput as error:
            hint = f"; without --task and --model it is read as {made.name}" if supposed else ""
            raise BadInput(f"{error}{hint}") from error
    else:
        instances = fresh_problems(made, limit, seed, generate)
        chosen = key_values(generate, "--generate")
        source = f"generated {made.name}" + "".join(f", {key} {value}" for key, value in chosen.items())
    meta: dict[str, Any] = {
        "task": made.name,
        "data": source,
        "denoiser": model,
        "denoiser_fingerprint": fingerprint(denoiser),
    }
    meta |= {"model_options": asked} if asked else {}
    return Session(made, instances, denoiser, meta, strict)


def fresh_problems(task: Task, limit: int | None, seed: int, generate: list[str] | None) -> Instances:
    """The problems that every command generates with these options.

    Raises:
        BadInput: as `generated`.
    """
    return make_problems(task, limit or _GENERATED, 1_000_000 + seed, key_values(generate, "--generate"))


def task_of_options(task: str | None, model: str | None, task_options: list[str] | None) -> Task:
    """The task of a command that needs no model: that of the model if one is named, else by its name and options.

    Raises:
        BadInput: no such task or model, or options that cannot be used.
    """
    options = key_values(task_options, "--task-option")
    return make_task(task or DEFAULT_TASK, **options) if model is None else task_for(load_denoiser(model), task, **options)


def _options_of(task: type[Task], path: Path | None, problem: str | None) -> dict[str, Any]:
    """The task options that a file or a problem typed as text implies."""
    if path is None:
        return task.options_of(None, problem)
    with open_text(path) as file:
        return task.options_of(file.readline, problem)


def key_values(pairs: list[str] | None, option: str) -> dict[str, Any]:
    """`["a=1", "b=x", "c=20-30", "d=.5", "e=true"]` as {"a": 1, "b": "x", "c": (20, 30), "d": 0.5, "e": True}."""
    values: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise BadInput(f"{option} {pair!r} must look like key=value")
        if key in values:
            raise BadInput(f"{option} gives {key} twice, {values[key]} and {text}: give it once")
        low, dash, high = text.partition("-")
        if _is_number(text):
            values[key] = int(text)
        elif re.fullmatch(r"\d*\.\d+", text):
            values[key] = float(text)
        elif text.lower() in ("true", "false"):
            values[key] = text.lower() == "true"
        elif dash and _is_number(low) and _is_number(high):
            values[key] = Span((int(low), int(high)))
        else:
            values[key] = text
    return values


def found(path: Path) -> Path:
    """A file that the user names: here, or among what was fetched."""
    if path.is_dir():
        raise BadInput(f"{path} is a folder: give a file of problems")
    try:
        return find_file(path)
    except FileNotFoundError as error:
        raise BadInput(f"{path} is a folder, not a file" if path.is_dir() else f"no such file: {path}") from error


def _is_number(text: str) -> bool:
    if re.fullmatch(r"\d{19,}", text, re.ASCII):
        raise BadInput(f"the number {text[:20]}... is too large")
    return re.fullmatch(r"\d+", text, re.ASCII) is not None


def _named(problem: str) -> Path | None:
    """The file that a problem is the name of; None for one written as text."""
    if not problem.strip():
        raise BadInput("the problem is empty: write one as text, or give a file of problems")
    try:
        folder = Path(problem).is_dir()
        if Path(problem).exists() and not folder:
            return Path(problem)
    except (OSError, ValueError):  # a long puzzle is no file name, nor is one with a zero byte
        return None
    if folder:
        raise BadInput(f"{problem} is a folder: give a file of problems, or one problem as text")
    if looks_like_a_file(problem):
        raise BadInput(f"no such file: {problem}")
    return None
