"""METHOD section 2 for one base sample: attempt → self-evaluation → revision, each drawn until one serves.

Four ways to work a base sample: `SequentialRejection` finds rows of D1, D2 and D3, `PreferencePairs` pairs of P1, P2
and P3, `BlindRevision` and `JudgedRevision` rows of the STaR/RAFT baselines. What comes of a base sample depends on its
identity and on the classes that are wanted, on nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from selfcorrect.data_gen.ahead import Wants
from selfcorrect.data_gen.draws import Draws
from selfcorrect.data_gen.recipe import GenRecipe
from selfcorrect.data_gen.selection import (
    Base,
    Candidate,
    Draw,
    Fate,
    Kind,
    Rest,
    Worked,
    class_of,
    pair_of,
    preference,
)
from selfcorrect.types import Verdict


class SequentialRejection:
    """METHOD section 2 for one base sample: attempt → self-evaluation → revision, as far as it is wanted."""

    def __init__(self, recipe: GenRecipe, draws: Draws) -> None:
        self.recipe, self.draws = recipe, draws

    async def __call__(self, base: Base, wants: Wants) -> Worked:
        """Return what came of a base sample. Depends on its identity and on what is wanted, on nothing else."""
        attempt = await self.draws.attempt(base)
        worked = Worked(base, {attempt.key: attempt})
        for kind in self.classes(base, attempt):
            if not await wants(kind, base):
                continue
            worked.tried.append(kind)
            candidate = await {Kind.D1: self.d1, Kind.D2: self.d2, Kind.D3: self.d3}[kind](worked, attempt)
            if candidate:
                assert class_of(attempt.fate, candidate.rest) is kind
                worked.found.append(candidate)
            if not self.recipe.fixed:
                break  # moving on to the other class only where the first failed would bias that class
        return worked

    def classes(self, base: Base, attempt: Draw) -> tuple[Kind, ...]:
        """Return the classes that a graded attempt can serve, in the order in which they are tried."""
        if attempt.fate is Fate.WRONG:
            return (Kind.D1,)
        if attempt.fate is Fate.RIGHT:
            return preference(base, self.recipe.quotas, self.recipe.seed)
        return ()

    async def d1(self, worked: Worked, attempt: Draw) -> Candidate | None:
        """Wrong attempt: a self-evaluation that says so, then a correct revision."""
        evaluation = await self.judged(worked, attempt, Verdict.WRONG, self.recipe.evaluations)
        if evaluation is None and not self.recipe.two_turn:
            return None
        revision = await self.revised(worked, attempt, evaluation, self.recipe.revisions)
        rest = Rest(Verdict.WRONG, evaluation, revision)
        return Candidate(Kind.D1, worked.base, attempt, rest) if revision else None

    async def d2(self, worked: Worked, attempt: Draw) -> Candidate | None:
        """Right attempt under a false verdict, sampled where the model errs soon and stated where it does not."""
        if self.recipe.fixed and not await self.d3(worked, attempt):
            return None  # the paper revises kept pairs only
        evaluation = await self.misjudged(worked, attempt)
        revision = await self.revised(worked, attempt, evaluation, self.recipe.confirmations)
        rest = Rest(Verdict.WRONG, evaluation, revision)
        return Candidate(Kind.D2, worked.base, attempt, rest) if revision else None

    async def d3(self, worked: Worked, attempt: Draw) -> Candidate | None:
        """Right attempt: a self-evaluation that says so."""
        evaluation = await self.judged(worked, attempt, Verdict.CORRECT, self.recipe.evaluations)
        if evaluation is None and not self.recipe.two_turn:
            return None
        return Candidate(Kind.D3, worked.base, attempt, Rest(Verdict.CORRECT, evaluation))

    async def judged(self, worked: Worked, attempt: Draw, verdict: Verdict, at_most: int) -> Draw | None:
        """Return the first self-evaluation with this verdict; none in the two-turn format, where it is stated."""
        if self.recipe.two_turn:
            return None
        draw = lambda j: self.draws.evaluation(worked.base, attempt, j)
        evaluations = await several(worked, at_most, draw, self.recipe, lambda seen: seen[-1].verdict is verdict)
        return next((evaluation for evaluation in evaluations if evaluation.verdict is verdict), None)

    async def misjudged(self, worked: Worked, attempt: Draw) -> Draw | None:
        """Return the first self-evaluation that calls a right attempt wrong; None: D2 states the verdict."""
        searched = self.recipe.evaluations if self.recipe.fixed else self.recipe.false_verdicts
        return await self.judged(worked, attempt, Verdict.WRONG, searched)

    async def revised(self, worked: Worked, attempt: Draw, evaluation: Draw | None, at_most: int) -> Draw | None:
        """Return the first correct revision after a verdict `wrong`."""
        return (await self.revisions(worked, attempt, evaluation, at_most, [Fate.RIGHT]))[Fate.RIGHT]

    async def revisions(
        self, worked: Worked, attempt: Draw, evaluation: Draw | None, at_most: int, fates: Sequence[Fate]
    ) -> dict[Fate, Draw | None]:
        """Return the first revision of each fate after a verdict `wrong`."""
        first = lambda fate, seen: next((revision for revision in seen if revision.fate is fate), None)
        draw = lambda j: self.draws.revision(worked.base, attempt, evaluation, j)
        seen = await several(worked, at_most, draw, self.recipe, lambda seen: all(first(fate, seen) for fate in fates))
        return {fate: first(fate, seen) for fate in fates}


class PreferencePairs:
    """METHOD section 3 for one base sample: two ways on from one attempt, of which the first is better.

    The draws are those of D1, D2 and D3, so many stand in the journals already. In long-CoT both self-evaluations of
    P3 must have been sampled: a bare mark beside a reasoned one would teach the length, not the verdict.
    """

    def __init__(self, recipe: GenRecipe, draws: Draws) -> None:
        self.recipe, self.rejection = recipe, SequentialRejection(recipe, draws)

    async def __call__(self, base: Base, wants: Wants) -> Worked:
        """Return the pair of a base sample, of the first kind that is wanted and suits its attempt."""
        attempt = await self.rejection.draws.attempt(base)
        worked = Worked(base, {attempt.key: attempt})
        if attempt.fate not in (Fate.WRONG, Fate.RIGHT):
            return worked
        of_revisions = Kind.P1 if attempt.fate is Fate.WRONG else Kind.P2
        for kind in preference(base, self.recipe.pair_quotas, self.recipe.seed, of_revisions, Kind.P3):
            if await wants(kind, base):
                worked.tried.append(kind)
                pair = await (self.p3 if kind is Kind.P3 else self.p1_or_p2)(worked, attempt)
                if pair:
                    assert pair.rejected
                    assert pair_of(attempt.fate, pair.rest, pair.rejected) is kind
                    worked.found.append(pair)
                break
        return worked

    async def p1_or_p2(self, worked: Worked, attempt: Draw) -> Candidate | None:
        """One self-evaluation that says wrong, then a right and a wrong revision."""
        wrong = attempt.fate is Fate.WRONG
        at_most = self.recipe.revisions if wrong else self.recipe.confirmations
        evaluation = await self.called_wrong(worked, attempt)
        if wrong and evaluation is None and not self.recipe.two_turn:
            return None
        both = await self.rejection.revisions(worked, attempt, evaluation, at_most, [Fate.RIGHT, Fate.WRONG])
        better, worse = (Rest(Verdict.WRONG, evaluation, both[fate]) for fate in (Fate.RIGHT, Fate.WRONG))
        kind = Kind.P1 if wrong else Kind.P2
        return Candidate(kind, worked.base, attempt, better, worse) if better.revision and worse.revision else None

    async def p3(self, worked: Worked, attempt: Draw) -> Candidate | None:
        """The true verdict and what follows it over the false one and what follows it."""
        wrong = attempt.fate is Fate.WRONG
        accepts = await self.rejection.judged(worked, attempt, Verdict.CORRECT, self.recipe.evaluations)
        rejects = await self.called_wrong(worked, attempt) if accepts or self.recipe.two_turn else None
        if not rejects and not self.recipe.two_turn:
            return None
        at_most = self.recipe.revisions if wrong else self.recipe.confirmations
        fate = Fate.RIGHT if wrong else Fate.WRONG
        revision = (await self.rejection.revisions(worked, attempt, rejects, at_most, [fate]))[fate]
        if not revision:
            return None
        goes_on, stops = Rest(Verdict.WRONG, rejects, revision), Rest(Verdict.CORRECT, accepts)
        return Candidate(Kind.P3, worked.base, attempt, *((goes_on, stops) if wrong else (stops, goes_on)))

    async def called_wrong(self, worked: Worked, attempt: Draw) -> Draw | None:
        """Return the self-evaluation that D1 or D2 revises after."""
        if attempt.fate is Fate.WRONG:
            return await self.rejection.judged(worked, attempt, Verdict.WRONG, self.recipe.evaluations)
        return await self.rejection.misjudged(worked, attempt)


class BlindRevision:
    """The data of STaR/RAFT for self-correction: correct revisions of attempts that nobody judged."""

    def __init__(self, recipe: GenRecipe, draws: Draws) -> None:
        self.recipe, self.draws = recipe, draws

    async def __call__(self, base: Base, wants: Wants) -> Worked:
        """Return the distinct correct revisions of one attempt, up to ``blind_per_attempt`` where it is wrong."""
        attempt = await self.draws.attempt(base)
        worked = Worked(base, {attempt.key: attempt})
        if attempt.fate is Fate.WRONG:
            kind, at_most, rows = Kind.RAFT, self.recipe.revisions, self.recipe.blind_per_attempt
        else:
            kind, at_most, rows = Kind.RAFT_PLUS, self.recipe.confirmations, 1
        if attempt.fate not in (Fate.WRONG, Fate.RIGHT) or not await wants(kind, base):
            return worked
        worked.tried.append(kind)

        def right(seen: Sequence[Draw]) -> list[Draw]:
            return list({draw.text: draw for draw in reversed(seen) if draw.fate is Fate.RIGHT}.values())[::-1]

        draw = lambda j: self.draws.blind_revision(base, attempt, j)
        seen = await several(worked, at_most, draw, self.recipe, lambda seen: len(right(seen)) >= rows)
        worked.found += [Candidate(kind, base, attempt, Rest(None, None, revision)) for revision in right(seen)[:rows]]
        return worked


class JudgedRevision:
    """The same data where blind revision hardly ever mends: a judged revision, its self-evaluation left out.

    The draws are those of D1 and D2, so most stand in the journals already.
    """

    def __init__(self, recipe: GenRecipe, draws: Draws) -> None:
        self.rejection = SequentialRejection(recipe, draws)

    async def __call__(self, base: Base, wants: Wants) -> Worked:
        """Return the revision of D1 or D2 as a baseline's row."""
        attempt = await self.rejection.draws.attempt(base)
        worked = Worked(base, {attempt.key: attempt})
        if attempt.fate not in (Fate.WRONG, Fate.RIGHT):
            return worked
        kind = Kind.RAFT if attempt.fate is Fate.WRONG else Kind.RAFT_PLUS
        if await wants(kind, base):
            worked.tried.append(kind)
            revise = self.rejection.d1 if kind is Kind.RAFT else self.rejection.d2
            if found := await revise(worked, attempt):
                worked.found.append(Candidate(kind, base, attempt, Rest(None, None, found.rest.revision)))
        return worked


async def several(
    worked: Worked,
    at_most: int,
    draw: Callable[[int], Any],
    recipe: GenRecipe,
    enough: Callable[[Sequence[Draw]], bool],
) -> list[Draw]:
    """Return samples 0, 1, … of a part: all of them at once (fixed), or one by one until there are enough."""
    if recipe.fixed:
        seen: list[Draw] = await asyncio.gather(*(draw(j) for j in range(at_most)))
    else:
        seen = []
        while len(seen) < at_most and not (seen and enough(seen)):
            seen.append(await draw(len(seen)))
    worked.draws |= {sample.key: sample for sample in seen}
    return seen
