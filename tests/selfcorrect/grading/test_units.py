"""Units: the table of common ones is pint's, and an ordinary grade does not load pint."""

from __future__ import annotations

import string
import subprocess
import sys
from itertools import product

import pytest

from selfcorrect.grading.maths import units
from selfcorrect.grading.maths.common_units import COMMON, may_be_unit


def by_pint(word: str, monkeypatch: pytest.MonkeyPatch) -> units.Unit | None:
    monkeypatch.setattr(units, "COMMON", {})
    return units._pint(word)


def test_every_common_unit_is_pints(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {word: by_pint(word, monkeypatch) for word in COMMON} == COMMON


def test_no_unit_of_one_or_two_letters_is_ruled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*string.ascii_letters, *map("".join, product(string.ascii_letters, repeat=2))]
    units_found = [word for word in words if by_pint(word, monkeypatch) is not None]
    assert len(units_found) > 500
    assert [word for word in units_found if not may_be_unit(word)] == []
    assert not any(map(may_be_unit, ["x", "n^2", "ab", "xy", r"2 k x", "ix"]))


ORDINARY = [
    ("12", "13"), ("2k", "2k+1"), ("3x", "3y"), ("3R^2", "-(3R^2)"), ("2ab", "3ac"), (r"\frac{1}{2}", "0.5"),
    (r"5 \text{ cm}", "5"), (r"5 \text{ cm}", r"50 \text{ mm}"), (r"2 \text{ h } 30 \text{ min}", r"150 \text{ min}"),
    ("12 apples", "12"), ("(1,2)", "(2,1)"), ("x = 5", "5"), (r"3\sqrt{2}", r"2\sqrt{3}"), ("72", r"72 \text{ km}"),
]  # fmt: skip


def test_an_ordinary_grade_never_loads_pint() -> None:
    code = (
        "import sys; from selfcorrect.grading import grade\n"
        f"for answer, gold in {ORDINARY!r}: grade('so ' + chr(92) + 'boxed{' + answer + '}', gold)\n"
        "print('pint' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.stdout.strip() == "False", ran.stderr[-500:]
