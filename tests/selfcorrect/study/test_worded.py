"""The problems and the start rows of the study `smollm`: true sums, no number twice, each part asked for by itself."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.gpu import worded
from benchmarks.gpu.worded_parts import DRILL, Shares, chat, write_parts
from selfcorrect import prompts
from selfcorrect.chat import ChatCodec
from selfcorrect.data_gen.sampling.requests import Examples, RequestBuilder
from selfcorrect.training_row import read_training_rows
from selfcorrect.types import Role, Verdict
from selfcorrect.verdicts import parse_verdict

LINE = re.compile(r"^([-\d+* ]+) = (-?\d+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def codec() -> ChatCodec:
    return ChatCodec.load("embedded")


def drawn(count: int, levels: worded.Levels = worded.SMALL) -> list[worded.Worded]:
    return list(worded.Drawn(0, levels).take(count))


def test_problems_of_all_files_have_numbers_of_their_own(tmp_path: Path) -> None:
    larger = drawn(500, worded.LEVELS)
    made = worded.write(tmp_path, {"train": 300, "test": 200}, worded.Drawn(0, worded.SMALL, avoid=larger))
    steps = [problem.steps for problem in (*larger, *made["train"], *made["test"])]
    assert len(set(steps)) == 1000
    assert {problem.level for problem in made["test"]} == set(worded.SMALL)
    rows = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    for row, problem in zip(rows, made["test"], strict=True):
        numbers = re.findall(r"\d+", row["question"])
        (first, *_), rest = problem.steps[0], [b for _, _, b in problem.steps]
        assert sorted(map(int, numbers)) == sorted([first, *rest]), "the question says its numbers and no others"
        assert row["worked"].endswith(f"\\boxed{{{row['answer']}}}")
        assert all(eval(left) == int(right) for left, right in LINE.findall(row["worked"]))


def test_a_sum_told_in_another_order_is_the_same_sum() -> None:
    def sums(*told: tuple[tuple[int, str, int], ...]) -> set[tuple[object, ...]]:
        return {worded.Worded("", "", steps).sum_in_any_order for steps in told}

    assert len(sums(((7, "+", 8), (15, "+", 28)), ((28, "+", 8), (36, "+", 7)))) == 1
    assert len(sums(((9, "*", 8), (72, "+", 6)), ((8, "*", 9), (72, "+", 6)))) == 1
    assert len(sums(((9, "*", 8), (72, "+", 6)), ((9, "*", 6), (54, "+", 8)))) == 2
    assert len(sums(((7, "+", 8), (15, "-", 2)), ((8, "+", 7), (15, "-", 2)), ((7, "+", 2), (9, "-", 8)))) == 2
    assert len(sums(((7, "+", 8), (15, "+", 2)), ((7, "+", 8), (15, "-", 2)))) == 2


def test_what_is_learned_is_true_and_the_coins_know_nothing_of_the_problem() -> None:
    rng, problems = random.Random(1), drawn(600)
    verdicts: Counter[tuple[str, bool, Verdict]] = Counter()
    for problem in problems:
        attempt, *later = chat(rng, problem, Shares())
        is_right = attempt.text.endswith(f"\\boxed{{{problem.answer}}}")
        assert attempt.learn is is_right, "a wrong attempt is shown and not learned"
        for turn in later:
            assert turn.learn
            assert all(eval(left) == int(right) for left, right in LINE.findall(turn.text)), turn.text
            if turn.role is Role.EVALUATION:
                verdict = parse_verdict(turn.text)
                assert verdict is not None
                verdicts["glance" if "glance" in turn.text else "check", is_right, verdict] += 1
        asked = [turn.asked_by for turn in later]
        assert asked in ([prompts.INTRINSIC], [prompts.EVALUATE], [prompts.EVALUATE, prompts.REVISE])
    assert not verdicts["check", True, Verdict.WRONG]
    assert not verdicts["check", False, Verdict.CORRECT]
    said_correct = [
        verdicts["glance", right, Verdict.CORRECT]
        / (verdicts["glance", right, Verdict.CORRECT] + verdicts["glance", right, Verdict.WRONG])
        for right in (True, False)
    ]
    assert all(0.6 < share < 0.9 for share in said_correct), said_correct


def test_each_part_is_asked_for_as_gen_asks(codec: ChatCodec, tmp_path: Path) -> None:
    problems = drawn(60)
    path = tmp_path / "parts.jsonl"
    assert write_parts(path, problems[:40], problems[40:], codec, 0, Shares(whole=0.5)) == 42
    requests, rows = RequestBuilder(codec, Examples()), read_training_rows(path)
    for row, problem in zip(rows[:40], problems, strict=False):
        ids, spans = row.tokens.token_ids, row.tokens.spans
        parts = [ids[span.start : span.end - 1] for span in spans]  # without the end of the turn
        asked = [requests.attempt(problem.question)]
        if spans[-1].role is Role.REVISION and len(spans) == 2:
            asked.append(requests.unjudged_revision(problem.question, parts[0]))
        elif len(spans) > 1:
            asked.append(requests.evaluation(problem.question, parts[0]))
        if len(spans) == 3:
            asked.append(requests.revision(problem.question, parts[0], parts[1]))
        assert [ids[: span.start] for span in spans] == asked
        assert all(ids[span.end - 1] == codec.turn_end for span in spans)
    for row in rows[40:]:
        text = codec.decode(row.tokens.token_ids)
        assert DRILL in text
        lines = LINE.findall(codec.decode(row.tokens.token_ids[row.tokens.spans[0].start :]).replace("<|end|>", ""))
        assert len(lines) == 20
        assert all(eval(left) == int(right) for left, right in lines)
