"""Which attempt comes next: `Order` decides the sequence of base samples, and steers it by what was found so far.

Unsteered, every problem is attempted once, then every problem again. Steered, that holds for the first round; then
attempts go to problems in proportion to how useful another one is expected to be, by the divisor method of
apportionment: the next attempt to the problem with the largest ``usefulness / (attempts + 1)``. Usefulness sums, over
the classes whose quota and cap are open, the chance that an attempt at this problem ends in a row of the class, beside
the chance at an average problem, weighted by how many attempts the class still needs. Chances are posterior means with
the average of all problems as prior: hard problems for D1, easy ones for D3, and a problem that gave nothing in n
attempts falls behind as 1/n².

Why the rows of a class stay unbiased at each problem. There, the attempts 0, 1, 2, … and what is sampled after each are
independent and identically distributed. Whether attempt k is sampled depends on outcomes (correct or wrong, accepted or
not) of earlier samples, and whether it is kept on its own outcomes; never on a text, a length or a time. Given its
outcomes, the content of a sample is independent of every other sample, so a row has exactly the distribution of its
class at its problem, whenever it was found. What steering changes is how many rows each problem gives, up to
``cap_per_problem``: more come from problems that can give what is missing. ``steer: false`` keeps equal effort.

The order is a function of what is committed, and is decided at fixed numbers of commits, ``lag`` places ahead: so it
cannot depend on the order of arrival, and the work ahead seldom waits for the commit point.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from selfcorrect.data_gen.classes import BaseSample, BaseSampleResult, Kind, PartOutcome, Selection
from selfcorrect.types import Problem

PRIOR_TRIES = 2.0
"""Weight of the average over all problems in the estimate of one, in samples."""

FIRST_OUTCOMES = {
    Kind.D1: (PartOutcome.WRONG,),
    Kind.D2: (PartOutcome.CORRECT,),
    Kind.D3: (PartOutcome.CORRECT,),
    Kind.RAFT: (PartOutcome.WRONG,),
    Kind.RAFT_PLUS: (PartOutcome.CORRECT,),
    Kind.SINGLE_TURN: (PartOutcome.CORRECT,),
    Kind.P1: (PartOutcome.WRONG,),
    Kind.P2: (PartOutcome.CORRECT,),
    Kind.P3: (PartOutcome.WRONG, PartOutcome.CORRECT),
}
"""The outcomes of a first attempt that each class begins with."""


class Record(NamedTuple):
    """What attempts at a problem gave; the tuples have one number for each class."""

    attempts: int
    begun: tuple[int, ...]  # attempts that the class begins with
    tried: tuple[int, ...]  # of these, that were tried as the class
    accepted: tuple[int, ...]  # tries that gave a row
    kept: tuple[int, ...]  # rows in the selection


class Estimate:
    """The record of each problem, and the chances that follow from it and from all others; `Order` keeps one."""

    def __init__(self, kinds: Sequence[Kind]) -> None:
        self.kinds = tuple(kinds)
        nothing = (0,) * len(self.kinds)
        self._new = Record(0, nothing, nothing, nothing, nothing)
        self._records: dict[int, Record] = {}
        self._all = self._new

    def of(self, number: int) -> Record:
        """Return the record of a problem."""
        return self._records.get(number, self._new)

    def note(self, result: BaseSampleResult, kept: Sequence[int]) -> None:
        """Learn from a committed base sample; ``kept`` are its problem's rows in the selection, by class."""
        begun = [result.outcome in FIRST_OUTCOMES[kind] for kind in self.kinds]
        tried = [kind in result.tried for kind in self.kinds]
        accepted = [any(candidate.kind is kind for candidate in result.found) for kind in self.kinds]
        add = lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True))

        def grown(old: Record) -> Record:
            sums = add(old.begun, begun), add(old.tried, tried), add(old.accepted, accepted)
            return Record(old.attempts + 1, *sums, tuple(kept))

        number = result.base.number
        self._records[number], self._all = grown(self.of(number)), grown(self._all)

    def averages(self) -> list[tuple[float, float]]:
        """Return the chances, by class and over all problems, that an attempt begins it and that a try is accepted."""
        every = self._all
        return [
            ((begun + 1) / (every.attempts + 2), (accepted + 1) / (tried + 2))
            for begun, tried, accepted in zip(every.begun, every.tried, every.accepted, strict=True)
        ]


def chances(record: Record, averages: Sequence[tuple[float, float]]) -> list[float]:
    """Return the chance, by class, that an attempt at a problem ends in a row: posterior mean, averages as prior."""
    return [
        (begun + PRIOR_TRIES * begins)
        / (record.attempts + PRIOR_TRIES)
        * (accepted + PRIOR_TRIES * acceptance)
        / (tried + PRIOR_TRIES)
        for begun, tried, accepted, (begins, acceptance) in zip(
            record.begun, record.tried, record.accepted, averages, strict=True
        )
    ]


