"""The paper's claims against made-up rows whose truth is known: each can hold, fail, be open, or be untested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from selfcorrect.eval.results import EvalResult
from selfcorrect.eval.run import EvalRecipe, summary
from selfcorrect.eval.tables.claims import Claim, Found, Rows, claims_of, judged, opposite
from selfcorrect.runs.compute import Compute
from selfcorrect.types import Trajectory, Verdict
from tests.eval.conftest import make_path

HOLDS, FAILS, OPEN, MISSING = Found.HOLDS, Found.FAILS, Found.OPEN, Found.MISSING


def row(fixed: int, broken: int, correct: int, wrong: int) -> tuple[EvalResult, Sequence[Trajectory]]:
    """Return a row of so many problems that were fixed, broken, correct throughout, wrong throughout, in this order."""
    outcomes = [(False, True)] * fixed + [(True, False)] * broken + [(True, True)] * correct + [(False, False)] * wrong
    found = [make_path(k, *rights, verdict=Verdict.WRONG) for k, rights in enumerate(outcomes)]
    return summary(EvalRecipe(row="x"), found, {}), found


def found(rows: Rows) -> dict[str, Claim]:
    return {claim.claim: claim for claim in claims_of(rows)}


def one(rows: Rows, beginning: str) -> Claim:
    (claim,) = [claim for name, claim in found(rows).items() if name.startswith(beginning)]
    return claim


@pytest.mark.parametrize(
    ("interval", "least", "says"),
    [
        ((0.1, 2.0), 0, HOLDS), ((-2.0, -0.1), 0, FAILS), ((-1.0, 1.0), 0, OPEN), ((0.0, 1.0), 0, OPEN),
        ((-1.0, 0.0), 0, FAILS), ((2.1, 3.0), 2, HOLDS), ((-1.0, 2.0), 2, FAILS), ((1.0, 2.5), 2, OPEN),
    ],
)  # fmt: skip
def test_an_interval_with_both_cannot_tell(interval: tuple[float, float], least: float, says: Found) -> None:
    assert judged(interval, least) is says
    assert opposite(opposite(says)) is says


@pytest.mark.parametrize(
    ("beginning", "name", "counts", "says"),
    [
        ("5.1", "intrinsic", (2, 30, 100, 68), HOLDS),
        ("5.1", "intrinsic", (30, 2, 100, 68), FAILS),
        ("5.1", "intrinsic", (5, 6, 100, 89), OPEN),
        ("5.2 learning revisions without verdicts gains nothing (raft):", "raft", (2, 4, 600, 394), HOLDS),
        ("5.2 learning revisions without verdicts gains nothing (raft):", "raft", (60, 4, 600, 336), FAILS),
        ("5.2 learning revisions without verdicts gains nothing (raft-plus):", "raft-plus", (8, 5, 100, 87), OPEN),
        ("5.3 self-rewarding IFT gains", "ift", (30, 2, 100, 68), HOLDS),
        ("5.3 self-rewarding IFT gains", "ift", (2, 30, 100, 68), FAILS),
        ("5.3 self-rewarding IFT gains", "ift", (6, 5, 100, 89), OPEN),
        ("5.3 IFT fixes more than 3 times", "ift", (60, 5, 500, 435), HOLDS),
        ("5.3 IFT fixes more than 3 times", "ift", (60, 50, 500, 390), FAILS),
        ("5.3 IFT fixes more than 3 times", "ift", (20, 6, 500, 474), OPEN),
    ],
)
def test_a_claim_about_one_row(beginning: str, name: str, counts: tuple[int, ...], says: Found) -> None:
    claim = one({name: row(*counts)}, beginning)
    assert (claim.verdict, claim.n) == (says, sum(counts))
    assert claim.interval is not None


def test_rl_that_improves_the_first_attempt() -> None:
    rows = {"ift": row(60, 4, 500, 436), "grpo": row(10, 4, 600, 386)}
    assert one(rows, "5.4 RL raises Final").verdict is HOLDS
    assert one(rows, "5.4 RL raises Turn 1").verdict is HOLDS
    assert one(rows, "5.4 RL narrows").verdict is HOLDS


def test_rl_that_improves_the_correction_alone() -> None:
    rows = {"ift": row(60, 4, 500, 436), "grpo": row(140, 4, 460, 396)}
    assert one(rows, "5.4 RL raises Final").verdict is HOLDS
    assert one(rows, "5.4 RL raises Turn 1").verdict is FAILS
    assert one(rows, "5.4 RL narrows").verdict is FAILS


def test_the_control_is_the_untrained_model_that_is_asked() -> None:
    rows = {"asked": row(200, 4, 600, 196), "ift": row(100, 4, 600, 296), "grpo": row(250, 4, 600, 146)}
    assert one(rows, "control: ift").verdict is FAILS
    assert one(rows, "control: grpo ends above the untrained").verdict is HOLDS
    assert one(rows, "control: grpo ends above IFT that had").verdict is MISSING
    assert one(rows, "control: a random reward").verdict is MISSING
    assert [claim.control for claim in claims_of(rows)].count(True) == 4


def test_the_control_of_equal_compute_and_that_of_a_random_reward() -> None:
    def costing(tokens: int, row: tuple[EvalResult, Sequence[Trajectory]]) -> tuple[EvalResult, Sequence[Trajectory]]:
        return replace(row[0], compute=Compute(10, tokens, 3)), row[1]

    rows = {"ift": row(100, 4, 600, 296), "grpo": costing(7000, row(150, 4, 600, 246))}
    rows |= {"ift-longer": costing(7100, row(250, 4, 600, 146)), "random": row(40, 90, 500, 370)}
    longer = one(rows, "control: grpo ends above IFT that had")
    assert longer.verdict is FAILS
    assert longer.ours.endswith("tokens sampled to make them 7,100 and 7,000")
    assert one(rows, "control: a random reward").verdict is HOLDS
    assert one(rows, "control: a random reward").ours.endswith("unknown and unknown")


def test_what_is_not_there_is_not_tested_and_what_holds_by_construction_is_no_claim() -> None:
    assert {claim.verdict for claim in claims_of({})} == {MISSING}
    assert {claim.claim[:3] for claim in claims_of({}) if not claim.control} == {f"5.{k}" for k in range(1, 8)}
    assert not [claim for claim in claims_of({}) if "gold" in claim.claim]
    one_claim = one({"ift": row(30, 2, 100, 68)}, "5.3 self-rewarding IFT gains").to_json()
    assert set(one_claim) == {"claim", "paper", "ours", "interval", "n", "verdict", "control"}
