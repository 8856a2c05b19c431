"""SFT, DPO, ORM, GRPO and PPO on the GPU: in fp32 the CPU's figures, in bf16 near them; and a run taken up again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

PROGRAMS = ("sft", "dpo", "orm", "grpo", "ppo")
Figures = Callable[[str, str], dict[str, Any]]

pytestmark = pytest.mark.gpu  # on a CPU: make gpu-check


def run(*arguments: str, device: str) -> None:
    """Run Python in a process that sees the GPU, or does not."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    done = subprocess.run([sys.executable, *arguments], env=os.environ | hidden, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory, device: torch.device) -> Figures:
    """Return the metrics of all programs by device and precision, each device's runs made once."""
    made = tmp_path_factory.mktemp("data")
    few = ("problems.count=80", "prompts=16", "pilot=0", "attempts=4", "engine.max_batch=64")
    quotas = ("quota.d1=8", "quota.d2=4", "quota.d3=8", "preferences.p1=8", "preferences.p2=4", "preferences.p3=8")
    command = ("-m", "selfcorrect", "gen", "embedded", *few, *quotas, "baselines=false", "match=none")
    run(*command, "--run", str(made), device="cpu")

    @cache
    def of(on: str, precision: str) -> dict[str, Any]:
        out = tmp_path_factory.mktemp(f"{on}-{precision}")
        run("tests/gpu/programs.py", str(made), str(out), precision, device=on)
        found: dict[str, Any] = json.loads((out / "figures.json").read_text(encoding="utf-8"))
        return found | {"out": str(out)}

    return of


def losses(rows: Any) -> list[float]:
    assert isinstance(rows, list), rows  # otherwise the program's error
    return [row["loss"] for row in rows if row.get("loss") is not None]


@pytest.mark.parametrize("program", ["sft", "dpo", "orm"])
def test_fp32_losses_are_those_of_the_cpu(program: str, figures: Figures, device: torch.device) -> None:
    here, there = losses(figures("cpu", "fp32")[program]), losses(figures(device.type, "fp32")[program])
    assert len(here) > 1
    assert there == pytest.approx(here, rel=2e-3, abs=1e-4)


@pytest.mark.parametrize("program", ["grpo", "ppo"])
def test_fp32_reinforcement_learning_begins_as_on_the_cpu(program: str, figures: Figures, device: torch.device) -> None:
    """The first rollout is the same but for draws that fall between two roundings; the canary holds throughout."""
    here, there = figures("cpu", "fp32")[program], figures(device.type, "fp32")[program]
    assert isinstance(there, list), there
    assert there[0]["turn1"] == pytest.approx(here[0]["turn1"], abs=4)
    assert there[0]["mean_length"] == pytest.approx(here[0]["mean_length"], rel=0.03)
    assert max(row["logprob_gap"] for row in there) < 1e-3


@pytest.mark.parametrize("program", PROGRAMS)
def test_bf16_is_near_fp32(program: str, figures: Figures, device: torch.device) -> None:
    if device.type == "cpu":
        pytest.skip("bf16 on a CPU has tests of its own")
    full, half = figures(device.type, "fp32")[program], figures(device.type, "bf16")[program]
    assert losses(half)[0] == pytest.approx(losses(full)[0], rel=0.05, abs=0.05)
    assert max(row.get("logprob_gap") or 0 for row in half) < 0.05


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_taken_up_again_ends_as_one_left_alone(precision: str, figures: Figures, device: torch.device) -> None:
    from safetensors.torch import load_file

    if device.type == "cpu" and precision == "bf16":
        pytest.skip("bf16 on a CPU has tests of its own")
    out = Path(figures(device.type, precision)["out"])
    whole, torn = (load_file(out / name / "checkpoints/ift/model.safetensors") for name in ("sft", "resumed"))
    assert whole.keys() == torn.keys()
    assert max((whole[name] - torn[name]).abs().max().item() for name in whole) <= 1e-6
