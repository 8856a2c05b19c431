"""Does the question tell the class? How well D3 is told from D1 by the problem alone; `data_card` shows it.

A self-evaluation that is learned says *correct* in D3 and *wrong* in D1. If D3 comes from easier problems, a model can
learn the verdict from the question instead of from the attempt. Two predictors of the class, each as an AUROC (0.5: no
leak; 1: the question tells the class), with a 95% interval from resampling problems:

- ``pass rate``: the share of the problem's other attempts that are correct. The row's own attempt is left out, for its
  outcome is the class; in matched data also that of the row it is matched with. What is left are independent attempts
  wherever problems were attempted equally often; under steering nearly so.
- ``words``: logistic regression on which words and numbers occur in the question and how long it is, fitted on four
  fifths of the problems and applied to the others.

Example: {"auroc": 0.71, "low": 0.66, "high": 0.76, "D1": 160, "D3": 190, "problems": 240}.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from selfcorrect.data_gen.classes import Candidate, Kind, PartOutcome

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

MIN_ROWS = 20
"""Rows of each class below which an AUROC says nothing."""

WORDS = 2_000
"""The most frequent words of the questions that the regression looks at."""

FOLDS, RESAMPLES, PENALTY = 5, 200, 1.0


def leak(
    rows: Sequence[Candidate], passed: Mapping[int, Mapping[str, int]], is_matched: bool
) -> dict[str, dict[str, float | int]]:
    """Return the AUROC of each predictor over the D1 and D3 rows of a set; empty where they are too few."""
    judged = [row for row in rows if row.kind in (Kind.D1, Kind.D3)]
    found = {
        "pass rate": _measured(*_with_other_attempts(judged, passed, is_matched)),
        "words": _measured(judged, _by_words(judged)) if _are_enough(judged) else None,
    }
    return {name: measured for name, measured in found.items() if measured}


def auroc(scores: Numbers, positive: NDArray[np.bool_]) -> float:
    """Return the chance that a positive has the higher score of the two, one of each; a tie counts half."""
    from scipy.stats import rankdata

    count = int(positive.sum())
    ranks = float(rankdata(scores)[positive].sum())
    return (ranks - count * (count + 1) / 2) / (count * (len(scores) - count))


def _are_enough(rows: Sequence[Candidate]) -> bool:
    kinds = Counter(row.kind for row in rows)
    return min(kinds[Kind.D1], kinds[Kind.D3]) >= MIN_ROWS


def _measured(rows: Sequence[Candidate], scores: Sequence[float] | Numbers) -> dict[str, float | int] | None:
    """Return the AUROC with its interval, over problems resampled with replacement; None for too few rows."""
    import numpy as np

    if not _are_enough(rows):
        return None
    scores_R, is_d3_R = np.array(scores, dtype=float), np.array([row.kind is Kind.D3 for row in rows])
    of_problem: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        of_problem.setdefault(row.base.problem.id, []).append(place)
    problems, rng, drawn = list(of_problem.values()), np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        places = np.concatenate([problems[i] for i in rng.integers(len(problems), size=len(problems))])
        if 0 < is_d3_R[places].sum() < len(places):
            drawn.append(auroc(scores_R[places], is_d3_R[places]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {
        "auroc": round(auroc(scores_R, is_d3_R), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "D1": int((~is_d3_R).sum()),
        "D3": int(is_d3_R.sum()),
        "problems": len(problems),
    }


def _with_other_attempts(
    rows: Sequence[Candidate], passed: Mapping[int, Mapping[str, int]], is_matched: bool
) -> tuple[list[Candidate], list[float]]:
    """Return the rows whose problem has other attempts, with the share of those that is correct."""
    scored: list[tuple[Candidate, float]] = []
    for row in rows:
        outcomes = passed[row.base.number]
        correct, attempts = outcomes.get(PartOutcome.CORRECT, 0), sum(outcomes.values())
        others = attempts - (2 if is_matched else 1)
        if others > 0:
            own = 1 if is_matched else int(row.attempt.outcome is PartOutcome.CORRECT)
            scored.append((row, (correct - own) / others))
    return [row for row, _ in scored], [score for _, score in scored]


def _by_words(rows: Sequence[Candidate]) -> Numbers:
    """Return, for each row, how much its question speaks for D3, by a regression on the problems of other folds."""
    import numpy as np

    features_RF = _features([row.base.problem.question for row in rows])
    is_d3_R = np.array([row.kind is Kind.D3 for row in rows], dtype=float)
    fold_R = np.array([_fold(row.base.problem.id) for row in rows])
    scores_R = np.zeros(len(rows))
    for fold in range(FOLDS):
        learned, held_out = fold_R != fold, fold_R == fold
        if held_out.any() and learned.any():
            weights_F = _fitted(features_RF[learned], is_d3_R[learned])
            weights_F[0] = 0.0  # the constant is the share of D3 in the other folds: high where it is low in this one
            scores_R[held_out] = features_RF[held_out] @ weights_F
    return scores_R


def _fold(problem_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(problem_id.encode(), digest_size=8).digest(), "big") % FOLDS


def _features(questions: Sequence[str]) -> Any:
    """Return a sparse matrix: a constant, the length (standardised logarithm), and which frequent words occur."""
    import numpy as np
    from scipy.sparse import csr_matrix, hstack

    words = [set(re.findall(r"\w+", question.lower())) for question in questions]
    frequent = Counter(word for found in words for word in found).most_common(WORDS)
    column = {word: place for place, (word, _) in enumerate(frequent)}
    cells = [(row, column[word]) for row, found in enumerate(words) for word in found if word in column]
    ones, shape = np.ones(len(cells)), (len(questions), len(column))
    occurs_RW = csr_matrix((ones, tuple(np.array(cells).reshape(-1, 2).T)), shape=shape)
    length_R = np.log1p([len(question) for question in questions])
    length_R = (length_R - length_R.mean()) / (length_R.std() or 1.0)
    return hstack([csr_matrix(np.stack([np.ones(len(questions)), length_R], axis=1)), occurs_RW], format="csr")


def _fitted(features_RF: Any, is_d3_R: Numbers) -> Numbers:
    """Return the weights of a logistic regression with an L2 penalty on all but the constant."""
    import numpy as np
    from scipy.optimize import minimize

    penalty_F = np.full(features_RF.shape[1], PENALTY)
    penalty_F[0] = 0.0
    sign_R = 2 * is_d3_R - 1

    def loss(weights_F: Numbers) -> tuple[float, Numbers]:
        margin_R = sign_R * (features_RF @ weights_F)
        gradient_F = -(features_RF.T @ (sign_R / (1 + np.exp(np.clip(margin_R, -500, 500))))) + penalty_F * weights_F
        return float(np.logaddexp(0, -margin_R).sum() + (penalty_F * weights_F**2).sum() / 2), gradient_F

    fitted: Numbers = minimize(loss, np.zeros(features_RF.shape[1]), jac=True, method="L-BFGS-B").x
    return fitted
