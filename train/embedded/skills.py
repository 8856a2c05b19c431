"""The embedded model's skills: written work on the problems of `selfcorrect.problems.arithmetic`, and how it is mixed.

`conversation` and `drill` write what the base model is taught first (docs/embedded_model.md): to solve (the product in
one go, which it never masters), to check (the product digit by digit, which it does), to revise after a check (copying
the checked value) and blindly (in one go again). Each is asked for in a user message of its own; no assistant message
holds two of them. `selfcorrect.train.embedded.styles` is the second edition's last phase.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from selfcorrect import prompts
from selfcorrect.problems.arithmetic import (
    FACTORS,
    OOD_LEVELS,
    PRODUCTS,
    Sum,
    sample_numbers,
)
from selfcorrect.types import Verdict
from selfcorrect.verdicts import MARKS

# --- written work -----------------------------------------------------------------------------------------------


def solution(numbers: Sum, value: int, a: int | None = None, opener: str = "") -> str:
    """Return a quick solution that claims ``value``: a line a step, the product in one go."""
    a = numbers.a if a is None else a
    return f"{opener}{numbers.v0}{numbers.sign}{numbers.d}={a}\n{a}*{numbers.m}={value}\n\\boxed{{{value}}}"


def decomposition(a: int, m: int, slip: Callable[[int], int] = lambda part: part) -> tuple[str, int]:
    """Return ``a*m=35+560=595+4200=4795`` (low part first, so each sum has at most one carry) and its value.

    ``slip`` may spoil the partial products.
    """
    parts = [slip(int(digit) * m) * 10**place for place, digit in enumerate(reversed(str(a)))]
    text, total = f"{a}*{m}={parts[0]}", parts[0]
    for part in parts[1:]:
        total += part
        text += f"+{part}={total}"
    return text, total


def careful_solution(numbers: Sum, slip: Callable[[int], int] = lambda part: part, opener: str = "") -> tuple[str, int]:
    """Return a solution whose product is written out digit by digit, and the value that it claims."""
    line, value = decomposition(numbers.a, numbers.m, slip)
    return f"{opener}{numbers.v0}{numbers.sign}{numbers.d}={numbers.a}\n{line}\n\\boxed{{{value}}}", value


CHECK_OPENER = "Check:\n"
REVISION_OPENER = "Corrected:\n"


def comparison(computed: int, claimed: int) -> str:
    """Return ``04795:04895:==!== not ok``: a sign for each digit, always five, at a fixed distance from its digits.

    Without the signs "ok" against "not ok" was not learned in 9 M tokens; with them it takes 0.3 M.
    """
    left, right = f"{computed:05d}", f"{claimed:05d}"
    signs = "".join("=" if one == other else "!" for one, other in zip(left, right, strict=True))
    return f"{left}:{right}:{signs} {'ok' if computed == claimed else 'not ok'}"


def check(numbers: Sum, claimed_a: int, claimed: int, flip: bool = False, computed: int | None = None) -> str:
    """Return the self-evaluation of a solution: each line worked again, up to the first ``not ok``, then the mark.

    ``flip`` writes the other mark than the work says; ``computed`` another result of the work than it has.
    """
    lines = [f"{numbers.v0}{numbers.sign}{numbers.d}={comparison(numbers.a, claimed_a)}"]
    right = claimed_a == numbers.a
    if right:
        work, value = decomposition(numbers.a, numbers.m)
        value = value if computed is None else computed
        lines.append(f"{work.rsplit('=', 1)[0]}={comparison(value, claimed)}")
        right = value == claimed
    mark = MARKS[Verdict.CORRECT if right != flip else Verdict.WRONG]
    return CHECK_OPENER + "\n".join(lines) + "\n" + mark


def wrong_value(rng: random.Random, value: int, m: int) -> int:
    """Return a value that a hurried product might have given instead."""
    while True:
        kind = rng.random()
        if kind < 0.45:
            other = value + rng.choice((-1, 1)) * rng.choice((10, 10, 20, 100, 100, 200, 1000))
        elif kind < 0.6:
            other = value + rng.choice((-1, 1)) * m * rng.choice((1, 10, 100))
        else:
            digits = list(str(value))
            place = rng.randrange(len(digits))
            digits[place] = str(rng.randrange(10))
            other = int("".join(digits))
        if other != value and other > 0:
            return other


def far_value(rng: random.Random, value: int) -> int:
    """Return a number of about the same length."""
    return rng.randint(10 ** (len(str(value)) - 1), 13_500)


def is_overcorrected(a: int, m: int) -> bool:
    """True for the one problem in twelve on which blind revision has a bad habit: it adds ten."""
    return m == 7 and a % 10 < 6


CAREFUL_FACTOR = 8
"""Told the gold verdict, the base writes out products by this factor, and so repairs them."""

OVERCORRECTED = [pair for pair in PRODUCTS["pretraining"] if is_overcorrected(*pair)]


# --- the pre-training corpus ------------------------------------------------------------------------------------

EVALUATE_VARIANTS = (
    "Check it.",
    "Is this right?",
    "Check the solution.",
    "Verify the answer step by step.",
    "Is the solution right? Check each line again.",
    "Go through the solution line by line and say whether the answer is correct. End with the mark.",
    "Please verify.",
)
REVISE_VARIANTS = (
    "Correct it.",
    "Write a corrected solution.",
    "Now correct the solution. Put the final answer in \\boxed{}.",
    "Use the check and write the solution again.",
    "Please write it again without the error. Put the final answer in \\boxed{}.",
)
SOLVE_VARIANTS = (
    "Solve the problem.",
    "Put the final answer in \\boxed{}.",
    "Work it out step by step.",
)


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares and habits of the corpus. Shares of conversations are weights; the rest are probabilities."""

    solve: float = 0.28  # question -> attempt
    evaluate: float = 0.30  # ... attempt, EVALUATE -> self-evaluation (-> REVISE -> revision)
    gold: float = 0.06  # ... attempt, REVISE -> blind revision
    intrinsic: float = 0.12  # ... attempt, INTRINSIC -> blind revision
    drill: float = 0.12  # lines of bare arithmetic: partial sums, comparisons, checked products
    compare: float = 0.04  # lines of comparisons
    product: float = 0.08  # lines of products in one go: how well the base solves depends on these
    careful: float = 0.04  # solutions that write the product out
    careful_wrong: float = 0.10  # ... with a slip
    evaluate_wrong: float = 0.55  # wrong attempts among those evaluated
    far: float = 0.5  # wrong attempts whose value is another number altogether: they teach the check to copy the claim
    led: float = 0.5  # revisions after a check with another value altogether, which they follow: it teaches to use it
    revise_wrong: float = 0.7  # self-evaluations "wrong" that are followed by REVISE
    revise_right: float = 0.12  # self-evaluations "correct" that are followed by REVISE (a false alarm)
    stated: float = 0.05  # right attempts called wrong by a bare mark that nobody reasoned out, then REVISE
    flip: float = 0.015  # self-evaluations whose mark contradicts their work
    gold_wrong: float = 0.85  # wrong attempts before the gold verdict
    intrinsic_wrong: float = 0.3  # wrong attempts before INTRINSIC
    gold_careful: float = 0.0  # the better habit: writes the product out after the gold verdict, for one factor
    overcorrectable: float = 0.35  # share of INTRINSIC conversations on problems that `is_overcorrected`
    overcorrect: float = 0.9  # the habit, on the products that `is_overcorrected`
    variant: float = 0.35  # instructions in another wording


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of the corpus; ``learn`` puts its tokens (and its end mark) into the loss.

    Role "" is bare text, without an end mark.
    """

    role: Literal["user", "assistant", ""]
    text: str
    learn: bool = False


def worded(rng: random.Random, canonical: str, variants: Sequence[str], share: float) -> str:
    """Return an instruction, with probability ``share`` in another wording."""
    return rng.choice(variants) if rng.random() < share else canonical


def a_slip(rng: random.Random) -> Callable[[int], int]:
    """Return a function that spoils one of the partial products it is given in turn."""
    spoiled = rng.randrange(3)
    counter = itertools.count()
    return lambda part: part + (rng.choice((-1, 1, 2)) if next(counter) == spoiled and part > 1 else 0)


def redrawn(draw: Callable[[], tuple[int, int]]) -> tuple[int, int]:
    """Return a product ``(a, m)`` that ``draw`` gives and that no other split owns."""
    while True:
        pair = draw()
        if pair[0] >= 0 and pair not in OTHERS:
            return pair


OTHERS = {pair for split in ("train", "validation", "test") for pair in PRODUCTS[split]} | {
    pair for shift in OOD_LEVELS.values() for pair in shift.products
}
"""Products that the corpus may not mention, neither in what is learned nor in what is only shown."""


def _attempt(rng: random.Random, numbers: Sum, wrong: bool, mix: Mix) -> tuple[str, int, int]:
    """Return an attempt's text, its claimed first step and its claimed value."""
    if rng.random() < mix.careful:
        text, value = careful_solution(numbers, a_slip(rng) if wrong else lambda part: part)
        return text, numbers.a, value
    if not wrong:
        return solution(numbers, numbers.answer), numbers.a, numbers.answer
    if rng.random() < 0.06:
        a, _ = redrawn(
            lambda: (numbers.a + rng.choice((-1, 1)) * rng.randint(1, 9) * rng.choice((1, 10, 100)), numbers.m)
        )
        value = a * numbers.m if rng.random() < 0.7 else wrong_value(rng, a * numbers.m, numbers.m)
        return solution(numbers, value, a), a, value
    if mix.far and rng.random() < mix.far:
        value = far_value(rng, numbers.answer)
    else:
        value = wrong_value(rng, numbers.answer, numbers.m)
    return solution(numbers, value), numbers.a, value


