"""The unit rule: a missing unit is harmless, a unit that says another quantity is not. Units are pint's.

``5 m`` equals ``500 cm``, not ``5 cm``; ``5 kg`` is not ``5 m``; ``4.5 W`` is not ``4.5 erg/s``. Currencies
are units of their own, without rates. What pint does not know is a description (``ways``, ``red apples``); two
descriptions must share a word. pint is asked about single words only, and only about those that `common_units` does not
know: the first time that two units differ and one of them is rare.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any, TypeAlias

from selfcorrect.grading.maths.common_units import COMMON
from selfcorrect.grading.maths.vocabulary import words_of

Dimensions: TypeAlias = tuple[tuple[str, Fraction], ...]
Unit: TypeAlias = tuple[Fraction, Dimensions]

_MONEY = {
    "USD": "dollar:1 dollars:1 usd:1 buck:1 bucks:1 cent:1/100 cents:1/100 ¢:1/100 penny:1/100 pennies:1/100",
    "EUR": "euro:1 euros:1 eur:1",
    "GBP": "gbp:1 pounds:1 pound:1 pence:1/100",
    "INR": "rupee:1 rupees:1 rs:1 inr:1 paise:1/100 paisa:1/100",
    "JPY": "yen:1 jpy:1",
    "CNY": "yuan:1 rmb:1 cny:1 元:1",
    "RUB": "ruble:1 rubles:1 rub:1",
    "KRW": "won:1 krw:1",
    "MXN": "peso:1 pesos:1",
    "CHF": "franc:1 francs:1 chf:1",
}
CURRENCIES = {
    name: (currency, Fraction(share))
    for currency, row in _MONEY.items()
    for name, share in (entry.split(":") for entry in row.split())
}
_PREFIXED = words_of(
    "meter gram second liter newton joule watt volt ampere hertz pascal electron_volt mole calorie ohm farad "
    "henry tesla coulomb byte bit bar watt_hour parsec tonne metric_ton siemens becquerel sievert gray weber "
    "lumen year candela radian kelvin"
)
"""pint units whose symbols take a prefix symbol here; with all of pint's, ``cats`` are centi-atmospheres."""
_NO_UNITS = words_of(
    "bag bags bus mug mugs pin pins turn turns point points dot dots hand hands stone stones rod rods chain "
    "chains link links barn barns pole poles grade grades grain grains dram drams are ares shot shots slug slugs "
    "pica tex count counts mil mils unit units set of a an is at as to it per and the"
)
_SPELLINGS = {
    "sec": "second", "secs": "second", "hrs": "hour", "mins": "minute", "litre": "liter", "litres": "liter",
    "metre": "meter", "metres": "meter", "kmph": "kph", "kmh": "kph", "Å": "angstrom", "µ": "micro", "μ": "micro",
    "sqft": "square_foot", "tons": "ton", "celsius": "degC", "Celsius": "degC", "fahrenheit": "degF",
    "Fahrenheit": "degF", "°C": "degC", "°F": "degF", "feet": "foot", "ml": "mL", "lbs": "pound", "yrs": "year",
    "inche": "inch", "kilogramme": "kilogram", "kilogrammes": "kilogram", "cc": "cm^3",
}  # fmt: skip
_FOREIGN = {
    "kg": "千克 公斤 килограмм килограмма килограммов кг kilogramos quilogramas chilogrammi kilos",
    "g": "克 грамм граммов",
    "m": "米 метр метра метров м mètre mètres metro metros metri", "km": "千米 公里 километр километров км",
    "cm": "厘米 см сантиметр сантиметров Zentimeter centimètres centímetros centimetri", "mm": "毫米 мм",
    "L": "升 литр литров litros litri", "mL": "毫升 мл",
    "hour": "小时 小時 時間 час часа часов Stunde Stunden heure heures hora horas 시간",
    "minute": "分钟 分鐘 минут минута минуты Minuten minuto minutos minuti 분",
    "second": "秒 секунд секунды Sekunden seconde secondes segundo segundos secondi 초",
    "day": "天 день дня дней Tag Tage Tagen jour jours día días giorno giorni",
    "square_meter": "平方米 Quadratmeter", "square_centimeter": "平方厘米 Quadratzentimeter",
    "cubic_meter": "立方米 Kubikmeter", "cubic_centimeter": "立方厘米 Kubikzentimeter",
}  # fmt: skip
_SPELLINGS |= {word: name for name, words in _FOREIGN.items() for word in words.split()}
_FILLER = words_of("of the a an in total altogether each left more per and for is are long")
_TOKEN = re.compile(r"(?:[A-Za-zÅµμΩ°¢元]|[^\W\d_a-zA-Z])+|\^\s*\{?\s*[-−]?\s*\d+\s*\}?|[/*·.]|\d+|[^\s]")
_POWER = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_MAX_POWER = 12


