"""A folder of the user's that holds modules with our names, or the standard library's: nothing of it is run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from selfcorrect.children import ROOT, selfcorrect_command
from selfcorrect.old_names import STAGES

MINE = "from pathlib import Path\nPath({ran!r}).write_text(__name__)\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with modules of our names and of the standard library's, which tell when they run."""
    text = MINE.format(ran=str(tmp_path / "RAN"))
    for name in ("train.py", "eval/__init__.py", "data_gen.py", "json.py", "mpmath.py", "sympy.py", "types.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def run(folder: Path, command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command, cwd=folder, env=inherited | environment, capture_output=True, text=True, timeout=300, check=False
    )


def script() -> str:
    return str(Path(sys.executable).with_name("selfcorrect"))


STEPS = """
from pathlib import Path
from selfcorrect.cli.plan import Step, run_steps
run_steps([Step("grade", ("grade", "4", "4"), Path("none"))], Path("run"))
print(Path("run/logs/grade.log").read_text())
"""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["grade", r"\boxed{\sqrt{2+\sqrt 3}}", r"\frac{\sqrt 6+\sqrt 2}{2}"], "correct"),
        (["demo", "--dry-run"], "selfcorrect gen embedded"),
        (["train", "sft", "embedded-sft", "--dry-run"], "no data at"),
    ],
)
def test_nothing_of_the_working_folder_is_run(folder: Path, arguments: list[str], said: str) -> None:
    done = run(folder, [script(), *arguments])
    assert (done.returncode, said in done.stdout) == (0, True), done.stdout + done.stderr
    assert not (folder / "RAN").exists()


def test_the_steps_of_a_plan_run_our_code(folder: Path) -> None:
    done = run(folder, [sys.executable, "-P", "-c", STEPS])
    assert (done.returncode, "correct" in done.stdout) == (0, True), done.stdout + done.stderr
    assert not (folder / "RAN").exists()


def test_the_processes_of_a_launch_run_our_code(folder: Path) -> None:
    (folder / "one.yaml").write_text("distributed_type: MULTI_CPU\nnum_processes: 1\nuse_cpu: true\n")
    done = run(folder, [script(), "train", "sft", "--launch", "one.yaml", "--run", "run"], OMP_NUM_THREADS="1")
    assert (done.returncode, "self-rewarding.jsonl" in done.stderr) == (1, True), done.stdout + done.stderr
    assert not (folder / "RAN").exists()


def test_modules_of_our_old_names_on_the_path_are_neither_run_nor_in_the_way(folder: Path) -> None:
    for name in ("json.py", "mpmath.py", "sympy.py", "types.py"):
        (folder / name).unlink()
    done = run(folder, [script(), "demo", "--dry-run"], PYTHONPATH=".")
    assert done.returncode == 0, done.stderr
    done = run(folder, [sys.executable, "-c", "import selfcorrect.train.sft"], PYTHONPATH=".")
    assert (done.returncode, (folder / "RAN").exists()) == (0, False), done.stderr


def test_python_m_does_not_run_the_working_folder_either(tmp_path: Path) -> None:
    for name in STAGES:
        (tmp_path / f"{name}.py").write_text(MINE.format(ran=str(tmp_path / "RAN")))
    for module in ("selfcorrect", "selfcorrect.cli"):
        done = run(tmp_path, [sys.executable, "-m", module, "demo", "--dry-run"])
        assert (done.returncode, (tmp_path / "RAN").exists()) == (0, False), done.stderr


def test_a_child_runs_this_very_code() -> None:
    assert selfcorrect_command(["grade"])[1:] == ["-P", str(ROOT / "selfcorrect" / "__main__.py"), "grade"]
