"""RL on engines that Ray starts: one is killed in the middle of a rollout, and not a token differs."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from selfcorrect.chat import ChatCodec
from selfcorrect.engines import Sample, SampleRequest, sample_seed
from selfcorrect.engines.local.engine import TransformersEngine
from selfcorrect.errors import RecipeError
from selfcorrect.problems.arithmetic import problems
from selfcorrect.prompts import solve_messages
from selfcorrect.runs.recipes import to_yaml
from selfcorrect.train.common.launch import config_path, launch_environment
from selfcorrect.train.common.models import load_model
from selfcorrect.train.grpo import GrpoRecipe
from selfcorrect.train.rl.guards import GuardRecipe
from selfcorrect.train.rl.samplers import open_sampler
from tests.train.common.test_distributed import ROOT
from tests.train.common.test_killed import logged, start

OPTIONS: dict[str, Any] = {"replicas": 2, "threads": 1, "dtype": "float32"}
STEPS = 8


def test_an_option_that_ray_does_not_take_is_refused(codec: Any) -> None:
    with pytest.raises(RecipeError, match=r"sampler_options: 'replika' is not known .*did you mean \"replica\""):
        open_sampler("servers", codec, "embedded", 8, {"replicas": 2, "replika": "vllm"})


@pytest.mark.slow
def test_a_replica_killed_in_a_rollout_loses_no_trajectory_and_comes_back_with_the_weights() -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed: make test-engines")
    codec = ChatCodec.load("embedded")
    model: Any = load_model("embedded", "auto").float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.02)
    asked = [
        SampleRequest(codec.opening(solve_messages(p.question)), 160, sample_seed("r", p.id), stop_ids=codec.stop_ids)
        for p in problems("train", 160, seed=0)
    ]
    wanted = TransformersEngine(model, codec.tokenizer, max_batch=16).sample_many(asked)
    sampler: Any = open_sampler("servers", codec, "embedded", 16, OPTIONS)
    engine = sampler._engine
    try:
        sampler.follow(model)
        _, _, first = ray.get(engine.replicas[0].facts.remote())
        got, killed_at = sample_and_kill(engine, asked, first)
        assert 0 < killed_at < len(asked), "it was not killed in the middle"
        assert [(s.token_ids, s.finish, s.stop_id) for s in got] == [(s.token_ids, s.finish, s.stop_id) for s in wanted]
        assert sampler.lost == 1
        deadline = time.monotonic() + 600
        while not engine.counts["taken back"] and time.monotonic() < deadline:
            time.sleep(0.2)
        assert engine.counts["taken back"] == 1
        pids = {ray.get(replica.facts.remote())[2] for replica in engine.replicas}
        assert len(pids) == 2
        assert first not in pids
        assert [s.token_ids for s in sampler.sample_many(asked[:64])] == [s.token_ids for s in wanted[:64]]
    finally:
        sampler.close()


def sample_and_kill(engine: Any, asked: list[SampleRequest], pid: int) -> tuple[list[Sample], int]:
    """Sample all and kill a process once a tenth is done; return the samples, and how many were done by then."""
    killed_at: list[int] = []

    async def main() -> list[Sample]:
        tasks = [asyncio.create_task(engine.sample(request)) for request in asked]
        while sum(task.done() for task in tasks) < len(tasks) // 10:
            await asyncio.sleep(0.005)
        killed_at.append(sum(task.done() for task in tasks))
        os.kill(pid, signal.SIGKILL)
        return list(await asyncio.gather(*tasks))

    return asyncio.run(main()), killed_at[0]


@pytest.mark.slow
def test_two_trainers_share_two_replicas_and_one_is_killed(recipe: GrpoRecipe, tmp_path: Path) -> None:
    """Metrics and final weights are those of ``sampler: replica``, bit for bit."""
    pytest.importorskip("ray", reason="Ray is not installed: make test-engines")
    chosen = replace(recipe, steps=STEPS, prompts_per_step=4, max_batch=2, guard=GuardRecipe(action="ignore"))
    for name in ("replica", "servers"):
        shutil.copytree(tmp_path / "data", tmp_path / name / "data")
    folders = [tmp_path / name / "checkpoints/grpo" for name in ("replica", "servers")]
    path = tmp_path / "servers/recipe.yaml"
    path.write_text(to_yaml(replace(chosen, sampler="servers", sampler_options=OPTIONS)), encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "--no-python"]
    program = ["--", sys.executable, "-m", "tests.train.rl.kills_a_replica", "train", "grpo", str(path)]
    environment = os.environ | launch_environment(config_path("fsdp-cpu")) | {"OMP_NUM_THREADS": "1"}
    command = [*launcher, *program, "--run", str(tmp_path / "servers")]
    shared = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
    assert shared.returncode == 0, shared.stderr[-3000:]
    assert "is lost; its requests go to the others" in shared.stderr, shared.stderr[-3000:]
    plain = start("grpo", replace(chosen, sampler="replica"), tmp_path / "replica", "--launch", "fsdp-cpu")
    assert plain.wait(timeout=1800) == 0, plain.stderr and plain.stderr.read()[-3000:]
    without, killed = ([row | {"logprob_gap_max": 0} for row in logged(folder)] for folder in folders)
    assert len(without) == STEPS
    assert without == killed
    weights = [(folder / "model.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1]
