"""GRPO on sharded weights: two FSDP processes against one process, and the hand-over of the weights to the sampler.

    python benchmarks/rl_scale.py                             # two gloo processes on this CPU, the embedded model
    python benchmarks/rl_scale.py --steps 10 --width 1024

Both runs are `train grpo` in fp32 on the same problems, 5 steps of 8 × 8 paths: one process that samples from the live
module, then ``--launch fsdp-cpu`` with ``sampler: replica``. `loss_abs_diff` is the largest difference of a step's
loss; `weights_apart` is the distance of the final weights as a share of the one-process run's update. What the order
of sums alone does to it is `weights_apart_reordered`: one process again, with micro-batches half as long. That the
rest is rounding, too, shows in float64: `weights_apart_float64` is of the same two runs with weights, gradients and
optimizer in it (both sample from a copy in float32, so that they sample the same).

The hand-over is measured on a Llama of random weights, ``--layers`` of ``--width``, sharded over the same processes:
`handover_equal` says whether the sampler's copy has bit for bit the weights that were sharded, `handover_s` is the
median of 5, `peak_extra_mb` the most memory that a process had beyond its shards and the copy (resident set, both
processes' maximum; freed memory is given back at once by MALLOC_MMAP_THRESHOLD_). `layer_mb` and `whole_mb` are what to
compare it with.

`servers_lost` and `paths_lost` are of two processes that sample from two servers (``sampler: servers``; the tests'
stand-in for vLLM, which samples by our engine), one of which is killed in the middle of the second rollout. The
processes note every trajectory that they learn from: `servers_lost` is how often a server was lost, `paths_lost` how
many of the trajectories that the recipe asks for are not among them, `paths` how many are. ``--servers`` measures
nothing else.
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
import threading
import time
from collections import Counter
from dataclasses import replace
from functools import partial, reduce
from operator import or_
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parent.parent))

from selfcorrect.chat import model_path
from selfcorrect.children import selfcorrect_command
from selfcorrect.runs.jsonl import read_jsonl
from selfcorrect.runs.recipes import load_recipe
from selfcorrect.train import grpo
from selfcorrect.train.common.distributed import gathered, process_count, process_rank
from selfcorrect.train.common.launch import EXPECTED, config_path, launch_environment
from selfcorrect.train.common.sharding import shard
from selfcorrect.train.common.weights import hand_over
from selfcorrect.train.data.rows import training_problems
from selfcorrect.train.rl.rollout_function import RolloutFunction, problem_order
from tests.train.rl.weights_server import free_port, serve

SETTINGS = (
    "prompts=null", "problems.source=arithmetic", "problems.count=40", "prompts_per_step=8", "generations=8",
    "micro_rows=8", "max_tokens=120", "precision=fp32", "schedule=constant", "guard.action=ignore",
    "guard.max_turn1_drop=null",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--servers", action="store_true", help="measure what a killed server costs, and nothing else")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--on-servers", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--endpoints", nargs="*", default=(), help=argparse.SUPPRESS)
    parser.add_argument("--float64", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        measure_hand_over(arguments.layers, arguments.width, arguments.worker)
        return
    if arguments.float64:
        train_in_float64(arguments.float64, arguments.steps)
        return
    if arguments.on_servers:
        train_on_servers(arguments.on_servers, arguments.steps, arguments.endpoints)
        return
    if arguments.servers:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps({"processes": 2} | with_a_server_killed(Path(folder), arguments.steps)))
        return
    with tempfile.TemporaryDirectory() as folder:
        one = trained(Path(folder) / "one", arguments.steps)
        two = trained(Path(folder) / "two", arguments.steps, "sampler=replica", "--launch", "fsdp-cpu")
        again = trained(Path(folder) / "reordered", arguments.steps, "micro_rows=4")
        reordered = {"weights_apart_reordered": compared(one, again)["weights_apart"]}
        double = [trained_in_float64(Path(folder) / f"float64-{n}", arguments.steps, n) for n in (1, 2)]
        exact = compared(*double)
        figures = compared(one, two) | reordered
        figures |= {f"{name}_float64": exact[name] for name in ("loss_abs_diff", "weights_apart")}
        figures |= handed_over(Path(folder), arguments.layers, arguments.width)
        figures |= with_a_server_killed(Path(folder), arguments.steps)
    print(json.dumps({"processes": 2} | figures))


def trained(run: Path, steps: int, *more: str) -> Path:
    """Run ``train grpo`` and return its checkpoint folder."""
    words = ["train", "grpo", f"steps={steps}", *SETTINGS, *more, "--run", str(run)]
    started = time.perf_counter()
    subprocess.run(selfcorrect_command(words), check=True, stdout=subprocess.DEVNULL, env=one_thread())
    print(f"{run.name}: {time.perf_counter() - started:.0f} s")
    return run / "checkpoints" / "grpo"


def trained_in_float64(run: Path, steps: int, processes: int) -> Path:
    """Run the same in float64 on so many FSDP processes and return its checkpoint folder."""
    started = time.perf_counter()
    in_processes(processes, ["--float64", str(run), "--steps", str(steps)])
    print(f"{run.name}: {time.perf_counter() - started:.0f} s")
    return run / "checkpoints" / "grpo"


def train_in_float64(run: Path, steps: int) -> None:
    """Train as ``train grpo`` does, but for the dtype of the weights."""
    from selfcorrect.train.rl import grpo_trainer

    load = grpo_trainer.load_model

    def in_float64(model: str, attention: str) -> Any:
        loaded = load(model, attention, "float64")
        for module in loaded.modules():
            if type(module).__name__.endswith("RotaryEmbedding"):
                module.forward = partial(exact_rotary, module)
        return loaded

    grpo_trainer.load_model = in_float64
    grpo.run(load_recipe(grpo.GrpoRecipe, None, [f"steps={steps}", *SETTINGS, "sampler=replica"]), run)


def exact_rotary(module: Any, hidden: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and sines in float64; transformers computes them in float32, whatever the model's dtype.

    A row's positions begin at its padding, which micro-batches decide: rounded angles would set the runs apart.
    """
    angles = position_ids[..., None].double() * module.inv_freq.double()
    both = torch.cat([angles, angles], -1)
    return both.cos() * module.attention_scaling, both.sin() * module.attention_scaling


