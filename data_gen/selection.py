"""What is kept: the pure rules of METHOD section 2 (D1, D2, D3), quotas, caps per problem, balance.

Nothing here samples, waits or reads a file. A `Selection` is offered candidates in the order of their
identity and keeps the first that its quotas allow, whatever they contain, so what is kept is an unbiased
sample of its class: neither speed nor length nor the order of arrival has a say.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from selfcorrect.types import Problem, Verdict

D2_SHARE = 0.25
"""Share of right first attempts that are tried as D2 where the quotas do not say."""


class Kind(StrEnum):
    """The classes of training rows. RAFT and RAFT_PLUS are the STaR/RAFT baselines' blind revisions."""

    D1 = "D1"  # wrong a1, y1 = wrong, correct a2
    D2 = "D2"  # correct a1, y1 = wrong (misleading), correct a2
    D3 = "D3"  # correct a1, y1 = correct
    RAFT = "raft"  # wrong a1, correct a2
    RAFT_PLUS = "raft-plus"  # correct a1, correct a2


VERDICTS = {Kind.D1: Verdict.WRONG, Kind.D2: Verdict.WRONG, Kind.D3: Verdict.CORRECT}
"""The verdict in the rows of each self-rewarding class; D2's is false."""


class Fate(StrEnum):
    """What a sampled solution turned out to be. Only RIGHT and WRONG ones are used; the rest is counted."""

    RIGHT = "right"
    WRONG = "wrong"
    UNGRADABLE = "ungradable"  # the grader could not tell, or found no answer
    CUT = "cut"  # reached max_tokens before its end
    MARKED = "marked"  # holds a verdict mark of its own, which would double the verdict of the path


@dataclass(frozen=True, slots=True)
class Base:
    """Identity of a base sample: attempt ``index`` at a problem, in ``place`` among all, in sampling order."""

    problem: Problem
    number: int  # the problem's place in the problem set
    index: int
    place: int

    @property
    def id(self) -> str:
        """The identity as text: the problem's id and the attempt's index."""
        return f"{self.problem.id}/{self.index}"


@dataclass(frozen=True, slots=True)
class Draw:
    """One sample: a solution with its fate, or a self-evaluation with its verdict (None: no well-formed mark)."""

    key: str
    stage: str
    token_ids: tuple[int, ...]
    text: str
    fate: Fate | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A path that its class could keep. ``evaluation`` is None where the verdict is stated, not sampled."""

    kind: Kind
    base: Base
    attempt: Draw
    evaluation: Draw | None = None
    revision: Draw | None = None

    @property
    def order(self) -> tuple[int, int, str]:
        """Place in the final data set: by problem, attempt, revision."""
        return self.base.number, self.base.index, self.revision.key if self.revision else ""


def class_of(first: Fate | None, verdict: Verdict, final: Fate | None) -> Kind | None:
    """Return the class of a self-rewarding path (METHOD section 2, step 4), None where it is kept in none."""
    match first, verdict, final:
        case Fate.WRONG, Verdict.WRONG, Fate.RIGHT:
            return Kind.D1
        case Fate.RIGHT, Verdict.WRONG, Fate.RIGHT:
            return Kind.D2
        case Fate.RIGHT, Verdict.CORRECT, None:
            return Kind.D3
    return None


def preference(base: Base, quota: Mapping[Kind, int | None], seed: int) -> tuple[Kind, Kind]:
    """Return in which order a right first attempt is tried as D2 and D3.

    Decided by identity alone, before anything but the grade is known, in the proportion of the quotas:
    a choice by content (say, D2 for those that happened to be misjudged) would bias both classes.
    """
    d2, d3 = quota[Kind.D2], quota[Kind.D3]
    share = D2_SHARE if d2 is None or d3 is None or d2 + d3 == 0 else d2 / (d2 + d3)
    digest = hashlib.blake2b(f"{seed}\0{base.id}\0D2 or D3".encode(), digest_size=8).digest()
    tried_as_d2 = int.from_bytes(digest, "big") / 2**64 < share
    return (Kind.D2, Kind.D3) if tried_as_d2 else (Kind.D3, Kind.D2)


class Selection:
    """Keeps candidates, offered in order of identity, up to a quota per class and a cap per problem and class.

    ``per_base`` is how many rows one base sample may give: one trajectory, or several blind revisions.
    """

    def __init__(self, quota: Mapping[Kind, int | None], cap_per_problem: int | None = None, per_base: int = 1) -> None:
        self.quota = dict(quota)
        self.per_base = per_base
        self.cap_per_problem = cap_per_problem
        self.kept: list[Candidate] = []
        self.counts: Counter[Kind] = Counter()
        self._of_problem: Counter[tuple[Kind, str]] = Counter()

    def remaining(self, kind: Kind) -> float:
        """Return how many rows the class still takes; infinite where it has no quota."""
        quota = self.quota[kind]
        return float("inf") if quota is None else quota - self.counts[kind]

    def open(self, kind: Kind, problem: Problem) -> bool:
        """True while the class takes another row of this problem."""
        if self.remaining(kind) <= 0:
            return False
        return self.cap_per_problem is None or self._of_problem[kind, problem.id] < self.cap_per_problem

    def wants(self, problem: Problem) -> bool:
        """True while any class takes another row of this problem."""
        return any(self.open(kind, problem) for kind in self.quota)

    @property
    def full(self) -> bool:
        """True once every class has its quota."""
        return all(self.remaining(kind) <= 0 for kind in self.quota)

    def offer(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Keep the first ``per_base`` of one base sample's candidates that their classes take; return those."""
        taken: list[Candidate] = []
        for candidate in candidates:
            if len(taken) < self.per_base and self.open(candidate.kind, candidate.base.problem):
                self.counts[candidate.kind] += 1
                self._of_problem[candidate.kind, candidate.base.problem.id] += 1
                taken.append(candidate)
        self.kept += taken
        return taken


def balanced(kept: Sequence[Candidate], ratio: float | None) -> list[Candidate]:
    """Return the candidates with first-attempt-right and -wrong rows in balance, in order of identity.

    The larger group loses what was kept last until it is at most ``ratio`` times the smaller (D2 and D3 in
    proportion). Where one group is empty there is nothing to balance and all stay.
    """
    wrong = [candidate for candidate in kept if candidate.attempt.fate is Fate.WRONG]
    right = [candidate for candidate in kept if candidate.attempt.fate is Fate.RIGHT]
    if ratio is not None and wrong and right:
        wrong = wrong[: int(ratio * len(right))]
        room = int(ratio * len(wrong))
        if len(right) > room:
            d2 = [candidate for candidate in right if candidate.kind is Kind.D2]
            d3 = [candidate for candidate in right if candidate.kind is not Kind.D2]
            d2 = d2[: round(room * len(d2) / len(right))]
            right = [*d2, *d3[: room - len(d2)]]
    return sorted([*wrong, *right], key=lambda candidate: candidate.order)
