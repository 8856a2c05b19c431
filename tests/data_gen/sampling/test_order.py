"""Steering on a scripted model whose pass rates are known: who is attempted, and that rows stay unbiased."""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from selfcorrect import prompts
from selfcorrect.chat import ChatCodec
from selfcorrect.data_gen.classes import (
    BaseSample,
    BaseSampleResult,
    Candidate,
    Continuation,
    Kind,
    PartOutcome,
    SampledPart,
    Selection,
)
from selfcorrect.data_gen.pipeline import GenRecipe, Quota, run
from selfcorrect.data_gen.sampling.order import Order
from selfcorrect.engines import SampleRequest
from selfcorrect.engines.scripted import Reply, ScriptedEngine
from selfcorrect.problems import ProblemsRecipe
from selfcorrect.runs.jsonl import read_jsonl
from selfcorrect.types import Grade, Outcome, Problem

RATES = (0.0, 0.1, 0.5, 0.9, 1.0)
"""Pass rates of the problems: number i has RATES[i % 5]."""

SLOW = 0.3
JUDGES = 0.8
REPAIRS = 0.5


@dataclass(frozen=True)
class Known:
    """Solves problem i with probability RATES[i % 5]; ``wordy`` changes what it writes, not what that is worth."""

    wordy: int = 1

    def __call__(self, request: SampleRequest, text: str) -> Reply:
        rng = random.Random(request.seed)
        gold = int(re.findall(r"equals (\d+)\?", text)[0])
        first = text.split("<|assistant|>")[1]
        was_right = f"boxed{{{gold}}}" in first
        asked = text.split("<|user|>")[-1]
        if asked.startswith(prompts.EVALUATE):
            says = was_right if rng.random() < JUDGES else not was_right
            return Reply(f"{'so ' * self.wordy}[VERIFY] {'correct' if says else 'wrong'}.")
        rate = REPAIRS if asked.startswith(prompts.REVISE) else RATES[gold % 5]
        right = rng.random() < rate
        slow = rng.random() < SLOW
        value = gold if right else gold + 1 + rng.randrange(4)
        return Reply(f"{'slow ' * 4 if slow else 'quick '}{'so ' * self.wordy}\\boxed{{{value}}}")


def grade(
    pairs: Sequence[tuple[str, str]], *, source: str, tolerance: Sequence[str | None] | None = None
) -> list[Grade]:
    return [Grade(Outcome.CORRECT if f"boxed{{{gold}}}" in text else Outcome.WRONG) for text, gold in pairs]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> GenRecipe:
    path = tmp_path_factory.mktemp("problems") / "known.jsonl"
    rows = ({"question": f"Which number equals {number}?", "gold": str(number)} for number in range(100, 140))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return GenRecipe(
        problems=ProblemsRecipe(source=str(path)),
        attempts=40,
        quota=Quota(d1=120, d2=0, d3=40),
        cap_per_problem=None,
        balance=None,
        max_tokens=200,
        in_flight=32,
    )


def sampled(recipe: GenRecipe, folder: Path, codec: ChatCodec, known: Known = Known()) -> dict:
    return run(recipe, folder, engine=ScriptedEngine(known, codec), codec=codec, grade=grade)


def rows_of(folder: Path) -> list[dict]:
    return list(read_jsonl(folder / "data" / "sft" / "self-rewarding.jsonl"))


def attempts_by_rate(folder: Path) -> Counter[float]:
    keys = (row["key"] for row in read_jsonl(folder / "gen" / "attempts.jsonl"))
    return Counter(RATES[int(key.split("/")[0].split("-")[1]) % 5] for key in keys)


def test_attempts_go_where_something_can_be_found(recipe, tmp_path, codec) -> None:
    steered = sampled(recipe, tmp_path / "steered", codec)
    equal = sampled(replace(recipe, steer=False), tmp_path / "equal", codec)
    assert steered["classes"] == equal["classes"] == {"D1": 120, "D2": 0, "D3": 40}
    by_rate, equally = attempts_by_rate(tmp_path / "steered"), attempts_by_rate(tmp_path / "equal")
    assert by_rate[0.0] > by_rate[0.9] > by_rate[1.0], "D1 is what is missing, so hard problems are attempted"
    assert max(equally.values()) - min(equally.values()) <= 16
    assert by_rate.total() < 0.8 * equally.total()


