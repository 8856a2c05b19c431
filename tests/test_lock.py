"""`uv.lock` is that of `pyproject.toml`, and has the tested versions of `constraints.txt`; checked without uv."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
AGAIN = "make uv.lock anew: see docs/install.md, `uv.lock`"


def toml(name: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / name).read_text(encoding="utf-8"))


def flat(listed: list[str], groups: dict[str, list[str]]) -> set[tuple[str, str, tuple[str, ...]]]:
    """Return name, versions and extras of requirements, those of our own extras in the place of their names."""
    found = set()
    for one in map(Requirement, listed):
        if one.name == "selfcorrect":
            found |= set().union(*(flat(groups[extra], groups) for extra in one.extras))
        else:
            found.add(
                (canonicalize_name(one.name), str(one.specifier), tuple(sorted(map(canonicalize_name, one.extras))))
            )
    return found


def test_the_lock_was_made_of_these_dependencies() -> None:
    project = toml("pyproject.toml")["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    wanted = {(extra, *one) for extra, listed in groups.items() for one in flat(listed, groups)}
    (ours,) = [package for package in toml("uv.lock")["package"] if package["name"] == "selfcorrect"]
    found = set()
    for row in ours["metadata"]["requires-dist"]:
        named = re.search(r"extra == '([\w-]+)'", row.get("marker", ""))
        specifier = str(Requirement(f"x{row.get('specifier', '')}").specifier)
        found.add((named[1] if named else "", row["name"], specifier, tuple(sorted(row.get("extras", ())))))
    assert found == wanted, AGAIN
    assert set(ours["metadata"]["provides-extras"]) == set(project["optional-dependencies"]), AGAIN


def test_the_lock_has_the_tested_versions_and_pypis_addresses() -> None:
    packages = toml("uv.lock")["package"]
    locked: dict[str, set[str]] = {}
    for package in packages:
        locked.setdefault(package["name"], set()).add(package.get("version", ""))
    pinned = re.findall(r"^([\w.-]+)==([\w.+]+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(pinned) > 90
    other = {name: locked.get(canonicalize_name(name)) for name, version in pinned
             if version not in locked.get(canonicalize_name(name), set())}  # fmt: skip
    assert not other, AGAIN
    sources = {source for package in packages for source in package["source"].values()}
    assert sources == {"https://pypi.org/simple", "."}
