"""One GRPO step: ours against stock TRL with transformers generation, interleaved in one process.

    python benchmarks/train_step.py                                  # the embedded model, 64 completions
    python benchmarks/train_step.py --model runs/demo/checkpoints/ift --rounds 7
    python benchmarks/train_step.py --long                           # 2,048 tokens, 30 million parameters

Both sides start each round from the same weights and take the same problems, 8 paths each, to the same token limit,
precision, micro-batches, loss (DAPO) and reward: the correctness of the last answer. Stock TRL is `GRPOTrainer` as
documented, without gradient checkpointing (its default, which would only slow it down here). Ours is `train grpo` with
``zero_variance=skip``, which leaves the loss as it is. A round takes a warm-up step and then times one, in alternating
order; figures are medians over rounds, `ratio_vs_trl` the median of the rounds' ratios.

Seconds are split into generation, scoring (grading and advantages), and update (forward, backward, optimizer).
`loss_abs_diff` is between both sides' losses on ONE AND THE SAME rollout, stock TRL's; `gradient_relative_diff` is of
the gradients there, in the training precision; the same in fp32 stands beside them. In bf16 the two round at different
places (ours keeps scores and norms in bf16, TRL's widens them): what fp32 does not show is that rounding.

``--long`` compares an update on long trajectories in place of a whole step: a Qwen-shaped model of random weights, 30
million parameters and 32,000 words, ``--paths`` trajectories of an eighth to all of ``--max-tokens`` (2,048) random
tokens, the same for both; rewards differ. Each side is a process of its own, so that its peak is its own: the most it
had resident beyond what it had before the model was read. Ours runs twice, with the CPU's lean attention (``auto``),
which keeps scores, and with SDPA.
The last line is JSON for machines.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.clock import Clock, two_steps
from selfcorrect.chat import ChatCodec, model_path
from selfcorrect.correction.loop import grade_trajectories
from selfcorrect.correction.parsing import parse_path
from selfcorrect.engines import Sample
from selfcorrect.problems.arithmetic import problems
from selfcorrect.rewards import final_correctness
from selfcorrect.train.common.checkpoints import remove_printer
from selfcorrect.train.common.recipe import use_bf16
from selfcorrect.train.common.stage import quiet_libraries
from selfcorrect.train.grpo import GrpoRecipe, build_trainer
from selfcorrect.train.rl.grpo_trainer import grpo_config
from selfcorrect.train.rl.rollout_function import RolloutFunction, problem_order
from selfcorrect.train.rl.samplers import open_sampler
from selfcorrect.types import Problem

PARTS = ("generation_s", "scoring_s", "update_s")


def recipe_of(arguments: argparse.Namespace) -> GrpoRecipe:
    """Return our settings; stock TRL gets the same through `grpo_config`."""
    return GrpoRecipe(
        model=arguments.model,
        steps=2,
        prompts_per_step=arguments.completions // 8,
        generations=8,
        micro_rows=32,
        max_tokens=arguments.max_tokens,
        zero_variance="skip",
        max_logprob_gap=1.0,  # the canary is tested elsewhere; rounding of bf16 must not end a benchmark
    )


def rollout_function_of(recipe: GrpoRecipe, codec: ChatCodec, chosen: list[Problem]) -> RolloutFunction:
    """Return what our side rolls out with."""
    return RolloutFunction(recipe, codec, chosen, open_sampler("live", codec, recipe.model, recipe.max_batch, {}))


def stock_trainer(recipe: GrpoRecipe, codec: ChatCodec, chosen: list[Problem], folder: Path) -> Any:
    """Return TRL's GRPOTrainer with its own generation and a reward function over completion ids."""
    from datasets import Dataset
    from trl import GRPOTrainer

    rollouts = rollout_function_of(recipe, codec, chosen)

    def reward(prompts: list[str], completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[Any]:
        paths = []
        for prompt, ids in zip(prompts, completion_ids, strict=True):
            ended = bool(ids) and ids[-1] in codec.stop_ids
            kept = tuple(ids[:-1] if ended else ids)
            sample = Sample(kept, (0.0,) * len(kept), "stop" if ended else "length")
            paths.append(parse_path(rollouts.problems[prompt], codec, codec.encode(""), sample, recipe.horizon))
        return [final_correctness(path) for path in grade_trajectories(paths)]

    config = grpo_config(recipe, folder)
    trainer = GRPOTrainer(
        model=model_path(recipe.model),
        reward_funcs=[reward],
        args=config,
        train_dataset=Dataset.from_dict({"prompt": rollouts.prompt_texts}),
        processing_class=codec.tokenizer,
    )
    remove_printer(trainer)
    return trainer


@contextmanager
def sides(
    recipe: GrpoRecipe, codec: ChatCodec, chosen: list[Problem]
) -> Iterator[dict[str, Callable[[], dict[str, float]]]]:
    """Yield the two sides of a round, each from fresh weights."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def ours() -> dict[str, float]:
            rollouts = rollout_function_of(recipe, codec, chosen)
            trainer = build_trainer(recipe, rollouts, folder / "ours")
            remove_printer(trainer)
            clock = Clock(trainer, generates="_generate", scores="step")
            return two_steps(trainer, clock, lambda: float(trainer.scored.figures["rollout_s"]))

        def stock() -> dict[str, float]:
            trainer = stock_trainer(recipe, codec, chosen, folder / "stock")
            clock = Clock(trainer, generates="_generate", scores="_generate_and_score_completions")
            return two_steps(trainer, clock, lambda: clock.seconds["generation_s"])

        yield {"ours": ours, "trl": stock}


def same_loss(recipe: GrpoRecipe, codec: ChatCodec, chosen: list[Problem]) -> tuple[float, float]:
    """Return the difference of the losses, and of the gradients by norm, on a rollout of stock TRL's."""
    with tempfile.TemporaryDirectory() as name:
        stock = stock_trainer(recipe, codec, chosen, Path(name) / "stock")
        rollouts = rollout_function_of(recipe, codec, chosen)
        ours = build_trainer(recipe, rollouts, Path(name) / "ours")
        for trainer in (stock, ours):
            trainer.model.train()
        accumulation = stock.args.gradient_accumulation_steps
        stock.current_gradient_accumulation_steps = ours.current_gradient_accumulation_steps = accumulation
        rewards: list[Any] = []
        scored = stock._calculate_rewards
        stock._calculate_rewards = lambda *args: rewards.append(scored(*args)) or rewards[-1]
        texts = [text for text in rollouts.prompt_texts[: recipe.prompts_per_step] for _ in range(recipe.generations)]
        batch = stock._generate_and_score_completions([{"prompt": text} for text in texts])
        outcomes = rewards[0][:, 0].tolist()

        rows = len(texts) // accumulation
        parts = [slice(start, start + rows) for start in range(0, len(texts), rows)]
        per_row = {key: value for key, value in batch.items() if torch.is_tensor(value) and value.dim()}
        losses = []
        for trainer, micro_batches in (
            (stock, [batch | {key: value[part] for key, value in per_row.items()} for part in parts]),
            (ours, ours.micro_batches(batch, outcomes)),
        ):
            total = 0.0
            for micro in micro_batches:
                with trainer.compute_loss_context_manager():
                    loss = trainer.compute_loss(trainer.model, micro)
                loss.backward()
                total += loss.item()
            losses.append(total)
        gradients = [
            torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])
            for trainer in (stock, ours)
        ]
        distance = (gradients[0] - gradients[1]).norm() / gradients[0].norm().clamp(min=1e-12)
        return abs(losses[0] - losses[1]), distance.item()


