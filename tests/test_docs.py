"""What the docs say can be done: commands resolve, links lead somewhere, cited sections and columns are explained."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest

from selfcorrect.correction.loop import Method
from selfcorrect.runs.recipes import load_recipe
from selfcorrect.types import StopReason

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "AGENTS.md", *(ROOT / "docs").glob("*.md")])
PACKAGES = ("selfcorrect", "data_gen", "train", "eval", "benchmarks")
SOURCES = sorted(path for name in PACKAGES for kind in ("*.py", "*.yaml") for path in (ROOT / name).rglob(kind))

SCHEMAS = {  # command: folder of its recipes, name of their schema, the recipe it takes by default
    "gen": ("data_gen", "GenRecipe", "embedded"),
    "train sft": ("train", "SftRecipe", "embedded-sft"),
    "train dpo": ("train", "DpoRecipe", "embedded-dpo"),
    "train grpo": ("train", "GrpoRecipe", "embedded-grpo"),
    "train ppo": ("train", "PpoRecipe", "embedded-ppo"),
    "train orm": ("train", "OrmRecipe", "embedded-orm"),
    "train pretrain": ("train", "PretrainRecipe", "pretrain"),
    "eval calibrate": ("eval", "EvalRecipe", "calibration"),
    "eval run": ("eval", "EvalRecipe", "embedded"),
    "eval": ("eval", "EvalRecipe", "embedded"),
}
NO_RECIPE = {"regrade", "compare", "import", "export"}  # commands of eval that take none
FLAGS = {"--dry-run", "--show-mask", "--json", "--help", "-q", "-v"}
COMMAND = re.compile(r"(?:^[ #>]*|`)selfcorrect ((?:gen|train \w+|eval)(?: [^`\n]*)?)(?:`|$)", re.MULTILINE)


def commands(path: Path) -> Iterator[str]:
    """Give the stage commands that a file shows, without notes, placeholders and what only a shell understands."""
    text = re.sub(r" *\\\n[ #]*", " ", path.read_text(encoding="utf-8"))
    for found in COMMAND.finditer(text):
        command = re.split(r"  +[#(a-z]|  #", found[1])[0]
        if not any(sign in command for sign in ("[", "{", "$", "|", "KEY=")) or "={" in command:
            yield command.strip()


def schema_of(package: str, name: str) -> type[Any]:
    """Return a recipe's dataclass, wherever in its package it is defined."""
    defined = re.compile(rf"^class {name}\b", re.MULTILINE)
    files = sorted((ROOT / package).rglob("*.py"))
    (file,) = [path for path in files if defined.search(path.read_text(encoding="utf-8"))]
    module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    module = module if module.startswith("selfcorrect.") else f"selfcorrect.{module}"
    found: type[Any] = getattr(import_module(module), name)
    return found


def shown_commands() -> list[tuple[str, str]]:
    return sorted({(path.relative_to(ROOT).as_posix(), line) for path in PAGES + SOURCES for line in commands(path)})


def recipe_and_overrides(words: list[str]) -> list[str]:
    """Return a command's words without its options and their values, and without an ellipsis."""
    kept, skip = [], False
    for word in words:
        if not skip and not word.startswith("-") and word not in ("…", "..."):
            kept.append(word)
        skip = word.startswith("-") and word not in FLAGS and "=" not in word
    return [word for word in kept if not word.endswith(("=…", "=...", "…"))]


