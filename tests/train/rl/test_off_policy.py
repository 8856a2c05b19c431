"""One step off-policy: rollouts are sampled ahead from weights one version behind, and weighed by importance."""

from __future__ import annotations

import json
import math
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from selfcorrect.chat import ChatCodec
from selfcorrect.engines import Sample, SampleRequest, sample_seed
from selfcorrect.errors import DataError, EngineError, GuardError, RecipeError
from selfcorrect.train.grpo import GrpoRecipe, build_trainer, run
from selfcorrect.train.ppo import PpoRecipe
from selfcorrect.train.ppo import run as run_ppo
from selfcorrect.train.rl import off_policy, program
from selfcorrect.train.rl.guards import GuardRecipe
from selfcorrect.train.rl.importance import importance_weights, policy_log_probs
from selfcorrect.train.rl.off_policy import OneStepOffPolicy
from selfcorrect.train.rl.recipe import RlRecipe
from selfcorrect.train.rl.rollout_function import problem_order
from selfcorrect.train.rl.samplers import open_sampler
from selfcorrect.train.rl.variants import VARIANTS
from tests.train.conftest import PROBLEMS, Stale, rollout_function_of, timeless


def metrics_of(run_folder: Path, name: str = "grpo") -> list[dict[str, Any]]:
    lines = (run_folder / "checkpoints" / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture
def ahead(recipe: GrpoRecipe) -> GrpoRecipe:
    return replace(recipe, steps=5, sampler="replica", off_policy=1, save_every=2, zero_variance="keep")


def prepared(tmp_path: Path, name: str) -> Path:
    shutil.copytree(tmp_path / "data", tmp_path / name / "data")
    return tmp_path / name


def one_step_ahead(recipe: GrpoRecipe, sampler: Any = None) -> OneStepOffPolicy:
    codec = ChatCodec.load(recipe.model)
    opened = sampler or open_sampler("replica", codec, recipe.model, recipe.max_batch, {})
    return OneStepOffPolicy(recipe, codec, problem_order(recipe, PROBLEMS), opened)


# --- which weights sample what ----------------------------------------------------------------------------------------


def test_the_first_rollout_is_on_policy_and_each_further_one_a_version_behind(
    ahead: GrpoRecipe, tmp_path: Path
) -> None:
    run(ahead, prepared(tmp_path, "ahead"))
    run(replace(ahead, off_policy=0), prepared(tmp_path, "on"))
    behind, on = metrics_of(tmp_path / "ahead"), metrics_of(tmp_path / "on")
    assert [row["sampled_at"] for row in behind] == [0, 0, 1, 2, 3]
    assert [row["staleness"] for row in behind] == [0, 1, 1, 1, 1]
    assert [row["sampled_at"] for row in on] == [0, 1, 2, 3, 4]
    assert [row["staleness"] for row in on] == [0] * 5
    figures = ("loss", "grad_norm", "entropy", "reward", "sampled_tokens", "logprob_gap", "used_rows")
    assert [behind[0][name] for name in figures] == [on[0][name] for name in figures]
    assert behind[0].get("importance_weight") is None
    assert all(abs(row["importance_weight"] - 1) < 0.1 and row["off_policy_gap"] > 0 for row in behind[1:])
    assert all(row["logprob_gap_max"] < 1e-3 for row in behind)


def test_rollouts_are_those_of_the_weights_that_are_named(ahead: GrpoRecipe, tmp_path: Path) -> None:
    """Sampled again, on-policy, by the weights of that version: the same tokens, log-probabilities and all."""
    rollout_function = one_step_ahead(replace(ahead, learning_rate=1e-2))
    trainer = build_trainer(rollout_function.recipe, rollout_function, tmp_path / "trainer")  # type: ignore[arg-type]
    again: list[Any] = []
    plain = rollout_function_of(replace(ahead, off_policy=0))

    def step(_: Any, prompts: Sequence[str]) -> list[dict[str, Any]]:
        now = trainer.state.global_step
        micro_batches = program.step(rollout_function, trainer, prompts)
        assert trainer.scored is not None
        taken.append(tuple((one.completion_ids, one.logprobs) for one in trainer.scored.rollouts))
        texts = [text for text in plain.prompt_texts[3 * now + 3 : 3 * now + 6] for _ in range(4)]
        if texts:
            plain.sampler.follow(trainer.model)
            problems = [plain.problems[text] for text in texts]
            seeds = plain._seeds(problems, now + 1)
            found = off_policy.roll_out(plain.sampler, plain.codec, problems, seeds, ahead.sampling)
            again.append(tuple((one.completion_ids, one.logprobs) for one in found))
        return micro_batches

    taken: list[Any] = []
    trainer.step = step
    trainer.train()
    assert len(taken) == 5
    assert taken[1:] == again


def test_a_rollout_has_the_seeds_and_problems_that_it_has_on_policy(ahead: GrpoRecipe, tmp_path: Path) -> None:
    asked: list[tuple[str, list[int]]] = []
    sampler = open_sampler("replica", ChatCodec.load(ahead.model), ahead.model, 64, {})

    class Watched:
        context = sampler.context

        def follow(self, model: Any) -> None:
            asked.append(("follow", []))
            sampler.follow(model)

        def sample_many(self, requests: Sequence[SampleRequest]) -> list[Sample]:
            asked.append((threading.current_thread().name, [request.seed for request in requests]))
            return sampler.sample_many(requests)

        def rest(self) -> None:
            """Nothing to free."""

        def close(self) -> None:
            sampler.close()

    recipe = replace(ahead, steps=3)
    rollout_function = one_step_ahead(recipe, Watched())
    trainer = build_trainer(recipe, rollout_function, tmp_path / "trainer")
    trainer.train()
    order = [problem.id for problem in problem_order(recipe, PROBLEMS)]
    seeds = [
        [sample_seed(0, "grpo", step, 0, problem, n) for problem in order[3 * step : 3 * step + 3] for n in range(4)]
        for step in range(3)
    ]
    canary = [[sample_seed(0, "canary", step, place) for place in range(8)] for step in range(2)]
    assert asked[0] == ("follow", [])
    assert asked[1] == ("MainThread", seeds[0])
    assert asked[2:5] == [("follow", []), ("MainThread", canary[0]), ("next rollout", seeds[1])]
    assert asked[5:] == [
        ("follow", []),
        ("MainThread", canary[1]),
        ("next rollout", seeds[2]),
    ]  # and none after the last


def test_several_updates_a_rollout_are_one_version(ahead: GrpoRecipe, tmp_path: Path) -> None:
    run(replace(ahead, steps=3, updates=2, passes=2), prepared(tmp_path, "run"))
    rows = metrics_of(tmp_path / "run")
    assert [row["sampled_at"] for row in rows if "sampled_at" in row] == [0, 0, 4]
    assert [row["staleness"] for row in rows if "staleness" in row] == [0, 4, 4]
    assert len(rows) == 12
    assert {row["logprob_gap"] for row in rows[4:8]} == {rows[4]["logprob_gap"]}  # of the hand-over, in every update


def test_the_records_of_trajectories_name_the_version_of_the_weights(ahead: GrpoRecipe, tmp_path: Path) -> None:
    run(replace(ahead, steps=3, guard=GuardRecipe(window=2, min_observed=1)), prepared(tmp_path, "run"))
    lines = (tmp_path / "run/checkpoints/grpo/guard-samples.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows
    assert {(row["step"], row["sampled_at"]) for row in rows} == {(2, 0), (3, 1)}


def test_sampling_is_hidden_behind_the_update(ahead: GrpoRecipe, tmp_path: Path) -> None:
    """A sampler that takes 0.4 s elsewhere, an update that takes 0.8 s more: the trainer does not wait."""

    class Elsewhere(Stale):
        def sample_many(self, requests: Sequence[SampleRequest]) -> list[Sample]:
            time.sleep(0.4 * (threading.current_thread().name == "next rollout"))
            return super().sample_many(requests)

    recipe = replace(ahead, steps=4, learning_rate=0.0)
    rollout_function = one_step_ahead(recipe, Elsewhere(recipe.model))
    trainer = build_trainer(recipe, rollout_function, tmp_path / "trainer")
    figures = []

    def step(_: Any, prompts: Sequence[str]) -> list[dict[str, Any]]:
        micro_batches = program.step(rollout_function, trainer, prompts)
        assert trainer.scored is not None
        figures.append(trainer.scored.figures)
        time.sleep(0.8)
        return micro_batches

    trainer.step = step
    trainer.train()
    behind = figures[1:]
    assert len(behind) == 3
    assert all(found["rollout_s"] > 0.4 for found in behind)
    assert sum(found["waited_s"] for found in behind) < 0.5 * sum(found["rollout_s"] for found in behind)


# --- importance sampling ----------------------------------------------------------------------------------------------


def test_the_weights_of_tokens_by_hand() -> None:
    policy = torch.tensor([[-1.0, -0.5, -2.0, -3.0]])
    sampler = torch.tensor([[-1.0, -1.5, -1.0, 0.0]])
    weights, log_ratio = importance_weights(policy, sampler, torch.tensor([[1, 1, 1, 0]]), cap=2.0)
    assert weights.tolist() == [pytest.approx([1.0, 2.0, math.exp(-1), 1.0])]  # e is cut to 2, what is masked weighs 1
    assert log_ratio.tolist() == [[0.0, 1.0, -1.0, 0.0]]
    with pytest.raises(GuardError, match="1 of 3 tokens is not finite"):
        importance_weights(policy, torch.tensor([[-1.0, -math.inf, -1.0, 0.0]]), torch.tensor([[1, 1, 1, 0]]), 2.0)
    importance_weights(policy, torch.tensor([[-1.0, -1.0, -1.0, -math.inf]]), torch.tensor([[1, 1, 1, 0]]), 2.0)


@pytest.mark.parametrize("updates", [1, 2])
def test_the_logged_weights_are_those_of_the_two_versions(ahead: GrpoRecipe, tmp_path: Path, updates: int) -> None:
    """One version ahead by a large step: the weights, their mean and the share cut, from the models themselves."""
    recipe = replace(ahead, learning_rate=3e-2, importance_cap=1.05, updates=updates)
    rollout_function = one_step_ahead(recipe)
    trainer = build_trainer(recipe, rollout_function, tmp_path / "trainer")
    checked = []

    def step(_: Any, prompts: Sequence[str]) -> list[dict[str, Any]]:
        micro_batches = program.step(rollout_function, trainer, prompts)
        assert trainer.scored is not None
        if trainer.scored.staleness:
            expected: list[float] = []
            for micro in micro_batches:
                now = policy_log_probs(trainer, micro)
                for row in range(len(now)):
                    for column in range(now.shape[1]):
                        if (micro["completion_mask"] * micro["tool_mask"])[row, column]:
                            sampler = micro["sampling_per_token_logps"][row, column].item()
                            weight = min(math.exp(now[row, column].item() - sampler), 1.05)
                            expected.append(weight)
                            found = micro["importance_sampling_ratio"][row, column].item()
                            assert found == pytest.approx(weight, rel=1e-4)
            clipped = 100 * sum(weight == 1.05 for weight in expected) / len(expected)
            figures = trainer.figures
            assert figures["importance_weight"] == pytest.approx(sum(expected) / len(expected), rel=1e-4)
            assert figures["importance_clipped"] == pytest.approx(clipped)
            checked.append(clipped)
        return micro_batches

    trainer.step = step
    trainer.train()
    assert len(checked) == 4
    assert max(checked) > 5


@pytest.mark.parametrize("loss_type", [name for name in VARIANTS if name != "vespo"])
def test_the_loss_of_a_token_is_multiplied_by_its_weight(ahead: GrpoRecipe, tmp_path: Path, loss_type: str) -> None:
    """TRL applies it: a weight of w everywhere is w times the gradient, under every loss but VESPO."""
    recipe = replace(ahead, loss_type=loss_type, zero_variance=None, off_policy=0, sampler="live")
    rollout_function = rollout_function_of(recipe)
    trainer = build_trainer(recipe, rollout_function, tmp_path)
    trainer.create_optimizer()
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    micros = program.step(rollout_function, trainer, [p for p in rollout_function.prompt_texts[:3] for _ in range(4)])
    micro = next(micro for micro in micros if "completion_ids" in micro)

    def gradient(weight: float | None) -> torch.Tensor:
        inputs = dict(micro)
        if weight is not None:
            inputs["importance_sampling_ratio"] = torch.full(micro["completion_ids"].shape, weight)
        trainer.model.zero_grad()
        trainer.compute_loss(trainer.model, inputs).backward()
        return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])

    plain = gradient(None)
    assert plain.norm() > 0
    assert torch.allclose(gradient(0.25), 0.25 * plain, rtol=1e-4, atol=1e-9)
    assert trainer.use_vllm is False


