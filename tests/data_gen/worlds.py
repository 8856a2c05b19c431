"""A scripted model with known abilities, and toy problems for it: shared by the tests of this folder."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfcorrect import prompts
from selfcorrect.engines import SampleRequest
from selfcorrect.engines.scripted import Reply
from selfcorrect.types import Grade, Outcome


@dataclass(frozen=True)
class World:
    """A model with known abilities: shares of right attempts, true verdicts, right revisions."""

    right: float = 0.5
    judges: float = 0.8
    repairs: float = 0.4
    keeps: float = 0.7
    blind: float = 0.4
    broken: Callable[[random.Random, str], str | None] = lambda rng, part: None

    def __call__(self, request: SampleRequest, text: str) -> Reply:
        rng = random.Random(request.seed)
        turns = text.split("<|user|>")[1:]
        (gold,) = re.findall(r"equals (\d+)\?", turns[0])
        attempt = turns[0].split("<|assistant|>")[1]
        was_right = f"boxed{{{gold}}}" in attempt
        part = "attempt"
        if len(turns) > 1:
            part = {prompts.EVALUATE: "evaluation", prompts.INTRINSIC: "blind"}.get(
                turns[-1].split("<|end|>")[0], "revision"
            )
        if (broken := self.broken(rng, part)) is not None:
            return Reply(broken)
        if part == "evaluation":
            says = was_right if rng.random() < self.judges else not was_right
            return Reply(f"Look {rng.randrange(1000)}. [VERIFY] {'correct' if says else 'wrong'}. more", 0.9)
        share = {"attempt": self.right, "blind": self.blind}.get(part, self.keeps if was_right else self.repairs)
        value = gold if rng.random() < share else str(int(gold) + 1 + rng.randrange(9))
        style = "slow " * 12 if rng.random() < 0.3 else "quick "
        return Reply(f"{style}{rng.randrange(1000)}\n\\boxed{{{value}}}")


WORLD = World()


def grade(
    pairs: Sequence[tuple[str, str]], *, source: str, tolerance: Sequence[str | None] | None = None
) -> list[Grade]:
    grades = []
    for response, gold in pairs:
        found = re.findall(r"boxed\{(\d+)\}", response)
        outcome = Outcome.UNGRADABLE if not found else Outcome.CORRECT if found[-1] == gold else Outcome.WRONG
        grades.append(Grade(outcome, extracted=found[-1] if found else None))
    return grades


def write_problems(path: Path) -> Path:
    """Write sixty problems whose answers the world reads off their questions."""
    rows = ({"question": f"Which number equals {number + 10}?", "gold": str(number + 10)} for number in range(60))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
