"""`Keys`: who may ask. Keys come from a file or the environment, are compared in constant time and never shown."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Sequence
from pathlib import Path

from selfcorrect.errors import InputError

SHORTEST = 8
"""Characters of a key: a shorter one can be guessed."""


class Keys:
    """The keys of a server; none: everyone may ask."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def client(self, authorization: str) -> str | None:
        """Return the name of the client whose key an ``Authorization`` header holds (``key 1``, …), None for none.

        It takes as long for a wrong key as for a right one, whatever they have in common.
        """
        scheme, _, key = authorization.partition(" ")
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        found = None
        for place, known in enumerate(self._digests, 1):
            if hmac.compare_digest(digest, known):
                found = f"key {place}"
        return found if scheme.lower() == "bearer" else None


def read_keys(file: str | None, variable: str) -> Keys:
    """Return the keys in a file (one a line, ``#`` begins a remark), or in an environment variable (by commas).

    Raises InputError, without the key, where the file cannot be read, holds none, or one that no header can carry.
    """
    if file is None:
        named = f"the environment variable {variable}"
        keys = [key.strip() for key in os.environ.get(variable, "").split(",") if key.strip()]
    else:
        named = f"the key file {file}"
        try:
            lines = Path(file).expanduser().read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise InputError(f"cannot read {named}: {reason}; it holds API keys, one a line") from None
        keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        if not keys:
            raise InputError(f"{named} holds no key; write one a line, or leave key_file out to ask for none")
    for place, key in enumerate(keys, 1):
        if re.search(r"[^!-~]", key) or len(key) < SHORTEST:
            raise InputError(
                f"key {place} of {named} cannot be used: a key is at least {SHORTEST} characters of printable ASCII "
                f"without blanks, and it has {len(key)}; make one with: "
                "python -c 'import secrets; print(secrets.token_urlsafe(24))'"
            )
    return Keys(keys)
