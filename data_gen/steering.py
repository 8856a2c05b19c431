"""Which attempt comes next: `Order` decides the sequence of base samples, and steers it by what was found so far.

Unsteered, every problem is attempted once, then every problem again. Steered, that holds for the first round; then
attempts go to problems in proportion to how useful another one is expected to be, by the divisor method of
apportionment: the next attempt to the problem with the largest ``usefulness / (attempts + 1)``. Usefulness sums, over
the classes whose quota and cap are open, the chance that an attempt at this problem ends in a row of the class, beside
the chance at an average problem, weighted by how many attempts the class still needs. Chances are posterior means with
the average of all problems as prior: hard problems for D1, easy ones for D3, and a problem that gave nothing in n
attempts falls behind as 1/n².

Why the rows of a class stay unbiased. At one problem, the attempts 0, 1, 2, … and what is sampled after each are
independent and identically distributed. Whether attempt k is drawn depends on fates (right or wrong, served or not)
of earlier samples, and whether it is kept on its own fates; never on a text, a length or a time. Given its fates, the
content of a sample is independent of every other sample, so a row has exactly the distribution of its class at its
problem, as under ``schedule: fixed``. What steering changes is how many rows each problem gives, up to
``cap_per_problem``: more come from problems that can give what is missing. ``steer: false`` keeps equal effort.

The order is a function of what is committed, and is decided at fixed numbers of commits, ``lag`` places ahead: so it
cannot depend on the order of arrival, and the work ahead seldom waits for the commit point.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterator, Sequence

from data_gen.selection import Base, Fate, Kind, Selection, Worked
from selfcorrect.types import Problem

PRIOR_TRIES = 2.0
"""Weight of the average over all problems in the estimate of one, in samples."""

FATES = {
    Kind.D1: (Fate.WRONG,),
    Kind.D2: (Fate.RIGHT,),
    Kind.D3: (Fate.RIGHT,),
    Kind.RAFT: (Fate.WRONG,),
    Kind.RAFT_PLUS: (Fate.RIGHT,),
    Kind.P1: (Fate.WRONG,),
    Kind.P2: (Fate.RIGHT,),
    Kind.P3: (Fate.WRONG, Fate.RIGHT),
}
"""The fates of a first attempt that each class begins with."""


class Estimate:
    """Pass rates and rates of success, of all problems together and of each."""

    def __init__(self) -> None:
        self.attempts: Counter[int] = Counter()  # by problem
        self._fates: Counter[tuple[int | None, Fate]] = Counter()  # None: all problems
        self._tries: Counter[tuple[int | None, Kind]] = Counter()
        self._hits: Counter[tuple[int | None, Kind]] = Counter()

    def note(self, worked: Worked) -> None:
        """Learn from a committed base sample."""
        number, fate = worked.base.number, worked.fate
        self.attempts[number] += 1
        for which in (None, number):
            self._fates[which, fate] += 1
            for kind in worked.tried:
                self._tries[which, kind] += 1
                self._hits[which, kind] += any(candidate.kind is kind for candidate in worked.found)

    def average(self, kind: Kind) -> float:
        """Return the chance that an attempt at any problem ends in a row of the class."""
        fates = sum(self._fates[None, fate] for fate in FATES[kind])
        reached = (fates + 1) / (self.attempts.total() + 2)
        return reached * (self._hits[None, kind] + 1) / (self._tries[None, kind] + 2)

    def at(self, number: int, kind: Kind) -> float:
        """Return the chance that an attempt at one problem ends in a row of the class (posterior mean)."""
        fates = sum(self._fates[None, fate] for fate in FATES[kind])
        reached = (fates + 1) / (self.attempts.total() + 2)
        served = (self._hits[None, kind] + 1) / (self._tries[None, kind] + 2)
        own_fates = sum(self._fates[number, fate] for fate in FATES[kind])
        reached = (own_fates + PRIOR_TRIES * reached) / (self.attempts[number] + PRIOR_TRIES)
        return reached * (self._hits[number, kind] + PRIOR_TRIES * served) / (self._tries[number, kind] + PRIOR_TRIES)


class Order:
    """The sequence of base samples: `at` gives one by its place, `note` takes each in turn as it is committed.

    ``lag`` is both the length of a steered block and how long before its first place it is decided; None: unsteered.
    ``before`` are base samples of an earlier pass, taken first because their attempts are drawn already.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        attempts: int,
        selection: Selection,
        lag: int | None = None,
        before: Sequence[Base] = (),
    ) -> None:
        self.problems, self.attempts, self.selection, self.lag = problems, attempts, selection, lag
        self.estimate = Estimate()
        self.committed = 0  # every base sample before this place is committed
        self._plan: dict[int, Base] = {}  # by place, from the commit point on, as far as it was asked for
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
        self._blocks: deque[tuple[int, int]] = deque()
        self.ended = lag is None  # True once no further attempt will be added
        self._look()

    def decided(self, place: int) -> bool:
        """True where it is known what a place holds, or that the order ends before it."""
        return place < self._end or self.ended

    def at(self, place: int) -> Base | None:
        """Return the base sample at a decided place that is not committed yet, None after the end."""
        while len(self._plan) + self.committed <= place < self._end:
            number, index = next(self._first, None) or self._blocks.popleft()
            next_place = len(self._plan) + self.committed
            self._plan[next_place] = Base(self.problems[number], number, index, next_place)
        return self._plan.get(place)

    def note(self, base: Base, worked: Worked | None) -> None:
        """Record that a base sample is committed; None: it was passed over, since nothing of it was wanted."""
        del self._plan[base.place]
        self.committed = base.place + 1
        if worked:
            self.estimate.note(worked)
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
        """Return the next attempts as (problem's number, index): fewer where more could not serve."""
        claims: list[tuple[float, int]] = []
        for number in range(len(self.problems)):
            self._claim(claims, number)
        block: list[tuple[int, int]] = []
        while claims and len(block) < length:
            _, number = heapq.heappop(claims)
            block.append((number, self._taken[number]))
            self._taken[number] += 1
            self._claim(claims, number)
        return block

    def _claim(self, claims: list[tuple[float, int]], number: int) -> None:
        if self._taken[number] < self.attempts and (worth := self.usefulness(number)) > 0:
            heapq.heappush(claims, (-worth / (self._taken[number] + 1), number))

    def usefulness(self, number: int) -> float:
        """Return what another attempt at a problem is worth; 0 where those under way are expected to suffice."""
        worth = 0.0
        under_way = self._taken[number] - self.estimate.attempts[number]
        for kind in self.selection.quota:
            chance, average = self.estimate.at(number, kind), self.estimate.average(kind)
            if self.selection.room(kind, self.problems[number]) > under_way * chance:
                missing = min(self.selection.remaining(kind), len(self.problems))
                worth += missing * chance / average**2
        return worth
