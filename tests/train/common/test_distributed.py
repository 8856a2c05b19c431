"""Two processes (gloo) through ``--launch cpu`` give what one gives; launching itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfcorrect.chat import ChatCodec
from selfcorrect.children import selfcorrect_command
from selfcorrect.errors import InputError, RecipeError
from selfcorrect.runs.recipes import to_yaml
from selfcorrect.train.common import distributed, launch
from selfcorrect.train.grpo import GrpoRecipe
from selfcorrect.train.rl.guards import GuardRecipe
from selfcorrect.train.rl.samplers import open_sampler
from selfcorrect.train.sft import SftRecipe

ROOT = Path(__file__).parents[3]


def test_cpu_processes_go_to_torchrun_and_gpus_to_accelerate() -> None:
    arguments = launch.without_launch(["train", "sft", "--launch", "cpu", "--run", "x", "--launch=ddp"])
    assert arguments == ["train", "sft", "--run", "x"]
    command = launch.launch_command(launch.config_path("cpu"), arguments)
    assert command[1:6] == ["-P", "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    ours = str(ROOT / "selfcorrect" / "__main__.py")
    assert command[-7:] == [sys.executable, "-P", ours, *arguments]
    assert launch.launch_environment(launch.config_path("cpu")) == {launch.EXPECTED: "2"}
    sharded = launch.launch_environment(launch.config_path("fsdp-cpu"))
    assert sharded == {launch.EXPECTED: "2", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    deepspeed = launch.launch_environment(launch.config_path("zero3-cpu"))
    assert deepspeed["ACCELERATE_USE_DEEPSPEED"] == "true"  # accelerate's launcher, which starts GPUs, sets the same
    assert deepspeed["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == "3"
    command = launch.launch_command(launch.config_path("zero3"), arguments)
    assert command[1:5] == ["-P", "-m", "accelerate.commands.launch", "--config_file"]
    assert command[-5:] == [ours, *arguments]


@pytest.mark.parametrize("name", ["ddp", "fsdp", "zero2", "zero3", "cpu", "fsdp-cpu", "zero3-cpu"])
def test_shipped_configurations_are_accelerates(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config: Any = load_config_from_file(str(launch.config_path(name)))
    assert config.num_processes == (2 if name.endswith("cpu") else 8)
    sharded = {
        "fsdp": ("fsdp_version", 2),
        "fsdp-cpu": ("fsdp_version", 2),
        "zero2": ("zero_stage", 2),
        "zero3": ("zero_stage", 3),
        "zero3-cpu": ("zero_stage", 3),
    }
    if name in sharded:
        key, value = sharded[name]
        assert (config.fsdp_config or config.deepspeed_config)[key] == value


def test_an_unknown_configuration_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match='did you mean "zero2"'):
        launch.config_path("zero22")
    (tmp_path / "x.yaml").write_text("a: 1")
    with pytest.raises(RecipeError, match="names no num_processes"):
        launch.launch_command(tmp_path / "x.yaml", [])


def test_fewer_processes_than_asked_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(launch.EXPECTED, "2")
    with pytest.raises(InputError, match="asked for 2 processes, 1 came up"):
        distributed.process_count()


@pytest.mark.parametrize(("name", "value"), [("ACCELERATE_USE_FSDP", "true"), ("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")])
def test_live_rollouts_on_sharded_weights_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(distributed.FSDP, "0")  # so that what is set below is undone
    monkeypatch.setenv(name, value)
    with pytest.raises(RecipeError, match="set sampler=replica"):
        open_sampler("live", ChatCodec.load("embedded"), "embedded", 8, {})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("FSDP_VERSION", "1", "set fsdp_version: 2"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "set trainer.gradient_checkpointing=true"),
        ("FSDP_OFFLOAD_PARAMS", "true", "weights stay on the GPUs"),
    ],
)
def test_what_accelerate_would_do_and_we_do_not_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv(name, value)
    with pytest.raises(RecipeError, match=said):
        distributed.fsdp_asked()


def test_accelerate_is_not_told_of_fsdp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(distributed.FSDP, "0")
    assert not distributed.fsdp_asked()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert distributed.fsdp_asked()
    assert "ACCELERATE_USE_FSDP" not in os.environ
    assert distributed.fsdp_asked()


def test_accelerate_is_not_told_of_the_cpu_where_deepspeed_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told so, accelerate makes plain DDP of it; not told the backend, it takes each process for the only one."""
    monkeypatch.setattr(distributed, "has_gpu", lambda: False)
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED", raising=False)
    assert (distributed.asks_for_cpu(), distributed.backend()) == (True, None)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert (distributed.asks_for_cpu(), distributed.backend()) == (False, "gloo")
    monkeypatch.setattr(distributed, "has_gpu", lambda: True)
    assert (distributed.asks_for_cpu(), distributed.backend()) == (False, None)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"learning_rate": "0"}, "rows.jsonl"),  # a row that is none
        ({"model": "no/such/model/here"}, "no/such/model/here"),
    ],
)
def test_an_error_in_the_processes_is_one_message_shown_once(
    tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"id": 1}\n')
    words = ["train", "sft", f"data={tmp_path}/rows.jsonl", *(f"{key}={value}" for key, value in settings.items())]
    command = [*selfcorrect_command(words), "--run", str(tmp_path / "run"), "--launch", "cpu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    printed = done.stdout + done.stderr
    assert done.returncode == 1
    assert "Traceback" not in printed
    assert printed.count("╭─ selfcorrect") == 1
    assert said in "".join(line.strip("│ ") for line in printed.splitlines())
    assert len(printed.splitlines()) <= 12, printed


def train(program: str, recipe: Any, run: Path, *options: str) -> list[dict[str, Any]]:
    """Run the command line; return metrics.jsonl."""
    path = run / f"{program}.yaml"
    path.write_text(to_yaml(recipe), encoding="utf-8")
    command = [sys.executable, "-m", "selfcorrect.cli", "train", program, str(path), "--run", str(run), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = (run / "checkpoints" / recipe.name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def moved_apart(start: Path, one: Path, two: Path) -> float:
    """Return how far two results are apart, as a share of how far the first moved from the start.

    Not compared weight by weight: AdamW makes a whole step of a gradient that is nothing but rounding.
    """
    from safetensors.torch import load_file

    origin, first, second = (load_file(folder / "model.safetensors") for folder in (start, one, two))
    apart = sum(float(((first[name] - second[name]) ** 2).sum()) for name in origin)
    moved = sum(float(((first[name] - origin[name]) ** 2).sum()) for name in origin)
    return (apart / moved) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("launched", ["cpu", "zero3-cpu"])
def test_two_processes_train_what_one_does(guesser: Path, recipe: GrpoRecipe, tmp_path: Path, launched: str) -> None:
    import shutil

    if launched == "zero3-cpu":
        pytest.importorskip("deepspeed", reason="ZeRO-3 needs DeepSpeed, which no extra brings: pip install deepspeed")
    sft = SftRecipe(model=recipe.model, epochs=2, batch_rows=12, precision="fp32", learning_rate=1e-3, log_every=1)
    grpo = replace(recipe, prompts_per_step=4, learning_rate=1e-3, max_logprob_gap=1e-3, normalise="role", beta=0.01)
    grpo = replace(grpo, guard=GuardRecipe(action="warn"))
    rows: dict[str, list[list[dict[str, Any]]]] = {"sft": [], "grpo": []}
    folders = []
    for name, options in (("one", ()), ("two", ("--launch", launched))):
        run = tmp_path / name
        if (name, launched) == ("two", "zero3-cpu"):
            grpo = replace(grpo, sampler="replica")
        shutil.copytree(guesser / "data", run / "data")
        shutil.copy(tmp_path / "data/prompts.jsonl", run / "data/prompts.jsonl")
        rows["sft"].append(train("sft", sft, run, *options))
        rows["grpo"].append(train("grpo", grpo, run, *options))
        folders.append(run / "checkpoints")
    for one, two in (rows["sft"], rows["grpo"]):
        assert [row["step"] for row in one] == [row["step"] for row in two]
        assert [row["loss"] for row in one] == pytest.approx([row["loss"] for row in two], abs=1e-5)
    one, two = rows["grpo"]
    assert [row["turn1_start"] for row in one] == [row["turn1_start"] for row in two]
    for name in ("ift", "grpo"):
        assert moved_apart(Path(recipe.model), *(folder / name for folder in folders)) < 0.01