def test_ppo_and_other_losses_learn_one_step_off_policy(ahead: GrpoRecipe, tmp_path: Path) -> None:
    shared = {field.name: getattr(ahead, field.name) for field in fields(RlRecipe)} | {"name": "ppo", "updates": 2}
    run_ppo(PpoRecipe(**(shared | {"steps": 3})), prepared(tmp_path, "ppo"))
    rows = metrics_of(tmp_path / "ppo", "ppo")
    assert [row["sampled_at"] for row in rows if "sampled_at" in row] == [0, 0, 2]
    assert all(row["explained_variance"] is not None and row["importance_weight"] > 0.9 for row in rows[2:])
    run(replace(ahead, loss_type="vespo", steps=3), prepared(tmp_path, "vespo"))
    assert all(math.isfinite(row["loss"]) for row in metrics_of(tmp_path / "vespo"))


# --- the canary -------------------------------------------------------------------------------------------------------


def test_the_canary_looks_at_every_hand_over(ahead: GrpoRecipe, tmp_path: Path) -> None:
    """A sampler that keeps the first weights: seen where version 1 is handed over, before anything is sampled of it."""

    class Forgetful(Stale):
        sampled = 0

        def sample_many(self, requests: Sequence[SampleRequest]) -> list[Sample]:
            self.sampled += len(requests)
            return super().sample_many(requests)

    sampler = Forgetful(ahead.model)
    rollout_function = one_step_ahead(replace(ahead, learning_rate=3e-2), sampler)
    trainer = build_trainer(rollout_function.recipe, rollout_function, tmp_path / "trainer")  # type: ignore[arg-type]
    with pytest.raises(GuardError, match=r"^step 1: the sampler's log-probabilities differ .*samples from other"):
        trainer.train()
    assert sampler.sampled == 12 + 8 + 12 + 8


