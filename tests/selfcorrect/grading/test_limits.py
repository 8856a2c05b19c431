"""Answers that are hard to evaluate: bounded in steps, decided where they can be, else the response's own fault."""

from __future__ import annotations

import gc
import time

import pytest

from selfcorrect.grading import grade
from selfcorrect.grading.maths.equivalence import Equivalence
from selfcorrect.grading.maths.limits import MAX_QUESTIONS, TooLarge, at_most, budget, spend, steps_left
from selfcorrect.grading.maths.parser import read
from selfcorrect.grading.maths.tree import Node
from selfcorrect.grading.rules import MATH
from selfcorrect.grading.workers.pool import Decision
from selfcorrect.types import Grade, Outcome

SQUARE = r"\begin{pmatrix}1&1\\1&0\end{pmatrix}"
TURN = r"\begin{pmatrix}\cos x&-\sin x\\\sin x&\cos x\end{pmatrix}"
HARD = r"\int_0^{\infty} \frac{\sin^{%d}(x^3) e^{-x^2}}{\sqrt{x^5+\ln(1+x)}} dx"


def nested(times: int, innermost: str = "x") -> str:
    for _ in range(times):
        innermost = rf"\sum_{{k=1}}^{{\infty}}({innermost})"
    return innermost


def fibonacci(n: int) -> str:
    numbers = [0, 1]
    while len(numbers) < n + 2:
        numbers.append(numbers[-1] + numbers[-2])
    return rf"\begin{{pmatrix}}{numbers[n + 1]}&{numbers[n]}\\{numbers[n]}&{numbers[n - 1]}\end{{pmatrix}}"


def graded(answer: str, gold: str) -> tuple[Grade, float]:
    begun = time.process_time()
    result = grade(f"$\\boxed{{{answer}}}$", gold)
    return result, time.process_time() - begun


HOSTILE = {
    "nested sums": r"\sum_{i=1}^{300}\sum_{j=1}^{300}\sum_{k=1}^{300}\sum_{l=1}^{300} 2",
    "nested products": r"\prod_{i=1}^{300}\prod_{j=1}^{300}\prod_{k=1}^{300} 2",
    "powers of a sum": "+".join([r"(a+b+c)^{24}"] * 100),
    "deep operators": nested(18),
    "hard integral": HARD % 17,
    "hard integrals": ", ".join(HARD % k for k in range(3, 23)),
    "factorials": r"\sum_{n=1}^{100000} n!",
    "power tower": "9^{9^{9^9}}",
    "exponent": "1E400000000",
    "powers in a limit": r"\lim_{x\to0}(x+((2^{2000})^{2000})^{400})",
    "long": "1+" * 5_001 + "1",
    "signs": "-" * 3_000 + "1",
    "tower": "2^" * 1_500 + "2",
    "factorials of factorials": "3" + "!" * 2_000,
    "brackets": "(" * 41 + "1" + ")" * 41,
    "sine of a factorial": r"\sin(3000!)",
    "products of sums": "".join(rf"(1+\sqrt{{{p}}})" for p in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43)),
    "functions in a matrix": r"\begin{pmatrix}\sin x&x\\0&\ln x\end{pmatrix}" * 40,
    "determinant": r"\det\begin{pmatrix}"
    + r"\\".join("&".join(f"(x+y+{4 * i + j})^{{20}}" for j in range(4)) for i in range(4))
    + r"\end{pmatrix}",
    "nested functions": r"\sin(x+\ln(x+" * 9 + "x" + "))" * 9,
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("gold", ["7", "5, 6", r"\sqrt2+x"])
def test_a_hostile_answer_is_wrong_or_unanswered_soon(name: str, gold: str) -> None:
    result, spent = graded(HOSTILE[name], gold)
    assert result.outcome is Outcome.WRONG or result.unanswered, result
    assert spent < 0.5  # of the caller's CPU; 0.2 on the machine this was written on


@pytest.mark.parametrize("name", ["hard integral", "power tower", "exponent", "long", "brackets", "nested sums"])
def test_what_exceeds_the_limits_is_the_responses_fault_where_the_reference_can_be_evaluated(name: str) -> None:
    result, _ = graded(HOSTILE[name], "7")
    assert result.method == "limit"
    assert result.unanswered
    assert "response" in result.reason or "answer" in result.reason


def test_a_reference_that_cannot_be_evaluated_is_not_the_responses_fault() -> None:
    for gold in (HARD % 17, "9^{9^{9^9}}", r"(1, 9^{9^{9^9}})"):
        answer = "(1, 7)" if gold.startswith("(") else "7"
        result, _ = graded(answer, gold)
        assert result.method == "undecided", result
        assert not result.unanswered


