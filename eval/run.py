"""Evaluate one method on one problem set: the correction loop, graded, scored, journalled.

    selfcorrect eval embedded row=ift engine.model=runs/demo/checkpoints/ift --run runs/demo

Reads problems and a model; writes ``<run>/eval/<row>/``: ``trajectories.jsonl`` (every trajectory, graded, with its
tokens), ``scores.json`` (one table row with n, intervals, counts, error budget, and what made it: hashes of grader,
prompts and chat template, sampling, versions). No barrier between turns: each trajectory goes on as soon as the engine
has its sample. Re-running resumes from the journal; `regrade` scores stored trajectories again.

Differs from the paper: intervals and counts beside every number, three seeds wherever temperature is not 0, and
problems whose gold the grader cannot read are dropped and counted, not scored.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.syntax import Syntax
from rich.text import Text

from selfcorrect import prompts
from selfcorrect.chat import ChatCodec, model_path
from selfcorrect.choices import check_choices
from selfcorrect.correction.judges import Judge, JudgeRecipe, open_judge
from selfcorrect.correction.loop import APPENDS_NOTHING, LoopSettings, Method, grade_trajectories, solve
from selfcorrect.correction.stop_rule import Stop, StopRule, load_rule, rule_file
from selfcorrect.engines import Engine, EngineRecipe, context_of, length_note, open_engine
from selfcorrect.errors import OUTCOMES, DataError, EngineError, InputError
from selfcorrect.eval.analysis.calibration import refuse_seen
from selfcorrect.eval.analysis.error_budget import error_budget
from selfcorrect.eval.results import (
    SCORES,
    TRAJECTORIES,
    EvalResult,
    Fingerprints,
    RowScores,
    SamplingSettings,
    default_label,
    read_journalled,
    read_result,
)
from selfcorrect.grading import grader_fingerprint
from selfcorrect.inputs import hold
from selfcorrect.metrics import score
from selfcorrect.problems import PUBLISHED_COUNTS, Loaded, ProblemsRecipe, load_problems
from selfcorrect.redaction import redacted_text
from selfcorrect.runs.compute import Compute, compute_of_model
from selfcorrect.runs.folder import (
    finished,
    is_reopened,
    locked,
    mark_done,
    plain_name,
    provenance,
    reopen,
    stage_folder,
)
from selfcorrect.runs.jsonl import Journal, read_json, write_journal, write_json
from selfcorrect.runs.progress import Meter, meter
from selfcorrect.runs.recipes import to_yaml
from selfcorrect.thinking import thinking_tokens
from selfcorrect.types import Problem, Trajectory

DEFAULT_SEEDS = (0, 1, 2)  # where temperature > 0, as in the paper's two-turn runs
TRAJECTORIES_A_PLACE = 2
"""Trajectories under way for each place in the engine's batch: enough that no place is empty, few enough that the next
message of one still finds the keys and values of its last (with 4, a third more tokens went through the model)."""
GRADED_AT_ONCE = 64  # trajectories graded and journalled together; a kill redoes at most these


@dataclass(frozen=True, slots=True)
class EvalRecipe:
    """Settings of one evaluation: one method of one model on one problem set."""

    row: str = "self-rewarding"  # folder name of this row under <run>/eval/
    label: str = ""  # the row's name in tables; "": the method, and the stop decision where it is not "sampled"
    method: Method = "self-rewarding"  # see selfcorrect.correction.loop
    engine: EngineRecipe = field(default_factory=EngineRecipe)  # what samples, from which model
    problems: ProblemsRecipe = field(default_factory=ProblemsRecipe)  # what is solved
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0  # sample from the likeliest tokens that make up this probability
    seeds: tuple[int, ...] = ()  # one trajectory per problem and seed; (): one if greedy, else DEFAULT_SEEDS
    horizon: int = 2  # attempts at most
    max_tokens: int = 512  # of one completion
    path_tokens: int | None = None  # sampled for a whole trajectory; None: max_tokens alone
    one_pass: bool = True  # long-CoT trajectories in one completion (False: stop and continue at each mark)
    stop: Stop = "sampled"  # what becomes of the model's own verdict; see selfcorrect.correction.stop_rule
    calibration: str = ""  # of stop=threshold: a calibration file; "": the one beside the model
    judge: JudgeRecipe = field(default_factory=JudgeRecipe)  # of method=judged and stop=judge

    def __post_init__(self) -> None:
        check_choices(self)
        plain_name(self.row, "row")
        if not self.label:
            object.__setattr__(self, "label", default_label(self.method, self.stop))
        if not self.seeds:
            object.__setattr__(self, "seeds", DEFAULT_SEEDS if self.temperature > 0 else (0,))
        if self.temperature == 0 and len(self.seeds) > 1:
            raise InputError("greedy trajectories do not depend on the seed: give one seed, or temperature > 0")
        needs_judge = self.method == "judged" or self.stop == "judge"
        if needs_judge != (self.judge.kind != "none"):
            raise InputError(
                "a judge goes with method=judged or stop=judge: "
                "give judge.kind (orm, self-rewarding, asked, two-turn) and judge.engine.model, or neither"
            )
        self.loop()  # refuses what does not go together before a model is loaded

    def loop(self, rule: StopRule | None = None) -> LoopSettings:
        """Return the loop's share of the settings; ``rule`` is that of ``stop=threshold``."""
        return LoopSettings(
            self.method,
            self.horizon,
            self.temperature,
            self.top_p,
            self.max_tokens,
            self.path_tokens,
            one_pass=self.one_pass,
            stop=self.stop,
            rule=rule or StopRule(),
        )

    @property
    def calibration_file(self) -> str:
        """Where ``stop=threshold`` reads its rule."""
        return self.calibration or model_path(self.engine.model)