# --- a run that is broken off -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_interrupted_equals_uninterrupted(ahead: GrpoRecipe, tmp_path: Path, killed_at: Any, precision: str) -> None:
    ahead = replace(ahead, steps=6, precision=precision, max_logprob_gap=0.05)  # type: ignore[arg-type]
    whole, torn = prepared(tmp_path, "whole"), prepared(tmp_path, "torn")
    run(ahead, whole)
    with killed_at(4):
        run(ahead, torn)
    files = sorted(path.name for path in (torn / "checkpoints/grpo/resume/checkpoint-2").glob("next-rollout*"))
    assert files == ["next-rollout-0.json"]
    run(ahead, torn)
    assert [timeless(row) for row in metrics_of(torn)] == [timeless(row) for row in metrics_of(whole)]
    weights = [(folder / "checkpoints/grpo/model.safetensors").read_bytes() for folder in (whole, torn)]
    assert weights[0] == weights[1]


def test_a_saved_rollout_is_read_back_as_it_was(ahead: GrpoRecipe, tmp_path: Path) -> None:
    rollout_function = one_step_ahead(replace(ahead, format="two-turn"))
    trainer = build_trainer(rollout_function.recipe, rollout_function, tmp_path)  # type: ignore[arg-type]
    rollout_function.sample_next(trainer)
    assert rollout_function._ahead is not None
    sampled = rollout_function._ahead.sampled.result()
    assert sampled.gap is not None
    assert sampled.gap.tokens > 8
    (tmp_path / "checkpoint-1").mkdir()
    rollout_function.save(tmp_path / "checkpoint-1")
    again = one_step_ahead(ahead)
    again.restore(tmp_path / "checkpoint-1")
    assert again._ahead is not None
    assert again._ahead.sampled.result() == sampled
    assert again._ahead.prompt_texts == rollout_function._ahead.prompt_texts
    with pytest.raises(DataError, match=r"^step 1: the rollout that was sampled ahead is of step 1 and of 12 prompts"):
        again.roll_out(again.prompt_texts[:1], None, 1)


