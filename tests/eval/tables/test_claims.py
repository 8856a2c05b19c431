"""The paper's claims against made-up rows whose truth is known: each can hold, fail, be open, or be untested."""

from __future__ import annotations

from dataclasses import replace

import pytest

from selfcorrect.eval.run import EvalRecipe, summary
from selfcorrect.eval.tables.claims import Claim, Found, Measured, Rows, claims_of, judged, opposite
from selfcorrect.eval.tables.seeds import UNTRAINED as NO_SEED
from selfcorrect.runs.compute import Compute
from selfcorrect.types import Trajectory, Verdict
from tests.eval.conftest import make_path

HOLDS, FAILS, OPEN, MISSING = Found.HOLDS, Found.FAILS, Found.OPEN, Found.MISSING


def paths(fixed: int, broken: int, correct: int, wrong: int) -> list[Trajectory]:
    """Return so many problems that were fixed, broken, correct throughout, wrong throughout, in this order."""
    outcomes = [(False, True)] * fixed + [(True, False)] * broken + [(True, True)] * correct + [(False, False)] * wrong
    return [make_path(k, *rights, verdict=Verdict.WRONG) for k, rights in enumerate(outcomes)]


def measured(by_seed: dict[str, list[Trajectory]]) -> Measured:
    every = [trajectory for found in by_seed.values() for trajectory in found]
    return Measured(summary(EvalRecipe(row="x"), every, {}), by_seed)


def row(*counts: int) -> Measured:
    """Return a row of one seed, with the counts of `paths`."""
    return measured({NO_SEED: paths(*counts)})


def seeds(*counts: tuple[int, int, int, int], first: int = 0) -> Measured:
    """Return a row of several seeds, each with the counts of `paths`."""
    return measured({f"s{first + k}": paths(*each) for k, each in enumerate(counts)})


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
    def costing(tokens: int, row: Measured) -> Measured:
        return replace(row, result=replace(row.result, compute=Compute(10, tokens, 3)))

    rows = {"ift": row(100, 4, 600, 296), "grpo": costing(7000, row(150, 4, 600, 246))}
    rows |= {"ift-longer": costing(7100, row(250, 4, 600, 146)), "random": row(40, 90, 500, 370)}
    longer = one(rows, "control: grpo ends above IFT that had")
    assert longer.verdict is FAILS
    assert longer.ours.endswith("tokens sampled to make them: 7,100 and 7,000")
    assert one(rows, "control: a random reward").verdict is HOLDS
    assert one(rows, "control: a random reward").ours.endswith("to make them: not recorded and not recorded")


def test_what_is_not_there_is_not_tested_and_what_holds_by_construction_is_no_claim() -> None:
    assert {claim.verdict for claim in claims_of({})} == {MISSING}
    assert {claim.claim[:3] for claim in claims_of({}) if not claim.control} == {f"5.{k}" for k in range(1, 8)}
    assert not [claim for claim in claims_of({}) if "gold" in claim.claim]
    one_claim = one({"ift": row(30, 2, 100, 68)}, "5.3 self-rewarding IFT gains").to_json()
    assert set(one_claim) == {"claim", "paper", "ours", "interval", "n", "verdict", "control", "seeds"}


def test_a_claim_over_several_seeds_counts_problems_once_and_says_how_far_apart_the_seeds_lie() -> None:
    rows = {"ift": seeds((30, 2, 100, 68), (20, 4, 110, 66), (10, 4, 110, 76))}
    gain = one(rows, "5.3 self-rewarding IFT gains")
    assert (gain.n, gain.seeds, gain.verdict) == (200, 3, HOLDS)
    assert gain.by_seed == pytest.approx((14.0, 8.0, 3.0))
    assert gain.to_json()["by_seed"] == [14.0, 8.0, 3.0]
    assert gain.ours.endswith("Δ +8.3; 3 seeds: +3.0 to +14.0")
    ratio = one(rows, "5.3 IFT fixes more than 3 times")
    assert (ratio.n, ratio.seeds) == (200, 3)
    assert ratio.by_seed == pytest.approx((12.0, 4.0, -1.0))


def test_seeds_of_the_same_problems_are_not_further_problems() -> None:
    alike = (20, 6, 100, 94)
    (low, high), (one_low, one_high) = (
        one({"ift": row}, "5.3 IFT fixes more than 3 times").interval or (0.0, 0.0)
        for row in (seeds(alike, alike, alike, alike), seeds(alike))
    )
    assert high - low == pytest.approx(one_high - one_low, rel=0.1), "not half as wide"


def test_two_trained_rows_are_compared_over_the_seeds_that_both_have() -> None:
    ift = seeds((100, 0, 0, 100), (0, 0, 200, 0), (0, 0, 200, 0))
    rows = {"ift": ift, "grpo": seeds((0, 0, 160, 40)), "asked": row(0, 0, 90, 110)}
    final = one(rows, "5.4 RL raises Final")
    assert (final.n, final.seeds, final.ours[:29]) == (200, 1, "50.0 → 80.0: +30.0 points, p ")
    assert "McNemar" in final.ours
    control = one(rows, "control: ift ends above the untrained")
    assert (control.seeds, control.by_seed) == (3, pytest.approx((5.0, 55.0, 55.0)))
    assert "sign flips" in control.ours
    apart = one({"ift": seeds((9, 1, 5, 5)), "grpo": seeds((9, 1, 5, 5), first=1)}, "5.4 RL raises Final")
    assert (apart.verdict, apart.ours) == (MISSING, "no seed has both ift and grpo")