def run(recipe: EvalRecipe, run_folder: Path) -> EvalResult:
    """Evaluate and return what ``scores.json`` holds; finished folders are only read."""
    folder = run_folder / "eval" / recipe.row
    with stage_folder(folder, recipe):
        if finished(folder) is not None:
            _hold(folder, recipe)
            return read_result(folder)
        rule = load_rule(recipe.calibration_file) if recipe.stop == "threshold" else None
        loaded = load_whole(recipe.problems)
        _hold(folder, recipe, loaded)
        if rule:
            refuse_seen(recipe.calibration_file, loaded.problems)
        codec = ChatCodec.load(recipe.engine.model, recipe.engine.thinking)
        with Journal(folder / TRAJECTORIES) as journal:
            started = time.perf_counter()
            asyncio.run(_fill(journal, recipe, rule, loaded.problems, codec))
            seconds = time.perf_counter() - started
            keys = [f"{problem.id}#{seed}" for seed in recipe.seeds for problem in loaded.problems]
            trajectories = [Trajectory.from_json(journal.rows[key]["trajectory"]) for key in keys]
        if not any(trajectory.sampled_tokens or trajectory.stop not in OUTCOMES for trajectory in trajectories):
            raise EngineError(
                f"nothing was sampled: all {len(trajectories)} requests ended as {trajectories[0].stop}; see the "
                "lengths that --dry-run shows, lower max_tokens, or ask an engine with a longer context"
            )
        result = summary(recipe, trajectories, loaded.dropped, rule)
        thinking = sum(thinking_tokens(codec, trajectory) for trajectory in trajectories) / len(trajectories)
        result = replace(
            result,
            problem_set=loaded.record(),
            thinking_tokens_per_problem=round(thinking, 1),
            compute=_compute(recipe),
            fingerprints=replace(
                result.fingerprints, template=template_fingerprint(codec), tokenizer=codec.fingerprint()
            ),
        )
        write_json(folder / SCORES, result.to_json())
        mark_done(folder, {"seconds": round(seconds, 2), "n": result.scores.n})
        return result


def _compute(recipe: EvalRecipe) -> Compute | None:
    """Return what it took to make the model, and the judge where another one judges."""
    models = [recipe.engine.model, *([recipe.judge.engine.model] if recipe.judge.kind != "none" else [])]
    found = [compute_of_model(model_path(model)) for model in models]
    return None if None in found else sum(filter(None, found), Compute())


def _hold(folder: Path, recipe: EvalRecipe, loaded: Loaded | None = None) -> None:
    """Hold the folder to its problems, models and rule; a finished row is loaded again only where a file changed."""
    models = {"model": recipe.engine.model}
    if recipe.judge.kind != "none":
        models["judge"] = recipe.judge.engine.model
    problems = lambda: (loaded or load_whole(recipe.problems)).problems
    files = {"calibration": rule_file(recipe.calibration_file)} if recipe.stop == "threshold" else {}
    hold(folder, models, recipe.problems, problems, files)


