"""Synthetic word problems with one hard step: the problem set ``arithmetic``.

A problem has a trivial first step (a sum or difference without carry) and one hard step, a product ``a * m`` of a
3- or 4-digit number with a one-digit factor::

    Anna has 664 stamps. Anna buys 21 more. Then the number grows 7 times. How many stamps now?

`problems` gives distinct, seeded problems; the splits share neither a product ``(a, m)`` nor a combination of
clauses. Three splits are for users; the fourth, ``pretraining``, is all that the base model has seen, so that
``train`` problems are as new to it as ``test`` problems. Their ``level`` is easy, medium or hard, by the carries of
the written product. A fifth split, ``ood``, asks for what no split before it does: larger operands (``near``: up to
1,999, ``4-digit``, ``5-digit``) or more steps (``3-step``, ``4-step``). A sixth, ``wording``, is ``test`` told with
names, things and places that no other split has: problem by problem the same numbers and clauses.

The embedded model's pre-training corpus is written from them by `selfcorrect.train.embedded.corpus`.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, cast

from selfcorrect.errors import InputError
from selfcorrect.types import Problem

Split = Literal["train", "validation", "test", "pretraining"]
OUT_OF_DISTRIBUTION: Final = "ood"
REWORDED: Final = "wording"
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

UNSEEN = {
    NAMES: ("Bilal", "Dora", "Edith", "Gustav", "Helga", "Imre", "Lotte", "Nora", "Otto", "Wanda"),
    ITEMS: ("rulers", "pebbles", "bricks", "ribbons", "lamps", "carrots", "spoons", "masks", "keys", "pillows"),
    PLACES: ("harbour", "bakery", "castle", "factory", "theatre", "bank"),
}
"""What ``wording`` says in their place."""

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


def sample_numbers(rng: random.Random, split: Split, pair: tuple[int, int]) -> tuple[Sum, str]:
    opening, change, growth, question = rng.choice(CLAUSES[split])
    numbers = _numbers(rng, *pair, CHANGES[change][0])
    return numbers, _question(rng, numbers.v0, [(change, numbers.d)], numbers.m, (opening, growth, question))


def available(split: str) -> int:
    """Return how many distinct problems a split has; InputError for an unknown split."""
    if split == OUT_OF_DISTRIBUTION:
        return OOD_PER_LEVEL * len(OOD_LEVELS)
    if split == REWORDED:
        return len(PRODUCTS["test"])
    if split not in PRODUCTS:
        known = ", ".join((*PRODUCTS, OUT_OF_DISTRIBUTION, REWORDED))
        raise InputError(f"unknown split {split!r}: expected one of {known}")
    return len(PRODUCTS[split])  # type: ignore[index]


def problems(split: str, count: int, seed: int) -> list[Problem]:
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
    if split == REWORDED:
        return [_reworded(problem) for problem in problems("test", count, seed)]
    rng, own = random.Random(f"{SOURCE} {split} {seed}"), cast(Split, split)
    drawn = []
    for a, m in rng.sample(PRODUCTS[own], count):
        numbers, question = sample_numbers(rng, own, (a, m))
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


def _reworded(problem: Problem) -> Problem:
    """Return a ``test`` problem with other names, things and places."""
    rng, question = random.Random(problem.id), problem.question
    for known, unseen in UNSEEN.items():
        question = re.sub(rf"\b({'|'.join(known)})\b", rng.choice(unseen), question)
    return replace(problem, id=problem.id.replace("-test-", f"-{REWORDED}-"), question=question)


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
