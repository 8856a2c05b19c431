"""`grade`: a response and a reference answer -> Grade. Never raises on model text; callable from any thread.

Two tiers: the hand-written reader and normal forms decide nearly everything in this process; what they leave open
goes to the guarded worker pool (`pool`), which may be killed without harm.
"""

from __future__ import annotations

import asyncio
import re
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from selfcorrect.errors import SelfCorrectError
from selfcorrect.grading import second_reading, wording
from selfcorrect.grading.extraction import extract
from selfcorrect.grading.maths.equivalence import Equivalence, Slow
from selfcorrect.grading.maths.limits import MAX_ANSWER_CHARS, SHORT_ANSWER_CHARS, TooLarge, Unreadable, budget
from selfcorrect.grading.maths.parser import read
from selfcorrect.grading.maths.readings import other_readings
from selfcorrect.grading.maths.tree import Node, num, show
from selfcorrect.grading.references import read_reference, reference_text
from selfcorrect.grading.rules import MATH, Rules, rules_for
from selfcorrect.grading.spelling import ascii_digits
from selfcorrect.types import Grade, Outcome

if TYPE_CHECKING:
    from selfcorrect.grading.workers.pool import Decision

GOLD_UNREADABLE = "gold-unreadable"
NOTHING_EXTRACTED = "nothing-extracted"
RESPONSE_UNREADABLE = "response-unreadable"
LIMIT = "limit"
UNDECIDED = "undecided"
GRADER_ERROR = "grader-error"
UNGRADABLE_METHODS = (GOLD_UNREADABLE, NOTHING_EXTRACTED, RESPONSE_UNREADABLE, LIMIT, UNDECIDED, GRADER_ERROR)
"""The ``method`` of every UNGRADABLE grade: which of the two texts, or which bound, is to blame."""

_INTEGER = re.compile(r"-?[0-9]+")
_WORDY = re.compile(
    r"(?<![\\a-zA-Z])(?:[a-zA-Z]{2,}|[A-Z](?![a-zA-Z]))|[ap]\.\s?m|[:∅：∞]|\\(?:emptyset|varnothing|infty|\{)"
)
_INFINITY = re.compile(r"\s*\+?\s*(?:\\infty|∞|infinity)\s*")
_SHOWN = 2_000
_BLANKS = " \t\r\n"
"""Not the form feed, which may be what is left of ``\\frac``."""
_MAX_READINGS = 12
Tolerance: TypeAlias = str | float | Fraction | None
"""An allowed absolute error; text such as ``1e-1`` is taken exactly."""


def grade(
    response: str,
    gold: str,
    *,
    source: str = "math",
    extraction: Sequence[str] | None = None,
    tolerance: Tolerance = None,
    cut: bool = False,
) -> Grade:
    """Return the grade of one response.

    ``source`` names the data set and so the rules (`rules.rules_for`); ``extraction`` replaces the places that are
    looked at, in order (`extraction`); ``tolerance`` is the absolute error a problem itself allows (OlympiadBench's
    ``error``; an error of exactly that size passes); ``cut`` says that a token budget ended the response.
    """
    return _guarded(response, gold, rules_for(source), extraction, _exact(tolerance), cut, _ask_pool)


async def grade_async(
    response: str, gold: str, *, source: str = "math", tolerance: Tolerance = None, cut: bool = False
) -> Grade:
    """Return the grade without blocking the event loop (`grade` itself also works there, but blocks it)."""
    return await asyncio.to_thread(grade, response, gold, source=source, tolerance=tolerance, cut=cut)


def grade_many(
    pairs: Sequence[tuple[str, str]],
    *,
    source: str | Sequence[str] = "math",
    extraction: Sequence[str] | None = None,
    tolerance: Sequence[Tolerance] | None = None,
    cut: Sequence[bool] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Grade]:
    """Return the grades of (response, gold) pairs in their order; the open ones share the worker pool.

    ``source`` is one name for all or one for each pair; ``tolerance`` and ``cut`` have a value for each pair;
    ``progress`` is called with the number done so far.
    """
    sources = [source] * len(pairs) if isinstance(source, str) else list(source)
    tolerances = tolerance or [None] * len(pairs)
    cuts = cut or [False] * len(pairs)
    grades: list[Grade] = []
    open_pairs: list[int] = []
    rows = zip(pairs, sources, tolerances, cuts, strict=True)
    for index, ((response, gold), name, allowed, is_cut) in enumerate(rows):
        result = _guarded(response, gold, rules_for(name), extraction, _exact(allowed), is_cut, None)
        grades.append(result)
        if result.method == UNDECIDED:
            open_pairs.append(index)
        elif progress:
            progress(index + 1 - len(open_pairs))
    if not open_pairs:
        return grades

    def again(index: int) -> Grade:
        return grade(
            *pairs[index],
            source=sources[index],
            extraction=extraction,
            tolerance=tolerances[index],
            cut=cuts[index],
        )

    from selfcorrect.grading.workers.pool import WORKERS, close_pool

    threads = ThreadPoolExecutor(WORKERS, thread_name_prefix="grade")
    try:
        for done, (index, result) in enumerate(zip(open_pairs, threads.map(again, open_pairs), strict=True)):
            grades[index] = result
            if progress:
                progress(len(pairs) - len(open_pairs) + done + 1)
    except BaseException:  # Ctrl-C above all: what waits is dropped, what runs loses its worker
        threads.shutdown(wait=False, cancel_futures=True)
        close_pool()
        raise
    threads.shutdown()
    return grades


