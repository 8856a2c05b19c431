"""Worded sums of one to three small steps: problems that a weak LLM can learn to solve about half of.

Written to JSON lines of ``question``, ``answer`` and ``level``, which every command reads (``problems.source=FILE``).
No two problems share their numbers, within a file or across files: numbers are drawn until they are new.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

NAMES = [
    "Anna",
    "Ben",
    "Clara",
    "David",
    "Emma",
    "Felix",
    "Grace",
    "Hugo",
    "Iris",
    "Jonas",
    "Kira",
    "Leo",
    "Mia",
    "Noah",
    "Olga",
    "Paul",
    "Rosa",
    "Sam",
    "Tara",
    "Victor",
]
ITEMS = [
    "apples",
    "books",
    "cards",
    "coins",
    "shells",
    "stamps",
    "pencils",
    "marbles",
    "stickers",
    "tickets",
    "eggs",
    "stones",
    "bottles",
    "flowers",
]

Asked = tuple[str, list[tuple[int, str, int]]]
"""A question, and the steps to its answer: (number, operator, number)."""


def one_step(rng: random.Random, name: str, items: str) -> Asked:
    """A two-digit number and one of one or two digits."""
    a, b = rng.randint(11, 89), rng.randint(2, 39)
    if a <= b or rng.random() < 0.5:
        return f"{name} has {a} {items} and buys {b} more. How many {items} does {name} have now?", [(a, "+", b)]
    return f"{name} has {a} {items} and gives away {b}. How many {items} does {name} have left?", [(a, "-", b)]


def two_steps(rng: random.Random, name: str, items: str) -> Asked:
    """A sum, then a difference."""
    a, b, c = rng.randint(11, 79), rng.randint(3, 39), rng.randint(3, 12)
    text = f"{name} has {a} {items}. {name} buys {b} more and then loses {c}. How many {items} does {name} have now?"
    return text, [(a, "+", b), (a + b, "-", c)]


def boxes(rng: random.Random, name: str, items: str) -> Asked:
    """A product of one-digit numbers, then a sum."""
    a, b, c = rng.randint(2, 9), rng.randint(3, 12), rng.randint(3, 39)
    text = (
        f"{name} has {a} boxes with {b} {items} in each box, and {c} more {items} on the table. "
        f"How many {items} does {name} have in all?"
    )
    return text, [(a, "*", b), (a * b, "+", c)]


Levels = dict[str, Callable[[random.Random, str, str], Asked]]
LEVELS: Levels = {"one": one_step, "two": two_steps, "boxes": boxes}


def bought(rng: random.Random, name: str, items: str) -> Asked:
    """A sum of three numbers, two of them of one digit."""
    a, b, c = rng.randint(5, 30), rng.randint(2, 9), rng.randint(2, 9)
    text = f"{name} has {a} {items}, buys {b} and finds {c} more. How many {items} does {name} have now?"
    return text, [(a, "+", b), (a + b, "+", c)]


def lost(rng: random.Random, name: str, items: str) -> Asked:
    """A sum, then a difference, of numbers as in `bought`."""
    a, b, c = rng.randint(5, 30), rng.randint(2, 9), rng.randint(2, 9)
    text = f"{name} has {a} {items}, buys {b} and loses {c}. How many {items} does {name} have now?"
    return text, [(a, "+", b), (a + b, "-", c)]


def packs(rng: random.Random, name: str, items: str) -> Asked:
    """A product of one-digit numbers, then a sum."""
    a, b, c = rng.randint(2, 9), rng.randint(2, 9), rng.randint(2, 19)
    text = f"{name} has {a} packs of {b} {items} and {c} more. How many {items} does {name} have?"
    return text, [(a, "*", b), (a * b, "+", c)]


SMALL: Levels = {"bought": bought, "lost": lost, "packs": packs}
"""What 135 million parameters can learn on a CPU within minutes: about 4,400 problems of different numbers."""
OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}


@dataclass(frozen=True, slots=True)
class Worded:
    """A problem and the steps to its answer."""

    level: str
    question: str
    steps: tuple[tuple[int, str, int], ...]

    @property
    def sum_in_any_order(self) -> tuple[object, ...]:
        """What is reckoned, whatever the order of what is added up or multiplied: 7 + 8 + 28 is 28 + 7 + 8."""
        (a, first, b), (_, last, c) = self.steps
        both_add = first == last == "+"
        return ("+", *sorted((a, b, c))) if both_add else (first, last, *sorted((a, b)), c)

    @property
    def answer(self) -> int:
        """What the last step comes to."""
        a, sign, b = self.steps[-1]
        return OPERATIONS[sign](a, b)


class Drawn:
    """Draws problems whose numbers no other problem of the same draw has, nor one of those to ``avoid``."""

    def __init__(self, seed: int, levels: Levels, avoid: Iterable[Worded] = ()) -> None:
        self._levels = levels
        self._rng = random.Random(f"worded {seed}")
        self._seen = {problem.steps for problem in avoid}

    def take(self, count: int) -> Iterator[Worded]:
        """Yield so many problems, of all levels in equal shares."""
        rng = self._rng
        while count:
            level = rng.choice(list(self._levels))
            question, steps = self._levels[level](rng, rng.choice(NAMES), rng.choice(ITEMS))
            if tuple(steps) not in self._seen:
                self._seen.add(tuple(steps))
                count -= 1
                yield Worded(level, question, tuple(steps))


def write(folder: Path, sizes: dict[str, int], drawn: Drawn) -> dict[str, list[Worded]]:
    """Write ``<name>.jsonl`` for each name and size, with ``worked`` line by line; return the problems."""
    made = {name: list(drawn.take(size)) for name, size in sizes.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, problems in made.items():
        write_problems(folder / f"{name}.jsonl", problems)
    return made


def write_problems(file: Path, problems: Iterable[Worded]) -> None:
    """Write problems, a line each."""
    file.write_text("".join(_line(problem) for problem in problems), encoding="utf-8")


def _line(problem: Worded) -> str:
    worked = [f"{a} {sign} {b} = {OPERATIONS[sign](a, b)}" for a, sign, b in problem.steps]
    row = {"question": problem.question, "answer": str(problem.answer), "level": problem.level}
    return json.dumps(row | {"worked": "\n".join(worked) + f"\n\\boxed{{{problem.answer}}}"}) + "\n"
