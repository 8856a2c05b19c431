"""W&B and Trackio themselves, without a network: what they keep of the trajectories. Skipped where not installed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from selfcorrect.train.grpo import GrpoRecipe, run


def test_wandb_keeps_a_table_of_trajectories(
    recipe: GrpoRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="W&B is not installed: pip install wandb")
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    run(replace(recipe, trainer={"report_to": "wandb"}), tmp_path)
    tables = sorted((tmp_path / "wandb").rglob("trajectories_*.table.json"))
    assert len(tables) == 2
    kept = json.loads(tables[0].read_text(encoding="utf-8"))
    assert kept["columns"] == ["sampled_at", "problem", "question", "trajectory", "reward"]
    assert len(kept["data"]) == 4
    assert all(row[3].startswith("[attempt, ") for row in kept["data"])
    assert any("\\boxed{" in row[3] for row in kept["data"])


def test_trackio_keeps_the_trajectories(recipe: GrpoRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio", reason="Trackio is not installed: pip install trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    run(replace(recipe, trainer={"report_to": "trackio", "project": "offp"}), tmp_path)
    from trackio.sqlite_storage import SQLiteStorage

    (name,) = SQLiteStorage.get_runs("offp")
    kept = [log["trajectories"] for log in SQLiteStorage.get_logs("offp", name) if "trajectories" in log]
    assert len(kept) == 2
    assert all(one["_type"] == "trackio.markdown" and one["_value"].count("**problem**") == 4 for one in kept)
