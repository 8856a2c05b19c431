"""Is P(correct) to be believed, and where should the model stop? Fit, measure, choose a threshold.

    selfcorrect eval calibrate calibration engine.model=runs/demo/checkpoints/ift --run runs/demo
    selfcorrect eval embedded engine.model=runs/demo/checkpoints/ift stop=threshold row=ift-threshold --run runs/demo

1. On a validation split, solve with ``stop=never``: every judged attempt is revised, so each problem shows P(correct),
   whether the attempt is correct, and what the revision would have made of it.
2. Fit the calibrator on (P(correct), correct): ``temperature``, ``platt`` (with Platt's targets) or ``isotonic``.
3. Every threshold's final accuracy, broken answers and tokens follow without sampling. Choose by target:
   ``best`` final accuracy; the best among those that break at most ``limit`` percent of correct first answers
   (``broken``); the best at no more than ``limit`` tokens a problem (``tokens``). Of those as good, the cheapest.
4. Save the rule with the checkpoint (``calibration.json``), with the hashes of the problems that it saw: `refuse_seen`
   keeps them out of a test.

What is reported after calibration is cross-fitted: each fold is judged by what was fitted on the others.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from selfcorrect.correction.stop_rule import CALIBRATION_FILE, Calibrator, StopRule, log_odds
from selfcorrect.errors import InputError
from selfcorrect.metrics import RESAMPLES, first_p_correct, is_correct
from selfcorrect.problems import normalised_question
from selfcorrect.runs.jsonl import read_json
from selfcorrect.types import Problem, Role, Trajectory, to_json

Fit = Literal["temperature", "platt", "isotonic"]
Target = Literal["best", "broken", "tokens"]
Floats = NDArray[np.float64]
FOLDS = 5
FEWEST = 40  # judged attempts, of both kinds; fewer fit nothing


# --- what a trajectory tells ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Judged:
    """First attempts with P(correct) and a usable grade: ``p_N`` in [0, 1], ``correct_N`` in {0, 1}."""

    p_N: Floats
    correct_N: Floats
    problems: tuple[str, ...]

    @property
    def n(self) -> int:
        """How many there are."""
        return len(self.p_N)


def judged(trajectories: Sequence[Trajectory]) -> Judged:
    """Return what calibration is measured on, without what has no verdict and without what the grader failed on."""
    found = [
        (p, correct, t.problem.id)
        for t in trajectories
        if (p := first_p_correct(t)) is not None and (correct := is_correct(t.first)) is not None
    ]
    return Judged(
        np.array([p for p, _, _ in found]), np.array([float(r) for _, r, _ in found]), tuple(i for *_, i in found)
    )


# --- fitting -----------------------------------------------------------------------------------------------------


def fit(kind: Fit, p_N: Floats, correct_N: Floats) -> Calibrator:
    """Return the calibrator of least log-loss (isotonic: least squares) on ``(P(correct), correct)``."""
    if len(p_N) < FEWEST or correct_N.min() == correct_N.max():
        raise InputError(
            f"calibration needs at least {FEWEST} judged attempts, correct ones and wrong ones; "
            f"got {len(p_N)}, of which {int(correct_N.sum())} correct: evaluate more validation problems"
        )
    z_N = np.array([log_odds(p) for p in p_N])
    if kind == "temperature":
        found = optimize.minimize_scalar(lambda log_t: _log_loss(z_N / math.exp(log_t), correct_N), bounds=(-5, 7))
        return Calibrator("temperature", (math.exp(float(found.x)),))
    if kind == "platt":
        positive = correct_N.sum()
        negative = len(correct_N) - positive
        target_N = np.where(correct_N > 0.5, (positive + 1) / (positive + 2), 1 / (negative + 2))  # Platt 1999
        best = optimize.minimize(lambda ab: _log_loss(ab[0] * z_N + ab[1], target_N), x0=(1.0, 0.0))
        if best.x[0] <= 0:
            raise InputError("P(correct) is no higher on correct attempts than on wrong ones: no threshold can help")
        return Calibrator("platt", (float(best.x[0]), float(best.x[1])))
    order = np.argsort(p_N, kind="stable")
    values, counts = np.unique(p_N[order], return_counts=True)
    mean = np.add.reduceat(correct_N[order], np.r_[0, np.cumsum(counts)[:-1]]) / counts
    steps = optimize.isotonic_regression(mean, weights=counts)
    keep = np.unique(np.r_[steps.blocks[:-1], steps.blocks[1:] - 1])  # both ends of each step
    return Calibrator("isotonic", tuple(map(float, np.r_[values[keep], steps.x[keep]])))


def _log_loss(logit_N: Floats, target_N: Floats) -> float:
    return float(np.mean(np.logaddexp(0, logit_N) - target_N * logit_N))


def apply(calibrator: Calibrator, p_N: Floats) -> Floats:
    """Return the calibrated probabilities."""
    return np.array([calibrator(p) for p in p_N])


def cross_fitted(kind: Fit, sample: Judged) -> Floats:
    """Return P(correct) calibrated for each fold of problems by a calibrator that never saw the fold."""
    fold_N, out = folds(sample.problems), np.empty(sample.n)
    for fold in range(FOLDS):
        held = fold_N == fold
        out[held] = apply(fit(kind, sample.p_N[~held], sample.correct_N[~held]), sample.p_N[held])
    return out


def folds(problems: Sequence[str]) -> NDArray[np.int64]:
    """Return the fold of each trajectory, by its problem's hash: trajectories of one problem share a fold."""
    return np.array([int(hashlib.blake2b(p.encode(), digest_size=4).hexdigest(), 16) % FOLDS for p in problems])


