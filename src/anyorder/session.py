"""What every command needs before it can start: a task, problems, a denoiser, and its policy."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyorder.denoisers.base import fingerprint
from anyorder.denoisers.huggingface import HuggingFaceDenoiser
from anyorder.denoisers.transformer import Transformer
from anyorder.errors import BadInput
from anyorder.evaluation.evaluate import environment
from anyorder.evaluation.trajectories import Watch
from anyorder.files import find_file, open_text
from anyorder.orders.policies import LearnedOrder
from anyorder.tasks import Instances, Task, task_class
from anyorder.tasks.sequence_files import looks_like_a_file
from anyorder.zoo import default_denoiser, load_order, order_folder
from anyorder.zoo.matching import task_for
from anyorder.zoo.options import load_model

_FRESH = 500


@dataclass(frozen=True)
class Session:
    """Loaded and checked against one another."""

    task: Task
    instances: Instances
    denoiser: Transformer | HuggingFaceDenoiser
    load_policy: Callable[[str], LearnedOrder]
    has_policy: bool
    meta: dict[str, Any]

    def learned_orders(self) -> list[str]:
        """The denoiser's own policy, if there is one, and with undo, if it can judge."""
        if not self.has_policy:
            return []
        return ["policy", "policy+undo"] if self.load_policy("policy").judges else ["policy"]

    def best_order(self) -> str:
        """The denoiser's own policy, with undo where it can judge; confidence where there is none."""
        return ["confidence", *self.learned_orders()][-1]

    def all_orders(self) -> list[str]:
        """Every heuristic, what was learned for this denoiser, and the oracle where solutions are known."""
        heuristics = ["random", "confidence", "margin", "log_margin", "entropy"]
        if self.task.sequential:
            heuristics.insert(1, "left_to_right")
        return [*heuristics, *self.learned_orders(), *(["oracle"] if self.instances.x0 is not None else [])]

    def watch(self, seed: int, keep: int | None = None, instances: Instances | None = None) -> Watch:
        """What keeps how the first `keep` of these problems, or of the session's, are decoded."""
        problems = self.instances if instances is None else instances
        about = {**environment(), **self.meta, "seed": seed}
        return Watch(self.task, problems[slice(0, keep)], about)


def open_session(
    task_name: str,
    data: Path | None,
    denoiser_name: str | None,
    limit: int | None,
    seed: int,
    generate: list[str] | None,
    task_options: list[str] | None,
    policy: Path | None,
    *,
    strict: bool = True,
    problem: str | None = None,
    trust_remote_code: bool = False,
    model_options: list[str] | None = None,
) -> Session:
    """Load everything, or say what does not fit.

    Args:
        task_name: name of the task.
        data: a file of problems, here or among what was fetched; fresh ones are generated without it and `problem`.
        denoiser_name: zoo name or folder; the shipped denoiser of the task when not given.
        limit: first N problems (500 when they are generated).
        seed: of generated problems.
        generate: key=value options of the generator.
        task_options: key=value options of the task; read off the data when not given.
        policy: folder that the order `policy` means; the denoiser's own when not given.
        strict: a policy of another denoiser is an error, else a warning.
        problem: a problem as text or the path of a file, in place of `data`.
        trust_remote_code: run the code that comes with a model of Hugging Face.
        model_options: key=value options of the denoiser, see `load_model`.
    """
    kind = task_class(task_name)
    if problem is not None and not _is_file(problem) and looks_like_a_file(problem):
        raise BadInput(f"no such file: {problem}")
    path = (data and found(data)) if problem is None else (Path(problem) if _is_file(problem) else None)
    if generate and path is not None:
        raise BadInput("--set chooses what to generate; it has no meaning together with --data")
    options = key_values(task_options, "--task-option")
    if not options and denoiser_name is None:
        options = _options_of(kind, path, problem)
    if denoiser_name is None:
        denoiser_name = default_denoiser(task_name, options)
    asked = key_values(model_options, "--model-option")
    denoiser = load_model(denoiser_name, asked, trust_remote_code=trust_remote_code)
    device = next(denoiser.parameters()).device
    task = task_for(denoiser, task_name, **options)
    if path is not None:
        instances, source = task.load(path, limit), path.name
    elif problem is not None:
        instances, source = task.parse(problem), "text"
    else:
        chosen = key_values(generate, "--set")
        try:
            instances = task.generate(limit or _FRESH, 1_000_000 + seed, **chosen)
        except TypeError as error:
            raise BadInput(f"the generator of {task_name} does not take {', '.join(chosen)}") from error
        source = f"generated {task_name}" + "".join(f", {key} {value}" for key, value in chosen.items())
    loaded: dict[str, LearnedOrder] = {}

    def load_policy(name: str) -> LearnedOrder:
        if name not in loaded:
            folder = (policy or order_folder(str(denoiser_name))) if name == "policy" else Path(name)
            loaded[name] = load_order(folder, denoiser, strict=strict).to(device)
        return loaded[name]

    meta: dict[str, Any] = {
        "task": task_name,
        "data": source,
        "denoiser": str(denoiser_name),
        "denoiser_fingerprint": fingerprint(denoiser),
    }
    meta |= {"model_options": asked} if asked else {}
    has_policy = policy is not None or (order_folder(denoiser_name) / "config.json").is_file()
    return Session(task, instances, denoiser, load_policy, has_policy, meta)


def _options_of(task: type[Task], path: Path | None, problem: str | None) -> dict[str, Any]:
    """What a file or a problem typed as text says of the options of its task."""
    if path is None:
        return task.options_of(None, problem)
    with open_text(path) as file:
        return task.options_of(file.readline, problem)


def key_values(pairs: list[str] | None, option: str) -> dict[str, Any]:
    """`["a=1", "b=x", "c=20-30", "d=.5"]` as {"a": 1, "b": "x", "c": (20, 30), "d": 0.5}."""
    values: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise BadInput(f"{option} {pair!r} must look like key=value")
        low, dash, high = text.partition("-")
        if _is_number(text):
            values[key] = int(text)
        elif re.fullmatch(r"\d*\.\d+", text):
            values[key] = float(text)
        elif dash and _is_number(low) and _is_number(high):
            values[key] = (int(low), int(high))
        else:
            values[key] = text
    return values


def found(path: Path) -> Path:
    """A file that the user names: here, or among what was fetched."""
    try:
        return find_file(path)
    except FileNotFoundError as error:
        raise BadInput(f"no such file: {path}") from error


def _is_number(text: str) -> bool:
    if re.fullmatch(r"\d{19,}", text):
        raise BadInput(f"the number {text[:20]}... is too large")
    return re.fullmatch(r"\d+", text, re.ASCII) is not None


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # a long puzzle is no file name, nor is one with a zero byte
        return False