def with_a_server_killed(folder: Path, steps: int) -> dict[str, int]:
    """Train on two servers, kill one while the second rollout is sampled from it, and return what was lost."""
    run, ports, records = folder / "servers", [free_port(), free_port()], [folder / "first.log", folder / "second.log"]
    servers = [serve("embedded", port, record) for port, record in zip(ports, records, strict=True)]
    killer = threading.Thread(target=kill_in_second_rollout, args=(servers[1], records[1]), daemon=True)
    killer.start()
    started = time.perf_counter()
    try:
        endpoints = [f"http://127.0.0.1:{port}/v1" for port in ports]
        in_processes(2, ["--on-servers", str(run), "--steps", str(steps), "--endpoints", *endpoints])
    finally:
        for server in servers:
            server.kill()
            server.wait()
    killer.join(10)
    print(f"{run.name}: {time.perf_counter() - started:.0f} s")
    noted = json.loads((run / "noted.json").read_text())
    missing = wanted_paths(steps) - Counter(map(tuple, noted["paths"]))
    lost = reduce(or_, map(Counter, noted["lost"]))  # of each server the most that a process counted
    return {"servers_lost": lost.total(), "paths_lost": missing.total(), "paths": len(noted["paths"])}


def wanted_paths(steps: int) -> Counter[tuple[int, str]]:
    """Return how many trajectories the recipe asks for, by the step of the weights that sample them, and problem."""
    recipe = load_recipe(grpo.GrpoRecipe, None, [f"steps={steps}", *SETTINGS])
    order = problem_order(recipe, training_problems(recipe.prompts, recipe.problems, Path(), recipe.model))
    named = [(n // recipe.prompts_per_step, problem.id) for n, problem in enumerate(order)]
    return Counter(named * recipe.generations)


def kill_in_second_rollout(server: subprocess.Popen[bytes], record: Path) -> None:
    """Kill a server once it has answered four requests with the second weights, of the 32 that are its share."""
    while server.poll() is None:
        done = record.read_text().split("weights\n") if record.exists() else []
        if len(done) > 2 and done[2].count("sample") >= 4:
            server.kill()
        time.sleep(0.02)


def train_on_servers(run: Path, steps: int, endpoints: list[str]) -> None:
    """Train as ``train grpo`` does; write down the trajectories that are learned from, and which servers were lost."""
    score = RolloutFunction.score
    paths: list[tuple[int, str]] = []
    lost: dict[str, int] = {}

    def score_and_note(function: Any, sampled: Any) -> Any:
        scored = score(function, sampled)
        paths.extend((sampled.step, one.problem.id) for one in scored.trajectories if one.sampled_tokens)
        lost.update({one.shown: one.counts["lost"] for one in function.sampler._engine.endpoints})
        return scored

    RolloutFunction.score = score_and_note  # type: ignore[method-assign]
    recipe = load_recipe(grpo.GrpoRecipe, None, [f"steps={steps}", *SETTINGS, "sampler=servers"])
    grpo.run(replace(recipe, sampler_options={"endpoints": endpoints, "backoff_s": 0.05}), run)
    noted = {"paths": paths, "lost": gathered([lost])}  # a process scores with the trajectories of all
    if process_rank() == 0:
        (run / "noted.json").write_text(json.dumps(noted))
    torch.distributed.destroy_process_group()


def in_processes(count: int, arguments: list[str], **environment: str) -> None:
    """Run this file on so many processes of torchrun, which shard what they train."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(count), "--standalone"]
    told = one_thread() | launch_environment(config_path("fsdp-cpu")) | {EXPECTED: str(count)} | environment
    subprocess.run([*launcher, __file__, *arguments], check=True, env=told)


def compared(one: Path, two: Path) -> dict[str, float]:
    """Return how far two trainings from the embedded model are apart."""
    losses = [[row["loss"] for row in read_jsonl(folder / "metrics.jsonl")] for folder in (one, two)]
    start, first, second = (load_file(Path(f) / "model.safetensors") for f in (model_path("embedded"), one, two))
    apart = sum(float(((first[name].double() - second[name].double()) ** 2).sum()) for name in first)
    moved = sum(float(((first[name].double() - start[name].double()) ** 2).sum()) for name in first)
    differences = [abs(a - b) for a, b in zip(*losses, strict=True)]
    return {"steps": len(differences), "loss_abs_diff": max(differences), "weights_apart": (apart / moved) ** 0.5}


def handed_over(folder: Path, layers: int, width: int) -> dict[str, Any]:
    """Measure the hand-over in two processes of torchrun."""
    sizes = ["--layers", str(layers), "--width", str(width)]
    in_processes(2, [*sizes, "--worker", str(folder / "hand-over.json")], MALLOC_MMAP_THRESHOLD_="65536")
    found: dict[str, Any] = json.loads((folder / "hand-over.json").read_text())
    return found


def measure_hand_over(layers: int, width: int, result: Path) -> None:
    """Shard a model, hand its weights to a copy, and write what that took."""
    process_count()  # opens the process group
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4 * width, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=8, tie_word_embeddings=True,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config)
    start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    shard(model)
    copy: Any = LlamaForCausalLM(config)
    for weight in copy.parameters():
        weight.data.zero_()
    before = peak_mb(reset=True)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        hand_over(model, copy)
        seconds.append(time.perf_counter() - started)
    extra = max(gathered([peak_mb() - before]))
    equal = all(gathered([all(torch.equal(start[name], weight) for name, weight in copy.named_parameters())]))
    if process_rank() == 0:
        figures = {
            "handover_equal": equal,
            "handover_s": round(statistics.median(seconds), 3),
            "peak_extra_mb": round(extra, 1),
            "layer_mb": round(sum(p.numel() for p in copy.model.layers[0].parameters()) * 4 / 1e6, 1),
            "whole_mb": round(sum(p.numel() for p in copy.parameters()) * 4 / 1e6, 1),
        }
        result.write_text(json.dumps(figures))
    torch.distributed.destroy_process_group()


def peak_mb(reset: bool = False) -> float:
    """Return the most memory that this process had resident since the last reset; Linux."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def one_thread() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


if __name__ == "__main__":
    main()
