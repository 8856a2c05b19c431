"""`Turns`: attempts and verdicts as text, for tools that hand over messages and no tokens. Called by the doors.

`ask_turns` makes them message by message: the method ``asked`` of `selfcorrect.correction`. `read_turns` reads them out
of one long-CoT response. `graded` and `turn_scores` say what they are worth, by the rules of `selfcorrect.metrics`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from selfcorrect import prompts
from selfcorrect.correction.parsing import parse_path, read_attempt
from selfcorrect.engines import Sample
from selfcorrect.errors import InputError
from selfcorrect.grading import grade_many
from selfcorrect.metrics import is_correct
from selfcorrect.types import Attempt, Problem, StopReason, Verdict
from selfcorrect.verdicts import parse_verdict


@dataclass(frozen=True, slots=True)
class Said:
    """A message of the model; ``cut`` where its token budget ended it."""

    text: str
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Turns:
    """The attempts, the verdict on each (None: no well-formed mark; fewer than attempts: not asked), why it ended."""

    attempts: tuple[Attempt, ...]
    verdicts: tuple[Verdict | None, ...]
    stop: StopReason

    @property
    def final(self) -> Attempt:
        """The last attempt, which answers the problem."""
        return self.attempts[-1]


Ask = Callable[[str], Awaitable[Said]]
"""Says a user message to the model, in one conversation, and returns its answer."""


async def ask_turns(question: str, ask: Ask, *, horizon: int = 2, source: str = "math") -> Turns:
    """Solve a problem in messages: attempt, verdict, and a revision after each verdict wrong, up to ``horizon``."""
    if horizon < 1:
        raise InputError(f"horizon is at least 1; got {horizon}")
    said = [await ask(prompts.solve(question))]
    while not said[-1].cut and len(said) < 2 * horizon - 1:
        said.append(await ask(prompts.EVALUATE if len(said) % 2 else prompts.REVISE))
        if len(said) % 2 == 0 and parse_verdict(said[-1].text) is not Verdict.WRONG:
            break
    return turns_of(said, horizon=horizon, source=source)


def turns_of(said: Sequence[Said], *, horizon: int = 2, source: str = "math") -> Turns:
    """Return the turns of the messages that the model said: attempt, self-evaluation, revision, self-evaluation ..."""
    if not said:
        raise InputError("no message of the model: there is no attempt to read")
    attempts = tuple(read_attempt(one.text, source, one.cut) for one in said[::2])
    verdicts = tuple(None if one.cut else parse_verdict(one.text) for one in said[1::2])
    if said[-1].cut:
        return Turns(attempts, verdicts, StopReason.LENGTH)
    if len(verdicts) < len(attempts):
        return Turns(attempts, verdicts, StopReason.HORIZON if len(attempts) == horizon else StopReason.NO_REVISION)
    return Turns(attempts, verdicts, StopReason.VERDICT if verdicts[-1] else StopReason.NO_VERDICT)


class _Characters:
    """The codec of a text without a tokenizer: each character is a token."""

    verdict_ids: tuple[int, int] = (-1, -1)

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    def piece_lengths(self, ids: Sequence[int]) -> list[int]:
        return [1] * len(ids)


def read_turns(response: str, *, source: str = "math", cut: bool = False) -> Turns:
    """Return the turns of one long-CoT response, by the rules of `selfcorrect.correction.parsing.parse_path`."""
    ids = tuple(map(ord, response))
    sample = Sample(ids, (0.0,) * len(ids), "length" if cut else "stop")
    path = parse_path(Problem("", "", "", source), _Characters(), (), sample, horizon=1_000)  # type: ignore[arg-type]
    return Turns(path.attempts, tuple(evaluation.verdict for evaluation in path.evaluations), path.stop)


def graded(turns: Turns, gold: str, *, source: str = "math") -> Turns:
    """Return the turns with every attempt graded against the reference answer."""
    pairs = [(attempt.text, gold) for attempt in turns.attempts]
    grades = grade_many(pairs, source=source, cut=[attempt.cut for attempt in turns.attempts])
    attempts = [replace(attempt, grade=grade) for attempt, grade in zip(turns.attempts, grades, strict=True)]
    return replace(turns, attempts=tuple(attempts))


def turn_scores(turns: Turns) -> dict[str, float | None]:
    """Return what graded turns score: ``turn1``, ``final``, ``i2c``, ``c2i``, ``verdict``, ``attempts``.

    ``verdict`` is the share of the self-evaluations whose verdict equals the grade; a missing mark counts as a miss.
    None: the grader failed on the reference answer, or (``verdict``) none was asked for. It is to be left out of a
    mean and counted, never to be 0.
    """
    right = [is_correct(attempt) for attempt in turns.attempts]
    first, last = right[0], right[-1]
    judged = list(zip(turns.verdicts, right, strict=False))
    scores: dict[str, float | None] = dict.fromkeys(("turn1", "final", "i2c", "c2i", "verdict"))
    if first is not None and last is not None:
        scores |= {"turn1": float(first), "final": float(last)}
        scores |= {"i2c": float(last and not first), "c2i": float(first and not last)}
    if judged and None not in right:
        agree = [verdict is (Verdict.CORRECT if grade else Verdict.WRONG) for verdict, grade in judged]
        scores["verdict"] = sum(agree) / len(agree)
    return scores | {"attempts": float(len(turns.attempts))}
