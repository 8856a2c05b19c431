"""An equality needs a witness: what has no finite value, or was not compared, is equal to nothing."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path

import pytest

from selfcorrect.grading import answers_agree, grade
from selfcorrect.grading.maths import exact
from selfcorrect.grading.maths.equivalence import Equivalence
from selfcorrect.grading.maths.parser import read
from selfcorrect.grading.maths.tree import Node
from selfcorrect.grading.maths.witness import Witness, doubtful_part
from selfcorrect.grading.rules import MATH
from selfcorrect.grading.workers import highprecision
from selfcorrect.grading.workers.pool import compare, has_value

sys.path.insert(0, str(Path(__file__).resolve().parent))
import degenerate

REFERENCES = ("7", r"\frac{3}{8}", r"\sqrt2", r"2\pi", "x^2+1", "(1, 2)", "1, 2", r"\{1, 2\}", "[0, 5)", "x = 3", "e^5")


def boxed(answer: str) -> str:
    return f"$\\boxed{{{answer}}}$"


NO_NUMBERS = [
    *degenerate.listed(r"""
        \ln 0  \log 0  -\ln 0  \frac{1}{\ln 0}  5+\ln 0  \ln\ln 1  \ln\sin 0  \operatorname{arctanh}(1)  200!+\ln 2
        10^{309}+\ln 2  10^{400}+\ln 2  e^{1000}+\ln 2  \cosh 800+1  2^{2000}+\sqrt{1+\sqrt2}  \frac{1}{10^{600}+\ln 2}
        \text{}  {}  \{\}  ()  \frac{\sin\pi}{\sin 2\pi}  0^0  \frac00  \sum_{k=5}^{1}k  \infty-\infty
    """),
    *("\\text{\0}", "\\mathrm{\0}", "\\mbox{\0}", "\0"),
]


@pytest.mark.parametrize("gold", REFERENCES)
@pytest.mark.parametrize("answer", NO_NUMBERS)
def test_what_is_no_number_equals_no_reference(answer: str, gold: str) -> None:
    result = grade(boxed(answer), gold)
    assert not result.correct, result
    assert result.method not in ("grader-error", "undecided"), result
    assert answers_agree(answer, gold) is not True


NEARLY = r"""
    e^{800}+\ln 2 ## e^{800}
    1000!+\sin 1 ## 999!
    2^{2004}+\log_2 3 ## 2^{2005}
    \pi+10^{-400} ## \pi
    2^{100000}+1 ## 2^{100000}
    3^{50000}-1 ## 3^{50000}
    \frac{1}{2^{100000}} ## 0
    (a+b)^{70}+1 ## (a+b)^{70}
    5+0\cdot\ln 0 ## 5
    5\cdot(\ln 0)^0 ## 5
    5+\ln 0-\ln 0 ## 5
    (5+0\cdot\tan\frac{\pi}{2}, 1) ## (5, 1)
    5+\frac{0}{\sqrt{5+2\sqrt6}-\sqrt2-\sqrt3} ## 5
    5+0\cdot\lim_{t\to0}\frac{|t|}{t} ## 5
    5+0\cdot\int_0^1\frac1t\,dt ## 5
    \ln 0 = 5 ## 5
    \sqrt5 = 3 ## 3
    \lfloor x\rfloor ## x
    x+\sin(\pi\binom x1) ## x
    n+1+\prod_{k=2}^{12}(n-k) ## n+1
    5+\lfloor 1-10^{-400}\rfloor-1 ## 5
    x^2+y = 15+\operatorname{sgn}(x)-1 ## x^2+y = 15
    x+\max(0, x-10) ## x
    x+|x|-x ## x
    2a+b : 27^{189}+\prod_{k=2}^{12}(n-k) ## 2a+b : 27^{189}
    \cos(10^{-300}) ## 1
    \frac{1}{10^{200}+\ln 2} ## 10^{-200}
    e^{10^{-300}} ## 1
