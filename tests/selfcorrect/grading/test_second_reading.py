"""The second reader (latex2sympy): off unless asked for; what it reads, and what it is not asked."""

from __future__ import annotations

import pytest

from selfcorrect.errors import InputError, MissingExtraError
from selfcorrect.grading import answers_agree, gold_is_readable, grade, grade_many, grader_fingerprint, second_reading
from selfcorrect.types import Outcome

DOUBLE = r"\int_0^1\int_0^1 xy\,dx\,dy"
TRACE = r"\operatorname{tr}\begin{pmatrix}1&2\\3&4\end{pmatrix}"


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("latex2sympy2_extended", reason="needs the extra latex")
    monkeypatch.setenv(second_reading.SWITCH, "1")


def boxed(answer: str) -> str:
    return rf"\boxed{{{answer}}}"


def test_it_is_off_unless_it_is_asked_for() -> None:
    assert not second_reading.is_on()
    assert grade(boxed(DOUBLE), "1/4").method == "response-unreadable"
    assert not gold_is_readable(DOUBLE)
    assert "+" not in grader_fingerprint()


@pytest.mark.usefixtures("on")
@pytest.mark.parametrize(
    ("response", "gold", "outcome"),
    [
        (DOUBLE, r"\frac14", Outcome.CORRECT),
        (DOUBLE, "0.25", Outcome.CORRECT),
        (DOUBLE, r"\frac15", Outcome.WRONG),
        (r"\frac14", DOUBLE, Outcome.CORRECT),
        ("4", DOUBLE, Outcome.WRONG),
        (TRACE, "5", Outcome.CORRECT),
        (TRACE, "6", Outcome.WRONG),
        (r"\int_0^a\int_0^b 1\,dx\,dy", "ab", Outcome.CORRECT),
        (r"\int_0^a\int_0^b 1\,dx\,dy", "a+b", Outcome.UNGRADABLE),  # letters that differ are nobody's proof
    ],
)
def test_it_decides_what_the_parser_cannot_read(response: str, gold: str, outcome: Outcome) -> None:
    result = grade(boxed(response), gold)
    assert result.outcome is outcome, result
    assert gold_is_readable(gold)
    if outcome is not Outcome.UNGRADABLE:
        assert result.method == "latex2sympy"
        assert result.reason.endswith("read by latex2sympy")
    assert grade_many([(boxed(response), gold)]) == [result]


@pytest.mark.usefixtures("on")
@pytest.mark.parametrize(
    ("response", "gold"),
    [
        (rf"{TRACE} \text{{ or }} 7", "5"),
        (rf"{TRACE}, 7", "5"),
        (rf"{TRACE} = 7", "5"),
        (rf"{TRACE} 2 3", "30"),
        (rf"{TRACE}^\circ", "5"),
        (rf"{TRACE} apples", "5"),
        (rf"{TRACE}.0", "5"),
        (rf"{TRACE} \unknown{{7}}", "5"),
        (r"\int\int 9^{9^{9^9}} dx dy", "1"),
        (r"\int_0^1\int_0^1 x^{x^{y^x}}\,dx\,dy", "1"),
        (r"\int_0^\infty\int_0^1 x\,dy\,dx", "1"),
        (rf"{TRACE}" + "+1" * 300, "305"),
    ],
)
def test_what_it_would_guess_or_not_finish_stays_unread(response: str, gold: str) -> None:
    assert grade(boxed(response), gold).outcome is Outcome.UNGRADABLE


@pytest.mark.usefixtures("on")
def test_what_the_parser_reads_is_not_changed_and_rows_are_marked() -> None:
    assert grade(boxed("7 8"), "15").outcome is not Outcome.CORRECT
    assert grade(boxed("7"), "8").method == "number"
    assert not gold_is_readable(r"\unknown{3}")
    assert grade(boxed("3"), r"\unknown{3}").method == "gold-unreadable"
    assert answers_agree(DOUBLE, "1/4") is True
    assert "+latex2sympy-" in grader_fingerprint()


def test_a_wrong_switch_and_a_missing_extra_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(second_reading.SWITCH, "yes")
    with pytest.raises(InputError, match="expected 1"):
        grade(boxed(DOUBLE), "1/4")
    monkeypatch.setattr("selfcorrect.extras.find_spec", lambda name: None)
    monkeypatch.setenv(second_reading.SWITCH, "1")
    second_reading._switched.cache_clear()
    with pytest.raises(MissingExtraError, match=r"\[latex\]'"):
        grader_fingerprint()
    second_reading._switched.cache_clear()
