"""Stage 1 data: sequential rejection sampling of self-correction paths (METHOD section 2).

    selfcorrect gen embedded --run runs/demo
    selfcorrect gen smollm2-gsm8k --run runs/smollm2 quota.d1=50

Reads problems and a model; writes ``<run>/gen/`` (every sample, journalled), ``<run>/data/sft/*.jsonl`` (training
rows, with a card beside each) and ``<run>/data/prompts.jsonl`` (further problems, for RL). Re-running resumes.

Differs from the paper: no barrier between attempts, self-evaluations and revisions; and where
``schedule: adaptive``, a part is sampled one by one until one serves, and only for classes whose quota is open.
The first that serves, in order of index, is distributed like any one that serves, so the rows of a class are
distributed as under ``schedule: fixed``, which draws exactly N1, N2, M1 and M2 samples.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from data_gen.ahead import Wants, Work, Worked, in_order
from data_gen.asking import Asking, load_examples
from data_gen.datasets import baseline_rows, write_prompts, write_sft
from data_gen.draws import Draws, GradeMany, Sampling
from data_gen.selection import VERDICTS, Base, Candidate, Draw, Fate, Kind, Selection, balanced, class_of, preference
from selfcorrect import prompts
from selfcorrect.engines import Engine, EngineRecipe, open_engine
from selfcorrect.errors import RecipeError
from selfcorrect.problems import Loaded, ProblemsRecipe, load_problems
from selfcorrect.progress import Meter, meters
from selfcorrect.recipes import to_values, to_yaml
from selfcorrect.runs import is_done, mark_done, stage_folder
from selfcorrect.tokens import ChatCodec
from selfcorrect.types import Grade, Problem, Verdict

# --- recipe -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Quota:
    """How many rows of each class; null: all that are found."""

    d1: int | None = None  # wrong, judged wrong, corrected
    d2: int | None = None  # right, judged wrong, right again
    d3: int | None = None  # right, judged right


@dataclass(frozen=True, slots=True)
class GenRecipe:
    """Settings of stage 1's data."""

    engine: EngineRecipe = field(default_factory=EngineRecipe)
    problems: ProblemsRecipe = field(default_factory=ProblemsRecipe)  # sampled from
    prompts: int = 0  # further problems of the same source, set aside for RL
    format: Literal["long-cot", "two-turn"] = "long-cot"  # two-turn: the checker gives the verdicts
    schedule: Literal["adaptive", "fixed"] = "adaptive"  # fixed: exactly the four numbers below
    attempts: int = 50  # N1: attempts per problem, at most
    evaluations: int = 8  # N2: self-evaluations per attempt, at most
    revisions: int = 8  # M1: revisions per wrong attempt, at most
    confirmations: int = 4  # M2: revisions per right attempt that is called wrong, at most
    false_verdicts: int = 2  # adaptive D2: self-evaluations drawn in search of a false verdict before it is stated
    quota: Quota = field(default_factory=Quota)
    cap_per_problem: int | None = 4  # rows of one class from one problem, at most
    balance: float | None = 2.0  # rows with a right first attempt per row with a wrong one, at most, and the reverse
    baselines: bool = False  # sample the blind revisions of STaR/RAFT and RAFT+ too, as many rows
    baseline_revisions: Literal["blind", "judged"] = "blind"  # asked for by INTRINSIC, or after a self-evaluation
    blind_per_attempt: int = 2  # of these, distinct revisions of one wrong attempt, at most
    examples: str = ""  # worked chats to show while sampling: "gsm8k" or a .yaml file
    temperature: float = 1.0  # of every part
    top_p: float = 1.0
    max_tokens: int = 1024  # of one part
    in_flight: int | None = None  # base samples under way; null: 1.5 x engine.max_batch
    seed: int = 0  # of every sample

    def __post_init__(self) -> None:
        for name in ("attempts", "evaluations", "revisions", "confirmations", "blind_per_attempt", "max_tokens"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.prompts and self.problems.count is None:
            raise RecipeError("prompts: needs problems.count, so that some problems are left for RL")
        if self.balance is not None and self.balance < 1:
            raise RecipeError(f"balance: expected a ratio of at least 1, or null, got {self.balance}")

    @property
    def fixed(self) -> bool:
        """True for the paper's schedule."""
        return self.schedule == "fixed"

    @property
    def two_turn(self) -> bool:
        """True for the two-turn chat format."""
        return self.format == "two-turn"

    @property
    def quotas(self) -> dict[Kind, int | None]:
        """The quotas by class."""
        return {Kind.D1: self.quota.d1, Kind.D2: self.quota.d2, Kind.D3: self.quota.d3}

    @property
    def at_once(self) -> int:
        """Base samples under way: enough that some wait whenever a place in the engine's batch falls free."""
        return self.in_flight or self.engine.max_batch * 3 // 2


# --- the algorithm ------------------------------------------------------------------------------------------------


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
                final = candidate.revision.fate if candidate.revision else None
                assert class_of(attempt.fate, VERDICTS[kind], final) is kind
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
        return Candidate(Kind.D1, worked.base, attempt, evaluation, revision) if revision else None

    async def d2(self, worked: Worked, attempt: Draw) -> Candidate | None:
        """Right attempt under a false verdict, sampled where the model errs soon and stated where it does not."""
        if self.recipe.fixed and not await self.d3(worked, attempt):
            return None  # the paper revises kept pairs only
        searched = self.recipe.evaluations if self.recipe.fixed else self.recipe.false_verdicts
        evaluation = await self.judged(worked, attempt, Verdict.WRONG, searched)
        revision = await self.revised(worked, attempt, evaluation, self.recipe.confirmations)
        return Candidate(Kind.D2, worked.base, attempt, evaluation, revision) if revision else None

    async def d3(self, worked: Worked, attempt: Draw) -> Candidate | None:
        """Right attempt: a self-evaluation that says so."""
        evaluation = await self.judged(worked, attempt, Verdict.CORRECT, self.recipe.evaluations)
        if evaluation is None and not self.recipe.two_turn:
            return None
        return Candidate(Kind.D3, worked.base, attempt, evaluation)

    async def judged(self, worked: Worked, attempt: Draw, verdict: Verdict, at_most: int) -> Draw | None:
        """Return the first self-evaluation with this verdict; none in the two-turn format, where it is stated."""
        if self.recipe.two_turn:
            return None
        draw = lambda j: self.draws.evaluation(worked.base, attempt, j)
        evaluations = await several(worked, at_most, draw, self.recipe, lambda seen: seen[-1].verdict is verdict)
        return next((evaluation for evaluation in evaluations if evaluation.verdict is verdict), None)

    async def revised(self, worked: Worked, attempt: Draw, evaluation: Draw | None, at_most: int) -> Draw | None:
        """Return the first correct revision after a verdict `wrong`."""
        said = evaluation.token_ids if evaluation else self.draws.asking.stated(Verdict.WRONG)
        draw = lambda j: self.draws.revision(worked.base, attempt, said, j)
        revisions = await several(worked, at_most, draw, self.recipe, lambda seen: seen[-1].fate is Fate.RIGHT)
        return next((revision for revision in revisions if revision.fate is Fate.RIGHT), None)


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
        worked.found += [Candidate(kind, base, attempt, revision=revision) for revision in right(seen)[:rows]]
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
                worked.found.append(Candidate(kind, base, attempt, revision=found.revision))
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


def base_samples(problems: Sequence[Problem], attempts: int) -> Iterator[Base]:
    """Yield the identities of all base samples in sampling order: every problem once, then every problem again."""
    for index in range(attempts):
        for number, problem in enumerate(problems):
            yield Base(problem, number, index, index * len(problems) + number)


# --- the stage ----------------------------------------------------------------------------------------------------


def run(
    recipe: GenRecipe,
    run_folder: Path,
    *,
    engine: Engine | None = None,
    codec: ChatCodec | None = None,
    grade: GradeMany | None = None,
) -> dict[str, Any]:
    """Sample, select and write the data sets; return the summary, which is also shown and saved as ``gen/DONE``.

    ``engine``, ``codec`` and ``grade`` default to the recipe's model and the library's grader. A finished folder
    is only read. Raises SelfCorrectError; Ctrl-C passes through, and the next run resumes.
    """
    with stage_folder(run_folder / "gen", recipe) as folder:
        if is_done(folder):
            finished: dict[str, Any] = json.loads((folder / "DONE").read_text(encoding="utf-8"))
            return finished
        loaded, set_aside = load(recipe)
        codec = codec or ChatCodec.load(recipe.engine.model)
        examples = load_examples(recipe.examples)
        started = time.perf_counter()
        gathered = asyncio.run(
            _sample(recipe, loaded.problems, folder, Asking(codec, examples, recipe.two_turn), engine, grade)
        )
        summary = _write(recipe, loaded, set_aside, gathered, codec, run_folder / "data")
        summary["seconds"] = round(time.perf_counter() - started, 1)
        mark_done(folder, summary)
        Console().print(show(summary))
        return summary


def load(recipe: GenRecipe) -> tuple[Loaded, list[Problem]]:
    """Return the problems to sample from, and those set aside for RL: of one source, with no question in common."""
    count = recipe.problems.count
    if count is None:
        return load_problems(recipe.problems), []
    loaded = load_problems(replace(recipe.problems, count=count + recipe.prompts))
    return replace(loaded, problems=loaded.problems[:count]), loaded.problems[count:]


@dataclass(slots=True)
class Gathered:
    """What sampling gave: the kept candidates, and counts of the samples that the data set rests on (``used``)."""

    kept: list[Candidate] = field(default_factory=list)
    blind: list[Candidate] = field(default_factory=list)
    used: dict[str, Counter[str]] = field(default_factory=dict)
    drawn: Counter[str] = field(default_factory=Counter)  # samples of this run, by stage, used or not
    tokens: Counter[str] = field(default_factory=Counter)
    resumed: int = 0  # samples that an earlier, interrupted run had drawn
    counted: set[str] = field(default_factory=set)  # keys of the samples in ``used``: the baselines share some

    def count(self, worked: Worked) -> None:
        """Add one committed base sample to the counts."""
        fate = next(draw.fate for draw in worked.draws.values() if draw.stage == "attempts")
        for draw in worked.draws.values():
            if draw.key not in self.counted:
                self._stage(draw.stage)[_outcome(draw, fate)] += 1
                self.counted.add(draw.key)
        for kind in worked.tried:
            self._stage(str(kind))["tried"] += 1
            self._stage(str(kind))["served"] += any(candidate.kind is kind for candidate in worked.found)

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


def _outcome(draw: Draw, attempt: Fate | None) -> str:
    if draw.stage != "evaluations":
        return str(draw.fate)
    if draw.verdict is None:
        return "no well-formed mark"
    agrees = (draw.verdict is Verdict.CORRECT) == (attempt is Fate.RIGHT)
    return "agrees with the grade" if agrees else "disagrees with the grade"


async def _sample(
    recipe: GenRecipe,
    problems: Sequence[Problem],
    folder: Path,
    asking: Asking,
    engine: Engine | None,
    grade: GradeMany | None,
) -> Gathered:
    """Run the sampler, then the baselines' sampler over the same attempts."""
    own_engine = None if engine else open_engine(recipe.engine)
    sampling = Sampling(recipe.seed, recipe.temperature, recipe.top_p, recipe.max_tokens)
    gathered = Gathered()
    bases = lambda: base_samples(problems, recipe.attempts)
    try:
        with (
            Draws(folder, engine or own_engine, asking, sampling, grade or _library_grader()) as draws,  # type: ignore[arg-type]
            _board(recipe, len(problems)) as board,
        ):
            gathered.drawn, gathered.tokens, gathered.resumed = draws.drawn, draws.tokens, board.watch(draws)
            selection = Selection(recipe.quotas, recipe.cap_per_problem)

            def commit(worked: Worked) -> None:
                gathered.count(worked)
                board.kept("rows", len(selection.offer(worked.found)), selection)

            await in_order(bases, SequentialRejection(recipe, draws), selection, commit, recipe.at_once, recipe.fixed)
            gathered.kept = balanced(selection.kept, recipe.balance)
            if not recipe.baselines:
                return gathered

            rows = len(gathered.kept)
            cap = recipe.cap_per_problem and recipe.cap_per_problem * recipe.blind_per_attempt
            blind = Selection({Kind.RAFT: rows, Kind.RAFT_PLUS: rows // 2}, cap, recipe.blind_per_attempt)

            def commit_blind(worked: Worked) -> None:
                gathered.count(worked)
                board.kept("baseline rows", len(blind.offer(worked.found)), blind)

            judged = recipe.baseline_revisions == "judged"
            work: Work = JudgedRevision(recipe, draws) if judged else BlindRevision(recipe, draws)
            await in_order(bases, work, blind, commit_blind, recipe.at_once, recipe.fixed)
            gathered.blind = blind.kept
            return gathered
    finally:
        if own_engine:
            await own_engine.close()


def _library_grader() -> GradeMany:
    from selfcorrect.grading import grade_many

    def grade(pairs: Sequence[tuple[str, str]], source: str) -> Sequence[Grade]:
        return grade_many(pairs, source=source)

    return grade


def _write(
    recipe: GenRecipe,
    loaded: Loaded,
    set_aside: Sequence[Problem],
    gathered: Gathered,
    codec: ChatCodec,
    folder: Path,
) -> dict[str, Any]:
    """Write the data sets with their cards, and return the summary."""
    card: dict[str, Any] = {
        "model": recipe.engine.model,
        "tokenizer": codec.fingerprint(),
        "prompts": prompts.fingerprint(),
        "recipe": to_values(recipe),
        "problems": {"sampled from": len(loaded.problems), "dropped": dict(loaded.dropped)},
        "samples": gathered.acceptance(),
    }
    sets = {"self-rewarding": gathered.kept}
    if recipe.baselines:
        sets |= baseline_rows(gathered.blind, len(gathered.kept))
    rows = {
        name: write_sft(folder / "sft", name, candidates, codec, recipe.two_turn, card)
        for name, candidates in sets.items()
    }
    if recipe.prompts:
        rows["prompts"] = write_prompts(folder / "prompts.jsonl", set_aside)
    classes = Counter({str(kind): 0 for kind in recipe.quotas})
    classes.update(str(candidate.kind) for candidate in gathered.kept)
    asked = {str(kind): quota for kind, quota in recipe.quotas.items() if quota is not None}
    asked |= {name: len(gathered.kept) for name in sets if name != "self-rewarding"}
    asked |= {"prompts": recipe.prompts} if recipe.prompts else {}
    got = {**classes, **rows}
    return {
        "rows": rows,
        "classes": dict(sorted(classes.items())),
        "short": {name: wanted - got.get(name, 0) for name, wanted in asked.items() if got.get(name, 0) < wanted},
        "problems": card["problems"],
        "samples": card["samples"],
        "drawn": {"samples": dict(gathered.drawn), "tokens": dict(gathered.tokens), "resumed": gathered.resumed},
    }


# --- what the user sees -------------------------------------------------------------------------------------------


class Board:
    """Live progress: samples by stage with tokens a second, rows by class against their quotas."""

    def __init__(self, meters_by_name: dict[str, Meter]) -> None:
        self._meters = meters_by_name
        self._tokens, self._started = 0, time.perf_counter()

    def watch(self, draws: Draws) -> int:
        """Follow the samples as they come; return how many an earlier run had drawn."""
        draws.seen = self.seen
        for stage, journal in draws.journals.items():
            if stage in self._meters:
                self._meters[stage].advance(len(journal.rows))
        return sum(len(journal.rows) for journal in draws.journals.values())

    def seen(self, stage: str, tokens: int) -> None:
        """Count one new sample."""
        self._tokens += tokens
        rate = self._tokens / (time.perf_counter() - self._started)
        self._meters[stage].advance(note=f"{rate:,.0f} tokens/s" if stage == "attempts" else None)

    def kept(self, name: str, rows: int, selection: Selection) -> None:
        """Show what is kept, by class."""
        quotas = [f"{kind} {selection.counts[kind]}/{quota or '-'}" for kind, quota in selection.quota.items()]
        known = [quota for quota in selection.quota.values() if quota is not None]
        total = sum(known) if len(known) == len(selection.quota) else None
        self._meters[name].advance(rows, note=" · ".join(quotas), total=total)


@contextmanager
def _board(recipe: GenRecipe, problems: int) -> Iterator[Board]:
    labels = ["attempts", *([] if recipe.two_turn else ["evaluations"]), "revisions", "rows"]
    labels += ["blind", "baseline rows"] if recipe.baselines else []
    totals = {"attempts": problems * recipe.attempts if recipe.fixed else None}
    with meters(*((label, totals.get(label)) for label in labels)) as shown:
        yield Board(dict(zip(labels, shown, strict=True)))


def show(summary: dict[str, Any]) -> RenderableType:
    """Return a finished run's summary as tables."""
    stages = Table("stage or class", "samples or tries", "served", "what became of them", title="sampling")
    for name, counts in summary["samples"].items():
        outcomes = {key: value for key, value in counts.items() if key not in ("acceptance", "tried", "served")}
        total = counts.get("tried") or sum(outcomes.values())
        text = ", ".join(f"{value:,} {key}" for key, value in outcomes.items())
        stages.add_row(name, f"{total:,}", f"{counts['acceptance']:.1%}", text)
    rows = Table("data set", "rows", "short of the recipe", title="written")
    for name, count in {**summary["rows"], **summary["classes"]}.items():
        rows.add_row(name, f"{count:,}", f"{summary['short'][name]:,}" if name in summary["short"] else "")
    tokens, samples = sum(summary["drawn"]["tokens"].values()), sum(summary["drawn"]["samples"].values())
    line = f"{samples:,} samples, {tokens:,} tokens in {summary['seconds']:.0f} s"
    resumed = f" (and {summary['drawn']['resumed']:,} samples of an earlier run)" if summary["drawn"]["resumed"] else ""
    dropped = "".join(f"; {count:,} × {reason}" for reason, count in summary["problems"]["dropped"].items())
    return Group(stages, rows, f"{line}{resumed}; {summary['problems']['sampled from']:,} problems{dropped}")


def plan(recipe: GenRecipe, run_folder: Path = Path("runs/default")) -> RenderableType:
    """Return what a run would do: the resolved recipe, the first prompt of each part, bounds on samples and tokens."""
    loaded, set_aside = load(recipe)
    codec = ChatCodec.load(recipe.engine.model)
    asking = Asking(codec, load_examples(recipe.examples), recipe.two_turn)
    question = loaded.problems[0].question
    attempt, evaluation = codec.encode("<the attempt>"), codec.encode("<the self-evaluation>")
    first = {
        "attempt": asking.attempt(question),
        "self-evaluation": asking.evaluation(question, attempt),
        "revision": asking.revision(question, attempt, asking.stated(Verdict.WRONG) if recipe.two_turn else evaluation),
        "blind revision": asking.blind_revision(question, attempt),
    }
    skipped = {"self-evaluation"} if recipe.two_turn else set()
    skipped |= set() if recipe.baselines else {"blind revision"}
    bounds = Table("stage", "at most", title=f"samples ({recipe.schedule} schedule)")
    for stage, count in most_samples(recipe, len(loaded.problems)).items():
        bounds.add_row(stage, f"{count:,}")
    tokens = sum(most_samples(recipe, len(loaded.problems)).values()) * recipe.max_tokens
    return Group(
        Panel(Syntax(to_yaml(recipe), "yaml"), title="recipe"),
        *(
            Panel(Text(codec.decode(ids)), title=f"first prompt: {part} ({len(ids)} tokens)")
            for part, ids in first.items()
            if part not in skipped
        ),
        bounds,
        f"{len(loaded.problems):,} problems to sample from, {len(set_aside):,} set aside for RL; "
        f"writes {run_folder / 'gen'} and {run_folder / 'data'}; at most {tokens:,} tokens"
        + ("" if recipe.fixed else " (adaptive sampling ends as soon as the quotas are met: usually a small part)"),
    )


def most_samples(recipe: GenRecipe, problems: int) -> dict[str, int]:
    """Return how many samples each stage draws at most: under the fixed schedule, if every attempt were wrong."""
    attempts = problems * recipe.attempts
    revisions = max(recipe.revisions, recipe.confirmations)
    most = {"attempts": attempts, "evaluations": 0 if recipe.two_turn else attempts * recipe.evaluations}
    most["revisions"] = attempts * revisions
    return most | ({"blind revisions": attempts * revisions} if recipe.baselines else {})
