"""The synthetic problems: splits, gold, seeds, and the grammar of the written work."""

import hashlib
import itertools
import random
import re
from collections import defaultdict

import pytest

from selfcorrect import prompts
from selfcorrect.errors import InputError
from selfcorrect.problems.arithmetic import (
    CHANGES,
    CLAUSES,
    GROWTHS,
    OOD_LEVELS,
    OPENINGS,
    PRODUCTS,
    QUESTIONS,
    UNSEEN,
    available,
    clause_split,
    level,
    problems,
    product_split,
)
from selfcorrect.problems.arithmetic import Sum as Numbers
from selfcorrect.train.embedded.corpus import Phase
from selfcorrect.train.embedded.skills import (
    Turn,
    careful_solution,
    check,
    comparison,
    decomposition,
    drill,
    solution,
    wrong_value,
)
from selfcorrect.train.embedded.styles import GLANCE, WORK_OPENER, Styles, styled_conversation
from selfcorrect.types import Problem, Verdict
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


GOLDEN = {
    "train": "39ba4ad02ddb72b9",
    "validation": "45cd5626a41aae10",
    "test": "7e9473670d98513a",
    "pretraining": "414af67965d09948",
}


@pytest.mark.parametrize("split", SPLITS)
def test_splits_stay_what_they_were_when_checkpoints_were_trained_on_them(split: str) -> None:
    digest = hashlib.blake2b(digest_size=8)
    for problem in problems(split, 500, seed=0) + problems(split, 500, seed=1):
        meta = {key: value for key, value in problem.meta.items() if key != "level"}
        digest.update(f"{problem.id}|{problem.question}|{problem.gold}|{meta}\n".encode())
    assert digest.hexdigest() == GOLDEN[split]


def test_levels_count_the_carries_of_the_written_product() -> None:
    assert level(211, 4) == "easy"  # 4, 4, 8
    assert level(213, 4) == "easy"  # 12
    assert level(163, 4) == "medium"  # 12, 25, 6
    assert level(685, 7) == "hard"  # 35, 59, 47
    assert {problem.meta["level"] for problem in problems("test", 200, seed=0)} == {"easy", "medium", "hard"}


@pytest.fixture(scope="module")
def shifted() -> list[Problem]:
    return problems("ood", available("ood"), seed=0)


def test_out_of_distribution_problems_are_distinct_right_and_take_turns(shifted: list[Problem]) -> None:
    assert problems("ood", 9, seed=0) == shifted[:9]
    assert problems("ood", 9, seed=1) != shifted[:9]
    assert len({problem.id for problem in shifted}) == len({problem.question for problem in shifted}) == 5000
    for problem, expected in zip(shifted, itertools.cycle(OOD_LEVELS)):
        v0, changes, a, m, named = (problem.meta[key] for key in ("v0", "changes", "a", "m", "level"))
        assert named == expected
        assert v0 + sum(changes) == a
        assert problem.gold == str(a * m)
        written = [v0, *map(abs, changes), m]
        assert [int(number) for number in re.findall(r"\d+", problem.question)] == written
        assert len(changes) == {"3-step": 2, "4-step": 3}.get(named, 1)
        for place, change in enumerate(changes):
            before = v0 + sum(changes[:place])
            low = min(before, before + change)
            assert all(int(x) + int(y) < 10 for x, y in zip(f"{low:06d}", f"{abs(change):06d}", strict=True))


def test_out_of_distribution_shares_no_product_and_no_clauses_with_what_is_learned(shifted: list[Problem]) -> None:
    learned = {pair for split in ("train", "pretraining", "validation") for pair in PRODUCTS[split]}
    for problem in shifted:
        a, m, named = (problem.meta[key] for key in ("a", "m", "level"))
        assert (a, m) not in learned
        assert named.endswith("step") == (product_split(a, m) == "test" and a < 1500)
        assert len(str(a)) == {"near": 4, "4-digit": 4, "5-digit": 5}.get(named, len(str(a)))
        around = [_clause(texts, problem.question) for texts in (OPENINGS, GROWTHS, QUESTIONS)]
        for text in _changes(problem.question):
            assert clause_split((around[0], text, around[1], around[2])) == "test"


