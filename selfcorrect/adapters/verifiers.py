"""verifiers v1 and prime-rl: problems as a Taskset, the correction loop as an Env (docs/doors.md).

The package `environments/selfcorrect_math` exports both, as v1 wants it. One agent has one conversation an episode, so
a trainer sees attempt, self-evaluation and revision as the sampled messages of one trace; `SelfCorrectTask` scores any
trace of its problems, in one message (read as long-CoT) or in several.
"""

import asyncio

import verifiers.v1 as vf

from selfcorrect import prompts
from selfcorrect.adapters.turns import Said, Turns, ask_turns, graded, read_turns, turn_scores, turns_of
from selfcorrect.errors import DataError
from selfcorrect.logs.record import text_of
from selfcorrect.problems import ProblemsRecipe, load_problems


class SelfCorrectData(vf.TaskData):
    """A problem: the prompt asks for a first attempt."""

    question: str
    answer: str
    source: str = "math"


class SelfCorrectTask(vf.Task[SelfCorrectData]):
    """How a trace is scored."""

    @vf.reward(weight=1.0)
    async def final_answer(self, trace: vf.Trace) -> float:
        """1.0 where the last attempt is right. Raises where the grader failed, so that the episode is an error."""
        turns = await self._graded(trace)
        score = turn_scores(turns)["final"]
        if score is None:
            raise DataError(f"problem {self.data.id} has no reward, and is not 0: {turns.final.grade}")
        return score

    @vf.metric
    async def turns(self, trace: vf.Trace) -> dict[str, float]:
        """``turn1``, ``final``, ``i2c``, ``c2i``, ``verdict``, ``attempts``, those that there are."""
        scores = turn_scores(await self._graded(trace))
        return {name: score for name, score in scores.items() if score is not None}

    async def _graded(self, trace: vf.Trace) -> Turns:
        """Return the graded turns of a trace without blocking the event loop."""
        ended = {call.node: call.finish_reason for call in trace.calls if call.error is None}
        said = [
            Said(text_of(node.message.content), ended.get(number) == "length")
            for number, node in enumerate(trace.nodes)
            if node.sampled
        ]
        source = self.data.source
        turns = read_turns(said[0].text, source=source, cut=said[0].cut) if len(said) == 1 else turns_of(said)
        return await asyncio.to_thread(graded, turns, self.data.answer, source=source)


class SelfCorrectTasksetConfig(vf.TasksetConfig):
    problems: str = "arithmetic"
    """A problem file, or a short name that selfcorrect knows."""
    split: str = "test"
    count: int | None = 1000
    """How many problems; None: all there are."""


class SelfCorrectTaskset(vf.Taskset[SelfCorrectTask, SelfCorrectTasksetConfig]):
    """The problems of a file, ready to grade."""

    def load(self) -> list[SelfCorrectTask]:
        recipe = ProblemsRecipe(self.config.problems, self.config.split, self.config.count)
        return [
            SelfCorrectTask(
                SelfCorrectData(
                    id=p.id, prompt=prompts.solve(p.question), question=p.question, answer=p.gold, source=p.source
                ),
                self.config.task,
            )
            for p in load_problems(recipe).problems
        ]


class SelfCorrectEnvConfig(vf.EnvConfig):
    agent: vf.AgentConfig = vf.AgentConfig(harness={"id": "null"}, runtime={"type": "subprocess"})
    """The model: it solves, judges and revises. It runs no code, and so needs no sandbox."""
    horizon: int = 2
    """How many attempts at most."""


class SelfCorrectEnv(vf.Env[SelfCorrectEnvConfig]):
    """Attempt, verdict, and a revision after the verdict wrong, in one conversation."""

    async def run(self, task: SelfCorrectTask, agents: vf.Agents) -> None:  # type: ignore[override]
        async with agents.agent.interaction(task) as conversation:

            async def ask(text: str) -> Said:
                opens = conversation.trace.num_turns == 0  # the task's own prompt asks for the first attempt
                segment = await conversation.turn(None if opens else text)
                last = conversation.trace.calls[-1] if conversation.trace.calls else None
                cut = segment.terminated or (last is not None and last.finish_reason == "length")
                return Said(segment.last_reply, cut)

            await ask_turns(task.data.question, ask, horizon=self.config.horizon, source=task.data.source)
