"""`respell`: an answer in the one spelling that `tokens` knows. Text in, text out; every rule is one substitution.

Scripts' digits, superscripts and separators; maths delimiters inside an answer; colours, boxes and invisible text;
repeating decimals; bases and combinations; French intervals; currency signs; labels before an answer, remarks after it.
"""

from __future__ import annotations

import re
import unicodedata

from selfcorrect.grading.maths.vocabulary import SCALE_WORDS
from selfcorrect.grading.numerals import number_in_words

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ", "0123456789+-()ni")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋₍₎", "0123456789+-()")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ]+")
_SUBSCRIPT = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋₍₎]+")
_CIRCLED = re.compile("[①-⑳]")
_DOT_ABOVE, _LINE_ABOVE = re.compile("([0-9])\u0307"), re.compile("((?:[0-9]\u0305)+)")

_INVISIBLE = re.compile(
    r"\\(?:fcolorbox\s*\{[^{}]*\}\s*\{[^{}]*\}|(?:textcolor|colorbox|color)\s*(?:\[[^\]]*\]\s*)?\{[^{}]*\}"
    r"|[hv]?phantom\s*\{[^{}]*\}|(?:hspace|vspace|label|tag|hskip)\*?\s*\{[^{}]*\})"
)
_DELIMITER = re.compile(r"(?<!\\)\\[()\[\]]")
_SEPARATED = re.compile(r"(?<![\w.])\d{1,3}(?:(?:'\d{3})+|(?:\\?_\d{3})+)(?!\d)")
_TIMES_TEN = re.compile(r"(?<=\d)\s*[xX]\s*10\s*(?=\^|\*\*)")
_ORDINAL_WORD = re.compile(r"(?<=\d)(?:st|nd|rd|th)\b")
_DEGREE = re.compile(r"(?<=[\d)])\s*\^\s*(?:\{\s*[oO]\s*\}|[oO](?![a-zA-Z]))")
_DEGREE_TEXT = re.compile(r"\\(?:text|mathrm)\s*\{\s*\^\s*\\circ\s*([CFK]?)\s*\}")
_DOTTED = re.compile(r"(\d*\.\d*)\\dot\s*\{?(\d)\}?(?:(\d*)\\dot\s*\{?(\d)\}?)?")
_BRACKETED = re.compile(r"(?<![\w.])(\d*\.\d*)\((\d{1,20})\)(?![\w(])")
_GOING_ON = re.compile(r"(?<![\w.])(\d+)\.(\d{2,60})\s*(?:\.\.\.+|…|\\[lc]?dots[a-z]?(?![a-z]))")
_COUNT = r"\s*(?:\{\s*(\d{1,4})\s*\}|(\d)(?![\d.]))"
_LETTER = r"(?:\\(?:mathrm|text|mathbf)\s*\{\s*([CPA])\s*\}|(?<![A-Za-z\\])([CPA]))"
_COMBINATION = re.compile(_LETTER + r"\s*_" + _COUNT + r"\s*\^" + _COUNT)
_COMBINATION_FLANKED = re.compile(
    r"(?:\{\s*\}\s*)?[_^]" + _COUNT + r"\s*" + _LETTER.replace(r"(?<![A-Za-z\\])", "") + r"\s*_" + _COUNT
)
_HEXADECIMAL = re.compile(
    r"(?<![A-Za-z\\_{])(?:\\(?:text|mathrm)\s*\{\s*|\()?(?=[0-9A-F]{2})([0-9A-F]*[A-F][0-9A-F]*)\s*[})]?\s*_\s*\{?(1[1-6])\}?"
)
_BASE = re.compile(
    r"^(\(?[0-9A-Z]+\)?)(?:\s|\\[,;: ]|~)*(?:"
    r"_\s*\{?\s*(?:\\(?:text|mathrm|textrm)\s*\{)?\s*\(?\s*(two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|sixteen)"
    r"|(?:_\s*\{?\s*)?(?:\\(?:text|mathrm|textrm)\s*\{)?\s*\(?\s*(?:(?:in|to)\s+)?"
    r"(?:base[\s-]*(?:\\?_)?(\d{1,2}|[a-z]+)|(binary|octal|hexadecimal|hex|decimal))"
    r")\s*\)?\s*\}?\s*\}?$"
)
_NAMED_BASES = {"binary": "2", "octal": "8", "hexadecimal": "16", "hex": "16", "decimal": "10"}
_ENDS = r"([^\[\](),;]*(?:\([^()]*\)[^\[\](),;]*)*[,;][^\[\](),;]*(?:\([^()]*\)[^\[\](),;]*)*)"
_OPEN_LEFT = re.compile(r"(?<![\w)}\]])\]" + _ENDS + r"([\[\])])")
_OPEN_RIGHT = re.compile(r"([\[(])" + _ENDS + r"\[(?![^\[\]]*\])")
_SIDES = re.compile(r"\\(?:left|right|bigl?|bigr|Bigl?|Bigr)\s*(?=[\[\]])")
_SYSTEM = re.compile(r"\\left\s*\\(?:\{|lbrace)\s*\\begin\{array\}\s*(?:\{[^{}]*\})?|\\begin\{(?:d|r)cases\*?\}")
_SYSTEM_END = re.compile(r"\\end\{array\}\s*\\right\s*\.|\\end\{(?:d|r)cases\*?\}")
_MONEY = re.compile(
    r"(?<![A-Za-z\\])(?:Rs\.?|INR|USD|EUR|GBP|CAD|AUD)\s*(?:\\[,;: ]|~|\s)*(?=[-\d.\\])"
    r"|(?<![A-Za-z])(?:US|A|C|HK|NZ|S)?\\\$"
)
_MONEY_CODES = {"Rs": "INR", "Rs.": "INR"}
_LABEL = re.compile(
    r"^(?:\\text(?:bf|rm|it)?\s*\{\s*)?(?:the\s+)?(?:final\s+|correct\s+)?(?:answer|ans|result)\.?\s*(?:is\s*:?|[:=])\s*\}?\s*(?=\S)",
    re.IGNORECASE,
)
_REMARK = re.compile(
    r"(?:\\q?quad|\\[,;: ]|\s|~)*(?:\\text(?:rm)?\s*\{\s*\(?\s*(?:since|because|by)\b.*$"
    r"|\(\s*(?:since|because|approximately|approx\.?|about|roughly|≈|\\approx|rounded)(?![a-z]).*\)\s*$)",
    re.DOTALL,
)
_ALSO = re.compile(
    r"(?<=[\w})%])\s*\(\s*(?:\\text\s*\{\s*)?(?:or|i\.?\s?e\.?,?|that is,?|equivalently,?|which (?:is|equals)|also|=)"
    r"(?:\s*\})?(?![a-z])\s*((?:[^()]|\([^()]*\))+)\)\s*$"
)
_ALSO_SAID = re.compile(r"\(\s*(?:\\text|or|i\.?\s?e|that|equiv|which|also|=)")
_COUNTED = re.compile(r"^([-\d.,/]+)\s*\(\s*([A-Za-z][A-Za-z ,.'-]{2,60})\)$")


