"""The unit rule: a missing or descriptive unit is harmless, a known unit that says another quantity is not.

Known units carry a dimension and a scale: ``5 m`` equals ``500 cm``, not ``5 cm``; ``5 kg`` is not ``5 m``.
Everything else after a number (``ways``, ``meals``, ``square feet per painter``) is description.
"""

from __future__ import annotations

import re
from fractions import Fraction

_NAMES = {
    "length": "mm:1/1000 millimeter:1/1000 millimetre:1/1000 cm:1/100 centimeter:1/100 centimetre:1/100 m:1 meter:1 "
    "metre:1 km:1000 kilometer:1000 kilometre:1000 nm:1/1000000000 in:127/5000 inch:127/5000 inche:127/5000 "
    "ft:381/1250 foot:381/1250 feet:381/1250 yd:1143/1250 yard:1143/1250 mi:201168/125 mile:201168/125",
    "mass": "mg:1/1000000 g:1/1000 gram:1/1000 kg:1 kilogram:1 lb:45359237/100000000 pound:45359237/100000000",
    "time": "ms:1/1000 s:1 sec:1 second:1 min:60 minute:60 h:3600 hr:3600 hour:3600 day:86400 week:604800",
    "money": "dollar:1 cent:1/100",
}
_TABLE = {
    name: (dimension, Fraction(scale))
    for dimension, row in _NAMES.items()
    for name, scale in (entry.split(":") for entry in row.split())
}


def known_unit(text: str) -> tuple[str, Fraction] | None:
    """Return (dimension, scale) of a unit text, None for a description. ``cm^2`` and ``square feet`` are areas."""
    words = re.sub(r"[.\\{}]", "", text).strip()
    exponent = 1
    power = re.search(r"\^\s*(-?\d)$", words)
    if power:
        exponent, words = int(power.group(1)), words[: power.start()].strip()
    lowered = words if len(words) <= 2 else words.lower()
    for prefix, value in (("square ", 2), ("sq ", 2), ("cubic ", 3)):
        if lowered.startswith(prefix):
            exponent, lowered = value, lowered[len(prefix) :].strip()
    entry = _TABLE.get(lowered) or _TABLE.get(lowered.removesuffix("s")) or _TABLE.get(lowered.removesuffix("es"))
    if entry is None:
        return None
    dimension, scale = entry
    return (dimension if exponent == 1 else f"{dimension}^{exponent}", scale**exponent)


def conversion(unit: str, wanted: str) -> Fraction | None:
    """Return the factor from one unit to another; 1 where either is a description, None where they clash."""
    source, target = known_unit(unit), known_unit(wanted)
    if source is None or target is None:
        return Fraction(1)
    if source[0] != target[0]:
        return None
    return source[1] / target[1]