def load_whole(recipe: ProblemsRecipe) -> Loaded:
    """Load problems; a published test set that is asked for whole must have as many problems as were published.

    Problems whose reference answer cannot be read are part of the set, and counted where they are dropped.
    """
    loaded = load_problems(recipe)
    name, *rest = Path(recipe.source).name.split(".")
    is_test = "test" in (rest or [recipe.split])
    is_whole = recipe.count is None and not (recipe.offset or recipe.where or recipe.decontaminate)
    found = len(loaded.problems) + sum(loaded.dropped.values())
    if is_test and is_whole and found != PUBLISHED_COUNTS.get(name, found):
        raise DataError(
            f"{recipe.source} has {found:,} problems, the published {name} test set has {PUBLISHED_COUNTS[name]:,}: "
            "a score on it would be of another set; get the published file, or say which part this is "
            "(problems.count or .where)"
        )
    return loaded


def template_fingerprint(codec: ChatCodec) -> str:
    """Return a short hash of the chat template: part of each result file."""
    return hashlib.blake2b(str(codec.tokenizer.chat_template).encode(), digest_size=6).hexdigest()


def plan(recipe: EvalRecipe, run_folder: Path = Path("runs/default")) -> RenderableType:
    """Return what the evaluation would do: the resolved recipe, the first prompt, the number of trajectories."""
    loaded = load_whole(recipe.problems)
    problems = loaded.problems
    codec = ChatCodec.load(recipe.engine.model, recipe.engine.thinking)
    openings = {problem.id: codec.opening(prompts.solve_messages(problem.question)) for problem in problems}
    first = codec.decode(openings[problems[0].id])
    if recipe.method not in APPENDS_NOTHING:
        codec.template.require_appending()
    room = min(recipe.max_tokens, recipe.path_tokens or recipe.max_tokens)
    lengths = {name: len(opening) for name, opening in openings.items()}
    count = len(problems) * len(recipe.seeds)
    return Group(
        Panel(Syntax(to_yaml(recipe), "yaml"), title="recipe"),
        Panel(Text(first), title=Text(f"first prompt ({problems[0].id})")),
        f"writes {run_folder / 'eval' / recipe.row}",
        f"{len(problems)} problems × {len(recipe.seeds)} seeds = {count} trajectories of at most "
        f"{recipe.max_tokens} tokens a completion; "
        f"at most {count * recipe.max_tokens * (1 if recipe.one_pass else recipe.horizon):,} tokens",
        length_note(lengths, room, context_of(recipe.engine)),
        Panel(Text(loaded.report()), title="problems"),
    )


async def _fill(
    journal: Journal, recipe: EvalRecipe, rule: StopRule | None, problems: list[Problem], codec: ChatCodec
) -> None:
    waiting = [
        (f"{problem.id}#{seed}", problem, seed)
        for seed in recipe.seeds
        for problem in problems
        if f"{problem.id}#{seed}" not in journal
    ]
    if not waiting:
        return
    judge = open_judge(recipe.judge)
    engine = open_engine(recipe.engine)
    try:
        with meter(f"eval {recipe.label}", len(problems) * len(recipe.seeds)) as progress:
            progress.begin_at(len(journal.rows))
            settings = recipe.loop(rule)
            await sample_trajectories(
                journal,
                settings,
                waiting,
                engine,
                codec,
                progress,
                judge,
                at_once=TRAJECTORIES_A_PLACE * recipe.engine.capacity,
            )
    finally:
        await engine.close()
        if judge:
            await judge.close()


async def sample_trajectories(
    journal: Journal,
    settings: LoopSettings,
    waiting: list[tuple[str, Problem, int]],
    engine: Engine,
    codec: ChatCodec,
    progress: Meter,
    judge: Judge | None = None,
    at_once: int = 1024,
) -> None:
    """Solve, grade and journal every ``(key, problem, seed)``; at most ``at_once`` trajectories are under way."""
    room = asyncio.Semaphore(at_once)

    async def one(key: str, problem: Problem, seed: int) -> tuple[str, Trajectory]:
        async with room:
            return key, await solve(problem, engine, codec, settings, seed, judge)

    ready: list[tuple[str, Trajectory]] = []
    tasks = [asyncio.create_task(one(*item)) for item in waiting]
    try:
        for done in asyncio.as_completed(tasks):
            ready.append(await done)
            if len(ready) == GRADED_AT_ONCE:
                await _record(journal, ready, progress)
                ready = []
        await _record(journal, ready, progress)
    finally:
        for task in tasks:
            task.cancel()