MAX_RESPELLED = 1_000
"""Longer answers are read as they are spelled: some rules look ahead from every bracket."""


_OTHER_DIGIT = re.compile(r"[^\D0-9]")
_ARABIC_SIGNS = {"٫": ".", "٬": ",", "٪": "%", "،": ","}
_ARABIC = re.compile("(?<=[0-9])[٫٬](?=[0-9])|[٪،]")
"""The Arabic decimal and thousands separators, percent sign and comma."""
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_RAISED_FRACTION = re.compile("(?<![A-Za-z)\\]}])([⁰¹²³⁴⁵⁶⁷⁸⁹]+)\\s*[⁄/]\\s*([₀₁₂₃₄₅₆₇₈₉]+)")


def ascii_digits(text: str) -> str:
    """Return the text with the decimal digits of every script (``१२``, ``۱۲``, ``１２``) as 0 to 9."""
    if text.isascii():
        return text
    text = _OTHER_DIGIT.sub(lambda digit: str(unicodedata.decimal(digit.group())), text)
    return _ARABIC.sub(lambda sign: _ARABIC_SIGNS[sign.group()], text)


def respell_unicode(text: str) -> str:
    """Replace what a plain Unicode normalisation would turn into another answer: ``10⁻³``, ``x₁``, ``②③``, ``0.3̇``."""
    text = ascii_digits(text)
    text = _MICRO_SIGN.sub(r"\\text{u\1}", text)
    text = _VULGAR.sub(lambda sign: _fraction(*unicodedata.normalize("NFKC", sign.group()).split("⁄")), text)
    text = _RAISED_FRACTION.sub(
        lambda found: _fraction(found[1].translate(_SUPERSCRIPTS), found[2].translate(_SUBSCRIPTS)), text
    )
    text = _SUPERSCRIPT.sub(lambda run: "^{" + run.group().translate(_SUPERSCRIPTS) + "}", text)
    text = _SUBSCRIPT.sub(lambda run: "_{" + run.group().translate(_SUBSCRIPTS) + "}", text)
    text = _CIRCLED.sub(
        lambda sign: rf"\textcircled{{{unicodedata.digit(sign.group(), 0) or ord(sign.group()) - 9311}}}", text
    )
    text = _DOT_ABOVE.sub(r"\\dot{\1}", text)
    return _LINE_ABOVE.sub(lambda run: r"\overline{" + run.group().replace("\u0305", "") + "}", text)


def _fraction(top: str, bottom: str) -> str:
    return rf"\frac{{{top}}}{{{bottom}}}"


