"""The synthetic problems: splits, gold, seeds, and the grammar of the written work."""

import itertools
import random
import re

import pytest

from data_gen.arithmetic import (
    CLAUSES,
    PRODUCTS,
    Mix,
    careful_solution,
    check,
    clause_split,
    comparison,
    conversation,
    decomposition,
    drill,
    problems,
    product_split,
    solution,
    wrong_value,
)
from data_gen.arithmetic import Sum as Numbers
from selfcorrect import prompts
from selfcorrect.errors import InputError
from selfcorrect.types import Verdict
from selfcorrect.verdicts import has_mark, parse_verdict

SPLITS = ("train", "validation", "test", "pretraining")
NUMBERS = Numbers(664, "+", 21, 685, 7)


def test_splits_share_no_product_and_no_combination_of_clauses() -> None:
    for one, other in itertools.combinations(SPLITS, 2):
        assert not set(PRODUCTS[one]) & set(PRODUCTS[other])
        assert not set(CLAUSES[one]) & set(CLAUSES[other])
    assert all(product_split(*pair) == split for split in SPLITS for pair in PRODUCTS[split])
    assert all(clause_split(clauses) == split for split in SPLITS for clauses in CLAUSES[split])
    assert len(PRODUCTS["test"]) >= 1000


@pytest.mark.parametrize("split", ["train", "test", "pretraining"])
def test_problems_are_distinct_right_and_seeded(split: str) -> None:
    drawn = problems(split, 1000, seed=1)
    assert drawn == problems(split, 1000, seed=1)
    assert drawn != problems(split, 1000, seed=2)
    assert len({problem.id for problem in drawn}) == 1000
    assert len({(problem.meta["a"], problem.meta["m"]) for problem in drawn}) == 1000
    assert len({problem.question for problem in drawn}) == 1000
    for problem in drawn:
        v0, sign, d, a, m = (problem.meta[key] for key in ("v0", "sign", "d", "a", "m"))
        first = v0 + d if sign == "+" else v0 - d
        assert first == a
        assert problem.gold == str(first * m)
        assert product_split(a, m) == split
        assert sorted(re.findall(r"\d+", problem.question)) == sorted(map(str, (v0, d, m)))
        assert problem.source == "arithmetic"


def test_the_first_step_never_carries() -> None:
    for problem in problems("pretraining", 2000, seed=0):
        v0, sign, d, a = (problem.meta[key] for key in ("v0", "sign", "d", "a"))
        low, high = (v0, a) if sign == "+" else (a, v0)
        assert all(int(x) + int(y) < 10 for x, y in zip(str(low).zfill(4), str(d).zfill(4), strict=True)), (v0, d)
        assert low + d == high


def test_asking_for_too_many_says_how_many_there_are() -> None:
    with pytest.raises(InputError, match=str(len(PRODUCTS["test"]))):
        problems("test", len(PRODUCTS["test"]) + 1, seed=0)
    with pytest.raises(InputError, match="validation"):
        problems("dev", 1, seed=0)  # type: ignore[arg-type]


def test_written_work() -> None:
    assert solution(NUMBERS, 4795) == "664+21=685\n685*7=4795\n\\boxed{4795}"
    assert decomposition(685, 7) == ("685*7=35+560=595+4200=4795", 4795)
    assert careful_solution(NUMBERS)[0] == "664+21=685\n685*7=35+560=595+4200=4795\n\\boxed{4795}"
    assert comparison(4795, 895) == "04795:00895:=!!== not ok"
    assert check(NUMBERS, 685, 4895) == (
        "Check:\n664+21=00685:00685:===== ok\n685*7=35+560=595+4200=04795:04895:==!== not ok\n[VERIFY] wrong."
    )
    assert check(NUMBERS, 675, 4725) == "Check:\n664+21=00685:00675:===!= not ok\n[VERIFY] wrong."
    assert parse_verdict(check(NUMBERS, 685, 4795)) is Verdict.CORRECT
    assert parse_verdict(check(NUMBERS, 685, 4795, flip=True)) is Verdict.WRONG


def test_wrong_values_are_wrong() -> None:
    rng = random.Random(0)
    assert all(wrong_value(rng, 4795, 7) not in (4795, 0) for _ in range(2000))


def test_the_corpus_stays_in_the_pretraining_split_and_never_chains() -> None:
    rng = random.Random(0)
    instructions = set()
    for _ in range(3000):
        turns = conversation(rng, Mix())
        assert any(turn.learn for turn in turns)
        for turn in turns:
            if turn.role == "user":
                instructions.add(turn.text.splitlines()[-1])
                continue
            assert prompts.SEPARATOR not in turn.text
            assert turn.text.count("\\boxed") + has_mark(turn.text) <= 1
            assert not turn.learn or turn.role in ("assistant", "")
            for a, m in re.findall(r"(?<![\d+:=])(\d{3,4})\*(\d)=", turn.text):
                drilled = int(a) % 1000 == 0 or int(a) < 200 or (turn.role == "" and int(a) % 100 == 0)
                assert drilled or turn.role == "assistant" or product_split(int(a), int(m)) == "pretraining"
    assert instructions >= {prompts.SOLVE, prompts.EVALUATE, prompts.REVISE, prompts.INTRINSIC}


def test_drills_are_true_arithmetic() -> None:
    rng = random.Random(0)
    for _ in range(500):
        line = "".join(turn.text for turn in drill(rng))
        assert line.endswith("\n")
        if ":" in line:
            work, claimed, judgement = line.split(":")
            computed = work.split("=")[-1]
            assert judgement.endswith(" not ok\n") == (int(computed) != int(claimed))
        else:
            left, right = line.split("=")
            assert eval(left) == int(right)
