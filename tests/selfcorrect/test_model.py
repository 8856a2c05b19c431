"""`SelfCorrectModel`: scripts, event loops and notebooks, options of one question, conversations, votes, refusals."""

from __future__ import annotations

import asyncio
import itertools
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfcorrect import SelfCorrectModel
from selfcorrect.chat import EMBEDDED, ChatCodec
from selfcorrect.correction.events import EvaluationText, Final, Judged
from selfcorrect.correction.judges import JudgeRecipe
from selfcorrect.correction.loop import LoopSettings
from selfcorrect.correction.stop_rule import Calibrator, StopRule
from selfcorrect.correction.votes import vote
from selfcorrect.engines import EngineRecipe
from selfcorrect.engines.scripted import Reply, ScriptedEngine
from selfcorrect.errors import DataError, InputError, ModelError
from selfcorrect.eval.run import EvalRecipe
from selfcorrect.problems.arithmetic import problems
from selfcorrect.types import Attempt, Problem, SelfEvaluation, StopReason, Trajectory, Verdict

SAID = "\\boxed{5}\n\nfine\n[VERIFY] correct."


@pytest.mark.parametrize(("threshold", "answer"), [(0.3, "5"), (0.6, "4")])
def test_the_threshold_decides_and_not_the_mark(codec: ChatCodec, threshold: float, answer: str) -> None:
    engine = ScriptedEngine(
        lambda request, prompt: Reply("\\boxed{4}" if "[VERIFY] wrong." in prompt else SAID, p_correct=0.4), codec
    )
    settings = LoopSettings(stop="threshold", rule=StopRule(Calibrator(), threshold))
    with SelfCorrectModel(engine, codec, settings) as model:
        assert model.solve("What is 2+2?").final.answer == answer


