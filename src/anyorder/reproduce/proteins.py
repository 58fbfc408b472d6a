"""The protein columns of table 1, table 2 and figure 1 of "Adaptive Order Policies for Masked Diffusion" (arXiv 2606.00295).

Proteins differ from puzzles. Samples are drawn and not decoded to the likeliest token, so every row has seeds. They have scores
instead of being solved or not. There is no known solution, and therefore no oracle. Proteins therefore have their own `Study`,
whose cells hold scores. The protein columns of table 1 are a separate target, since the puzzles of that table need neither a
GPU nor external weights.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from anyorder.decoding.sampler import Sampler
from anyorder.decoding.tokens import Sample
from anyorder.denoisers.base import fingerprint
from anyorder.errors import BadInput
from anyorder.evaluation.batches import decode_in_batches
from anyorder.evaluation.statistics import wilson
from anyorder.evaluation.structure import ESMFOLD, ESMFold, Structure, mean_tm, tm_align
from anyorder.evaluation.tables import markdown_table
from anyorder.files import cache_folder, find_file, read_json, write_json
from anyorder.orders.learned import saved_order
from anyorder.reproduce import published
from anyorder.reproduce.outcome import Outcome, Solved, Target
from anyorder.reproduce.study import Decoding, Setting, Study, damaged
from anyorder.tasks import make_task
from anyorder.tasks.sequence_files import design_names, read_sequences, write_fasta
from anyorder.tasks.sequence_measures import mean_identity, over_pairs, token_entropy
from anyorder.training.recipes import load_recipe
from anyorder.zoo import load_denoiser

MEASURES = ("pLDDT", "pTM", "pAE", "foldable", "entropy of the set", "entropy of a sequence", "diversity", "inner-TM")
"""What a cell holds for each of its sequences; the entropy of the set is the same number for all of them."""

_BATCH = 32


@dataclass(frozen=True)
class ProteinSetting(Setting):
    """A study of proteins; `problems` sequences are generated at each length.

    Args:
        lengths: of table 1 and figure 1. table2_lengths: of table 2.
        predictor: hub id or folder of the ESMFold that judges.
        temperature: at which amino acids are drawn.
        mode: how orders decode: "" absorbing, "+repredict" as DPLM's own decoder does.
    """

    lengths: tuple[int, ...] = (100, 200, 300, 400, 500)
    table2_lengths: tuple[int, ...] = (200, 300, 400, 500, 600, 700, 800)
    predictor: str = ESMFOLD
    temperature: float = 1.0
    mode: str = "+repredict"


PAPER = ProteinSetting(
    task="protein", options={}, denoiser="airkingbd/dplm_150m", adaptive="dplm150-adaptive", problems=100, steps=500
)
"""Lengths, models and orders as the paper has them. Steps, temperature and mode are those of DPLM's own decoder: the paper
names none, but its baseline is the mean of the figures that DPLM's authors publish. 100 sequences a length is table 2's number;
table 1's is not given."""


@dataclass(frozen=True)
class Design(Decoding):
    """Sequences of one length drawn with one seed, from one model by one order; `tm`: their inner-TM is wanted."""

    length: int = 0
    seed: int = 0
    tm: bool = False


