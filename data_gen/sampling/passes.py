"""Sampling: the passes over the base samples, and the counts of what they gave.

Three passes share one set of samples: rows of D1, D2 and D3; preference pairs, where the recipe asks for some; the
baselines' rows, where it asks for them. A later pass begins with the base samples of the first, whose attempts (and
most of whose later parts) are sampled already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

from selfcorrect.chat import ChatCodec
from selfcorrect.data_gen.classes import (
    BaseSample,
    BaseSampleResult,
    Candidate,
    Claim,
    Kind,
    PartOutcome,
    SampledPart,
    Selection,
    balanced,
    chosen_by_hash,
)
from selfcorrect.data_gen.recipe import GenRecipe
from selfcorrect.data_gen.sampling.lookahead import Work, in_order
from selfcorrect.data_gen.sampling.order import Order
from selfcorrect.data_gen.sampling.rejection import (
    CorrectAttempt,
    JudgedRevision,
    PreferencePairs,
    SequentialRejection,
    UnjudgedRevision,
)
from selfcorrect.data_gen.sampling.requests import RequestBuilder, load_examples
from selfcorrect.data_gen.sampling.samples import GradeMany, PartSampler, PromptedModel, SamplingSettings
from selfcorrect.engines import Engine, EngineRecipe, open_engine
from selfcorrect.problems import Loaded, load_problems
from selfcorrect.types import Problem, Verdict


@dataclass(slots=True)
class GatheredRows:
    """What sampling gave: the kept candidates, and counts of the samples that the data sets rest on (``used``)."""

    kept: list[Candidate] = field(default_factory=list)
    pairs: list[Candidate] = field(default_factory=list)
    baselines: list[Candidate] = field(default_factory=list)
    used: dict[str, Counter[str]] = field(default_factory=dict)  # by stage and by class: how many became what
    tried: Counter[tuple[Kind, str]] = field(default_factory=Counter)  # samples that the tries of a class took
    used_tokens: Counter[str] = field(default_factory=Counter)  # by stage
    passed: dict[int, Counter[str]] = field(default_factory=dict)  # outcomes of attempts, by problem's number
    first_revisions: dict[str, Counter[str]] = field(default_factory=dict)  # after "wrong", by the attempt's outcome
    sampled: Counter[str] = field(default_factory=Counter)  # samples of this run, by stage, used or not
    tokens: Counter[str] = field(default_factory=Counter)  # of the same
    resumed: int = 0  # samples that an earlier, interrupted run had recorded
    resumed_tokens: int = 0  # of these, as they are kept
    _counted: set[str] = field(default_factory=set)  # keys of the samples in ``used``: the passes share some

    def count(self, result: BaseSampleResult) -> None:
        """Add one committed base sample to the counts."""
        new = [part for part in result.parts.values() if part.key not in self._counted]
        self._counted.update(part.key for part in new)
        for part in new:
            self._stage(part.stage)[counted_as(part, result.outcome)] += 1
            self.used_tokens[part.stage] += len(part.token_ids)
            if part.stage == "attempts":
                self.passed.setdefault(result.base.number, Counter())[result.outcome] += 1
            if part.key.endswith("/revision/0"):
                self.first_revisions.setdefault(str(result.outcome), Counter())[str(part.outcome)] += 1
        for kind in result.tried:
            self._stage(str(kind))["tried"] += 1
            self._stage(str(kind))["served"] += any(candidate.kind is kind for candidate in result.found)
            self.tried.update((kind, part.stage) for part in result.parts.values() if part.stage != "attempts")

    def acceptance(self) -> dict[str, dict[str, float]]:
        """Return the counts of every stage and class, with the share of samples or tries that were accepted."""
        rates: dict[str, dict[str, float]] = {}
        for name, counts in sorted(self.used.items()):
            good = counts["served"] + counts["right"] + counts["agrees with the grade"]
            total = counts["tried"] or sum(counts.values())
            rates[name] = {**dict(sorted(counts.items())), "acceptance": round(good / total, 4)}
        return rates

    def _stage(self, name: str) -> Counter[str]:
        return self.used.setdefault(name, Counter())


def counted_as(part: SampledPart, attempt: PartOutcome) -> str:
    """Return what a part counts as: the outcome of a solution, or how a verdict compares with the attempt's grade."""
    if part.stage != "evaluations" or part.outcome is not None:  # of an evaluation: nothing was sampled
        return str(part.outcome)
    if part.verdict is None:
        return "no well-formed mark"
    agrees = (part.verdict is Verdict.CORRECT) == (attempt is PartOutcome.CORRECT)
    return "agrees with the grade" if agrees else "disagrees with the grade"