def extract_answer(
    response: str, source: str = "math", *, extraction: Sequence[str] | None = None, cut: bool = False
) -> str | None:
    """Return the answer text that `grade` would judge, None where no allowed place holds one."""
    found = extract(ascii_digits(response), extraction or rules_for(source).extraction, cut=cut)
    return found[0].strip(_BLANKS) if found else None


def gold_is_readable(gold: str, source: str = "math") -> bool:
    """True where the reference answer can be graded against; other problems must be dropped and counted."""
    return read_reference(gold) is not None or (second_reading.is_on() and second_reading.reads(reference_text(gold)))


def answers_agree(left: str, right: str, *, source: str = "math") -> bool | None:
    """Compare two extracted answers (majority voting): equal, different, or None where undecided."""
    outcome = _compare(left, right, rules_for(source), None, _ask_pool).outcome
    return None if outcome is Outcome.UNGRADABLE else outcome is Outcome.CORRECT


def _exact(tolerance: Tolerance) -> Fraction | None:
    """Return a tolerance as written (0.001 is a thousandth); None for none and for what is no number."""
    if tolerance is None or tolerance == "":
        return None
    try:
        exact = abs(Fraction(str(tolerance)))
    except (ValueError, ZeroDivisionError):
        return None
    return exact or None


# -- one grade -------------------------------------------------------------------------------------------


def _guarded(
    response: str,
    gold: str,
    rules: Rules,
    extraction: Sequence[str] | None,
    tolerance: Fraction | None,
    cut: bool,
    slow: Slow | None,
) -> Grade:
    """Grade; a bug of ours becomes an UNGRADABLE of its own name and a warning, never a crashed run or a 0.

    Raises GraderError where the workers are needed and cannot be started, MissingExtraError where the second reader is.
    """
    try:
        return _grade(response, gold, rules, extraction, tolerance, cut, slow)
    except SelfCorrectError:
        raise  # no worker can be started, the second reader is not installed: nothing that the texts did
    except RecursionError:
        return Grade(Outcome.UNGRADABLE, "limit reached in the response: nesting", method=LIMIT)
    except Exception as failure:  # noqa: BLE001 (the promise is that model text never raises)
        warnings.warn(f"the grader failed on gold {gold[:100]!r}: {failure!r}; please report it", stacklevel=3)
        return Grade(Outcome.UNGRADABLE, f"grader error: {failure!r:.200}", method=GRADER_ERROR)


def _grade(
    response: str,
    gold: str,
    rules: Rules,
    extraction: Sequence[str] | None,
    tolerance: Fraction | None,
    cut: bool,
    slow: Slow | None,
) -> Grade:
    if not isinstance(response, str) or not isinstance(gold, str):
        return Grade(Outcome.UNGRADABLE, "response and gold must be text", method=GOLD_UNREADABLE)
    if not gold_is_readable(gold):
        return Grade(Outcome.UNGRADABLE, "the reference answer cannot be read", method=GOLD_UNREADABLE)
    found = extract(ascii_digits(response), extraction or rules.extraction, cut=cut)
    if found is None:
        return Grade(Outcome.UNGRADABLE, "no answer found in the response", method=NOTHING_EXTRACTED)
    return _compare(found[0].strip(_BLANKS), reference_text(gold), rules, tolerance, slow)


def _compare(answer: str, gold: str, rules: Rules, tolerance: Fraction | None, slow: Slow | None) -> Grade:
    if len(answer) > SHORT_ANSWER_CHARS:
        return _judge(answer, gold, rules, tolerance, slow)
    known = _judge_fast(answer, gold, rules, tolerance)
    if known.method in (GOLD_UNREADABLE, RESPONSE_UNREADABLE) and second_reading.is_on():
        return second_reading.read_again(known, answer, gold)
    return _judge(answer, gold, rules, tolerance, slow) if known.method == UNDECIDED and slow else known


