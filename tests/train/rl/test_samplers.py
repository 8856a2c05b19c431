"""Samplers of RL: vLLM follows the trainer's weights, and the canary finds one that does not."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.chat import ChatCodec
from selfcorrect.errors import GuardError, RecipeError
from selfcorrect.problems import ProblemsRecipe
from selfcorrect.runs.jsonl import read_jsonl
from selfcorrect.train.common.lora import LoraRecipe
from selfcorrect.train.grpo import GrpoRecipe, run
from selfcorrect.train.rl.guards import GuardRecipe
from selfcorrect.train.rl.samplers import open_sampler


def test_options_of_vllm_are_refused_where_the_live_model_samples() -> None:
    with pytest.raises(RecipeError, match="gpu_memory_utilization"):
        open_sampler("live", ChatCodec.load("embedded"), "embedded", 8, {"gpu_memory_utilization": 0.5})


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
        "sampler_options": {"dtype": "float32", "threads": 1},
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