def test_the_other_wording_is_test_with_words_that_nothing_else_has() -> None:
    told, retold = problems("test", 300, seed=3), problems("wording", 300, seed=3)
    known = {word for words in UNSEEN for word in words}
    unseen = {word for words in UNSEEN.values() for word in words}
    assert not known & unseen
    assert len({problem.id for problem in retold}) == 300
    for before, after in zip(told, retold, strict=True):
        words, others = set(re.findall(r"[A-Za-z]+", before.question)), set(re.findall(r"[A-Za-z]+", after.question))
        assert not others & known
        assert (words - known, bool(words & known)) == (others - unseen, bool(others & unseen))
        assert re.findall(r"\d+", before.question) == re.findall(r"\d+", after.question)
        assert (before.gold, before.meta) == (after.gold, after.meta)
        assert before.id.replace("test", "wording") == after.id
    corpus = "".join(turn.text for phase in (Phase(1), Phase(1, styles={})) for turn in _turns(phase, 400))
    assert not unseen & set(re.findall(r"[A-Za-z]+", corpus))
    assert available("wording") == available("test")


def _turns(phase: Phase, count: int) -> list[Turn]:
    rng = random.Random(5)
    return [turn for _ in range(count) for turn in phase.writer()(rng)]


def _clause(texts: tuple[str, ...], question: str) -> int:
    return next(i for i, text in enumerate(texts) if re.search(_pattern(text), question))


def _changes(question: str) -> list[int]:
    return [i for i, (_, text) in enumerate(CHANGES) if re.search(r"\. " + _pattern(text), question)]


def _pattern(text: str) -> str:
    return re.sub(r"\\\{\w+\\\}", r"\\w+", re.escape(text))


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
    with pytest.raises(InputError, match="at most 5000"):
        problems("ood", 5001, seed=0)


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


@pytest.mark.parametrize("phase", [Phase(3000), Phase(3000, styles={})], ids=["skills", "styles"])
def test_the_corpus_asks_for_each_part_separately_and_never_chains(phase: Phase) -> None:
    rng, write = random.Random(0), phase.writer()
    instructions = set()
    for _ in range(phase.conversations):
        turns = write(rng)
        assert any(turn.learn for turn in turns)
        for turn in turns:
            if turn.role == "user":
                instructions.add(turn.text.splitlines()[-1])
                continue
            assert prompts.SEPARATOR not in turn.text
            assert turn.text.count("\\boxed") + has_mark(turn.text) <= 1
            assert not turn.learn or turn.role in ("assistant", "")
    assert instructions >= {prompts.SOLVE, prompts.EVALUATE, prompts.REVISE, prompts.INTRINSIC}


@pytest.mark.parametrize("phase", [Phase(8000), Phase(8000, styles={})], ids=["skills", "styles"])
def test_the_corpus_mentions_no_product_of_another_split(phase: Phase) -> None:
    """Neither in what is learned nor in what is only shown: 198 mentions of 182 test products in the first edition."""
    others = {pair for split in ("train", "validation", "test") for pair in PRODUCTS[split]}
    others |= {pair for shift in OOD_LEVELS.values() for pair in shift.products}
    rng, write = random.Random(0), phase.writer()
    texts = [turn.text for _ in range(phase.conversations) for turn in write(rng)]
    mentioned = {(int(a), int(m)) for text in texts for a, m in re.findall(r"(?<!\d)(\d+)\*(\d)(?!\d)", text)}
    assert len(mentioned) > 4000
    assert not mentioned & others


def test_a_style_is_a_coin_and_no_feature_of_the_problem() -> None:
    """Shares of the styles of what is learned are those of `Styles`, whatever the factor or the last digit."""
    rng, styles = random.Random(0), Styles()
    worked: dict[tuple[str, int], list[bool]] = defaultdict(list)
    checked: list[bool] = []
    for _ in range(20_000):
        turns = styled_conversation(rng, styles)
        text = turns[1].text if len(turns) > 1 else ""
        if len(turns) == 2 and turns[1].role == "assistant":
            a, m = re.findall(r"(\d+)\*(\d)", text)[0]
            for feature in (("factor", int(m)), ("last digit", int(a) % 10)):
                worked[feature].append(text.startswith(WORK_OPENER))
        checked += [GLANCE not in turn.text for turn in turns if turn.learn and has_mark(turn.text)]
    for feature, drawn in worked.items():
        assert sum(drawn) / len(drawn) == pytest.approx(styles.careful, abs=0.08), (feature, len(drawn))
    assert 0.3 < sum(checked) / len(checked) < 0.5


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
