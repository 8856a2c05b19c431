"""Synthetic word problems, their written work, and the embedded model's pre-training corpus.

A problem has a trivial first step (a sum or difference without carry) and one hard step, a product ``a * m`` of a
3- or 4-digit number with a one-digit factor::

    Anna has 664 stamps. Anna buys 21 more. Then the number grows 7 times. How many stamps now?

`problems` gives distinct, seeded problems; the splits share neither a product ``(a, m)`` nor a combination of
clauses. Three splits are for users; the fourth, ``pretraining``, is all that the base model has seen, so that
``train`` problems are as new to it as ``test`` problems. Their ``level`` is easy, medium or hard, by the carries of
the written product. A fifth split, ``ood``, asks for what no split before it does: larger operands (``near``: up to
1,999, ``4-digit``, ``5-digit``) or more steps (``3-step``, ``4-step``).

`conversation` and `drill` write what the base model is taught (docs/embedded_model.md): to solve (the product in one
go, which it never masters), to check (the product digit by digit, which it does), to revise after a check (copying
the checked value) and blindly (in one go again). Each is asked for in a user message of its own; no assistant message
holds two of them.

    python -m data_gen.arithmetic --count 3          # look at problems and conversations
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from selfcorrect import prompts
from selfcorrect.errors import InputError
from selfcorrect.jsonl import write_whole
from selfcorrect.printing import show
from selfcorrect.types import Problem, Verdict
from selfcorrect.verdicts import MARKS

Split = Literal["train", "validation", "test", "pretraining"]
OUT_OF_DISTRIBUTION: Final = "ood"
SOURCE = "arithmetic"

# --- the problem space ------------------------------------------------------------------------------------------

FACTORS = range(3, 10)
BASES = [base for base in range(200, 1500) if base % 1000]
PRODUCT_PERCENT = {"test": 13, "validation": 9, "train": 18}
CLAUSE_PERCENT = {"test": 15, "validation": 15, "train": 20}

OPENINGS = (
    "{name} has {v0} {items}.",
    "{name} owns {v0} {items}.",
    "{name} starts with {v0} {items}.",
    "There are {v0} {items} at the {place}.",
    "The {place} holds {v0} {items}.",
)
CHANGES = (
    ("+", "{name} buys {d} more."),
    ("+", "{name} finds {d} more."),
    ("+", "{d} more arrive."),
    ("+", "{d} more are added."),
    ("-", "{name} gives away {d}."),
    ("-", "{name} sells {d}."),
    ("-", "{d} are lost."),
    ("-", "{d} are taken away."),
)
GROWTHS = (
    "Then the number grows {m} times.",
    "Then the collection becomes {m} times as large.",
    "After that the total is multiplied by {m}.",
    "A year later there are {m} times as many.",
    "Then {name} makes it {m} times as many.",
)
QUESTIONS = (
    "How many {items} now?",
    "How many {items} are there in the end?",
    "Find the final number of {items}.",
    "What is the number of {items} now?",
)
NAMES = (
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Iris", "Jonas",
    "Kira", "Leo", "Mia", "Noah", "Olga", "Paul", "Rosa", "Sam", "Tara", "Victor",
)  # fmt: skip
ITEMS = (
    "stamps", "coins", "shells", "cards", "beads", "books", "apples", "marbles", "pencils", "stones",
    "buttons", "tickets", "seeds", "bottles", "candles", "flowers", "nails", "eggs", "badges", "stickers",
)  # fmt: skip
PLACES = ("museum", "shop", "school", "library", "market", "farm", "station", "garden")

Clauses = tuple[int, int, int, int]


def _percentile(key: str) -> int:
    """Return 0..99 from a good hash of the key: equal everywhere, unrelated to the digits."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") % 100


def _split(key: str, percent: dict[str, int]) -> Split:
    place = _percentile(key)
    for split in ("test", "validation", "train"):
        if place < percent[split]:
            return split  # type: ignore[return-value]
        place -= percent[split]
    return "pretraining"


def product_split(a: int, m: int) -> Split:
    """Return the split that owns the product ``a * m``."""
    return _split(f"product {a}*{m}", PRODUCT_PERCENT)


def clause_split(clauses: Clauses) -> Split:
    """Return the split that owns a combination of opening, change, growth and question."""
    return _split("clauses " + ".".join(map(str, clauses)), CLAUSE_PERCENT)


