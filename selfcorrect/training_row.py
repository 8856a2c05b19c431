"""The rows of ``data/``: what `gen` writes and training reads, typed, with one reader and one writer of each.

``data/sft/<name>.jsonl`` holds a `TrainingRow` a line, ``data/preferences/pairs.jsonl`` a `PreferencePair`. Beside each
file stands ``<name>.card.json`` with counts, recipe, the hash of the tokenizer that the ids belong to, and the
``schema`` of its rows. The ids are those that were sampled; they are never rendered and encoded again (TRL#5145).

Who learns what is decided where rows are made (method.md, eq. 1, eq. 5); here it is recorded, and checked: spans are in
order and do not overlap, no external token is learned, and something is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfcorrect.errors import DataError, ModelError
from selfcorrect.runs.jsonl import read_jsonl
from selfcorrect.types import Message, Role, to_json

SCHEMA = 1
"""The version of both kinds of row; a file whose card names another is refused."""
IGNORED = -100
"""The label of a token that is not learned (PyTorch's and TRL's convention)."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LearnedSpan:
    """Tokens ``[start, end)``, whose they are, and whether they are in the loss.

    ``sampled`` is False for what the policy did not generate: templates, stated verdicts, a teacher's revision.
    """

    role: Role
    start: int
    end: int
    sampled: bool
    learn: bool


@dataclass(frozen=True, slots=True)
class LearnedTokens:
    """The token ids of one trajectory; what no span covers is context. ``messages`` and ``text`` say the same."""

    token_ids: tuple[int, ...]
    spans: tuple[LearnedSpan, ...]
    messages: tuple[Message, ...] = ()
    text: str = ""

    @property
    def mask(self) -> tuple[int, ...]:
        """1 for each token in the loss."""
        mask = [0] * len(self.token_ids)
        for span in self.spans:
            if span.learn:
                mask[span.start : span.end] = [1] * (span.end - span.start)
        return tuple(mask)

    @property
    def labels(self) -> list[int]:
        """The ids with everything that is not learned replaced by `IGNORED`; the model shifts them by one."""
        return [token if learned else IGNORED for token, learned in zip(self.token_ids, self.mask, strict=True)]

    @property
    def learned_tokens(self) -> int:
        """How many tokens are in the loss."""
        return sum(span.end - span.start for span in self.spans if span.learn)

    @classmethod
    def from_json(cls, row: Row) -> LearnedTokens:
        """Read the tokens of a row; KeyError, TypeError or ValueError where they are of another shape."""
        spans = tuple(
            LearnedSpan(Role(span["role"]), int(span["start"]), int(span["end"]), bool(span["sampled"]), span["learn"])
            for span in row["spans"]
        )
        ids = tuple(int(token) for token in row["token_ids"])
        return cls(ids, spans, tuple(row.get("messages", ())), str(row.get("text", "")))

    def check(self, name: str) -> None:
        """Raise DataError where spans are out of order, overlap or learn what the policy never writes."""
        position = 0
        for span in self.spans:
            if not position <= span.start < span.end <= len(self.token_ids):
                raise DataError(
                    f"{name}: span {span.role} [{span.start}, {span.end}) must follow token {position} and end by "
                    f"{len(self.token_ids)}; spans are ordered and do not overlap"
                )
            if span.learn and span.role is Role.EXTERNAL:
                raise DataError(
                    f"{name}: the external span [{span.start}, {span.end}) is learned; the policy never writes it"
                )
            position = span.end
        if self.spans and self.spans[0].learn and self.spans[0].start == 0:
            raise DataError(f"{name}: its first token is learned, but nothing stands before it to predict it from")


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One example for fine-tuning.

    ``kind`` is D1, D2, D3, raft or single-turn; ``first`` what the grader said of the first attempt (``right`` or
    ``wrong``); ``format`` long-cot or two-turn. A row that somebody else made needs ``id``, ``token_ids`` and ``spans``
    only.
    """

    id: str
    tokens: LearnedTokens
    problem_id: str = ""
    kind: str = ""
    first: str = ""
    format: str = ""
    question: str = ""
    gold: str = ""
    source: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the row as it stands in the file."""
        return _row(self, to_json(self.tokens))

    @classmethod
    def from_json(cls, row: Row, where: str = "row", *, learned: bool = True) -> TrainingRow:
        """Return a checked row; DataError names row and field, ModelError says that nothing would be learned.

        ``learned=False``: it may teach nothing, as a judge learns from the grade of the attempt.
        """
        name = f"{where}: row {row.get('id')!r}"
        try:
            tokens = LearnedTokens.from_json(row)
            parsed = cls(str(row["id"]), tokens, **_about(row))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{name} is not an SFT row ({error!r}); expected id, kind, token_ids and spans") from error
        tokens.check(name)
        if learned and not tokens.learned_tokens:
            raise ModelError(f"{name} (kind {parsed.kind!r}): the loss mask is empty, so it would teach nothing")
        return parsed


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two trajectories of one problem that begin with the same ``shared`` tokens; ``chosen`` is the better one.

    ``kind`` is P1, P2 or P3 (method.md, section 3). What is learned stands after the shared tokens: every token of the
    assistant, and none of a user message (eq. 5).
    """

    id: str
    shared: int
    chosen: LearnedTokens
    rejected: LearnedTokens
    problem_id: str = ""
    kind: str = ""
    first: str = ""
    format: str = ""
    question: str = ""
    gold: str = ""
    source: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the pair as it stands in the file."""
        return _row(self, {"shared": self.shared, "chosen": to_json(self.chosen), "rejected": to_json(self.rejected)})

    @classmethod
    def from_json(cls, row: Row, where: str = "pair") -> PreferencePair:
        """Return a checked pair; DataError names it, ModelError says that a side has nothing to count."""
        name = f"{where}: pair {row.get('id')!r}"
        try:
            chosen, rejected = (LearnedTokens.from_json(row[side]) for side in ("chosen", "rejected"))
            pair = cls(str(row["id"]), int(row.get("shared", 0)), chosen, rejected, **_about(row))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{name} is not a pair ({error!r}); expected id, kind, chosen and rejected with spans"
            ) from error
        for side in (chosen, rejected):
            side.check(name)
        if chosen.token_ids[: pair.shared] != rejected.token_ids[: pair.shared]:
            raise DataError(f"{name}: its sides differ before token {pair.shared}, where they are said to be the same")
        if not (chosen.learned_tokens and rejected.learned_tokens):
            raise ModelError(f"{name}: a side counts no token")
        return pair


