"""Antibody variable domains: design at a given length, at free length, and in-filling, checked by numbering.

A sequence is valid if it is one variable domain: it can be numbered (IMGT), and hardly anything stands before or after the
    domain. Two domains in a row, or one with a long tail, are chimeras, the known failure of decoding at free length.
"""

from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from anyorder.errors import BadInput, shorten
from anyorder.registry import TASKS
from anyorder.tasks.base import Instances
from anyorder.tasks.sequence_measures import identities, over_pairs
from anyorder.tasks.sequences import Sequences

LOOSE_ENDS = 5
"""Most residues that a single domain may have outside the numbered part, on either side."""

NEAR_DUPLICATE = 0.9
"""Identity above which two samples are called near-duplicates."""


@TASKS.register("antibody")
class Antibody(Sequences):
    """Antibody variable domains, for AntiBERTy and its like; valid means one domain that can be numbered.

    Args: see `Sequences`. By default the alphabet of AntiBERTy, and up to 150 residues.
    """

    correct_means: ClassVar[str] = "numberable"
    drawn_as: ClassVar[Literal["amino acids", "smiles", "text"]] = "amino acids"
    default_alphabet: ClassVar[str] = "antiberty"
    default_length: ClassVar[int] = 150

    def valid(self, texts: list[str]) -> np.ndarray:
        """Which texts are one numberable domain, bool (N,)."""
        return np.array([_domains(text) == 1 for text in texts])

    def differences(self, instances: Instances, tokens: Tensor) -> np.ndarray:
        """1 minus the identity of all pairs of sequences (N, L) at the positions of the IMGT numbering, float (N, N), see
        `aligned_identities`. Position by position, a sequence that starts one residue later would differ nearly everywhere."""
        return 1 - aligned_identities(self.decode(tokens))

    def measure(self, instances: Instances, tokens: Tensor) -> dict[str, np.ndarray]:
        """Besides the measures of all sequences: diversity at IMGT positions among those that can be numbered, bit score of the
        best germline profile, share of heavy chains among those that can be numbered, share of chimeras (two domains, or a
        domain with a long tail), and share with a near-duplicate (identity above .9) among the samples."""
        texts = self.decode(tokens)
        chains = [chain_of(text) for text in texts]
        numbered = np.array([chain is not None for chain in chains])
        apart = np.full(len(texts), np.nan)
        if numbered.sum() > 1:
            alike = aligned_identities([text for text, known in zip(texts, numbered, strict=True) if known])
            apart[numbered] = over_pairs(1 - (alike.sum(axis=1) - 1) / (len(alike) - 1))
        same = identities(self._generated(instances, tokens))
        np.fill_diagonal(same, 0.0)
        return {
            **super().measure(instances, tokens),
            "IMGT diversity": apart,
            "bit score": bit_scores(texts),
            "heavy chain": np.array([np.nan if chain is None else float(chain == "H") for chain in chains]),
            "chimera": np.array([float(_domains(text) > 1) for text in texts]),
            "near-duplicate": (same.max(axis=1) > NEAR_DUPLICATE).astype(float),
        }


def cdr_masked(sequence: str, region: str = "cdr3") -> str:
    """A sequence with one region unknown, for in-filling: fr1, cdr1, fr2, cdr2, fr3, cdr3 or fr4 (IMGT).

    Raises:
        BadInput: no such region, or a sequence that cannot be numbered.
    """
    found = _annotator().segment(sequence)
    if found.error is not None:
        raise BadInput(f"{shorten(sequence)} cannot be numbered: {found.error}")
    parts = {name: getattr(found, name) for name in ("prefix", *_REGIONS, "postfix")}
    if region not in _REGIONS:
        raise BadInput(f"region {region!r} is unknown: use one of {', '.join(_REGIONS)}")
    return "".join(f"_{{{len(text)}}}" if name == region else text for name, text in parts.items())


def aligned_identities(texts: list[str]) -> np.ndarray:
    """Share of the IMGT positions that two sequences hold in common with the same residue, among those that either holds, float
    (N, N). A sequence that cannot be numbered is like itself alone."""
    numbered = [{} if (found := _annotator().number(text)).error is not None else found.numbering for text in texts]
    places = {place: n for n, place in enumerate(sorted({place for one in numbered for place in one}))}
    residues = np.zeros((len(texts), len(places)), dtype=np.uint8)
    for row, one in zip(residues, numbered, strict=True):
        for place, residue in one.items():
            row[places[place]] = ord(residue)
    held = residues > 0
    alike = np.eye(len(texts))
    for one in range(len(texts)):
        same = ((residues == residues[one]) & held).sum(axis=1)
        either = (held | held[one]).sum(axis=1)
        alike[one] = np.where(np.arange(len(texts)) == one, 1.0, same / np.maximum(either, 1))
    return alike


def chain_of(text: str) -> str | None:
    """ "H" or "L" for a heavy or light chain's domain, None if it cannot be numbered."""
    found = _annotator().number(text)
    return None if found.error is not None else ("H" if found.chain == "H" else "L")


_REGIONS = ("fr1", "cdr1", "fr2", "cdr2", "fr3", "cdr3", "fr4")


def _domains(text: str) -> int:
    """0 for no domain, 1 for a clean one, 2 for more than that: further domains, or a long piece outside the domain."""
    found = [d for d in _annotator().number_domains(text) if d.error is None]
    if not found:
        return 0
    loose = max(found[0].query_start, len(text) - 1 - found[-1].query_end)
    return 2 if len(found) > 1 or loose > LOOSE_ENDS else 1


def bit_scores(texts: list[str]) -> np.ndarray:
    """Bit score of the best domain against the germline profiles of all species, float (N,), 0 where none is found."""
    try:
        import anarcism
    except ImportError as error:
        raise BadInput(_MISSING) from error
    results = anarcism.number_sequences([(str(n), text or "G") for n, text in enumerate(texts)], workers=1)
    return np.array([max((d.bit_score for d in r.domains), default=0.0) for r in results])


@lru_cache(maxsize=1)
def _annotator() -> Any:
    try:
        import immunum
    except ImportError as error:
        raise BadInput(_MISSING) from error
    return immunum.Annotator(chains=["ig"], scheme="imgt")


_MISSING = "checking antibodies needs: pip install 'anyorder[antibodies]'"
