"""The language half of UPO (arXiv 2510.05725) on small language models of ours: its table 2 on puzzles in words, its table 3
after diffu-GRPO, and its figure 7, where the reward is the likelihood of the text under another model."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from anyorder.causal import CausalModel
from anyorder.decoding.sampler import Sampler
from anyorder.evaluation.batches import decode_in_batches
from anyorder.evaluation.statistics import sign_flip
from anyorder.evaluation.tables import markdown_table
from anyorder.files import find_file
from anyorder.report.sources import read_metrics
from anyorder.reproduce import published
from anyorder.reproduce.outcome import Cells, Outcome, Solved, Target, difference, percent
from anyorder.reproduce.reward import HEURISTICS, Both, RewardSetting, RewardStudy, about, against_confidence, deviations
from anyorder.reproduce.study import Decoding, Setting
from anyorder.tasks import Instances, Task, make_task
from anyorder.training.recipes import AnyRecipe, load_recipe
from anyorder.zoo import load_denoiser
from anyorder.zoo.fetch import causal_source

_JUDGED_ORDERS = ("random", "left_to_right", "confidence")


@dataclass(frozen=True)
class LanguageSetting(RewardSetting):
    """Problems in words.

    Args:
        reference: the variant of UPO, as in the paper: `confidence` for puzzles, `top_k` for sums.
        grpo: the recipe of diffu-GRPO of table 3. grpo_changes: overrides of it.
        published: the key of its published figures; "" if there are none.
        prompts, judge: of figure 7: the file of texts whose hidden halves are generated, and the causal model that rates them.
    """

    reference: str = "confidence"
    grpo: str = ""
    grpo_changes: tuple[str, ...] = ()
    published: str = ""
    prompts: str = ""
    judge: str = ""


# ---- table 2 ------------------------------------------------------------------------------------------------------------


def _table2_needs(settings: list[Setting], seeds: list[int]) -> list[Decoding]:
    found = []
    for s in settings:
        assert isinstance(s, LanguageSetting)
        trained = (f"reward/{s.reference}", "reward/none", "policy/mlp")
        found.append(Decoding(s, "frozen", (*HEURISTICS, "oracle"), s.steps))
        found += [Decoding(s, f"{model}/{seed}", ("policy",), s.steps) for model in trained for seed in seeds]
    return found


def _table2(settings: list[Setting], seeds: list[int], solved: Solved, folder: Path) -> Outcome:
    both, parts, values = Both(solved, seeds), [], {}
    for s in settings:
        assert isinstance(s, LanguageSetting)
        rows = {name: ("frozen", name) for name in (*HEURISTICS, "oracle")} | {
            "UPO": (f"reward/{s.reference}/{{seed}}", "policy"),
            "no reference (as DCoLT)": ("reward/none/{seed}", "policy"),
            "supervised, MLP": ("policy/mlp/{seed}", "policy"),
        }
        markdown, values[s.name] = against_confidence(both, s, rows, published.UPO_TABLE2.get(s.published, {}))
        parts.append(markdown + "\n" + deviations(s, (s.reference, "none")))
    return Outcome("UPO, table 2: problems in words, one position at a time", "\n".join(parts), values)


# ---- table 3: after diffu-GRPO --------------------------------------------------------------------------------------------


class PostTrainedStudy(RewardStudy):
    """Models `grpo/tokens/SEED`, the denoiser after diffu-GRPO, and `after/VARIANT/SEED`, an order by reward on it."""

    def recipe(self, setting: Setting, kind: str, what: str, seed: str, changes: list[str]) -> AnyRecipe:
        """See `Study`."""
        assert isinstance(setting, LanguageSetting)
        if kind == "grpo":
            return load_recipe(setting.grpo, [*changes, *setting.grpo_changes])
        if kind == "after":
            return super().recipe(setting, "reward", what, seed, [*changes, f"denoiser={self.ensure(setting, _trained(seed))}"])
        return super().recipe(setting, kind, what, seed, changes)

    def before(self, model: str) -> tuple[str, ...]:
        """See `Study`."""
        more = (_trained(model.rpartition("/")[2]),) if model.startswith("after/") else ()
        return (*super().before(model), *more)

    def load(self, decoding: Decoding) -> Any:
        """See `Study`."""
        if not decoding.model.startswith("after/"):
            return super().load(decoding)
        folder = self.ensure(decoding.setting, decoding.model)
        trained = self.model_folder(decoding.setting, _trained(decoding.model.rpartition("/")[2]))
        denoiser: Any = load_denoiser(str(trained))
        denoiser.own_order = str(folder)
        return denoiser


def _trained(seed: str) -> str:
    return f"grpo/tokens/{seed}"


def _table3_needs(settings: list[Setting], seeds: list[int]) -> list[Decoding]:
    found = []
    for s in settings:
        assert isinstance(s, LanguageSetting)
        found.append(Decoding(s, "frozen", HEURISTICS, s.steps))
        for seed in seeds:
            found.append(Decoding(s, f"reward/{s.reference}/{seed}", ("policy",), s.steps))
            found.append(Decoding(s, f"grpo/tokens/{seed}", HEURISTICS, s.steps))
            found.append(Decoding(s, f"after/{s.reference}/{seed}", ("policy",), s.steps))
    return found


def _table3(settings: list[Setting], seeds: list[int], solved: Solved, folder: Path) -> Outcome:
    both, parts = Both(solved, seeds), []
    values: dict[str, dict[str, Any]] = {}
    for s in settings:
        assert isinstance(s, LanguageSetting)
        reference, rows, values[s.name] = both.of(s, "grpo/tokens/{seed}", "confidence")[0], [], {}
        for label in (*HEURISTICS, "UPO"):
            order, variant = ("policy", f"{s.reference}/{{seed}}") if label == "UPO" else (label, "")
            was, _ = both.of(s, f"reward/{variant}" if variant else "frozen", order)
            now, _ = both.of(s, f"after/{variant}" if variant else "grpo/tokens/{seed}", order)
            gap = "" if label == "confidence" else difference(now, reference)
            rows.append([label, percent(was), percent(now), gap, str(published.UPO_TABLE3[label])])
            values[s.name][label] = {"before": float(was.mean()), "after": float(now.mean())}
        header = ["order", "solved before", "solved after diffu-GRPO", "minus confidence, after", "published, GSM8K"]
        parts.append(f"**{s.name}**\n\n" + markdown_table(header, rows) + "\n" + deviations(s, (s.reference,)))
    return Outcome("UPO, table 3: orders after diffu-GRPO of the denoiser", "\n".join(parts), values)


# ---- figure 7: the likelihood under another model as the reward -----------------------------------------------------------


@lru_cache(maxsize=1)
def _judge(name: str) -> CausalModel:
    return CausalModel(causal_source(name))


class JudgeStudy(RewardStudy):
    """For each prompt: log-likelihood of the text under the judge in nats per token, share of the hidden symbols that were
    recovered, and token entropy of what was generated in bits, float (3, N)."""

    @property
    def measure_mark(self) -> str:
        """See `Study`."""
        return ", judge"

    def further_marks(self, setting: Setting) -> list[Any]:
        """See `Study`: the judge, and the texts."""
        assert isinstance(setting, LanguageSetting)
        texts = find_file(setting.prompts).read_bytes()
        return [setting.judge, hashlib.sha256(texts).hexdigest()[:16]]

    def problems(self, setting: Setting) -> tuple[Task, Instances]:
        """See `Study`: the texts of a file."""
        assert isinstance(setting, LanguageSetting)
        task = make_task(setting.task, **setting.options)
        return task, task.load(find_file(setting.prompts), setting.problems)

    def measure(self, denoiser: Any, decoding: Decoding, order: str) -> dict[str, Any]:
        """See `Study`."""
        assert isinstance(decoding.setting, LanguageSetting)
        task, problems = self.problems(decoding.setting)
        sampler = Sampler.parse(order, steps=decoding.steps).bind(denoiser)
        decoded = decode_in_batches(denoiser, problems, sampler, seed=0, batch_size=256, progress=None, name=order)
        return {
            "nfe": float(decoded.nfe.float().mean()),
            "likelihood": (-_judge(decoding.setting.judge).nats(task.texts(problems, decoded.tokens))).tolist(),
            "recovered": task.check(problems, decoded.tokens).cell_accuracy.tolist(),
            "entropy": task.measure(problems, decoded.tokens)["token entropy"].tolist(),
        }

    def kept(self, values: dict[str, Any]) -> np.ndarray:
        """See `Study`."""
        found = np.array([values[name] for name in ("likelihood", "recovered", "entropy")], dtype=float)
        if found.shape != (3, values["problems"]):
            raise ValueError("it holds three numbers of each prompt")
        return found


def _figure7_needs(settings: list[Setting], seeds: list[int]) -> list[Decoding]:
    return [
        need
        for s in settings
        for need in (
            Decoding(s, "frozen", _JUDGED_ORDERS, s.steps),
            *(Decoding(s, f"reward/judged/{seed}", ("policy",), s.steps) for seed in seeds),
        )
    ]


def _figure7(settings: list[Setting], seeds: list[int], solved: Solved, folder: Path) -> Outcome:
    cells, lines, parts = Cells(solved, seeds), {}, []
    values: dict[str, dict[str, Any]] = {}
    for s in settings:
        lines[s.name] = {"UPO, sampled trajectories": _rewards(folder, s, seeds)}
        reference, rows, values[s.name] = cells.of(s, "frozen", "confidence"), [], {}
        for order in (*_JUDGED_ORDERS, "policy"):
            found = cells.of(s, "reward/judged/{seed}" if order == "policy" else "frozen", order)
            likelihood, recovered, entropy = np.nanmean(found, axis=(0, 2))
            gap = np.nanmean((found - reference)[:, 0], axis=0)
            gap = gap[np.isfinite(gap)]  # texts of which a likelihood is known
            by_seed = " ".join(f"{value:.3f}" for value in np.nanmean(found[:, 0], axis=1))
            compared = "" if order == "confidence" else f"{gap.mean():+.3f} (p = {sign_flip(gap):.2g})"
            rows.append([order, by_seed, compared, f"{100 * recovered:.1f}", f"{entropy:.2f}"])
            values[s.name][order] = {"likelihood": float(likelihood), "recovered": float(recovered), "entropy": float(entropy)}
        header = ["order", "log-likelihood by seed", "minus confidence", "recovered, %", "token entropy, bits"]
        told = deviations(s, ("judged",), published.UPO_MATH_SETTINGS, "GSM8K and MATH-500")
        parts.append(f"**{s.name}**\n\n" + markdown_table(header, rows) + "\n" + told)
    title = "UPO, figure 7: the likelihood under another model as the reward"
    return Outcome(title, "\n".join(parts), values, lines, "update", "log-likelihood, nats per token")


def _rewards(folder: Path, s: Setting, seeds: list[int]) -> list[tuple[float, float, float, float]]:
    """(update, mean over seeds, lowest, highest) of the logged rewards."""
    study = JudgeStudy(folder)
    runs = [{row["step"]: row["reward"] for row in read_metrics([study.model_folder(s, f"reward/judged/{k}")])} for k in seeds]
    steps = sorted(set.intersection(*(set(run) for run in runs)))
    table = np.array([[run[step] for step in steps] for run in runs])
    return [
        (float(step), float(row.mean()), float(row.min()), float(row.max())) for step, row in zip(steps, table.T, strict=True)
    ]


def about_judge(settings: list[Setting], seeds: list[int], scale: str) -> str:
    """The settings that stand above figure 7."""
    lines = [
        f"Scale {scale}; seeds {', '.join(map(str, seeds))}. Half of the symbols of each text are given. One position per "
        "step, the likeliest token. Log-likelihood of the whole text in nats per token; p by a sign-flip test over the texts, "
        "of the mean over seeds. Controls: the share of hidden symbols recovered, and token entropy, since a repetitive text "
        "is likely too."
    ]
    for s in settings:
        assert isinstance(s, LanguageSetting)
        lines.append(
            f"- {s.name}: {s.problems} texts of {s.prompts}; denoiser `{s.denoiser}`; by reward `{s.reward}`; judge {s.judge}."
        )
    return "\n".join(lines) + "\n"


# ---- settings -----------------------------------------------------------------------------------------------------------

_SHORT = ("data.size=5000", "run.log_steps=4")


def _in_words(told: str, *changes: str, **more: Any) -> LanguageSetting:
    """Problems in words, with `task.options` for the recipes; `changes` are further overrides of the recipe of UPO."""
    return LanguageSetting(
        task="words", adaptive="words-order", reward="words-upo", reward_changes=(told, *_SHORT, *changes),
        policy_changes=(told, "run.steps=150", "run.batch_size=32", "data.size=5000"), problems=300, **more,
    )  # fmt: skip


_PUZZLE = 'task.options={problems="sudoku4", length=20, prefill=true}'
WEAK = _in_words(
    _PUZZLE, "update.imitation=20", "run.batch_size=48", "run.steps=400", key="words-sudoku4-weak", published="sudoku", steps=8,
    options={"problems": "sudoku4", "prefill": True, "length": 20}, denoiser="words-denoiser",
    denoiser_changes=(
        'task.options={problems="sudoku4", length=20}', "denoiser.width=96", "denoiser.layers=4", "run.batch_size=32",
        'denoiser.heads=["everything", "everything", "everything", "everything"]', "data.size=20000",
        "data.options={givens=[11, 14]}", "run.steps=250", "optimizer.ema=0.98",
    ),
    grpo="words-grpo", grpo_changes=(_PUZZLE, "data.size=5000", "run.batch_size=48", "run.steps=400"),
)  # fmt: skip
"""A denoiser of 0.5 M weights, trained in a minute on easier puzzles, which leaves room for an order: `words` solves these."""

COUNTDOWN = _in_words(
    'task.options={problems="countdown"}', "reward.name=solved", "reward.likelihood_bonus=0.25", "run.batch_size=24",
    "run.steps=120", key="words-countdown", steps=40, options={"problems": "countdown"}, denoiser="words", reference="top_k",
)  # fmt: skip
"""The kind of which `words` solves a part; it solves every 4x4 Sudoku and addition, and no Zebra puzzle."""

WORDS = (WEAK, COUNTDOWN)
JUDGED = LanguageSetting(
    task="text", options={"alphabet": "subwords", "length": 36, "hide": 0.5}, denoiser="wordnet", adaptive="text-order",
    key="text-judged", reward="text-upo", reward_changes=("run.steps=200", "run.batch_size=48", "run.log_steps=20"),
    problems=300, steps=18, prompts="wordnet/test.txt", judge="smollm2",
)  # fmt: skip
SMALL = (*WORDS, JUDGED)
TARGETS = {
    "upo-table2-llm": Target(tuple(s.name for s in WORDS), _table2_needs, _table2, RewardStudy, about),
    "upo-table3": Target((WEAK.name,), _table3_needs, _table3, PostTrainedStudy, about),
    "upo-figure7": Target((JUDGED.name,), _figure7_needs, _figure7, JudgeStudy, about_judge),
}
