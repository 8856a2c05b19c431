"""A training that is killed at random moments ends as one that was left alone: bit for bit, on a CPU."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.runs.recipes import to_yaml
from selfcorrect.train.grpo import GrpoRecipe
from selfcorrect.train.rl.guards import GuardRecipe
from selfcorrect.train.sft import SftRecipe
from tests.train.conftest import timeless

ROOT = Path(__file__).parents[3]
STEPS, KILLS = 45, 3


def start(program: str, recipe: Any, run: Path, *options: str) -> subprocess.Popen[str]:
    path = run / "recipe.yaml"
    path.write_text(to_yaml(recipe), encoding="utf-8")
    command = [sys.executable, "-m", "selfcorrect.cli", "train", program, str(path), "--run", str(run), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def trainer_of(process: int, rank: int) -> int | None:
    """Return the training process of a rank, at or below a process."""
    if f"RANK={rank}".encode() in Path(f"/proc/{process}/environ").read_bytes().split(b"\0"):
        return process
    below = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return next((found for child in below if (found := trainer_of(int(child), rank))), None)


@pytest.mark.slow
def test_a_sharded_run_whose_trainer_was_killed_ends_as_one_left_alone(
    guesser: Path, recipe: GrpoRecipe, tmp_path: Path
) -> None:
    """One of two FSDP processes is killed: the other is ended, the message says how, and the run is resumed."""
    chosen = replace(recipe, steps=16, prompts_per_step=4, save_every=4, sampler="replica")
    folders = {name: tmp_path / name / "checkpoints/grpo" for name in ("whole", "torn")}
    for name in folders:
        shutil.copytree(guesser / "data", tmp_path / name / "data")
        shutil.copy(tmp_path / "data/prompts.jsonl", tmp_path / name / "data/prompts.jsonl")
    whole = start("grpo", chosen, tmp_path / "whole", "--launch", "fsdp-cpu")
    assert whole.wait(timeout=600) == 0, whole.stderr and whole.stderr.read()[-2000:]
    torn = start("grpo", chosen, tmp_path / "torn", "--launch", "fsdp-cpu")
    while torn.poll() is None and len(logged(folders["torn"])) < 7:
        time.sleep(0.01)
    second = trainer_of(torn.pid, 1)
    assert second is not None, "ended before it was killed"
    os.kill(second, signal.SIGKILL)
    assert torn.wait(timeout=120) == 1
    assert torn.stderr is not None
    assert "signal 9" in torn.stderr.read()
    torn = start("grpo", chosen, tmp_path / "torn", "--launch", "fsdp-cpu")
    assert torn.wait(timeout=600) == 0, torn.stderr and torn.stderr.read()[-2000:]
    rows = [logged(folder) for folder in folders.values()]
    assert [row["step"] for row in rows[0]] == list(range(1, 17))
    assert rows[0] == rows[1]
    weights = [(folder / "model.safetensors").read_bytes() for folder in folders.values()]
    assert weights[0] == weights[1]


def logged(folder: Path) -> list[dict[str, Any]]:
    """Return the whole rows of metrics.jsonl without what a clock measured."""
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [timeless(json.loads(line)) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("program", ["sft", "grpo"])
def test_killed_at_random_equals_left_alone(guesser: Path, recipe: GrpoRecipe, tmp_path: Path, program: str) -> None:
    chosen: Any = replace(recipe, steps=STEPS, save_every=4, guard=GuardRecipe(action="warn"))
    if program == "sft":
        chosen = SftRecipe(
            name="grpo", model=recipe.model, epochs=STEPS / 3, batch_rows=4, save_every=4, log_every=1,
            precision="fp32", learning_rate=1e-3,
        )  # fmt: skip
    folders = {name: tmp_path / name / "checkpoints/grpo" for name in ("whole", "torn")}
    for name in folders:
        shutil.copytree(guesser / "data", tmp_path / name / "data")
        shutil.copy(tmp_path / "data/prompts.jsonl", tmp_path / name / "data/prompts.jsonl")
    whole = start(program, chosen, tmp_path / "whole")
    assert whole.wait(timeout=600) == 0, whole.stderr and whole.stderr.read()[-2000:]

    moments = random.Random(os.urandom(8).hex())
    died_at = []
    for last in sorted(moments.sample(range(1, STEPS - 5), KILLS)):
        torn = start(program, chosen, tmp_path / "torn")
        while torn.poll() is None and len(logged(folders["torn"])) < last:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.2))  # anywhere in a step, or while a checkpoint is being written
        torn.send_signal(signal.SIGKILL)
        assert torn.wait(timeout=60) == -signal.SIGKILL, f"ended before it was killed at {last}"
        died_at.append(len(logged(folders["torn"])))
    torn = start(program, chosen, tmp_path / "torn")
    assert torn.wait(timeout=600) == 0, torn.stderr and torn.stderr.read()[-2000:]

    rows = [logged(folder) for folder in folders.values()]
    assert [row["step"] for row in rows[0]] == list(range(1, STEPS + 1))
    assert rows[0] == rows[1], f"killed after rows {died_at}"
    hashes = [hashlib.blake2b((folder / "model.safetensors").read_bytes()).hexdigest() for folder in folders.values()]
    assert hashes[0] == hashes[1], f"killed after rows {died_at}"
