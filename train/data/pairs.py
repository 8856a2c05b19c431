"""Preference pairs: two trajectories of one problem, and which of their tokens DPO learns (method.md, section 3).

`load_pairs` reads a file of `gen` (``data/preferences``: P1, P2, P3 of M-DPO), whose ``learn`` marks the assistant's
tokens after what both sides share. The tokens of a user between two turns are never counted: TRL's own collator would
(eq. 5 leaves them out).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from selfcorrect.chat import ChatCodec
from selfcorrect.errors import ModelError, RecipeError
from selfcorrect.train.data.rows import made_by_another_tokenizer
from selfcorrect.training_row import PreferencePair, read_pairs


@dataclass(frozen=True, slots=True)
class Side:
    """One trajectory: all its token ids, and 1 for those that the loss counts."""

    ids: tuple[int, ...]
    mask: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """``chosen`` is preferred to ``rejected``; ``kind`` is P1, P2, P3, or ``outcome`` for pairs of fresh rollouts."""

    id: str
    kind: str
    chosen: Side
    rejected: Side

    @property
    def longest(self) -> int:
        """Tokens of the longer side."""
        return max(len(self.chosen.ids), len(self.rejected.ids))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready row."""
        return asdict(self)


def load_pairs(path: Path, codec: ChatCodec) -> list[Pair]:
    """Read the pairs of `gen` for a model's tokenizer. Raises DataError for a broken row, ModelError for other ids."""
    if foreign := made_by_another_tokenizer(path, codec):
        raise ModelError(
            f"the token ids in {path} were made by another tokenizer ({foreign}) than the model's "
            f"({codec.fingerprint()}): make the pairs with the model that they train"
        )
    return [pair_of(row) for row in read_pairs(path)]


def pair_of(row: PreferencePair) -> Pair:
    """Return what the loss needs of a row."""
    return Pair(row.id, row.kind, *(Side(side.token_ids, side.mask) for side in (row.chosen, row.rejected)))


def mix_pairs(pairs: Sequence[Pair], mix: Mapping[str, Any], seed: int) -> list[Pair]:
    """Return as many pairs as there can be in the proportions of ``mix`` (P1: 2, P2: 1), in their order; {}: all.

    Raises RecipeError where a wanted kind is missing.
    """
    wanted = {kind: float(share) for kind, share in mix.items() if share}
    if not wanted:
        return list(pairs)
    counts = Counter(pair.kind for pair in pairs)
    if missing := sorted(wanted.keys() - counts.keys()):
        raise RecipeError(f"mix: no pairs of kind {', '.join(missing)}; there are {dict(sorted(counts.items()))}")
    unit = min(counts[kind] / share for kind, share in wanted.items())
    chosen: set[int] = set()
    for kind, share in sorted(wanted.items()):
        places = [place for place, pair in enumerate(pairs) if pair.kind == kind]
        chosen |= set(random.Random(f"mix-{seed}-{kind}").sample(places, round(unit * share)))
    return [pair for place, pair in enumerate(pairs) if place in chosen]
