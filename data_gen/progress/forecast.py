"""What a run would cost, before it starts: a pilot of a few base samples, scaled to the recipe's quotas.

The pilot works the first attempts of the first problems exactly as the run would (in a folder of its own that is thrown
away), so its rates are those of the run but for chance: the forecast says how many tries it rests on. Its time is that
of the pilot's small batch; a full batch is faster.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from selfcorrect.chat import ChatCodec
from selfcorrect.data_gen.classes import Kind
from selfcorrect.data_gen.recipe import GenRecipe, Quota
from selfcorrect.data_gen.sampling.order import FIRST_OUTCOMES
from selfcorrect.data_gen.sampling.passes import GatheredRows, Models, load, open_models, sample
from selfcorrect.data_gen.sampling.requests import Ids, RequestBuilder, load_examples
from selfcorrect.data_gen.sampling.samples import STAGES, GradeMany
from selfcorrect.engines import Engine, context_of, length_note
from selfcorrect.problems import Loaded
from selfcorrect.runs.recipes import to_values, to_yaml
from selfcorrect.types import Problem, Verdict


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run is expected to sample, by stage, and how sure that is."""

    samples: dict[str, float]
    tokens: dict[str, float]
    seconds: float
    pilot: int  # base samples that it rests on
    tries: dict[Kind, int]  # tries of each class among them
    out_of_reach: tuple[Kind, ...]  # classes whose quota the attempts will hardly fill


async def run_pilot(
    recipe: GenRecipe, problems: Sequence[Problem], models: Models, grade: GradeMany | None = None
) -> tuple[GatheredRows, float]:
    """Work the first ``recipe.pilot`` base samples and return what they gave and how long that took, in seconds."""
    few = replace(recipe, attempts=1, quota=_without_limits(recipe), match="none", baselines=False, balance=None)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        gathered = await sample(few, problems[: recipe.pilot], Path(folder), models, grade)
        return gathered, time.perf_counter() - started


def forecast(recipe: GenRecipe, problems: int, pilot: GatheredRows, seconds: float) -> Forecast | None:
    """Scale a pilot to the recipe: fixed, by the number of base samples; adaptive, by what the quotas still need.

    None where the pilot sampled nothing: every prompt was too long for the model, or refused.
    """
    if not pilot.tokens.total():
        return None
    attempts, most = sum(pilot.used["attempts"].values()), problems * recipe.attempts
    used = {stage: sum(pilot.used[stage].values()) for stage in STAGES if stage in pilot.used}
    short: list[Kind] = []
    if recipe.fixed:
        expected = {stage: most * count / attempts for stage, count in used.items()}
    else:
        expected, short = _to_fill_the_quotas(recipe, most, pilot)
    samples = {stage: expected[stage] for stage in STAGES if expected.get(stage)}
    tokens = {stage: count * pilot.used_tokens[stage] / max(1, used.get(stage, 0)) for stage, count in samples.items()}
    speed = pilot.tokens.total() / seconds
    tries = {kind: pilot.used.get(str(kind), Counter())["tried"] for kind in recipe.quotas}
    return Forecast(samples, tokens, sum(tokens.values()) / speed, attempts, tries, tuple(short))


def _to_fill_the_quotas(recipe: GenRecipe, most: int, pilot: GatheredRows) -> tuple[dict[str, float], list[Kind]]:
    """Return the samples that fill the quotas, by stage, and the classes that ``most`` attempts will not fill."""
    expected, short = dict.fromkeys(STAGES, 0.0), []
    attempts = pilot.used["attempts"]
    for kind, quota in recipe.quotas.items():
        if quota == 0:
            continue
        counts = pilot.used.get(str(kind), Counter())
        acceptance = (counts["served"] + 1) / (counts["tried"] + 2)
        first = FIRST_OUTCOMES[kind]
        begun = (sum(attempts[outcome] for outcome in first) + 1) / (attempts.total() + 2)
        rivals = [other for other, wanted in recipe.quotas.items() if wanted != 0 and FIRST_OUTCOMES[other] == first]
        begun *= (quota or 1) / sum(recipe.quotas[other] or 1 for other in rivals)
        within_reach = most * begun * acceptance
        rows = within_reach if quota is None else min(quota, within_reach)
        if quota is not None and rows < quota:
            short.append(kind)
        expected["attempts"] = max(expected["attempts"], rows / (begun * acceptance))
        for stage in STAGES[1:]:
            a_try = pilot.tried[kind, stage] / counts["tried"] if counts["tried"] else 1.0
            expected[stage] += rows / acceptance * a_try
    return expected, short


def _without_limits(recipe: GenRecipe) -> Quota:
    return replace(recipe.quota, **{name: None for name, rows in to_values(recipe.quota).items() if rows != 0})


