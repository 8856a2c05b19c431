"""Training rows and preference pairs: the kept parts joined into ONE trajectory, with a span for every part.

`selfcorrect.training_row` owns the file formats. Here stands what is learned of each kind (method.md, eq. 1): D1 learns
the self-evaluation and the revision, D2 the revision (never the false verdict), D3 the attempt and the self-evaluation;
STaR/RAFT rows learn the revision, those of single-turn STaR/RAFT the attempt. In a pair every token of the assistant
after what both sides share is learned (eq. 5), whether sampled or stated; in ``shared`` nothing is: there the two
log-ratios cancel, and an NLL term must not learn a wrong attempt.

Sampled ids are joined as they are, never encoded again. A separator belongs to the part that it introduces, the end of
a message to the part that it ends. The opening is zero-shot even where worked examples were shown while sampling.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from selfcorrect import prompts
from selfcorrect.chat import ChatCodec
from selfcorrect.data_gen.classes import Candidate, Continuation, Kind, PartOutcome, SampledPart
from selfcorrect.data_gen.sampling.requests import RequestBuilder
from selfcorrect.runs.jsonl import write_json, write_jsonl
from selfcorrect.training_row import SCHEMA, LearnedSpan, LearnedTokens, PreferencePair, TrainingRow
from selfcorrect.trajectory import TrajectoryBuilder
from selfcorrect.types import Message, Problem, Role

LEARNED: dict[Kind, frozenset[Role]] = {
    Kind.D1: frozenset({Role.EVALUATION, Role.REVISION}),
    Kind.D2: frozenset({Role.REVISION}),
    Kind.D3: frozenset({Role.ATTEMPT, Role.EVALUATION}),
    Kind.RAFT: frozenset({Role.REVISION}),
    Kind.RAFT_PLUS: frozenset({Role.REVISION}),
    Kind.SINGLE_TURN: frozenset({Role.ATTEMPT}),
    Kind.P1: frozenset({Role.REVISION}),
    Kind.P2: frozenset({Role.REVISION}),
    Kind.P3: frozenset({Role.EVALUATION, Role.REVISION}),
}


def training_row(candidate: Candidate, builder: RequestBuilder) -> TrainingRow:
    """Return the row of a kept candidate, in long-CoT or in the two-turn chat format."""
    unjudged = candidate.kind in (Kind.RAFT, Kind.RAFT_PLUS)  # a chat of two turns, whatever the format
    revision = candidate.continuation.revision
    suffix = f"+{revision.key.rsplit('/', 1)[1]}" if unjudged and revision else ""
    return TrainingRow(
        id=f"{candidate.base.id}{suffix}",
        tokens=joined(candidate, candidate.continuation, builder),
        **_about(candidate, "raft" if unjudged else candidate.kind, builder.two_turn or unjudged),
    )


def preference_pair(pair: Candidate, builder: RequestBuilder) -> PreferencePair:
    """Return a preference pair as a row."""
    assert pair.rejected
    chosen, rejected = (joined(pair, continuation, builder) for continuation in (pair.continuation, pair.rejected))
    return PreferencePair(
        id=f"{pair.base.id}/{pair.kind}",
        shared=next(span.start for span in chosen.spans if span.learn),
        chosen=chosen,
        rejected=rejected,
        **_about(pair, pair.kind, builder.two_turn),
    )


def _about(candidate: Candidate, kind: str, two_turn: bool) -> dict[str, str]:
    return {
        "problem_id": candidate.base.problem.id,
        "kind": str(kind),
        "first": str(candidate.attempt.outcome),
        "format": "two-turn" if two_turn else "long-cot",
        **_reference(candidate.base.problem),
    }


def _reference(problem: Problem) -> dict[str, str]:
    return {"question": problem.question, "gold": problem.gold, "source": problem.source}


def joined(candidate: Candidate, continuation: Continuation, builder: RequestBuilder) -> LearnedTokens:
    """Return an attempt and what followed it as one trajectory."""
    opening = prompts.solve_messages(candidate.base.problem.question)
    trajectory = TrajectoryBuilder(candidate.base.problem, builder.codec.opening(opening))
    _take(trajectory, Role.ATTEMPT, candidate.attempt)
    if continuation.verdict is None:
        messages = _join_unjudged(trajectory, candidate.attempt, continuation, builder.codec)
    elif builder.two_turn:
        messages = _join_two_turn(trajectory, candidate.attempt, continuation, builder)
    else:
        messages = _join_long_cot(trajectory, candidate.attempt, continuation, builder)
    trajectory.end_message(builder.codec.turn_end)
    ids, _, spans = trajectory.whole()
    learned = LEARNED[candidate.kind]
    return LearnedTokens(
        token_ids=ids,
        spans=tuple(LearnedSpan(s.role, s.start, s.end, s.sampled, s.role in learned) for s in spans),
        messages=(*opening, *messages),
        text=builder.codec.decode(ids),
    )


def _join_long_cot(
    trajectory: TrajectoryBuilder, attempt: SampledPart, continuation: Continuation, builder: RequestBuilder
) -> list[Message]:
    assert continuation.verdict
    start = len(trajectory.token_ids) - len(attempt.token_ids)
    if continuation.evaluation:
        _take(trajectory, Role.EVALUATION, continuation.evaluation, builder.joint)
    else:
        trajectory.take(Role.EVALUATION, builder.joint + builder.stated(continuation.verdict), sampled=False)
    if continuation.revision:
        _take(trajectory, Role.REVISION, continuation.revision, builder.joint)
    return [{"role": "assistant", "content": builder.codec.decode(trajectory.token_ids[start:])}]


def _join_two_turn(
    trajectory: TrajectoryBuilder, attempt: SampledPart, continuation: Continuation, builder: RequestBuilder
) -> list[Message]:
    assert continuation.verdict
    stated = builder.stated(continuation.verdict, attempt.after)
    trajectory.take(Role.EVALUATION, stated, sampled=False)
    messages: list[Message] = [{"role": "assistant", "content": attempt.text + builder.codec.decode(stated)}]
    if continuation.revision:
        reply = prompts.two_turn_reply(continuation.verdict)
        messages += _next_turn(trajectory, continuation.revision, reply, builder.codec)
    return messages


def _join_unjudged(
    trajectory: TrajectoryBuilder, attempt: SampledPart, continuation: Continuation, codec: ChatCodec
) -> list[Message]:
    first: Message = {"role": "assistant", "content": attempt.text}
    if continuation.revision is None:
        return [first]
    return [first, *_next_turn(trajectory, continuation.revision, prompts.INTRINSIC, codec)]


def _next_turn(trajectory: TrajectoryBuilder, revision: SampledPart, user: str, codec: ChatCodec) -> list[Message]:
    trajectory.end_message(codec.turn_end)
    trajectory.say(codec.reply(user))
    _take(trajectory, Role.REVISION, revision)
    return [{"role": "user", "content": user}, {"role": "assistant", "content": revision.text}]


def _take(trajectory: TrajectoryBuilder, role: Role, part: SampledPart, separator: tuple[int, ...] = ()) -> None:
    trajectory.take(role, separator + part.token_ids, sampled=part.own)


def baseline_rows(found: Sequence[Candidate], count: int) -> dict[str, list[Candidate]]:
    """Return the STaR/RAFT sets of at most ``count`` rows each (method.md, section 4).

    ``raft`` holds wrong → correct revisions only; in ``raft-plus`` up to half of the rows are correct → correct;
    ``single-turn`` holds correct attempts.
    Candidates come, and are taken, in sampling order; the sets are returned in order of identity.
    """
    corrections = [candidate for candidate in found if candidate.kind is Kind.RAFT]
    repeats = [candidate for candidate in found if candidate.kind is Kind.RAFT_PLUS][: count // 2]
    attempts = [candidate for candidate in found if candidate.kind is Kind.SINGLE_TURN]
    return {
        "single-turn": sorted(attempts[:count], key=lambda candidate: candidate.order),
        "raft": sorted(corrections[:count], key=lambda candidate: candidate.order),
        "raft-plus": sorted([*repeats, *corrections[: count - len(repeats)]], key=lambda candidate: candidate.order),
    }


def write_sft(
    folder: Path, name: str, candidates: Sequence[Candidate], builder: RequestBuilder, card: dict[str, Any]
) -> int:
    """Write ``<name>.jsonl`` and ``<name>.card.json`` into a folder, whole or not at all; return the rows."""
    stated = sum(candidate.continuation.is_stated for candidate in candidates)
    rows = (training_row(candidate, builder).to_json() for candidate in candidates)
    return _write_set(folder, name, rows, {**counts(candidates), "verdict stated, not sampled": stated}, card)


def write_preferences(folder: Path, pairs: Sequence[Candidate], builder: RequestBuilder, card: dict[str, Any]) -> int:
    """Write ``pairs.jsonl`` and its card into a folder, whole or not at all; return the rows."""
    rows = (preference_pair(pair, builder).to_json() for pair in pairs)
    return _write_set(folder, "pairs", rows, counts(pairs), card)


def write_prompts(path: Path, problems: Sequence[Problem]) -> int:
    """Write the problems set aside for RL, one per line; return how many."""
    allowed = lambda problem: {"meta": {"tolerance": t}} if (t := problem.meta.get("tolerance")) else {}
    return write_jsonl(path, ({"id": problem.id, **_reference(problem), **allowed(problem)} for problem in problems))


def write_pass_rates(path: Path, problems: Sequence[Problem], passed: Mapping[int, Mapping[str, int]]) -> int:
    """Write how often attempts at each problem were correct; a problem file too (``problems.where.pass_rate`` filters).

    A rate of few attempts is rough, and slightly biased where attempts stopped because something was found.
    """

    def row(problem: Problem, found: Mapping[str, int]) -> dict[str, Any]:
        attempts, correct = sum(found.values()), found.get(PartOutcome.CORRECT, 0)
        rate = round(correct / attempts, 4)
        return {"id": problem.id, **_reference(problem), "attempts": attempts, "right": correct, "pass_rate": rate}

    return write_jsonl(path, (row(problem, passed[i]) for i, problem in enumerate(problems) if i in passed))


def counts(candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Return how many rows a set has, by class and by first attempt, and from how many problems."""
    correct = sum(candidate.attempt.outcome is PartOutcome.CORRECT for candidate in candidates)
    kinds = Counter(candidate.kind for candidate in candidates)
    return {
        "rows": len(candidates),
        "classes": {str(kind): kinds[kind] for kind in Kind if kinds[kind]},
        "first attempt right": correct,
        "first attempt wrong": len(candidates) - correct,
        "problems": len({candidate.base.problem.id for candidate in candidates}),
    }


def _write_set(
    folder: Path, name: str, rows: Iterable[Mapping[str, Any]], counted: Mapping[str, Any], card: Mapping[str, Any]
) -> int:
    written = write_jsonl(folder / f"{name}.jsonl", rows)
    write_json(folder / f"{name}.card.json", {"name": name, "schema": SCHEMA, "counts": counted, **card})
    return written
