"""The command line. A command is a function in `decoding`, `folding` or `training`; importing them registers it."""

from anyorder.cli import decoding, folding, training
from anyorder.cli.app import app, main

__all__ = ["app", "decoding", "folding", "main", "training"]