# --- measuring ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Quality:
    """How good P(correct) is, each with its 95% bootstrap interval over problems.

    ``ece_binned`` is the usual sum over ten equal bins, in percent points: never below 0, so too high where P(correct)
    is nearly calibrated or n is small (Roelofs et al. 2022); ``ece`` is corrected for that (`debiased_ece`). ``brier``
    in [0, 1]; ``auroc`` the chance that a correct attempt gets a higher P(correct) than a wrong one, None where no two
    can be compared; ``aurc`` the mean risk over all coverages, in percent (lower is better).
    """

    n: int
    right: int
    ece: float
    ece_binned: float
    brier: float
    auroc: float | None
    aurc: float
    intervals: dict[str, tuple[float, float]]


def quality(p_N: Floats, correct_N: Floats, problems: Sequence[str]) -> Quality:
    """Measure P(correct), in whatever order the attempts come; raises InputError on nothing."""
    if not len(p_N):
        raise InputError("no verdict probabilities to measure: this method gives none, or the engine hides them")
    order = np.lexsort((correct_N, p_N, np.array(problems)))
    p_N, correct_N, problems = p_N[order], correct_N[order], [problems[at] for at in order]
    index = {problem: k for k, problem in enumerate(dict.fromkeys(problems))}
    members: list[list[int]] = [[] for _ in index]
    for place, problem in enumerate(problems):
        members[index[problem]].append(place)
    rng, drawn, gaps = np.random.default_rng(0), [], []
    one_each = len(members) == len(p_N)
    for _ in range(RESAMPLES // 4):
        chosen = rng.integers(len(members), size=len(members))
        places = chosen if one_each else np.concatenate([members[k] for k in chosen])
        drawn.append(_measures(p_N[places], correct_N[places]))
        gaps.append(_bin_gaps(p_N[places], correct_N[places]))
    gap_B = _bin_gaps(p_N, correct_N)
    ece, *bounds = debiased_ece(gap_B, np.array(gaps) - gap_B)
    intervals = {"ece": (bounds[0], bounds[1])}
    brier, auroc, aurc = _measures(p_N, correct_N)
    for name, values in zip(("brier", "auroc", "aurc"), np.array(drawn).T, strict=True):
        if not np.isnan(values).all():
            low, high = np.nanpercentile(values, [2.5, 97.5])
            intervals[name] = (float(low), float(high))
    binned = float(np.abs(gap_B).sum())
    known_auroc = None if math.isnan(auroc) else auroc
    return Quality(len(p_N), int(correct_N.sum()), ece, binned, brier, known_auroc, aurc, intervals)


def debiased_ece(gap_B: Floats, noise_RB: Floats) -> tuple[float, float, float]:
    """Return ECE without its upward bias, and its 95% interval, from the bins' signed gaps and R resamples' errors.

    Gaps of ``s`` times the observed ones, plus resampling noise, would show some ECE: at the bounds the observed one
    lies at the edges of its middle 95%, at the estimate it is the median (a bootstrap test inverted, Carpenter 1999).
    Percentiles of resampled ECE would never cover 0. An observed ECE below what noise alone shows by median would bound
    too tightly from above: there the bound is that of the median (a power-constrained limit, Cowan et al. 2011).
    """
    seen, by_noise = float(np.abs(gap_B).sum()), float(np.median(np.abs(noise_RB).sum(axis=1)))
    if seen >= by_noise:
        least_B = gap_B
    else:
        direction_B = gap_B if seen else noise_RB.std(axis=0)
        least_B = direction_B * by_noise / max(np.abs(direction_B).sum(), 1e-12)
    estimate, low = _compatible(gap_B, noise_RB, seen, (50, 97.5))
    (high,) = _compatible(least_B, noise_RB, max(seen, by_noise), (2.5,))
    return estimate, low, high


def _compatible(gap_B: Floats, noise_RB: Floats, seen: float, percents: Sequence[float]) -> list[float]:
    """Return the largest ECE, a multiple of the gaps', whose resamples show at most ``seen`` at each percentile."""
    scales = np.linspace(0, 4, 161)
    shown_SR = np.array([np.abs(scale * gap_B + noise_RB).sum(axis=1) for scale in scales])
    quantile_PS = np.percentile(shown_SR, percents, axis=1)
    return [seen * float(scales[quantile_S <= seen].max(initial=0)) for quantile_S in quantile_PS]


def _bin_gaps(p_N: Floats, correct_N: Floats) -> Floats:
    """Return each bin's share of trajectories times (mean P(correct) - share correct), in points; shape (10,)."""
    bin_N = np.minimum(9, (p_N * 10).astype(int))
    return 100 * np.bincount(bin_N, weights=p_N - correct_N, minlength=10) / len(p_N)


def _measures(p_N: Floats, correct_N: Floats) -> tuple[float, float, float]:
    wrong_rank = correct_N < 0.5
    positives, negatives = int((~wrong_rank).sum()), int(wrong_rank.sum())
    auroc = math.nan
    if positives and negatives:
        ranks = stats.rankdata(p_N)
        auroc = float((ranks[~wrong_rank].sum() - positives * (positives + 1) / 2) / (positives * negatives))
    _, risk_N = risk_coverage(p_N, correct_N)
    return float(np.mean((p_N - correct_N) ** 2)), auroc, float(risk_N.mean())


def risk_coverage(p_N: Floats, correct_N: Floats) -> tuple[Floats, Floats]:
    """Return (coverage, risk) in percent: the error rate among the most certain share of attempts, for every share.

    Attempts of equal P(correct) are taken together, in mixture.
    """
    order = np.argsort(-p_N, kind="stable")
    p, wrong = p_N[order], 1 - correct_N[order]
    starts = np.r_[True, p[1:] != p[:-1]]
    group = np.cumsum(starts) - 1
    wrong = (np.bincount(group, weights=wrong) / np.bincount(group))[group]  # ties share their mean
    seen = np.arange(1, len(p) + 1)
    return 100 * seen / len(p), 100 * np.cumsum(wrong) / seen


# --- choosing ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outlook:
    """What each trajectory would end as if it stopped at turn 1, or went on. Arrays over N trajectories.

    ``p_N`` is NaN without a verdict (it then stops whatever the threshold); tokens are those sampled. A trajectory that
    was sent on and brought no revision ends as if it had stopped.
    """

    p_N: Floats
    stops_correct_N: Floats
    goes_correct_N: Floats
    stops_tokens_N: Floats
    goes_tokens_N: Floats
    problems: tuple[str, ...]

    def only(self, keep_N: NDArray[np.bool_]) -> Outlook:
        """Return some of the trajectories."""
        return Outlook(
            self.p_N[keep_N],
            self.stops_correct_N[keep_N],
            self.goes_correct_N[keep_N],
            self.stops_tokens_N[keep_N],
            self.goes_tokens_N[keep_N],
            tuple(problem for problem, kept in zip(self.problems, keep_N, strict=True) if kept),
        )


def outlook(trajectories: Sequence[Trajectory]) -> Outlook:
    """Read trajectories sampled with ``stop=never``; those that the grader failed on are left out."""
    rows = []
    for t in trajectories:
        first, last = is_correct(t.first), is_correct(t.attempts[1] if len(t.attempts) > 1 else t.first)
        if first is None or last is None:
            continue
        p = first_p_correct(t)
        before = sum(s.end - s.start for s in _until_revision(t) if s.sampled)
        rows.append((math.nan if p is None else p, first, last, before, t.sampled_tokens, t.problem.id))
    if not rows:
        raise InputError("no scored trajectory to choose a threshold on")
    *columns, problems = zip(*rows, strict=True)
    p_N, stops_N, goes_N, stops_tokens_N, goes_tokens_N = (np.array(column, dtype=float) for column in columns)
    return Outlook(p_N, stops_N, goes_N, stops_tokens_N, goes_tokens_N, problems)


def _until_revision(t: Trajectory) -> list[Any]:
    place = next((i for i, span in enumerate(t.spans) if span.role is Role.REVISION), len(t.spans))
    return list(t.spans[:place])


@dataclass(frozen=True, slots=True)
class Choice:
    """What a threshold on the calibrated P(correct) does, in percent of problems and tokens a problem."""

    threshold: float
    final: float
    fixed: float
    broken: float  # of the correct first attempts
    revised: float
    tokens: float


def sweep(calibrator: Calibrator, ends: Outlook) -> tuple[list[Choice], NDArray[np.bool_]]:
    """Return every threshold that makes a difference, from "never revise" to "always revise".

    The second value is which trajectories end correct under each: shape (thresholds, trajectories).
    """
    known = ~np.isnan(ends.p_N)
    c_N = np.where(known, apply(calibrator, np.where(known, ends.p_N, 0.5)), np.inf)
    values = np.unique(c_N[known])
    cuts = [0.0, *((values[1:] + values[:-1]) / 2), float(np.nextafter(1.0, 2.0))]
    found = [effect(float(cut), c_N, ends) for cut in cuts]
    return [choice for choice, _ in found], np.array([final for _, final in found])


def effect(threshold: float, c_N: Floats, ends: Outlook) -> tuple[Choice, NDArray[np.bool_]]:
    """Return what one threshold does to the trajectories, and which of them end correct."""
    goes = c_N < threshold
    first, final = ends.stops_correct_N > 0.5, np.where(goes, ends.goes_correct_N, ends.stops_correct_N) > 0.5
    choice = Choice(
        threshold,
        100 * float(final.mean()),
        100 * float((~first & final).mean()),
        100 * float((first & ~final).sum() / first.sum()) if first.any() else 0.0,
        100 * float(goes.mean()),
        float(np.where(goes, ends.goes_tokens_N, ends.stops_tokens_N).mean()),
    )
    return choice, final


def choose(
    choices: Sequence[Choice], final_TN: NDArray[np.bool_], target: Target, limit: float | None = None
) -> Choice:
    """Return the allowed threshold of the fewest tokens that is as good as the best.

    As good: behind in final accuracy by at most one standard error of the paired difference, so that a flat top does
    not decide by luck. Raises InputError where the target needs a limit, or no threshold keeps to it.
    """
    if (target == "best") != (limit is None):
        raise InputError("target broken needs a limit in percent, target tokens one in tokens a problem; best has none")
    allowed = [
        t
        for t, choice in enumerate(choices)
        if limit is None or (choice.broken if target == "broken" else choice.tokens) <= limit
    ]
    if not allowed:
        least = min(choice.tokens for choice in choices)
        raise InputError(f"no threshold keeps to {limit} tokens a problem: without any revision it is {least:.0f}")
    best = max(allowed, key=lambda t: (final_TN[t].sum(), -choices[t].tokens))
    behind_TN = final_TN[best].astype(float) - final_TN[allowed]
    as_good = behind_TN.mean(axis=1) <= behind_TN.std(axis=1) / math.sqrt(final_TN.shape[1]) + 1e-12
    return min((choices[t] for t, good in zip(allowed, as_good, strict=True) if good), key=lambda c: c.tokens)


def tune(trajectories: Sequence[Trajectory], kind: Fit, target: Target, limit: float | None = None) -> dict[str, Any]:
    """Return the content of a calibration file: the rule, its quality before and after, the sweep, what it saw.

    ``expected`` is cross-fitted: what each fold reaches at the threshold that the other folds chose.
    """
    sample, ends = judged(trajectories), outlook(trajectories)
    calibrator = fit(kind, sample.p_N, sample.correct_N)
    choices, final_TN = sweep(calibrator, ends)
    chosen = choose(choices, final_TN, target, limit)
    return {
        "rule": StopRule(calibrator, chosen.threshold).to_json(),
        "fit": kind,
        "target": target,
        "limit": limit,
        "n": len(ends.p_N),
        "without_verdict": int(np.isnan(ends.p_N).sum()),
        "without_revision": sum(first_p_correct(t) is not None and len(t.attempts) == 1 for t in trajectories),
        "before": to_json(quality(sample.p_N, sample.correct_N, sample.problems)),
        "after": to_json(quality(cross_fitted(kind, sample), sample.correct_N, sample.problems)),
        "chosen": to_json(chosen),
        "expected": to_json(_cross_chosen(kind, target, limit, sample, ends)),
        "argmax": to_json(effect(0.5, np.where(np.isnan(ends.p_N), np.inf, ends.p_N), ends)[0]),
        "sweep": [to_json(choice) for choice in _thinned(choices)],
        "seen": sorted({question_hash(t.problem) for t in trajectories}),
    }


def _cross_chosen(kind: Fit, target: Target, limit: float | None, sample: Judged, ends: Outlook) -> Choice:
    fold_N, judged_fold_N = folds(ends.problems), folds(sample.problems)
    c_N = np.empty(len(ends.p_N))
    thresholds = np.empty(len(ends.p_N))
    for fold in range(FOLDS):
        held, others = fold_N == fold, judged_fold_N != fold
        calibrator = fit(kind, sample.p_N[others], sample.correct_N[others])
        kept = ends.only(~held)
        thresholds[held] = choose(*sweep(calibrator, kept), target, limit).threshold
        c_N[held] = [math.inf if math.isnan(p) else calibrator(p) for p in ends.p_N[held]]
    return effect(0.5, np.where(c_N < thresholds, 0.0, 1.0), ends)[0]


def _thinned(choices: Sequence[Choice], most: int = 101) -> list[Choice]:
    if len(choices) <= most:
        return list(choices)
    return [choices[round(i * (len(choices) - 1) / (most - 1))] for i in range(most)]


# --- the file ----------------------------------------------------------------------------------------------------


def question_hash(problem: Problem) -> str:
    """Return a short hash of a question, the same however it is spaced."""
    return hashlib.blake2b(normalised_question(problem.question).encode(), digest_size=6).hexdigest()


def refuse_seen(place: str, problems: Sequence[Problem]) -> None:
    """Raise InputError where a threshold would be tested on problems that it was tuned on."""
    path = Path(place)
    seen = set(read_json(path if path.suffix == ".json" else path / CALIBRATION_FILE).get("seen", ()))
    if common := [problem.id for problem in problems if question_hash(problem) in seen]:
        raise InputError(
            f"the threshold of {place} was tuned on {len(common)} of these {len(problems)} problems "
            f"({common[0]}, ...): test it on problems that it has not seen"
        )
