"""method.md, section 2 for one base sample: attempt → self-evaluation → revision, each sampled until one is accepted.

`passes` runs one of five over the base samples: `SequentialRejection` finds rows of D1, D2 and D3, `PreferencePairs`
pairs of P1, P2 and P3, `UnjudgedRevision` and `JudgedRevision` rows of the STaR/RAFT baselines, `CorrectAttempt` those
of single-turn STaR/RAFT. What a base sample gives depends on its identity and on the classes that are open, on nothing
else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from selfcorrect.data_gen.classes import (
    BaseSample,
    BaseSampleResult,
    Candidate,
    Continuation,
    Kind,
    PartOutcome,
    SampledPart,
    class_of,
    pair_of,
    preference,
)
from selfcorrect.data_gen.recipe import GenRecipe
from selfcorrect.data_gen.sampling.lookahead import ClassIsOpen
from selfcorrect.data_gen.sampling.samples import PartSampler
from selfcorrect.types import Verdict

GRADED = (PartOutcome.WRONG, PartOutcome.CORRECT)
"""The outcomes of an attempt that any class begins with."""


class SequentialRejection:
    """Rows of D1, D2 and D3: method.md, section 2, each part only as far as its class is open."""

    def __init__(self, recipe: GenRecipe, sampler: PartSampler) -> None:
        self.recipe, self.sampler = recipe, sampler

    async def __call__(self, base: BaseSample, is_open: ClassIsOpen) -> BaseSampleResult:
        """Return what one base sample gave: its parts, the classes tried, the candidates found."""
        attempt = await self.sampler.attempt(base)
        result = BaseSampleResult(base, {attempt.key: attempt})
        for kind in self.classes(base, attempt):
            if not await is_open(kind, base):
                continue
            result.tried.append(kind)
            candidate = await {Kind.D1: self.d1, Kind.D2: self.d2, Kind.D3: self.d3}[kind](result, attempt)
            if candidate:
                assert class_of(attempt.outcome, candidate.continuation) is kind
                result.found.append(candidate)
            if not self.recipe.fixed:
                break  # moving on to the other class only where the first failed would bias that class
        return result

    def classes(self, base: BaseSample, attempt: SampledPart) -> tuple[Kind, ...]:
        """Return the classes that a graded attempt can become a row of, in the order in which they are tried."""
        if attempt.outcome is PartOutcome.WRONG:
            return (Kind.D1,)
        if attempt.outcome is PartOutcome.CORRECT:
            return preference(base, self.recipe.quotas, self.recipe.seed)
        return ()

    async def d1(self, result: BaseSampleResult, attempt: SampledPart) -> Candidate | None:
        """Wrong attempt: a self-evaluation that says so, then a correct revision."""
        evaluation = await self.judged(result, attempt, Verdict.WRONG, self.recipe.evaluations)
        if evaluation is None and not self.recipe.two_turn:
            return None
        revision = await self.revised(result, attempt, evaluation, self.recipe.revisions)
        continuation = Continuation(Verdict.WRONG, evaluation, revision)
        return Candidate(Kind.D1, result.base, attempt, continuation) if revision else None

    async def d2(self, result: BaseSampleResult, attempt: SampledPart) -> Candidate | None:
        """Correct attempt that is judged wrong (by the model, or the mark is stated), and a correct revision."""
        if self.recipe.fixed and not await self.d3(result, attempt):
            return None  # the paper revises only attempts with a self-evaluation that agrees with the grade
        evaluation = await self.misjudged(result, attempt)
        revision = await self.revised(result, attempt, evaluation, self.recipe.confirmations)
        continuation = Continuation(Verdict.WRONG, evaluation, revision)
        return Candidate(Kind.D2, result.base, attempt, continuation) if revision else None

    async def d3(self, result: BaseSampleResult, attempt: SampledPart) -> Candidate | None:
        """Correct attempt: a self-evaluation that says so."""
        evaluation = await self.judged(result, attempt, Verdict.CORRECT, self.recipe.evaluations)
        if evaluation is None and not self.recipe.two_turn:
            return None
        return Candidate(Kind.D3, result.base, attempt, Continuation(Verdict.CORRECT, evaluation))

    async def judged(
        self, result: BaseSampleResult, attempt: SampledPart, verdict: Verdict, at_most: int
    ) -> SampledPart | None:
        """Return the first self-evaluation with this verdict; none in the two-turn format, where it is stated."""
        if self.recipe.two_turn:
            return None
        one = lambda j: self.sampler.evaluation(result.base, attempt, j)
        evaluations = await several(result, at_most, one, self.recipe, lambda seen: seen[-1].verdict is verdict)
        return next((evaluation for evaluation in evaluations if evaluation.verdict is verdict), None)

    async def misjudged(self, result: BaseSampleResult, attempt: SampledPart) -> SampledPart | None:
        """Return the first self-evaluation that judges a correct attempt wrong; None: D2 states the verdict."""
        searched = self.recipe.evaluations if self.recipe.fixed else self.recipe.false_verdicts
        return await self.judged(result, attempt, Verdict.WRONG, searched)

    async def revised(
        self, result: BaseSampleResult, attempt: SampledPart, evaluation: SampledPart | None, at_most: int
    ) -> SampledPart | None:
        """Return the first correct revision after a verdict `wrong`."""
        correct = PartOutcome.CORRECT
        return (await self.revisions(result, attempt, evaluation, at_most, [correct]))[correct]

    async def revisions(
        self,
        result: BaseSampleResult,
        attempt: SampledPart,
        evaluation: SampledPart | None,
        at_most: int,
        outcomes: Sequence[PartOutcome],
    ) -> dict[PartOutcome, SampledPart | None]:
        """Return the first revision of each outcome after a verdict `wrong`."""
        first = lambda outcome, seen: next((revision for revision in seen if revision.outcome is outcome), None)
        one = lambda j: self.sampler.revision(result.base, attempt, evaluation, j)
        enough = lambda seen: all(first(outcome, seen) for outcome in outcomes)
        seen = await several(result, at_most, one, self.recipe, enough)
        return {outcome: first(outcome, seen) for outcome in outcomes}


class PreferencePairs:
    """method.md, section 3 for one base sample: two continuations of one attempt, of which the first is better.

    The parts are those of D1, D2 and D3, so many stand in the journals already. In long-CoT both self-evaluations of
    P3 must have been sampled: a bare mark beside a reasoned one would teach the length, not the verdict.
    """

    def __init__(self, recipe: GenRecipe, sampler: PartSampler) -> None:
        self.recipe, self.rejection = recipe, SequentialRejection(recipe, sampler)

    async def __call__(self, base: BaseSample, is_open: ClassIsOpen) -> BaseSampleResult:
        """Return the pair of a base sample, of the first kind that is open and suits its attempt."""
        attempt = await self.rejection.sampler.attempt(base)
        result = BaseSampleResult(base, {attempt.key: attempt})
        if attempt.outcome not in GRADED:
            return result
        of_revisions = Kind.P1 if attempt.outcome is PartOutcome.WRONG else Kind.P2
        for kind in preference(base, self.recipe.pair_quotas, self.recipe.seed, of_revisions, Kind.P3):
            if await is_open(kind, base):
                result.tried.append(kind)
                pair = await (self.p3 if kind is Kind.P3 else self.p1_or_p2)(result, attempt)
                if pair:
                    assert pair.rejected
                    assert pair_of(attempt.outcome, pair.continuation, pair.rejected) is kind
                    result.found.append(pair)
                break
        return result

    async def p1_or_p2(self, result: BaseSampleResult, attempt: SampledPart) -> Candidate | None:
        """One self-evaluation that says wrong, then a correct and a wrong revision."""
        is_wrong = attempt.outcome is PartOutcome.WRONG
        at_most = self.recipe.revisions if is_wrong else self.recipe.confirmations
        evaluation = await self.judged_wrong(result, attempt)
        if is_wrong and evaluation is None and not self.recipe.two_turn:
            return None
        outcomes = (PartOutcome.CORRECT, PartOutcome.WRONG)
        both = await self.rejection.revisions(result, attempt, evaluation, at_most, outcomes)
        better, worse = (Continuation(Verdict.WRONG, evaluation, both[outcome]) for outcome in outcomes)
        kind = Kind.P1 if is_wrong else Kind.P2
        return Candidate(kind, result.base, attempt, better, worse) if better.revision and worse.revision else None

    async def p3(self, result: BaseSampleResult, attempt: SampledPart) -> Candidate | None:
        """The true verdict and what follows it over the false one and what follows it."""
        is_wrong = attempt.outcome is PartOutcome.WRONG
        says_correct = await self.rejection.judged(result, attempt, Verdict.CORRECT, self.recipe.evaluations)
        says_wrong = await self.judged_wrong(result, attempt) if says_correct or self.recipe.two_turn else None
        if not says_wrong and not self.recipe.two_turn:
            return None
        at_most = self.recipe.revisions if is_wrong else self.recipe.confirmations
        outcome = PartOutcome.CORRECT if is_wrong else PartOutcome.WRONG
        revision = (await self.rejection.revisions(result, attempt, says_wrong, at_most, [outcome]))[outcome]
        if not revision:
            return None
        revised, accepted = (
            Continuation(Verdict.WRONG, says_wrong, revision),
            Continuation(Verdict.CORRECT, says_correct),
        )
        both = (revised, accepted) if is_wrong else (accepted, revised)
        return Candidate(Kind.P3, result.base, attempt, *both)

    async def judged_wrong(self, result: BaseSampleResult, attempt: SampledPart) -> SampledPart | None:
        """Return the self-evaluation that D1 or D2 revises after."""
        if attempt.outcome is PartOutcome.WRONG:
            return await self.rejection.judged(result, attempt, Verdict.WRONG, self.recipe.evaluations)
        return await self.rejection.misjudged(result, attempt)


class UnjudgedRevision:
    """The data of STaR/RAFT for self-correction: correct revisions of attempts that nobody judged."""

    def __init__(self, recipe: GenRecipe, sampler: PartSampler) -> None:
        self.recipe, self.sampler = recipe, sampler

    async def __call__(self, base: BaseSample, is_open: ClassIsOpen) -> BaseSampleResult:
        """Return the distinct correct revisions of one attempt, up to ``blind_per_attempt`` where it is wrong."""
        attempt = await self.sampler.attempt(base)
        result = BaseSampleResult(base, {attempt.key: attempt})
        if attempt.outcome is PartOutcome.WRONG:
            kind, at_most, rows = Kind.RAFT, self.recipe.revisions, self.recipe.blind_per_attempt
        else:
            kind, at_most, rows = Kind.RAFT_PLUS, self.recipe.confirmations, 1
        if attempt.outcome not in GRADED or not await is_open(kind, base):
            return result
        result.tried.append(kind)
        one = lambda j: self.sampler.unjudged_revision(base, attempt, j)
        seen = await several(result, at_most, one, self.recipe, lambda seen: len(distinct_correct(seen)) >= rows)
        kept = distinct_correct(seen)[:rows]
        result.found += [Candidate(kind, base, attempt, Continuation(None, None, revision)) for revision in kept]
        return result


class JudgedRevision:
    """The same data where a revision without a verdict hardly ever fixes: a judged one, its self-evaluation left out.

    The parts are those of D1 and D2, so most stand in the journals already.
    """

    def __init__(self, recipe: GenRecipe, sampler: PartSampler) -> None:
        self.rejection = SequentialRejection(recipe, sampler)

    async def __call__(self, base: BaseSample, is_open: ClassIsOpen) -> BaseSampleResult:
        """Return the revision of D1 or D2 as a baseline's row."""
        attempt = await self.rejection.sampler.attempt(base)
        result = BaseSampleResult(base, {attempt.key: attempt})
        if attempt.outcome not in GRADED:
            return result
        kind = Kind.RAFT if attempt.outcome is PartOutcome.WRONG else Kind.RAFT_PLUS
        if await is_open(kind, base):
            result.tried.append(kind)
            revise = self.rejection.d1 if kind is Kind.RAFT else self.rejection.d2
            if found := await revise(result, attempt):
                continuation = Continuation(None, None, found.continuation.revision)
                result.found.append(Candidate(kind, base, attempt, continuation))
        return result


