"""Rows of several seeds: what is pooled into one, what is not and why, and what a table then says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from selfcorrect.engines import EngineRecipe
from selfcorrect.eval.results import find_rows
from selfcorrect.eval.run import EvalRecipe
from selfcorrect.eval.tables.make import make
from selfcorrect.eval.tables.paper_tables import paper_table
from selfcorrect.eval.tables.seeds import SeededRow, over_seeds, seed_of
from selfcorrect.runs.jsonl import read_json, write_json
from selfcorrect.types import Trajectory, Verdict
from tests.eval.conftest import make_path, make_row

IFT = EvalRecipe(row="ift", label="self-rewarding IFT")


def paths(correct: int, n: int = 20) -> list[Trajectory]:
    return [make_path(k, k < correct, verdict=Verdict.CORRECT) for k in range(n)]


def write(run: Path, recipe: EvalRecipe, found: list[Trajectory], checkpoint: str = "ift", **training: object) -> Path:
    """Write a row of a checkpoint of the run, and the checkpoint's recipe with further settings."""
    folder = run / "checkpoints" / checkpoint.split("/")[0]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "recipe.yaml", {"name": folder.name, "model": "embedded", "seed": 0, **training})
    engine = EngineRecipe(model=str(run / "checkpoints" / checkpoint))
    return make_row(run, replace(recipe, engine=engine), found)


def read(*runs: Path) -> tuple[list[SeededRow], list[str]]:
    return over_seeds(find_rows(runs))


def test_rows_that_differ_in_the_seed_alone_are_one_row(tmp_path: Path) -> None:
    for seed, correct in ((0, 10), (1, 14), (2, 12)):
        label = "self-rewarding IFT" if seed == 1 else "self-rewarding"
        write(tmp_path / f"s{seed}", replace(IFT, label=label), paths(correct), seed=seed, micro_rows=8 + seed)
    (row,), notes = read(*(tmp_path / f"s{seed}" for seed in range(3)))
    assert notes == []
    assert (row.seeds, row.name, row.title) == (3, "ift", "self-rewarding IFT")
    scores = row.result.scores
    assert (scores.n, scores.problems, scores.final.value) == (60, 20, 60.0)
    assert [len(found) for found in row.by_seed().values()] == [20, 20, 20]
    assert len(row.trajectories()) == 60


def test_the_interval_resamples_problems_and_not_seeds(tmp_path: Path) -> None:
    for seed in range(4):
        write(tmp_path / f"s{seed}", IFT, paths(10), seed=seed)
    (row,), _ = read(*(tmp_path / f"s{seed}" for seed in range(4)))
    low, high = row.result.scores.final.interval or (0.0, 0.0)
    assert high - low > 35, "that of 20 problems; 80 independent ones would have 21 points"


@pytest.mark.parametrize(
    ("recipe", "training", "reason"),
    [
        (IFT, {"learning_rate": 1e-5}, "ift: learning_rate is 0.001 there, 1e-05 here"),
        (IFT, {"model": "Qwen/Qwen2.5-Math-7B"}, "ift: model is embedded there, Qwen/Qwen2.5-Math-7B here"),
        (replace(IFT, temperature=1.0), {}, "evaluation: temperature is 0.0 there, 1.0 here"),
        (replace(IFT, stop="gold"), {}, "stop is sampled there, gold here"),
    ],
)  # fmt: skip
def test_what_differs_in_more_than_the_seed_is_a_row_of_its_own(
    tmp_path: Path, recipe: EvalRecipe, training: dict[str, object], reason: str
) -> None:
    write(tmp_path / "s0", IFT, paths(10), learning_rate=0.001)
    write(tmp_path / "s1", recipe, paths(10), **{"seed": 1, "learning_rate": 0.001, **training})
    rows, notes = read(tmp_path / "s0", tmp_path / "s1")
    assert [row.seeds for row in rows] == [1, 1]
    assert any(note.startswith("ift of s1 is not another seed of s0's") and reason in note for note in notes), notes
    assert reason in (make("table3", [tmp_path / "s0", tmp_path / "s1"], tmp_path / "out").tables["table3"].notes[-2])


def test_what_a_model_started_from_and_its_data_count_too(tmp_path: Path) -> None:
    for seed, rows in ((0, 400), (1, 400), (2, 2800)):
        run = tmp_path / f"s{seed}"
        made = {"seed": seed, "quota": rows, "engine": {"model": "embedded", "threads": 1 + seed}}
        write_json(run / "longer" / "gen" / "recipe.yaml", made)
        write(run, replace(IFT, row="first"), paths(9), seed=seed, data="longer/data/sft/self-rewarding.jsonl")
        recipe = replace(IFT, row="grpo", label="x")
        write(run, recipe, paths(9), "grpo", seed=seed, model=str(run / "checkpoints" / "ift"))
    rows, notes = read(*(tmp_path / f"s{seed}" for seed in range(3)))
    assert [(row.name, row.seeds) for row in rows] == [("first", 2), ("grpo", 2), ("first", 1), ("grpo", 1)]
    assert all("data of ift: quota is 400 there, 2800 here" in note for note in notes)
    assert len(notes) == 2


