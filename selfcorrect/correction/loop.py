"""THE correction loop: attempt → self-evaluate → stop or revise, as one program for evaluation, serving and RL.

`steps` is the loop without an engine: it yields what it wants sampled (`SampleRequest`) or judged (`JudgeRequest`), is
sent the answer, and returns the trajectory. `solve` drives it with an asynchronous `Engine`, `streaming.stream` does so
and tells what is written meanwhile; RL drives many at once with a synchronous one (`train.rl.rollouts`). Many problems
run together: nothing waits for a turn to end everywhere.

`METHODS` says who judges an attempt and which user message asks for a revision. A model that was trained to judge
itself in the same completion does so in any chat, too: it is misled, or given the gold verdict, by
``LoopSettings.stop``, which says what becomes of the model's own verdict (`stop_rule`). A decision that
differs from the verdict that was sampled replaces it: the trajectory goes on from the decided verdict, whose tokens
are recorded as not sampled. Trajectories are ungraded, except that ``gold`` must look at the reference answer.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from selfcorrect import prompts
from selfcorrect.chat import ChatCodec
from selfcorrect.choices import check_choices, check_sampling
from selfcorrect.correction.decided_verdicts import and_then, unsampled, with_answer, with_mark
from selfcorrect.correction.parsing import (
    parse_path,
    parse_two_turn_message,
    read_attempt,
    take_message,
    verdict_probability,
    yes_no_ids,
)
from selfcorrect.correction.stop_rule import Stop, StopRule
from selfcorrect.engines import Engine, Sample, SampleRequest, sample_seed
from selfcorrect.errors import InputError, RequestRefused
from selfcorrect.grading import grade, grade_many
from selfcorrect.trajectory import TrajectoryBuilder
from selfcorrect.types import Attempt, Problem, Role, SelfEvaluation, StopReason, Trajectory, Verdict
from selfcorrect.verdicts import MARKS, parse_verdict

if TYPE_CHECKING:
    from selfcorrect.correction.judges import Judge

Method = Literal["self-rewarding", "asked", "two-turn", "gold", "intrinsic", "misleading", "judged", "single-turn"]
APPENDS_NOTHING = ("self-rewarding", "single-turn")
"""Methods for which a chat template need not keep earlier turns as they were written."""
JUDGES_ITSELF = ("self-rewarding", "asked", "two-turn")


class JudgedBy(StrEnum):
    """Who judges an attempt."""

    NOBODY = "nobody"
    ITSELF = "itself"
    """The policy, at the end of the message that holds the attempt."""
    ITSELF_WHEN_ASKED = "itself when asked"
    """The policy, after `prompts.EVALUATE`."""
    GRADER = "grader"
    """The checker against the reference answer: the gold verdict."""
    ANOTHER = "another"
    """An outcome reward model, or another policy (`selfcorrect.correction.judges`)."""


@dataclass(frozen=True, slots=True)
class MethodRule:
    """One method: who judges an attempt, and the user message that asks for a revision (None: nobody does)."""

    judged_by: JudgedBy
    ask_revision: str | None


METHODS: dict[str, MethodRule] = {
    "self-rewarding": MethodRule(JudgedBy.ITSELF, None),  # long-CoT: the policy goes on in the same completion
    "two-turn": MethodRule(JudgedBy.ITSELF, prompts.two_turn_reply(Verdict.WRONG)),
    "asked": MethodRule(JudgedBy.ITSELF_WHEN_ASKED, prompts.REVISE),
    "gold": MethodRule(JudgedBy.GRADER, prompts.REVISE),
    "judged": MethodRule(JudgedBy.ANOTHER, prompts.REVISE),
    "intrinsic": MethodRule(JudgedBy.NOBODY, prompts.INTRINSIC),  # also STaR/RAFT
    "misleading": MethodRule(JudgedBy.NOBODY, prompts.REVISE),  # told that it was wrong: p c→i
    "single-turn": MethodRule(JudgedBy.NOBODY, None),
}


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How the loop samples. ``max_tokens`` bounds one completion: a trajectory in long-CoT, a message elsewhere.

    ``path_tokens`` bounds what is sampled for a whole trajectory; one that reaches it ends by ``length``.
    """

    method: Method = "self-rewarding"
    horizon: int = 2
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 1024
    path_tokens: int | None = None
    one_pass: bool = True  # long-CoT: sample all of it in one completion, or stop at each mark and continue
    stop: Stop = "sampled"  # see selfcorrect.correction.stop_rule; all but "sampled" stop at each mark
    rule: StopRule = field(default_factory=StopRule)  # of stop="threshold"

    def __post_init__(self) -> None:
        check_choices(self)
        if self.horizon < 1 or self.max_tokens < 1 or (self.path_tokens is not None and self.path_tokens < 1):
            raise InputError(
                "horizon, max_tokens and path_tokens are at least 1; "
                f"got horizon={self.horizon}, max_tokens={self.max_tokens}, path_tokens={self.path_tokens}"
            )
        check_sampling(self.temperature, self.top_p)
        if self.stop != "sampled" and self.method not in JUDGES_ITSELF:
            raise InputError(
                f"stop={self.stop} replaces the model's own verdict, and method {self.method!r} has none; "
                f"it goes with {', '.join(JUDGES_ITSELF)}"
            )


