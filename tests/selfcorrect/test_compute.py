"""What it took to make a model is added up from gen to the last stage, and unknown where a stage did not record it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.errors import DataError
from selfcorrect.runs.compute import Compute, compute_of_data, compute_of_model, recorded_compute

SAMPLED = {"problems": {"sampled from": 40}, "drawn": {"tokens": {"attempts": 700, "revisions": 300}, "resumed": 0}}


def stage(folder: Path, done: dict[str, Any] | None) -> Path:
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("name: x\n")
    if done is not None:
        (folder / "DONE").write_text(json.dumps(done))
    return folder


@pytest.mark.parametrize(
    ("drawn", "tokens"),
    [({}, 1000), ({"resumed": 9, "resumed_tokens": 50}, 1050), ({"resumed": 9}, None)],
)
def test_rows_cost_what_gen_sampled(tmp_path: Path, drawn: dict[str, int], tokens: int | None) -> None:
    stage(tmp_path / "gen", SAMPLED | {"drawn": SAMPLED["drawn"] | drawn})
    found = compute_of_data(tmp_path / "data" / "sft" / "self-rewarding.jsonl")
    assert found == (None if tokens is None else Compute(40, tokens, 0))


def test_rows_of_other_make_cost_nobody_knows_what(tmp_path: Path) -> None:
    assert compute_of_data(tmp_path / "my.jsonl") is None


def test_a_model_costs_its_stage_and_what_it_started_from(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    assert compute_of_model(str(base)) == compute_of_model("some/hub-id") == Compute()
    ift = stage(tmp_path / "ift", {"compute": recorded_compute(Compute(40, 1000, 500), compute_of_model(str(base)))})
    assert compute_of_model(str(ift)) == Compute(40, 1000, 500)
    made = recorded_compute(Compute(10, 4000, 3000), compute_of_model(str(ift)))
    assert made == {"own": asdict(Compute(10, 4000, 3000)), "total": asdict(Compute(50, 5000, 3500))}


@pytest.mark.parametrize("done", [None, {}, {"compute": {"own": {}, "total": None}}])
def test_a_stage_that_did_not_record_it_makes_the_total_unknown(tmp_path: Path, done: dict[str, Any] | None) -> None:
    old = stage(tmp_path / "old", done)
    assert compute_of_model(str(old)) is None
    assert recorded_compute(Compute(1, 2, 3), compute_of_model(str(old)))["total"] is None


def test_a_damaged_record_is_an_error(tmp_path: Path) -> None:
    (stage(tmp_path / "torn", {}) / "DONE").write_text("{")
    with pytest.raises(DataError, match="DONE is damaged"):
        compute_of_model(str(tmp_path / "torn"))
