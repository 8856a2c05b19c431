"""LoRA by recipe: only adapters learn, rollouts see them, the reference does not, what is saved is what was live."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from selfcorrect.chat import ChatCodec
from selfcorrect.engines.local.engine import TransformersEngine
from selfcorrect.errors import GuardError, RecipeError
from selfcorrect.runs.recipes import load_recipe
from selfcorrect.train import dpo, grpo, ppo, sft
from selfcorrect.train.common.checkpoints import remove_printer
from selfcorrect.train.common.lora import LoraRecipe, unwrapped
from selfcorrect.train.common.memory import model_size
from selfcorrect.train.common.models import load_model, save_model
from selfcorrect.train.data.pairs import Pair, Side
from selfcorrect.train.dpo import DpoRecipe
from selfcorrect.train.grpo import GrpoRecipe, build_trainer
from selfcorrect.train.ppo import PpoRecipe
from selfcorrect.train.rl.guards import GuardRecipe
from selfcorrect.train.rl.recipe import RlRecipe
from selfcorrect.train.rl.rollout_function import RolloutFunction
from selfcorrect.train.sft import SftRecipe
from tests.train.conftest import Stale, rollout_function_of

LORA = LoraRecipe(rank=4, alpha=8)
IDS = torch.tensor([[5, 60, 7, 33, 90, 12, 8]])


def trainer_of(recipe: GrpoRecipe, folder: Path, sampler: Any = None) -> tuple[Any, RolloutFunction]:
    rollout_function = rollout_function_of(recipe, sampler=sampler)
    trainer = build_trainer(recipe, rollout_function, folder)
    trainer.model.train()
    return trainer, rollout_function


def push(model: Any) -> None:
    """Make the update anything but zero."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def logits(model: Any) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return type(model).forward(model, IDS).logits


def test_training_moves_the_targets_by_a_low_rank_and_nothing_else(recipe: GrpoRecipe, tmp_path: Path) -> None:
    """The checkpoint is a whole model: base and update of at most the rank in the linear layers, the rest untouched."""
    grpo.run(replace(recipe, lora=replace(LORA, targets="q_proj,down_proj"), steps=3, learning_rate=1e-2), tmp_path)
    folder = tmp_path / "checkpoints/grpo"
    before, after = (load_file(path / "model.safetensors") for path in (Path(recipe.model), folder))
    assert before.keys() == after.keys()
    moved = {name: after[name] - before[name] for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[-2] for name in moved} == {"q_proj", "down_proj"}
    assert len(moved) == 4
    for change in moved.values():
        singular = torch.linalg.svdvals(change)
        assert singular[LORA.rank - 1] > 1e-5
        assert singular[LORA.rank :].max() < 1e-5 * singular[0] + 1e-7
    assert {path.name for path in (folder / "adapter").iterdir()} >= {"adapter_model.safetensors"}


def test_what_is_saved_is_what_was_live(recipe: GrpoRecipe, tmp_path: Path) -> None:
    trainer, _ = trainer_of(replace(recipe, lora=LORA), tmp_path)
    start = logits(load_model(recipe.model, "eager"))
    push(trainer.model)
    live = logits(unwrapped(trainer.model))
    save_model(trainer, ChatCodec.load(recipe.model), tmp_path / "saved")
    saved = logits(load_model(str(tmp_path / "saved"), "eager"))
    torch.testing.assert_close(saved, live, rtol=0, atol=2e-5)
    assert (live - start).abs().max() > 0.5
    assert not (tmp_path / "saved/adapter_config.json").exists()
    TransformersEngine.load(str(tmp_path / "saved"))


