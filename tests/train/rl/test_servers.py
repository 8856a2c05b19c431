"""RL on servers: two sharded trainers, two servers, one of them killed and started again; not a bit differs."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.errors import EngineError, RecipeError
from selfcorrect.train.grpo import GrpoRecipe
from selfcorrect.train.rl.guards import GuardRecipe
from selfcorrect.train.rl.samplers import open_sampler
from tests.train.common.test_killed import logged, start
from tests.train.rl.weights_server import free_port, serve

STEPS = 40


@pytest.mark.slow
def test_a_killed_server_loses_no_path_and_comes_back_with_the_weights(recipe: GrpoRecipe, tmp_path: Path) -> None:
    ports, records = (free_port(), free_port()), (tmp_path / "a.log", tmp_path / "b.log")
    servers = [serve(recipe.model, *about) for about in zip(ports, records, strict=True)]
    chosen = replace(recipe, steps=STEPS, prompts_per_step=4, guard=GuardRecipe(action="ignore"))
    on_servers = replace(
        chosen,
        sampler="servers",
        sampler_options={"endpoints": [f"http://127.0.0.1:{port}/v1" for port in ports], "backoff_s": 0.05},
    )
    for name in ("replica", "servers"):
        shutil.copytree(tmp_path / "data", tmp_path / name / "data")
    folders = [tmp_path / name / "checkpoints/grpo" for name in ("replica", "servers")]
    try:
        trainers = start("grpo", on_servers, tmp_path / "servers", "--launch", "fsdp-cpu")
        wait_for(trainers, folders[1], 2)
        time.sleep(0.05)
        servers[1].send_signal(signal.SIGKILL)
        servers[1].wait()
        wait_for(trainers, folders[1], 4)
        before = records[1].read_text().count("sample")
        servers[1] = serve(recipe.model, ports[1], records[1])
        assert trainers.stderr is not None
        said = trainers.stderr.read()
        assert trainers.wait(timeout=1800) == 0, said[-3000:]
    finally:
        for server in servers:
            server.kill()
    assert "is lost" in said or "it is left out until" in said, said[-3000:]
    assert records[1].read_text().count("sample") > before, "it was not taken back"
    replica = start("grpo", replace(chosen, sampler="replica"), tmp_path / "replica", "--launch", "fsdp-cpu")
    assert replica.wait(timeout=1800) == 0, replica.stderr and replica.stderr.read()[-3000:]
    without, killed = ([row | {"logprob_gap_max": 0} for row in logged(folder)] for folder in folders)
    assert len(without) == STEPS
    assert without == killed
    weights = [(folder / "model.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1]


def wait_for(trainers: subprocess.Popen[str], folder: Path, step: int) -> None:
    """Return when a step is logged."""
    while trainers.poll() is None and len(logged(folder)) < step:
        time.sleep(0.01)
    assert trainers.poll() is None, f"ended before step {step}: {trainers.stderr and trainers.stderr.read()[-3000:]}"


def test_servers_are_named_by_url(codec: Any) -> None:
    with pytest.raises(RecipeError, match=r"sampler_options\.endpoints is a list of URLs"):
        open_sampler("servers", codec, "embedded", 8, {})


def test_servers_that_take_no_weights_end_the_run(recipe: GrpoRecipe, tmp_path: Path) -> None:
    """One that lists its model and has no route for weights, as vLLM without VLLM_SERVER_DEV_MODE=1."""
    from selfcorrect.chat import ChatCodec
    from selfcorrect.train.common.models import load_model
    from tests.selfcorrect.engines.server import Server, vllm

    model_codec = ChatCodec.load(recipe.model)
    with Server(model_codec, lambda request: "", vllm, faults=lambda number: lambda h: h.send_json(404, {})) as server:
        sampler = open_sampler("servers", model_codec, recipe.model, 8, {"endpoints": [server.url]})
        with pytest.raises(EngineError, match="none of the 1 servers took the weights"):
            sampler.follow(load_model(recipe.model, "auto"))
        assert json.dumps(server.bodies[0]).count("load_new_weights") == 1
        sampler.close()
