"""GRPO through its real entry point on a minuscule model that guesses; the update's algebra against stock TRL."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.chat import ChatCodec
from selfcorrect.correction.parsing import parse_path
from selfcorrect.engines import Sample
from selfcorrect.errors import GuardError, RecipeError
from selfcorrect.metrics import is_correct
from selfcorrect.prompts import solve_messages
from selfcorrect.train.grpo import GrpoRecipe, build_trainer, run
from selfcorrect.train.rl import program
from selfcorrect.train.rl.grpo_trainer import grpo_config
from selfcorrect.train.rl.guards import GuardRecipe
from selfcorrect.train.rl.rollout_function import RolloutFunction, SampledRollout, problem_order
from selfcorrect.train.rl.rollouts import long_cot_rollout, with_stop
from selfcorrect.train.rl.scored_rollout import ScoredRollout
from selfcorrect.types import Trajectory, Verdict
from tests.train.conftest import PROBLEMS, Stale, rollout_function_of, timeless


def metrics_of(run_folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_folder / "checkpoints/grpo/metrics.jsonl").read_text().splitlines()]


def test_smoke_run_learns_the_right_guess(recipe: GrpoRecipe, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    recipe = replace(recipe, steps=8, generations=16, micro_rows=16, learning_rate=2e-3, beta=0.01)
    summary = run(recipe, tmp_path)
    rows = metrics_of(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert {"turn1", "final", "delta", "i2c", "c2i", "rm_C", "rm_W", "verdict_rate", "mean_length"} <= rows[0].keys()
    assert {"truncated", "kl", "zero_variance", "reward", "logprob_gap", "loss", "used_rows"} <= rows[0].keys()
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert rows[-1]["kl"] > 1e-3
    assert max(row["logprob_gap_max"] for row in rows) < 1e-3
    assert summary["last"]["turn1"] > summary["first"]["turn1"] + 5
    AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoints" / "grpo")
    assert run(recipe, tmp_path) == summary


def test_interrupted_equals_uninterrupted(recipe: GrpoRecipe, tmp_path: Path, killed_at: Any) -> None:
    import shutil

    recipe = replace(recipe, steps=5, save_every=2, warmup=0.4, schedule="cosine")
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    for folder in (whole, torn):
        shutil.copytree(tmp_path / "data", folder / "data")
    run(recipe, whole)

    with killed_at(4):
        run(recipe, torn)
    run(recipe, torn)
    assert [timeless(row) for row in metrics_of(torn)] == [timeless(row) for row in metrics_of(whole)]
    weights = [(folder / "checkpoints/grpo/model.safetensors").read_bytes() for folder in (whole, torn)]
    assert weights[0] == weights[1]


def test_guard_stops_and_returns_the_last_healthy_weights(recipe: GrpoRecipe, tmp_path: Path) -> None:
    """The guesser always judges itself correct, right or wrong: that is what the guard finds and saves."""
    summary = run(replace(recipe, guard=GuardRecipe(action="stop", window=1, min_observed=1)), tmp_path)
    assert summary["stopped_by"] == "always-correct: only 0.0% of wrong attempts are judged wrong"
    assert summary["result_step"] == 0
    (row,) = metrics_of(tmp_path)
    lines = (tmp_path / "checkpoints/grpo/guard-samples.jsonl").read_text(encoding="utf-8").splitlines()
    saved = [Trajectory.from_json(json.loads(line)["path"]) for line in lines]
    assert len(saved) == round(12 * (100 - row["turn1"]) / 100)
    assert all(path.evaluations[0].verdict is Verdict.CORRECT and not is_correct(path.first) for path in saved)
    start = (Path(recipe.model) / "model.safetensors").read_bytes()
    assert (tmp_path / "checkpoints/grpo/model.safetensors").read_bytes() == start


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant_with_warmup"])
def test_every_update_has_a_learning_rate(recipe: GrpoRecipe, tmp_path: Path, schedule: str) -> None:
    """transformers' warm-up begins at 0, and a rollout of which nothing is learned is lost."""
    recipe = replace(recipe, steps=10, warmup=0.3, schedule=schedule)
    trainer = build_trainer(recipe, rollout_function_of(recipe), tmp_path)
    trainer.create_optimizer()
    scheduler, rates = trainer.create_scheduler(10), []
    for _ in range(10):
        rates.append(trainer.optimizer.param_groups[0]["lr"] / recipe.learning_rate)
        trainer.optimizer.step()
        scheduler.step()
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert all(rate > 0.01 for rate in rates)


