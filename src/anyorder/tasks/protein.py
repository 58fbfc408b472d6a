"""Proteins: sequences of amino acids of given lengths, designed from nothing or in-filled. Structure is scored elsewhere
(`evaluation.structure`), since it takes a model."""

from typing import ClassVar, Literal

from anyorder.registry import TASKS
from anyorder.tasks.sequences import Sequences


@TASKS.register("protein")
class Protein(Sequences):
    """Proteins, for ESM and DPLM denoisers: amino acids of a given length.

    Args: see `Sequences`. By default the alphabet of ESM, and up to 1,022 residues.
    """

    drawn_as: ClassVar[Literal["amino acids", "smiles", "text"]] = "amino acids"
    suffixes: ClassVar[tuple[str, ...]] = (".fasta", ".fa", ".faa", ".fas", ".a3m")
    default_alphabet: ClassVar[str] = "esm"
    default_length: ClassVar[int] = 1022