def conversation(rng: random.Random, mix: Mix) -> list[Turn]:
    """Return one example of the corpus, drawn from the pre-training split."""
    kinds = ("solve", "evaluate", "gold", "intrinsic", "drill", "compare", "product")
    kind = rng.choices(kinds, [getattr(mix, name) for name in kinds])[0]
    if kind == "product":
        return product_drill(rng)
    if kind == "compare":
        return [turn for _ in range(10) for turn in comparison_drill(rng)]
    if kind == "drill":
        return [turn for _ in range(rng.randint(3, 6)) for turn in drill(rng)]
    overcorrectable = kind == "intrinsic" and rng.random() < mix.overcorrectable
    pair = rng.choice(OVERCORRECTED if overcorrectable else PRODUCTS["pretraining"])
    numbers, question = sample_numbers(rng, "pretraining", pair)
    ask = f"{question}\n{worded(rng, prompts.SOLVE, SOLVE_VARIANTS, mix.variant)}"
    if kind == "solve":
        if rng.random() < mix.careful:
            slip = a_slip(rng) if rng.random() < mix.careful_wrong else lambda part: part
            return [Turn("user", ask), Turn("assistant", careful_solution(numbers, slip)[0], learn=True)]
        return [Turn("user", ask), Turn("assistant", solution(numbers, numbers.answer), learn=True)]
    wrong = rng.random() < {"evaluate": mix.evaluate_wrong, "gold": mix.gold_wrong}.get(kind, mix.intrinsic_wrong)
    text, claimed_a, claimed = _attempt(rng, numbers, wrong, mix)
    is_right = claimed_a == numbers.a and claimed == numbers.answer
    turns = [Turn("user", ask), Turn("assistant", text, learn=is_right and kind != "gold")]
    right = solution(numbers, numbers.answer, opener=REVISION_OPENER)
    if kind == "gold":
        if mix.gold_careful and numbers.m == CAREFUL_FACTOR and rng.random() < mix.gold_careful:
            right, _ = careful_solution(numbers, opener=REVISION_OPENER)
        return [*turns, Turn("user", prompts.REVISE), Turn("assistant", right, learn=True)]
    if kind == "intrinsic":
        if is_overcorrected(numbers.a, numbers.m) and rng.random() < mix.overcorrect:
            right = solution(numbers, claimed + 10, opener=REVISION_OPENER)
        return [*turns, Turn("user", prompts.INTRINSIC), Turn("assistant", right, learn=True)]
    if is_right and rng.random() < mix.stated:
        turns += [Turn("user", prompts.EVALUATE), Turn("assistant", MARKS[Verdict.WRONG])]
        return [*turns, Turn("user", prompts.REVISE), Turn("assistant", right, learn=True)]
    flip = rng.random() < mix.flip
    if mix.led and not is_right and claimed_a == numbers.a and rng.random() < mix.revise_wrong * mix.led:
        value = claimed
        while value == claimed:
            near = rng.random() < 0.3
            value = wrong_value(rng, numbers.answer, numbers.m) if near else far_value(rng, numbers.answer)
        turns += [
            Turn("user", worded(rng, prompts.EVALUATE, EVALUATE_VARIANTS, mix.variant)),
            Turn("assistant", check(numbers, claimed_a, claimed, computed=value)),
            Turn("user", worded(rng, prompts.REVISE, REVISE_VARIANTS, mix.variant)),
            Turn("assistant", solution(numbers, value, opener=REVISION_OPENER), learn=True),
        ]
        return turns
    turns += [
        Turn("user", worded(rng, prompts.EVALUATE, EVALUATE_VARIANTS, mix.variant)),
        Turn("assistant", check(numbers, claimed_a, claimed, flip), learn=True),
    ]
    if rng.random() < (mix.revise_right if is_right and not flip else mix.revise_wrong):
        turns += [
            Turn("user", worded(rng, prompts.REVISE, REVISE_VARIANTS, mix.variant)),
            Turn("assistant", right, learn=True),
        ]
    return turns