def test_content_has_no_say_in_what_is_kept(recipe, tmp_path, codec) -> None:
    """The fates are those of the other run, sample by sample; texts and lengths differ."""
    sampled(recipe, tmp_path / "short", codec, Known(wordy=1))
    sampled(recipe, tmp_path / "long", codec, Known(wordy=9))
    short, long = rows_of(tmp_path / "short"), rows_of(tmp_path / "long")
    assert [row["id"] for row in short] == [row["id"] for row in long]
    assert all(one["text"] != other["text"] for one, other in zip(short, long, strict=True))


def test_each_problem_gives_the_first_rows_that_the_fixed_schedule_finds(recipe, tmp_path, codec) -> None:
    """So they are a prefix of independent, identically distributed rows, whose length was told by fates alone."""
    few = replace(recipe, attempts=12, evaluations=4, revisions=4, problems=replace(recipe.problems, count=15))
    sampled(replace(few, quota=Quota(d1=40, d2=0, d3=20)), tmp_path / "steered", codec)
    sampled(replace(few, schedule="fixed", quota=Quota(d2=0, d3=0)), tmp_path / "fixed", codec)
    found: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows_of(tmp_path / "fixed"):
        found[row["problem_id"]].append(row["text"])
    kept: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows_of(tmp_path / "steered"):
        if row["kind"] == "D1":
            kept[row["problem_id"]].append(row["text"])
    assert sum(map(len, kept.values())) == 40
    for problem, texts in kept.items():
        assert texts == found[problem][: len(texts)]


def test_rows_have_the_known_distribution_of_their_class(recipe, tmp_path, codec) -> None:
    """Given the class, an attempt is slow with probability 0.3 and its wrong answer one of four, all alike."""
    sampled(replace(recipe, quota=Quota(d1=400, d2=100, d3=100)), tmp_path, codec)
    rows = rows_of(tmp_path)
    first = [row["messages"][1]["content"].split("[VERIFY]")[0] for row in rows]
    slow = sum("slow" in text for text in first) / len(rows)
    assert slow == pytest.approx(SLOW, abs=4 * (SLOW * (1 - SLOW) / len(rows)) ** 0.5)
    wrong = Counter(
        int(re.findall(r"boxed\{(\d+)\}", text)[0]) - int(row["gold"])
        for text, row in zip(first, rows, strict=True)
        if row["kind"] == "D1"
    )
    assert set(wrong) == {1, 2, 3, 4}
    chi2 = sum((count - wrong.total() / 4) ** 2 / (wrong.total() / 4) for count in wrong.values())
    assert chi2 < 16.3, "99.9% of a chi-square with 3 degrees of freedom"


# --- D1 and D3 of the same problems ---------------------------------------------------------------------------------


def problems_by_kind(folder: Path) -> dict[str, Counter[str]]:
    rows = rows_of(folder)
    return {kind: Counter(row["problem_id"] for row in rows if row["kind"] == kind) for kind in ("D1", "D2", "D3")}


def mean_rate(problems: Counter[str]) -> float:
    rates = [RATES[int(problem.split("-")[1]) % 5] for problem in problems.elements()]
    return sum(rates) / len(rates)


@pytest.mark.parametrize(("schedule", "steer"), [("adaptive", True), ("adaptive", False), ("fixed", True)])
def test_matched_classes_come_from_the_same_problems_in_equal_parts(recipe, tmp_path, codec, schedule, steer) -> None:
    wanted = {"D1": 40, "D2": 10, "D3": 40}
    if schedule == "fixed":
        recipe, wanted = replace(recipe, attempts=10, evaluations=2, revisions=2), {"D1": 25, "D2": 8, "D3": 25}
    equal = replace(recipe, quota=Quota(*wanted.values()), steer=steer, schedule=schedule)
    matches = ("none", "difficulty", "auto") if schedule == "adaptive" else ("none", "difficulty")
    found = {match: sampled(replace(equal, match=match), tmp_path / match, codec) for match in matches}
    assert all(summary["classes"] == wanted for summary in found.values())
    before, after = (problems_by_kind(tmp_path / match) for match in ("none", "difficulty"))
    assert mean_rate(before["D3"]) - mean_rate(before["D1"]) > 0.15
    assert after["D1"] == after["D3"]
    assert found["none"]["leak"]["pass rate"]["low"] > 0.55
    assert found["difficulty"]["leak"]["pass rate"]["auroc"] == 0.5
    assert found["difficulty"]["leak"]["words"]["auroc"] == 0.5
    if "auto" in found:
        assert rows_of(tmp_path / "auto") == rows_of(tmp_path / "difficulty"), "the quotas are equal, so auto matches"


