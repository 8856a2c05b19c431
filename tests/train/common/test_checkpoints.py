"""Checkpoints to resume from: sealed when they are whole on the disk; a damaged one falls back to the one before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.errors import RecipeError
from selfcorrect.train.common.checkpoints import last_checkpoint
from selfcorrect.train.sft import SftRecipe, run

DAMAGE: dict[str, Callable[[Path], Any]] = {
    "a flipped bit in the weights": lambda c: _flip(c / "model.safetensors"),
    "a flipped bit in the optimizer": lambda c: _flip(c / "optimizer.pt"),
    "half a state": lambda c: (c / "trainer_state.json").write_text("{"),
    "an empty configuration": lambda c: (c / "config.json").write_text(""),
    "no random numbers": lambda c: (c / "rng_state.pth").unlink(),
}


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture
def small(guesser: Path, tmp_path: Path) -> tuple[SftRecipe, Path]:
    shutil.copytree(guesser / "data", tmp_path / "whole" / "data")
    recipe = SftRecipe(
        model=str(guesser / "checkpoints" / "ift"), epochs=3, batch_rows=4, save_every=2, log_every=1,
        precision="fp32", learning_rate=1e-3,
    )  # fmt: skip
    return recipe, tmp_path


def results(run_folder: Path) -> list[Any]:
    folder = run_folder / "checkpoints" / "ift"
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(folder / "model.safetensors").read_bytes(), [row | {"seconds": 0} for row in metrics]]


def test_damage_falls_back_to_the_checkpoint_before_and_ends_the_same(
    small: tuple[SftRecipe, Path], killed_at: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, tmp = small
    shutil.copytree(tmp / "whole", tmp / "torn")
    run(recipe, tmp / "whole")
    with killed_at(7):
        run(recipe, tmp / "torn")
    resume = tmp / "torn" / "checkpoints" / "ift" / "resume"
    assert sorted(path.name for path in resume.glob("*-*")) == ["checkpoint-4", "checkpoint-6"]
    for name, damage in DAMAGE.items():
        shutil.copytree(tmp / "torn", tmp / name)
        folder = tmp / name / "checkpoints" / "ift"
        damage(folder / "resume" / "checkpoint-6")
        assert last_checkpoint(folder) == folder / "resume" / "checkpoint-4", name
        assert "checkpoint-6 is damaged" in " ".join(capsys.readouterr().err.split())
        run(recipe, tmp / name)
        assert results(tmp / name) == results(tmp / "whole"), name
    (resume / "seals.json").write_text("{")
    assert last_checkpoint(resume.parent) is None
    assert "training begins anew" in " ".join(capsys.readouterr().err.split())


def test_what_is_not_sealed_is_not_whole_and_older_runs_have_no_seals(
    small: tuple[SftRecipe, Path], killed_at: Any
) -> None:
    recipe, tmp = small
    with killed_at(7):
        run(recipe, tmp / "whole")
    folder = tmp / "whole" / "checkpoints" / "ift"
    shutil.copytree(
        folder / "resume" / "checkpoint-6", folder / "resume" / "checkpoint-8"
    )  # cut off while it was saved
    assert last_checkpoint(folder) == folder / "resume" / "checkpoint-6"
    assert not (folder / "resume" / "checkpoint-8").exists()
    older = tmp / "older"
    shutil.copytree(folder, older)
    (older / "resume" / "seals.json").unlink()
    (older / "resume" / "checkpoint-9").mkdir()  # no trainer_state.json, which transformers writes last
    assert last_checkpoint(older) == older / "resume" / "checkpoint-6"
    assert not (older / "resume" / "checkpoint-9").exists()


@pytest.mark.parametrize("name", ["/abs", "../../x", "a/b", ""])
def test_a_name_that_leads_elsewhere_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecipeError, match="name: expected a plain folder name"):
        run(SftRecipe(name=name), tmp_path / "run")
    assert not list(tmp_path.iterdir())