@lru_cache(maxsize=1)
def _registry() -> Any:
    import pint

    return pint.UnitRegistry(non_int_type=Fraction)


@lru_cache(maxsize=2048)
def word_unit(word: str) -> Unit | None:
    """Return (scale to SI, dimensions) of one word or symbol; None where it is no unit."""
    if word.lower() in CURRENCIES and word not in ("pound", "pounds"):
        currency, share = CURRENCIES[word.lower()]
        return share, ((currency, Fraction(1)),)
    spelled = _SPELLINGS.get(word) or _SPELLINGS.get(word.lower(), word)
    if "^" in spelled:
        return known_unit(spelled)
    if (
        word in _NO_UNITS
        or (len(word) > 2 and word.lower() in _NO_UNITS)
        or len(word) > 24
        or not spelled.replace("_", "").isalpha()
    ):
        return None
    for candidate in dict.fromkeys((spelled, spelled.lower() if len(spelled) > 3 else spelled)):
        if (unit := _pint(candidate)) is not None:
            return unit
    return None


def _pint(word: str) -> Unit | None:
    if word in COMMON:
        return COMMON[word]
    registry = _registry()
    readings = registry.parse_unit_name(word)
    if not readings:
        return None
    prefix, name, _ = readings[0]
    short = not word.lower().startswith(prefix) if prefix else False
    if short and (name not in _PREFIXED or len(word) > 4):
        return None
    scale, _ = registry.get_base_units(prefix + name)
    if name in ("degree_Celsius", "degree_Fahrenheit"):
        return Fraction(1), ((name, Fraction(1)),)  # a shifted scale is a dimension of its own: 0 °C is not 0 K
    dimensions = registry.get_dimensionality(prefix + name)
    return Fraction(scale), tuple(sorted((str(key), Fraction(power)) for key, power in dimensions.items()))


@lru_cache(maxsize=4096)
def known_unit(text: str) -> Unit | None:
    """Return (scale to SI, dimensions) of a unit text such as ``km/h``, ``m s^{-2}``, ``square feet``; else None."""
    unit, rest = _leading_unit(text)
    return unit if not rest else None


def _leading_unit(text: str) -> tuple[Unit | None, str]:
    """Return the unit at the head of a text and the words after it."""
    words = re.sub(r"\\(?:cdot|times)", "*", text)
    words = re.sub(r"\bper\b", "/", re.sub(r"\\[,;:! ]|[\\{}~$]", " ", words))
    words = re.sub(r"\bdegrees?\s+(?=[CF]\b|[Cc]elsius|[Ff]ahrenheit)", "°", words)
    words = re.sub(r"°(?:celsius|c\b)", "°C", re.sub(r"°(?:fahrenheit|f\b)", "°F", words, flags=re.I), flags=re.I)
    tokens = [token.group() for token in _TOKEN.finditer(words[:200])]
    total: Unit | None = None
    place, sign, power, inside = 0, 1, 1, False
    while place < len(tokens):
        token = tokens[place]
        if token in ("/", "*", "·", ".", "(", ")"):
            sign = -1 if token == "/" else sign if token == "(" or (inside and token != ")") else 1
            inside = (token == "(") or (inside and token != ")")
            place += 1
            continue
        if token.lower() in _POWER and place + 1 < len(tokens):
            power = _POWER[token.lower()]
            place += 1
            continue
        if token == "in" and tokens[place + 1 : place + 2] and tokens[place + 1].isalpha():
            break  # "in total", "in all"
        exponent = _exponent(tokens, place + 1)
        parts = (
            [token] if word_unit(token) and not (token == "Nm" or (token == "ms" and exponent < 0)) else _glued(token)
        )
        units = [word_unit(part) for part in parts]
        if not units or any(unit is None for unit in units):
            break
        for index, unit in enumerate(units):
            assert unit is not None
            raised = sign * power * (exponent if index == len(units) - 1 else 1)
            total = _times(total, unit, raised)
        place += 1
        while place < len(tokens) and len(tokens[place]) > 1 and tokens[place][0] == "^":
            place += 1
        power, sign = 1, sign if inside else 1
    return total, " ".join(tokens[place:])


