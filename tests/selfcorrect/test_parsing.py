"""Where the parts of a path begin and end, to the character and the token; what the probability is read from."""

from __future__ import annotations

import math
from typing import Any

import pytest

from selfcorrect import prompts
from selfcorrect.chat import ChatCodec
from selfcorrect.correction.parsing import (
    _attempt_end,
    parse_path,
    parse_two_turn_message,
    take_message,
    token_position,
    verdict_probability,
    yes_no_ids,
)
from selfcorrect.engines import Sample
from selfcorrect.trajectory import TrajectoryBuilder
from selfcorrect.types import Problem, Role, SelfEvaluation, StopReason, Verdict

PROBLEM = Problem("p", "q", "4", "math")


@pytest.mark.parametrize(
    "parts",
    [
        # attempt | self-evaluation, up to the mark
        (r"2+2 is \boxed{4}.", "\n\nFine. "),
        (r"2+2 is \boxed{4}", " and so "),  # in one paragraph: the box ends the attempt
        (r"A draft: \boxed{5}. No, \boxed{4}.", "\n\nFine. "),  # the last box of the attempt
        (r"\boxed{5}" + "\n\n" + r"No: \boxed{4}", "\n\nFine. "),
        (r"\boxed{4}", "\n\n" + r"It is \boxed{5}, no. "),  # the box in the paragraph of the mark judges
        (r"\boxed{5}" + "\n\n" + r"No: \boxed{4}", "\n\n" + r"I get \boxed{6}. "),
        (r"<think>\boxed{5}</think>" + "\n\n" + r"So \boxed{4}.", "\n\nFine. "),
        (r"<think>a</think> <thinking>\boxed{5}</thinking> So \boxed{4}.", "\n\nFine. "),
        (r"Fill \boxed{} in: \boxed{4}.", "\n\nFine. "),  # an empty box answers nothing
        (r"So \boxed{\frac{1}{\sqrt{2}}}.", "\n\nFine. "),
        (r"So \boxed{\boxed{4}}.", "\n\nFine. "),
        (r"So \fbox{4}, \fboxed{4}.", "\n\nFine. "),
        (r"So \boxed{4}.", "\n\nLet me check: " + r"\boxed{4}" + "\n\nFine. "),  # an opener, and a box behind it
        (r"So \boxed{4}." + "\n\n" + r"Or \boxed{5}.", "\n\n**Verification** 5 is no. "),
        ("No box here, only 4.", "\n\nFine. "),
        ("Several paragraphs.\n\nThe second.", "\n\nFine. "),
    ],
)
def test_an_attempt_ends_where_its_self_evaluation_begins(parts: tuple[str, str]) -> None:
    attempt, evaluation = parts
    for before in ("", "\n\nwhat came before \\boxed{9} "):  # nothing before `start` is looked at
        text = before + attempt + evaluation + "[VERIFY] correct.\n\n\\boxed{8}"
        mark = len(before + attempt + evaluation)
        end = _attempt_end(text, len(before), mark)
        assert text[len(before) : end] == attempt


@pytest.mark.parametrize(
    ("text", "attempt"),
    [
        (r"So \boxed{4}.", r"So \boxed{4}."),  # nothing follows
        (r"So \boxed{4}. And then", r"So \boxed{4}. And then"),  # no mark: nothing says that it judges
        (r"So \boxed{4}." + "\n\nhm", r"So \boxed{4}."),
        ("First.\n\nSecond.", "First.\n\nSecond."),
        (r"So \boxed{4", r"So \boxed{4"),
        (r"\boxed{5} or \boxed{4} is" + "\n\nit", r"\boxed{5} or \boxed{4} is"),
    ],
)
def test_an_attempt_without_a_mark(text: str, attempt: str) -> None:
    assert text[: _attempt_end(text, 0, len(text))] == attempt


def test_a_paragraph_that_is_all_there_is_judges_nothing() -> None:
    text = "\n\n4 it is [VERIFY] correct."
    assert _attempt_end(text, 0, text.index("[")) == text.index("[")


class Pieces:
    """A codec of given pieces, with or without their lengths."""

    def __init__(self, pieces: list[str], knows: bool) -> None:
        self.pieces, self.knows = pieces, knows

    def decode(self, ids: Any) -> str:
        return "".join(self.pieces[n] for n in ids)

    def piece_lengths(self, ids: Any) -> list[int] | None:
        return [len(self.pieces[n]) for n in ids] if self.knows else None