def test_the_same_seed_twice_is_not_two_seeds(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, IFT, paths(10), seed=0)
    rows, notes = read(tmp_path / "a", tmp_path / "b")
    assert len(rows) == 2
    assert notes == ["ift of b is not another seed: seed 0 is there already."]


def test_a_row_in_which_nothing_is_trained_counts_once(tmp_path: Path) -> None:
    for seed in range(2):
        make_row(tmp_path / f"s{seed}", EvalRecipe(row="asked", method="asked"), paths(10))
    (row,), notes = read(tmp_path / "s0", tmp_path / "s1")
    assert (row.seeds, row.result.scores.n, list(row.by_seed())) == (0, 20, [""])
    assert notes == ["asked: nothing in it was trained; s0's counts, no other run's."]


def test_rows_of_one_run_are_never_pooled_and_an_iteration_has_the_seed_of_its_training(tmp_path: Path) -> None:
    write(tmp_path / "s0", IFT, paths(10), "dpo/iteration-2", seed=7)
    write(tmp_path / "s0", replace(IFT, row="other"), paths(10), "dpo/iteration-2", seed=7)
    rows, _ = read(tmp_path / "s0")
    assert [row.seeds for row in rows] == [1, 1]
    assert seed_of(rows[0]) == 7


def test_the_table_has_one_row_a_method_with_the_spread_of_its_seeds(tmp_path: Path) -> None:
    for seed, correct in ((0, 10), (1, 14)):
        write(tmp_path / f"s{seed}", IFT, paths(correct), seed=seed)
    make_row(tmp_path / "s0", EvalRecipe(row="intrinsic", label="intrinsic", method="intrinsic"), paths(9))
    raft = EvalRecipe(row="raft", label="STaR/RAFT for self-correction", method="intrinsic")
    write(tmp_path / "s1", raft, paths(8), "raft", seed=1)
    runs = [tmp_path / "s0", tmp_path / "s1"]
    table = make("table3", runs, tmp_path / "out").tables["table3"]
    shown = {line[0]: line[1:3] for line in table.rows if len(line) > 1 and line[1] != "missing"}
    assert table.head[:3] == ("method", "n", "seeds")
    assert shown == {
        "Self-rewarding IFT": ("40", "2: 50.0 to 70.0"),
        "Intrinsic self-correction": ("20", "–"),
        "STaR/RAFT for self-correction": ("20", "1"),
    }
    assert {len(line) for line in table.rows} == {1, len(table.head)}
    assert any("n is problems × seeds" in note for note in table.notes)
    one = make("table3", runs[:1], tmp_path / "one").tables["table3"]
    assert "seeds" not in one.head, "as it was, with one seed"


def test_budget_and_calibration_say_how_many_seeds_a_row_has(tmp_path: Path) -> None:
    for seed in range(2):
        found = [make_path(k, k < 15, p=0.9 if k < 18 else 0.2) for k in range(30)]
        write(tmp_path / f"s{seed}", IFT, found, seed=seed)
    for name in ("budget", "calibration"):
        table = make(name, [tmp_path / "s0", tmp_path / "s1"], tmp_path / "out").tables[name]
        assert "self-rewarding IFT: 2 seeds of data and training." in table.notes
        assert "60" in {line[1] for line in table.rows if len(line) > 1}


def test_a_row_at_another_temperature_leaves_its_place_to_the_papers(tmp_path: Path) -> None:
    write(tmp_path, IFT, paths(10))
    write(tmp_path, replace(IFT, row="vote", temperature=1.0), paths(5))
    table = paper_table("table3", find_rows([tmp_path]), tmp_path)
    assert [line[0] for line in table.rows if len(line) > 1 and line[1] == "20"] == ["Self-rewarding IFT"]
    assert any(note.startswith("vote was sampled at temperature 1: it is not shown") for note in table.notes)


def test_what_the_models_took_is_the_mean(tmp_path: Path) -> None:
    for seed, tokens in ((0, 100), (1, 201)):
        folder = write(tmp_path / f"s{seed}", IFT, paths(10), seed=seed)
        scores = read_json(folder / "scores.json")
        compute = {"problems": 10, "sampled_tokens": tokens, "trained_tokens": 7}
        write_json(folder / "scores.json", scores | {"compute": compute})
    (row,), _ = read(tmp_path / "s0", tmp_path / "s1")
    assert row.result.compute is not None
    assert (row.result.compute.sampled_tokens, row.result.compute.trained_tokens) == (150, 7)
