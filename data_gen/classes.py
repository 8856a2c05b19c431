"""What is kept: the pure rules of method.md, section 2 (D1, D2, D3), quotas, caps per problem, balance.

Nothing here samples, waits or reads a file. A `Selection` is offered candidates in a fixed order and keeps the first
that its quotas allow, whatever they contain: neither speed nor length nor the order of arrival has a say.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from selfcorrect.types import Problem, Verdict

FIRST_SHARE = 0.25
"""Share of correct attempts that are tried as the first of two classes (D2 before D3) where the quotas do not say."""


class Kind(StrEnum):
    """The classes of training rows. RAFT and RAFT_PLUS are the STaR/RAFT baselines' blind revisions; SINGLE_TURN is
    the baseline that learns attempts alone.

    P1, P2 and P3 are the preference pairs of method.md, section 3, chosen > rejected; both share problem and a1.
    """

    D1 = "D1"  # wrong a1, y1 = wrong, correct a2
    D2 = "D2"  # correct a1, y1 = wrong (misleading), correct a2
    D3 = "D3"  # correct a1, y1 = correct
    RAFT = "raft"  # wrong a1, correct a2
    RAFT_PLUS = "raft-plus"  # correct a1, correct a2
    SINGLE_TURN = "single-turn"  # correct a1, and nothing after it
    P1 = "P1"  # (wrong a1, wrong, correct a2) > (wrong a1, wrong, wrong a2), of one y1
    P2 = "P2"  # (correct a1, wrong, correct a2) > (correct a1, wrong, wrong a2), of one y1
    P3 = "P3"  # (wrong a1, wrong, correct a2) > (wrong a1, correct), and
    #            (correct a1, correct) > (correct a1, wrong, wrong a2)


MATCHED = {Kind.D1: Kind.D3, Kind.D3: Kind.D1}
"""The classes that ``match: difficulty`` takes from the same problems: those whose self-evaluation is learned."""


class PartOutcome(StrEnum):
    """What a sampled solution turned out to be. Only CORRECT and WRONG ones are used; the others are counted.

    The values are those of the journals' key ``fate`` and of the counts on disk.
    """

    CORRECT = "right"
    WRONG = "wrong"
    UNGRADABLE = "ungradable"  # the grader could not tell, or found no answer
    CUT = "cut"  # reached max_tokens before its end
    MARKED = "marked"  # holds a verdict mark of its own, which would double the verdict of the trajectory
    TOO_LONG = "prompt-too-long"  # with its prompt it would not fit the engine's context: nothing was sampled
    REFUSED = "refused"  # a server refused the request: nothing was sampled


@dataclass(frozen=True, slots=True)
class BaseSample:
    """Identity of an attempt to be sampled: the ``index``-th at a problem, at ``place`` in sampling order."""

    problem: Problem
    number: int  # the problem's place in the problem set
    index: int
    place: int

    @property
    def id(self) -> str:
        """The identity as text: the problem's id and the attempt's index."""
        return f"{self.problem.id}/{self.index}"


@dataclass(frozen=True, slots=True)
class SampledPart:
    """One sampled attempt or revision with its outcome, or self-evaluation with its verdict (None: no clean mark)."""

    key: str
    stage: str
    token_ids: tuple[int, ...]
    text: str
    outcome: PartOutcome | None = None
    verdict: Verdict | None = None
    own: bool = True  # False: a teacher wrote it
    after: tuple[int, ...] = ()  # in-path: what the same sample went on with


@dataclass(frozen=True, slots=True)
class Continuation:
    """What follows an attempt: a verdict (None: nobody judged), its self-evaluation (None: stated), a revision."""

    verdict: Verdict | None
    evaluation: SampledPart | None = None
    revision: SampledPart | None = None

    @property
    def is_stated(self) -> bool:
        """True where the verdict is a bare mark (in two-turn rows: the answer) that nobody sampled."""
        return self.verdict is not None and self.evaluation is None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trajectory that its class could keep; a preference pair has the worse continuation of the same attempt too."""

    kind: Kind
    base: BaseSample
    attempt: SampledPart
    continuation: Continuation
    rejected: Continuation | None = None

    @property
    def order(self) -> tuple[int, int, str]:
        """Place in the final data set: by problem, attempt, revision."""
        return self.base.number, self.base.index, self.continuation.revision.key if self.continuation.revision else ""


@dataclass(slots=True)
class BaseSampleResult:
    """All that one base sample gave: every part it took, by key, the classes tried, the candidates found."""

    base: BaseSample
    parts: dict[str, SampledPart] = field(default_factory=dict)
    tried: list[Kind] = field(default_factory=list)
    found: list[Candidate] = field(default_factory=list)

    @property
    def outcome(self) -> PartOutcome:
        """What the first attempt turned out to be."""
        outcome = self.parts[self.base.id].outcome
        assert outcome
        return outcome


