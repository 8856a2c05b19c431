"""The sampler on a scripted model of known abilities: classes, masks, quotas, resuming, order of arrival."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfcorrect import prompts
from selfcorrect.chat import ChatCodec
from selfcorrect.data_gen.pipeline import GenRecipe, PairQuota, Quota, run
from selfcorrect.data_gen.sampling.passes import library_grader, load
from selfcorrect.data_gen.sampling.samples import GradeQueue
from selfcorrect.engines import EngineRecipe, SampleRequest, sample_seed
from selfcorrect.engines.scripted import Reply, ScriptedEngine
from selfcorrect.errors import EngineError, RecipeError, RunFolderError
from selfcorrect.problems import ProblemsRecipe
from selfcorrect.runs.jsonl import read_journal, read_jsonl
from selfcorrect.types import Grade, Outcome, Problem
from tests.data_gen.worlds import WORLD, World, grade, write_problems

SETS = ("self-rewarding", "single-turn", "raft", "raft-plus")


@pytest.fixture(scope="session")
def problem_file(tmp_path_factory) -> Path:
    return write_problems(tmp_path_factory.mktemp("problems") / "toy.jsonl")


def toy_recipe(problem_file: Path, **settings: Any) -> GenRecipe:
    return GenRecipe(
        problems=ProblemsRecipe(source=str(problem_file), count=40),
        prompts=20,
        attempts=6,
        quota=Quota(20, 8, 16),
        cap_per_problem=2,
        max_tokens=120,
        in_flight=24,
        **settings,
    )


@pytest.fixture
def recipe(problem_file: Path) -> GenRecipe:
    return toy_recipe(problem_file)


def sample(recipe: GenRecipe, folder: Path, codec: ChatCodec, world: Any = WORLD, delay: Any = lambda request: 0.0):  # type: ignore[no-untyped-def]
    engine = ScriptedEngine(world, codec, delay)
    return run(recipe, folder, engine=engine, codec=codec, grade=grade), engine


def rows_of(folder: Path, name: str = "self-rewarding") -> list[dict]:
    return list(read_jsonl(folder / "data" / "sft" / f"{name}.jsonl"))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "data").rglob("*.json*"))}


def learned(row: dict, codec: ChatCodec) -> list[str]:
    return [codec.decode(row["token_ids"][s["start"] : s["end"]]) for s in row["spans"] if s["learn"]]


def was_right(text: str, gold: str) -> bool:
    return f"boxed{{{gold}}}" in text


# --- what is written ----------------------------------------------------------------------------------------------


def test_quotas_are_met_with_rows_of_the_right_classes(recipe, tmp_path, codec) -> None:
    summary, _ = sample(recipe, tmp_path, codec)
    rows = rows_of(tmp_path)
    assert Counter(row["kind"] for row in rows) == summary["classes"] == {"D1": 20, "D2": 8, "D3": 16}
    assert summary["short"] == {}
    for row in rows:
        _, *parts = row["spans"]
        attempt, evaluation, *revision = (codec.decode(row["token_ids"][s["start"] : s["end"]]) for s in parts)
        assert was_right(attempt, row["gold"]) is (row["kind"] != "D1")
        assert ("[VERIFY] correct." in evaluation) is (row["kind"] == "D3")
        assert [was_right(text, row["gold"]) for text in revision] == ([] if row["kind"] == "D3" else [True])
    per_problem = Counter((row["kind"], row["problem_id"]) for row in rows)
    assert max(per_problem.values()) <= 2
    assert len({row["id"] for row in rows}) == len(rows), "one trajectory per base sample"
    numbers = [(int(row["problem_id"].split("-")[1]), row["id"]) for row in rows]
    assert numbers == sorted(numbers), "rows are in order of identity"


def test_masks_are_token_exact(recipe, tmp_path, codec) -> None:
    sample(recipe, tmp_path, codec)
    samples = {row["key"]: row for path in (tmp_path / "gen").glob("*.jsonl") for row in read_jsonl(path)}
    separator, end = codec.encode(prompts.SEPARATOR), codec.turn_end
    for row in rows_of(tmp_path):
        opening = codec.opening(prompts.solve_messages(row["question"]))
        attempt = tuple(samples[row["id"]]["token_ids"])
        spans = row["spans"]
        assert [s["start"] for s in spans] == [0, *(s["end"] for s in spans[:-1])], "spans follow one another"
        assert spans[-1]["end"] == len(row["token_ids"])
        assert row["token_ids"][: len(opening)] == list(opening)
        assert row["token_ids"][len(opening) : len(opening) + len(attempt)] == list(attempt)
        assert row["token_ids"][-1] == end
        assert row["token_ids"].count(end) == 2, "the user's message, and the whole path"
        learns = {"D1": ["self-evaluation", "revision"], "D2": ["revision"], "D3": ["attempt", "self-evaluation"]}
        assert [s["role"] for s in spans if s["learn"]] == learns[row["kind"]]
        for span in spans[2:]:
            assert tuple(row["token_ids"][span["start"] : span["start"] + len(separator)]) == separator
        assert row["text"] == codec.decode(row["token_ids"])
        assert row["text"].endswith(row["messages"][-1]["content"] + "<|end|>")
        assert "".join(learned(row, codec)).endswith("<|end|>")


def test_false_verdicts_are_sampled_where_the_model_errs_and_stated_where_not(recipe, tmp_path, codec) -> None:
    sample(recipe, tmp_path, codec, World(judges=0.6))
    d2 = [row for row in rows_of(tmp_path) if row["kind"] == "D2"]
    stated = [row for row in d2 if not row["spans"][2]["sampled"]]
    assert stated
    assert len(stated) < len(d2)
    for row in stated:
        span = row["spans"][2]
        assert codec.decode(row["token_ids"][span["start"] : span["end"]]) == "\n\n[VERIFY] wrong."
        assert not span["learn"]
    card = json.loads((tmp_path / "data/sft/self-rewarding.card.json").read_text())
    assert card["counts"]["verdict stated, not sampled"] == len(stated)
    assert card["tokenizer"] == codec.fingerprint()
    assert card["recipe"]["quota"] == {"d1": 20, "d2": 8, "d3": 16}


def test_two_turn_rows_state_the_checkers_verdict(recipe, tmp_path, codec) -> None:
    _, engine = sample(replace(recipe, format="two-turn"), tmp_path, codec)
    assert not any(request.stop_texts for request in engine.requests), "no self-evaluation is sampled"
    for row in rows_of(tmp_path):
        contents = [message["content"] for message in row["messages"]]
        answer = "Yes" if row["kind"] == "D3" else "No"
        assert contents[1].endswith(f"\n\n{prompts.SELF_QUESTION} {answer}.")
        assert contents[2:3] == ([] if row["kind"] == "D3" else [prompts.CHAT_WRONG])
        assert row["text"] == codec.decode(codec.opening(row["messages"])).removesuffix("<|assistant|>")
        external = [s for s in row["spans"] if s["role"] == "external"]
        assert len(external) == (1 if row["kind"] == "D3" else 2)
        assert not any(s["learn"] for s in external)
        evaluation = next(s for s in row["spans"] if s["role"] == "self-evaluation")
        assert evaluation["learn"] is (row["kind"] != "D2")
        assert row["token_ids"][evaluation["end"] - 1] == codec.turn_end


def test_baselines_have_as_many_distinct_rows(recipe, tmp_path, codec) -> None:
    summary, _ = sample(replace(recipe, baselines=True), tmp_path, codec)
    assert {name: summary["rows"][name] for name in SETS} == dict.fromkeys(SETS, 44)
    for name in ("raft", "raft-plus"):
        rows = rows_of(tmp_path, name)
        assert len({(row["problem_id"], row["text"]) for row in rows}) == len(rows)
        for row in rows:
            first, asked, second = (message["content"] for message in row["messages"][1:])
            assert asked == prompts.INTRINSIC
            assert was_right(second, row["gold"])
            assert was_right(first, row["gold"]) is (row["first"] == "right")
            assert learned(row, codec) == [second + "<|end|>"]
    for row in rows_of(tmp_path, "single-turn"):
        assert row["kind"] == "single-turn"
        assert [message["role"] for message in row["messages"]][-1:] == ["assistant"]
        assert was_right(row["messages"][-1]["content"], row["gold"])
        assert learned(row, codec) == [row["messages"][-1]["content"] + "<|end|>"]
    assert {row["first"] for row in rows_of(tmp_path, "raft")} == {"wrong"}
    assert Counter(row["first"] for row in rows_of(tmp_path, "raft-plus")) == {"wrong": 22, "right": 22}


def test_judged_baselines_reuse_the_samplers_draws(recipe, tmp_path, codec) -> None:
    recipe = replace(recipe, baselines=True, baseline_revisions="judged", attempts=8)
    summary, _ = sample(recipe, tmp_path, codec)
    assert {name: summary["rows"][name] for name in SETS} == dict.fromkeys(SETS, 44)
    revisions = {row["key"]: row["text"] for row in read_jsonl(tmp_path / "gen" / "revisions.jsonl")}
    assert all(row["messages"][-1]["content"] in revisions.values() for row in rows_of(tmp_path, "raft"))
    assert "blind" not in summary["drawn"]["samples"]
    for stage in ("attempts", "evaluations", "revisions"):
        counts = summary["samples"][stage]
        counted = sum(value for name, value in counts.items() if name != "acceptance")
        assert counted <= summary["drawn"]["samples"][stage], "a draw that both passes use is counted once"


@pytest.mark.parametrize("style", ["long-cot", "two-turn"])
def test_preference_pairs_share_the_attempt_and_differ_in_worth(recipe, tmp_path, codec, style) -> None:
    recipe = replace(recipe, format=style, preferences=PairQuota(6, 5, 8), attempts=12, false_verdicts=8)
    summary, _ = sample(recipe, tmp_path, codec, World(judges=0.7))
    rows = list(read_jsonl(tmp_path / "data" / "preferences" / "pairs.jsonl"))
    assert Counter(row["kind"] for row in rows) == {"P1": 6, "P2": 5, "P3": 8}
    order = [[int(part) for part in re.findall(r"\d+", row["id"])[:2]] for row in rows]
    assert order == sorted(order), "rows are in order of identity"
    assert summary["classes"]["P3"] == 8
    seen = set()
    for row in rows:
        outcome = {}
        for side in ("chosen", "rejected"):
            path = row[side]
            assert path["token_ids"][: row["shared"]] == row["chosen"]["token_ids"][: row["shared"]]
            learns = [span for span in path["spans"] if span["learn"]]
            assert min(span["start"] for span in learns) == row["shared"]
            after = [span for span in path["spans"] if span["start"] >= row["shared"]]
            assert [span["learn"] for span in after] == [span["role"] != "external" for span in after]
            attempt, evaluation, *revision = (
                codec.decode(path["token_ids"][span["start"] : span["end"]])
                for span in path["spans"]
                if span["role"] != "external"
            )
            no = "[VERIFY] wrong." in evaluation or f"{prompts.SELF_QUESTION} No." in evaluation
            outcome[side] = (no, *(was_right(text, row["gold"]) for text in revision))
            assert was_right(attempt, row["gold"]) is (row["first"] == "right")
            assert path["text"] == codec.decode(path["token_ids"])
        seen.add((row["kind"], row["first"], outcome["chosen"], outcome["rejected"]))
    mended, spoiled, accepted = (True, True), (True, False), (False,)
    assert seen == {
        ("P1", "wrong", mended, spoiled),
        ("P2", "right", mended, spoiled),
        ("P3", "wrong", mended, accepted),
        ("P3", "right", accepted, spoiled),
    }


def test_pairs_reuse_the_draws_of_the_rows(recipe, tmp_path, codec) -> None:
    _, alone = sample(recipe, tmp_path / "alone", codec)
    summary, both = sample(replace(recipe, preferences=PairQuota(p1=6)), tmp_path / "both", codec)
    assert rows_of(tmp_path / "both") == rows_of(tmp_path / "alone")
    assert summary["classes"]["P1"] == 6
    assert len(both.requests) - len(alone.requests) < 20


def test_a_teachers_revisions_become_the_students_tokens(recipe, tmp_path, codec, byte_tokenizer) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace("'<|' + message['role'] + '|>'", "message['role'] + ': '")
    tokenizer.add_tokens(["slow "])
    tokenizer.chat_template = tokenizer.chat_template.replace("<|assistant|>", "assistant: ")
    teachers = ChatCodec(tokenizer)

    def script(request: SampleRequest, text: str) -> Reply:
        (gold,) = re.findall(r"equals (\d+)\?", text)
        assert text.rstrip().endswith("assistant:")
        assert f"user: {prompts.REVISE}" in text
        return Reply(f"slow but sure {request.seed % 1000}\n\\boxed{{{gold}}}")

    teacher = ScriptedEngine(script, teachers)
    recipe = replace(recipe, teacher=EngineRecipe(model="a-teacher"))
    student = ScriptedEngine(World(), codec)
    summary = run(recipe, tmp_path, engine=student, codec=codec, teacher=(teacher, teachers), grade=grade)
    assert summary["classes"] == {"D1": 20, "D2": 8, "D3": 16}
    assert not any(prompts.REVISE in codec.decode(request.prompt_ids) for request in student.requests)
    revised = [row for row in rows_of(tmp_path) if row["kind"] != "D3"]
    for row in revised:
        span = row["spans"][-1]
        assert span["role"] == "revision"
        assert span["learn"]
        assert not span["sampled"], "the policy never sampled it"
        assert codec.decode(row["token_ids"][span["start"] : span["end"]]).startswith("\n\nslow but sure")
        assert codec.encode("slow but sure")[0] in row["token_ids"], "in the student's own tokens"
        assert max(row["token_ids"]) < len(codec.tokenizer)
    assert "a-teacher" in (tmp_path / "data" / "README.md").read_text()


def test_prompts_for_rl_share_no_question_with_the_samples(recipe, tmp_path, codec) -> None:
    sample(recipe, tmp_path, codec)
    set_aside = list(read_jsonl(tmp_path / "data" / "prompts.jsonl"))
    assert len(set_aside) == 20
    assert set(set_aside[0]) == {"id", "question", "gold", "source"}
    sampled = {problem.question for problem in load(recipe)[0].problems}
    assert len(sampled) == 40
    assert not sampled & {row["question"] for row in set_aside}


def test_worked_examples_are_shown_but_not_trained_on(recipe, tmp_path, codec) -> None:
    marker = "A baker makes 6 trays"
    world = World()

    def script(request: SampleRequest, text: str) -> Reply:
        assert text.count("<|bos|>") == 1
        own = re.search(r"<\|user\|>Which number", text)
        assert own
        seen.add(marker in text[: own.start()])
        return world(request, text[own.start() :])

    seen: set[bool] = set()
    sample(replace(recipe, examples="gsm8k"), tmp_path, codec, script)
    assert seen == {True, False}, "shown with attempts, other examples with other parts"
    assert not any(marker in row["text"] for row in rows_of(tmp_path))


def test_unusable_attempts_are_dropped_and_counted(recipe, tmp_path, codec) -> None:
    def broken(rng: random.Random, part: str) -> str | None:
        if part != "attempt" or rng.random() < 0.4:
            return None
        return rng.choice(["no answer", "\\boxed{1} [VERIFY] correct.", "on and on " * 30])

    summary, _ = sample(replace(recipe, attempts=12), tmp_path, codec, World(broken=broken))
    counts = summary["samples"]["attempts"]
    assert all(counts[fate] > 5 for fate in ("ungradable", "marked", "cut", "right", "wrong"))
    text = json.dumps(rows_of(tmp_path))
    assert "no answer" not in text
    assert "on and on" not in text
    assert all(row["text"].count("[VERIFY]") == 1 for row in rows_of(tmp_path))


def test_evaluations_without_one_clean_mark_do_not_count(recipe, tmp_path, codec) -> None:
    texts = ["no mark", "[VERIFY] maybe", "[verify] x [VERIFY] wrong."]
    broken = lambda rng, part: rng.choice(texts) if part == "evaluation" and rng.random() < 0.7 else None
    summary, _ = sample(recipe, tmp_path, codec, World(broken=broken))
    assert summary["samples"]["evaluations"]["no well-formed mark"] > 10
    for row in rows_of(tmp_path):
        assert "maybe" not in row["text"]
        assert "[verify]" not in row["text"]


# --- what is drawn ------------------------------------------------------------------------------------------------


def test_adaptive_draws_far_less_for_the_same_rows(recipe, tmp_path, codec) -> None:
    recipe = replace(recipe, attempts=3, quota=Quota(10, 4, 8), problems=replace(recipe.problems, count=20))
    adaptive, few = sample(recipe, tmp_path / "adaptive", codec)
    fixed, many = sample(replace(recipe, schedule="fixed"), tmp_path / "fixed", codec)
    assert adaptive["classes"] == fixed["classes"]
    assert len(many.requests) > 3 * len(few.requests)
    counts = fixed["samples"]
    right, wrong = counts["attempts"]["right"], counts["attempts"]["wrong"]
    assert right + wrong == 20 * 3
    assert fixed["drawn"]["samples"]["evaluations"] == 60 * 8
    wrong_ids = {row["key"] for row in read_jsonl(tmp_path / "fixed/gen/attempts.jsonl") if row["fate"] == "wrong"}
    revised = Counter(row["key"].split("/revision")[0] for row in read_jsonl(tmp_path / "fixed/gen/revisions.jsonl"))
    assert len(revised) > 50
    assert revised == {base: 8 if base in wrong_ids else 4 for base in revised}


def test_the_fixed_schedule_draws_the_papers_numbers(problem_file, tmp_path, codec) -> None:
    recipe = GenRecipe(schedule="fixed", problems=ProblemsRecipe(source=str(problem_file), count=1))
    summary, _ = sample(recipe, tmp_path, codec)
    fates = {row["key"]: row["fate"] for row in read_jsonl(tmp_path / "gen/attempts.jsonl")}
    judged = Counter(row["key"].split("/evaluation")[0] for row in read_jsonl(tmp_path / "gen/evaluations.jsonl"))
    revised = Counter(row["key"].split("/revision")[0] for row in read_jsonl(tmp_path / "gen/revisions.jsonl"))
    assert len(fates) == 50, "N1"
    assert judged == dict.fromkeys(fates, 8), "N2"
    assert set(revised) == set(fates), "every attempt has a self-evaluation that agrees, among eight"
    assert all(count == {"wrong": 8, "right": 4}[fates[base]] for base, count in revised.items()), "M1, M2"
    assert summary["drawn"]["samples"] == {"attempts": 50, "evaluations": 400, "revisions": revised.total()}


def test_no_work_is_started_that_no_quota_needs(recipe, tmp_path, codec) -> None:
    summary, _ = sample(replace(recipe, quota=Quota(0, 0, 10)), tmp_path, codec, World(right=0.5, judges=1.0))
    drawn = summary["drawn"]["samples"]
    assert "revisions" not in drawn
    assert 10 <= drawn["evaluations"] <= 14
    assert drawn["attempts"] <= 45


def test_shortage_is_reported_not_repeated(recipe, tmp_path, codec) -> None:
    summary, _ = sample(replace(recipe, attempts=1, baselines=True), tmp_path, codec, World(repairs=0.05, blind=0.05))
    assert summary["classes"].get("D1", 0) + summary["short"]["D1"] == 20
    assert summary["short"]["raft"] > 0
    rows = rows_of(tmp_path, "raft")
    assert len({row["text"] for row in rows}) == len(rows)


def test_rows_of_a_class_are_an_unbiased_sample(recipe, tmp_path, codec) -> None:
    recipe = replace(recipe, attempts=30, quota=Quota(100, 50, 50), cap_per_problem=None, in_flight=64)
    summary, _ = sample(recipe, tmp_path, codec, delay=lambda request: 0.002 if request.seed % 3 == 0 else 0.0)
    tries, served = summary["samples"]["D1"]["tried"], summary["samples"]["D1"]["served"]
    expected = (1 - 0.2**8) * (1 - 0.6**8)
    assert served / tries == pytest.approx(expected, abs=4 * (expected * (1 - expected) / tries) ** 0.5)
    rows = rows_of(tmp_path)
    slow = sum("slow" in text for row in rows if row["kind"] != "D3" for text in learned(row, codec)[-1:])
    assert slow / 150 == pytest.approx(0.3, abs=0.1), "slow revisions are kept as often as they are sampled"


# --- order, interruption, errors ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(tmp_path_factory, codec, problem_file):  # type: ignore[no-untyped-def]
    recipe = toy_recipe(problem_file, baselines=True)
    folder = tmp_path_factory.mktemp("reference")
    sample(recipe, folder, codec)
    return recipe, files_of(folder)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_arrival_does_not_matter(reference, tmp_path, codec, seed) -> None:
    recipe, expected = reference
    rng = random.Random(seed)
    sample(recipe, tmp_path, codec, delay=lambda request: rng.random() * 0.01)
    assert files_of(tmp_path) == expected


@pytest.mark.parametrize("schedule", ["adaptive", "fixed"])
def test_matched_rows_depend_neither_on_arrival_nor_on_an_interruption(recipe, tmp_path, codec, schedule) -> None:
    settings = {"schedule": schedule, "attempts": 8, "evaluations": 2, "revisions": 2, "quota": Quota(16, 4, 16)}
    recipe = replace(recipe, match="difficulty", **settings)
    sample(recipe, tmp_path / "at once", codec)
    rng = random.Random(0)
    left = 150

    def script(request: SampleRequest, text: str) -> Reply:
        nonlocal left
        left -= 1
        if left == 0:
            raise EngineError("gone")
        return WORLD(request, text)

    with pytest.raises(EngineError, match="gone"):
        sample(recipe, tmp_path / "late", codec, script)
    summary, _ = sample(recipe, tmp_path / "late", codec, delay=lambda request: rng.random() * 0.005)
    assert summary["drawn"]["resumed"] > 100
    assert summary["classes"] == {"D1": 16, "D2": 4, "D3": 16}
    assert files_of(tmp_path / "late") == files_of(tmp_path / "at once")


def test_in_flight_matters_only_to_steering(recipe, tmp_path, codec) -> None:
    recipe = replace(recipe, baselines=True, steer=False)
    sample(recipe, tmp_path / "many", codec)
    sample(replace(recipe, in_flight=1), tmp_path / "one", codec)
    for name in SETS:
        assert files_of(tmp_path / "many")[f"{name}.jsonl"] == files_of(tmp_path / "one")[f"{name}.jsonl"]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("failure", [EngineError, KeyboardInterrupt])
def test_interrupted_equals_uninterrupted(reference, tmp_path, codec, seed, failure) -> None:
    recipe, expected = reference
    rng, world = random.Random(seed), World()
    for left in (rng.randrange(1, 60), rng.randrange(50, 300)):
        done = {row["key"] for path in tmp_path.glob("gen/*.jsonl") for row in read_jsonl(path)}
        budget = [left]

        def script(request: SampleRequest, text: str, budget: list[int] = budget) -> Reply:
            budget[0] -= 1
            if budget[0] < 0:
                raise failure("stop here")
            return world(request, text)

        engine = ScriptedEngine(script, codec, lambda request: rng.random() * 0.004)
        with pytest.raises(failure):
            run(recipe, tmp_path, engine=engine, codec=codec, grade=grade)
        assert_not_drawn_again(recipe, engine, done)
        assert not (tmp_path / "gen" / "DONE").exists()
    with (tmp_path / "gen" / "attempts.jsonl").open("ab") as journal:
        journal.write(b'{"key": "torn')
    done = {row["key"] for name in ("evaluations", "revisions") for row in read_jsonl(tmp_path / f"gen/{name}.jsonl")}
    summary, engine = sample(recipe, tmp_path, codec, delay=lambda request: rng.random() * 0.004)
    assert_not_drawn_again(recipe, engine, done)
    assert files_of(tmp_path) == expected
    assert summary["drawn"]["resumed"] > 0


def assert_not_drawn_again(recipe: GenRecipe, engine: ScriptedEngine, done: set[str]) -> None:
    stages = {"": "attempts", "evaluation": "evaluations", "revision": "revisions", "blind": "blind"}
    part = lambda key: key.split("/")[2] if key.count("/") > 1 else ""
    seeds = {sample_seed(recipe.seed, stages[part(key)], key) for key in done}
    assert not seeds & {request.seed for request in engine.requests}


def test_a_finished_folder_is_only_read(reference, recipe, tmp_path, codec) -> None:
    first, _ = sample(recipe, tmp_path, codec)
    again, engine = sample(recipe, tmp_path, codec)
    assert again == first
    assert engine.requests == []
    with pytest.raises(RunFolderError, match="seed: 1"):
        sample(replace(recipe, seed=1), tmp_path, codec)


def test_a_failing_grader_stops_the_run(recipe, tmp_path, codec) -> None:
    def failing(pairs: Sequence[tuple[str, str]], **_: Any) -> list[Grade]:
        raise RuntimeError("the grader broke")

    with pytest.raises(RuntimeError, match="the grader broke"):
        run(recipe, tmp_path, engine=ScriptedEngine(World(), codec), codec=codec, grade=failing)


def test_a_problem_is_graded_with_the_error_that_it_allows() -> None:
    problems = [
        Problem("p", "q", "2.5", "olympiadbench", {"tolerance": "0.1"}),
        Problem("p", "q", "2.5", "olympiadbench"),
    ]

    async def graded() -> list[Grade]:
        queue = GradeQueue(library_grader())
        return list(await asyncio.gather(*(queue.grade(r"\boxed{2.6}", problem) for problem in problems)))

    assert [grade.outcome for grade in asyncio.run(graded())] == [Outcome.CORRECT, Outcome.WRONG]


def test_samples_are_journalled_with_their_tokens_and_judgements(recipe, tmp_path, codec) -> None:
    sample(recipe, tmp_path, codec)
    attempt = next(read_journal(tmp_path / "gen" / "attempts.jsonl"))
    assert set(attempt) == {"key", "text", "finish", "token_ids", "logprobs", "fate", "grade"}
    assert len(attempt["logprobs"]) == len(attempt["token_ids"])
    assert attempt["grade"]["outcome"] in ("correct", "wrong")
    evaluation = next(read_journal(tmp_path / "gen" / "evaluations.jsonl"))
    assert set(evaluation) == {"key", "text", "finish", "token_ids", "logprobs", "verdict", "p_correct"}
    assert evaluation["p_correct"] == 0.9
    assert evaluation["text"].endswith(f"[VERIFY] {evaluation['verdict']}.")


def test_recipes_are_checked(problem_file) -> None:
    with pytest.raises(RecipeError, match="attempts: expected at least 1"):
        GenRecipe(attempts=0)
    with pytest.raises(RecipeError, match=r"problems\.count"):
        GenRecipe(prompts=5)
    with pytest.raises(RecipeError, match="balance"):
        GenRecipe(balance=0.5)


@pytest.mark.parametrize("quota", [Quota(160, 50, 190), Quota(0, 5, 0), Quota(None, 5, 10)])
def test_matching_needs_equal_quotas(quota) -> None:
    with pytest.raises(RecipeError, match="match: difficulty keeps a row of D3 for each of D1"):
        GenRecipe(match="difficulty", quota=quota)
    assert not GenRecipe(quota=quota).is_matched, "auto"


def test_matching_is_on_where_the_quotas_allow_it() -> None:
    assert GenRecipe(quota=Quota(20, 5, 20)).is_matched
    assert not GenRecipe(quota=Quota(20, 5, 20), match="none").is_matched
    assert not GenRecipe().is_matched, "null asks for all rows"
    assert GenRecipe(match="difficulty").is_matched, "null for both: all pairs"


def test_the_card_tells_the_leak_and_what_follows_a_verdict_wrong(recipe, tmp_path, codec) -> None:
    """Counts of first revisions by hand, from the journals: only attempts that were told they are wrong."""
    numbers = {"attempts": 12, "evaluations": 3, "revisions": 3, "confirmations": 2}
    matched = replace(recipe, quota=Quota(24, 8, 24), schedule="fixed", **numbers)
    summary, _ = sample(matched, tmp_path, codec, World(judges=1.0))
    fates = {row["key"]: row["fate"] for row in read_jsonl(tmp_path / "gen" / "attempts.jsonl")}
    first = {
        row["key"].removesuffix("/revision/0"): row["fate"]
        for row in read_jsonl(tmp_path / "gen" / "revisions.jsonl")
        if row["key"].endswith("/revision/0")
    }
    told = {
        attempt: Counter(fate for key, fate in first.items() if fates[key] == attempt) for attempt in ("right", "wrong")
    }
    assert summary["first revision after a verdict wrong"] == told
    assert told["right"].total() > 100
    card = (tmp_path / "data" / "README.md").read_text()
    assert "each problem gives as many rows of D1 as of D3" in card
    right, wrong = told["right"], told["wrong"]
    assert f"| wrong | {wrong.total()} | {wrong['right']} | {wrong['wrong']} |" in card
    assert f"| correct | {right.total()} | {right['right']} | {right['wrong']} |" in card
    assert "| words | 0.50 [0.50 0.50] | 24 | 24 |" in card
    assert "Of the 8 rows of D2, 8 state the false verdict as a bare mark" in card
    saved = json.loads((tmp_path / "data/sft/self-rewarding.card.json").read_text())
    assert saved["leak"] == summary["leak"]
    assert saved["leak"]["words"]["auroc"] == 0.5


def test_errors_of_many_tasks_surface_as_one(recipe, tmp_path, codec) -> None:
    def script(request: SampleRequest, text: str) -> Reply:
        raise EngineError("out of memory")

    with pytest.raises(EngineError, match="out of memory") as caught:
        sample(recipe, tmp_path, codec, script)
    assert not isinstance(caught.value, BaseExceptionGroup)
    assert not asyncio.all_tasks(asyncio.new_event_loop())


# --- parts cut from the model's own paths -------------------------------------------------------------------------


def writes_paths(world: World, style: str) -> Any:
    """A model fine-tuned on joined paths: it goes on from wherever its path stands to the end of its turn."""

    def script(request: SampleRequest, text: str) -> Reply:
        rng = random.Random(request.seed)
        (gold,) = re.findall(r"equals (\d+)\?", text)
        written = text.split("<|assistant|>", 1)[1]
        two_turn = style == "two-turn"
        boxes = re.findall(r"boxed\{(\d+)\}", written)
        judged = "[VERIFY]" in written or (two_turn and prompts.SELF_QUESTION in written)
        said = ""
        if len(boxes) == judged:  # an attempt or a revision is due
            share = world.right if not boxes else world.keeps if boxes[0] == gold else world.repairs
            boxes.append(gold if rng.random() < share else str(int(gold) + 1 + rng.randrange(9)))
            said = f"{'Again' if judged else 'First'} {rng.randrange(100)}\n\\boxed{{{boxes[-1]}}}"
            said = "\n\n" + said if judged and not two_turn else said
        right = (boxes[-1] == gold) == (rng.random() < world.judges)
        if two_turn:
            return Reply(f"{said}\n\n{prompts.SELF_QUESTION} {'Yes' if right else 'No'}.")
        return Reply(f"{said}\n\nLook {rng.randrange(100)}. [VERIFY] {'correct' if right else 'wrong'}.")

    return script


@pytest.mark.parametrize("style", ["long-cot", "two-turn"])
def test_parts_are_cut_from_the_paths_of_a_fine_tuned_model(recipe, tmp_path, codec, style) -> None:
    recipe = replace(
        recipe, parts="in-path", format=style, preferences=PairQuota(5, 4, 5), attempts=12, false_verdicts=8
    )
    summary, engine = sample(recipe, tmp_path, codec, writes_paths(World(judges=0.7), style))
    assert summary["classes"] == {"D1": 20, "D2": 8, "D3": 16, "P1": 5, "P2": 4, "P3": 5}
    asked = [codec.decode(request.prompt_ids) for request in engine.requests]
    assert not any(prompts.EVALUATE in text or prompts.REVISE in text for text in asked), "nobody is asked for a part"
    samples = {row["key"]: row for row in read_jsonl(tmp_path / "gen" / "attempts.jsonl")}
    for row in rows_of(tmp_path):
        ids, spans = row["token_ids"], [span for span in row["spans"] if span["role"] != "external"]
        attempt, evaluation, *revision = (codec.decode(ids[span["start"] : span["end"]]) for span in spans)
        assert was_right(attempt, row["gold"]) is (row["kind"] != "D1")
        assert "[VERIFY]" not in attempt
        assert prompts.SELF_QUESTION not in attempt
        no = "[VERIFY] wrong." in evaluation or f"{prompts.SELF_QUESTION} No." in evaluation
        assert no is (row["kind"] != "D3")
        assert [was_right(text, row["gold"]) for text in revision] == ([] if row["kind"] == "D3" else [True])
        assert not any("[VERIFY]" in text or prompts.SELF_QUESTION in text for text in revision)
        assert "\n\n\n" not in row["text"], "no separator is added to what the model wrote"
        first = samples[row["id"]]
        written = first["token_ids"] + first["after"]
        opening = len(codec.opening(prompts.solve_messages(row["question"])))
        if style == "two-turn" or codec.decode(first["after"]) == evaluation:
            kept = ids[opening : opening + len(written)]
            assert kept == written, "token for token as sampled"
    if style == "long-cot":
        drawn = summary["samples"]
        assert drawn["evaluations"]["agrees with the grade"] > 0
        assert summary["drawn"]["samples"]["evaluations"] < sum(
            count for name, count in drawn["evaluations"].items() if name != "acceptance"
        ), "an attempt's own self-evaluation is used, not drawn again"


def test_baselines_need_a_model_that_is_asked() -> None:
    with pytest.raises(RecipeError, match="parts: asked"):
        GenRecipe(parts="in-path", baselines=True)


def test_contaminated_problems_are_listed_beside_the_samples(recipe, problem_file, tmp_path, codec) -> None:
    rows = [json.loads(line) for line in problem_file.read_text().splitlines()]
    test_set = tmp_path / "gsm8k.test.jsonl"
    test_set.write_text(json.dumps({"question": rows[3]["question"].upper(), "answer": "#### 13"}) + "\n")
    recipe = replace(recipe, problems=replace(recipe.problems, decontaminate=(str(test_set),)), prompts=10)
    summary, engine = sample(recipe, tmp_path / "run", codec)
    (removed,) = read_jsonl(tmp_path / "run" / "gen" / "removed.jsonl")
    assert removed == {
        "id": "toy-3",
        "question": rows[3]["question"],
        "test_set": str(test_set),
        "test_id": "gsm8k.test-0",
        "why": "same text",
    }
    assert summary["problems"]["dropped"] == {"contained in a test set": 1}
    assert "1 × contained in a test set" in (tmp_path / "run" / "data" / "README.md").read_text()
    assert not any(rows[3]["question"] in codec.decode(request.prompt_ids) for request in engine.requests)


@pytest.mark.parametrize("wrong", [{"quota": Quota(d1=-1)}, {"preferences": PairQuota(p3=-1)}])
def test_a_negative_quota_is_refused(wrong) -> None:
    with pytest.raises(RecipeError, match="got -1"):
        GenRecipe(**wrong)