@pytest.mark.parametrize("knows", [True, False])
def test_a_token_belongs_to_the_part_in_which_it_begins(knows: bool) -> None:
    codec: Any = Pieces(["ab", "c", "", "defg", "h"], knows)
    found = [token_position(codec, range(5), end) for end in range(9)]
    assert found == [0, 1, 1, 2, 4, 4, 4, 4, 5]
    assert token_position(codec, range(5), 99) == 5
    assert token_position(codec, (), 0) == 0
    long: Any = Pieces(["x"] * 37, knows)
    assert [token_position(long, range(37), end) for end in range(38)] == list(range(38))


def sample(codec: ChatCodec, text: str, finish: str = "stop", **more: Any) -> Sample:
    ids = codec.encode(text)
    stop = codec.turn_end if finish == "stop" else None
    return Sample(ids, tuple(-float(n) for n in range(len(ids))), finish, stop, -99.0, **more)


def test_a_probability_is_read_at_the_last_verdict_token_of_the_part(codec: ChatCodec) -> None:
    ids = (7, 1, 7, 2, 7)
    watched = tuple((math.log(p), math.log(1 - p)) for p in (0.1, 0.2, 0.3, 0.4, 0.5))

    def read(start: int, end: int, rows: Any = watched) -> float | None:
        found = verdict_probability(codec, Sample(ids, (0.0,) * 5, "stop", watched=rows), start, end, ids=(1, 2))
        return None if found is None else round(found, 6)

    assert [read(0, 5), read(0, 4), read(0, 3), read(1, 2), read(3, 4)] == [0.4, 0.4, 0.2, 0.2, 0.4]
    assert [read(0, 1), read(2, 3), read(4, 5), read(0, 0)] == [None] * 4
    assert read(0, 9) == 0.4
    assert read(0, 5, watched[:3]) == 0.2  # fewer were watched than sampled
    infinite = -math.inf
    assert read(0, 2, ((0.0, 0.0), (infinite, infinite))) is None
    assert read(0, 2, ((0.0, 0.0), (infinite, -1.0))) == 0.0
    assert read(0, 2, ((0.0, 0.0), (-1.0, infinite))) == 1.0
    assert (
        verdict_probability(codec, Sample((codec.verdict_ids[0],), (0.0,), "stop", watched=((0.0, 0.0),)), 0, 1) == 0.5
    )


def test_the_first_tokens_that_differ_say_yes_and_no(codec: ChatCodec) -> None:
    assert yes_no_ids(codec) == (codec.encode("Y")[0], codec.encode("N")[0])


def test_a_path_keeps_who_it_is_and_where_it_was_cut(codec: ChatCodec) -> None:
    text = r"So \boxed{4}." + "\n\nno [VERIFY] wrong.\n\nAgain 5"
    path = parse_path(PROBLEM, codec, (1, 2), sample(codec, text, "length"), horizon=2, seed=11)
    assert (path.seed, path.stop, [attempt.cut for attempt in path.attempts]) == (11, "length", [False, True])
    assert [attempt.answer for attempt in path.attempts] == ["4", None]  # a number where the budget ended is no answer
    whole = parse_path(PROBLEM, codec, (1, 2), sample(codec, text), horizon=2)
    assert [attempt.cut for attempt in whole.attempts] == [False, False]
    stated = parse_path(PROBLEM, codec, (1, 2), sample(codec, r"So \boxed{4}." + "\n\nfine", "length"), horizon=2)
    assert [attempt.cut for attempt in stated.attempts] == [False], "its self-evaluation was cut"
    both = parse_path(PROBLEM, codec, (1, 2), sample(codec, r"\boxed{4} [VERIFY] correct.", "length"), horizon=2)
    assert (both.stop, both.attempts[0].cut) == ("verdict", False)


def test_a_probability_is_kept_only_beside_a_verdict(codec: ChatCodec) -> None:
    text = r"\boxed{4}" + "\n\nno mark here, correct or wrong"
    watched = ((math.log(0.5), math.log(0.5)),) * len(codec.encode(text))
    path = parse_path(PROBLEM, codec, (1,), sample(codec, text, watched=watched), horizon=2)
    assert [(e.verdict, e.p_correct) for e in path.evaluations] == [(None, None)]


