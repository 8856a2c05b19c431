"""What is built and installed: all its files, its size, and whether it shares an environment with RL libraries."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.install.conftest import ROOT, Environment

STAGES = ("train", "eval", "data_gen")
UNCOUNTED = {"pip", "setuptools", "sympy", "mpmath", "python-flint"}
"""Not in the bar of 48 MB: what comes with Python, and what does exact mathematics."""
SIZES = """
from importlib.metadata import distributions
for one in distributions():
    print(one.name.lower(), sum(p.stat().st_size for f in one.files or () if (p := f.locate()).is_file()))
"""


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel and the sdist of this checkout."""
    pytest.importorskip("hatchling", reason="builds the packages; in the extra dev")
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], check=True, cwd=ROOT)
    return {path.suffix: path for path in folder.iterdir()}


def tracked() -> set[str]:
    """Return the files of the repository, with those behind the three links under both names."""
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT)
    if listed.returncode:
        pytest.skip("not a git checkout")
    links = {f"selfcorrect/{stage}" for stage in STAGES}
    files = {name for name in listed.stdout.splitlines() if (ROOT / name).exists()} - links
    return files | {f"selfcorrect/{name}" for name in files if name.startswith(tuple(f"{s}/" for s in STAGES))}


def test_the_wheel_holds_every_file_of_the_package(built: dict[str, Path]) -> None:
    held = set(zipfile.ZipFile(built[".whl"]).namelist())
    assert {name for name in tracked() if name.startswith("selfcorrect/")} - held == set()
    assert {name.partition("/")[0] for name in held if ".dist-info/" not in name} == {"selfcorrect"}


def test_the_sdist_holds_every_file_of_the_repository(built: dict[str, Path]) -> None:
    with tarfile.open(built[".gz"]) as packed:
        held = {name.partition("/")[2] for name in packed.getnames()}
    assert tracked() - held == set()


def pip(python: Path | str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run pip; skip where the package index cannot be reached."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if re.search(r"Temporary failure in name resolution|Network is unreachable|Connection refused", done.stderr):
        pytest.skip("the package index cannot be reached")
    return done


@pytest.fixture(scope="session")
def installed(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A clean environment into which pip installed the wheel."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    done = pip(python, "install", "-q", "-c", str(ROOT / "constraints.txt"), str(built[".whl"]))
    assert done.returncode == 0, done.stderr
    return Environment(python)


@pytest.mark.slow
def test_the_sdist_installs_the_files_of_the_wheel(
    installed: Environment, built: dict[str, Path], tmp_path: Path
) -> None:
    done = pip(installed.python, "install", "-q", "--no-deps", "--target", str(tmp_path), str(built[".gz"]))
    assert done.returncode == 0, done.stderr
    held = {name for name in zipfile.ZipFile(built[".whl"]).namelist() if name.startswith("selfcorrect/")}
    assert {name for name in held if not (tmp_path / name).is_file()} == set()
    done = installed.selfcorrect("--version", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_an_installed_package_works_without_any_extra(installed: Environment, tmp_path: Path) -> None:
    done = installed.selfcorrect("grade", r"\boxed{\int_0^1 x^2 dx}", r"\frac13", cwd=tmp_path)
    assert done.stdout.startswith("correct: "), done.stderr
    assert installed.selfcorrect("--help", cwd=tmp_path).returncode == 0
    said = installed.selfcorrect("train", "sft", cwd=tmp_path).stderr
    assert "torch is not installed: pip install 'selfcorrect[train]'" in said
    for stage in STAGES:
        here = {"cwd": tmp_path, "PYTHONPATH": "."}
        (tmp_path / f"{stage}.py").write_text("raise SystemExit('theirs')\n")
        assert installed.run("-c", f"import selfcorrect.{stage}", **here).returncode == 0
    assert installed.selfcorrect("grade", "--", r"\boxed{7}", "7", **here).stdout.startswith("correct: ")


@pytest.mark.slow
def test_the_command_of_the_message_finds_the_installed_package(installed: Environment) -> None:
    done = pip(installed.python, "install", "--dry-run", "selfcorrect[latex]")
    assert done.returncode == 0, done.stderr
    assert "latex2sympy2_extended" in done.stdout


@pytest.mark.slow
def test_the_base_is_at_most_48_MB_beside_exact_mathematics(installed: Environment, tmp_path: Path) -> None:
    said = installed.run("-c", SIZES, cwd=tmp_path).stdout.split()
    sizes = dict(zip(said[::2], map(int, said[1::2]), strict=True))
    assert UNCOUNTED - {"setuptools"} <= sizes.keys()
    assert sum(size for name, size in sizes.items() if name not in UNCOUNTED) <= 48e6, sizes


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["", "[latex,report]"])
def test_it_shares_an_environment_with_verl(built: dict[str, Path], installed: Environment, extra: str) -> None:
    done = pip(installed.python, "install", "--dry-run", f"{built['.whl']}{extra}", "verl")
    assert done.returncode == 0, done.stderr
    assert re.search(r"Would install .*\bverl-", done.stdout)
    assert re.search(r"antlr4-python3-runtime-4\.9\.3", done.stdout)  # hydra's