def test_what_a_script_cannot_have_is_refused(codec: ChatCodec) -> None:
    with pytest.raises(DataError, match="selfcorrect eval calibrate"):
        SelfCorrectModel.load("embedded", stop="threshold")
    for settings in (LoopSettings("gold"), LoopSettings(stop="gold")):
        with pytest.raises(InputError, match="reference answers"):
            SelfCorrectModel(ScriptedEngine(lambda r, p: SAID, codec), codec, settings).solve("What is 2+2?")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "self_rewarding"}, 'did you mean "self-rewarding"'),
        ({"stop": "foo"}, "stop: expected one of sampled, argmax"),
        ({"stop": "treshold"}, 'did you mean "threshold"'),
        ({"horizon": 0}, "horizon=0"),
        ({"horizon": "2"}, "horizon: expected int"),
        ({"max_tokens": -1}, "max_tokens=-1"),
        ({"path_tokens": 0}, "path_tokens=0"),
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": float("nan")}, "temperature: expected a number, got nan"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"horison": 2}, 'did you mean "horizon"'),
        ({"rule": 0.5}, "expected a StopRule"),
    ],
)
def test_a_setting_outside_its_set_is_refused_before_anything_is_loaded(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        SelfCorrectModel.load("no/such/model", **settings)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LoopSettings(method="self_rewarding"), 'did you mean "self-rewarding"'),  # type: ignore[arg-type]
        (lambda: LoopSettings(horizon=0), "horizon=0"),
        (lambda: EngineRecipe(kind="transformer"), 'did you mean "transformers"'),  # type: ignore[arg-type]
        (lambda: JudgeRecipe(kind="orms"), 'did you mean "orm"'),  # type: ignore[arg-type]
        (lambda: EvalRecipe(method="Asked"), 'did you mean "asked"'),  # type: ignore[arg-type]
        (lambda: EvalRecipe(stop="foo"), "stop: expected one of"),  # type: ignore[arg-type]
        (lambda: EvalRecipe(horizon=0), "horizon=0"),
    ],
)
def test_closed_sets_are_checked_where_settings_are_made(make: Callable[[], object], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        make()


def test_a_model_is_named_by_a_path_too(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        SelfCorrectModel.load(tmp_path / "nothing")
    with SelfCorrectModel.load(EMBEDDED, method="asked", max_tokens=8) as model:
        assert model.settings.max_tokens == 8


def test_one_question_is_no_list_of_questions(codec: ChatCodec) -> None:
    with pytest.raises(InputError, match="use solve"):
        SelfCorrectModel(ScriptedEngine(lambda r, p: SAID, codec), codec).solve_many("What is 2+2?")


@pytest.fixture(scope="module")
def embedded() -> SelfCorrectModel:
    pytest.importorskip("torch", reason="comes with the extra train")
    return SelfCorrectModel.load("embedded", engine=EngineRecipe(threads=1))


QUESTIONS = [problem.question for problem in problems("test", 12, seed=1)]


@pytest.mark.parametrize("method", ["asked", "self-rewarding", "two-turn"])
def test_streams_of_the_real_model_end_with_what_solve_returns(embedded: SelfCorrectModel, method) -> None:
    model = SelfCorrectModel(embedded.engine, embedded.codec, LoopSettings(method, max_tokens=100))
    for seed, question in enumerate(QUESTIONS[:4]):
        *_, final = model.stream(question, seed=seed, temperature=1.0)
        assert isinstance(final, Final)
        solved = model.solve(question, seed=seed, temperature=1.0)
        assert (final.trajectory.token_ids, final.trajectory.attempts) == (solved.token_ids, solved.attempts)
        assert final.trajectory.stop is solved.stop


def test_solve_works_where_an_event_loop_runs(codec: ChatCodec) -> None:
    model = SelfCorrectModel(ScriptedEngine(lambda request, prompt: SAID, codec), codec)

    async def notebook() -> None:
        assert model.solve("What is 2+3?").final.answer == "5"
        assert [type(event) for event in model.stream("What is 2+3?")][-1] is Final
        assert (await model.asolve("What is 2+3?")).final.answer == "5"
        assert [t.final.answer for t in await model.asolve_many(["2+3?", "4+1?"])] == ["5", "5"]

    asyncio.run(notebook())


def test_many_questions_come_back_in_order_with_their_seeds_and_progress(embedded: SelfCorrectModel) -> None:
    seen: list[tuple[int, int]] = []
    seeds = list(range(12))
    many = embedded.solve_many(QUESTIONS, seed=seeds, temperature=1.0, progress=lambda *done: seen.append(done))
    assert [t.problem.question for t in many] == QUESTIONS
    assert [t.seed for t in many] == seeds
    assert seen == [(done, 12) for done in range(1, 13)]
    one = embedded.solve(QUESTIONS[0], seed=0, temperature=1.0)
    assert one.attempts == many[0].attempts


def test_threads_solve_at_once_what_one_alone_solves(embedded: SelfCorrectModel) -> None:
    alone = [embedded.solve(question).attempts for question in QUESTIONS[:6]]
    found: dict[int, tuple[Attempt, ...]] = {}

    def work(place: int) -> None:
        found[place] = embedded.solve(QUESTIONS[place]).attempts

    threads = [threading.Thread(target=work, args=(place,)) for place in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[place] for place in range(6)] == alone


def test_leaving_a_stream_and_cancelling_a_task_free_the_engine(embedded: SelfCorrectModel) -> None:
    for _ in itertools.islice(embedded.stream(QUESTIONS[0]), 2):
        pass

    async def cancelled() -> None:
        task = asyncio.ensure_future(embedded.asolve_many(QUESTIONS))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(cancelled())
    embedded.solve(QUESTIONS[0])
    assert not embedded.engine._batch.busy  # type: ignore[attr-defined]
    assert [thread for thread in threading.enumerate() if thread.name == "events of a question"] == []


def by_turn(*said: str) -> Callable[[Any, str], Reply]:
    return lambda request, prompt: Reply(said[min(prompt.count("<|assistant|>") - 1, len(said) - 1)], p_correct=0.4)


def test_options_hold_for_one_question(codec: ChatCodec) -> None:
    script = by_turn("\\boxed{5}", "[VERIFY] wrong.", "\\boxed{4}", "[VERIFY] wrong.", "\\boxed{3}")
    model = SelfCorrectModel(ScriptedEngine(script, codec), codec, LoopSettings("asked"))
    assert model.solve("q").final.answer == "4"
    assert model.solve("q", horizon=3).final.answer == "3"
    assert model.solve("q", threshold=0.3).stop is StopReason.VERDICT
    assert model.solve("q", threshold=0.5).final.answer == "4"
    assert model.solve("q", path_tokens=12).stop is StopReason.LENGTH
    assert model.solve("q", max_tokens=3).final.cut
    first = list(model.stream("q", first_only=True, threshold=0.5))
    assert first[-1].answer == "5"
    assert not [event for event in first if isinstance(event, EvaluationText | Judged)]
    assert model.solve("q", horizon=None).final.answer == "4"
    assert model.settings == LoopSettings("asked")


def test_a_long_cot_model_without_correction_stops_at_its_first_mark(codec: ChatCodec) -> None:
    engine = ScriptedEngine(lambda request, prompt: SAID + "\n\nMore \\boxed{6}", codec)
    trajectory = SelfCorrectModel(engine, codec).solve("q", first_only=True)
    assert (trajectory.final.answer, len(trajectory.attempts)) == ("5", 1)
    assert trajectory.sampled_tokens == len(codec.encode(SAID))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"horizont": 2}, "unknown option 'horizont'"),
        ({"horizon": 0}, "horizon=0"),
        ({"threshold": 1.5}, "from 0 to 1"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"path_tokens": 0}, "path_tokens=0"),
    ],
)
def test_an_option_that_is_none_is_refused(codec: ChatCodec, options: dict[str, Any], said: str) -> None:
    model = SelfCorrectModel(ScriptedEngine(lambda r, p: SAID, codec), codec)
    with pytest.raises(InputError, match=re.escape(said)):
        model.solve("q", **options)
    with pytest.raises(InputError, match=re.escape(said)):
        list(model.stream("q", **options))