def spans_of(builder: TrajectoryBuilder) -> list[tuple[str, int, int, bool]]:
    path = builder.build(StopReason.HORIZON)
    return [(span.role.value, span.start, span.end, span.sampled) for span in path.spans]


def built(codec: ChatCodec, parts: list[tuple[Role, int]], written: int | None, finish: str = "stop") -> Any:
    builder = TrajectoryBuilder(PROBLEM, (1, 2), 3)
    builder.attempts = [parse_path(PROBLEM, codec, (1,), sample(codec, "4"), horizon=1).attempts[0]]
    builder.evaluations = [SelfEvaluation("e", Verdict.WRONG)]
    take_message(builder, sample(codec, "abcdef", finish), parts, written)
    path = builder.build(StopReason.HORIZON)
    return spans_of(builder)[1:], path.token_ids[2:], path.logprobs[2:]


def test_a_message_is_taken_part_by_part(codec: ChatCodec) -> None:
    ids, (a, e) = codec.encode("abcdef"), (Role.ATTEMPT, Role.EVALUATION)
    spans, tokens, logprobs = built(codec, [(a, 2), (e, 6)], None)
    assert spans == [("attempt", 2, 4, True), ("self-evaluation", 4, 8, True)] or spans[-1][2] == 9
    assert tokens[:6] == ids
    assert logprobs[:6] == (0.0, -1.0, -2.0, -3.0, -4.0, -5.0)
    spans, tokens, logprobs = built(codec, [(a, 2), (e, 6)], 4)
    assert [(role, end - start, sampled) for role, start, end, sampled in spans] == [
        ("attempt", 2, True),
        ("self-evaluation", 2, True),
        ("self-evaluation", 2, False),
    ]
    assert logprobs == (0.0, -1.0, -2.0, -3.0, 0.0, 0.0)
    assert tokens == ids, "what was written ends no message"
    spans, tokens, _ = built(codec, [(a, 2), (e, 6)], 1)
    assert [(end - start, sampled) for _, start, end, sampled in spans] == [(1, True), (1, False), (4, False)]
    assert built(codec, [(a, 4)], None)[1] == ids[:4], "what follows the stop decision is dropped"


@pytest.mark.parametrize("said", ["Yes", "No"])
def test_a_two_turn_message(codec: ChatCodec, said: str) -> None:
    attempt = r"  So \boxed{4}."
    text = f"{prompts.SELF_QUESTION} I ask.\n{attempt}\n\n{prompts.SELF_QUESTION} {said}. "
    watched = ((math.log(0.2), math.log(0.8)),) * len(codec.encode(text))
    ids = yes_no_ids(codec)
    read, evaluation, middle = parse_two_turn_message(codec, sample(codec, text, watched=watched), "math", ids)
    assert (read.text, read.answer, read.cut) == (f"{prompts.SELF_QUESTION} I ask.\n{attempt}".strip(), "4", False)
    assert evaluation is not None
    assert evaluation.text == f"{prompts.SELF_QUESTION} {said}."
    assert evaluation.verdict is (Verdict.CORRECT if said == "Yes" else Verdict.WRONG)
    assert evaluation.p_correct == pytest.approx(0.2)
    assert codec.decode(codec.encode(text)[:middle]) == f"{prompts.SELF_QUESTION} I ask.\n{attempt}"


def test_a_two_turn_message_that_does_not_judge(codec: ChatCodec) -> None:
    ids = yes_no_ids(codec)
    for text, finish, cut, answer in (
        ("The total is 4", "stop", False, None),
        (r"So \boxed{4}.", "stop", False, "4"),
        (f"So \\boxed{{4}}. {prompts.SELF_QUESTION} Y", "length", True, "4"),
    ):
        read, evaluation, middle = parse_two_turn_message(codec, sample(codec, text, finish), "math", ids)
        assert (read.text, read.cut, evaluation, middle) == (text, cut, None, len(codec.encode(text)))
        assert read.answer == answer or answer is None
    first, evaluation, middle = parse_two_turn_message(
        codec, sample(codec, f"{prompts.SELF_QUESTION} No."), "math", ids
    )
    assert (first.text, middle) == ("", 0)
    assert evaluation is not None
    silent = sample(codec, f"4 {prompts.SELF_QUESTION} perhaps", watched=((0.0, 0.0),) * 99)
    _, evaluation, _ = parse_two_turn_message(codec, silent, "math", ids)
    assert evaluation is not None
    assert (evaluation.verdict, evaluation.p_correct) == (None, None)
