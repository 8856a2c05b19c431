"""`grade`: a response and a reference answer -> Grade. Never raises on model text; callable from any thread.

Two tiers: the hand-written reader and normal forms decide nearly everything in this process; what they leave open
goes to the guarded worker pool (`pool`), which may be killed without harm.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from selfcorrect.grading import wording
from selfcorrect.grading.equivalence import Equivalence, Slow
from selfcorrect.grading.extraction import extract
from selfcorrect.grading.limits import MAX_ANSWER_CHARS, SHORT_ANSWER_CHARS, TooLarge, Unreadable
from selfcorrect.grading.nodes import Node, show
from selfcorrect.grading.reader import read
from selfcorrect.grading.rules import Rules, rules_for
from selfcorrect.grading.tokens import clean
from selfcorrect.types import Grade, Outcome

VERSION = "1"
"""Raise it with every change of a rule; `grader_fingerprint` hashes the rules' code as well."""

GOLD_UNREADABLE = "gold-unreadable"
NOTHING_EXTRACTED = "nothing-extracted"
RESPONSE_UNREADABLE = "response-unreadable"
LIMIT = "limit"
UNDECIDED = "undecided"
GRADER_ERROR = "grader-error"
UNGRADABLE_METHODS = (GOLD_UNREADABLE, NOTHING_EXTRACTED, RESPONSE_UNREADABLE, LIMIT, UNDECIDED, GRADER_ERROR)
"""The ``method`` of every UNGRADABLE grade: which of the two texts, or which bound, is to blame."""

_INTEGER = re.compile(r"-?\d+")
_SHOWN = 2_000


def grade(
    response: str,
    gold: str,
    *,
    source: str = "math",
    extraction: Sequence[str] | None = None,
    tolerance: float | None = None,
) -> Grade:
    """Return the grade of one response.

    ``source`` names the data set and so the rules (`rules.rules_for`); ``extraction`` replaces the places that are
    looked at, in order (`extraction`); ``tolerance`` is the absolute error a problem itself allows (OlympiadBench).
    """
    return _guarded(response, gold, rules_for(source), extraction, tolerance, _ask_pool)


async def grade_async(response: str, gold: str, *, source: str = "math") -> Grade:
    """Return the grade without blocking the event loop (`grade` itself also works there, but blocks it)."""
    return await asyncio.to_thread(grade, response, gold, source=source)


