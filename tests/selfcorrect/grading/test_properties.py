"""Laws that hold for every answer: rewriting keeps the verdict, changing the value does not."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selfcorrect.grading import extract_answer, grade
from selfcorrect.grading.maths.limits import TooLarge, Unreadable
from selfcorrect.grading.maths.parser import read
from selfcorrect.grading.maths.tree import from_lists, show, to_lists

settings.register_profile("grading", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("grading")

integers = st.integers(-(10**6), 10**6)
fractions = st.builds(Fraction, st.integers(-999, 999), st.integers(1, 99))
letters = st.sampled_from("abcxyz")


def boxed(answer: str) -> str:
    return f"Thus we get $\\boxed{{{answer}}}$."


def spellings(value: Fraction) -> list[str]:
    """Every way to write a rational number that must be accepted."""
    top, bottom = value.numerator, value.denominator
    sign, size = ("-", -top) if top < 0 else ("", top)
    ways = [
        f"{sign}\\frac{{{size}}}{{{bottom}}}", f"{sign}\\dfrac{{{size}}}{{{bottom}}}", f"{top}/{bottom}",
        f"\\frac{{{top}}}{{{bottom}}}", f"{sign}\\frac {{{size * 3}}} {{{bottom * 3}}}",
        f"{sign}{{{size} \\over {bottom}}}",
        f"x = \\frac{{{top}}}{{{bottom}}}", f"\\left(\\frac{{{top}}}{{{bottom}}}\\right)",
        f"\\displaystyle {top}/{bottom}",
        f"\\frac{{{top}}}{{{bottom}}}.", f"{sign}\\cfrac{{{size}}}{{{bottom}}}", f"\\frac{{{-top}}}{{{-bottom}}}",
        f"\\text{{{top}/{bottom}}}", f"\\mathbf{{\\frac{{{top}}}{{{bottom}}}}}", f"{{{top}/{bottom}}}\\,",
    ]  # fmt: skip
    if bottom == 1:
        ways += [str(top), f"{top}.0", f"{top}.", f"{top:,}", f"{top:,}".replace(",", "{,}"), f"\\textbf{{{top}}}"]
        ways += [
            f"{top:,}".replace(",", ",\\!"),
            f"{top:,}".replace(",", "\\,"),
            f"{top}.00",
            f"+{top}" if top > 0 else str(top),
        ]
    if size > bottom > 1:
        ways.append(f"{sign}{size // bottom}\\frac{{{size % bottom}}}{{{bottom}}}")
    if (10**6) % bottom == 0:
        ways.append(f"{float(value):.6f}")
    return ways


@given(fractions)
def test_every_spelling_of_a_number_is_accepted(value: Fraction) -> None:
    for gold in (f"\\frac{{{value.numerator}}}{{{value.denominator}}}", f"{value.numerator}/{value.denominator}"):
        for spelling in spellings(value):
            assert grade(boxed(spelling), gold).correct, (spelling, gold)


@given(fractions, fractions)
def test_another_number_is_refused_in_every_spelling(value: Fraction, change: Fraction) -> None:
    if change in (0, -2 * value):
        return
    gold = f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
    for spelling in spellings(value + change):
        assert not grade(boxed(spelling), gold).correct, (spelling, gold)


@given(integers, st.sampled_from([r"\%", "%", r"\text{ cm}", r"^\circ", r"\text{ dollars}", r"\text{ ways}", " units"]))
def test_a_missing_unit_is_harmless_and_another_number_is_not(value: int, unit: str) -> None:
    assert grade(boxed(str(value)), f"{value}{unit}").correct
    assert grade(boxed(f"{value}{unit}"), f"{value}{unit}").correct
    assert not grade(boxed(f"{value + 1}{unit}"), f"{value}{unit}").correct


@given(st.lists(integers, min_size=2, max_size=6, unique=True), st.randoms())
def test_lists_and_sets_have_no_order_tuples_do(items: list[int], random: object) -> None:
    shuffled = sorted(items)
    as_list, as_set = ", ".join(map(str, items)), ", ".join(map(str, shuffled))
    assert grade(boxed(as_set), as_list).correct
    assert grade(boxed(rf"\{{{as_set}\}}"), as_list).correct
    assert grade(boxed(f"({as_set})"), f"({as_list})").correct == (shuffled == items)
    assert not grade(boxed(", ".join(map(str, items[:-1]))), as_list).correct
    assert not grade(boxed(f"{as_list}, {max(items) + 1}"), as_list).correct


polynomials = st.lists(st.integers(-9, 9), min_size=2, max_size=4).filter(lambda c: any(c[1:]))


def written(coefficients: list[int], letter: str) -> str:
    terms = [f"{c:+d}{letter}^{{{k}}}" if k else f"{c:+d}" for k, c in enumerate(coefficients) if c]
    return "".join(terms).lstrip("+")


@given(polynomials, st.integers(-5, 5), letters)
def test_polynomials_expand_and_reorder(coefficients: list[int], root: int, letter: str) -> None:
    factored = (
        f"({letter} - {root})({written(coefficients, letter)})"
        if root >= 0
        else f"({letter}+{-root})({written(coefficients, letter)})"
    )
    product = [0] * (len(coefficients) + 1)
    for k, c in enumerate(coefficients):
        product[k + 1] += c
        product[k] -= root * c
    gold = written(product, letter)
    assert grade(boxed(factored), gold).correct
    assert not grade(boxed(f"{factored} + 1"), gold).correct
    assert not grade(boxed(f"2({factored})"), gold).correct


@given(st.integers(1, 300), st.integers(2, 300))
def test_roots_simplify(outside: int, inside: int) -> None:
    assert grade(boxed(rf"\sqrt{{{outside**2 * inside}}}"), rf"{outside}\sqrt{{{inside}}}").correct
    assert grade(boxed(rf"\frac{{{inside}}}{{\sqrt{{{inside}}}}}"), rf"\sqrt{{{inside}}}").correct
    assert not grade(boxed(rf"\sqrt{{{outside**2 * inside + 1}}}"), rf"{outside}\sqrt{{{inside}}}").correct


@given(integers, integers, st.sampled_from("[("), st.sampled_from("])"))
def test_interval_ends_count(low: int, width: int, left: str, right: str) -> None:
    high = low + abs(width) + 1
    gold = f"{left}{low}, {high}{right}"
    assert grade(boxed(rf"x \in \left{left}{low},{high}\right{right}"), gold).correct
    signs = r"\le" if left == "[" else "<", r"\le" if right == "]" else "<"
    assert grade(boxed(f"{low} {signs[0]} x {signs[1]} {high}"), gold).correct
    flipped = {"[": "(", "(": "["}[left]
    assert not grade(boxed(f"{flipped}{low}, {high}{right}"), gold).correct


@given(st.text(max_size=60))
def test_any_text_is_graded_without_raising(text: str) -> None:
    for response in (text, boxed(text)):
        grade(response, "42")
        grade("\\boxed{42}", text)
        extract_answer(response)


@given(st.text(alphabet="0123456789+-*/^_(){}[]|,.\\ abxfracsqrtpi$%!", max_size=40))
def test_a_readable_answer_equals_itself_and_survives_json(text: str) -> None:
    try:
        tree = read(text)
    except (Unreadable, TooLarge):
        return
    assert from_lists(to_lists(tree)) == tree
    assert show(tree)
    if text.count("{") == text.count("}") and "\\" not in text.replace("\\frac", "").replace("\\sqrt", ""):
        assert grade(boxed(text), text).outcome != "wrong"


@pytest.mark.slow
@settings(max_examples=3000, deadline=None)
@given(fractions)
def test_many_spellings(value: Fraction) -> None:
    test_every_spelling_of_a_number_is_accepted.hypothesis.inner_test(value)  # type: ignore[attr-defined]
