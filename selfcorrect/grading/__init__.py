"""The answer grader: response and reference answer -> Grade. See docs/grader.md for the rules.

Light to import: no torch, transformers, sympy or antlr; those live in the worker processes only.
"""

from selfcorrect.grading.fingerprint import grader_fingerprint
from selfcorrect.grading.grader import (
    answers_agree,
    extract_answer,
    gold_is_readable,
    grade,
    grade_async,
    grade_many,
)
from selfcorrect.grading.rules import Rules, rules_for
from selfcorrect.grading.workers import pool as _pool  # noqa: F401 - now: a fork during a later import would hang

__all__ = [
    "Rules",
    "answers_agree",
    "extract_answer",
    "gold_is_readable",
    "grade",
    "grade_async",
    "grade_many",
    "grader_fingerprint",
    "rules_for",
]
