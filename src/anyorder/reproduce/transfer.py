"""Policies trained for speed (Jazbec et al., arXiv 2512.09106) on denoisers, lengths and tasks that they were not trained for,
against count rules that need no training, at as many forward passes."""

import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from anyorder.decoding.sampler import Sampler
from anyorder.decoding.tokens import Argmax, Sample
from anyorder.denoisers.base import fingerprint
from anyorder.evaluation.batches import decode_in_batches
from anyorder.evaluation.curves import as_curves
from anyorder.evaluation.fronts import Front, attained, seed_front
from anyorder.evaluation.tables import markdown_table
from anyorder.reproduce.outcome import Cells, Outcome, Solved, Target, percent, points
from anyorder.reproduce.speed import SUDOKU, WORDS, SpeedSetting, SpeedStudy
from anyorder.reproduce.study import Decoding, Setting, Study, weights_mark
from anyorder.zoo import load_denoiser

RULES = ("threshold", "factor", "entropy_bound")
_POLICY = "policy@bernoulli:0"
_DRAWS = 1000


@dataclass(frozen=True)
class VisitedSetting(Setting):
    """A denoiser and problems on which policies are used.

    Args:
        about: what it is, for a reader.
        homes: where the policies are trained, each on its own denoiser.
        temperature: at which tokens are drawn; 0 takes the likeliest.
    """

    about: str = field(kw_only=True)
    homes: tuple[SpeedSetting, ...] = field(kw_only=True)
    temperature: float = field(default=0.0, kw_only=True)

    @property
    def name(self) -> str:
        """See `Setting`."""
        return f"transfer-{self.denoiser}"


@dataclass(frozen=True)
class Visitor:
    """A policy, trained by reward or only by imitation, and the setting in which it was trained."""

    home: SpeedSetting
    what: str

    @property
    def model(self) -> str:
        """Its name in a visited setting, with a place for the seed."""
        return f"{self.home.key}:reward/{self.what}/{{seed}}"

    @property
    def label(self) -> str:
        """For a reader."""
        kind, _, value = self.what.partition("-")
        return f"`{self.home.denoiser}`, {'alpha' if kind == 'alpha' else 'imitation of'} {value}"


def visitors(s: Setting) -> list[Visitor]:
    """The policies that visit a setting: of each home those by imitation, then those by reward."""
    assert isinstance(s, VisitedSetting)
    return [Visitor(home, what) for home in s.homes for kind in home.trained(False, home.exponents) for what in kind]


class TransferStudy(SpeedStudy):
    """Models `KEY:MODEL`, the model of `SpeedStudy` that was trained in the setting with this key. For each problem: whether it
    is solved (a molecule: valid), and its NFE, float (2, N)."""

    def _home(self, setting: Setting, model: str) -> tuple[Setting, str]:
        key, colon, rest = model.partition(":")
        if not colon:
            return setting, model
        assert isinstance(setting, VisitedSetting)
        return next(home for home in setting.homes if home.key == key), rest

    def model_folder(self, setting: Setting, model: str) -> Path:
        """See `Study`."""
        return super().model_folder(*self._home(setting, model))

    def ensure(self, setting: Setting, model: str) -> Path:
        """See `Study`."""
        return super().ensure(*self._home(setting, model))

    def before(self, model: str) -> tuple[str, ...]:
        """See `Study`."""
        key, colon, rest = model.rpartition(":")
        return tuple(one if one == "frozen" else key + colon + one for one in super().before(rest))

    def worker_key(self, decoding: Decoding) -> tuple[str, str]:
        """See `Study`: all visits of a policy belong together, so that it is trained once."""
        home, model = self._home(decoding.setting, decoding.model)
        return home.name, model

    def load(self, decoding: Decoding) -> Any:
        """See `Study`."""
        denoiser = load_denoiser(decoding.setting.denoiser)
        if decoding.model != "frozen":
            denoiser.own_order = str(self.ensure(decoding.setting, decoding.model))
        return denoiser

    def _marks(self, decoding: Decoding) -> tuple[str, str]:
        own = fingerprint(load_denoiser(decoding.setting.denoiser))
        return own, own if decoding.model == "frozen" else own + weights_mark(self.ensure(decoding.setting, decoding.model))

    def further_marks(self, setting: Setting) -> list[Any]:
        """See `Study`."""
        assert isinstance(setting, VisitedSetting)
        return [{"temperature": setting.temperature}]

    def measure(self, denoiser: Any, decoding: Decoding, order: str) -> dict[str, Any]:
        """See `Study`."""
        assert isinstance(decoding.setting, VisitedSetting)
        task, problems = self.problems(decoding.setting)
        temperature = decoding.setting.temperature
        token = Sample(temperature) if temperature else Argmax()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*was fitted to the denoiser")  # which is what is studied here
            sampler = Sampler.parse(order, steps=decoding.steps, token=token).bind(denoiser, strict=False)
        decoded = decode_in_batches(denoiser, problems, sampler, seed=0, batch_size=256, progress=None, name=order)
        right = task.check(problems, decoded.tokens).instance_correct.numpy()
        return {**Study.keep(self, right, right), "nfe": decoded.nfe.tolist()}

    def kept(self, values: dict[str, Any]) -> np.ndarray:
        """See `Study`."""
        return np.stack([Study.kept(self, values).astype(float), np.array(values["nfe"], dtype=float)])


