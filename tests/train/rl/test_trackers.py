"""W&B and Trackio themselves, without a network: what they keep of the trajectories. Skipped where not installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from selfcorrect.runs.recipes import to_yaml
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


TRACKIO = """
import json, sys
from pathlib import Path
from trackio.sqlite_storage import SQLiteStorage
from selfcorrect.runs.recipes import load_recipe
from selfcorrect.train.grpo import GrpoRecipe, run
run(load_recipe(GrpoRecipe, Path(sys.argv[1])), Path(sys.argv[2]))
(name,) = SQLiteStorage.get_runs("paths")
logs = SQLiteStorage.get_logs("paths", name)
print(json.dumps([log["trajectories"] for log in logs if "trajectories" in log]))
"""
"""In a process of its own: where Trackio keeps its files is read from the environment when it is imported."""


def test_trackio_keeps_the_trajectories(recipe: GrpoRecipe, tmp_path: Path) -> None:
    if find_spec("trackio") is None:
        pytest.skip("Trackio is not installed: pip install trackio")
    reporting = replace(recipe, trainer={"report_to": "trackio", "project": "paths"})
    (tmp_path / "recipe.yaml").write_text(to_yaml(reporting), encoding="utf-8")
    command = [sys.executable, "-c", TRACKIO, str(tmp_path / "recipe.yaml"), str(tmp_path)]
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    kept = json.loads(done.stdout.splitlines()[-1])
    assert len(kept) == 2
    assert all(one["_type"] == "trackio.markdown" and one["_value"].count("**problem**") == 4 for one in kept)