class ProgressListener:
    """What a display may want to know while sampling; this one shows nothing."""

    def opened(self, gathered: GatheredRows, resumed: Mapping[str, int]) -> None:
        """The journals are open: so many samples of each stage are recorded already. ``gathered`` will grow."""

    def begins(self, rows: str, selection: Selection[Candidate]) -> None:
        """A pass begins that fills this selection."""

    def seen(self, stage: str, tokens: int) -> None:
        """A new sample was recorded."""

    def committed(self, taken: int) -> None:
        """A base sample was decided and gave so many rows."""


@dataclass(frozen=True, slots=True)
class Models:
    """Who samples: the model, and where the recipe has one, the teacher that writes the revisions."""

    model: PromptedModel
    teacher: PromptedModel | None = None


ModelOverride = tuple[Engine | None, ChatCodec | None]
"""An engine and a codec to use in place of the recipe's; None: the recipe's."""


@asynccontextmanager
async def open_models(
    recipe: GenRecipe, model: ModelOverride = (None, None), teacher: ModelOverride | None = None
) -> AsyncIterator[Models]:
    """Load the models of a recipe, except what is given, and close what was opened here."""
    examples = load_examples(recipe.examples)
    opened: list[Engine] = []

    def prompted(of: EngineRecipe, engine: Engine | None, codec: ChatCodec | None) -> PromptedModel:
        in_path = recipe.in_path and of is recipe.engine  # a teacher is asked for each part
        builder = RequestBuilder(codec or ChatCodec.load(of.model, of.thinking), examples, recipe.two_turn, in_path)
        if engine is None:
            opened.append(engine := open_engine(of))
        return PromptedModel(engine, builder)

    try:
        teaches = prompted(recipe.teacher, *(teacher or (None, None))) if recipe.teacher else None
        yield Models(prompted(recipe.engine, *model), teaches)
    finally:
        for own in opened:
            await own.close()


async def sample(
    recipe: GenRecipe,
    problems: Sequence[Problem],
    folder: Path,
    models: Models,
    grade: GradeMany | None = None,
    listener: ProgressListener | None = None,
) -> GatheredRows:
    """Run the passes over ``problems``, with journals in ``folder``; resumes where they hold samples already."""
    listener, gathered = listener or ProgressListener(), GatheredRows()
    settings = SamplingSettings(recipe.seed, recipe.temperature, recipe.top_p, recipe.max_tokens)
    with PartSampler(
        folder, models.model, settings, grade or library_grader(), models.teacher, listener.seen
    ) as sampler:
        gathered.sampled, gathered.tokens = sampler.sampled, sampler.tokens
        resumed = {stage: len(journal.rows) for stage, journal in sampler.journals.items()}
        gathered.resumed = sum(resumed.values())
        gathered.resumed_tokens = sum(
            len(row.get("token_ids", ())) + len(row.get("after", ()))
            for journal in sampler.journals.values()
            for row in journal.rows.values()
        )
        listener.opened(gathered, resumed)
        await Passes(recipe, problems, sampler, gathered, listener).run()
    return gathered