def test_a_checkpoint_without_the_rollout_or_of_other_processes_is_refused(ahead: GrpoRecipe, tmp_path: Path) -> None:
    rollout_function = one_step_ahead(ahead)
    checkpoint = tmp_path / "checkpoint-2"
    checkpoint.mkdir()
    with pytest.raises(DataError, match=r"next-rollout-0\.json is not there: with off_policy=1 a checkpoint holds"):
        rollout_function.restore(checkpoint)
    (checkpoint / "next-rollout-0.json").write_text(json.dumps({"processes": 2}))
    with pytest.raises(DataError, match="saved by 2 processes and this run has 1"):
        rollout_function.restore(checkpoint)
    rollout_function.restore(None)
    rollout_function.restore(tmp_path / "checkpoint-5")  # after the last step there is none
    assert rollout_function._ahead is None


def test_what_fails_in_the_thread_is_raised_where_the_rollout_is_taken(ahead: GrpoRecipe, tmp_path: Path) -> None:
    class Failing(Stale):
        def sample_many(self, requests: Sequence[SampleRequest]) -> list[Sample]:
            if threading.current_thread().name == "next rollout":
                raise EngineError("no server is left")
            return super().sample_many(requests)

    rollout_function = one_step_ahead(ahead, Failing(ahead.model))
    trainer = build_trainer(ahead, rollout_function, tmp_path / "trainer")
    with pytest.raises(EngineError, match="no server is left"):
        trainer.train()
    assert trainer.state.global_step == 1


