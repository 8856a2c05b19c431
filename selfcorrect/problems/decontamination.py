"""Decontamination: finds training problems that stand in a test set, word for word or nearly so.

Two questions are the same where their words are the same (Unicode, letter case, LaTeX dollars, punctuation and spacing
levelled; digits and operators kept, so another number is another problem), or where runs of `NGRAM` words that they
share cover at least `COVERED` of the words of either. The share is there because single runs of this length are
boilerplate in competition problems ("... where m and n are relatively prime positive integers. Find m + n").
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from selfcorrect.types import Problem

NGRAM = 13
"""Words in a run, as in GPT-3's and Qwen2.5-Math's decontamination."""

COVERED = 0.5
"""Share of a question's words that shared runs must cover."""

_WORD = re.compile(r"\\[a-z]+|[^\W_]+|[+*/=<>^%-]")


@dataclass(frozen=True, slots=True)
class Contamination:
    """A training problem that was removed, and what it was found in. ``why``: ``same text`` or the share covered."""

    id: str
    question: str
    test_set: str
    test_id: str
    why: str


def words(question: str) -> tuple[str, ...]:
    """Return the words of a question in normal form."""
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", question).casefold()))


class TestQuestions:
    """The questions of the test sets, indexed by their text and their runs of words."""

    __test__ = False  # not a test class, whatever pytest makes of the name

    def __init__(self) -> None:
        self._texts: dict[tuple[str, ...], tuple[str, str]] = {}
        self._runs: defaultdict[tuple[str, ...], set[int]] = defaultdict(set)
        self._questions: list[tuple[str, str, int]] = []  # set, id, number of words

    def add(self, name: str, problems: Iterable[Problem]) -> None:
        """Index the questions of one test set."""
        for problem in problems:
            found = words(problem.question)
            self._texts.setdefault(found, (name, problem.id))
            for _, run in _runs(found):
                self._runs[run].add(len(self._questions))
            self._questions.append((name, problem.id, len(found)))

    def find(self, problem: Problem) -> Contamination | None:
        """Return what a training problem was found in, None where it is clean."""
        found = words(problem.question)
        if same := self._texts.get(found):
            return Contamination(problem.id, problem.question, *same, "same text")
        covered: defaultdict[int, set[int]] = defaultdict(set)  # test question: places of this one's shared words
        for start, run in _runs(found):
            for which in self._runs.get(run, ()):
                covered[which].update(range(start, start + NGRAM))
        for which, places in covered.items():
            name, test_id, length = self._questions[which]
            share = len(places) / min(len(found), length)
            if share >= COVERED:
                why = f"runs of {NGRAM} words cover {min(share, 1.0):.0%}"
                return Contamination(problem.id, problem.question, name, test_id, why)
        return None


def _runs(of: tuple[str, ...]) -> Iterable[tuple[int, tuple[str, ...]]]:
    return ((start, of[start : start + NGRAM]) for start in range(len(of) - NGRAM + 1))
