"""Rollouts: paths sampled from a live model, token for token, with what of them may be learned.

Both formats of METHOD section 1. **long-cot**: a path is one completion, read as the correction loop reads it; tokens
after the loop's stop decision can change nothing and are not learned. **two-turn**: the policy ends its message with a
verdict on itself and, where that is "No", a user message that it did not write follows and is never learned.

Sampling is untruncated: what is optimised is what is sampled. Nothing is tokenised again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from selfcorrect import prompts
from selfcorrect.correction import grade_trajectories, parse_path, token_position
from selfcorrect.engines import Sample, SampleRequest, sample_seed
from selfcorrect.grading import extract_answer
from selfcorrect.tokens import ChatCodec
from selfcorrect.types import Attempt, Problem, Role, SelfEvaluation, Span, Trajectory, Verdict
from selfcorrect.verdicts import parse_two_turn

Format = Literal["long-cot", "two-turn"]


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled path. ``completion_ids`` are all tokens after the opening, the user's among them.

    ``learned`` is 1 for a token that the policy sampled and that had a consequence. ``parts`` are the attempts,
    self-evaluations and revisions of ``path``, in order, as spans of the completion; the token that ended a message
    belongs to its last part. ``logprobs`` are the sampler's, 0.0 for tokens of the user.
    """

    path: Trajectory
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    learned: tuple[int, ...]
    parts: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How paths are sampled. ``max_tokens`` bounds a completion: a whole path in long-CoT, a message in two turns."""

    format: Format = "long-cot"
    max_tokens: int = 1024
    horizon: int = 2
    temperature: float = 1.0

    @property
    def budget(self) -> int:
        """The most tokens that the policy can write in one path."""
        return self.max_tokens * (self.horizon if self.format == "two-turn" else 1)


def roll_out(
    engine: Any, codec: ChatCodec, problems: Sequence[Problem], seeds: Sequence[int], sampling: Sampling
) -> list[Rollout]:
    """Return one ungraded path for each problem and seed, in order. ``engine`` has ``sample_many``."""
    openings = {problem.id: codec.opening(prompts.solve_messages(problem.question)) for problem in problems}
    talks = [_Talk(problem, codec, openings[problem.id], seed) for problem, seed in zip(problems, seeds, strict=True)]
    return (_two_turn if sampling.format == "two-turn" else _long_cot)(engine, talks, sampling)


def graded(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Return the rollouts with every attempt graded."""
    paths = grade_trajectories(rollout.path for rollout in rollouts)
    return [replace(rollout, path=path) for rollout, path in zip(rollouts, paths, strict=True)]


def with_stop(sample: Sample) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return a sample's ids and log-probs, the id that ended it among them: stopping is learned too."""
    if sample.finish != "stop" or sample.stop_id is None:
        return sample.token_ids, sample.logprobs
    return (*sample.token_ids, sample.stop_id), (*sample.logprobs, sample.stop_logprob)


def long_cot_rollout(
    problem: Problem, codec: ChatCodec, opening: tuple[int, ...], sample: Sample, horizon: int
) -> Rollout:
    """Return one completion as an ungraded rollout; it is learned up to the loop's stop decision."""
    path = parse_path(problem, codec, opening, sample, horizon)
    ids, logprobs = with_stop(sample)
    parts, kept = _parts(path, len(opening)), len(path.token_ids) - len(opening)
    if kept == len(sample.token_ids):  # nothing follows the stop decision but the end of the message
        kept = len(ids)
        parts[-1] = replace(parts[-1], end=kept)
    return Rollout(path, opening, ids, logprobs, (1,) * kept + (0,) * (len(ids) - kept), tuple(parts))


def _parts(path: Trajectory, offset: int) -> list[Span]:
    """Return the policy's own spans of a path, in positions of its completion."""
    own = [span for span in path.spans if span.role is not Role.EXTERNAL]
    return [replace(span, start=span.start - offset, end=span.end - offset) for span in own]


def _long_cot(engine: Any, talks: Sequence[_Talk], sampling: Sampling) -> list[Rollout]:
    samples = engine.sample_many([talk.request(talk.seed, sampling) for talk in talks])
    return [
        long_cot_rollout(talk.problem, talk.codec, talk.ids, sample, sampling.horizon)
        for talk, sample in zip(talks, samples, strict=True)
    ]