def compare_long(paths: int, max_tokens: int, threads: int) -> None:
    """Print seconds and peak memory of an update on long trajectories: ours, ours with SDPA, TRL's."""
    from benchmarks.memory import SIZES, random_model

    sides = {"ours": "auto", "ours_sdpa": "sdpa", "trl": "sdpa"}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        model = random_model(Path(folder) / "model", SIZES["30m"])
        for side, attention in sides.items():
            told = {"side": side, "model": str(model), "attention": attention, "paths": paths}
            told |= {"max_tokens": max_tokens}
            command = [sys.executable, __file__, "--threads", str(threads), "--worker", json.dumps(told)]
            environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "HF_HUB_OFFLINE": "1"}
            done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
            found[side] = json.loads(done.stdout.splitlines()[-1])
            print(side, found[side], flush=True)
    best = min(("ours", "ours_sdpa"), key=lambda side: found[side]["update_cpu_s"])
    ratios = {name: round(found["trl"][name] / found[best][name], 2) for name in ("update_cpu_s", "peak_mb")}
    print(json.dumps({"ratio_vs_trl": ratios, "of": best, "paths": paths, "max_tokens": max_tokens, "sides": found}))


def long_update(side: str, model: str, attention: str, paths: int, max_tokens: int) -> dict[str, float]:
    """Take two steps of one side here; return the second's seconds and the peak of both."""
    from benchmarks.gpu import step
    from benchmarks.memory import peak_mb

    recipe = GrpoRecipe(
        model=model,
        steps=2,
        prompts_per_step=1,
        generations=paths,
        micro_rows=paths,
        max_tokens=max_tokens,
        attention=attention,
        zero_variance="skip",
        max_logprob_gap=1e9,  # the sampler writes random tokens
    )
    with tempfile.TemporaryDirectory() as folder, quiet_libraries():
        before = peak_mb(reset=True)
        took = (step.stock if side == "trl" else step.ours)(recipe, Path(folder))
        peak = peak_mb() - before
    tokens = sum(step.trained_tokens(recipe))
    return {
        "update_s": round(took["update_s"], 1),
        "update_cpu_s": round(took["update_cpu_s"], 1),
        "peak_mb": round(peak),
        "tokens": tokens,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--completions", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, help="of a trajectory: 128, with --long 2048")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--long", action="store_true", help="compare time and memory of an update on long trajectories")
    parser.add_argument("--paths", type=int, default=4, help="trajectories of --long")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.worker:
        print(json.dumps(long_update(**arguments.worker)))
        return
    if arguments.long:
        compare_long(arguments.paths, arguments.max_tokens or 2048, arguments.threads)
        return
    arguments.max_tokens = arguments.max_tokens or 128
    recipe = recipe_of(arguments)
    codec = ChatCodec.load(recipe.model)
    chosen = problem_order(recipe, problems("train", recipe.steps * recipe.prompts_per_step, seed=0))
    measured: dict[str, list[dict[str, float]]] = {"ours": [], "trl": []}
    with quiet_libraries():
        difference, distance = same_loss(recipe, codec, chosen)
        exact_difference, exact_distance = same_loss(replace(recipe, precision="fp32"), codec, chosen)
        for round_ in range(arguments.rounds):
            with sides(recipe, codec, chosen) as both:
                for name in sorted(both, reverse=bool(round_ % 2)):
                    measured[name].append(both[name]())
    median = {
        name: {part: statistics.median(row[part] for row in rows) for part in (*PARTS, "step_s")}
        for name, rows in measured.items()
    }
    ratios = [trl["step_s"] / own["step_s"] for trl, own in zip(measured["trl"], measured["ours"], strict=True)]
    table = Table(
        title=f"seconds of one GRPO step, {arguments.completions} completions, median of {len(ratios)} rounds"
    )
    for column in ("", "generation", "scoring", "update", "step"):
        table.add_column(column, justify="right" if column else "left")
    for name in ("trl", "ours"):
        table.add_row(name, *(f"{median[name][part]:.2f}" for part in (*PARTS, "step_s")))
    console = Console()
    console.print(table)
    figures = {
        "ratio_vs_trl": round(statistics.median(ratios), 2),
        "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
        "loss_abs_diff": difference,
        "gradient_relative_diff": distance,
        "loss_abs_diff_fp32": exact_difference,
        "gradient_relative_diff_fp32": exact_distance,
        "rounds": len(ratios),
        "model": arguments.model,
        "precision": "bf16" if use_bf16(recipe.precision) else "fp32",
        "threads": arguments.threads,
        "seconds": {name: {part: round(value, 3) for part, value in row.items()} for name, row in median.items()},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
