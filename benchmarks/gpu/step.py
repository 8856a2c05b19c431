"""A GRPO update on long trajectories: ours against stock TRL's on the same rollout, a Qwen-shaped model of 0.5 B.

64 trajectories of 256 to 2,048 random tokens, rewards that differ in every group, bf16, DAPO's loss. Both sides get the
same ids through ``rollout_func`` and the same rewards; a round takes a warm-up step and then times one. Both compute
every row: what ours saves here is padding alone. `share` is 6 x parameters x tokens of the rows (no padding counted)
over the update's seconds, as a share of the card's rate in bf16 matrix products.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from benchmarks.clock import Clock, two_steps
from benchmarks.gpu.device import matmul_tflops
from benchmarks.gpu.results import options, peak_gb, record
from benchmarks.gpu.shapes import qwen_half_billion
from selfcorrect.chat import ChatCodec
from selfcorrect.engines import Sample, SampleRequest
from selfcorrect.problems.arithmetic import problems
from selfcorrect.train.common.checkpoints import remove_printer
from selfcorrect.train.common.stage import quiet_libraries
from selfcorrect.train.grpo import GrpoRecipe, build_trainer
from selfcorrect.train.rl.grpo_trainer import grpo_config
from selfcorrect.train.rl.rollout_function import RolloutFunction, SampledRollout, problem_order
from selfcorrect.train.rl.scored_rollout import ScoredRollout


class RandomSampler:
    """Writes random tokens, of a length that the request's seed decides; follows no model."""

    context = 4096

    def __init__(self, longest: int) -> None:
        self.longest = longest

    def follow(self, model: Any) -> None:
        """Look away."""

    def rest(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing is held."""

    def sample_many(self, requests: Sequence[SampleRequest]) -> list[Sample]:
        """Return one sample a request."""
        return [self._sample(np.random.default_rng(request.seed)) for request in requests]

    def _sample(self, draw: np.random.Generator) -> Sample:
        ids = tuple(draw.integers(10, 1000, draw.integers(self.longest // 8, self.longest)).tolist())
        return Sample(ids, (-7.0,) * len(ids), "length")


class PayingByPlace(RolloutFunction):
    """Pays every other trajectory, whatever it says."""

    def score(self, sampled: SampledRollout) -> ScoredRollout:
        """Return the rollout with these rewards."""
        scored = super().score(sampled)
        paid = tuple(float(place % 2) for place in range(len(scored.rewards)))
        return replace(scored, rewards=paid, outcomes=paid)


def rollout_function(recipe: GrpoRecipe) -> PayingByPlace:
    """Return what both sides roll out with."""
    chosen = problem_order(recipe, problems("train", recipe.steps * recipe.prompts_per_step, seed=0))
    return PayingByPlace(recipe, ChatCodec.load(recipe.model), chosen, RandomSampler(recipe.max_tokens))


def ours(recipe: GrpoRecipe, folder: Path) -> dict[str, float]:
    """Return the seconds of our second step."""
    trainer = build_trainer(recipe, rollout_function(recipe), folder)
    remove_printer(trainer)
    clock = Clock(trainer, generates="_generate", scores="step")
    return two_steps(trainer, clock, lambda: float(trainer.scored.figures["rollout_s"]))


def stock(recipe: GrpoRecipe, folder: Path) -> dict[str, float]:
    """Return the seconds of stock TRL's second step."""
    from datasets import Dataset
    from trl import GRPOTrainer

    rollouts = rollout_function(recipe)

    def roll_out(prompts: list[str], trainer: Any) -> dict[str, Any]:
        """Return the ids and log-probabilities; TRL computes all else."""
        columns = rollouts.score(rollouts.roll_out(prompts, trainer.model, trainer.state.global_step)).columns()
        return {name: columns[name] for name in ("prompt_ids", "completion_ids", "logprobs")}

    def reward(completions: list[str], **_: Any) -> list[float]:
        return [float(place % 2) for place in range(len(completions))]

    trainer = GRPOTrainer(
        model=recipe.model,
        reward_funcs=[reward],
        rollout_func=roll_out,
        args=grpo_config(recipe, folder),
        train_dataset=Dataset.from_dict({"prompt": rollouts.prompt_texts}),
        processing_class=rollouts.codec.tokenizer,
    )
    remove_printer(trainer)
    clock = Clock(trainer, generates="_generate", scores="_generate_and_score_completions")
    return two_steps(trainer, clock, lambda: clock.seconds["generation_s"])


def main() -> None:
    """Time both sides in turns; record each round's seconds and peak memory, and the ratio."""
    out, small = options(__doc__)
    with tempfile.TemporaryDirectory() as name, quiet_libraries():
        model = qwen_half_billion(Path(name) / "model", small)
        recipe = GrpoRecipe(
            model=str(model),
            steps=2,
            prompts_per_step=2 if small else 8,
            generations=4 if small else 8,
            micro_rows=4,
            max_tokens=64 if small else 2048,
            zero_variance="skip",
            max_logprob_gap=1e9,  # the sampler writes random tokens
            precision="bf16",
        )
        compare(out, recipe, rounds=1 if small else 3, rate=matmul_tflops(256 if small else 8192, torch.bfloat16))


def compare(out: Path, recipe: GrpoRecipe, rounds: int, rate: float) -> None:
    """Record the rounds of both sides; ``rate`` is the card's, in 10^12 operations a second."""
    sides = {"ours": ours, "trl": stock}
    seconds: dict[str, list[float]] = {"ours": [], "trl": []}
    for round_ in range(rounds):
        for side in sorted(sides, reverse=bool(round_ % 2)):
            peak_gb()
            with tempfile.TemporaryDirectory() as folder:
                took = sides[side](recipe, Path(folder))
            seconds[side].append(took["update_s"])
            record(
                out,
                "step",
                side=side,
                round=round_,
                **took,
                peak_gb=peak_gb(),
                paths=recipe.prompts_per_step * recipe.generations,
            )
            gc.collect()
            torch.cuda.empty_cache()
    ratios = [trl / own for trl, own in zip(seconds["trl"], seconds["ours"], strict=True)]
    parameters = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(recipe.model).parameters())
    tokens = sum(trained_tokens(recipe))
    share = 6 * parameters * tokens / statistics.median(seconds["ours"]) / (rate * 1e12)
    record(
        out, "step", ratio_update=round(statistics.median(ratios), 2), ratios=ratios, parameters=parameters,
        tokens=tokens, share_of_matmul_rate=round(share, 3), matmul_tflops=round(rate, 1),
    )  # fmt: skip


def trained_tokens(recipe: GrpoRecipe) -> list[int]:
    """Return the length of each trajectory of the timed step, its prompt counted."""
    rollouts = rollout_function(recipe)
    texts = rollouts.prompt_texts[recipe.prompts_per_step :]
    sampled = rollouts.roll_out([text for text in texts for _ in range(recipe.generations)], None, 1)
    return [len(rollout.prompt_ids) + len(rollout.completion_ids) for rollout in sampled.rollouts]


if __name__ == "__main__":
    main()
