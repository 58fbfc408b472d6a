"""The settings of `anyorder fit`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FitSettings:
    """The settings of a fit and its comparisons.

    Args:
        model: shipped or fetched name, folder or hub id.
        data: file of complete sequences, or of problems with solutions; None to generate problems.
        task: name of a task; by default inferred from the model, the column's name or the file's suffix.
        steps: budget of forward passes; None for one position per step.
        updates, train_batch_size, seed: those of the fit.
        batch_size: problems decoded together.
        generate: key=value options of the generator, if problems are generated.
        hide: share of the symbols hidden in the in-filling comparison of sequences.
        samples: unconditional samples per order, for sequences; 0 to leave that comparison out.
        architecture: architecture of the policy; by default that of `fit_order`.
        column: column of a .csv or .jsonl file of sequences; by default `sequence`, `smiles` or `text`.
        skip_unreadable: leave out problems that cannot be read; otherwise they are an error.
        model_options: key=value options of the model, see `load_denoiser`.
    """

    model: str
    data: Path | None = None
    task: str | None = None
    steps: int | None = 20
    updates: int = 300
    train_batch_size: int = 32
    batch_size: int = 256
    seed: int = 0
    generate: tuple[str, ...] = ()
    hide: float = 0.5
    samples: int = 50
    architecture: str = ""
    trust_remote_code: bool = False
    column: str = ""
    skip_unreadable: bool = False
    model_options: tuple[str, ...] = ()
