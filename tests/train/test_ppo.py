"""PPO: its algebra against plain float64 loops, and the program through its real entry point on the guesser."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from selfcorrect.errors import RecipeError
from selfcorrect.runs.recipes import load_recipe, to_values
from selfcorrect.train import ppo
from selfcorrect.train.grpo import GrpoRecipe
from selfcorrect.train.ppo import PpoRecipe
from selfcorrect.train.rl.advantages import gae, whiten
from selfcorrect.train.rl.ppo_trainer import value_errors
from selfcorrect.train.rl.recipe import RlRecipe
from selfcorrect.train.rl.rollout_function import RolloutFunction
from selfcorrect.train.rl.scored_rollout import ScoredRollout
from tests.train.conftest import rollout_function_of

MASK = torch.tensor([[1, 1, 0, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1], [0, 1, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]])


def loops(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """A_t = sum over l of (gamma lam)^l delta_(t+l), on one path without the masked tokens."""
    deltas = [r + gamma * after - v for r, v, after in zip(rewards, values, [*values[1:], 0.0], strict=True)]
    return [sum((gamma * lam) ** step * delta for step, delta in enumerate(deltas[t:])) for t in range(len(deltas))]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (1.0, 0.95), (0.9, 0.5), (1.0, 0.0)])
def test_gae_steps_from_one_token_of_the_policy_to_the_next(gamma: float, lam: float) -> None:
    generator = torch.Generator().manual_seed(0)
    rewards, values = (torch.randn(4, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    advantages, returns = gae(rewards * MASK, values, MASK, gamma, lam)
    for row in range(4):
        steps = [t for t in range(7) if MASK[row, t]]
        expected = loops([rewards[row, t].item() for t in steps], [values[row, t].item() for t in steps], gamma, lam)
        assert advantages[row, steps].tolist() == pytest.approx(expected, abs=1e-12)
        assert returns[row, steps].tolist() == pytest.approx(
            [a + values[row, t].item() for a, t in zip(expected, steps, strict=True)], abs=1e-12
        )
    assert (advantages[MASK == 0] == 0).all()
    assert (returns[MASK == 0] == 0).all()


def test_whitening_is_over_learned_tokens_alone() -> None:
    values = torch.randn(4, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 2
    white = whiten(values, MASK)
    assert (white[MASK == 0] == 0).all()
    learned = white[MASK == 1]
    assert learned.mean().item() == pytest.approx(0, abs=1e-12)
    assert learned.std(correction=0).item() == pytest.approx(1, abs=1e-6)


def test_the_clipped_value_loss_takes_the_larger_error() -> None:
    values, old, returns = (
        torch.tensor([[1.0, 1.0, 0.1]]),
        torch.tensor([[0.0, 0.0, 0.0]]),
        torch.tensor([[2.0, 0.0, 1.0]]),
    )
    errors = value_errors(values, old, returns, clip=0.2)
    assert errors[0].tolist() == pytest.approx([0.5 * 1.8**2, 0.5 * 1.0**2, 0.5 * 0.9**2])
    assert value_errors(values, old, returns, clip=float("inf"))[0, 0].item() == pytest.approx(0.5)


@pytest.fixture
def ppo_recipe(recipe: GrpoRecipe) -> PpoRecipe:
    shared = {field.name: getattr(recipe, field.name) for field in fields(RlRecipe)}
    own = {"name": "ppo", "updates": 2, "beta": 0.05, "generations": 4, "lam": 0.95}
    return PpoRecipe(**(shared | own), value_learning_rate=3e-3)


@pytest.fixture
def built(ppo_recipe: PpoRecipe, tmp_path: Path) -> Any:
    rollout_function = rollout_function_of(ppo_recipe)
    trainer = ppo.build_trainer(ppo_recipe, rollout_function, tmp_path)
    trainer.model.train()
    return trainer, rollout_function


def weighed(trainer: Any, rollout_function: RolloutFunction) -> tuple[ScoredRollout, dict[str, torch.Tensor]]:
    prompts = [text for text in rollout_function.prompt_texts[:3] for _ in range(4)]
    scored = rollout_function.score(rollout_function.roll_out(prompts, trainer.model, 0))
    batch: dict[str, torch.Tensor] = trainer.tensors(prompts, scored)
    return scored, batch | trainer.weigh(scored, batch)


def test_a_rollouts_advantages_are_those_of_the_equations(built: Any) -> None:
    trainer, rollout_function = built
    with torch.no_grad():  # a value model that says something, and a policy off its reference
        trainer.model.value_model.head.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
        for parameter in trainer.ref_model.parameters():
            parameter.mul_(1.02)
    scored, batch = weighed(trainer, rollout_function)
    mask = batch["completion_mask"] * batch["tool_mask"]
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    with torch.no_grad():
        reference, _, _ = trainer._get_per_token_logps_and_entropies(trainer.ref_model, ids, attention, mask.shape[1])
    plain, gaps = [], []
    for row, rollout in enumerate(scored.rollouts):
        steps = [t for t in range(mask.shape[1]) if mask[row, t]]
        gaps.append([rollout.logprobs[t] - reference[row, t].item() for t in steps])
        rewards = [-0.05 * gap for gap in gaps[-1]]
        rewards[-1] += scored.rewards[row]  # type: ignore[operator]
        values = batch["old_values"][row, steps].tolist()
        plain.append(loops(rewards, values, 1.0, 0.95))
        assert batch["returns"][row, steps].tolist() == pytest.approx(
            [a + v for a, v in zip(plain[-1], values, strict=True)], abs=1e-5
        )
    flat = torch.tensor([value for row in plain for value in row], dtype=torch.float64)
    expected = ((flat - flat.mean()) / flat.std(correction=0)).tolist()
    assert batch["advantages"][mask == 1].tolist() == pytest.approx(expected, abs=1e-4)
    assert trainer.figures["kl"] == pytest.approx(sum(map(sum, gaps)) / int(mask.sum()), abs=1e-5)


def test_the_loss_is_policy_plus_value_over_all_learned_tokens(built: Any) -> None:
    trainer, rollout_function = built
    scored, batch = weighed(trainer, rollout_function)
    batch["old_per_token_logps"] = batch["old_per_token_logps"] + 0.3 * torch.randn(
        batch["old_per_token_logps"].shape, generator=torch.Generator().manual_seed(0)
    )
    batch["old_values"] = batch["old_values"] - 0.4  # beyond the clip
    trainer.args.steps_per_generation = trainer.args.gradient_accumulation_steps  # all rows in one update
    micro_batches = trainer.micro_batches(batch, scored.outcomes)
    trainer.current_gradient_accumulation_steps = len(micro_batches)
    loss = sum(trainer.compute_loss(trainer.model, micro).item() for micro in micro_batches)
    mask = batch["completion_mask"] * batch["tool_mask"]
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    with torch.no_grad():
        logps, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, attention, mask.shape[1])
        values = trainer._values(ids, attention, mask.shape[1])
    total = 0.0
    for row, column in mask.nonzero().tolist():
        at = (row, column)
        ratio = (logps[at] - batch["old_per_token_logps"][at]).double().exp().item()
        advantage = batch["advantages"][at].item()
        total -= min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
        value, old, target = (x[at].item() for x in (values, batch["old_values"], batch["returns"]))
        clipped = old + min(max(value - old, -0.2), 0.2)
        total += 0.5 * 0.5 * max((value - target) ** 2, (clipped - target) ** 2)
    assert loss == pytest.approx(total / int(mask.sum()), abs=1e-6)


def test_smoke_run_learns_the_right_guess_and_saves_the_policy_alone(ppo_recipe: PpoRecipe, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    recipe = replace(ppo_recipe, steps=6, generations=16, micro_rows=16, learning_rate=2e-3, beta=0.0)
    summary = ppo.run(recipe, tmp_path)
    lines = (tmp_path / "checkpoints/ppo/metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 12
    assert {"value_loss", "explained_variance", "kl", "turn1", "reward/correctness"} <= rows[0].keys()
    assert rows[-1]["value_loss"] < rows[0]["value_loss"]
    assert summary["last"]["turn1"] > summary["first"]["turn1"] + 5
    card = (tmp_path / "checkpoints/ppo/README.md").read_text(encoding="utf-8")
    assert "`data/prompts.jsonl`: 6 rows, blake2b " in card
    assert "by `selfcorrect train ppo`" in card
    assert "value_learning_rate: 0.003" in card
    names = load_file(tmp_path / "checkpoints/ppo/model.safetensors").keys()
    assert names == load_file(Path(recipe.model) / "model.safetensors").keys()


@pytest.mark.parametrize("critic", ["separate", "head"])
def test_interrupted_equals_uninterrupted(ppo_recipe: PpoRecipe, tmp_path: Path, killed_at: Any, critic: Any) -> None:
    import shutil

    recipe = replace(ppo_recipe, steps=3, save_every=1, critic=critic)
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    for folder in (whole, torn):
        shutil.copytree(tmp_path / "data", folder / "data")
    ppo.run(recipe, whole)

    with killed_at(4):
        ppo.run(recipe, torn)
    ppo.run(recipe, torn)
    weights = [(folder / "checkpoints/ppo/model.safetensors").read_bytes() for folder in (whole, torn)]
    assert weights[0] == weights[1]


def test_settings_of_groups_are_refused() -> None:
    with pytest.raises(RecipeError, match="zero_variance belongs to GRPO's groups; under PPO it is 'keep'"):
        load_recipe(PpoRecipe, None, ["zero_variance=drop"])
    with pytest.raises(RecipeError, match="credit belongs to GRPO's groups; under PPO it is 'path'"):
        load_recipe(PpoRecipe, None, ["credit=turn"])
    with pytest.raises(RecipeError, match="lam is between 0 and 1"):
        PpoRecipe(lam=1.5)


def test_a_recipe_of_version_0_1_is_the_same_recipe(tmp_path: Path) -> None:
    """Which wrote GRPO's keys into every recipe of PPO, with the one value that each could have."""
    old = {"loss_type": "dapo", "scale_rewards": None, "zero_variance": "keep", "published": True, "credit": "path"}
    old |= {"turn_discount": 0.0, "normalise": "path"}
    (tmp_path / "recipe.yaml").write_text(json.dumps(to_values(PpoRecipe(lam=0.9)) | old), encoding="utf-8")
    assert load_recipe(PpoRecipe, tmp_path / "recipe.yaml") == PpoRecipe(lam=0.9)


def test_each_program_adds_to_what_both_have_and_takes_nothing_away() -> None:
    shared, grpo, ppo = ({field.name for field in fields(schema)} for schema in (RlRecipe, GrpoRecipe, PpoRecipe))
    assert shared == grpo & ppo
    assert {"loss_type", "credit", "zero_variance"} <= grpo - ppo
    assert {"critic", "lam"} <= ppo - grpo
