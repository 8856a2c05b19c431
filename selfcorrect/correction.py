"""THE loop: attempt → self-evaluate → stop or revise, written against `Engine` and `ChatCodec`.

`solve` runs one problem by one method and returns its Trajectory (ungraded, except that the gold-verdict
baseline must look at the reference answer to decide). Many problems run at once: start many `solve` tasks,
the engine keeps its batch full and nothing waits for a turn to end everywhere.

| method | after an attempt | revision asked by |
| --- | --- | --- |
| ``self-rewarding`` | judges itself inside the same completion (long-CoT); the learned stop decision | itself |
| ``asked`` | judges itself when asked to (`prompts.EVALUATE`): the three-step base model | `prompts.REVISE` |
| ``two-turn`` | answers `prompts.SELF_QUESTION` at the end of its message | `prompts.two_turn_reply` |
| ``gold`` | the checker judges against the reference answer | `prompts.REVISE` |
| ``intrinsic`` | nobody judges; always revises (also STaR/RAFT) | `prompts.INTRINSIC` |
| ``misleading`` | nobody judges; always told that it was wrong (p c→i) | `prompts.REVISE` |
| ``judged`` | another model judges: an outcome reward model, or the self-reward of policy B | `prompts.REVISE` |
| ``single-turn`` | stops | – |

A model that was trained to judge itself in the same completion does so in any chat, too: it is misled, or given the
gold verdict, by ``stop``. Where the model judges itself, `LoopSettings.stop` says what becomes of its verdict
(`selfcorrect.stopping`). A decision that differs from the mark it wrote replaces the mark: the path goes on from the
decided verdict, whose tokens are recorded as not sampled.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from selfcorrect import prompts
from selfcorrect.choices import check_choices
from selfcorrect.engines import Engine, Sample, SampleRequest, sample_seed
from selfcorrect.errors import InputError, RequestRefused
from selfcorrect.grading import extract_answer, grade, grade_many
from selfcorrect.overruling import and_then, unsampled, with_answer, with_mark
from selfcorrect.parsing import parse_path, verdict_probability, yes_no_ids
from selfcorrect.parsing import token_position as token_position
from selfcorrect.stopping import Stop, StopRule
from selfcorrect.tokens import ChatCodec
from selfcorrect.types import Attempt, Problem, Role, SelfEvaluation, Span, Trajectory, Verdict
from selfcorrect.verdicts import MARKS, parse_two_turn, parse_verdict

if TYPE_CHECKING:
    from selfcorrect.judges import Judge

Method = Literal["self-rewarding", "asked", "two-turn", "gold", "intrinsic", "misleading", "judged", "single-turn"]
JUDGES_ITSELF = ("self-rewarding", "asked", "two-turn")


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How the loop samples. ``max_tokens`` bounds one completion: a path in long-CoT, a message elsewhere.

    ``path_tokens`` bounds what is sampled for a whole path; a path that reaches it ends by ``length``.
    """

    method: Method = "self-rewarding"
    horizon: int = 2
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 1024
    path_tokens: int | None = None
    one_pass: bool = True  # long-CoT: sample the path in one completion, or stop at each mark and continue
    stop: Stop = "sampled"  # see selfcorrect.stopping; all but "sampled" stop at each mark
    rule: StopRule = field(default_factory=StopRule)  # of stop="threshold"

    def __post_init__(self) -> None:
        check_choices(self)
        if self.horizon < 1 or self.max_tokens < 1 or (self.path_tokens is not None and self.path_tokens < 1):
            raise InputError(
                "horizon, max_tokens and path_tokens are at least 1; "
                f"got horizon={self.horizon}, max_tokens={self.max_tokens}, path_tokens={self.path_tokens}"
            )
        if not (0 <= self.temperature < math.inf and 0 < self.top_p <= 1):
            raise InputError(
                "temperature is 0 (greedy) or more, and top_p above 0 and at most 1; "
                f"got temperature={self.temperature}, top_p={self.top_p}"
            )
        if self.stop != "sampled" and self.method not in JUDGES_ITSELF:
            raise InputError(
                f"stop={self.stop} replaces the model's own verdict, and method {self.method!r} has none; "
                f"it goes with {', '.join(JUDGES_ITSELF)}"
            )


async def solve(
    problem: Problem,
    engine: Engine,
    codec: ChatCodec,
    settings: LoopSettings,
    seed: int,
    judge: Judge | None = None,
) -> Trajectory:
    """Return the path of one problem. The same problem, settings and seed give the same path.

    A request that the engine refuses ends the path where it stands: its ``stop`` is then ``prompt-too-long`` or
    ``refused``, and without an attempt it holds an empty one, which is unanswered. ``judge`` is who decides under
    ``method="judged"`` and ``stop="judge"``; InputError where it is missing.
    """
    if judge is None and (settings.method == "judged" or settings.stop == "judge"):
        raise InputError(f"method {settings.method!r} with stop {settings.stop!r} needs a judge")
    path = _Path(problem, codec, settings, seed, codec.opening(prompts.solve_messages(problem.question)))
    try:
        return await (_long_cot if settings.method == "self-rewarding" else _chat)(path, engine, judge)
    except RequestRefused as refused:
        return replace(path.reached or path.end(""), stop=refused.outcome)


