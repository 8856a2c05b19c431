"""The turns behind every door: asked for message by message, read out of one response, graded and scored."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from selfcorrect import prompts
from selfcorrect.adapters.turns import Said, Turns, ask_turns, graded, read_turns, turn_scores, turns_of
from selfcorrect.errors import InputError
from selfcorrect.types import StopReason, Verdict

WRONG, CORRECT = "Check. [VERIFY] wrong.", "Check. [VERIFY] correct."
RIGHT_4, WRONG_5 = "So \\boxed{4}.", "So \\boxed{5}."
JUDGED_WRONG, JUDGED_CORRECT = Verdict.WRONG, Verdict.CORRECT


def asked(*said: str | Said, horizon: int = 2) -> tuple[Turns, list[str]]:
    """Return the turns of a model that says these messages, and what it was asked."""
    answers, questions = iter(said), list[str]()

    async def ask(text: str) -> Said:
        questions.append(text)
        answer = next(answers)
        return answer if isinstance(answer, Said) else Said(answer)

    turns = asyncio.run(ask_turns("2+2?", ask, horizon=horizon))
    assert next(answers, None) is None, "not all was asked for"
    return turns, questions


@pytest.mark.parametrize(
    ("said", "horizon", "verdicts", "stop"),
    [
        ((RIGHT_4, CORRECT), 2, (JUDGED_CORRECT,), StopReason.VERDICT),
        ((WRONG_5, WRONG, RIGHT_4), 2, (JUDGED_WRONG,), StopReason.HORIZON),
        ((WRONG_5, WRONG, WRONG_5, WRONG, RIGHT_4), 3, (JUDGED_WRONG, JUDGED_WRONG), StopReason.HORIZON),
        ((WRONG_5, WRONG, RIGHT_4, CORRECT), 3, (JUDGED_WRONG, JUDGED_CORRECT), StopReason.VERDICT),
        ((RIGHT_4,), 1, (), StopReason.HORIZON),
        ((RIGHT_4, "It is right."), 2, (None,), StopReason.NO_VERDICT),
        ((RIGHT_4, WRONG + CORRECT), 2, (None,), StopReason.NO_VERDICT),
        ((Said("It is 4 beca", cut=True),), 2, (), StopReason.LENGTH),
        ((RIGHT_4, Said(WRONG, cut=True)), 2, (None,), StopReason.LENGTH),
        ((WRONG_5, WRONG, Said("It is 4 beca", cut=True)), 2, (JUDGED_WRONG,), StopReason.LENGTH),
    ],
)
def test_the_loop_by_messages(said, horizon, verdicts, stop) -> None:  # type: ignore[no-untyped-def]
    turns, questions = asked(*said, horizon=horizon)
    wanted = [prompts.solve("2+2?"), prompts.EVALUATE, prompts.REVISE, prompts.EVALUATE, prompts.REVISE]
    assert questions == wanted[: len(said)]
    assert (turns.verdicts, turns.stop, len(turns.attempts)) == (verdicts, stop, (len(said) + 1) // 2)


def test_one_response_is_read_as_attempts_and_self_evaluations() -> None:
    turns = read_turns(f"{WRONG_5}\n\n{WRONG}\n\n{RIGHT_4}\n\nCheck: \\boxed{{9}} is too large. [VERIFY] correct.")
    assert [attempt.answer for attempt in turns.attempts] == ["5", "4"]
    assert (turns.verdicts, turns.stop) == ((JUDGED_WRONG, JUDGED_CORRECT), StopReason.VERDICT)
    plain = read_turns("It is 4.")
    assert (len(plain.attempts), plain.verdicts, plain.final.answer) == (1, (), "4")
    assert read_turns("").final.answer is None
    assert read_turns("Let x be 7 and", cut=True).final.cut


@pytest.mark.parametrize(
    ("said", "gold", "scores"),
    [
        ((WRONG_5, WRONG, RIGHT_4), "4", {"turn1": 0, "final": 1, "i2c": 1, "c2i": 0, "verdict": 1, "attempts": 2}),
        ((RIGHT_4, WRONG, WRONG_5), "4", {"turn1": 1, "final": 0, "i2c": 0, "c2i": 1, "verdict": 0, "attempts": 2}),
        ((RIGHT_4, "no mark"), "4", {"turn1": 1, "final": 1, "i2c": 0, "c2i": 0, "verdict": 0, "attempts": 1}),
        ((RIGHT_4,), "4", {"turn1": 1, "final": 1, "i2c": 0, "c2i": 0, "verdict": None, "attempts": 1}),
        # An attempt without an answer is wrong; a reference answer that cannot be read gives no score at all.
        (("I do not know.",), "4", {"turn1": 0, "final": 0, "i2c": 0, "c2i": 0, "verdict": None, "attempts": 1}),
        ((RIGHT_4, CORRECT), "", dict.fromkeys(("turn1", "final", "i2c", "c2i", "verdict")) | {"attempts": 1}),
    ],
)
def test_what_turns_score(said, gold, scores) -> None:  # type: ignore[no-untyped-def]
    assert turn_scores(graded(turns_of(list(map(Said, said))), gold)) == scores


def test_refusals() -> None:
    with pytest.raises(InputError, match="horizon is at least 1; got 0"):
        asked(horizon=0)
    with pytest.raises(InputError, match="no attempt"):
        turns_of([])


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, selfcorrect.adapters.turns; print(*({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == ""