@dataclass(frozen=True, slots=True)
class JudgeRequest:
    """An attempt that somebody else is to judge; answered by a `SelfEvaluation`."""

    problem: Problem
    attempt: str


Loop = Generator[SampleRequest | JudgeRequest, Any, Trajectory]
"""A trajectory under way: send it the `Sample` or `SelfEvaluation` that it asked for."""


async def solve(
    problem: Problem,
    engine: Engine,
    codec: ChatCodec,
    settings: LoopSettings,
    seed: int,
    judge: Judge | None = None,
    opening: Sequence[int] | None = None,
) -> Trajectory:
    """Return the trajectory of one problem. The same problem, settings and seed give the same trajectory.

    ``opening`` are the ids of its first message where they are not those of the question alone: a conversation.

    A request that the engine refuses ends the trajectory where it stands: its ``stop`` is then ``prompt-too-long`` or
    ``refused``, and without an attempt it holds an empty one, which is unanswered. ``judge`` is who decides under
    ``method="judged"`` and ``stop="judge"``; InputError where it is missing.
    """
    require(codec, settings, judge)
    loop = steps(problem, codec, settings, seed, opening)
    state = advance(loop)
    while not isinstance(state, Trajectory):
        try:
            if isinstance(state, SampleRequest):
                state = advance(loop, await engine.sample(state))
            else:
                assert judge is not None
                state = advance(loop, await judge.judge(state.problem, state.attempt))
        except RequestRefused as refused:
            state = advance(loop, refused)
    return state


def require(codec: ChatCodec, settings: LoopSettings, judge: Judge | None) -> None:
    """Raise InputError or ModelError, before anything is sampled, for what the settings need and is not there."""
    if judge is None and (settings.method == "judged" or settings.stop == "judge"):
        raise InputError(f"method {settings.method!r} with stop {settings.stop!r} needs a judge")
    if settings.method not in APPENDS_NOTHING:
        codec.template.require_appending()


def advance(
    loop: Loop, answer: Sample | SelfEvaluation | RequestRefused | None = None
) -> SampleRequest | JudgeRequest | Trajectory:
    """Return what a loop asks for next, or its trajectory at the end; ``answer`` is to what it asked for before."""
    try:
        return loop.throw(answer) if isinstance(answer, RequestRefused) else loop.send(answer)
    except StopIteration as done:
        trajectory: Trajectory = done.value
        return trajectory


def steps(
    problem: Problem, codec: ChatCodec, settings: LoopSettings, seed: int, opening: Sequence[int] | None = None
) -> Loop:
    """Return the loop of one problem; ``opening`` are the ids of its first message where they are known already.

    A request that cannot be served is answered by throwing `RequestRefused` into the loop.
    """
    return Turns(problem, codec, settings, seed, opening).steps()


