"""Stage 1 data: sequential rejection sampling of self-correction trajectories (method.md, section 2).

    selfcorrect gen embedded --run runs/demo
    selfcorrect gen smollm2-gsm8k --run runs/smollm2 quota.d1=50

Reads problems and a model; writes ``<run>/gen/`` (every sample, journalled) and ``<run>/data/``: ``sft/*.jsonl``
(training rows), ``preferences/pairs.jsonl`` (pairs for DPO), ``prompts.jsonl`` (further problems, for RL),
``pass_rates.jsonl``, and ``README.md``, a data set card with which `datasets` and the hub read the folder. Re-running
resumes.

Differs from the paper: no barrier between attempts, self-evaluations and revisions; and where
``schedule: adaptive``, a part is sampled one by one until one is accepted, only for classes whose quota is open, and at
the problems that can give what is missing (`sampling.order`). The first that is accepted, in order of index, is
distributed like any one that is accepted, so at one problem the rows of a class are distributed as under ``schedule:
fixed``, which samples exactly N1, N2, M1 and M2 parts. Not so across problems: how many rows each gives depends on
schedule, quota, cap and steering. ``match: difficulty`` takes D1 and D3 from the same problems in equal parts, and
the data card says how well the class is told from the question alone (`output.leak`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfcorrect import printing, prompts
from selfcorrect.chat import ChatCodec
from selfcorrect.data_gen.classes import Kind
from selfcorrect.data_gen.output.data_card import show, write_readme
from selfcorrect.data_gen.output.leak import leak
from selfcorrect.data_gen.output.rows import (
    baseline_rows,
    write_pass_rates,
    write_preferences,
    write_prompts,
    write_sft,
)
from selfcorrect.data_gen.progress.forecast import plan
from selfcorrect.data_gen.progress.live import live_table
from selfcorrect.data_gen.recipe import GenRecipe, PairQuota, Quota
from selfcorrect.data_gen.sampling.passes import GatheredRows, load, open_models, sample
from selfcorrect.data_gen.sampling.requests import Examples, RequestBuilder
from selfcorrect.data_gen.sampling.samples import GradeMany
from selfcorrect.engines import Engine
from selfcorrect.inputs import hold
from selfcorrect.problems import Loaded
from selfcorrect.runs.folder import finished, mark_done, stage_folder
from selfcorrect.runs.jsonl import write_jsonl
from selfcorrect.runs.recipes import recorded, to_values
from selfcorrect.types import Problem

__all__ = ["GenRecipe", "PairQuota", "Quota", "plan", "run"]


def run(
    recipe: GenRecipe,
    run_folder: Path,
    *,
    engine: Engine | None = None,
    codec: ChatCodec | None = None,
    teacher: tuple[Engine, ChatCodec] | None = None,
    grade: GradeMany | None = None,
) -> dict[str, Any]:
    """Sample, select and write the data sets; return the summary, which is also shown and saved as ``gen/DONE``.

    ``engine``, ``codec``, ``teacher`` and ``grade`` default to the recipe's models and the library's grader. A finished
    folder is only read. Raises SelfCorrectError; Ctrl-C passes through, and the next run resumes.
    """
    with stage_folder(run_folder / "gen", recipe) as folder:
        if (summary := finished(folder)) is not None:
            _hold(folder, recipe)
            return summary
        loaded, set_aside = load(recipe)
        _hold(folder, recipe, [*loaded.problems, *set_aside])
        codec = codec or ChatCodec.load(recipe.engine.model, recipe.engine.thinking)
        started = time.perf_counter()
        gathered = asyncio.run(_sample(recipe, loaded.problems, folder, (engine, codec), teacher, grade))
        summary = _write(recipe, loaded, set_aside, gathered, codec, run_folder)
        summary["seconds"] = round(time.perf_counter() - started, 1)
        mark_done(folder, summary, also=_data_files(recipe, run_folder / "data"))
        printing.show(show(summary))
        return summary


def _hold(folder: Path, recipe: GenRecipe, problems: Sequence[Problem] | None = None) -> None:
    """Hold the folder to its problems and models; of a finished one they are loaded only where their file changed."""

    def again() -> Sequence[Problem]:
        loaded, set_aside = load(recipe)
        return [*loaded.problems, *set_aside]

    models = {"model": recipe.engine.model} | ({"teacher": recipe.teacher.model} if recipe.teacher else {})
    hold(folder, models, recipe.problems, again if problems is None else lambda: problems)


def _data_files(recipe: GenRecipe, data: Path) -> list[Path]:
    """Return the files of the data sets that a recipe asks for, cards for readers left out."""
    sets = ["self-rewarding", *(("single-turn", "raft", "raft-plus") if recipe.baselines else ())]
    names = [f"sft/{name}" for name in sets] + (["preferences/pairs"] if recipe.wants_pairs else [])
    files = [data / f"{name}{ending}" for name in names for ending in (".jsonl", ".card.json")]
    return files + [data / "pass_rates.jsonl", *([data / "prompts.jsonl"] if recipe.prompts else ())]


async def _sample(
    recipe: GenRecipe,
    problems: Sequence[Problem],
    folder: Path,
    model: tuple[Engine | None, ChatCodec],
    teacher: tuple[Engine, ChatCodec] | None,
    grade: GradeMany | None,
) -> GatheredRows:
    async with open_models(recipe, model, teacher) as models:
        with live_table() as shown:
            return await sample(recipe, problems, folder, models, grade, shown)


def _write(
    recipe: GenRecipe,
    loaded: Loaded,
    set_aside: Sequence[Problem],
    gathered: GatheredRows,
    codec: ChatCodec,
    run_folder: Path,
) -> dict[str, Any]:
    """Write the data sets with their cards, and return the summary."""
    folder, builder = run_folder / "data", RequestBuilder(codec, Examples(), recipe.two_turn, recipe.in_path)
    card: dict[str, Any] = {
        "model": recipe.engine.model,
        "tokenizer": codec.fingerprint(),
        "prompts": prompts.fingerprint(),
        "recipe": recorded(recipe),
        "problems": {"sampled from": len(loaded.problems)} | loaded.record(),
        "samples": gathered.acceptance(),
        "leak": leak(gathered.kept, gathered.passed, recipe.is_matched),
        "first revision after a verdict wrong": {
            attempt: dict(sorted(revisions.items())) for attempt, revisions in sorted(gathered.first_revisions.items())
        },
    }
    sets = {"self-rewarding": gathered.kept}
    if recipe.baselines:
        sets |= baseline_rows(gathered.baselines, len(gathered.kept))
    rows = {name: write_sft(folder / "sft", name, candidates, builder, card) for name, candidates in sets.items()}
    if recipe.wants_pairs:
        rows["preferences"] = write_preferences(folder / "preferences", gathered.pairs, builder, card)
    if recipe.prompts:
        rows["prompts"] = write_prompts(folder / "prompts.jsonl", set_aside)
    rows["pass_rates"] = write_pass_rates(folder / "pass_rates.jsonl", loaded.problems, gathered.passed)
    if loaded.removed:
        write_jsonl(run_folder / "gen" / "removed.jsonl", map(to_values, loaded.removed))

    asked = {str(kind): quota for kind, quota in {**recipe.quotas, **recipe.pair_quotas}.items() if quota is not None}
    asked |= {name: len(gathered.kept) for name in sets if name != "self-rewarding"}
    asked |= {"prompts": recipe.prompts} if recipe.prompts else {}
    classes = Counter({str(kind): 0 for kind in recipe.quotas})
    classes.update(str(candidate.kind) for candidate in [*gathered.kept, *gathered.pairs])
    got = {**classes, **rows}
    summary = {
        "rows": rows,
        "classes": dict(sorted(classes.items())),
        "short": {name: wanted - got.get(name, 0) for name, wanted in asked.items() if got.get(name, 0) < wanted},
        "problems": card["problems"],
        "samples": card["samples"],
        "leak": card["leak"],
        "first revision after a verdict wrong": card["first revision after a verdict wrong"],
        "D2 with a stated verdict": sum(row.kind is Kind.D2 and row.continuation.is_stated for row in gathered.kept),
        "drawn": {
            "samples": dict(gathered.sampled),
            "tokens": dict(gathered.tokens),
            "resumed": gathered.resumed,
            "resumed_tokens": gathered.resumed_tokens,
        },
    }
    write_readme(folder, recipe, summary, codec)
    return summary