def test_a_follow_up_sees_the_conversation_and_nothing_else(codec: ChatCodec) -> None:
    engine = ScriptedEngine(by_turn("", "\\boxed{9}", "[VERIFY] correct."), codec)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 2+2?"},
        {"role": "assistant", "content": "\\boxed{4}"},
        {"role": "user", "content": [{"type": "text", "text": "And "}, {"type": "text", "text": "plus 5?"}]},
    ]
    trajectory = SelfCorrectModel(engine, codec, LoopSettings("asked")).solve(messages)
    assert (trajectory.problem.question, trajectory.final.answer) == ("And plus 5?", "9")
    prompt = codec.decode(engine.requests[0].prompt_ids)
    places = [prompt.index(text) for text in ("Be brief.", "What is 2+2?\nSolve", "\\boxed{4}", "And plus 5?\nSolve")]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("  ", "a question is a non-empty text"),
        (7, "a question is a non-empty text, or a list of messages"),
        ([], "a question is a non-empty text, or a list of messages"),
        ([{"role": "user"}], "messages[0]"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0]"),
        ([{"role": "tool", "content": "x"}], "role is system, user or assistant"),
        ([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "the last message asks"),
        ([{"role": "user", "content": " "}], "a question is a non-empty text"),
        ("What is \ud83d 2 + 2?", "half of a surrogate pair is no character and has no tokens: "),
        ([{"role": "user", "content": "\udfff"}], "half of a surrogate pair"),
    ],
)
def test_what_is_no_question_is_refused(codec: ChatCodec, question: Any, said: str) -> None:
    model = SelfCorrectModel(ScriptedEngine(lambda r, p: SAID, codec), codec)
    with pytest.raises(InputError, match=re.escape(said)):
        model.solve(question)


def test_a_model_that_gives_no_verdict_returns_its_first_answer_and_says_so(codec: ChatCodec) -> None:
    model = SelfCorrectModel(ScriptedEngine(lambda r, p: "It is \\boxed{4}", codec), codec, LoopSettings("asked"))
    *_, final = model.stream("q")
    assert (final.answer, final.stop) == ("4", StopReason.NO_VERDICT)


def voter(first: str | None, p: float | None, final: str | None = None) -> Trajectory:
    judged = (SelfEvaluation("", Verdict.CORRECT, p),) if p is not None else ()
    attempts = tuple(Attempt(f"It is {answer}", answer) for answer in (first, final))[: 1 + (final is not None)]
    return Trajectory(Problem("p", "q", "", "math"), attempts, judged)


def test_votes_are_counted_as_the_figure_of_voting_counts_them() -> None:
    paths = [voter("1/2", 0.3), voter("2", 0.9, "3"), voter("0.5", 0.5), voter(None, 0.99), voter("2", 0.1, "3")]
    by_final = vote(paths)
    assert (by_final.answer, by_final.shares[0].weight, by_final.shares[0].places) == ("1/2", 2.0, (0, 2))
    assert [share.answer for share in by_final.shares] == ["1/2", "3"]
    weighted = vote(paths, "verdict-weighted")
    assert (weighted.answer, weighted.trajectory) == ("2", paths[1])
    assert weighted.shares[0].weight == pytest.approx(1.0)
    assert vote(paths, "best-of-n").answer == "2", "the surest of those with an answer"
    assert vote([voter("1", None), voter("2", None), voter("2", None)], "verdict-weighted").answer == "2"
    assert vote([voter(None, None)]).shares == ()
    with pytest.raises(InputError, match="by: expected one of"):
        vote(paths, "most")  # type: ignore[arg-type]


def test_a_model_votes_over_seeds(embedded: SelfCorrectModel) -> None:
    vote = embedded.vote(QUESTIONS[0], 4, seed=5, temperature=1.0)
    assert [t.seed for t in vote.trajectories] == [5, 6, 7, 8]
    assert sum(share.weight for share in vote.shares) == sum(t.final.answer is not None for t in vote.trajectories)
    with pytest.raises(InputError, match="temperature 0"):
        embedded.vote(QUESTIONS[0], 4)
