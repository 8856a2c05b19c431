"""What the docs say can be done: commands resolve, links lead somewhere, cited sections and columns are explained."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_args

import click
import pytest
import typer

from selfcorrect.cli.options import RunByDefault
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


CHANGES = (ROOT / "docs" / "add-a-reward.md", ROOT / "docs" / "add-a-method.md")
"""Pages whose commands need the change that they describe; they are run with it, below."""


def shown_commands() -> list[tuple[str, str]]:
    pages = [path for path in PAGES + SOURCES if path not in CHANGES]
    return sorted({(path.relative_to(ROOT).as_posix(), line) for path in pages for line in commands(path)})


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


@pytest.mark.parametrize("program", ["docs/configuration.py", "docs/reference.py"])
def test_the_reference_pages_are_what_the_code_says(program: str) -> None:
    done = subprocess.run([sys.executable, program, "--check"], cwd=ROOT, capture_output=True, text=True)
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


def test_the_answers_of_the_glossary_are_those_of_its_running_example() -> None:
    """The attempt's, the revision's and the reference answer; a number of another example has no place there."""
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    example = next(block for _, block in BLOCK.findall(page))
    attempt, revision = re.findall(r"boxed\{(\d+)\}", example)
    (reference,) = re.findall(r"reference answer: (\d+)", example)
    shown = page.split("## The trajectory and its parts")[1].split("## Training data")[0]
    assert set(re.findall(r"\b[67]\d{3}\b", shown)) == {attempt, revision, reference} == {attempt, reference}
    assert f"**final answer** | the answer of the last attempt | `{revision}` |" in shown


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


def test_make_test_engines_runs_every_file_that_skips_without_that_environment() -> None:
    command = re.search(
        r"pytest -m slow (.*)", (ROOT / "Makefile").read_text(encoding="utf-8").split("test-engines:")[1]
    )
    assert command is not None
    named = [ROOT / word for word in command[1].split()]
    assert all(path.exists() for path in named)
    skipping = re.compile(r"importorskip\(.*make test-engines")
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if skipping.search(path.read_text(encoding="utf-8"))]
    assert len(files) > 3
    assert [path for path in files if not any(path.is_relative_to(one) for one in named)] == []


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


# --- the site, and everything that can be typed ---------------------------------------------------------------------


def test_the_site_has_every_page_and_no_dead_link(tmp_path: Path) -> None:
    if not [theme for theme in entry_points(group="mkdocs.themes") if theme.name == "material"]:
        pytest.skip("mkdocs-material builds the site; it is in the extra docs")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)]
    done = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr + done.stdout
    built = {path.stem for path in tmp_path.glob("*.html")}
    assert {"index", "contributing", *(page.stem for page in PAGES if page.parent.name == "docs")} <= built


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    named = set(re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    assert named == {page.name for page in PAGES if page.parent.name == "docs"} | {
        "index.md",
        "contributing.md",
        "agents.md",
    }


TYPED = re.compile(r"^(?:\$ )?selfcorrect [a-z][^\n]*$", re.MULTILINE)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(selfcorrect [a-z][^`\n]+)`")


def typed_commands(page: Path) -> Iterator[str]:
    """Give every command of a page, whole: of its blocks with what a shell joins joined, and of its sentences."""
    text = page.read_text(encoding="utf-8")
    for language, block in BLOCK.findall(text):
        if language in ("", "sh", "bash", "shell"):
            yield from TYPED.findall(re.sub(r" *\\\n *", " ", block))
    yield from INLINE.findall(BLOCK.sub("", text))


def without_notes(command: str) -> str | None:
    """Return a command as it is typed; None for a pattern of one ([RECIPE], KEY=VALUE, an ellipsis, a placeholder)."""
    command = re.split(r"\s+#|\s{2,}|\s*[|>&]\s|\s2>", command.removeprefix("$ "))[0].strip()
    return None if re.search(r"\[[A-Za-z]|KEY=|…|\.\.\.|\{[a-z]+\}|<[a-z]|\$\(", command) else command


ALL_TYPED = sorted({(page.name, line) for page in PAGES for c in typed_commands(page) if (line := without_notes(c))})


@pytest.mark.parametrize(("page", "line"), ALL_TYPED, ids=lambda value: str(value)[:60])
def test_every_command_of_the_pages_is_one_that_the_command_line_reads(page: str, line: str) -> None:
    """Each is parsed by its own command, options and all; what it names is tested above and in the stages' tests."""
    words = shlex.split(line)[1:]
    command: Any = typer.main.get_command(import_module("selfcorrect.cli.main").app)
    context = click.Context(command, info_name="selfcorrect")
    words = import_module("selfcorrect.cli.main").with_level(words)
    while hasattr(command, "resolve_command"):
        if isinstance(command, RunByDefault) and (not words or words[0] not in command.commands):
            words = ["run", *words]
        if not words or words[0].isupper():
            return  # a group by its name alone, or a stand-in for one of its commands
        if words[0].startswith("-"):  # an option of the group itself
            assert words[0] in {name for parameter in command.params for name in parameter.opts}, line
            return
        name, command, words = command.resolve_command(context, words)
        context = click.Context(command, info_name=name, parent=context)
    if "--help" in words or "-h" in words:
        return
    needs_none = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    for parameter in needs_none:
        parameter.required = parameter.required and bool(words)  # in a sentence a command may stand by its name alone
    command.make_context(command.name, words, parent=context)


