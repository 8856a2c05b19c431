"""What the steps of a plan take: seconds and disk on a CPU as measured, GPU hours of a large model by arithmetic.

**Embedded model.** Seconds of one process with one thread on one idle core (2 cores of an Intel Xeon with AVX-512), by
program; an evaluation by its trajectories. A busy or slower machine takes longer in proportion.

**SmolLM2-135M.** Seconds of the one run of docs/smollm.md (2026-11-27, both cores of the same machine, shared with
tests), by recipe, as its steps of training differ eightfold; GRPO by the first of its 8 steps. An evaluation took 0.37 s
a trajectory of the IFT model, 0.54 s with intrinsic self-correction and 1.16 s asked for each part: the mean is taken.

**Large models.** From the numbers of each step's recipe: tokens sampled and tokens trained on, at `MEAN_TOKENS` of each
sampled part, `SAMPLED_A_SECOND` of one GPU and `FLOPS` in training (6 operations a parameter and token, 8 where layers
are recomputed, 2 more for each frozen model). These three are assumptions, not measurements of this toolkit. Disk is 4
bytes a parameter for what a step leaves, and while it trains 12 for each state to resume from: as many as are kept
(two, by RL three) and the one being written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from selfcorrect.shipped import shipped_recipes
from selfcorrect.study.graph import Step

MEAN_TOKENS = 700
SAMPLED_A_SECOND = 3_000.0
FLOPS = 350e12
PARAMETERS = 8e9
TRAJECTORY_TOKENS = 1_500
"""Tokens of a whole trajectory, prompt included, in training."""
ON_CPU = {  # program or recipe: seconds, MB
    "gen": (75.0, 15.0),
    "sft": (80.0, 6.0),
    "orm": (90.0, 6.0),
    "dpo": (160.0, 35.0),
    "grpo": (260.0, 6.0),
    "ppo": (330.0, 6.0),
    "report": (6.0, 0.5),
    "smollm2-worded": (604.0, 0.7),
    "smollm2-worded-start-sft": (2052.0, 517.0),
    "smollm2-worded-drills-sft": (2204.0, 517.0),
    "smollm2-worded-sft": (284.0, 517.0),
    "smollm2-worded-grpo": (1280.0, 517.0),
}
A_TRAJECTORY = {"laptop": (0.028, 0.004), "smollm": (0.69, 0.003)}
BENCHMARK = {"math500": 500, "olympiadbench": 675, "minerva_math": 272, "math": 5000, "gsm8k": 1319, "embedded": 1000}


@dataclass(frozen=True, slots=True)
class Cost:
    """What one step takes: seconds of a core, or hours of a GPU, and GB of disk.

    ``gb`` is what it leaves; ``resume_gb`` comes on top while it trains, for states to resume from.
    """

    seconds: float = 0.0
    gpu_hours: float = 0.0
    gb: float = 0.0
    resume_gb: float = 0.0


def costs(steps: Sequence[Step], scale: str) -> dict[str, Cost]:
    """Return the cost of each step by its name."""
    return {step.name: (_on_gpu(step) if scale == "gpu" else _on_cpu(step, scale)) for step in steps}


def _on_cpu(step: Step, scale: str) -> Cost:
    program, recipe = step.args[1:3] if step.args[0] == "train" else step.args[:2]
    if program == "eval":
        seconds, mb = A_TRAJECTORY[scale]
        return Cost(seconds=seconds * _trajectories(step), gb=mb * _trajectories(step) / 1e3)
    seconds, mb = ON_CPU.get(recipe) or ON_CPU[program]
    return Cost(seconds=seconds, gb=mb / 1e3)


def _on_gpu(step: Step) -> Cost:
    program = step.args[1] if step.args[0] == "train" else step.args[0]
    if program == "report":
        return Cost(seconds=6.0)
    values = settings_of(step)
    weights, state = 4 * PARAMETERS / 1e9, 12 * PARAMETERS / 1e9
    if program == "eval":
        tokens = _trajectories(step) * MEAN_TOKENS * 1.7  # attempt, self-evaluation and the share that is revised
        return _gpu(sampled=tokens, gb=tokens * 17 / 1e9)
    if program == "gen":
        rows = sum(quota or 0 for quota in [*values["quota"].values(), *values.get("preferences", {}).values()])
        tried = values["problems"]["count"] * values["attempts"] * (1.0 if values["schedule"] == "fixed" else 0.15)
        tokens = MEAN_TOKENS * (tried + 10 * rows)
        return _gpu(sampled=tokens, gb=tokens * 17 / 1e9)
    if program in ("sft", "orm"):
        rows = 32_000 * (values.get("stop_after_epochs") or values["epochs"])
        states = min(3, values["epochs"]) if program == "orm" else 3  # saved at the end of each epoch
        return _gpu(trained=rows * TRAJECTORY_TOKENS, gb=weights, resume_gb=states * state)
    if program == "dpo":
        paths = (
            values["problems_per_iteration"] * values["generations"] * values["iterations"]
            if not values["pairs"]
            else 0
        )
        pairs = values["problems_per_iteration"] * values["iterations"] / 2 if not values["pairs"] else 30_000
        tokens = 2 * pairs * TRAJECTORY_TOKENS * values["epochs"]
        models = 1 if values["pairs"] else 1 + values["iterations"]  # each iteration's, and the best once more
        return _gpu(paths * TRAJECTORY_TOKENS, tokens, frozen=1, gb=weights * models, resume_gb=3 * state)
    paths = values["steps"] * values["prompts_per_step"] * values["generations"] * values["passes"]
    models = 2 if program == "ppo" else 1
    guard = values["steps"] * values["prompts_per_step"]
    sampled, trained = (paths + guard) * MEAN_TOKENS * 1.7, models * paths * TRAJECTORY_TOKENS
    return _gpu(sampled, trained, frozen=1, gb=weights, resume_gb=4 * state * models)


def _gpu(sampled: float = 0.0, trained: float = 0.0, frozen: int = 0, gb: float = 0.0, resume_gb: float = 0.0) -> Cost:
    sampling_s = sampled / SAMPLED_A_SECOND
    training_s = trained * PARAMETERS * (8 + 2 * frozen) / FLOPS
    return Cost(gpu_hours=(sampling_s + training_s) / 3600, gb=gb, resume_gb=resume_gb)


def _trajectories(step: Step) -> int:
    values = settings_of(step)
    count = values["problems"].get("count") or BENCHMARK.get(step.args[1], 1000)
    return int(count) * len(values.get("seeds") or [0])


def settings_of(step: Step) -> dict[str, Any]:
    """Return the settings of a stage's step as its recipe and overrides have them, unchecked and without defaults."""
    folder = {"gen": "data_gen"}.get(step.args[0], step.args[0])
    words = [word for word in step.args[1:] if word not in ("calibrate", "run")]
    name = words[1] if step.args[0] == "train" else words[0]
    values: dict[str, Any] = yaml.safe_load(shipped_recipes(folder)[name].read_text(encoding="utf-8"))
    for word in words:
        key, equals, text = word.partition("=")
        if equals and not word.startswith("-"):
            _put(values, key.split("."), yaml.safe_load(text))
    return values


def _put(values: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    for key in keys[:-1]:
        if not isinstance(values.get(key), dict):
            values[key] = {}
        values = values[key]
    if isinstance(value, Mapping) and isinstance(values.get(keys[-1]), dict):
        value = values[keys[-1]] | dict(value)
    values[keys[-1]] = value