class Order:
    """The sequence of base samples: `at` gives one by its place, `note` takes each in turn as it is committed.

    ``lag`` is both the length of a steered block and how long before its first place it is decided; None: unsteered.
    ``before`` are base samples of an earlier pass, taken first because their attempts are sampled already.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        attempts: int,
        selection: Selection[Any],
        lag: int | None = None,
        before: Sequence[BaseSample] = (),
    ) -> None:
        self.problems, self.attempts, self.selection, self.lag = problems, attempts, selection, lag
        self.estimate = Estimate(list(selection.quota))
        self.committed = 0  # every base sample before this place is committed
        self._plan: dict[int, BaseSample] = {}  # by place, from the commit point on, as far as it was asked for
        numbers = range(len(problems))
        self._first: Iterator[tuple[int, int]]
        if lag is None:
            self._first = ((number, index) for index in range(attempts) for number in numbers)
            self._end = attempts * len(problems)
        else:
            first = [(base.number, base.index) for base in before]
            visited = {number for number, _ in first}
            first += [(number, 0) for number in numbers if number not in visited]
            self._first, self._end = iter(first), len(first)
            self._taken = Counter(number for number, _ in first)  # attempts decided, by problem
            self._look_at = max(0, self._end - lag)
        self._averages: list[tuple[float, float]] = []
        self._worth: dict[tuple[Record, int], float] = {}
        self._blocks: deque[tuple[int, int]] = deque()
        self.ended = lag is None  # True once no further attempt will be added
        self._look()

    def decided(self, place: int) -> bool:
        """True where it is known what a place holds, or that the order ends before it."""
        return place < self._end or self.ended

    def at(self, place: int) -> BaseSample | None:
        """Return the base sample at a decided place that is not committed yet, None after the end."""
        while len(self._plan) + self.committed <= place < self._end:
            number, index = next(self._first, None) or self._blocks.popleft()
            next_place = len(self._plan) + self.committed
            self._plan[next_place] = BaseSample(self.problems[number], number, index, next_place)
        return self._plan.get(place)

    def note(self, base: BaseSample, result: BaseSampleResult | None) -> None:
        """Record that a base sample is committed; None: it was passed over, since no class takes its problem."""
        del self._plan[base.place]
        self.committed = base.place + 1
        if result:
            self.estimate.note(result, [self.selection.kept_of(kind, base.problem) for kind in self.selection.quota])
        self._look()

    def _look(self) -> None:
        """Decide the next block if its time has come, which is told by the number of commits alone."""
        if self.ended or self.lag is None or self.committed < self._look_at:
            return
        block = self._block(self.lag)
        self._blocks += block
        self._end += len(block)
        self.ended = not block and self.committed == self._end
        soon = self.committed + max(1, self.lag // 4)  # a short block: look again, but not at every commit
        self._look_at = min(self._end, max(soon, self._end - self.lag))

    def _block(self, length: int) -> list[tuple[int, int]]:
        """Return the next attempts as (problem's number, index): fewer where no class could keep more."""
        self._worth.clear()
        self._averages = self.estimate.averages()
        claims = [claim for number in range(len(self.problems)) if (claim := self._claim(number))]
        heapq.heapify(claims)
        block: list[tuple[int, int]] = []
        while claims and len(block) < length:
            _, number = claims[0]
            block.append((number, self._taken[number]))
            self._taken[number] += 1
            if claim := self._claim(number):
                heapq.heapreplace(claims, claim)
            else:
                heapq.heappop(claims)
        return block

    def _claim(self, number: int) -> tuple[float, int] | None:
        """Return a problem's claim to the next attempt, the least of all first; None where it has none."""
        taken, record = self._taken[number], self.estimate.of(number)
        if taken >= self.attempts:
            return None
        if (record, taken) not in self._worth:  # of many problems most have the same record
            self._worth[record, taken] = self._usefulness(record, taken - record.attempts)
        worth = self._worth[record, taken]
        return (-worth / (taken + 1), number) if worth > 0 else None

    def _usefulness(self, record: Record, under_way: int) -> float:
        """Return what another attempt at a problem is worth; 0 where those under way are expected to suffice."""
        worth = 0.0
        kept = dict(zip(self.estimate.kinds, record.kept, strict=True))
        of_classes = zip(self.estimate.kinds, chances(record, self._averages), self._averages, strict=True)
        for kind, chance, average in of_classes:
            missing, partner = self.selection.remaining(kind), self.selection.partner(kind)
            if self.selection.room(kind, kept[kind], kept[partner] if partner else 0) > under_way * chance:
                worth += min(missing, len(self.problems)) * chance / math.prod(average) ** 2
        return worth