class CorrectAttempt:
    """The data of single-turn STaR/RAFT: correct attempts and nothing after them; all of them stand in the journals."""

    def __init__(self, recipe: GenRecipe, sampler: PartSampler) -> None:
        self.sampler = sampler

    async def __call__(self, base: BaseSample, is_open: ClassIsOpen) -> BaseSampleResult:
        """Return the attempt as a row, where it is correct."""
        attempt = await self.sampler.attempt(base)
        result = BaseSampleResult(base, {attempt.key: attempt})
        if attempt.outcome is PartOutcome.CORRECT and await is_open(Kind.SINGLE_TURN, base):
            result.tried.append(Kind.SINGLE_TURN)
            result.found.append(Candidate(Kind.SINGLE_TURN, base, attempt, Continuation(None)))
        return result


def distinct_correct(revisions: Sequence[SampledPart]) -> list[SampledPart]:
    """Return the correct revisions, of those with the same text the first."""
    by_text: dict[str, SampledPart] = {}
    for revision in revisions:
        if revision.outcome is PartOutcome.CORRECT:
            by_text.setdefault(revision.text, revision)
    return list(by_text.values())


async def several(
    result: BaseSampleResult,
    at_most: int,
    one: Callable[[int], Awaitable[SampledPart]],
    recipe: GenRecipe,
    enough: Callable[[Sequence[SampledPart]], bool],
) -> list[SampledPart]:
    """Return samples 0, 1, … of a part: all of them at once (fixed), or one by one until there are enough."""
    if recipe.fixed:
        seen = list(await asyncio.gather(*(one(j) for j in range(at_most))))
    else:
        seen = []
        while len(seen) < at_most and not (seen and enough(seen)):
            seen.append(await one(len(seen)))
    result.parts |= {part.key: part for part in seen}
    return seen
