"""A request that cannot be served is the outcome of its problem: in a script, eval, gen and RL; and in the plans."""

from __future__ import annotations

import asyncio
import json
import pickle
from pathlib import Path

import pytest
from rich.console import Console

from selfcorrect import SelfCorrectModel, prompts
from selfcorrect.chat import ChatCodec
from selfcorrect.correction.loop import LoopSettings, Method, solve
from selfcorrect.data_gen import pipeline
from selfcorrect.data_gen.pipeline import GenRecipe, Quota
from selfcorrect.engines import EngineRecipe, SampleRequest, check_request, context_of, length_note
from selfcorrect.engines.scripted import Reply, ScriptedEngine
from selfcorrect.errors import DataError, EngineError, RequestRefused
from selfcorrect.eval import run as evaluation
from selfcorrect.eval.run import EvalRecipe
from selfcorrect.metrics import score
from selfcorrect.problems import ProblemsRecipe
from selfcorrect.train.rl.rollouts import SamplingSettings, roll_out, within_context
from selfcorrect.types import Problem, Role, SelfEvaluation, Verdict
from tests.data_gen.worlds import WORLD, grade, write_problems

RIGHT = "\\boxed{5}\n\nfine\n[VERIFY] correct."
WRONG = "\\boxed{4}\n\nno\n[VERIFY] wrong."
PROBLEM = Problem("p", "2+3?", "5", "math")


def test_a_long_prompt_is_told_from_settings_that_serve_no_prompt() -> None:
    check_request(SampleRequest((1,) * 10, 10), "an engine", 20)
    with pytest.raises(RequestRefused, match=r"a prompt of 11 tokens and max_tokens=10 need 21 tokens") as refused:
        check_request(SampleRequest((1,) * 11, 10), "an engine", 20)
    again = pickle.loads(pickle.dumps(refused.value))
    assert (str(again), again.outcome) == (str(refused.value), "prompt-too-long")
    with pytest.raises(EngineError, match="max_tokens=20 leaves no room for a prompt") as useless:
        check_request(SampleRequest((1,), 20), "an engine", 20)
    assert not isinstance(useless.value, RequestRefused)


def test_one_long_question_does_not_lose_the_others(codec: ChatCodec) -> None:
    engine = ScriptedEngine(lambda request, prompt: RIGHT, codec, context=400)
    model = SelfCorrectModel(engine, codec, LoopSettings(max_tokens=100))
    short, long, other = model.solve_many(["2+3?", "how much? " * 200, "1+4?"])
    assert [path.final.answer for path in (short, other)] == ["5", "5"]
    assert (long.stop, long.final.answer, long.final.text, long.sampled_tokens) == ("prompt-too-long", None, "", 0)
    assert [span.role for span in long.spans] == [Role.EXTERNAL]
    assert long.spans[0].end == len(long.token_ids) == len(long.logprobs)


@pytest.mark.parametrize("method", ["asked", "intrinsic", "two-turn", "misleading", "judged"])
def test_a_path_that_grows_too_long_ends_where_it_stands(codec: ChatCodec, method: Method) -> None:
    attempt = f"\\boxed{{4}} {prompts.SELF_QUESTION} No." if method == "two-turn" else "\\boxed{4}"

    class Judge:
        async def judge(self, problem: Problem, attempt: str) -> SelfEvaluation:
            return SelfEvaluation("", Verdict.WRONG)

        async def close(self) -> None: ...

    opening = len(codec.opening(prompts.solve_messages(PROBLEM.question)))
    engine = ScriptedEngine(lambda request, prompt: attempt, codec, context=opening + 120)
    path = asyncio.run(solve(PROBLEM, engine, codec, LoopSettings(method, max_tokens=110), 0, Judge()))
    assert (path.stop, len(path.attempts)) == ("prompt-too-long", 1)
    assert attempt.startswith(path.final.text)
    assert "boxed{4}" in path.final.text
    assert path.spans[-1].end == len(path.token_ids) == len(path.logprobs)


def test_a_judge_that_refuses_keeps_the_attempt(codec: ChatCodec) -> None:
    class Judge:
        async def judge(self, problem: Problem, attempt: str) -> SelfEvaluation:
            raise RequestRefused("too long for me", "prompt-too-long")

        async def close(self) -> None: ...

    engine = ScriptedEngine(lambda request, prompt: WRONG, codec)
    for settings in (LoopSettings(stop="judge"), LoopSettings("judged")):
        path = asyncio.run(solve(PROBLEM, engine, codec, settings, 0, Judge()))
        assert (path.stop, len(path.attempts)) == ("prompt-too-long", 1)
        assert path.final.answer == "4"


# --- eval ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def five(tmp_path: Path) -> Path:
    """Four short problems and one of some thousand tokens."""
    questions = ["What is 1+1?", "What is 2+2?", "shells and " * 900, "What is 3+3?", "What is 4+4?"]
    rows = [json.dumps({"question": text, "answer": f"#### {2 * i + 2}"}) for i, text in enumerate(questions)]
    (tmp_path / "five.jsonl").write_text("\n".join(rows) + "\n")
    return tmp_path / "five.jsonl"


