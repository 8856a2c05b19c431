"""Known pairs that must grade as known, run by ``doctor`` and before every run: a broken grader is loud, not a 0."""

from __future__ import annotations

from selfcorrect.grading.grader import grade
from selfcorrect.grading.maths.tree import num
from selfcorrect.grading.workers.pool import has_value
from selfcorrect.types import Outcome

_C, _W, _U = Outcome.CORRECT, Outcome.WRONG, Outcome.UNGRADABLE
PAIRS: tuple[tuple[str, str, str, Outcome], ...] = (
    (r"So $\boxed{18}$.", "18", "gsm8k", _C),
    ("#### 1,450,000", "1450000", "gsm8k", _C),
    ("The answer is 7.", "7", "gsm8k", _C),
    (r"\boxed{17}", "18", "gsm8k", _W),
    (r"A draft: \boxed{41}. Better: \boxed{42}", "42", "math", _C),
    (r"First \boxed{42}. No: \boxed{41}", "42", "math", _W),
    (r"\boxed{42} is a draft. \boxed{}", "42", "math", _W),
    ("I give up.", "42", "arithmetic", _U),
    (r"\boxed{5}", r"\begin{cases}", "math", _U),
    (r"\boxed{\dfrac{7}{2}}", "3.5", "math", _C),
    (r"\boxed{3\frac12}", r"\frac{7}{2}", "math", _C),
    (r"\boxed{10\,080}", "10080", "math", _C),
    (r"\boxed{0.3333}", r"\frac13", "math", _W),
    (r"\boxed{\frac{1}{2006!}}", r"\frac{1}{2004!}", "math", _W),
    (r"\boxed{1E400000000}", "7", "math", _U),
    (r"\boxed{9^{9^{9^9}}}", "7", "math", _U),
    (r"\boxed{52_8}", "52_8", "math", _C),
    (r"\boxed{52_9}", "52_8", "math", _W),
    (r"\boxed{28}", r"28\%", "math", _C),
    (r"\boxed{55}", r"55^\circ", "math", _C),
    (r"\boxed{15\text{ cm}^2}", r"15\mbox{ cm}^2", "math", _C),
    (r"\boxed{[0,9)}", "(0,9)", "math", _W),
    (r"\boxed{x > 5}", r"(5,\infty)", "math", _C),
    (r"\boxed{(2,1)}", "(1,2)", "math", _W),
    (r"\boxed{3,2,1}", "1,2,3", "math", _C),
    (r"\boxed{1,2}", "1,2,3", "math", _W),
    (r"\boxed{42 \text{ or } 41}", "42", "math", _W),
    (r"\boxed{42 \pm 5}", "42", "math", _W),
    (r"\boxed{x = 1 \pm \sqrt{19}}", r"1 \pm \sqrt{19}", "math", _C),
    (r"\boxed{\frac{1}{\sqrt3}}", r"\frac{\sqrt{3}}{3}", "math", _C),
    (r"\boxed{2(x+1)}", "2x+2", "math", _C),
    (r"\boxed{2x+1}", "2x+2", "math", _W),
    (r"\boxed{-2x+2y-2=0}", "x-y+1=0", "math", _C),
    (r"\boxed{\begin{bmatrix}1\\2\end{bmatrix}}", r"\begin{pmatrix}1\\2\end{pmatrix}", "math", _C),
    (r"\boxed{\textbf{(C)}}", r"\text{(C)}", "math", _C),
    (r"\boxed{odd}", r"\text{odd}", "math", _C),
    (r"\boxed{7.2 \times 10^{-5}}", "7.2e-5", "minerva", _C),
    (r"\boxed{8, 4}", "$4$,$8$", "olympiadbench", _C),
)
WORKER_PAIRS: tuple[tuple[str, str, str, Outcome], ...] = (
    (r"\boxed{2\sin x\cos x}", r"\sin 2x", "math", _C),
    (r"\boxed{\sum_{k=1}^{\infty}\frac{1}{k^2}}", r"\frac{\pi^2}{6}", "math", _C),
    (r"\boxed{\sqrt{x^2}}", "x", "math", _W),
)
"""Pairs that need the worker pool; they also start it."""


def self_test(*, workers: bool = True) -> list[str]:
    """Return one line for each pair that grades otherwise than known: empty where the grader works.

    A worker is started in any case: raises GraderError where none can be.
    """
    failures = [] if has_value(num("1"), positive=False).verdict else ["a worker does not know that 1 has a value"]
    for response, gold, source, expected in PAIRS + (WORKER_PAIRS if workers else ()):
        result = grade(response, gold, source=source)
        if result.outcome is not expected:
            failures.append(
                f"{response!r} against {gold!r}: expected {expected}, got {result.outcome} ({result.reason})"
            )
    return failures
