"""Values from files as text: numbers as a reader wants them, nested settings as one level."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def is_number(value: Any) -> bool:
    """True for a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def show_value(value: Any) -> str:
    """Return a value from a file as text: thousands grouped, a true minus sign, an en dash for a missing one."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if is_number(value):
        digits = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
        return digits.replace("-", "−")
    return str(value)


def show_short(value: str) -> str:
    """Return a hash or a path short enough for a table cell."""
    return value if len(value) <= 24 else f"{value[:6]}…{value[-17:]}"


def show_time(seconds: float) -> str:
    """Return a duration as a reader wants it: ``37 s``, ``16 min``, ``5.2 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def show_p(value: Any) -> str:
    """Return a p-value as a reader wants it: ``0.031``, ``< 0.001``."""
    if not is_number(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings or counts as one level: ``{"kept · D1": "454"}``."""
    shown: dict[str, str] = {}
    for key, item in value.items():
        name = f"{prefix} · {key}" if prefix else str(key)
        if isinstance(item, Mapping):
            shown |= flat(item, name)
        elif isinstance(item, list) and any(isinstance(part, Mapping) for part in item):
            shown[name] = f"{len(item)} records"
        else:
            shown[name] = ", ".join(map(show_value, item)) if isinstance(item, list) else show_value(item)
    return shown


def grouped(value: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return nested counts under their top-level names; what is not nested comes first, under an empty name."""
    single = {key: item for key, item in value.items() if not isinstance(item, Mapping)}
    nested = {str(key): flat(item) for key, item in value.items() if isinstance(item, Mapping)}
    return {name: shown for name, shown in {"": flat(single), **nested}.items() if shown}