@lru_cache(maxsize=20_000)
def _judge_fast(answer: str, gold: str, rules: Rules, tolerance: Fraction | None) -> Grade:
    return _judge(answer, gold, rules, tolerance, None)


def _judge(answer: str, gold: str, rules: Rules, tolerance: Fraction | None, slow: Slow | None) -> Grade:
    """Compare an extracted answer with a readable gold."""
    shown = answer if len(answer) <= _SHOWN else answer[:_SHOWN] + "…"
    if not answer:
        return Grade(Outcome.WRONG, "the answer is empty", "", None, "empty")
    if _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(gold):
        equal = _digits(answer) == _digits(gold)
        if equal or tolerance is None:
            return _verdict(equal, "equal integers" if equal else "different integers", shown, (shown, gold), "number")
    words = _by_words(answer, gold)
    if words is not None:
        return _verdict(words, "the same words" if words else "other words", shown, None, "words")
    node_g = read_reference(gold)
    if node_g is None:
        return Grade(Outcome.UNGRADABLE, "the reference answer cannot be read", shown, None, GOLD_UNREADABLE)
    if node_g.kind == "text":
        equal = wording.same_words(answer, gold)
        return _verdict(equal, "the same words" if equal else "other words", shown, (answer, node_g.value), "words")
    if len(answer) > MAX_ANSWER_CHARS:
        return Grade(Outcome.UNGRADABLE, f"limit reached: answer of {len(answer)} characters", shown, None, LIMIT)
    comparison = Equivalence(rules, slow, tolerance, cached=len(answer) <= SHORT_ANSWER_CHARS)
    unreadable = ""
    node_r: Node | None = None
    try:
        node_r = read(_out_of_box(answer))
    except TooLarge as reached:
        return Grade(Outcome.UNGRADABLE, f"limit reached in the response: {reached}", shown, None, LIMIT)
    except RecursionError:
        return Grade(Outcome.UNGRADABLE, "limit reached in the response: nesting", shown, None, LIMIT)
    except Unreadable as reason:
        unreadable = str(reason)
        if wording.squashed(answer) == wording.squashed(gold):
            return Grade(Outcome.CORRECT, "the same notation", shown, None, "literal")
    with budget():
        first = None if node_r is None else _first_reading(comparison, node_r, node_g, shown)
        if first is not None and first.outcome is not Outcome.WRONG:
            return first
        undecided = False
        for reading_r, reading_g in islice(other_readings(answer, gold, node_r, node_g), _MAX_READINGS):
            try:
                verdict = comparison.same(reading_r, reading_g)
            except (TooLarge, Unreadable, RecursionError, OverflowError, ArithmeticError):
                continue
            if verdict:
                normalised = (show(reading_r)[:_SHOWN], show(reading_g)[:_SHOWN])
                decided = f"{comparison.reason(equal=True)} in another reading"
                return Grade(Outcome.CORRECT, decided, shown, normalised, comparison.method)
            undecided |= verdict is None
    if undecided and slow is None:
        return Grade(Outcome.UNGRADABLE, "undecided in another reading", shown, None, UNDECIDED)
    return first or Grade(
        Outcome.UNGRADABLE, f"response cannot be read: {unreadable}", shown, None, RESPONSE_UNREADABLE
    )


def _first_reading(comparison: Equivalence, node_r: Node, node_g: Node, shown: str) -> Grade:
    """Return the grade of both texts as they stand."""
    normalised = (show(node_r)[:_SHOWN], show(node_g)[:_SHOWN])
    try:
        verdict = comparison.same(node_r, node_g)
    except (TooLarge, RecursionError, OverflowError, ArithmeticError) as reached:
        verdict, comparison.limit = None, str(reached) or type(reached).__name__
    except Unreadable as reason:
        return Grade(Outcome.UNGRADABLE, f"not comparable: {reason}", shown, normalised, RESPONSE_UNREADABLE)
    if verdict is None:
        why = comparison.limit or "neither equality nor difference could be shown"
        if _is_responses_fault(comparison, node_g):
            return Grade(Outcome.UNGRADABLE, f"limit reached by the response: {why}", shown, normalised, LIMIT)
        return Grade(Outcome.UNGRADABLE, f"undecided: {why}", shown, normalised, UNDECIDED)
    return _verdict(verdict, comparison.reason(equal=verdict), shown, normalised, comparison.method)


