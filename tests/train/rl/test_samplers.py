"""Samplers of RL: vLLM follows the trainer's weights, and the canary finds one that does not."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.chat import ChatCodec
from selfcorrect.errors import GuardError, RecipeError
from selfcorrect.problems import ProblemsRecipe
from selfcorrect.runs.jsonl import read_jsonl
from selfcorrect.train.common.launch import config_path, launch_environment
from selfcorrect.train.common.lora import LoraRecipe
from selfcorrect.train.grpo import GrpoRecipe, run
from selfcorrect.train.rl import samplers
from selfcorrect.train.rl.guards import GuardRecipe
from selfcorrect.train.rl.samplers import open_sampler
from tests.train.common.test_distributed import ROOT, train


def test_options_of_vllm_are_refused_where_the_live_model_samples() -> None:
    with pytest.raises(RecipeError, match="gpu_memory_utilization"):
        open_sampler("live", ChatCodec.load("embedded"), "embedded", 8, {"gpu_memory_utilization": 0.5})


def test_an_engine_beside_each_process_is_not_spread_over_their_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "process_count", lambda: 2)
    with pytest.raises(RecipeError, match="tensor_parallel_size would spread it over several"):
        open_sampler("vllm", ChatCodec.load("embedded"), "embedded", 8, {"tensor_parallel_size": 2})


def recipe(**changes: Any) -> GrpoRecipe:
    settings = {
        "prompts": None,
        "problems": ProblemsRecipe("arithmetic", count=24),
        "steps": 3,
        "prompts_per_step": 8,
        "generations": 4,
        "max_tokens": 120,
        "learning_rate": 2e-3,
        "guard": GuardRecipe(action="ignore"),
        "precision": "fp32",
        "sampler": "vllm",
        "sampler_options": {"dtype": "float32", "threads": 1, "kv_cache_memory_bytes": 1 << 26},
    }
    return GrpoRecipe(**(settings | changes))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"lora": LoraRecipe(rank=4, alpha=64), "learning_rate": 3e-3}])
def test_vllm_samples_from_the_weights_of_every_step(tmp_path: Path, changes: dict[str, Any]) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed: make test-engines")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    run(recipe(**changes), tmp_path)
    rows = list(read_jsonl(tmp_path / "checkpoints" / "grpo" / "metrics.jsonl"))
    assert len(rows) == 3
    assert all(row["used_rows"] > 0 and row["logprob_gap"] < 2e-3 for row in rows), rows


@pytest.mark.slow
def test_the_canary_finds_a_vllm_that_was_not_given_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed: make test-engines")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from selfcorrect.engines.vllm import VllmEngine

    opened: list[VllmEngine] = []
    load = VllmEngine.load
    monkeypatch.setattr(VllmEngine, "load", lambda *args, **kwargs: opened.append(load(*args, **kwargs)) or opened[-1])
    monkeypatch.setattr(VllmEngine, "load_weights", lambda self, folder: None)
    with pytest.raises(GuardError, match="samples from other weights"):
        run(recipe(learning_rate=1e-2, max_logprob_gap=0.01), tmp_path)
    asyncio.run(opened[0].close())


@pytest.mark.slow
@pytest.mark.parametrize("launch", ["cpu", "fsdp-cpu"])
def test_two_processes_sample_from_an_engine_each(tmp_path: Path, launch: str) -> None:
    """Of every rollout each process samples half; all of it is graded, and both samplers have the weights."""
    pytest.importorskip("vllm", reason="vLLM is not installed: make test-engines")
    rows = train("grpo", recipe(max_logprob_gap=2e-3), tmp_path, "--launch", launch)  # held by each process
    assert len(rows) == 3
    for row in rows:
        assert (row["problems"], row["sampled_tokens"] / row["mean_length"]) == (8, pytest.approx(32))
    print("gaps of process 0:", [row["logprob_gap"] for row in rows])
    assert sum(row["trained_tokens"] > 0 for row in rows) > 1


@pytest.mark.slow
def test_engines_with_unequal_shares_wait_for_nobody_and_fail_together(tmp_path: Path) -> None:
    """Two FSDP processes, 9 and 2 requests; greedy ids are our engine's on the gathered weights, twice."""
    pytest.importorskip("vllm", reason="vLLM is not installed: make test-engines")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "--no-python"]
    command = [*launcher, "--", sys.executable, "-m", "tests.train.rl.vllm_shares", str(tmp_path / "found.json")]
    environment = os.environ | launch_environment(config_path("fsdp-cpu")) | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert [(one["asked"], one["equal"]) for one in found] == [(18, 18), (4, 4)]
    assert max(one["apart"] for one in found) < 2e-3
    assert all(one["said"].startswith("process 1: the engine ") for one in found), found
