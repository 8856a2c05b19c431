"""Sampling: the passes over the base samples, and the counts of what they gave.

Three passes share one set of samples: rows of D1, D2 and D3; preference pairs, where the recipe asks for some; the
baselines' rows, where it asks for them. A later pass begins with the base samples of the first, whose attempts (and
most of whose later parts) are drawn already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from selfcorrect.data_gen.ahead import Work, in_order
from selfcorrect.data_gen.asking import Asking, load_examples
from selfcorrect.data_gen.draws import Asked, Draws, GradeMany, Sampling
from selfcorrect.data_gen.recipe import GenRecipe
from selfcorrect.data_gen.rejection import BlindRevision, JudgedRevision, PreferencePairs, SequentialRejection
from selfcorrect.data_gen.selection import Base, Candidate, Draw, Fate, Kind, Selection, Worked, balanced
from selfcorrect.data_gen.steering import Order
from selfcorrect.engines import Engine, EngineRecipe, open_engine
from selfcorrect.problems import Loaded, load_problems
from selfcorrect.tokens import ChatCodec
from selfcorrect.types import Problem, Verdict


@dataclass(slots=True)
class Gathered:
    """What sampling gave: the kept candidates, and counts of the samples that the data sets rest on (``used``)."""

    kept: list[Candidate] = field(default_factory=list)
    pairs: list[Candidate] = field(default_factory=list)
    blind: list[Candidate] = field(default_factory=list)
    used: dict[str, Counter[str]] = field(default_factory=dict)  # by stage and by class: how many became what
    tried: Counter[tuple[Kind, str]] = field(default_factory=Counter)  # samples that the tries of a class took
    used_tokens: Counter[str] = field(default_factory=Counter)  # by stage
    passed: dict[int, Counter[str]] = field(default_factory=dict)  # fates of attempts, by problem's number
    drawn: Counter[str] = field(default_factory=Counter)  # samples of this run, by stage, used or not
    tokens: Counter[str] = field(default_factory=Counter)  # of the same
    resumed: int = 0  # samples that an earlier, interrupted run had drawn
    _counted: set[str] = field(default_factory=set)  # keys of the samples in ``used``: the passes share some

    def count(self, worked: Worked) -> None:
        """Add one committed base sample to the counts."""
        new = [draw for draw in worked.draws.values() if draw.key not in self._counted]
        self._counted.update(draw.key for draw in new)
        for draw in new:
            self._stage(draw.stage)[outcome(draw, worked.fate)] += 1
            self.used_tokens[draw.stage] += len(draw.token_ids)
            if draw.stage == "attempts":
                self.passed.setdefault(worked.base.number, Counter())[worked.fate] += 1
        for kind in worked.tried:
            self._stage(str(kind))["tried"] += 1
            self._stage(str(kind))["served"] += any(candidate.kind is kind for candidate in worked.found)
            self.tried.update((kind, draw.stage) for draw in worked.draws.values() if draw.stage != "attempts")

    def acceptance(self) -> dict[str, dict[str, float]]:
        """Return the counts of every stage and class, with the share of samples or tries that served."""
        rates: dict[str, dict[str, float]] = {}
        for name, counts in sorted(self.used.items()):
            good = counts["served"] + counts["right"] + counts["agrees with the grade"]
            total = counts["tried"] or sum(counts.values())
            rates[name] = {**dict(sorted(counts.items())), "acceptance": round(good / total, 4)}
        return rates

    def _stage(self, name: str) -> Counter[str]:
        return self.used.setdefault(name, Counter())


def outcome(draw: Draw, attempt: Fate) -> str:
    """Return what a sample counts as: the fate of a solution, or how a verdict compares with the grade."""
    if draw.stage != "evaluations" or draw.fate is not None:  # an evaluation has a fate where none was sampled
        return str(draw.fate)
    if draw.verdict is None:
        return "no well-formed mark"
    agrees = (draw.verdict is Verdict.CORRECT) == (attempt is Fate.RIGHT)
    return "agrees with the grade" if agrees else "disagrees with the grade"


class Watcher:
    """What a display may want to know while sampling; this one shows nothing."""

    def opened(self, gathered: Gathered, resumed: Mapping[str, int]) -> None:
        """The journals are open: so many samples of each stage are recorded already. ``gathered`` will grow."""

    def begins(self, rows: str, selection: Selection) -> None:
        """A pass begins that fills this selection."""

    def seen(self, stage: str, tokens: int) -> None:
        """A new sample was recorded."""

    def committed(self, taken: int) -> None:
        """A base sample was decided and gave so many rows."""


@dataclass(frozen=True, slots=True)
class Models:
    """Who samples: the model, and where the recipe has one, the teacher that writes the revisions."""

    model: Asked
    teacher: Asked | None = None


Given = tuple[Engine | None, ChatCodec | None]
"""An engine and a codec to use in place of the recipe's; None: the recipe's."""


@asynccontextmanager
async def open_models(
    recipe: GenRecipe, model: Given = (None, None), teacher: Given | None = None
) -> AsyncIterator[Models]:
    """Load the models of a recipe, except what is given, and close what was opened here."""
    examples = load_examples(recipe.examples)
    opened: list[Engine] = []

    def asked(of: EngineRecipe, engine: Engine | None, codec: ChatCodec | None) -> Asked:
        in_path = recipe.in_path and of is recipe.engine  # a teacher is asked
        asking = Asking(codec or ChatCodec.load(of.model, of.thinking), examples, recipe.two_turn, in_path)
        if engine is None:
            opened.append(engine := open_engine(of))
        return Asked(engine, asking)

    try:
        teaches = asked(recipe.teacher, *(teacher or (None, None))) if recipe.teacher else None
        yield Models(asked(recipe.engine, *model), teaches)
    finally:
        for own in opened:
            await own.close()


async def sample(
    recipe: GenRecipe,
    problems: Sequence[Problem],
    folder: Path,
    models: Models,
    grade: GradeMany | None = None,
    watcher: Watcher | None = None,
) -> Gathered:
    """Run the passes over ``problems``, with journals in ``folder``; resumes where they hold samples already."""
    watcher = watcher or Watcher()
    sampling = Sampling(recipe.seed, recipe.temperature, recipe.top_p, recipe.max_tokens)
    gathered = Gathered()
    visited: list[Base] = []

    async def fill(name: str, selection: Selection, work: Work) -> list[Candidate]:
        lag = recipe.at_once if recipe.steer and not recipe.fixed else None
        order = Order(problems, recipe.attempts, selection, lag, before=tuple(visited))
        watcher.begins(name, selection)

        def commit(worked: Worked) -> None:
            gathered.count(worked)
            if name == "rows":
                visited.append(worked.base)
            watcher.committed(len(selection.offer(worked.found)))

        await in_order(order, work, selection, commit, recipe.at_once, recipe.fixed)
        return selection.kept

    with Draws(folder, models.model, sampling, grade or library_grader(), models.teacher, watcher.seen) as draws:
        gathered.drawn, gathered.tokens = draws.drawn, draws.tokens
        resumed = {stage: len(journal.rows) for stage, journal in draws.journals.items()}
        gathered.resumed = sum(resumed.values())
        watcher.opened(gathered, resumed)
        rows = Selection(recipe.quotas, recipe.cap_per_problem)
        kept = await fill("rows", rows, SequentialRejection(recipe, draws))
        gathered.kept = balanced(kept, recipe.balance)
        if recipe.wants_pairs:
            pairs = Selection(recipe.pair_quotas, recipe.cap_per_problem)
            found = await fill("pairs", pairs, PreferencePairs(recipe, draws))
            gathered.pairs = sorted(found, key=lambda pair: pair.order)
        if recipe.baselines:
            count = len(gathered.kept)
            cap = recipe.cap_per_problem and recipe.cap_per_problem * recipe.blind_per_attempt
            blind = Selection({Kind.RAFT: count, Kind.RAFT_PLUS: count // 2}, cap, recipe.blind_per_attempt)
            judged = recipe.baseline_revisions == "judged"
            work: Work = JudgedRevision(recipe, draws) if judged else BlindRevision(recipe, draws)
            gathered.blind = await fill("baseline rows", blind, work)
    return gathered


def load(recipe: GenRecipe) -> tuple[Loaded, list[Problem]]:
    """Return the problems to sample from, and those set aside for RL: of one source, with no question in common."""
    count = recipe.problems.count
    if count is None:
        return load_problems(recipe.problems), []
    loaded = load_problems(replace(recipe.problems, count=count + recipe.prompts))
    return replace(loaded, problems=loaded.problems[:count]), loaded.problems[count:]


def library_grader() -> GradeMany:
    """Return the library's grader in the form that `draws.Draws` takes."""
    from selfcorrect.grading import grade_many

    grade: GradeMany = lambda pairs, source, tolerances: grade_many(pairs, source=source, tolerance=tolerances)
    return grade
