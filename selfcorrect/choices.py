"""Closed sets, checked where they enter: a setting that must be one of a few names is one of them, or an error.

Recipes are checked as they are read (`selfcorrect.runs.recipes`); settings that a script builds by hand come in here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from selfcorrect.errors import InputError, nearest


def check_choices(settings: Any) -> None:
    """Raise InputError, with the nearest name, for a field that holds none of the names its annotation lists.

    Settings within settings are checked too.
    """
    schema: Any = type(settings)
    for name, known in _closed_sets(schema).items():
        check_choice(name, getattr(settings, name), known)
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            check_choices(value)


def check_sampling(temperature: float, top_p: float) -> None:
    """Raise InputError where a temperature or a nucleus is none."""
    if not (0 <= temperature < math.inf and 0 < top_p <= 1):
        raise InputError(
            "temperature is 0 (greedy) or more, and top_p above 0 and at most 1; "
            f"got temperature={temperature}, top_p={top_p}"
        )


def check_choice(name: str, value: Any, known: Collection[Any]) -> None:
    """Raise InputError, with the nearest name, where ``value`` is not among the ``known`` ones."""
    if value not in known:
        listed = [str(choice) for choice in known]
        raise InputError(f"{name}: expected one of {', '.join(listed)}; got {value!r}{nearest(str(value), listed)}")


@cache
def _closed_sets(schema: Any) -> dict[str, tuple[Any, ...]]:
    """Return the names that each field of a dataclass may hold, of those fields that list them (Literal)."""
    found = {}
    for name, hint in get_type_hints(schema).items():
        parts = get_args(hint) if get_origin(hint) is not Literal else (hint,)
        literals = [part for part in parts if get_origin(part) is Literal]
        if literals and all(part in literals or part is type(None) for part in parts):
            known = tuple(choice for part in literals for choice in get_args(part))
            found[name] = known + ((None,) if type(None) in parts else ())
    return found