PRODUCTS: dict[Split, list[tuple[int, int]]] = {"train": [], "validation": [], "test": [], "pretraining": []}
for _pair in itertools.product(BASES, FACTORS):
    PRODUCTS[product_split(*_pair)].append(_pair)
CLAUSES: dict[Split, list[Clauses]] = {"train": [], "validation": [], "test": [], "pretraining": []}
for _o, _c, _g, _q in itertools.product(*map(range, map(len, (OPENINGS, CHANGES, GROWTHS, QUESTIONS)))):
    CLAUSES[clause_split((_o, _c, _g, _q))].append((_o, _c, _g, _q))


@dataclass(frozen=True, slots=True)
class Sum:
    """The numbers of one problem: ``v0 sign d = a``, then ``a * m``."""

    v0: int
    sign: str
    d: int
    a: int
    m: int

    @property
    def answer(self) -> int:
        """The reference answer."""
        return self.a * self.m


def _numbers(rng: random.Random, a: int, m: int, sign: str) -> Sum:
    """Choose ``v0`` and a 1- or 2-digit ``d`` with ``v0 sign d = a``, so that no digit carries or borrows."""
    while True:
        units, tens = a % 10, a // 10 % 10
        room = (units, tens) if sign == "+" else (9 - units, 9 - tens)
        d = rng.randint(0, room[0]) + (10 * rng.randint(0, room[1]) if rng.random() < 0.7 else 0)
        if d > 0:
            return Sum(a - d if sign == "+" else a + d, sign, d, a, m)
        if room == (0, 0):
            return Sum(a - 100, sign, 100, a, m) if sign == "+" else Sum(a + 1000, sign, 1000, a, m)


def _question(
    rng: random.Random, v0: int, changes: Sequence[tuple[int, int]], m: int, around: tuple[int, int, int]
) -> str:
    """Return the wording: ``changes`` are (clause, number), ``around`` the opening, the growth and the question."""
    opening, growth, question = around
    changed = (CHANGES[clause][1].replace("{d}", str(d)) for clause, d in changes)
    text = " ".join((OPENINGS[opening], *changed, GROWTHS[growth], QUESTIONS[question]))
    return text.format(name=rng.choice(NAMES), items=rng.choice(ITEMS), place=rng.choice(PLACES), v0=v0, m=m)


def level(a: int, m: int) -> str:
    """Return how hard the written product ``a * m`` is: easy (at most one digit carries), medium (two) or hard."""
    carries = carry = 0
    for digit in reversed(str(a)):
        carry = (int(digit) * m + carry) // 10
        carries += carry > 0
    return ("easy", "easy", "medium")[carries] if carries < 3 else "hard"


def _draw(rng: random.Random, split: Split, pair: tuple[int, int]) -> tuple[Sum, str]:
    opening, change, growth, question = rng.choice(CLAUSES[split])
    numbers = _numbers(rng, *pair, CHANGES[change][0])
    return numbers, _question(rng, numbers.v0, [(change, numbers.d)], numbers.m, (opening, growth, question))


def available(split: str) -> int:
    """Return how many distinct problems a split has; InputError for an unknown split."""
    if split == OUT_OF_DISTRIBUTION:
        return OOD_PER_LEVEL * len(OOD_LEVELS)
    if split not in PRODUCTS:
        raise InputError(f"unknown split {split!r}: expected one of {', '.join(PRODUCTS)}, {OUT_OF_DISTRIBUTION}")
    return len(PRODUCTS[split])  # type: ignore[index]


def problems(split: Split | Literal["ood"], count: int, seed: int) -> list[Problem]:
    """Return ``count`` problems of a split, distinct by product (in ``ood``: within a level); seeded.

    Raises InputError for an unknown split or where the split has fewer distinct problems than asked for.
    """
    if not 0 <= count <= available(split):
        raise InputError(
            f"asked for {count} {split} problems: there are {available(split)} distinct products in this split; "
            f"ask for at most {available(split)}"
        )
    if split == OUT_OF_DISTRIBUTION:
        return _out_of_distribution(count, seed)
    rng = random.Random(f"{SOURCE} {split} {seed}")
    drawn = []
    for a, m in rng.sample(PRODUCTS[split], count):
        numbers, question = _draw(rng, split, (a, m))
        meta = {"v0": numbers.v0, "sign": numbers.sign, "d": numbers.d, "a": a, "m": m, "level": level(a, m)}
        drawn.append(Problem(f"{SOURCE}-{split}-{seed}-{a}x{m}", question, str(numbers.answer), SOURCE, meta))
    return drawn