"""


@pytest.mark.parametrize("line", NEARLY.strip().splitlines(), ids=str.strip)
def test_a_small_difference_or_a_lost_part_is_seen(line: str) -> None:
    answer, gold = line.strip().split(" ## ")
    result = grade(boxed(answer), gold)
    assert not result.correct, result
    assert grade(boxed(gold), gold).correct


@pytest.mark.parametrize(
    ("answer", "gold", "reason"),
    [
        ("0.5", r"\frac12", "equal as exact rationals"),
        (r"2x+x", "3x", "equal by exact algebra"),
        ("4^{500000}", "2^{1000000}", "equal modulo two primes of 127 bits"),
        (r"(b+a)^{70}", "(a+b)^{70}", "equal modulo two primes of 127 bits"),
        (r"2\sin x\cos x", r"\sin 2x", r"equal at \d\d points to 100 digits"),
        (r"\sqrt{5+2\sqrt6}", r"\sqrt2+\sqrt3", "equal to 100 digits"),
        (r"\sin(\arccos x)", r"\sqrt{1-x^2}", r"equal at \d\d points to 100 digits"),
        (r"\sum_{k=1}^{\infty}\frac{1}{k^2}", r"\frac{\pi^2}{6}", r"equal by SymPy \(their difference is 0\)"),
        (r"e^{1000}\cdot e^{24}", "e^{1024}", "equal by exact algebra"),
        (r"\lfloor\frac n2\rfloor", r"\frac{2n-1+(-1)^n}{4}", r"equal at \d\d points to 100 digits"),
        (r"\binom nk", r"\frac{n!}{k!(n-k)!}", r"equal at \d\d points to 100 digits"),
        (r"\sum_{n=0}^{\infty} x^n", r"\frac{1}{1-x}", r"equal by SymPy \(their difference is 0\)"),
    ],
)
def test_the_reason_says_what_decided(answer: str, gold: str, reason: str) -> None:
    result = grade(boxed(answer), gold)
    assert result.correct, result
    assert re.fullmatch(reason, result.reason), result.reason


def test_outside_the_real_domain_nothing_is_compared() -> None:
    assert highprecision.equal(read(r"\sin(\arccos x)"), read(r"\sqrt{1-x^2}"), positive=False)[0] is True
    assert highprecision.equal(read(r"\sin(\arccos x)"), read(r"\sqrt{1-x^2}+10^{-30}"), positive=False)[0] is False
    assert highprecision.equal(read(r"\sqrt{-x^2-1}"), read(r"i\sqrt{x^2+1}"), positive=False)[0] is True


def test_numbers_of_any_size_are_compared_exactly() -> None:
    assert exact.same(read("2^{100000}+1"), read("2^{100000}")) is False
    assert exact.same(read("4^{500000}"), read("2^{1000000}")) is True
    assert exact.same(read(r"\frac{3000!}{2999!}"), read("3000")) is True
    assert exact.same(read("(1+i)^{1000}"), read("2^{500}")) is True
    assert exact.same(read("5+\\frac{0}{x-x}"), read("5")) is False
    assert exact.same(read(r"\sin 1"), read("1")) is None


def test_every_equal_of_two_quantities_passes_the_gate() -> None:
    with pytest.raises(AssertionError, match="witness"):
        Witness("points", "")
    assert doubtful_part(read(r"\frac{1}{\sqrt8-2}+x^2"), read("1")) is None
    assert doubtful_part(read(r"5+0\cdot\ln 0"), read("5")) is not None
    nothing: tuple[Node, ...] = ()
    comparison = Equivalence(MATH)
    assert not comparison.same(Node("list", "", nothing), read("5"))
    assert not comparison.same(Node("tuple", "()", nothing), Node("tuple", "[]", nothing))
    assert not comparison.same(Node("list", "", nothing), Node("set", "", nothing))


def test_a_worker_says_whether_a_value_exists() -> None:
    assert has_value(read("e^{1000}"), positive=False).verdict is True
    assert has_value(read(r"\int_0^1 x^2\,dx"), positive=False).verdict is True
    for tree in (r"\ln 0", r"\ln(\sin\pi)", r"\int_0^1 \frac1x\,dx", r"9^{9^{9^9}}"):
        assert has_value(read(tree), positive=False).verdict is not True
    assert compare(read("5"), read(r"\ln 0"), positive=False).blame == "reference"
    assert compare(read(r"\ln 0"), read("5"), positive=False).blame == "response"


def test_no_degenerate_answer_is_accepted() -> None:
    rng = random.Random(0)
    findings = [finding for _ in range(400) if (finding := degenerate.check(rng)) and finding[0] != "slow"]
    assert findings == []


@pytest.mark.slow
def test_no_degenerate_answer_of_many_is_accepted() -> None:
    rng = random.Random(1)
    findings = [finding for _ in range(10_000) if (finding := degenerate.check(rng)) and finding[0] != "slow"]
    assert findings == []
