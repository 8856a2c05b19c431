"""`examples/`: the paper's plan names recipes and settings that exist, its small form runs; the other files parse."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from selfcorrect.runs.jsonl import read_json
from selfcorrect.runs.recipes import load_recipe
from tests.test_docs import ROOT, SCHEMAS, recipe_and_overrides, schema_of

PLAN = ROOT / "examples" / "paper_plan.py"
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


def plan(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(PLAN), *words], capture_output=True, text=True, cwd=cwd, timeout=570)


def steps(*words: str) -> list[list[str]]:
    import shlex

    return [shlex.split(line)[1:] for line in plan(*words).stdout.splitlines()]


@pytest.mark.parametrize("smoke", [[], ["--smoke"]])
@pytest.mark.parametrize("gpus", ["1", "8"])
@pytest.mark.parametrize("stage2", ["grpo", "ppo", "dpo"])
def test_every_step_names_a_recipe_settings_and_a_checkpoint_that_exist(
    stage2: str, gpus: str, smoke: list[str]
) -> None:
    made = set[str]()
    found = steps("--stage2", stage2, "--gpus", gpus, *smoke)
    for words in found:
        if words[0] == "report":
            continue
        command = " ".join(words[: 2 if words[0] == "train" else 1])
        folder, schema, _ = SCHEMAS[command]
        name, *overrides = recipe_and_overrides(words[command.count(" ") + 1 :])
        recipe = load_recipe(schema_of(folder, schema), ROOT / folder / "recipes" / f"{name}.yaml", overrides)
        for used in re.findall(r"checkpoints/(\S+)", " ".join(overrides)):
            assert used in made, words
        if words[0] == "train":
            made.add(recipe.name)
            spread = gpus != "1" and not smoke  # by the planner nothing less than FSDP fits on 8 GPUs of 80 GB
            assert words[words.index("--launch") :][:2] == ["--launch", "fsdp"] if spread else "--launch" not in words
    assert made == {"ift", stage2}
    assert len(found) == (6 if smoke else 10)


@pytest.mark.slow  # minutes
def test_the_small_plan_runs_and_a_second_time_does_nothing_again(tmp_path: Path) -> None:
    first = plan("--smoke", "--go", "--run", "run", cwd=tmp_path)
    assert first.returncode == 0, first.stdout[-2000:] + first.stderr[-3000:]
    assert (tmp_path / "run" / "report.html").is_file()
    weights = tmp_path / "run" / "checkpoints" / "grpo" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert plan("--smoke", "--go", "--run", "run", cwd=tmp_path).returncode == 0
    assert weights.stat().st_mtime_ns == before
    assert read_json(tmp_path / "run" / "eval" / "grpo" / "scores.json")["n"] == 24


def test_a_step_that_fails_ends_the_plan(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = plan("--smoke", "--go", "--run", "file", cwd=tmp_path)
    assert ended.returncode == 1
    assert "== 1 of 6" in ended.stderr
    assert "== 2 of 6" not in ended.stderr
    assert "goes on from here" in ended.stderr


def test_the_script_of_pep_723_names_this_package_and_extras_that_exist() -> None:
    block = re.search(r"^# /// script\n(.*?)^# ///$", PLAN.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert block
    said = tomllib.loads("\n".join(line.removeprefix("#").removeprefix(" ") for line in block[1].splitlines()))
    (needed,) = [Requirement(text) for text in said["dependencies"]]
    assert needed.name == "selfcorrect"
    assert needed.extras <= EXTRAS.keys()
    assert (PLAN.parent / said["tool"]["uv"]["sources"]["selfcorrect"]["path"] / "pyproject.toml").is_file()


def test_the_job_files_run_the_plan() -> None:
    assert subprocess.run(["bash", "-n", ROOT / "examples" / "slurm.sbatch"]).returncode == 0
    sky = yaml.safe_load((ROOT / "examples" / "skypilot.yaml").read_text(encoding="utf-8"))
    assert set(re.findall(r"--extra (\w+)", sky["setup"])) <= EXTRAS.keys()
    lines = sky["run"] + (ROOT / "examples" / "slurm.sbatch").read_text(encoding="utf-8")
    used = re.findall(r"paper_plan\.py (.+?)(?: &)?$", lines, re.MULTILINE)
    assert len(used) == 3
    known = set(re.findall(r"add_argument\(\"(--[\w-]+)\"", PLAN.read_text(encoding="utf-8")))
    assert set(re.findall(r"--[\w-]+", " ".join(used))) <= known


def test_the_dockerfile_copies_what_is_there_and_installs_extras_that_exist() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in line.split()[:-1]), line
    named = re.findall(r"EXTRAS=([\w,]+)", text)
    assert len(named) == 2
    assert {extra for one in named for extra in one.split(",")} <= EXTRAS.keys()