def _rule_points(s: Setting) -> dict[str, list[tuple[str, int]]]:
    """The operating points of each rule: a sampler's text and its budget of forward passes."""
    curves = as_curves([f"confidence@{rule}" for rule in RULES], load_denoiser(s.denoiser, device="cpu"), s.steps)
    return {c.name.partition("@")[2]: [(point.label, point.steps or s.steps) for point in c.points] for c in curves}


def _needs(settings: list[Setting], seeds: list[int]) -> list[Decoding]:
    found = []
    for s in settings:
        for at in _rule_points(s).values():
            found += [Decoding(s, "frozen", (label,), steps) for label, steps in at]
        found += [Decoding(s, v.model.format(seed=seed), (_POLICY,), s.steps) for v in visitors(s) for seed in seeds]
    return found


# ---- the table ------------------------------------------------------------------------------------------------------------


def gap(policy: np.ndarray, rule: np.ndarray) -> Front:
    """Accuracy of a policy minus that of a rule's front at as many forward passes, from solved or not and NFE: those of the
    policy, (S, 2, 1, N), and of the rule's points, (1, 2, P, N)."""
    both = np.concatenate([policy, np.broadcast_to(rule, (len(policy), *rule.shape[1:]))], axis=2)
    return seed_front(both[:, 1], both[:, 0], _first_minus_front, _DRAWS)