_SCALES = {word: name for name, words in SCALE_WORDS.items() for word in words.split()}
_SCALE = re.compile(
    r"(-?[0-9][0-9.,]*(?:\s|~|\\[,;: ])*(?:\\text\w*\s*\{\s*)?)(?:("
    + "|".join(sorted((word for word in _SCALES if word.isascii() or ord(word[0]) < 0x3000), key=len, reverse=True))
    + r")(?:\.|(?![^\W\d_]))|("
    + "|".join(sorted((word for word in _SCALES if ord(word[0]) >= 0x3000), key=len, reverse=True))
    + r")(?![克米瓦]))"
)
"""Scale words of other languages after a number."""
_ENDS_IN_SIGN = re.compile(
    r"(?<=[0-9])(?:\s|~|\\[,;: ])*(?:\\(?:text|mathrm)\s*\{[\s~]*([kM]?)\s*\}\s*|([kM]))?(?:\\Omega|Ω)\s*$"
)
_BEFORE_WORD = re.compile(r"-?[0-9][0-9.,]*(?:[^\W\d_]|[ ~]|\\[,;: t])")
_PRIMES = re.compile(r"(-?[0-9][0-9.,]*)\s*(?:\^\s*\{?\s*)?((?:'|\\prime\s*){1,2}|\")\s*\}?\s*\.?")
_FEET_INCHES = re.compile(r"([0-9]+)\s*'\s*-?\s*([0-9]+(?:\.[0-9]+)?)\s*(?:\"|'')\.?")
_REPEATING = re.compile(r"(?<![\w.])([0-9]*\.)([0-9])\s*(?:\\text\s*\{)?\s*\(?(?:repeating|recurring)\)?\s*\}?\.?$")
_AND_PART = re.compile(r"(-?[0-9]+)(?:\s|~|\\text\w*\s*\{)+and\s+((?:an?|[a-z]+)\s+[a-z]+)\s*\}?")
_MICRO = re.compile(
    r"(?<=[0-9])((?:\s|~|\\[,;: ])*)\\mu\s*(?:\\(?:text|mathrm)\s*\{[\s~]*([A-Za-z]{1,3})\s*\}|(mol|[msFACVWHJL])$)"
)
_MICRO_SIGN = re.compile("(?<=[0-9 ~}])µ([A-Za-z]{1,3})(?![A-Za-z])")
_NUMBERED = re.compile(r"(?:No|Nr)\.?\s*(?=[0-9]+\s*$)")
_MARKED = re.compile(
    r"\\(?:fcolorbox|textcolor|color|[hv]?phantom|[hv]space|hskip|label|tag|dot|[lc]?dots|begin|[()\[\]]"
    r"|text\w*\s*\{\s*[\^(sbio]|mathrm\s*\{\s*\^)"
    r"|Rs|USD|INR|EUR|GBP|CAD|AUD|[bB]ase|binary|octal|hexa|decimal|since|because|approx|about|roughly|rounded|≈|\.\.\."
    r"|[0-9](?:st|nd|rd|th)\b"
)
"""Signs of the spellings that most answers have none of."""


def respell(text: str) -> str:
    """Return an answer (already free of Unicode signs) in the spelling of `tokens`; linear in its length."""
    text = text.strip()
    if len(text) > MAX_RESPELLED:
        return text
    if _MARKED.search(text):
        text = _without_marks(text)
    if text[:1].isalpha() or text.startswith(r"\text"):
        text = _LABEL.sub("", text)
        text = _NUMBERED.sub("", text)
    if text.endswith("rad"):
        text = re.sub(r"\\pi\s*rad$", r"\\pi \\text{rad}", text)
    if text[0:1] in "-.0123456789":
        text = _after_digits(text)
    if text.endswith(")"):
        if _ALSO_SAID.search(text):
            text = _ALSO.sub(r", \1", text)
        if text[0] in "-.0123456789":
            text = _BRACKETED.sub(r"\1\\overline{\2}", _COUNTED.sub(r"\1 \\text{\2}", text))
    if "^" in text:
        if "^o" in text or "^{o" in text:
            text = _DEGREE.sub(r"^\\circ ", text)
        if "10" in text and ("x" in text or "X" in text):
            text = _TIMES_TEN.sub(r"\\times 10", text)
    if "_" in text:
        text = _COMBINATION.sub(lambda found: _combination(found, 0, 2, 4), text)
        text = _COMBINATION_FLANKED.sub(lambda found: _combination(found, 2, 0, 4), text)
        text = _BASE.sub(_based, _HEXADECIMAL.sub(r"\\based{\1}{\2}", text))
    if "'" in text or "_" in text:
        text = _SEPARATED.sub(lambda found: re.sub(r"[^\d]", "", found.group()), text)
    return _french_intervals(text) if ("[" in text and "]" in text) or text.count("[") > 1 or text[:1] == "]" else text


