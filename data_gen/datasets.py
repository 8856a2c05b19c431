"""Training rows and preference pairs: the kept parts joined into ONE trajectory, with a span for every part.

`selfcorrect.training_row` owns the two file formats. Here stands what is learned of each kind (METHOD eq. 1): D1 learns
the self-evaluation and the revision, D2 the revision (never the false verdict), D3 the attempt and the self-evaluation;
STaR/RAFT rows learn the revision. In a pair every token of the assistant after what both sides share is learned
(eq. 5), whether sampled or stated; in ``shared`` nothing is: there the two log-ratios cancel, and an NLL term must not
learn a wrong attempt.

Sampled ids are joined as they are, never encoded again. A separator belongs to the part that it introduces, the end of
a message to the part that it ends. The opening is zero-shot even where worked examples were shown while sampling.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from selfcorrect import prompts
from selfcorrect.data_gen.asking import Asking
from selfcorrect.data_gen.selection import Candidate, Draw, Fate, Kind, Rest
from selfcorrect.jsonl import write_json, write_jsonl
from selfcorrect.tokens import ChatCodec
from selfcorrect.training_row import SCHEMA, LearnedSpan, LearnedTokens, PreferencePair, TrainingRow
from selfcorrect.trajectory import TrajectoryBuilder
from selfcorrect.types import Message, Problem, Role

LEARNED: dict[Kind, frozenset[Role]] = {
    Kind.D1: frozenset({Role.EVALUATION, Role.REVISION}),
    Kind.D2: frozenset({Role.REVISION}),
    Kind.D3: frozenset({Role.ATTEMPT, Role.EVALUATION}),
    Kind.RAFT: frozenset({Role.REVISION}),
    Kind.RAFT_PLUS: frozenset({Role.REVISION}),
    Kind.P1: frozenset({Role.REVISION}),
    Kind.P2: frozenset({Role.REVISION}),
    Kind.P3: frozenset({Role.EVALUATION, Role.REVISION}),
}


def training_row(candidate: Candidate, asking: Asking) -> TrainingRow:
    """Return the row of a kept candidate, in long-CoT or in the two-turn chat format."""
    blind = candidate.kind in (Kind.RAFT, Kind.RAFT_PLUS)
    revision = candidate.rest.revision
    suffix = f"+{revision.key.rsplit('/', 1)[1]}" if blind and revision else ""
    return TrainingRow(
        id=f"{candidate.base.id}{suffix}",
        tokens=joined(candidate, candidate.rest, asking),
        **_about(candidate, "raft" if blind else candidate.kind, asking.two_turn or blind),
    )


def preference_pair(pair: Candidate, asking: Asking) -> PreferencePair:
    """Return a preference pair as a row."""
    assert pair.rejected
    chosen, rejected = (joined(pair, rest, asking) for rest in (pair.rest, pair.rejected))
    return PreferencePair(
        id=f"{pair.base.id}/{pair.kind}",
        shared=next(span.start for span in chosen.spans if span.learn),
        chosen=chosen,
        rejected=rejected,
        **_about(pair, pair.kind, asking.two_turn),
    )


def _about(candidate: Candidate, kind: str, two_turn: bool) -> dict[str, str]:
    return {
        "problem_id": candidate.base.problem.id,
        "kind": str(kind),
        "first": str(candidate.attempt.fate),
        "format": "two-turn" if two_turn else "long-cot",
        **_reference(candidate.base.problem),
    }


def _reference(problem: Problem) -> dict[str, str]:
    return {"question": problem.question, "gold": problem.gold, "source": problem.source}


def joined(candidate: Candidate, rest: Rest, asking: Asking) -> LearnedTokens:
    """Return an attempt and what followed it as one trajectory."""
    opening = prompts.solve_messages(candidate.base.problem.question)
    path = TrajectoryBuilder(candidate.base.problem, asking.codec.opening(opening))
    _take(path, Role.ATTEMPT, candidate.attempt)
    if rest.verdict is None:
        messages = _join_blind(path, candidate.attempt, rest, asking.codec)
    elif asking.two_turn:
        messages = _join_two_turn(path, candidate.attempt, rest, asking)
    else:
        messages = _join_long_cot(path, candidate.attempt, rest, asking)
    path.end_message(asking.codec.turn_end)
    ids, _, spans = path.whole()
    learned = LEARNED[candidate.kind]
    return LearnedTokens(
        token_ids=ids,
        spans=tuple(LearnedSpan(s.role, s.start, s.end, s.sampled, s.role in learned) for s in spans),
        messages=(*opening, *messages),
        text=asking.codec.decode(ids),
    )


def _join_long_cot(path: TrajectoryBuilder, attempt: Draw, rest: Rest, asking: Asking) -> list[Message]:
    assert rest.verdict
    start = len(path.token_ids) - len(attempt.token_ids)
    if rest.evaluation:
        _take(path, Role.EVALUATION, rest.evaluation, asking.joint)
    else:
        path.take(Role.EVALUATION, asking.joint + asking.stated(rest.verdict), sampled=False)
    if rest.revision:
        _take(path, Role.REVISION, rest.revision, asking.joint)
    return [{"role": "assistant", "content": asking.codec.decode(path.token_ids[start:])}]


def _join_two_turn(path: TrajectoryBuilder, attempt: Draw, rest: Rest, asking: Asking) -> list[Message]:
    assert rest.verdict
    stated = asking.stated(rest.verdict, attempt.after)
    path.take(Role.EVALUATION, stated, sampled=False)
    messages: list[Message] = [{"role": "assistant", "content": attempt.text + asking.codec.decode(stated)}]
    if rest.revision:
        messages += _next_turn(path, rest.revision, prompts.two_turn_reply(rest.verdict), asking.codec)
    return messages


def _join_blind(path: TrajectoryBuilder, attempt: Draw, rest: Rest, codec: ChatCodec) -> list[Message]:
    assert rest.revision
    first: Message = {"role": "assistant", "content": attempt.text}
    return [first, *_next_turn(path, rest.revision, prompts.INTRINSIC, codec)]


def _next_turn(path: TrajectoryBuilder, revision: Draw, user: str, codec: ChatCodec) -> list[Message]:
    path.end_message(codec.turn_end)
    path.say(codec.reply(user))
    _take(path, Role.REVISION, revision)
    return [{"role": "user", "content": user}, {"role": "assistant", "content": revision.text}]


def _take(path: TrajectoryBuilder, role: Role, draw: Draw, separator: tuple[int, ...] = ()) -> None:
    path.take(role, separator + draw.token_ids, sampled=draw.own)


def baseline_rows(blind: Sequence[Candidate], count: int) -> dict[str, list[Candidate]]:
    """Return the STaR/RAFT sets of at most ``count`` rows each (METHOD section 4).

    ``raft`` holds wrong → correct revisions only; in ``raft-plus`` up to half of the rows are correct → correct.
    Candidates come, and are taken, in sampling order; the sets are returned in order of identity.
    """
    corrections = [candidate for candidate in blind if candidate.kind is Kind.RAFT]
    repeats = [candidate for candidate in blind if candidate.kind is Kind.RAFT_PLUS][: count // 2]
    return {
        "raft": sorted(corrections[:count], key=lambda candidate: candidate.order),
        "raft-plus": sorted([*repeats, *corrections[: count - len(repeats)]], key=lambda candidate: candidate.order),
    }


def write_sft(folder: Path, name: str, candidates: Sequence[Candidate], asking: Asking, card: dict[str, Any]) -> int:
    """Write ``<name>.jsonl`` and ``<name>.card.json`` into a folder, whole or not at all; return the rows."""
    stated = sum(candidate.rest.verdict is not None and not candidate.rest.evaluation for candidate in candidates)
    rows = (training_row(candidate, asking).to_json() for candidate in candidates)
    return _write_set(folder, name, rows, {**counts(candidates), "verdict stated, not sampled": stated}, card)


def write_preferences(folder: Path, pairs: Sequence[Candidate], asking: Asking, card: dict[str, Any]) -> int:
    """Write ``pairs.jsonl`` and its card into a folder, whole or not at all; return the rows."""
    rows = (preference_pair(pair, asking).to_json() for pair in pairs)
    return _write_set(folder, "pairs", rows, counts(pairs), card)


def write_prompts(path: Path, problems: Sequence[Problem]) -> int:
    """Write the problems set aside for RL, one per line; return how many."""
    allowed = lambda problem: {"meta": {"tolerance": t}} if (t := problem.meta.get("tolerance")) else {}
    return write_jsonl(path, ({"id": problem.id, **_reference(problem), **allowed(problem)} for problem in problems))


def write_pass_rates(path: Path, problems: Sequence[Problem], fates: Mapping[int, Mapping[str, int]]) -> int:
    """Write how often each problem's attempts were right: a problem file too (``problems.where.pass_rate`` filters it).

    A rate of few attempts is rough, and slightly biased where attempts stopped because something was found.
    """

    def row(problem: Problem, found: Mapping[str, int]) -> dict[str, Any]:
        attempts, right = sum(found.values()), found.get(Fate.RIGHT, 0)
        rate = round(right / attempts, 4)
        return {"id": problem.id, **_reference(problem), "attempts": attempts, "right": right, "pass_rate": rate}

    return write_jsonl(path, (row(problem, fates[i]) for i, problem in enumerate(problems) if i in fates))


def counts(candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Return how many rows a set has, by class and by first attempt, and from how many problems."""
    right = sum(candidate.attempt.fate is Fate.RIGHT for candidate in candidates)
    kinds = Counter(candidate.kind for candidate in candidates)
    return {
        "rows": len(candidates),
        "classes": {str(kind): kinds[kind] for kind in Kind if kinds[kind]},
        "first attempt right": right,
        "first attempt wrong": len(candidates) - right,
        "problems": len({candidate.base.problem.id for candidate in candidates}),
    }


def _write_set(
    folder: Path, name: str, rows: Iterable[Mapping[str, Any]], counted: Mapping[str, Any], card: Mapping[str, Any]
) -> int:
    written = write_jsonl(folder / f"{name}.jsonl", rows)
    write_json(folder / f"{name}.card.json", {"name": name, "schema": SCHEMA, "counts": counted, **card})
    return written
