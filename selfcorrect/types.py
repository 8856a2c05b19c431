"""The nouns: plain frozen records that every stage shares. Pure Python, no torch, no files.

Three judgements are three types and never one float (method.md, section 1):
a `Verdict` is what the MODEL says of itself, a `Grade` is what the CHECKER says against the
reference answer, a reward is the number handed to RL (computed in `selfcorrect.rewards` only).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, TypeAlias

from selfcorrect.errors import DataError

Message: TypeAlias = Mapping[str, str]
"""One chat message: ``{"role": "user" | "assistant" | "system", "content": text}``."""


class Verdict(StrEnum):
    """What the model says of its own last attempt. A missing or doubled mark is ``None``, not a member."""

    CORRECT = "correct"
    WRONG = "wrong"


class Outcome(StrEnum):
    """What the grader says. UNGRADABLE is neither right nor wrong: it is counted and shown."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNGRADABLE = "ungradable"


class Role(StrEnum):
    """Whose words a token span holds, and in which part of the path."""

    ATTEMPT = "attempt"
    EVALUATION = "self-evaluation"
    REVISION = "revision"
    EXTERNAL = "external"


NO_ANSWER = ("nothing-extracted", "response-unreadable", "limit")
"""Values of `Grade.method` that blame the response, not the reference answer or the grader.

``limit``: the response is longer, deeper or harder to evaluate than the grader's bounds. It is unanswered, so that no
answer gains by being too large to grade.
"""


@dataclass(frozen=True, slots=True)
class Grade:
    """The checker's judgement of one response against one reference answer.

    ``reason`` is one short sentence; ``extracted`` the answer text found in the response (None when
    none was); ``normalised`` the two normal forms ``(response, gold)`` that were compared;
    ``method`` the name of the rule that decided.
    """

    outcome: Outcome
    reason: str = ""
    extracted: str | None = None
    normalised: tuple[str, str] | None = None
    method: str = ""

    @property
    def correct(self) -> bool:
        """True only for CORRECT; ask ``outcome`` where UNGRADABLE must be told apart from WRONG."""
        return self.outcome is Outcome.CORRECT

    @property
    def unanswered(self) -> bool:
        """True where the response is to blame for an UNGRADABLE grade: no answer that can be read and evaluated."""
        return self.outcome is Outcome.UNGRADABLE and self.method in NO_ANSWER


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with its reference answer. ``source`` names the data set, and so the grader's rules."""

    id: str
    question: str
    gold: str
    source: str
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens ``[start, end)`` of a trajectory, in positions of its ``token_ids``, and whose they are.

    ``sampled`` is False for tokens the policy did not generate (prompt, user messages, separators).
    """

    role: Role
    start: int
    end: int
    sampled: bool = True


@dataclass(frozen=True, slots=True)
class MessageEnd:
    """The stop token with which the policy ended a message, and its log-probability.

    ``position`` is where it stands in the trajectory's ``token_ids``; after the last message it is their length, as the
    record ends before it. Spans leave it out; `Trajectory.whole` counts it to the part that it ends.
    """

    position: int
    token_id: int
    logprob: float


class StopReason(StrEnum):
    """How a trajectory ended."""

    VERDICT = "verdict"
    """The last attempt was judged correct."""
    HORIZON = "horizon"
    """The attempts that are allowed were made."""
    LENGTH = "length"
    """A token budget cut it."""
    NO_VERDICT = "no-verdict"
    """The mark was missing or malformed."""
    NO_REVISION = "no-revision"
    """The model ended its message where a revision was due."""
    END = "end"
    """A method that stops without a verdict of the model came to its end."""
    PROMPT_TOO_LONG = "prompt-too-long"
    """A request did not fit into the model's context."""
    REFUSED = "refused"
    """The server refused a request."""
    UNKNOWN = ""
    """Not recorded: a response out of another tool's log."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One solution. A revision is an Attempt after the first. ``answer`` is None when none was found.

    ``cut``: the token budget ended it in the middle, so that only an answer that it states counts.
    """

    text: str
    answer: str | None = None
    grade: Grade | None = None
    cut: bool = False