def test_rollouts_sample_from_the_adapted_weights(recipe: GrpoRecipe, tmp_path: Path) -> None:
    trainer, rollouts = trainer_of(replace(recipe, lora=LORA), tmp_path)
    push(trainer.model)
    texts = [text for text in rollouts.prompt_texts[:3] for _ in range(4)]
    sampled = rollouts.roll_out(texts, trainer.model, 0).rollouts
    save = tmp_path / "saved"
    save_model(trainer, rollouts.codec, save)
    merged = load_model(str(save), "eager").eval()
    for rollout in sampled:
        prompt, ids = list(rollout.prompt_ids), list(rollout.completion_ids)
        with torch.no_grad():
            scores = merged(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        expected = scores.gather(1, torch.tensor(ids)[:, None])[:, 0]
        assert list(rollout.logprobs) == pytest.approx(expected.tolist(), abs=1e-3)


def test_the_canary_sees_an_engine_without_the_adapters(recipe: GrpoRecipe, tmp_path: Path) -> None:
    trainer, _ = trainer_of(replace(recipe, lora=LORA, zero_variance="keep"), tmp_path, Stale(recipe.model))
    push(trainer.model)
    with pytest.raises(GuardError, match="samples from other weights"):
        trainer.train()


@pytest.mark.parametrize("program", ["grpo", "ppo"])
def test_the_reference_has_the_adapters_off(recipe: GrpoRecipe, tmp_path: Path, program: str) -> None:
    recipe = replace(recipe, lora=LORA, beta=0.05)
    if program == "grpo":
        trainer, _ = trainer_of(recipe, tmp_path)
    else:
        trainer = ppo.build_trainer(ppo_recipe(recipe), rollout_function_of(ppo_recipe(recipe)), tmp_path)
    assert trainer.ref_model is None
    push(trainer.model)
    found = trainer._reference_log_probs(IDS, torch.ones_like(IDS), 4)
    scores = logits(load_model(recipe.model, "eager"))[0, 2:-1].log_softmax(-1)
    expected = scores.gather(1, IDS[0, 3:, None])[:, 0]
    assert found[0].tolist() == pytest.approx(expected.tolist(), abs=1e-4)
    adapted = trainer._get_per_token_logps_and_entropies(trainer.model, IDS, torch.ones_like(IDS), 4)[0]
    assert (adapted - found).abs().max() > 1e-2


def ppo_recipe(recipe: GrpoRecipe, **own: Any) -> PpoRecipe:
    shared = {field.name: getattr(recipe, field.name) for field in fields(RlRecipe)}
    return PpoRecipe(**(shared | {"name": "ppo", "updates": 2, "beta": 0.05} | own))


@pytest.mark.parametrize("program", ["grpo", "ppo-separate"])
def test_interrupted_equals_uninterrupted(recipe: GrpoRecipe, tmp_path: Path, killed_at: Any, program: str) -> None:
    recipe = replace(recipe, lora=LORA, steps=3, save_every=1, learning_rate=1e-2)
    name, _, critic = program.partition("-")
    if critic:
        recipe = ppo_recipe(recipe, critic=critic, value_learning_rate=1e-2)
    run: Any = {"grpo": grpo.run, "ppo": ppo.run}[name]
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    for folder in (whole, torn):
        shutil.copytree(tmp_path / "data", folder / "data")
    run(recipe, whole)
    with killed_at(3 if name == "grpo" else 5):
        run(recipe, torn)
    run(recipe, torn)
    weights = [(folder / "checkpoints" / name / "model.safetensors").read_bytes() for folder in (whole, torn)]
    assert weights[0] == weights[1]
    assert weights[0] != (Path(recipe.model) / "model.safetensors").read_bytes()


def test_a_stopped_run_returns_the_start_model(recipe: GrpoRecipe, tmp_path: Path) -> None:
    guard = GuardRecipe(action="stop", window=1, min_observed=1)
    summary = grpo.run(replace(recipe, lora=LORA, guard=guard, learning_rate=1e-2), tmp_path)
    assert summary["result_step"] == 0
    start, end = (load_file(path / "model.safetensors") for path in (Path(recipe.model), tmp_path / "checkpoints/grpo"))
    assert all(torch.equal(start[name], end[name]) for name in start)


def test_sft_trains_adapters(guesser: Path, tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(guesser / "data", tmp_path / "data")
    settings: dict[str, Any] = {"epochs": 12, "batch_rows": 12, "precision": "fp32", "learning_rate": 3e-2}
    sft.run(SftRecipe(model=str(tiny_model), lora=LORA, log_every=1, **settings), tmp_path)
    rows = [json.loads(row) for row in (tmp_path / "checkpoints/ift/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < 0.97 * rows[0]["loss"]
    before, after = (load_file(p / "model.safetensors") for p in (tiny_model, tmp_path / "checkpoints/ift"))
    moved = {name.split(".")[-2] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_dpo_measures_from_the_model_without_adapters(recipe: GrpoRecipe, codec: ChatCodec, tmp_path: Path) -> None:
    sides = [tuple(codec.encode(f"2 \\boxed{{{n}}}")) for n in (3, 4)]
    right, wrong = (Side(ids, (0, 0) + (1,) * (len(ids) - 2)) for ids in sides)
    settings = DpoRecipe(model=recipe.model, lora=LORA, batch_pairs=2, precision="fp32", learning_rate=1e-2, epochs=6)
    trainer = dpo.build_trainer(settings, codec, [Pair("a", "P1", right, wrong)] * 2, recipe.model, None, tmp_path)
    remove_printer(trainer)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert losses[-1] < losses[0] - 0.01


def test_the_planner_counts_what_learns(tmp_path: Path) -> None:
    """Rank r on a layer of n inputs and m outputs is r (n + m) parameters."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=1000, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    whole, lora = model_size(str(tmp_path)), model_size(str(tmp_path), LoraRecipe(rank=8))
    a_layer = 2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 128)  # q, o; k, v; gate, up, down
    assert lora.trained == 3 * 8 * a_layer
    assert lora.parameters == whole.parameters + lora.trained
    assert whole.trained == whole.parameters


def test_the_recipe_names_rank_alpha_and_targets(tmp_path: Path) -> None:
    recipe = load_recipe(GrpoRecipe, None, ["lora.rank=8", "lora.targets=q_proj,v_proj"])
    assert recipe.lora == LoraRecipe(8, 32, "q_proj,v_proj")
    assert load_recipe(SftRecipe, None, ["lora={}"]).lora == LoraRecipe()
    with pytest.raises(RecipeError, match="rank is at least 1"):
        load_recipe(GrpoRecipe, None, ["lora.rank=0"])


def test_targets_that_the_model_has_not_are_named(recipe: GrpoRecipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"lora\.targets: .*foo_proj"):
        grpo.run(replace(recipe, lora=LoraRecipe(targets="foo_proj")), tmp_path)
    assert not (tmp_path / "checkpoints" / recipe.name).exists()
