"""Every shipped training recipe is a valid recipe of its program, and TRL takes its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selfcorrect.runs.recipes import load_recipe
from selfcorrect.train import dpo, grpo, orm, ppo, sft
from selfcorrect.train.embedded.pretrain import PretrainRecipe
from selfcorrect.train.rl.grpo_trainer import grpo_config

FOLDER = Path(grpo.__file__).parent / "recipes"
PROGRAMS: dict[str, tuple[Any, Any]] = {
    "sft": (sft.SftRecipe, sft.sft_config),
    "raft": (sft.SftRecipe, sft.sft_config),
    "raft-plus": (sft.SftRecipe, sft.sft_config),
    "grpo": (grpo.GrpoRecipe, grpo_config),
    "hacked": (grpo.GrpoRecipe, grpo_config),
    "ppo": (ppo.PpoRecipe, grpo_config),
    "dpo": (dpo.DpoRecipe, dpo.dpo_config),
    "mdpo": (dpo.DpoRecipe, dpo.dpo_config),
    "orm": (orm.OrmRecipe, None),
    "pretrain": (PretrainRecipe, None),
}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_recipe_serves_its_program(path: Path, tmp_path: Path) -> None:
    program = max((name for name in PROGRAMS if f"-{name}-" in f"-{path.stem}-"), key=len)
    schema, config = PROGRAMS[program]
    recipe = load_recipe(schema, path)
    if config is not None:
        assert config(recipe, tmp_path).learning_rate == recipe.learning_rate
    assert bool(getattr(recipe, "lora", None)) == path.stem.endswith("-lora")