class Passes:
    """The passes of one run, one after another; `sample` makes one, and what they give is in ``gathered``."""

    def __init__(
        self,
        recipe: GenRecipe,
        problems: Sequence[Problem],
        sampler: PartSampler,
        gathered: GatheredRows,
        listener: ProgressListener,
    ) -> None:
        self.recipe, self.problems, self.sampler = recipe, problems, sampler
        self.gathered, self.listener = gathered, listener

    async def run(self) -> None:
        """Fill the rows of D1, D2 and D3, then the preference pairs and the baselines' rows that are asked for."""
        recipe, gathered, sampler = self.recipe, self.gathered, self.sampler
        rows: Selection[Candidate] = Selection(recipe.quotas, recipe.cap_per_problem, matched=recipe.is_matched)
        kept, visited = await self.fill("rows", rows, SequentialRejection(recipe, sampler))
        gathered.kept = balanced(kept, recipe.balance, recipe.is_matched)
        if recipe.wants_pairs:
            pairs: Selection[Candidate] = Selection(recipe.pair_quotas, recipe.cap_per_problem)
            found, _ = await self.fill("pairs", pairs, PreferencePairs(recipe, sampler), visited)
            gathered.pairs = sorted(found, key=lambda pair: pair.order)
        if recipe.baselines:
            quota: dict[Kind, int | None] = {Kind.RAFT: len(gathered.kept), Kind.RAFT_PLUS: len(gathered.kept) // 2}
            cap = recipe.cap_per_problem and recipe.cap_per_problem * recipe.blind_per_attempt
            baselines: Selection[Candidate] = Selection(quota, cap, recipe.blind_per_attempt)
            revision = JudgedRevision if recipe.baseline_revisions == "judged" else UnjudgedRevision
            gathered.baselines, _ = await self.fill("baseline rows", baselines, revision(recipe, sampler), visited)
            attempts: Selection[Candidate] = Selection({Kind.SINGLE_TURN: len(gathered.kept)}, cap)
            found, _ = await self.fill("single-turn rows", attempts, CorrectAttempt(recipe, sampler), visited)
            gathered.baselines += found

    async def fill(
        self, name: str, selection: Selection[Candidate], work: Work, visited: Sequence[BaseSample] = ()
    ) -> tuple[list[Candidate], list[BaseSample]]:
        """Work base samples, beginning with those visited; return the rows kept, and all that were worked, in order.

        Adaptive, the selection keeps the first that it takes and ends the pass. Fixed, it only shows how far the pass
        is: everything is worked, and of what was found the rows are chosen by hash and read from the journals again.
        """
        recipe = self.recipe
        lag = recipe.at_once if recipe.steer and not recipe.fixed else None
        order = Order(self.problems, recipe.attempts, selection, lag, visited)
        worked: list[BaseSample] = []
        found: list[list[Claim]] = []
        self.listener.begins(name, selection)

        def commit(result: BaseSampleResult) -> None:
            self.gathered.count(result)
            worked.append(result.base)
            if result.found:
                found.append([Claim(candidate.kind, candidate.base) for candidate in result.found])
            before = selection.filled
            selection.offer(result.found)
            self.listener.committed(selection.filled - before)

        await in_order(order, work, selection, commit, recipe.at_once, recipe.fixed)
        if not recipe.fixed:
            return selection.rows(), worked
        chosen = chosen_by_hash(found, selection, recipe.seed)
        rows: list[Candidate] = []
        for _, claims in groupby(chosen, key=lambda claim: claim.base.id):
            rows += await _again(work, list(claims))
        return rows, worked


async def _again(work: Work, claims: Sequence[Claim]) -> list[Candidate]:
    """Return the candidates that claims of one base sample and class stand for: its parts are in the journals."""

    async def is_open(kind: Kind, base: BaseSample) -> bool:
        return True

    result = await work(claims[0].base, is_open)
    return [candidate for candidate in result.found if candidate.kind is claims[0].kind][: len(claims)]


def load(recipe: GenRecipe) -> tuple[Loaded, list[Problem]]:
    """Return the problems to sample from, and those set aside for RL: of one source, with no question in common."""
    count = recipe.problems.count
    if count is None:
        return load_problems(recipe.problems), []
    loaded = load_problems(replace(recipe.problems, count=count + recipe.prompts))
    return replace(loaded, problems=loaded.problems[:count]), loaded.problems[count:]


def library_grader() -> GradeMany:
    """Return the library's grader; it is imported where it is needed."""
    from selfcorrect.grading import grade_many

    return grade_many
