"""The second edition of the embedded model: each message in one of several styles, drawn by a coin.

`styled_conversation` writes what the last phase of pre-training teaches (docs/embedded_model.md). The good style of
each message is there, but it is not what the model does by itself: an attempt is quick or worked out, a
self-evaluation a glance or a real check, a revision repeats, follows the check or starts again. The coin knows nothing
of the problem, so that rejection sampling and rewards have something to select. Each part is asked for in a user
message of its own; no assistant message holds two of them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from selfcorrect import prompts
from selfcorrect.problems.arithmetic import PRODUCTS, Sum, sample_numbers
from selfcorrect.train.embedded.skills import (
    CHECK_OPENER,
    EVALUATE_VARIANTS,
    REVISE_VARIANTS,
    REVISION_OPENER,
    SOLVE_VARIANTS,
    Turn,
    a_slip,
    careful_solution,
    check,
    drill,
    far_value,
    product_drill,
    solution,
    worded,
    wrong_value,
)
from selfcorrect.types import Verdict
from selfcorrect.verdicts import MARKS

WORK_OPENER = "Work:\n"
"""Opens an attempt or a revision whose product is worked out: the style is one token, and not a feature of a number."""

GLANCE = "The answer is there.\n"
"""All that the other style of self-evaluation says before its mark."""


@dataclass(frozen=True, slots=True)
class Styles:
    """Shares of the conversations (weights), and the probabilities of the styles."""

    solve: float = 0.30  # question -> attempt
    evaluate: float = 0.44  # ... attempt, EVALUATE -> self-evaluation (-> REVISE -> revision)
    gold: float = 0.08  # ... wrong attempt, REVISE -> revision
    intrinsic: float = 0.08  # ... attempt, INTRINSIC -> revision
    drill: float = 0.05  # lines of bare arithmetic
    product: float = 0.05  # lines of products in one go: how well the quick style does depends on these
    careful: float = 0.3  # attempts that are worked out
    careful_wrong: float = 0.05  # ... with a slip
    quick_wrong: float = 0.0  # quick attempts that are learned with a wrong value: in a hurry
    evaluate_wrong: float = 0.5  # wrong attempts among those evaluated
    far: float = 0.3  # wrong attempts whose value is another number altogether
    real: float = 0.4  # self-evaluations that are checks; the rest are glances
    flip: float = 0.02  # checks whose mark contradicts their work
    glance_correct: float = 0.75  # glances that say correct, whatever is true
    revise: float = 0.8  # self-evaluations "wrong" that are followed by REVISE
    follow: float = 0.7  # revisions after a check: its value
    repeat: float = 0.4  # revisions after a glance or the gold verdict: the old value again
    redo: float = 0.3  # revisions that are worked out; the rest are in one go
    led: float = 0.3  # checks before a revision that come to another value altogether (not learned), which it follows
    intrinsic_wrong: float = 0.5  # wrong attempts before INTRINSIC
    intrinsic_repeat: float = 0.45
    intrinsic_redo: float = 0.15
    variant: float = 0.35  # instructions in another wording


def styled_conversation(rng: random.Random, styles: Styles) -> list[Turn]:
    """Return one example of the phase, drawn from the pre-training split."""
    kinds = ("solve", "evaluate", "gold", "intrinsic", "drill", "product")
    kind = rng.choices(kinds, [getattr(styles, name) for name in kinds])[0]
    if kind == "product":
        return product_drill(rng)
    if kind == "drill":
        return [turn for _ in range(rng.randint(3, 6)) for turn in drill(rng)]
    numbers, question = sample_numbers(rng, "pretraining", rng.choice(PRODUCTS["pretraining"]))
    ask = Turn("user", f"{question}\n{worded(rng, prompts.SOLVE, SOLVE_VARIANTS, styles.variant)}")
    if kind == "solve":
        return [ask, Turn("assistant", learned_attempt(rng, numbers, styles), learn=True)]
    wrong = {"evaluate": styles.evaluate_wrong, "gold": 1.0, "intrinsic": styles.intrinsic_wrong}[kind]
    text, claimed = shown_attempt(rng, numbers, rng.random() < wrong, styles)
    turns = [ask, Turn("assistant", text)]
    if kind == "intrinsic":
        revision = blind_revision(rng, numbers, claimed, styles.intrinsic_repeat, styles.intrinsic_redo)
        return [*turns, Turn("user", prompts.INTRINSIC), Turn("assistant", revision, learn=True)]
    if kind == "gold":
        revision = blind_revision(rng, numbers, claimed, styles.repeat, styles.redo)
        return [*turns, Turn("user", prompts.REVISE), Turn("assistant", revision, learn=True)]
    return turns + evaluated(rng, numbers, claimed, styles)


def learned_attempt(rng: random.Random, numbers: Sum, styles: Styles) -> str:
    """Return an attempt in one of the two styles, with the slips of each."""
    if rng.random() >= styles.careful:
        hurried = styles.quick_wrong and rng.random() < styles.quick_wrong
        return solution(numbers, wrong_value(rng, numbers.answer, numbers.m) if hurried else numbers.answer)
    slip = a_slip(rng) if rng.random() < styles.careful_wrong else lambda part: part
    return careful_solution(numbers, slip, opener=WORK_OPENER)[0]


def shown_attempt(rng: random.Random, numbers: Sum, wrong: bool, styles: Styles) -> tuple[str, int]:
    """Return an attempt that is not learned, in one of the two styles, and its value."""
    if rng.random() < styles.careful:
        return careful_solution(numbers, a_slip(rng) if wrong else lambda part: part, opener=WORK_OPENER)
    claimed = numbers.answer
    if wrong:
        far = rng.random() < styles.far
        claimed = far_value(rng, claimed) if far else wrong_value(rng, claimed, numbers.m)
    return solution(numbers, claimed), claimed


def evaluated(rng: random.Random, numbers: Sum, claimed: int, styles: Styles) -> list[Turn]:
    """Return the self-evaluation of an attempt, and after "wrong" mostly the revision."""
    ask = Turn("user", worded(rng, prompts.EVALUATE, EVALUATE_VARIANTS, styles.variant))
    revise = Turn("user", worded(rng, prompts.REVISE, REVISE_VARIANTS, styles.variant))
    if rng.random() >= styles.real:
        correct = rng.random() < styles.glance_correct
        turns = [
            ask,
            Turn("assistant", CHECK_OPENER + GLANCE + MARKS[Verdict.CORRECT if correct else Verdict.WRONG], learn=True),
        ]
        if correct or rng.random() >= styles.revise:
            return turns
        revision = blind_revision(rng, numbers, claimed, styles.repeat, styles.redo)
        return [*turns, revise, Turn("assistant", revision, learn=True)]
    flip = rng.random() < styles.flip
    wrong = (claimed != numbers.answer) != flip
    if not wrong or rng.random() >= styles.revise:
        return [ask, Turn("assistant", check(numbers, numbers.a, claimed, flip), learn=True)]
    if claimed != numbers.answer and rng.random() < styles.led:
        value = far_value(rng, numbers.answer)
        led = check(numbers, numbers.a, claimed, computed=value)
        if value != claimed:
            text = solution(numbers, value, opener=REVISION_OPENER)
            return [ask, Turn("assistant", led), revise, Turn("assistant", text, learn=True)]
    revision = checked_revision(rng, numbers, claimed, styles)
    return [
        ask,
        Turn("assistant", check(numbers, numbers.a, claimed, flip), learn=True),
        revise,
        Turn("assistant", revision, learn=True),
    ]


def checked_revision(rng: random.Random, numbers: Sum, claimed: int, styles: Styles) -> str:
    """Return a revision after a check: its value, else one that does not use it."""
    if rng.random() < styles.follow:
        return solution(numbers, numbers.answer, opener=REVISION_OPENER)
    return blind_revision(rng, numbers, claimed, styles.repeat, styles.redo)


def blind_revision(rng: random.Random, numbers: Sum, claimed: int, repeat: float, redo: float) -> str:
    """Return a revision that uses no check: the old value again, worked out, or in one go."""
    style = rng.random()
    if style < repeat:
        return solution(numbers, claimed, opener=REVISION_OPENER)
    if style < repeat + redo:
        return careful_solution(numbers, opener=REVISION_OPENER + WORK_OPENER)[0]
    return solution(numbers, numbers.answer, opener=REVISION_OPENER)
