"""What each of two processes of FSDP or ZeRO-3 does for test_sharding.py, which starts them with a folder of jobs.

Reads ``FOLDER/jobs.json``, a list of ``{program, recipe, run, die_at}``, and runs one after the other in one process
group; ``die_at`` is a step at which the training is broken off. ``program`` "weights" measures the gathering.
"""

from __future__ import annotations

import json
import math
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.trainer_callback import CallbackHandler

from selfcorrect.runs.recipes import load_recipe
from selfcorrect.train import dpo, grpo, orm, ppo, sft
from selfcorrect.train.common.distributed import process_count, process_rank, zero3_asked
from selfcorrect.train.common.finite import largest
from selfcorrect.train.common.sharding import shard
from selfcorrect.train.common.weights import hand_over, holds_parts, local_part, policy_weights, put

PROGRAMS: dict[str, Any] = {
    "sft": (sft.SftRecipe, sft.run),
    "dpo": (dpo.DpoRecipe, dpo.run),
    "orm": (orm.OrmRecipe, orm.run),
    "grpo": (grpo.GrpoRecipe, grpo.run),
    "ppo": (ppo.PpoRecipe, ppo.run),
}


class Broken(Exception):
    """Raised where a job is to die."""


def train(job: dict[str, Any]) -> None:
    """Run a program, or run it until ``die_at``."""
    schema, run = PROGRAMS[job["program"]]
    recipe = load_recipe(schema, Path(job["recipe"]))
    report = CallbackHandler.on_log

    def die(self: Any, args: Any, state: Any, *more: Any) -> Any:
        if state.global_step == job["die_at"]:
            raise Broken
        return report(self, args, state, *more)

    if job["die_at"]:
        CallbackHandler.on_log = die
    try:
        run(recipe, Path(job["run"]))
    except Broken:
        return
    finally:
        CallbackHandler.on_log = report


def weights(folder: Path) -> None:
    """Shard a model of several layers; compare what is gathered, and what that takes, with the whole."""
    sizes: dict[str, Any] = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8}
    config = LlamaConfig(vocab_size=2000, num_attention_heads=4, tie_word_embeddings=True, **sizes)
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(config)
    start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    model.value_model = torch.nn.Linear(4, 4)  # as PPO's, which is no part of the policy
    if zero3_asked():
        import deepspeed

        settings = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}}
        deepspeed.init_distributed("gloo")
        deepspeed.zero.Init(module=model, config_dict_or_path=settings)
    else:
        shard(model)
    local = sum(local_part(p).numel() for p in model.parameters())
    copy = LlamaForCausalLM(config)
    before = peak_mb(reset=True)
    hand_over(model, copy)
    peak = peak_mb() - before
    same = all(torch.equal(weight, start[name]) for name, weight in copy.named_parameters())
    in_bf16 = {name: weight.clone() for name, weight in policy_weights(model, torch.bfloat16)}
    rounded = all(torch.equal(weight, start[name].bfloat16()) for name, weight in in_bf16.items())
    changed = {name: weight + 1 for name, weight in start.items()}
    values = {f"value_model.{name}": p for name, p in torch.nn.Linear(4, 4).named_parameters()}
    put(model, changed | values)
    hand_over(model, copy)
    largest_found = largest(model.parameters())
    put_back = all(torch.equal(weight, changed[name]) for name, weight in copy.named_parameters())
    changed["model.norm.weight"][-1] = math.nan
    put(model, changed | values)
    found = {
        "sharded": holds_parts(model),
        "local_share": local / sum(weight.numel() for weight in start.values()),
        "same": same,
        "put_back": put_back,
        "finite": largest_found == max(float(weight.abs().max()) for weight in (*changed.values(), *values.values())),
        "finds_nan": math.isnan(largest(model.parameters())),
        "rounded": rounded,
        "names": list(in_bf16) == list(start),
        "peak_mb": peak,
        "whole_mb": sum(weight.numel() for weight in start.values()) * 4 / 1e6,
        "layer_mb": sum(p.numel() for p in copy.model.layers[0].parameters()) * 4 / 1e6,
        "processes": process_count(),
    }
    (folder / f"weights-{process_rank()}.json").write_text(json.dumps(found))


def peak_mb(reset: bool = False) -> float:
    """Return the most memory that the process had resident since the last reset; resets to what it has now."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    here = Path(sys.argv[1])
    for each in json.loads((here / "jobs.json").read_text()):
        if each["program"] == "weights":
            process_count()
            weights(here)
        else:
            try:
                train(each)
            except Exception:  # noqa: BLE001 - the other cases go on; the test of this one shows it
                Path(each["run"], f"failed-{process_rank()}.txt").write_text(traceback.format_exc())
    torch.distributed.destroy_process_group()
