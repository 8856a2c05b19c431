"""Fuzz the grader for some minutes: ``python tests/selfcorrect/grading/fuzz.py --minutes 10 [--seed 0]``. Outside CI.

Two sources: token soup from the reader's own vocabulary, and mutated real answers (the development cases where they
are there, the case file of this folder else). Laws checked on every text:
- nothing raises, and no grade takes more than a second of this process's CPU or two on the wall;
- a readable gold accepts itself in a box;
- it refuses itself plus one, and its double where it is a number other than 0;
- the verdict on (a, b) and on (b, a) is not CORRECT one way and WRONG the other for scalars.
Each finding is printed once, to become a line in ``cases.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from selfcorrect.grading import gold_is_readable, grade
from selfcorrect.grading.maths.equivalence import _is_scalar, _plain_number
from selfcorrect.grading.maths.limits import TooLarge, Unreadable
from selfcorrect.grading.maths.parser import read
from selfcorrect.grading.maths.vocabulary import FUNCTIONS, GREEK, OPERATORS, SKIPPED
from selfcorrect.types import Outcome

HERE = Path(__file__).resolve().parent
DEV = HERE.parents[3] / "shared" / "grader" / "cases_dev.jsonl"
PIECES = [
    *[f"\\{name}" for name in sorted(FUNCTIONS | GREEK | SKIPPED)], *[f"\\{name}" for name in OPERATORS],
    *"0123456789", *"abcdefinxyzABC", *"+-*/^_=<>!,.;:|%'&$~", "(", ")", "[", "]", "{", "}", r"\{", r"\}", " ",
    r"\frac", r"\frac{1}{2}", r"\sqrt", r"\sqrt[3]", r"\begin{pmatrix}", r"\end{pmatrix}", r"\\", r"\text{ and }",
    r"\text{", r"\boxed{", r"\over", r"\overline{", r"\binom", r"\int", r"\sum_{k=1}", r"\lim_{x\to", "dx", "10^", "^{",
    "_{", "1,000", "99999999999", "1e9", r"\pm", r"\infty", r"\cup", r"\in", "or", "and", "cm", "−", "√", "π", "°",
]  # fmt: skip


def answers() -> list[str]:
    """Return real answers to mutate."""
    path = DEV if DEV.exists() else HERE / "cases.jsonl"
    return sorted({json.loads(line)["gold"] for line in path.open(encoding="utf-8")})


def soup(rng: random.Random) -> str:
    return "".join(rng.choice(PIECES) for _ in range(rng.randint(1, 25)))


def mutated(rng: random.Random, text: str) -> str:
    for _ in range(rng.randint(1, 3)):
        place = rng.randint(0, len(text))
        match rng.randint(0, 4):
            case 0:
                text = text[:place] + rng.choice(PIECES) + text[place:]
            case 1:
                text = text[:place] + text[place + rng.randint(1, 4) :]
            case 2:
                end = place + rng.randint(1, 8)
                text = text[:end] + text[place:end] * rng.randint(1, 3) + text[end:]
            case 3:
                other = rng.randint(0, len(text))
                text = text[:place] + text[other : other + 6] + text[place:]
            case _:
                text = text.replace(rng.choice("123abx"), rng.choice(["9" * rng.randint(1, 30), "y", r"\pi", "^9"]), 1)
    return text


def check(text: str, other: str) -> tuple[str, str] | None:
    """Return (law, details) of the first law that the text breaks, else None."""
    clock, cpu = time.perf_counter(), time.process_time()
    try:
        readable = gold_is_readable(text)
        itself = grade(f"$\\boxed{{{text}}}$", text)
        crossed = grade(f"$\\boxed{{{text}}}$", other), grade(f"$\\boxed{{{other}}}$", text)
        grade(text, other)
    except Exception as failure:  # noqa: BLE001 (that is what we look for)
        return "raised", repr(failure)
    cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    if cpu > 1 or clock > 8:
        return "slow", f"{cpu:.2f} s CPU, {clock:.2f} s"
    balanced = text.count("{") == text.count("}") and "boxed" not in text and "\\\\" not in text
    if readable and balanced and itself.outcome is Outcome.WRONG and itself.method != "empty":
        return "not reflexive", f"{itself}"
    try:
        tree = read(text)
        if not _is_scalar(tree) or not _is_scalar(read(other)) or not balanced:
            return None
    except (Unreadable, TooLarge):
        return None
    if {crossed[0].outcome, crossed[1].outcome} == {Outcome.CORRECT, Outcome.WRONG}:
        return "not symmetric", f"{other!r}: {crossed[0].reason} / {crossed[1].reason}"
    value = _plain_number(tree)
    if value is not None:
        plus, double = grade(f"\\boxed{{{value + 1}}}", text), grade(f"\\boxed{{{value * 2}}}", text)
        if plus.correct or (double.correct and value):
            return "change accepted", f"{value}: {plus.reason} / {double.reason}"
    return None


def main() -> None:
    """Fuzz, and print the findings and counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    golds = answers()
    until = time.monotonic() + 60 * options.minutes
    tried, found = 0, Counter[str]()
    while time.monotonic() < until:
        text = soup(rng) if rng.random() < 0.4 else mutated(rng, rng.choice(golds))
        finding = check(text, rng.choice(golds))
        tried += 1
        if finding:
            found[finding[0]] += 1
            if found[finding[0]] <= 40:
                print(json.dumps({"law": finding[0], "text": text, "details": finding[1][:300]}), flush=True)
    print(json.dumps({"tried": tried, "findings": dict(found)}))


if __name__ == "__main__":
    main()
