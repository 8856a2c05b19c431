"""The units that most answers use, as pint gives them: for `units`, so that an ordinary grade never imports pint.

pint takes 0.4 CPU seconds to load. `tests/selfcorrect/grading/test_units.py` holds every value here against it.
"""

from __future__ import annotations

import re
from fractions import Fraction

from selfcorrect.grading.maths.vocabulary import words_of

_TABLE = {
    "[length]": "m:1 meter:1 meters:1 cm:1/100 mm:1/1000 km:1000 centimeter:1/100 centimeters:1/100 kilometers:1000 "
    "kilometer:1000 inch:127/5000 inches:127/5000 ft:381/1250 foot:381/1250 yd:1143/1250 yard:1143/1250 "
    "yards:1143/1250 mile:201168/125 miles:201168/125 mi:201168/125",
    "[mass]": "kg:1 g:1/1000 mg:1/1000000 gram:1/1000 grams:1/1000 kilogram:1 kilograms:1 lb:45359237/100000000 "
    "oz:45359237/1600000000",
    "[time]": "s:1 second:1 seconds:1 min:60 minute:60 minutes:60 h:3600 hr:3600 hour:3600 hours:3600 day:86400 "
    "days:86400 week:604800 weeks:604800 ms:1/1000",
    "[length]^3": "L:1/1000 mL:1/1000000 liter:1/1000 liters:1/1000",
}
COMMON = {
    name: (Fraction(scale), ((kind.partition("^")[0], Fraction(kind.partition("^")[2] or 1)),))
    for kind, row in _TABLE.items()
    for name, scale in (entry.split(":") for entry in row.split())
}
_LETTERS = frozenset("ABCDFGHJKLMNPRSTUVWabcdeghklmstu")
_PREFIXES = frozenset("EGMPQRTYZacdfhkmnpqruyz")
_PREFIXED = frozenset("ABCFHJKLNSTVWagmslt")
_PAIRS = words_of(
    "AU Ah At BF Ba Bd Bi Bq Ci Cl Da Eh Fr Gb Gy Hz Ly Mx Ne Nm Np Oe Pa Rd Ry St Sv Ta Td Tj Tt VA Wb Wh at au bp bu "
    "cc cd cp ct dr eV eu fl ft gf gi gr ha hp hr in kn kt lb li lm lx ly mi nt oz pc pi pk pp pt px qt rd sr sv tf th "
    "yd yr"
)
_COMMAND_OR_WORD = re.compile(r"\\?[A-Za-z]+")


def may_be_unit(text: str) -> bool:
    """False for letters that are no unit of pint, such as ``x``, ``ab``, ``n^2``; True where only pint can tell."""
    return all(_is_possible(word) for word in _COMMAND_OR_WORD.findall(text))


def _is_possible(word: str) -> bool:
    if len(word) == 1:
        return word in _LETTERS
    return len(word) > 2 or word in _PAIRS or (word[0] in _PREFIXES and word[1] in _PREFIXED)