def test_without_a_warm_up_the_schedule_is_transformers_own(recipe: GrpoRecipe, tmp_path: Path) -> None:
    recipe = replace(recipe, steps=10, warmup=0.0, schedule="linear")
    trainer = build_trainer(recipe, rollout_function_of(recipe), tmp_path)
    trainer.create_optimizer()
    scheduler = trainer.create_scheduler(10)
    assert set(scheduler.get_last_lr()) == {recipe.learning_rate}
    trainer.optimizer.step()
    scheduler.step()
    assert scheduler.get_last_lr()[0] == pytest.approx(0.9 * recipe.learning_rate)


class Paying(RolloutFunction):
    """A rollout function that pays what it was told, whatever the grader says."""

    paid: tuple[float | None, ...] = ()

    def score(self, sampled: SampledRollout) -> ScoredRollout:
        return replace(super().score(sampled), rewards=self.paid, outcomes=self.paid)


def paying(recipe: GrpoRecipe, paid: list[float | None], sampler: Any = None) -> Paying:
    plain = rollout_function_of(recipe, sampler=sampler)
    made = Paying(recipe, plain.codec, problem_order(recipe, PROBLEMS), plain.sampler)
    made.paid = tuple(paid)
    return made


def test_a_sample_without_reward_is_out_of_the_update_and_of_its_groups_mean(
    recipe: GrpoRecipe, tmp_path: Path
) -> None:
    paid = [1.0, 0.0, 0.0, 1.0] + [None, 1.0, 0.0, 1.0] + [1.0, None, 1.0, 1.0]  # the grader failed on two
    rollout_function = paying(recipe, paid)
    trainer = build_trainer(recipe, rollout_function, tmp_path)
    trainer.model.train()
    micros = program.step(rollout_function, trainer, [p for p in rollout_function.prompt_texts[:3] for _ in range(4)])
    mean, deviation = 2 / 3, math.sqrt(1 / 3)  # of the three rewards that were given; sample deviation, as TRL's
    expected = [0.0, *((reward - mean) / (deviation + 1e-4) for reward in (1, 0, 1))]
    found = [value for micro in micros if "advantages" in micro for value in micro["advantages"].tolist()]
    even = [(reward - 0.5) / (math.sqrt(1 / 3) + 1e-4) for reward in (1, 0, 0, 1)]
    assert sorted(found) == pytest.approx(sorted(even + expected[1:]), abs=1e-5)
    assert len(found) == trainer.used_rows == 7  # the last group has no variance among the rewards that were given


def test_groups_without_variance_are_found_by_exact_equality() -> None:
    from selfcorrect.train.rl.grpo_trainer import teaches

    rewards = [1.0, 1.0, 0.1 + 0.2, 0.3, None, 1.0, None, None]
    assert teaches(rewards, 2, "drop") == [False, False, True, True, False, False, False, False]
    assert teaches(rewards, 2, "keep") == [True, True, True, True, False, True, False, False]


