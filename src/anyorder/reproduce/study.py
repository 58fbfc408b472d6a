"""The machinery of a reproduction: models that are trained once and kept, cells that are decoded once and kept.

Everything is stored in one folder. Existing results are not computed again, so an interrupted command resumes, and targets that
need the same models share them.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from anyorder import __version__
from anyorder.denoisers.base import fingerprint
from anyorder.errors import BadInput, first_line
from anyorder.evaluation.comparison import evaluate
from anyorder.files import finite, read_json, write_json
from anyorder.orders.learned import saved_order
from anyorder.reproduce.workers import decode_groups
from anyorder.tasks import make_task
from anyorder.tasks.base import Instances, Task
from anyorder.tasks.generation import check_size
from anyorder.tasks.kept import kept
from anyorder.training.fit import run_recipe
from anyorder.training.order import untrained_order
from anyorder.training.recipes import AnyRecipe, OrderRecipe, completed, is_recipe, load_recipe
from anyorder.zoo import load_denoiser


@dataclass(frozen=True)
class Setting:
    """One task of a study.

    Args:
        task, options: of `make_task`.
        denoiser: frozen in the policy-only half, and the common start of joint training: a shipped name, a folder or a hub
            id, or a recipe that trains it.
        adaptive: the recipe of Algorithm 1; its `train_denoiser` is the switch between the halves.
        denoiser_changes, policy_changes, joint_changes: overrides of these recipes.
        problems: how many test problems, drawn with `generate` options.
        steps: budget of forward passes of the tables. figure_steps: of figure 3.
        noise: scale of Gumbel noise on the scores in stochastic decoding.
        diversities: of the order, at which orders under noise are compared.
        from_random, longer: overrides of the policy recipe for `VARIANTS`, the published networks from random weights.
    """

    task: str
    options: dict[str, object] = field(hash=False)
    denoiser: str
    adaptive: str
    denoiser_changes: tuple[str, ...] = ()
    policy_changes: tuple[str, ...] = ()
    joint_changes: tuple[str, ...] = ()
    problems: int = 300
    generate: dict[str, object] = field(default_factory=dict, hash=False)
    steps: int = 20
    figure_steps: tuple[int, ...] = (5, 10, 20)
    noise: float = 0.5
    diversities: tuple[float, ...] = (0.2, 0.5)
    from_random: tuple[str, ...] = ()
    longer: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name by which targets refer to it, and of its folder."""
        return self.task

    @property
    def generated(self) -> str:
        """The options of its test problems, for a reader."""
        return ", ".join(f"{key} {value}" for key, value in self.generate.items()) or "default options"


@dataclass(frozen=True)
class Decoding:
    """What is decoded with one model: orders, at these steps, with this noise, annealed or not. With a `diversity` the noise is
    the scale that gives it to the order on other problems."""

    setting: Setting
    model: str
    orders: tuple[str, ...]
    steps: int
    noise: float = 0.0
    anneal: bool = False
    diversity: float | None = None


TEST_SEED = 8_000_000
_POLICIES = ("policy/", "untrained/", "reward/")
VARIANTS = {
    "mlp-published": ("policy.architecture=mlp", "policy.start=none"),
    "mlp-published-longer": ("policy.architecture=mlp", "policy.start=none"),
    "score_transformer-published": ("policy.architecture=score_transformer", "policy.start=none"),
    "score_hidden_transformer-published": (
        "policy.architecture=score_hidden_transformer", "policy.width=384", "policy.start=none",
    ),
}  # fmt: skip
"""The networks of arXiv 2606.00295 as published: from random weights, without the confidence term; the transformer that reads
hidden states at their width there."""