@dataclass(frozen=True)
class ProteinStudy(Study):
    """A `Study` whose cells are designed sequences (FASTA) and their scores (JSON)."""

    def decode_all(self, decodings: Iterable[Decoding], workers: int, say: Callable[[str], None]) -> dict[Decoding, dict]:
        """See `Study`. It first checks that models and data are there, so that nothing is computed in vain."""
        wanted = list(decodings)
        for setting in dict.fromkeys(d.setting for d in wanted):
            _check(setting)
        return super().decode_all(wanted, workers, say)

    def decode(self, decoding: Decoding) -> dict[str, np.ndarray]:
        """`MEASURES` of each sequence by order, float (N, 8), nan where not asked for; computed now, or read from the cells."""
        assert isinstance(decoding, Design)
        assert isinstance(decoding.setting, ProteinSetting)
        denoiser = self.load(decoding)
        setting, mark = decoding.setting, fingerprint(denoiser)
        scores = {}
        for order in decoding.orders:
            drawn = f"{mark} {decoding.length} {decoding.seed} {setting.temperature}"
            if order.startswith("policy"):
                drawn += fingerprint(saved_order(denoiser).policy)
            fasta = self._cell_path(decoding, order, drawn).with_suffix(".fasta")
            if not fasta.exists():
                task = make_task(setting.task, **setting.options)
                empty = task.generate(setting.problems, decoding.seed, length=decoding.length)
                token = Sample(setting.temperature)
                sampler = Sampler.parse(order, steps=decoding.steps, noise=decoding.noise, token=token).bind(denoiser)
                seed = 10_000 * decoding.seed + decoding.length  # other noise at every length
                found = decode_in_batches(
                    denoiser, empty, sampler, seed=seed, batch_size=_BATCH, progress=None, name=order
                )  # fmt: skip
                texts = task.texts(empty, found.tokens)
                names = design_names(texts, f"{decoding.model} {order}", decoding.steps, decoding.seed)
                write_fasta(fasta, list(zip(names, texts, strict=True)))
            texts = [text for _, text in read_sequences(fasta)]
            scored = self._cell_path(decoding, order, f"{drawn} {setting.predictor}")
            if not scored.exists():
                write_json(scored, _scores(_predictor(setting.predictor).fold(texts), texts))
            with damaged(scored):
                measures = read_json(scored)
                measures["inner-TM"] = self._inner_tm(decoding, texts, scored) if decoding.tm else [math.nan] * len(texts)
                scores[order] = np.array([measures[name] for name in MEASURES], dtype=np.float64).T
        return scores

    def _inner_tm(self, design: Design, texts: list[str], scored: Path) -> list[float]:
        """Mean TM-score of each structure to the others, in a file of its own; nan where the extra is not installed."""
        path = scored.with_name(f"{scored.stem}-tm.json")
        if not path.exists():
            if not _has_tm_align():
                return [math.nan] * len(texts)
            assert isinstance(design.setting, ProteinSetting)
            write_json(path, over_pairs(mean_tm(_predictor(design.setting.predictor).fold(texts))).tolist())
        values: list[float] = read_json(path)
        return values


@lru_cache(maxsize=1)
def _predictor(name: str) -> ESMFold:
    """One predictor per process, since it is large."""
    return ESMFold(name)


def _has_tm_align() -> bool:
    try:
        tm_align()
    except BadInput:
        return False
    return True


def _check(setting: Setting) -> None:
    """Check that denoiser, predictor and sequences are there.

    Raises:
        BadInput: what is missing, and what to do.
    """
    assert isinstance(setting, ProteinSetting)
    try:
        load_denoiser(setting.denoiser)
        _predictor(setting.predictor).check()
    except BadInput as error:
        raise BadInput(
            f"protein targets need the weights of {setting.denoiser} and {setting.predictor}, from the Hugging Face hub or its "
            f"cache on this machine: {error}"
        ) from error
    for changes in (setting.policy_changes, setting.joint_changes):
        file = load_recipe(setting.adaptive, list(changes)).data.file or ""
        try:
            find_file(file)
        except FileNotFoundError as error:
            raise BadInput(
                f"protein targets fit orders to sequences that you give, up to 1,022 residues each, as {file}, here or in "
                f"{cache_folder()}"
            ) from error


def _scores(structures: list[Structure], texts: list[str]) -> dict[str, list[float]]:
    """Measures of a set of sequences but inner-TM, each as a list of N numbers."""
    letters = [np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) for text in texts]
    return {
        "pLDDT": [s.plddt for s in structures],
        "pTM": [s.ptm for s in structures],
        "pAE": [s.pae for s in structures],
        "foldable": [100.0 * s.foldable for s in structures],
        "entropy of the set": [token_entropy(np.concatenate(letters))] * len(texts),
        "entropy of a sequence": [token_entropy(row) for row in letters],
        "diversity": over_pairs(100 * (1 - mean_identity(letters))).tolist(),
    }


# ---- rows, and numbers of them ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A row of a table: a model, `{seed}` in its name, and the order that decodes it."""

    label: str
    model: str
    order: str

    def design(self, s: Setting, length: int, seed: int, tm: bool) -> Design:
        """The sequences that it needs at one length with one seed."""
        assert isinstance(s, ProteinSetting)
        return Design(s, self.model.format(seed=seed), (self.order + s.mode,), s.steps, length=length, seed=seed, tm=tm)


POLICY_ONLY = {
    "confidence": Row("high confidence", "frozen", "confidence"),
    "margin": Row("margin", "frozen", "margin"),
    "policy": Row("policy", "policy/mlp/{seed}", "policy"),
}
JOINT = {
    "baseline": Row("baseline: the released denoiser, high confidence", "frozen", "confidence"),
    "uniform": Row("plain L_MDM for as many updates, high confidence", "joint/uniform/{seed}", "confidence"),
    "confidence": Row("high confidence", "joint/confidence/{seed}", "confidence"),
    "margin": Row("margin", "joint/margin/{seed}", "margin"),
    "policy": Row("policy (eq. 4)", "joint/policy/{seed}", "policy"),
}
_TABLE2 = {
    "frozen": Row("DPLM-150M as released, high confidence", "frozen", "confidence"),
    "policy-only": Row("DPLM-150M as released, policy", "policy/mlp/{seed}", "policy"),
    "joint": Row("joint training, policy (eq. 4)", "joint/policy/{seed}", "policy"),
}


