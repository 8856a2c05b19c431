"""Claims of whole studies: seeds are pooled, and 5.4 to 5.7 each hold, fail, are open or are not tested."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from selfcorrect.engines import EngineRecipe
from selfcorrect.errors import DataError
from selfcorrect.eval.analysis.voting import curves, mean_curves
from selfcorrect.eval.run import EvalRecipe
from selfcorrect.eval.tables.make import make
from selfcorrect.eval.tables.study_claims import pooled, scale_of, study_claims
from selfcorrect.runs.jsonl import write_json, write_jsonl
from selfcorrect.types import Trajectory, Verdict
from tests.eval.conftest import make_path, make_row

Rows = Callable[..., Path]


def paths(fixed: int, broken: int, correct: int, wrong: int, verdict: Verdict = Verdict.WRONG) -> list[Trajectory]:
    outcomes = [(False, True)] * fixed + [(True, False)] * broken + [(True, True)] * correct + [(False, False)] * wrong
    return [make_path(k, *rights, verdict=verdict) for k, rights in enumerate(outcomes)]


def write(run: Path, name: str, found: list[Trajectory], **settings: object) -> None:
    make_row(run, EvalRecipe(row=name, **settings), found)  # type: ignore[arg-type]


def verdicts(*runs: Path) -> dict[str, tuple[str, int]]:
    _, found = study_claims(runs)
    return {claim["claim"]: (claim["verdict"], claim["n"]) for claim in found["claims"]}


def said_of(beginning: str, *runs: Path) -> tuple[str, int]:
    (one,) = [value for claim, value in verdicts(*runs).items() if claim.startswith(beginning)]
    return one


def trained(run: Path, name: str, found: list[Trajectory], seed: int = 0, **settings: object) -> None:
    """Write a row of a checkpoint of the run, that was trained with a seed and further settings."""
    folder = run / "checkpoints" / name
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "recipe.yaml", {"name": name, "model": "embedded", "seed": seed, "epochs": 4.0, **settings})
    make_row(run, EvalRecipe(row=name, engine=EngineRecipe(model=str(folder))), found)


def test_the_trajectories_of_all_seeds_count(tmp_path: Path) -> None:
    trained(tmp_path / "s0", "ift", paths(6, 5, 100, 89))
    assert said_of("5.3 self-rewarding IFT gains", tmp_path / "s0") == ("cannot be told", 200)
    trained(tmp_path / "s1", "ift", paths(60, 5, 80, 55), seed=1)
    ift = pooled([tmp_path / "s0", tmp_path / "s1"])["ift"]
    assert (ift.scores.n, len(ift.trajectories), ift.problems, len(ift.by_seed)) == (400, 400, 200, 2)
    assert ift.scores.i2c.value == pytest.approx(100 * 66 / 400, abs=0.01)
    assert said_of("5.3 self-rewarding IFT gains", tmp_path / "s0", tmp_path / "s1") == ("holds", 200)
    _, found = study_claims([tmp_path / "s0", tmp_path / "s1"])
    counted = {claim["claim"]: claim["seeds"] for claim in found["claims"]}
    assert counted["5.3 self-rewarding IFT gains: Δ > 0"] == 2
    assert counted["5.4 RL raises Final above IFT's"] == 0


def test_rows_of_two_studies_are_refused_with_what_differs(tmp_path: Path) -> None:
    trained(tmp_path / "s0", "ift", paths(6, 5, 100, 89))
    trained(tmp_path / "s1", "ift", paths(6, 5, 100, 89), seed=1, epochs=9.0)
    with pytest.raises(DataError, match=r"ift of s1 is not another seed of s0's: ift: epochs is 4.0 there, 9.0 here"):
        study_claims([tmp_path / "s0", tmp_path / "s1"])


def test_ppo_stands_beside_grpo_and_against_dpo(tmp_path: Path) -> None:
    write(tmp_path, "ift", paths(60, 4, 500, 436))
    assert (
        said_of("5.4 PPO ends above", tmp_path) == ("not tested", 0) if "5.4 PPO" in str(verdicts(tmp_path)) else True
    )
    write(tmp_path, "ppo", paths(10, 4, 600, 386))
    write(tmp_path, "dpo", paths(10, 4, 700, 286))
    assert said_of("5.4 PPO raises Turn 1", tmp_path)[0] == "holds"
    assert said_of("5.4 PPO ends above", tmp_path)[0] == "does not hold"


def test_the_composition_of_the_set_is_told_by_rates_that_are_not_paired(tmp_path: Path) -> None:
    def judged(name: str, caught: int, passed: int) -> None:
        found = [make_path(k, False, False, verdict=Verdict.WRONG) for k in range(caught)]
        found += [make_path(200 + k, False, verdict=Verdict.CORRECT) for k in range(200 - caught)]
        found += [make_path(400 + k, True, verdict=Verdict.CORRECT) for k in range(passed)]
        found += [make_path(600 + k, True, True, verdict=Verdict.WRONG) for k in range(200 - passed)]
        write(tmp_path, name, found)

    judged("ift-balanced", 100, 180)
    judged("ift-more-incorrect", 150, 176)
    stricter = "5.5 more rows with a wrong first attempt make the judge stricter"
    assert said_of(f"{stricter}: RM W rises", tmp_path) == ("holds", 200)
    assert said_of(f"{stricter}: RM C falls", tmp_path) == ("cannot be told", 200)
    assert said_of("5.5 D2 rows lower", tmp_path) == ("not tested", 0)


def test_a_judge_is_held_against_a_constant_one(tmp_path: Path) -> None:
    def judge(name: str, caught: int, passed: int) -> None:
        found = [make_path(k, False, verdict=Verdict.WRONG if k < caught else Verdict.CORRECT) for k in range(200)]
        found += [
            make_path(200 + k, True, verdict=Verdict.CORRECT if k < passed else Verdict.WRONG) for k in range(200)
        ]
        write(tmp_path, name, found)

    judge("ift", 120, 180)
    judge("asked", 30, 170)  # says correct of 85% of both
    judge("grpo", 0, 200)  # always correct
    said = {name: said_of(f"control: the verdicts of {name} ", tmp_path)[0] for name in ("ift", "asked", "grpo")}
    assert said["ift"] == "holds"
    assert "holds" not in (said["asked"], said["grpo"])


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ([-0.5, -0.25, -0.375, -0.5], "holds"),
        ([0.1, 0.0, 0.05, -0.05], "does not hold"),
        ([-0.5, 0.4, -0.3, 0.2], "cannot be told"),
    ],
)
def test_the_hacked_reward_is_told_by_the_last_rollouts(tmp_path: Path, changes: list[float], verdict: str) -> None:
    write(tmp_path, "ift", paths(6, 5, 10, 9))
    rows = [{"step": 1, "turn1_changes": [0.9] * 4}, *({"step": k, "turn1_changes": changes} for k in range(2, 7))]
    write_jsonl(tmp_path / "checkpoints" / "hacked" / "metrics.jsonl", rows)
    assert said_of("5.6", tmp_path) == (verdict, 20)


@pytest.mark.parametrize(("stopped_by", "said"), [("turn 1 fell", "1 of 1"), (None, "0 of 1")])
def test_the_hacked_reward_says_whether_the_guard_stopped_it(tmp_path: Path, stopped_by: str | None, said: str) -> None:
    write(tmp_path, "ift", paths(6, 5, 10, 9))
    folder = tmp_path / "checkpoints" / "hacked"
    write_jsonl(folder / "metrics.jsonl", [{"step": 1, "turn1_changes": [0.1, 0.2]}])
    (folder / "DONE").write_text(json.dumps({"stopped_by": stopped_by}), encoding="utf-8")
    (claim,) = (row for row in study_claims([tmp_path])[1]["claims"] if row["claim"].startswith("5.6"))
    assert claim["ours"].endswith(f"the guard stopped {said} runs")


def test_voting_is_compared_at_the_dearest_budget_that_both_have(tmp_path: Path) -> None:
    def seeds(name: str, right: int) -> None:
        found = [make_path(k, k < right, verdict=Verdict.CORRECT, seed=s) for k in range(60) for s in range(4)]
        write(tmp_path, name, found, temperature=1.0, seeds=(0, 1, 2, 3))

    seeds("vote-ift", 50)
    assert said_of("5.7", tmp_path)[0] == "not tested"
    seeds("vote-single-turn", 20)
    assert said_of("5.7", tmp_path) == ("holds", 60)


def test_models_of_several_seeds_do_not_vote_together(tmp_path: Path) -> None:
    """Each of three models is right on another third: in a vote over all of them the two others often win."""
    for seed in range(3):
        found = [make_path(k, k % 3 == seed, answer="5", seed=s) for k in range(30) for s in range(2)]
        trained(tmp_path / f"s{seed}", "vote-ift", found, seed=seed)
        row = pooled([tmp_path / f"s{seed}"])["vote-ift"]
        assert curves(row.trajectories)[0].points[-1].accuracy == pytest.approx(100 / 3)
    every = pooled([tmp_path / f"s{seed}" for seed in range(3)])["vote-ift"]
    (mean,) = mean_curves([curves(found) for found in every.by_seed.values()])
    assert [point.n for point in mean.points] == [1, 2]
    assert mean.points[-1].accuracy == pytest.approx(100 / 3)
    assert curves(every.trajectories)[0].points[-1].accuracy < 100 / 4


def test_the_report_writes_claims_with_their_scale(tmp_path: Path) -> None:
    write(tmp_path / "s0", "ift", paths(60, 4, 500, 436))
    report = make("claims", [tmp_path / "s0"], tmp_path / "out")
    claims = json.loads((tmp_path / "out" / "claims.json").read_text())["claims"]
    assert {claim["scale"] for claim in claims} == {"laptop"} == {scale_of(pooled([tmp_path / "s0"]))}
    assert {"claim", "paper", "ours", "interval", "n", "verdict", "scale"} <= claims[0].keys()
    assert {claim["claim"][:3] for claim in claims if not claim["control"]} == {f"5.{k}" for k in range(1, 8)}
    assert "holds" in (tmp_path / "out" / "claims.md").read_text()
    assert tmp_path / "out" / "claims.json" in report.files
    with pytest.raises(DataError, match="no evaluated rows"):
        study_claims([tmp_path])
