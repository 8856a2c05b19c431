"""A JSON object read key by key, each as what it must be: for records that are read back from files.

Example::

    keys = Keys(read_json(file), str(file), "evaluate the row anew")
    keys.count("n")               # 1000; DataError where it is not a whole number
    keys.interval("final_interval")   # (82.02, 86.52)
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selfcorrect.errors import DataError


@dataclass(frozen=True, slots=True)
class Keys:
    """One JSON object, whose keys are each read as what they must be; a key that is absent or null is None.

    DataError names the place, the key, what was expected, what is there, and the ``remedy``.
    """

    row: Mapping[str, Any]
    where: str
    remedy: str

    def needed(self, key: str, value: Any) -> Any:
        """Return a value that must be there."""
        if value is None:
            raise DataError(f"{self.where}: {key!r} is missing: the file is damaged; {self.remedy}")
        return value

    def text(self, key: str) -> str | None:
        """Return a text."""
        return None if self._absent(key) else str(self._of(key, str, "a text"))

    def number(self, key: str) -> float | None:
        """Return a finite number."""
        if self._absent(key):
            return None
        value = self._of(key, (int, float), "a number")
        if isinstance(value, bool) or not _is_finite(value):
            self._refuse(key, "a finite number")
        return float(value)

    def count(self, key: str) -> int | None:
        """Return a whole number."""
        if self._absent(key):
            return None
        value = self._of(key, int, "a whole number")
        return self._refuse(key, "a whole number") if isinstance(value, bool) else int(value)

    def object(self, key: str) -> dict[str, Any] | None:
        """Return an object."""
        return None if self._absent(key) else dict(self._of(key, dict, "an object"))

    def counts(self, key: str) -> dict[str, int]:
        """Return whole numbers by name, none where the key is absent."""
        found = self.object(key) or {}
        inner = Keys(found, f"{self.where}: {key!r}", self.remedy)
        return {name: int(inner.needed(name, inner.count(name))) for name in found}

    def integers(self, key: str) -> tuple[int, ...]:
        """Return a list of whole numbers, an empty one where the key is absent."""
        values = () if self._absent(key) else self._of(key, list, "a list of whole numbers")
        if not all(type(value) is int for value in values):
            self._refuse(key, "a list of whole numbers")
        return tuple(values)

    def interval(self, key: str) -> tuple[float, float] | None:
        """Return an interval."""
        if self._absent(key):
            return None
        value = self._of(key, list, "[low, high]")
        if len(value) != 2 or not all(type(x) in (int, float) and _is_finite(x) for x in value):
            self._refuse(key, "[low, high]")
        return float(value[0]), float(value[1])

    def _absent(self, key: str) -> bool:
        return self.row.get(key) is None

    def _of(self, key: str, kind: type | tuple[type, ...], expected: str) -> Any:
        value = self.row[key]
        return value if isinstance(value, kind) else self._refuse(key, expected)

    def _refuse(self, key: str, expected: str) -> Any:
        shown = repr(self.row[key])
        raise DataError(
            f"{self.where}: {key!r} must be {expected}, got {shown[:60]}: the file is damaged; {self.remedy}"
        )


def _is_finite(value: float) -> bool:
    """True for a number that a float can hold; whole numbers of JSON may be longer."""
    return abs(value) <= sys.float_info.max
