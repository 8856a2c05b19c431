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
    sample = _two_turn if sampling.format == "two-turn" else _long_cot
    return sample(engine, codec, problems, [openings[problem.id] for problem in problems], seeds, sampling)


def graded(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Return the rollouts with every attempt graded."""
    paths = grade_trajectories(rollout.path for rollout in rollouts)
    return [replace(rollout, path=path) for rollout, path in zip(rollouts, paths, strict=True)]


def _request(codec: ChatCodec, prompt_ids: tuple[int, ...], seed: int, sampling: Sampling) -> SampleRequest:
    return SampleRequest(
        prompt_ids=prompt_ids,
        max_tokens=sampling.max_tokens,
        seed=seed,
        temperature=sampling.temperature,
        stop_ids=codec.stop_ids,
        watch_ids=codec.verdict_ids,
    )


def with_stop(sample: Sample) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return a sample's ids and log-probs, the id that ended it among them: stopping is learned too."""
    if sample.finish != "stop" or sample.stop_id is None:
        return sample.token_ids, sample.logprobs
    return (*sample.token_ids, sample.stop_id), (*sample.logprobs, sample.stop_logprob)


# --- long-CoT -------------------------------------------------------------------------------------------------------


def _long_cot(
    engine: Any,
    codec: ChatCodec,
    problems: Sequence[Problem],
    openings: Sequence[tuple[int, ...]],
    seeds: Sequence[int],
    sampling: Sampling,
) -> list[Rollout]:
    requests = [_request(codec, ids, seed, sampling) for ids, seed in zip(openings, seeds, strict=True)]
    samples = engine.sample_many(requests)
    return [
        long_cot_rollout(problem, codec, opening, sample, sampling.horizon)
        for problem, opening, sample in zip(problems, openings, samples, strict=True)
    ]


def long_cot_rollout(
    problem: Problem, codec: ChatCodec, opening: tuple[int, ...], sample: Sample, horizon: int
) -> Rollout:
    """Return one completion as an ungraded rollout; it is learned up to the loop's stop decision."""
    path = parse_path(problem, codec, opening, sample, horizon)
    ids, logprobs = with_stop(sample)
    kept = len(path.token_ids) - len(opening)
    parts = [
        replace(span, start=span.start - len(opening), end=span.end - len(opening))
        for span in path.spans
        if span.role is not Role.EXTERNAL
    ]
    if kept == len(sample.token_ids):  # nothing follows the stop decision but the end of the message
        kept = len(ids)
        parts[-1] = replace(parts[-1], end=kept)
    learned = (1,) * kept + (0,) * (len(ids) - kept)
    return Rollout(path, opening, ids, logprobs, learned, tuple(parts))


# --- two-turn chat --------------------------------------------------------------------------------------------------


class _Talk:
    """A two-turn path that grows message by message."""

    def __init__(self, problem: Problem, codec: ChatCodec, opening: tuple[int, ...], seed: int) -> None:
        self.problem, self.codec, self.opening, self.seed = problem, codec, opening, seed
        self.ids: tuple[int, ...] = ()
        self.logprobs: tuple[float, ...] = ()
        self.learned: tuple[int, ...] = ()
        self.parts: list[Span] = []
        self.attempts: list[Attempt] = []
        self.evaluations: list[SelfEvaluation] = []
        self.stop = ""

    def take(self, sample: Sample, horizon: int) -> None:
        """Add the assistant's message, and decide as `correction.solve` does whether another follows."""
        text = self.codec.decode(sample.token_ids)
        asks = text.rfind(prompts.SELF_QUESTION)
        cut = token_position(self.codec, sample.token_ids, len(text[:asks].rstrip())) if asks >= 0 else None
        start, (ids, logprobs) = len(self.ids), with_stop(sample)
        self.ids, self.logprobs = self.ids + ids, self.logprobs + logprobs
        self.learned += (1,) * len(ids)
        role = Role.REVISION if self.attempts else Role.ATTEMPT
        middle = len(self.ids) if cut is None else start + cut
        self.parts.append(Span(role, start, middle))
        self.attempts.append(Attempt(text, extract_answer(text, source=self.problem.source)))
        if sample.finish == "length":
            self.stop = "length"
            return
        verdict = parse_two_turn(text)
        self.parts.append(Span(Role.EVALUATION, middle, len(self.ids)))
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
            self.ids, self.logprobs, self.learned = self.ids[:-1], self.logprobs[:-1], self.learned[:-1]
            self.parts[-1] = replace(self.parts[-1], end=len(self.ids))
        self.ids += reply
        self.logprobs += (0.0,) * len(reply)
        self.learned += (0,) * len(reply)

    def rollout(self) -> Rollout:
        offset = len(self.opening)
        spans = [Span(Role.EXTERNAL, 0, offset, sampled=False)]
        for part in self.parts:
            start = part.start + offset
            if start > spans[-1].end:
                spans.append(Span(Role.EXTERNAL, spans[-1].end, start, sampled=False))
            spans.append(replace(part, start=start, end=part.end + offset))
        path = Trajectory(
            problem=self.problem,
            attempts=tuple(self.attempts),
            evaluations=tuple(self.evaluations),
            stop=self.stop,
            token_ids=self.opening + self.ids,
            logprobs=(0.0,) * offset + self.logprobs,
            spans=tuple(spans),
            seed=self.seed,
        )
        return Rollout(path, self.opening, self.ids, self.logprobs, self.learned, tuple(self.parts))


def _two_turn(
    engine: Any,
    codec: ChatCodec,
    problems: Sequence[Problem],
    openings: Sequence[tuple[int, ...]],
    seeds: Sequence[int],
    sampling: Sampling,
) -> list[Rollout]:
    talks = [
        _Talk(problem, codec, opening, seed) for problem, opening, seed in zip(problems, openings, seeds, strict=True)
    ]
    for turn in range(sampling.horizon):
        going = [talk for talk in talks if not talk.stop]
        for talk in going if turn else ():
            talk.say(prompts.two_turn_reply(Verdict.WRONG))
        requests = [_request(codec, talk.opening + talk.ids, sample_seed(talk.seed, turn), sampling) for talk in going]
        for talk, sample in zip(going, engine.sample_many(requests), strict=True):
            talk.take(sample, sampling.horizon)
    return [talk.rollout() for talk in talks]