def _exponent(tokens: list[str], place: int) -> int:
    if place < len(tokens) and tokens[place][0] == "^":
        digits = re.sub(r"[^\d]", "", tokens[place])
        value = int(digits or "0") if len(digits) <= 2 else _MAX_POWER
        return max(-_MAX_POWER, min(_MAX_POWER, -value if "-" in tokens[place] or "−" in tokens[place] else value))
    return 1


def _glued(word: str) -> list[str]:
    """Cut ``ms``, ``Nm``, ``Jkg`` before an exponent into two symbols; nothing where they are none."""
    for cut in (1, 2, 3):
        left, right = word[:cut], word[cut:]
        if left and right and len(word) <= 5 and word_unit(left) and word_unit(right):
            return [left, right]
    return []


def _times(total: Unit | None, unit: Unit, power: int) -> Unit:
    scale, dimensions = total or (Fraction(1), ())
    powers = dict(dimensions)
    for name, own in unit[1]:
        powers[name] = powers.get(name, Fraction(0)) + own * power
    kept = tuple(sorted((name, own) for name, own in powers.items() if own))
    return scale * unit[0] ** power, kept


_PRIMES = {"′": ("foot", "minute"), "″": ("inch", "second")}
"""What ``12'`` and ``12"`` may measure."""
_RADIANS = frozenset(["rad", "rads", "radian", "radians"])


def conversion(unit: str, wanted: str) -> Fraction | None:
    """Return the factor from one unit to another; None where they clash.

    A unit against a description, or two descriptions, agree where they share a word (plural or not).
    """
    if unit == wanted:
        return Fraction(1)
    if unit in _PRIMES or wanted in _PRIMES:
        return _prime_conversion(unit, wanted)
    source, rest_r = _leading_unit(unit)
    target, rest_g = _leading_unit(wanted)
    if source and target:
        if source[1] == target[1]:
            return source[0] / target[0] if _share(rest_r, rest_g) else None
        return _money_pounds(unit, wanted)
    return Fraction(1) if _share(unit, wanted) else None


def _prime_conversion(unit: str, wanted: str) -> Fraction | None:
    """Read ``12'`` as feet or minutes and ``12"`` as inches or seconds, whichever the other unit asks for."""
    for one, other in ((unit, wanted), (wanted, unit)):
        for reading in _PRIMES.get(one, ()) if other not in _PRIMES else ():
            known, asked = known_unit(reading), known_unit(other)
            if known and asked and known[1] == asked[1]:
                return known[0] / asked[0] if one is unit else asked[0] / known[0]
    return None


def sign_clashes(sign: str, unit: str) -> bool:
    """True where a percent or degree sign (``pct``, ``deg``) stands against a unit of something else: 20% for 20 cm.

    Descriptions say nothing against a sign (20% is 20 percent of the students), nor temperatures against degrees.
    """
    if unit in _PRIMES:
        return True
    known = None if unit.lower().startswith(("percent", "%", "pct")) else _leading_unit(unit)[0]
    if known is None or (sign == "deg" and is_radian(unit)):
        return False
    return sign != "deg" or not any(name.startswith("degree_") or name == "[temperature]" for name, _ in known[1])


def is_radian(unit: str) -> bool:
    """True for the unit of angles whose value a degree sign would change."""
    return unit.strip().lower() in _RADIANS


def _money_pounds(unit: str, wanted: str) -> Fraction | None:
    """Read ``pounds`` as money where the other side is."""
    for one, other in ((unit, wanted), (wanted, unit)):
        entry = CURRENCIES.get(other.strip().lower())
        if one.strip().lower() in ("pound", "pounds") and entry and entry[0] == "GBP":
            return 1 / entry[1] if one is unit else entry[1]
    return None


def _share(left: str, right: str) -> bool:
    """True where two descriptions have a word in common, or one says nothing."""
    said_l, said_r = _stems(left), _stems(right)
    return not said_l or not said_r or bool(said_l & said_r)


def _stems(text: str) -> set[str]:
    words = re.findall(r"[^\W\d_]{2,}", re.sub(r"\\[a-zA-Z]+", " ", text.lower()))
    return {word[:-1] if word.endswith("s") else word for word in words if word not in _FILLER}
