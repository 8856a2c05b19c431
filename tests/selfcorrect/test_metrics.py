"""Scores: identities, denominators, intervals and what is counted beside them."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfcorrect import metrics
from selfcorrect.errors import InputError
from selfcorrect.eval.results import RowScores
from selfcorrect.metrics import (
    Share,
    clustered_interval,
    compare,
    delta_interval,
    faults_of,
    power_note,
    score,
    share_of,
)
from selfcorrect.types import Attempt, Grade, Outcome, Problem, Role, SelfEvaluation, Span, Trajectory, Verdict

RIGHT, WRONG = Grade(Outcome.CORRECT, extracted="1"), Grade(Outcome.WRONG, extracted="2")
FAILED, EMPTY = Grade(Outcome.UNGRADABLE, method="undecided"), Grade(Outcome.UNGRADABLE, method="nothing-extracted")

resampling = pytest.mark.skipif(not find_spec("scipy"), reason="NumPy and SciPy come with the extra report")


def path(i: int, first: Grade, final: Grade | None = None, verdict: Verdict | None = None) -> Trajectory:
    grades = [first] if final is None else [first, final]
    return Trajectory(
        problem=Problem(f"p{i}", f"q{i}", "1", "math"),
        attempts=tuple(Attempt("a", g.extracted, g) for g in grades),
        evaluations=(SelfEvaluation("e", verdict),) if verdict or final else (),
        stop="horizon" if final else "verdict",
    )


def test_a_hand_counted_table() -> None:
    scores = score(
        "m",
        [
            path(0, RIGHT, None, Verdict.CORRECT),
            path(1, WRONG, RIGHT, Verdict.WRONG),
            path(2, RIGHT, WRONG, Verdict.WRONG),
            path(3, WRONG, None, Verdict.CORRECT),
            path(4, WRONG, WRONG, Verdict.WRONG),
            path(5, EMPTY),
            path(6, FAILED),
        ],
    )
    assert scores.n == 6
    assert (scores.turn1.hits, scores.final.hits, scores.i2c.hits, scores.c2i.hits) == (2, 2, 1, 1)
    assert scores.delta == 0
    assert (scores.rm_C.hits, scores.rm_C.n, scores.rm_W.hits, scores.rm_W.n) == (1, 2, 2, 3)
    assert (scores.no_verdict.hits, scores.unanswered, scores.ungradable) == (1, 1, 1)
    assert scores.turn1.percent == pytest.approx(33.333, abs=1e-3)
    assert scores.stops == {"horizon": 3, "verdict": 4}


def test_p_c2i_is_of_the_correct_attempts_that_were_told_they_are_wrong() -> None:
    """Ten correct attempts: six left alone, three doubted and kept, one doubted and broken; wrong ones do not count."""
    paths = [path(i, RIGHT, None, Verdict.CORRECT) for i in range(6)]
    paths += [path(i, RIGHT, RIGHT, Verdict.WRONG) for i in range(6, 9)] + [path(9, RIGHT, WRONG, Verdict.WRONG)]
    paths += [path(i, WRONG, WRONG, Verdict.WRONG) for i in range(10, 15)]
    scores = score("m", paths)
    assert (scores.p_c2i.hits, scores.p_c2i.n, scores.p_c2i.percent) == (1, 4, 25.0)
    assert (scores.c2i.hits, scores.c2i.n) == (1, 15)
    silent = [path(0, RIGHT, None, Verdict.CORRECT)]
    assert score("m", silent).p_c2i.percent is None


def test_answers_too_large_to_grade_are_wrong_and_counted_by_name() -> None:
    """70 wrong answers of 100 written as 9^{9^{9^9}}: accuracy stays 30% of n = 100 (it was 100% of n = 30)."""
    too_large = Grade(Outcome.UNGRADABLE, method="limit")
    scores = score("m", [path(i, RIGHT if i < 30 else too_large) for i in range(100)])
    assert (scores.n, scores.final.percent, scores.unanswered, scores.ungradable) == (100, 30.0, 70, 0)
    assert scores.faults["over the grader's limits"] == 70


@given(st.lists(st.tuples(st.sampled_from([RIGHT, WRONG, EMPTY]), st.sampled_from([RIGHT, WRONG, EMPTY])), min_size=1))
def test_identities(grades: list[tuple[Grade, Grade]]) -> None:
    scores = score("m", [path(i, a, b) for i, (a, b) in enumerate(grades)])
    assert scores.final.hits == scores.turn1.hits + scores.i2c.hits - scores.c2i.hits
    assert scores.delta == pytest.approx(100 * (scores.i2c.hits - scores.c2i.hits) / scores.n)
    low, high = scores.delta_interval
    assert low < scores.delta * scores.n / (scores.n + 2) < high


def test_wilson_against_published_values() -> None:
    # Newcombe 1998, table I: 81/263 and 0/20 (Wilson without continuity correction).
    assert Share(81, 263).interval == pytest.approx((25.53, 36.62), abs=0.01)
    assert Share(0, 20).interval == pytest.approx((0.0, 16.11), abs=0.01)
    assert Share(0, 0).percent is None


@resampling
def test_delta_interval_covers() -> None:
    import numpy as np

    n, p_gain, p_loss = 400, 0.08, 0.02
    draws = np.random.default_rng(0).multinomial(n, [p_gain, p_loss, 1 - p_gain - p_loss], size=2000)
    truth = 100 * (p_gain - p_loss)
    covered = sum(low <= truth <= high for low, high in (delta_interval(int(a), int(b), n) for a, b, _ in draws))
    assert 0.935 <= covered / 2000 <= 0.97


@resampling
def test_compare_counts_discordant_pairs() -> None:
    a = [path(i, RIGHT if i < 10 else WRONG) for i in range(20)]
    b = [path(i, RIGHT if i >= 2 else WRONG) for i in range(20)]
    test = compare(a, b)
    assert (test.only_a, test.only_b, test.n) == (2, 10, 20)
    assert test.gain == 40
    assert test.p_value == pytest.approx(0.03857, abs=1e-5)  # two-sided binomial, 2 of 12


@pytest.mark.parametrize(("a", "b"), list(product(([], [path(0, FAILED)]), ([path(9, RIGHT)],))))
def test_nothing_to_score_is_an_error(a: list[Trajectory], b: list[Trajectory]) -> None:
    with pytest.raises(InputError):
        score("m", a)
    with pytest.raises(InputError):
        compare(a, b)


def seeded(problem: int, seed: int, right: bool) -> Trajectory:
    from dataclasses import replace

    return replace(path(problem, RIGHT if right else WRONG), seed=seed)


@resampling
def test_paths_of_one_problem_do_not_count_as_independent() -> None:
    # 40 problems, half always right: 4 seeds add nothing, so the interval is that of 40 problems and not of 160 paths.
    paths = [seeded(i, s, i % 2 == 0) for i in range(40) for s in range(4)]
    scores = score("m", paths)
    assert (scores.n, scores.problems, scores.final.percent) == (160, 40, 50.0)
    low, high = scores.final.interval or (0, 0)
    assert 28 < high - low < 33  # 40 problems: 2 × 1.96 × 50 / sqrt(40) = 31; 160 independent paths: 15.5
    assert power_note(scores.n, scores.resolution) == f"n = 160 cannot resolve less than ±{(high - low) / 2:.1f} points"


def test_a_row_of_the_table_in_full() -> None:
    paths = [
        replace(path(0, RIGHT, None, Verdict.CORRECT), token_ids=(1,) * 5, spans=(Span(Role.ATTEMPT, 0, 5),)),
        path(1, WRONG, RIGHT, Verdict.WRONG),
        replace(path(2, RIGHT), stop="length", token_ids=(1,) * 7, spans=(Span(Role.ATTEMPT, 0, 7),)),
    ]
    row = RowScores.of(score("row", paths)).to_json()
    assert row == {
        "n": 3,
        "problems": 3,
        "turn1": 66.67,
        "turn1_interval": [20.77, 93.85],
        "turn1_n": 3,
        "final": 100.0,
        "final_interval": [43.85, 100.0],
        "final_n": 3,
        "i2c": 33.33,
        "i2c_interval": [6.15, 79.23],
        "i2c_n": 3,
        "c2i": 0.0,
        "c2i_interval": [0.0, 56.15],
        "c2i_n": 3,
        "rm_C": 100.0,
        "rm_C_interval": [20.65, 100.0],
        "rm_C_n": 1,
        "rm_W": 100.0,
        "rm_W_interval": [20.65, 100.0],
        "rm_W_n": 1,
        "no_verdict": 33.33,
        "no_verdict_interval": [6.15, 79.23],
        "no_verdict_n": 3,
        "p_c2i": None,
        "p_c2i_interval": None,
        "p_c2i_n": 0,
        "delta": 33.33,
        "delta_interval": [-32.59, 72.59],
        "unanswered": 0,
        "ungradable": 0,
        "truncated": 1,
        "tokens_per_problem": 4.0,
        "samples_per_problem": 1.333,
        "stops": {"horizon": 1, "length": 1, "verdict": 1},
        "faults": {"revision without a verdict": 1, "truncated": 1},
        "resolution": 28.07,
        "power": "n = 3 cannot resolve less than ±28.1 points",
    }


@resampling
@pytest.mark.parametrize(("differences", "p_value"), [([], 1.0), ([50.0], 1.0), ([25.0] * 3, 0.25), ([1.0] * 30, 1e-4)])
def test_the_signs_of_the_differences_are_flipped(differences: list[float], p_value: float) -> None:
    """All of one sign: 2 in 2^n of the flips are as far; never below 1 in 10,001."""
    assert metrics._sign_flips(differences) == pytest.approx(p_value, abs=0.01 if p_value > 0.01 else 1e-6)
    assert metrics._sign_flips([3.0, -1.0]) == pytest.approx(1.0, abs=0.52)


@resampling
def test_the_number_of_flips_bounds_the_p_value() -> None:
    assert metrics._sign_flips([1.0] * 60) == pytest.approx(1 / 10_001)
    assert metrics._sign_flips([1.0] * 60, flips=99) == pytest.approx(1 / 100)
    assert metrics._sign_flips([0.5] * 2 + [0.25] * 2) == pytest.approx(2 / 16, abs=0.01)
    assert metrics._sign_flips([0.25, 0.5, 0.25]) == metrics._sign_flips([0.25, 0.5, 0.25])  # the same every time


def test_a_clustered_share_of_none_is_not_certain() -> None:
    assert share_of((f"p{i}", False) for i in range(20) for _ in range(3)).interval == Share(0, 20).interval


def test_no_change_in_any_seed_is_not_certain() -> None:
    low, high = score("m", [seeded(i, s, True) for i in range(20) for s in range(3)]).delta_interval
    assert (low, high) == delta_interval(0, 0, 20)
    assert low < 0 < high


@resampling
def test_the_clustered_interval_covers() -> None:
    import numpy as np

    rng, covered = np.random.default_rng(1), 0
    for _ in range(200):
        chance = rng.beta(2, 2, size=60)
        hits = rng.random((60, 4)) < chance[:, None]
        low, high = clustered_interval((str(i), float(hit)) for i, row in enumerate(hits) for hit in row)
        covered += low <= 0.5 <= high
    assert 0.90 <= covered / 200 <= 0.985


@resampling
def test_the_order_of_what_is_read_changes_no_figure() -> None:
    values = [(f"p{i}", 100 / (1 + (i * s) % 7)) for i in range(40) for s in range(3)]
    assert (
        clustered_interval(values)
        == clustered_interval(reversed(values))
        == clustered_interval(values[50:] + values[:50])
    )
    paths = [seeded(i, s, (i + s) % 3 == 0) for i in range(40) for s in range(3)]
    assert score("m", paths) == score("m", paths[::-1])
    better = [seeded(i, s, (i + s) % 3 < 2) for i in range(40) for s in range(3)]
    assert compare(paths, better) == compare(paths[::-1], better[60:] + better[:60])


@resampling
def test_compare_with_several_seeds_pairs_problems() -> None:
    a = [seeded(i, s, (i + s) % 4 == 0) for i in range(40) for s in range(4)]
    b = [seeded(i, s, i < 20 or (i + s) % 4 == 0) for i in range(40) for s in range(2)]
    test = compare(a, b)
    assert (test.n, test.test) == (40, "sign flips of problems")
    assert test.gain_interval == test.bootstrap_interval
    assert test.gain_interval[0] <= test.gain <= test.gain_interval[1]
    assert test.p_value < 0.01
    assert compare(a, a).p_value == 1.0


@pytest.mark.parametrize(
    ("text", "verdict", "faults"),
    [
        ("fine [VERIFY] correct.", Verdict.CORRECT, []),
        ("no idea", None, ["mark missing"]),
        ("[VERIFY] corect.", None, ["mark malformed"]),
        ("[verify] wrong. [VERIFY] wrong.", None, ["mark doubled"]),
        (r"it is \boxed{3}", Verdict.WRONG, ["answer boxed in a self-evaluation"]),
    ],
)
def test_what_is_odd_about_a_path_has_a_name(text: str, verdict: Verdict | None, faults: list[str]) -> None:
    problem = Problem("p", "q", "1", "math")
    assert faults_of(Trajectory(problem, (Attempt("a"),), (SelfEvaluation(text, verdict),), "verdict")) == faults


def test_faults_of_whole_paths() -> None:
    problem, twice = Problem("p", "q", "1", "math"), Attempt(r"\boxed{1} or \boxed{2}")
    judged = SelfEvaluation("[VERIFY] wrong.", Verdict.WRONG)
    assert faults_of(Trajectory(problem, (twice,), (), "no-verdict")) == [
        "no self-evaluation",
        "several boxed answers",
    ]
    assert faults_of(Trajectory(problem, (Attempt("a"), Attempt("b")), (judged,), "length")) == [
        "revision without a verdict",
        "truncated",
    ]


def test_a_revision_is_due_to_be_judged_in_one_message_only() -> None:
    """Asked for each part, the loop ends with the last revision: nobody asked for a verdict on it."""
    one = path(0, WRONG, RIGHT, Verdict.WRONG)
    kinds = (Role.EXTERNAL, Role.ATTEMPT, Role.EVALUATION, Role.REVISION)
    spans = [Span(role, i, i + 1, sampled=role is not Role.EXTERNAL) for i, role in enumerate(kinds)]
    assert faults_of(replace(one, spans=tuple(spans))) == ["revision without a verdict"]
    asked = (*spans[:3], Span(Role.EXTERNAL, 3, 4, sampled=False), Span(Role.REVISION, 4, 5))
    assert faults_of(replace(one, spans=asked)) == []
