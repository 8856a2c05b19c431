"""Environments of the base dependencies alone, without and with pip."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


class Environment:
    """A Python, and how to run it without anything of this test's own environment."""

    def __init__(self, python: Path):
        self.python = python

    def run(self, *words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the Python with arguments in a folder and return what it said."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SELFCORRECT"))}
        return subprocess.run(
            [str(self.python), *words],
            capture_output=True,
            text=True,
            cwd=cwd,
            env={**kept, "COLUMNS": "300", **environment},
        )

    def selfcorrect(self, *words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the command line."""
        return self.run("-P", "-m", "selfcorrect", *words, cwd=cwd, **environment)


def base_distributions() -> dict[str, Distribution]:
    """Return what the base dependencies of pyproject.toml bring, by name, as it is installed here."""
    wanted, found = [Requirement(text) for text in PROJECT["dependencies"]], dict[str, Distribution]()
    while wanted:
        requirement = wanted.pop()
        if requirement.name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found[requirement.name] = distribution(requirement.name)
        wanted += map(Requirement, found[requirement.name].requires or ())
    return found


def bare_python(folder: Path) -> tuple[Path, Path]:
    """Make an environment without pip; return its Python and the folder of its packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder / "bin" / "python", next((folder / "lib").glob("python*/site-packages"))


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """This checkout, in an environment that has its base dependencies alone (links to those installed here)."""
    python, packages = bare_python(tmp_path_factory.mktemp("base"))
    for one in base_distributions().values():
        for top in {file.parts[0] for file in one.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (packages / top).exists():
                (packages / top).symlink_to(Path(str(one.locate_file(top))))
    (packages / "selfcorrect.pth").write_text(f"{ROOT}\n")
    return Environment(python)