@dataclass(frozen=True)
class Study:
    """A folder of models and cells.

    Names of models: `frozen`, the denoiser; `policy/NAME/SEED`, a policy on it, of an architecture or of `VARIANTS`;
    `untrained/NAME/SEED`, the same before training; `joint/WEIGHTS/SEED`, trained on from
    it; `joint-without-one/WEIGHTS/SEED`, the same without the "+1" of eq. 4; `joint-on-path/WEIGHTS/SEED`, on states of the
    policy's own path with true tokens in place of uniformly masked ones.
    """

    folder: Path

    def model_folder(self, setting: Setting, model: str) -> Path:
        """The folder of a model."""
        return Path(setting.denoiser) if is_given(setting, model) else self.folder / setting.name / model

    def ensure(self, setting: Setting, model: str) -> Path:
        """Train a model if it is not there, and what it starts from."""
        folder = self.model_folder(setting, model)
        if is_given(setting, model):
            return folder
        start = None
        if model == "frozen":
            recipe = load_recipe(setting.denoiser, list(setting.denoiser_changes))
        else:
            start = self.ensure(setting, "frozen") if self.before(model) else None
            kind, what, seed = model.split("/")
            recipe = self.recipe(setting, kind, what, seed, [f"seed={seed}", *([f"denoiser={start}"] if start else [])])
        identity: dict[str, Any] = {
            "recipe": recipe.model_dump(mode="json"),
            "start": start and fingerprint(load_denoiser(str(start))),
        }
        if others := [before for before in self.before(model) if before != "frozen"]:
            identity["others"] = [weights_mark(self.ensure(setting, before)) for before in others]
        finished = folder / "finished.json"
        if finished.exists():
            if not _same(read_json(finished), identity):
                raise BadInput(f"{folder} holds a model of other settings: give another --out, or remove it")
            return folder
        recipe = self._keeping_problems(setting, recipe)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "fingerprints.json").unlink(missing_ok=True)
        if model.startswith("untrained/"):
            assert isinstance(recipe, OrderRecipe)
            task = make_task(recipe.task.name, **recipe.task.options)
            untrained_order(recipe, load_denoiser(recipe.denoiser, device="cpu"), task).policy.save_pretrained(folder)
            write_json(finished, identity)
            return folder
        with open(folder / "log.txt", "a", encoding="utf-8") as log:
            result = run_recipe(recipe, folder, Console(file=log))
        if not result.finished:
            raise KeyboardInterrupt
        write_json(finished, identity)  # the last act: what has it is whole
        return folder

    def _keeping_problems(self, setting: Setting, recipe: AnyRecipe) -> AnyRecipe:
        """The recipe with training problems that are generated once for all models."""
        if recipe.data.file is not None:
            return recipe
        path = self._problems_path(setting, recipe.task.model_dump(), recipe.data.model_dump())
        return recipe.model_copy(update={"data": recipe.data.model_copy(update={"keep": str(path)})})

    def _problems_path(self, setting: Setting, *what: object) -> Path:
        key = hashlib.sha256(json.dumps([__version__, *what], sort_keys=True).encode()).hexdigest()
        return self.folder / setting.name / "problems" / f"{key[:24]}.safetensors"

    def recipe(self, setting: Setting, kind: str, what: str, seed: str, changes: list[str]) -> AnyRecipe:
        """The recipe of a model `KIND/WHAT/SEED`, with its seed and denoiser."""
        if kind in ("policy", "untrained"):
            changes += [*setting.policy_changes, *VARIANTS.get(what, (f"policy.architecture={what}",))]
            if what in VARIANTS:
                changes += setting.longer if what.endswith("-longer") else setting.from_random
        else:
            changes += [*setting.joint_changes, "train_denoiser=true", f"joint.weights={what}"]
            changes += ["joint.plus_one=false"] if kind == "joint-without-one" else []
            changes += ["objective.states=teacher"] if kind == "joint-on-path" else []
        return load_recipe(setting.adaptive, changes)

    def before(self, model: str) -> tuple[str, ...]:
        """The models that must be trained before a model."""
        return () if model == "frozen" else ("frozen",)

    def problems(self, setting: Setting) -> tuple[Task, Instances]:
        """The test problems of a task, the same for every model."""
        task = make_task(setting.task, **setting.options)
        check_size(setting.problems, task.length)
        path = self._problems_path(setting, setting.task, setting.options, setting.problems, setting.generate)
        return task, kept(path, lambda: task.generate(setting.problems, TEST_SEED, **setting.generate))

    def load(self, decoding: Decoding) -> Any:
        """The denoiser of a decoding; its `own_order` is the folder of the policy that the decoding is about."""
        folder = self.ensure(decoding.setting, decoding.model)
        policy_only = decoding.model.startswith(_POLICIES)
        denoiser = load_denoiser(str(self.model_folder(decoding.setting, "frozen") if policy_only else folder))
        if policy_only:
            denoiser.own_order = str(folder)
        return denoiser

    def _cell_path(self, decoding: Decoding, order: str, mark: str) -> Path:
        setting = decoding.setting
        identity: list[Any] = [__version__, setting.task, setting.options, setting.problems, setting.generate, order, mark]
        identity += [decoding.steps, decoding.noise, *(["annealed"] if decoding.anneal else [])]
        identity += [] if decoding.diversity is None else [{"diversity": decoding.diversity}]
        identity += self.further_marks(setting)
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return self.folder / decoding.setting.name / "cells" / f"{key[:24]}.json"

    def decode(self, decoding: Decoding) -> dict[str, np.ndarray]:
        """The values kept for each order, per problem; measured now, or read from existing cells, which need no weights."""
        denoiser, found = None, {}
        own, with_policy = self._marks(decoding)
        for order in decoding.orders:
            mark = with_policy if order.startswith("policy") else own
            path = self._cell_path(decoding, order, mark + self.measure_mark)
            if not path.exists():
                denoiser = denoiser or self.load(decoding)
                about = {name: getattr(decoding, name) for name in ("model", "steps", "noise", "anneal", "diversity")}
                measured = self.measure(denoiser, decoding, order)
                write_json(path, {"order": order, **about, "problems": decoding.setting.problems, **measured})
            with damaged(path):
                found[order] = self.kept(read_json(path))
        return found

    def _marks(self, decoding: Decoding) -> tuple[str, str]:
        """Fingerprints of a model: of its denoiser, and of denoiser and policy. They are kept beside a trained model."""
        place = self.ensure(decoding.setting, decoding.model) / "fingerprints.json"
        given = is_given(decoding.setting, decoding.model)
        if not given and place.exists():
            with damaged(place):
                own, with_policy = map(str, read_json(place))
                return own, with_policy
        denoiser = self.load(decoding)
        own = with_policy = fingerprint(denoiser)
        if getattr(denoiser, "own_order", None):
            with_policy += fingerprint(saved_order(denoiser).policy)
        if not given:
            write_json(place, [own, with_policy])
        return own, with_policy

    @property
    def measure_mark(self) -> str:
        """A mark that distinguishes the cells of studies with other measures."""
        return ""

    def further_marks(self, setting: Setting) -> list[Any]:
        """What else of a setting distinguishes its cells, as plain values."""
        return []

    def measure(self, denoiser: Any, decoding: Decoding, order: str) -> dict[str, Any]:
        """The values that are written for a cell."""
        task, problems = self.problems(decoding.setting)
        report = evaluate(denoiser, task, problems, [order], [decoding.steps], noise=[decoding.noise], anneal=decoding.anneal)
        result = report.results[0]
        return {"nfe": result.nfe, **self.keep(result.correct, result.cells)}

    def keep(self, correct: np.ndarray, cells: np.ndarray) -> dict[str, Any]:
        """The values to write for outcomes bool (N,) and shares of right cells (N,)."""
        return {"solved": "".join("1" if right else "0" for right in correct)}

    def kept(self, values: dict[str, Any]) -> np.ndarray:
        """The same read back: solved or not, bool (N,)."""
        solved = values["solved"]
        if not isinstance(solved, str) or not set(solved) <= {"0", "1"} or len(solved) != values["problems"]:
            raise ValueError("what was solved is written as a text of 0 and 1, one for each problem")
        return np.array([mark == "1" for mark in solved])

    def worker_key(self, decoding: Decoding) -> tuple[str, str]:
        """Task and model: what one process decodes, since it trains the model if it is not there."""
        return decoding.setting.name, decoding.model

    def decode_all(self, decodings: Iterable[Decoding], workers: int, say: Callable[[str], None]) -> dict[Decoding, dict]:
        """All decodings, model by model, on several processes of one thread each. What they start from comes first."""
        wanted = list(dict.fromkeys(decodings))
        for setting, model in dict.fromkeys((d.setting.name, m) for d in wanted for m in self.before(d.model)):
            say(f"{setting}: {model}")
            self.ensure(next(d.setting for d in wanted if d.setting.name == setting), model)
        groups: dict[tuple[str, str], list[Decoding]] = {}
        for decoding in wanted:
            groups.setdefault(self.worker_key(decoding), []).append(decoding)

        def told(key: tuple[str, str], done: int) -> None:
            say(f"{key[0]}: {key[1]} ({done} of {len(wanted)} decodings done)")

        return decode_groups(self, groups, workers, told)


def weights_mark(folder: Path) -> str:
    """A mark of the weights in a folder."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:16]


def _same(kept: Any, identity: dict[str, Any]) -> bool:
    """Whether a model was made with these settings; those that came after it do not count at their defaults, nor the names of
    folders, of which there are fingerprints."""
    if not isinstance(kept, dict) or not isinstance(kept.get("recipe"), dict):
        return False
    known, asked = {**kept, "recipe": completed(kept["recipe"], identity["recipe"])}, dict(finite(identity))
    for name in [name for name, mark in (("denoiser", "start"), ("start", "others")) if asked.get(mark)]:
        known["recipe"], asked["recipe"] = ({**one["recipe"], name: None} for one in (known, asked))
    return bool(known == asked)


@contextmanager
def damaged(cell: Path) -> Iterator[None]:
    """Say of a cell that does not hold what was written into it how to go on."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{cell} is damaged ({first_line(error)}): delete it, and what it held is decoded again") from error


def is_given(setting: Setting, model: str) -> bool:
    """Whether a model is there from the start: a denoiser that no recipe trains."""
    return model == "frozen" and not is_recipe(setting.denoiser)
