"""Print the oldest versions that pyproject.toml admits, as requirements: `make audit` looks them up, too."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version


def oldest(requirement: Requirement) -> str:
    """Return ``name==version`` of the oldest release that a requirement admits, by the package index that pip asks."""
    command = [sys.executable, "-m", "pip", "index", "versions", requirement.name, "--disable-pip-version-check"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    listed = next(line for line in said.splitlines() if line.startswith("Available versions:"))
    versions = [text.strip() for text in listed.removeprefix("Available versions:").split(",")]
    return f"{requirement.name}=={min(requirement.specifier.filter(versions), key=Version)}"


def main() -> None:
    """Print one line for every dependency, and every optional one, that has a lower bound."""
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    bounded = {str(one): one for one in map(Requirement, wanted) if str(one.specifier)}
    sys.stdout.writelines(f"{oldest(one)}\n" for _, one in sorted(bounded.items()))


if __name__ == "__main__":
    main()
