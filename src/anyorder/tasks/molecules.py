"""Molecules as SMILES: valid if RDKit reads them. Measures are those of MOSES (arXiv 1811.12823)."""

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from anyorder.errors import BadInput
from anyorder.files import cache_folder, find_file, write_text
from anyorder.registry import TASKS
from anyorder.tasks.alphabets import Alphabet
from anyorder.tasks.base import Instances
from anyorder.tasks.sequence_files import read_sequences
from anyorder.tasks.sequence_measures import first_occurrence, over_pairs
from anyorder.tasks.sequences import Sequences

_PROBE = 1000
"""Molecules of a file that are looked at to see whether it is written in canonical form."""


@TASKS.register("molecules")
class Molecules(Sequences):
    """Molecules as SMILES; valid means that RDKit reads them.

    Args: see `Sequences`. By default the symbols of MOSES, and up to 57 of them.
        known: file of training molecules; with it, novelty and scaffold novelty are measured.
    """

    correct_means: ClassVar[str] = "valid"
    drawn_as: ClassVar[Literal["amino acids", "smiles", "text"]] = "smiles"
    suffixes: ClassVar[tuple[str, ...]] = (".smi", ".smiles")
    default_alphabet: ClassVar[str] = "smiles"
    default_length: ClassVar[int] = 57

    def __init__(
        self, alphabet: str | Alphabet = "", length: int = 0, hide: float = 1.0, free_length: bool = False, known: str = ""
    ) -> None:
        super().__init__(alphabet, length, hide, free_length)
        if not isinstance(known, str):
            raise BadInput(f"known is {known!r}; it must name a file of molecules")
        self.known = known

    @property
    def options(self) -> dict[str, Any]:
        """The arguments that make this task again."""
        return {**super().options, "known": self.known}

    def valid(self, texts: list[str]) -> np.ndarray:
        """Which texts RDKit reads, bool (N,)."""
        return np.array([_canonical(text) is not None for text in texts])

    def differences(self, instances: Instances, tokens: Tensor) -> np.ndarray:
        """Of valid molecules (N, L): 1 minus the Tanimoto similarity of their Morgan fingerprints, float (N, N)."""
        return 1 - _similarities(self.decode(tokens))

    def qed(self, texts: list[str]) -> np.ndarray:
        """Drug-likeness of molecules, float (N,) in 0..1: QED with RDKit's mean weights (Bickerton et al., Nature Chemistry 4,
        2012); 0 for a text that is not valid."""
        return np.array([0.0 if (s := _canonical(text)) is None else _qed(s) for text in texts])

    def measure(self, instances: Instances, tokens: Tensor) -> dict[str, np.ndarray]:
        """Of the valid molecules (nan for others): unique, internal diversity (1 minus mean Tanimoto similarity of Morgan
        fingerprints), QED; of the valid and unique ones: novel and with a novel Murcko scaffold (both against `known`); of all,
        the token entropy. As MOSES has it (arXiv 1811.12823): novelty is of the set, repeats do not count twice."""
        smiles = [_canonical(text) for text in self.decode(tokens)]
        valid = np.array([s is not None for s in smiles])
        good = [s for s in smiles if s is not None]
        found = {
            "token entropy": super().measure(instances, tokens)["token entropy"],
            "unique": _spread(first_occurrence(good), valid),
            "internal diversity": _spread(over_pairs(1 - _mean_similarity(good)), valid),
            "QED": _spread(self.qed(good), valid),
        }
        if self.known:
            molecules, scaffolds = _known(find_file(self.known))
            first = valid.copy()
            first[valid] = first_occurrence(good) > 0
            different = list(dict.fromkeys(good))
            found["novel"] = _spread(np.array([float(s not in molecules) for s in different]), first)
            found["novel scaffold"] = _spread(np.array([float(_scaffold(s) not in scaffolds) for s in different]), first)
        return found


def _spread(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    out = np.full(len(where), np.nan)
    out[where] = values
    return out


def _similarities(smiles: list[str]) -> np.ndarray:
    """Tanimoto similarity of all pairs of molecules, float (N, N)."""
    return np.array(list(_similarity_rows(smiles))).reshape(len(smiles), len(smiles))


def _similarity_rows(smiles: list[str]) -> Iterator[np.ndarray]:
    """The rows of `_similarities`, float (N,) each."""
    chem = _rdkit()
    prints = [chem.morgan.GetFingerprint(chem.Chem.MolFromSmiles(s)) for s in smiles]
    return (np.array(chem.DataStructs.BulkTanimotoSimilarity(p, prints)) for p in prints)


def _mean_similarity(smiles: list[str]) -> np.ndarray:
    """Mean similarity of each molecule to all others, float (N,)."""
    if len(smiles) < 2:
        return np.full(len(smiles), np.nan)
    return np.array([(row.sum() - 1) / (len(smiles) - 1) for row in _similarity_rows(smiles)])


@lru_cache(maxsize=200_000)
def _canonical(text: str) -> str | None:
    """Canonical SMILES, None where RDKit cannot read the text or it is empty."""
    chem = _rdkit()
    molecule = chem.Chem.MolFromSmiles(text) if text and "_" not in text else None
    return None if molecule is None else str(chem.Chem.MolToSmiles(molecule))


@lru_cache(maxsize=200_000)
def _qed(smiles: str) -> float:
    chem = _rdkit()
    return float(chem.QED.qed(chem.Chem.MolFromSmiles(smiles)))


@lru_cache(maxsize=200_000)
def _scaffold(smiles: str) -> str:
    return str(_rdkit().MurckoScaffold.MurckoScaffoldSmiles(smiles=smiles))


@lru_cache(maxsize=2)
def _known(path: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Canonical molecules of a file of SMILES, and their scaffolds. The latter take 0.7 ms each, and are kept in the cache."""
    smiles = [text.strip() for _, text in read_sequences(path)]
    sample = smiles[:: max(1, len(smiles) // _PROBE)]
    if sum(_canonical(s) == s for s in sample) < 0.99 * len(sample):  # not written by a recent RDKit
        smiles = [c for s in smiles if (c := _canonical(s)) is not None]
    if not smiles:
        raise BadInput(f"{path} holds no molecules")
    molecules = frozenset(smiles)
    mark = hashlib.sha256("\n".join(sorted(molecules)).encode()).hexdigest()[:16]
    kept = cache_folder() / "scaffolds" / f"{mark}.txt"
    if not kept.is_file():
        write_text(kept, "\n".join(sorted({_scaffold(s) for s in molecules})) + "\n")
    return molecules, frozenset(kept.read_text(encoding="utf-8").splitlines())


class _Rdkit:
    """The parts of RDKit that are used, with its warnings off: an invalid sample is a finding, not an accident."""

    def __init__(self) -> None:
        from rdkit import Chem, DataStructs, RDLogger
        from rdkit.Chem import QED, rdFingerprintGenerator
        from rdkit.Chem.Scaffolds import MurckoScaffold

        RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]
        self.Chem, self.DataStructs, self.MurckoScaffold, self.QED = Chem, DataStructs, MurckoScaffold, QED
        self.morgan = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)


@lru_cache(maxsize=1)
def _rdkit() -> Any:
    try:
        return _Rdkit()
    except ImportError as error:
        raise BadInput("checking molecules needs: pip install 'anyorder[molecules]'") from error
