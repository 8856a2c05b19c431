"""Mathematics on one line of a terminal: what an answer's LaTeX says, in characters."""

from __future__ import annotations

import re

_SYMBOLS = {
    "times": "×", "cdot": "·", "div": "÷", "pm": "±", "mp": "∓", "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥",
    "ne": "≠", "neq": "≠", "approx": "≈", "infty": "∞", "pi": "π", "theta": "θ", "alpha": "α", "beta": "β",
    "gamma": "γ", "lambda": "λ", "mu": "μ", "sigma": "σ", "phi": "φ", "omega": "ω", "in": "∈", "cup": "∪", "cap": "∩",
    "subset": "⊂", "emptyset": "∅", "to": "→", "ldots": "…", "dots": "…", "cdots": "⋯", "circ": "°", "deg": "°",
    "angle": "∠", "sum": "∑", "prod": "∏", "int": "∫", "quad": " ", "%": "%", "$": "$", "{": "{", "}": "}",
}  # fmt: skip
_POWERS = str.maketrans("0123456789+-n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ")
_GROUP = r"\{([^{}]*)\}"
_PLAIN = re.compile(r"[\w.]+")


def readable(latex: str) -> str:
    r"""Return an answer as one line: ``\frac{x+1}{2}`` is ``(x+1)/2``; what is not known stays as it is."""
    text = re.sub(r"\\(?:left|right|displaystyle|,|;|!)(?![a-z])", "", latex)
    before = None
    while text != before:  # from the inside out
        before = text
        text = re.sub(rf"\\[dt]?frac{_GROUP}{_GROUP}", lambda m: f"{_one(m[1])}/{_one(m[2])}", text)
        text = re.sub(rf"\\sqrt{_GROUP}", lambda m: f"√{_one(m[1])}", text)
        text = re.sub(rf"\\(?:text|mathrm|mathbf|boxed|operatorname){_GROUP}", r"\1", text)
        text = re.sub(rf"\^(?:{_GROUP}|([0-9n]))", _power, text)
    text = re.sub(r"\\([a-zA-Z]+|[%${}])", lambda m: _SYMBOLS.get(m[1], m[0]), text)
    return " ".join(text.replace("^°", "°").strip("$ ").split())


def _one(term: str) -> str:
    return term if _PLAIN.fullmatch(term) else f"({term})"


def _power(found: re.Match[str]) -> str:
    raised = found[1] if found[1] is not None else found[2]
    return raised.translate(_POWERS) if re.fullmatch(r"[0-9+\-n]+", raised) else f"^({raised})"