def read_training_rows(path: Path, *, learned: bool = True) -> list[TrainingRow]:
    """Return the checked rows of a file; DataError where there are none, or of another version."""
    rows = [TrainingRow.from_json(row, str(path), learned=learned) for row in read_rows(path)]
    if not rows:
        raise DataError(f"{path} has no rows: nothing to train on")
    return rows


def read_pairs(path: Path) -> list[PreferencePair]:
    """Return the checked pairs of a file; DataError where there are none, or of another version."""
    pairs = [PreferencePair.from_json(row, str(path)) for row in read_rows(path)]
    if not pairs:
        raise DataError(f"{path} has no pairs; gen writes them where its recipe asks for preferences")
    return pairs


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file unread; DataError where its card names another version than this one reads."""
    found = read_card(path).get("schema", 1)
    if found != SCHEMA:
        raise DataError(
            f"{path} holds rows of schema {found!r}, and this version of selfcorrect reads schema {SCHEMA}: make them "
            "anew with selfcorrect gen, or use the version that made them"
        )
    yield from read_jsonl(path)


def read_card(path: Path) -> dict[str, Any]:
    """Return the card beside a file of rows, empty where there is none."""
    card = path.with_name(path.stem + ".card.json")
    if not card.exists():
        return {}
    try:
        found = json.loads(card.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the data card {card}: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{card}: expected a JSON object, got {type(found).__name__}")
    return found


_BEFORE, _AFTER = ("id", "problem_id", "kind", "first", "format"), ("question", "gold", "source")


def _row(record: TrainingRow | PreferencePair, inside: Mapping[str, Any]) -> dict[str, Any]:
    before, after = ({name: getattr(record, name) for name in names} for names in (_BEFORE, _AFTER))
    return {**before, **inside, **after}


def _about(row: Row) -> dict[str, str]:
    return {name: str(row.get(name, "")) for name in (*_BEFORE[1:], *_AFTER)}
