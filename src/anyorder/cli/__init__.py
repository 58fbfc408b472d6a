"""The command line. A command is a function in `decoding`, `folding`, `fronts` or `training`; importing them registers it."""

from anyorder.cli import decoding, folding, fronts, training
from anyorder.cli.app import app, main

__all__ = ["app", "decoding", "folding", "fronts", "main", "training"]