@dataclass(frozen=True, slots=True)
class SelfEvaluation:
    """The model's judgement of the attempt before it.

    ``p_correct`` is P(correct) / (P(correct) + P(wrong)) at the verdict token, None where the engine
    gives no log-probabilities or the mark is missing.
    """

    text: str
    verdict: Verdict | None
    p_correct: float | None = None


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A problem and its path: attempts[h] judged by evaluations[h]; the last attempt may be unjudged.

    Methods that never judge (single-turn, intrinsic, gold verdict) have no evaluations. ``stop`` says how it ended.
    ``token_ids`` are the prompt and everything after it, exactly as sampled; ``logprobs[i]`` is the
    sampling log-probability of ``token_ids[i]`` (0.0 for tokens that were not sampled). ``ends`` are the stop
    tokens that the policy sampled.
    """

    problem: Problem
    attempts: tuple[Attempt, ...]
    evaluations: tuple[SelfEvaluation, ...] = ()
    stop: StopReason = StopReason.UNKNOWN
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    spans: tuple[Span, ...] = ()
    ends: tuple[MessageEnd, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "stop", StopReason(self.stop))
        except ValueError as error:
            raise DataError(f"trajectory of problem {self.problem.id!r}: {error}; known: {[*StopReason]}") from error
        if not self.attempts:
            raise DataError(f"trajectory of problem {self.problem.id!r} has no attempt")
        if len(self.evaluations) not in (0, len(self.attempts), len(self.attempts) - 1):
            raise DataError(
                f"trajectory of problem {self.problem.id!r}: {len(self.attempts)} attempts need 0, "
                f"{len(self.attempts) - 1} or {len(self.attempts)} self-evaluations, got {len(self.evaluations)}"
            )

    @property
    def first(self) -> Attempt:
        """The first attempt: what turn-1 accuracy is measured on."""
        return self.attempts[0]

    @property
    def final(self) -> Attempt:
        """The last attempt: what the trajectory answers."""
        return self.attempts[-1]

    @property
    def sampled_tokens(self) -> int:
        """How many tokens the policy generated."""
        return sum(span.end - span.start for span in self.spans if span.sampled)

    def whole(self) -> tuple[tuple[int, ...], tuple[float, ...], tuple[Span, ...]]:
        """Return ids, log-probabilities and spans in which the token that ended a message belongs to its last part.

        This is what RL learns from: stopping is a decision of the policy, too. The end of the last message, which
        stands outside ``token_ids``, is appended.
        """
        return with_ends(self.token_ids, self.logprobs, self.spans, self.ends)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready mapping; `from_json` gives the same record back."""
        return to_json(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Trajectory:
        """Rebuild a trajectory from `to_json`'s mapping; raises DataError where a field is missing."""
        try:
            return cls(
                problem=Problem(**row["problem"]),
                attempts=tuple(
                    Attempt(a["text"], a["answer"], a["grade"] and grade_from_json(a["grade"]), a.get("cut", False))
                    for a in row["attempts"]
                ),
                evaluations=tuple(
                    SelfEvaluation(e["text"], Verdict(e["verdict"]) if e["verdict"] else None, e["p_correct"])
                    for e in row["evaluations"]
                ),
                stop=StopReason(row["stop"]),
                token_ids=tuple(row["token_ids"]),
                logprobs=tuple(row["logprobs"]),
                spans=tuple(Span(Role(s["role"]), s["start"], s["end"], s["sampled"]) for s in row["spans"]),
                ends=tuple(MessageEnd(e["position"], e["token_id"], e["logprob"]) for e in row.get("ends", ())),
                seed=row["seed"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not a trajectory record: {error!r} in {str(row)[:200]}") from error


def with_ends(
    token_ids: Sequence[int], logprobs: Sequence[float], spans: Sequence[Span], ends: Sequence[MessageEnd]
) -> tuple[tuple[int, ...], tuple[float, ...], tuple[Span, ...]]:
    """Return ids, log-probabilities and spans as `Trajectory.whole` does."""
    ids, values, parts = list(token_ids), list(logprobs), list(spans)
    for end in ends:
        if end.position == len(ids):
            ids.append(end.token_id)
            values.append(0.0)
        values[end.position] = end.logprob
        last = max(n for n, span in enumerate(parts) if span.end == end.position)
        parts[last] = replace(parts[last], end=end.position + 1)
        if last + 1 < len(parts):
            parts[last + 1] = replace(parts[last + 1], start=end.position + 1)
    return tuple(ids), tuple(values), tuple(parts)


def grade_from_json(row: Mapping[str, Any]) -> Grade:
    """Rebuild a Grade from its JSON mapping."""
    normalised = row.get("normalised")
    return Grade(
        Outcome(row["outcome"]),
        row.get("reason", ""),
        row.get("extracted"),
        (normalised[0], normalised[1]) if normalised else None,
        row.get("method", ""),
    )


_PLAIN = frozenset({int, float, str, bool, type(None)})


def to_json(record: Any) -> Any:
    """Turn records, mappings and sequences into plain JSON values (enums become their text)."""
    if type(record) in _PLAIN:
        return record
    if hasattr(record, "__dataclass_fields__"):
        return {name: to_json(getattr(record, name)) for name in record.__dataclass_fields__}
    if isinstance(record, StrEnum):
        return str(record)
    if isinstance(record, Mapping):
        return {key: to_json(value) for key, value in record.items()}
    if isinstance(record, Sequence) and not isinstance(record, str):
        return [value if type(value) in _PLAIN else to_json(value) for value in record]  # token ids are many
    return record
