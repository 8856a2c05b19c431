"""The house's rule: imports run one way, and `import selfcorrect` loads nothing heavy."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAGES = ("data_gen", "train", "eval")
UPWARD = {"cli", "adapters"}  # of the library, only the commands and the doors name stages
PURE = ("types", "errors", "prompts", "verdicts", "rewards", "metrics", "runs/recipes", "runs/jsonl")
MODULE = re.compile(rf"selfcorrect\.({'|'.join(STAGES)})(\.\w+)*")
HEAVY = ("torch", "transformers", "trl", "vllm", "datasets", "accelerate")


@cache
def imports(path: Path) -> set[str]:
    """Return the modules that a file imports, or names in a string, anywhere in it; each file is read once."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and MODULE.fullmatch(str(node.value)):
            found.add(str(node.value))
    return found


def stages(path: Path) -> set[str]:
    """Return the stages whose modules a file imports or names."""
    return {match[1] for name in imports(path) if (match := MODULE.fullmatch(name))} | {
        name for name in imports(path) if name in STAGES
    }


@pytest.mark.parametrize("path", sorted((ROOT / "selfcorrect").rglob("*.py")), ids=lambda path: path.name)
def test_library_imports_no_stage(path: Path) -> None:
    if not UPWARD & set(path.relative_to(ROOT).parts):
        assert not stages(path)


@pytest.mark.parametrize("stage", STAGES)
def test_stages_do_not_import_one_another(stage: str) -> None:
    for path in (ROOT / stage).rglob("*.py"):
        assert stages(path) <= {stage}, path


@pytest.mark.parametrize("folder", [*STAGES, "selfcorrect"])
def test_no_circle_of_imports(folder: str) -> None:
    """Counting imports inside functions and those for type checkers, but not those of a package that a module is in."""
    modules = {
        ".".join(["selfcorrect", *path.relative_to(ROOT).with_suffix("").parts])
        .replace("selfcorrect.selfcorrect", "selfcorrect")
        .removesuffix(".__init__"): path
        for path in (ROOT / folder).rglob("*.py")
    }
    graph = {
        name: {other for other in imports(path) & modules.keys() - {name} if not name.startswith(f"{other}.")}
        for name, path in modules.items()
    }
    assert sum(map(len, graph.values())) > len(graph), "the imports were not found"
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the circle


def test_the_folder_of_training_shows_what_a_user_can_type() -> None:
    shown = {path.stem for path in (ROOT / "train").glob("*.py")} - {"__init__"}
    assert shown == {"sft", "dpo", "grpo", "ppo", "orm"}


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_import_nothing_heavy(module: str) -> None:
    names = {name.split(".")[0] for name in imports(ROOT / "selfcorrect" / f"{module}.py")}
    assert not names & set(HEAVY)


def test_importing_selfcorrect_is_light() -> None:
    code = f"import sys, selfcorrect, selfcorrect.cli; print([m for m in {HEAVY + ('sympy',)} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"


OWN_PLACE = (
    "shipped.py",
    "__main__.py",
    "grading/fingerprint.py",
    "grading/workers/pool.py",
    "grading/workers/peer.py",
)
"""Modules of the library that may look where they lie: the last four run where the package is not yet imported, or
name files beside them."""


def test_modules_find_the_package_by_one_name_and_not_by_climbing_from_where_they_lie() -> None:
    """A module that climbs is wrong once it moves: `git_revision` found no checkout any more, and said None."""
    library = [path for path in (ROOT / "selfcorrect").rglob("*.py") if path.relative_to(ROOT).parts[1] not in STAGES]
    looking = {
        str(path.relative_to(ROOT / "selfcorrect"))
        for path in library
        if "__file__" in (text := path.read_text(encoding="utf-8"))
        and any(isinstance(node, ast.Name) and node.id == "__file__" for node in ast.walk(ast.parse(text)))
    }
    assert looking == set(OWN_PLACE)