async def _record(journal: Journal, ready: list[tuple[str, Trajectory]], progress: Meter) -> None:
    graded = await asyncio.to_thread(grade_trajectories, [trajectory for _, trajectory in ready])
    for (key, _), trajectory in zip(ready, graded, strict=True):
        journal.append(key, {"trajectory": trajectory.to_json()})
    right = sum(bool(t.final.grade and t.final.grade.correct) for t in graded)
    progress.advance(len(ready), note=f"{right}/{len(graded)} right" if graded else None)


def summary(
    recipe: EvalRecipe, trajectories: list[Trajectory], dropped: Mapping[str, int], rule: StopRule | None = None
) -> EvalResult:
    """Return the result of graded trajectories: scores, error budget, and what made it."""
    made = provenance()
    return EvalResult(
        label=recipe.label,
        scores=RowScores.of(score(recipe.label, trajectories)),
        method=recipe.method,
        stop=recipe.stop,
        rule=None if rule is None else rule.to_json(),
        judge=None if recipe.judge.kind == "none" else f"{recipe.judge.kind}: {recipe.judge.engine.model}",
        row=recipe.row,
        model=recipe.engine.model,
        benchmark=redacted_text(recipe.problems.source),
        split=recipe.problems.split,
        dropped=dict(dropped),
        sampling=SamplingSettings(
            recipe.temperature, recipe.top_p, recipe.horizon, recipe.max_tokens, recipe.path_tokens, recipe.seeds
        ),
        budget=error_budget(trajectories).row(),
        fingerprints=Fingerprints(grader_fingerprint(), prompts.fingerprint()),
        versions=made["packages"],
        machine=made["machine"],
    )


def regrade(folder: Path) -> tuple[EvalResult, dict[str, int]]:
    """Grade a finished row's stored trajectories again; return the new result and how many grades changed, by kind.

    The old scores stay beside the new ones as ``scores.<grader>.json``. Sampling is not repeated. While it works the
    row counts as unfinished; one that was cut off is taken up again.
    """
    with locked(folder):
        if finished(folder) is None and not is_reopened(folder):
            raise DataError(f"{folder} holds no finished evaluation; finish it with the command in its recipe.yaml")
        return _regrade(folder)


def _regrade(folder: Path) -> tuple[EvalResult, dict[str, int]]:
    before_scores = read_json(folder / SCORES)
    old = EvalResult.from_json(before_scores, str(folder / SCORES))
    stored = read_journalled(folder)
    before = list(stored.values())
    if not before:
        raise DataError(f"{folder / 'trajectories.jsonl'} holds no trajectories to grade again; evaluate the row anew")
    after = grade_trajectories(before)
    changed: dict[str, int] = {}
    for was, now in zip(before, after, strict=True):
        for a, b in zip(was.attempts, now.attempts, strict=True):
            if a.grade is None or b.grade is None or a.grade.outcome is not b.grade.outcome:
                kind = f"{a.grade and a.grade.outcome} → {b.grade and b.grade.outcome}"
                changed[kind] = changed.get(kind, 0) + 1
    result = replace(
        old,
        scores=RowScores.of(score(old.label, after)),
        budget=error_budget(after).row(),
        fingerprints=replace(old.fingerprints, grader=grader_fingerprint()),
    )
    done = reopen(folder)
    if (grader := old.fingerprints.grader) != result.fingerprints.grader:
        write_json(folder / plain_name(f"scores.{grader or 'unknown'}.json", "grader"), before_scores)
    graded = ((key, {"trajectory": t.to_json()}) for key, t in zip(stored, after, strict=True))
    write_journal(folder / TRAJECTORIES, graded)
    write_json(folder / SCORES, before_scores | result.to_json())
    mark_done(folder, done)
    return result, changed
