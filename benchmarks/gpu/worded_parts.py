"""Chats about worded sums in which each part is asked for: what the start model of the study `smollm` is tuned on.

Each part is a message of its own, asked for by the wordings of `selfcorrect.prompts`, as `gen` and ``method: asked``
ask; no message holds two parts, so that joining them stays the method's work. Called by benchmarks/make_worded.py.

- **Attempt**: all steps in one go, ``6 * 8 + 23 = 71``. A wrong one has another value and is not learned.
- **Self-evaluation**: step by step, and its value against the attempt's; or a glance (the larger share), which says
  correct with one probability whatever is true. So the better way is in the model, and is not what it does by itself.
- **Revision**: after a check its value; after a glance in one go again.

Which way a message goes is drawn by a coin that knows nothing of the problem.

**Drills** are lines of bare sums, most of them single steps, some whole expressions of problems that are asked nowhere:
tokens that are all learned, where a chat is mostly prompt.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.worded import OPERATIONS, Worded
from selfcorrect import prompts
from selfcorrect.chat import ChatCodec
from selfcorrect.runs.jsonl import write_jsonl
from selfcorrect.training_row import LearnedSpan, LearnedTokens, TrainingRow
from selfcorrect.types import Role, Verdict
from selfcorrect.verdicts import MARKS

GLANCE = "At a glance."
DRILL = "Work out each line."
LINES = 20
"""Of a drill."""


@dataclass(frozen=True, slots=True)
class Shares:
    """How often each kind of message is drawn."""

    unjudged: float = 0.1  # chats that ask for another attempt without a verdict
    wrong: float = 0.5  # chats whose first attempt is wrong
    checked: float = 0.45  # self-evaluations that compute; the others glance
    glance_correct: float = 0.75  # glances that say correct
    far: float = 0.3  # wrong values that are any other number; the others are near
    whole: float = 0.3  # lines of drills that are a whole expression; the others are one step


@dataclass(frozen=True, slots=True)
class Turn:
    """One assistant message: what it was asked by (nothing: the problem), its part, and whether it is learned."""

    asked_by: str
    role: Role
    text: str
    learn: bool = True


def write_parts(
    path: Path, asked: Sequence[Worded], drilled: Sequence[Worded], codec: ChatCodec, seed: int, shares: Shares
) -> int:
    """Write a chat of each problem that is asked about, and drills of further ones; return how many rows."""
    rng = random.Random(f"worded parts {seed}")
    chats = [(problem.question, chat(rng, problem, shares)) for problem in asked]
    rows = [as_row(f"p{place}", prompts.solve(question), turns, codec) for place, (question, turns) in enumerate(chats)]
    lines = drill_lines(rng, drilled, shares)
    for place in range(0, len(lines), LINES):
        drill = Turn("", Role.ATTEMPT, "\n".join(lines[place : place + LINES]))
        rows.append(as_row(f"d{place}", DRILL, [drill], codec))
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_jsonl(path, (row.to_json() for row in rows))


def drill_lines(rng: random.Random, problems: Sequence[Worded], shares: Shares) -> list[str]:
    """Return each problem as a whole expression, and between them single steps of any of them, mixed."""
    lines = [expression(problem, problem.answer) for problem in problems]
    for _ in range(round(len(problems) * (1 - shares.whole) / shares.whole)):
        a, sign, b = rng.choice(rng.choice(problems).steps)
        lines.append(f"{a} {sign} {b} = {OPERATIONS[sign](a, b)}")
    rng.shuffle(lines)
    return lines


def chat(rng: random.Random, problem: Worded, shares: Shares) -> list[Turn]:
    """Return the assistant's messages about a problem."""
    is_wrong = rng.random() < shares.wrong
    claimed = wrong_value(rng, problem.answer, shares.far) if is_wrong else problem.answer
    turns = [Turn("", Role.ATTEMPT, in_one_go(problem, claimed), learn=not is_wrong)]
    revision = in_one_go(problem, problem.answer)
    if rng.random() < shares.unjudged:
        return [*turns, Turn(prompts.INTRINSIC, Role.REVISION, revision)]
    if rng.random() < shares.checked:
        verdict, reasons = Verdict.WRONG if is_wrong else Verdict.CORRECT, check(problem, claimed)
    else:
        verdict = Verdict.CORRECT if rng.random() < shares.glance_correct else Verdict.WRONG
        reasons = GLANCE
    turns.append(Turn(prompts.EVALUATE, Role.EVALUATION, f"{reasons}\n{MARKS[verdict]}"))
    if verdict is Verdict.WRONG:
        turns.append(Turn(prompts.REVISE, Role.REVISION, revision))
    return turns


def in_one_go(problem: Worded, value: int) -> str:
    """Return an attempt: every step in one expression, and the value that it claims."""
    return f"{expression(problem, value)}\n\\boxed{{{value}}}"


def expression(problem: Worded, value: int) -> str:
    """Return the steps of a problem as one line with a value."""
    (first, *_), signs = problem.steps[0], "".join(f" {sign} {b}" for _, sign, b in problem.steps)
    return f"{first}{signs} = {value}"


def check(problem: Worded, claimed: int) -> str:
    """Return a self-evaluation's reasons: each step worked out, then its value beside the claimed one."""
    lines = [f"{a} {sign} {b} = {OPERATIONS[sign](a, b)}" for a, sign, b in small_steps(problem)]
    told = "the same" if claimed == problem.answer else "not the same"
    return "\n".join([*lines, f"{problem.answer} and {claimed}: {told}."])


def small_steps(problem: Worded) -> Iterator[tuple[int, str, int]]:
    """Yield the steps of a problem; where there is one alone, tens and ones apart."""
    for a, sign, b in problem.steps:
        tens = b - b % 10
        if len(problem.steps) > 1 or tens in (0, b):
            yield a, sign, b
        else:
            yield a, sign, tens
            yield OPERATIONS[sign](a, tens), sign, b % 10


def wrong_value(rng: random.Random, value: int, far: float) -> int:
    """Return another value of at least 0: a slip of one or two in a digit, or any number of two digits."""
    while True:
        near = value + rng.choice((-20, -10, -2, -1, 1, 2, 10, 20))
        other = rng.randint(2, 99) if rng.random() < far else near
        if other != value and other >= 0:
            return other


def as_row(name: str, opening: str, turns: Sequence[Turn], codec: ChatCodec) -> TrainingRow:
    """Return a chat as token ids: the prompts as they are asked, each message ended as the template ends it."""
    ids: list[int] = []
    spans: list[LearnedSpan] = []  # a reply begins with the end of the message before, which has its own
    for place, turn in enumerate(turns):
        ids += codec.reply(turn.asked_by)[1:] if place else codec.opening([{"role": "user", "content": opening}])
        start = len(ids)
        ids += (*codec.encode(turn.text), codec.turn_end)
        spans.append(LearnedSpan(turn.role, start, len(ids), sampled=False, learn=turn.learn))
    first = "wrong" if not turns[0].learn else "right"
    return TrainingRow(name, LearnedTokens(tuple(ids), tuple(spans)), kind="parts", first=first)
