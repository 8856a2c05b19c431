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


def distributions_of(*extras: str) -> dict[str, Distribution]:
    """Return what the base dependencies of pyproject.toml and extras bring, by name, as it is installed here."""
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in PROJECT["optional-dependencies"][extra])]
    wanted, found = [Requirement(text) for text in texts], dict[str, Distribution]()
    while wanted:
        requirement = wanted.pop()
        if requirement.name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found[requirement.name] = distribution(requirement.name)
        wanted += map(Requirement, found[requirement.name].requires or ())
    return found


def environment(folder: Path, *extras: str) -> Environment:
    """Make an environment of this checkout with the base dependencies and extras alone: links to what is here."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    packages = next((folder / "lib").glob("python*/site-packages"))
    for one in distributions_of(*extras).values():
        for top in {file.parts[0] for file in one.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (packages / top).exists():
                (packages / top).symlink_to(Path(str(one.locate_file(top))))
    (packages / "selfcorrect.pth").write_text(f"{ROOT}\n")
    return Environment(folder / "bin" / "python")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """This checkout with its base dependencies alone."""
    return environment(tmp_path_factory.mktemp("base"))
