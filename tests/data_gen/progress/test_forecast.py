"""The forecast: a pilot's rates scaled to the recipe, against what a run then draws; what --dry-run prints."""

from __future__ import annotations

import io
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from selfcorrect import prompts
from selfcorrect.data_gen.classes import Kind
from selfcorrect.data_gen.pipeline import GenRecipe, Quota, plan, run
from selfcorrect.data_gen.progress.forecast import forecast
from selfcorrect.data_gen.sampling.passes import GatheredRows
from selfcorrect.engines.scripted import ScriptedEngine
from selfcorrect.problems import ProblemsRecipe
from tests.data_gen.worlds import World, grade, write_problems


@pytest.fixture
def recipe(tmp_path: Path) -> GenRecipe:
    problems = write_problems(tmp_path / "toy.jsonl")
    return GenRecipe(
        problems=ProblemsRecipe(source=str(problems), count=40),
        prompts=20,
        attempts=6,
        quota=Quota(40, 15, 40),
        cap_per_problem=None,
        max_tokens=120,
        in_flight=24,
        pilot=40,
    )


def planned(recipe: GenRecipe, codec, world: World, engine: ScriptedEngine | None = None) -> tuple[str, ScriptedEngine]:  # type: ignore[no-untyped-def]
    engine = engine or ScriptedEngine(world, codec)
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(plan(recipe, engine=engine, codec=codec, grade=grade))
    return console.export_text(), engine


def test_dry_run_shows_recipe_prompts_bounds_and_forecast(recipe, tmp_path, codec) -> None:
    before = sorted(tmp_path.iterdir())
    text, engine = planned(recipe, codec, World())
    assert "cap_per_problem: null" in text
    assert prompts.EVALUATE in " ".join(text.replace("│", "").split())
    assert "40 problems to sample from, 20 set aside" in text
    assert re.search(r"evaluations +│ 1,920 +│ \d+ +│ [\d,]+ +│", text), text
    assert "forecast: " in text
    assert "from a pilot of 40 base samples" in text
    assert len([request for request in engine.requests if not request.stop_texts]) >= 40
    assert sorted(tmp_path.iterdir()) == before, "nothing is written"


def test_without_a_pilot_no_sample_is_drawn(recipe, codec) -> None:
    text, engine = planned(replace(recipe, pilot=0), codec, World())
    assert engine.requests == []
    assert "at most" in text
    assert "forecast" not in text


@pytest.mark.parametrize("schedule", ["adaptive", "fixed"])
@pytest.mark.parametrize("world", [World(), World(right=0.8, judges=0.9), World(right=0.3, repairs=0.7)])
def test_the_forecast_is_near_what_a_run_draws(recipe, tmp_path, codec, schedule, world) -> None:
    recipe = replace(recipe, schedule=schedule, attempts=6 if schedule == "adaptive" else 2)
    text, _ = planned(recipe, codec, world)
    (line,) = [line for line in text.splitlines() if line.startswith("forecast: ")]
    expected = int(line.split()[1].replace(",", ""))
    engine = ScriptedEngine(world, codec)
    summary = run(recipe, tmp_path / "run", engine=engine, codec=codec, grade=grade)
    drawn = sum(summary["drawn"]["samples"].values())
    assert 0.6 < drawn / expected < 1.6, (expected, drawn)


def pilot(attempts: int, right: int, tried: int, served: int) -> GatheredRows:
    gathered = GatheredRows()
    gathered.used["attempts"] = Counter({"right": right, "wrong": attempts - right})
    gathered.used["evaluations"] = Counter({"agrees with the grade": tried})
    gathered.used["D3"] = Counter({"tried": tried, "served": served})
    gathered.tried[Kind.D3, "evaluations"] = tried
    gathered.used_tokens = Counter({"attempts": 10 * attempts, "evaluations": 20 * tried})
    gathered.tokens = Counter({"attempts": 10 * attempts, "evaluations": 20 * tried})
    return gathered


def test_the_forecast_by_hand() -> None:
    """98 attempts, 49 right, all of these served: (49 + 1) / (98 + 2) reach D3, (49 + 1) / (49 + 2) of them serve."""
    recipe = GenRecipe(quota=Quota(d1=0, d2=0, d3=100), attempts=10)
    expected = forecast(recipe, 1000, pilot(98, 49, 49, 49), seconds=1.96)
    assert expected is not None
    tries = 100 / (50 / 51)
    assert expected.samples == {"attempts": pytest.approx(2 * tries), "evaluations": pytest.approx(tries)}
    assert expected.tokens == {"attempts": pytest.approx(20 * tries), "evaluations": pytest.approx(20 * tries)}
    assert expected.seconds == pytest.approx(40 * tries / 1000)
    assert expected.out_of_reach == ()


def test_a_quota_out_of_reach_is_said() -> None:
    recipe = GenRecipe(quota=Quota(d1=0, d2=0, d3=100), attempts=2)
    expected = forecast(recipe, 50, pilot(98, 1, 1, 1), seconds=1.0)
    assert expected is not None
    assert expected.out_of_reach == (Kind.D3,)
    assert expected.samples["attempts"] == pytest.approx(100), "all that there are"


@pytest.mark.parametrize("schedule", ["adaptive", "fixed"])
def test_where_no_prompt_fits_there_is_no_forecast_and_the_plan_says_so(recipe, tmp_path, codec, schedule) -> None:
    engine = ScriptedEngine(World(), codec, context=recipe.max_tokens + 1)
    text, _ = planned(replace(recipe, schedule=schedule), codec, World(), engine)
    assert "no forecast: the pilot could not sample from any prompt" in text
    assert engine.requests == []
