"""The command line. A command is a function in `decoding` or `training`; importing them registers it."""

from anyorder.cli import decoding, training
from anyorder.cli.app import app, main

__all__ = ["app", "decoding", "main", "training"]
