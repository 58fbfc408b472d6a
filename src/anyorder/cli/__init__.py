"""The command line. A command is a function in one of these modules; importing them registers it."""

from anyorder.cli import batch, decoding, folding, fronts, language, lm_eval, problems, serving, showing, training
from anyorder.cli.app import app, main

__all__ = [
    "app", "batch", "decoding", "folding", "fronts", "language", "lm_eval", "main", "problems", "serving", "showing",
    "training",
]  # fmt: skip