def test_matching_does_not_change_what_the_rows_of_a_class_are_like(recipe, tmp_path, codec) -> None:
    """Slow attempts are kept as often as they are made, and the run resumes to the same rows."""
    sampled(replace(recipe, quota=Quota(d1=150, d2=0, d3=150), attempts=80), tmp_path, codec)
    rows = rows_of(tmp_path)
    assert len(rows) == 300
    slow = sum("slow" in row["messages"][1]["content"].split("[VERIFY]")[0] for row in rows) / len(rows)
    assert slow == pytest.approx(SLOW, abs=4 * (SLOW * (1 - SLOW) / len(rows)) ** 0.5)


def test_the_fixed_schedule_takes_rows_of_every_index(recipe, tmp_path, codec) -> None:
    few = replace(recipe, schedule="fixed", attempts=20, evaluations=2, revisions=2, problems=recipe.problems)
    sampled(replace(few, quota=Quota(d1=40, d2=0, d3=30)), tmp_path, codec)
    index = [int(row["id"].split("/")[1]) for row in rows_of(tmp_path)]
    assert len(index) == 70
    assert sum(index) / 70 == pytest.approx(9.5, abs=4 * (33.25 / 70) ** 0.5)


# --- the order itself ---------------------------------------------------------------------------------------------

PROBLEMS = [Problem(f"p{number}", f"q{number}", "1", "test") for number in range(6)]


def result(base: BaseSample, fate: PartOutcome, served: bool = True) -> BaseSampleResult:
    attempt = SampledPart(base.id, "attempts", (1,), "a", fate)
    kind = Kind.D1 if fate is PartOutcome.WRONG else Kind.D3
    found = [Candidate(kind, base, attempt, Continuation(None))] if served else []
    return BaseSampleResult(base, {base.id: attempt}, [kind], found)


def walk(order: Order, fates: dict[int, PartOutcome], selection: Selection) -> list[int]:
    """Commit the order to its end; each problem has always the same fate, and D1 always succeeds."""
    numbers = []
    while base := order.at(order.committed):
        done = result(base, fates[base.number]) if selection.takes(base.problem) else None
        if done:
            numbers.append(base.number)
            selection.offer(done.found)
        order.note(base, done)
    return numbers


def test_every_problem_is_attempted_before_any_is_preferred() -> None:
    selection = Selection({Kind.D1: 50, Kind.D3: 0}, 5)
    fates = {number: PartOutcome.WRONG if number == 4 else PartOutcome.CORRECT for number in range(6)}
    numbers = walk(Order(PROBLEMS, 8, selection, lag=2), fates, selection)
    assert numbers[:6] == list(range(6))
    assert numbers.count(4) == 5, "as many as the cap takes, and not one more"
    assert numbers.index(4, 6) < 9, "the one that gave something comes first, once its row is known"


def test_the_order_ends_where_nothing_can_serve() -> None:
    selection = Selection({Kind.D1: 3, Kind.D3: 0}, 1)
    order = Order(PROBLEMS, 4, selection, lag=3)
    numbers = walk(order, dict.fromkeys(range(6), PartOutcome.CORRECT), selection)
    assert Counter(numbers) == dict.fromkeys(range(6), 4), "no wrong attempt anywhere: every attempt is made"
    assert order.ended
    assert order.decided(10**6)


@pytest.mark.parametrize("lag", [1, 2, 5, 40])
def test_what_a_place_holds_does_not_depend_on_when_it_is_asked(lag) -> None:
    fates = {number: PartOutcome.CORRECT if number % 2 else PartOutcome.WRONG for number in range(6)}

    def numbers(look_ahead: int) -> list[int]:
        selection = Selection({Kind.D1: 9, Kind.D3: 4}, None)
        order = Order(PROBLEMS, 9, selection, lag)
        seen = []
        while base := order.at(order.committed):
            seen.append(base.number)
            for place in range(base.place, base.place + look_ahead):
                if order.decided(place):
                    order.at(place)
            done = result(base, fates[base.number])
            selection.offer(done.found)
            order.note(base, done)
        return seen

    assert numbers(0) == numbers(3) == numbers(100)


def test_a_later_pass_begins_with_what_is_drawn() -> None:
    before = [BaseSample(PROBLEMS[3], 3, 0, 0), BaseSample(PROBLEMS[3], 3, 1, 1), BaseSample(PROBLEMS[0], 0, 0, 2)]
    selection = Selection({Kind.D1: None})
    order = Order(PROBLEMS, 3, selection, lag=4, before=before)
    first = [order.at(place) for place in range(7)]
    assert [(base.number, base.index) for base in first if base] == [
        *((3, 0), (3, 1), (0, 0)),
        *((number, 0) for number in (1, 2, 4, 5)),
    ]
    assert [base.place for base in first if base] == list(range(7))