class Turns:
    """The turns of one trajectory, by one of three programs; see `steps` for the arguments."""

    def __init__(
        self,
        problem: Problem,
        codec: ChatCodec,
        settings: LoopSettings,
        seed: int,
        opening: Sequence[int] | None = None,
    ) -> None:
        ids = codec.opening(prompts.solve_messages(problem.question)) if opening is None else tuple(opening)
        self.codec, self.settings, self.path = codec, settings, TrajectoryBuilder(problem, ids, seed)
        self.reached: Trajectory | None = None  # long-CoT: the trajectory so far, should the engine refuse to go on

    def steps(self) -> Loop:
        """Return the loop; see `selfcorrect.correction.loop.steps`."""
        try:
            return (yield from self.program())
        except RequestRefused as refused:
            self.path.drop_unanswered()
            return replace(self.reached or self.path.build(StopReason.UNKNOWN), stop=StopReason(refused.outcome))

    @property
    def parts(self) -> tuple[Sequence[Attempt], Sequence[SelfEvaluation]]:
        """The attempts and self-evaluations that are whole, while the loop waits for an answer."""
        so_far = self.reached or self.path
        return so_far.attempts, so_far.evaluations

    def program(self) -> Loop:
        """Return the turns of the settings' method."""
        if self.settings.method != "self-rewarding":
            return self.chat(METHODS[self.settings.method])
        one_pass = self.settings.one_pass and self.settings.stop == "sampled"
        return self.long_cot() if one_pass else self.long_cot_by_mark()

    def chat(self, method: MethodRule) -> Loop:
        """Attempt, be judged, be asked for a revision, each in a message of its own."""
        path, horizon = self.path, self.settings.horizon
        while self.room >= 1:
            cut = yield from (self.attempt_and_judge if method is METHODS["two-turn"] else self.attempt)()
            if cut:
                break
            if len(path.attempts) == horizon or method is METHODS["single-turn"]:
                return path.build(StopReason.HORIZON if method.ask_revision else StopReason.END)
            if method.judged_by is JudgedBy.GRADER and self.is_correct(path.attempts[-1]):
                return path.build(StopReason.END)
            if method.judged_by is JudgedBy.ANOTHER:
                path.evaluations.append((yield JudgeRequest(path.problem, path.attempts[-1].text)))
            if method.judged_by is JudgedBy.ITSELF_WHEN_ASKED and (self.room < 1 or (yield from self.evaluate())):
                break
            if method.judged_by in (JudgedBy.ITSELF, JudgedBy.ITSELF_WHEN_ASKED, JudgedBy.ANOTHER):
                verdict = path.evaluations[-1].verdict if len(path.evaluations) == len(path.attempts) else None
                if verdict is not Verdict.WRONG:
                    return path.build(StopReason.VERDICT if verdict else StopReason.NO_VERDICT)
            assert method.ask_revision
            path.say(self.codec.reply(method.ask_revision))
        return path.build(StopReason.LENGTH)

    def attempt(self) -> Generator[SampleRequest, Sample, bool]:
        """Take a message that is an attempt; return whether it was cut."""
        sample = yield self.request()
        take_message(self.path, sample, [(self.path.role, len(sample.token_ids))])
        cut = sample.finish == "length"
        self.path.attempts.append(read_attempt(self.codec.decode(sample.token_ids), self.path.problem.source, cut))
        return cut

    def attempt_and_judge(self) -> Generator[SampleRequest | JudgeRequest, Any, bool]:
        """Take a message that holds an attempt and ends with the answer to `prompts.SELF_QUESTION`."""
        path, watched = self.path, yes_no_ids(self.codec)
        sample = yield self.request(watch_ids=watched)
        role = path.role
        attempt, evaluation, middle = parse_two_turn_message(self.codec, sample, path.problem.source, watched)
        path.attempts.append(attempt)
        if evaluation is None:
            take_message(path, sample, [(role, middle)])
            return sample.finish == "length"
        decided = yield from self.decide(evaluation)
        written = None
        if decided is not evaluation.verdict:
            assert decided is not None
            sample, written = with_answer(self.codec, sample, decided)
            text = self.codec.decode(sample.token_ids[middle:]).strip()
            evaluation = replace(evaluation, text=text, verdict=decided)
        take_message(path, sample, [(role, middle), (Role.EVALUATION, len(sample.token_ids))], written)
        path.evaluations.append(evaluation)
        return False

    def evaluate(self) -> Generator[SampleRequest | JudgeRequest, Any, bool]:
        """Ask for a self-evaluation in a message of its own; return whether it was cut."""
        self.path.say(self.codec.reply(prompts.EVALUATE))
        sample = yield self.request(stop_texts=tuple(MARKS.values()))
        cut = sample.finish == "length"
        text = self.codec.decode(sample.token_ids)
        p_correct = verdict_probability(self.codec, sample, 0, len(sample.token_ids))
        evaluation = SelfEvaluation(text, parse_verdict(text), p_correct)
        decided = yield from self.decide(evaluation)
        written = None
        if decided is not evaluation.verdict:
            assert decided is not None
            sample, written = with_mark(self.codec, sample, decided)
            evaluation = replace(evaluation, text=self.codec.decode(sample.token_ids), verdict=decided)
        take_message(self.path, sample, [(Role.EVALUATION, len(sample.token_ids))], written)
        self.path.evaluations.append(evaluation)
        return cut

    def long_cot(self) -> Loop:
        """Sample the whole trajectory in one completion, and read it."""
        path = self.path
        sample = yield self.request()
        return parse_path(path.problem, self.codec, path.token_ids, sample, self.settings.horizon, seed=path.seed)

    def long_cot_by_mark(self) -> Loop:
        """Sample up to each verdict mark, decide, and let the completion go on."""
        codec, settings, problem = self.codec, self.settings, self.path.problem
        prompt, limit = self.path.token_ids, self.room
        whole = yield self.request(stop_texts=tuple(MARKS.values()))
        written: list[tuple[int, int]] = []  # token ranges of verdicts that were decided and not sampled
        while True:
            trajectory = parse_path(problem, codec, prompt, whole, settings.horizon, seed=self.path.seed)
            self.reached = replace(trajectory, spans=unsampled(trajectory.spans, written))
            if whole.finish == "text" and _waits_for_decision(trajectory, settings.horizon):
                self.path.attempts = list(trajectory.attempts)
                decided = yield from self.decide(trajectory.evaluations[-1])
                if decided is not trajectory.evaluations[-1].verdict:
                    assert decided is not None
                    whole, start = with_mark(codec, whole, decided)
                    written.append((len(prompt) + start, len(prompt) + len(whole.token_ids)))
                    if decided is Verdict.WRONG:  # the policy would end its message here: open the revision for it
                        whole = and_then(whole, codec.encode(prompts.SEPARATOR))
                        written.append((written[-1][1], len(prompt) + len(whole.token_ids)))
                    trajectory = parse_path(problem, codec, prompt, whole, settings.horizon, seed=self.path.seed)
            self.reached = replace(trajectory, spans=unsampled(trajectory.spans, written))
            undecided = trajectory.stop is StopReason.NO_REVISION and whole.finish == "text"
            if not undecided or len(whole.token_ids) >= limit:
                return self.reached
            more = yield self.request(tuple(MARKS.values()), limit - len(whole.token_ids), after=whole.token_ids)
            whole = replace(
                more,
                token_ids=whole.token_ids + more.token_ids,
                logprobs=whole.logprobs + more.logprobs,
                watched=whole.watched + more.watched,
            )

    def decide(self, evaluation: SelfEvaluation) -> Generator[JudgeRequest, SelfEvaluation, Verdict | None]:
        """Return the stop decision on the last attempt: its own verdict, or what ``stop`` puts in its place."""
        attempt, stop = self.path.attempts[-1], self.settings.stop
        if evaluation.verdict is None or len(self.path.attempts) == self.settings.horizon:
            return evaluation.verdict
        match stop:
            case "argmax":
                return StopRule().verdict(evaluation)
            case "threshold":
                return self.settings.rule.verdict(evaluation)
            case "never":
                return Verdict.WRONG
            case "gold":
                return Verdict.CORRECT if self.is_correct(attempt) else Verdict.WRONG
            case "judge":
                return (yield JudgeRequest(self.path.problem, attempt.text)).verdict or evaluation.verdict
        return evaluation.verdict

    def is_correct(self, attempt: Attempt) -> bool:
        """Return the grader's judgement against the reference answer, which only gold methods may look at."""
        problem = self.path.problem
        tolerance = problem.meta.get("tolerance")
        return grade(attempt.text, problem.gold, source=problem.source, tolerance=tolerance, cut=attempt.cut).correct

    @property
    def room(self) -> int:
        """How many tokens the next completion may have; below 1 where the trajectory's budget is spent."""
        if self.settings.path_tokens is None:
            return self.settings.max_tokens
        return min(self.settings.max_tokens, self.settings.path_tokens - self.path.sampled_tokens)

    def request(
        self,
        stop_texts: tuple[str, ...] = (),
        budget: int | None = None,
        watch_ids: tuple[int, ...] | None = None,
        after: tuple[int, ...] = (),
    ) -> SampleRequest:
        """Ask for the next completion: what follows the trajectory, and ``after`` it what was sampled already."""
        prompt_ids = self.path.token_ids + after
        return SampleRequest(
            prompt_ids=prompt_ids,
            max_tokens=budget or self.room,
            # methods share their first attempts
            seed=sample_seed(self.path.seed, self.path.problem.id, len(prompt_ids)),
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            stop_ids=self.codec.stop_ids,
            stop_texts=stop_texts,
            watch_ids=watch_ids or self.codec.verdict_ids,
        )


def _waits_for_decision(trajectory: Trajectory, horizon: int) -> bool:
    judged = len(trajectory.evaluations) == len(trajectory.attempts) < horizon
    return judged and trajectory.evaluations[-1].verdict is not None


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