async def _long_cot(path: _Path, engine: Engine, judge: Judge | None) -> Trajectory:
    settings, codec, prompt = path.settings, path.codec, path.ids
    if settings.one_pass and settings.stop == "sampled":
        sample = await engine.sample(path.request())
        return parse_path(path.problem, codec, prompt, sample, settings.horizon, seed=path.seed)
    limit = path.room
    whole = await engine.sample(path.request(stop_texts=tuple(MARKS.values())))
    written: list[tuple[int, int]] = []  # token ranges of verdicts that were decided and not sampled
    while True:
        trajectory = parse_path(path.problem, codec, prompt, whole, settings.horizon, seed=path.seed)
        path.reached = replace(trajectory, spans=unsampled(trajectory.spans, written))
        if whole.finish == "text" and _waits_for_decision(trajectory, settings.horizon):
            decided = await _decide(path, trajectory.evaluations[-1], trajectory.final, judge)
            if decided is not trajectory.evaluations[-1].verdict:
                whole, start = with_mark(codec, whole, decided)
                written.append((len(prompt) + start, len(prompt) + len(whole.token_ids)))
                if decided is Verdict.WRONG:  # who is overruled would not go on by itself: open the revision
                    whole = and_then(whole, codec.encode(prompts.SEPARATOR))
                    written.append((written[-1][1], len(prompt) + len(whole.token_ids)))
                trajectory = parse_path(path.problem, codec, prompt, whole, settings.horizon, seed=path.seed)
        path.reached = replace(trajectory, spans=unsampled(trajectory.spans, written))
        undecided = trajectory.stop == "no-revision" and whole.finish == "text"
        if not undecided or len(whole.token_ids) >= limit:
            return path.reached
        path.ids = prompt + whole.token_ids
        more = await engine.sample(path.request(stop_texts=tuple(MARKS.values()), budget=limit - len(whole.token_ids)))
        whole = replace(
            more,
            token_ids=whole.token_ids + more.token_ids,
            logprobs=whole.logprobs + more.logprobs,
            watched=whole.watched + more.watched,
        )


def _waits_for_decision(trajectory: Trajectory, horizon: int) -> bool:
    judged = len(trajectory.evaluations) == len(trajectory.attempts) < horizon
    return judged and trajectory.evaluations[-1].verdict is not None


async def _decide(path: _Path, evaluation: SelfEvaluation, attempt: Attempt, judge: Judge | None) -> Verdict:
    """Return the stop decision on an attempt that was judged with a well-formed verdict."""
    assert evaluation.verdict is not None
    match path.settings.stop:
        case "argmax":
            return StopRule().verdict(evaluation)
        case "threshold":
            return path.settings.rule.verdict(evaluation)
        case "never":
            return Verdict.WRONG
        case "gold":
            right = _is_right(attempt.text, path.problem)
            return Verdict.CORRECT if right else Verdict.WRONG
        case "judge":
            assert judge is not None
            return (await judge.judge(path.problem, attempt.text)).verdict or evaluation.verdict
    return evaluation.verdict


def _is_right(text: str, problem: Problem) -> bool:
    return grade(text, problem.gold, source=problem.source, tolerance=problem.meta.get("tolerance")).correct


async def _chat(path: _Path, engine: Engine, judge: Judge | None) -> Trajectory:
    method, horizon, codec = path.settings.method, path.settings.horizon, path.codec
    watched = yes_no_ids(codec) if method == "two-turn" else None
    while True:
        if path.room < 1:
            return path.end("length")
        sample = await engine.sample(path.request(watch_ids=watched))
        text = codec.decode(sample.token_ids)
        cut = sample.finish == "length"
        path.attempts.append(Attempt(text, extract_answer(text, source=path.problem.source, cut=cut), cut=cut))
        last = len(path.attempts) == horizon
        if method == "two-turn" and sample.finish != "length":
            p_correct = verdict_probability(codec, sample, 0, len(sample.token_ids), watched)
            await path.take_judged(sample, SelfEvaluation("", parse_two_turn(text), p_correct), judge, last)
        else:
            path.take(sample, Role.REVISION if len(path.attempts) > 1 else Role.ATTEMPT)
        if sample.finish == "length":
            return path.end("length")
        if method == "single-turn" or last:
            return path.end("horizon" if method != "single-turn" else "end")
        if method == "gold" and _is_right(text, path.problem):
            return path.end("end")
        if method == "judged":
            assert judge is not None
            path.evaluations.append(await judge.judge(path.problem, text))
        if method == "asked":
            if path.room < 1:
                return path.end("length")
            path.say(prompts.EVALUATE)
            sample = await engine.sample(path.request(stop_texts=tuple(MARKS.values())))
            text = codec.decode(sample.token_ids)
            p_correct = verdict_probability(codec, sample, 0, len(sample.token_ids))
            await path.take_judged(sample, SelfEvaluation(text, parse_verdict(text), p_correct), judge, last)
            if sample.finish == "length":
                return path.end("length")
        if path.evaluations:
            verdict = path.evaluations[-1].verdict
            if verdict is None:
                return path.end("no-verdict")
            if verdict is Verdict.CORRECT:
                return path.end("verdict")
        path.say(
            prompts.INTRINSIC
            if method == "intrinsic"
            else prompts.two_turn_reply(Verdict.WRONG)
            if method == "two-turn"
            else prompts.REVISE
        )