def _needs(rows: Iterable[Row], s: Setting, lengths: tuple[int, ...], seeds: list[int], tm: bool = False) -> list[Design]:
    return [row.design(s, length, seed, tm) for row in rows for length in lengths for seed in seeds]


def _values(solved: Solved, row: Row, s: Setting, measure: str, lengths: tuple[int, ...], seeds: list[int]) -> np.ndarray:
    """One measure of the sequences of a row, float (seeds, lengths, N)."""
    found = {(d.model, d.orders, d.length, d.seed): v for d, v in solved.items() if isinstance(d, Design)}
    column = MEASURES.index(measure)
    rows = []
    for seed in seeds:
        designs = [row.design(s, length, seed, False) for length in lengths]
        rows.append([found[d.model, d.orders, d.length, d.seed][d.orders[0]][:, column] for d in designs])
    return np.array(rows)


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Mean of values (seeds, lengths, N) and its standard error, the cells (seed, length) being strata of N samples each."""
    count = values.shape[-1]
    spread = values.var(axis=-1, ddof=1) / count if count > 1 else np.full(values.shape[:-1], np.inf)
    return float(values.mean()), float(np.sqrt(spread.sum()) / spread.size)


def _shown(values: np.ndarray, digits: int = 2) -> str:
    """Mean and 95 % interval; the sd over seeds where there are several."""
    mean, error = mean_and_error(values)
    spread = f" ± {values.mean(axis=(1, 2)).std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{mean:.{digits}f}{spread} ({mean - 1.96 * error:.{digits}f} - {mean + 1.96 * error:.{digits}f})"


def _share(values: np.ndarray, digits: int = 2) -> str:
    """Mean of values that are 0 or 100, and its 95 % Wilson interval: it says something even where all are alike."""
    low, high = wilson(float(values.mean()) / 100 * values.size, values.size)
    return f"{values.mean():.{digits}f} ({100 * low:.{digits}f} - {100 * high:.{digits}f})"


def _difference(a: np.ndarray, b: np.ndarray) -> str:
    """Difference of two means of independent samples, with its 95 % interval."""
    (mean_a, error_a), (mean_b, error_b) = mean_and_error(a), mean_and_error(b)
    half = 1.96 * math.hypot(error_a, error_b)
    return f"{mean_a - mean_b:+.2f} ({mean_a - mean_b - half:+.2f} - {mean_a - mean_b + half:+.2f})"


# ---- targets ------------------------------------------------------------------------------------------------------------


def _table1(settings: list[Setting], seeds: list[int], solved: Solved, folder: Path) -> Outcome:
    s, values, parts = _protein(settings), {}, []
    header = ["", "pLDDT ± sd over seeds (95 % interval)", "minus high confidence", "published"]
    for title, rows, paper in (
        ("Policy-only: a frozen denoiser", POLICY_ONLY, published.PROTEINS_POLICY_ONLY),
        ("Joint training", JOINT, published.PROTEINS_JOINT),
    ):
        lines = []
        found = {key: _values(solved, row, s, "pLDDT", s.lengths, seeds) for key, row in rows.items()}
        for key, row in rows.items():
            theirs = "{:.2f} ± {:.2f}".format(*paper[key]) if key in paper else ""
            against = "" if key == "confidence" else _difference(found[key], found["confidence"])
            lines.append([row.label, _shown(found[key]), against, theirs])
            values[f"{title.split(':')[0].lower()} {key}"] = float(found[key].mean())
        parts.append(f"**{title}**\n\n" + markdown_table(header, lines))
    return Outcome("Table 1: DPLM-150M, pLDDT over lengths and seeds", "\n".join(parts), values)


def _table2(settings: list[Setting], seeds: list[int], solved: Solved, folder: Path) -> Outcome:
    s, values, lines = _protein(settings), {}, []
    measures = [name for name in MEASURES if name != "inner-TM"]
    for key, row in _TABLE2.items():
        found = {name: _values(solved, row, s, name, s.table2_lengths, seeds[:1]) for name in measures}
        show = {"entropy of the set": lambda v: f"{v.mean():.2f}", "foldable": _share}
        lines.append([row.label, *(show.get(name, _shown)(v) for name, v in found.items())])
        values[key] = {name: float(v.mean()) for name, v in found.items()}
    lines += [
        [f"published: {name}", *(f"{number:g}" for number in row[:5]), "", f"{row[5]:g}"]
        for name, row in published.PROTEINS_TABLE2.items()
    ]
    header = ["model", "pLDDT", "pTM", "pAE, Å", "foldable, %", *measures[4:6], "diversity, %"]
    note = (
        "\nEntropies in bits: of all residues of the sequences of one length together, as eq. 8 is worded, "
        "and of one sequence; the published ones (4.12 for the joint policy, 2.5 to 3.2 for most others) may not all be of the "
        "same kind.\n"
    )
    return Outcome("Table 2: protein sequence generation", markdown_table(header, lines) + note, values)


_CURVES = {"baseline": "released denoiser", "uniform": "plain L_MDM"}
"""What rows are called in figure 1, where not by their key: the same row has the same color in all its panels."""


def _figure1(settings: list[Setting], seeds: list[int], solved: Solved, folder: Path) -> Outcome:
    s, parts = _protein(settings), []
    values: dict[str, list[float]] = {}
    lines: dict[str, dict[str, list[tuple[float, float, float, float]]]] = {}
    header = ["", *(f"L = {length}" for length in s.lengths)]
    for title, rows in (("policy-only", POLICY_ONLY), ("joint", JOINT)):
        for measure in ("pLDDT", "inner-TM"):
            found = {key: _values(solved, row, s, measure, s.lengths, seeds) for key, row in rows.items()}
            if any(np.isnan(v).any() for v in found.values()):
                parts.append(f"**{title}: {measure}** is left out: it needs `pip install 'anyorder[tm]'` (GPLv3).\n")
                continue
            by_length = {key: [v[:, n : n + 1] for n in range(len(s.lengths))] for key, v in found.items()}
            body = [[rows[key].label, *(_shown(v) for v in row)] for key, row in by_length.items()]
            if measure == "pLDDT":
                theirs = [f"{published.DPLM_150M_PLDDT[n]:g}" if n in published.DPLM_150M_PLDDT else "" for n in s.lengths]
                body.append(["published by DPLM's authors: released denoiser", *theirs])
            parts.append(f"**{title}: {measure}**\n\n" + markdown_table(header, body))
            values |= {f"{title} {measure} {key}": [float(v.mean()) for v in row] for key, row in by_length.items()}
            lines[f"{title}: {measure}"] = {
                _CURVES.get(key, key): [_point(length, v) for length, v in zip(s.lengths, row, strict=True)]
                for key, row in by_length.items()
            }
    title = "Figure 1: pLDDT and inner-TM (lower is more diverse) by length"
    return Outcome(title, "\n".join(parts), values, lines, "length", "")


def _point(length: int, values: np.ndarray) -> tuple[float, float, float, float]:
    mean, error = mean_and_error(values)
    return float(length), mean, mean - 1.96 * error, mean + 1.96 * error


def _protein(settings: list[Setting]) -> ProteinSetting:
    (s,) = settings
    assert isinstance(s, ProteinSetting)
    return s


def _about(settings: list[Setting], seeds: list[int], scale: str) -> str:
    s = _protein(settings)
    way = {"": "absorbing", "+repredict": "with every position predicted again in each step"}[s.mode]
    return (
        f"Scale {scale}; seeds {', '.join(map(str, seeds))}. {s.problems} sequences of each length from each model and seed, "
        f"{s.steps} steps, linear schedule, {way}, amino acids drawn at temperature {s.temperature:g}. Scores by "
        f"`{s.predictor}`; pLDDT is the mean over the atoms of all residues. 95 % intervals over sequences; lengths and seeds "
        f"are strata, and rows are taken as independent. Denoiser `{s.denoiser}`, from which joint training starts; "
        f"`{s.adaptive}`.\n"
    )


def _table1_needs(settings: list[Setting], seeds: list[int], tm: bool = False) -> list[Decoding]:
    s = _protein(settings)
    return list(_needs(dict.fromkeys([*POLICY_ONLY.values(), *JOINT.values()]), s, s.lengths, seeds, tm))


def _table2_needs(settings: list[Setting], seeds: list[int]) -> list[Decoding]:
    s = _protein(settings)
    return list(_needs(_TABLE2.values(), s, s.table2_lengths, seeds[:1]))


TARGETS = {
    "table1-proteins": Target(("protein",), _table1_needs, _table1, ProteinStudy, _about),
    "table2": Target(("protein",), _table2_needs, _table2, ProteinStudy, lambda s, seeds, scale: _about(s, seeds[:1], scale)),
    "figure1": Target(("protein",), lambda s, seeds: _table1_needs(s, seeds, tm=True), _figure1, ProteinStudy, _about),
}
