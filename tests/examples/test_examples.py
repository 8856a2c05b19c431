"""`examples/`: the job files run the paper's plan, the Dockerfile copies and installs what exists."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib

import yaml

from tests.test_docs import ROOT

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


def test_the_job_files_run_the_plan_of_the_paper() -> None:
    assert subprocess.run(["bash", "-n", ROOT / "examples" / "slurm.sbatch"]).returncode == 0
    sky = yaml.safe_load((ROOT / "examples" / "skypilot.yaml").read_text(encoding="utf-8"))
    assert set(re.findall(r"--extra (\w+)", sky["setup"])) <= EXTRAS.keys()
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"^make ([\w-]+)", sky["run"], re.MULTILINE)) <= set(targets)
    lines = sky["run"] + (ROOT / "examples" / "slurm.sbatch").read_text(encoding="utf-8")
    used = re.findall(r"^selfcorrect (reproduce .+?)(?: \"\$@\" &.*)?$", lines, re.MULTILINE)
    assert len(used) == 2
    for words in used:
        typed = [*shlex.split(words.replace("$RUN", "runs/paper")), "--dry-run", "--json"]
        done = subprocess.run([sys.executable, "-m", "selfcorrect", *typed], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr[-2000:]
        names = [step["step"] for step in json.loads(done.stdout)["steps"]]
        assert {"qwen s0 ift", "qwen s0 ppo", "qwen s0 dpo", "qwen s0 grpo", "qwen report table3"} <= {
            name.replace("sft ", "") for name in names
        }


def test_the_dockerfile_copies_what_is_there_and_installs_extras_that_exist() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in line.split()[:-1]), line
    named = re.findall(r"EXTRAS=([\w,]+)", text)
    assert len(named) == 2
    assert {extra for one in named for extra in one.split(",")} <= EXTRAS.keys()
