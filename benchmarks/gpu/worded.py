"""Worded sums of one to three small steps: problems that a weak LLM can learn to solve about half of.

Written to JSON lines of ``question``, ``answer`` and ``level``, which every command reads (``problems.source=FILE``).
The problems of different files share no question: numbers and words are drawn until they are new.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
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

Drawn = tuple[str, list[tuple[int, str, int]]]
"""A question, and the steps to its answer: (number, operator, number)."""


def one_step(rng: random.Random, name: str, items: str) -> Drawn:
    """A two-digit number and one of one or two digits."""
    a, b = rng.randint(11, 89), rng.randint(2, 39)
    if a <= b or rng.random() < 0.5:
        return f"{name} has {a} {items} and buys {b} more. How many {items} does {name} have now?", [(a, "+", b)]
    return f"{name} has {a} {items} and gives away {b}. How many {items} does {name} have left?", [(a, "-", b)]


def two_steps(rng: random.Random, name: str, items: str) -> Drawn:
    """A sum, then a difference."""
    a, b, c = rng.randint(11, 79), rng.randint(3, 39), rng.randint(3, 12)
    text = f"{name} has {a} {items}. {name} buys {b} more and then loses {c}. How many {items} does {name} have now?"
    return text, [(a, "+", b), (a + b, "-", c)]


def boxes(rng: random.Random, name: str, items: str) -> Drawn:
    """A product of one-digit numbers, then a sum."""
    a, b, c = rng.randint(2, 9), rng.randint(3, 12), rng.randint(3, 39)
    text = (
        f"{name} has {a} boxes with {b} {items} in each box, and {c} more {items} on the table. "
        f"How many {items} does {name} have in all?"
    )
    return text, [(a, "*", b), (a * b, "+", c)]


LEVELS: dict[str, Callable[[random.Random, str, str], Drawn]] = {"one": one_step, "two": two_steps, "boxes": boxes}
OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}


def write(folder: Path, sizes: dict[str, int], seed: int) -> None:
    """Write ``<name>.jsonl`` for each name and size, with ``solution`` worked out line by line."""
    rng, seen = random.Random(f"worded {seed}"), set()
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in sizes.items():
        lines: list[str] = []
        while len(lines) < size:
            level = rng.choice(list(LEVELS))
            question, steps = LEVELS[level](rng, rng.choice(NAMES), rng.choice(ITEMS))
            if question in seen:
                continue
            seen.add(question)
            worked = [f"{a} {sign} {b} = {OPERATIONS[sign](a, b)}" for a, sign, b in steps]
            answer = str(OPERATIONS[steps[-1][1]](steps[-1][0], steps[-1][2]))
            row = {"question": question, "answer": answer, "level": level}
            lines.append(json.dumps(row | {"worked": "\n".join(worked) + f"\n\\boxed{{{answer}}}"}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
