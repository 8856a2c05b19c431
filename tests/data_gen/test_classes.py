"""The pure keep rules: classes, quotas, caps, balance."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest

from selfcorrect.data_gen.classes import (
    FIRST_SHARE,
    BaseSample,
    Candidate,
    Claim,
    Continuation,
    Kind,
    PartOutcome,
    SampledPart,
    Selection,
    balanced,
    chosen_by_hash,
    class_of,
    pair_of,
    preference,
)
from selfcorrect.types import Problem, Verdict

PROBLEMS = [Problem(f"p{number}", f"q{number}", "1", "test") for number in range(4)]
FIRST = {
    Kind.D1: PartOutcome.WRONG,
    Kind.D2: PartOutcome.CORRECT,
    Kind.D3: PartOutcome.CORRECT,
    Kind.RAFT: PartOutcome.WRONG,
}


def candidate(kind: Kind, number: int = 0, index: int = 0) -> Candidate:
    base = BaseSample(PROBLEMS[number], number, index, index * len(PROBLEMS) + number)
    return Candidate(kind, base, SampledPart(base.id, "attempts", (1,), "a", FIRST[kind]), Continuation(None))


def rest(verdict: Verdict, final: PartOutcome | None) -> Continuation:
    return Continuation(verdict, revision=SampledPart("r", "revisions", (1,), "r", final) if final else None)


def test_exactly_three_paths_are_kept() -> None:
    kept = {
        (first, verdict, final): kind
        for first, verdict, final in product(PartOutcome, Verdict, (None, *PartOutcome))
        if (kind := class_of(first, rest(verdict, final)))
    }
    assert kept == {
        (PartOutcome.WRONG, Verdict.WRONG, PartOutcome.CORRECT): Kind.D1,
        (PartOutcome.CORRECT, Verdict.WRONG, PartOutcome.CORRECT): Kind.D2,
        (PartOutcome.CORRECT, Verdict.CORRECT, None): Kind.D3,
    }


def test_exactly_four_pairs_are_ordered() -> None:
    ways = list(product(Verdict, (None, *PartOutcome)))
    pairs = {
        (first, better, worse): kind
        for first, better, worse in product(PartOutcome, ways, ways)
        if (kind := pair_of(first, rest(*better), rest(*worse)))
    }
    right, wrong, yes, no = PartOutcome.CORRECT, PartOutcome.WRONG, Verdict.CORRECT, Verdict.WRONG
    assert pairs == {
        (wrong, (no, right), (no, wrong)): Kind.P1,
        (right, (no, right), (no, wrong)): Kind.P2,
        (wrong, (no, right), (yes, None)): Kind.P3,
        (right, (yes, None), (no, wrong)): Kind.P3,
    }, "(wrong, judged wrong, wrong) beside (wrong, judged correct), and all else, is ambiguous"


def test_quotas_and_caps_close_a_class() -> None:
    selection = Selection({Kind.D1: 2, Kind.D2: 0, Kind.D3: None}, cap_per_problem=1)
    assert selection.offer([candidate(Kind.D1)])
    assert not selection.offer([candidate(Kind.D1, index=1)]), "cap of the problem"
    assert selection.open(Kind.D1, PROBLEMS[1])
    assert selection.offer([candidate(Kind.D1, number=1)])
    assert not selection.offer([candidate(Kind.D1, number=2)]), "quota"
    assert not selection.open(Kind.D2, PROBLEMS[0])
    assert not selection.full, "D3 has no quota"
    assert selection.remaining(Kind.D3) == float("inf")
    assert [selection.count(kind) for kind in (Kind.D1, Kind.D2, Kind.D3)] == [2, 0, 0]


def test_one_base_sample_gives_one_trajectory() -> None:
    selection = Selection({Kind.D1: 9, Kind.D2: 0, Kind.D3: 9})
    taken = selection.offer([candidate(Kind.D2), candidate(Kind.D3), candidate(Kind.D3)])
    assert [one.kind for one in taken] == [Kind.D3], "the first whose class is open"
    several = Selection({Kind.RAFT: 3}, per_base=2)
    assert len(several.offer([candidate(Kind.RAFT)] * 3)) == 2
    assert len(several.offer([candidate(Kind.RAFT, number=1)] * 3)) == 1
    assert several.full


def test_preference_follows_the_quotas_and_identity_alone() -> None:
    bases = [BaseSample(PROBLEMS[0], 0, index, index) for index in range(4000)]
    quota = {Kind.D1: 1, Kind.D2: 100, Kind.D3: 300}
    first = [preference(base, quota, seed=0)[0] for base in bases]
    assert first.count(Kind.D2) / len(first) == pytest.approx(0.25, abs=0.03)
    assert first == [preference(base, quota, seed=0)[0] for base in bases]
    assert first != [preference(base, quota, seed=1)[0] for base in bases]
    assert {preference(base, {Kind.D2: 0, Kind.D3: 5}, 0)[0] for base in bases} == {Kind.D3}


@pytest.mark.parametrize(
    ("quota", "share"),
    [
        ((None, 10), FIRST_SHARE),
        ((10, None), FIRST_SHARE),
        ((None, None), FIRST_SHARE),
        ((0, 0), FIRST_SHARE),
        ((1, 0), 1.0),
        ((0, 1), 0.0),
        ((30, 10), 0.75),
    ],
)
def test_the_share_of_a_class_that_is_tried_first(quota: tuple[int | None, int | None], share: float) -> None:
    """Without a quota, or with none to fill, FIRST_SHARE; drawn by a hash that the platform does not decide."""
    bases = [BaseSample(PROBLEMS[0], 0, index, index) for index in range(2000)]
    orders = [preference(base, dict(zip((Kind.D2, Kind.D3), quota, strict=True)), seed=0) for base in bases]
    assert set(orders) <= {(Kind.D2, Kind.D3), (Kind.D3, Kind.D2)}
    assert sum(first is Kind.D2 for first, _ in orders) / len(orders) == pytest.approx(share, abs=0.04)
    if share in (0.0, 1.0):
        assert len(set(orders)) == 1


def test_a_selection_counts_by_class_and_problem() -> None:
    selection = Selection({Kind.D1: None, Kind.D3: 1}, cap_per_problem=3)
    for index in range(4):
        selection.offer([candidate(Kind.D1, index=index)])
        assert selection.kept_of(Kind.D1, PROBLEMS[0]) == min(index + 1, 3)
    assert (selection.kept_of(Kind.D1, PROBLEMS[1]), selection.kept_of(Kind.D3, PROBLEMS[0])) == (0, 0)
    assert [one.base.index for one in selection.kept] == [0, 1, 2]
    assert selection.takes(PROBLEMS[0]), "D3 is open"
    selection.offer([candidate(Kind.D3, number=2)])
    assert not selection.takes(PROBLEMS[0]), "D1 has its cap of this problem, D3 its quota"
    assert selection.takes(PROBLEMS[1])
    assert (selection.remaining(Kind.D3), selection.full) == (0, False)


@pytest.mark.parametrize(
    ("d1", "d2", "d3", "ratio", "expected"),
    [
        (4, 4, 4, 2.0, (4, 4, 4)),  # exactly at the ratio
        (3, 3, 6, 1.5, (3, 1, 3)),
        (2, 4, 8, 2.0, (2, 1, 3)),
        (9, 1, 1, 2.0, (4, 1, 1)),
        (3, 1, 2, 1.0, (3, 1, 2)),
        (5, 0, 0, 2.0, (5, 0, 0)),
        (1, 6, 6, None, (1, 6, 6)),
    ],
)
def test_balance_trims_the_larger_group_from_its_end(d1, d2, d3, ratio, expected) -> None:
    kinds = [Kind.D1] * d1 + [Kind.D2] * d2 + [Kind.D3] * d3
    kept = [candidate(kind, number=place % 4, index=place // 4) for place, kind in enumerate(kinds)]
    trimmed = balanced(kept, ratio)
    assert tuple(sum(one.kind is kind for one in trimmed) for kind in (Kind.D1, Kind.D2, Kind.D3)) == expected
    assert trimmed == sorted(trimmed, key=lambda one: one.order)
    for kind in (Kind.D1, Kind.D2, Kind.D3):
        mine = [one for one in kept if one.kind is kind]
        assert {one.base.id for one in trimmed if one.kind is kind} == {one.base.id for one in mine[: len(mine)]} & {
            one.base.id for one in mine[: sum(one.kind is kind for one in trimmed)]
        }


# --- D1 and D3 of the same problems; the choice by hash -----------------------------------------------------------


def counted(selection: Selection, *kinds: Kind) -> list[int]:
    return [selection.count(kind) for kind in kinds]


def test_a_matched_row_waits_for_its_partner() -> None:
    selection: Selection[Candidate] = Selection({Kind.D1: 2, Kind.D2: 1, Kind.D3: 2}, matched=True)
    assert selection.offer([candidate(Kind.D1)])
    assert counted(selection, Kind.D1, Kind.D3) == [0, 0], "only pairs count"
    assert not selection.offer([candidate(Kind.D1, index=1)]), "one waits already"
    assert selection.offer([candidate(Kind.D1, number=1)])
    assert selection.offer([candidate(Kind.D3, index=2)])
    assert counted(selection, Kind.D1, Kind.D3) == [1, 1]
    assert selection.open(Kind.D1, PROBLEMS[0]), "its pair is complete"
    assert selection.offer([candidate(Kind.D2, index=3)]), "D2 is matched with nothing"
    for index, kind in ((4, Kind.D3), (5, Kind.D1)):
        assert selection.offer([candidate(kind, index=index)])
    assert selection.full
    kept = [(row.kind, row.base.number, row.base.index) for row in selection.rows()]
    assert kept == [(Kind.D1, 0, 0), (Kind.D3, 0, 2), (Kind.D2, 0, 3), (Kind.D3, 0, 4), (Kind.D1, 0, 5)]
    assert len(selection.kept) == 6, "the one of problem 1 that still waits is left out"


def test_matched_rows_keep_to_the_cap() -> None:
    selection: Selection[Candidate] = Selection({Kind.D1: None, Kind.D3: None}, cap_per_problem=1, matched=True)
    assert selection.offer([candidate(Kind.D3)])
    assert selection.offer([candidate(Kind.D1, index=1)])
    assert not selection.takes(PROBLEMS[0])
    assert not selection.full


def test_balance_leaves_matched_pairs_whole() -> None:
    kinds = [Kind.D1] * 4 + [Kind.D3] * 4 + [Kind.D2] * 6
    kept = [candidate(kind, number=place % 4, index=place // 4) for place, kind in enumerate(kinds)]
    trimmed = balanced(kept, 2.0, matched=True)
    assert [sum(one.kind is kind for one in trimmed) for kind in (Kind.D1, Kind.D2, Kind.D3)] == [4, 4, 4]


def found_of(rates: dict[int, float], attempts: int) -> list[list[Claim]]:
    """Of problem i a share ``rates[i]`` of the attempts gives D3 (or else D2), the others D1, in order of index."""
    problems = {number: Problem(f"p{number}", "q", "1", "test") for number in rates}
    bases = [BaseSample(problems[n], n, index, 0) for index in range(attempts) for n in rates]
    kinds = lambda base: [Kind.D3, Kind.D2] if base.index < rates[base.number] * attempts else [Kind.D1]
    return [[Claim(kind, base) for kind in kinds(base)] for base in bases]


def test_the_fixed_schedule_is_filled_by_hash_and_not_by_index() -> None:
    found = found_of(dict.fromkeys(range(50), 0.5), 40)
    like: Selection[Claim] = Selection({Kind.D1: 200, Kind.D2: 0, Kind.D3: 200}, cap_per_problem=None)
    chosen = chosen_by_hash(found, like, seed=0)
    assert Counter(claim.kind for claim in chosen) == {Kind.D1: 200, Kind.D3: 200}
    assert len({claim.base.id for claim in chosen}) == 400, "one trajectory a base sample"
    for kind, low in ((Kind.D3, 0), (Kind.D1, 20)):  # D3 has the indices 0 to 19, D1 those from 20 on
        mean = sum(claim.base.index - low for claim in chosen if claim.kind is kind) / 200
        assert mean == pytest.approx(9.5, abs=4 * (33.25 / 200) ** 0.5)
    assert chosen != chosen_by_hash(found, like, seed=1)
    assert chosen == chosen_by_hash(found[::-1], like, seed=0), "the order of the problems has no say"


def test_the_cap_comes_before_the_quota() -> None:
    """Nine easy problems and one hard one: with a cap of 2 each gives as many rows to choose from."""
    found = found_of({number: 0.9 if number else 0.1 for number in range(10)}, 40)
    like: Selection[Claim] = Selection({Kind.D1: 10, Kind.D2: 0, Kind.D3: 10}, cap_per_problem=2)
    chances = Counter(
        claim.base.number for seed in range(200) for claim in chosen_by_hash(found, like, seed) if claim.kind is Kind.D1
    )
    assert chances.total() == 2000
    assert all(count == pytest.approx(200, abs=40) for count in chances.values())


def test_a_class_that_lacks_rows_takes_base_samples_of_another() -> None:
    found = [
        [Claim(Kind.D2, base), Claim(Kind.D3, base)] for base in (candidate(Kind.D2, number=n).base for n in range(4))
    ]
    like: Selection[Claim] = Selection({Kind.D1: 0, Kind.D2: 1, Kind.D3: 3})
    assert Counter(claim.kind for claim in chosen_by_hash(found, like, 0)) == {Kind.D2: 1, Kind.D3: 3}


def test_matched_rows_chosen_by_hash_come_in_pairs() -> None:
    found = found_of({number: number / 10 for number in range(11)}, 20)
    like: Selection[Claim] = Selection({Kind.D1: 20, Kind.D2: 0, Kind.D3: 20}, cap_per_problem=4, matched=True)
    chosen = chosen_by_hash(found, like, seed=0)
    of = lambda kind: Counter(claim.base.number for claim in chosen if claim.kind is kind)
    assert of(Kind.D1) == of(Kind.D3)
    assert of(Kind.D1).total() == 20
    assert max(of(Kind.D1).values()) <= 4
    assert not {0, 10} & set(of(Kind.D1)), "always wrong, or always correct: no pair"
