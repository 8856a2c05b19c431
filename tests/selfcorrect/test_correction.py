"""The loop on a scripted engine: every way a path can end, spans that cover the tokens exactly, stop decisions."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from selfcorrect import prompts
from selfcorrect.chat import ChatCodec
from selfcorrect.correction.loop import LoopSettings, Method, grade_trajectories, parse_path, solve
from selfcorrect.correction.stop_rule import Calibrator, Stop, StopRule
from selfcorrect.engines import Sample, SampleRequest
from selfcorrect.engines.scripted import Reply, ScriptedEngine
from selfcorrect.errors import InputError
from selfcorrect.metrics import faults_of
from selfcorrect.rewards import final_correctness
from selfcorrect.types import Outcome, Problem, Role, SelfEvaluation, Trajectory, Verdict

PROBLEM = Problem("p", "What is 2+2?", "4", "math")
A, B = "Two and two.\n\\boxed{5}", "Again.\n\\boxed{4}"
WRONG, RIGHT = "2+2=4:5 not ok\n[VERIFY] wrong.", "ok\n[VERIFY] correct."


def parse(codec: ChatCodec, text: str, finish: str = "stop", horizon: int = 2) -> Trajectory:
    ids = codec.encode(text)
    sample = Sample(ids, (-1.0,) * len(ids), finish)
    return parse_path(PROBLEM, codec, codec.opening(prompts.solve_messages(PROBLEM.question)), sample, horizon)


@pytest.mark.parametrize(
    ("text", "finish", "stop", "answers", "verdicts"),
    [
        (f"{A}\n\n{WRONG}\n\n{B}", "stop", "horizon", ["5", "4"], [Verdict.WRONG]),
        (f"{A}\n\n{WRONG}\n\n{B}\n\n{RIGHT}", "stop", "verdict", ["5", "4"], [Verdict.WRONG, Verdict.CORRECT]),
        (f"{A}\n\n{WRONG}\n\n{B}\n\n{WRONG}", "stop", "horizon", ["5", "4"], [Verdict.WRONG, Verdict.WRONG]),
        (f"{B}\n\n{RIGHT}", "stop", "verdict", ["4"], [Verdict.CORRECT]),
        (f"{B}\n\n{RIGHT} and then \\boxed{{9}}", "stop", "verdict", ["4"], [Verdict.CORRECT]),
        (A, "stop", "no-verdict", ["5"], []),
        (A, "length", "length", ["5"], []),
        (f"{A}\n\nI wonder", "stop", "no-verdict", ["5"], [None]),
        (f"{A}\n\n[VERIFY] maybe.", "stop", "no-verdict", ["5"], [None]),
        (f"{A}\n\n{WRONG}", "stop", "no-revision", ["5"], [Verdict.WRONG]),
        (f"{A}\n\n{WRONG}", "length", "length", ["5"], [Verdict.WRONG]),
        (f"{A}\n\n{WRONG}\n\nAgain: two and two\nmakes", "length", "length", ["5", None], [Verdict.WRONG]),
        (f"{A}\n[VERIFY] wrong.\n{B}", "stop", "horizon", ["5", "4"], [Verdict.WRONG]),
        (
            f"I add two and two.\nThat is four, I think.\n\n{WRONG}\n\n{B}",
            "stop",
            "horizon",
            [None, "4"],
            [Verdict.WRONG],
        ),
        ("", "stop", "no-verdict", [None], []),
        ("[VERIFY] correct.", "stop", "verdict", [None], [Verdict.CORRECT]),
    ],
)
def test_every_way_a_path_can_end(
    codec: ChatCodec, text: str, finish: str, stop: str, answers: list[str | None], verdicts: list[Verdict | None]
) -> None:
    path = parse(codec, text, finish)
    assert path.stop == stop
    assert [attempt.answer for attempt in path.attempts] == answers
    assert [evaluation.verdict for evaluation in path.evaluations] == verdicts


@pytest.mark.parametrize(
    ("text", "finish", "answers"),
    [
        ("First try: \\boxed{3}.\n\nWait, recheck: so \\boxed{4}.", "stop", ["4"]),
        (f"We will write \\boxed{{answer}}.\n\nThe answer is \\boxed{{4}}.\n\n{RIGHT}", "stop", ["4"]),
        (f"Put it in \\boxed{{}}.\n\nSo \\boxed{{4}}.\n\n{RIGHT}", "stop", ["4"]),
        (f"The roots are \\boxed{{1}}\n\nand\n\n\\boxed{{2}}.\n\n{RIGHT}", "stop", ["1, 2"]),
        (f"<think>\\boxed{{3}}</think>\n\nIt is \\boxed{{4}}.\n\n{RIGHT}", "stop", ["4"]),
        (f"{B}\n\nLet me verify: 2+2 is not \\boxed{{5}}.\n{RIGHT}", "stop", ["4"]),
        (f"{B}\n\nIt is \\boxed{{5}}, or not. [VERIFY] correct.", "stop", ["4"]),
        (f"{B}\n\nCheck:\n2+2=\\boxed{{5}}\n\nstill\n{RIGHT}", "stop", ["4"]),
        (f"{A}\n\n{WRONG}\n\nA draft \\boxed{{3}}\n\nno: \\boxed{{4}}\n\n{RIGHT}", "stop", ["5", "4"]),
        ("So 2+2=4 and now I need to", "length", [None]),
        ("The answer is 4", "length", [None]),
        ("The answer is 4.\n\nBut wait", "length", ["4"]),
        (f"{A}\n\n{WRONG}\n\nAgain: the answer is 4", "length", ["5", None]),
        ("<think>perhaps \\boxed{4}? or", "length", [None]),
    ],
)
def test_the_last_box_before_the_self_evaluation_answers(
    codec: ChatCodec, text: str, finish: str, answers: list[str | None]
) -> None:
    path = parse(codec, text, finish)
    assert [attempt.answer for attempt in path.attempts] == answers
    (graded,) = grade_trajectories([path])
    assert [attempt.answer for attempt in graded.attempts] == answers
    if answers[-1] is None:
        assert path.final.cut
        assert final_correctness(graded) == 0.0
        assert Trajectory.from_json(graded.to_json()).final.cut


def test_a_box_in_the_self_evaluation_is_a_fault_and_no_answer(codec: ChatCodec) -> None:
    path = parse(codec, f"{B}\n\nCheck: \\boxed{{5}}\n{RIGHT}")
    assert path.final.answer == "4"
    assert "answer boxed in a self-evaluation" in faults_of(path)


@pytest.mark.parametrize("method", ["single-turn", "intrinsic", "self-rewarding"])
def test_a_message_that_the_budget_cut_answers_only_what_it_states(codec: ChatCodec, method: Method) -> None:
    path, _ = run(codec, LoopSettings(method, max_tokens=5), lambda request, prompt: "664+2=666 so \\boxed{666}")
    assert path.stop == "length"
    assert path.final.answer is None
    assert path.final.cut
    (graded,) = grade_trajectories([path])
    assert graded.final.grade is not None
    assert graded.final.grade.unanswered


def test_a_stated_tolerance_reaches_the_grade(codec: ChatCodec) -> None:
    path = parse(codec, "So \\boxed{4.25}")
    problem = Problem("p", "What is 2.1 times 2?", "4.2", "olympiadbench", {"tolerance": "1e-1"})
    (graded,) = grade_trajectories([replace(path, problem=problem)])
    assert graded.final.grade is not None
    assert graded.final.grade.correct


def test_spans_cover_the_path_without_gap_and_say_whose_words(codec: ChatCodec) -> None:
    path = parse(codec, f"{A}\n\n{WRONG}\n\n{B}")
    assert [span.role for span in path.spans] == [Role.EXTERNAL, Role.ATTEMPT, Role.EVALUATION, Role.REVISION]
    assert [span.start for span in path.spans[1:]] == [span.end for span in path.spans[:-1]]
    assert path.spans[-1].end == len(path.token_ids) == len(path.logprobs)
    texts = [codec.decode(path.token_ids[span.start : span.end]) for span in path.spans[1:]]
    assert texts == [A, f"\n\n{WRONG}", f"\n\n{B}"]
    assert path.sampled_tokens == len(codec.encode(f"{A}\n\n{WRONG}\n\n{B}"))
    assert Trajectory.from_json(path.to_json()) == path


def test_what_follows_the_stop_decision_is_dropped(codec: ChatCodec) -> None:
    path = parse(codec, f"{B}\n\n{RIGHT}\n\nmore")
    assert codec.decode(path.token_ids).endswith("[VERIFY] correct.")


def test_longer_horizons(codec: ChatCodec) -> None:
    path = parse(codec, f"{A}\n\n{WRONG}\n\n{A}\n\n{WRONG}\n\n{B}\n\n{RIGHT}", horizon=3)
    assert (len(path.attempts), path.stop) == (3, "verdict")


def run(codec: ChatCodec, settings: LoopSettings, script) -> tuple[Trajectory, ScriptedEngine]:  # type: ignore[no-untyped-def]
    engine = ScriptedEngine(script, codec)
    return asyncio.run(solve(PROBLEM, engine, codec, settings, seed=0)), engine


def test_one_pass_and_turn_by_turn_agree(codec: ChatCodec) -> None:
    whole = f"{A}\n\n{WRONG}\n\n{B}\n\n{RIGHT}"

    def script(request: SampleRequest, prompt: str) -> Reply:
        return Reply(whole[len(prompt.split("<|assistant|>")[-1]) :], p_correct=0.25)

    once, _ = run(codec, LoopSettings(), script)
    turns, engine = run(codec, LoopSettings(one_pass=False), script)
    assert len(engine.requests) == 2
    assert once.ends
    assert not turns.ends  # sampling stopped at the mark: the policy did not end its message
    assert replace(once, logprobs=(), ends=()) == replace(turns, logprobs=())
    assert once.evaluations[0].p_correct == pytest.approx(0.25)


def test_turn_by_turn_respects_the_budget(codec: ChatCodec) -> None:
    path, _ = run(codec, LoopSettings(one_pass=False, max_tokens=60), lambda request, prompt: f"{A}\n\n{WRONG}")
    assert path.stop == "length"
    assert path.sampled_tokens <= 60


@pytest.mark.parametrize(
    ("method", "budget", "turns", "judged"),
    [("intrinsic", 30, 2, 0), ("intrinsic", 25, 1, 0), ("asked", 25, 1, 0), ("asked", 40, 1, 1), ("asked", 1000, 2, 1)],
)
def test_a_token_budget_for_the_whole_path(
    codec: ChatCodec, method: Method, budget: int, turns: int, judged: int
) -> None:
    first = "x" * 16 + "\\boxed{5}"  # 25 tokens of one byte
    script = prompted({prompts.INTRINSIC: B, prompts.EVALUATE: WRONG, prompts.REVISE: B, prompts.SOLVE: first})
    path, _ = run(codec, LoopSettings(method, path_tokens=budget), script)
    assert (len(path.attempts), len(path.evaluations)) == (turns, judged)
    assert path.sampled_tokens <= budget
    assert path.stop == ("horizon" if budget == 1000 else "length")


def prompted(answers: dict[str, str]):  # type: ignore[no-untyped-def]
    def script(request: SampleRequest, prompt: str) -> str:
        last = prompt.rsplit("<|user|>", 1)[1]
        return next(reply for key, reply in answers.items() if key in last)

    return script


def test_intrinsic_always_revises(codec: ChatCodec) -> None:
    path, engine = run(codec, LoopSettings("intrinsic"), prompted({prompts.INTRINSIC: A, prompts.SOLVE: B}))
    assert [attempt.answer for attempt in path.attempts] == ["4", "5"]
    assert not path.evaluations
    assert [span.role for span in path.spans] == [Role.EXTERNAL, Role.ATTEMPT, Role.EXTERNAL, Role.REVISION]
    assert [span.sampled for span in path.spans] == [False, True, False, True]
    assert len(engine.requests) == 2


@pytest.mark.parametrize(("first", "turns"), [(A, 2), (B, 1)])
def test_gold_verdict_stops_when_right(codec: ChatCodec, first: str, turns: int) -> None:
    path, _ = run(codec, LoopSettings("gold"), prompted({prompts.REVISE: B, prompts.SOLVE: first}))
    assert len(path.attempts) == turns
    assert path.final.answer == "4"


def test_asked_evaluates_then_revises(codec: ChatCodec) -> None:
    script = prompted({prompts.EVALUATE: WRONG + " tail", prompts.REVISE: B, prompts.SOLVE: A})
    path, _ = run(codec, LoopSettings("asked"), script)
    assert [e.verdict for e in path.evaluations] == [Verdict.WRONG]
    assert path.evaluations[0].text == WRONG
    assert path.final.answer == "4"


@pytest.mark.parametrize(
    ("said", "turns", "stop"), [("Yes.", 1, "verdict"), ("No.", 2, "horizon"), ("", 1, "no-verdict")]
)
def test_two_turn_chat(codec: ChatCodec, said: str, turns: int, stop: str) -> None:
    script = prompted({prompts.CHAT_WRONG: B, prompts.SOLVE: f"{A}\n\n{prompts.SELF_QUESTION} {said}"})
    path, _ = run(codec, LoopSettings("two-turn"), script)
    assert (len(path.attempts), path.stop) == (turns, stop)


def test_seeds_differ_by_problem_and_turn_not_by_method(codec: ChatCodec) -> None:
    script = prompted({prompts.INTRINSIC: A, prompts.REVISE: A, prompts.SOLVE: A})
    _, intrinsic = run(codec, LoopSettings("intrinsic"), script)
    _, gold = run(codec, LoopSettings("gold"), script)
    assert intrinsic.requests[0].seed == gold.requests[0].seed
    assert intrinsic.requests[0].seed != intrinsic.requests[1].seed


def test_grading_marks_every_attempt(codec: ChatCodec) -> None:
    (path,) = grade_trajectories([parse(codec, f"{A}\n\n{WRONG}\n\n{B}")])
    assert [a.grade.outcome for a in path.attempts if a.grade] == [Outcome.WRONG, Outcome.CORRECT]


class JudgeOf:
    """Judges every attempt alike."""

    def __init__(self, verdict: Verdict | None) -> None:
        self.verdict, self.asked = verdict, []  # type: ignore[var-annotated]

    async def judge(self, problem: Problem, attempt: str) -> SelfEvaluation:
        self.asked.append(attempt)
        return SelfEvaluation("by another", self.verdict, 0.3)

    async def close(self) -> None: ...


def decided(codec: ChatCodec, first: str, said: str, p: float, judge: JudgeOf | None = None, **settings):  # type: ignore[no-untyped-def]
    """Solve with a model that attempts, says its verdict with P(correct) = p, and revises rightly."""
    replies = {prompts.SOLVE: f"{first}\n\n{said}"}

    def script(request: SampleRequest, prompt: str) -> Reply:
        written = prompt.rsplit("<|assistant|>", 1)[1]
        if not written and prompts.EVALUATE not in prompt:
            return Reply(first if settings.get("method") == "asked" else replies[prompts.SOLVE], p)
        if prompts.REVISE in prompt or "[VERIFY] wrong." in written:
            return Reply(f"\n\n{B}\n\n{RIGHT}" if written else B, 0.9)
        return Reply(said, p)

    engine = ScriptedEngine(script, codec)
    path = asyncio.run(solve(PROBLEM, engine, codec, LoopSettings(**settings), 0, judge))
    return path, engine


THRESHOLD = StopRule(Calibrator("platt", (1.0, 2.0)), threshold=0.5)  # stops where P(correct) is at least 0.12


@pytest.mark.parametrize("method", ["self-rewarding", "asked"])
@pytest.mark.parametrize(
    ("stop", "first", "said", "p", "verdict"),
    [
        ("sampled", A, RIGHT, 0.1, Verdict.CORRECT),
        ("argmax", A, RIGHT, 0.4, Verdict.WRONG),
        ("argmax", A, WRONG, 0.6, Verdict.CORRECT),
        ("argmax", A, WRONG, 0.4, Verdict.WRONG),
        ("threshold", A, WRONG, 0.2, Verdict.CORRECT),
        ("threshold", A, RIGHT, 0.1, Verdict.WRONG),
        ("never", B, RIGHT, 0.99, Verdict.WRONG),
        ("gold", A, RIGHT, 0.99, Verdict.WRONG),
        ("gold", B, WRONG, 0.01, Verdict.CORRECT),
    ],
)
def test_the_stop_decision(
    codec: ChatCodec, method: Method, stop: Stop, first: str, said: str, p: float, verdict: Verdict
) -> None:
    path, engine = decided(codec, first, said, p, method=method, stop=stop, rule=THRESHOLD)
    assert path.evaluations[0].verdict is verdict
    assert path.evaluations[0].p_correct == pytest.approx(p)
    assert len(path.attempts) == (1 if verdict is Verdict.CORRECT else 2)
    text = codec.decode(path.token_ids)
    assert f"[VERIFY] {verdict}." in text  # the path goes on from what was decided
    own = "correct" if said is RIGHT else "wrong"
    forced = [s for s in path.spans if s.role is not Role.EXTERNAL and not s.sampled]
    expected = [] if own == verdict else [f"{verdict}."]
    if expected and verdict is Verdict.WRONG and method == "self-rewarding":
        expected.append(prompts.SEPARATOR)  # who is overruled would not open the revision
    assert [codec.decode(path.token_ids[s.start : s.end]) for s in forced] == expected
    assert path.spans[0].start == 0
    assert [s.end for s in path.spans[:-1]] == [s.start for s in path.spans[1:]]
    assert path.spans[-1].end == len(path.token_ids) == len(path.logprobs)
    last = engine.requests[-1].prompt_ids
    assert path.token_ids[: len(last)] == last or verdict is Verdict.CORRECT


@pytest.mark.parametrize(("said", "stop", "turns"), [("Yes.", "never", 2), ("No.", "gold", 2), ("Yes.", "gold", 2)])
def test_the_stop_decision_in_two_turn_chat(codec: ChatCodec, said: str, stop: Stop, turns: int) -> None:
    replies = {prompts.CHAT_WRONG: B, prompts.SOLVE: f"{A}\n\n{prompts.SELF_QUESTION} {said}"}
    path, _ = run(codec, LoopSettings("two-turn", stop=stop), prompted(replies))
    assert len(path.attempts) == turns
    assert f"{prompts.SELF_QUESTION} No." in codec.decode(path.token_ids)
    assert path.evaluations[0].p_correct == pytest.approx(0.5)
    assert any(s.role is Role.EVALUATION and not s.sampled for s in path.spans) == (said == "Yes.")


@pytest.mark.parametrize(("verdict", "turns"), [(Verdict.CORRECT, 1), (Verdict.WRONG, 2), (None, 1)])
def test_another_model_judges(codec: ChatCodec, verdict: Verdict | None, turns: int) -> None:
    judge = JudgeOf(verdict)
    engine = ScriptedEngine(prompted({prompts.REVISE: B, prompts.SOLVE: A}), codec)
    path = asyncio.run(solve(PROBLEM, engine, codec, LoopSettings("judged"), 0, judge))
    assert (len(path.attempts), judge.asked) == (turns, [A])
    assert path.evaluations[0].verdict is verdict


def test_another_model_decides_in_place_of_the_own_verdict(codec: ChatCodec) -> None:
    path, _ = decided(codec, A, RIGHT, 0.9, JudgeOf(Verdict.WRONG), stop="judge")
    assert (len(path.attempts), path.evaluations[0].verdict) == (2, Verdict.WRONG)


def test_a_judge_that_is_missing_or_useless_is_refused(codec: ChatCodec) -> None:
    for settings in (LoopSettings("judged"), LoopSettings(stop="judge")):
        with pytest.raises(InputError, match="needs a judge"):
            asyncio.run(solve(PROBLEM, ScriptedEngine(lambda r, p: A, codec), codec, settings, 0))
    with pytest.raises(InputError, match="has none"):
        LoopSettings("intrinsic", stop="gold")


def test_a_threshold_without_probabilities_is_refused() -> None:
    with pytest.raises(InputError, match="stop=sampled"):
        THRESHOLD.verdict(SelfEvaluation("e", Verdict.CORRECT, None))