@pytest.mark.parametrize(("where", "command"), shown_commands())
def test_every_command_that_is_shown_names_a_recipe_and_settings_that_exist(where: str, command: str) -> None:
    words = shlex.split(command)
    name = next(name for name in SCHEMAS if words[: name.count(" ") + 1] == name.split() or name == words[0])
    if words[0] == "train":
        name = " ".join(words[:2])
    elif len(words) > 1 and f"eval {words[1]}" in SCHEMAS:
        name = f"eval {words[1]}"
    if words[0] == "eval" and len(words) > 1 and words[1] in NO_RECIPE:
        return
    folder, schema, default = SCHEMAS[name]
    rest = recipe_and_overrides(words[name.count(" ") + 1 :])
    recipe = rest.pop(0) if rest and "=" not in rest[0] else default
    if recipe.endswith(".yaml") or recipe.isupper():  # yours, or a stand-in
        return
    file = ROOT / folder / "recipes" / f"{recipe}.yaml"
    assert file.exists(), f"{where}: no {folder} recipe {recipe!r} in: selfcorrect {command}"
    load_recipe(schema_of(folder, schema), file, rest)


def test_the_commands_are_found() -> None:
    found = {command for where, command in shown_commands() if where == "docs/first-hour.md"}
    assert any("problems.count=null" in command and command.startswith("eval embedded") for command in found)
    assert len(shown_commands()) > 60


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"https?://|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}"


def test_the_configuration_reference_is_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, "docs/configuration.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_every_key_of_a_recipe_has_a_meaning() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert [line for line in page.splitlines() if line.endswith("|  |")] == []


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES if page.parent.name == "docs" and f"(docs/{page.name})" not in readme] == []


def test_every_cited_section_and_equation_of_the_method_exists() -> None:
    method = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    for path in PAGES + SOURCES:
        text = path.read_text(encoding="utf-8")
        for cited in re.findall(r"method\.md, sections? (\d(?:\.\d)?)", text):
            assert re.search(rf"^(## |\*\*){re.escape(cited)}\.? ", method, re.MULTILINE), f"{path}: section {cited}"
        for cited in re.findall(r"method\.md, eq\. (\d)", text):
            assert f"(eq. {cited})" in method, f"{path}: eq. {cited}"


def test_every_column_of_the_result_tables_is_in_the_glossary() -> None:
    columns = import_module("selfcorrect.eval.tables.columns").COLUMNS
    glossary = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").split("## Columns of the tables")[1]
    explained = {title for entry in re.findall(r"\*\*(.+?)\*\*", glossary) for title in entry.split(" / ")}
    assert [column.title for column in columns.values() if column.title not in explained] == []


def test_every_way_in_which_a_trajectory_ends_is_in_the_glossary() -> None:
    glossary = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    (entry,) = re.findall(r"^\| \*\*stop\*\* \|.*$", glossary, re.MULTILINE)
    assert [stop for stop in StopReason if stop and f"`{stop}`" not in entry] == []


def test_every_method_of_evaluation_is_in_the_glossary() -> None:
    glossary = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").split("## Methods of evaluation")[1]
    assert {f"| `{method}` |" for method in get_args(Method)} <= set(
        re.findall(r"^\| `[\w-]+` \|", glossary, re.MULTILINE)
    )


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_bare_make_lists_the_targets_and_starts_nothing() -> None:
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    result = subprocess.run(["make"], capture_output=True, text=True, check=True, cwd=ROOT)
    assert {"demo", "test", "check", "install"} <= set(targets)
    assert [line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ")] == targets


def test_the_map_of_modules_names_modules_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Where things are")[1]
    package = ""
    for line in text.splitlines():
        if head := re.match(r"`(\w+)/`", line):
            package = head[1]
        for name in re.findall(r"`([\w/]+)`", line.split("|")[2]) if line.startswith("| ") else []:
            stem = name.strip("/")
            found = [
                *(ROOT / package).glob(f"**/{stem}.py"),
                *(path for path in (ROOT / package).rglob(stem) if path.is_dir()),
            ]
            assert found, f"nothing in {package}/ is named {stem}"


def test_the_python_example_of_the_readme_shows_a_correction() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    printed = re.search(r"prints\n\n```\n(.*?)```", readme, re.DOTALL)
    assert code
    assert printed
    result = subprocess.run([sys.executable, "-P", "-c", code[1]], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout == printed[1], result.stderr[-2000:]
