"""Training rows: the kept parts joined into ONE path of token ids, with a span for every part.

A row is ``{id, problem_id, kind, first, format, token_ids, spans, messages, text, question, gold, source}``.
``spans`` cover every token: ``{role, start, end, sampled, learn}``. ``learn`` is METHOD eq. 1: D1 learns the
self-evaluation and the revision, D2 the revision (never the false verdict), D3 the attempt and the
self-evaluation; STaR/RAFT rows learn the revision. Sampled ids are joined as they are, never encoded again.

A separator belongs to the part that it introduces, the end of a turn to the part that it ends. The opening
is zero-shot even where worked examples were shown while sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_gen.asking import stated_text
from data_gen.selection import VERDICTS, Candidate, Fate, Kind
from selfcorrect import prompts
from selfcorrect.jsonl import write_json, write_jsonl
from selfcorrect.tokens import ChatCodec
from selfcorrect.types import Message, Problem, Role

LEARNED: dict[Kind, frozenset[Role]] = {
    Kind.D1: frozenset({Role.EVALUATION, Role.REVISION}),
    Kind.D2: frozenset({Role.REVISION}),
    Kind.D3: frozenset({Role.ATTEMPT, Role.EVALUATION}),
    Kind.RAFT: frozenset({Role.REVISION}),
    Kind.RAFT_PLUS: frozenset({Role.REVISION}),
}


def training_row(candidate: Candidate, codec: ChatCodec, two_turn: bool) -> dict[str, Any]:
    """Return the row of a kept candidate, in long-CoT or in the two-turn chat format."""
    problem = candidate.base.problem
    opening = prompts.solve_messages(problem.question)
    path = _Path(codec, LEARNED[candidate.kind])
    path.add(Role.EXTERNAL, codec.opening(opening), sampled=False)
    path.add(Role.ATTEMPT, candidate.attempt.token_ids)
    blind = candidate.kind in (Kind.RAFT, Kind.RAFT_PLUS)
    if blind:
        messages = _join_blind(path, candidate)
    elif two_turn:
        messages = _join_two_turn(path, candidate)
    else:
        messages = _join_long_cot(path, candidate)
    path.end_turn()
    revision = f"+{candidate.revision.key.rsplit('/', 1)[1]}" if blind and candidate.revision else ""
    return {
        "id": f"{candidate.base.id}{revision}",
        "problem_id": problem.id,
        "kind": "raft" if blind else str(candidate.kind),
        "first": str(candidate.attempt.fate),
        "format": "two-turn" if two_turn or blind else "long-cot",
        "token_ids": path.token_ids,
        "spans": path.spans,
        "messages": [*opening, *messages],
        "text": codec.decode(path.token_ids),
        "question": problem.question,
        "gold": problem.gold,
        "source": problem.source,
    }


def _join_long_cot(path: _Path, candidate: Candidate) -> list[Message]:
    separator = path.codec.encode(prompts.SEPARATOR)
    verdict = VERDICTS[candidate.kind]
    if candidate.evaluation:
        path.add(Role.EVALUATION, separator + candidate.evaluation.token_ids)
        text = candidate.attempt.text + prompts.SEPARATOR + candidate.evaluation.text
    else:
        path.add(Role.EVALUATION, separator + path.codec.encode(stated_text(verdict, two_turn=False)), sampled=False)
        text = candidate.attempt.text + prompts.SEPARATOR + stated_text(verdict, two_turn=False)
    if candidate.revision:
        path.add(Role.REVISION, separator + candidate.revision.token_ids)
        text += prompts.SEPARATOR + candidate.revision.text
    return [{"role": "assistant", "content": text}]


def _join_two_turn(path: _Path, candidate: Candidate) -> list[Message]:
    verdict = VERDICTS[candidate.kind]
    stated = stated_text(verdict, two_turn=True)
    path.add(Role.EVALUATION, path.codec.encode(stated), sampled=False)
    messages: list[Message] = [{"role": "assistant", "content": candidate.attempt.text + stated}]
    return messages + (_next_turn(path, candidate, prompts.two_turn_reply(verdict)) if candidate.revision else [])


def _join_blind(path: _Path, candidate: Candidate) -> list[Message]:
    first: Message = {"role": "assistant", "content": candidate.attempt.text}
    return [first, *_next_turn(path, candidate, prompts.INTRINSIC)]


def _next_turn(path: _Path, candidate: Candidate, user: str) -> list[Message]:
    assert candidate.revision is not None
    reply = path.codec.reply(user)
    path.end_turn()
    path.add(Role.EXTERNAL, reply[1:], sampled=False)
    path.add(Role.REVISION, candidate.revision.token_ids)
    return [{"role": "user", "content": user}, {"role": "assistant", "content": candidate.revision.text}]


class _Path:
    """Grows a row's ids and spans part by part."""

    def __init__(self, codec: ChatCodec, learned: frozenset[Role]) -> None:
        self.codec, self.learned = codec, learned
        self.token_ids: list[int] = []
        self.spans: list[dict[str, Any]] = []

    def add(self, role: Role, ids: Sequence[int], sampled: bool = True) -> None:
        start = len(self.token_ids)
        self.token_ids += ids
        learn = role in self.learned
        self.spans.append(
            {"role": str(role), "start": start, "end": len(self.token_ids), "sampled": sampled, "learn": learn}
        )

    def end_turn(self) -> None:
        self.token_ids.append(self.codec.turn_end)
        self.spans[-1]["end"] += 1


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


def write_sft(
    folder: Path, name: str, candidates: Sequence[Candidate], codec: ChatCodec, two_turn: bool, card: dict[str, Any]
) -> int:
    """Write ``<name>.jsonl`` and ``<name>.card.json`` into a folder, whole or not at all; return the rows."""
    rows = write_jsonl(folder / f"{name}.jsonl", (training_row(candidate, codec, two_turn) for candidate in candidates))
    kinds = {str(kind): sum(candidate.kind is kind for candidate in candidates) for kind in Kind}
    right = sum(candidate.attempt.fate is Fate.RIGHT for candidate in candidates)
    stated = sum(candidate.evaluation is None for candidate in candidates if candidate.kind in VERDICTS)
    counts = {
        "rows": rows,
        "classes": {kind: count for kind, count in kinds.items() if count},
        "first attempt right": right,
        "first attempt wrong": rows - right,
        "verdict stated, not sampled": stated,
        "problems": len({candidate.base.problem.id for candidate in candidates}),
    }
    write_json(folder / f"{name}.card.json", {"name": name, "counts": counts, **card})
    return rows


def write_prompts(path: Path, problems: Sequence[Problem]) -> int:
    """Write the problems set aside for RL, one per line; return how many."""
    keys = ("id", "question", "gold", "source")
    return write_jsonl(path, ({key: getattr(problem, key) for key in keys} for problem in problems))
