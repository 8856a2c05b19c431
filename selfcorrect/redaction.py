"""Secrets kept out of records: values, texts and command lines with ``***`` in the place of passwords and keys.

What is written beside results is passed on: recipes, provenance, cards, reports, and by ``--push-to-hub`` to everyone.
So they are redacted by one rule, whatever the setting. Hidden are the login in a URL; what stands under a name that
ends like a secret's (``api_key``, ``HF_TOKEN``, ``password``), in a group of settings, a URL's query or a command; all
that stands under ``env_vars`` and ``headers``; and texts of the shape of a key, wherever they stand.

A record stays readable as a recipe. Two recipes that differ in their secrets alone are the same recipe.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

HIDDEN = "***"

_ANYWHERE = {"password", "passwd", "passphrase", "pwd", "secret", "secrets", "credential", "credentials", "cookie"}
_ANYWHERE |= {"authorization", "apikey", "cookies"}
_LAST = {"token", "key", "auth", "pass", "signature", "sig", "bearer", "jwt", "accesskey", "authtoken"}
_PLACES = {"env", "file", "path", "name", "dir", "folder"}
"""Last words of names that say where a secret is, not what it is."""

_ALL_HIDDEN = {"env_vars", "env", "environ", "environment", "headers", "extra_headers", "default_headers"}

_LOGIN = re.compile(r"(?<=://)[^/?#\s'\"]*@")
_QUERY = re.compile(r"([?&;])([^=&;#\s'\"]+)=([^&;#\s'\",\]}]+)")
_SHAPES = re.compile(
    r"\b(?:sk|pk|rk)-[\w-]{12,}|\bhf_\w{12,}|\bgh[opsur]_\w{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}"
    r"|\bxox[a-z]-[\w-]{10,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bAIza[\w-]{30,}|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"
    r"|(?i:(?<=\bbearer )|(?<=\bbasic ))[\w.~+/=-]{6,}|-----BEGIN [A-Z ]*PRIVATE KEY-----.*",
    re.DOTALL,
)
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


def redacted(value: Any, name: str = "") -> Any:
    """Return a setting (text, number, group or list of settings) without its secrets; ``name`` is what it is called."""
    if value is None or isinstance(value, bool):
        return value
    if name and (name.lower() in _ALL_HIDDEN or is_secret(name)):
        return _hidden(value)
    if isinstance(value, Mapping):
        return {key: redacted(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, str):
        return redacted_text(value)
    if isinstance(value, Sequence):
        return [redacted(item) for item in value]
    return value


def secrets_in(value: Any, name: str = "") -> list[str]:
    """Return the texts of a setting that `redacted` hides: what to keep out of messages that others may send back."""
    if isinstance(value, Mapping):
        inside = name if name and (name.lower() in _ALL_HIDDEN or is_secret(name)) else ""
        return [secret for key, inner in value.items() for secret in secrets_in(inner, inside or str(key))]
    if isinstance(value, str):
        hidden = bool(name) and (name.lower() in _ALL_HIDDEN or is_secret(name))
        return [value] if hidden else [found[0] for found in _SHAPES.finditer(value)]
    if isinstance(value, Sequence):
        return [secret for item in value for secret in secrets_in(item, name)]
    return []


def redacted_text(text: str) -> str:
    """Return a text without logins in URLs, secrets in their queries, and what has the shape of a key."""
    text = _LOGIN.sub(f"{HIDDEN}@", text)
    text = _QUERY.sub(lambda found: f"{found[1]}{found[2]}={HIDDEN}" if is_secret(found[2]) else found[0], text)
    return _SHAPES.sub(HIDDEN, text)


def redacted_command(arguments: Sequence[str]) -> str:
    """Return a command line quoted for a shell. ``key=value`` arguments are read as the recipe's overrides are."""
    return shlex.join(map(_redacted_argument, arguments))


def is_secret(name: str) -> bool:
    """True for the name of a setting that holds a secret; not for one that says where it is (``api_key_env``)."""
    words = [word.lower() for word in _WORDS.findall(name)]
    if not words or words[-1] in _PLACES:
        return False
    return words[-1] in _LAST or not _ANYWHERE.isdisjoint(words) or "".join(words[-2:]) in _ANYWHERE


def _redacted_argument(argument: str) -> str:
    key, equals, text = argument.partition("=")
    if not equals:
        return redacted_text(argument)
    *_, name = key.lstrip("-").split(".")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return f"{key}={HIDDEN if is_secret(name) else redacted_text(text)}"
    if any(part.lower() in _ALL_HIDDEN for part in key.split(".")):
        return f"{key}={HIDDEN}"
    kept = redacted(value, name)
    if kept == value:
        return argument
    shown = yaml.safe_dump(kept, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
    return f"{key}={shown}"


def _hidden(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _hidden(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_hidden(item) for item in value]
    return value if value is None or isinstance(value, bool) or value == "" else HIDDEN