def test_the_canary_sees_stale_weights(recipe: GrpoRecipe, tiny_model: Path, tmp_path: Path) -> None:
    rollout_function = paying(recipe, [float(place % 2) for place in range(12)], Stale(str(tiny_model)))
    trainer = build_trainer(recipe, rollout_function, tmp_path)
    with pytest.raises(GuardError, match="samples from other weights"):
        trainer.train()


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "bnpo", "dr_grpo", "cispo"])
def test_uneven_micro_batches_give_the_gradient_of_one_batch(
    recipe: GrpoRecipe, tmp_path: Path, loss_type: str
) -> None:
    """Our skipped, sorted, trimmed micro-batches against TRL's own loss on the whole padded batch."""
    import torch
    from trl import GRPOTrainer

    recipe = replace(recipe, loss_type=loss_type, zero_variance="skip")
    trainer = build_trainer(recipe, rollout_function_of(recipe), tmp_path)
    rewards = [1.0, 0.0, 1.0, 1.0] + [1.0] * 4 + [0.0, 0.0, 1.0, 0.0]
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([5, 17, 9, 3, 8, 8, 2, 6, 12, 4, 7, 11])
    prompt_lengths = torch.tensor([6] * 4 + [9] * 4 + [4] * 4)
    columns = torch.arange(20)
    completion_mask = (columns[None] < lengths[:, None]).long()
    group = torch.tensor(rewards).view(3, 4)
    advantages = ((group - group.mean(1, keepdim=True)) / (group.std(1, keepdim=True) + 1e-4)).flatten()
    batch = {
        "prompt_ids": torch.randint(5, 200, (12, 9), generator=generator),
        "prompt_mask": (torch.arange(9)[None] >= 9 - prompt_lengths[:, None]).long(),
        "completion_ids": torch.randint(5, 200, (12, 20), generator=generator),
        "completion_mask": completion_mask,
        "tool_mask": (columns[None] < (lengths[:, None] - 1)).long(),
        "advantages": advantages,
    }
    batch["num_items_in_batch"] = (batch["completion_mask"] * batch["tool_mask"]).sum()

    def gradient() -> torch.Tensor:
        flat = torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])
        trainer.model.zero_grad()
        return flat

    trainer.model.train()
    micro_batches = trainer.micro_batches(batch, rewards)
    assert len(micro_batches) == trainer.args.gradient_accumulation_steps == 3
    trainer.current_gradient_accumulation_steps = 3
    losses = []
    for micro in micro_batches:
        loss = trainer.compute_loss(trainer.model, micro)
        loss.backward()
        losses.append(loss.item())
    ours = gradient()

    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps = 1
    trainer.args.steps_per_generation = 1
    loss = GRPOTrainer._compute_loss(trainer, trainer.model, batch)
    loss.backward()
    assert sum(losses) == pytest.approx(loss.item(), abs=1e-6)
    torch.testing.assert_close(ours, gradient(), rtol=1e-4, atol=1e-6)


def test_only_tokens_up_to_the_stop_decision_are_learned(codec: ChatCodec) -> None:
    problem = PROBLEMS[0]
    opening = codec.opening(solve_messages(problem.question))
    right = codec.encode("\\boxed{3}\n\nok\n[VERIFY] correct.")
    tail = codec.encode("\n\n\\boxed{4}")

    def mask(ids: tuple[int, ...], finish: str) -> list[int]:
        sample = Sample(ids, (0.0,) * len(ids), finish, codec.turn_end if finish == "stop" else None)
        return list(long_cot_rollout(parse_path(problem, codec, opening, sample, horizon=2), sample).learned)

    assert mask(right, "stop") == [1] * (len(right) + 1)
    assert mask(right, "length") == [1] * len(right)
    assert mask(right + tail, "stop") == [1] * len(right) + [0] * (len(tail) + 1)
    assert with_stop(Sample((), (), "stop", 7, -0.5)) == ((7,), (-0.5,))


def test_problem_order_repeats_whole_laps_and_is_fixed_by_the_seed() -> None:
    recipe = GrpoRecipe(steps=5, prompts_per_step=4)
    order = problem_order(recipe, PROBLEMS)
    assert len(order) == 20
    assert sorted(problem.id for problem in order[:6]) == [problem.id for problem in PROBLEMS]
    assert order == problem_order(recipe, PROBLEMS)
    assert order != problem_order(replace(recipe, seed=1), PROBLEMS)


def test_settings_that_would_change_the_sampling_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="'temperature' is fixed here"):
        GrpoRecipe(trainer={"temperature": 0.7})
    with pytest.raises(RecipeError, match='did you mean "entropy_coef"'):
        grpo_config(GrpoRecipe(trainer={"entropy_cof": 0.1}), tmp_path)
    assert grpo_config(GrpoRecipe(trainer={"entropy_coef": 0.1}), tmp_path).entropy_coef == 0.1


def test_tensorboard_keeps_the_measures_of_the_paths(recipe: GrpoRecipe, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(replace(recipe, trainer={"report_to": "tensorboard"}), tmp_path)
    events = EventAccumulator(str(tmp_path / "checkpoints/grpo/tensorboard"))
    events.Reload()
    turn1 = [(event.step, round(event.value, 3)) for event in events.Scalars("train/path/turn1")]
    assert turn1 == [(row["step"], round(row["turn1"], 3)) for row in metrics_of(tmp_path)]
    with pytest.raises(RecipeError, match="pip install trackio"):
        grpo_config(GrpoRecipe(trainer={"report_to": "trackio"}), tmp_path)