def plan(
    recipe: GenRecipe,
    run_folder: Path = Path("runs/default"),
    *,
    engine: Engine | None = None,
    codec: ChatCodec | None = None,
    grade: GradeMany | None = None,
) -> RenderableType:
    """Return what a run would do: the resolved recipe, the first prompt of each part, bounds, and a forecast.

    Only the forecast needs the model itself; ``pilot: 0`` does without. Writes nothing.
    """
    loaded, set_aside = load(recipe)
    codec = codec or ChatCodec.load(recipe.engine.model, recipe.engine.thinking)
    prompts = [
        Panel(Text(codec.decode(ids)), title=Text(f"first prompt: {part} ({len(ids)} tokens)"))
        for part, ids in first_prompts(recipe, codec, loaded.problems[0].question).items()
    ]
    most = most_samples(recipe, len(loaded.problems))
    expected, without = None, f"at most {sum(most.values()) * recipe.max_tokens:,} tokens"
    if recipe.pilot:
        without = "no forecast: the pilot could not sample from any prompt"
        expected = forecast(recipe, len(loaded.problems), *asyncio.run(_pilot(recipe, loaded, engine, codec, grade)))
    table = Table(
        "stage", "samples, at most", "expected samples", "expected tokens", title=f"{recipe.schedule} schedule"
    )
    for stage, bound in most.items():
        guess = [f"{of.get(stage, 0):,.0f}" for of in (expected.samples, expected.tokens)] if expected else ["", ""]
        table.add_row(stage, f"{bound:,}", *guess)
    builder = RequestBuilder(codec, load_examples(recipe.examples), recipe.two_turn, recipe.in_path)
    lengths = {problem.id: len(builder.attempt(problem.question)) for problem in loaded.problems}
    removed = f"; {len(loaded.removed):,} removed as contaminated" if loaded.removed else ""
    return Group(
        Panel(Syntax(to_yaml(recipe), "yaml"), title="recipe"),
        *prompts,
        table,
        _in_words(recipe, expected) if expected else without,
        f"{len(loaded.problems):,} problems to sample from, {len(set_aside):,} set aside for RL{removed}; "
        f"writes {run_folder / 'gen'} and {run_folder / 'data'}",
        length_note(lengths, recipe.max_tokens, context_of(recipe.engine)),
        Panel(Text(loaded.report()), title="problems"),
    )


async def _pilot(
    recipe: GenRecipe, loaded: Loaded, engine: Engine | None, codec: ChatCodec, grade: GradeMany | None
) -> tuple[GatheredRows, float]:
    async with open_models(recipe, (engine, codec)) as models:
        return await run_pilot(recipe, loaded.problems, models, grade)


def _in_words(recipe: GenRecipe, expected: Forecast) -> str:
    tokens = sum(expected.tokens.values())
    time_left = f"{expected.seconds:,.0f} s" if expected.seconds < 600 else f"{expected.seconds / 60:,.0f} min"
    tries = ", ".join(f"{count} of {kind}" for kind, count in expected.tries.items() if count)
    lines = [
        f"forecast: {sum(expected.samples.values()):,.0f} samples, {tokens:,.0f} tokens, {time_left} at the pilot's "
        f"speed (a fuller batch is faster); from a pilot of {expected.pilot} base samples ({tries or 'no'} tries)"
    ]
    if recipe.baselines or recipe.wants_pairs:
        lines.append("the forecast is of D1, D2 and D3; pairs and the baselines' rows cost more")
    if recipe.is_matched:
        lines.append("D1 and D3 are matched, which costs more the fewer problems give both")
    if expected.out_of_reach:
        names = ", ".join(map(str, expected.out_of_reach))
        lines.append(f"{names}: the attempts are not expected to fill the quota; more problems or attempts would")
    return "\n".join(lines)


def first_prompts(recipe: GenRecipe, codec: ChatCodec, question: str) -> dict[str, Ids]:
    """Return the first prompt of each part that the recipe samples."""
    builder = RequestBuilder(codec, load_examples(recipe.examples), recipe.two_turn, recipe.in_path)
    attempt, evaluation = codec.encode("<the attempt>"), codec.encode("<the self-evaluation>")
    parts = {"attempt": builder.attempt(question)}
    if recipe.two_turn:
        parts["revision"] = builder.revision(question, attempt, builder.stated(Verdict.WRONG))
    else:
        parts["self-evaluation"] = builder.evaluation(question, attempt)
        parts["revision"] = builder.revision(question, attempt, evaluation)
    if recipe.baselines and recipe.baseline_revisions == "blind":
        parts["blind revision"] = builder.unjudged_revision(question, attempt)
    return parts


def most_samples(recipe: GenRecipe, problems: int) -> dict[str, int]:
    """Return how many samples each stage makes at most: under the fixed schedule, if every attempt were wrong."""
    attempts = problems * recipe.attempts
    revisions = attempts * max(recipe.revisions, recipe.confirmations)
    most = {"attempts": attempts, "evaluations": 0 if recipe.two_turn else attempts * recipe.evaluations}
    most["revisions"] = revisions
    return most | ({"blind": revisions} if recipe.baselines and recipe.baseline_revisions == "blind" else {})
