"""The command line, one module a group of commands; `main` runs it."""

from selfcorrect.cli.main import app, main

__all__ = ["app", "main"]