def test_the_commands_of_all_kinds_are_found() -> None:
    kinds = {shlex.split(line)[1] for _, line in ALL_TYPED}
    assert {"gen", "train", "eval", "report", "grade", "compare", "doctor", "recipes", "demo", "reproduce"} <= kinds
    assert len(ALL_TYPED) > 150


def python_snippets() -> list[tuple[str, str]]:
    """Return the Python blocks of all pages."""
    return [
        (f"{page.name}-{number}", block)
        for page in PAGES
        for number, (language, block) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")))
        if language == "python"
    ]


OF_TOOLS = {f"selfcorrect.adapters.{tool}": tool for tool in ("inspect_ai", "verifiers", "lm_eval")}
"""Our modules that import another tool's package."""


@pytest.mark.parametrize(("where", "code"), python_snippets(), ids=lambda value: str(value)[:30])
def test_every_python_snippet_compiles_and_imports_what_is_there(where: str, code: str) -> None:
    """Those that need another tool's package import it in that tool's environment (tests/doors)."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("selfcorrect"):
            if importlib.util.find_spec(OF_TOOLS.get(node.module, node.module)) is None:
                continue
            module = import_module(node.module)
            assert [name.name for name in node.names if not hasattr(module, name.name)] == [], where


def blocks_of(page: str, language: str) -> list[str]:
    return [
        block for kind, block in BLOCK.findall((ROOT / "docs" / page).read_text(encoding="utf-8")) if kind == language
    ]


def typed(words: str, folder: Path, package: Path = ROOT) -> str:
    """Run a command of a page as it stands, in a folder, and return what it printed."""
    environment = os.environ | {"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-P", "-m", *shlex.split(words)]
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_a_benchmark_is_added_as_the_page_says(tmp_path: Path) -> None:
    (tmp_path / "sums.test.jsonl").write_text(*blocks_of("add-a-benchmark.md", "jsonl"))
    (tmp_path / "sums.yaml").write_text(*blocks_of("add-a-benchmark.md", "yaml"))
    for command in INLINE.findall((ROOT / "docs" / "add-a-benchmark.md").read_text(encoding="utf-8")):
        typed(command, tmp_path)
    assert json.loads((tmp_path / "runs" / "sums" / "eval" / "sums" / "scores.json").read_text())["n"] == 2


def test_a_problem_set_is_added_as_the_page_says(tmp_path: Path) -> None:
    (tmp_path / "quiz.jsonl").write_text(*blocks_of("add-a-problem-set.md", "jsonl"))
    (command,) = [line for block in blocks_of("add-a-problem-set.md", "") for line in block.splitlines()]
    assert "Ada has 3 pens" in typed(command, tmp_path)


@pytest.fixture(scope="module")
def changed_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the package with the changes of the pages that add a reward and a method."""
    copy = tmp_path_factory.mktemp("changed")
    ignored = shutil.ignore_patterns("__pycache__", "embedded-1")
    shutil.copytree(ROOT / "selfcorrect", copy / "selfcorrect", symlinks=False, ignore=ignored)
    for page in CHANGES:
        (change,) = blocks_of(page.name, "diff")
        subprocess.run(["git", "apply", "--unidiff-zero", "-"], input=change, text=True, cwd=copy, check=True)
    return copy


def test_a_reward_is_added_as_the_page_says(changed_copy: Path, tmp_path: Path) -> None:
    (command,) = [line for block in blocks_of("add-a-reward.md", "") for line in block.splitlines()]
    data = tmp_path / "runs" / "demo" / "data"
    data.mkdir(parents=True)
    row = {"id": "a", "question": "What is 2 + 2?", "gold": "4", "source": "arithmetic"}
    (data / "prompts.jsonl").write_text(json.dumps(row) + "\n")
    assert "short: 0.1" in typed(command, tmp_path, changed_copy)


def test_a_method_is_added_as_the_page_says(changed_copy: Path, tmp_path: Path) -> None:
    command, _ = INLINE.findall((ROOT / "docs" / "add-a-method.md").read_text(encoding="utf-8"))
    typed(command, tmp_path, changed_copy)
    scores = json.loads((tmp_path / "runs" / "checked" / "eval" / "checked" / "scores.json").read_text())
    assert (scores["method"], scores["n"]) == ("checked", 8)
