"""Recipes: a YAML file and ``key=value`` overrides become one frozen dataclass, or a clear error.

The dataclass is the schema: unknown keys name the nearest known one, values are checked against the
annotations (str, int, float, bool, ``X | None``, tuples, string enums via Literal, nested recipes and
``dict[str, Any]`` for settings that pass through to a library). Keys that a schema once had, and that
could have one value alone, are named in its ``SETTLED``.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from selfcorrect.errors import RecipeError, nearest
from selfcorrect.not_text import text_in
from selfcorrect.redaction import redacted, redacted_command

R = TypeVar("R")


@dataclasses.dataclass(frozen=True, slots=True)
class Settled:
    """A key that a schema had and that can have one value alone: still read with it, refused with another."""

    value: Any
    otherwise: str  # the error for another value


def load_recipe(schema: type[R], path: Path | None, overrides: Sequence[str] = ()) -> R:
    """Return ``schema`` filled from a YAML file (or its defaults where path is None), then overridden.

    ``overrides`` are ``key=value`` with dots for nested recipes; values are read as YAML
    (``steps=20 engine.max_batch=64 temperatures=[0,1]``). Raises RecipeError.
    """
    own: dict[str, Any] = {} if path is None else read_yaml(path)
    values = copy.deepcopy(own)
    for override in overrides:
        _put_override(values, override)
    where = str(path) if path else schema.__name__
    try:
        return build_recipe(schema, values, where)
    except RecipeError:
        wrong = _first_wrong(schema, own, overrides)
        if wrong is None:
            raise
    return build_recipe(schema, values, where=f"override {redacted_command([wrong])}")  # raises, in its name


def _put_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"expected key=value, got {override!r}; example: seed=1")
    try:
        value = yaml.safe_load(text) if text else ""
    except (yaml.YAMLError, ValueError) as error:
        said = " ".join(str(error).split())[:160]
        raise RecipeError(
            f"cannot read the value of {override!r} as YAML; quote it: {key}=\"'...'\" ({said})"
        ) from error
    _put(values, key.split("."), value)


def _first_wrong(schema: type[Any], own: Mapping[str, Any], overrides: Sequence[str]) -> str | None:
    """Return the first override with which a recipe cannot be built, None where it could not without any."""
    values = copy.deepcopy(dict(own))
    with suppress(RecipeError):
        build_recipe(schema, values)
        for override in overrides:
            _put_override(values, override)
            try:
                build_recipe(schema, values)
            except RecipeError:
                return override
    return None


def build_recipe(schema: type[R], values: Mapping[str, Any], where: str = "recipe") -> R:
    """Return ``schema(**values)`` with every key and value checked."""
    hints = get_type_hints(schema)
    known = [field.name for field in dataclasses.fields(schema)]  # type: ignore[arg-type]
    values = _without_settled(schema, values, where)
    for key in values:
        if key not in known:
            raise RecipeError(f"{where}: unknown key {key!r}{nearest(key, known)}; known keys: {', '.join(known)}")
    checked = {key: _check(value, hints[key], f"{where}: {key}") for key, value in values.items()}
    missing = [
        field.name
        for field in dataclasses.fields(schema)  # type: ignore[arg-type]
        if field.name not in checked
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise RecipeError(f"{where}: missing {', '.join(missing)}; set it in the recipe or as {missing[0]}=...")
    return schema(**checked)


def _without_settled(schema: type[Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the values without the keys that the schema's ``SETTLED`` names, where it has any."""
    settled: Mapping[str, Settled] = getattr(schema, "SETTLED", {})
    for key, only in settled.items():
        if key in values and values[key] != only.value:
            raise RecipeError(f"{where}: {only.otherwise}")
    return {key: value for key, value in values.items() if key not in settled}


def to_values(recipe: Any) -> dict[str, Any]:
    """Return a recipe as plain YAML-ready values, in the order of its fields."""
    return {field.name: _plain(getattr(recipe, field.name)) for field in dataclasses.fields(recipe)}


def recorded(recipe: Any) -> dict[str, Any]:
    """Return a recipe's values as they may be written down and shown: without secrets (`selfcorrect.redaction`)."""
    values: dict[str, Any] = redacted(to_values(recipe))
    return values


def to_yaml(recipe: Any) -> str:
    """Return a recipe as YAML text without secrets; `load_recipe` reads it back to a recipe equal in all else."""
    return yaml.safe_dump(recorded(recipe), sort_keys=False, allow_unicode=True, width=100)


def read_yaml(path: Path, what: str = "recipe") -> dict[str, Any]:
    """Return the keys of a YAML file with their values, as they are; RecipeError where it cannot be read so."""
    try:
        values = yaml.safe_load(text_in(path))
    except OSError as error:
        raise RecipeError(f"cannot read the {what} {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: expected `key: value` lines, got {type(values).__name__}")
    return values


def _put(values: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"{'.'.join(path)}: {part!r} is a single value, not a group of keys")
        values = inner
    values[path[-1]] = value


def _check(value: Any, hint: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _check(value, next(arg for arg in args if arg is not type(None)), where)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise RecipeError(f"{where}: expected a group of keys, got {value!r}")
        return build_recipe(hint, value, where)  # type: ignore[arg-type]
    if origin is Literal:
        if value not in args:
            known = [str(choice) for choice in args]
            raise RecipeError(f"{where}: expected one of {', '.join(known)}; got {value!r}{nearest(str(value), known)}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise RecipeError(f"{where}: expected a list, got {value!r}")
        return tuple(_check(item, args[0], where) for item in value)
    if origin is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise RecipeError(f"{where}: expected a group of keys, got {value!r}")
        return dict(value)
    if hint is float and isinstance(value, str):
        value = _number(value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise RecipeError(f"{where}: expected {hint.__name__}, got {value!r} ({type(value).__name__})")
    if hint is float and math.isnan(value):  # it compares as neither too small nor too large, so no bound would refuse it
        raise RecipeError(f"{where}: expected a number, got nan")
    return value


def _number(text: str, where: str) -> float:
    try:
        return float(text)  # YAML 1.1 reads 1e-4 as text
    except ValueError as error:
        raise RecipeError(f"{where}: expected a number, got {text!r}") from error


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_values(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value