def _after_digits(text: str) -> str:
    """Spell what may follow a number: scale words of other languages, ohms, feet and inches, repeating digits."""
    if "'" in text or '"' in text or "prime" in text:
        text = _FEET_INCHES.sub(r"\1 \\text{ft} \2 \\text{in}", text)
        signs = _PRIMES.fullmatch(text)
        if signs:
            double = signs[2] == '"' or len(re.findall(r"'|\\prime", signs[2])) == 2
            return rf"{signs[1]} \text{{{'″' if double else '′'}}}"
    if "mu" in text:
        text = _MICRO.sub(lambda found: rf"{found[1]}\text{{u{found[2] or found[3]}}}", text)
    if " and" in text and (mixed := _AND_PART.fullmatch(text)):
        part = number_in_words(mixed[2])
        if part is not None and 0 < part < 1:
            return f"{mixed[1]} {_fraction(str(part.numerator), str(part.denominator))}"
    if text.endswith(("Omega", "Ω")):
        text = _ENDS_IN_SIGN.sub(lambda found: rf" \text{{{found[1] or found[2] or ''}ohm}}", text)
    if "r" in text and ("repeating" in text or "recurring" in text):
        text = _REPEATING.sub(r"\1\\overline{\2}", text)
    scaled = _SCALE.match(text) if _BEFORE_WORD.match(text) else None
    if scaled is None:
        return text
    number = re.sub(r"^(-?[0-9]+),([0-9]{1,2})(?![0-9,.])", r"\1.\2", scaled[1])
    return f"{number} {_SCALES[scaled[2] or scaled[3]]} {text[scaled.end() :]}"


def _without_marks(text: str) -> str:
    """Undo what `_MARKED` finds: colours, delimiters, systems, currency names, remarks, bases, periods, ordinals."""
    if "\\" in text:
        text = _DELIMITER.sub(" ", _INVISIBLE.sub("", text)).strip()
        text = _DEGREE_TEXT.sub(r"^\\circ \\text{\1}", text)
        text = _SYSTEM_END.sub(r"\\end{cases}", _SYSTEM.sub(r"\\begin{cases}", text))
        text = _DOTTED.sub(r"\1\\overline{\2\3\4}", text)
    text = _REMARK.sub("", _MONEY.sub(_currency, text).strip())
    return _ORDINAL_WORD.sub("", _BASE.sub(_based, _GOING_ON.sub(_period, text)))


def _french_intervals(text: str) -> str:
    """Write ``]2,3[`` as (2,3), where the brackets open and close the wrong way round."""
    plain = _SIDES.sub("", text)
    if plain.count("[") == plain.count("]") and not plain.startswith("]") and plain.find("[") < plain.find("]"):
        return text
    plain = _OPEN_LEFT.sub(lambda found: f"({found[1]}{')' if found[2] in '[)' else ']'}", plain)
    return _OPEN_RIGHT.sub(r"\1\2)", plain)


def _currency(found: re.Match[str]) -> str:
    sign = found.group().strip(" ~\\,;:")
    return rf" \text{{{_MONEY_CODES.get(sign, sign if sign.isalpha() else 'USD')}}} "


def _combination(found: re.Match[str], letter: int, total: int, chosen: int) -> str:
    """Write ``C_{10}^3`` as a binomial coefficient, ``A_{10}^3`` and ``P_{10}^3`` as a quotient of factorials."""
    groups = found.groups()
    sign, n, k = (groups[place] or groups[place + 1] for place in (letter, total, chosen))
    if int(n) < max(2, int(k)):
        return found.group()
    return rf"\binom{{{n}}}{{{k}}}" if sign == "C" else rf"\frac{{{n}!}}{{{int(n) - int(k)}!}}"


def _based(found: re.Match[str]) -> str:
    digits = found[1].strip("()")
    named = found[2] or found[3]
    base = _NAMED_BASES.get(found[4] or "", "") or (named if named and named.isdigit() else "")
    if not base:
        value = number_in_words(named or "")
        base = str(value) if value is not None else ""
    return rf"\based{{{digits}}}{{{base}}}" if base else found.group()


def _period(found: re.Match[str]) -> str:
    """Write ``0.1666...`` with its period; without a repetition it stays as it is, and so unreadable."""
    whole, digits = found[1], found[2]
    for length in range(1, len(digits) // 2 + 1):
        repeats = 1
        while digits[-length:] == digits[-length * (repeats + 1) : -length * repeats]:
            repeats += 1
        if repeats >= 2 and (length == 1 or digits[-length:] != digits[-1] * length):
            return rf"{whole}.{digits[: -length * repeats]}\overline{{{digits[-length:]}}}"
    return found.group() if len(digits) < 9 else f"{whole}.{digits}"