# --- out of distribution ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shift:
    """One way to leave the distribution: the products, and how many changes come before the product."""

    products: Sequence[tuple[int, int]]
    changes: int = 1


def _products(bases: Iterable[int]) -> list[tuple[int, int]]:
    return [pair for pair in itertools.product(bases, FACTORS) if not _steps_far(pair[0])]


def _steps_far(value: int) -> bool:
    """True where `_numbers` may have to step by 100 or 1000, which can carry in numbers of any size."""
    return value % 100 in (0, 99)


OOD_LEVELS: dict[str, Shift] = {
    "near": Shift(_products(range(1501, 2000))),
    "4-digit": Shift(_products(range(2003, 10_000, 17))),
    "5-digit": Shift(_products(range(10_007, 100_000, 179))),
    "3-step": Shift([pair for pair in PRODUCTS["test"] if not _steps_far(pair[0])], changes=2),
    "4-step": Shift([pair for pair in PRODUCTS["test"] if not _steps_far(pair[0])], changes=3),
}
"""Each level moves one thing away from ``test``, and takes the rest, products or wording, from there.

``test`` problems have 2 steps and operands of 200 to 1,499. Every clause combination of every change is of ``test``.
"""
OOD_PER_LEVEL = 1000


def _out_of_distribution(count: int, seed: int) -> list[Problem]:
    """Return problems of all levels in turn, so that any count has as many of each."""
    rngs = {name: random.Random(f"{SOURCE} {OUT_OF_DISTRIBUTION} {name} {seed}") for name in OOD_LEVELS}
    pairs = {name: rngs[name].sample(shift.products, OOD_PER_LEVEL) for name, shift in OOD_LEVELS.items()}
    turns = itertools.islice(((name, place) for place in range(OOD_PER_LEVEL) for name in OOD_LEVELS), count)
    return [_shifted(rngs[name], name, pairs[name][place], seed) for name, place in turns]


def _shifted(rng: random.Random, name: str, pair: tuple[int, int], seed: int) -> Problem:
    count = OOD_LEVELS[name].changes
    while True:
        opening, _, growth, question = rng.choice(CLAUSES["test"])
        known = [c for c in range(len(CHANGES)) if clause_split((opening, c, growth, question)) == "test"]
        if len(known) >= count and (drawn := _chain(rng, pair, rng.sample(known, count))):
            break
    (a, m), (v0, changes) = pair, drawn
    signed = [int(f"{CHANGES[clause][0]}{d}") for clause, d in changes]
    meta = {"v0": v0, "changes": signed, "a": a, "m": m, "level": name}
    identity = f"{SOURCE}-{OUT_OF_DISTRIBUTION}-{seed}-{name}-{a}x{m}"
    return Problem(identity, _question(rng, v0, changes, m, (opening, growth, question)), str(a * m), SOURCE, meta)


def _chain(
    rng: random.Random, pair: tuple[int, int], clauses: Sequence[int]
) -> tuple[int, list[tuple[int, int]]] | None:
    """Return the first number and the (clause, number) changes that lead to the operand; None where one could carry."""
    value = pair[0]
    changes: list[tuple[int, int]] = []
    for clause in reversed(clauses):
        if _steps_far(value):
            return None
        numbers = _numbers(rng, value, pair[1], CHANGES[clause][0])
        changes.insert(0, (clause, numbers.d))
        value = numbers.v0
    return value, changes


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


def _wording(rng: random.Random, canonical: str, variants: Sequence[str], mix: Mix) -> str:
    return rng.choice(variants) if rng.random() < mix.variant else canonical


def _slip(rng: random.Random) -> Callable[[int], int]:
    spoiled = rng.randrange(3)
    counter = itertools.count()
    return lambda part: part + (rng.choice((-1, 1, 2)) if next(counter) == spoiled and part > 1 else 0)