def pair_of(first: PartOutcome | None, chosen: Continuation, rejected: Continuation) -> Kind | None:
    """Return the kind of a preference pair (method.md, section 3), None for an ambiguous one, which is left out.

    Ambiguous is what no rule orders, such as (wrong a1, judged wrong, wrong a2) beside (wrong a1, judged correct).
    """
    better, worse = (_verdict_and_outcome(one) for one in (chosen, rejected))
    match first, better, worse:
        case PartOutcome.WRONG, (Verdict.WRONG, PartOutcome.CORRECT), (Verdict.WRONG, PartOutcome.WRONG):
            return Kind.P1
        case PartOutcome.CORRECT, (Verdict.WRONG, PartOutcome.CORRECT), (Verdict.WRONG, PartOutcome.WRONG):
            return Kind.P2
        case PartOutcome.WRONG, (Verdict.WRONG, PartOutcome.CORRECT), (Verdict.CORRECT, None):
            return Kind.P3
        case PartOutcome.CORRECT, (Verdict.CORRECT, None), (Verdict.WRONG, PartOutcome.WRONG):
            return Kind.P3
    return None


def class_of(first: PartOutcome | None, continuation: Continuation) -> Kind | None:
    """Return the class of a self-rewarding trajectory (method.md, section 2, step 4), None where it is kept in none."""
    match first, *_verdict_and_outcome(continuation):
        case PartOutcome.WRONG, Verdict.WRONG, PartOutcome.CORRECT:
            return Kind.D1
        case PartOutcome.CORRECT, Verdict.WRONG, PartOutcome.CORRECT:
            return Kind.D2
        case PartOutcome.CORRECT, Verdict.CORRECT, None:
            return Kind.D3
    return None


def _verdict_and_outcome(continuation: Continuation) -> tuple[Verdict | None, PartOutcome | None]:
    return continuation.verdict, continuation.revision.outcome if continuation.revision else None


def preference(
    base: BaseSample, quota: Mapping[Kind, int | None], seed: int, a: Kind = Kind.D2, b: Kind = Kind.D3
) -> tuple[Kind, Kind]:
    """Return in which order an attempt is tried as two classes (a correct one: as D2 and D3).

    Decided by identity alone, before anything but the grade is known, in the proportion of the quotas:
    a choice by content (say, D2 for those that happened to be misjudged) would bias both classes.
    """
    of_a, of_b = quota[a], quota[b]
    share = FIRST_SHARE if of_a is None or of_b is None or of_a + of_b == 0 else of_a / (of_a + of_b)
    digest = hashlib.blake2b(f"{seed}\0{base.id}\0{a} or {b}".encode(), digest_size=8).digest()
    return (a, b) if int.from_bytes(digest, "big") / 2**64 < share else (b, a)


class Claim(NamedTuple):
    """What a selection asks of a candidate: which class of which base sample. `Candidate` has both too."""

    kind: Kind
    base: BaseSample


class HasClaim(Protocol):
    """A candidate, or its `Claim` alone."""

    @property
    def kind(self) -> Kind: ...

    @property
    def base(self) -> BaseSample: ...


C = TypeVar("C", bound=HasClaim)