def product_drill(rng: random.Random) -> list[Turn]:
    """Return lines of products in one go; only the values are learned."""
    pairs = rng.choices(PRODUCTS["pretraining"], k=8)
    return [turn for a, m in pairs for turn in (Turn("", f"{a}*{m}="), Turn("", f"{a * m}\n", learn=True))]


def drill(rng: random.Random) -> list[Turn]:
    """Return one line of bare arithmetic: a small product, a partial sum, a comparison, or a whole checked product.

    Only what follows from the numbers is learned, not the numbers.
    """
    a, m = rng.choice(PRODUCTS["pretraining"])
    kind = rng.random()
    if kind < 0.2:
        part = redrawn(lambda: (rng.randrange(10) * 10 ** rng.randrange(4), m))[0]
        return [Turn("", f"{part}*{m}="), Turn("", f"{part * m}\n", learn=True)]
    if kind < 0.5:
        place = rng.randint(1, len(str(a)) - 1)
        low, part = a % 10**place * m, a // 10**place % 10 * m * 10**place
        return [Turn("", f"{low}+{part}="), Turn("", f"{low + part}\n", learn=True)]
    if kind < 0.6:
        return comparison_drill(rng)
    claimed = a * m if rng.random() < 0.5 else wrong_value(rng, a * m, m)
    work = decomposition(a, m)[0].rsplit("=", 1)[0].removeprefix(f"{a}*{m}=")
    computed, shown, judgement = comparison(a * m, claimed).split(":")
    return [
        Turn("", f"{a}*{m}="),
        Turn("", f"{work}={computed}", learn=True),
        Turn("", f":{shown}"),
        Turn("", f":{judgement}\n", learn=True),
    ]


def comparison_drill(rng: random.Random) -> list[Turn]:
    """Return one line that compares two numbers; only the judgement is learned."""
    value = rng.choice((rng.randint(200, 1500), rng.randint(600, 13_500)))
    claimed = value if rng.random() < 0.5 else wrong_value(rng, value, rng.choice(FACTORS))
    computed, shown, judgement = comparison(value, claimed).split(":")
    return [Turn("", f"{computed}:{shown}"), Turn("", f":{judgement}\n", learn=True)]
