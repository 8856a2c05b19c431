"""inspect_ai: a task by entry point, the correction loop as a solver, the grader as scorers (docs/doors.md).

    inspect eval selfcorrect/self_correction -T problems=problems.jsonl --model openai-api/local/my-model

Any solver goes with the scorers, and `self_correct` with any scorer: it leaves the last attempt as the output. What the
grader failed on is unscored, which inspect_ai leaves out of its means and counts.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Literal

from anyio import to_thread
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageUser, ModelOutput
from inspect_ai.scorer import CORRECT, INCORRECT, Score, Scorer, Target, accuracy, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver

from selfcorrect.adapters.turns import Said, Turns, ask_turns, graded, read_turns, turn_scores, turns_of
from selfcorrect.problems import ProblemsRecipe, load_problems
from selfcorrect.prompts import solve as solve_prompt

Method = Literal["asked", "self-rewarding"]
TURNS = "selfcorrect"
"""The key of a sample's metadata that holds the messages of the loop, their cuts and the horizon."""


@task
def self_correction(
    problems: str = "arithmetic",
    split: str = "test",
    count: int | None = None,
    horizon: int = 2,
    method: Method = "asked",
) -> Task:
    """The self-correction loop on a problem file, or a short name that `selfcorrect` knows."""
    loaded = load_problems(ProblemsRecipe(problems, split, count))
    samples = [Sample(p.question, target=p.gold, id=p.id, metadata={"source": p.source}) for p in loaded.problems]
    return Task(MemoryDataset(samples), solver=self_correct(horizon, method), scorer=[final_answer(), turns()])


@solver
def self_correct(horizon: int = 2, method: Method = "asked") -> Solver:
    """``asked``: attempt, verdict, revision in messages of their own. ``self-rewarding``: one long-CoT message."""

    async def run(state: TaskState, generate: Generate) -> TaskState:
        said: list[Said] = []

        async def ask(text: str) -> Said:
            nonlocal state
            if said:
                state.messages.append(ChatMessageUser(content=text))
            else:
                state.user_prompt.text = text
            state = await generate(state)
            said.append(Said(state.output.completion, _was_cut(state)))
            return said[-1]

        question, source = state.user_prompt.text, _source(state)
        if method == "asked":
            found = await ask_turns(question, ask, horizon=horizon, source=source)
            state.metadata[TURNS] = {"said": [one.text for one in said], "cut": [one.cut for one in said]}
            state.metadata[TURNS]["horizon"] = horizon
        else:
            one = await ask(solve_prompt(question))
            found = read_turns(one.text, source=source, cut=one.cut)
            state.metadata[TURNS] = {"response": one.text, "cut": one.cut}
        reason: Any = "max_tokens" if found.final.cut else "stop"
        state.output = ModelOutput.from_content(str(state.model), found.final.text, stop_reason=reason)
        return state

    return run


@scorer(metrics=[accuracy(), stderr()])
def final_answer() -> Scorer:
    """Whether the last attempt is right."""

    async def score(state: TaskState, target: Target) -> Score:
        last = await _graded(state, target)
        grade, final = last.final.grade, turn_scores(last)["final"]
        assert grade is not None
        if final is None:
            return Score.unscored(reason=grade.method, answer=grade.extracted, explanation=grade.reason)
        return Score(value=CORRECT if final else INCORRECT, answer=grade.extracted, explanation=grade.reason)

    return score


@scorer(metrics={"*": [mean(), stderr()]})
def turns() -> Scorer:
    """``turn1``, ``final``, ``i2c``, ``c2i``, ``verdict`` (share that equals the grade) and the number of attempts."""

    async def score(state: TaskState, target: Target) -> Score:
        values = turn_scores(await _graded(state, target))
        return Score(value={name: math.nan if value is None else value for name, value in values.items()})

    return score


async def _graded(state: TaskState, target: Target) -> Turns:
    """Return the graded turns of a sample without blocking the event loop."""
    return await to_thread.run_sync(partial(graded, _turns(state), target.text, source=_source(state)))


def _turns(state: TaskState) -> Turns:
    """Return the turns of a sample: those of `self_correct`, or what is to be read in another solver's output."""
    kept, source = state.metadata.get(TURNS), _source(state)
    if kept is None:
        return read_turns(state.output.completion, source=source, cut=_was_cut(state))
    if "response" in kept:
        return read_turns(kept["response"], source=source, cut=kept["cut"])
    return turns_of(list(map(Said, kept["said"], kept["cut"])), horizon=kept["horizon"], source=source)


def _source(state: TaskState) -> str:
    return str(state.metadata.get("source") or "math")


def _was_cut(state: TaskState) -> bool:
    return bool(state.output.choices) and state.output.stop_reason in ("max_tokens", "model_length")