def _is_responses_fault(comparison: Equivalence, gold: Node) -> bool:
    """True where nothing was decided although the reference alone can be evaluated: else the reference is to blame.

    Without the workers nothing is anybody's fault: the caller asks again with them.
    """
    if comparison.slow is None:
        return False
    if comparison.blame:
        return comparison.blame == "response"
    with budget():
        return comparison.can_be_evaluated(gold)


def _verdict(equal: bool, reason: str, shown: str, normalised: tuple[str, str] | None, method: str) -> Grade:
    return Grade(Outcome.CORRECT if equal else Outcome.WRONG, reason, shown, normalised, method)


def _by_words(answer: str, gold: str) -> bool | None:
    """Judge what needs no reading: the same text, choices, yes and no, none and infinitely many, dates, times of day.

    None to read on.
    """
    if answer == gold:
        return True
    kind = _worded(gold)
    if not kind:
        return None
    if kind == "yes or no":
        return wording.same_words(answer, gold)
    if kind == "choice":
        letter = wording.choice(answer) or wording.small_choice(answer)
        return letter == wording.choice(gold) if letter is not None else None
    if kind == "led choice":
        return _by_led_choice(answer, gold)
    if kind == "time":
        time_g, time_r = wording.time_of_day(gold), wording.time_of_day(answer)
        fixed = time_g and time_r and (time_g[1] or time_r[1])
        return wording.same_time(time_r, time_g) if fixed and time_g and time_r else None
    if kind == "date":
        return wording.same_words(answer, gold)
    answered = "infinite" if kind == "infinite" and _INFINITY.fullmatch(answer) else wording.quantity_in_words(answer)
    return answered == kind if answered else None


@lru_cache(maxsize=8192)
def _worded(gold: str) -> str:
    """Return which rule of words a reference answer falls under; empty for the others."""
    if not _WORDY.search(gold):
        return ""
    if wording.is_yes_or_no(gold) and len(gold) <= 20:
        return "yes or no"
    if wording.is_bare_choice(gold):
        return "choice"
    if wording.led_choice(gold):
        return "led choice"
    if _INFINITY.fullmatch(gold):
        return "infinite"
    if said := wording.quantity_in_words(gold):
        return said
    if len(gold) < 60 and (wording.is_time(gold) or (":" in gold and wording.time_of_day(gold))):
        return "time"
    return "date" if len(gold) < 60 and wording.is_date(gold) else ""


def _by_led_choice(answer: str, gold: str) -> bool:
    """Judge against an option with its content, ``C. 12``: its letter or its content is right."""
    letter, content = wording.led_choice(gold) or ("", "")
    own = wording.led_choice(answer)
    if own:  # the letter decides, unless numbers beside it contradict
        numbers = re.search(r"\d", own[1]) and re.search(r"\d", content)
        return own[0] == letter and not (numbers and _judge_fast(own[1], content, MATH, None).outcome is Outcome.WRONG)
    if wording.is_bare_choice(answer):
        return wording.choice(answer) == letter
    return wording.same_words(answer, gold) or _judge_fast(answer, content, MATH, None).correct


def _out_of_box(answer: str) -> str:
    """Return an extracted answer without a box left around it."""
    text = answer.strip().strip("$")
    if text.startswith(("\\boxed{", "\\fbox{")) and text.endswith("}"):
        return text[text.index("{") + 1 : -1]
    return answer


def _digits(text: str) -> str:
    sign, digits = ("-", text[1:]) if text[0] == "-" else ("", text)
    digits = digits.lstrip("0") or "0"
    return digits if digits == "0" else sign + digits


class _Workers:
    """The worker pool, with a memory: what it decided is not asked again, what it could not decide in time is."""

    def __init__(self) -> None:
        self.decided: dict[tuple[Node, ...], Decision] = {}

    def compare(self, response: Node, gold: Node, positive: bool) -> Decision:
        from selfcorrect.grading.workers import pool

        return self._asked((response, gold, num(positive)), lambda: pool.compare(response, gold, positive=positive))

    def has_value(self, tree: Node, positive: bool) -> bool:
        from selfcorrect.grading.workers import pool

        found = self._asked((tree, num(positive)), lambda: pool.has_value(tree, positive=positive))
        return found.verdict is True

    def _asked(self, question: tuple[Node, ...], ask: Callable[[], Decision]) -> Decision:
        if question in self.decided:
            return self.decided[question]
        decision = ask()
        if decision.verdict is not None:
            if len(self.decided) >= _MAX_DECIDED:
                self.decided.clear()
            self.decided[question] = decision
        return decision


_MAX_DECIDED = 5_000
_ask_pool = _Workers()