def text_of(shown: object) -> str:
    console = Console(width=2000, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(shown)
    return console.export_text()


def test_eval_counts_a_long_problem_by_name_and_shows_it_before(five: Path, tmp_path: Path) -> None:
    recipe = EvalRecipe(method="single-turn", problems=ProblemsRecipe(source=str(five), count=None), max_tokens=16)
    planned = text_of(evaluation.plan(recipe))
    assert "1 of 5 prompts are too long and count as prompt-too-long: five-2 (the longest prompt has " in planned
    assert "the context holds 1,024 and a completion up to 16" in planned
    result = evaluation.run(recipe, tmp_path / "run")
    scores = result.scores
    assert (scores.n, scores.stops["prompt-too-long"], scores.faults["prompt-too-long"]) == (5, 1, 1)
    assert (scores.unanswered or 0) >= 1
    assert evaluation.run(recipe, tmp_path / "run") == result, "a finished folder is only read"


def test_a_run_in_which_nothing_could_be_asked_is_no_result(five: Path, tmp_path: Path) -> None:
    recipe = EvalRecipe(
        method="single-turn", problems=ProblemsRecipe(source=str(five), count=1, offset=2), max_tokens=16
    )
    with pytest.raises(EngineError, match="nothing was sampled: all 1 requests ended as prompt-too-long"):
        evaluation.run(recipe, tmp_path / "run")
    assert not (tmp_path / "run/eval/self-rewarding/DONE").exists()


def test_an_unasked_problem_is_wrong_and_not_ungradable(codec: ChatCodec) -> None:
    from selfcorrect.correction.loop import grade_trajectories

    engine = ScriptedEngine(lambda request, prompt: RIGHT, codec, context=400)
    problems = [PROBLEM, Problem("long", "how much? " * 200, "5", "math")]
    settings = LoopSettings(max_tokens=100)
    paths = [asyncio.run(solve(problem, engine, codec, settings, 0)) for problem in problems]
    scores = score("x", grade_trajectories(paths))
    assert (scores.n, scores.final.hits, scores.unanswered, scores.ungradable) == (2, 1, 1, 0)
    assert scores.stops == {"prompt-too-long": 1, "verdict": 1}
    assert scores.faults == {"prompt-too-long": 1}


# --- gen -------------------------------------------------------------------------------------------------------------


def test_gen_counts_by_name_what_no_context_holds(tmp_path: Path, codec: ChatCodec) -> None:
    """Long problems are never sampled; of the others some evaluations and revisions do not fit."""
    file = write_problems(tmp_path / "toy.jsonl")
    rows = file.read_text().splitlines()
    rows[3:5] = [json.dumps({"question": f"Which {'long ' * 90}number equals {n}?", "gold": str(n)}) for n in (13, 14)]
    file.write_text("\n".join(rows))
    recipe = GenRecipe(
        problems=ProblemsRecipe(source=str(file), count=40), prompts=0, attempts=6, quota=Quota(20, 8, 16),
        cap_per_problem=2, max_tokens=120, in_flight=24, pilot=0,
    )  # fmt: skip
    opening = len(codec.opening(prompts.solve_messages("Which number equals 10?")))
    ask, least = len(codec.reply(prompts.EVALUATE)), {"D1": 20, "D2": 8, "D3": 16}
    for room, classes in (
        (440, least),
        (120 + ask + 40, {}),
    ):  # the second leaves 40 tokens to attempts that are judged
        engine = ScriptedEngine(WORLD, codec, context=opening + room)
        summary = pipeline.run(recipe, tmp_path / f"{room}", engine=engine, codec=codec, grade=grade)
        assert summary["samples"]["attempts"]["prompt-too-long"] >= 2
        assert summary["classes"].items() >= classes.items(), "the rest goes on"
    assert summary["samples"]["evaluations"]["prompt-too-long"] > 0
    assert summary["samples"]["evaluations"]["agrees with the grade"] > 0


# --- RL --------------------------------------------------------------------------------------------------------------


def test_rl_leaves_out_long_prompts_and_ends_chats_that_grow_too_long(codec: ChatCodec) -> None:
    problems = [Problem("a", "2+3?", "5", "math"), Problem("b", "how much? " * 200, "5", "math")]
    said_no = f"\\boxed{{4}} {prompts.SELF_QUESTION} No."
    said_yes = f"\\boxed{{5}} {prompts.SELF_QUESTION} Yes."
    room = len(codec.opening(prompts.solve_messages("2+3?"))) + 110
    sampling = SamplingSettings("two-turn", max_tokens=100)
    kept, beyond = within_context(problems, codec, sampling, room)
    assert ([problem.id for problem in kept], beyond) == (["a"], ["b"])
    with pytest.raises(DataError, match="no prompt can be sampled from: 1 of 1 prompts"):
        within_context(problems[1:], codec, sampling, room)

    def script(request: SampleRequest, prompt: str) -> Reply | str:
        return said_no if request.seed % 2 else said_yes

    engine = ScriptedEngine(script, codec, context=room)
    rollouts = roll_out(engine, codec, kept * 20, list(range(20)), sampling)
    stops = {rollout.trajectory.stop for rollout in rollouts}
    assert stops == {"prompt-too-long", "verdict"}
    for rollout in rollouts:
        assert len(rollout.trajectory.attempts) == 1
        assert len(rollout.completion_ids) == len(rollout.learned) == sum(rollout.learned)


# --- plans -----------------------------------------------------------------------------------------------------------


def test_the_note_of_a_plan() -> None:
    lengths = {f"p{i}": 10 * i for i in range(1, 11)}
    assert (
        length_note(lengths, 10, 110)
        == "the longest prompt has 100 tokens; the context holds 110 and a completion up to 10"
    )
    assert length_note(lengths, 10, 35).startswith(
        "8 of 10 prompts are too long and count as prompt-too-long: p3, p4, p5, p6, p7, … ("
    )
    assert "is not known before it is opened" in length_note(lengths, 10, None)


def test_the_context_of_a_recipe_is_the_least_that_is_known(tmp_path: Path) -> None:
    assert context_of(EngineRecipe()) == 1024
    assert context_of(EngineRecipe(kind="vllm", options={"max_model_len": 512})) == 512
    assert context_of(EngineRecipe(options={"max_cached_tokens": 2048})) == 1024
    assert context_of(EngineRecipe(model=str(tmp_path))) is None