def _two_turn(engine: Any, talks: Sequence[_Talk], sampling: Sampling) -> list[Rollout]:
    for turn in range(sampling.horizon):
        going = [talk for talk in talks if not talk.stop]
        for talk in going if turn else ():
            talk.say(prompts.two_turn_reply(Verdict.WRONG))
        samples = engine.sample_many([talk.request(sample_seed(talk.seed, turn), sampling) for talk in going])
        for talk, sample in zip(going, samples, strict=True):
            talk.take(sample, sampling.horizon)
    return [talk.rollout() for talk in talks]


class _Talk:
    """A path that begins with its opening and, in two turns, grows message by message."""

    def __init__(self, problem: Problem, codec: ChatCodec, opening: tuple[int, ...], seed: int) -> None:
        self.problem, self.codec, self.seed = problem, codec, seed
        self.ids = opening
        self.logprobs = (0.0,) * len(opening)
        self.spans = [Span(Role.EXTERNAL, 0, len(opening), sampled=False)]
        self.attempts: list[Attempt] = []
        self.evaluations: list[SelfEvaluation] = []
        self.stop = ""

    def request(self, seed: int, sampling: Sampling) -> SampleRequest:
        """Ask for the next message."""
        return SampleRequest(
            prompt_ids=self.ids,
            max_tokens=sampling.max_tokens,
            seed=seed,
            temperature=sampling.temperature,
            stop_ids=self.codec.stop_ids,
            watch_ids=self.codec.verdict_ids,
        )

    def take(self, sample: Sample, horizon: int) -> None:
        """Add the assistant's message, and decide as `correction.solve` does whether another follows."""
        text = self.codec.decode(sample.token_ids)
        asks = text.rfind(prompts.SELF_QUESTION)
        start, (ids, logprobs) = len(self.ids), with_stop(sample)
        self.ids, self.logprobs = self.ids + ids, self.logprobs + logprobs
        middle = end = len(self.ids)
        if asks >= 0 and sample.finish != "length":
            middle = start + token_position(self.codec, sample.token_ids, len(text[:asks].rstrip()))
        self.spans.append(Span(Role.REVISION if self.attempts else Role.ATTEMPT, start, middle))
        self.attempts.append(Attempt(text, extract_answer(text, source=self.problem.source)))
        if sample.finish == "length":
            self.stop = "length"
            return
        verdict = parse_two_turn(text)
        self.spans.append(Span(Role.EVALUATION, middle, end))
        self.evaluations.append(SelfEvaluation(text[asks:] if asks >= 0 else "", verdict))
        if len(self.attempts) == horizon:
            self.stop = "horizon"
        elif verdict is None:
            self.stop = "no-verdict"
        elif verdict is Verdict.CORRECT:
            self.stop = "verdict"

    def say(self, user: str) -> None:
        """Add a message of the user. The end of the turn before is the model's own if it wrote the template's id."""
        reply = self.codec.reply(user)
        if self.ids[-1] == self.codec.turn_end:
            reply = reply[1:]
        else:  # it ended its message with another stop id, which the template would not have written
            self.ids, self.logprobs = self.ids[:-1], self.logprobs[:-1]
            self.spans[-1] = replace(self.spans[-1], end=len(self.ids))
        self.spans.append(Span(Role.EXTERNAL, len(self.ids), len(self.ids) + len(reply), sampled=False))
        self.ids += reply
        self.logprobs += (0.0,) * len(reply)

    def rollout(self) -> Rollout:
        """Return the path; all of the policy's own tokens are learned."""
        offset = self.spans[0].end
        path = Trajectory(
            problem=self.problem,
            attempts=tuple(self.attempts),
            evaluations=tuple(self.evaluations),
            stop=self.stop,
            token_ids=self.ids,
            logprobs=self.logprobs,
            spans=tuple(self.spans),
            seed=self.seed,
        )
        learned = tuple(int(span.sampled) for span in self.spans[1:] for _ in range(span.start, span.end))
        return Rollout(
            path, self.ids[:offset], self.ids[offset:], self.logprobs[offset:], learned, tuple(_parts(path, offset))
        )