def grade_many(
    pairs: Sequence[tuple[str, str]],
    *,
    source: str | Sequence[str] = "math",
    extraction: Sequence[str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Grade]:
    """Return the grades of (response, gold) pairs in their order; the open ones share the worker pool.

    ``source`` is one name for all or one for each pair; ``progress`` is called with the number done so far.
    """
    sources = [source] * len(pairs) if isinstance(source, str) else list(source)
    grades: list[Grade] = []
    open_pairs: list[int] = []
    for index, ((response, gold), name) in enumerate(zip(pairs, sources, strict=True)):
        result = _guarded(response, gold, rules_for(name), extraction, None, None)
        grades.append(result)
        if result.method == UNDECIDED:
            open_pairs.append(index)
        elif progress:
            progress(index + 1 - len(open_pairs))
    if not open_pairs:
        return grades

    def again(index: int) -> Grade:
        return grade(*pairs[index], source=sources[index], extraction=extraction)

    from selfcorrect.grading.pool import WORKERS

    with ThreadPoolExecutor(WORKERS, thread_name_prefix="grade") as threads:
        for done, (index, result) in enumerate(zip(open_pairs, threads.map(again, open_pairs), strict=True)):
            grades[index] = result
            if progress:
                progress(len(pairs) - len(open_pairs) + done + 1)
    return grades


def extract_answer(response: str, source: str = "math", *, extraction: Sequence[str] | None = None) -> str | None:
    """Return the answer text that `grade` would judge, None where no allowed place holds one."""
    found = extract(response, extraction or rules_for(source).extraction)
    return found[0].strip() if found else None


def gold_is_readable(gold: str, source: str = "math") -> bool:
    """True where the reference answer can be graded against; other problems must be dropped and counted."""
    return _read_gold(gold, source) is not None


def answers_agree(left: str, right: str, *, source: str = "math") -> bool | None:
    """Compare two extracted answers (majority voting): equal, different, or None where undecided."""
    outcome = _compare(left, right, rules_for(source), None, _ask_pool).outcome
    return None if outcome is Outcome.UNGRADABLE else outcome is Outcome.CORRECT


@lru_cache(maxsize=1)
def grader_fingerprint() -> str:
    """Return a short hash of the grader's version and the code of its rules: part of every result file."""
    digest = hashlib.blake2b(VERSION.encode(), digest_size=6)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem not in ("command", "reward_functions", "pool"):
            digest.update(path.read_bytes())
    return digest.hexdigest()


# -- one grade -------------------------------------------------------------------------------------------


def _guarded(
    response: str,
    gold: str,
    rules: Rules,
    extraction: Sequence[str] | None,
    tolerance: float | None,
    slow: Slow | None,
) -> Grade:
    """Grade; a bug of ours becomes an UNGRADABLE of its own name and a warning, never a crashed run or a 0."""
    try:
        return _grade(response, gold, rules, extraction, tolerance, slow)
    except Exception as failure:  # noqa: BLE001 (the promise is that model text never raises)
        warnings.warn(f"the grader failed on gold {gold[:100]!r}: {failure!r}; please report it", stacklevel=3)
        return Grade(Outcome.UNGRADABLE, f"grader error: {failure!r:.200}", method=GRADER_ERROR)


def _grade(
    response: str,
    gold: str,
    rules: Rules,
    extraction: Sequence[str] | None,
    tolerance: float | None,
    slow: Slow | None,
) -> Grade:
    if not isinstance(response, str) or not isinstance(gold, str):
        return Grade(Outcome.UNGRADABLE, "response and gold must be text", method=GOLD_UNREADABLE)
    if _read_gold(gold, rules.name) is None:
        return Grade(Outcome.UNGRADABLE, "the reference answer cannot be read", method=GOLD_UNREADABLE)
    found = extract(response, extraction or rules.extraction)
    if found is None:
        return Grade(Outcome.UNGRADABLE, "no answer found in the response", method=NOTHING_EXTRACTED)
    return _compare(found[0].strip(), _gold_text(gold), rules, tolerance, slow)


def _compare(answer: str, gold: str, rules: Rules, tolerance: float | None, slow: Slow | None) -> Grade:
    if len(answer) > SHORT_ANSWER_CHARS:
        return _judge(answer, gold, rules, tolerance, slow)
    known = _judge_fast(answer, gold, rules, tolerance)
    return _judge(answer, gold, rules, tolerance, slow) if known.method == UNDECIDED and slow else known


@lru_cache(maxsize=20_000)
def _judge_fast(answer: str, gold: str, rules: Rules, tolerance: float | None) -> Grade:
    return _judge(answer, gold, rules, tolerance, None)


def _judge(answer: str, gold: str, rules: Rules, tolerance: float | None, slow: Slow | None) -> Grade:
    """Compare an extracted answer with a readable gold."""
    shown = answer if len(answer) <= _SHOWN else answer[:_SHOWN] + "…"
    if not answer:
        return Grade(Outcome.WRONG, "the answer is empty", "", None, "empty")
    if _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(gold):
        equal = _digits(answer) == _digits(gold)
        return _verdict(equal, "equal integers" if equal else "different integers", shown, (shown, gold), "number")
    words = _by_words(answer, gold)
    if words is not None:
        return _verdict(words, "the same words" if words else "other words", shown, None, "words")
    node_g = _read_gold(gold, rules.name)
    if node_g is None:
        return Grade(Outcome.UNGRADABLE, "the reference answer cannot be read", shown, None, GOLD_UNREADABLE)
    if node_g.kind == "text":
        equal = wording.same_words(answer, gold)
        return _verdict(equal, "the same words" if equal else "other words", shown, (answer, node_g.value), "words")
    if len(answer) > MAX_ANSWER_CHARS:
        return Grade(Outcome.UNGRADABLE, f"limit reached: answer of {len(answer)} characters", shown, None, LIMIT)
    comparison = Equivalence(rules, slow, tolerance, cached=len(answer) <= SHORT_ANSWER_CHARS)
    readings: list[tuple[Node, Node]] = []
    try:
        readings.append((read(clean_answer(answer)), node_g))
        readings += _other_readings(answer, gold, readings[0])
    except TooLarge as reached:
        return Grade(Outcome.UNGRADABLE, f"limit reached in the response: {reached}", shown, None, LIMIT)
    except Unreadable as reason:
        if wording.squashed(answer) == wording.squashed(gold):
            return Grade(Outcome.CORRECT, "the same notation", shown, None, "literal")
        return Grade(Outcome.UNGRADABLE, f"response cannot be read: {reason}", shown, None, RESPONSE_UNREADABLE)
    except RecursionError:
        return Grade(Outcome.UNGRADABLE, "limit reached in the response: nesting", shown, None, LIMIT)
    verdict: bool | None = False
    normalised = ("", "")
    for node_r, node_gold in readings:
        normalised = (show(node_r)[:_SHOWN], show(node_gold)[:_SHOWN])
        try:
            verdict = comparison.same(node_r, node_gold)
        except TooLarge as reached:
            return Grade(Outcome.UNGRADABLE, f"limit reached: {reached}", shown, normalised, LIMIT)
        except Unreadable as reason:
            return Grade(Outcome.UNGRADABLE, f"not comparable: {reason}", shown, normalised, RESPONSE_UNREADABLE)
        except (RecursionError, OverflowError, ArithmeticError) as failure:
            return Grade(Outcome.UNGRADABLE, f"limit reached: {failure!r:.80}", shown, normalised, LIMIT)
        if verdict is not False:
            break
    if verdict is None:
        why = comparison.limit or "neither equality nor difference could be shown"
        method = LIMIT if comparison.limit and slow is not None else UNDECIDED
        return Grade(Outcome.UNGRADABLE, f"undecided: {why}", shown, normalised, method)
    decided = f"{'equal' if verdict else 'different'} by {comparison.method}"
    return _verdict(verdict, decided, shown, normalised, comparison.method)


def _verdict(equal: bool, reason: str, shown: str, normalised: tuple[str, str] | None, method: str) -> Grade:
    return Grade(Outcome.CORRECT if equal else Outcome.WRONG, reason, shown, normalised, method)


def _by_words(answer: str, gold: str) -> bool | None:
    """Judge what needs no reading: the same text, choices, times of day; None to read on."""
    if answer == gold:
        return True
    if len(gold) <= 20 and wording.is_yes_or_no(gold):
        return wording.same_words(answer, gold)
    if wording.is_bare_choice(answer) and "(" in gold and wording.choice(gold) and not wording.is_bare_choice(gold):
        return wording.choice(answer) == wording.choice(gold)
    if wording.is_bare_choice(gold):
        letter = wording.choice(answer)
        if letter is not None:
            return letter == wording.choice(gold)
        return None
    time_g = wording.minutes(gold) if ":" in gold else None
    time_r = wording.minutes(answer) if time_g and ":" in answer else None
    if time_g and time_r and (time_g[1] or time_r[1]):
        return wording.same_time(time_r, time_g)
    return None


def _other_readings(answer: str, gold: str, first: tuple[Node, Node]) -> list[tuple[Node, Node]]:
    """Return readings of ``1,234`` as two numbers, where the other side is a list."""
    readings: list[tuple[Node, Node]] = []
    node_r, node_g = first
    if node_g.kind in ("list", "set") and node_r.kind not in ("list", "set") and "," in answer:
        readings.append((read(clean_answer(answer), thousands=False), node_g))
    elif node_r.kind in ("list", "set") and node_g.kind not in ("list", "set") and "," in gold:
        readings.append((node_r, read(gold, thousands=False)))
    return readings


def clean_answer(answer: str) -> str:
    """Return an extracted answer without what is not part of it: a label before it, ``\\boxed`` left inside."""
    text = clean(answer)
    if text.startswith(("\\boxed{", "\\fbox{")) and text.endswith("}"):
        text = text[text.index("{") + 1 : -1]
    return text


def _digits(text: str) -> str:
    sign, digits = ("-", text[1:]) if text[0] == "-" else ("", text)
    digits = digits.lstrip("0") or "0"
    return digits if digits == "0" else sign + digits


def _gold_text(gold: str) -> str:
    """Return the reference answer alone: after GSM8K's ``####``, out of a box, without dollars around it."""
    if "####" in gold:
        gold = gold.rsplit("####", 1)[1]
    if "\\boxed" in gold:
        found = extract(gold, ("boxed",))
        gold = found[0] if found else gold
    gold = gold.strip()
    if gold.startswith("$") and gold.endswith("$") and gold.count("$") == 2:
        gold = gold[1:-1].strip()
    return gold


@lru_cache(maxsize=8192)
def _read_gold(gold: str, source: str) -> Node | None:
    text = _gold_text(gold)
    if not text:
        return None
    if _INTEGER.fullmatch(text):
        return Node("num", text) if text[0] != "-" else Node("neg", "", (Node("num", text[1:]),))
    try:
        return read(text)
    except (Unreadable, TooLarge, RecursionError):
        return None


_decided: dict[tuple[Node, Node, bool], bool] = {}
_MAX_DECIDED = 5_000


def _ask_pool(response: Node, gold: Node, positive: bool) -> bool | None:
    """Ask a worker; what it decided is remembered, what it could not decide in time is asked again next time."""
    from selfcorrect.grading.pool import decide

    question = response, gold, positive
    if question in _decided:
        return _decided[question]
    verdict = decide(response, gold, positive=positive)
    if verdict is not None:
        if len(_decided) >= _MAX_DECIDED:
            _decided.clear()
        _decided[question] = verdict
    return verdict
