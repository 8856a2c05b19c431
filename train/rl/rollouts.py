"""Rollouts: trajectories sampled from a live model, token for token, with what of them may be learned.

Both formats of method.md, section 1, by the loop that evaluates (`correction.steps`). **long-cot**: a trajectory is one
completion; tokens after the loop's stop decision can change nothing and are not learned. **two-turn**: the policy ends
its message with a verdict on itself and, where that is "No", a user message that it did not write follows and is never
learned.

Sampling is untruncated: what is optimised is what is sampled. Nothing is tokenised again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from selfcorrect import prompts
from selfcorrect.chat import ChatCodec
from selfcorrect.correction.loop import LoopSettings, Method, advance, grade_trajectories, steps
from selfcorrect.engines import Sample, SampleRequest, length_note, sample_seed, too_long
from selfcorrect.errors import DataError, RequestRefused
from selfcorrect.types import Problem, Role, Span, Trajectory, Verdict

Format = Literal["long-cot", "two-turn"]


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled trajectory. ``completion_ids`` are all tokens after the opening, the user's among them.

    ``learned`` is 1 for a token that the policy sampled and that had a consequence. ``parts`` are the attempts,
    self-evaluations and revisions of ``trajectory``, in order, as spans of the completion; the token that ended a
    message belongs to its last part. ``logprobs`` are the sampler's, 0.0 for tokens of the user.
    """

    trajectory: Trajectory
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    learned: tuple[int, ...]
    parts: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How trajectories are sampled. ``max_tokens`` bounds a completion: all in long-CoT, a message in two turns."""

    format: Format = "long-cot"
    max_tokens: int = 1024
    horizon: int = 2
    temperature: float = 1.0

    @property
    def budget(self) -> int:
        """The most tokens that the policy can write in one trajectory."""
        return self.max_tokens * (self.horizon if self.format == "two-turn" else 1)

    @property
    def settings(self) -> LoopSettings:
        """The settings of the correction loop."""
        method: Method = "two-turn" if self.format == "two-turn" else "self-rewarding"
        return LoopSettings(method, self.horizon, self.temperature, max_tokens=self.max_tokens)


class BatchSampler(Protocol):
    """What rolls out: a `Sampler` of RL, which follows the trained weights, or an engine of our own."""

    @property
    def context(self) -> int | None:
        """The most tokens of a prompt and its completion together; None: no known limit."""

    def sample_many(self, requests: Sequence[SampleRequest]) -> list[Sample]:
        """Return the samples of all requests, in their order."""


def roll_out(
    sampler: BatchSampler,
    codec: ChatCodec,
    problems: Sequence[Problem],
    seeds: Sequence[int],
    sampling: SamplingSettings,
    openings: Mapping[str, tuple[int, ...]] | None = None,
) -> list[Rollout]:
    """Return one ungraded trajectory for each problem and seed, in order, by THE loop (`correction.steps`).

    All trajectories under way are sampled together, message by message. ``openings`` are the prompts by problem id,
    where they are not ours.
    """
    if openings is None:
        openings = {problem.id: codec.opening(prompts.solve_messages(problem.question)) for problem in problems}
    loops = [
        steps(problem, codec, sampling.settings, seed, openings[problem.id])
        for problem, seed in zip(problems, seeds, strict=True)
    ]
    states = [advance(loop) for loop in loops]
    last: dict[int, Sample] = {}
    turn, context = 0, sampler.context
    while asked := {n: state for n, state in enumerate(states) if isinstance(state, SampleRequest)}:
        for n, request in list(asked.items()):
            if context is not None and len(request.prompt_ids) + request.max_tokens > context:
                states[n] = advance(loops[n], RequestRefused("the context is full", "prompt-too-long"))
                del asked[n]
        seeded = [
            replace(request, seed=sample_seed(seeds[n], turn) if sampling.format == "two-turn" else seeds[n])
            for n, request in asked.items()
        ]
        for n, sample in zip(asked, sampler.sample_many(seeded), strict=True):
            states[n], last[n] = advance(loops[n], sample), sample
        turn += 1
    rollout = _two_turn_rollout if sampling.format == "two-turn" else long_cot_rollout
    return [rollout(state, last[n]) for n, state in enumerate(states) if isinstance(state, Trajectory)]


def within_context(
    problems: Sequence[Problem], codec: ChatCodec, sampling: SamplingSettings, context: int | None
) -> tuple[list[Problem], list[str]]:
    """Return the problems to which a message can be sampled in a context, and the ids of those that are too long.

    Raises ModelError where two turns are wanted and the chat template keeps none as it was written.
    """
    if sampling.format == "two-turn":
        codec.reply(prompts.two_turn_reply(Verdict.WRONG))
    lengths = prompt_lengths(problems, codec)
    beyond = set(too_long(lengths, sampling.max_tokens, context))
    if len(beyond) == len(lengths):
        raise DataError(f"no prompt can be sampled from: {length_note(lengths, sampling.max_tokens, context)}")
    return [problem for problem in problems if problem.id not in beyond], sorted(beyond)


def prompt_lengths(problems: Sequence[Problem], codec: ChatCodec) -> dict[str, int]:
    """Return how many tokens each problem's prompt has, by its id."""
    return {problem.id: len(codec.opening(prompts.solve_messages(problem.question))) for problem in problems}


def graded(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Return the rollouts with every attempt graded."""
    trajectories = grade_trajectories(rollout.trajectory for rollout in rollouts)
    return [replace(rollout, trajectory=found) for rollout, found in zip(rollouts, trajectories, strict=True)]


def with_stop(sample: Sample) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return a sample's ids and log-probs, the id that ended it among them: stopping is learned too."""
    if sample.finish != "stop" or sample.stop_id is None:
        return sample.token_ids, sample.logprobs
    return (*sample.token_ids, sample.stop_id), (*sample.logprobs, sample.stop_logprob)


def places_of(ids: Sequence[str], before: Mapping[str, int] | None = None) -> list[int]:
    """Return for each problem id how many of it come before it; ``before`` counts those of other processes."""
    seen = Counter(before or {})
    places = []
    for problem in ids:
        places.append(seen[problem])
        seen[problem] += 1
    return places


def long_cot_rollout(trajectory: Trajectory, sample: Sample) -> Rollout:
    """Return a trajectory that was read from one completion; it is learned up to the loop's stop decision."""
    whole, _, spans = trajectory.whole()
    ids, logprobs = with_stop(sample)
    offset = trajectory.spans[0].end
    kept = len(whole) - offset
    learned = (1,) * kept + (0,) * (len(ids) - kept)
    return Rollout(trajectory, trajectory.token_ids[:offset], ids, logprobs, learned, _parts(spans))


def _two_turn_rollout(trajectory: Trajectory, sample: Sample) -> Rollout:
    """Return a trajectory of several messages; all of the policy's own tokens are learned."""
    ids, logprobs, spans = trajectory.whole()
    offset = spans[0].end
    learned = tuple(int(span.sampled) for span in spans[1:] for _ in range(span.start, span.end))
    return Rollout(trajectory, ids[:offset], ids[offset:], logprobs[offset:], learned, _parts(spans))


def _parts(spans: Sequence[Span]) -> tuple[Span, ...]:
    """Return the policy's own spans, in positions of the completion."""
    offset = spans[0].end
    return tuple(
        replace(span, start=span.start - offset, end=span.end - offset)
        for span in spans
        if span.role is not Role.EXTERNAL
    )
