"""The pure keep rules: classes, quotas, caps, balance."""

from __future__ import annotations

from itertools import product

import pytest

from selfcorrect.data_gen.selection import (
    FIRST_SHARE,
    Base,
    Candidate,
    Draw,
    Fate,
    Kind,
    Rest,
    Selection,
    balanced,
    class_of,
    pair_of,
    preference,
)
from selfcorrect.types import Problem, Verdict

PROBLEMS = [Problem(f"p{number}", f"q{number}", "1", "test") for number in range(4)]
FIRST = {Kind.D1: Fate.WRONG, Kind.D2: Fate.RIGHT, Kind.D3: Fate.RIGHT, Kind.RAFT: Fate.WRONG}


def candidate(kind: Kind, number: int = 0, index: int = 0) -> Candidate:
    base = Base(PROBLEMS[number], number, index, index * len(PROBLEMS) + number)
    return Candidate(kind, base, Draw(base.id, "attempts", (1,), "a", FIRST[kind]), Rest(None))


def rest(verdict: Verdict, final: Fate | None) -> Rest:
    return Rest(verdict, revision=Draw("r", "revisions", (1,), "r", final) if final else None)


def test_exactly_three_paths_are_kept() -> None:
    kept = {
        (first, verdict, final): kind
        for first, verdict, final in product(Fate, Verdict, (None, *Fate))
        if (kind := class_of(first, rest(verdict, final)))
    }
    assert kept == {
        (Fate.WRONG, Verdict.WRONG, Fate.RIGHT): Kind.D1,
        (Fate.RIGHT, Verdict.WRONG, Fate.RIGHT): Kind.D2,
        (Fate.RIGHT, Verdict.CORRECT, None): Kind.D3,
    }


def test_exactly_four_pairs_are_ordered() -> None:
    ways = list(product(Verdict, (None, *Fate)))
    pairs = {
        (first, better, worse): kind
        for first, better, worse in product(Fate, ways, ways)
        if (kind := pair_of(first, rest(*better), rest(*worse)))
    }
    right, wrong, yes, no = Fate.RIGHT, Fate.WRONG, Verdict.CORRECT, Verdict.WRONG
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
    assert selection.counts == {Kind.D1: 2}


def test_one_base_sample_gives_one_trajectory() -> None:
    selection = Selection({Kind.D1: 9, Kind.D2: 0, Kind.D3: 9})
    taken = selection.offer([candidate(Kind.D2), candidate(Kind.D3), candidate(Kind.D3)])
    assert [one.kind for one in taken] == [Kind.D3], "the first whose class is open"
    several = Selection({Kind.RAFT: 3}, per_base=2)
    assert len(several.offer([candidate(Kind.RAFT)] * 3)) == 2
    assert len(several.offer([candidate(Kind.RAFT, number=1)] * 3)) == 1
    assert several.full


def test_preference_follows_the_quotas_and_identity_alone() -> None:
    bases = [Base(PROBLEMS[0], 0, index, index) for index in range(4000)]
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
    bases = [Base(PROBLEMS[0], 0, index, index) for index in range(2000)]
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
    assert selection.wants(PROBLEMS[0]), "D3 is open"
    selection.offer([candidate(Kind.D3, number=2)])
    assert not selection.wants(PROBLEMS[0]), "D1 has its cap of this problem, D3 its quota"
    assert selection.wants(PROBLEMS[1])
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
