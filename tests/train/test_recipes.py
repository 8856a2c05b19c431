"""Every shipped training recipe is a valid recipe of its program, and TRL takes its settings."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

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


SAMPLING = [
    path
    for folder in ("data_gen", "eval", "train")
    for path in sorted((Path(__file__).parents[2] / folder / "recipes").glob("*.yaml"))
]
ROOM = 512  # for the question, in tokens


@pytest.mark.parametrize("path", SAMPLING, ids=lambda path: f"{path.parts[-3]}/{path.stem}")
def test_what_is_sampled_fits_the_context_of_its_model(path: Path) -> None:
    """Of a prompt that leaves no room nothing is sampled; Qwen2.5-Math-7B's recipes asked for its whole context."""
    recipe = yaml.safe_load(path.read_text())
    if path.stem.endswith(("-sft", "-orm")) or "max_tokens" not in recipe:
        return  # lengths of rows that are there
    models = json.loads(files("selfcorrect.train.common").joinpath("models.json").read_text())
    size = models.get(recipe.get("model") or recipe["engine"]["model"])
    if size:
        assert recipe["max_tokens"] + ROOM <= size["max_position_embeddings"]
