"""Structure scores of protein sequences: ESMFold's own confidence in the structures that it predicts for them.

The metrics of arXiv 2606.00295, appendix A.2.2, as ESMFold (doi 10.1126/science.ade2574) estimates them without knowing the
true structure. ESMFold is loaded with transformers. Its result for each sequence is kept in the user's cache, so that no
sequence is folded twice and interrupted scoring resumes.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anyorder.denoisers.base import default_device
from anyorder.denoisers.loading import load_transformers
from anyorder.errors import AnyorderError, BadInput, first_line
from anyorder.evaluation.comparison import Judge
from anyorder.files import cache_folder, dump_json, parse_json, write_text
from anyorder.hub import of_hub
from anyorder.tasks.alphabets import AMINO_ACIDS
from anyorder.tasks.base import Instances, Task
from anyorder.tasks.problem_files import Unreadable
from anyorder.tasks.sequence_measures import over_pairs

ESMFOLD = "facebook/esmfold_v1"
"""The predictor of the paper."""

MIN_PLDDT, MIN_PTM, MAX_PAE = 80.0, 0.7, 10.0
"""Thresholds of foldability, all strict (arXiv 2606.00295, appendix A.2.2)."""

_ALPHA_CARBON = 1
"""Its place among the atoms, both in the list of 14 and in that of 37."""

_HIGHEST_ERROR = 31.0
"""Angstrom: where the last of the bins of aligned errors begins."""

_UNTRAINED = ("contact_head", "af2_to_esm", "position_ids")
"""Parts of the published model that have no weights, and need none for folding."""

Progress = Callable[[int, int], None]
"""Called with the sequences folded so far and the number to fold."""


@dataclass(frozen=True)
class Structure:
    """The prediction for one sequence of L residues.

    plddt: confidence in the local structure, 0 to 100: the mean over the atoms of all residues, as the authors of ESMFold
        average it, and those of DPLM.
    plddt_ca: the mean over residues of the value of the alpha carbon alone, as in AlphaFold's lDDT-C-alpha.
    ptm: predicted TM-score, 0 to 1. pae: predicted aligned error, Angstrom, mean over all pairs of residues.
    alpha_carbons: coordinates (L, 3) in Angstrom.
    """

    sequence: str
    plddt: float
    plddt_ca: float
    ptm: float
    pae: float
    alpha_carbons: list[list[float]]

    @property
    def foldable(self) -> bool:
        """pLDDT > 80, pTM > 0.7 and pAE < 10."""
        return self.plddt > MIN_PLDDT and self.ptm > MIN_PTM and self.pae < MAX_PAE


class ESMFold:
    """Folds sequences, each once. Weights are loaded for the first sequence that is not in the cache.

    Args:
        model: hub id, or folder of an `EsmForProteinFolding`.
        device: where it runs; the GPU if there is one.
        dtype: of all weights, by name ("float32", "bfloat16"). When not given, float32, but for the language model inside,
            which its authors run in half precision on a GPU.
        chunk_size: rows of the pair representation that are worked on at a time: less memory for long sequences, more time.
            The model's own setting when not given.
        batch_size: sequences of equal length folded together. Padding would change the scores, so there is none.

    Raises:
        BadInput: a device, dtype or size that cannot be used.
    """

    def __init__(
        self,
        model: str | Path = ESMFOLD,
        *,
        device: str | None = None,
        dtype: str | None = None,
        chunk_size: int | None = None,
        batch_size: int = 1,
    ) -> None:
        kind = None if dtype is None else getattr(torch, dtype, None)
        if dtype is not None and not (isinstance(kind, torch.dtype) and kind.is_floating_point):
            raise BadInput(f"dtype {dtype!r} is not one of torch's for weights: use float32, bfloat16 or float16")
        for name, value in (("chunk_size", chunk_size), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise BadInput(f"{name} is {value}; it must be at least 1")
        self.name = str(model)
        self.device = device or default_device()
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise BadInput(f"device {self.device!r} cannot be used here: {first_line(error)}") from error
        self.dtype, self.chunk_size, self.batch_size = dtype, chunk_size, batch_size
        self.folder = cache_folder() / "structures" / _hash(_identity(self.name), dtype or "")[:16]
        self._model: Any = None
        self._known: dict[str, Structure] = {}

    def check(self) -> None:
        """Check that the model can be reached, without loading its weights.

        Raises:
            BadInput: transformers is not installed, there is no such model, or its folder has no weights.
        """
        transformers = load_transformers("folding proteins needs")
        try:
            config = transformers.AutoConfig.from_pretrained(self.name, trust_remote_code=False, **of_hub(self.name))
        except (OSError, ValueError) as error:
            raise BadInput(self._unreachable(error)) from error
        if not getattr(config, "is_folding_model", False):
            raise BadInput(f"{self.name} folds no proteins: give an EsmForProteinFolding such as {ESMFOLD}")
        folder = Path(self.name)
        if folder.is_dir() and not any(path.suffix in (".safetensors", ".bin") for path in folder.iterdir()):
            raise BadInput(f"{self.name} has no weights: model.safetensors or pytorch_model.bin is missing")

    def fold(self, sequences: Iterable[str], progress: Progress | None = None) -> list[Structure]:
        """The structure of each sequence, from the cache where it is known.

        Raises:
            BadInput: a sequence that is empty or holds something else than the twenty amino acids, or no usable model.
            AnyorderError: not enough memory.
        """
        wanted = list(sequences)
        for number, sequence in enumerate(wanted, start=1):
            with Unreadable().at(f"sequence {number}"):
                check_sequence(sequence)
        unknown = [sequence for sequence in dict.fromkeys(wanted) if not self._remember(sequence)]
        done = 0
        for _, group in itertools.groupby(sorted(unknown, key=len), key=len):
            alike = list(group)
            for start in range(0, len(alike), self.batch_size):
                for structure in self._predict(alike[start : start + self.batch_size]):
                    write_text(self._path(structure.sequence), dump_json(asdict(structure)) + "\n")
                    self._known[structure.sequence] = structure
                    done += 1
                if progress is not None:
                    progress(done, len(unknown))
        return [self._known[sequence] for sequence in wanted]

    def _path(self, sequence: str) -> Path:
        return self.folder / f"{_hash(sequence)[:32]}.json"

    def _remember(self, sequence: str) -> bool:
        """Whether the structure is known, now or from an earlier run. A file that cannot be read is written anew."""
        if sequence not in self._known:
            try:
                found = Structure(**parse_json(self._path(sequence).read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError):
                return False
            if found.sequence != sequence or None in vars(found).values():
                return False
            self._known[sequence] = found
        return True

    @torch.no_grad()
    def _predict(self, sequences: list[str]) -> list[Structure]:
        if self._model is None:
            self._model = self._load()
        try:
            return structures_of(sequences, self._model.infer(sequences))
        except torch.OutOfMemoryError as error:
            raise AnyorderError(
                f"no memory to fold {len(sequences)} sequences of {len(sequences[0])} residues: use a smaller batch size or "
                "chunk size; what is folded is kept"
            ) from error

    def _load(self) -> Any:
        self.check()
        transformers = load_transformers("folding proteins needs")
        options = of_hub(self.name, {} if self.dtype is None else {"dtype": getattr(torch, self.dtype)})
        try:
            model, report = transformers.EsmForProteinFolding.from_pretrained(self.name, output_loading_info=True, **options)
        except (OSError, ValueError, ImportError) as error:
            raise BadInput(self._unreachable(error)) from error
        missing = sorted(key for key in report["missing_keys"] if not any(part in key for part in _UNTRAINED))
        if missing:
            raise BadInput(
                f"{self.name} has no weights for {', '.join(missing[:3])}...: it is not a trained structure predictor"
            )
        if self.dtype is not None or self.device == "cpu":  # else the language model inside stays in half precision
            model = model.to(options.get("dtype", torch.float32))
        if self.chunk_size is not None:
            model.trunk.set_chunk_size(self.chunk_size)
        return model.eval().to(self.device)

    def _unreachable(self, error: Exception) -> str:
        return (
            f"the structure predictor {self.name} cannot be loaded (give a folder or a hub id that can be reached): "
            f"{first_line(error)}"
        )


def structures_of(sequences: list[str], output: Any) -> list[Structure]:
    """Scores from an output of `EsmForProteinFolding` for B sequences of equal length L.

    It reads `plddt` (B, L, 37) in 0 to 1, `atom37_atom_exists` (B, L, 37), `aligned_confidence_probs` (B, L, L, 64),
    `predicted_aligned_error` (B, L, L) and the last of `positions` (blocks, B, L, 14, 3).
    `output.ptm` is not read: it is one number for the whole batch.
    """
    found = []
    for row, sequence in enumerate(sequences):
        confidence, exists = 100 * output.plddt[row].double(), output.atom37_atom_exists[row].double()
        found.append(
            Structure(
                sequence,
                plddt=float((confidence * exists).sum() / exists.sum()),
                plddt_ca=float(confidence[:, _ALPHA_CARBON].mean()),
                ptm=predicted_tm(output.aligned_confidence_probs[row]),
                pae=float(output.predicted_aligned_error[row].double().mean()),
                alpha_carbons=output.positions[-1, row, :, _ALPHA_CARBON].double().cpu().numpy().round(3).tolist(),
            )
        )
    return found


def predicted_tm(error_probs: Tensor) -> float:
    """pTM from the distribution of aligned errors (L, L, bins): the best over alignments i of the mean over residues j of
    E[1 / (1 + (e_ij / d0)^2)], d0 = 1.24 (max(L, 19) - 15)^(1/3) - 1.8 (doi 10.1038/s41586-021-03819-2, 1.9.7)."""
    length, bins = error_probs.shape[0], error_probs.shape[-1]
    width = _HIGHEST_ERROR / (bins - 2)
    errors = (torch.arange(bins, device=error_probs.device, dtype=torch.float64) + 0.5) * width
    d0 = 1.24 * (max(length, 19) - 15) ** (1 / 3) - 1.8
    expected = (error_probs.double() / (1 + (errors / d0) ** 2)).sum(dim=-1)
    return float(expected.mean(dim=1).max())


def structure_summary(structures: list[Structure]) -> dict[str, float]:
    """Means over a set, and the share that is foldable."""
    means = {name: float(np.mean([getattr(s, name) for s in structures])) for name in ("plddt", "plddt_ca", "ptm", "pae")}
    return {"count": len(structures), **means, "foldable": float(np.mean([s.foldable for s in structures]))}


# ---- measures of a set of samples -------------------------------------------------------------------------------------


def structure_judges(predictor: ESMFold, *, inner_tm: bool = False, progress: Progress | None = None) -> dict[str, Judge]:
    """Judges for `evaluate`: pLDDT, pTM, pAE and the share of foldable samples, and inner-TM if requested.

    The predictor keeps its results, so several judges fold a sample only once. A sample that is not complete has no score.

    Raises:
        BadInput: inner-TM is requested, and its extra is not installed.
    """
    if inner_tm:
        tm_align()

    def per_sample(measure: Callable[[list[Structure]], np.ndarray]) -> Judge:
        def judge(task: Task, instances: Instances, tokens: Tensor) -> np.ndarray:
            complete = task.check(instances, tokens).instance_correct.numpy().astype(bool)
            texts = task.texts(instances, tokens)
            scores = np.full(len(texts), np.nan)
            folded = predictor.fold([text for text, right in zip(texts, complete, strict=True) if right], progress)
            scores[complete] = measure(folded) if folded else []
            return scores

        return judge

    judges = {
        "pLDDT": per_sample(lambda folded: np.array([s.plddt for s in folded])),
        "pTM": per_sample(lambda folded: np.array([s.ptm for s in folded])),
        "pAE": per_sample(lambda folded: np.array([s.pae for s in folded])),
        "foldable": per_sample(lambda folded: np.array([float(s.foldable) for s in folded])),
    }
    return judges | ({"inner-TM": per_sample(lambda folded: over_pairs(mean_tm(folded)))} if inner_tm else {})


def mean_tm(structures: list[Structure]) -> np.ndarray:
    """Mean TM-score of each structure to all others, float (N,), nan where there is no other.

    Its mean is inner-TM, the average over all pairs (appendix A.2.2): low where samples differ in fold. Structures are
    aligned by TM-align; where two differ in length, the mean of both normalizations counts.
    """
    count = len(structures)
    if count < 2:
        return np.full(count, np.nan)
    align = tm_align()
    places = [np.array(s.alpha_carbons, dtype=np.float64) for s in structures]
    scores = np.zeros((count, count))
    for a, b in itertools.combinations(range(count), 2):
        found = align(places[a], places[b], structures[a].sequence, structures[b].sequence)
        scores[a, b] = scores[b, a] = (found.tm_norm_chain1 + found.tm_norm_chain2) / 2
    mean: np.ndarray = scores.sum(axis=1) / (count - 1)
    return mean


def tm_align() -> Any:
    """TM-align of the package `tmtools`, an extra because its license is GPLv3.

    Raises:
        BadInput: it is not installed.
    """
    try:
        import tmtools
    except ImportError as error:
        raise BadInput("inner-TM needs tmtools, which is GPLv3: pip install 'anyorder[tm]'") from error
    return tmtools.tm_align


def check_sequence(sequence: str) -> None:
    """Refuse what ESMFold cannot fold.

    Raises:
        BadInput: an empty sequence, or something else than the twenty amino acids.
    """
    if not sequence:
        raise BadInput("it is empty: there is nothing to fold")
    wrong = next(((n, letter) for n, letter in enumerate(sequence, start=1) if letter not in AMINO_ACIDS), None)
    if wrong is not None:
        raise BadInput(f"{wrong[1]!r} at position {wrong[0]} is none of the amino acids {AMINO_ACIDS}")


def _identity(name: str) -> str:
    """The identity of a model: the name of a hub id, or the current content of a folder."""
    folder = Path(name)
    if not folder.is_dir():
        return name
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".bin"))
    return json.dumps([(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files])


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