@pytest.mark.parametrize("n", [2, 8, 16, 40])
def test_written_out_powers_of_a_matrix_are_recognised(n: int) -> None:
    result, spent = graded(SQUARE * n, fibonacci(n))
    assert result.correct, result
    assert spent < 0.5
    assert not graded(SQUARE * n, fibonacci(n + 1))[0].correct


def test_functions_in_matrices_are_multiplied_out() -> None:
    gold = r"\begin{pmatrix}\cos %dx&-\sin %dx\\\sin %dx&\cos %dx\end{pmatrix}"
    assert graded(TURN * 8, gold % (8, 8, 8, 8))[0].correct
    assert not graded(TURN * 8, gold % (8, 8, 7, 8))[0].correct
    lost = r"\begin{pmatrix}5&%s\\1&1\end{pmatrix}\begin{pmatrix}1\\0\end{pmatrix}"
    assert graded(lost % r"\ln 3", r"\begin{pmatrix}5\\1\end{pmatrix}")[0].correct
    assert not graded(lost % r"\ln 0", r"\begin{pmatrix}5\\1\end{pmatrix}")[0].correct


def test_large_powers_of_sums_are_still_decided() -> None:
    assert graded("+".join([r"(a+b+c)^{24}"] * 100), "100(c+b+a)^{24}")[0].correct
    assert graded("+".join([r"(a+b+c)^{24}"] * 100), "101(c+b+a)^{24}")[0].outcome is Outcome.WRONG


@pytest.mark.parametrize("pattern", [r"%d", r"\sqrt{%d}", r"\sin %d", r"\frac{x}{%d}"])
def test_long_lists_in_another_order(pattern: str) -> None:
    items = [pattern % k for k in range(2, 150)]
    result, spent = graded(", ".join(items), ", ".join(reversed(items)))
    assert result.correct, result
    assert spent < 0.5
    assert not graded(", ".join(items[:-1] + [pattern % 500]), ", ".join(reversed(items)))[0].correct


def test_the_same_answer_meets_the_same_limit_again() -> None:
    for answer in (HOSTILE["powers of a sum"], HOSTILE["functions in a matrix"], HOSTILE["determinant"]):
        first = graded(answer, "7")[0]
        assert graded(answer, "7")[0] == first


def test_steps_are_counted_and_parts_take_from_the_whole() -> None:
    with budget(100):
        spend(40)
        with at_most(30):
            spend(10)
            assert steps_left() == 20
        assert steps_left() == 50
        with at_most(30), pytest.raises(TooLarge, match="steps"):
            spend(31)
        assert steps_left() == 20
        with pytest.raises(TooLarge):
            spend(21)
    assert steps_left() == float("inf")


class Silent:
    """A worker that never finds anything out; counts what it is asked."""

    def __init__(self, verdict: bool | None) -> None:
        self.asked = 0
        self.verdict = verdict

    def compare(self, response: Node, gold: Node, positive: bool) -> Decision:
        self.asked += 1
        return Decision(self.verdict, "to 100 digits", "response")

    def has_value(self, tree: Node, positive: bool) -> bool:
        self.asked += 1
        return True


def test_the_first_question_that_stays_open_is_the_last_of_a_grade() -> None:
    many = read(", ".join(rf"\sin(\ln {k})" for k in range(2, 30)))
    worker = Silent(None)
    assert Equivalence(MATH, worker).same(many, read(", ".join(rf"\int_0^1 x^{k} dx" for k in range(2, 30)))) is None
    assert worker.asked == 1
    eager = Silent(False)
    Equivalence(MATH, eager).same(many, read(", ".join(rf"\int_0^1 x^{k} dx" for k in range(2, 30))))
    assert eager.asked <= MAX_QUESTIONS


@pytest.mark.parametrize("nothing", [r"\max()", r"\min(\,)", r"4+\max()", r"\gcd()", r"\ln 2+\max()", r"4+0\max()"])
def test_a_function_of_nothing_has_no_value_and_is_no_fault_of_the_grader(nothing: str) -> None:
    for gold in ("4", "(4,7)", r"\ln 2"):
        for response in (nothing, f"({nothing},4)"):
            result = grade(rf"\boxed{{{response}}}", gold)
            assert result.outcome is not Outcome.CORRECT
            assert result.method not in ("grader-error", "undecided")


@pytest.mark.parametrize("answer", ["10^{10^6}!", "9^{9^{9^{9^9}}}"])
def test_an_answer_over_the_limits_leaves_nothing_in_memory_each_time(answer: str) -> None:
    """The remembered exception gathered the frames of every grade that raised it: 2 to 4 KB for each."""

    def objects_after(times: int) -> int:
        for _ in range(times):
            assert grade(rf"\boxed{{{answer}}}", "5").method == "limit"
        gc.collect()
        return len(gc.get_objects())

    before = objects_after(5)
    assert objects_after(60) - before < 100  # it was 16 for each grade