class _Path:
    """A chat path that grows token by token: prompt, sampled messages, user messages between them."""

    def __init__(
        self, problem: Problem, codec: ChatCodec, settings: LoopSettings, seed: int, opening: tuple[int, ...]
    ) -> None:
        self.problem, self.codec, self.settings, self.seed = problem, codec, settings, seed
        self.ids = opening
        self.logprobs: tuple[float, ...] = (0.0,) * len(opening)
        self.spans: list[Span] = [Span(Role.EXTERNAL, 0, len(opening), sampled=False)]
        self.attempts: list[Attempt] = []
        self.evaluations: list[SelfEvaluation] = []
        self.reached: Trajectory | None = None  # long-CoT: the path so far, should the engine refuse to go on

    @property
    def room(self) -> int:
        """How many tokens the next completion may have; below 1 where the path's budget is spent."""
        if self.settings.path_tokens is None:
            return self.settings.max_tokens
        spent = sum(span.end - span.start for span in self.spans if span.sampled)
        return min(self.settings.max_tokens, self.settings.path_tokens - spent)

    def request(
        self,
        stop_texts: tuple[str, ...] = (),
        budget: int | None = None,
        watch_ids: tuple[int, ...] | None = None,
    ) -> SampleRequest:
        return SampleRequest(
            prompt_ids=self.ids,
            max_tokens=budget or self.room,
            seed=sample_seed(self.seed, self.problem.id, len(self.ids)),  # methods share their first attempts
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            stop_ids=self.codec.stop_ids,
            stop_texts=stop_texts,
            watch_ids=watch_ids or self.codec.verdict_ids,
        )

    async def take_judged(self, sample: Sample, evaluation: SelfEvaluation, judge: Judge | None, last: bool) -> None:
        """Take a message that ends in a verdict, with the verdict that the stop decision makes of it."""
        two_turn = self.settings.method == "two-turn"
        role = Role.EVALUATION if not two_turn else Role.REVISION if len(self.attempts) > 1 else Role.ATTEMPT
        decided = evaluation.verdict
        if decided is not None and not last:
            decided = await _decide(self, evaluation, self.attempts[-1], judge)
        if decided is None or decided is evaluation.verdict:
            self.take(sample, role)
            self.evaluations.append(evaluation)
            return
        whole, start = (with_answer if two_turn else with_mark)(self.codec, sample, decided)
        self.take(whole, role)
        self.spans = list(unsampled(self.spans, [(len(self.ids) - len(whole.token_ids) + start, len(self.ids))]))
        text = self.codec.decode(whole.token_ids)
        if two_turn:
            self.attempts[-1] = replace(self.attempts[-1], text=text)
        self.evaluations.append(replace(evaluation, text="" if two_turn else text, verdict=decided))

    def take(self, sample: Sample, role: Role) -> None:
        self.spans.append(Span(role, len(self.ids), len(self.ids) + len(sample.token_ids)))
        self.ids += sample.token_ids
        self.logprobs += sample.logprobs

    def say(self, user: str) -> None:
        ids = self.codec.reply(user)
        self.spans.append(Span(Role.EXTERNAL, len(self.ids), len(self.ids) + len(ids), sampled=False))
        self.ids += ids
        self.logprobs += (0.0,) * len(ids)

    def end(self, stop: str) -> Trajectory:
        return Trajectory(
            problem=self.problem,
            attempts=tuple(self.attempts) or (Attempt(""),),
            evaluations=tuple(self.evaluations),
            stop=stop,
            token_ids=self.ids,
            logprobs=self.logprobs,
            spans=tuple(self.spans),
            seed=self.seed,
        )


def grade_trajectories(trajectories: Iterable[Trajectory]) -> list[Trajectory]:
    """Return the trajectories with every attempt graded against its problem's reference answer."""
    ungraded = list(trajectories)
    by_source: dict[str, list[tuple[int, int]]] = {}
    for i, trajectory in enumerate(ungraded):
        for h in range(len(trajectory.attempts)):
            by_source.setdefault(trajectory.problem.source, []).append((i, h))
    graded = {i: list(trajectory.attempts) for i, trajectory in enumerate(ungraded)}
    for source, places in by_source.items():
        pairs = [(ungraded[i].attempts[h].text, ungraded[i].problem.gold) for i, h in places]
        cut = [ungraded[i].attempts[h].cut for i, h in places]
        tolerances = [ungraded[i].problem.meta.get("tolerance") for i, _ in places]
        for (i, h), result in zip(places, grade_many(pairs, source=source, cut=cut, tolerance=tolerances), strict=True):
            graded[i][h] = replace(graded[i][h], grade=result, answer=result.extracted)
    return [replace(trajectory, attempts=tuple(graded[i])) for i, trajectory in enumerate(ungraded)]
