"""The error tree: every failure a user can cause or meet, each with one clear screen of text.

    SelfCorrectError
    ├── InputError          a file, line, option or value that we were given is wrong
    │   ├── RecipeError     a recipe's key or value
    │   └── DataError       a file or a row: missing, broken, of an unknown schema
    ├── RunFolderError      a run folder in use, or made with another recipe
    ├── ModelError          a checkpoint that cannot serve: no tokenizer, no chat template, empty loss mask
    ├── EngineError         an engine that cannot start or failed while sampling
    │   └── RequestRefused  one request that cannot be served: the outcome of its problem, not the end of a run
    ├── GraderError         the grader's worker processes cannot be started
    ├── MissingExtraError   an optional package is absent; the message is the install command
    └── GuardError          a training guard stopped the run

The CLI prints the message alone and exits with 1; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

OUTCOMES = ("prompt-too-long", "refused")
"""How a path, or a sample, ends whose request no engine could serve (`RequestRefused.outcome`)."""


class SelfCorrectError(Exception):
    """Base of every error that is meant for the user's eyes."""


class InputError(SelfCorrectError):
    """What we were given is wrong: says what was expected, what came, and what to do."""


class RecipeError(InputError):
    """A recipe has an unknown key or a value of the wrong type."""


class DataError(InputError):
    """A data file is missing, unreadable, broken at a line, or of an unknown schema."""


class RunFolderError(SelfCorrectError):
    """The run folder is in use by another process or was made with another recipe."""


class ModelError(SelfCorrectError):
    """The model folder or its tokenizer cannot do what was asked."""


class EngineError(SelfCorrectError):
    """An engine could not start, or failed while sampling."""


class RequestRefused(EngineError):
    """One request cannot be served. ``outcome`` is how its problem ends: one of `OUTCOMES`."""

    def __init__(self, message: str, outcome: str) -> None:
        super().__init__(message)
        self.outcome = outcome

    def __reduce__(self) -> tuple[type[RequestRefused], tuple[str, str]]:
        return type(self), (str(self), self.outcome)


class GraderError(SelfCorrectError):
    """The grader's worker processes cannot be started: says why and what they need."""


class MissingExtraError(SelfCorrectError):
    """An optional package is absent; the message names the install command."""


class GuardError(SelfCorrectError):
    """A training guard set to ``stop`` fired."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ``' (did you mean "x"?)'`` for the closest choice, or an empty string."""
    close = get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f' (did you mean "{close[0]}"?)' if close else ""