def _first_minus_front(nfe: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Accuracy of the first point minus what the others attain with its NFE, (1,)."""
    found: np.ndarray = accuracy[:1] - attained(nfe[1:], accuracy[1:], nfe[:1])
    return found


def _layout(settings: list[Setting], seeds: list[int], solved: Solved, folder: Path) -> Outcome:
    del folder
    cells, parts, lines, values = Cells(solved, seeds), [], {}, {}
    gaps: dict[tuple[str, str], dict[str, Front]] = {}
    for s in settings:
        assert isinstance(s, VisitedSetting)
        rules = {
            name: np.stack([cells.of(s, "frozen", label, steps=steps) for label, steps in at], axis=2)
            for name, at in _rule_points(s).items()
        }  # (1, 2, P, N)
        curves = {name: _line(rule[:, 0], rule[:, 1]) for name, rule in rules.items()}
        rows = []
        for v in visitors(s):
            at = cells.of(s, v.model, _POLICY)[:, :, None]
            mine = gaps[s.denoiser, v.label] = {name: gap(at, rule) for name, rule in rules.items()}
            here = " (its own)" if v.home.denoiser == s.denoiser else ""
            rows.append([v.label + here, f"{at[:, 1].mean():.1f}", percent(at[:, 0, 0])])
            rows[-1] += [mine[rule].shown("+")[0] for rule in RULES]
            curves[v.label.replace("`", "")] = _line(at[:, 0], at[:, 1])
        header = ["policy of", "NFE", "solved", *(f"minus {rule}" for rule in RULES)]
        parts.append(f"**`{s.denoiser}`**, {s.about}\n\n{markdown_table(header, rows)}")
        lines[s.denoiser] = curves
        values[s.denoiser] = {
            v.label: {rule: front.value.tolist() for rule, front in gaps[s.denoiser, v.label].items()} for v in visitors(s)
        }
    parts.append(f"**What is lost on the way**\n\n{_lost(settings, gaps)}")
    title = "Jazbec et al.: policies on other denoisers, lengths and tasks"
    return Outcome(title, "\n".join(parts), values, lines, "forward passes per sequence", log_x=True)


def _line(correct: np.ndarray, nfe: np.ndarray) -> list[tuple[float, float, float, float]]:
    """Points (passes, percent, low, high) for a plot, from outcomes and NFE (S, P, N), from the cheapest on."""
    return sorted(points(nfe.mean(axis=(0, 2)).tolist(), list(correct.swapaxes(0, 1))))


def _lost(settings: list[Setting], gaps: dict[tuple[str, str], dict[str, Front]]) -> str:
    """For each policy and each denoiser that is not its own: the gap to the threshold there minus that at home."""
    rows, homes = [], {s.denoiser for s in settings}
    for v in visitors(settings[0]):
        if v.home.denoiser not in homes:
            continue
        home = gaps[v.home.denoiser, v.label]["threshold"]
        for s in (s for s in settings if s.denoiser != v.home.denoiser):
            away = gaps[s.denoiser, v.label]["threshold"]
            rows.append([v.label, f"`{s.denoiser}`", *(one.shown("+")[0] for one in (home, away, away.minus(home)))])
    return markdown_table(["policy of", "used on", "minus threshold, at home", "there", "difference"], rows)


def _about(settings: list[Setting], seeds: list[int], scale: str) -> str:
    """The settings that stand above the table."""
    lines = [
        f"Scale {scale}; seeds {', '.join(map(str, seeds))} of the policies. They decide by the mode, score > 0. `minus RULE` "
        "is the difference to the front of confidence with this rule at as many forward passes as the policy makes: a mixture "
        "of two of its points, below the cheapest one with no attempt. Every rule has the points with which it is registered. "
        "The rows by imitation are the policies before their training by reward. 95 % intervals over seeds and problems "
        "(hierarchical bootstrap). In the last table seeds are paired; the problems of two denoisers are not the same."
    ]
    for s in settings:
        assert isinstance(s, VisitedSetting)
        tokens = f"tokens drawn at temperature {s.temperature:g}" if s.temperature else "the likeliest token"
        lines.append(f"- `{s.denoiser}`: {s.problems} generated problems ({s.generated}); {tokens}.")
    return "\n".join(lines) + "\n"


WEAK = SpeedSetting(
    task="sudoku",
    options={"box": 2},
    denoiser="sudoku4-weak",
    adaptive="sudoku4-order",
    problems=400,
    generate={"givens": 8, "unique": False},
    steps=8,
    key="sudoku4-weak-speed",
    reward="sudoku9-speed",
    reward_changes=("task.options={box=2}", "data.options={givens=8, unique=false}"),
    exponents=("3", "1"),
    in_blocks=(),
    block=4,
)
_VISITED: tuple[dict[str, Any], ...] = (
    {"denoiser": "sudoku9", "about": "minimal 9x9 Sudoku, about 57 positions", "task": "sudoku", "options": SUDOKU.options,
     "generate": SUDOKU.generate, "steps": SUDOKU.steps},
    {"denoiser": "sudoku9-easy", "about": "the same problems, which this denoiser was not trained on", "task": "sudoku",
     "options": SUDOKU.options, "generate": SUDOKU.generate, "steps": SUDOKU.steps},
    {"denoiser": "sudoku4-weak", "about": "4x4 Sudoku, 8 positions", "task": "sudoku", "options": WEAK.options,
     "generate": WEAK.generate, "steps": WEAK.steps},
    {"denoiser": "sat9", "about": "3-SAT, 9 positions", "task": "sat", "options": {"variables": 9}, "steps": 9},
    {"denoiser": "words", "about": "Countdown in words, 40 positions, most of them end tokens", "task": "words",
     "options": WORDS.options, "problems": WORDS.problems, "steps": WORDS.steps},
    {"denoiser": "moses", "about": "molecules; solved is valid", "task": "molecules", "options": {},
     "generate": {"length": (25, 45)}, "steps": 45, "temperature": 0.4},
)  # fmt: skip
_HOMES = (replace(SUDOKU, exponents=("10", "1")), WEAK)
SMALL = tuple(VisitedSetting(adaptive="sudoku9-adaptive", homes=_HOMES, **{"problems": 400, **v}) for v in _VISITED)
TARGETS = {"jazbec-transfer": Target(tuple(s.name for s in SMALL), _needs, _layout, TransferStudy, _about)}
