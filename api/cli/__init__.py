"""The command line: `sightline`, one module a group of commands."""

from api.cli.app import main

__all__ = ["main"]
