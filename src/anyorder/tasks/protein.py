"""Proteins: sequences of amino acids of given lengths, designed from nothing or in-filled. Structure is judged elsewhere
(`evaluation.structure`), since it takes a model."""

from typing import ClassVar

from anyorder.tasks.sequences import Sequences


class Protein(Sequences):
    """Proteins, for ESM and DPLM denoisers: amino acids of a given length.

    Args: see `Sequences`. By default the alphabet of ESM, and up to 1,022 residues.
    """

    name: ClassVar[str] = "protein"
    valid_means: ClassVar[str] = "complete"
    default_alphabet: ClassVar[str] = "esm"
    default_length: ClassVar[int] = 1022
