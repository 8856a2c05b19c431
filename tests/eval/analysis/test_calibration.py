"""Calibration: fits recover what made the data, measures match known values, thresholds keep to their limits."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfcorrect.correction.stop_rule import Calibrator, StopRule, load_rule, log_odds
from selfcorrect.errors import DataError, InputError
from selfcorrect.eval.analysis.calibration import (
    choose,
    cross_fitted,
    debiased_ece,
    fit,
    judged,
    outlook,
    quality,
    refuse_seen,
    risk_coverage,
    sweep,
    tune,
)
from selfcorrect.types import SelfEvaluation, Trajectory, Verdict

Paths = Callable[..., Trajectory]


def overconfident(n: int = 4000, scale: float = 3.0, shift: float = 1.0):  # type: ignore[no-untyped-def]
    """Return (stated P, right) where the true log-odds are (stated log-odds - shift) / scale."""
    rng = np.random.default_rng(0)
    z = rng.normal(0, 4, size=n)
    right = rng.random(n) < 1 / (1 + np.exp(-(z - shift) / scale))
    return 1 / (1 + np.exp(-z)), right.astype(float)


def test_temperature_and_platt_recover_what_was_put_in() -> None:
    p, right = overconfident(shift=0.0)
    assert fit("temperature", p, right).values[0] == pytest.approx(3.0, rel=0.12)
    p, right = overconfident()
    slope, offset = fit("platt", p, right).values
    assert (slope, offset) == (pytest.approx(1 / 3, rel=0.12), pytest.approx(-1 / 3, abs=0.1))


@pytest.mark.parametrize(("kind", "most"), [("platt", 5.0), ("isotonic", 5.0)])
def test_calibration_lowers_the_error_on_unseen_problems(path: Paths, kind: str, most: float) -> None:
    p, right = overconfident(800)
    sample = judged([path(i, bool(r), p=float(q)) for i, (q, r) in enumerate(zip(p, right, strict=True))])
    before = quality(sample.p_N, sample.correct_N, sample.problems)
    after = quality(cross_fitted(kind, sample), sample.correct_N, sample.problems)  # type: ignore[arg-type]
    assert before.ece > 10
    assert after.ece < most
    assert after.brier < before.brier
    low, high = before.intervals["ece"]
    assert low < before.ece < high


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.sampled_from(["platt", "temperature", "isotonic"]))
def test_every_calibrator_is_monotone_and_a_probability(ps: list[float], kind: str) -> None:
    values = {"platt": (0.5, -1.0), "temperature": (2.0,), "isotonic": (0.1, 0.4, 0.9, 0.0, 0.5, 0.8)}[kind]
    calibrator = Calibrator(kind, values)  # type: ignore[arg-type]
    mapped = [calibrator(p) for p in sorted(ps)]
    assert mapped == sorted(mapped)
    assert all(0 <= q <= 1 for q in mapped)


def test_isotonic_is_linear_between_its_knots() -> None:
    calibrator = Calibrator("isotonic", (0.2, 0.6, 0.0, 0.8))
    assert [calibrator(p) for p in (0.0, 0.2, 0.4, 0.6, 1.0)] == pytest.approx([0, 0, 0.4, 0.8, 0.8])


def test_isotonic_on_a_hand_sorted_case() -> None:
    p = np.repeat([0.1, 0.2, 0.3, 0.9], 20)
    right = np.repeat([0.0, 1.0, 0.0, 1.0], 20)  # 0.2 and 0.3 violate the order and are pooled at one half
    calibrator = fit("isotonic", p, right)
    assert [calibrator(q) for q in (0.1, 0.2, 0.25, 0.3, 0.9)] == pytest.approx([0, 0.5, 0.5, 0.5, 1])


def test_measures_by_hand() -> None:
    p, right = np.array([0.9, 0.8, 0.3, 0.3]), np.array([1.0, 0.0, 1.0, 0.0])
    q = quality(p, right, ["a", "b", "c", "d"])
    assert q.brier == pytest.approx((0.01 + 0.64 + 0.49 + 0.09) / 4)
    assert q.ece_binned == pytest.approx(100 * (0.1 + 0.8 + abs(0.6 - 1)) / 4)
    assert q.auroc == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    coverage, risk = risk_coverage(p, right)
    assert list(coverage) == [25, 50, 75, 100]
    assert list(risk) == pytest.approx([0, 50, 50, 50])  # the tie at 0.3 is half right
    assert quality(p, np.ones(4), list("abcd")).auroc is None
    turned = quality(p[::-1], right[::-1], list("dcba"))
    assert turned == q, "in whatever order they come"


@pytest.mark.parametrize(("scale", "shift", "truth"), [(1.0, 0.0, 0.0), (1.5, 0.3, 5.5), (3.0, 1.0, 16.2)])
def test_the_interval_of_ece_covers_the_truth(scale: float, shift: float, truth: float) -> None:
    """100 samples of 200: nominal 95% of intervals hold the truth (of 2 M paths), also where nothing is to be found."""
    rng = np.random.default_rng(1)
    covered, estimates, binned = 0, [], []
    for _ in range(100):
        z = rng.normal(0, 4, size=200)
        p, right = 1 / (1 + np.exp(-z)), rng.random(200) < 1 / (1 + np.exp(-(z - shift) / scale))
        bins, gap_N = np.minimum(9, (p * 10).astype(int)), (p - right) / 2  # in points of 200 paths
        gap_B = np.bincount(bins, weights=gap_N, minlength=10)
        in_bin_NB = (bins[:, None] == np.arange(10)) * gap_N[:, None]
        noise_RB = rng.multinomial(200, np.full(200, 1 / 200), size=250) @ in_bin_NB - gap_B
        estimate, low, high = debiased_ece(gap_B, noise_RB)
        covered += low <= truth <= high
        estimates.append(estimate)
        binned.append(np.abs(gap_B).sum())
        assert 0 <= low <= estimate <= high
        assert high > 3, "200 paths cannot bound it closer, however small the observed one is"
    assert 90 <= covered <= 100
    assert abs(np.mean(estimates) - truth) < abs(np.mean(binned) - truth)
    assert np.mean(estimates) == pytest.approx(truth, abs=2.2)


def test_too_little_to_fit_is_said() -> None:
    with pytest.raises(InputError, match="at least 40"):
        fit("platt", np.linspace(0.1, 0.9, 10), np.array([0, 1] * 5, dtype=float))
    with pytest.raises(InputError, match="of which 50 correct"):
        fit("platt", np.linspace(0.1, 0.9, 50), np.ones(50))
    p = np.linspace(0.01, 0.99, 400)
    with pytest.raises(InputError, match="no higher on correct attempts"):
        fit("platt", p, (p < 0.5).astype(float))


def never_stopped(path: Paths) -> list[Trajectory]:
    """P = 0.1: wrong, mended. P = 0.4: right, spoiled by revising. P = 0.8: right, kept. Two without verdict."""
    paths = [path(i, False, True, p=0.1) for i in range(30)]
    paths += [path(i, True, False, p=0.4) for i in range(30, 40)]
    paths += [path(i, True, True, p=0.8) for i in range(40, 98)]
    return [*paths, path(98, False), path(99, True)]


def test_the_sweep_is_exact(path: Paths) -> None:
    paths = outlook(never_stopped(path))
    choices, final_TN = sweep(Calibrator(), paths)
    assert [round(choice.threshold, 3) for choice in choices] == [0.0, 0.25, 0.6, 1.0]
    assert [choice.final for choice in choices] == pytest.approx([69, 99, 89, 89])
    assert [choice.fixed for choice in choices] == pytest.approx([0, 30, 30, 30])
    assert [choice.broken for choice in choices] == pytest.approx([0, 0, 100 * 10 / 69, 100 * 10 / 69])
    assert [choice.revised for choice in choices] == pytest.approx([0, 30, 40, 98])
    assert choices[0].tokens == pytest.approx((98 * 12 + 2 * 5) / 100)
    assert choices[3].tokens == pytest.approx((98 * 17 + 2 * 5) / 100)
    assert final_TN.shape == (4, 100)


def test_targets(path: Paths) -> None:
    paths = outlook([*never_stopped(path), *(path(i, False, True, p=0.6) for i in range(100, 110))])
    choices, final_TN = sweep(Calibrator(), paths)
    assert choose(choices, final_TN, "best").final == pytest.approx(100 * 99 / 110)
    kept = choose(choices, final_TN, "broken", 5.0)
    assert kept.broken == 0
    assert kept.threshold == pytest.approx(0.25)
    cheap = choose(choices, final_TN, "tokens", choices[0].tokens + 0.5)
    assert cheap.revised == 0
    with pytest.raises(InputError, match="without any revision"):
        choose(choices, final_TN, "tokens", 1.0)
    with pytest.raises(InputError, match="needs a limit"):
        choose(choices, final_TN, "broken")


def test_a_flat_top_is_decided_by_tokens(path: Paths) -> None:
    # Revising at P = 0.6 mends 6 of 300 and spoils 5: one problem ahead is luck, and it costs tokens.
    paths = [path(i, False, True, p=0.1) for i in range(100)] + [path(i, True, p=0.95) for i in range(100, 300)]
    paths += [path(i, False, True, p=0.6) for i in range(300, 306)] + [
        path(i, True, False, p=0.6) for i in range(306, 311)
    ]
    choices, final_TN = sweep(Calibrator(), outlook(paths))
    assert max(choices, key=lambda c: c.final).threshold == pytest.approx(0.775)
    assert choose(choices, final_TN, "best").threshold == pytest.approx(0.35)


def test_what_is_saved_is_what_decides(path: Paths, tmp_path: Path) -> None:
    paths = [path(i, i % 4 > 0, True, p=0.2 + 0.6 * (i % 4 > 0) + 0.001 * (i % 50)) for i in range(200)]
    tuned = tune(paths, "platt", "best")
    (tmp_path / "calibration.json").write_text(json.dumps(tuned))
    rule = load_rule(tmp_path)
    assert rule == StopRule.from_json(json.loads(json.dumps(tuned["rule"])))
    assert rule.verdict(SelfEvaluation("e", Verdict.CORRECT, 0.21)) is Verdict.WRONG
    assert rule.verdict(SelfEvaluation("e", Verdict.WRONG, 0.84)) is Verdict.CORRECT
    assert tuned["expected"]["final"] == 100
    assert tuned["before"]["n"] == 200
    with pytest.raises(InputError, match="tuned on 200 of these 200"):
        refuse_seen(str(tmp_path), [t.problem for t in paths])
    refuse_seen(str(tmp_path), [path(i, True).problem for i in range(500, 510)])


@pytest.mark.parametrize("text", ['{"no": "rule"}', "[]", '{"rule": {"threshold": 0.5}}', "nothing"])
def test_a_broken_calibration_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(DataError):
        load_rule(tmp_path)
    with pytest.raises(DataError, match="selfcorrect eval calibrate"):
        load_rule(tmp_path / "elsewhere")


def test_certainty_has_finite_log_odds() -> None:
    assert math.isfinite(log_odds(0.0))
    assert log_odds(1.0) == pytest.approx(-log_odds(0.0))