class Selection(Generic[C]):
    """Keeps candidates, offered in a fixed order, up to a quota per class and a cap per problem and class.

    ``per_base`` is how many rows one base sample may give: one trajectory, or several revisions without a verdict.

    ``matched``: D1 and D3 come from the same problems in equal parts (`MATCHED`). A row of one class waits until its
    problem gives one of the other, ``waiting`` rows of a problem at most (None: no limit but the cap). Only pairs count
    towards the quota, and `rows` leaves out what still waits. Example, of one problem: D1 is kept and waits; D1 is
    refused; D3 is kept, and the pair counts; D1 is open again.
    """

    def __init__(
        self,
        quota: Mapping[Kind, int | None],
        cap_per_problem: int | None = None,
        per_base: int = 1,
        matched: bool = False,
        waiting: int | None = 1,
    ) -> None:
        self.quota = dict(quota)
        self.per_base = per_base
        self.cap_per_problem = cap_per_problem
        self.matched, self.waiting = matched, waiting
        self.kept: list[C] = []
        self._kept: Counter[Kind] = Counter()
        self._pairs = 0
        self._of_problem: Counter[tuple[Kind, str]] = Counter()

    def count(self, kind: Kind) -> int:
        """Return how many rows count towards the quota of a class."""
        return self._pairs if self.partner(kind) else self._kept[kind]

    @property
    def filled(self) -> int:
        """How many rows count, of all classes."""
        return sum(self.count(kind) for kind in self.quota)

    def remaining(self, kind: Kind) -> float:
        """Return how many rows the class still takes; infinite where it has no quota."""
        quota = self.quota[kind]
        return float("inf") if quota is None else quota - self.count(kind)

    def kept_of(self, kind: Kind, problem: Problem) -> int:
        """Return how many rows of this problem the class has, those that wait among them."""
        return self._of_problem[kind, problem.id]

    def partner(self, kind: Kind) -> Kind | None:
        """Return the class that this one is matched with, None where it is not."""
        return MATCHED.get(kind) if self.matched else None

    def room(self, kind: Kind, kept: int, kept_of_partner: int) -> float:
        """Return how many more rows the class takes of a problem of which it, and its partner, have so many."""
        room = self.remaining(kind)
        if self.cap_per_problem is not None:
            room = min(room, self.cap_per_problem - kept)
        if self.partner(kind) and self.waiting is not None:
            room = min(room, self.waiting + kept_of_partner - kept)
        return room

    def open(self, kind: Kind, problem: Problem) -> bool:
        """True while the class takes another row of this problem."""
        partner = self.partner(kind)
        return self.room(kind, self.kept_of(kind, problem), self.kept_of(partner, problem) if partner else 0) > 0

    def takes(self, problem: Problem) -> bool:
        """True while any class takes another row of this problem."""
        return any(self.open(kind, problem) for kind in self.quota)

    @property
    def full(self) -> bool:
        """True once every class has its quota."""
        return all(self.remaining(kind) <= 0 for kind in self.quota)

    def offer(self, candidates: Sequence[C]) -> list[C]:
        """Keep the first ``per_base`` of one base sample's candidates that their classes take; return those."""
        taken: list[C] = []
        for candidate in candidates:
            if len(taken) < self.per_base and self.open(candidate.kind, candidate.base.problem):
                self._keep(candidate.kind, candidate.base.problem)
                taken.append(candidate)
        self.kept += taken
        return taken

    def _keep(self, kind: Kind, problem: Problem) -> None:
        if partner := self.partner(kind):
            self._pairs += self.kept_of(kind, problem) < self.kept_of(partner, problem)
        self._kept[kind] += 1
        self._of_problem[kind, problem.id] += 1

    def rows(self) -> list[C]:
        """Return what is kept, in order; of a matched class, of each problem only as many as its partner has."""
        seen: Counter[tuple[Kind, str]] = Counter()
        rows = []
        for candidate in self.kept:
            kind, problem = candidate.kind, candidate.base.problem
            seen[kind, problem.id] += 1
            partner = self.partner(kind)
            if partner is None or seen[kind, problem.id] <= self.kept_of(partner, problem):
                rows.append(candidate)
        return rows


def chosen_by_hash(found: Sequence[Sequence[Claim]], like: Selection[Any], seed: int) -> list[Claim]:
    """Return which of everything that was found is kept, under the quotas and caps of a selection (fixed schedule).

    ``found`` has the claims of one base sample each. First every problem and class is cut to the cap, then every class
    to its quota, each in order of a hash of the base sample: so neither the index of an attempt nor the place of a
    problem in its file has a say. What a class then lacks is filled with base samples that stood for another class.

    The two steps have a hash each: with one, the rows of a problem that had many to choose from would have low hashes,
    and so be first in the second step, too.
    """
    to_cap, to_quota = (sorted(found, key=by) for by in (_by_hash(seed, "cap"), _by_hash(seed, "quota")))
    quotas = {kind: 0 if quota == 0 else None for kind, quota in like.quota.items()}
    capped: Selection[Claim] = Selection(quotas, like.cap_per_problem, like.per_base)
    within_cap = [taken for claims in to_cap if (taken := capped.offer(claims))]
    within_cap.sort(key=_by_hash(seed, "quota"))
    chosen: Selection[Claim] = Selection(like.quota, like.cap_per_problem, like.per_base, like.matched, waiting=None)
    kept: set[str] = set()
    for claims in [*within_cap, *to_quota]:
        base = claims[0].base
        if base.id not in kept and chosen.offer(claims):
            kept.add(base.id)
    return chosen.rows()


def _by_hash(seed: int, step: str) -> Callable[[Sequence[Claim]], bytes]:
    """Return the sort key of one base sample's claims in a step of `chosen_by_hash`."""
    return lambda claims: hashlib.blake2b(f"{seed}\0{claims[0].base.id}\0{step}".encode(), digest_size=8).digest()


def balanced(kept: Sequence[Candidate], ratio: float | None, matched: bool = False) -> list[Candidate]:
    """Return the candidates with rows of correct and of wrong first attempts in balance, in order of identity.

    The larger group loses what was kept last until it is at most ``ratio`` times the smaller (D2 and D3 in proportion;
    where D3 is ``matched`` with D1, only D2). Where one group is empty there is nothing to balance and all stay.
    """
    wrong = [candidate for candidate in kept if candidate.attempt.outcome is PartOutcome.WRONG]
    correct = [candidate for candidate in kept if candidate.attempt.outcome is PartOutcome.CORRECT]
    if ratio is not None and wrong and correct:
        wrong = wrong[: int(ratio * len(correct))]
        room = int(ratio * len(wrong))
        if len(correct) > room:
            d2 = [candidate for candidate in correct if candidate.kind is Kind.D2]
            d3 = [candidate for candidate in correct if candidate.kind is not Kind.D2]
            d2 = d2[: room - len(d3) if matched else round(room * len(d2) / len(correct))]
            correct = [*d2, *d3[: room - len(d2)]]
    return sorted([*wrong, *correct], key=lambda candidate: candidate.order)