def test_an_end_before_its_time_ends_the_sampling_too(
    ahead: GrpoRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rollout under way is not waited for: the engine is closed under it, between two tokens."""
    from selfcorrect.engines.local.batching import ContinuousBatch

    begun, steps = threading.Event(), []
    one_token = ContinuousBatch.step

    def slow(self: ContinuousBatch) -> Any:
        if threading.current_thread().name == "next rollout":
            begun.set()
            threading.Event().wait(0.2)
            steps.append(1)
        return one_token(self)

    monkeypatch.setattr(ContinuousBatch, "step", slow)
    rollout_function = one_step_ahead(replace(ahead, max_tokens=400))
    trainer = build_trainer(rollout_function.recipe, rollout_function, tmp_path)  # type: ignore[arg-type]
    rollout_function.sample_next(trainer)
    assert begun.wait(30)
    rollout_function.close()
    assert rollout_function._thread is not None
    assert not rollout_function._thread.is_alive()
    assert len(steps) < 5
    assert rollout_function._ahead is not None
    with pytest.raises(EngineError, match="was closed"):
        rollout_function._ahead.sampled.result()


# --- recipes ----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused(recipe: GrpoRecipe) -> None:
    with pytest.raises(RecipeError, match=r"sampler=live samples from those very weights: set sampler=replica"):
        replace(recipe, off_policy=1)
    with pytest.raises(RecipeError, match=r"importance_cap=0\.5: expected 1 or more"):
        replace(recipe, off_policy=1, sampler="replica", importance_cap=0.5)
    with pytest.raises(RecipeError, match="set importance_cap"):
        replace(recipe, off_policy=1, sampler="replica", trainer={"vllm_importance_sampling_mode": "token_mask"})