def _attempt(rng: random.Random, numbers: Sum, wrong: bool, mix: Mix) -> tuple[str, int, int]:
    """Return an attempt's text, its claimed first step and its claimed value."""
    if rng.random() < mix.careful:
        text, value = careful_solution(numbers, _slip(rng) if wrong else lambda part: part)
        return text, numbers.a, value
    if not wrong:
        return solution(numbers, numbers.answer), numbers.a, numbers.answer
    if rng.random() < 0.06:
        a = numbers.a + rng.choice((-1, 1)) * rng.choice((1, 10, 100))
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
        pairs = rng.choices(PRODUCTS["pretraining"], k=8)
        return [turn for a, m in pairs for turn in (Turn("", f"{a}*{m}="), Turn("", f"{a * m}\n", learn=True))]
    if kind == "compare":
        return [turn for _ in range(10) for turn in comparison_drill(rng)]
    if kind == "drill":
        return [turn for _ in range(rng.randint(3, 6)) for turn in drill(rng)]
    overcorrectable = kind == "intrinsic" and rng.random() < mix.overcorrectable
    pair = rng.choice(OVERCORRECTED if overcorrectable else PRODUCTS["pretraining"])
    numbers, question = _draw(rng, "pretraining", pair)
    ask = f"{question}\n{_wording(rng, prompts.SOLVE, SOLVE_VARIANTS, mix)}"
    if kind == "solve":
        if rng.random() < mix.careful:
            slip = _slip(rng) if rng.random() < mix.careful_wrong else lambda part: part
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
            Turn("user", _wording(rng, prompts.EVALUATE, EVALUATE_VARIANTS, mix)),
            Turn("assistant", check(numbers, claimed_a, claimed, computed=value)),
            Turn("user", _wording(rng, prompts.REVISE, REVISE_VARIANTS, mix)),
            Turn("assistant", solution(numbers, value, opener=REVISION_OPENER), learn=True),
        ]
        return turns
    turns += [
        Turn("user", _wording(rng, prompts.EVALUATE, EVALUATE_VARIANTS, mix)),
        Turn("assistant", check(numbers, claimed_a, claimed, flip), learn=True),
    ]
    if rng.random() < (mix.revise_right if is_right and not flip else mix.revise_wrong):
        turns += [
            Turn("user", _wording(rng, prompts.REVISE, REVISE_VARIANTS, mix)),
            Turn("assistant", right, learn=True),
        ]
    return turns


def drill(rng: random.Random) -> list[Turn]:
    """Return one line of bare arithmetic: a small product, a partial sum, a comparison, or a whole checked product.

    Only what follows from the numbers is learned, not the numbers.
    """
    a, m = rng.choice(PRODUCTS["pretraining"])
    kind = rng.random()
    if kind < 0.2:
        digit, zeros = rng.randrange(10), 10 ** rng.randrange(4)
        return [Turn("", f"{digit * zeros}*{m}="), Turn("", f"{digit * zeros * m}\n", learn=True)]
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


@dataclass(frozen=True, slots=True)
class Phase:
    """So many conversations with these overrides of `Mix`."""

    conversations: int
    mix: Mapping[str, float] = field(default_factory=dict)


def write_corpus(path: Path, phases: Sequence[Phase], seed: int) -> None:
    """Write the conversations of all phases as JSON lines, each a list of ``[role, text, learn]``."""
    rng = random.Random(f"{SOURCE} corpus {seed}")
    mixes = ((Mix(**phase.mix), phase.conversations) for phase in phases)
    written = (conversation(rng, mix) for mix, count in mixes for _ in range(count))
    write_whole(path, (json.dumps([[turn.role, turn.text, turn.learn] for turn in turns]) + "\n" for turns in written))


def main() -> None:
    """Print a few problems of a split and a few conversations, or write the corpus."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--split", choices=[*PRODUCTS, OUT_OF_DISTRIBUTION], default="train", help="the split to show")
    parser.add_argument("--count", type=int, default=3, help="how many problems and conversations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpus", type=Path, help="write the corpus to this JSONL file and print nothing")
    parser.add_argument("--phases", type=json.loads, default=[{"conversations": 1000}], help="of the corpus, as JSON")
    options = parser.parse_args()
    phases = [Phase(**phase) for phase in options.phases]
    if options.corpus:
        write_corpus(options.corpus, phases, options.seed)
        return
    for problem in problems(options.split, options.count, options.seed):
        show(f"{problem.id} | {problem.meta['level']} | {problem.question} | {problem.gold}")
    rng = random.Random(options.seed)
    for _ in range(options.count):
        show("-" * 80)
        for turn in conversation(rng, Mix(**phases[-1].mix)):
            show(f"[{turn.role or 'text'}{' *' if turn.learn else ''}] {turn.text}")


if __name__ == "__main__":
    main()
